"""The analog layer, its two slots, and a network programmed onto a chip.

    y = correct( op( q_a(x), deviate( q_w(w) ) ), q_a(x) ) + bias

A crossbar holds the weights of one Conv2d or Linear; bias, batch norm, pooling and non-linearities stay digital and
exact.  `deviate` and `correct` are empty (None) until training, or `programmed`, fills them.
"""

from __future__ import annotations

import inspect
import logging
from collections.abc import Callable, Iterable, Iterator
from contextlib import AbstractContextManager, contextmanager, nullcontext
from dataclasses import dataclass
from typing import Protocol

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from .checks import InputError, has, one_of
from .torch_internals import BatchNorm, border, convolved
from .variation import Chip, Variation, require_variation

log = logging.getLogger(__name__)

Deviate = Callable[[Tensor], Tensor]  # q_w(w) ↦ w̃
# (ỹ, q_a(x)) ↦ y; where it is linear it may say how it acts on the cells: correct(op(x, w̃), x) = op(x, fold(w̃))
Correct = Callable[[Tensor, Tensor], Tensor]


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
    correct: Correct | None = None

    def op(self, x: Tensor, w: Tensor, bias: Tensor | None = None) -> Tensor:
        raise NotImplementedError

    def input_sum(self, x: Tensor) -> Tensor:
        raise NotImplementedError

    def cells(self) -> Tensor:
        """w̃ = deviate(q_w(w)), what the crossbar holds."""
        w = self.quantize_weight(self.weight)
        return w if self.deviate is None else self.deviate(w)

    def forward(self, input: Tensor) -> Tensor:  # torch's own name, for callers by keyword
        x = self.quantize_input(input)
        if self.correct is None:
            return self.op(x, self.cells(), self.bias)
        y = self.correct(self.op(x, self.cells()), x)
        return y if self.bias is None else y + self.bias.view(self.bias_shape)


class AnalogLinear(Crossbar, nn.Linear):  # type: ignore[misc]  # torch says that a bias is never None
    """x (…, in) → y (…, out)."""

    bias_shape, channel = (-1,), -1

    def op(self, x: Tensor, w: Tensor, bias: Tensor | None = None) -> Tensor:
        return F.linear(x, w, bias)

    def input_sum(self, x: Tensor) -> Tensor:
        """S = Σ x, (…, 1)."""
        return x.sum(-1, keepdim=True)


class AnalogConv2d(Crossbar, nn.Conv2d):
    """x (B, C, H, W) → y (B, C', H', W'); stride, padding, dilation, groups and padding modes as nn.Conv2d."""

    bias_shape, channel = (-1, 1, 1), -3

    def op(self, x: Tensor, w: Tensor, bias: Tensor | None = None) -> Tensor:
        return convolved(self, x, w, bias)

    def input_sum(self, x: Tensor) -> Tensor:
        """S = Σ x over each group's receptive field, (B, groups, H', W'): sum the channels, then slide a box."""
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
    """The network as it sits on one chip: both slots of every crossbar filled, and restored at the end.

    Raises ValueError for a network without analog layers, or a variation of layers that it does not have."""
    layers = varying(net, variation)
    before = [(layer, layer.deviate, layer.correct) for layer in layers.values()]
    try:
        for name, layer in layers.items():
            layer.deviate, layer.correct = variation.deviate(chip, name, layer.weight), None
        context = tuner(net, chip, variation) if tuner else nullcontext()
        has("what a tuner returns", context, ("__enter__", "__exit__"), "a function under contextlib.contextmanager")
        with context:
            yield net
    finally:
        for layer, deviate, correct in before:
            layer.deviate, layer.correct = deviate, correct


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


@dataclass(frozen=True)
class LayerReport:
    """One module that holds parameters: where it computes, how many cells it takes, and why."""

    name: str
    kind: str
    place: str  # "analog" or "digital"
    cells: int
    why: str


def report(net: nn.Module) -> list[LayerReport]:
    """A row for every module of `net` that holds parameters itself: what is analog, what stays digital, and why."""
    rows = []
    quantizers = {id(q) for _, layer in crossbars(net) for q in (layer.quantize_input, layer.quantize_weight)}
    for name, module in net.named_modules():
        if id(module) in quantizers or not any(True for _ in module.parameters(recurse=False)):
            continue
        kind, cells, place = type(module).__name__, 0, "digital"
        if isinstance(module, Crossbar):
            place, cells = "analog", module.weight.numel()
            why = "weights on a crossbar" + ("" if module.bias is None else ", bias digital")
        elif type(module) in ANALOG:
            why = "the output for the calibration batch does not depend on its weights in this layer"
        elif isinstance(module, (nn.Linear, nn.Conv2d)):
            why = f"a subclass of {type(module).__mro__[1].__name__} may compute without its forward"
        elif isinstance(module, BatchNorm):
            why = "normalization is digital and exact"
        else:
            why = "neither Conv2d nor Linear"
        rows.append(LayerReport(name or "(network)", kind, place, cells, why))
    return rows
