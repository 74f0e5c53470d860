"""From measured cells to a `Variation`: which law, which σ_W and σ_B on which scale, and whether the law fits at all.

    proportional   measured = g·target·(1 + e)               ĝ = mean over chips of their mean measured/target
    layer-fixed    measured = g·(target + e·max|target|)     ĝ = slope of measured on target within chips (OLS)
    e_ci = μ + σ_B·z_c + σ_W·z_ci    chip c, cell i          μ: an offset that all chips share; proportional: 0

    σ_W² = MS_W    σ_B² = max(0, (MS_B − MS_W)/n_h)          of e at ĝ: one-way analysis of variance over k chips
    MS_W = Σ(e_ci − ē_c)²/ν                                  ν = N − k, one less for a slope
    MS_B = n_h·Σ(ē_c − mean of ē)²/(k − 1)                   1/n_h = mean of 1/n_c + var(mean targets)/S_xx

g is a factor that all cells share.  The law is the one under which the measured values are likelier; under layer-fixed
the largest target stands for the largest weight.  Intervals: χ² for σ_W, Williams (Biometrika 49, 1962) for σ_B, with
the harmonic mean n_h (Thomas and Hultquist, Annals of Statistics 6, 1978), t for g and μ.  σ = s/ĝ with s and ĝ
independent: intervals of log s and log ĝ combined by MOVER (Zou and Donner, Statistics in Medicine 27, 2008; Donner and
Zou, Statistical Methods in Medical Research 21, 2012).  Goodness of fit: the same spread at every size of target (Brown
and Forsythe, J. of the American Statistical Association 69, 1974) and the same mean at every target (lack-of-fit F).

Intervals assume normal cells: of lognormal ones (layer-fixed σ_W 0.3, 20 chips of 64 cells) that of σ_W covers 0.89.
"""

from __future__ import annotations

import math
import warnings
from dataclasses import dataclass

import numpy as np

from .cells import Cells
from .checks import InputError, one_of, real
from .statistics import LEVEL, Estimate, mean
from .variation import Variation

LAWS = ("proportional", "layer-fixed")  # registered ones are not tried
DECIDED = 2.0  # natural-log likelihoods apart by less than this (a factor of 7) decide nothing
ENOUGH = 12  # fewer cells decide nothing either: a line fits three of them well
FITS = 0.01  # a law fits unless its goodness of fit, a p-value, lies below
USUAL = (0.8, 1.25)  # a common factor whose whole interval lies outside is questioned
RESOLUTION = 1e-6  # a cell reads zero: at most this share of the largest |measured|
EXACT = 1e-9  # deviations below are rounding


@dataclass(frozen=True)
class Fit:
    """law: the likelier one (or the one asked for).  evidence: its log likelihood minus the other's; ±inf if cells of
    target 0 refute the proportional law.  goodness: p-value of the law's fit, NaN if cells cannot tell.  factor: g.
    within, between: σ_W, σ_B on the scale of the targets.  offset: μ; None if proportional, or if no target varies.

    One chip alone tells no σ_B (NaN); its proportional σ_W is relative to its own mean, which is in the factor then.
    n counts chips of between, offset and a factor from chip means; cells of the others; none of a factor given."""

    law: str
    evidence: float
    goodness: float
    factor: Estimate
    within: Estimate
    between: Estimate
    offset: Estimate | None

    @property
    def fits(self) -> bool:
        return not self.goodness < FITS  # NaN: nothing speaks against it

    @property
    def decided(self) -> bool:
        return self.evidence >= DECIDED and self.within.n >= ENOUGH and self.fits

    @property
    def variation(self) -> Variation:
        """For `fit`, `evaluate` and every study; without factor and offset, which calibration removes."""
        if math.isnan(self.between.value):
            own = f"Variation({self.within.value:.3g}, between=0.1, law={self.law!r})"
            raise InputError(f"a single chip tells no σ_B; measure 2 or more, or write {own} with a σ_B of your own")
        return Variation(self.within.value, self.between.value, self.law)

    def deviations(self, cells: Cells) -> np.ndarray:
        """Calibrated e of every cell, (N,), with the offset; NaN under the proportional law where the target is 0."""
        return cells.deviations(self.law, self.factor.value)


def fit_cells(cells: Cells, law: str | None = None, factor: float | None = None) -> Fit:
    """The law (or the one given) with its σ_W and σ_B, each with a 95% interval.  factor: g, if the tester's scale is
    known (1: calibrated); else it is estimated.

    Warns in a line of a factor far from 1 (or the given one), and of a law that does not fit.  Raises InputError for an
    unknown law, a factor not above 0, or too few cells with a target."""
    _check(cells, law, factor)
    models = {name: _Model(cells, name, factor) for name in LAWS}
    likelihood = _likelihoods(cells, models)
    best = law or max(likelihood, key=likelihood.__getitem__)
    model, other = models[best], max(value for name, value in likelihood.items() if name != best)
    found, expected = model.found, factor or 1.0
    if not model.g.value > 0:
        why = f"measured is {found.value:.3g} times target under the {best} law"
        raise InputError(f"{why}; allowed: a factor above 0; check the signs and the order of the columns")
    if found.low <= 0 or found.low > USUAL[1] * expected or found.high < USUAL[0] * expected:
        fix = "give both in one unit and check their signs, or go on if all readings share this gain"
        warnings.warn(f"common factor measured/target {found}, expected near {expected:g}; {fix}", stacklevel=2)
    goodness = 0.0 if likelihood[best] == -math.inf else model.goodness()
    if goodness < FITS:
        which = f"the {best} law does not fit" if law else "neither law fits"
        fix = "σ only tells the average; look at residual_table(cells, fit)"
        warnings.warn(f"{which} the cells (goodness {goodness:.1g}, allowed: from {FITS}); {fix}", stacklevel=2)
    evidence = 0.0 if likelihood[best] == other else likelihood[best] - other
    return Fit(best, evidence, goodness, model.g, model.within(), model.between(), model.offset())


def _check(cells: Cells, law: str | None, factor: float | None) -> None:
    if law is not None:
        one_of("law", law, LAWS)
    if factor is not None and not real("factor", factor) > 0:
        raise InputError(f"factor must be above 0, got {factor!r}; leave it out to have it estimated")
    for i in np.flatnonzero(~np.isfinite(cells.target + cells.measured)):
        pair = f"target {cells.target[i]}, measured {cells.measured[i]}"
        raise InputError(f"cell number {i} has {pair}; allowed: finite numbers; drop cells that were not read")
    counts = np.unique(cells.chips[cells.target != 0], return_counts=True)[1]
    if counts.sum() - len(counts) < 2:
        found = f"{counts.sum()} cells with a target other than 0 on {len(counts)} chips"
        raise InputError(f"{found}; needed: 3 on one chip, or 2 on each of two; measure more cells")


def _likelihoods(cells: Cells, models: dict[str, _Model]) -> dict[str, float]:
    """log p(measured) under each law.  Cells of target 0 read nothing under the proportional law, which any other
    reading refutes; if they do, the layer-fixed law gives that its density times the resolution."""
    if all(model.ms_w < EXACT**2 for model in models.values()):
        return dict.fromkeys(models, 0.0)  # no deviation at all tells no law
    zero, step = cells.target == 0, RESOLUTION * np.abs(cells.measured).max()
    found = {law: model.log_likelihood() for law, model in models.items()}
    if (np.abs(cells.measured[zero]) > step).any():
        found["proportional"] = -math.inf
    elif zero.any() and step > 0:
        found["layer-fixed"] += zero.sum() * math.log(2 * step)
    return found


class _Model:
    """The cells that tell something of e under a law, in chips 0 … k − 1, with their g and e."""

    def __init__(self, cells: Cells, law: str, factor: float | None):
        keep = (cells.target != 0) | (law == "layer-fixed")
        chips, self.chip, self.n = np.unique(cells.chips[keep], return_inverse=True, return_counts=True)
        informative = Cells(self.chip, cells.target[keep], cells.measured[keep])
        self.law, self.target, self.measured = law, informative.target, informative.measured
        self.scale = informative.scale(law)
        x = self.centred(informative.target)
        self.has_slope = law == "layer-fixed" and np.abs(x).max() > EXACT * np.abs(informative.target).max()
        self.x = x * self.has_slope
        self.direction = self.x / (math.sqrt(self.x @ self.x) or 1.0)  # of the slope among the cells
        self.found = self.slope() if self.has_slope else self.ratio()
        self.g = self.found if factor is None else Estimate(float(factor), float(factor), float(factor), 0)
        self.slope_free = self.has_slope and factor is None
        self.e = informative.deviations(law, self.g.value or math.nan)
        self.means, self.rest = self.of_chips(self.e), self.centred(self.e)
        self.nu = len(self.e) - len(chips) - self.slope_free
        self.ms_w = float(self.rest @ self.rest) / self.nu

    def of_chips(self, values: np.ndarray) -> np.ndarray:
        """Mean of each chip's cells, (k,)."""
        return np.bincount(self.chip, values) / self.n

    def centred(self, values: np.ndarray) -> np.ndarray:
        return values - self.of_chips(values)[self.chip]

    def ratio(self) -> Estimate:
        """g from chip means of measured/target; from cells, if there is one chip."""
        informative = self.target != 0
        a = self.measured[informative] / self.target[informative]
        chip = np.unique(self.chip[informative], return_inverse=True)[1]
        means = np.bincount(chip, a) / np.bincount(chip)
        return mean(means if len(means) > 1 else a)

    def slope(self) -> Estimate:
        """g from the regression within chips."""
        from scipy.stats import t

        sxx, nu = self.x @ self.x, len(self.x) - len(self.n) - 1
        g = float(self.x @ self.measured / sxx)
        rest = self.centred(self.measured - g * self.target)
        half = float(t.ppf((1 + LEVEL) / 2, nu) * math.sqrt(rest @ rest / nu / sxx))
        return Estimate(g, g - half, g + half, len(self.x))

    def within(self) -> Estimate:
        from scipy.stats import chi2

        low, high = (math.sqrt(self.ms_w * self.nu / chi2.ppf(q, self.nu)) for q in ((1 + LEVEL) / 2, (1 - LEVEL) / 2))
        return self.over_g(Estimate(math.sqrt(self.ms_w), low, high, len(self.e)))

    def between(self) -> Estimate:
        from scipy.stats import chi2, f

        if (more := len(self.n) - 1) == 0:
            return Estimate(math.nan, math.nan, math.nan, 1)
        tilt = self.of_chips(self.target).var(ddof=1) / (self.x @ self.x) if self.slope_free else 0.0
        n_h = 1 / ((1 / self.n).mean() + tilt)
        ms_b = n_h * float(self.means.var(ddof=1))
        # Williams: (SS_B − (k − 1)·F_q·MS_W)/(n_h·χ²_q(k − 1)) at the upper and the lower quantile q
        ends = (
            more * (ms_b - f.ppf(q, more, self.nu) * self.ms_w) / (n_h * chi2.ppf(q, more))
            for q in ((1 + LEVEL) / 2, (1 - LEVEL) / 2)
        )
        value, low, high = (math.sqrt(max(0.0, v)) for v in ((ms_b - self.ms_w) / n_h, *ends))
        return self.over_g(Estimate(value, low, high, more + 1))

    def over_g(self, s: Estimate) -> Estimate:
        """s/ĝ (s divided already).  MOVER: log θ̂ ∓ √((log ŝ − log its end)² + (log ĝ − log its far end)²)."""

        def end(sign: int, of_s: float, of_g: float) -> float:
            if min(s.value, of_s, of_g) > 0:
                return s.value * math.exp(sign * math.hypot(math.log(of_s / s.value), math.log(of_g / self.g.value)))
            return math.inf if of_g <= 0 else of_s  # of_s: the limit of the above for ŝ → 0; and 0 stays 0

        return Estimate(s.value, end(-1, s.low, self.g.high), end(1, s.high, self.g.low), s.n)

    def offset(self) -> Estimate | None:
        """μ = mean measured/(ĝ·max|target|) − mean target/max|target|, over chips."""
        if self.law == "proportional" or (self.g is self.found and not self.has_slope):
            return None
        mu, level = mean(self.means), self.of_chips(self.measured / self.scale).mean() / self.g.value
        half = math.hypot(mu.high - mu.value, level * (self.g.high - self.g.low) / 2 / self.g.value)
        return Estimate(mu.value, mu.value - half, mu.value + half, mu.n)

    def log_likelihood(self) -> float:
        """log p(measured) at these estimates: a normal block a chip with the covariance σ_W²·1 + σ_B²·11ᵀ, whose
        determinant is σ_W^(2n−2)·(σ_W² + n·σ_B²), and g·scale of e as Jacobian.  −∞ unless g is above 0."""
        if not self.g.value > 0:
            return -math.inf
        w2 = max(self.ms_w, EXACT**2)
        shared = w2 + self.n * np.nan_to_num(self.between().value) ** 2
        square = self.rest @ self.rest / w2 + (self.n * np.square(self.means - self.means.mean()) / shared).sum()
        logdet = ((self.n - 1) * math.log(w2) + np.log(shared)).sum()
        jacobian = np.log(np.abs(self.g.value * self.scale)).sum()
        return float(-0.5 * (square + logdet + len(self.e) * math.log(2 * math.pi)) - jacobian)

    def goodness(self) -> float:
        """The smaller of the p-values that exist, times their number (Bonferroni)."""
        if np.abs(self.rest).max() < EXACT:
            return math.nan
        found = [p for p in (self.means_alike(), self.spread_alike()) if not math.isnan(p)]
        return min(1.0, len(found) * min(found)) if found else math.nan

    def straight(self) -> np.ndarray:
        """e within chips, less its slope."""
        return self.rest - (self.direction @ self.rest) * self.direction

    def means_alike(self) -> float:
        """p of F = ((Σr² − Σq²)/more)/(Σq²/ν); r: e within chips without its slope, q: without a mean a target too."""
        from scipy.stats import f

        r, group = self.straight(), _groups(self.target, 16)
        members = [self.centred((group == i).astype(float)) for i in np.unique(group)]
        columns = np.column_stack([self.direction, *members])
        coefficients, _, rank, _ = np.linalg.lstsq(columns, self.rest, rcond=1e-9)
        q, more, nu = self.rest - columns @ coefficients, rank - self.has_slope, len(self.e) - len(self.n) - rank
        if more < 1 or nu < 1:
            return math.nan
        return float(f.sf((r @ r - q @ q) / more / max(q @ q / nu, EXACT**2), more, nu))

    def spread_alike(self) -> float:
        """p of Brown and Forsythe's test on r/√(1 − leverage): a residual is smaller near the few cells of its chip."""
        from scipy.stats import levene

        free, size = 1 - 1 / self.n[self.chip] - self.direction**2, _groups(np.abs(self.target))
        r = self.straight() / np.sqrt(np.maximum(free, EXACT))
        groups = [r[(size == i) & (free > EXACT)] for i in np.unique(size)]
        groups = [group for group in groups if len(group) > 2]  # two lie equally far from their median
        return float(levene(*groups, center="median").pvalue) if len(groups) > 1 else math.nan


def _groups(values: np.ndarray, most: int = 8) -> np.ndarray:
    """Group number of each value: one a level, or quantile groups where there are more levels than `most`."""
    lowest = np.unique(values)
    if len(lowest) > most:
        lowest = np.unique(np.quantile(values, np.linspace(0, 1, most, endpoint=False), method="inverted_cdf"))
    return np.searchsorted(lowest, values, side="right") - 1


def residual_table(cells: Cells, fit: Fit):
    """pandas DataFrame, a row a group of cells of one |target| (of like ones, where there are many): target, rms of
    measured/g − target − chip's shared part, its count, and what each law says it should be."""
    import pandas as pd

    scale, g = {law: cells.scale(law) for law in LAWS}, fit.factor.value
    shared = pd.Series(fit.deviations(cells)).groupby(cells.chips).transform("mean").fillna(0.0)
    squares = {"rms": np.square(cells.measured / g - cells.target - shared * scale[fit.law])}
    squares |= {law: _Model(cells, law, g).ms_w * np.square(scale[law]) for law in LAWS}
    groups = pd.DataFrame({"target": np.abs(cells.target)} | squares).groupby(_groups(np.abs(cells.target)))
    table = groups.mean()
    table[list(squares)] **= 0.5
    table.insert(2, "cells", groups.size())
    return table.reset_index(drop=True)
