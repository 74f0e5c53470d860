"""Training: it learns, resumes bit for bit, re-estimates batch norms, and refuses what it cannot train."""

from dataclasses import replace

import pytest
import torch
from conftest import in_colour, with_norms
from torch import nn

from lib import Images, Recipe, Variation, accuracy, build, fit, programmed, reestimate_batch_norm, to_analog
from lib.data import Augment
from lib.variation import PassingChip

RECIPE = Recipe(epochs=3, batch_size=16, lr=0.05, bn_draws=4)


def net(images, bits=None):
    return to_analog(build("lenet5", 1, 3, 12), bits, images.normalized()[:32])


METHODS = [(None, Variation()), ("A4W2", Variation()), (None, Variation(0.3)), ("A4W2", Variation.split(0.3, 0.5))]


@pytest.mark.parametrize("bits,variation", METHODS)
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


def test_what_goes_on_sees_other_images_and_chips(images):
    """begun: the order of images and the chips are those of later epochs; the states differ from a start anew."""
    orders = [[x.sum().item() for x, _ in images.batches(16, ("train", 0, epoch))] for epoch in range(3)]
    seen, chips = [], []

    def look(module, args):
        seen.append(args[0].sum().item())

    for begun in (0, 2):
        model = net(images, "A4W2")
        model.register_forward_pre_hook(look)
        seen.clear()
        state = fit(model, images, replace(RECIPE, epochs=1, bn_draws=0), Variation(0.3), begun=begun)
        assert seen[-6:] == orders[begun]
        chips.append(state["net/0.weight"])
    assert not torch.equal(*chips)
    with pytest.raises(ValueError, match="begun must be an integer ≥ 0, got -1"):
        fit(net(images), images, RECIPE, begun=-1)


def test_a_clipped_gradient_moves_no_further_than_its_norm(images):
    """Plain gradient descent at rate 1: one step is the gradient, at most `clip` long over all parameters."""
    plain = replace(RECIPE, epochs=1, batch_size=96, lr=1.0, momentum=0.0, weight_decay=0.0, warmup=0.0)
    lengths = {}
    for clip in (None, 1e-3, 1e6):
        model = net(images, "A4W4")
        before = [p.detach().clone() for p in model.parameters()]
        fit(model, images, replace(plain, clip=clip))
        steps = [(p - q).square().sum() for p, q in zip(model.parameters(), before)]
        lengths[clip] = torch.stack(steps).sum().sqrt().item()
    assert lengths[None] > 1e-2 and lengths[1e6] == pytest.approx(lengths[None])
    assert lengths[1e-3] == pytest.approx(1e-3, rel=1e-2)
    for wrong in (0, -1.0, float("nan")):
        with pytest.raises(ValueError, match="clip must be a finite number ≥ 1e-12, got"):
            replace(plain, clip=wrong)


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


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16])
def test_half_precision_is_not_trained(images, dtype):
    line = r"trains in float32 or float64, .* is in torch\.b?float16; call net.float\(\) first"
    with pytest.raises(ValueError, match=line):
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
    "variation in place of the recipe": (lambda m, i: fit(m, i, Variation(0.3)), "recipe must be a Recipe"),
    "a float network under variation": (
        lambda m, i: fit(build("lenet5", 1, 3, 12), i, RECIPE, Variation(0.3)),
        "no analog layer",
    ),
    "nothing to train": (
        lambda m, i: fit(m.requires_grad_(False), i, RECIPE),
        "no parameter of Sequential takes a gradient",
    ),
    "channels": (lambda m, i: fit(m, in_colour(i), RECIPE), r"does not run on a batch of shape \(32, 3, 12, 12\)"),
}


@pytest.mark.parametrize("case", BAD)
def test_likely_mistakes_are_one_line(images, case):
    call, word = BAD[case]
    with pytest.raises(ValueError, match=word) as error:
        call(with_norms(images), images)
    assert "\n" not in str(error.value)
