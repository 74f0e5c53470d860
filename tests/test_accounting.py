"""What self-tuning costs and the error it leaves: formulas against simulation."""

import math

import pytest
import torch
from conftest import LAYERS, layer_and_input
from scipy import stats
from torch import nn

from lib import Variation, to_analog
from lib.accounting import cost, knee, predicted_error, simulated_errors
from lib.columns import ReferenceColumns, effective_cells
from lib.controls import traffic
from lib.estimators import Oracle, ReferenceCells
from lib.laws import LAWS
from lib.selftuning import SelfTuning


def positive_layer_and_input(kind):
    """Weights and inputs that do not cancel: y² ≫ Σw²x², so that the estimate's part of the error is the larger one."""
    torch.manual_seed(1)
    module = LAYERS[kind]()
    module.weight.data.abs_()
    x = torch.rand(2, 12) + 0.2 if kind == "linear" else torch.rand(2, 4, 9, 9) + 0.2
    net = to_analog(module, "A4W4", x)
    return net, *traffic(net, x).values()


ESTIMATORS = [Oracle(), ReferenceCells(1), ReferenceCells(8), ReferenceColumns(1), ReferenceColumns(3)]


@pytest.mark.parametrize("law", LAWS)
@pytest.mark.parametrize("estimator", ESTIMATORS, ids=lambda e: e.label)
@pytest.mark.parametrize("kind", ["linear", "groups"])
def test_error_formulas_at_fixed_shared_deviation(kind, estimator, law):
    net, (x, _) = positive_layer_and_input(kind)
    n, within = 800, 0.05  # small: the proportional formula is first-order
    variance, bias = predicted_error(net, x, estimator, within, law, 0.2)
    ((found, shift),) = simulated_errors(net, x, [estimator], within, law, 0.2, chips=range(n))
    ratio = (found / variance).flatten()
    # over all outputs; one reference cell errs on all of them alike, which leaves the spread of a single output
    tolerance = 3.5 * math.sqrt(2 / n) if estimator == ReferenceCells(1) else 0.08
    assert float(ratio.mean()) == pytest.approx(1, abs=tolerance)
    low, high = (stats.chi2.ppf(p, n - 1) / (n - 1) for p in (1e-6, 1 - 1e-6))
    assert float(ratio.min()) > 0.9 * low and float(ratio.max()) < 1.1 * high
    largest = net.op(x, net.weight).detach().abs().max()
    second_order = float(torch.as_tensor(estimator.variance(net, x, within)).max() * largest)
    assert ((shift - bias).abs() < 5.5 * (variance / n).sqrt() + 2 * second_order).all()
    if estimator == ReferenceCells(1):  # the estimate's part leads here: a wrong one could not hide
        assert float((variance / predicted_error(net, x, Oracle(), within, law, 0.2)[0]).mean()) > 4


def test_the_floored_case_has_its_own_formula():
    net, x = layer_and_input("linear", signed=False)
    ((x, _),) = traffic(net, x[:2]).values()
    e, floor = -0.9, 0.25
    variance, bias = predicted_error(net, x, ReferenceCells(256), 0.05, "proportional", e, floor)
    ((found, shift),) = simulated_errors(net, x, [ReferenceCells(256)], 0.05, "proportional", e, floor, range(400))
    assert float((found / variance).mean()) == pytest.approx(1, rel=0.08)
    w = net.quantize_weight(net.weight).detach()
    torch.testing.assert_close(bias, (0.1 / 0.25 - 1) * net.op(x, w))
    assert ((shift - bias).abs() < 5.5 * (variance / 400).sqrt()).all()


def test_positions_that_columns_leave_alone_have_their_own_formula():
    torch.manual_seed(0)
    net = to_analog(nn.Conv2d(2, 4, 3, groups=2, bias=False), "A4W4", torch.randn(4, 2, 8, 8))
    x = torch.randn(2, 2, 8, 8)
    x[:, :, :, :4] = 0
    ((x, _),) = traffic(net, x).values()
    columns = ReferenceColumns(2)
    left = ~columns.reads(net, x).repeat_interleave(2, 1)
    assert 0.2 < left.float().mean() < 0.9
    variance, bias = predicted_error(net, x, columns, 0.05, "proportional", 0.2)
    ((found, shift),) = simulated_errors(net, x, [columns], 0.05, "proportional", 0.2, chips=range(400))
    w = net.quantize_weight(net.weight).detach()
    torch.testing.assert_close(bias[left], 0.2 * net.op(x, w)[left])
    some = left & (variance > 0)
    assert float((found[some] / variance[some]).mean()) == pytest.approx(1, rel=0.08)
    assert ((shift - bias).abs()[left] <= 5.5 * (variance[left] / 400).sqrt() + 1e-6).all()
    assert torch.isfinite(variance).all()


def test_columns_never_beat_cells_at_equal_cells():
    for kind in ("linear", "padding", "groups"):
        for signed in (False, True):
            net, x = layer_and_input(kind, signed)
            ((x, _),) = traffic(net, x).values()
            fan_in = net.weight[0].numel()
            for m in (1, 3):
                references = ReferenceCells(m * fan_in), ReferenceColumns(m)
                cells, columns = (predicted_error(net, x, e, 0.2, "layer-fixed")[0] for e in references)
                assert (columns >= cells * (1 - 1e-5)).all() and (columns > cells * 1.01).any()


def test_the_stated_equalities():
    net, x = layer_and_input("linear", signed=False)
    ((x, _),) = traffic(net, x).values()
    within, top = 0.2, net.quantize_weight(net.weight).abs().max()
    for m in (1, 4):  # max²·σ_W²·‖x‖²·(1 + 1/m)
        variance, _ = predicted_error(net, x, ReferenceColumns(m), within, "layer-fixed")
        stated = top**2 * within**2 * x.square().sum(1, keepdim=True) * (1 + 1 / m)
        torch.testing.assert_close(variance, stated.expand_as(variance), rtol=1e-4, atol=0)
    stated = float(x.sum(1).square().mean() / x.square().sum(1).mean())
    assert knee(net, x, "layer-fixed") == pytest.approx(stated, rel=1e-4)
    w = net.quantize_weight(net.weight).detach()
    stated = float((x @ w.T).square().mean() / (x.square() @ w.T.square()).mean())
    assert knee(net, x, "proportional") == pytest.approx(stated, rel=1e-4)
    torch.testing.assert_close(effective_cells(net, x), x.sum(1, keepdim=True) ** 2 / x.square().sum(1, keepdim=True))


def test_what_it_costs():
    net = nn.Sequential(nn.Conv2d(2, 6, 3, groups=2, bias=False), nn.Flatten(), nn.Linear(6 * 16, 5))
    net = to_analog(net, "A4W4", torch.randn(4, 2, 6, 6))
    batch, whole = torch.randn(3, 2, 6, 6), 6 * 9 + 6 * 16 * 5
    cells = cost(SelfTuning(ReferenceCells(27)), net, batch, Variation(law="proportional"))
    assert (cells.cells, cells.operations, cells.chip_images) == (27, 0, 0) and cells.cell_share == 27 / whole
    columns = cost(SelfTuning(ReferenceColumns(2)), net, batch, Variation(law="layer-fixed"))
    assert columns.cells == 2 * (2 * 9 + 96)
    # m readings a position and group, one subtraction an output
    assert columns.operations == 2 * (2 * 16) + 6 * 16 + 2 * 1 + 5
    gains = cost(SelfTuning(ReferenceColumns(2)), net, batch, Variation(law="proportional"))
    conv, linear = 2 * (2 * 36 + 2 * 16 * 9) + 2 * 36 - 2 * 36 + 2 * 16 * 6 + 6 * 16, 2 * (96 + 1) + 1 * 6 + 5
    assert gains.operations == conv + 72 + linear + 96  # S and ‖x‖², the squares, the decision and the divisions
    offset = cost(SelfTuning(ReferenceCells(27)), net, batch, Variation(law="layer-fixed"))
    assert offset.operations == (2 * 36 + 2 * 16 * 9 + 2 * 16) + 6 * 16 + (96 + 1 + 1) + 5
    assert offset.operation_share == pytest.approx(offset.operations / (6 * 16 * 9 + 96 * 5))
