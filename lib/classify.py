"""A batch of images through a network: what may go in, and what must come out.  Every mistake is one line."""

from __future__ import annotations

import warnings
from typing import Any

import torch
from torch import Tensor, nn

from .analog import crossbars, dtype_of, evaluating, require_one_input, run, watched
from .checks import InputError
from .data import Images
from .quantizers import LearnedStep, activation_step

STEP_RATIO = 3.0  # how far the first step may lie from that of these images
NEGATIVE_POWER = 0.1  # what an unsigned one may clip


def require_images(images) -> None:
    """InputError for anything but `Images`: a DataLoader, a tensor, a whole dataset."""
    if not isinstance(images, Images):
        raise InputError(
            f"images must be lib.Images, got {type(images).__name__}; take data.train or data.test of load(…), or make "
            "Images(pixels uint8 (N, C, H, W), labels (N,), mean, std)"
        )


def inputs(net: nn.Module, images: Images) -> Tensor:
    """Normalized images in the type of the network's parameters; InputError where they are on another device."""
    place = next((p.device.type for p in net.parameters()), images.pixels.device.type)
    if place != images.pixels.device.type:
        raise InputError(
            f"the network is on {place}, the images on {images.pixels.device.type}; use images.to({place!r})"
        )
    return images.normalized().to(dtype_of(net))


def logits(net: nn.Module, x: Tensor) -> Tensor:
    """net(x), (B, classes).  Raises InputError for anything else."""
    y = run(net, x)
    if not isinstance(y, Tensor) or y.dim() != 2 or len(y) != len(x) or y.shape[1] < 2:
        got = f"a tensor of shape {tuple(y.shape)}" if isinstance(y, Tensor) else f"a {type(y).__name__}"
        raise InputError(
            f"{type(net).__name__} must return logits of shape ({len(x)}, classes) with at least 2 classes for "
            f"{len(x)} images, got {got}; wrap it in a module that returns them"
        )
    return y


def require_labels(net: nn.Module, y: Tensor, images: Images) -> None:
    """InputError where a label has no column of logits."""
    if (top := int(images.labels.max())) >= y.shape[1]:
        found = f"labels go up to {top}, {type(net).__name__} returns {y.shape[1]} classes"
        raise InputError(f"{found}; it needs {top + 1}")


def look_over(net: nn.Module, images: Images, n: int = 32) -> None:
    """One pass of a few images in evaluation mode.

    InputError for what `logits` refuses, a warning for cells that nobody reads, and for a first quantizer whose grid
    does not fit these images."""
    require_images(images)
    require_one_input(net)
    few = images.take(slice(None, None, -(-len(images) // n)))  # spread: folders come class by class
    layers = dict(crossbars(net))
    called = set[nn.Module]()
    doubts: list[str | None] = []

    def note(layer: Any, x: Tensor) -> None:
        if not called:
            doubts.append(_misfit(layer.quantize_input, x))
        called.add(layer)

    with watched(layers.values(), note), evaluating(net), torch.random.fork_rng([]):
        require_labels(net, logits(net, inputs(net, few)), images)
    if unread := [name or "(network)" for name, layer in layers.items() if layer not in called]:
        warnings.warn(
            f"cells of {', '.join(unread)} change nothing: the network reads their weights past the layers, or not at "
            "all; to_analog(net, bits, calibrate) with a batch leaves such layers digital",
            stacklevel=3,
        )
    if any(doubts):
        warnings.warn(
            f"the first layer's quantizer {doubts[0]}; was calibrate a batch of normalized images "
            "(images.take(slice(0, 256)).normalized())?",
            stacklevel=3,
        )


def _misfit(quantizer: nn.Module, x: Tensor) -> str | None:
    """How the quantizer of the network's own inputs does not fit x, if it does not."""
    if not isinstance(quantizer, LearnedStep):
        return None
    ratio = float(quantizer.scale / activation_step(x, quantizer.bits, quantizer.signed))
    if not 1 / STEP_RATIO <= ratio <= STEP_RATIO:
        return f"has a step of {ratio:.2g} times what these images need"
    clipped = float(x.clamp_max(0).square().sum() / x.square().sum().clamp_min(torch.finfo(x.dtype).tiny))
    if not quantizer.signed and clipped > NEGATIVE_POWER:
        return f"is unsigned and clips {100 * clipped:.0f} % of these images' power"
    return None
