"""run_all end to end in a copy of the project: smoke, a notebook that raises, interrupts; its options."""

import json
import re
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import torch
from conftest import ROOT, companion, copy_project

from lib.companion import __main__ as module
from lib.companion import studies
from lib.companion.profiles import profile
from lib.evaluation import Counts
from lib.experiments import engine
from lib.experiments.settings import Settings


def published(folder):
    return {p.name: p.read_bytes() for p in (folder / "build" / "smoke" / "figures").iterdir()}


def test_smoke_runs_every_notebook(smoke, project):
    build = project / "build" / "smoke"
    summary = json.loads((build / "summary.json").read_text("utf-8"))
    names = [n["name"] for n in summary["notebooks"]]
    assert names == [p.stem for p in module.notebooks().values()]
    for notebook in summary["notebooks"]:
        assert notebook["status"] == "ok" and notebook["figures"] > 0 and notebook["claims"]
        assert all((build / f"{notebook['name']}.{kind}").exists() for kind in ("ipynb", "log"))
        assert f'href="{notebook["name"]}.html"' in (build / "site" / "index.html").read_text("utf-8")
        assert notebook["name"] in smoke.stdout
    figures = published(project)
    stems = {name.rsplit(".", 1)[0] for name in figures}
    assert set(figures) == {f"{s}.{k}" for s in stems for k in ("pdf", "png", "csv", "json")}
    assert not (project / "figures" / "smoke").exists()


def test_every_page_shows_its_figures_with_alt_text(smoke, project):
    for path in (project / "build" / "smoke" / "site").glob("[0-9][0-9]_*.html"):
        page = path.read_text("utf-8")
        described = re.findall(r'<figure>\s*<img[^>]*\balt="[^"]{40,}"', page)
        assert len(described) == page.count("<figure>") > 0 and "<b>Claims</b>" in page


def test_a_second_run_is_byte_identical_and_computes_nothing(smoke, project):
    before = published(project)
    figures = project / "build" / "smoke" / "figures"
    (figures / "00_many_chips.pdf").unlink()
    (figures / "03_gain.pdf").write_bytes(b"%PDF cut short")  # neither is taken over: both are drawn again
    again = companion(project, "--profile", "smoke", "--only", "00,03")
    assert again.returncode == 0 and "%|" not in again.stderr
    assert published(project) == before


def test_a_notebook_that_raises(smoke, project, tmp_path):
    folder = copy_project(tmp_path)
    (folder / "cache").symlink_to(project / "cache")
    good = folder / "build" / "smoke" / "figures" / "00_many_chips.png"
    good.parent.mkdir(parents=True)
    good.write_bytes(b"the last good figure")
    path = folder / "notebooks" / "00_start_here.ipynb"
    notebook = json.loads(path.read_text("utf-8"))
    notebook["cells"][-2]["cell_type"] = "code"
    notebook["cells"][-2] |= {"source": "raise RuntimeError('on purpose')", "outputs": [], "execution_count": None}
    path.write_text(json.dumps(notebook))
    run = companion(folder, "--profile", "smoke", "--only", "00,02")
    assert run.returncode == 1
    assert "RuntimeError: on purpose" in run.stdout and "not all is well: 00_start_here" in run.stderr
    assert good.read_bytes() == b"the last good figure"
    assert (folder / "build" / "smoke" / "figures" / "02_laws.png").exists()  # the other one still ran


def test_interrupted_runs_end_the_same():
    """One Ctrl-C and one kill -9 of one notebook's run; `python -m benchmarks.interrupts` does ten of all."""
    command = [sys.executable, "-m", "benchmarks.interrupts", "2", "1", "00"]
    run = subprocess.run(command, cwd=ROOT, capture_output=True, text=True)
    assert run.returncode == 0, run.stdout + run.stderr


@pytest.mark.parametrize(
    "arguments,parts",
    [
        (["--profile", "fast"], ["'fast'", "smoke, rehearsal, quick, colour, published, paper"]),
        (["--profile", "smoke", "--only", "00,42"], ["'42'", "00, 01, 02, 03"]),
        (["--profile", "published", "--networks", "lenet6"], ["'lenet6'", "lenet5, lenet5-classic"]),
        (["--profile", "paper", "--networks", "lenet5-classic"], ["'lenet5-classic'", "notebook 00", "--only 07"]),
        (
            ["--profile", "published", "--networks", "lenet5", "--only", "07"],
            ["'lenet5'", "lenet5-classic, resnet18, vgg11"],
        ),
        (["--profile", "published", "--seeds", "0,7"], ["'7'", "0, 1, 2"]),
        (["--device", "tpu"], ["'tpu'", "cpu, cuda"]),
        (["--jobs", "many"], ["'many'", "0 to 256"]),
        (["--data-dir", "/nowhere/at/all"], ["/nowhere/at/all", "existing"]),
    ],
)
def test_bad_arguments_are_one_line(arguments, parts, capsys):
    assert module.main(arguments) == 2
    message = capsys.readouterr().err.strip()
    assert message.startswith("error: ") and "\n" not in message and all(part in message for part in parts)


def test_unknown_options_are_refused(capsys):
    with pytest.raises(SystemExit) as error:
        module.main(["--sigma", "0.3"])
    assert error.value.code == 2 and "unrecognized arguments: --sigma" in capsys.readouterr().err


def test_list_and_dry_run(capsys, monkeypatch, tmp_path):
    monkeypatch.setenv("ANALOG_PIM_CACHE", str(tmp_path))
    assert module.main(["--list"]) == 0 and "03_accuracy_vs_sigma" in capsys.readouterr().out
    assert module.main(["--profile", "smoke", "--dry-run"]) == 0
    out = capsys.readouterr().out
    assert "train    QAVAT σ 0.5 lenet5 A4W2" in out and "trainings and" in out and not list(tmp_path.iterdir())


def test_a_dry_run_of_published_sizes_needs_no_data(capsys, monkeypatch, tmp_path):
    monkeypatch.setenv("ANALOG_PIM_CACHE", str(tmp_path))
    monkeypatch.setenv("ANALOG_PIM_DATA", str(tmp_path))
    assert module.main(["--profile", "published", "--only", "07", "--networks", "lenet5-classic", "--dry-run"]) == 0
    lines = capsys.readouterr().out.splitlines()
    assert sum(line.startswith("train ") for line in lines) == 16 and sum(" 300 chips " in line for line in lines) == 18
    assert all(line.endswith(" h") for line in lines[:-1]) and "16 trainings and 22 measurements to do" in lines[-1]
    assert not list(tmp_path.iterdir())


def test_clean_keeps_figures(monkeypatch, tmp_path, capsys):
    monkeypatch.setattr(module, "ROOT", tmp_path)
    monkeypatch.setenv("ANALOG_PIM_CACHE", str(tmp_path / "cache"))
    kept = {Path("figures"), Path("build"), Path("build/interactive"), Path("build/interactive/figures")}
    for path in (*kept, Path("cache"), Path("build/quick/site")):
        (tmp_path / path).mkdir(parents=True, exist_ok=True)
    (tmp_path / "build" / ".DS_Store").touch()
    assert module.main(["--clean"]) == 0
    assert {p.relative_to(tmp_path) for p in tmp_path.rglob("*")} == kept


def test_force_forgets_every_count_of_a_training(tmp_path, monkeypatch):
    settings, one = Settings.read(cache=tmp_path), studies.every_measurement(profile("smoke"), ["00"])[-1]
    store = settings.store
    two = type(one)(**{**vars(one), "images": 7})
    store.save_checkpoint(engine.trial_key(one.trial, settings), {"net/w": torch.ones(1)}, {})
    keys = [engine.measurement_key(m, settings) for m in (one, two)]
    for key in keys:
        store.append_counts(key, Counts(*np.ones((3, 1), np.int64)), {})
    module._forget([one, two], settings)
    assert not store.has_checkpoint(engine.trial_key(one.trial, settings))
    assert [len(store.counts(key).chips) for key in keys] == [0, 0]
