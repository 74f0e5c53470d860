"""Fitting a variation to measured cells: coverage by simulation, the law, and every kind of bad file."""

import numpy as np
import pytest

from lib import Variation
from lib.fitting import COLUMNS, Cells, fit_cells, read_cells, residual_table
from lib.variation import LAWS

TARGETS = np.array([-1.0, -0.5, 0.0, 0.25, 0.75, 1.0])


def simulated(variation: Variation, chips: int, cells: int, seed: int, offset: float = 0.0, targets=TARGETS) -> Cells:
    """Cells drawn with numpy alone, unlike the chips of lib: an independent look at the model."""
    rng = np.random.default_rng(seed)
    e = offset + variation.between * rng.standard_normal((chips, 1)) + variation.within * rng.standard_normal((chips, cells))
    target = np.tile(targets, (chips, cells // len(targets) + 1))[:, :cells]
    scale = target if variation.law == "proportional" else np.abs(targets).max()
    return Cells(np.repeat(np.arange(chips), cells), target.ravel(), (target + scale * e).ravel())


@pytest.mark.parametrize("law", LAWS)
@pytest.mark.parametrize("chips,cells,between", [(5, 60, 0.2), (20, 24, 0.05), (12, 6, 0.1)])
def test_intervals_cover_at_the_stated_rate(law, chips, cells, between):
    truth = Variation(0.15, between, law)
    fits = [fit_cells(simulated(truth, chips, cells, seed, offset=0.02), law) for seed in range(400)]
    for name, value in (("within", 0.15), ("between", between), ("offset", 0.02)):
        covered = np.mean([getattr(f, name).low <= value <= getattr(f, name).high for f in fits])
        assert 0.92 <= covered <= 0.985, (name, covered)  # 95% ± 3 standard errors of 400 runs, Williams a little above
    assert abs(np.mean([f.within.value**2 for f in fits]) / 0.15**2 - 1) < 0.03  # unbiased in σ²


@pytest.mark.parametrize("between", [0.03, 0.3])
@pytest.mark.parametrize("most,few", [(300, 6), (40, 8)])
def test_unequal_chips_are_covered_too(most, few, between):
    """Two chips with many cells, ten with few."""
    truth, covered = Variation(0.1, between), 0
    for seed in range(300):
        full = simulated(truth, 12, most, seed, targets=TARGETS[TARGETS != 0])
        keep = (full.chips < 2) | (np.arange(len(full.chips)) % most < few)
        fit = fit_cells(Cells(full.chips[keep], full.target[keep], full.measured[keep]), "proportional")
        covered += fit.between.low <= between <= fit.between.high
    assert 0.915 <= covered / 300 <= 0.99


@pytest.mark.parametrize("law", LAWS)
def test_the_law_is_told_from_the_cells(law):
    fits = [fit_cells(simulated(Variation(0.1, 0.05, law), 6, 60, seed)) for seed in range(40)]
    assert np.mean([f.law == law and f.decided for f in fits]) > 0.95
    assert fits[0].variation.law == law and fits[0].variation.within == fits[0].within.value


def test_one_target_decides_nothing():
    fit = fit_cells(simulated(Variation(0.1, 0.05), 6, 60, 0, targets=np.array([0.5])))
    assert not fit.decided and fit.evidence == pytest.approx(0, abs=1e-6)
    opposite = fit_cells(simulated(Variation(0.05, 0.2), 6, 60, 0, targets=np.array([0.5, -0.5])))
    assert opposite.decided and opposite.law == "proportional"  # the shared part turns its sign with the target


def test_without_a_between_part_its_interval_reaches_zero():
    zero = [fit_cells(simulated(Variation(0.1, 0.0), 10, 60, seed), "proportional").between for seed in range(100)]
    assert np.mean([b.low == 0 for b in zero]) > 0.92 and all(b.value < 0.04 for b in zero)


def test_residuals_follow_the_law():
    cells = simulated(Variation(0.1, 0.3), 20, 600, 0)
    table = residual_table(cells, fit_cells(cells)).set_index("target")
    away = table[table.index > 0]
    np.testing.assert_allclose(away.rms, away.proportional, rtol=0.08)
    assert away["layer-fixed"].std() < 1e-12 and table.cells.sum() == 12_000


def write(folder, text: str):
    path = folder / "cells.csv"
    path.write_text(text, encoding="utf-8")
    return path


GOOD = "chip,cell,target,measured\n" + "".join(f"{c},{i},{t},{t * 1.1}\n" for c in "ab" for i, t in enumerate((0.5, -1.0)))


def test_a_file_of_simulated_cells_comes_back(tmp_path):
    cells = simulated(Variation(0.2, 0.1), 4, 12, 0)
    rows = [f"{c},{i},{t:.17g},{m:.17g},note" for i, (c, t, m) in enumerate(zip(cells.chips, cells.target, cells.measured))]
    read = read_cells(write(tmp_path, "chip,cell,target,measured,remark\n\n" + "\n".join(rows) + "\n"))
    assert list(read.chips) == [str(c) for c in cells.chips]
    np.testing.assert_array_equal(read.measured, cells.measured)


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
    "one chip": (GOOD.replace("b,0", "a,2").replace("b,1", "a,3"), 5, ["only the chip 'a'", "at least 2 chips"]),
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
    assert f"cells.csv, line {line}: " in message and "\n" not in message and all(part in message for part in parts), message


def test_other_refusals():
    cells = simulated(Variation(0.1), 3, 6, 0)
    with pytest.raises(ValueError, match="'log'; allowed: proportional, layer-fixed"):
        fit_cells(cells, "log")
    lonely = Cells(np.array(["a", "a", "b", "b"]), np.array([0.0, 0.0, 1.0, 1.0]), np.ones(4))
    with pytest.raises(ValueError, match="on 1 chips"):
        fit_cells(lonely)
    assert COLUMNS == ("chip", "cell", "target", "measured")
