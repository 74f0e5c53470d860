"""Fitting a variation to measured cells: coverage by simulation, law, fit and scale, and every kind of bad file."""

import math
import warnings

import numpy as np
import pytest

from lib import Variation
from lib.cells import COLUMNS, Cells, read_cells
from lib.fitting import fit_cells, residual_table
from lib.statistics import variance_components
from lib.variation import LAWS

TARGETS = np.array([-1.0, -0.5, 0.0, 0.25, 0.75, 1.0])
LEVELS = np.array([5.0, 10.0, 15.0, 20.0, 25.0])  # µS
expected_warning = pytest.mark.filterwarnings("ignore:common factor")


def simulated(variation, chips, cells, seed, offset=0.0, targets=TARGETS, factor=1.0, lognormal=False) -> Cells:
    """Cells drawn with numpy alone, unlike the chips of lib: an independent look at the model."""
    rng = np.random.default_rng(seed)
    z, s = rng.standard_normal((chips, cells)), math.sqrt(math.log1p(variation.within**2))
    own = np.expm1(s * z - s**2 / 2) if lognormal else variation.within * z
    e = offset + variation.between * rng.standard_normal((chips, 1)) + own
    target = np.tile(targets, (chips, cells // len(targets) + 1))[:, :cells]
    scale = target if variation.law == "proportional" else np.abs(targets).max()
    return Cells(np.repeat(np.arange(chips), cells), target.ravel(), (factor * (target + scale * e)).ravel())


def of_spread(sigma, levels, seed, shared=0.0, chips=20, cells=64) -> Cells:
    """Cells whose standard deviation is sigma(target), and gains of the chips."""
    rng = np.random.default_rng(seed)
    target = rng.choice(levels, (chips, cells))
    gain = 1 + shared * rng.standard_normal((chips, 1))
    measured = gain * target + sigma(target) * rng.standard_normal(target.shape)
    return Cells(np.repeat(np.arange(chips), cells), target.ravel(), measured.ravel())


def quiet(cells: Cells, **how):
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        return fit_cells(cells, **how)


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


def test_cells_of_target_zero_alone_refute_the_proportional_law():
    true = simulated(Variation(0.1, 0.05), 6, 60, 0)
    zero = true.target == 0
    assert quiet(true).law == "proportional"
    noisy = true.measured + zero * 0.05 * np.random.default_rng(1).standard_normal(len(zero))
    fit = quiet(Cells(true.chips, true.target, noisy))
    assert fit.law == "layer-fixed" and fit.evidence == math.inf and not fit.decided  # its spread is none of this law
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


@pytest.mark.parametrize("shared", [0.0, 0.1])
@pytest.mark.parametrize(
    "sigma,levels",
    [(pcm, LEVELS), (pcm, np.array([0.0, *LEVELS])), (pcm, np.linspace(0.25, 25, 100)),
     (lambda g: np.where(g == 2, 0.5, 0.05) * g, np.array([2.0, 10.0, 15.0, 20.0])),
     (lambda g: np.where(g == 1, 0.8, 0.1) * g, np.array([1.0, 40.0, 60.0, 80.0]))],
    ids=["PCM", "PCM with zero", "PCM of many targets", "high resistance", "very high resistance"],
)  # fmt: skip
def test_cells_of_neither_law_are_reported_as_such(sigma, levels, shared):
    fits = [quiet(of_spread(sigma, levels, seed, shared)) for seed in range(40)]
    assert np.mean([not f.fits and not f.decided for f in fits]) >= 0.95


def test_that_neither_law_fits_is_said_in_one_line():
    cells = of_spread(pcm, LEVELS, 0)
    line = r"^neither law fits the cells \(goodness .*, allowed: from 0.01\); .*residual_table"
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


def test_without_a_between_part_its_interval_reaches_zero():
    zero = [quiet(simulated(Variation(0.1, 0.0), 10, 60, seed), law="proportional").between for seed in range(100)]
    assert np.mean([b.low == 0 for b in zero]) > 0.92 and all(b.value < 0.04 for b in zero)


def test_residuals_follow_the_law():
    cells = simulated(Variation(0.1, 0.3), 20, 600, 0, factor=0.5)
    table = residual_table(cells, quiet(cells)).set_index("target")
    away = table[table.index > 0]
    np.testing.assert_allclose(away.rms, away.proportional, rtol=0.08)
    assert away["layer-fixed"].std() < 1e-12 and table.cells.sum() == 12_000


def write(folder, text: str):
    path = folder / "cells.csv"
    path.write_text(text, encoding="utf-8")
    return path


HEADER = "chip,cell,target,measured\n"
GOOD = HEADER + "".join(f"{c},{i},{t},{t * 1.1}\n" for c in "ab" for i, t in enumerate((0.5, -1.0)))


def test_a_file_of_simulated_cells_comes_back(tmp_path):
    cells = simulated(Variation(0.2, 0.1), 4, 12, 0)
    columns = enumerate(zip(cells.chips, cells.target, cells.measured))
    rows = [f"{c},{i},{t:.17g},{m:.17g},note" for i, (c, t, m) in columns]
    read = read_cells(write(tmp_path, "chip,cell,target,measured,remark\n\n" + "\n".join(rows) + "\n"))
    assert list(read.chips) == [str(c) for c in cells.chips]
    np.testing.assert_array_equal(read.measured, cells.measured)


def test_one_chip_and_blank_surplus_fields_are_read(tmp_path):
    one = GOOD.replace("b,0", "a,2").replace("b,1", "a,3").replace("a,1,-1.0,-1.1", "a,1,-1.0,-1.1,, ")
    assert list(read_cells(write(tmp_path, one)).chips) == ["a"] * 4


def test_utf_16_is_refused_in_one_line(tmp_path):
    (tmp_path / "cells.csv").write_bytes(GOOD.replace(",", "\t").encode("utf-16"))
    with pytest.raises(ValueError, match="line 1: .*UTF-8"):
        read_cells(tmp_path / "cells.csv")


BAD = {
    "empty": ("", 1, ["empty", "chip, cell, target, measured"]),
    "missing column": (GOOD.replace("target", "goal"), 1, ["'target'", "found: chip, cell, goal, measured"]),
    "column twice": ("\n" + GOOD.replace("cell,target", "target,cell,target"), 2, ["'target' comes twice"]),
    "missing column below a blank line": ("\n" + GOOD.replace("target", "goal"), 2, ["'target'"]),
    "text": (GOOD.replace("b,0,0.5,", "b,0,half,"), 4, ["target", "finite", "'half'"]),
    "NaN": (GOOD.replace("a,1,-1.0,-1.1", "a,1,-1.0,nan"), 3, ["measured", "'nan'"]),
    "blank value": (GOOD.replace("a,1,-1.0,-1.1", "a,1,-1.0,"), 3, ["measured", "''"]),
    "infinite": (GOOD.replace("a,1,-1.0,-1.1", "a,1,-1.0,inf"), 3, ["measured", "'inf'"]),
    "short row": (GOOD.replace("a,1,-1.0,-1.1", "a,1"), 3, ["2 fields", "4"]),
    "one cell on one chip": ("chip,cell,target,measured\na,0,1,1.1\n", 2, ["single cell"]),
    "decimal commas": (GOOD + "a,2,10,00,9,31\n", 6, ["6 fields (a,2,10,00,9,31)", "header has 4", "10.5 for 10,5"]),
    "one decimal comma": (GOOD + "a,2,10,9,31\n", 6, ["5 fields", "decimal commas"]),
    "quoted decimal comma": (GOOD + 'a,2,"10,00",9.31\n', 6, ["target", "'10,00'", "1234.5", "decimal comma"]),
    "thousands separator": (GOOD + 'a,2,1000,"1,234.5"\n', 6, ["measured", "'1,234.5'", "thousands separator"]),
    "thousands underscore": (GOOD + "a,2,1_000,1\n", 6, ["target", "'1_000'", "thousands separator"]),
    "unit": (GOOD + "a,2,10 µS,9\n", 6, ["target", "'10 µS'", "unit"]),
    "typographic minus": (GOOD + "a,2,\u22121,-1\n", 6, ["target", "'\u22121'", "-1e-6"]),
    "digits of another script": (GOOD + "a,2,1,\u0663\n", 6, ["measured", "'\u0663'"]),
    "semicolons": (GOOD.replace(",", ";"), 1, ["'chip;cell;target;measured'", "semicolons", "commas"]),
    "semicolons and decimal commas": (GOOD.replace(",", ";").replace(".", ","), 1, ["semicolons", "points"]),
    "tabs": (GOOD.replace(",", "\t"), 1, ["chip\\tcell", "tabs", "commas"]),
    "blank chip": (GOOD.replace("b,1", ",1"), 5, ["chip is ''", "every row"]),
    "blank cell": (GOOD.replace("b,1", "b, "), 5, ["cell is ''", "every row"]),
    "open quotation mark": (GOOD + 'a,2,1,"1.1\na,3,1,1\n', 7, ["quotation marks", "drop the odd one"]),
    "no rows": ("chip,cell,target,measured\n", 1, ["no cell"]),
    "one cell a chip": ("chip,cell,target,measured\na,0,1,1.1\nb,0,1,0.9\n", 3, ["single cell"]),
    "twice": (GOOD + "a,0,0.5,0.6\n", 6, ["cell '0' of chip 'a'", "line 2"]),
    "all zero": ("chip,cell,target,measured\na,0,0,1\na,1,0,2\nb,0,0,1\n", 4, ["every target is 0"]),
}


@pytest.mark.parametrize("case", BAD)
def test_bad_files_are_refused_with_their_line(case, tmp_path):
    text, line, parts = BAD[case]
    with pytest.raises(ValueError) as error:
        read_cells(write(tmp_path, text))
    message = str(error.value)
    assert f"cells.csv, line {line}: " in message and "\n" not in message, message
    assert all(part in message for part in parts), message


def test_other_refusals():
    cells = simulated(Variation(0.1), 3, 6, 0)
    with pytest.raises(ValueError, match="'log'; allowed: proportional, layer-fixed"):
        fit_cells(cells, "log")
    lonely = Cells(np.array(["a", "a", "b", "b"]), np.array([0.0, 0.0, 1.0, 1.0]), np.ones(4))
    with pytest.raises(ValueError, match="2 cells with a target other than 0 on 1 chips; needed: 3"):
        fit_cells(lonely)
    with pytest.raises(ValueError, match="cell number 3 has target .*, measured nan; .*drop"):
        fit_cells(Cells(cells.chips, cells.target, np.where(np.arange(18) == 3, np.nan, cells.measured)))
    assert COLUMNS == ("chip", "cell", "target", "measured")
