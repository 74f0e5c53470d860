"""The analog layer, its three slots, and a network programmed onto a chip.

    y = correct( read( op( q_a(x), deviate( q_w(w) ) ) ), q_a(x) ) + bias

A crossbar holds the weights of one Conv2d or Linear; bias, batch norm, pooling and non-linearities stay digital and
exact.  `deviate` and `correct` are empty (None) until training, or `programmed`, fills them; `read` until a converter
is attached.  Where a converter, or a correction of each array, must tell arrays apart, y is the sum over row blocks.
"""

from __future__ import annotations

import functools
import inspect
import logging
from collections.abc import Callable, Iterable, Iterator
from contextlib import AbstractContextManager, contextmanager, nullcontext
from typing import Protocol

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from .arrays import ROWS, Rows, row_blocks
from .checks import InputError, has, one_of
from .torch_internals import border, convolved
from .variation import Chip, Variation, require_variation

log = logging.getLogger(__name__)

Deviate = Callable[[Tensor], Tensor]  # q_w(w) ↦ w̃
# (ỹ, q_a(x)) ↦ y; where it is linear it may say how it acts on the cells: correct(op(x, w̃), x) = op(x, fold(w̃)).
# One with `by_rows` corrects the product of each row block by itself: (ỹ, q_a(x), rows) ↦ y
Correct = Callable[..., Tensor]
Product = Callable[[Rows | None], Tensor]  # rows ↦ the product of these rows alone, None: of all


class Read(Protocol):
    """What stands between array and correction.  last: it stands behind the correction instead."""

    @property
    def last(self) -> bool: ...

    def __call__(self, y: Tensor) -> Tensor: ...


class Tuner(Protocol):
    """What a chip does about its variation: a context that is entered when the cells of `net` are in place.

    It fills the `correct` slots, or adapts what is digital, and restores that at its end."""

    def __call__(self, net: nn.Module, chip: Chip, variation: Variation) -> AbstractContextManager: ...


class Crossbar(nn.Module):
    """The hook shared by both analog layers: `op` is the layer's product, `channel` the axis of its outputs."""

    weight: Tensor
    bias: Tensor | None
    quantize_input: nn.Module
    quantize_weight: nn.Module
    bias_shape: tuple[int, ...]
    channel: int
    deviate: Deviate | None = None
    read: Read | None = None
    correct: Correct | None = None
    rows: int | None = None  # of the largest array; None: as in `Variation`

    op: Callable[..., Tensor]
    input_sum: Callable[..., Tensor]

    def part(self, x: Tensor, w: Tensor, rows: Rows | None) -> Tensor:
        """op(x, w) over the inputs of some rows alone; w (N, inputs …), or fewer outputs."""
        if rows is None:
            return self.op(x, w)
        size = w[0, 0].numel()  # cells of one input channel
        inside = torch.arange(w[0].numel(), device=w.device)
        w = w * ((inside >= rows.start) & (inside < rows.stop)).view(w.shape[1:])
        if getattr(self, "groups", 1) > 1:
            return self.op(x, w)
        some = slice(rows.start // size, -(-rows.stop // size))
        return self.op(x.narrow(self.channel, some.start, some.stop - some.start), w[:, some])

    def finished(self, product: Product, x: Tensor) -> Tensor:
        """Σ over row blocks of correct( read( product ), x ), without bias; at once where nothing tells them apart."""
        read, correct = self.read, self.correct
        apart = getattr(correct, "by_rows", False)
        blocks = row_blocks(self.weight[0].numel(), self.rows or ROWS) if apart or read is not None else ()
        if len(blocks) < 2:
            return self._finished(product(None), x, None)
        if apart:
            return _sum(self._finished(product(rows), x, rows) for rows in blocks)
        if correct is None or read is None or not read.last:
            y = _sum(product(rows) if read is None else read(product(rows)) for rows in blocks)
            return y if correct is None else correct(y, x)
        raise InputError(
            f"{correct!r:.60} corrects the sum of {len(blocks)} row blocks, so it cannot stand before the converter of "
            "each; use a correction with by_rows, or a converter with last=False"
        )

    def _finished(self, y: Tensor, x: Tensor, rows: Rows | None) -> Tensor:
        read, correct = self.read, self.correct
        if read is not None and not read.last:
            y = read(y)
        if correct is not None:
            y = correct(y, x, rows) if rows else correct(y, x)
        return read(y) if read is not None and read.last else y

    def cells(self) -> Tensor:
        """w̃ = deviate(q_w(w)), what the crossbar holds."""
        w = self.quantize_weight(self.weight)
        return w if self.deviate is None else self.deviate(w)

    def forward(self, input: Tensor) -> Tensor:  # torch's own name, for callers by keyword
        x, w = self.quantize_input(input), self.cells()
        if self.correct is None and self.read is None:
            return self.op(x, w, self.bias)
        y = self.finished(lambda rows: self.part(x, w, rows), x)
        return y if self.bias is None else y + self.bias.view(self.bias_shape)


def _sum(parts: Iterable[Tensor]) -> Tensor:
    return functools.reduce(torch.add, parts)


class AnalogLinear(Crossbar, nn.Linear):  # type: ignore[misc]  # torch says that a bias is never None
    """x (…, in) → y (…, out)."""

    bias_shape, channel = (-1,), -1

    def op(self, x: Tensor, w: Tensor, bias: Tensor | None = None) -> Tensor:
        return F.linear(x, w, bias)

    def input_sum(self, x: Tensor, rows: Rows | None = None) -> Tensor:
        """S = Σ x, or over some rows alone, (…, 1)."""
        return (x if rows is None else x[..., rows.start : rows.stop]).sum(-1, keepdim=True)


class AnalogConv2d(Crossbar, nn.Conv2d):
    """x (B, C, H, W) → y (B, C', H', W'); stride, padding, dilation, groups and padding modes as nn.Conv2d."""

    bias_shape, channel = (-1, 1, 1), -3

    def op(self, x: Tensor, w: Tensor, bias: Tensor | None = None) -> Tensor:
        return convolved(self, x, w, bias)

    def input_sum(self, x: Tensor, rows: Rows | None = None) -> Tensor:
        """S = Σ x over each group's receptive field, (B, groups, H', W'): sum the channels, then slide a box.

        rows: of these alone; some of them may hold a part of a channel's kernel."""
        if rows is not None:
            return self.part(x, x.new_ones(self.groups, *self.weight.shape[1:]), rows)
        sums = x.unflatten(-3, (self.groups, -1)).sum(-3)
        box = x.new_ones(self.groups, 1, *self.kernel_size)
        if self.padding_mode == "zeros":
            return F.conv2d(sums, box, None, self.stride, self.padding, self.dilation, self.groups)
        padded = F.pad(sums, border(self), mode=self.padding_mode)
        return F.conv2d(padded, box, None, self.stride, 0, self.dilation, self.groups)


ANALOG = {nn.Linear: AnalogLinear, nn.Conv2d: AnalogConv2d, AnalogLinear: AnalogLinear, AnalogConv2d: AnalogConv2d}


def crossbars(net: nn.Module) -> Iterator[tuple[str, Crossbar]]:
    """(name, layer) of every analog layer, a shared one once, under its first name."""
    return ((name, m) for name, m in net.named_modules() if isinstance(m, Crossbar))


WIDE = 8  # input channels of a convolution from which channels-last and bfloat16 pay; measured, benchmarks/results.md


def wide(net: nn.Module) -> bool:
    """Whether the convolutions of `net` have enough channels to gain from channels-last training and bfloat16."""
    return any(m.in_channels // m.groups >= WIDE for m in net.modules() if isinstance(m, nn.Conv2d))


def thin_stride(net: nn.Module) -> bool:
    """Whether a strided 1×1 convolution of `net` has 2 to 7 input channels.

    Its backward in channels-last writes past its memory on processors without AVX-512 (torch 2.14, found with such
    layers alone), which ends the process."""
    strided = (m for m in net.modules() if isinstance(m, nn.Conv2d) and m.kernel_size == (1, 1) and max(m.stride) > 1)
    return any(1 < m.in_channels // m.groups < 8 for m in strided)


def channels_last(x: Tensor) -> Tensor:
    """x (B, C, H, W) with its channels innermost in memory, for one channel too, where torch's own `to` is idle."""
    return torch.empty_like(x, memory_format=torch.channels_last).copy_(x)


def layout(net: nn.Module, x: Tensor) -> torch.memory_format:
    """Of inputs like x (B, …): channels-last where there is one and the forward of `net` takes it (x.view(B, -1) does
    not)."""
    if x.dim() != 4:
        return torch.contiguous_format
    try:
        with evaluating(net):
            net(channels_last(x[:2]))
        return torch.channels_last
    except RuntimeError as error:  # if it has another cause, it comes again where the inputs are used
        log.info("%s computes with contiguous inputs, perhaps slower: %s", type(net).__name__, error)
        return torch.contiguous_format


def require_one_input(net: nn.Module) -> None:
    """InputError for a forward that cannot be called with one batch."""
    try:
        inspect.signature(net.forward).bind(None)
    except TypeError:
        raise InputError(
            f"{type(net).__name__}.forward takes {inspect.signature(net.forward)}, here it is called with one batch of "
            "images; wrap it in a module whose forward takes x alone"
        ) from None


def run(net: nn.Module, x: Tensor):
    """net(x); InputError in one line where the network does not take inputs of that shape."""
    try:
        return net(x)
    except RuntimeError as error:
        said = " ".join(str(error).split())[:200]
        raise InputError(
            f"{type(net).__name__} does not run on a batch of shape {tuple(x.shape)}, {x.dtype}: {said}"
        ) from error


def dtype_of(net: nn.Module) -> torch.dtype:
    """The floating type of a network's parameters; float32 without any."""
    return next((p.dtype for p in net.parameters() if p.is_floating_point()), torch.float32)


@contextmanager
def evaluating(net: nn.Module) -> Iterator[nn.Module]:
    """Evaluation mode without gradients; every module's own mode comes back at the end."""
    modes = {m: m.training for m in net.modules()}
    net.eval()
    try:
        with torch.no_grad():
            yield net
    finally:
        for module, mode in modes.items():
            module.training = mode


def varying(net: nn.Module, variation: Variation) -> dict[str, Crossbar]:
    """Name → layer of every crossbar.

    Raises InputError for a network without, or a variation of layers that it does not have."""
    require_variation(variation)
    layers = dict(crossbars(net))
    if not layers:
        raise InputError(f"{type(net).__name__} has no analog layer; make them with to_analog(net, bits, calibrate)")
    for name in variation.layers or ():
        one_of("layer", name, layers)
    return layers


@contextmanager
def programmed(net: nn.Module, chip: Chip, variation: Variation, tuner: Tuner | None = None) -> Iterator[nn.Module]:
    """The network as it sits on one chip: the slots of every crossbar filled, and restored at the end.

    Raises ValueError for a network without analog layers, or a variation of layers that it does not have."""
    layers = varying(net, variation)
    before = [(layer, layer.deviate, layer.correct, layer.rows) for layer in layers.values()]
    try:
        for name, layer in layers.items():
            if (rows := getattr(layer.read, "rows", variation.rows)) != variation.rows:
                raise InputError(
                    f"the converter of {name!r} has its range from arrays of {rows} rows, the variation has "
                    f"{variation.rows}; attach it with rows={variation.rows}"
                )
            layer.deviate = variation.deviate(chip, name, layer.weight, getattr(layer, "groups", 1))
            layer.correct, layer.rows = None, variation.rows
        context = tuner(net, chip, variation) if tuner else nullcontext()
        has("what a tuner returns", context, ("__enter__", "__exit__"), "a function under contextlib.contextmanager")
        with context:
            yield net
    finally:
        for layer, deviate, correct, rows in before:
            layer.deviate, layer.correct, layer.rows = deviate, correct, rows


@contextmanager
def watched(layers: Iterable[nn.Module], note: Callable[[nn.Module, Tensor], None]) -> Iterator[None]:
    """note(layer, x) for every input x of every layer, before it computes."""

    def pre(layer: nn.Module, args: tuple[Tensor, ...], named: dict[str, Tensor]) -> None:
        note(layer, (args[0] if args else named["input"]).detach())

    hooks = [layer.register_forward_pre_hook(pre, with_kwargs=True) for layer in layers]
    try:
        yield
    finally:
        for hook in hooks:
            hook.remove()
