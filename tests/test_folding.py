"""Folding into the cells is a shortcut, not an approximation: whole networks, slowly and folded."""

import pytest
import torch
from torch import nn

from lib import (
    Chip, Oracle, OutputGain, Recipe, ReferenceCells, ReferenceColumns, SelfTuning, Variation, build, evaluate, fit, programmed, to_analog,
)  # fmt: skip
from lib.analog import crossbars, evaluating
from lib.folding import Chain, way, written
from lib.own_network import Branched
from lib.variation import LAWS

TUNINGS = (None, SelfTuning(Oracle()), SelfTuning(ReferenceCells(8)), SelfTuning(ReferenceColumns(2)))


def lively(net: nn.Module, x: torch.Tensor) -> nn.Module:
    """An analog network of float64 whose batch norms have statistics and affine parameters of their own."""
    torch.manual_seed(0)
    for m in net.modules():
        if isinstance(m, (nn.BatchNorm1d, nn.BatchNorm2d)):
            nn.init.uniform_(m.weight, 0.5, 1.5), nn.init.normal_(m.bias, 0, 0.3)
    net.train()
    with torch.no_grad():
        for _ in range(5):
            net(x)
    return to_analog(net, "A4W4", x).double().eval()


# name → (network, batch norms folded, layers that divide by the step of the next, ReLUs left out)
NETWORKS = {
    "lenet5": (lambda: build("lenet5", 1, 10, 28), 2, 2, 2),
    "vgg11": (lambda: build("vgg11", 1, 10, 28, 0.125), 8, 7, 7),
    "resnet18": (lambda: build("resnet18", 1, 10, 28, 0.125), 20, 8, 8),
    "branched": (Branched, 4, 1, 1),
}


@pytest.mark.parametrize("law", LAWS)
@pytest.mark.parametrize("name", NETWORKS)
def test_networks_compute_the_same(name, law):
    make, *counts = NETWORKS[name]
    x = torch.randn(16, 3 if name == "branched" else 1, 28, 28, generator=torch.Generator().manual_seed(1))
    net = lively(make(), x)
    x = x.double()
    found = way(net, x)
    chained = found.chains.values()
    assert [sum(c.norm is not None for c in chained), sum(c.reader is not None for c in chained), sum(len(c.relus) for c in chained)] == counts
    with evaluating(net):
        for tuning in TUNINGS:
            with programmed(net, Chip(3), Variation.split(0.2, 0.5, law), tuning):
                slowly = net(x)
                with written(net, None, found):
                    # a value within 1e-12 of a rounding edge may fall to the other side; none does here
                    torch.testing.assert_close(net(x), slowly, atol=1e-8, rtol=1e-8)
                torch.testing.assert_close(net(x), slowly, atol=0, rtol=0)  # and nothing stays behind


def test_a_correction_that_does_not_fold_leaves_its_norm_alone(images):
    net = lively(build("lenet5", 1, 3, 12), images.normalized())
    tuner = OutputGain(4).bind(net.float(), images)
    with evaluating(net), programmed(net, Chip(3), Variation(0.2), tuner):
        slowly = net(images.normalized())
        with written(net, None, way(net, images.normalized()[:2])):
            torch.testing.assert_close(net(images.normalized()), slowly, atol=1e-4, rtol=1e-4)


class ReadTwice(nn.Module):
    def __init__(self):
        super().__init__()
        self.conv, self.norm, self.other = nn.Conv2d(3, 4, 3), nn.BatchNorm2d(4), nn.Conv2d(4, 4, 1)

    def forward(self, x):
        y = self.conv(x)
        return self.norm(y) + self.norm(self.other(y))


class Undecided(nn.Module):
    def __init__(self):
        super().__init__()
        self.conv, self.norm = nn.Conv2d(3, 4, 3), nn.BatchNorm2d(4)

    def forward(self, x):
        return self.norm(self.conv(x)) if x.mean() > 0 else self.conv(x)


class BatchNormReLU(nn.BatchNorm2d):
    def forward(self, x):
        return super().forward(x).relu()


class OtherInTraining(ReadTwice):
    def forward(self, x):
        y = self.conv(x)
        return self.norm(y) if self.training else self.norm(y) + y


class AlsoInside(ReadTwice):
    def __init__(self):
        super().__init__()
        self.post = nn.Sequential(self.norm, nn.ReLU())

    def forward(self, x):
        return self.norm(self.conv(x)) + self.post(x[:, :1, 2:, 2:].expand(-1, 4, -1, -1))


def hooked():
    net = nn.Sequential(nn.Conv2d(3, 4, 3), nn.BatchNorm2d(4))
    net[0].register_forward_hook(lambda module, args, y: 2 * y)
    return net


def subclassed():
    return nn.Sequential(nn.Conv2d(3, 4, 3), BatchNormReLU(4))


def linear():
    return nn.Sequential(nn.Flatten(2), nn.Linear(64, 5), nn.BatchNorm1d(3))


@pytest.mark.parametrize("kind", [ReadTwice, Undecided, OtherInTraining, AlsoInside, hooked, subclassed, linear])
def test_what_is_not_certain_is_not_folded(kind):
    x = torch.randn(4, 3, 8, 8)
    net = to_analog(kind(), "A4W4", x)
    assert way(net, x).chains == {} and net.training and len(list(crossbars(net))) >= 1


class Shortcut(nn.Module):
    """The ReLU's result goes two ways."""

    def __init__(self):
        super().__init__()
        self.first, self.relu, self.second = nn.Conv2d(3, 4, 3, padding=1), nn.ReLU(), nn.Conv2d(4, 4, 3, padding=1)

    def forward(self, x):
        x = self.relu(self.first(x))
        return x + self.second(x)


class SameAgain(Shortcut):
    """The layer that would read divided values reads others too."""

    def forward(self, x):
        x = self.relu(self.first(x))
        return self.second(self.second(x).abs())


class ReluTwice(Shortcut):
    def forward(self, x):
        return self.relu(self.second(self.relu(self.first(x))))


def between(*modules):
    return nn.Sequential(nn.Conv2d(3, 4, 3), *modules, nn.Conv2d(4, 2, 1))


def watched():
    net = between(nn.ReLU())
    net[1].register_forward_pre_hook(lambda module, args: None)
    return net


@pytest.mark.parametrize(
    "kind",
    [Shortcut, SameAgain, ReluTwice, watched, lambda: between(nn.Tanh()), lambda: between(nn.ReLU(), nn.AvgPool2d(2)), lambda: between(nn.LeakyReLU())],
)  # fmt: skip
def test_a_layer_divides_only_for_one_that_clamps_what_it_alone_reads(kind):
    x = torch.randn(4, 3, 8, 8)
    net = to_analog(kind(), "A4W4", x).double().eval()
    how = way(net, x.double())
    assert how.chains == {}
    with evaluating(net), written(net, None, how):
        folded = net(x.double())
    with evaluating(net):
        torch.testing.assert_close(folded, net(x.double()), atol=1e-10, rtol=1e-10)


@pytest.mark.parametrize("bits", ["A4W4", "A1W1"])
def test_a_signed_quantizer_needs_its_negative_values(bits):
    x = torch.randn(4, 3, 8, 8)
    assert way(to_analog(between(), bits, x), x).chains == {}
    net = to_analog(between(nn.ReLU(), nn.MaxPool2d(3, 1)), bits, x)
    assert way(net, x).chains == {net[0]: Chain(None, (net[1], net[2]), net[3])}


@pytest.mark.parametrize("pool", [nn.MaxPool2d(2), nn.MaxPool2d((2, 2), (2, 2)), nn.MaxPool2d(2, ceil_mode=True), nn.MaxPool2d(3, 2, 1), nn.MaxPool2d(2, 1)])
@pytest.mark.parametrize("size", [7, 8])
def test_pooling_gives_the_same_maxima(pool, size):
    x = torch.randn(4, 3, size, size)
    net = to_analog(nn.Sequential(pool, nn.Conv2d(3, 2, 1)), "A4W4", x).double().eval()
    with evaluating(net):
        slowly = net(x.double())
        with written(net):
            assert torch.allclose(net(x.double()), slowly, atol=1e-12)
            assert torch.equal(net[0](x), pool(x))


class Remembers(nn.Module):
    def __init__(self):
        super().__init__()
        self.conv, self.norm, self.seen = nn.Conv2d(3, 4, 3), nn.BatchNorm2d(4), None

    def forward(self, x):
        self.seen = x if self.seen is None else self.seen
        return self.norm(self.conv(x))


def test_tracing_leaves_nothing_in_the_network():
    x = torch.randn(4, 3, 8, 8)
    net = to_analog(Remembers(), "A4W4", x)
    net.seen = None
    way(net, x)
    assert type(net.seen) is torch.Tensor


class Masked(Shortcut):
    """Traced with a mask, used without."""

    def forward(self, x, mask=None):
        y = self.first(x)
        return self.second(self.relu(y)) * (torch.sigmoid(y) if mask is None else mask)


class AroundTheCall(Shortcut):
    def forward(self, x):
        return self.second(self.relu(self.first(x))) + self.relu.forward(x.mean(1, keepdim=True))


class Gate(nn.Module):
    skip = None

    def forward(self, x):
        return x + self.skip


class Stash(Shortcut):
    def __init__(self):
        super().__init__()
        self.gate = Gate()

    def forward(self, x):
        y = self.gate.skip = self.first(x)
        return self.gate(self.second(self.relu(y)))


class ByTypes(Shortcut):
    def forward(self, x):
        y = self.first(x)
        return self.second(self.relu(y)) + (y if isinstance(y, torch.Tensor) else 0)


class Flat(Shortcut):
    """Takes no channels-last tensor."""

    def __init__(self):
        super().__init__()
        self.second = nn.Linear(256, 5)

    def forward(self, x):
        x = self.relu(self.first(x))
        return self.second(x.view(x.size(0), -1))


class Keywords(Shortcut):
    def __init__(self):
        super().__init__()
        self.pool = nn.MaxPool2d(2)

    def forward(self, x):
        return self.second(self.pool(input=self.relu(input=self.first(x))))


class Keeps(Shortcut):
    kept = None

    def forward(self, x):
        self.kept = self.first(x)
        return self.second(self.relu(self.kept))


def inside_watched():
    net = nn.Sequential(nn.Sequential(nn.Conv2d(3, 4, 3), nn.ReLU()), nn.Conv2d(4, 2, 1))
    net[0].register_forward_hook(lambda module, args, y: None)
    return net


UNSEEN = [Masked, AroundTheCall, Stash, ByTypes, Flat, Keywords, Keeps, inside_watched]


@pytest.mark.parametrize("kind", UNSEEN)
def test_what_no_trace_shows_is_tried_before_it_is_trusted(kind):
    x = torch.randn(6, 3, 8, 8)
    net = to_analog(kind(), "A4W4", x).double().eval()
    x = x.double()
    how = way(net, x)
    with evaluating(net), programmed(net, Chip(1), Variation(0.2)):
        slowly = net(x)
        with written(net, None, how):
            torch.testing.assert_close(net(x.contiguous(memory_format=how.layout)), slowly, atol=1e-8, rtol=1e-8)
    assert bool(how.chains) == (kind is Keywords) and (how.layout is torch.contiguous_format) == (kind is Flat)


def test_networks_that_view_can_be_trained_and_evaluated(images):
    class Viewed(nn.Module):
        def __init__(self):
            super().__init__()
            self.conv, self.wide, self.fc = nn.Conv2d(1, 8, 3), nn.Conv2d(8, 8, 3), nn.Linear(512, 3)

        def forward(self, x):
            return self.fc(self.wide(self.conv(x).relu()).relu().view(-1, 512))

    net = to_analog(Viewed(), "A4W4", images.normalized())
    fit(net, images, Recipe(epochs=1, batch_size=8, bn_draws=2), Variation(0.2))
    for precision in ("float32", "bfloat16"):
        assert evaluate(net, images, Variation(0.1), 2, precision=precision).images.tolist() == [len(images)] * 2


def test_a_network_that_keeps_what_it_computed_can_be_evaluated(images):
    net = to_analog(nn.Sequential(nn.Conv2d(1, 3, 1), Keeps(), nn.AdaptiveAvgPool2d(1), nn.Flatten()), "A4W4", images.normalized())
    net(images.normalized()).sum().backward()
    assert len(evaluate(net, images, Variation(0.1), 1).correct) == 1


def patched(module):
    forward = module.forward
    module.forward = lambda x: 2 * forward(x)
    return module


@pytest.mark.parametrize("i", range(4))
def test_a_forward_that_somebody_has_changed_stays(i):
    x = torch.randn(6, 3, 8, 8)
    net = to_analog(nn.Sequential(nn.Conv2d(3, 4, 3), nn.ReLU(), nn.MaxPool2d(2), nn.Conv2d(4, 2, 1)), "A4W4", x).double().eval()
    changed = patched(net[i]).forward
    how = way(net, x.double())
    with evaluating(net):
        slowly = net(x.double())
        with written(net, None, how):
            torch.testing.assert_close(net(x.double()), slowly, atol=1e-10, rtol=1e-10)
    assert net[i].forward is changed and not how.chains


def test_a_tuner_may_change_what_a_chain_passes():
    x = torch.randn(6, 3, 8, 8)
    net = to_analog(nn.Sequential(nn.Conv2d(3, 4, 3), nn.ReLU(), nn.Conv2d(4, 2, 1)), "A4W4", x).double().eval()
    how = way(net, x.double())
    assert how.chains
    hook = net[1].register_forward_hook(lambda module, args, y: y + 0.3)
    for change in (lambda: None, hook.remove, lambda: setattr(net[2].quantize_input, "signed", True),
                   lambda: net[2].quantize_input.register_forward_hook(lambda module, args, y: 2 * y)):  # fmt: skip
        change()
        with evaluating(net):
            slowly = net(x.double())
            with written(net, None, how):
                torch.testing.assert_close(net(x.double()), slowly, atol=1e-10, rtol=1e-10)


def test_an_interrupt_while_writing_restores_everything():
    x = torch.randn(4, 3, 8, 8)
    net = to_analog(nn.Sequential(nn.Conv2d(3, 4, 3), nn.BatchNorm2d(4), nn.Conv2d(4, 2, 3)), "A4W4", x).eval()

    def interrupt(w):
        raise KeyboardInterrupt

    before, how = net(x), way(net, x)
    assert how.chains
    net[2].deviate = interrupt
    with pytest.raises(KeyboardInterrupt), written(net, None, how):
        pass
    net[2].deviate = None
    assert torch.equal(net(x), before) and not any("forward" in vars(m) for m in net.modules())


def test_a_network_without_running_statistics_is_left_alone():
    net = nn.Sequential(nn.Conv2d(3, 4, 3), nn.BatchNorm2d(4, track_running_stats=False))
    x = torch.randn(4, 3, 8, 8)
    assert way(to_analog(net, "A4W4", x), x).chains == {}
