"""What folding must not trust: forwards that do what no trace shows, and what somebody has changed."""

import pytest
import torch
from test_folding import Shortcut
from torch import nn

from lib import Chip, Recipe, Variation, evaluate, fit, programmed, to_analog
from lib.analog import evaluating
from lib.folding import folded, plan


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
    how = plan(net, x)
    with evaluating(net), programmed(net, Chip(1), Variation(0.2)):
        slowly = net(x)
        with folded(net, None, how):
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
    net = nn.Sequential(nn.Conv2d(1, 3, 1), Keeps(), nn.AdaptiveAvgPool2d(1), nn.Flatten())
    net = to_analog(net, "A4W4", images.normalized())
    net(images.normalized()).sum().backward()
    assert len(evaluate(net, images, Variation(0.1), 1).correct) == 1


def patched(module):
    forward = module.forward
    module.forward = lambda x: 2 * forward(x)
    return module


@pytest.mark.parametrize("i", range(4))
def test_a_forward_that_somebody_has_changed_stays(i):
    x = torch.randn(6, 3, 8, 8)
    net = nn.Sequential(nn.Conv2d(3, 4, 3), nn.ReLU(), nn.MaxPool2d(2), nn.Conv2d(4, 2, 1))
    net = to_analog(net, "A4W4", x).double().eval()
    changed = patched(net[i]).forward
    how = plan(net, x.double())
    with evaluating(net):
        slowly = net(x.double())
        with folded(net, None, how):
            torch.testing.assert_close(net(x.double()), slowly, atol=1e-10, rtol=1e-10)
    assert net[i].forward is changed and not how.chains


def test_a_tuner_may_change_what_a_chain_passes():
    x = torch.randn(6, 3, 8, 8)
    net = to_analog(nn.Sequential(nn.Conv2d(3, 4, 3), nn.ReLU(), nn.Conv2d(4, 2, 1)), "A4W4", x).double().eval()
    how = plan(net, x.double())
    assert how.chains
    hook = net[1].register_forward_hook(lambda module, args, y: y + 0.3)
    reader = net[2].quantize_input
    changes = [
        lambda: None,
        hook.remove,
        lambda: setattr(reader, "signed", True),
        lambda: reader.register_forward_hook(lambda module, args, y: 2 * y),
    ]
    for change in changes:
        change()
        with evaluating(net):
            slowly = net(x.double())
            with folded(net, None, how):
                torch.testing.assert_close(net(x.double()), slowly, atol=1e-10, rtol=1e-10)
