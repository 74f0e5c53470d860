"""Self-tuning: exact where it must be, and as noisy as the formulas say."""

import math
from dataclasses import dataclass

import numpy as np
import pytest
import torch
from conftest import LAYERS, layer_and_input
from torch import nn

from lib import Chip, Variation, evaluate, programmed, to_analog
from lib.accounting import column_positions, predicted_error
from lib.analog import channels_last, evaluating
from lib.columns import ReferenceColumns, effective_cells
from lib.controls import traffic
from lib.estimators import Oracle, ReadOnce, ReferenceCells
from lib.folding import folded
from lib.identity import described
from lib.laws import LAWS
from lib.selftuning import Gain, Offset, SelfTuning

SHARED = {law: Variation(between=0.3, law=law) for law in LAWS}


def above_floor(variation, n):
    return [c for c in map(Chip, range(40)) if 1 + variation.shared(c) > 0.3][:n]


@pytest.mark.parametrize("law", LAWS)
@pytest.mark.parametrize("signed", [False, True])
@pytest.mark.parametrize("kind", LAYERS)
def test_without_cell_noise_the_oracle_gives_the_nominal_output(kind, signed, law):
    net, x = layer_and_input(kind, signed)
    nominal, variation = net(x), SHARED[law]
    for chip in above_floor(variation, 3):
        with programmed(net, chip, variation):
            assert not torch.allclose(net(x), nominal, atol=1e-3)
        for estimator in (Oracle(), ReferenceCells(1)):  # one cell without own deviation is an oracle
            with programmed(net, chip, variation, SelfTuning(estimator)):
                torch.testing.assert_close(net(x), nominal, atol=2e-5, rtol=1e-5)


@pytest.mark.parametrize("law", LAWS)
@pytest.mark.parametrize("kind", LAYERS)
def test_columns_without_cell_noise_too_where_they_read(kind, law):
    net, x = layer_and_input(kind, signed=True)
    nominal, variation = net(x), SHARED[law]
    chip = above_floor(variation, 1)[0]
    with programmed(net, chip, variation, SelfTuning(ReferenceColumns(2))):
        tuned = net(x)
    if law == "proportional":
        ((inputs, y),) = traffic(net, x).values()
        reads = ReferenceColumns.reads(net, inputs)
        assert 0.1 < reads.float().mean() < 1
        same = reads.repeat_interleave(y.shape[1] // reads.shape[1], 1)
        torch.testing.assert_close(tuned[same], nominal[same], atol=1e-4, rtol=1e-3)
        gain = 1 + variation.shared(chip)
        bias = 0 if net.bias is None else net.bias.view(net.bias_shape)
        torch.testing.assert_close((tuned - bias)[~same], gain * (nominal - bias)[~same], atol=1e-4, rtol=1e-3)
    else:
        torch.testing.assert_close(tuned, nominal, atol=1e-4, rtol=1e-4)


ESTIMATORS = (Oracle(), ReferenceCells(8), ReferenceColumns(2))


@pytest.mark.parametrize("law", LAWS)
@pytest.mark.parametrize("signed", [False, True])
@pytest.mark.parametrize("kind", LAYERS)
def test_written_layers_compute_the_same(kind, signed, law):
    """Folding the activation step and the correction into the cells is a shortcut, not an approximation."""
    net, x = layer_and_input(kind, signed)
    for tuning in (None, *map(SelfTuning, ESTIMATORS)):
        with evaluating(net), programmed(net, Chip(3), Variation.split(0.3, 0.5, law), tuning):
            slowly = net(x)
            with folded(net):
                torch.testing.assert_close(net(x), slowly, atol=2e-5, rtol=1e-4)
            with folded(net, torch.bfloat16):  # of convolutions: their cells and results are rounded to 8 bits
                rounded = net(channels_last(x) if x.dim() == 4 else x).float()
            assert (rounded - slowly).abs().max() <= 0.03 * slowly.abs().max()
            torch.testing.assert_close(net(x), slowly, atol=0, rtol=0)  # and nothing stays behind


def test_a_whole_network_is_restored():
    torch.manual_seed(0)
    convolutions = nn.Conv2d(1, 4, 3), nn.BatchNorm2d(4), nn.ReLU(), nn.Conv2d(4, 4, 3, groups=2), nn.ReLU()
    net = nn.Sequential(*convolutions, nn.Flatten(), nn.Linear(64, 3))
    x = torch.randn(6, 1, 8, 8)
    net(x)
    net = to_analog(net.eval(), "A4W2", x).double()
    x = x.double()
    for variation in SHARED.values():
        with programmed(net, above_floor(variation, 1)[0], variation, SelfTuning(Oracle())):
            torch.testing.assert_close(net(x), to_plain(net, x), atol=1e-6, rtol=1e-6)


def to_plain(net, x):
    with programmed(net, Chip(0), Variation()):
        return net(x)


@pytest.mark.parametrize("cells", ["normal", "lognormal"])
@pytest.mark.parametrize("n", [1, 16])
def test_variance_of_the_reference_cells(n, cells):
    variation = Variation(0.3, 0.2, cells=cells)
    errors = np.array([ReferenceCells(n).estimate(c, variation) - variation.shared(c) for c in map(Chip, range(2000))])
    assert abs(errors.mean()) < 4 * 0.3 / math.sqrt(n * 2000)
    spread = 4 * math.sqrt(2 / 2000) if cells == "normal" else 0.25
    assert errors.var() == pytest.approx(0.3**2 / n, rel=spread)


def test_reading_noise_and_resolution():
    variation = Variation(0.3, 0.2)
    read, ideal = ReferenceCells(4, read_noise=0.1), ReferenceCells(4)
    noisy = np.array([read.estimate(c, variation) - ideal.estimate(c, variation) for c in map(Chip, range(1000))])
    assert noisy.std() == pytest.approx(0.1, rel=0.1) and abs(noisy.mean()) < 0.02
    exact, coarse = (ReferenceCells(4, step=s).estimate(Chip(1), variation) for s in (0.0, 0.25))
    assert coarse in (-0.75, -0.5, -0.25, 0.0, 0.25, 0.5, 0.75) and abs(coarse - exact) <= 0.125


def test_more_cells_keep_the_first_ones():
    chip = Chip(3)
    assert torch.equal(chip.z_reference(64)[:5], chip.z_reference(5))
    assert torch.equal(chip.z_columns("a", (4, 1, 6))[:2], chip.z_columns("a", (2, 1, 6)))
    assert not torch.equal(chip.z_columns("a", (2, 1, 6)), chip.z_columns("b", (2, 1, 6)))


def test_the_floor_never_lets_an_infinity_through():
    net, x = layer_and_input("conv", signed=True)
    variation = Variation(0.5, 1.0)
    estimator = ReferenceCells(1)
    chips = range(200)
    low = [i for i in chips if 1 + estimator.estimate(Chip.of("test", i), variation) < 0.25]
    assert 10 < len(low) < 100
    for tuning in (SelfTuning(estimator), SelfTuning(ReferenceColumns(1)), SelfTuning(Oracle(), Gain(1e-6))):
        for i in chips[:40]:
            with programmed(net, Chip.of("test", i), variation, tuning):
                assert torch.isfinite(net(x)).all()
    chip, bias = Chip.of("test", low[0]), net.bias.view(net.bias_shape)
    with programmed(net, chip, variation):
        untuned = net(x) - bias
    with programmed(net, chip, variation, SelfTuning(estimator)):
        torch.testing.assert_close(net(x) - bias, untuned / 0.25)


def test_blank_inputs_are_left_uncorrected_and_counted():
    torch.manual_seed(0)
    conv = nn.Conv2d(1, 3, 3, bias=False)
    x = torch.zeros(2, 1, 8, 8)
    x[:, :, :, 5:] = torch.rand(2, 1, 8, 3) + 0.5  # left: blank
    net, columns = to_analog(conv, "A4W4", x), ReferenceColumns(2)
    variation, chip = Variation(0.2, 0.3), Chip.of("test", 1)
    with programmed(net, chip, variation):
        untuned = net(x)
    with programmed(net, chip, variation, SelfTuning(columns)):
        tuned = net(x)
    assert torch.equal(tuned[..., :3], untuned[..., :3]) and not torch.equal(tuned[..., 3:], untuned[..., 3:])
    (row,) = column_positions(net, x, columns, variation, chip)
    with pytest.raises(ValueError, match="layer-fixed"):
        column_positions(net, x, columns, Variation(0.2, 0.3, "layer-fixed"), chip)
    assert row["positions"] == 2 * 6 * 6 and row["uncorrected"] == 2 * 6 * 3 and row["floored"] == 0
    assert 0 < ReferenceColumns.reads(net, torch.randn(4, 1, 8, 8)).float().mean() < 1  # signed inputs that cancel


def test_everything_is_paired():
    """Tuned and untuned, every σ and both laws stand on the same unit normals."""
    net, x = layer_and_input("linear", signed=True)
    chip, seen = Chip.of("test", 3), []
    for law in LAWS:
        for within, between in ((0.1, 0.0), (0.4, 0.0), (0.4, 0.3)):
            for tuner in (None, SelfTuning(Oracle()), SelfTuning(ReferenceCells(8)), SelfTuning(ReferenceColumns(2))):
                variation = Variation(within, between, law)
                with programmed(net, chip, variation, tuner):
                    e = net.deviate(torch.ones_like(net.weight)) - 1  # under either law
                    assert (net.correct is None) == (tuner is None)
                seen.append((e - variation.shared(chip)) / within)
    for z in seen:
        torch.testing.assert_close(z, chip.z_within("", tuple(net.weight.shape)), rtol=1e-4, atol=1e-5)
    for n in (1, 8):  # the references' own deviations scale with σ_W, whatever the law and e_B
        variations = Variation(0.1), Variation(0.4, 0.3, "layer-fixed")
        unit = [(ReferenceCells(n).estimate(chip, v) - v.shared(chip)) / v.within for v in variations]
        assert unit[0] == pytest.approx(unit[1]) == pytest.approx(float(chip.z_reference(n).mean()), rel=1e-4)
    drawn = [chip.z_reference(84), chip.z_columns("", (1, 7, 12)), chip.z_within("", (7, 12))]
    assert len({tuple(z.flatten().tolist()) for z in drawn}) == 3


def test_layers_that_do_not_vary_are_not_corrected():
    net = to_analog(nn.Sequential(nn.Linear(4, 4), nn.Linear(4, 2)), "A4W4", torch.randn(8, 4))
    with programmed(net, Chip(0), Variation(0.1, 0.3, layers=("1",)), SelfTuning(Oracle())):
        assert net[0].deviate is None and net[0].correct is None and net[1].deviate and net[1].correct


def test_the_wrong_law_is_refused_with_the_right_one():
    net = to_analog(nn.Linear(4, 3), "A4W4", torch.randn(8, 4))
    line = r"Gain corrects the proportional law, this variation is layer-fixed; use Offset\(\)"
    with pytest.raises(ValueError, match=line):
        with programmed(net, Chip(0), Variation(0.1, 0.1, "layer-fixed"), SelfTuning(Oracle(), Gain())):
            pass
    line = r"Offset corrects the layer-fixed law, this variation is proportional; use Gain\(\)"
    with pytest.raises(ValueError, match=line):
        with programmed(net, Chip(0), Variation(0.1, 0.1), SelfTuning(Oracle(), Offset())):
            pass
    assert net.deviate is None and net.correct is None


@pytest.mark.parametrize(
    ("make", "line"),
    [
        (lambda: ReferenceCells(0), "reference cells.* ≥ 1, got 0"),
        (lambda: ReferenceCells(2.5), "integer.*got 2.5"),
        (lambda: ReferenceCells(4, read_noise=-0.1), "read_noise.* ≥ 0, got -0.1"),
        (lambda: ReferenceCells(4, step=float("nan")), "step.*got nan"),
        (lambda: ReferenceColumns(0), "reference columns.* ≥ 1, got 0"),
        (lambda: Gain(-0.25), "floor.*got -0.25"),
        (lambda: Gain(0), "floor.*got 0"),
    ],
)
def test_refusals(make, line):
    with pytest.raises(ValueError, match=line):
        make()


@dataclass(frozen=True)
class Half(ReadOnce):
    """Half the truth."""

    label = "half"

    def estimate(self, chip, variation):
        return 0.5 * variation.shared(chip)


def test_a_new_estimator_is_one_small_object(images):
    torch.manual_seed(0)
    net = nn.Sequential(nn.Conv2d(1, 4, 3, bias=False), nn.ReLU(), nn.Flatten(), nn.Linear(400, 3))
    net = to_analog(net, "A4W4", images.normalized())
    first, chip, x = net[0], Chip.of("test", 1), images.normalized()
    ((inputs, nominal), _) = traffic(net, x).values()
    e = 0.5 * chip.z_between()
    offset = e / 2 * first.quantize_weight(first.weight).abs().max() * first.input_sum(inputs)
    expected = {"proportional": nominal * (1 + e) / (1 + e / 2), "layer-fixed": nominal + offset}
    for law in LAWS:
        variation = Variation(between=0.5, law=law)
        assert len(evaluate(net, images, variation, 3, tuning=SelfTuning(Half())).accuracy) == 3
        with programmed(net, chip, variation, SelfTuning(Half())):
            torch.testing.assert_close(first(x), expected[law], rtol=1e-4, atol=1e-4)
    assert described(SelfTuning(Half()))["estimator"]["type"] == "Half" and SelfTuning(Half()).label == "half"
    with pytest.raises(ValueError, match="must be a frozen dataclass"):
        SelfTuning(object())


@pytest.mark.parametrize("kind", LAYERS)
def test_the_box_filter_is_a_column_of_ones(kind):
    net, x = layer_and_input(kind, signed=True)
    ((x, _),) = traffic(net, x).values()
    ones = torch.ones_like(net.weight[: getattr(net, "groups", 1)])
    torch.testing.assert_close(net.input_sum(x), net.op(x, ones), rtol=1e-4, atol=1e-5)
    k = effective_cells(net, x)
    assert (k >= 0).all() and (k <= ones[0].numel() * 1.001).all()


def test_sequences_through_a_linear_layer():
    """x (B, T, in): the axis of outputs is the last one."""
    torch.manual_seed(0)
    net, x = to_analog(nn.Linear(6, 8), "A4W4", torch.randn(3, 5, 6)), torch.randn(3, 5, 6)
    nominal = net(x)
    for variation in SHARED.values():
        with programmed(net, above_floor(variation, 1)[0], variation, SelfTuning(Oracle())):
            torch.testing.assert_close(net(x), nominal, atol=2e-5, rtol=1e-5)
        assert predicted_error(net, x, ReferenceCells(4), 0.1, variation.law)[0].shape == nominal.shape
