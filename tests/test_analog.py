"""The analog layer, its slots, the conversion of any network, and what it reports."""

from contextlib import contextmanager

import pytest
import torch
import torch.nn.functional as F
from torch import nn

from lib import Chip, Variation, programmed, report, to_analog
from lib.analog import AnalogConv2d, AnalogLinear, crossbars
from lib.quantizers import LearnedStep


class Nested(nn.Module):
    """A tree with a shared layer, functional ReLU, grouped and strided convolutions, and layers that stay digital."""

    def __init__(self):
        super().__init__()
        self.stem = nn.Conv2d(3, 8, 3, stride=2, padding=1)
        self.inner = nn.ModuleDict({"a": nn.Conv2d(8, 8, 3, padding=2, dilation=2, groups=4, bias=False)})
        self.again = self.inner["a"]
        self.norm = nn.BatchNorm2d(8)
        self.up = nn.ConvTranspose2d(8, 4, 2)
        self.head = nn.Linear(4, 5)
        self.unused = nn.Linear(2, 2)

    def forward(self, x):
        x = F.relu(self.stem(x))
        x = F.relu(self.norm(self.inner["a"](x)))
        x = F.relu(self.again(x))
        return self.head(self.up(x).mean((2, 3)))


@pytest.fixture
def batch():
    return torch.randn(6, 3, 12, 12, generator=torch.Generator().manual_seed(0))


@pytest.fixture
def nested():
    torch.manual_seed(0)
    return Nested().eval()


def test_float_crossbars_compute_what_the_network_did(nested, batch):
    torch.testing.assert_close(to_analog(nested)(batch), nested(batch))
    assert type(nested.stem) is nn.Conv2d  # a copy was converted


def test_nested_shared_grouped_functional(nested, batch):
    net = to_analog(nested, "A4W2", batch)
    assert [name for name, _ in crossbars(net)] == ["stem", "inner.a", "head"]
    assert net.again is net.inner["a"] and net.again.groups == 4 and net.again.dilation == (2, 2)
    assert net.stem.quantize_input.signed and not net.again.quantize_input.signed  # after a functional ReLU
    assert torch.isfinite(net(batch)).all()


def test_report_names_what_stays_digital_and_why(nested, batch):
    rows = {row.name: row for row in report(to_analog(nested, "A4W2", batch))}
    assert {n for n, r in rows.items() if r.place == "analog"} == {"stem", "inner.a", "head"}
    assert rows["stem"].cells == 3 * 8 * 9 and "bias digital" in rows["stem"].why
    assert "calibration" in rows["unused"].why and "batch norm" not in rows["unused"].why
    assert "exact" in rows["norm"].why and "neither" in rows["up"].why


def test_attention_stays_digital():
    class Net(nn.Module):
        def __init__(self):
            super().__init__()
            self.attention, self.out = nn.MultiheadAttention(4, 2), nn.Linear(4, 2)

        def forward(self, x):
            return self.out(self.attention(x, x, x)[0])

    with pytest.warns(UserWarning, match="9 % of the parameters"):
        rows = {row.name: row for row in report(to_analog(Net(), "A4W4", torch.randn(3, 2, 4)))}
    assert rows["attention.out_proj"].place == "digital" and "subclass" in rows["attention.out_proj"].why
    assert rows["out"].place == "analog"


OPTIONS = [{}, {"stride": 2}, {"padding": 1}, {"dilation": 2}, {"groups": 2}, {"padding": 1, "padding_mode": "reflect"}]


@pytest.mark.parametrize("options", OPTIONS)
@pytest.mark.parametrize("bias", [True, False])
def test_convolution_is_the_formula(options, bias, batch):
    conv = nn.Conv2d(4, 6, 3, bias=bias, **options)
    x = torch.randn(2, 4, 9, 9)
    net = to_analog(conv, "A4W4", x)
    variation, chip = Variation(0.2, 0.1), Chip(4)
    with programmed(net, chip, variation):
        y = net(x)
    w = net.quantize_weight(net.weight)
    w = w * (1 + variation.deviation(chip, "", w))
    plain = nn.Conv2d(4, 6, 3, bias=bias, **options)
    plain.weight.data, plain.bias = w, conv.bias
    torch.testing.assert_close(y, plain(net.quantize_input(x)))


def test_correct_slot_comes_before_the_bias(batch):
    net = to_analog(nn.Linear(5, 3), "A4W4", torch.randn(8, 5))
    x = torch.randn(2, 5)
    seen = []

    @contextmanager
    def tuner(net, chip, variation):
        for name, layer in crossbars(net):
            layer.correct = lambda y, inputs, name=name: seen.append((name, inputs)) or 2 * y
        yield

    with programmed(net, Chip(0), Variation(), tuner):
        tuned = net(x)
    torch.testing.assert_close(tuned, 2 * (net(x) - net.bias) + net.bias)
    assert torch.equal(seen[0][1], net.quantize_input(x))


def test_programmed_restores_even_after_an_exception(nested, batch):
    net = to_analog(nested, "A4W2", batch)
    before = net(batch)
    with pytest.raises(RuntimeError, match="boom"), programmed(net, Chip(0), Variation(0.5)):
        assert not torch.equal(net(batch), before)
        raise RuntimeError("boom")
    assert torch.equal(net(batch), before)
    assert all(layer.deviate is None and layer.correct is None for _, layer in crossbars(net))


def test_programmed_nests(nested, batch):
    net = to_analog(nested, "A4W2", batch)
    with programmed(net, Chip(0), Variation(0.5)):
        outer = net(batch)
        with programmed(net, Chip(1), Variation(0.5)):
            assert not torch.equal(net(batch), outer)
        assert torch.equal(net(batch), outer)


def test_conversion_leaves_modes_alone(nested, batch):
    nested.train()
    nested.norm.eval()
    net = to_analog(nested, "A4W2", batch)
    assert net.training and not net.norm.training


def test_a_later_negative_input_of_a_shared_layer_makes_it_signed():
    class Twice(nn.Module):
        def __init__(self):
            super().__init__()
            self.layer = nn.Linear(3, 3)

        def forward(self, x):
            return self.layer(-self.layer(x.abs()).abs())

    assert to_analog(Twice(), "A4W4", torch.randn(4, 3)).layer.quantize_input.signed


def test_legacy_linear_layers_multiply_the_unquantized_input():
    net = nn.Sequential(nn.Conv2d(1, 2, 3), nn.Flatten(), nn.Linear(8, 2))
    net = to_analog(net, "A4W4", torch.randn(2, 1, 4, 4), "legacy")
    assert isinstance(net[2].quantize_input, nn.Identity) and not isinstance(net[0].quantize_input, nn.Identity)


def test_state_carries_bits_signs_and_steps(nested, batch):
    net = to_analog(nested, "A4W2", batch)
    other = to_analog(Nested(), "A4W2", batch.abs())
    other.load_state_dict(net.state_dict())
    assert torch.equal(other.eval()(batch), net.eval()(batch))
    assert other.stem.quantize_input.signed


def test_requantizing_an_analog_network(nested, batch):
    again = to_analog(to_analog(nested), "A4W2", batch)
    assert isinstance(again.stem, AnalogConv2d) and isinstance(again.head, AnalogLinear)
    assert isinstance(again.stem.quantize_weight, LearnedStep)


def normalized_net():
    torch.manual_seed(3)
    eps = 1e-300  # torch refuses 0 in training; this vanishes beside any variance
    first = nn.Conv2d(2, 4, 3), nn.BatchNorm2d(4, eps), nn.ReLU()
    return nn.Sequential(*first, nn.Conv2d(4, 3, 3), nn.BatchNorm2d(3, eps))


def test_batch_norm_cancels_a_shared_gain_in_training_but_not_in_evaluation():
    net, x = to_analog(normalized_net().double()), torch.randn(16, 2, 10, 10, dtype=torch.float64)
    shared, chip = Variation(between=0.3), Chip(2)
    assert 1 + 0.3 * chip.z_between() > 0
    plain = net.train()(x)
    with programmed(net, chip, shared):
        torch.testing.assert_close(net(x), plain)
    net.eval()
    plain = net(x)
    with programmed(net, chip, shared):
        assert (net(x) - plain).abs().max() > 0.01
