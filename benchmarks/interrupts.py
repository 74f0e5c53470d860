"""Interrupt smoke runs at random moments and check that nothing is lost:

    python -m benchmarks.interrupts [TIMES [SEED [ONLY]]]

Each time, in a copy of the project with an empty store: start, interrupt at a random moment (Ctrl-C and kill -9 in
turn), check that no process stays behind, run the same command again, and compare every table and figure with those of
an undisturbed run.  Prints a line each; exit status 1 if anything differed or stayed.
"""

from __future__ import annotations

import hashlib
import json
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

ROOT = Path(__file__).resolve().parent.parent
GRACE = 15  # seconds for the kernels to notice that their parent is gone; they look once a second


def prepare(folder: Path) -> None:
    """A copy of the project; the data are linked, of the figures there are the tables (the site's front reads them)."""
    for name in ("lib", "notebooks", "site"):
        shutil.copytree(ROOT / name, folder / name, ignore=shutil.ignore_patterns("__pycache__", ".ipynb_checkpoints"))
    shutil.copy(ROOT / "pyproject.toml", folder)
    shutil.copytree(ROOT / "figures", folder / "figures", ignore=shutil.ignore_patterns("*.png", "*.pdf"))
    (folder / "data").symlink_to(ROOT / "data")


def start(folder: Path, only: str) -> subprocess.Popen:
    clean = {k: v for k, v in os.environ.items() if not k.startswith("ANALOG_PIM_")}
    command = [sys.executable, "-m", "lib.companion", "--profile", "smoke", *(["--only", only] if only else [])]
    env = clean | {"PYTHONPATH": str(folder)}
    silent = {"stdout": subprocess.DEVNULL, "stderr": subprocess.DEVNULL}

    def hear_interrupts():  # a shell has its background jobs ignore Ctrl-C, and what they start inherits that
        signal.signal(signal.SIGINT, signal.SIG_DFL)

    return subprocess.Popen(command, cwd=folder, env=env, preexec_fn=hear_interrupts, **silent)


def outcome(folder: Path) -> dict[str, str]:
    """Name → digest of every figure file, and the claims of the summary."""
    build = folder / "build" / "smoke"
    found = {p.name: hashlib.sha256(p.read_bytes()).hexdigest() for p in sorted((build / "figures").iterdir())}
    claims = [n["claims"] for n in json.loads((build / "summary.json").read_text("utf-8"))["notebooks"]]
    return found | {"claims": hashlib.sha256(json.dumps(claims).encode()).hexdigest()}


def left_behind(folder: Path, within: float) -> list[str]:
    """Processes that still work in `folder` after `within` seconds."""
    deadline = time.monotonic() + within
    while True:
        alive = []
        for process in psutil.process_iter():
            try:
                if process.status() != psutil.STATUS_ZOMBIE and Path(process.cwd()).is_relative_to(folder):
                    alive.append(" ".join(process.cmdline())[:100])
            except (psutil.Error, OSError):
                continue
        if not alive or time.monotonic() > deadline:
            return alive
        time.sleep(0.2)


def main(times: str = "10", seed: str = "0", only: str = "") -> int:
    rng, bad = random.Random(int(seed)), 0
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name).resolve()
        prepare(folder)
        began = time.monotonic()
        assert start(folder, only).wait() == 0, "the undisturbed run failed"
        whole = time.monotonic() - began
        expected = outcome(folder)
        print(f"undisturbed: {whole:.0f} s, {len(expected)} files", flush=True)
        for i in range(int(times)):
            shutil.rmtree(folder / "cache")
            shutil.rmtree(folder / "build")
            blow, moment = (signal.SIGINT, signal.SIGKILL)[i % 2], rng.uniform(0.5, whole)
            process = start(folder, only)
            time.sleep(moment)
            process.send_signal(blow)
            code = process.wait(timeout=GRACE)
            remains = left_behind(folder, GRACE)
            again = start(folder, only).wait()
            same = outcome(folder) == expected
            good = again == 0 and same and not remains
            bad += not good
            first = f"{blow.name} after {moment:5.1f} s: exit {code}, left behind {remains}"
            print(f"{first}, rerun exit {again}, identical {same}", flush=True)
    return int(bad > 0)


if __name__ == "__main__":
    sys.exit(main(*sys.argv[1:]))
