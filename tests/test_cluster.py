"""Real schedulers and worker processes: the table does not depend on them, nor on losing one."""

import os
import signal
import subprocess
import sys
import time
from contextlib import contextmanager

import pytest

from conftest import ROOT
from lib import cluster, engine, studies, workers
from lib.profiles import profile
from lib.store import Store

SMOKE = profile("smoke")


@pytest.fixture(autouse=True)
def no_other_scheduler(monkeypatch):
    monkeypatch.delenv("DASK_SCHEDULER_ADDRESS", raising=False)


def study():
    return studies.start_here(SMOKE, 0) + studies.chips(SMOKE, 0)


def csv(folder, measurements=None):
    return engine.collect(measurements or study(), Store(folder), progress=False).to_csv()


@pytest.fixture(scope="module")
def expected(tmp_path_factory):
    """The table that one worker makes."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("ANALOG_PIM_JOBS", "1")
        return csv(tmp_path_factory.mktemp("one"))


@pytest.mark.parametrize("jobs", [0, 2, 4])
def test_the_table_does_not_depend_on_the_number_of_workers(jobs, expected, tmp_path, monkeypatch):
    monkeypatch.setenv("ANALOG_PIM_JOBS", str(jobs))
    assert csv(tmp_path) == expected


@contextmanager
def scheduler(folder, nthreads=1, n=2):
    """A scheduler on loopback and its worker processes; yields (address, workers)."""
    environment = os.environ | {"PYTHONPATH": str(ROOT), "OMP_NUM_THREADS": "1"}
    silent = {"stdout": subprocess.DEVNULL, "stderr": subprocess.DEVNULL, "cwd": folder, "env": environment}
    described = folder / "scheduler.json"
    dask = [sys.executable, "-m", "dask"]
    started = [
        subprocess.Popen([*dask, "scheduler", "--host", "127.0.0.1", "--port", "0", "--no-dashboard", "--scheduler-file", str(described)], **silent)
    ]
    try:
        deadline = time.monotonic() + 60
        while not described.exists() and time.monotonic() < deadline:
            time.sleep(0.1)
        worker = [*dask, "worker", "--scheduler-file", str(described), "--nthreads", str(nthreads), "--no-nanny", "--no-dashboard"]
        started += [subprocess.Popen(worker, **silent) for _ in range(n)]
        time.sleep(0.1)
        import json

        yield json.loads(described.read_text("utf-8"))["address"], started[1:]
    finally:
        for process in started:
            process.kill()
            process.wait()


def test_a_worker_killed_in_the_middle_changes_nothing(expected, tmp_path, monkeypatch):
    store, killed = Store(tmp_path / "store"), []
    with scheduler(tmp_path) as (address, processes):
        monkeypatch.setenv("DASK_SCHEDULER_ADDRESS", address)
        save = store.save_checkpoint

        def save_and_kill(*arguments):
            save(*arguments)
            if not killed:
                killed.append(processes[0].pid)
                processes[0].send_signal(signal.SIGKILL)

        monkeypatch.setattr(store, "save_checkpoint", save_and_kill)
        table = engine.collect(study(), store, progress=False).to_csv()
        assert killed and processes[0].wait() == -signal.SIGKILL and processes[1].poll() is None
    assert table == expected


@pytest.mark.parametrize(
    "nthreads,mine,message",
    [
        (2, {}, "has 2 threads; start it with --nthreads 1"),
        (1, {"torch": "1.0"}, r"has torch \d.*, this client 1.0; install the same on both"),
    ],
)
def test_what_a_remote_worker_lacks_is_named_before_work_starts(nthreads, mine, message, tmp_path, monkeypatch):
    known = workers.identity() | mine
    with scheduler(tmp_path, nthreads, n=1) as (address, _):
        monkeypatch.setenv("DASK_SCHEDULER_ADDRESS", address)
        monkeypatch.setattr(cluster, "expected", lambda: known)
        with pytest.raises(RuntimeError, match=message):
            csv(tmp_path / "store")
    assert not (tmp_path / "store").exists()


def test_no_scheduler_and_no_worker_are_one_line_each(tmp_path, monkeypatch):
    monkeypatch.setenv("DASK_SCHEDULER_ADDRESS", "tcp://127.0.0.1:9")
    monkeypatch.setattr(cluster, "PATIENCE", 1)
    with pytest.raises(RuntimeError, match="no Dask scheduler answers at 'tcp://127.0.0.1:9'"):
        csv(tmp_path / "store")
    with scheduler(tmp_path, n=0) as (address, _):
        monkeypatch.setenv("DASK_SCHEDULER_ADDRESS", address)
        with pytest.raises(RuntimeError, match="has no worker after 1 s; start some with `dask worker"):
            csv(tmp_path / "store")


def test_jobs(monkeypatch):
    monkeypatch.delenv("ANALOG_PIM_JOBS", raising=False)
    assert cluster.jobs() >= 1 and cluster.jobs(3) == 3
    monkeypatch.setenv("ANALOG_PIM_JOBS", "2")
    assert cluster.jobs() == 2
    with pytest.raises(ValueError, match="from 0 to 256, got 'many'"):
        cluster.jobs("many")


def test_workers_that_die_while_starting_are_started_again(monkeypatch):
    import distributed

    tries, real = [], distributed.LocalCluster

    def fragile(*arguments, **options):
        tries.append(1)
        if len(tries) < 3:
            raise RuntimeError("Nanny failed to start.")
        return real(*arguments, **options)

    monkeypatch.setattr(distributed, "LocalCluster", fragile)
    with cluster._started(0) as started:
        assert len(tries) == 3 and len(started.workers) == 1
    monkeypatch.setattr(distributed, "LocalCluster", lambda **_: (_ for _ in ()).throw(RuntimeError("Nanny failed to start.")))
    with pytest.raises(RuntimeError, match="died 3 times while starting .*--jobs 1"):
        cluster._started(2)
