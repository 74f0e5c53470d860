"""Tidy tables: a row per case and chip in, a row per group out; and what the claims of several notebooks share."""

import math
from collections.abc import Callable, Iterator, Mapping, Sequence, Sized

import numpy as np
import pandas as pd

from ..checks import InputError
from ..lots import lot_mean, lot_quantile, lot_ratio, lot_yield
from ..statistics import Claim, Estimate, bootstrap_mean, chip_yield, mean, quantile

ALLOWED_LOSS = 10.0  # points [paper]
YIELD_MARGIN = 5.0  # points below float accuracy that a good chip may lose
NOISY_QAT = "QAT, BN over other chips"  # with the re-estimation that ends the noisy trainings
OTHERS = ("QAT", "PTQ-VAT")
ALTERNATIVES = (*OTHERS, NOISY_QAT)  # what QAVAT is held against, each on its own
PERCENT = ("mean", "q05", "yield")  # statistics on a scale from 0 to 100


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
    value, low, high = np.mean([(e.value, e.low, e.high) for e in found.values()], 0)
    if math.isnan(value):
        return Estimate(math.nan, math.nan, math.nan, len(found))
    over = mean([e.value for e in found.values()])
    return Estimate(over.value, np.fmin(over.low, low), np.fmax(over.high, high), over.n)


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
                over = over_seeds(each[name])
                names |= columns(name, within_percent(over) if name in PERCENT else over)
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


def measured(value: float, low: float, high: float, unit: str) -> str:
    """An estimate as one reads it: without an interval where it was counted, "not defined" for NaN."""
    if math.isnan(value):
        return "not defined"
    small = 0 < max(abs(value), abs(low), abs(high)) < 0.005  # two decimals would show zeros
    found, *bounds = ("–" if math.isnan(v) else f"{v:.2g}" if small else f"{v:z.2f}" for v in (value, low, high))
    return f"{found} {unit}" if low == high else f"{found} [{', '.join(bounds)}] {unit}"


def origin(n: int, of: str, alone: int | None, seeds: Sized | None) -> str:
    """What an estimate is from: "3 seeds, 2 of 3 alone"."""
    return f"{n} {of}" + (f", {alone} of {len(seeds)} alone" if seeds and len(seeds) > 1 else "")


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
    wanted = np.ones(len(table), bool)
    for column, name in names.items():
        wanted &= table[column].isin(name if isinstance(name, tuple) else (name,)).to_numpy()
    return table[wanted]


def per_chip(table: pd.DataFrame, **names) -> pd.DataFrame:
    """Accuracy (%) and place in the lot by chip, in the order of chips, of the rows with these names; empty where none
    was measured."""
    rows = where(table, **names) if names else table
    return rows[["chip", "accuracy", "place"]].set_index("chip").sort_index()


def contrast(*terms: tuple[float, pd.DataFrame]) -> tuple[np.ndarray, np.ndarray | None]:
    """Σ factor·accuracy of (factor, `per_chip`), chip by chip, and the places of the chips where they are a lot.

    InputError unless all are of the same chips, each once."""
    (_, first), *others = terms
    if first.index.has_duplicates or any(not other.index.equals(first.index) for _, other in others):
        counts = " and ".join(str(one.index.nunique()) for _, one in terms)
        raise InputError(f"what is compared needs the same chips, each once; got tables of {counts} different chips")
    lots = [one.place.to_numpy() for _, one in terms if one.place.notna().all()]
    return sum(factor * one.accuracy.to_numpy() for factor, one in terms), lots[0] if lots else None


def mean_of(*terms: tuple[float, pd.DataFrame]) -> Estimate:
    """Mean of a `contrast`: as a lot where its chips are one, else with a bootstrap interval."""
    values, places = contrast(*terms)
    return bootstrap_mean(values) if places is None else lot_mean(values, places)


def average(rows: pd.DataFrame) -> Estimate:
    """Mean accuracy (%) over the chips of some rows."""
    return mean_of((1, per_chip(rows)))


def best_of(rows: pd.DataFrame) -> str:
    """The net of the largest mean accuracy over seeds."""
    return max(
        rows.net.unique(),
        key=lambda net: np.mean([average(own).value for _, own in groups(where(rows, net=net), ["seed"])]),
    )


def difference(above: pd.DataFrame, below: pd.DataFrame) -> Estimate:
    """Mean of above − below, chip by chip (points)."""
    return mean_of((1, above), (-1, below))


def paired(table: pd.DataFrame, column: str, above, below) -> Estimate:
    """Accuracy of the rows named `above` minus that of those named `below` in a column, chip by chip (points)."""
    return difference(*(per_chip(table, **{column: name}) for name in (above, below)))


def recovered(tuned: pd.DataFrame, untuned: pd.DataFrame, oracle: pd.DataFrame) -> Estimate:
    """(tuned − untuned)/(oracle − untuned), a ratio of means over the same chips of a lot."""
    gain, places = contrast((1, tuned), (-1, untuned))
    best, _ = contrast((1, oracle), (-1, untuned))
    return lot_ratio(gain, best, places)


def tail(rows: pd.DataFrame) -> Estimate:
    """5% quantile of accuracy (%)."""
    values, places = contrast((1, per_chip(rows)))
    return quantile(values) if places is None else lot_quantile(values, places)


def good_chips(rows: pd.DataFrame, whole: float) -> Estimate:
    """Yield (%): the share of chips at most YIELD_MARGIN points below `whole`, the float network's accuracy."""
    values, places = contrast((1, per_chip(rows)))
    least = whole - YIELD_MARGIN
    return scaled(chip_yield(values, least) if places is None else lot_yield(values, places, least), 100)


def below_ideal(ideal: pd.DataFrame, rows: pd.DataFrame, net: str) -> Estimate:
    """Accuracy of a net on an ideal chip (a row of `ideal` of the same network, law and seed) minus that of some rows,
    on the images of each chip (points)."""
    own = per_chip(rows)
    whole = per_chip(alike(ideal, rows, "network", "law", net=net))
    return mean_of((1, whole.loc[own.index]), (-1, own))


def loss(ideal: pd.DataFrame, rows: pd.DataFrame) -> Estimate:
    """Accuracy of QAT on an ideal chip minus that of some rows of one network, law and seed (points)."""
    return below_ideal(ideal, rows, "QAT")


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
