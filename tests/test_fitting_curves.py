"""The measured law: σ(g) from cells, its band, and when it is preferred to the two simple laws."""

import warnings

import numpy as np
import pytest
from conftest import quiet

from lib import Variation, fit_cells
from lib.cells import Cells
from lib.checks import InputError
from lib.fitting import residual_table

CURVE = (0.05, 0.3, -0.2)


def simulated(seed, law="measured", levels=32, cells=64, chips=20, arrays=1, share=0.3, curve=CURVE):
    """Cells of chips whose deviations share `share` of their variance, by chip and in halves by array."""
    rng, n = np.random.default_rng(seed), chips * arrays * cells
    chip, array = np.arange(n) // (arrays * cells), np.arange(n) // cells
    target = rng.permuted(np.tile(np.linspace(1, 10, levels), n // levels + 1)[:n])
    scale = Cells(chip, target, target).scale(law, curve if law == "measured" else (1.0,))
    size = 1.0 if law == "measured" else 0.1
    e = np.sqrt(1 - share) * rng.standard_normal(n)
    e += np.sqrt(share / (1 + (arrays > 1))) * rng.standard_normal(chips)[chip]
    if arrays > 1:
        e += np.sqrt(share / 2) * rng.standard_normal(chips * arrays)[array]
    names = np.char.add("a", array.astype(str)) if arrays > 1 else None
    return Cells(np.char.add("c", chip.astype(str)), target, target + size * scale * e, names)


def own(g, share=0.3):
    return np.sqrt(1 - share) * np.polynomial.polynomial.polyval(g, CURVE)


def test_the_likeliest_law_is_the_true_one():
    for law in ("measured", "proportional", "layer-fixed"):
        assert [fit_cells(simulated(seed, law), factor=1.0).law for seed in range(6)] == [law] * 6


def test_the_band_of_the_curve_covers():
    """Pointwise at three conductances, 150 sets of cells."""
    g = np.array([0.15, 0.5, 1.0])
    inside = []
    for seed in range(150):
        cells = simulated(seed, levels=16, chips=8)
        _, low, high = quiet(cells, law="measured", factor=1.0).own_sigma(cells, g)
        inside.append((low <= own(g)) & (own(g) <= high))
    assert (np.mean(inside, 0) >= 0.9).all()  # 0.95 ∓ 3 standard errors of 150


@pytest.mark.parametrize("cells_each,factor", [(64, 1.0), (8, 1.0), (64, None)])
def test_sigma_and_band_are_covered(cells_each, factor):
    """σ_W and σ_B at the conductance of the largest σ, and the band of σ_W(g), over 120 sets of 12 chips."""
    g, top = np.array([0.2, 0.6, 1.0]), max(np.polynomial.polynomial.polyval(np.linspace(0, 1, 101), CURVE))
    inside = []
    for seed in range(120):
        cells = simulated(seed, levels=16, cells=cells_each, chips=12)
        fit = quiet(cells, law="measured", factor=factor)
        _, low, high = fit.own_sigma(cells, g)
        sizes = (fit.within, np.sqrt(0.7) * top), (fit.between, np.sqrt(0.3) * top)
        inside.append([e.low <= true <= e.high for e, true in sizes] + [*((low <= own(g)) & (own(g) <= high))])
    assert (np.mean(inside, 0) >= 0.85).all()


def test_the_variation_of_a_fit_has_the_curve_and_all_three_levels():
    cells = simulated(1, chips=60, arrays=4, share=0.5)
    fit = fit_cells(cells, factor=1.0)
    v = fit.variation
    assert isinstance(v, Variation) and v.law == "measured"
    share = v.within**2 / v.total**2, v.array**2 / v.total**2
    assert share == pytest.approx((0.5, 0.25), abs=0.06)
    g = np.linspace(0.1, 1, 5)
    found = v.total * np.polynomial.polynomial.polyval(g, v.curve)
    assert found == pytest.approx(np.polynomial.polynomial.polyval(g, CURVE), rel=0.12)


def test_the_fitted_curve_explains_every_size_of_target():
    cells = simulated(3, levels=4, cells=200)
    table = residual_table(cells, fit_cells(cells, factor=1.0))
    assert table.measured.to_numpy() == pytest.approx(table.rms.to_numpy(), rel=0.05)
    assert (table["layer-fixed"] / table.rms).max() > 1.2


def test_two_sizes_of_target_give_a_straight_line():
    cells = simulated(0, levels=2, cells=200)
    fit = fit_cells(cells, "measured", factor=1.0)
    assert len(fit.curve) == 2
    g = np.array([0.1, 1.0])
    assert fit.own_sigma(cells, g)[0] == pytest.approx(own(g), rel=0.08)


def test_cells_that_no_curve_fits_are_told():
    cells = simulated(0)
    wild = cells.measured + np.where(np.arange(len(cells.target)) % 64 < 4, 3.0, 0.0)
    with warnings.catch_warnings(record=True) as told:
        warnings.simplefilter("always")
        fit_cells(Cells(cells.chips, cells.target, np.where(cells.target > 9, wild + 4, wild)), factor=1.0)
    assert any("fit" in str(w.message) for w in told)


def test_one_size_of_target_tells_no_curve():
    cells = simulated(0, levels=1)
    with pytest.raises(InputError, match="tell no σ"):
        fit_cells(cells, "measured")
    assert fit_cells(cells).law in ("proportional", "layer-fixed")


@pytest.mark.parametrize("law", ["proportional", "layer-fixed"])
def test_the_simple_laws_have_a_band_too(law):
    cells, g = simulated(2, law), np.array([0.5, 1.0])
    value, low, high = fit_cells(cells, factor=1.0).own_sigma(cells, g)
    assert value == pytest.approx(0.1 * np.sqrt(0.7) * (g if law == "proportional" else 1), rel=0.05)
    assert ((low < value) & (value < high)).all()
