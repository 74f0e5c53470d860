"""Tidy tables: a row per case and chip in, a row per group out; and what the claims of several notebooks share."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence

import numpy as np
import pandas as pd

from ..statistics import Estimate

YIELD_MARGIN = 5.0  # points below float accuracy that a good chip may lose
ALTERNATIVES = ("QAT", "PTQ-VAT")  # what QAVAT is held against, each on its own


def groups(table: pd.DataFrame, by: Sequence[str]) -> Iterator[tuple[dict, pd.DataFrame]]:
    """({column: name}, rows) of every group, in the order of the table."""
    for names, rows in table.groupby(list(by), sort=False):
        yield dict(zip(by, names, strict=True)), rows


def summary(
    table: pd.DataFrame, by: Sequence[str], statistics: Callable[[pd.DataFrame], dict[str, Estimate | float]]
) -> pd.DataFrame:
    """A row per group: its names, each statistic of its rows (an `Estimate` as three columns), n_chips."""
    rows = []
    for names, part in groups(table, by):
        for name, found in statistics(part).items():
            names |= columns(name, found) if isinstance(found, Estimate) else {name: found}
        rows.append(names | {"n_chips": part.chip.nunique()})
    return pd.DataFrame(rows)


def where(table: pd.DataFrame, **names) -> pd.DataFrame:
    """The rows with these names."""
    for column, name in names.items():
        table = table[table[column] == name]
    return table


def accuracies(table: pd.DataFrame, **names) -> np.ndarray:
    """Accuracy (%) of every chip with these names, in the order of chips; empty where none was measured."""
    return where(table, **names).accuracy.to_numpy()


def exactly(value: float) -> Estimate:
    """A value that no chip varies."""
    return Estimate(float(value), float(value), float(value), 1)


def scaled(e: Estimate, factor: float, offset: float = 0.0) -> Estimate:
    return Estimate(*(offset + factor * v for v in (e.value, e.low, e.high)), e.n)


def apart(above: Estimate, below: Estimate) -> Estimate:
    """The distance of two estimates whose intervals are not paired: positive throughout where they do not meet."""
    return Estimate(above.value - below.value, above.low - below.high, above.high - below.low, above.n)


def columns(name: str, e: Estimate) -> dict[str, float]:
    return {name: e.value, f"{name}_low": e.low, f"{name}_high": e.high}


def estimate(row, name: str) -> Estimate:
    """The estimate that `columns` has spread over a row of a table."""
    return Estimate(row[name], row[f"{name}_low"], row[f"{name}_high"], int(row["n_chips"]))
