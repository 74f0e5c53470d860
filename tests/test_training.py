"""Training: it learns, resumes bit for bit, re-estimates BN, and quantizes after training."""

from dataclasses import replace

import pytest
import torch
from torch import nn

from lib import Recipe, Variation, accuracy, build, fit, post_training_quantize, programmed, reestimate_batch_norm, to_analog
from lib.analog import crossbars
from lib.data import Augment
from lib.quantizers import LineSearch
from lib.variation import PassingChip

RECIPE = Recipe(epochs=3, batch_size=16, lr=0.05, bn_draws=4)


def net(images, bits=None):
    return to_analog(build("lenet5", 1, 3, 12), bits, images.normalized()[:32])


@pytest.mark.parametrize("bits,variation", [(None, Variation()), ("A4W2", Variation()), (None, Variation(0.3)), ("A4W2", Variation.split(0.3, 0.5))])
def test_every_method_learns(images, bits, variation):
    model = net(images, bits)
    fit(model, images, replace(RECIPE, epochs=6), variation)
    assert accuracy(model, images) > 80


@pytest.mark.parametrize("optimizer", ["sgd", "adam"])
@pytest.mark.parametrize("variation", [Variation(), Variation.split(0.3, 0.5, "layer-fixed")])
def test_a_resumed_training_is_bit_identical(images, optimizer, variation):
    recipe = replace(RECIPE, optimizer=optimizer, lr=0.01, augment=Augment(crop=1, flip=True, rotate=10))
    whole = fit(net(images, "A4W2"), images, recipe, variation)
    state = None
    for epoch in range(1, recipe.epochs + 1):
        torch.randn(7)  # the global generator must not matter
        state = fit(net(images, "A4W2"), images, recipe, variation, resume=state, until=epoch)
    assert whole.keys() == state.keys()
    assert all(torch.equal(whole[name], state[name]) for name in whole)


def test_line_search_training_resumes_too(images):
    start = to_analog(build("lenet5", 1, 3, 12), "A4W4", images.normalized()[:32], "legacy")
    import copy

    whole = fit(copy.deepcopy(start), images, RECIPE)
    half = fit(copy.deepcopy(start), images, RECIPE, until=1)
    assert all(torch.equal(v, fit(copy.deepcopy(start), images, RECIPE, resume=half)[k]) for k, v in whole.items())


def test_seeds_differ_and_repeat(images):
    states = [fit(net(images), images, RECIPE, Variation(0.2), seed=seed)["net/0.weight"] for seed in (0, 0, 1)]
    assert torch.equal(states[0], states[1]) and not torch.equal(states[0], states[2])


def test_batch_norm_is_the_plain_average_over_fresh_chips(images):
    model = to_analog(nn.Sequential(nn.Conv2d(1, 4, 3, bias=False), nn.BatchNorm2d(4), nn.Flatten(), nn.Linear(400, 3)))
    variation = Variation(between=0.4)
    reestimate_batch_norm(model, images, variation, draws=5, batch_size=len(images))
    conv, x = model[0], images.normalized()
    with torch.no_grad():
        means = []
        for draw in range(5):
            with programmed(model, PassingChip.of("batch-norm", draw), variation):
                means.append(conv(x).mean((0, 2, 3)))
    torch.testing.assert_close(model[1].running_mean, torch.stack(means).mean(0), rtol=1e-4, atol=1e-5)
    assert model[1].momentum == 0.1


def test_post_training_quantization(images):
    floating = net(images)
    fit(floating, images, replace(RECIPE, epochs=6), Variation(0.2))
    before = {k: v.clone() for k, v in floating.state_dict().items()}
    quantized = post_training_quantize(floating, "A4W4", images, Variation(0.2), draws=6, batch_size=16)
    assert all(torch.equal(v, before[k]) for k, v in floating.state_dict().items())  # the float network is untouched
    for _, layer in crossbars(quantized):
        assert isinstance(layer.quantize_weight, LineSearch) and not layer._forward_pre_hooks
    assert accuracy(quantized, images) > accuracy(floating, images) - 10
    assert not torch.equal(quantized[1].running_mean, floating[1].running_mean)  # BN comes from the noisy pass
    first = next(layer for _, layer in crossbars(quantized)).quantize_input
    assert first.signed and first.step > 0


def test_weight_decay_spares_steps_and_norms(images):
    from lib.training import _optimizer

    groups = _optimizer(net(images, "A4W2"), RECIPE).param_groups
    assert [g["weight_decay"] for g in groups] == [RECIPE.weight_decay, 0.0]
    assert len(groups[0]["params"]) == 5


def test_learning_rates():
    cosine = Recipe(epochs=10, lr=1.0, warmup=0.1)
    assert [cosine.rate(d) for d in (0.0, 0.05, 0.1)] == [0.0, 0.5, 1.0] and cosine.rate(0.55) == pytest.approx(0.5)
    step = Recipe(epochs=91, lr=1.0, schedule="step", period=30, decay=0.1)
    assert [round(step.rate(e / 91), 6) for e in (0, 29.9, 30.1, 60.1, 90.5)] == [1, 1, 0.1, 0.01, 0.001]


def test_a_diverging_training_stops_with_advice(images):
    with pytest.raises(FloatingPointError, match="lower lr"):
        fit(net(images), images, replace(RECIPE, lr=1e30))
