"""Canaries: what we use of torch's private names still means what it meant."""

import pytest
import torch
import torch.nn.functional as F
from torch import nn

from lib import torch_internals


@pytest.mark.parametrize("mode", ["zeros", "reflect", "circular"])
def test_a_convolution_takes_other_weights_and_tells_its_border(mode):
    layer, x, w = nn.Conv2d(2, 3, 3, padding=1, padding_mode=mode), torch.randn(1, 2, 5, 5), torch.randn(3, 2, 3, 3)
    border = torch_internals.border(layer)
    padded = F.pad(x, border, mode="constant" if mode == "zeros" else mode)
    assert list(border) == [1, 1, 1, 1]
    torch.testing.assert_close(torch_internals.convolved(layer, x, w, None), F.conv2d(padded, w))


def test_the_gradient_of_a_clamp_is_open_at_its_ends():
    grad, v = torch.ones(5), torch.tensor([-2.0, -1.0, 0.5, 1.0, 2.0])
    assert torch_internals.clamp_gradient(grad, v, -1.0, 1.0).tolist() == [0, 0, 1, 0, 0]


@pytest.mark.parametrize("watch", ["register_forward_hook", "register_forward_pre_hook"])
def test_hooks_are_seen(watch):
    layer = nn.Linear(2, 2)
    assert not torch_internals.is_watched(layer)
    hook = getattr(layer, watch)(lambda *_: None)
    assert torch_internals.is_watched(layer)
    hook.remove()
    assert not torch_internals.is_watched(layer)


@pytest.mark.filterwarnings("ignore:.torch.jit.trace")
def test_kinds_of_networks_are_told_apart():
    plain = nn.Linear(2, 2)
    assert not torch_internals.is_compiled(plain) and torch_internals.is_compiled(torch.compile(plain))
    assert torch_internals.is_compiled(torch.jit.trace(plain, torch.zeros(1, 2)))
    assert torch_internals.has_own_weight(plain)
    assert not torch_internals.has_own_weight(nn.utils.parametrizations.weight_norm(nn.Linear(2, 2)))
    lazy = nn.LazyLinear(2)
    assert torch_internals.is_uninitialized(lazy) and not torch_internals.is_uninitialized(plain)
    lazy(torch.zeros(1, 3))
    assert not torch_internals.is_uninitialized(lazy)
    assert all(
        isinstance(kind(2), torch_internals.BatchNorm) for kind in (nn.BatchNorm1d, nn.BatchNorm2d, nn.BatchNorm3d)
    )


def test_a_transformer_without_its_fast_path_calls_its_layers():
    net = nn.TransformerEncoder(nn.TransformerEncoderLayer(8, 2, 8, batch_first=True), 1).eval()
    layer, calls = net.layers[0].linear1, []
    layer.forward = lambda x: (calls.append(1), F.linear(x, layer.weight, layer.bias))[1]
    with torch.no_grad():
        net(torch.zeros(1, 3, 8))
        assert not calls  # the fast path reads the weights past the forward
        for module in net.modules():
            torch_internals.without_fast_path(module)
        net(torch.zeros(1, 3, 8))
    assert calls and net.use_nested_tensor is False


def test_the_processor_says_whether_it_multiplies_bfloat16():
    assert torch_internals.multiplies_bfloat16() in (True, False)
