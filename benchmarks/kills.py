"""kill -9 at random moments of a study, client and workers in turn:   python -m benchmarks.kills [TIMES [SEED]]

Each time, with an empty store: start the smoke study of notebook 03, kill the client or one of its two workers after a
random time, check that no process stays behind, start the study again, and compare its table byte by byte with that of
an undisturbed run.  A killed worker must not stop the first run at all.  Exit status 1 if anything differed or stayed.
"""

from __future__ import annotations

import hashlib
import os
import random
import shutil
import signal
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import psutil

from .interrupts import GRACE, ROOT, left_behind

STUDY = """
import sys
from lib.companion import accuracy_vs_sigma
from lib.experiments import engine
from lib.companion.profiles import profile
if __name__ == "__main__":
    print("started", flush=True)
    wanted = [case.measurement for case in accuracy_vs_sigma.measurements(profile("smoke"), 0)]
    engine.frame(engine.collect(wanted, progress=False)).to_csv(sys.argv[1])
"""


def start(folder: Path) -> subprocess.Popen:
    """The study in a process of its own, its store and table under `folder`; returns when lib is imported."""
    script = folder / "study.py"
    script.write_text(STUDY, "utf-8")
    clean = {k: v for k, v in os.environ.items() if not k.startswith(("ANALOG_PIM_", "DASK_"))}
    mine = {"PYTHONPATH": str(ROOT), "ANALOG_PIM_CACHE": str(folder / "cache"), "ANALOG_PIM_JOBS": "2"}
    command = [sys.executable, str(script), str(folder / "table.csv")]
    streams = {"stdout": subprocess.PIPE, "stderr": subprocess.DEVNULL, "text": True}
    process = subprocess.Popen(command, cwd=folder, env=clean | mine, **streams)
    process.stdout.readline()
    return process


def workers(client: subprocess.Popen) -> list[psutil.Process]:
    found = []
    for process in psutil.Process(client.pid).children(recursive=True):
        try:
            if "spawn_main" in " ".join(process.cmdline()):
                found.append(process)
        except psutil.Error:
            continue
    return found


def table(folder: Path) -> str:
    return hashlib.sha256((folder / "table.csv").read_bytes()).hexdigest()


def main(times: str = "25", seed: str = "0") -> int:
    rng, bad = random.Random(int(seed)), 0
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name).resolve()
        began = time.monotonic()
        assert start(folder).wait() == 0, "the undisturbed run failed"
        whole, expected = time.monotonic() - began, table(folder)
        print(f"undisturbed: {whole:.0f} s", flush=True)
        for i in range(int(times)):
            shutil.rmtree(folder / "cache")
            (folder / "table.csv").unlink(missing_ok=True)
            victim, moment = ("client", "worker")[i % 2], rng.uniform(0, whole)
            client = start(folder)
            time.sleep(moment)
            targets = [client] if victim == "client" else workers(client)
            if targets:
                rng.choice(targets).send_signal(signal.SIGKILL)
            code = client.wait()
            unharmed = victim == "client" or (code == 0 and table(folder) == expected)
            remains = left_behind(folder, GRACE)
            again = start(folder).wait()
            same = again == 0 and table(folder) == expected
            good = unharmed and same and not remains
            bad += not good
            first = f"{victim} killed after {moment:4.1f} s: exit {code}, left behind {remains}"
            print(f"{first}, again exit {again}, identical {same}, good {good}", flush=True)
    return int(bad > 0)


if __name__ == "__main__":
    sys.exit(main(*sys.argv[1:]))
