"""The store under fire: two runs at once, kill -9, a full disk, a folder that nobody may write to."""

import os
import subprocess
import sys
from pathlib import Path

import pytest
from conftest import ROOT

from benchmarks.kills import start
from lib.companion import accuracy_vs_sigma, start_here
from lib.companion.profiles import profile
from lib.experiments import engine
from lib.experiments.settings import Settings


def measured(folder, study=start_here):
    wanted = [case.measurement for case in study.measurements(profile("smoke"), 0)]
    return engine.frame(engine.collect(wanted, Settings.read(cache=folder), progress=False))


def test_two_runs_at_once_share_a_store(tmp_path):
    """Both end with the same table, and what they stored is whole: a third finds all of it."""
    (tmp_path / "b").mkdir()
    (tmp_path / "b" / "cache").symlink_to(tmp_path / "cache")
    (tmp_path / "cache").mkdir()
    runs = [start(tmp_path), start(tmp_path / "b")]
    for run in runs:
        run.communicate()
    assert [run.returncode for run in runs] == [0, 0]
    first, second = ((folder / "table.csv").read_bytes() for folder in (tmp_path, tmp_path / "b"))
    wanted = [case.measurement for case in accuracy_vs_sigma.measurements(profile("smoke"), 0)]
    assert engine.missing(wanted, Settings.read(cache=tmp_path / "cache")).measurements == []
    assert first == second == measured(tmp_path / "cache", accuracy_vs_sigma).to_csv().encode()
    assert not list((tmp_path / "cache").rglob(".writing-*"))


def test_kills_change_nothing():
    """The client once and a worker once; `python -m benchmarks.kills` does it 25 times."""
    run = subprocess.run([sys.executable, "-m", "benchmarks.kills", "2", "3"], cwd=ROOT, capture_output=True, text=True)
    assert run.returncode == 0, run.stdout + run.stderr


FULL = """
import resource
from lib.companion import start_here
from lib.companion.profiles import profile
from lib.experiments import engine
from lib.experiments.settings import Settings
resource.setrlimit(resource.RLIMIT_FSIZE, (100_000, 100_000))
wanted = [case.measurement for case in start_here.measurements(profile("smoke"), 0)]
engine.collect(wanted, Settings.read(cache="cache"), progress=False)
"""


def test_a_full_disk_is_one_line_and_loses_nothing(tmp_path):
    """The kernel refuses to write beyond a limit, as on a full disk; the run goes on where there is room again."""
    variables = os.environ | {"PYTHONPATH": str(ROOT), "ANALOG_PIM_JOBS": "0"}
    run = subprocess.run([sys.executable, "-c", FULL], cwd=tmp_path, env=variables, capture_output=True, text=True)
    assert run.returncode == 1 and "cache (File too large); free space" in run.stderr.splitlines()[-1]
    assert not list(tmp_path.rglob(".writing-*"))
    resumed, anew = (measured(tmp_path / name) for name in ("cache", "other"))
    assert resumed.equals(anew)


def test_a_folder_that_nobody_may_write_to(tmp_path):
    folder = tmp_path / "locked"
    folder.mkdir(mode=0o555)
    cache = folder if os.geteuid() else Path("/proc/cache")  # nothing stops root but the kernel itself
    with pytest.raises(OSError, match="cannot write to the store .* name another folder with ANALOG_PIM_CACHE"):
        measured(cache)
