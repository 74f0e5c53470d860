"""Estimators: how a chip finds out what its cells share.  [ours]

    oracle                       ê = e
    n reference cells            ê = e + (1/n)·Σ e_W,i                  read once per chip
    m reference columns          ê = e + Σ x·e_W / S,  S = Σ q_a(x)     read at every inference (`columns`)

per="chip"    e = e_B + ē_A, ē_A the mean over the chip's A arrays:  Var(ê − e_B − e_A) = σ_A²(1 − 1/A) + σ_W²/n
per="array"   e = e_B + e_A, one ê per array

An estimator answers two questions about a layer's input x: ê, and its charge ê·S; of all rows, or of one row block.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Protocol

import torch
from torch import Tensor, nn

from .analog import Crossbar, crossbars
from .arrays import Grid, Rows
from .checks import InputError, integer, one_of, real
from .variation import NO_VARIATION, Chip, Variation

# (q_a(x), rows) ↦ a number, or one a sample, group (and column block) and position; rows None: of all rows
Reading = Callable[..., Tensor]
PER = ("chip", "array")


def grid_of(layer: Crossbar, variation: Variation) -> Grid:
    """The arrays that a layer lies on."""
    return variation.grid(layer.weight.shape, getattr(layer, "groups", 1))


def grids_of(net: nn.Module, variation: Variation) -> list[tuple[str, Grid]]:
    """(name, arrays) of every layer that varies, or of all where none does."""
    layers = [(name, layer) for name, layer in crossbars(net) if variation.varies(name) or not variation.total]
    return [(name, grid_of(layer, variation)) for name, layer in layers]


def by_array(part) -> bool:
    """Whether an estimator tells a chip's arrays apart."""
    return getattr(part, "per", "chip") == "array"


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
        """Extra cells on the chip; one with per = "array" takes a variation too, which says how large an array is."""


class ReadOnce:
    """What estimators share that read the chip once.  A new one is a frozen dataclass with a `label` (its name in
    tables) and `estimate(chip, variation) → ê`; with `variance(layer, x, within)` its error can be predicted too."""

    label: str
    readings = 0
    per = "chip"

    def estimate(self, chip: Chip, variation: Variation) -> float:
        raise InputError(f"{type(self).__name__} needs estimate(chip, variation), its ê of e_B; see ReferenceCells")

    def estimates(self, chip: Chip, variation: Variation, layer: str, grid: Grid) -> Tensor:
        """ê of each array of a layer, `grid.counts`, float64; where `per` is "array"."""
        raise InputError(
            f"{type(self).__name__} needs estimates(chip, variation, layer, grid), an ê per array; see ReferenceCells"
        )

    def read(self, chip: Chip, variation: Variation) -> float:
        """ê, a finite number."""
        return real(f"ê of {self.label}", self.estimate(chip, variation))

    def known(self, layer: Crossbar, name: str, chip: Chip, variation: Variation) -> Tensor:
        """ê, or with `per` = "array" that of each array, `Grid.counts`."""
        if not by_array(self):
            return torch.tensor(self.read(chip, variation), dtype=layer.weight.dtype)
        return self.estimates(chip, variation, name, grid_of(layer, variation))

    def variance(self, layer: Crossbar, x: Tensor, within: float) -> float:
        """E(ê − e_B)²."""
        raise InputError(
            f"{type(self).__name__} needs variance(layer, x, within) to predict its error; see ReferenceCells"
        )

    def deviation(self, layer: Crossbar, name: str, chip: Chip, variation: Variation) -> Reading:
        e = self.known(layer, name, chip, variation)
        if not by_array(self):
            return lambda x, rows=None: e
        index = (-1,) + (1,) * (-1 - layer.channel)  # along the axis of the outputs

        def reading(x: Tensor, rows: Rows | None = None) -> Tensor:
            if rows is None and e.shape[1] > 1:
                raise InputError(
                    f"{name!r} lies on {e.shape[1]} row blocks, each with an estimate of its own; read each, as a "
                    "correction with by_rows does, or use per='chip'"
                )
            return e[:, rows.index if rows else 0].reshape(index)

        return reading

    def charge(self, layer: Crossbar, name: str, chip: Chip, variation: Variation) -> Reading:
        if by_array(self):
            column = self.column(layer, name, chip, variation)
            return lambda x, rows=None: layer.part(x, column.to(x), rows)
        e = self.read(chip, variation)
        return lambda x, rows=None: e * layer.input_sum(x, rows)

    def column(self, layer: Crossbar, name: str, chip: Chip, variation: Variation) -> Tensor:
        """The deviation of cells whose product with x is the charge: ê in each."""
        if by_array(self):
            return grid_of(layer, variation).over_columns(self.known(layer, name, chip, variation))
        return torch.tensor(self.read(chip, variation), dtype=torch.float64)

    def charge_variance(self, layer: Crossbar, x: Tensor, within: float) -> Tensor:
        """Var(ê·S) = Var(ê − e_B)·S²."""
        return self.variance(layer, x, within) * layer.input_sum(x).square()

    def reads(self, layer: Crossbar, x: Tensor) -> Tensor:
        """Where the estimate is used: everywhere."""
        return torch.ones_like(layer.input_sum(x), dtype=torch.bool)

    def cells(self, net: nn.Module, variation: Variation = NO_VARIATION) -> int:
        """Extra cells on the chip."""
        return 0


@dataclass(frozen=True)
class Oracle(ReadOnce):
    """ê = e, of the chip or of each array: no device can do it.  It leaves the cells' own deviation, and is no upper
    bound of other methods.  Raises InputError for another `per`."""

    per: str = "chip"  # type: ignore[misc]

    def __post_init__(self):
        one_of("per", self.per, PER)

    @property
    def label(self) -> str:  # type: ignore[override]
        return "oracle" + " per array" * by_array(self)

    def estimate(self, chip: Chip, variation: Variation) -> float:
        return variation.common(chip)

    def estimates(self, chip: Chip, variation: Variation, layer: str, grid: Grid) -> Tensor:
        return variation.of_arrays(chip, layer, grid)

    def variance(self, layer: Crossbar, x: Tensor, within: float) -> float:
        """Var(ê − e_B)."""
        return 0.0


@dataclass(frozen=True)
class ReferenceCells(ReadOnce):
    """ê = e + mean of the own deviations of n reference cells, read once a chip.

    per: "chip" spreads n cells over the whole chip; "array" puts n of them into each array.
    read_noise: standard deviation of the error of that reading, in units of e.  step: its resolution, 0 for exact.
    Raises InputError for n < 1, a negative noise or step, or another `per`."""

    n: int
    read_noise: float = 0.0
    step: float = 0.0
    per: str = "chip"  # type: ignore[misc]

    def __post_init__(self):
        integer("n (reference cells)", self.n, 1)
        real("read_noise", self.read_noise, 0)
        real("step", self.step, 0)
        one_of("per", self.per, PER)

    @property
    def label(self) -> str:  # type: ignore[override]
        noise = f", noise {self.read_noise:g}" if self.read_noise else ""
        where = " per array" * by_array(self)
        return f"{self.n} cell{'s' * (self.n > 1)}{where}{noise}" + (f", step {self.step:g}" if self.step else "")

    def estimate(self, chip: Chip, variation: Variation) -> float:
        e = variation.common(chip) + float(variation.own(chip.z_reference(self.n)).mean(dtype=torch.float64))
        if self.read_noise:
            e += self.read_noise * float(chip.z_reading())
        return round(e / self.step) * self.step if self.step else e

    def estimates(self, chip: Chip, variation: Variation, layer: str, grid: Grid) -> Tensor:
        own = variation.own(chip.z_reference(self.n, layer, grid.counts)).mean(0, dtype=torch.float64)
        e = variation.of_arrays(chip, layer, grid) + own
        if self.read_noise:
            e = e + self.read_noise * chip.z_reading(layer, grid.counts)
        return (e / self.step).round() * self.step if self.step else e

    def variance(self, layer: Crossbar, x: Tensor, within: float) -> float:
        """E(ê − e)² = σ_W²/n + read_noise² + step²/12; the last term is a mean over e, for small steps."""
        return within**2 / self.n + self.read_noise**2 + self.step**2 / 12

    def mismatch(self, variation: Variation, arrays: int) -> float:
        """Var(ê − e_B − e_A) for the arrays of a chip that has so many: per array the above, per chip σ_A²(1 − 1/A)
        more."""
        own = ReferenceCells.variance(self, None, None, variation.within)  # type: ignore[arg-type]  # of no layer
        return own + (0.0 if by_array(self) else variation.array**2 * (1 - 1 / arrays))

    def cells(self, net: nn.Module, variation: Variation = NO_VARIATION) -> int:
        if not by_array(self):
            return self.n
        return self.n * sum(grid.arrays for _, grid in grids_of(net, variation))
