"""Estimators: how a chip finds out its own shared deviation e_B.  [ours]

    oracle                       ê = e_B
    n reference cells            ê = e_B + (1/n)·Σ e_W,i                  read once per chip
    m reference columns          ê = e_B + Σ x·e_W / S,  S = Σ q_a(x)     read at every inference

An estimator answers two questions about a layer's input x: ê, and its charge ê·S.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass
from typing import Protocol

import torch
from torch import Tensor, nn

from .analog import Crossbar, crossbars
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


class Estimator(Protocol):
    """What a chip finds out about its shared deviation e_B.  A new one is a frozen dataclass; one that reads the chip
    once needs only what `ReadOnce` says.  Its error can be predicted if it has `variance` and `charge_variance` too.

    label: its name in tables.  readings: analog readings that every inference takes at every position."""

    @property
    def label(self) -> str: ...

    @property
    def readings(self) -> int: ...

    def deviation(self, layer: Crossbar, name: str, chip: Chip, variation: Variation) -> Reading:
        """q_a(x) ↦ ê."""

    def charge(self, layer: Crossbar, name: str, chip: Chip, variation: Variation) -> Reading:
        """q_a(x) ↦ ê·S."""

    def column(self, layer: Crossbar, name: str, chip: Chip, variation: Variation) -> Tensor:
        """The deviation of cells whose product with x is the charge; a number, or one column per group."""

    def reads(self, layer: Crossbar, x: Tensor) -> Tensor:
        """Where the estimate is used, bool."""

    def cells(self, net: nn.Module) -> int:
        """Extra cells on the chip."""


class ReadOnce:
    """What estimators share that read the chip once.  A new one is a frozen dataclass with a `label` (its name in
    tables) and `estimate(chip, variation) → ê`; with `variance(layer, x, within)` its error can be predicted too."""

    label: str
    readings = 0

    def estimate(self, chip: Chip, variation: Variation) -> float:
        raise InputError(f"{type(self).__name__} needs estimate(chip, variation), its ê of e_B; see ReferenceCells")

    def read(self, chip: Chip, variation: Variation) -> float:
        """ê, a finite number."""
        return real(f"ê of {self.label}", self.estimate(chip, variation))

    def variance(self, layer: Crossbar, x: Tensor, within: float) -> float:
        """E(ê − e_B)²."""
        raise InputError(
            f"{type(self).__name__} needs variance(layer, x, within) to predict its error; see ReferenceCells"
        )

    def deviation(self, layer: Crossbar, name: str, chip: Chip, variation: Variation) -> Reading:
        e = torch.tensor(self.read(chip, variation))
        return lambda x: e

    def charge(self, layer: Crossbar, name: str, chip: Chip, variation: Variation) -> Reading:
        e = self.read(chip, variation)
        return lambda x: e * layer.input_sum(x)

    def column(self, layer: Crossbar, name: str, chip: Chip, variation: Variation) -> Tensor:
        """The deviation of cells whose product with x is the charge: ê in each."""
        return torch.tensor(self.read(chip, variation), dtype=torch.float64)

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
        integer("n (reference cells)", self.n, 1)
        real("read_noise", self.read_noise, 0)
        real("step", self.step, 0)

    @property
    def label(self) -> str:  # type: ignore[override]
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
