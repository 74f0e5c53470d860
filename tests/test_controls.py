"""Controls: each does what its line says, on the chip it is given, and leaves the network as it was."""

import pytest
import torch
from torch import nn

from lib import Chip, Recipe, Variation, build, evaluate, fit, programmed, to_analog
from lib.accounting import cost
from lib.analog import crossbars, evaluating
from lib.controls import NoisyBatchNorm, OutputGain, PerChipBatchNorm, StaticFold, traffic
from lib.selftuning import Oracle, ReferenceCells, SelfTuning, column_sum, peak

ALL = [StaticFold(Oracle(), 32), OutputGain(8), PerChipBatchNorm(64, 32), PerChipBatchNorm(32, 32), NoisyBatchNorm(Variation(0.3), 4)]


@pytest.fixture
def trained(images):
    net = to_analog(build("lenet5", 1, 3, 12), "A4W4", images.normalized()[:32])
    fit(net, images, Recipe(epochs=4, batch_size=16))
    return net


@pytest.mark.parametrize("control", ALL, ids=lambda c: c.label)
def test_the_network_is_left_as_it_was(trained, images, control):
    before = {k: v.clone() for k, v in trained.state_dict().items()}
    tuner, x = control.bind(trained, images), images.normalized()
    law = "layer-fixed" if isinstance(control, StaticFold) else "proportional"
    with evaluating(trained):
        nominal = trained(x)
        with pytest.raises(RuntimeError), programmed(trained, Chip(1), Variation(0.2, 0.3, law), tuner):
            assert not torch.equal(trained(x), nominal)
            raise RuntimeError
        assert torch.equal(trained(x), nominal)
    assert all(torch.equal(v, before[k]) for k, v in trained.state_dict().items())
    a, b = (evaluate(trained, images, Variation(0.2, 0.3, law), 3, tuning=tuner).correct for _ in range(2))
    assert (a == b).all()


def test_output_gain_undoes_a_shared_gain(trained, images):
    variation, x = Variation(between=0.3), images.normalized()
    chip = next(c for c in map(Chip, range(40)) if variation.shared(c) < -0.3)
    tuner = OutputGain(8).bind(trained, images)
    with evaluating(trained):
        nominal = trained(x)
        with programmed(trained, chip, variation, tuner):
            torch.testing.assert_close(trained(x), nominal, atol=1e-4, rtol=1e-4)


def test_static_fold_subtracts_the_mean_charge(images):
    torch.manual_seed(0)
    net = to_analog(nn.Sequential(nn.Conv2d(1, 4, 3, groups=1), nn.ReLU(), nn.Conv2d(4, 4, 3, groups=2)), "A4W4", images.normalized())
    variation, chip, x = Variation(between=0.2, law="layer-fixed"), Chip(3), images.normalized()
    tuner = StaticFold(Oracle(), len(images)).bind(net, images)
    seen = traffic(net, images.balanced(len(images)).normalized())
    with programmed(net, chip, variation, tuner):
        for name, layer in crossbars(net):
            inputs, y = seen[name]
            shift = layer.correct(y, inputs) - y
            sums = column_sum(layer, inputs).mean((0, 2, 3)).repeat_interleave(4 // layer.groups)
            torch.testing.assert_close(shift.mean((0, 2, 3)), -variation.shared(chip) * peak(layer) * sums, rtol=1e-4, atol=1e-5)
            assert shift.flatten(2).std(2).max() < 1e-5  # the same everywhere: that is what makes it static
    with evaluating(net), programmed(net, chip, variation):
        untuned = net(x)
    with evaluating(net), programmed(net, chip, variation, SelfTuning(Oracle())):
        dynamic = net(x)
    with evaluating(net), programmed(net, chip, variation, tuner):
        static = net(x)
    nominal = net(x).detach()
    distance = [float((y - nominal).square().mean()) for y in (dynamic, static, untuned)]
    assert distance[0] < 1e-8 < distance[1] < distance[2]


def test_static_fold_is_for_the_layer_fixed_law(trained, images):
    tuner = StaticFold(Oracle(), 32).bind(trained, images)
    with pytest.raises(ValueError, match=r"this variation is proportional; use Gain\(\)"):
        evaluate(trained, images, Variation(0.1, 0.1), 1, tuning=tuner)


def test_batch_norm_on_the_chip_is_of_that_chip(trained, images):
    """After re-estimation over the same single batch, every BN output of the chip has mean β and deviation γ."""
    tuner = PerChipBatchNorm(96, 96).bind(trained, images)
    found = {}
    layer = next(m for m in trained.modules() if isinstance(m, nn.BatchNorm2d))
    hook = layer.register_forward_hook(lambda m, args, out: found.update(y=out))
    with evaluating(trained), programmed(trained, Chip(5), Variation(0.3, 0.4), tuner):
        trained(images.normalized())
    hook.remove()
    torch.testing.assert_close(found["y"].mean((0, 2, 3)), layer.bias.detach(), atol=2e-3, rtol=1e-3)
    torch.testing.assert_close(found["y"].std((0, 2, 3)), layer.weight.detach().abs(), atol=2e-3, rtol=2e-3)


def test_a_network_without_batch_norm_is_told_what_to_use(images):
    net = to_analog(build("lenet5-classic", 1, 3, 28), "A4W4", torch.randn(4, 1, 28, 28))
    with pytest.raises(ValueError, match="no batch norm to re-estimate; use SelfTuning or OutputGain"):
        PerChipBatchNorm().bind(net, images)


@pytest.mark.parametrize(
    ("make", "line"),
    [
        (lambda: StaticFold(Oracle(), 0), "images.* ≥ 1, got 0"),
        (lambda: OutputGain(0), "images.* ≥ 1, got 0"),
        (lambda: PerChipBatchNorm(64, 128), "images.* ≥ 128, got 64"),
        (lambda: NoisyBatchNorm(Variation(0.1), 0), "draws.* ≥ 1, got 0"),
    ],
)
def test_refusals(make, line):
    with pytest.raises(ValueError, match=line):
        make()


def test_costs_are_reported(trained, images):
    x = images.normalized()[:2]
    found = {c.label: cost(c, trained, x, "layer-fixed") for c in (*ALL, StaticFold(ReferenceCells(9), 32))}
    assert all(c.operations == 0 for c in found.values())
    assert [c.chip_images for c in found.values()] == [0, 8, 64, 32, 0, 0]
    assert found["static fold, 9 cells"].cells == 9


@pytest.mark.parametrize("control", ALL, ids=lambda c: c.label)
def test_configurations_tell_controls_apart(control):
    import json

    others = [json.dumps(c.config(), sort_keys=True) for c in ALL if c is not control]
    assert json.dumps(control.config(), sort_keys=True) not in others
