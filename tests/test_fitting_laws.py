"""Which law the measured cells follow, and whether any: told apart, left open, or refused."""

import math

import numpy as np
import pytest
from conftest import LEVELS, quiet, simulated

from lib import Variation
from lib.cells import Cells
from lib.fitting import fit_cells, residual_table
from lib.laws import LAWS


def of_spread(sigma, levels, seed, shared=0.0, chips=20, cells=64) -> Cells:
    """Cells whose standard deviation is sigma(target), and gains of the chips."""
    rng = np.random.default_rng(seed)
    target = rng.choice(levels, (chips, cells))
    gain = 1 + shared * rng.standard_normal((chips, 1))
    measured = gain * target + sigma(target) * rng.standard_normal(target.shape)
    return Cells(np.repeat(np.arange(chips), cells), target.ravel(), measured.ravel())


def test_cells_of_target_zero_alone_refute_the_proportional_law():
    true = simulated(Variation(0.1, 0.05), 6, 60, 0)
    zero = true.target == 0
    assert quiet(true).law == "proportional"
    noisy = true.measured + zero * 0.05 * np.random.default_rng(1).standard_normal(len(zero))
    fit = quiet(Cells(true.chips, true.target, noisy))
    assert fit.law == "measured" and fit.variation.curve[0] > 0  # the spread of its zeros is none of a simple law
    forced = quiet(Cells(true.chips, true.target, noisy), law="proportional")
    assert forced.evidence == -math.inf and forced.goodness == 0 and not forced.fits and not forced.decided


@pytest.mark.parametrize("law", LAWS)
def test_cells_of_target_zero_decide_where_all_others_have_one_target(law):
    targets = np.array([0.0, 1.0])
    fits = [fit_cells(simulated(Variation(0.1, 0.05, law), 6, 60, seed, targets=targets)) for seed in range(20)]
    assert all(f.law == law for f in fits) and np.mean([f.decided for f in fits]) >= 0.95


def test_a_chip_of_zero_targets_only_does_no_harm():
    cells = simulated(Variation(0.1, 0.05), 6, 60, 0)
    target = np.where(cells.chips == 2, 0.0, cells.target)
    for law in LAWS:
        measured = np.where(cells.chips == 2, 0.0, simulated(Variation(0.1, 0.05, law), 6, 60, 0).measured)
        fit = quiet(Cells(cells.chips, target, measured), law=law)
        assert fit.between.n == (5 if law == "proportional" else 6) and fit.within.value == pytest.approx(0.1, rel=0.15)
        assert residual_table(Cells(cells.chips, target, measured), fit).notna().all(axis=None)


def pcm(target):
    """Standard deviation of programmed phase-change cells in µS, x = target/25 µS."""
    x = target / 25
    return 0.26348 + 1.9650 * x - 1.1731 * x**2


def steep(lowest, of_lowest, of_others):
    """Relative spread that the lowest target has, and all others."""
    return lambda target: np.where(target == lowest, of_lowest, of_others) * target


@pytest.mark.parametrize("shared", [0.0, 0.1])
@pytest.mark.parametrize(
    "sigma,levels",
    [
        pytest.param(pcm, LEVELS, id="PCM"),
        pytest.param(pcm, np.array([0.0, *LEVELS]), id="PCM with zero"),
        pytest.param(pcm, np.linspace(0.25, 25, 100), id="PCM of many targets"),
        pytest.param(steep(2, 0.5, 0.05), np.array([2.0, 10.0, 15.0, 20.0]), id="high resistance"),
        pytest.param(steep(1, 0.8, 0.1), np.array([1.0, 40.0, 60.0, 80.0]), id="very high resistance"),
    ],
)
def test_cells_of_neither_simple_law_are_not_taken_for_one(sigma, levels, shared):
    """They are measured ones, or reported as such that no law fits (a shared gain follows no σ(g), say)."""
    fits = [quiet(of_spread(sigma, levels, seed, shared)) for seed in range(40)]
    assert np.mean([f.law == "measured" or not (f.fits or f.decided) for f in fits]) >= 0.95
    if sigma is pcm and not shared:
        assert np.mean([f.law == "measured" and f.decided for f in fits]) >= 0.95
        g, cells = np.array([0.1, 0.5, 1.0]), of_spread(sigma, levels, 0)
        value, low, high = fits[0].own_sigma(cells, g)
        assert ((low < pcm(25 * g) / 25) & (pcm(25 * g) / 25 < high)).all() and (high - low < 0.5 * value).all()


def test_that_no_law_fits_is_said_in_one_line():
    cells = of_spread(pcm, LEVELS, 0, 0.4)
    line = r"^no law fits the cells \(goodness .*, allowed: from 0.01\); .*residual_table"
    with pytest.warns(UserWarning, match=line) as seen:
        fit_cells(cells)
    assert len(seen) == 1 and seen[0].filename == __file__
    with pytest.warns(UserWarning, match="^the proportional law does not fit"):
        fit_cells(cells, "proportional")


def test_a_saturating_tester_fits_neither_law():
    """Equal relative spread, but the means bend: only the test of means can see it."""
    true = simulated(Variation(0.02), 10, 60, 0, targets=LEVELS)
    fit = quiet(Cells(true.chips, true.target, true.measured * (1 - true.target / 250)), law="proportional")
    assert not fit.fits


@pytest.mark.parametrize("law", LAWS)
@pytest.mark.parametrize("chips,cells,between", [(20, 64, 0.1), (20, 64, 0.5), (12, 6, 0.1), (8, 3, 0.1), (1, 60, 0.0)])
def test_lognormal_cells_of_a_true_law_fit(law, chips, cells, between):
    fits = [quiet(simulated(Variation(0.3, between, law), chips, cells, seed, lognormal=True)) for seed in range(100)]
    assert np.mean([f.fits and f.law == law for f in fits]) >= 0.95


@pytest.mark.parametrize("law", LAWS)
@pytest.mark.parametrize("chips,cells", [(1, 3), (1, 6), (1, 12), (2, 6), (3, 2), (1, 24)])
def test_few_cells_raise_no_alarm_and_seldom_decide_wrongly(law, chips, cells):
    """Two cells of a target lie equally far from their median: their spread tells nothing."""
    targets = np.array([0.2, 0.4, 0.6, 0.8, 0.9, 1.0])
    truth = Variation(0.1, 0.1 if chips > 1 else 0.0, law)
    fits = [quiet(simulated(truth, chips, cells, seed, targets=targets)) for seed in range(100)]
    assert np.mean([f.fits for f in fits]) >= 0.95
    assert np.mean([f.decided and f.law != law for f in fits]) <= 0.05


def test_cells_without_any_deviation_decide_nothing():
    true = simulated(Variation(), 3, 12, 0, targets=LEVELS, factor=1.1)
    fit = fit_cells(true)
    assert fit.within.value < 1e-9 and not fit.decided and math.isnan(fit.goodness)


@pytest.mark.parametrize("law", LAWS)
def test_the_law_is_told_from_the_cells(law):
    fits = [quiet(simulated(Variation(0.1, 0.05, law), 6, 60, seed)) for seed in range(40)]
    assert np.mean([f.law == law and f.decided for f in fits]) > 0.95
    assert fits[0].variation.law == law and fits[0].variation.within == fits[0].within.value


def test_one_target_decides_nothing():
    fit = fit_cells(simulated(Variation(0.1, 0.05), 6, 60, 0, targets=np.array([0.5])))
    assert not fit.decided and fit.evidence == pytest.approx(0, abs=1e-6) and fit.fits and math.isnan(fit.goodness)
    opposite = fit_cells(simulated(Variation(0.05, 0.2), 6, 60, 0, targets=np.array([0.5, -0.5])))
    assert opposite.decided and opposite.law == "proportional"  # the shared part turns its sign with the target
