"""Batch norm under variation: running statistics averaged over fresh chips, left alone where the user froze them.

Moving averages of the last minibatches would freeze the gains of the last few chips into the network.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager

import torch
from torch import Tensor, nn

from .analog import channels_last, dtype_of, evaluating, layout, programmed, thin_stride, wide
from .checks import integer, one_of
from .classify import look_over
from .data import Images
from .precision import PRECISIONS, multiplying
from .torch_internals import BatchNorm
from .variation import NO_VARIATION, Chip, PassingChip, Variation

MARK = "stays_in_evaluation"  # attribute of a module that was frozen by its mode when its network was trained


def frozen(net: nn.Module) -> set[nn.Module]:
    """What the user has fixed, and training and re-estimation leave alone.

    Modules in evaluation mode within a network in training mode (still so after `fit`, which leaves all of it in
    evaluation mode, until somebody calls `net.train()`), and batch norms of which no parameter takes a gradient while
    others of the network do."""
    by_mode = {m for m in net.modules() if (not m.training if net.training else vars(m).get(MARK, False))}
    some = any(p.requires_grad for p in net.parameters())
    by_gradient = {m for m in _norms(net) if some and m.affine and not any(p.requires_grad for p in m.parameters())}
    return by_mode | by_gradient


def train_mode(net: nn.Module) -> None:
    """Training mode for all but what is frozen."""
    fixed = frozen(net)
    for module in net.modules():
        module.training = module not in fixed
        module.__dict__.pop(MARK, None)
    for module in fixed:
        setattr(module, MARK, True)


def freeze_batch_norm(net: nn.Module) -> None:
    """What `fit` trains from here on keeps its running statistics and uses them, until somebody calls `net.train()`.

    With statistics of the batch a shared proportional gain cancels, and training learns nothing of it (`Trial.first`).
    The statistics must be those of a trained network."""
    train_mode(net)
    for module in _norms(net):
        module.eval()


def _norms(net: nn.Module) -> list[BatchNorm]:
    return [m for m in net.modules() if isinstance(m, BatchNorm) and m.track_running_stats]


def moving_norms(net: nn.Module) -> list[BatchNorm]:
    """The batch norms whose running statistics may be estimated anew."""
    fixed = frozen(net)
    return [m for m in _norms(net) if m not in fixed]


def reestimate_batch_norm(
    net: nn.Module,
    images: Images,
    variation: Variation = NO_VARIATION,
    *,
    seed: int = 0,
    draws: int = 200,
    batch_size: int = 128,
    precision: str = "float32",
) -> None:
    """Replace the running statistics of every BN layer that is not `frozen` by their plain average over `draws` fresh
    chips, one training minibatch each.  A moving average would freeze the last few chips' gains into the network.
    precision: of the products, "float32" or "bfloat16"; statistics are float32.
    Raises InputError for no draws, an unknown precision and whatever `look_over` refuses; then all is as before."""
    integer("draws", draws, 1)
    one_of("precision", precision, PRECISIONS)
    look_over(net, images)
    with averaging(moving_norms(net)) as layers:
        for _ in noisy_passes(net, layers, images, variation, seed, draws if layers else 0, batch_size, precision):
            pass


@contextmanager
def averaging(layers: list[BatchNorm]) -> Iterator[list[BatchNorm]]:
    """Batch norms whose statistics start anew and become a cumulative average; as they were where that fails."""
    momenta, before = [layer.momentum for layer in layers], [[b.clone() for b in layer.buffers()] for layer in layers]
    try:
        for layer in layers:
            layer.reset_running_stats()
            layer.momentum = None  # torch: a cumulative average
        yield layers
    except BaseException:
        for layer, values in zip(layers, before):
            for buffer, value in zip(layer.buffers(), values):
                buffer.copy_(value)
        raise
    finally:
        for layer, momentum in zip(layers, momenta):
            layer.momentum = momentum


def noisy_passes(
    net: nn.Module,
    moving: Sequence[nn.Module],
    images: Images,
    variation: Variation,
    seed: int,
    draws: int,
    batch_size: int,
    precision: str = "float32",
):
    """`draws` forward passes without gradients, each a fresh chip on a training minibatch; yields after each.

    The modules `moving` are in training mode, all others in evaluation mode."""
    lay = Layout(net)
    with evaluating(net):
        for module in moving:
            module.train()
        for draw, x in zip(range(draws), endless_batches(images, batch_size, seed)):
            with fabricated(net, PassingChip.of("batch-norm", draw, seed), variation), multiplying(precision, x):
                net(lay(x))
            yield


def endless_batches(images: Images, batch_size: int, seed: int) -> Iterator[Tensor]:
    epoch = 0
    while True:
        for x, _ in images.batches(batch_size, ("batch-norm", seed, epoch)):
            yield x
        epoch += 1


class Layout:
    """Minibatches as `net` computes them fastest: channels-last if it is wide and bears that (which it shows)."""

    def __init__(self, net: nn.Module):
        self.net = net
        self.format: torch.memory_format | None = None

    def __call__(self, x: Tensor) -> Tensor:
        x = x.to(dtype_of(self.net))
        if self.format is None:
            pays = wide(self.net) and not thin_stride(self.net)
            self.format = layout(self.net, x) if pays else torch.contiguous_format
        return channels_last(x) if self.format is torch.channels_last else x


@contextmanager
def fabricated(net: nn.Module, chip: Chip, variation: Variation) -> Iterator[nn.Module]:
    """`programmed`, or nothing at all without variation, so that a plain float module trains too."""
    if variation.total:
        with programmed(net, chip, variation):
            yield net
    else:
        yield net
