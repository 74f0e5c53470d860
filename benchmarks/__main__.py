"""How fast this machine is, as ratios from one run:   python -m benchmarks [REPEATS]

Everything is measured in turn, REPEATS times (default 7), and each ratio is the median over the turns, so that a noisy
machine slows numerator and denominator alike.  Monte Carlo: against the best plain forward pass of the same float
network on the same images.  Training: against the plain float step of the same batch.
"""

from __future__ import annotations

import copy
import platform
import statistics
import sys
import time
from collections.abc import Callable
from pathlib import Path

import pandas as pd
import torch
import torch.nn.functional as F

from lib import Chip, ReferenceCells, SelfTuning, Variation, build, evaluate, load, to_analog
from lib.training import Recipe, _optimizer, _step

NETWORKS = (("lenet5", 1.0), ("vgg11", 0.25), ("resnet18", 0.125))
IMAGES, CHIPS, BATCH, STEPS = 1000, 3, 128, 4
WITHIN, MIXED = Variation(0.3), {law: Variation.split(0.3, 0.5, law) for law in ("proportional", "layer-fixed")}
TUNED = SelfTuning(ReferenceCells(256))


def seconds(run: Callable[[], object]) -> float:
    began = time.perf_counter()
    run()
    return time.perf_counter() - began


def turns(cases: dict[str, Callable[[], object]], repeats: int) -> pd.DataFrame:
    """Seconds of every case, a row a turn; one turn before, to warm up."""
    rows = [{name: seconds(run) for name, run in cases.items()} for _ in range(repeats + 1)]
    return pd.DataFrame(rows[1:])


def forward_cases(name: str, width: float) -> dict[str, Callable[[], object]]:
    """One pass over IMAGES images: plain float networks, and one chip of `evaluate` (an average of CHIPS)."""
    data = load("fashion-mnist")
    images = data.test.balanced(IMAGES)
    net = build(name, data.channels, data.classes, data.size, width).eval()
    analog = to_analog(net, "A4W4", data.train.take(slice(0, 64)).normalized()).eval()
    cases: dict[str, Callable[[], object]] = {}
    for label, dtype, layout in (
        ("plain, float32", torch.float32, torch.contiguous_format),
        ("plain, float32 channels-last", torch.float32, torch.channels_last),
        ("plain, bfloat16 channels-last", torch.bfloat16, torch.channels_last),
    ):
        model = copy.deepcopy(net).to(dtype=dtype, memory_format=layout)
        x = images.normalized().to(dtype=dtype, memory_format=layout)

        def run(model=model, batches=x.split(125)):
            with torch.no_grad():
                for batch in batches:
                    model(batch).argmax(1)

        cases[label] = run
    for label, variation, tuning in (
        ("evaluate, ideal chip", Variation(), None),
        ("evaluate, within-chip σ", WITHIN, None),
        ("evaluate, tuned gain", MIXED["proportional"], TUNED),
        ("evaluate, tuned offset", MIXED["layer-fixed"], TUNED),
    ):
        cases[label] = lambda v=variation, t=tuning: evaluate(analog, images, v, CHIPS, tuning=t)
    return cases


def step_cases(name: str, width: float) -> dict[str, Callable[[], object]]:
    """STEPS training steps of one minibatch: float, quantized, quantized and deviated."""
    data = load("fashion-mnist")
    batch = data.train.take(slice(0, BATCH))
    x, labels = batch.normalized(), batch.labels
    net = build(name, data.channels, data.classes, data.size, width)
    cases = {}
    for label, bits, variation in (("plain step", None, None), ("QAT step", "A4W4", Variation()), ("QAVAT step", "A4W4", WITHIN)):
        model = (to_analog(net, bits, x) if bits else copy.deepcopy(net)).train()
        optimizer = _optimizer(model, Recipe(lr=1e-3))

        def run(model=model, optimizer=optimizer, variation=variation):
            for step in range(STEPS):
                if variation is None:
                    optimizer.zero_grad(set_to_none=True)
                    F.cross_entropy(model(x), labels).backward()
                    optimizer.step()
                else:
                    _step(model, optimizer, x, labels, variation, Chip.of("training", step))

        cases[label] = run
    return cases


def table(repeats: int) -> pd.DataFrame:
    """network, case, images/s, ratio: speed over that of the best plain pass, or of the plain step."""
    rows = []
    for name, width in NETWORKS:
        for cases, images in ((forward_cases(name, width), IMAGES), (step_cases(name, width), BATCH * STEPS)):
            found = turns(cases, repeats)
            for label in found.columns[[c.startswith("evaluate") for c in found.columns]]:
                found[label] /= CHIPS
            plain = found[[c for c in found if c.startswith("plain")]].min(axis=1)
            for label in found:
                ratio = statistics.median(plain / found[label])
                rows.append({"network": f"{name} ×{width:g}", "case": label, "images/s": images / found[label].median(), "ratio": ratio})
    return pd.DataFrame(rows)


def machine() -> str:
    flags = Path("/proc/cpuinfo")
    known = flags.read_text() if flags.exists() else ""
    vector = next((f for f in ("avx512_bf16", "avx512f", "avx2") if f in known), platform.machine())
    return f"{torch.get_num_threads()} threads, {vector}, Python {platform.python_version()}, torch {torch.__version__}"


if __name__ == "__main__":
    repeats = int(sys.argv[1]) if len(sys.argv) > 1 else 7
    print(machine())
    print(table(repeats).to_string(index=False, formatters={"images/s": "{:.0f}".format, "ratio": "{:.2f}".format}))
