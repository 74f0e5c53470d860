"""What a notebook publishes: a figure in two formats, its numbers, and a record of where they come from."""

import hashlib
import json

import pandas as pd
import pytest

from lib.companion import Notebook, figures, notebook
from lib.statistics import Claim, Estimate


@pytest.fixture
def publish(tmp_path, monkeypatch):
    """Draws a line and publishes it; returns the folder."""
    monkeypatch.setenv("ANALOG_PIM_FIGURES", str(tmp_path / "staged"))

    def run(height: float = 1.0, **options):
        nb = Notebook("smoke", seed=3)
        fig, axes = figures.panels(1, 1)
        axes[0, 0].plot([0, 1], [0, height], label="a line")
        figures.legend_above(fig, axes[0, 0])
        numbers = pd.DataFrame({"x": [0, 1], "y": [0, height]})
        nb.publish(fig, "00_line", numbers, alt="A line.", **options)
        return tmp_path / "staged"

    return run


def test_the_same_results_give_the_same_bytes(publish):
    first = {path.name: path.read_bytes() for path in publish().iterdir()}
    assert sorted(first) == ["00_line.csv", "00_line.json", "00_line.pdf", "00_line.png"]
    assert {path.name: path.read_bytes() for path in publish().iterdir()} == first
    again = {path.name: path.read_bytes() for path in publish(2.0).iterdir()}
    assert all(again[name] != content for name, content in first.items())


def test_a_record_says_what_a_figure_stands_on(publish):
    claim = Claim("it rises", "here", Estimate(1.0, float("nan"), 2.0, 3), above=0.5, expected=True)
    folder = publish(claims=[claim], caption="A caption.", keys=["b" * 64, "a" * 64])
    record = json.loads((folder / "00_line.json").read_text("utf-8"))
    assert record["profile"] == "smoke" and record["parameters"] == {"SEED": 3} and record["alt"] == "A line."
    assert record["results"] == ["a" * 16, "b" * 16] and record["dataset"]["name"] == "fashion-mnist"
    (found,) = record["claims"]
    assert found["low"] is None and found["verdict"] == "undecided" and found["requirement"] == "> 0.5"
    assert found["seeds"] == [3] and found["unit"] == "points"
    assert record["png"] == hashlib.sha256((folder / "00_line.png").read_bytes()).hexdigest()
    assert record["pdf"] == hashlib.sha256((folder / "00_line.pdf").read_bytes()).hexdigest()
    assert record["sources"] == notebook.tree_digest()


def test_a_notebook_may_put_another_self_tuning_in_the_place_of_reference_cells():
    from lib import Oracle, ReferenceCells, SelfTuning
    from lib.companion import cases

    mine = SelfTuning(ReferenceCells(3))
    nb = Notebook("smoke", tuning=mine)
    assert {bench.tuning for bench in cases.benches(nb.profile)} == {mine} and not nb.profile.claims_expected
    assert nb.changes == {"tuning": repr(mine)} and nb.profile.tuned_by == "3 cells"
    with pytest.raises(ValueError, match="tuning must be a SelfTuning around an estimator, got Oracle"):
        Notebook("smoke", tuning=Oracle())
    with pytest.raises(ValueError, match="a tuning of the label 'oracle' is in the study already"):
        Notebook("smoke", tuning=SelfTuning(Oracle()))


def test_a_seed_that_the_profile_does_not_have_is_read_alone():
    assert Notebook("quick", 5).profile.seeds == (5,) and Notebook("smoke", 1).profile.seeds == (0, 1)
