"""What cannot be converted is refused in one line, with the fix; what merely looks odd is converted."""

import warnings

import pytest
import torch
import torch.nn.functional as F
from test_conversion_idle import Residual
from torch import nn
from torch.nn.utils import prune
from torch.nn.utils.parametrizations import weight_norm

from lib import to_analog

X = torch.randn(8, 12)


def keeps():
    class Keeps(nn.Module):
        def __init__(self):
            super().__init__()
            self.fc = nn.Linear(12, 3)

        def forward(self, x):
            self.features = self.fc(x)
            return self.features

    net = Keeps()
    net(X)
    return net


class TwoInputs(nn.Module):
    def __init__(self):
        super().__init__()
        self.fc = nn.Linear(12, 3)

    def forward(self, x, mask):
        return self.fc(x) * mask


class OnlyRead(nn.Module):
    def __init__(self):
        super().__init__()
        self.fc = nn.Linear(12, 3)

    def forward(self, x):
        return F.linear(x, self.fc.weight)


def linear():
    return nn.Linear(12, 3)


def single(change):
    """A network of one layer that has been changed so."""
    return lambda: nn.Sequential(change(linear()))


def pruned(layer):
    return prune.l1_unstructured(layer, "weight", 0.5)


INFINITE = torch.cat([X, torch.full((1, 12), torch.inf)])
RAW, RAW_FLOAT = torch.randint(0, 255, (8, 12), dtype=torch.uint8), torch.arange(0, 192, 2.0).view(8, 1, 3, 4)
# what cannot be converted, with which batch → parts of the line that says so
REFUSED = {
    "parametrized": (single(weight_norm), X, ["layer '0'", "computed", "remove_parametrizations"]),
    "old weight norm": (single(nn.utils.weight_norm), X, ["layer '0'", "remove_weight_norm"]),
    "spectral norm": (single(nn.utils.spectral_norm), X, ["layer '0'", "spectral_norm"]),
    "pruned": (single(pruned), X, ["layer '0'", "prune.remove"]),
    "lazy": (lambda: nn.Sequential(nn.LazyLinear(3)), X, ["layer '0'", "lazy", "one batch"]),
    "scripted": (lambda: torch.jit.script(nn.Sequential(linear())), X, ["scripted", "convert the module"]),
    "scripted part": (lambda: nn.Sequential(linear(), torch.jit.script(nn.ReLU())), X, ["'1'", "scripted"]),
    "two inputs": (TwoInputs, X, ["TwoInputs.forward takes (x, mask)", "one batch", "wrap it"]),
    "zeros": (linear, torch.zeros(8, 12), ["calibrate", "zeros alone"]),
    "NaN": (linear, X.clone().fill_(float("nan")), ["96 values that are not finite"]),
    "one infinite value": (linear, INFINITE, ["12 values that are not finite"]),
    "bytes": (linear, RAW, ["raw pixels (uint8)", "normalized()"]),
    "pixels as float": (lambda: nn.Sequential(nn.Flatten(), linear()), RAW_FLOAT, ["look like raw pixels"]),
    "a dataset": (linear, [X], ["calibrate", "got list"]),
    "unread alone": (lambda: nn.Sequential(OnlyRead()), X, ["no Conv2d or Linear layer", "reaches"]),
}


@pytest.mark.filterwarnings("ignore::FutureWarning", "ignore::DeprecationWarning", "ignore:Lazy modules")
@pytest.mark.parametrize("bits", ["A4W4", None])
@pytest.mark.parametrize("case", REFUSED)
def test_what_cannot_be_converted_is_one_line(case, bits):
    make, batch, parts = REFUSED[case]
    with pytest.raises(ValueError) as error:
        to_analog(make(), bits, batch)
    message = str(error.value)
    assert "\n" not in message and all(part in message for part in parts), message


def test_a_module_that_keeps_an_activation_is_converted():
    net = keeps()
    analog = to_analog(net, "A8W8", X)
    assert (analog(X) - net(X)).abs().max() < 0.1 and net.features.requires_grad


@pytest.mark.parametrize("dtype", [torch.float64, torch.float16, torch.bfloat16])
def test_networks_of_other_types_are_converted_with_a_float_batch(dtype):
    analog = to_analog(nn.Sequential(nn.Linear(12, 5), nn.ReLU(), nn.Linear(5, 3)).to(dtype), "A8W8", X)
    assert analog(X.to(dtype)).dtype == dtype


def test_a_large_digital_share_is_said_at_conversion():
    digital = nn.Unflatten(1, (1, 3)), nn.ConvTranspose1d(1, 60, 3), nn.Flatten()
    with pytest.warns(UserWarning, match=r"only \d+ % of the parameters of Sequential are on crossbars.*report\(net\)"):
        to_analog(nn.Sequential(nn.Linear(12, 3), *digital), "A4W4", X)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        to_analog(nn.Sequential(nn.Linear(12, 3), nn.BatchNorm1d(3)), "A4W4", X)


def test_a_batch_of_another_shape_is_named():
    words = [
        (torch.randn(4, 3, 9, 9), "(4, 3, 9, 9)"),
        (torch.tensor(1.0), "at least one"),
        (torch.randn(9), "of shape (4,)"),
    ]
    for batch, word in words:
        with pytest.raises(ValueError) as error:
            to_analog(Residual(), "A4W4", batch)
        assert word in str(error.value) and "\n" not in str(error.value)
