"""What a user has set outlasts training: frozen batch norms, modes, hooks, statistics where an estimation fails."""

import pytest
import torch
from conftest import in_colour, with_norms

from lib import (
    Recipe,
    Variation,
    build,
    fit,
    freeze_batch_norm,
    post_training_quantize,
    reestimate_batch_norm,
    to_analog,
)
from lib.analog import crossbars

RECIPE = Recipe(epochs=3, batch_size=16, lr=0.05, bn_draws=4)


def moved(model, before):
    return [not torch.equal(model[i].running_mean, before[f"{i}.running_mean"]) for i in (1, 4)]


def test_frozen_norms_keep_their_statistics_and_use_them_until_training_mode(images):
    model = with_norms(images)
    fit(model, images, RECIPE, Variation(0.2))
    before = {k: v.clone() for k, v in model.state_dict().items()}
    freeze_batch_norm(model)
    modes = []
    hooks = [model[i].register_forward_hook(lambda module, args, y: modes.append(module.training)) for i in (1, 4)]
    for _ in range(2):  # and in a second call too
        fit(model, images, RECIPE, Variation.split(0.3, 0.5))
    assert moved(model, before) == [False, False] and not torch.equal(model[0].weight, before["0.weight"])
    assert modes and not any(modes) and not torch.equal(model[1].weight, before["1.weight"])  # scales still learn
    for hook in hooks:
        hook.remove()
    fit(model.train(), images, RECIPE, Variation(0.2))
    assert moved(model, before) == [True, True]


def test_frozen_norms_are_what_lets_a_shared_gain_be_learned(images):
    """The gradient of a shared gain: none through statistics of the batch, some through running ones."""
    slopes = []
    for frozen in (False, True):
        torch.manual_seed(0)
        model = torch.nn.Sequential(torch.nn.Conv2d(1, 4, 3, bias=False), torch.nn.BatchNorm2d(4, eps=1e-12))
        model = to_analog(model).train()
        model[1].bias.data.fill_(0.3)
        model(images.normalized())
        if frozen:
            freeze_batch_norm(model)
        gain = torch.ones((), requires_grad=True)
        model[0].deviate = lambda w, gain=gain: w * gain
        model(images.normalized()).square().sum().backward()
        slopes.append(abs(gain.grad.item()))
    assert slopes[0] < 1e-2 < 1 < slopes[1]


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
    assert torch.equal(quantized[1].running_mean, before["1.running_mean"])
    assert not torch.equal(quantized[4].running_mean, model[4].running_mean)


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
    assert [len(quantized[i]._forward_pre_hooks) for i in (0, 3, 7)] == [1, 0, 0]
    assert len(quantized[0]._forward_hooks) == 1
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
    floating = build("lenet5", 1, 3, 12)
    for call in (
        lambda: reestimate_batch_norm(model, in_colour(images), draws=2),
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
