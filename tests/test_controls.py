"""Controls: each does what its line says, on the chip it is given, and leaves the network as it was."""

import pytest
import torch
from torch import nn

from lib import Chip, Images, Recipe, Variation, build, evaluate, fit, programmed, to_analog
from lib.accounting import cost
from lib.analog import crossbars, evaluating
from lib.columns import ReferenceColumns
from lib.controls import NoisyBatchNorm, OutputGain, PerChipBatchNorm, StaticFold, traffic
from lib.estimators import Oracle, ReferenceCells
from lib.identity import described
from lib.selftuning import SelfTuning, peak
from lib.variation import PassingChip

ALL = [
    StaticFold(Oracle(), 32),
    OutputGain(8),
    PerChipBatchNorm(64, 32),
    PerChipBatchNorm(32, 32),
    NoisyBatchNorm(Variation(0.3), 4),
]


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
    net = nn.Sequential(nn.Conv2d(1, 4, 3, groups=1), nn.ReLU(), nn.Conv2d(4, 4, 3, groups=2))
    net = to_analog(net, "A4W4", images.normalized())
    variation, chip, x = Variation(between=0.2, law="layer-fixed"), Chip(3), images.normalized()
    tuner = StaticFold(Oracle(), len(images)).bind(net, images)
    seen = traffic(net, images.balanced(len(images)).normalized())
    with programmed(net, chip, variation, tuner):
        for name, layer in crossbars(net):
            inputs, y = seen[name]
            shift = layer.correct(y, inputs) - y
            sums = layer.input_sum(inputs).mean((0, 2, 3)).repeat_interleave(4 // layer.groups)
            expected = -variation.shared(chip) * peak(layer) * sums
            torch.testing.assert_close(shift.mean((0, 2, 3)), expected, rtol=1e-4, atol=1e-5)
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


def test_noisy_batch_norm_is_the_average_over_other_chips(trained, images):
    variation = Variation(0.3, 0.2)
    tuner, first = NoisyBatchNorm(variation, 3).bind(trained, images), trained[1]
    found = []
    for chip in (Chip.of("test", 0), Chip.of("test", 1)):
        with evaluating(trained), programmed(trained, chip, variation, tuner):
            found.append(first.running_mean.clone())
    by_hand, net = [], trained[0]
    batches = (batch for epoch in range(3) for batch in images.batches(128, ("batch-norm", 0, epoch)))
    for draw, (x, _) in zip(range(3), batches):
        with evaluating(trained), programmed(trained, PassingChip.of("batch-norm", draw), variation):
            by_hand.append(net(x).mean((0, 2, 3)))
    assert torch.equal(*found)
    torch.testing.assert_close(found[0], torch.stack(by_hand).mean(0), rtol=1e-4, atol=1e-5)


def test_an_interrupt_while_a_chip_is_measured_leaves_no_trace(trained, images):
    before = {k: v.clone() for k, v in trained.state_dict().items()}
    tuner = PerChipBatchNorm(64, 32).bind(trained, images)
    hook = trained[-1].register_forward_pre_hook(lambda *_: (_ for _ in ()).throw(KeyboardInterrupt))
    with pytest.raises(KeyboardInterrupt), programmed(trained, Chip(0), Variation(0.2), tuner):
        pass
    hook.remove()
    assert all(torch.equal(v, before[k]) for k, v in trained.state_dict().items())
    assert all(m.momentum == 0.1 for m in trained.modules() if isinstance(m, nn.BatchNorm2d))


def test_traffic_sees_the_corrected_network(trained, images):
    x, variation = images.normalized()[:8], Variation(between=0.3)
    chip = next(c for c in map(Chip, range(40)) if variation.shared(c) < -0.3)
    nominal = traffic(trained, x)
    with programmed(trained, chip, variation, SelfTuning(Oracle())):
        tuned = traffic(trained, x)
    with programmed(trained, chip, variation):
        untuned = traffic(trained, x)
    last = list(nominal)[-1]
    torch.testing.assert_close(tuned[last][0], nominal[last][0], rtol=1e-4, atol=1e-4)
    assert not torch.allclose(untuned[last][0], nominal[last][0], atol=1e-2)


def test_silent_probes_and_unreached_layers():
    class Net(nn.Module):
        def __init__(self):
            super().__init__()
            self.used, self.unused = nn.Linear(4, 3), nn.Linear(4, 3)

        def forward(self, x):
            return self.used(x.flatten(1).relu())

    net = to_analog(Net())
    blank = Images(torch.zeros(4, 1, 2, 2, dtype=torch.uint8), torch.arange(4) % 2, (0.5,), (1.0,))
    for law, control in (("proportional", OutputGain(2)), ("layer-fixed", StaticFold(Oracle(), 2))):
        with programmed(net, Chip(1), Variation(0.1, 0.2, law), control.bind(net, blank)):
            assert torch.isfinite(net(torch.rand(2, 1, 2, 2))).all()
            y = torch.ones(2, 3)
            assert torch.equal(net.used.correct(y, None), y)  # nothing to go by: gain 1, offset 0


def test_static_fold_of_sequences():
    torch.manual_seed(0)
    net = to_analog(nn.Sequential(nn.Flatten(2), nn.Linear(4, 8, bias=False)))
    data = Images(torch.randint(0, 255, (4, 3, 2, 2), dtype=torch.uint8), torch.arange(4) % 2, (0.0,) * 3, (1.0,) * 3)
    tuner, chip, variation = StaticFold(Oracle(), 4).bind(net, data), Chip(2), Variation(between=0.2, law="layer-fixed")
    with programmed(net, chip, variation, tuner):
        shift = net[1].correct(torch.zeros(2, 3, 8), None)
    mean_sum = data.normalized().flatten(2).sum(2).mean()
    torch.testing.assert_close(shift, (-variation.shared(chip) * peak(net[1]) * mean_sum).expand(2, 3, 8))


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
        (lambda: PerChipBatchNorm(1000, 128), "multiple of batch_size 128, got 1000"),
        (lambda: StaticFold(ReferenceColumns(2)), "reads the chip once, got ReferenceColumns"),
        (lambda: NoisyBatchNorm(Variation(0.1), 0), "draws.* ≥ 1, got 0"),
    ],
)
def test_refusals(make, line):
    with pytest.raises(ValueError, match=line):
        make()


def test_costs_are_reported(trained, images):
    x = images.normalized()[:2]
    found = {
        c.label: cost(c, trained, x, Variation(law="layer-fixed")) for c in (*ALL, StaticFold(ReferenceCells(9), 32))
    }
    assert all(c.operations == 0 for c in found.values())
    assert [c.chip_images for c in found.values()] == [0, 8, 64, 32, 0, 0]
    assert found["static fold, 9 cells"].cells == 9


@pytest.mark.parametrize("control", ALL, ids=lambda c: c.label)
def test_configurations_tell_controls_apart(control):
    import json

    others = [json.dumps(described(c), sort_keys=True) for c in ALL if c is not control]
    assert json.dumps(described(control), sort_keys=True) not in others
