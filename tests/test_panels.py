"""The panels: what they draw is the library's, a change answers at once, a page without a reader keeps their data."""

import asyncio
import json
import re
import statistics
import time

import numpy as np
import pandas as pd
import pytest
import torch
from conftest import trained

from lib import Chip, Variation, evaluate
from lib.accounting import predicted_error
from lib.companion import panels
from lib.companion.chip_explorer import CLOUD, FIRST, Explorer
from lib.conversion import to_analog
from lib.estimators import ReferenceCells

CURVES = {"LeNet-5": [[0.0025, 0.0], [0.02, 1.0], [0.16, 40.0]]}
SIZES = pd.DataFrame(
    {"network": "lenet5", "law": "layer-fixed", "kind": "cells", "size": [1, 64], "below_oracle": [40.0, -0.1]}
)


@pytest.fixture
def explorer(images):
    net = trained(images)
    return Explorer({(law, training): net for law in panels.LAWS for training in ("QAT", "QAVAT")}, images)


def budget_controls(monkeypatch):
    """The controls of the budget, which it hands to what shows them."""
    seen = {}
    monkeypatch.setattr(panels, "show", lambda kind, controls, *_: seen.update({kind: controls()}))
    panels.budget(SIZES, 0.16)
    return seen["budget"]


@pytest.mark.parametrize("kind", ["column", "explorer", "budget"])
def test_every_control_has_a_label_and_a_change_answers_within_a_second(kind, explorer, monkeypatch):
    drawn = {
        "column": (panels.column_controls(), panels.column_figure),
        "explorer": (explorer.controls(), explorer.figure),
        "budget": (budget_controls(monkeypatch), lambda **at: panels.budget_figure(CURVES, **at)),
    }
    controls, figure = drawn[kind]
    panel, times = panels.live(controls, figure), []
    picture = panel.children[-1]
    for name, control in controls.items():
        assert len(control.description) > 2, name
        before, began = picture.value, time.perf_counter()
        if hasattr(control, "options"):
            control.index = (control.index + 1) % len(control.options)
        else:
            control.value += control.step
        times.append(time.perf_counter() - began)
        assert picture.value != before or kind == "explorer", f"{name} changes nothing"
        assert re.search(r'<img [^>]*alt="[^"]{10,}"', picture.value)
    assert statistics.median(times) < 1


@pytest.mark.parametrize("law", panels.LAWS)
def test_without_an_own_part_the_column_is_turned_or_shifted_exactly(law):
    w, codes, ranks = panels.column_parts()
    x = (codes * (ranks >= 8))[:, :64].double() / 15
    ideal, chip = panels.column_outputs(0.0, 0.3, law, inputs=64, sparsity=0.5, cells=0)
    torch.testing.assert_close(ideal.double(), x @ w[:64].double(), rtol=1e-5, atol=1e-5)
    expected = 1.3 * ideal.double() if law == "proportional" else ideal.double() + 0.3 * x.sum(1)
    torch.testing.assert_close(chip.double(), expected, rtol=1e-5, atol=1e-5)
    torch.testing.assert_close(panels.column_outputs(0.0, 0.3, law, 64, 0.5, cells=1)[1], ideal, rtol=1e-4, atol=1e-4)


def test_the_budget_is_the_formula_of_a_layer():
    x = torch.rand(1, 64) * (torch.arange(64) < 40)
    layer = to_analog(torch.nn.Linear(64, 3), "A8W4", x)
    x = layer.quantize_input(x).detach()
    effective = float(x.sum() ** 2 / x.square().sum())
    parts = panels.budget_parts(16, 0.2, 0.05, 0.1, effective)
    variance, _ = predicted_error(layer, x, ReferenceCells(16, 0.05, 0.1), 0.2, "layer-fixed")
    unit = float(layer.quantize_weight(layer.weight).detach().abs().max() ** 2 * x.square().sum())
    np.testing.assert_allclose(sum(parts.values()), variance.mean().item() / unit, rtol=1e-4)
    at_the_knee = panels.budget_parts(64, 0.2, 0, 0, 64)
    np.testing.assert_allclose(at_the_knee["cells read"], at_the_knee["own"])


def test_points_lost_are_read_off_what_was_measured():
    curve = panels.budget_curves(SIZES, 0.16)["LeNet-5"]
    assert curve == [[0.02, 0.0], [0.16, 40.0]] and panels.points_lost(curve, 0.02) == 0
    assert panels.points_lost(curve, (0.02 * 0.16) ** 0.5) == pytest.approx(20) and panels.points_lost(curve, 1) == 40


def test_the_explorer_shows_what_evaluate_counts_and_refines_while_nothing_moves(explorer, images):
    at = {"sigma": 0.3, "share": 0.5, "law": "proportional", "training": "QAT", "cells": 16}
    explorer.figure(3, **at)
    (cloud,) = explorer.clouds.values()
    tuned = explorer._tuning(16)
    counts = evaluate(explorer.networks["proportional", "QAT"], images, Variation.split(0.3, 0.5), FIRST, tuning=tuned)
    assert [y for _, y in cloud] == counts.accuracy.tolist() and cloud[3][0] == Chip.of("test", 3).z_between()
    drawn = []
    asyncio.run(explorer.refine(lambda fig, told: drawn.append(told), 3, **at))
    assert len(cloud) == CLOUD and f"{CLOUD} chips drawn" in drawn[-1]


def test_a_page_that_nobody_sits_at_keeps_the_data_and_a_line(capsys, monkeypatch):
    shown = []
    monkeypatch.setattr("IPython.display.display", shown.append)
    panels.column()
    panels.budget(SIZES, 0.16)
    assert not panels.interactive() and len(shown) == 2
    for page, kind in zip(shown, ("column", "budget")):
        assert f'data-kind="{kind}"' in page.data and "works in JupyterLab and on the site" in page.data
        json.loads(re.search(r"<script[^>]*>(.*)</script>", page.data).group(1))
