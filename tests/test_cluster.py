"""Real schedulers and worker processes: the table does not depend on them, nor on losing one."""

import os
import signal
import subprocess
import sys
import time
from contextlib import contextmanager

import dask
import pytest
from conftest import ROOT

from lib.checks import InputError, RunError
from lib.companion import start_here, variation_and_chips
from lib.companion.profiles import profile
from lib.experiments import cluster, engine, workers
from lib.experiments.settings import Settings
from lib.experiments.store import Store

SMOKE = profile("smoke")


@pytest.fixture(autouse=True)
def no_other_scheduler(monkeypatch):
    monkeypatch.delenv("DASK_SCHEDULER_ADDRESS", raising=False)


def study():
    return [case.measurement for m in (start_here, variation_and_chips) for case in m.measurements(SMOKE, 0)]


def csv(folder, **settings):
    return engine.frame(engine.collect(study(), Settings.read(cache=folder, **settings), progress=False)).to_csv()


@pytest.fixture(scope="module")
def expected(tmp_path_factory):
    """The table that one worker makes."""
    return csv(tmp_path_factory.mktemp("one"), jobs=1)


@pytest.mark.parametrize("jobs", [0, 2, 4])
def test_the_table_does_not_depend_on_the_number_of_workers(jobs, expected, tmp_path):
    assert csv(tmp_path, jobs=jobs) == expected


@contextmanager
def scheduler(folder, nthreads=1, n=2, python=sys.executable, **variables):
    """A scheduler on loopback and its worker processes; yields (address, workers)."""
    environment = os.environ | {"PYTHONPATH": str(ROOT), "OMP_NUM_THREADS": "1"} | variables
    silent = {"stdout": subprocess.DEVNULL, "stderr": subprocess.DEVNULL, "cwd": folder, "env": environment}
    described = folder / "scheduler.json"
    dask = [str(python), "-m", "dask"]
    common = ["--no-dashboard", "--scheduler-file", str(described)]
    started = [subprocess.Popen([*dask, "scheduler", "--host", "127.0.0.1", "--port", "0", *common], **silent)]
    try:
        deadline = time.monotonic() + 60
        while not described.exists() and time.monotonic() < deadline:
            time.sleep(0.1)
        worker = [*dask, "worker", "--nthreads", str(nthreads), "--no-nanny", *common]
        started += [subprocess.Popen(worker, **silent) for _ in range(n)]
        time.sleep(0.1)
        import json

        yield json.loads(described.read_text("utf-8"))["address"], started[1:]
    finally:
        for process in started:
            process.kill()
            process.wait()


def test_a_worker_killed_in_the_middle_changes_nothing(expected, tmp_path, monkeypatch):
    save, killed = Store.save_checkpoint, []
    with scheduler(tmp_path) as (address, processes):

        def save_and_kill(*arguments):
            save(*arguments)
            if not killed:
                killed.append(processes[0].pid)
                processes[0].send_signal(signal.SIGKILL)

        monkeypatch.setattr(Store, "save_checkpoint", save_and_kill)
        table = csv(tmp_path / "store", scheduler=address)
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
        monkeypatch.setattr(cluster, "expected", lambda: known)
        with pytest.raises(RuntimeError, match=message):
            csv(tmp_path / "store", scheduler=address)
    assert not (tmp_path / "store").exists()


def test_no_scheduler_and_no_worker_are_one_line_each(tmp_path, monkeypatch):
    monkeypatch.setattr(cluster, "PATIENCE", 1)
    with pytest.raises(RuntimeError, match="no Dask scheduler answers at 'tcp://127.0.0.1:9'"):
        csv(tmp_path / "store", scheduler="tcp://127.0.0.1:9")
    with scheduler(tmp_path, n=0) as (address, _):
        with pytest.raises(RuntimeError, match="has no worker after 1 s; start some with `dask worker"):
            csv(tmp_path / "store", scheduler=address)


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

    def broken(**options):
        raise RuntimeError("Nanny failed to start.")

    monkeypatch.setattr(distributed, "LocalCluster", broken)
    with pytest.raises(RuntimeError, match="died 3 times while starting .*--jobs 1"):
        cluster._started(2)


# a run of one's own, with an estimator that only this script has
SCRIPT = """
import sys
from dataclasses import dataclass
from lib import Recipe, Variation
from lib.estimators import ReadOnce
from lib.experiments import engine
from lib.selftuning import SelfTuning
from lib.trials import Measurement, Trial

@dataclass(frozen=True)
class Part(ReadOnce):
    share: float
    label = "part"

    def estimate(self, chip, variation):
        return self.share * variation.shared(chip)

recipe = Recipe(epochs=1, batch_size=32, bn_draws=2)
trial = Trial("fashion-mnist", "lenet5", "QAVAT", recipe, "A4W2", Variation(0.3), width=0.5, train_images=64)
tuned = Measurement(trial, Variation(0.1, 0.3), 3, 20, tuning=SelfTuning(Part(0.5)))
main = sys.modules["__main__"]
before = main.__file__, main.__spec__
print(engine.frame(engine.collect([tuned], progress=False)).to_csv())
assert (main.__file__, main.__spec__) == before
"""


@pytest.fixture(scope="module")
def in_one_process(tmp_path_factory):
    return script(tmp_path_factory.mktemp("script"), "file", 0)


def script(folder, source, jobs):
    """What SCRIPT prints, run from a file without a guard or from standard input."""
    settings = {"ANALOG_PIM_JOBS": str(jobs), "ANALOG_PIM_CACHE": str(folder / "store")}
    environment = os.environ | {"PYTHONPATH": str(ROOT)} | settings
    (folder / "mine.py").write_text(SCRIPT, "utf-8")
    name, given = {"file": ("mine.py", ""), "standard input": ("-", SCRIPT)}[source]
    captured = {"capture_output": True, "text": True, "timeout": 200}
    run = subprocess.run([sys.executable, name], input=given, cwd=folder, env=environment, **captured)
    assert run.returncode == 0, run.stderr
    return run.stdout


@pytest.mark.parametrize("source", ["file", "standard input"])
def test_workers_start_whatever_the_main_module_is_and_know_its_classes(source, in_one_process, tmp_path):
    out = script(tmp_path, source, 2)
    assert out == in_one_process and ",part," in out


def test_local_workers_that_import_other_sources_are_refused(monkeypatch):
    known = workers.identity() | {"lib": "older"}
    monkeypatch.setattr(cluster, "expected", lambda: known)
    with pytest.raises(RunError, match=r"has lib \w+, this client older; it changed on disk .*; start again"):
        with cluster.connected(1, Settings(jobs=1)):
            pass


def test_a_worker_that_slept_is_not_given_up():
    """As after a laptop's sleep: Dask would drop it as unheard of, and the run would wait for ever."""
    with dask.config.set({"distributed.scheduler.worker-ttl": "1s"}), cluster.connected(1, Settings(jobs=1)) as client:
        pid = client.submit(os.getpid, pure=False).result(timeout=30)
        os.kill(pid, signal.SIGSTOP)
        waiting = client.submit(abs, -3)
        time.sleep(12)  # no worker is given up before ten of its heartbeats, of half a second each
        os.kill(pid, signal.SIGCONT)
        assert waiting.result(timeout=30) == 3 and client.submit(os.getpid, pure=False).result(timeout=30) == pid


@pytest.mark.parametrize("address", ["localhost", "tcp://127.0.0.1", "tcp://127.0.0.1:x", "http://127.0.0.1:8786"])
def test_a_mistyped_scheduler_is_refused_at_once(address):
    began = time.monotonic()
    with pytest.raises(InputError, match=f"'{address}' is no address .*; allowed: tcp://HOST:PORT"):
        with cluster.connected(1, Settings(scheduler=address)):
            pass
    assert time.monotonic() - began < 10


def test_a_scheduler_that_dies_is_one_line(tmp_path):
    """In a process of its own, whose standard error Dask's own words must not reach."""
    code = """
import os, signal, time
from lib.experiments import cluster
from lib.experiments.settings import Settings
with cluster.connected(1, Settings.read()) as client:
    future = client.submit(time.sleep, 30)
    os.kill(client.run_on_scheduler(os.getpid), signal.SIGKILL)
    try:
        future.result()
    finally:
        time.sleep(1)
"""
    with scheduler(tmp_path, n=1) as (address, _):
        environment = os.environ | {"PYTHONPATH": str(ROOT), "DASK_SCHEDULER_ADDRESS": address}
        run = subprocess.run([sys.executable, "-c", code], env=environment, capture_output=True, text=True, timeout=100)
    last = run.stderr.strip().splitlines()[-1]
    assert last.startswith(f"lib.checks.RunError: the connection to the scheduler at {address} is lost (")
    assert "the same command goes on" in last and "distributed.client - ERROR" not in run.stderr


def test_a_task_without_memory_names_what_to_do():
    line = r"no memory left \((MemoryError|CUDA.*GiB)\); take fewer worker processes \(--jobs 1"
    for error in (MemoryError(), workers.torch.OutOfMemoryError("CUDA out of memory.\nTried to allocate 2 GiB")):
        with pytest.raises(RunError, match=line):
            with cluster._losses_explained("worker processes"):
                raise error
