"""Folding into the cells is a shortcut, not an approximation: whole networks, slowly and folded."""

import pytest
import torch
from torch import nn

from lib import (
    Chip,
    Oracle,
    OutputGain,
    ReferenceCells,
    ReferenceColumns,
    SelfTuning,
    Variation,
    build,
    programmed,
    to_analog,
)
from lib.analog import crossbars, evaluating
from lib.companion.your_own_network import Branched
from lib.folding import Chain, folded, plan
from lib.laws import LAWS

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
    found = plan(net, x)
    chained = found.chains.values()
    norms, readers = sum(c.norm is not None for c in chained), sum(c.reader is not None for c in chained)
    assert [norms, readers, sum(len(c.relus) for c in chained)] == counts
    with evaluating(net):
        for tuning in TUNINGS:
            with programmed(net, Chip(3), Variation.split(0.2, 0.5, law), tuning):
                slowly = net(x)
                with folded(net, None, found):
                    # a value within 1e-12 of a rounding edge may fall to the other side; none does here
                    torch.testing.assert_close(net(x), slowly, atol=1e-8, rtol=1e-8)
                torch.testing.assert_close(net(x), slowly, atol=0, rtol=0)  # and nothing stays behind


def test_a_correction_that_does_not_fold_leaves_its_norm_alone(images):
    net = lively(build("lenet5", 1, 3, 12), images.normalized())
    tuner = OutputGain(4).bind(net.float(), images)
    with evaluating(net), programmed(net, Chip(3), Variation(0.2), tuner):
        slowly = net(images.normalized())
        with folded(net, None, plan(net, images.normalized()[:2])):
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
    assert plan(net, x).chains == {} and net.training and len(list(crossbars(net))) >= 1


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


NO_CHAIN = [
    Shortcut,
    SameAgain,
    ReluTwice,
    watched,
    lambda: between(nn.Tanh()),
    lambda: between(nn.ReLU(), nn.AvgPool2d(2)),
    lambda: between(nn.LeakyReLU()),
]


@pytest.mark.parametrize("kind", NO_CHAIN)
def test_a_layer_divides_only_for_one_that_clamps_what_it_alone_reads(kind):
    x = torch.randn(4, 3, 8, 8)
    net = to_analog(kind(), "A4W4", x).double().eval()
    how = plan(net, x.double())
    assert how.chains == {}
    with evaluating(net), folded(net, None, how):
        quickly = net(x.double())
    with evaluating(net):
        torch.testing.assert_close(quickly, net(x.double()), atol=1e-10, rtol=1e-10)


@pytest.mark.parametrize("bits", ["A4W4", "A1W1"])
def test_a_signed_quantizer_needs_its_negative_values(bits):
    x = torch.randn(4, 3, 8, 8)
    assert plan(to_analog(between(), bits, x), x).chains == {}
    net = to_analog(between(nn.ReLU(), nn.MaxPool2d(3, 1)), bits, x)
    assert plan(net, x).chains == {net[0]: Chain(None, (net[1], net[2]), net[3])}


POOLS = [
    nn.MaxPool2d(2),
    nn.MaxPool2d((2, 2), (2, 2)),
    nn.MaxPool2d(2, ceil_mode=True),
    nn.MaxPool2d(3, 2, 1),
    nn.MaxPool2d(2, 1),
]


@pytest.mark.parametrize("pool", POOLS)
@pytest.mark.parametrize("size", [7, 8])
def test_pooling_gives_the_same_maxima(pool, size):
    x = torch.randn(4, 3, size, size)
    net = to_analog(nn.Sequential(pool, nn.Conv2d(3, 2, 1)), "A4W4", x).double().eval()
    with evaluating(net):
        slowly = net(x.double())
        with folded(net):
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
    plan(net, x)
    assert type(net.seen) is torch.Tensor


def test_an_interrupt_while_writing_restores_everything():
    x = torch.randn(4, 3, 8, 8)
    net = to_analog(nn.Sequential(nn.Conv2d(3, 4, 3), nn.BatchNorm2d(4), nn.Conv2d(4, 2, 3)), "A4W4", x).eval()

    def interrupt(w):
        raise KeyboardInterrupt

    before, how = net(x), plan(net, x)
    assert how.chains
    net[2].deviate = interrupt
    with pytest.raises(KeyboardInterrupt), folded(net, None, how):
        pass
    net[2].deviate = None
    assert torch.equal(net(x), before) and not any("forward" in vars(m) for m in net.modules())


def test_a_network_without_running_statistics_is_left_alone():
    net = nn.Sequential(nn.Conv2d(3, 4, 3), nn.BatchNorm2d(4, track_running_stats=False))
    x = torch.randn(4, 3, 8, 8)
    assert plan(to_analog(net, "A4W4", x), x).chains == {}
