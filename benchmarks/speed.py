"""Monte Carlo against a plain forward pass, a noisy training step against a plain one: on one thread, as the engine's
tasks run, and on all cores."""

from __future__ import annotations

import copy
import statistics
import time
from collections.abc import Callable

import pandas as pd
import torch
import torch.nn.functional as F

from lib import ReferenceCells, SelfTuning, Variation, build, evaluate, load, to_analog
from lib.analog import channels_last, wide
from lib.evaluation import best_precision
from lib.folding import idle_relus, without
from lib.precision import training_precision
from lib.training import Recipe, _optimizer, _step
from lib.variation import PassingChip

NETWORKS = (("lenet5", 1.0), ("vgg11", 0.25), ("resnet18", 0.125), ("resnet18", 0.25))
IMAGES, CHIPS, BATCH, STEPS = 1000, 3, 128, 4
WITHIN, MIXED = Variation(0.3), {law: Variation.split(0.3, 0.5, law) for law in ("proportional", "layer-fixed")}
TUNED = SelfTuning(ReferenceCells(256))
Case = Callable[[], object]


def seconds(run: Case) -> float:
    began = time.perf_counter()
    run()
    return time.perf_counter() - began


def turns(cases: dict[str, Case], repeats: int) -> pd.DataFrame:
    """Seconds of every case, a row a turn; one turn before, to warm up."""
    rows = [{name: seconds(run) for name, run in cases.items()} for _ in range(repeats + 1)]
    return pd.DataFrame(rows[1:])


def on_threads(measure: Callable[[], pd.DataFrame]) -> pd.DataFrame:
    """The same table on one thread and on all, one below the other."""
    everything, tables = torch.get_num_threads(), []
    try:
        for n in sorted({1, everything}):
            torch.set_num_threads(n)
            tables.append(measure().assign(threads=n))
    finally:
        torch.set_num_threads(everything)
    return pd.concat(tables, ignore_index=True)


def ratios(
    name: str, width: float, cases: dict[str, Case], images: dict[str, int], plain: list[str], repeats: int
) -> list[dict]:
    """A row a case: its speed, and that speed over the best of the cases named plain."""
    found = turns(cases, repeats)
    rate = pd.DataFrame({label: images[label] / found[label] for label in cases})
    best = rate[plain].max(axis=1)
    return [
        {
            "network": f"{name} ×{width:g}",
            "case": label,
            "images/s": round(rate[label].median()),
            "ratio": f"{statistics.median(rate[label] / best):.2f}",
        }
        for label in cases
    ]


def plain_forward(net: torch.nn.Module, images, dtype: torch.dtype, layout: torch.memory_format) -> Case:
    model = copy.deepcopy(net).to(dtype=dtype, memory_format=layout)
    x = images.normalized()
    x = (channels_last(x) if layout is torch.channels_last else x).to(dtype)

    batches = x.split(125)

    def run():
        with torch.no_grad():
            for batch in batches:
                model(batch).argmax(1)

    return run


def forward_cases(name: str, width: float) -> tuple[dict[str, Case], dict[str, int]]:
    """One pass over IMAGES images of plain float networks; CHIPS chips of `evaluate`."""
    data = load("fashion-mnist")
    images = data.test.balanced(IMAGES)
    net = build(name, data.channels, data.classes, data.size, width).eval()
    analog = to_analog(net, "A4W4", data.train.take(slice(0, 64)).normalized()).eval()
    cases = {
        "plain, default": plain_forward(net, images, torch.float32, torch.contiguous_format),
        "plain, channels-last": plain_forward(net, images, torch.float32, torch.channels_last),
        "plain, channels-last bfloat16": plain_forward(net, images, torch.bfloat16, torch.channels_last),
    }
    for label, variation, options in (
        ("evaluate, float32", WITHIN, {"precision": "float32"}),
        (f"evaluate, best ({best_precision(analog, images.normalized()[:2])})", WITHIN, {}),
        ("evaluate, tuned gain", MIXED["proportional"], {"tuning": TUNED}),
        ("evaluate, tuned offset", MIXED["layer-fixed"], {"tuning": TUNED}),
    ):
        cases[label] = lambda v=variation, o=options: evaluate(analog, images, v, CHIPS, **o)
    return cases, {label: IMAGES * (CHIPS if label.startswith("evaluate") else 1) for label in cases}


def forward(repeats: int, networks=NETWORKS) -> pd.DataFrame:
    def measure():
        rows = []
        for name, width in networks:
            cases, images = forward_cases(name, width)
            rows += ratios(name, width, cases, images, [c for c in cases if c.startswith("plain")], repeats)
        return pd.DataFrame(rows)

    return on_threads(measure)


def widths(repeats: int) -> pd.DataFrame:
    table = forward(repeats, [("vgg11", width) for width in (0.125, 0.25, 0.5)])
    return table[table.case.str.contains("plain, channels-last bf|best")]


def step_cases(name: str, width: float) -> dict[str, Case]:
    """STEPS training steps of one minibatch: float, quantized, also deviated, each in the layout that `fit` takes, and
    the last in the precision as well."""
    data = load("fashion-mnist")
    batch = data.train.take(slice(0, BATCH))
    x, labels = batch.normalized(), batch.labels
    net = build(name, data.channels, data.classes, data.size, width)
    cases = {}
    for label, bits, variation, fastest in (
        ("plain step", None, None, False),
        ("QAT step", "A4W4", Variation(), False),
        ("QAVAT step", "A4W4", WITHIN, False),
        ("QAVAT step, best", "A4W4", WITHIN, True),
    ):
        model = (to_analog(net, bits, x) if bits else copy.deepcopy(net)).train()
        optimizer, idle = _optimizer(model, Recipe(lr=1e-3)), idle_relus(model, x[:2])
        inputs = channels_last(x) if wide(model) else x
        precision = training_precision(model, x[:2]) if fastest else "float32"
        label = f"{label} ({precision})" if fastest else label

        def run(model=model, optimizer=optimizer, idle=idle, variation=variation, inputs=inputs, precision=precision):
            with without(idle):
                for step in range(STEPS):
                    if variation is None:
                        optimizer.zero_grad(set_to_none=True)
                        F.cross_entropy(model(inputs), labels).backward()
                        optimizer.step()
                    else:
                        chip = PassingChip.of("training", step)
                        _step(model, optimizer, inputs, labels, variation, chip, None, precision)

        cases[label] = run
    return cases


def steps(repeats: int) -> pd.DataFrame:
    def measure():
        rows = []
        for name, width in NETWORKS:
            cases = step_cases(name, width)
            rows += ratios(name, width, cases, dict.fromkeys(cases, BATCH * STEPS), ["plain step"], repeats)
        return pd.DataFrame(rows)

    return on_threads(measure)
