"""Errors that a user can act on, and argument checks that raise them.

Each message is one line that names the value, what is allowed, and (where there is one) the fix.

Whatever is not a `UserError` is a fault of this code, or of the caller's own, and keeps its traceback.
"""

from __future__ import annotations

import math
from collections.abc import Iterable
from numbers import Integral, Real


class UserError(Exception):
    """What a user can act on: `run_all.sh` shows its message as one line, without a traceback."""


class InputError(UserError, ValueError):
    """An argument, a file or a table that cannot be used as it is."""


class RunError(UserError, RuntimeError):
    """Something outside this code is missing or has changed: data, workers, a network, sources on disk."""


class StorageError(UserError, OSError):
    """A file or folder that cannot be written."""


class DivergedError(UserError, FloatingPointError):
    """A training whose loss is no longer finite."""


def one_of(what: str, value, allowed: Iterable, fix: str = ""):
    """Return `value` if it is in `allowed`; raise ValueError naming both otherwise."""
    allowed = list(allowed)
    if value not in allowed:
        choices = ", ".join(str(a) for a in allowed)
        raise InputError(f"unknown {what} {value!r}; allowed: {choices}{'; ' + fix if fix else ''}")
    return value


def real(what: str, value, low: float = -math.inf, high: float = math.inf) -> float:
    """Return `value` as a finite float in [low, high]; raise ValueError otherwise."""
    sound = isinstance(value, Real) and not isinstance(value, bool) and math.isfinite(value)
    if not sound or not low <= float(value) <= high:
        raise InputError(f"{what} must be a finite number{_range(low, high)}, got {value!r}")
    return float(value)


def integer(what: str, value, low: float = -math.inf, high: float = math.inf) -> int:
    """Return `value` as an int in [low, high]; raise ValueError otherwise (2.5 and True are no integers)."""
    if isinstance(value, bool) or not isinstance(value, Integral) or not low <= int(value) <= high:
        raise InputError(f"{what} must be an integer{_range(low, high)}, got {value!r}")
    return int(value)


def frozen_dataclass(what: str, thing, example: str) -> None:
    """InputError unless `thing` is an object of a frozen dataclass: what enters keys must not change."""
    if not getattr(getattr(type(thing), "__dataclass_params__", None), "frozen", False):
        raise InputError(f"{what} must be a frozen dataclass, such as {example}, got {thing!r:.80}")


def has(what: str, thing, names: Iterable[str], example: str) -> None:
    """InputError unless `thing` has attributes of these names: found here rather than in the middle of a run."""
    for name in names:
        if not hasattr(thing, name):
            raise InputError(f"{what} needs {name!r}, {type(thing).__name__} has none; {example} has all that it takes")


def _range(low: float, high: float) -> str:
    if low > -math.inf and high < math.inf:
        return f" from {low} to {high}"
    return f" ≥ {low}" if low > -math.inf else f" ≤ {high}" if high < math.inf else ""
