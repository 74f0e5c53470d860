"""From measured cells to a `Variation`: which law, which σ_W, which σ_B.  One-way analysis of variance over chips.

    proportional   e = measured/target − 1                      layer-fixed   e = (measured − target)/max|target|
    e_ci = μ + σ_B·z_c + σ_W·z_ci      chip c, cell i           μ: an offset that all chips share (calibration)

    σ_W² = MS_W      σ_B² = max(0, (MS_B − MS_W)/n_h)      n_h = k/Σ(1/n_c): cells a chip, k chips
    MS_W = Σ(e_ci − ē_c)²/(N − k)                          MS_B = n_h·Σ(ē_c − mean of ē)²/(k − 1), every chip alike

The law is the one under which the measured values are likelier; under the layer-fixed one the largest target stands for the
largest weight.  Intervals: χ² for σ_W, Williams (Biometrika 49, 1962) for σ_B, with the harmonic mean n_h where chips have
different numbers of cells (Thomas and Hultquist, Annals of Statistics 6, 1978), Student's t over chips for μ.
"""

from __future__ import annotations

import csv
import math
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from .checks import one_of
from .statistics import LEVEL, Estimate
from .variation import LAWS, Variation

COLUMNS = ("chip", "cell", "target", "measured")
DECIDED = 2.0  # natural-log likelihoods apart by less than this (a factor of 7) decide nothing


@dataclass(frozen=True)
class Cells:
    """Measured cells: chip names (N,), targets and measured values (N,), in one unit, whatever it is."""

    chips: np.ndarray
    target: np.ndarray
    measured: np.ndarray

    def deviations(self, law: str) -> np.ndarray:
        """e of every cell, (N,); NaN under the proportional law where the target is 0."""
        return np.divide(self.measured - self.target, self.scale(law), out=np.full(len(self.target), np.nan), where=self.scale(law) != 0)

    def scale(self, law: str) -> np.ndarray:
        """What one unit of e is worth: the target, or the largest target."""
        return self.target if law == "proportional" else np.full(len(self.target), np.abs(self.target).max())


@dataclass(frozen=True)
class Fit:
    """law: the likelier one (or the one asked for).  evidence: its log likelihood minus the other's; below `DECIDED` the
    cells do not tell, as where all targets have one size and sign.  within, between: σ_W, σ_B.  offset: μ.
    n of within counts cells, of between and offset chips."""

    law: str
    evidence: float
    within: Estimate
    between: Estimate
    offset: Estimate

    @property
    def decided(self) -> bool:
        return self.evidence >= DECIDED

    @property
    def variation(self) -> Variation:
        """For `fit`, `evaluate` and every study; without the offset μ, which calibration removes."""
        return Variation(self.within.value, self.between.value, self.law)


def read_cells(path: str | Path) -> Cells:
    """Cells from a CSV file with the columns chip, cell, target, measured (others are ignored), a row a cell.

    Raises ValueError with the file's line where a column is missing, a value is no finite number, a cell comes twice, or
    the file holds too little: fewer than 2 chips, no chip with 2 cells, or only targets of 0."""
    rows, seen = [], {}

    def refuse(line: int, why: str):
        raise ValueError(f"{Path(path).name}, line {line}: {why}")

    with open(path, newline="", encoding="utf-8-sig", errors="replace") as file:  # a µ in another encoding harms no number
        reader = csv.reader(file)
        header = next(([name.strip() for name in row] for row in reader if any(field.strip() for field in row)), [])
        top = reader.line_num
        if not header:
            refuse(max(1, top), f"the file is empty; it needs the columns {', '.join(COLUMNS)} and a row a cell")
        if missing := [name for name in COLUMNS if name not in header]:
            refuse(top, f"no column {', '.join(map(repr, missing))}; needed: {', '.join(COLUMNS)}; found: {', '.join(header)}")
        if twice := [name for name in COLUMNS if header.count(name) > 1]:
            refuse(top, f"column {twice[0]!r} comes twice; rename the one that is not meant")
        places = [header.index(name) for name in COLUMNS]
        for row in reader:
            line = reader.line_num
            if not any(field.strip() for field in row):
                continue
            if len(row) <= max(places):
                refuse(line, f"{len(row)} fields, the header has {len(header)}")
            chip, cell, *values = (row[i].strip() for i in places)
            numbers = [_number(value) for value in values]
            for name, value, number in zip(COLUMNS[2:], values, numbers):
                if not math.isfinite(number):
                    refuse(line, f"{name} must be a finite number, got {value!r}; drop the row if the cell was not read")
            if (chip, cell) in seen:
                refuse(line, f"cell {cell!r} of chip {chip!r} stands on line {seen[chip, cell]} already; average repeated readings first")
            seen[chip, cell] = line
            rows.append((chip, *numbers))
        last = reader.line_num
    chips = [chip for chip, *_ in rows]
    if len(set(chips)) < 2:
        found = f"only the chip {chips[0]!r}" if rows else "no cell"
        refuse(last, f"{found} in the whole file; σ_B needs at least 2 chips, better 20")
    if len(set(chips)) == len(chips):
        refuse(last, "every chip has a single cell; σ_W needs at least 2 cells on a chip")
    _, target, measured = zip(*rows)
    if not any(target):
        refuse(last, "every target is 0; deviations need a scale, so program some cells to other values")
    return Cells(np.array(chips), np.array(target), np.array(measured))


def _number(text: str) -> float:
    try:
        return float(text)
    except ValueError:
        return math.nan


def fit_cells(cells: Cells, law: str | None = None) -> Fit:
    """The law (or the one given) with its σ_W and σ_B, each with a 95% interval.

    Cells programmed to 0 tell nothing of the proportional law: the laws are compared on the others, and under the
    proportional law they do not count.  Raises ValueError for an unknown law, or too few cells with a target."""
    told = {name: _analysis(*_samples(cells, name)) for name in LAWS}
    likelihood = {name: _likelihood(cells, name) for name in LAWS}
    best = max(likelihood, key=likelihood.get) if law is None else one_of("law", law, LAWS)
    other = max(value for name, value in likelihood.items() if name != best)
    return Fit(best, likelihood[best] - other, *told[best])


def _samples(cells: Cells, law: str) -> tuple[np.ndarray, np.ndarray]:
    """(chip number 0 … k − 1, e) of the cells that tell something under a law."""
    e = cells.deviations(law)
    known = np.isfinite(e)
    chips, number, counts = np.unique(cells.chips[known], return_inverse=True, return_counts=True)
    if len(chips) < 2 or counts.max() < 2:
        raise ValueError(f"cells with a target other than 0 on {len(chips)} chips, at most {counts.max(initial=0)} a chip; needed: 2 chips, 2 cells")
    return number, e[known]


def _sums(chip: np.ndarray, e: np.ndarray) -> tuple[np.ndarray, np.ndarray, float]:
    """n_c, ē_c, SS_W = Σ(e_ci − ē_c)²."""
    n = np.bincount(chip)
    means = np.bincount(chip, e) / n
    return n, means, float(np.square(e - means[chip]).sum())


def _analysis(chip: np.ndarray, e: np.ndarray) -> tuple[Estimate, Estimate, Estimate]:
    """(σ_W, σ_B, μ) with their intervals."""
    from scipy.stats import chi2, f, t

    n, means, ss_w = _sums(chip, e)
    k, total, tail = len(n), len(e), (1 - LEVEL) / 2
    cells = k / (1 / n).sum()
    ss_b = cells * float(np.square(means - means.mean()).sum())
    ms_w, ms_b = ss_w / (total - k), ss_b / (k - 1)
    within = Estimate(math.sqrt(ms_w), *(math.sqrt(ss_w / chi2.ppf(q, total - k)) for q in (1 - tail, tail)), total)
    # Williams: (SS_B − (k − 1)·F_q·MS_W)/(n_h·χ²_q(k − 1)) at the upper and the lower quantile q
    ends = [(ss_b - (k - 1) * f.ppf(q, k - 1, total - k) * ms_w) / (cells * chi2.ppf(q, k - 1)) for q in (1 - tail, tail)]
    between = Estimate(*(math.sqrt(max(0.0, v)) for v in ((ms_b - ms_w) / cells, *ends)), k)
    half = float(t.ppf(1 - tail, k - 1)) * float(means.std(ddof=1)) / math.sqrt(k)
    return within, between, Estimate(float(means.mean()), float(means.mean()) - half, float(means.mean()) + half, k)


def _likelihood(cells: Cells, law: str) -> float:
    """log p(measured) of the cells with a target, at the law's own estimates: a normal block a chip with the covariance
    σ_W²·1 + σ_B²·11ᵀ, whose determinant is σ_W^(2n−2)·(σ_W² + n·σ_B²), and the scale of e as Jacobian."""
    known = cells.target != 0
    chosen = Cells(cells.chips[known], cells.target[known], cells.measured[known])
    chip, e = _samples(chosen, law)
    within, between, _ = _analysis(chip, e)
    n, means, ss_w = _sums(chip, e)
    w2 = max(within.value**2, np.finfo(float).tiny)
    shared = w2 + n * between.value**2
    square = ss_w / w2 + (n * np.square(means - means.mean()) / shared).sum()
    logdet = ((n - 1) * math.log(w2) + np.log(shared)).sum()
    jacobian = np.log(np.abs(chosen.scale(law))).sum()
    return -0.5 * (square + logdet + len(e) * math.log(2 * math.pi)) - jacobian


def residual_table(cells: Cells, fit: Fit, bins: int = 8):
    """pandas DataFrame, a row a group of cells of one |target| (of like ones, where there are more than `bins`): target, rms
    of measured − target − chip's shared part, its count, and what each law says it should be.  The picture by which to
    believe a law."""
    import pandas as pd

    size = np.abs(cells.target)
    lowest = np.unique(size)  # of each group
    if len(lowest) > bins:
        lowest = np.unique(np.quantile(size, np.linspace(0, 1, bins, endpoint=False)))
    group = np.searchsorted(lowest, size, side="right") - 1
    _, chip = np.unique(cells.chips, return_inverse=True)
    sigma = {law: _analysis(*_samples(cells, law))[0].value for law in LAWS}
    scale, e = cells.scale(fit.law), cells.deviations(fit.law)
    known = np.isfinite(e)
    means = np.bincount(chip[known], e[known], minlength=chip.max() + 1) / np.maximum(np.bincount(chip[known], minlength=chip.max() + 1), 1)
    residual = cells.measured - cells.target - means[chip] * scale
    rows = []
    for g in np.unique(group):
        here = group == g
        row = {"target": size[here].mean(), "rms": math.sqrt(np.square(residual[here]).mean()), "cells": int(here.sum())}
        rows.append(row | {law: sigma[law] * math.sqrt(np.square(cells.scale(law)[here]).mean()) for law in LAWS})
    return pd.DataFrame(rows)
