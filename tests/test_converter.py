"""The converter: its levels, its range, its place, and training through it."""

import math

import pytest
import torch
from torch import nn

from lib import (
    Converter,
    Oracle,
    Recipe,
    SelfTuning,
    Variation,
    evaluate,
    fit,
    load_analog,
    precision,
    programmed,
    save_analog,
    to_analog,
)
from lib.analog import crossbars, evaluating
from lib.checks import InputError
from lib.conversion import unused_norms_seeing
from lib.converter import Reading, attach, converting, extents
from lib.evaluation import best_precision
from lib.folding import folded, plan
from lib.precision import training_precision
from lib.variation import Chip


def made(bits):
    torch.manual_seed(0)
    body = nn.Sequential(nn.Conv2d(3, 8, 3), nn.ReLU(), nn.Conv2d(8, 12, 3), nn.BatchNorm2d(12), nn.ReLU())
    return to_analog(nn.Sequential(*body, nn.Flatten(), nn.Linear(12 * 16, 4)), bits, batch()).double().eval()


@pytest.fixture
def net():
    return made("A4W4")


def batch():
    return torch.randn(16, 3, 8, 8, generator=torch.Generator().manual_seed(5))


def test_a_reading_has_its_levels_and_clips():
    y = torch.tensor([-9.0, -0.26, -0.24, 0.0, 0.13, 0.6, 1.4, 9.0], dtype=torch.double, requires_grad=True)
    read = Reading(step=0.5, levels=3)
    out = read(y)
    assert out.tolist() == [-1.5, -0.5, -0.0, 0.0, 0.0, 0.5, 1.5, 1.5]
    out.sum().backward()
    assert y.grad.tolist() == [0.0, 1.0, 1.0, 1.0, 1.0, 1.0, 1.0, 0.0]  # straight through where nothing is clipped


def test_extents_are_quantiles_of_what_each_layer_puts_out_and_serve_as_well_as_the_batch(net):
    x, seen = batch().double(), {}
    found = extents(net, x, 0.9, rows=1000)
    assert all(layer.read is None and layer.rows is None for _, layer in crossbars(net))
    with unused_norms_seeing(net), evaluating(net):
        for name, layer in crossbars(net):
            layer.register_forward_hook(lambda m, given, y, name=name: seen.update({name: y - shaped(m)}))
        net(x)
    for name, y in seen.items():
        below, beside = ((y.abs() < (1 + way) * found.of[name]).double().mean().item() for way in (-1e-6, 1e-6))
        assert below <= 0.9 + 1 / y.numel() and beside >= 0.9  # codes times codes: many are equal
    with converting(net, Converter(5, quantile=0.9), x, 1000):
        told = [layer.read for _, layer in crossbars(net)]
    with converting(net, Converter(5, quantile=0.9), found, 1000):
        assert [layer.read for _, layer in crossbars(net)] == told
    for other in ({"bits": 5}, {"bits": 5, "quantile": 0.8}):
        with pytest.raises(InputError, match="extents at quantile 0.9 of 1000 rows and 3 layers are not"):
            attach(net, Converter(**other), found)


def shaped(layer):
    return layer.bias.view(layer.bias_shape)


@pytest.mark.parametrize("bits", [2, 4, 8])
def test_every_output_of_a_layer_is_one_of_the_levels(net, bits):
    seen = []
    with converting(net, Converter(bits), batch().double()):
        layer = net[0]
        layer.register_forward_hook(lambda m, args, y: seen.append((y - m.bias.view(-1, 1, 1)) / m.read.step))
        with evaluating(net):
            net(batch().double())
    codes = seen[0].detach()
    torch.testing.assert_close(codes, codes.round(), atol=1e-9, rtol=0)
    assert codes.abs().max() <= 2 ** (bits - 1) - 1 + 1e-9 and len(codes.round().unique()) > 2 ** (bits - 2)
    assert all(layer.read is None for _, layer in crossbars(net))


def test_the_range_is_the_quantile_times_the_headroom(net):
    steps = {}
    for headroom in (1.0, 2.0):
        with converting(net, Converter(8, headroom, quantile=0.99), batch().double()):
            steps[headroom] = [layer.read.step for _, layer in crossbars(net)]
    assert steps[2.0] == pytest.approx([2 * step for step in steps[1.0]])
    layer = net[0]
    y = layer.op(layer.quantize_input(batch().double()), layer.quantize_weight(layer.weight)).detach().abs()
    assert steps[1.0][0] * 127 == pytest.approx(float(y.flatten().quantile(0.99)), rel=0.01)


def test_many_bits_change_nothing_and_the_error_falls_with_each(net):
    x, errors = batch().double(), []
    with evaluating(net):
        ideal = net(x)
        for bits in (4, 6, 8, 16):
            with converting(net, Converter(bits, 1.5, quantile=1.0), x):
                errors.append(float((net(x) - ideal).square().mean().sqrt()))
    assert errors == sorted(errors, reverse=True) and errors[-1] < 1e-2 * float(ideal.std())
    assert errors[0] / errors[1] == pytest.approx(5, abs=3.5)  # a factor of 127/31 and 31/7 in the step


@pytest.mark.parametrize("rows", [256, 20])
def test_row_blocks_are_converted_by_themselves(net, rows):
    """y = Σ_r read(part_r): with few rows as many converters as arrays stand below each other."""
    x, layer = batch().double(), net[2]
    with converting(net, Converter(5), x, rows), evaluating(net):
        q = layer.quantize_input(torch.relu(net[0](x)))
        w, read = layer.quantize_weight(layer.weight), layer.read
        parts = [(start, min(start + rows, 72)) for start in range(0, 72, rows)]
        flat = w.flatten(1)
        expected = 0
        for a, b in parts:
            some = torch.zeros_like(flat)
            some[:, a:b] = flat[:, a:b]
            expected = expected + read(layer.op(q, some.view_as(w)))
        torch.testing.assert_close(layer(torch.relu(net[0](x))), expected + layer.bias.view(-1, 1, 1))


@pytest.mark.parametrize("law", ["proportional", "layer-fixed"])
@pytest.mark.parametrize("last", [False, True])
@pytest.mark.parametrize("tuner", [None, SelfTuning(Oracle()), SelfTuning(Oracle("array"))], ids=str)
def test_folded_and_unfolded_agree_behind_a_converter(net, law, last, tuner):
    v = Variation.split(0.2, 0.5, law, array_share=0.3, rows=30, columns=5)
    x = batch().double()
    with converting(net, Converter(6, last=last), x, 30), evaluating(net), programmed(net, Chip(1), v, tuner):
        slowly = net(x)
        with folded(net, None, plan(net, x)):
            close = (net(x) - slowly).abs() < 1e-10
    assert close.all()


def test_what_is_clipped_no_correction_brings_back():
    """A shared gain of 1.8 without own deviations: the oracle is exact behind a converter with headroom, and before
    one without; behind one without it is not."""
    v, x, net = Variation(between=0.8), batch().double(), made(None)  # activation steps would blur small errors
    chip = next(c for c in map(Chip, range(100)) if 0.7 < v.shared(c) < 0.9)
    errors = {}
    with evaluating(net):
        for name, converter in (
            ("wide", Converter(14, 2.5, quantile=1.0)),
            ("narrow", Converter(14, 1.0, quantile=1.0)),
            ("ideal", Converter(14, 1.0, last=True, quantile=1.0)),
        ):
            with converting(net, converter, x):
                ideal = net(x)
                with programmed(net, chip, v, SelfTuning(Oracle())):
                    errors[name] = float((net(x) - ideal).abs().max() / ideal.std())
    assert errors["wide"] < 0.01 and errors["ideal"] < 0.01 and errors["narrow"] > 0.1


def test_training_goes_through_the_converter(images):
    torch.manual_seed(0)
    net = to_analog(
        nn.Sequential(nn.Flatten(), nn.Linear(144, 16), nn.ReLU(), nn.Linear(16, 3)), "A4W4", images.normalized()
    )
    attach(net, Converter(3), images.normalized())
    before = evaluate(net, images, Variation(0.1), 4).accuracy.mean()
    fit(net, images, Recipe(epochs=15, batch_size=16, lr=0.05), Variation(0.1))
    assert net[1].read is not None and evaluate(net, images, Variation(0.1), 4).accuracy.mean() > before + 20
    attach(net, None, images.normalized())
    assert net[1].read is None


def test_a_converter_is_counted_and_trained_in_float32(monkeypatch):
    net = to_analog(nn.Sequential(nn.Conv2d(8, 8, 3)), "A4W4", torch.rand(4, 8, 6, 6))
    few = torch.rand(2, 8, 6, 6)
    for best in (best_precision, training_precision):
        monkeypatch.setattr(precision, "multiplies_bfloat16", lambda: True)
        attach(net, None, few)
        usual = best(net, few)
        attach(net, Converter(8), few)
        assert (usual, best(net, few)) == ("bfloat16", "float32")


def test_another_conversion_takes_the_converter_off():
    x = torch.rand(4, 1, 6, 6)
    net = to_analog(nn.Sequential(nn.Conv2d(1, 4, 3)), "A4W4", x)
    attach(net, Converter(4), x)
    again = to_analog(net, "A4W2", x)
    assert again[0].read is None and net[0].read is not None


def test_a_correction_of_the_sum_cannot_stand_before_the_converters_of_its_parts(net):
    x = batch().double()
    with converting(net, Converter(8, last=True), x, rows=20), evaluating(net):
        net[2].correct = lambda y, x: y
        with pytest.raises(InputError, match="row blocks"):
            net(x)


def test_a_file_holds_the_converters(net, tmp_path):
    x = batch().double()
    attach(net, Converter(6, headroom=2.0), x, rows=3)
    save_analog(net, tmp_path / "net.safetensors")
    back = load_analog(made("A4W4"), tmp_path / "net.safetensors")
    assert [m.read for _, m in crossbars(back)] == [m.read for _, m in crossbars(net)]
    with evaluating(net):
        assert torch.equal(back(x), net(x))
    next(m for _, m in crossbars(net)).read = torch.round
    with pytest.raises(InputError, match="is read by a builtin_function_or_method"):
        save_analog(net, tmp_path / "net.safetensors")


@pytest.mark.parametrize("bits", [0, 1, 17, 2.5, "8"])
def test_other_bits_are_refused(bits):
    with pytest.raises(InputError, match="bits of a converter"):
        Converter(bits)


@pytest.mark.parametrize("options", [{"headroom": 0}, {"headroom": math.nan}, {"quantile": 1.5}, {"last": 1}])
def test_other_options_are_refused(options):
    with pytest.raises(InputError):
        Converter(8, **options)
    with pytest.raises(InputError, match="Converter"):
        attach(nn.Linear(2, 2), 8, torch.zeros(1, 2))
