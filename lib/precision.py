"""In which type convolutions multiply: float32, or bfloat16 where the processor does that in hardware.

bfloat16 holds activation codes of up to 8 bits exactly and rounds cells by 0.2%, far below any σ.  Weights, optimizer,
statistics of batch norm and loss stay in float32.
"""

from __future__ import annotations

from contextlib import AbstractContextManager

import torch
from torch import Tensor, nn

from .analog import crossbars, evaluating, wide
from .checks import one_of
from .quantizers import LegacyActivations, LegacySign
from .torch_internals import multiplies_bfloat16

PRECISIONS = ("float32", "bfloat16")


def pays(net: nn.Module) -> bool:
    """Whether bfloat16 makes `net` faster here: in hardware, on the CPU, where convolutions are `wide`."""
    on_cpu = all(p.device.type == "cpu" and p.dtype == torch.float32 for p in net.parameters())
    return on_cpu and wide(net) and multiplies_bfloat16()


def multiplying(precision: str, x: Tensor) -> AbstractContextManager:
    """Convolutions and linear layers multiply in a precision on the device of x; torch's autocast knows the rest."""
    return torch.autocast(
        x.device.type, torch.bfloat16, enabled=one_of("precision", precision, PRECISIONS) != PRECISIONS[0]
    )


def training_precision(net: nn.Module, x: Tensor) -> str:
    """The fastest precision at which `net` can be trained here on inputs like x (B, …).

    A function of network, shape and type of processor alone: bfloat16 where it `pays`, nothing `needs_float32`, and a
    trial does not fail.  Binary activations of [code 2021] are trained in float32, as that code does."""
    published = any(isinstance(m, LegacySign) for m in net.modules())
    exact = published or needs_float32(net)
    return "bfloat16" if pays(net) and not exact and refusal(net, x) is None else "float32"


def needs_float32(net: nn.Module) -> bool:
    """Whether rounding to bfloat16 would show: activations of [code 2021] are truncated, and a value rounded up before
    lands on another level; a converter's levels may be finer."""
    truncated = any(isinstance(m, LegacyActivations) for m in net.modules())
    return truncated or any(layer.read is not None for _, layer in crossbars(net))


def refusal(net: nn.Module, x: Tensor) -> str | None:
    """Why a network does not train in bfloat16, tried forwards on x: a layer of the user's own may not take it."""
    try:
        with evaluating(net), multiplying("bfloat16", x):
            return None if torch.isfinite(net(x)).all() else "not finite"
    except (RuntimeError, TypeError, ValueError) as error:  # the forward is the user's
        return " ".join(str(error).split())[:200]
