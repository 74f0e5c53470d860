"""How fast this machine is, as ratios from one run:

    python -m benchmarks [REPEATS]           the tables below, about 6 minutes on 2 cores
    python -m benchmarks peers [REPEATS]     side by side with aihwkit, in an environment of its own

Everything is measured in turn, REPEATS times (default 7), and each ratio is the median over the turns, so that a noisy
machine slows numerator and denominator alike.
"""

from __future__ import annotations

import platform
import sys
from pathlib import Path

import torch

from . import scale, speed


def machine() -> str:
    flags = Path("/proc/cpuinfo")
    known = flags.read_text() if flags.exists() else ""
    vector = next((f for f in ("avx512_bf16", "avx512f", "avx2") if f in known), platform.machine())
    return f"{torch.get_num_threads()} cores, {vector}, Python {platform.python_version()}, torch {torch.__version__}"


def show(title: str, table) -> None:
    print(f"\n{title}\n{table.to_string(index=False)}", flush=True)


def main(arguments: list[str]) -> int:
    if arguments[:1] == ["peers"]:
        from . import peers

        return peers.main(*map(int, arguments[1:]))
    repeats = int(arguments[0]) if arguments else 7
    print(machine())
    title = "Monte Carlo against the best plain forward pass of the same float network, 1,000 images"
    show(title, speed.forward(repeats))
    show("a training step of 128 images against the plain step of the same layout, float32", speed.steps(repeats))
    show("the mean of a QAVAT network at σ 0.3 to ± 0.5 points against 1,000 chips × 10,000 images", scale.interval())
    show("cost against the number of chips, each in a process of its own (LeNet-5, 50 images a chip)", scale.chips())
    show("cost against width (VGG-11, 1,000 images)", speed.widths(max(1, repeats // 2)))
    show("trainings an hour against one process of all cores", scale.workers_table(max(1, repeats // 2)))
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
