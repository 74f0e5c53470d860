"""run_all end to end in a copy of the project: smoke, failures, interrupts, the command line."""

import io
import json
import os
import re
import signal
import subprocess
import sys

import pytest
from conftest import ROOT, companion, copy_project, environment

from lib.checks import InputError, RunError, StorageError
from lib.companion import __main__ as module
from lib.companion import rendering
from lib.companion.profiles import profile
from lib.companion.rendering import Outcome


def published(folder):
    return {p.name: p.read_bytes() for p in (folder / "build" / "smoke" / "figures").iterdir()}


@pytest.fixture(scope="module")
def smoke(project):
    run = companion(project, "--profile", "smoke")
    assert run.returncode == 0, run.stdout + run.stderr
    return run


def test_smoke_runs_every_notebook(smoke, project):
    build = project / "build" / "smoke"
    summary = json.loads((build / "summary.json").read_text("utf-8"))
    names = [n["name"] for n in summary["notebooks"]]
    assert names == [p.stem for p in module.notebooks().values()]
    for notebook in summary["notebooks"]:
        assert notebook["status"] == "ok" and notebook["figures"] > 0 and notebook["claims"]
        assert all((build / f"{notebook['name']}.{kind}").exists() for kind in ("ipynb", "html", "log"))
        assert f"href='{notebook['name']}.html'" in (build / "index.html").read_text("utf-8")
        assert notebook["name"] in smoke.stdout
    figures = published(project)
    stems = {name.rsplit(".", 1)[0] for name in figures}
    assert set(figures) == {f"{s}.{k}" for s in stems for k in ("pdf", "png", "csv", "json")}
    assert not (project / "figures" / "smoke").exists()


def test_every_page_shows_its_figures_with_alt_text(smoke, project):
    for path in (project / "build" / "smoke").glob("*.html"):
        if path.stem == "index":
            continue
        page = path.read_text("utf-8")
        described = re.findall(r'<figure>\s*<img[^>]*\balt="[^"]{40,}"', page)
        assert len(described) == page.count("<figure>") > 0 and "<b>Claims</b>" in page


def test_a_second_run_is_byte_identical_and_computes_nothing(smoke, project):
    before = published(project)
    figures = project / "build" / "smoke" / "figures"
    (figures / "00_many_chips.pdf").unlink()
    (figures / "03_accuracy.pdf").write_bytes(b"%PDF cut short")  # neither is taken over: both are drawn again
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
    command = [sys.executable, "-m", "benchmarks.interrupts", "2", "1", "02"]
    run = subprocess.run(command, cwd=ROOT, capture_output=True, text=True)
    assert run.returncode == 0, run.stdout + run.stderr


@pytest.mark.parametrize(
    "arguments,parts",
    [
        (["--profile", "fast"], ["'fast'", "smoke, quick, reduced, paper"]),
        (["--profile", "smoke", "--only", "00,42"], ["'42'", "00, 01, 02, 03"]),
        (["--profile", "reduced", "--networks", "lenet6"], ["'lenet6'", "lenet5, lenet5-classic"]),
        (["--profile", "reduced", "--networks", "lenet5-classic"], ["'lenet5-classic'", "notebook 00", "--only 07"]),
        (["--profile", "reduced", "--networks", "lenet5", "--only", "07"], ["'lenet5'", "lenet5-classic, resnet18, vgg11"]),
        (["--profile", "reduced", "--seeds", "0,7"], ["'7'", "0, 1, 2"]),
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
    monkeypatch.setenv("ANALOG_PIM_NETWORKS", "")  # what main sets is taken back
    assert module.main(["--profile", "reduced", "--only", "07", "--networks", "lenet5-classic", "--dry-run"]) == 0
    lines = capsys.readouterr().out.splitlines()
    assert sum(line.startswith("train ") for line in lines) == 16 and sum(" 300 chips " in line for line in lines) == 18
    assert all(line.endswith(" h") for line in lines[:-1]) and "16 trainings and 22 measurements to do" in lines[-1]
    assert not list(tmp_path.iterdir())


CLAIM = {
    "statement": "s", "point": "p", "value": 1.0, "low": -1.0, "high": None, "n": 3, "of": "chips",
    "verdict": "inconclusive", "expected": False,
}  # fmt: skip


@pytest.fixture
def build(monkeypatch, tmp_path):
    monkeypatch.setattr(module, "ROOT", tmp_path)
    (tmp_path / "build" / "smoke").mkdir(parents=True)
    return tmp_path / "build" / "smoke"


def test_an_expected_claim_that_fails_fails_the_run(build, capsys):
    reported = Outcome("00_x", "ok", claims=[CLAIM])
    expected = Outcome("00_x", "ok", claims=[CLAIM | {"expected": True}])
    assert module._report(profile("smoke"), [reported]) == 0
    assert module._report(profile("smoke"), [reported, expected]) == 1
    assert "inconclusive   expected: s: 1.00 [-1.00, –]" in capsys.readouterr().out


def test_clean_keeps_figures(monkeypatch, tmp_path, capsys):
    monkeypatch.setattr(module, "ROOT", tmp_path)
    monkeypatch.setenv("ANALOG_PIM_CACHE", str(tmp_path / "cache"))
    for name in ("cache", "build", "figures"):
        (tmp_path / name).mkdir()
    assert module.main(["--clean"]) == 0
    assert [p.name for p in tmp_path.iterdir()] == ["figures"]


# -- terminals that cannot show everything, or are gone -------------------------------------------------------


def test_a_run_in_a_latin_1_terminal_ends_as_any_other(project, monkeypatch):
    monkeypatch.setenv("PYTHONIOENCODING", "latin-1")
    summary = project / "build" / "smoke" / "summary.json"
    summary.unlink(missing_ok=True)
    run = companion(project, "--profile", "smoke", "--only", "02", encoding="latin-1")
    assert run.returncode == 0, run.stderr
    assert "\\u03c3" in run.stdout and "summary: build/smoke/summary.json" in run.stdout
    assert "σ" in summary.read_text("utf-8")


@pytest.mark.parametrize("arguments", [["--list"], ["--help"], ["--profile", "smoke", "--dry-run"]])
def test_an_ascii_terminal_gets_what_it_can_show(arguments, tmp_path):
    run = command(tmp_path, arguments, PYTHONIOENCODING="ascii")
    assert run.returncode == 0 and run.stdout.isascii() and run.stderr == ""
    assert "dry-run" not in arguments[-1] or "QAVAT \\u03c3 0.5" in run.stdout


def test_an_error_in_an_ascii_terminal_is_one_line(monkeypatch):
    narrow = io.TextIOWrapper(io.BytesIO(), "ascii")
    monkeypatch.setattr(sys, "stderr", narrow)
    assert module.main(["--profile", "σ"]) == 2
    narrow.flush()
    assert narrow.buffer.getvalue().startswith(b"error: unknown profile '\\u03c3'; allowed: ")


def command(folder, arguments, **variables):
    """The command line with an empty store in `folder`."""
    variables = environment(ROOT) | {"ANALOG_PIM_CACHE": str(folder)} | variables
    line = [sys.executable, "-m", "lib.companion", *arguments]
    return subprocess.run(line, cwd=ROOT, env=variables, capture_output=True, text=True)


@pytest.mark.parametrize("arguments", ["--list", "--help", "--profile smoke --dry-run"])
def test_a_pipe_that_nobody_reads_ends_the_run_without_a_word(arguments, tmp_path):
    line = f"set -o pipefail; {sys.executable} -m lib.companion {arguments} | head -0"
    variables = environment(ROOT) | {"ANALOG_PIM_CACHE": str(tmp_path), "PYTHONUNBUFFERED": ""}
    run = subprocess.run(["bash", "-c", line], cwd=ROOT, env=variables, capture_output=True, text=True)
    assert (run.returncode, run.stderr) == (141, "")


@pytest.mark.parametrize("unbuffered", ["", "1"])
def test_a_full_disk_behind_the_output_is_one_line(unbuffered):
    line = f"{sys.executable} -m lib.companion --list > /dev/full"
    variables = environment(ROOT) | {"PYTHONUNBUFFERED": unbuffered}
    run = subprocess.run(["bash", "-c", line], cwd=ROOT, env=variables, capture_output=True, text=True)
    assert run.returncode == 1 and run.stderr.count("\n") == 1
    assert run.stderr.startswith("error: cannot write the output (No space left on device); free space")


def test_closed_streams_are_no_reason_to_fail(monkeypatch):
    for name in ("stdout", "stderr"):
        monkeypatch.setattr(sys, name, None)
    assert module.main(["--list"]) == 0 and not sys.stderr.isatty()
    assert module.main(["--profile", "fast"]) == 2


def test_the_summary_is_written_before_anything_is_printed(build, monkeypatch):
    def gone(*_):
        raise BrokenPipeError

    monkeypatch.setattr(module, "say", gone)
    with pytest.raises(BrokenPipeError):
        module._report(profile("smoke"), [Outcome("00_x", "failed", error="half a pair: \ud83d")])
    assert json.loads((build / "summary.json").read_text("utf-8"))["notebooks"][0]["name"] == "00_x"
    assert "00_x" in (build / "index.html").read_text("utf-8")


def test_nohup_outlives_its_terminal():
    before = signal.signal(signal.SIGHUP, signal.SIG_IGN)
    try:
        assert module.main(["--list"]) == 0 and signal.getsignal(signal.SIGHUP) is signal.SIG_IGN
    finally:
        signal.signal(signal.SIGHUP, before)


# -- errors ---------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("kind", [ValueError, RuntimeError, OSError, FloatingPointError])
def test_our_own_faults_keep_their_traceback(kind, monkeypatch):
    def fault(options):
        raise kind("a fault")

    monkeypatch.setattr(module, "_run", fault)
    with pytest.raises(kind, match="a fault"):
        module.main([])


@pytest.mark.parametrize("kind,status", [(InputError, 2), (RunError, 1), (StorageError, 1)])
def test_debug_shows_where_an_error_came_from(kind, status, monkeypatch, capsys):
    def refused(options):
        raise kind("not so")

    monkeypatch.setattr(module, "_run", refused)
    assert module.main([]) == status and capsys.readouterr().err == "error: not so\n"
    assert module.main(["--debug"]) == status
    shown = capsys.readouterr().err
    assert "Traceback" in shown and "in refused" in shown and shown.endswith("error: not so\n")


def test_a_build_folder_that_cannot_be_written_is_known_before_the_computing(monkeypatch, tmp_path, capsys):
    monkeypatch.setattr(rendering, "ROOT", tmp_path)
    monkeypatch.setenv("ANALOG_PIM_CACHE", str(tmp_path / "cache"))
    monkeypatch.setattr(module.engine, "collect", lambda *_: pytest.fail("computed"))
    (tmp_path / "build").write_text("a file")
    assert module.main(["--profile", "smoke"]) == 1
    message = capsys.readouterr().err
    assert message.startswith("error: cannot write to ") and "free space or rights there" in message


def test_missing_papermill_is_known_before_the_computing(monkeypatch, tmp_path, capsys):
    monkeypatch.setenv("ANALOG_PIM_CACHE", str(tmp_path))
    monkeypatch.setattr(module.engine, "collect", lambda *_: pytest.fail("computed"))
    monkeypatch.setitem(sys.modules, "papermill", None)
    assert module.main(["--profile", "smoke"]) == 1
    assert "need papermill, not installed here; install the project: pip install -e ." in capsys.readouterr().err


def test_figures_on_a_full_disk_are_one_line(monkeypatch, tmp_path):
    def full(*_):
        raise OSError(28, "No space left on device")

    staged = tmp_path / "staged"
    staged.mkdir()
    (staged / "00_x.png").write_bytes(b"")
    monkeypatch.setattr(rendering, "ROOT", tmp_path)
    monkeypatch.setattr(os, "replace", full)
    notebook = {"cells": [], "metadata": {}, "nbformat": 4, "nbformat_minor": 5}
    (tmp_path / "00_x.ipynb").write_text(json.dumps(notebook))
    with pytest.raises(StorageError, match="cannot write to .*figures .*No space left .*free space or rights"):
        rendering._finish(tmp_path / "00_x.ipynb", 0, profile("smoke"), staged)


def test_clean_says_what_it_could_not_delete(monkeypatch, tmp_path, capsys):
    monkeypatch.setattr(module, "ROOT", tmp_path)
    monkeypatch.setenv("ANALOG_PIM_CACHE", str(tmp_path / "cache"))
    (tmp_path / "elsewhere").mkdir()
    (tmp_path / "cache").symlink_to(tmp_path / "elsewhere")
    assert module.main(["--clean"]) == 1
    captured = capsys.readouterr()
    assert captured.out == "" and f"cannot delete all of {tmp_path / 'cache'}; delete it by hand" in captured.err


def test_force_forgets_every_count_of_a_training(tmp_path, monkeypatch):
    import numpy as np
    import torch

    from lib.companion import studies
    from lib.evaluation import Counts
    from lib.experiments import engine
    from lib.experiments.store import Store

    store, one = Store(tmp_path), studies.every_measurement(profile("smoke"), ["00"], 0)[-1]
    two = type(one)(**{**vars(one), "images": 7})
    store.save_checkpoint(engine.trial_key(one.trial), {"net/w": torch.ones(1)}, {})
    keys = [engine.measurement_key(m, store) for m in (one, two)]
    for key in keys:
        store.append_counts(key, Counts(*np.ones((3, 1), np.int64)), {})
    module._forget([one, two], store)
    assert not store.has_checkpoint(engine.trial_key(one.trial))
    assert [len(store.counts(key).chips) for key in keys] == [0, 0]
