"""The private names of torch that this package leans on, each behind a name of ours.

tests/test_torch_internals.py notices when a new torch changes one of them.
"""

from __future__ import annotations

import torch
from torch import Tensor, nn
from torch.nn.modules.batchnorm import _BatchNorm as BatchNorm  # 1d, 2d and 3d
from torch.nn.modules.lazy import LazyModuleMixin

__all__ = ["BatchNorm"]


def convolved(layer: nn.Conv2d, x: Tensor, weight: Tensor, bias: Tensor | None) -> Tensor:
    """The product of a convolution with any weights, its padding mode included."""
    return layer._conv_forward(x, weight, bias)


def border(layer: nn.Conv2d) -> tuple[int, ...]:
    """The padding of a convolution as F.pad takes it."""
    return tuple(layer._reversed_padding_repeated_twice)


def clamp_gradient(grad: Tensor, v: Tensor, low: float, high: float) -> Tensor:
    """grad where low < v < high, else 0, in one pass."""
    return torch.ops.aten.hardtanh_backward(grad, v, low, high)


def multiplies_bfloat16() -> bool:
    """Whether this processor does so in hardware."""
    return torch.cpu._is_avx512_bf16_supported()


def is_watched(m: nn.Module) -> bool:
    """Whether a hook looks at what goes into a module or comes out."""
    return bool(m._forward_hooks or m._forward_pre_hooks)


def is_compiled(net: nn.Module) -> bool:
    return isinstance(net, torch.jit.ScriptModule) or hasattr(net, "_orig_mod")


def has_own_weight(m: nn.Module) -> bool:
    """Whether the weight is a parameter of the module itself, not computed from others."""
    return "weight" in m._parameters


def is_uninitialized(m: nn.Module) -> bool:
    """Whether a lazy layer still waits for its first batch."""
    return isinstance(m, LazyModuleMixin) and m.has_uninitialized_params()


def without_fast_path(m: nn.Module) -> None:
    """Keep a transformer's evaluation from reading the weights of its layers past their forward."""
    if isinstance(m, nn.TransformerEncoderLayer):
        m.activation_relu_or_gelu = 0
    if isinstance(m, nn.TransformerEncoder):
        m.use_nested_tensor = False
