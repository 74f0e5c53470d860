"""Quantizers: modules whose forward puts a tensor on a grid of levels and whose backward goes straight through.

    q(x) = s · clamp(round(x / s), lo, hi)        values
    ∂q/∂x = 1 where lo < x/s < hi, else 0         straight-through estimator (STE)

Sources: LSQ (Esser et al., ICLR 2020) for the learned step; [code 2021] = github.com/JamesTuna/QAVAT_FOR_PIM for
the line search, the binary weights and the `Legacy…` activations; [ours] where said.
"""

from __future__ import annotations

import math
import re
from dataclasses import dataclass

import torch
from torch import Tensor, nn

from .checks import InputError, integer, one_of
from .torch_internals import clamp_gradient

MAX_BITS = 8
QUANTIZER_SETS = ("learned", "line-search", "fine-line-search", "legacy", "legacy-channels")
SEARCHED, FINELY = 10, 100  # steps that a line search tries: as published, and so many that more change nothing
TINY = 1e-8  # the smallest step: an all-zero layer has no scale of its own


@dataclass(frozen=True)
class Bits:
    """Bit widths of a layer, written A{activations}W{weights}, each 1 to 8."""

    activations: int
    weights: int

    def __post_init__(self):
        integer("activation bits", self.activations, 1, MAX_BITS)
        integer("weight bits", self.weights, 1, MAX_BITS)

    @classmethod
    def parse(cls, text: str | Bits) -> Bits:
        if isinstance(text, Bits):
            return text
        match = re.fullmatch(r"A(-?[\d.]+)W(-?[\d.]+)", str(text))
        if not match:
            wanted = f'bits must look like "A4W2" (activation bits, weight bits, each 1 to {MAX_BITS})'
            raise InputError(f"{wanted}, got {text!r}")
        widths = [int(part) if re.fullmatch(r"-?\d+", part) else part for part in match.groups()]
        return cls(*widths)  # type: ignore[arg-type]  # 2.5 is refused there

    def __str__(self) -> str:
        return f"A{self.activations}W{self.weights}"


def levels(bits: int, signed: bool) -> tuple[int, int]:
    """(lo, hi) in steps: unsigned 0 … 2^b − 1; signed symmetric ±(2^(b−1) − 1), so 2 bits are ternary."""
    bits = integer("bits", bits, 1, MAX_BITS)
    if not signed:
        return 0, 2**bits - 1
    n = 2 ** (bits - 1) - 1
    if n == 0:
        raise InputError("1 signed bit has no symmetric grid around 0; allowed: 2 to 8 bits, or the sign quantizers")
    return -n, n


class _StraightThrough(torch.autograd.Function):
    @staticmethod
    def forward(ctx, x, q, passes):
        ctx.save_for_backward(passes)
        return q.view_as(q)

    @staticmethod
    def backward(ctx, grad):
        (passes,) = ctx.saved_tensors
        return (grad if passes is None else grad * passes), None, None


def straight_through(x: Tensor, q: Tensor, passes: Tensor | None = None) -> Tensor:
    """Value q, gradient of the identity in x (times the mask `passes`).  Shapes: all alike."""
    return _StraightThrough.apply(x, q.detach(), passes)


def round_to_levels(x: Tensor, step: Tensor, lo: int, hi: int) -> Tensor:
    """q(x) = s · round(clamp(x / s, lo, hi)), without a gradient of its own."""
    return (x / step).clamp_(lo, hi).round_().mul_(step)


def best_step(x: Tensor, steps: Tensor, lo: int, hi: int) -> Tensor:
    """argmin over `steps` (k,) of ‖x − q(x)‖²; a scalar."""
    with torch.no_grad():
        errors = torch.stack([(x - round_to_levels(x, s, lo, hi)).square().sum() for s in steps])
        return steps[errors.argmin()]


def line_search(w: Tensor, bits: int, n: int = SEARCHED) -> Tensor:
    """Weight step: the L2-best of n, 10 in [code 2021], from max|w|/n to median|w|/n."""
    lo, hi = levels(bits, signed=True)
    size = w.detach().abs().flatten()
    ends = (size.max() / hi).clamp_min(TINY), (size.median() / hi).clamp_min(TINY)
    return best_step(w.detach(), torch.lerp(ends[0], ends[1], torch.linspace(0, 1, n, device=w.device)), lo, hi)


def thinned(x: Tensor, n: int = 2**13) -> Tensor:
    """At most n values of x, flat, without gradient, by a golden-ratio sequence: a stride meets the same columns."""
    values = x.detach().flatten()
    if values.numel() <= n:
        return values
    golden = torch.arange(n, dtype=torch.float64, device=x.device) * ((math.sqrt(5) - 1) / 2) % 1
    return values[(golden * values.numel()).long()]


def activation_step(x: Tensor, bits: int, signed: bool) -> Tensor:
    """Start of an activation step: the L2-best of 20 from max|x|/n down to a tenth of it, log-spaced [ours];
    one signed bit: mean|x|, which is L2-best for s·sign(x).  Looks at 2^13 values at most."""
    x = thinned(x)
    if signed and bits == 1:
        return x.abs().mean().clamp_min(TINY)
    lo, hi = levels(bits, signed)
    return best_step(x, (x.abs().max() / hi).clamp_min(TINY) * torch.logspace(0, -1, 20, device=x.device), lo, hi)


class _LSQ(torch.autograd.Function):
    """Value and both gradients of LSQ in one pass each (equations 1 to 3 of Esser et al. 2020)."""

    @staticmethod
    def forward(ctx, x, step, lo, hi, grad_scale):
        scale = step.abs()  # within: an operation of its own would cost small layers more than its numbers
        v = x / scale
        q = v.clamp(lo, hi).round_().mul_(scale)
        ctx.save_for_backward(v, q, step, scale)
        ctx.constants = lo, hi, grad_scale
        return q

    @staticmethod
    def backward(ctx, grad):
        v, q, step, scale = ctx.saved_tensors
        lo, hi, grad_scale = ctx.constants
        d_x = clamp_gradient(grad, v, lo, hi)  # ∂q/∂x = 1 where lo < v < hi, else 0
        if grad.dtype == torch.bfloat16:  # ∂q/∂s: q/s − v inside, the bound outside; torch's dot takes 10 × as long
            d_scale = (q / scale).sub_(clamp_gradient(v, v, lo, hi)).mul_(grad).sum(dtype=torch.float32)
        else:  # both terms as dot products, without a temporary
            d_scale = _dot(q, grad).div_(scale).sub_(_dot(v, d_x))
        return d_x, d_scale.mul_(step.sign().mul_(grad_scale)), None, None, None


def _dot(a: Tensor, b: Tensor) -> Tensor:
    """Σ a·b in the order of memory, for two tensors of one layout."""
    if a.dim() == 4 and a.is_contiguous(memory_format=torch.channels_last):
        a, b = a.permute(0, 2, 3, 1), b.permute(0, 2, 3, 1)
    return torch.dot(a.reshape(-1), b.reshape(-1))


class LearnedStep(nn.Module):
    """LSQ: the step s is a parameter.  q(x) = s·round(clamp(x/s, lo, hi)); ∂q/∂s is scaled by 1/√(N·hi).
    `count` N: the number of weights of the layer, or of features a sample for activations [ours]."""

    def __init__(self, bits: int, signed: bool, step: Tensor, count: int):
        super().__init__()
        self.bits, self.signed, self.count = bits, signed, integer("count", count, 1)
        self.step = nn.Parameter(step.detach().clone().clamp_min(TINY).reshape(()))

    @classmethod
    def for_weights(cls, bits: int, w: Tensor) -> LearnedStep:
        """s starts at 2·mean|w|/√n (LSQ, section 2.1)."""
        _, n = levels(bits, signed=True)
        return cls(bits, True, 2 * w.detach().abs().mean() / math.sqrt(n), w.numel())

    @classmethod
    def for_activations(cls, bits: int, x: Tensor, signed: bool, count: int | None = None) -> LearnedStep:
        """s starts at `activation_step` of inputs x (B, …), or of values of them with `count` features a sample."""
        return cls(bits, signed, activation_step(x, bits, signed), x[0].numel() if count is None else count)

    @property
    def scale(self) -> Tensor:
        """|s|, since s and −s are the same grid: a step that an optimizer pushed below zero stays usable."""
        return self.step.abs()

    def codes(self, x: Tensor) -> Tensor:
        """The integers of q(x) = s·codes(x), without gradient; up to 8 bits are exact in bfloat16."""
        return self.rounded_(x / self.scale.detach())

    def rounded_(self, v: Tensor) -> Tensor:
        """The integers for v = x/s, in place."""
        return v.clamp_(*levels(self.bits, self.signed)).round_()

    def forward(self, x: Tensor) -> Tensor:
        # an input without gradient is data: its step stays as calibrated, which spares its gradient
        if not (x.requires_grad and torch.is_grad_enabled()):
            return self.codes(x).mul_(self.scale.detach())
        lo, hi = levels(self.bits, self.signed)
        return _LSQ.apply(x, self.step, lo, hi, 1 / math.sqrt(self.count * hi))

    def get_extra_state(self) -> Tensor:
        return torch.tensor([self.bits, self.signed, self.count])

    def set_extra_state(self, state: Tensor) -> None:
        bits, signed, count = state.tolist()
        self.bits, self.signed, self.count = bits, bool(signed), count

    def extra_repr(self) -> str:
        return f"bits={self.bits}, signed={self.signed}, step={self.step.item():.4g}"


class LearnedSign(LearnedStep):
    """One signed bit: q(x) = s·sign(x), sign(0) = +1; ∂q/∂x = 1 where |x| ≤ s; ∂q/∂s = sign(x)/√N  [ours]."""

    def codes(self, x: Tensor) -> Tensor:
        return torch.where(x.detach() < 0, -1.0, 1.0).to(x.dtype)

    def forward(self, x: Tensor) -> Tensor:
        step, fixed = self.scale, self.scale.detach()
        slow = fixed + (step - fixed) / math.sqrt(self.count)  # value s, gradient 1/√N
        return self.codes(x) * slow + straight_through(x, torch.zeros_like(x), x.detach().abs() <= fixed)


class LineSearch(nn.Module):
    """Weights on the best of n steps, anew in training, frozen in evaluation; STE not clipped.  [code 2021]"""

    step: Tensor

    def __init__(self, bits: int, w: Tensor, n: int = SEARCHED):
        super().__init__()
        self.bits, self.n = bits, n
        self.register_buffer("step", line_search(w, bits, n).clone())

    def forward(self, w: Tensor) -> Tensor:
        if self.training:
            self.step.copy_(line_search(w, self.bits, self.n))
        return straight_through(w, round_to_levels(w.detach(), self.step, *levels(self.bits, signed=True)))


class Binary(nn.Module):
    """q(w) = sign(w)·mean|w| of the layer, sign(0) = +1; the gradient passes where |w| ≤ 1.  [code 2021]"""

    def scale(self, size: Tensor) -> Tensor:
        return size.mean()

    def forward(self, w: Tensor) -> Tensor:
        w0 = w.detach()
        size = w0.abs()
        return straight_through(w, torch.where(w0 < 0, -1.0, 1.0).to(w.dtype) * self.scale(size), size <= 1)


class BinaryChannels(Binary):
    """`Binary` whose mean, in a convolution, is that of each input channel: [code 2021] on 7 May 2021, as it made the
    published figures of LeNet-5; by June it took that of the layer."""

    def scale(self, size: Tensor) -> Tensor:
        return size.mean((0, 2, 3), keepdim=True) if size.dim() == 4 else size.mean()


class LegacyActivations(nn.Module):
    """q(x) = s·clamp(trunc(x/s), −n, n), n = 2^(b−1) − 1, s = (running max|x|, EMA 0.99)/n; STE not clipped.
    Signed and truncated towards zero, so 4 bits have 7 positive levels.  [code 2021]"""

    maximum: Tensor

    def __init__(self, bits: int, x: Tensor):
        super().__init__()
        self.n = levels(bits, signed=True)[1]
        self.register_buffer("maximum", x.detach().abs().max().clone())

    def forward(self, x: Tensor) -> Tensor:
        if self.training:
            self.maximum.lerp_(x.detach().abs().max().to(self.maximum), 0.01)
        step = (self.maximum / self.n).clamp_min(TINY)
        return straight_through(x, (x.detach() / step).trunc_().clamp_(-self.n, self.n).mul_(step))


class LegacySign(nn.Module):
    """q(x) = sign(x)·mean|x|, the mean over an image's channel (B, C, H, W) or a sample (B, F); sign(0) = 0;
    the gradient passes where |x| ≤ 1.  [code 2021]"""

    def forward(self, x: Tensor) -> Tensor:
        x0 = x.detach()
        scale = x0.abs().mean(dim=tuple(range(min(2, x.dim() - 1), x.dim())), keepdim=True)
        return straight_through(x, x0.sign() * scale, x0.abs() <= 1)


def weight_quantizer(bits: int, w: Tensor, quantizers: str = "learned") -> nn.Module:
    """The weight quantizer of a set, started on the weights w: one bit is `Binary` in every set but "legacy-channels".
    Raises InputError for "legacy-channels" with more than one bit, of which no figure was published."""
    one_of("quantizers", quantizers, QUANTIZER_SETS)
    if integer("weight bits", bits, 1, MAX_BITS) == 1:
        return BinaryChannels() if quantizers == "legacy-channels" else Binary()
    if quantizers == "legacy-channels":
        raise InputError(f'quantizers "legacy-channels" allow 1 weight bit, got {bits}; use "legacy"')
    searched = {"line-search": SEARCHED, "fine-line-search": FINELY, "legacy": SEARCHED}
    return LineSearch(bits, w, searched[quantizers]) if quantizers in searched else LearnedStep.for_weights(bits, w)


def activation_quantizer(
    bits: int, x: Tensor, signed: bool, quantizers: str = "learned", count: int | None = None
) -> nn.Module:
    """The activation quantizer of a set, started on a batch x (B, …) of the layer's inputs, or on some of their values
    (the largest among them) with `count` features per sample."""
    one_of("quantizers", quantizers, QUANTIZER_SETS)
    one_bit = integer("activation bits", bits, 1, MAX_BITS) == 1
    if quantizers.startswith("legacy"):
        return LegacySign() if one_bit else LegacyActivations(bits, x)
    return (LearnedSign if one_bit and signed else LearnedStep).for_activations(bits, x, signed, count)
