"""Training in bfloat16: gradients near those of float32, everything kept in float32, and who takes it."""

import pytest
import torch
import torch.nn.functional as F
from conftest import in_colour
from torch import nn

from lib import PerChipBatchNorm, Recipe, Variation, accuracy, build, evaluate, fit, precision, to_analog
from lib.evaluation import best_precision
from lib.precision import multiplying, training_precision
from lib.quantizers import LearnedStep, levels

RECIPE = Recipe(epochs=4, batch_size=16, lr=0.05, bn_draws=4)


def net(images, bits="A4W4", quantizers="learned"):
    torch.manual_seed(0)
    first = [nn.Conv2d(3, 16, 3, 2, 1, bias=False), nn.BatchNorm2d(16), nn.ReLU()]
    second = [nn.Conv2d(16, 16, 3, 2, 1, bias=False), nn.BatchNorm2d(16), nn.ReLU()]
    plain = nn.Sequential(*first, *second, nn.Flatten(), nn.Linear(144, 3))
    return to_analog(plain, bits, images.normalized()[:32], quantizers)


@pytest.mark.parametrize("bits,signed", [(4, False), (4, True), (8, False), (8, True)])
def test_a_learned_step_in_bfloat16_follows_the_formula_of_its_rounded_v(bits, signed):
    torch.manual_seed(bits)
    lo, hi = levels(bits, signed)
    x, upstream = torch.randn(2, 2, 64, 16, 16).bfloat16()
    x, upstream = (t.contiguous(memory_format=torch.channels_last) for t in (x.mul_(hi / 15), upstream))
    quantizer, inputs = LearnedStep(bits, signed, torch.tensor(0.11), 1), x.clone().requires_grad_()
    q = quantizer(inputs)
    q.backward(upstream)
    v = (x / torch.tensor(0.11)).double()  # rounded as in the forward
    inside = (v > lo) & (v < hi)
    terms = torch.where(inside, v.round() - v, v.clamp(lo, hi)) * upstream.double()
    torch.testing.assert_close(q.double(), v.clamp(lo, hi).round() * 0.11, rtol=2**-8, atol=0)
    assert torch.equal(inputs.grad, upstream * inside)
    assert quantizer.step.grad.dtype == torch.float32
    assert abs(quantizer.step.grad * hi**0.5 - terms.sum()) < 2**-8 * terms.norm()  # each product is rounded once


def test_codes_are_exact():
    """A convolution of codes up to 255 in bfloat16 has the products of float32."""
    codes, w = torch.randint(0, 256, (2, 8, 9, 9)).float(), torch.randint(-7, 8, (4, 8, 3, 3)).float()
    assert torch.equal(codes.bfloat16().float(), codes)
    exact = F.conv2d(codes, w)
    with multiplying("bfloat16", codes):
        rounded = F.conv2d(codes, w)
    assert rounded.dtype == torch.bfloat16
    torch.testing.assert_close(rounded.float(), exact, rtol=2**-8, atol=0)  # rounded once, at its end


@pytest.mark.parametrize("bits", [None, "A4W2", "A1W1"])
def test_a_training_in_bfloat16_learns_and_keeps_float32(images, bits):
    colour = in_colour(images)
    model = net(colour, bits)
    state = fit(model, colour, RECIPE, Variation(0.2), precision="bfloat16")
    assert all(t.dtype != torch.bfloat16 for t in state.values())
    assert any("running_var" in name for name in state) and any("momentum_buffer" in name for name in state)
    exact = net(colour, bits)
    fit(exact, colour, RECIPE, Variation(0.2), precision="float32")
    assert accuracy(model, colour) > 80 and abs(accuracy(model, colour) - accuracy(exact, colour)) < 15
    assert not torch.equal(model[0].weight, exact[0].weight)  # it did multiply in bfloat16
    assert not torch.is_autocast_enabled("cpu")


def test_a_training_in_bfloat16_resumes_bit_for_bit(images):
    colour = in_colour(images)
    whole = fit(net(colour), colour, RECIPE, Variation(0.2), precision="bfloat16")
    half = fit(net(colour), colour, RECIPE, Variation(0.2), until=2, precision="bfloat16")
    resumed = fit(net(colour), colour, RECIPE, Variation(0.2), resume=half, precision="bfloat16")
    assert all(torch.equal(whole[name], resumed[name]) for name in whole)


def test_the_precision_is_chosen_by_what_the_network_is(images, monkeypatch):
    colour = in_colour(images)
    x = colour.normalized()[:2]
    monkeypatch.setattr(precision, "multiplies_bfloat16", lambda: True)
    assert training_precision(net(colour), x) == training_precision(net(colour, None), x) == "bfloat16"
    assert training_precision(to_analog(build("lenet5", 3, 3, 12), "A4W4", x), x) == "float32"  # six channels
    legacy = net(colour, quantizers="legacy")
    assert training_precision(legacy, x) == best_precision(legacy, x) == "float32"  # truncated
    assert best_precision(net(colour), x) == "bfloat16"
    assert training_precision(net(colour).double(), x.double()) == "float32"
    monkeypatch.setattr(precision, "multiplies_bfloat16", lambda: False)
    assert training_precision(net(colour), x) == "float32"


class Doubling(nn.Module):
    """A layer that wants float32."""

    def forward(self, x):
        if x.dtype != torch.float32:
            raise TypeError("float32 alone")
        return x


def test_what_does_not_bear_it_trains_in_float32(images, monkeypatch):
    colour = in_colour(images)
    model = net(colour)
    picky = nn.Sequential(model[:3], Doubling(), model[3:])
    monkeypatch.setattr(precision, "multiplies_bfloat16", lambda: True)
    assert training_precision(picky, colour.normalized()[:2]) == "float32"
    with pytest.raises(
        ValueError, match="Sequential does not train in bfloat16 .float32 alone.; use precision='float3"
    ):
        fit(picky, colour, RECIPE, precision="bfloat16")
    with pytest.raises(ValueError, match="unknown precision 'half'; allowed: None, float32, bfloat16"):
        fit(picky, colour, RECIPE, precision="half")


def test_a_network_trained_in_bfloat16_is_measured_like_any_other(images):
    colour = in_colour(images)
    model = net(colour)
    fit(model, colour, RECIPE, Variation(0.2), precision="bfloat16")
    tuner = PerChipBatchNorm(16, 8).bind(model, colour)
    assert evaluate(model, colour, Variation(0.2), 2, tuning=tuner).accuracy.mean() > 50
