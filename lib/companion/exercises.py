"""The checks behind the exercises of the notebooks; the solutions are in `notebooks/solutions/`.

check("10.2", 1225)        says whether the answer is right and why, or gives a hint; None: not answered yet
"""

import math
from collections.abc import Callable
from dataclasses import dataclass
from statistics import NormalDist

from ..checks import one_of
from ..estimators import ReferenceCells
from ..variation import Chip, Variation
from .published import reported


@dataclass(frozen=True)
class Exercise:
    """right(*answers): whether they are.  hint: for who has not found it.  because: for who has."""

    right: Callable[..., bool]
    hint: str
    because: str


def near(*expected: float, relative: float = 0.02, absolute: float = 1e-6) -> Callable[..., bool]:
    """Whether each answer is its expected number, to a relative tolerance."""

    def right(*answers) -> bool:
        pairs = zip(answers, expected, strict=True)
        return all(math.isclose(float(a), b, rel_tol=relative, abs_tol=absolute) for a, b in pairs)

    return right


def _halves(mine) -> bool:
    """Whether an estimator gives half of what 16 reference cells say, on several chips."""
    variation = Variation(0.2, 0.2)
    chips = [Chip.of("test", i) for i in range(3)]
    pairs = ((mine.estimate(chip, variation), ReferenceCells(16).estimate(chip, variation)) for chip in chips)
    return all(math.isclose(a, b / 2, rel_tol=1e-6) for a, b in pairs) and bool(mine.label)


def _first_row() -> tuple[int, str]:
    trial = reported()[0].trial(seed=3)
    return trial.recipe.epochs, trial.quantizers


EXERCISES = {
    "00.1": Exercise(
        near(0.3173, 0.0124),
        "more than half means |z| > 0.5/σ, on both sides: 2·norm.sf(0.5/σ)",
        "|z| > 1 happens in 32% of cells, |z| > 2.5 in 1.2%",
    ),
    "00.2": Exercise(
        near(0.35355, 0.35355),
        "variances add: σ² = within² + between²; print the Variation",
        "each has half of the variance, 0.5/√2, not half of σ",
    ),
    "00.3": Exercise(
        lambda chip: chip == max(range(10), key=lambda i: Chip.of("test", i).z_between()),
        "max(range(10), key=…) over z_between()",
        "its number says all: it is the same chip on every machine",
    ),
    "01.1": Exercise(near(0.5), "the last level of 2 bits is n·s with n = 1", "beyond n·s = 0.5 clamping stops it"),
    "01.2": Exercise(
        near(0.0, 15.0),
        "unsigned levels go from 0 to 2^4 − 1, in steps",
        "what a ReLU delivers lies within, and nothing is below 0",
    ),
    "01.3": Exercise(
        near(3, 7, 15),
        "n = 2^(b−1) − 1 levels on each side, and 0",
        "one of the 2^b codes is given up, so that the grid is symmetric",
    ),
    "02.1": Exercise(
        near(NormalDist().cdf(-0.75 / 0.35), relative=0.1),
        "1 + 0.35·z < 0.25 means z < −0.75/0.35",
        "one chip in sixty; self-tuning divides by the floor there",
    ),
    "02.2": Exercise(
        near(0.3 / math.sqrt(10), 0.03),
        "the mean of n independent cells has the standard deviation σ_W/√n",
        "with 5 cells that is nearly half of σ_B = 0.21, and the analysis of variance has to take it off",
    ),
    "02.3": Exercise(
        lambda law: law == "layer-fixed",
        "the law whose own σ varies less fits better: in % of full scale, or in % of the target?",
        "in % of full scale the noise goes from 2.7 to 4.2, in % of the target from 11 to 4.2",
    ),
    "03.1": Exercise(
        lambda bits, points: bits == "A4W4" and abs(float(points)) < 2,
        "rows of `gain` with network lenet5 and against PTQ-VAT at the largest σ",
        "with fifteen levels, quantizing afterwards costs little",
    ),
    "03.2": Exercise(
        near(10 * math.sqrt(0.2 / 30), 10 * math.sqrt(2 / 30)),
        "Var(a − b) = 2·10²·(1 − r) for one chip; then over √30",
        "0.8 against 2.6 points: pairing is worth ten times as many chips",
    ),
    "03.3": Exercise(
        near(0.5, 0.3, relative=0.001), "the smallest σ of training at or above the tested one", "section 1 says so"
    ),
    "04.1": Exercise(
        near(1 / 257, 1 / 65),
        "they break even at ρ = 1/(1 + K_eff)",
        "0.4% and 1.5%: shared errors need not be large to count",
    ),
    "04.2": Exercise(
        near(0.8**5, 0.0),
        "every layer multiplies by 1 + e_B, and ReLU lets a positive factor through",
        "the largest logit stays the largest",
    ),
    "04.3": Exercise(
        near(0.96, 0.0), "every output is moved by e_B·max|w|·Σx", "all logits move alike, so no decision changes"
    ),
    "05.1": Exercise(
        lambda error, moved: error == "InputError" and float(moved) == 0,
        "try it on a small network in `with programmed(…)`; what is S of an input of zeros?",
        "a correction knows its law; and an offset ê·S of zeros is zero",
    ),
    "05.2": Exercise(
        _halves,
        "estimate returns 0.5 * ReferenceCells(16).estimate(chip, variation)",
        "an estimator is no more than that",
    ),
    "05.3": Exercise(
        near(0.5, 16 / 17),
        "minimize E(λê − e_B)²: λ = σ_B²/(σ_B² + σ_W²/n)",
        "with hundreds of cells nothing is left to shrink",
    ),
    "06.1": Exercise(near(640), "the estimate adds K_eff/n of the layer's own part", "ten times the knee"),
    "06.2": Exercise(
        near((0.16 / 0.03) ** 2),
        "noise adds r² to v, as if there were only (σ_W/r)² cells",
        "28: more cells do not help against a noisy reading",
    ),
    "06.3": Exercise(
        near(1558, relative=1e-9),
        "two columns of each layer's inputs: 2·Σ fan-in over its five layers",
        "the fan-ins add up to 779, whatever the number of outputs",
    ),
    "07.1": Exercise(
        near(14.176),
        "pivot the rows by method, over network, width, bits and σ",
        "ResNet-18 ×1 A8W2 at σ 0.3: one training seed each",
    ),
    "07.2": Exercise(
        lambda bits: bits == "A4W4", "the same pivot, rows of VGG-11", "35 points at σ 0.5, the full width"
    ),
    "07.3": Exercise(
        lambda epochs, quantizers: (epochs, quantizers) == _first_row(),
        "look at the trial's recipe.epochs and its quantizers",
        "a trial says all that a training depends on",
    ),
    "08.1": Exercise(
        near(8528, relative=1e-9),
        "sum(row.cells for row in report(…))",
        "weights only: biases and batch norms stay digital",
    ),
    "08.2": Exercise(near(math.sqrt(19 / 4)), "√((20 − 1)/(5 − 1))", "chips tell of σ_B, not cells"),
    "08.3": Exercise(
        lambda error: error == "InputError",
        "try: read_cells(…) except Exception as e: print(type(e).__name__)",
        "its message names the line and what is wanted there",
    ),
    "09.1": Exercise(
        near(0.0985),
        "ReferenceCells(1024).mismatch(Variation(0.16, array=0.1), 31) is its square",
        "√(0.1²·(1 − 1/31) + 0.16²/1024): nearly all of it is the array's own, which no mean over the chip tells",
    ),
    "09.2": Exercise(
        near(64),
        "in the array the variance of the estimate is σ_W²/n",
        "0.16²/0.02² = 64 cells, and as many in every array",
    ),
    "09.3": Exercise(
        near(14),
        "rows are inputs, columns are outputs; Variation(rows=64, columns=64).grid((120, 400)).counts",
        "⌈400/64⌉ = 7 arrays below each other, ⌈120/64⌉ = 2 beside each other",
    ),
    "10.1": Exercise(
        near(-0.3, 1.0),
        "make `step` a tensor with requires_grad=True, quantize one v, call backward() and read step.grad",
        "inside it is round(v/s) − v/s, the rounding error; beyond the last level it is that level",
    ),
    "10.2": Exercise(
        near(225),
        "the mean of n independent parts has the standard deviation σ_W/√n",
        "0.15/√225 = 0.01: four times as many cells for half the error",
    ),
    "10.3": Exercise(
        near(0.48, 0.0),
        "every column collects e_B·max|w|·Σx, whatever its own weights are",
        "0.3 · 0.8 · 2 in each column, so their difference does not feel it: that is a differential pair",
    ),
    "10.4": Exercise(
        lambda on, off: 0.7 < float(on) < float(off) - 0.01 and abs(float(off) - 0.9237) < 0.01,
        "start both from `start` and 2·mean|start|; e = 0 is `torch.zeros(2, 5)`",
        "every cell's error grows with max|w|, so a smaller full scale meets smaller errors",
    ),
}


def check(number: str, *answers) -> None:
    """Print whether `answers` solve an exercise.  Raises InputError for an exercise that does not exist."""
    exercise = EXERCISES[one_of("exercise", number, EXERCISES)]
    if any(answer is None for answer in answers):
        print(f"{number}: not answered yet")
    elif _solved(exercise, answers):
        print(f"{number}: right. {exercise.because[0].upper()}{exercise.because[1:]}.")
    else:
        print(f"{number}: not yet. Hint: {exercise.hint}.")


def _solved(exercise: Exercise, answers: tuple) -> bool:
    try:
        return bool(exercise.right(*answers))
    except (TypeError, ValueError, AttributeError, KeyError):  # of another kind than what was asked for
        return False
