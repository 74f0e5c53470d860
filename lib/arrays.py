"""How a layer's weights lie on crossbar arrays.

a group's K inputs × N outputs take ⌈K/R⌉ × ⌈N/C⌉ arrays of at most R rows × C columns
the weight of output o and input k (channels first, then rows and columns of a kernel) lies in array (k//R, o//C)
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import torch
from torch import Tensor

ROWS = COLUMNS = 256


@dataclass(frozen=True)
class Rows:
    """The inputs start … stop − 1 of each output, which lie in row block `index`."""

    index: int
    start: int
    stop: int


def row_blocks(inputs: int, rows: int) -> tuple[Rows, ...]:
    """The row blocks of a layer with `inputs` inputs an output, on arrays of at most `rows` rows."""
    starts = range(0, inputs, rows)
    return tuple(Rows(i, start, min(start + rows, inputs)) for i, start in enumerate(starts))


@dataclass(frozen=True)
class Grid:
    """The arrays of a layer: weights of `shape` (N, inputs …) in groups, on arrays of at most rows × columns."""

    shape: tuple[int, ...]
    groups: int = 1
    rows: int = ROWS
    columns: int = COLUMNS

    @property
    def outputs(self) -> int:
        """Outputs a group."""
        return self.shape[0] // self.groups

    @property
    def inputs(self) -> int:
        """Inputs of one output."""
        return math.prod(self.shape[1:])

    @property
    def counts(self) -> tuple[int, int, int]:
        """(groups, row blocks, column blocks)."""
        return self.groups, math.ceil(self.inputs / self.rows), math.ceil(self.outputs / self.columns)

    @property
    def arrays(self) -> int:
        return math.prod(self.counts)

    def spread(self, values: Tensor) -> Tensor:
        """A value an array, `counts`, over the weights: of their shape, or one that broadcasts to it."""
        if values.numel() == 1:
            return values.reshape((1,) * len(self.shape))
        row = torch.arange(self.inputs, device=values.device) // self.rows
        column = torch.arange(self.outputs, device=values.device) // self.columns
        return values[:, row][:, :, column].transpose(1, 2).reshape(self.shape)

    def over_columns(self, values: Tensor) -> Tensor:
        """A value an array, `counts`, over the cells of one column a column block: (groups·column blocks, inputs …)."""
        row = torch.arange(self.inputs, device=values.device) // self.rows
        return values[:, row].transpose(1, 2).reshape(-1, *self.shape[1:])

    def over_outputs(self, values: Tensor, axis: int) -> Tensor:
        """A value a group, or a group and column block, along `axis`, over the outputs there."""
        blocks = values.shape[axis] // self.groups
        column = torch.arange(self.outputs, device=values.device) // (self.columns if blocks > 1 else self.outputs)
        index = torch.arange(self.groups, device=values.device)[:, None] * blocks + column
        return values.index_select(axis, index.flatten())
