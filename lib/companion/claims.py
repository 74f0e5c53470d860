"""What the claims of several notebooks share: thresholds, estimates in other units, columns of a table."""

from __future__ import annotations

from ..statistics import Estimate

YIELD_MARGIN = 5.0  # points below float accuracy that a good chip may lose
ALTERNATIVES = ("QAT", "PTQ-VAT")  # what QAVAT is held against, each on its own


def exactly(value: float) -> Estimate:
    """A value that no chip varies."""
    return Estimate(float(value), float(value), float(value), 1)


def scaled(e: Estimate, factor: float, offset: float = 0.0) -> Estimate:
    return Estimate(*(offset + factor * v for v in (e.value, e.low, e.high)), e.n)


def columns(name: str, e: Estimate) -> dict:
    return {name: e.value, f"{name}_low": e.low, f"{name}_high": e.high}
