"""Solutions of `04_within_and_between_chips.ipynb`: exercise_N() returns what its cell hands to `check`."""

import torch
from torch import nn

from lib import programmed, to_analog
from lib.accounting import shared_gain
from lib.variation import Chip


def break_even(x):
    return 1 / (1 + x.sum() ** 2 / x.square().sum()).item()


def exercise_1():
    x = torch.ones(256)
    return break_even(x), break_even(x * (torch.arange(256) < 64))


def exercise_2():
    torch.manual_seed(0)
    layers = [nn.Linear(20, 20, bias=False) for _ in range(4)] + [nn.Linear(20, 10, bias=False)]
    start = torch.rand(200, 20)

    def logits(gain):
        x = start
        for layer in layers[:-1]:
            x = torch.relu(gain * layer(x))
        return gain * layers[-1](x)

    with torch.no_grad():
        before, after = logits(1.0), logits(0.8)
    return (after / before).median().item(), int((before.argmax(1) != after.argmax(1)).sum())


def exercise_3():
    layer, x = nn.Linear(60, 10, bias=False), torch.full((1, 60), 0.5)
    layer.weight.data = 0.2 * torch.sign(torch.randn(10, 60, generator=torch.Generator().manual_seed(0)))
    net = to_analog(layer, "A8W2", x)
    net.quantize_weight.step.data.fill_(0.2)
    with torch.no_grad():
        before = net(x)
        with programmed(net, Chip.of("test", 0), shared_gain(0.16, law="layer-fixed")):
            moved = (net(x) - before)[0]
    return moved.mean().item(), round((moved[0] - moved[1]).item(), 5)
