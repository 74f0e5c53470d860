"""Cells in arrays on chips: all three σ recovered and covered, and what too few arrays tell."""

import math

import numpy as np
import pytest
from conftest import TARGETS, quiet
from scipy.stats import f as fisher

from lib.cells import Cells, read_cells
from lib.fitting import fit_cells

LAWS = ("proportional", "layer-fixed")
TRUTH = {"within": 0.15, "array": 0.1, "between": 0.2}


def nested(law, chips, arrays, cells, seed, truth=TRUTH, factor=1.0, keep=None) -> Cells:
    """Drawn with numpy alone; keep(chip, array, cell): which of them were measured."""
    rng = np.random.default_rng(seed)
    shape = chips, arrays, cells
    c, a, i = (index.ravel() for index in np.indices(shape))
    e = truth["between"] * rng.standard_normal((chips, 1, 1)) + truth["array"] * rng.standard_normal((chips, arrays, 1))
    e = (e + truth["within"] * rng.standard_normal(shape)).ravel()
    targets = TARGETS[TARGETS != 0]
    target = targets[i % len(targets)]
    measured = factor * (target + e * (target if law == "proportional" else np.abs(targets).max()))
    used = np.ones(len(c), bool) if keep is None else keep(c, a, i)
    return Cells(c[used], target[used], measured[used], (arrays * c + a)[used])


@pytest.mark.parametrize("law", LAWS)
@pytest.mark.parametrize("chips,arrays,cells", [(20, 6, 25), (8, 12, 10), (40, 2, 20)])
def test_all_three_levels_are_recovered_and_covered(law, chips, arrays, cells):
    fits = [quiet(nested(law, chips, arrays, cells, seed), law=law, factor=1.0) for seed in range(300)]
    for name, value in TRUTH.items():
        found = [getattr(fit, name) for fit in fits]
        assert 0.93 <= np.mean([e.low <= value <= e.high for e in found]) <= 0.985, name
        assert abs(np.mean([e.value**2 for e in found]) / value**2 - 1) < 0.1, name
    assert {(fit.between.n, fit.array.n, fit.within.n) for fit in fits} == {
        (chips, chips * arrays, chips * arrays * cells)
    }


@pytest.mark.parametrize("law", LAWS)
def test_an_estimated_factor_keeps_the_coverage(law):
    fits = [quiet(nested(law, 20, 6, 25, seed, factor=0.8), law=law) for seed in range(200)]
    for name, value in TRUTH.items():
        assert np.mean([getattr(fit, name).low <= value <= getattr(fit, name).high for fit in fits]) >= 0.93, name


def test_unequal_arrays_are_covered_too():
    """Two arrays to eight a chip, six cells to forty an array."""
    fits = [
        quiet(
            nested("layer-fixed", 16, 8, 40, seed, keep=lambda c, a, i: (a < 2 + c % 7) & (i < 6 + 34 * (a % 2))),
            law="layer-fixed",
            factor=1.0,
        )
        for seed in range(300)
    ]
    for name, value in TRUTH.items():
        covered = np.mean([getattr(fit, name).low <= value <= getattr(fit, name).high for fit in fits])
        assert 0.92 <= covered <= 0.99, (name, covered)


def test_the_mean_squares_are_those_of_the_textbook():
    """Balanced: σ_A² = (MS_A − MS_W)/n, σ_B² = (MS_B − MS_A)/(a·n), and Williams' ends."""
    cells = nested("layer-fixed", 6, 4, 10, 0)
    fit = quiet(cells, law="layer-fixed", factor=1.0)
    e = ((cells.measured - cells.target) / 1.0).reshape(6, 4, 10)
    arrays, chips = e.mean(2), e.mean((1, 2))
    ms_w = ((e - arrays[..., None]) ** 2).sum() / (6 * 4 * 9)
    ms_a = 10 * ((arrays - chips[:, None]) ** 2).sum() / (6 * 3)
    ms_b = 40 * ((chips - chips.mean()) ** 2).sum() / 5
    expected = math.sqrt(ms_w), math.sqrt((ms_a - ms_w) / 10), math.sqrt((ms_b - ms_a) / 40)
    assert (fit.within.value, fit.array.value, fit.between.value) == pytest.approx(expected)
    lowest = max(0, ms_b / fisher.ppf(0.975, 5, 18) - ms_a) * fisher.ppf(0.975, 5, 18)
    from scipy.stats import chi2

    assert fit.between.low == pytest.approx(math.sqrt(5 * lowest / 40 / chi2.ppf(0.975, 5)))


def test_no_array_part_gives_an_interval_from_zero_and_the_old_sigmas():
    none = TRUTH | {"array": 0.0}
    fits = [quiet(nested("layer-fixed", 12, 5, 20, seed, none), law="layer-fixed") for seed in range(200)]
    assert np.mean([fit.array.low == 0 for fit in fits]) > 0.93
    cells = nested("layer-fixed", 12, 5, 20, 0, none)
    flat = quiet(Cells(cells.chips, cells.target, cells.measured), law="layer-fixed")
    assert flat.array is None
    for name in ("within", "between"):
        assert getattr(fits[0], name).value == pytest.approx(getattr(flat, name).value, rel=0.02)


def test_without_arrays_what_arrays_share_is_taken_for_the_cells_own():
    """Why the column matters: σ_W comes out as √(σ_W² + σ_A²)."""
    cells = nested("layer-fixed", 40, 8, 25, 0)
    flat = quiet(Cells(cells.chips, cells.target, cells.measured), law="layer-fixed")
    assert flat.within.value == pytest.approx(math.hypot(0.15, 0.1), rel=0.05)


@pytest.mark.parametrize("law", LAWS)
def test_the_law_is_told_with_arrays_too(law):
    right = [quiet(nested(law, 6, 4, 12, seed)) for seed in range(40)]
    assert all(fit.law == law for fit in right) and np.mean([fit.fits for fit in right]) > 0.9


def test_few_arrays_tell_what_they_can():
    one_chip = quiet(nested("layer-fixed", 1, 6, 20, 0))
    assert math.isnan(one_chip.between.value) and one_chip.array.low < 0.1 < one_chip.array.high
    with pytest.raises(ValueError, match="a single chip tells no σ_B"):
        one_chip.variation
    one_array = quiet(nested("layer-fixed", 12, 1, 20, 0))  # an array a chip: its part cannot be told from the chip's
    assert math.isnan(one_array.array.value) and one_array.between.n == 12
    both = quiet(nested("layer-fixed", 12, 6, 20, 0))
    v = both.variation
    assert (v.between, v.array) == pytest.approx((both.between.value, both.array.value))


def test_files_with_arrays(tmp_path):
    cells = nested("layer-fixed", 3, 2, 5, 0)
    columns = zip(cells.chips, cells.arrays, range(30), cells.target, cells.measured)
    rows = "".join(f"c{c},a{a},{i},{t},{m:.17g}\n" for c, a, i, t, m in columns)
    path = tmp_path / "cells.csv"
    path.write_text("chip,array,cell,target,measured\n" + rows)
    read = read_cells(path)
    assert read.arrays.tolist() == [f"a{a}" for a in cells.arrays]
    assert fit_cells(read, "layer-fixed", 1.0).array == fit_cells(cells, "layer-fixed", 1.0).array
    for bad, said in (
        (rows.replace("c1,a2", "c1,a0"), "array 'a0' is on the chips 'c0' and 'c1'; .*name them apart"),
        (rows.replace("c1,a2", "c1,"), "line 12: array is ''; allowed: any name"),
    ):
        path.write_text("chip,array,cell,target,measured\n" + bad)
        with pytest.raises(ValueError, match=said) as error:
            read_cells(path)
        assert "\n" not in str(error.value)
