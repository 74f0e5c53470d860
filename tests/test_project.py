"""The shape of the project: imports, versions, notebooks, sizes."""

import ast
import json
import re
import subprocess
import sys
import tomllib
from itertools import pairwise
from pathlib import Path

import pytest
from conftest import ROOT, environment, replaced

from lib.companion import paper_versus_ours

# The science, in reading order: a module imports only from modules that stand before it.  `statistics` is pure maths,
# so it stands early: that lets `evaluate(…).summary()` exist.
SCIENCE = (
    "checks sources content identity torch_internals quantizers arrays laws variation statistics lots cells cell_model "
    "fitting analog placement precision conversion converter folding files networks folders data classify batch_norm "
    "training post_training kept evaluation adaptive estimators columns selftuning controls accounting trials shipped"
).split()
# room → rooms that its modules may import from; "" is the science
ROOMS = {"": {""}, "experiments": {"", "experiments"}, "companion": {"", "experiments", "companion"}}
CONDA_NAMES = {"torch": "pytorch", "dask": "dask-core", "matplotlib": "matplotlib-base", "seaborn": "seaborn-base"}
FROM_SCRATCH = "10_from_scratch"  # the one notebook that defines what it explains
MODULES = sorted((ROOT / "lib").rglob("*.py"))
NOTEBOOKS = sorted((ROOT / "notebooks").glob("*.ipynb"))


def imported(path: Path) -> list[tuple[str, str]]:
    """(room, module) of every import within this package, anywhere in a file of it; a name of a package is its own."""
    found, here = [], path.relative_to(ROOT / "lib").parent.parts
    for node in ast.walk(ast.parse(path.read_text("utf-8"))):
        if isinstance(node, ast.Import):
            packages = {alias.name.partition(".")[0] for alias in node.names}
            assert "lib" not in packages, f"{path}: imports within the package are relative"
        if isinstance(node, ast.ImportFrom) and not node.level:
            top = (node.module or "").partition(".")[0]
            assert top not in ("lib", "analog_pim"), f"{path}: imports within the package are relative"
        if not isinstance(node, ast.ImportFrom) or not node.level:
            continue
        base = (*here[: len(here) + 1 - node.level], *(node.module.split(".") if node.module else ()))
        names = [alias.name for alias in node.names] if base in [(), ("experiments",), ("companion",)] else [None]
        for name in names:
            parts = base if name is None else (*base, name)
            found.append(("/".join(parts[:-1]), parts[-1]))
    return found


@pytest.mark.parametrize("path", MODULES, ids=lambda p: p.relative_to(ROOT / "lib").as_posix())
def test_a_room_imports_only_from_rooms_below_it(path):
    room = path.relative_to(ROOT / "lib").parent.as_posix().replace(".", "")
    for other, module in imported(path):
        allowed = f"{room or 'the science'} may import {sorted(ROOMS[room])}"
        assert other in ROOMS[room], f"{path} imports {other}/{module}: {allowed}"
        assert (ROOT / "lib" / other / f"{module}.py").exists(), f"{path} imports {other}/{module}, which is no module"


def test_modules_of_notebooks_share_only_what_is_shared():
    own = {path.stem[3:] for path in NOTEBOOKS}
    for name in own:
        used = {module for room, module in imported(ROOT / "lib" / "companion" / f"{name}.py") if room == "companion"}
        assert used <= {"cases", "claims", "profiles", "published"}, f"{name} imports {sorted(used)}"


def test_the_science_has_a_reading_order():
    science = {path.stem for path in (ROOT / "lib").glob("*.py")} - {"__init__", "environment"}
    assert science == set(SCIENCE)
    for name in SCIENCE:
        for room, other in imported(ROOT / "lib" / f"{name}.py"):
            assert room or SCIENCE.index(other) < SCIENCE.index(name), f"{name} imports {other}, which stands after it"


@pytest.mark.parametrize("path", sorted((ROOT / "benchmarks").glob("[!_]*.py")), ids=lambda p: p.stem)
def test_every_benchmark_finds_what_it_imports(path):
    code = f"import benchmarks.{path.stem}"
    if path.stem == "aihwkit_peer":
        code = f"compile(open({str(path)!r}).read(), 'peer', 'exec')"
    subprocess.run([sys.executable, "-c", code], cwd=ROOT, check=True, capture_output=True)


def test_import_lib_is_light():
    heavy = ("pandas", "matplotlib", "torchvision", "dask", "scipy")
    code = f"import lib, sys; print([m for m in {heavy} if m in sys.modules])"
    out = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert out.stdout.strip() == "[]"


@pytest.mark.parametrize("path", MODULES, ids=lambda p: p.relative_to(ROOT / "lib").as_posix())
def test_no_module_over_300_lines(path):
    assert len(path.read_text("utf-8").splitlines()) <= 300


def test_nothing_is_unpickled_and_no_path_is_edited():
    for path in [*MODULES, *(ROOT / "benchmarks").glob("*.py")]:
        assert not re.search(r"torch\.load\(|import pickle|sys\.path\.", path.read_text("utf-8")), path


def test_pyproject_lock_and_conda_agree():
    from packaging.requirements import Requirement
    from packaging.utils import canonicalize_name

    project = tomllib.loads((ROOT / "pyproject.toml").read_text("utf-8"))["project"]
    wanted = [Requirement(line) for line in [*project["dependencies"], *project["optional-dependencies"]["test"]]]
    lock = {}
    for line in (ROOT / "requirements.lock").read_text("utf-8").splitlines():
        if not line.startswith("#"):
            name, version = line.split("==")  # every line pins exactly
            lock[canonicalize_name(name)] = version
    conda = dict(re.findall(r"^ {2,6}- ([\w-]+)([<>=].*)?$", (ROOT / "environment.yml").read_text("utf-8"), re.M))
    for requirement in wanted:
        assert requirement.specifier.contains(lock[canonicalize_name(requirement.name)]), requirement
        ours = conda.pop(CONDA_NAMES.get(requirement.name, requirement.name))
        assert set(ours.split(",")) == {str(s) for s in requirement.specifier}, requirement
    assert conda.pop("python") == project["requires-python"] and set(conda) <= {"pip", "conda-forge"}
    assert lock["torch"] == "2.14.1" and lock["torchvision"] == "0.29.1"


@pytest.mark.parametrize("path", NOTEBOOKS, ids=lambda p: p.stem)
def test_notebooks_are_clean_and_well_formed(path):
    cells = json.loads(path.read_text("utf-8"))["cells"]
    code = [c for c in cells if c["cell_type"] == "code"]
    text = "\n".join("".join(c["source"]) for c in cells if c["cell_type"] == "markdown")
    assert all(not c["outputs"] and c["execution_count"] is None for c in code), "committed with outputs"
    tagged = [c for c in code if "parameters" in c["metadata"].get("tags", [])]
    assert len(tagged) == 1
    values = ast.parse("".join(tagged[0]["source"])).body
    assert {n.targets[0].id: ast.literal_eval(n.value) for n in values} == {"PROFILE": "quick", "SEED": 0}
    levels = [len(m) for m in re.findall(r"^(#+) ", text, re.M)]
    assert levels[0] == 1 and levels.count(1) == 1 and all(b <= a + 1 for a, b in pairwise(levels))
    assert "Predict first" in text and "<details>" in text and "## Exercises" in text and "Run time" in text
    nodes = [node for c in code for node in ast.walk(ast.parse("".join(c["source"])))]
    defined = [node for node in nodes if isinstance(node, (ast.FunctionDef, ast.ClassDef))]
    if path.stem == FROM_SCRATCH:
        return
    assert not defined, "notebooks call lib, they define nothing"


def test_from_scratch_is_short_and_plain_torch():
    cells = json.loads((ROOT / "notebooks" / f"{FROM_SCRATCH}.ipynb").read_text("utf-8"))["cells"]
    plain = ["".join(c["source"]) for c in cells if "from-scratch" in c["metadata"].get("tags", [])]
    tree = ast.parse("\n".join(plain))
    names = [node.names[0].name for node in ast.walk(tree) if isinstance(node, ast.Import)]
    assert names == ["torch", "torch.nn.functional"] and not any(isinstance(n, ast.ImportFrom) for n in ast.walk(tree))
    code = [line for cell in plain for line in cell.splitlines() if line.strip() and not line.strip().startswith('"""')]
    assert 40 <= len(code) <= 62
    rest = [c for c in cells if c["cell_type"] == "code" and "from-scratch" not in c["metadata"].get("tags", [])]
    library = "\n".join("".join(c["source"]) for c in rest)
    assert all(f"{name}(" in library for name in ("qavat_step", "one_chip", "fit", "programmed", "SelfTuning"))


@pytest.mark.parametrize("profile", ["quick", "published"])
def test_committed_figures_are_complete(profile):
    folder = ROOT / "figures" / profile
    names = {p.stem for p in folder.glob("*.png")}
    assert names and all((folder / f"{n}.{kind}").exists() for n in names for kind in ("pdf", "csv", "json"))
    for record in folder.glob("*.json"):
        content = json.loads(record.read_text("utf-8"))
        assert len(content["alt"]) > 40 and content["profile"] == profile
        assert content["results"] or content["dataset"] is None  # simulated cells stand on no result
        assert content["claims"] or "no claim" in content["caption"]


def test_the_committed_run_repeats_the_published_rows_of_lenet():
    rows = paper_versus_ours.compared(paper_versus_ours.committed())
    run = rows[(rows.network == "LeNet-5") & rows.method.isin(["QAT", "QAVAT"]) & (rows.verdict != "not run")]
    expected = [(method, sigma) for method in ("QAT", "QAVAT") for sigma in (0.2, 0.4, 0.6)]
    assert sorted(zip(run.method, run.sigma)) == expected
    assert (run.ours_seeds == 3).all() and (run.ours_chips >= 300).all() and (run.difference.abs() < 5).all()


def test_readme_names_every_notebook_and_its_figure_exists():
    readme = (ROOT / "README.md").read_text("utf-8")
    assert all(path.stem in readme for path in NOTEBOOKS)
    images = re.findall(r"!\[[^\]]+\]\(([^)]+)\)", readme)
    assert images and all((ROOT / image).exists() for image in images)


def test_the_readme_example_runs(tmp_path):
    block = re.search(r"```python\n(.*?)```", (ROOT / "README.md").read_text("utf-8"), re.S).group(1)
    smaller = {
        "Recipe.quick()": "Recipe(epochs=1, bn_draws=2)",
        "chips=100": "chips=2",
        "data.train,": "data.train.take(slice(0, 256)),",
        "data.test,": "data.test.take(slice(0, 100)),",
    }
    for whole, part in smaller.items():
        block = replaced(block, whole, part)
    subprocess.run([sys.executable, "-c", block], cwd=tmp_path, env=environment(ROOT), check=True, capture_output=True)


def test_active_environment_is_judged():
    command = [sys.executable, str(Path("lib") / "environment.py")]
    out = subprocess.run(command, cwd=ROOT, capture_output=True, text=True)
    assert out.returncode == 0, out.stdout


def test_an_unsatisfied_environment_is_told_what_it_lacks(tmp_path):
    (tmp_path / "lib").mkdir()
    (tmp_path / "lib" / "environment.py").write_text((ROOT / "lib" / "environment.py").read_text("utf-8"))
    text = (ROOT / "pyproject.toml").read_text("utf-8")
    (tmp_path / "pyproject.toml").write_text(replaced(text, '"tqdm>=4.66,<5"', '"tqdm>=99", "no-such-package>=1"'))
    out = subprocess.run([sys.executable, "lib/environment.py"], cwd=tmp_path, capture_output=True, text=True)
    assert out.returncode == 1 and "tqdm>=99 (found" in out.stdout and "no-such-package>=1" in out.stdout
