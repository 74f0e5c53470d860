"""The checks behind the exercises of the notebooks; the solutions are in `notebooks/solutions/`.

check("10.2", 1225)        says whether the answer is right and why, or gives a hint; None: not answered yet
"""

import math
from collections.abc import Callable
from dataclasses import dataclass

from ..checks import one_of


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


EXERCISES = {
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
