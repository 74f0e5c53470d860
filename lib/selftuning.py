"""Self-tuning: a chip estimates its own shared deviation e_B and corrects its activations.  estimator × correction.

    proportional   y ← ỹ / max(1 + ê, floor)        one gain a chip: folds into batch norm or the next activation step
    layer-fixed    y ← ỹ − max|q_w|·ê·S             S = Σ q_a(x) over the receptive field: another offset for each input

Before bias, batch norm and the next quantizer.  [ours]; the abstract says only that activations are adjusted layer by
layer during inference.  An estimator answers two questions about a layer's input x: ê, and its charge ê·S.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, is_dataclass

import torch
from torch import Tensor, nn

from .analog import Correct, Crossbar, crossbars
from .checks import InputError, integer, real
from .variation import Chip, Variation

Reading = Callable[[Tensor], Tensor]  # q_a(x) ↦ a number, or one a sample, group and position


def column_shape(layer: Crossbar) -> tuple[int, ...]:
    """Cells of one column a group: (1, K) of a linear layer, (groups, C/groups, kh, kw) of a convolution."""
    return getattr(layer, "groups", 1), *layer.weight.shape[1:]


def effective_cells(layer: Crossbar, x: Tensor) -> Tensor:
    """K_eff = S²/‖x‖²: so many reference cells tell as much of e_B as one column at this input; 0 where x = 0."""
    power = layer.input_sum(x.square())
    return layer.input_sum(x).square() / power.clamp_min(torch.finfo(power.dtype).tiny)


def peak(layer: Crossbar) -> Tensor:
    """max|q_w| of a layer."""
    return layer.quantize_weight(layer.weight).detach().abs().amax()


def over_outputs(layer: Crossbar, value: Tensor) -> Tensor:
    """A value a group repeated over the group's outputs; one for all outputs, or for the whole chip, stays as it is."""
    if value.dim() == 0 or value.shape[layer.channel] == 1:
        return value
    return value.repeat_interleave(layer.weight.shape[0] // value.shape[layer.channel], layer.channel)


# -- estimators -----------------------------------------------------------------------------------------------


class ReadOnce:
    """What estimators share that read the chip once.  A new one is a frozen dataclass with a `label` (its name in tables)
    and `estimate(chip, variation) → ê`; with `variance(layer, x, within)` its error can be predicted too.

    readings: analog readings that every inference takes at every position; here none."""

    readings = 0

    def deviation(self, layer: Crossbar, name: str, chip: Chip, variation: Variation) -> Reading:
        e = torch.tensor(self.estimate(chip, variation))
        return lambda x: e

    def charge(self, layer: Crossbar, name: str, chip: Chip, variation: Variation) -> Reading:
        e = self.estimate(chip, variation)
        return lambda x: e * layer.input_sum(x)

    def column(self, layer: Crossbar, name: str, chip: Chip, variation: Variation) -> Tensor:
        """The deviation of cells whose product with x is the charge: ê in each."""
        return torch.tensor(self.estimate(chip, variation), dtype=torch.float64)

    def charge_variance(self, layer: Crossbar, x: Tensor, within: float) -> Tensor:
        """Var(ê·S) = Var(ê − e_B)·S²."""
        return self.variance(layer, x, within) * layer.input_sum(x).square()

    def reads(self, layer: Crossbar, x: Tensor) -> Tensor:
        """Where the estimate is used: everywhere."""
        return torch.ones_like(layer.input_sum(x), dtype=torch.bool)

    def cells(self, net: nn.Module) -> int:
        """Extra cells on the chip."""
        return 0


@dataclass(frozen=True)
class Oracle(ReadOnce):
    """ê = e_B: no device can do it.  It leaves the cells' own deviation, and is no upper bound of other methods."""

    label = "oracle"

    def estimate(self, chip: Chip, variation: Variation) -> float:
        return variation.shared(chip)

    def variance(self, layer: Crossbar, x: Tensor, within: float) -> float:
        """Var(ê − e_B)."""
        return 0.0


@dataclass(frozen=True)
class ReferenceCells(ReadOnce):
    """ê = e_B + mean of the own deviations of n reference cells, read once a chip: Var(ê − e_B) = σ_W²/n.

    read_noise: standard deviation of the error of that reading, in units of e.  step: its resolution, 0 for exact.
    Raises ValueError for n < 1 or a negative noise or step."""

    n: int
    read_noise: float = 0.0
    step: float = 0.0

    def __post_init__(self):
        integer("n (reference cells)", self.n, 1), real("read_noise", self.read_noise, 0), real("step", self.step, 0)

    @property
    def label(self) -> str:
        noise = f", noise {self.read_noise:g}" if self.read_noise else ""
        return f"{self.n} cell{'s' * (self.n > 1)}{noise}" + (f", step {self.step:g}" if self.step else "")

    def estimate(self, chip: Chip, variation: Variation) -> float:
        e = variation.shared(chip) + float(variation.own(chip.z_reference(self.n)).mean(dtype=torch.float64))
        if self.read_noise:
            e += self.read_noise * chip.z_reading()
        return round(e / self.step) * self.step if self.step else e

    def variance(self, layer: Crossbar, x: Tensor, within: float) -> float:
        """E(ê − e_B)² = σ_W²/n + read_noise² + step²/12; the last term is a mean over e_B, for small steps."""
        return within**2 / self.n + self.read_noise**2 + self.step**2 / 12

    def cells(self, net: nn.Module) -> int:
        return self.n


@dataclass(frozen=True)
class ReferenceColumns:
    """m dummy columns of equal cells a layer and group, driven by the layer's inputs at every inference.

    Proportional: cells of any weight w₀; the mean output d over that of an ideal column tells  ê = d/(w₀·S) − 1
    = e_B + Σ x·e_W / S.  ê is 0 (no correction) where K_eff < 1: a column at such an input (blank, or signed and
    cancelling) tells less of e_B than a single cell.  Layer-fixed: cells of weight 0, whose mean output
    max|q_w|·Σ x·e is the correction itself, without S.  Raises ValueError for m < 1."""

    m: int

    def __post_init__(self):
        integer("m (reference columns)", self.m, 1)

    @property
    def label(self) -> str:
        return f"{self.m} column{'s' * (self.m > 1)}"

    def deviation(self, layer: Crossbar, name: str, chip: Chip, variation: Variation) -> Reading:
        charge = self.charge(layer, name, chip, variation)
        return lambda x: torch.where(self.reads(layer, x), charge(x) / layer.input_sum(x), 0.0)

    def charge(self, layer: Crossbar, name: str, chip: Chip, variation: Variation) -> Reading:
        column = self.column(layer, name, chip, variation)
        return lambda x: layer.op(x, column.to(x.dtype))

    def column(self, layer: Crossbar, name: str, chip: Chip, variation: Variation) -> Tensor:
        """Mean deviation of the m columns, one column a group."""
        own = variation.own(chip.z_columns(name, (self.m, *column_shape(layer)))).mean(0).to(layer.weight)
        return variation.shared(chip) + own

    def variance(self, layer: Crossbar, x: Tensor, within: float) -> Tensor:
        """Var(ê − e_B) = σ_W²/(m·K_eff): a column is worth K_eff cells."""
        return within**2 / (self.m * effective_cells(layer, x))

    def charge_variance(self, layer: Crossbar, x: Tensor, within: float) -> Tensor:
        """Var(ê·S) = σ_W²·‖x‖²/m, at S = 0 too."""
        return within**2 * layer.input_sum(x.square()) / self.m

    @property
    def readings(self) -> int:
        return self.m

    @staticmethod
    def reads(layer: Crossbar, x: Tensor) -> Tensor:
        """Where the columns' reading is used: K_eff ≥ 1, a hair below for single inputs, whose K_eff is just 1."""
        return effective_cells(layer, x) > 1 - 1e-3

    def cells(self, net: nn.Module) -> int:
        return sum(self.m * math.prod(column_shape(layer)) for _, layer in crossbars(net))


# -- corrections ----------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Linear:
    """A correction that is linear in x and ỹ, with its equal on the cells: op(x, fold(w̃)) = correct(op(x, w̃), x)."""

    correct: Correct
    fold: Callable[[Tensor], Tensor]

    def __call__(self, y: Tensor, x: Tensor) -> Tensor:
        return self.correct(y, x)


@dataclass(frozen=True)
class Gain:
    """y ← ỹ / max(1 + ê, floor).  The floor keeps a chip (or a position) of tiny or negative gain finite."""

    floor: float = 0.25
    law = "proportional"

    def __post_init__(self):
        real("floor", self.floor, 1e-6, 1)

    def slot(self, estimator, layer: Crossbar, name: str, chip: Chip, variation: Variation) -> Correct:
        read = estimator.deviation(layer, name, chip, variation)

        def gain(x: Tensor) -> Tensor:
            return over_outputs(layer, (1 + read(x)).clamp_min(self.floor)).to(x.dtype)

        if isinstance(estimator, ReadOnce):  # one constant a chip, whatever x
            return Linear(lambda y, x: y / gain(y), lambda w: w / gain(w))
        return lambda y, x: y / gain(x)


@dataclass(frozen=True)
class Offset:
    """y ← ỹ − max|q_w|·ê·S, with S summed over each group's own inputs."""

    law = "layer-fixed"

    def slot(self, estimator, layer: Crossbar, name: str, chip: Chip, variation: Variation) -> Correct:
        read, top = estimator.charge(layer, name, chip, variation), peak(layer)
        column = top * estimator.column(layer, name, chip, variation).to(top)
        outputs = layer.weight.shape[0] // getattr(layer, "groups", 1)
        return Linear(
            lambda y, x: y - over_outputs(layer, top * read(x)),
            lambda w: w - (column.repeat_interleave(outputs, 0) if column.dim() else column),
        )


CORRECTIONS = {correction.law: correction for correction in (Gain, Offset)}


def correction_for(law: str) -> Gain | Offset:
    """The correction made for a law; InputError for a registered law, which has none of its own."""
    if law not in CORRECTIONS:
        raise InputError(f"no correction is known for the law {law!r}; give SelfTuning(estimator, correction) one whose law is {law!r}")
    return CORRECTIONS[law]()


def refuse_other_law(correction, variation: Variation) -> None:
    """InputError where a correction meets a law that it was not made for."""
    if correction.law != variation.law:
        right = f"{type(correction_for(variation.law)).__name__}()"
        raise InputError(f"{type(correction).__name__} corrects the {correction.law} law, this variation is {variation.law}; use {right}")


@dataclass(frozen=True)
class SelfTuning:
    """A tuner for `evaluate` and `programmed`: fills the second slot of every layer.

    estimator: a `ReadOnce` (oracle, cells, your own) or `ReferenceColumns`.  correction: None for that of the variation's
    law.  Raises InputError for the correction of another law, or an estimator that is no frozen dataclass."""

    estimator: ReadOnce | ReferenceColumns
    correction: Gain | Offset | None = None

    def __post_init__(self):
        for what, thing in (("an estimator", self.estimator), ("a correction", self.correction)):
            if thing is not None and not (is_dataclass(thing) and thing.__dataclass_params__.frozen and not isinstance(thing, type)):
                raise InputError(f"{what} must be a frozen dataclass, such as ReferenceCells(256) or Gain(), got {thing!r:.80}")

    @property
    def label(self) -> str:
        floor = getattr(self.correction, "floor", Gain.floor)
        return self.estimator.label + (f", floor {floor:g}" if floor != Gain.floor else "")

    @contextmanager
    def __call__(self, net: nn.Module, chip: Chip, variation: Variation) -> Iterator[nn.Module]:
        correction = self.correction or correction_for(variation.law)
        refuse_other_law(correction, variation)
        for name, layer in crossbars(net):
            if variation.varies(name):
                layer.correct = correction.slot(self.estimator, layer, name, chip, variation)
        yield net

    def bind(self, net: nn.Module, train) -> SelfTuning:
        """Itself: it needs no images."""
        return self
