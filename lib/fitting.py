"""From measured cells to a `Variation`: which law, which σ_W and σ_B on which scale, and whether the law fits at all.

    proportional   measured = g·target·(1 + e)               ĝ = mean over chips of their mean measured/target
    layer-fixed    measured = g·(target + e·max|target|)     ĝ = slope of measured on target within chips (OLS)
    e_cai = μ + σ_B·z_c + σ_A·z_ca + σ_W·z_cai   chip c, array a (where arrays were noted), cell i
                                                 μ: an offset that all chips share; proportional: 0

Analysis of variance of e at ĝ, nested: cells in A arrays on k chips, or in chips where no array was noted

    σ_W² = MS = Σ(e_cai − ē_ca)²/ν               ν = N − A, one less for a slope
    σ_A² = max(0, V_A − q_A·MS)                  V_A: variance of the ē_ca of a chip, A − k degrees of freedom
    σ_B² = max(0, V_B − q_B·V_A)                 V_B: variance of the chips' means of ē_ca, k − 1 degrees
    q: mean of 1/n over what is averaged (n_h harmonic), and the slope's own variance; exact where n are equal

g is a factor that all cells share.  The law is the one under which the measured values are likelier; under layer-fixed
the largest target stands for the largest weight.  Intervals: χ² for σ_W, Williams (Biometrika 49, 1962) for the others,
with the harmonic mean n_h (Thomas and Hultquist, Annals of Statistics 6, 1978), t for g and μ.  σ = s/ĝ with s and ĝ
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

from .cell_model import EXACT, Model, groups_of
from .cells import Cells
from .checks import InputError, one_of, real
from .statistics import Estimate
from .variation import Variation

LAWS = ("proportional", "layer-fixed")  # registered ones are not tried
DECIDED = 2.0  # natural-log likelihoods apart by less than this (a factor of 7) decide nothing
ENOUGH = 12  # fewer cells decide nothing either: a line fits three of them well
FITS = 0.01  # a law fits unless its goodness of fit, a p-value, lies below
USUAL = (0.8, 1.25)  # a common factor whose whole interval lies outside is questioned
RESOLUTION = 1e-6  # a cell reads zero: at most this share of the largest |measured|


@dataclass(frozen=True)
class Fit:
    """law: the likelier one (or the one asked for).  evidence: its log likelihood minus the other's; ±inf if cells of
    target 0 refute the proportional law.  goodness: p-value of the law's fit, NaN if cells cannot tell.  factor: g.
    within, between: σ_W, σ_B on the scale of the targets.  array: σ_A; NaN if no chip has two arrays, None if none
    were noted.  offset: μ; None if proportional, or if no target varies.

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

    @property
    def fits(self) -> bool:
        return not self.goodness < FITS  # NaN: nothing speaks against it

    @property
    def decided(self) -> bool:
        return self.evidence >= DECIDED and self.within.n >= ENOUGH and self.fits

    @property
    def variation(self) -> Variation:
        """For `fit`, `evaluate` and every study; without factor and offset, which calibration removes.  What arrays
        share counts as the chip's: σ_B there is √(σ_A² + σ_B²)."""
        if math.isnan(self.between.value):
            own = f"Variation({self.within.value:.3g}, between=0.1, law={self.law!r})"
            raise InputError(f"a single chip tells no σ_B; measure 2 or more, or write {own} with a σ_B of your own")
        of_arrays = 0.0 if self.array is None or math.isnan(self.array.value) else self.array.value
        return Variation(self.within.value, math.hypot(self.between.value, of_arrays), self.law)

    def deviations(self, cells: Cells) -> np.ndarray:
        """Calibrated e of every cell, (N,), with the offset; NaN under the proportional law where the target is 0."""
        return cells.deviations(self.law, self.factor.value)


def fit_cells(cells: Cells, law: str | None = None, factor: float | None = None) -> Fit:
    """The law (or the one given) with its σ_W and σ_B, each with a 95% interval.  factor: g, if the tester's scale is
    known (1: calibrated); else it is estimated.

    Warns in a line of a factor far from 1 (or the given one), and of a law that does not fit.  Raises InputError for an
    unknown law, a factor not above 0, or too few cells with a target."""
    _check(cells, law, factor)
    models = {name: Model(cells, name, factor) for name in LAWS}
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
    array = None if cells.arrays is None else model.array()
    return Fit(best, evidence, goodness, model.g, model.within(), model.between(), model.offset(), array)


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
        found["layer-fixed"] += zero.sum() * math.log(2 * step)
    return found


def residual_table(cells: Cells, fit: Fit):
    """pandas DataFrame, a row a group of cells of one |target| (of like ones, where there are many): target, rms of
    measured/g − target − chip's shared part, its count, and what each law says it should be."""
    import pandas as pd

    scale, g = {law: cells.scale(law) for law in LAWS}, fit.factor.value
    shared = pd.Series(fit.deviations(cells)).groupby(cells.chips).transform("mean").fillna(0.0)
    squares = {"rms": np.square(cells.measured / g - cells.target - shared * scale[fit.law])}
    squares |= {law: Model(cells, law, g).ms_w * np.square(scale[law]) for law in LAWS}
    groups = pd.DataFrame({"target": np.abs(cells.target)} | squares).groupby(groups_of(np.abs(cells.target)))
    table = groups.mean()
    table[list(squares)] **= 0.5
    table.insert(2, "cells", groups.size())
    return table.reset_index(drop=True)
