"""Every exercise has a stub and a check in its notebook, and a solution apart that the check accepts."""

import json
import re
import runpy

import pytest
from conftest import ROOT

from lib.checks import InputError
from lib.companion.exercises import EXERCISES, check

SOLUTIONS = {path.name[:2]: path for path in sorted((ROOT / "notebooks" / "solutions").glob("*.py"))}


@pytest.mark.parametrize("number", EXERCISES)
def test_the_solution_is_right_and_others_are_not(number, capsys):
    notebook, _, exercise = number.partition(".")
    answers = runpy.run_path(str(SOLUTIONS[notebook]))[f"exercise_{exercise}"]()
    check(number, *answers)
    assert capsys.readouterr().out.startswith(f"{number}: right. ")
    for wrong in (["no"] * len(answers), [-12345.678] * len(answers)):
        check(number, *wrong)
        assert capsys.readouterr().out.startswith(f"{number}: not yet. Hint: ")
    check(number, *[None] * len(answers))
    assert capsys.readouterr().out == f"{number}: not answered yet\n"


@pytest.mark.parametrize("path", sorted((ROOT / "notebooks").glob("*.ipynb")), ids=lambda p: p.stem)
def test_a_notebook_asks_what_is_checked(path):
    sources = ["".join(cell["source"]) for cell in json.loads(path.read_text("utf-8"))["cells"]]
    asked = re.findall(r'check\("(\d\d\.\d)"', "\n".join(sources))
    assert asked == [number for number in EXERCISES if number.startswith(path.name[:2])] and 3 <= len(asked) <= 5
    assert any(f"solutions/{path.stem}.py" in source for source in sources)


def test_an_unknown_exercise_is_named():
    with pytest.raises(InputError, match=r"unknown exercise '10\.9'; allowed: "):
        check("10.9", 1)
