"""Reference columns: an estimator that every inference reads anew, driven by the layer's own inputs.  [ours]"""

from __future__ import annotations

import math
from dataclasses import dataclass

import torch
from torch import Tensor, nn

from .analog import Crossbar, crossbars
from .arrays import Rows
from .checks import integer, one_of
from .estimators import PER, Reading, by_array, grid_of, grids_of
from .variation import NO_VARIATION, Chip, Variation


def column_shape(layer: Crossbar) -> tuple[int, ...]:
    """Cells of one column a group: (1, K) of a linear layer, (groups, C/groups, kh, kw) of a convolution."""
    return getattr(layer, "groups", 1), *layer.weight.shape[1:]


def effective_cells(layer: Crossbar, x: Tensor, rows: Rows | None = None) -> Tensor:
    """K_eff = S²/‖x‖²: so many reference cells tell as much of e_B as one column at this input; 0 where x = 0."""
    power = layer.input_sum(x.square(), rows)
    return layer.input_sum(x, rows).square() / power.clamp_min(torch.finfo(power.dtype).tiny)


@dataclass(frozen=True)
class ReferenceColumns:
    """m dummy columns of equal cells a layer and group, or an array, driven by the layer's inputs at every inference.

    Proportional: cells of any weight w₀; the mean output d over that of an ideal column tells  ê = d/(w₀·S) − 1
    = e_B + Σ x·e_W / S.  ê is 0 (no correction) where K_eff < 1: a column at such an input (blank, or signed and
    cancelling) tells less of e_B than a single cell.  Layer-fixed: cells of weight 0, whose mean output
    max|q_w|·Σ x·e is the correction itself, without S.

    per: "chip" has m columns for a group's outputs, which stand in its first column block and cross all its row blocks;
    "array" has m in each array, read by themselves.  Raises InputError for m < 1 or another `per`."""

    m: int
    per: str = "chip"

    def __post_init__(self):
        integer("m (reference columns)", self.m, 1)
        one_of("per", self.per, PER)

    @property
    def label(self) -> str:
        return f"{self.m} column{'s' * (self.m > 1)}" + " per array" * by_array(self)

    def deviation(self, layer: Crossbar, name: str, chip: Chip, variation: Variation) -> Reading:
        charge = self.charge(layer, name, chip, variation)

        def reading(x: Tensor, rows: Rows | None = None) -> Tensor:
            used, sums = self.reads(layer, x, rows), layer.input_sum(x, rows)
            told = charge(x, rows)
            if told.shape[layer.channel] != sums.shape[layer.channel]:  # a column block beside another has its own
                repeats = told.shape[layer.channel] // sums.shape[layer.channel]
                used, sums = (value.repeat_interleave(repeats, layer.channel) for value in (used, sums))
            return torch.where(used, told / sums, 0.0)

        return reading

    def charge(self, layer: Crossbar, name: str, chip: Chip, variation: Variation) -> Reading:
        column = self.column(layer, name, chip, variation)
        return lambda x, rows=None: layer.part(x, column.to(x.dtype), rows)

    def column(self, layer: Crossbar, name: str, chip: Chip, variation: Variation) -> Tensor:
        """Mean deviation of the m columns, one column a group, or one a group and column block, (columns, inputs …)."""
        grid = grid_of(layer, variation)
        blocks = grid.counts[2] if by_array(self) else 1
        shape = (self.m, *column_shape(layer))
        z = [chip.z_columns(name if not b else f"{name}/{b}", shape) for b in range(blocks)]
        own = [variation.own(one).mean(0).to(layer.weight) for one in z]
        if not variation.array:
            return variation.shared(chip) + torch.stack(own, 1).flatten(0, 1)
        shared = variation.of_arrays(chip, name, grid)[..., :blocks].to(layer.weight)
        return grid.over_columns(shared) + torch.stack(own, 1).flatten(0, 1)

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
    def reads(layer: Crossbar, x: Tensor, rows: Rows | None = None) -> Tensor:
        """Where the columns' reading is used: K_eff ≥ 1, a hair below for single inputs, whose K_eff is just 1."""
        return effective_cells(layer, x, rows) > 1 - 1e-3

    def cells(self, net: nn.Module, variation: Variation = NO_VARIATION) -> int:
        blocks = {name: grid.counts[2] if by_array(self) else 1 for name, grid in grids_of(net, variation)}
        return sum(self.m * blocks.get(name, 1) * math.prod(column_shape(layer)) for name, layer in crossbars(net))
