"""Training: it learns, resumes bit for bit, re-estimates BN, and quantizes after training."""

from dataclasses import replace

import pytest
import torch
from torch import nn

from lib import (
    Images,
    Recipe,
    Variation,
    accuracy,
    build,
    fit,
    post_training_quantize,
    programmed,
    reestimate_batch_norm,
    to_analog,
)
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


# -- what the user has set stays ------------------------------------------------------------------------------


def with_norms(images, bits="A4W4"):
    torch.manual_seed(0)
    layers = [nn.Conv2d(1, 4, 3, bias=False), nn.BatchNorm2d(4), nn.ReLU(), nn.Conv2d(4, 4, 3, bias=False), nn.BatchNorm2d(4), nn.Dropout(0.5)]
    return to_analog(nn.Sequential(*layers, nn.Flatten(), nn.Linear(256, 3)), bits, images.normalized()[:32]).train()


def moved(model, before):
    return [not torch.equal(model[i].running_mean, before[f"{i}.running_mean"]) for i in (1, 4)]


FREEZES = {
    "evaluation mode": lambda norm: norm.eval(),
    "no gradient": lambda norm: norm.requires_grad_(False),
    "both": lambda norm: norm.eval().requires_grad_(False),
}


@pytest.mark.parametrize("how", FREEZES)
@pytest.mark.parametrize("variation", [Variation(), Variation(0.2, 0.1)])
def test_a_frozen_batch_norm_is_neither_trained_nor_estimated_anew(images, how, variation):
    model = with_norms(images)
    FREEZES[how](model[1])
    before = {k: v.clone() for k, v in model.state_dict().items()}
    fit(model, images, RECIPE, variation)
    assert moved(model, before) == [False, True] and not torch.equal(model[0].weight, before["0.weight"])
    reestimate_batch_norm(model.train() if how == "no gradient" else model, images, variation, draws=2, batch_size=32)
    assert how == "evaluation mode" or moved(model, before)[0] is False


def test_freezing_by_gradient_outlasts_fit_and_post_training_quantization(images):
    model = with_norms(images, None)
    model[1].requires_grad_(False)
    before = {k: v.clone() for k, v in model.state_dict().items()}
    for _ in range(2):  # fit leaves the network in evaluation mode
        fit(model, images, RECIPE)
    quantized = post_training_quantize(model, "A4W4", images, Variation(0.2), draws=3, batch_size=16)
    assert torch.equal(quantized[1].running_mean, before["1.running_mean"]) and not torch.equal(quantized[4].running_mean, model[4].running_mean)


def test_dropout_and_quantizers_in_evaluation_mode_stay_in_it(images):
    model = to_analog(build("lenet5", 1, 3, 12), "A4W4", images.normalized()[:32], "legacy").train()
    layer = dict(crossbars(model))["0"]
    layer.quantize_input.eval()
    before = layer.quantize_input.maximum.clone()
    fit(model, images, RECIPE)
    assert torch.equal(layer.quantize_input.maximum, before)
    modes = []
    model = with_norms(images)
    model[5].eval()
    model[5].register_forward_hook(lambda module, args, y: modes.append(module.training))
    fit(model, images, RECIPE)
    assert not any(modes)


def test_a_network_in_evaluation_mode_is_trained_as_a_whole(images):
    """As a loaded one is: its mode says nothing of single modules."""
    model = with_norms(images).eval()
    before = {k: v.clone() for k, v in model.state_dict().items()}
    fit(model, images, RECIPE)
    assert moved(model, before) == [True, True]
    inference = with_norms(images).eval().requires_grad_(False)  # all of it, for memory: that freezes no single module
    before = {k: v.clone() for k, v in inference.state_dict().items()}
    reestimate_batch_norm(inference, images, draws=2, batch_size=32)
    assert moved(inference, before) == [True, True]


def test_hooks_of_the_users_own_survive(images):
    calls = []
    model = with_norms(images, None)
    model[0].register_forward_pre_hook(lambda module, args: calls.append("before"))
    model[0].register_forward_hook(lambda module, args, y: calls.append("after"))
    quantized = post_training_quantize(model, "A4W4", images, Variation(0.2), draws=2, batch_size=16)
    assert [len(quantized[i]._forward_pre_hooks) for i in (0, 3, 7)] == [1, 0, 0] and len(quantized[0]._forward_hooks) == 1
    calls.clear()
    quantized(images.normalized()[:2])
    assert calls == ["before", "after"]
    model[0]._forward_pre_hooks.clear()

    def fails(module, args):
        raise RuntimeError("of the user's")

    handle = model[7].register_forward_pre_hook(fails)
    with pytest.raises(ValueError, match="of the user's"):
        post_training_quantize(model, "A4W4", images, draws=2)
    handle.remove()
    assert not any(m._forward_pre_hooks for m in model.modules())


def test_the_noisy_pass_moves_the_running_maxima_of_legacy_quantizers(images):
    """As the published pass over the training data does; in evaluation mode they would keep the calibration batch's."""
    floating = build("vgg11", 1, 3, 28, 1 / 16)
    wide = replace(images, pixels=images.pixels.repeat(1, 1, 3, 3)[..., :28, :28])
    quantized = {draws: post_training_quantize(floating, "A4W4", wide, Variation(0.3), draws=draws, batch_size=16, quantizers="legacy") for draws in (1, 6)}
    maxima = {n: torch.stack([m.quantize_input.maximum for _, m in crossbars(q) if hasattr(m.quantize_input, "maximum")]) for n, q in quantized.items()}
    assert len(maxima[1]) == 8 and (maxima[1] != maxima[6]).sum() >= 7
    assert not any(m.training for m in quantized[6].modules())


def test_a_step_after_training_fits_all_calls_of_a_layer(images):
    class Twice(nn.Module):
        def __init__(self):
            super().__init__()
            self.first, self.layer, self.head = nn.Linear(144, 8), nn.Linear(8, 8), nn.Linear(8, 3)

        def forward(self, x):
            return self.head(self.layer(30 * self.layer(self.first(x.flatten(1)).relu()).relu()))

    torch.manual_seed(0)
    quantized = post_training_quantize(Twice(), "A8W8", images, draws=4, batch_size=32)
    seen = []
    quantized.layer.register_forward_pre_hook(lambda layer, args: seen.append(args[0]))
    with torch.no_grad():
        quantized(images.normalized())
    assert float((quantized.layer.quantize_input(seen[1]) - seen[1]).norm() / seen[1].norm()) < 0.05


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16])
def test_half_precision_is_not_trained(images, dtype):
    with pytest.raises(ValueError, match=r"trains in float32 or float64, .* is in torch\.b?float16; call net.float\(\) first"):
        fit(net(images).to(dtype), images, RECIPE)


def test_double_precision_is_trained(images):
    model = net(images, "A4W2").double()
    fit(model, images, replace(RECIPE, epochs=6), Variation(0.2))
    assert model[0].weight.dtype == torch.float64 and accuracy(model, images) > 80


@pytest.mark.parametrize("channels", [2, 4, 7])
def test_thin_strided_convolutions_are_trained_without_channels_last(channels):
    """In that layout torch's backward of theirs corrupts the memory of the process on some processors."""
    x = torch.randint(0, 255, (32, 1, 16, 16), dtype=torch.uint8)
    images = Images(x, torch.arange(32) % 3, (0.5,), (0.3,))
    shortcut = [nn.Conv2d(1, channels, 3, 1, 1), nn.Conv2d(channels, 16, 1, 2), nn.Conv2d(16, 16, 3)]
    model, layouts = nn.Sequential(*shortcut, nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(16, 3)), []
    model[1].register_forward_hook(lambda module, args, y: layouts.append(args[0].is_contiguous()))
    for _ in range(10):
        fit(model, images, Recipe(epochs=2, batch_size=16))
    assert all(layouts)


def test_freezing_by_mode_outlasts_fit(images):
    """A training in two parts is the training in one, frozen batch norms included."""
    model = with_norms(images)
    model[1].eval()
    before = {k: v.clone() for k, v in model.state_dict().items()}
    state = fit(model, images, RECIPE, Variation(0.2), until=1)
    fit(model, images, RECIPE, Variation(0.2), resume=state)
    reestimate_batch_norm(model, images, Variation(0.2), draws=2, batch_size=32)
    assert moved(model, before) == [False, True]
    model.train()  # the user thaws it
    fit(model, images, RECIPE)
    assert moved(model, before) == [True, True]


def test_a_failed_estimation_leaves_the_statistics(images):
    model = with_norms(images)
    model[1].running_mean.fill_(3.0)
    before = {k: v.clone() for k, v in model.state_dict().items()}
    three = replace(images, pixels=images.pixels.repeat(1, 3, 1, 1), mean=(0.3,) * 3, std=(0.25,) * 3)
    floating = build("lenet5", 1, 3, 12)
    for call in (
        lambda: reestimate_batch_norm(model, three, draws=2),
        lambda: reestimate_batch_norm(model, [images], draws=2),
        lambda: reestimate_batch_norm(model, images, draws=0),
        lambda: reestimate_batch_norm(floating, images, Variation(0.1), draws=2, batch_size=16),
    ):
        with pytest.raises(ValueError):
            call()
    assert all(torch.equal(v, before[k]) for k, v in model.state_dict().items())
    assert torch.equal(floating[1].running_mean, torch.zeros(6)) and floating[1].momentum == 0.1

    def fails(module, args):
        if module.training:
            raise RuntimeError("of the user's")

    handle = model[1].register_forward_pre_hook(fails)
    with pytest.raises(RuntimeError, match="of the user's"):
        reestimate_batch_norm(model, images, draws=2, batch_size=32)
    handle.remove()
    assert all(torch.equal(v, before[k]) for k, v in model.state_dict().items()) and model[1].momentum == 0.1


def test_dropout_is_a_function_of_seed_and_step(images):
    states = []
    for _ in range(2):
        torch.randn(5)
        model, before = with_norms(images), torch.get_rng_state()
        states.append(fit(model, images, RECIPE, Variation(0.2)))
        assert torch.equal(torch.get_rng_state(), before)
    assert all(torch.equal(v, states[1][k]) for k, v in states[0].items())


BAD = {
    "σ as a number": (lambda m, i: fit(m, i, RECIPE, 0.3), "variation must be a Variation, .* got 0.3"),
    "variation in the place of the recipe": (lambda m, i: fit(m, i, Variation(0.3)), "recipe must be a Recipe"),
    "a float network under variation": (lambda m, i: fit(build("lenet5", 1, 3, 12), i, RECIPE, Variation(0.3)), "no analog layer"),
    "nothing to train": (lambda m, i: fit(m.requires_grad_(False), i, RECIPE), "no parameter of Sequential takes a gradient"),
    "channels": (lambda m, i: fit(m, replace(i, pixels=i.pixels.repeat(1, 3, 1, 1), mean=(0.3,) * 3, std=(0.25,) * 3), RECIPE), r"does not run on a batch of shape \(32, 3, 12, 12\)"),
}


@pytest.mark.parametrize("case", BAD)
def test_likely_mistakes_are_one_line(images, case):
    call, word = BAD[case]
    with pytest.raises(ValueError, match=word) as error:
        call(with_norms(images), images)
    assert "\n" not in str(error.value)
