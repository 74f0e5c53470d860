"""Layers that only look idle, from a silent branch or black images, are put on crossbars all the same."""

from dataclasses import dataclass

import pytest
import torch
import torch.nn.functional as F
from test_conversion import Auxiliary, vision
from torch import nn

from lib import report, to_analog


class Residual(nn.Module):
    """A branch that begins silent: the scale of its batch norm is zero."""

    def __init__(self):
        super().__init__()
        self.stem, self.conv = nn.Conv2d(1, 4, 3), nn.Conv2d(4, 4, 3, padding=1)
        self.norm, self.head = nn.BatchNorm2d(4), nn.Linear(4, 3)
        nn.init.zeros_(self.norm.weight)

    def forward(self, x):
        x = self.stem(x)
        return self.head((x + self.norm(self.conv(x))).relu().mean((2, 3)))


class Experts(nn.Module):
    """Each image takes one of two ways."""

    def __init__(self):
        super().__init__()
        self.ways, self.head = nn.ModuleList([nn.Linear(12, 12), nn.Linear(12, 12)]), nn.Linear(12, 3)

    def forward(self, x):
        first = x[:, 0] < 1.2
        y = x.new_zeros(x.shape)
        for way, chosen in zip(self.ways, (first, ~first)):
            if chosen.any():
                y[chosen] = way(x[chosen])
        return self.head(y)


@dataclass
class Output:
    logits: torch.Tensor


class Structured(Residual):
    def forward(self, x):
        return Output(super().forward(x))


class Keyword(Residual):
    def forward(self, x):
        return self.head(input=self.stem(input=x).relu().mean((2, 3)) + self.conv(input=self.stem(x)).mean((2, 3)))


class Noisy(Auxiliary):
    """Drops out in evaluation too."""

    def forward(self, x):
        return F.dropout(super().forward(x), training=True)


class Decides(nn.Module):
    """Returns a class: no gradient comes back from it."""

    def __init__(self):
        super().__init__()
        self.first, self.second = nn.Linear(12, 12), nn.Linear(12, 3)

    def forward(self, x):
        return self.second(self.first(x).relu()).argmax(1)


def silent_head():
    net = nn.Sequential(nn.Linear(12, 9), nn.ReLU(), nn.Linear(9, 3))
    for p in net[2].parameters():
        nn.init.zeros_(p)
    return net


def black_first():
    """A network without biases, and a batch whose first half is black."""
    convolution, head = nn.Conv2d(1, 3, 3, bias=False), nn.Linear(147, 3, bias=False)
    x = torch.randn(64, 1, 9, 9)
    x[:32] = 0
    return nn.Sequential(convolution, nn.ReLU(), nn.Flatten(), head), x


# what makes a network and a batch → layers that stay digital
ONLY_LOOKING_IDLE = {
    "a silent branch": (lambda: (Residual(), torch.randn(8, 1, 9, 9)), set()),
    "a head of zeros": (lambda: (silent_head(), torch.randn(8, 12)), set()),
    "black images first": (black_first, set()),
    "experts": (lambda: (Experts(), torch.randn(64, 12)), set()),
    "an output of fields": (lambda: (Structured(), torch.randn(8, 1, 9, 9)), set()),
    "calls by keyword": (lambda: (Keyword(), torch.randn(8, 1, 9, 9)), set()),
    "dropout in evaluation": (lambda: (Noisy(), torch.randn(8, 12)), {"auxiliary", "lost"}),
    "without gradients": (lambda: (Residual().requires_grad_(False), torch.randn(8, 1, 9, 9)), set()),
    "a decision": (lambda: (Decides(), torch.randn(64, 12)), set()),
    "zero_init_residual": (lambda: (vision("resnet18", zero_init_residual=True), torch.randn(4, 3, 32, 32)), set()),
}


@pytest.mark.parametrize("bits", ["A8W8", None])
@pytest.mark.parametrize("case", ONLY_LOOKING_IDLE)
def test_what_only_looks_idle_is_put_on_crossbars(case, bits):
    torch.manual_seed(0)
    net, x = ONLY_LOOKING_IDLE[case][0]()
    before, state = torch.get_rng_state(), {k: v.clone() for k, v in net.state_dict().items()}
    digital = {row.name for row in report(to_analog(net, bits, x)) if row.kind in ("Linear", "Conv2d")}
    assert digital == ONLY_LOOKING_IDLE[case][1]
    assert torch.equal(torch.get_rng_state(), before)
    assert all(torch.equal(v, state[k]) for k, v in net.state_dict().items())


def test_activations_kept_in_lists_do_not_matter():
    class Lists(Residual):
        def forward(self, x):
            self.seen = {"stem": [self.stem(x)]}
            return super().forward(x)

    net = Lists()
    net(torch.randn(4, 1, 9, 9))
    assert len(report(to_analog(net, "A4W4", torch.randn(4, 1, 9, 9)))) == 4
