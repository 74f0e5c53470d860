"""The analog layer, its two slots, and the way from any network to an analog one.

    y = correct( op( q_a(x), deviate( q_w(w) ) ), q_a(x) ) + bias

A crossbar holds the weights of one Conv2d or Linear; bias, batch norm, pooling and non-linearities stay digital and
exact.  `deviate` and `correct` are empty (None) until training, or `programmed`, fills them.
"""

from __future__ import annotations

import copy
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager, nullcontext
from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from .checks import one_of
from .quantizers import QUANTIZER_SETS, Bits, activation_quantizer, weight_quantizer
from .variation import Chip, Variation

Deviate = Callable[[Tensor], Tensor]  # q_w(w) ↦ w̃
# (ỹ, q_a(x)) ↦ y; where it is linear it may say how it acts on the cells, fold(w̃): correct(op(x, w̃), x) = op(x, fold(w̃))
Correct = Callable[[Tensor, Tensor], Tensor]
# tuner(net, chip, variation): entered when the cells of `net` are in place; it fills the second slots, or adapts what
# is digital and restores it at its end
Tuner = Callable[[nn.Module, Chip, Variation], AbstractContextManager]


class Crossbar:
    """The hook shared by both analog layers; `op` is the layer's product, `channel` the axis of outputs."""

    deviate: Deviate | None = None
    correct: Correct | None = None

    def cells(self) -> Tensor:
        """w̃ = deviate(q_w(w)), what the crossbar holds."""
        w = self.quantize_weight(self.weight)
        return w if self.deviate is None else self.deviate(w)

    def forward(self, x: Tensor) -> Tensor:
        x = self.quantize_input(x)
        if self.correct is None:
            return self.op(x, self.cells(), self.bias)
        y = self.correct(self.op(x, self.cells()), x)
        return y if self.bias is None else y + self.bias.view(self.bias_shape)


class AnalogLinear(Crossbar, nn.Linear):
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
        return self._conv_forward(x, w, bias)

    def input_sum(self, x: Tensor) -> Tensor:
        """S = Σ x over each group's receptive field, (B, groups, H', W'): sum the channels, then slide a box."""
        x, padding = x.unflatten(-3, (self.groups, -1)).sum(-3), self.padding
        if self.padding_mode != "zeros":
            x, padding = F.pad(x, self._reversed_padding_repeated_twice, mode=self.padding_mode), 0
        box = x.new_ones(self.groups, 1, *self.kernel_size)
        return F.conv2d(x, box, None, self.stride, padding, self.dilation, self.groups)


ANALOG = {nn.Linear: AnalogLinear, nn.Conv2d: AnalogConv2d, AnalogLinear: AnalogLinear, AnalogConv2d: AnalogConv2d}


def crossbars(net: nn.Module) -> Iterator[tuple[str, Crossbar]]:
    """(name, layer) of every analog layer, a shared one once, under its first name."""
    return ((name, m) for name, m in net.named_modules() if isinstance(m, Crossbar))


WIDE = 8  # input channels of a convolution from which channels-last and bfloat16 pay; measured, benchmarks/results.md


def wide(net: nn.Module) -> bool:
    """Whether the convolutions of `net` have enough channels to gain from channels-last training and bfloat16."""
    return any(m.in_channels // m.groups >= WIDE for m in net.modules() if isinstance(m, nn.Conv2d))


def channels_last(x: Tensor) -> Tensor:
    """x (B, C, H, W) with its channels innermost in memory, for one channel too, where torch's own `to` is idle."""
    return torch.empty_like(x, memory_format=torch.channels_last).copy_(x)


def layout(net: nn.Module, x: Tensor) -> torch.memory_format:
    """Of inputs like x (B, …): channels-last where it exists and the forward of `net` takes it; x.view(B, -1) does not."""
    if x.dim() == 4:
        try:
            with evaluating(net):
                net(channels_last(x[:2]))
            return torch.channels_last
        except RuntimeError:  # if it has another cause, it comes again where the inputs are used
            pass
    return torch.contiguous_format


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


def to_analog(
    net: nn.Module, bits: str | Bits | None = None, calibrate: Tensor | None = None, quantizers: str = "learned"
) -> nn.Module:
    """A copy of `net` whose Conv2d and Linear layers, anywhere in its tree, are crossbars.

    bits: "A4W2", or None for float crossbars (deviated, not quantized).
    calibrate: a batch (B, C, H, W) of normalized inputs, required with bits: it fixes every layer's sign and step.
    quantizers: "learned" (default), "line-search" weights, "legacy" [code 2021], or "legacy-may" (its earlier binary
    weights, `BinaryChannels`).
    Layers that the batch does not reach, and every other kind of module, stay digital: `report` lists them.
    Raises ValueError for wrong bits or quantizers, a missing or empty batch, or a network without such a layer."""
    one_of("quantizers", quantizers, QUANTIZER_SETS)
    bits = None if bits is None else Bits.parse(bits)
    net = copy.deepcopy(net)
    # exact types: a subclass may bypass forward (as MultiheadAttention's out_proj does)
    found = [m for m in net.modules() if type(m) in ANALOG]
    if not found:
        raise ValueError(f"{type(net).__name__} has no Conv2d or Linear layer to put on a crossbar")
    inputs = dict.fromkeys(found, nn.Identity) if bits is None else _observe(net, found, bits, calibrate, quantizers)
    for module, quantize_input in inputs.items():
        weights = nn.Identity() if bits is None else weight_quantizer(bits.weights, module.weight, quantizers)
        place(module, quantize_input if bits else nn.Identity(), weights)
    return net


def place(layer: nn.Module, quantize_input: nn.Module, quantize_weight: nn.Module) -> None:
    """Turn a Conv2d or Linear into a crossbar where it stands: its name, hooks and sharing stay as they are."""
    layer.__class__ = ANALOG[type(layer)]
    layer.quantize_input, layer.quantize_weight = quantize_input, quantize_weight


def _observe(net: nn.Module, layers: list[nn.Module], bits: Bits, batch: Tensor | None, quantizers: str) -> dict:
    """The activation quantizer of each layer that one forward pass of `batch` reaches, started on its input."""
    if batch is None or len(batch) == 0:
        raise ValueError("calibrate must be a batch of at least one normalized input, got none")
    made: dict[nn.Module, nn.Module] = {}
    signs: dict[nn.Module, bool] = {}

    def look(module, args):
        x = args[0]
        signed = bool((x < 0).any())
        if module in made and signed <= signs[module]:
            return  # a shared layer: its first input decides, unless a later one brings the first negative value
        signs[module] = signed
        # [code 2021] quantizes, then multiplies the unquantized input in linear layers of more than one bit
        slip = quantizers.startswith("legacy") and bits.activations > 1 and isinstance(module, nn.Linear)
        made[module] = nn.Identity() if slip else activation_quantizer(bits.activations, x, signed, quantizers)

    hooks = [layer.register_forward_pre_hook(look) for layer in layers]
    try:
        with evaluating(net):
            net(batch)
    finally:
        for hook in hooks:
            hook.remove()
    return made


@contextmanager
def programmed(net: nn.Module, chip: Chip, variation: Variation, tuner: Tuner | None = None) -> Iterator[nn.Module]:
    """The network as it sits on one chip: both slots of every crossbar filled, and restored at the end.

    Raises ValueError for a network without analog layers, or a variation of layers that it does not have."""
    layers = dict(crossbars(net))
    if not layers:
        raise ValueError(f"{type(net).__name__} has no analog layer; make them with to_analog(net, bits, calibrate)")
    for name in variation.layers or ():
        one_of("layer", name, layers)
    before = [(layer, layer.deviate, layer.correct) for layer in layers.values()]
    try:
        for name, layer in layers.items():
            layer.deviate, layer.correct = variation.deviate(chip, name, layer.weight), None
        with tuner(net, chip, variation) if tuner else nullcontext():
            yield net
    finally:
        for layer, deviate, correct in before:
            layer.deviate, layer.correct = deviate, correct


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
            why = "not reached by the calibration batch"
        elif isinstance(module, (nn.Linear, nn.Conv2d)):
            why = f"a subclass of {type(module).__mro__[1].__name__} may compute without its forward"
        elif isinstance(module, nn.modules.batchnorm._BatchNorm):
            why = "normalization is digital and exact"
        else:
            why = "neither Conv2d nor Linear"
        rows.append(LayerReport(name or "(network)", kind, place, cells, why))
    return rows
