"""Tidy tables: a row per case and chip in, a row per group out; and what the claims of several notebooks share."""

import math
from collections.abc import Callable, Iterator, Mapping, Sequence

import numpy as np
import pandas as pd

from ..checks import InputError
from ..statistics import Claim, Estimate, bootstrap_mean, chip_yield, mean, paired_difference

YIELD_MARGIN = 5.0  # points below float accuracy that a good chip may lose
ALTERNATIVES = ("QAT", "PTQ-VAT")  # what QAVAT is held against, each on its own


def groups(table: pd.DataFrame, by: Sequence[str]) -> Iterator[tuple[dict, pd.DataFrame]]:
    """({column: name}, rows) of every group, in the order of the table."""
    for names, rows in table.groupby(list(by), sort=False):
        yield dict(zip(by, names, strict=True)), rows


def over_seeds(found: Mapping[int, Estimate]) -> Estimate:
    """Of one seed its own estimate, over chips; of several their mean and Student's t interval over seeds, no narrower
    than their own over chips: seeds may agree by chance, or because nothing is left (a yield of 0)."""
    one, *more = found.values()
    if not more:
        return one
    own = pd.DataFrame([(e.value, e.low, e.high) for e in found.values()]).mean(skipna=False)
    if np.isnan(own[0]):
        return Estimate(math.nan, math.nan, math.nan, len(found))
    over = mean([e.value for e in found.values()])
    return Estimate(over.value, np.fmin(over.low, own[1]), np.fmax(over.high, own[2]), over.n)


def summary(
    table: pd.DataFrame, by: Sequence[str], statistics: Callable[[pd.DataFrame], dict[str, Estimate | float]]
) -> pd.DataFrame:
    """A row per group: its names, each statistic of its rows (an `Estimate` as three columns), n_chips, seeds.

    Statistics are of one seed's rows, and combined `over_seeds` (plain numbers: their mean).  each: name → seed → the
    seed's own estimate; point: where the table has one, that of the group.  Neither is published."""
    rows = []
    for names, part in groups(table, by):
        found = {int(seed): statistics(own) for seed, own in part.groupby("seed", sort=False)}
        each: dict[str, dict[int, Estimate]] = {}
        for name, first in next(iter(found.values())).items():
            if isinstance(first, Estimate):
                each[name] = {seed: own[name] for seed, own in found.items()}
                names |= columns(name, over_seeds(each[name]))
            else:
                names[name] = first if len(found) == 1 else np.mean([own[name] for own in found.values()])
        point = {"point": part.point.iloc[-1]} if "point" in part else {}
        rows.append(names | {"n_chips": part.chip.nunique(), "seeds": len(found)} | point | {"each": each})
    return pd.DataFrame(rows)


def claim(statement: str, point: str, each: Mapping[int, Estimate], **about) -> Claim:
    """A claim on what was estimated seed by seed.  about: the requirement, and what else a `Claim` has."""
    seeds = {"of": "seeds"} if len(each) > 1 else {}
    found = over_seeds(each)
    if about.get("unit") == "%":
        found = within_percent(found)
    return Claim(statement, point, found, **seeds | about, each=tuple(each.items()))


def within_percent(e: Estimate) -> Estimate:
    """An interval over seeds knows nothing of the ends of a scale."""
    return Estimate(e.value, *np.clip([e.low, e.high], 0, 100), e.n)


def claimed(
    table: pd.DataFrame,
    by: Sequence[str],
    statement: str,
    statistic: Callable[[pd.DataFrame], Estimate],
    expected: Callable[[dict], bool] = lambda names: False,
    **requirement,
) -> list[Claim]:
    """A claim per group: the statistic of its rows, seed by seed, at the operating point of the last."""
    return stated(
        summary(table, by, lambda rows: {"found": statistic(rows)}), statement, "found", expected, **requirement
    )


def stated(
    table: pd.DataFrame, statement: str, name: str, expected: Callable = lambda row: False, **requirement
) -> list[Claim]:
    """A claim per row of a summary: its estimate `name` at its point; {column} in the statement is the row's own."""
    return [
        claim(statement.format(**row), row.point, row.each[name], expected=expected(row), **requirement)
        for _, row in table.iterrows()
    ]


def alike(table: pd.DataFrame, rows: pd.DataFrame, *names: str, **others) -> pd.DataFrame:
    """The rows of a table that share some names with the rows given, their seed always, and have the others."""
    return where(table, **{name: rows[name].iloc[0] for name in (*names, "seed")} | others)


def where(table: pd.DataFrame, **names) -> pd.DataFrame:
    """The rows with these names; of a column with a tuple, the rows with any of its names."""
    for column, name in names.items():
        table = table[table[column].isin(name if isinstance(name, tuple) else (name,))]
    return table


def accuracies(table: pd.DataFrame, **names) -> pd.Series:
    """Accuracy (%) by chip, in the order of chips, of the rows with these names; empty where none was measured."""
    return where(table, **names).set_index("chip").accuracy.sort_index()


def aligned(*values: pd.Series) -> list[np.ndarray]:
    """Values by chip as arrays.  InputError unless all are of the same chips, each once."""
    first = values[0].index
    if first.has_duplicates or any(not v.index.equals(first) for v in values):
        counts = " and ".join(str(v.index.nunique()) for v in values)
        raise InputError(f"what is compared needs the same chips, each once; got tables of {counts} different chips")
    return [v.to_numpy() for v in values]


def difference(above: pd.Series, below: pd.Series) -> Estimate:
    """Mean of above − below, chip by chip (points)."""
    return paired_difference(*aligned(above, below))


def paired(table: pd.DataFrame, column: str, above, below) -> Estimate:
    """Accuracy of the rows named `above` minus that of those named `below` in a column, chip by chip (points)."""
    return difference(*(accuracies(table, **{column: name}) for name in (above, below)))


def good_chips(rows: pd.DataFrame, whole: float) -> Estimate:
    """Yield (%): the share of chips at most YIELD_MARGIN points below `whole`, the float network's accuracy."""
    return scaled(chip_yield(rows.accuracy, whole - YIELD_MARGIN), 100)


def loss(table: pd.DataFrame, rows: pd.DataFrame) -> Estimate:
    """Accuracy of QAT on an ideal chip minus that of some rows of one network, law and seed (points)."""
    return bootstrap_mean(alike(table, rows, "network", "law", of="ideal", net="QAT").accuracy.item() - rows.accuracy)


def exactly(value: float) -> Estimate:
    """A value that no chip varies."""
    return Estimate(float(value), float(value), float(value), 1)


def scaled(e: Estimate, factor: float, offset: float = 0.0) -> Estimate:
    ends = sorted((offset + factor * e.low, offset + factor * e.high))  # a negative factor turns them round
    return Estimate(offset + factor * e.value, *ends, e.n)


def apart(above: Estimate, below: Estimate) -> Estimate:
    """The distance of two estimates whose intervals are not paired: positive throughout where they do not meet."""
    return Estimate(above.value - below.value, above.low - below.high, above.high - below.low, above.n)


def columns(name: str, e: Estimate) -> dict[str, float]:
    return {name: e.value, f"{name}_low": e.low, f"{name}_high": e.high}


def estimate(row, name: str) -> Estimate:
    """The estimate that `columns` has spread over a row of a table."""
    return Estimate(row[name], row[f"{name}_low"], row[f"{name}_high"], int(row["n_chips"]))
