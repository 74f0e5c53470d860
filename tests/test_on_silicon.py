"""Notebook 09 on made-up chips whose answers are known, and what stands for the user's devices."""

from dataclasses import replace

import numpy as np
import pytest
import torch
from test_claims import MANY, made_up

from lib import Variation, fit_cells, read_cells
from lib.companion import on_silicon
from lib.companion.cases import Bench
from lib.companion.on_silicon import halving
from lib.companion.profiles import profile
from lib.companion.your_own_network import write_cells
from lib.laws import Measured

FORTY = replace(MANY, settings=tuple(replace(s, chips=80) for s in MANY.settings))


def silicon(names):
    """Ideal 92; untuned 50; the chip's cells bring 40·(1 − α), the arrays' cells 40, BN 20; n cells 88 + n/8."""
    if names["of"] == "ideal":
        return 92
    single = {"α = 0": 0.0, "α = 0.1": 0.1}  # the same chips as in the sweep over α
    if names["of"] == "mapping" and names["mapping"] == "single-ended" and names["pattern"] in single:
        return silicon({"of": "alpha", "alpha": single[names["pattern"]], "by": names["by"]})
    if names["of"] == "alpha":
        gains = {"untuned": 0, "chip's cells": 40 * (1 - names["alpha"]), "arrays' cells": 40, "BN on the chip": 20}
        return round(50 + gains[names["by"]])
    if names["of"] == "cells":
        return 92 if names["n"] == "oracle" else 88 + int(names["n"]) // 8
    if names["of"] == "mapping":
        return 60 if names["mapping"] == "differential" else 90
    return 90 - (2 if names["of"] == "converter" else 0)


@pytest.fixture(scope="module")
def table():
    return made_up(on_silicon.measurements, silicon, FORTY)


def test_half_of_a_gain_is_found_between_the_shares_measured():
    alphas = np.array([0.0, 0.1, 0.3, 1.0])
    assert halving(alphas, np.array([40.0, 30, 10, 5])) == pytest.approx(0.2)
    assert halving(alphas, np.array([40.0, 19.9, 10, 5])) == pytest.approx(0.0995, abs=1e-3)
    assert np.isnan(halving(alphas, np.array([40.0, 39, 38, 37]))) and np.isnan(
        halving(alphas, np.array([-1.0, -2, 0, 0]))
    )


def test_claims_read_what_was_made_up(table):
    found = {}
    for claim in on_silicon.alpha_claims(table):
        found.setdefault(claim.statement, []).append(claim.estimate.value)
    assert found["loss, tuned by the chip's cells"] == pytest.approx([92 - 84] * 4, abs=0.5)
    assert found["gain of cells in the arrays over as many on the chip"] == pytest.approx([4] * 4)
    (told,) = {c.statement for c in on_silicon.cells_claims(table)}
    assert "16 cells per array" in told
    assert [c.estimate.value for c in on_silicon.cells_claims(table)] == pytest.approx([2] * 4)
    pairs = on_silicon.mapping_claims(table)
    assert [c.estimate.value for c in pairs[4:]] == pytest.approx([0] * 2)  # nothing to tune under the layer-fixed law
    assert all(c.verdict == "the opposite holds" for c in pairs[:4])
    half = on_silicon.half_table(table)
    assert half["gain at α = 0"].to_numpy() == pytest.approx([40] * 4)
    assert half["half at α"].isna().all()  # of 0 and 0.1 alone
    costs = on_silicon.converter_table(table).cost.to_numpy()
    assert costs == pytest.approx(2)  # 90 with 16 bits less 88 with 8


def test_references_cost_the_same_wherever_they_sit():
    for setting in profile("quick").settings:
        for law in ("proportional", "layer-fixed"):
            bench = Bench(FORTY, setting, law, 0.3)
            chip, array = on_silicon.chip_cells(bench).estimator, on_silicon.array_cells(bench).estimator
            assert array.per == "array" and 0 <= chip.n - array.n * on_silicon.arrays_of(setting) < chip.n / 2


def test_the_published_devices_are_possible_laws():
    for curve in on_silicon.DEVICES.values():
        assert float(Measured(curve).sigma(torch.tensor(1.0))) == pytest.approx(sum(curve))
    g = np.linspace(0, 1, 5)
    pcm = np.polynomial.polynomial.polyval(g, on_silicon.DEVICES["PCM"])
    assert pcm.min() > 0.01 and pcm.max() < 0.045  # 1 to 4% of full scale


def test_cells_of_several_arrays_are_written_and_found_again(tmp_path):
    truth = Variation.split(0.6, 0.5, "measured", array_share=0.4, curve=(0.05, 0.3, -0.2))
    cells = read_cells(write_cells(tmp_path / "cells.csv", truth, chips=40, cells=128, arrays=4))
    assert len(set(cells.arrays)) == 160 and len(cells.target) == 40 * 128
    found = fit_cells(cells, factor=1.0)
    v = found.variation
    assert found.law == "measured"
    assert v.array**2 / (v.array**2 + v.between**2) == pytest.approx(0.4, abs=0.2)
    curve = on_silicon.curve_table(found, cells, truth)
    seen = curve[curve.g >= 0.25]  # the smallest target
    assert ((seen.sigma_low <= seen.true) & (seen.true <= seen.sigma_high)).mean() > 0.8
