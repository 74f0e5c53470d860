"""This project's speed beside aihwkit's, as ratios from one run:   python -m benchmarks peers [REPEATS]

Monte Carlo (program a chip, classify IMAGES images) and training steps with fresh deviations of the weights for every
minibatch.  aihwkit runs in a process and an environment of its own; while one side is timed the other waits in a read.
A ratio is the median over REPEATS turns (default 7) of aihwkit's seconds over ours, measured side by side; where
several variants of aihwkit do the same task, the one with the smallest ratio is shown.
"""

from __future__ import annotations

import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from typing import NamedTuple

import pandas as pd
import torch
from torch import nn

from lib import Images, Variation, evaluate, to_analog
from lib.batch_norm import Layout
from lib.evaluation import best_precision
from lib.training import _optimizer, _step
from lib.variation import PassingChip

from .aihwkit_peer import AIHWKIT, BATCH, CHIPS, IMAGES, RECIPE, SIGMA, STEPS, environment, seconds, setting, started

NETWORKS = (("lenet5", 1.0), ("vgg11", 0.25))
PAUSE = 0.02  # seconds; OpenMP threads spin for some milliseconds after their last task
FLOAT, ANY, STEP = "Monte Carlo, float32", "Monte Carlo, any precision", "training step, float32"
NOTES = """
Same on both sides: network and weights, {images} images, {threads} threads, torch {torch}, float32 unless named, and
the law w·(1 + {sigma}·ε), drawn anew for every chip and every minibatch of {batch}.  Accuracy is not compared.
{aihwkit}: TorchInferenceRPUConfig, one tile a layer, no drift compensation.  Monte Carlo: program_analog_weights for
every chip, with a noise model of this law (its own, like PCM, take longer), then batches of the size shown.  Training:
modifier MULT_NORMAL, AnalogSGD.  Ideal IO (is_perfect): nothing is quantized.  Default IO: 7-bit inputs, 9-bit noisy
and bounded outputs; weights stay float.  Untouched IO: the whole configuration as it comes, PCM noise and tiles of 512
rows.  bfloat16: autocast.
Ours: A4W4, activations and weights quantized on every crossbar, in training too; deviations by chip and layer from
seeds, with a within- and a between-chip part (here only within); normalization of the images inside the timing.
"Any precision": what `evaluate` chooses here ({precisions}), against every variant of aihwkit.
"""


class Variant(NamedTuple):
    """One way to run aihwkit, and which of our cases it stands against."""

    cases: tuple[str, ...]
    io: str
    precision: str
    batch: int

    def __str__(self) -> str:
        return f"{self.io} IO, {self.precision}, batch {self.batch}"


VARIANTS = (
    *(Variant((FLOAT, ANY), "ideal", "float32", batch) for batch in (50, 125, 250)),
    *(Variant((ANY,), "ideal", "bfloat16", batch) for batch in (50, 125, 250)),
    *(Variant((FLOAT, ANY), io, "float32", batch) for io in ("default", "untouched") for batch in (50, 125)),
    *(Variant((STEP,), io, "float32", BATCH) for io in ("ideal", "default")),
)


def ours_evaluate(net: nn.Module, images: Images, chips: int, precision: str | None) -> None:
    evaluate(net, images, Variation(SIGMA), chips, precision=precision)


def analog(name: str, width: float) -> nn.Module:
    net, _, batch = setting(name, width)
    return to_analog(net, "A4W4", batch.normalized())


def ours(name: str, width: float) -> dict[str, Callable[[], object]]:
    _, images, batch = setting(name, width)
    net, student = analog(name, width), analog(name, width).train()
    optimizer, x = _optimizer(student, RECIPE), Layout(student)(batch.normalized())

    def steps() -> None:
        for step in range(STEPS):
            _step(student, optimizer, x, batch.labels, Variation(SIGMA), PassingChip.of("training", step))

    return {
        FLOAT: lambda: ours_evaluate(net, images, CHIPS, "float32"),
        ANY: lambda: ours_evaluate(net, images, CHIPS, None),
        STEP: steps,
    }


def turn(name: str, width: float, cases: dict[str, Callable], ask: Callable[..., float]) -> Iterator[dict]:
    """Every variant of aihwkit, and just before it our cases of the same work."""
    for variant in VARIANTS:
        time.sleep(PAUSE)
        mine = {case: seconds(cases[case]) for case in variant.cases}
        time.sleep(PAUSE)
        request = {"io": variant.io, "precision": variant.precision, "batch": variant.batch}
        theirs = ask(name=name, width=width, train=STEP in variant.cases, **request)
        for case, value in mine.items():
            yield {"case": case, "io": variant.io, "variant": str(variant), "ours": value, "aihwkit": theirs}


def rows(name: str, width: float, repeats: int, ask: Callable[..., float]) -> Iterator[dict]:
    """For every case and IO: images/s of both, and the ratio to the fastest variant."""
    cases = ours(name, width)
    turns = [pd.DataFrame(turn(name, width, cases, ask)) for _ in range(repeats + 1)]
    found = pd.concat(turns[1:])  # the first warms up
    found["ratio"] = found["aihwkit"] / found["ours"]
    medians = found.groupby(["case", "io", "variant"], sort=False).median()
    for case, io, variant in medians.groupby(["case", "io"], sort=False)["ratio"].idxmin():
        median, images = medians.loc[case, io, variant], STEPS * BATCH if case == STEP else CHIPS * IMAGES
        speeds = {"ours, images/s": images / median["ours"], "aihwkit, images/s": images / median["aihwkit"]}
        yield {"network": f"{name} ×{width:g}", "case": case, "aihwkit as": variant, **speeds, "ratio": median["ratio"]}


def chosen_precision(name: str, width: float) -> str:
    """What `evaluate` takes for this network here."""
    return best_precision(analog(name, width), setting(name, width)[2].normalized()[:2])


def main(repeats: int = 7, networks: tuple[tuple[str, float], ...] = NETWORKS) -> int:
    try:
        with started(environment()) as ask:
            found = pd.DataFrame([row for name, width in networks for row in rows(name, width, repeats, ask)])
    except (subprocess.CalledProcessError, OSError) as error:
        said = getattr(error, "stderr", None) or getattr(error, "output", None) or str(error)
        said = said if isinstance(said, str) else said.decode()  # venv's own steps give bytes
        print(f"no comparison with {AIHWKIT}: {said.strip().splitlines()[-1]}", file=sys.stderr)
        return 1
    formats = dict.fromkeys(found.columns[3:5], "{:,.0f}".format) | {"ratio": "{:.2f}".format}
    print(found.to_string(index=False, formatters=formats))
    precisions = ", ".join(f"{name} {chosen_precision(name, width)}" for name, width in networks)
    sizes = {"images": IMAGES, "batch": BATCH, "sigma": SIGMA}
    machine = {"threads": torch.get_num_threads(), "torch": torch.__version__}
    print(NOTES.format(aihwkit=AIHWKIT, precisions=precisions, **sizes, **machine), end="")
    return 0
