"""From measured cells to a `Variation`: which law, which σ_W and σ_B on which scale, and whether the law fits at all.

    proportional   measured = g·target·(1 + e)               ĝ = mean over chips of their mean measured/target
    layer-fixed    measured = g·(target + e·max|target|)     ĝ = slope of measured on target within chips (OLS)
    measured       measured = g·(target + e·σ(|target|/max)·max|target|), σ(·) a polynomial; ĝ as above, weighted by 1/σ
    e_cai = μ + σ_B·z_c + σ_A·z_ca + σ_W·z_cai   chip c, array a (where arrays were noted), cell i
                                                 μ: an offset that all chips share; proportional: 0

Analysis of variance of e at ĝ, nested: cells in A arrays on k chips, or in chips where no array was noted

    σ_W² = MS = Σ(e_cai − ē_ca)²/ν               ν = N − A, one less for a slope
    σ_A² = max(0, V_A − q_A·MS)                  V_A: variance of the ē_ca of a chip, A − k degrees of freedom
    σ_B² = max(0, V_B − q_B·V_A)                 V_B: variance of the chips' means of ē_ca, k − 1 degrees
    q: mean of 1/n over what is averaged (n_h harmonic), and the slope's own variance; exact where n are equal

g is a factor that all cells share.  The law is the one under which the measured values are likelier; the measured one,
tried where neither of the others fits, with ½·ln N off for each coefficient beyond its scale (Schwarz, Annals of
Statistics 6, 1978).  The largest target
stands for the largest weight.  Intervals: χ² for σ_W, Williams (Biometrika 49, 1962) for the others,
with the harmonic mean n_h (Thomas and Hultquist, Annals of Statistics 6, 1978), t for g and μ.  σ = s/ĝ with s and ĝ
independent: intervals of log s and log ĝ combined by MOVER (Zou and Donner, Statistics in Medicine 27, 2008; Donner and
Zou, Statistical Methods in Medical Research 21, 2012).  Goodness of fit: the same spread at every size of target (Brown
and Forsythe, J. of the American Statistical Association 69, 1974) and the same mean at every target (lack-of-fit F).

Intervals assume normal cells: of lognormal ones (layer-fixed σ_W 0.3, 20 chips of 64 cells) that of σ_W covers 0.89.
"""

from __future__ import annotations

import math
import warnings
from dataclasses import dataclass, replace

import numpy as np

from .cell_model import EXACT, Model, groups_of
from .cells import Cells
from .checks import InputError, one_of, real
from .laws import MEASURED
from .statistics import LEVEL, Estimate
from .variation import Variation

LAWS = ("proportional", "layer-fixed")  # registered ones are not tried
DEGREE = 2  # of σ(g), as in aihwkit's noise of PCM programming; less where targets have fewer levels
DECIDED = 2.0  # natural-log likelihoods apart by less than this (a factor of 7) decide nothing
ENOUGH = 12  # fewer cells decide nothing either: a line fits three of them well
FITS = 0.01  # a law fits unless its goodness of fit, a p-value, lies below
USUAL = (0.8, 1.25)  # a common factor whose whole interval lies outside is questioned
ROUNDS, CLOSE = 20, 1e-4  # of the search for a curve, and the change of its coefficients that ends it
RESOLUTION = 1e-6  # a cell reads zero: at most this share of the largest |measured|


@dataclass(frozen=True)
class Fit:
    """law: the likelier one (or the one asked for).  evidence: its log likelihood minus the other's; ±inf if cells of
    target 0 refute the proportional law.  goodness: p-value of the law's fit, NaN if cells cannot tell.  factor: g.
    within, between: σ_W, σ_B on the scale of the targets.  array: σ_A; NaN if no chip has two arrays, None if none
    were noted.  offset: μ; None if proportional, or if no target varies.  curve: under the measured law c₀, c₁, … of
    σ(g), with 1 as its largest value from g = 0 to 1, so that σ_W, σ_A and σ_B are those there; else None.

    One chip alone tells no σ_B (NaN); its proportional σ_W is relative to its own mean, which is in the factor then.
    n counts chips of between, offset and a factor from chip means; cells of the others; none of a factor given."""

    law: str
    evidence: float
    goodness: float
    factor: Estimate
    within: Estimate
    between: Estimate
    offset: Estimate | None
    array: Estimate | None = None
    curve: tuple[float, ...] | None = None

    @property
    def fits(self) -> bool:
        return not self.goodness < FITS  # NaN: nothing speaks against it

    @property
    def decided(self) -> bool:
        return self.evidence >= DECIDED and self.within.n >= ENOUGH and self.fits

    @property
    def variation(self) -> Variation:
        """For `fit`, `evaluate` and every study; without factor and offset, which calibration removes.

        Its arrays have the default size: `dataclasses.replace(it, rows=…, columns=…)` for that of the devices."""
        if math.isnan(self.between.value):
            own = f"Variation({self.within.value:.3g}, between=0.1, law={self.law!r})"
            raise InputError(f"a single chip tells no σ_B; measure 2 or more, or write {own} with a σ_B of your own")
        of_arrays = 0.0 if self.array is None or math.isnan(self.array.value) else self.array.value
        sizes = self.within.value, self.between.value, self.law
        return Variation(*sizes, array=of_arrays, curve=self.curve)

    def deviations(self, cells: Cells) -> np.ndarray:
        """Calibrated e of every cell, (N,), with the offset; NaN under the proportional law where the target is 0."""
        return cells.deviations(self.law, self.factor.value, self.curve or (1.0,))

    def own_sigma(self, cells: Cells, g: np.ndarray) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
        """σ_W·σ(g) at the conductances g, 0 to 1 of the largest target, and the ends of its 95% band, each (n,).

        Band: from the Fisher information of the coefficients, Σ 2·gᵏgˡ/σ(g)² over the cells; of σ_W alone otherwise."""
        from scipy.stats import norm

        shape = self.curve or {"proportional": (0.0, 1.0), "layer-fixed": (1.0,)}[self.law]
        at, own = np.polynomial.polynomial.polyvander(g, len(shape) - 1), self.within
        if self.law != "measured":
            unit = at @ shape
            return own.value * unit, own.low * unit, own.high * unit
        x = np.polynomial.polynomial.polyvander(np.abs(cells.target) / np.abs(cells.target).max(), len(shape) - 1)
        weighted = x / (own.value * (x @ shape))[:, None]
        groups = len(np.unique(cells.chips if cells.arrays is None else cells.arrays))
        spread = np.linalg.pinv(2 * weighted.T @ weighted) * len(x) / (len(x) - groups)  # their means are estimated too
        value, half = (
            own.value * (at @ shape),
            norm.ppf((1 + LEVEL) / 2) * np.sqrt(np.einsum("nk,kl,nl->n", at, spread, at)),
        )
        return value, np.maximum(0.0, value - half), value + half


def fit_cells(cells: Cells, law: str | None = None, factor: float | None = None) -> Fit:
    """The law (or the one given) with its σ_W and σ_B, each with a 95% interval.  factor: g, if the tester's scale is
    known (1: calibrated); else it is estimated.

    Warns in a line of a factor far from 1 (or the given one), and of a law that does not fit.  Raises InputError for an
    unknown law, a factor not above 0, or too few cells with a target."""
    _check(cells, law, factor)
    models = {name: Model(cells, name, factor) for name in LAWS}
    likelihood = _likelihoods(cells, models)
    best, curve = law or max(likelihood, key=likelihood.__getitem__), None
    # two coefficients more than cells tell would look likely among few of them, so a law that fits is kept
    if law == MEASURED or (law is None and _goodness(best, models, likelihood) < FITS):
        if curve := _curve(cells, factor):
            models[MEASURED] = Model(cells, MEASURED, factor, curve)
            likelihood = _likelihoods(cells, models)
            best = law or max(likelihood, key=likelihood.__getitem__)
        elif law:
            raise InputError(
                "targets of one size, or without deviations, tell no σ(g); program cells to 2 or more values"
            )
    model, other = models[best], max(value for name, value in likelihood.items() if name != best)
    found, expected = model.found, factor or 1.0
    if not model.g.value > 0:
        why = f"measured is {found.value:.3g} times target under the {best} law"
        raise InputError(f"{why}; allowed: a factor above 0; check the signs and the order of the columns")
    if found.low <= 0 or found.low > USUAL[1] * expected or found.high < USUAL[0] * expected:
        fix = "give both in one unit and check their signs, or go on if all readings share this gain"
        warnings.warn(f"common factor measured/target {found}, expected near {expected:g}; {fix}", stacklevel=2)
    goodness = _goodness(best, models, likelihood)
    if goodness < FITS:
        which = f"the {best} law does not fit" if law else "no law fits"
        fix = "σ only tells the average; look at residual_table(cells, fit)"
        warnings.warn(f"{which} the cells (goodness {goodness:.1g}, allowed: from {FITS}); {fix}", stacklevel=2)
    evidence = 0.0 if likelihood[best] == other else likelihood[best] - other
    array = None if cells.arrays is None else model.array()
    sizes = model.within(), model.between(), model.offset(), array
    if best != MEASURED:
        return Fit(best, evidence, goodness, model.g, *sizes)
    fit = Fit(best, evidence, goodness, model.g, *sizes, curve)
    g = np.linspace(0, 1, 101)
    peak = g[np.polynomial.polynomial.polyval(g, curve or (1.0,)).argmax()]
    _, low, high = fit.own_sigma(cells, np.array([peak]))  # of the curve too, not of its scale alone
    return replace(fit, within=replace(fit.within, low=float(low[0]), high=float(high[0])))


def _goodness(law: str, models: dict[str, Model], likelihood: dict[str, float]) -> float:
    return 0.0 if likelihood[law] == -math.inf else models[law].goodness()


def degree_of(cells: Cells) -> int:
    """Of the polynomial σ(g) that targets of so many sizes tell."""
    return min(DEGREE, len(np.unique(np.abs(cells.target))) - 1)


def _curve(cells: Cells, factor: float | None) -> tuple[float, ...] | None:
    """The likeliest σ(g) of cells within their groups, but for its scale; at least 0 from g = 0 to 1.

    Fisher scoring: c ← c + I⁻¹·Σ x·(r²/σ² − 1)/σ, I = Σ 2·xxᵀ/σ², x = (1, g, g², …), r: a cell's distance from what its
    group shares; in turns with g and the shared parts, which depend on σ(g).  None for targets of one size."""
    if (degree := degree_of(cells)) < 1:
        return None
    top, everywhere = np.abs(cells.target).max(), np.polynomial.polynomial.polyvander(np.linspace(0, 1, 101), degree)
    x = np.polynomial.polynomial.polyvander(np.abs(cells.target) / top, degree)
    number = {"chips": np.unique(cells.chips, return_inverse=True)[1]}  # quicker to group than names
    if cells.arrays is not None:
        number["arrays"] = np.unique(cells.arrays, return_inverse=True)[1]
    numbered, c = replace(cells, **number), np.eye(degree + 1)[0]
    for _ in range(ROUNDS):
        model, before = Model(numbered, MEASURED, factor, tuple(c)), c
        if not model.ms_w > EXACT**2:
            return None  # no deviation at all tells no curve
        square = (model.rest * (x @ c)) ** 2 * len(x) / model.nu
        c = c * math.sqrt(model.ms_w)
        for _ in range(ROUNDS):
            sigma = np.maximum(x @ c, EXACT)
            score = x.T @ ((square / sigma**2 - 1) / sigma)
            step = np.linalg.lstsq(2 * (x / sigma[:, None]).T @ (x / sigma[:, None]), score, rcond=None)[0]
            c = _inside(c, step, everywhere)
        c = c / (everywhere @ c).max()
        if np.abs(c - before).max() < CLOSE:
            break
    return tuple(c)


def _inside(c: np.ndarray, step: np.ndarray, everywhere: np.ndarray) -> np.ndarray:
    """c + step, or the share of the step that keeps σ(g) at a thousandth of its largest value or more."""
    for _ in range(ROUNDS):
        sigma = everywhere @ (c + step)
        if sigma.min() >= 1e-3 * sigma.max() > 0:
            return c + step
        step = step / 2
    return c


def _check(cells: Cells, law: str | None, factor: float | None) -> None:
    if law is not None:
        one_of("law", law, (*LAWS, MEASURED))
    if factor is not None and not real("factor", factor) > 0:
        raise InputError(f"factor must be above 0, got {factor!r}; leave it out to have it estimated")
    for i in np.flatnonzero(~np.isfinite(cells.target + cells.measured)):
        pair = f"target {cells.target[i]}, measured {cells.measured[i]}"
        raise InputError(f"cell number {i} has {pair}; allowed: finite numbers; drop cells that were not read")
    counts = np.unique(cells.chips[cells.target != 0], return_counts=True)[1]
    if counts.sum() - len(counts) < 2:
        found = f"{counts.sum()} cells with a target other than 0 on {len(counts)} chips"
        raise InputError(f"{found}; needed: 3 on one chip, or 2 on each of two; measure more cells")


def _likelihoods(cells: Cells, models: dict[str, Model]) -> dict[str, float]:
    """log p(measured) under each law.  Cells of target 0 read nothing under the proportional law, which any other
    reading refutes; if they do, the layer-fixed law gives that its density times the resolution."""
    if all(model.ms_w < EXACT**2 for model in models.values()):
        return dict.fromkeys(models, 0.0)  # no deviation at all tells no law
    zero, step = cells.target == 0, RESOLUTION * np.abs(cells.measured).max()
    found = {law: model.log_likelihood() for law, model in models.items()}
    if (np.abs(cells.measured[zero]) > step).any():
        found["proportional"] = -math.inf
    elif zero.any() and step > 0:
        for law in found.keys() - {"proportional"}:
            found[law] += zero.sum() * math.log(2 * step)
    if MEASURED in found:
        found[MEASURED] -= degree_of(cells) / 2 * math.log(len(cells.target))
    return found


def residual_table(cells: Cells, fit: Fit):
    """pandas DataFrame, a row a group of cells of one |target| (of like ones, where there are many): target, rms of
    measured/g − target − chip's shared part, its count, and what each law says it should be."""
    import pandas as pd

    curves = dict.fromkeys(LAWS, (1.0,)) | ({MEASURED: fit.curve} if fit.curve else {})
    scale, g = {law: cells.scale(law, curve) for law, curve in curves.items()}, fit.factor.value
    shared = pd.Series(fit.deviations(cells)).groupby(cells.chips).transform("mean").fillna(0.0)
    squares = {"rms": np.square(cells.measured / g - cells.target - shared * scale[fit.law])}
    squares |= {law: Model(cells, law, g, curve).ms_w * np.square(scale[law]) for law, curve in curves.items()}
    groups = pd.DataFrame({"target": np.abs(cells.target)} | squares).groupby(groups_of(np.abs(cells.target)))
    table = groups.mean()
    table[list(squares)] **= 0.5
    table.insert(2, "cells", groups.size())
    return table.reset_index(drop=True)
