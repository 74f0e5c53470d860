"""Fitting a variation to measured cells: coverage by simulation, textbook formulas, the scale of the readings."""

import math
import warnings

import numpy as np
import pytest
from conftest import LEVELS, TARGETS, quiet, simulated

from lib import Variation
from lib.cells import Cells
from lib.fitting import fit_cells, residual_table
from lib.laws import LAWS
from lib.statistics import variance_components

expected_warning = pytest.mark.filterwarnings("ignore:common factor")


def covered(fits, name, truth) -> float:
    return np.mean([getattr(f, name).low <= truth <= getattr(f, name).high for f in fits])


@expected_warning
@pytest.mark.parametrize("law", LAWS)
@pytest.mark.parametrize("chips,cells,between", [(5, 60, 0.2), (20, 24, 0.05), (12, 6, 0.1), (20, 64, 0.5)])
def test_intervals_cover_at_the_stated_rate_whatever_the_factor(law, chips, cells, between):
    """A factor a run, cells of target 0 among all.  MOVER makes the proportional σ_W conservative on 5 chips."""
    truth, offset = Variation(0.15, between, law), 0.02 if law == "layer-fixed" else 0.0
    factors = [(0.5, 1.0, 1.3)[seed % 3] for seed in range(300)]
    fits = [quiet(simulated(truth, chips, cells, i, offset, factor=g), law=law) for i, g in enumerate(factors)]
    for name, value in (("within", 0.15), ("between", between), ("offset", 0.02))[: 3 if offset else 2]:
        assert 0.93 <= covered(fits, name, value) <= 0.99, (name, covered(fits, name, value))
    assert 0.92 <= np.mean([f.factor.low <= g <= f.factor.high for f, g in zip(fits, factors)]) <= 0.985
    assert abs(np.mean([f.within.value**2 for f in fits]) / 0.15**2 - 1) < 0.05  # nearly unbiased in σ²: 1/ĝ² is not
    assert np.mean([f.fits for f in fits]) >= 0.95


@pytest.mark.parametrize("law", LAWS)
def test_a_factor_changes_the_factor_and_nothing_else(law):
    one = quiet(simulated(Variation(0.15, 0.3, law), 8, 30, 0))
    for g in (1e-6, 0.5, 1.3):
        other = quiet(simulated(Variation(0.15, 0.3, law), 8, 30, 0, factor=g))
        assert other.law == one.law and other.factor.value == pytest.approx(g * one.factor.value)
        for name in ("within", "between"):
            assert vars(getattr(other, name)) == pytest.approx(vars(getattr(one, name)))
        assert (other.evidence, other.goodness) == pytest.approx((one.evidence, one.goodness))


def test_estimates_agree_with_textbook_formulas():
    cells = simulated(Variation(0.15, 0.3), 8, 30, 0, targets=TARGETS[TARGETS != 0], factor=1.1)
    ratio = (cells.measured / cells.target).reshape(8, 30)
    fit = quiet(cells, law="proportional")
    expected = (ratio.mean(), *(s / ratio.mean() for s in variance_components(ratio)))
    assert (fit.factor.value, fit.within.value, fit.between.value) == pytest.approx(expected)

    cells = simulated(Variation(0.15, 0.3, "layer-fixed"), 8, 30, 0, factor=1.1)
    chips = (cells.chips[:, None] == np.arange(8)).astype(float)
    (slope, *_), (rest,), *_ = np.linalg.lstsq(np.column_stack([cells.target, chips]), cells.measured)
    fit = quiet(cells, law="layer-fixed")
    assert fit.factor.value == pytest.approx(slope)
    assert fit.within.value == pytest.approx(math.sqrt(rest / (240 - 8 - 1)) / slope)


def test_the_interval_of_the_scale_widens_that_of_sigma():
    """σ_W of 1,280 cells alone is known to 4%; with σ_B = 0.5 the scale of 20 chips is known to a quarter only."""
    cells = simulated(Variation(0.15, 0.5), 20, 64, 0)
    free, known = quiet(cells, law="proportional"), quiet(cells, law="proportional", factor=1.0)
    assert free.within.high / free.within.low > 1.3 > 1.1 > known.within.high / known.within.low
    assert free.within.high == pytest.approx(free.within.value * free.factor.value / free.factor.low, rel=0.03)
    assert (known.factor.low, known.factor.high, known.factor.n) == (1, 1, 0)
    few = quiet(simulated(Variation(0.1, 0.5), 2, 20, 1), law="proportional")
    assert few.factor.low < 0 and few.within.high == few.between.high == math.inf and few.within.low > 0


@expected_warning
@pytest.mark.parametrize("law", LAWS)
def test_readings_of_half_the_scale_give_the_sigma_of_the_calibrated_scale(law):
    fit = quiet(simulated(Variation(0.49, 0.5, law), 20, 64, 0, factor=0.5))
    assert fit.law == law and fit.decided
    assert fit.within.low < 0.49 < fit.within.high and fit.between.low < 0.5 < fit.between.high


def test_a_factor_far_from_one_is_questioned_in_one_line():
    true = Variation(0.1, 0.1)
    question = r"^common factor measured/target \S+e-0\d \[.*\], n = \d+, expected near 1; give both in one unit"
    for law in LAWS:
        with pytest.warns(UserWarning, match=question) as seen:
            fit = fit_cells(simulated(Variation(0.1, 0.1, law), 20, 64, 0, factor=1e-6, targets=LEVELS))
        assert len(seen) == 1 and "\n" not in str(seen[0].message) and seen[0].filename == __file__
        assert fit.within.low < 0.1 < fit.within.high
    fit_without_warning(simulated(true, 20, 64, 0, factor=1.1))
    known = fit_without_warning(simulated(true, 20, 64, 0, factor=1e-6), factor=1e-6)
    assert known.within.low < 0.1 < known.within.high and known.factor.value == 1e-6
    with pytest.warns(UserWarning, match="expected near 1; "):
        fit_cells(simulated(true, 20, 64, 0, factor=1e-6), factor=1.0)


def fit_without_warning(cells, **how):
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        return fit_cells(cells, **how)


def test_a_factor_of_no_sense_is_refused():
    cells = simulated(Variation(0.1, 0.1), 6, 30, 0)
    for law in (None, *LAWS):
        with pytest.raises(ValueError, match="measured is -.* times target .*above 0; check the signs"):
            fit_cells(Cells(cells.chips, cells.target, -cells.measured), law)
        with pytest.raises(ValueError, match="measured is 0 times target"):
            fit_cells(Cells(cells.chips, cells.target, 0 * cells.measured), law)
    for factor in (0, -1.0, math.nan, "1"):
        with pytest.raises(ValueError, match="factor must be"):
            fit_cells(cells, factor=factor)


@pytest.mark.filterwarnings("ignore:the proportional law")
def test_lost_signs_are_questioned():
    cells = simulated(Variation(0.1, 0.1), 6, 30, 0, targets=np.array([-1.0, -0.5, 0.25, 0.75, 1.0]))
    lost = Cells(cells.chips, cells.target, np.abs(cells.measured))
    with pytest.warns(UserWarning, match="common factor .*check their signs"):
        assert not quiet(lost, law="proportional").fits
        fit_cells(lost, "proportional")


def test_one_chip_tells_within_and_no_between():
    for law in LAWS:
        fits = [quiet(simulated(Variation(0.15, 0.0, law), 1, 60, seed)) for seed in range(100)]
        assert covered(fits, "within", 0.15) >= 0.9 and all(f.law == law and math.isnan(f.between.value) for f in fits)
        assert fits[0].between.n == 1 and math.isfinite(fits[0].factor.low)
        line = r"a single chip tells no σ_B; measure 2 or more, or write Variation\(0\.\d+, between="
        with pytest.raises(ValueError, match=line) as error:
            fits[0].variation
        assert "\n" not in str(error.value)


def test_deviations_are_calibrated_and_absent_where_the_law_has_none():
    cells = simulated(Variation(0.1, 0.2), 20, 60, 0, factor=0.9)
    e = quiet(cells, law="proportional").deviations(cells)
    assert (np.isnan(e) == (cells.target == 0)).all() and abs(np.nanmean(e)) < 1e-12
    fixed = simulated(Variation(0.1, 0.2, "layer-fixed"), 20, 60, 0, offset=0.3, factor=0.9)
    fit = quiet(fixed)
    assert fit.deviations(fixed).mean() == pytest.approx(fit.offset.value) and fit.offset.low < 0.3 < fit.offset.high
    assert quiet(cells).offset is None


@pytest.mark.parametrize("between", [0.03, 0.3])
@pytest.mark.parametrize("most,few", [(300, 6), (40, 8)])
def test_unequal_chips_are_covered_too(most, few, between):
    """Two chips with many cells, ten with few."""
    truth, hits = Variation(0.1, between), 0
    for seed in range(300):
        full = simulated(truth, 12, most, seed, targets=TARGETS[TARGETS != 0])
        keep = (full.chips < 2) | (np.arange(len(full.chips)) % most < few)
        fit = quiet(Cells(full.chips[keep], full.target[keep], full.measured[keep]), law="proportional")
        hits += fit.between.low <= between <= fit.between.high
    assert 0.915 <= hits / 300 <= 0.99  # 95% ± 3 standard errors


def test_without_a_between_part_its_interval_reaches_zero():
    zero = [quiet(simulated(Variation(0.1, 0.0), 10, 60, seed), law="proportional").between for seed in range(100)]
    assert np.mean([b.low == 0 for b in zero]) > 0.92 and all(b.value < 0.04 for b in zero)


def test_residuals_follow_the_law():
    cells = simulated(Variation(0.1, 0.3), 20, 600, 0, factor=0.5)
    table = residual_table(cells, quiet(cells)).set_index("target")
    away = table[table.index > 0]
    np.testing.assert_allclose(away.rms, away.proportional, rtol=0.08)
    assert away["layer-fixed"].std() < 1e-12 and table.cells.sum() == 12_000
