"""run_all where something fails: claims, terminals that cannot show everything or are gone, full disks, our faults."""

import io
import json
import os
import signal
import subprocess
import sys

import pytest
from conftest import ROOT, companion, environment

from lib.checks import InputError, RunError, StorageError
from lib.companion import __main__ as module
from lib.companion import rendering
from lib.companion.profiles import profile
from lib.companion.rendering import Outcome

ESTIMATE = {"value": 1.0, "low": -1.0, "high": None, "n": 3, "of": "chips"}
CLAIM = {"statement": "s", "point": "p", **ESTIMATE, "unit": "points", "requirement": "> 0", "verdict": "undecided"}
CLAIM |= {"expected": False}


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
    printed = capsys.readouterr().out
    assert "expected, but s: 1.00 [-1.00, –] points, required > 0: undecided (p, 3 chips)" in printed
    assert printed.count("expected, but") == 1 and "0 of 1    –" in printed


def test_a_run_in_a_latin_1_terminal_ends_as_any_other(project, monkeypatch):
    monkeypatch.setenv("PYTHONIOENCODING", "latin-1")
    summary = project / "build" / "smoke" / "summary.json"
    summary.unlink(missing_ok=True)
    run = companion(project, "--profile", "smoke", "--only", "02", encoding="latin-1")
    assert run.returncode == 0, run.stderr
    assert "\\u2013" in run.stdout and "summary: build/smoke/summary.json" in run.stdout
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
    for stream in (sys.stdout, sys.stderr):
        stream.close()


def test_the_summary_and_the_site_are_written_before_anything_is_printed(build, monkeypatch):
    def gone(*_):
        raise BrokenPipeError

    monkeypatch.setattr(module, "say", gone)
    monkeypatch.setattr(module.site, "build_site", lambda chosen: (build / "site").mkdir())
    with pytest.raises(BrokenPipeError):
        module._conclude(profile("smoke"), [Outcome("00_x", "failed", error="half a pair: \ud83d")])
    assert (build / "site").exists()
    assert json.loads((build / "summary.json").read_text("utf-8"))["notebooks"][0]["name"] == "00_x"


def test_nohup_outlives_its_terminal():
    before = signal.signal(signal.SIGHUP, signal.SIG_IGN)
    try:
        assert module.main(["--list"]) == 0 and signal.getsignal(signal.SIGHUP) is signal.SIG_IGN
    finally:
        signal.signal(signal.SIGHUP, before)


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
    for name in ("elsewhere", "cache"):
        (tmp_path / name).mkdir()
    (tmp_path / "cache" / "counts").symlink_to(tmp_path / "elsewhere")
    assert module.main(["--clean"]) == 1
    captured = capsys.readouterr()
    where = tmp_path / "cache" / "counts"
    assert captured.out == "" and f"cannot delete all of {where}; delete it by hand" in captured.err
