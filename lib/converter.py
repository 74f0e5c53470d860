"""The converter between array and correction: few levels over a range that is fixed once.

    y ← Δ·round( clamp( y/Δ, −m, m ) )     m = 2^(b−1) − 1 levels a side, range Δ·m = headroom × a quantile of |y|

Every row block of a layer has its own; the range is one per layer, from the ideal network.  What it clips, no
correction behind it brings back.  Gradient: straight through where it does not clip.  [ours]
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass

import torch
from torch import Tensor, nn

from .analog import Crossbar, crossbars, evaluating
from .arrays import ROWS
from .checks import InputError, integer, real
from .conversion import unused_norms_seeing
from .quantizers import straight_through
from .variation import keyed_generator

LARGEST = 2**20  # values a layer of which the quantile is taken, drawn at random from more


@dataclass(frozen=True)
class Converter:
    """bits: 2 to 16, sign included.  headroom: range over the quantile of |y|.  last: it stands behind the correction,
    which is then analog: the ideal.  Raises InputError for other bits, a headroom of 0 or a quantile outside 0 … 1."""

    bits: int
    headroom: float = 1.0
    last: bool = False
    quantile: float = 0.999

    def __post_init__(self):
        integer("bits of a converter", self.bits, 2, 16)
        real("headroom", self.headroom, 1e-6)
        real("quantile", self.quantile, 1e-6, 1)
        if not isinstance(self.last, bool):
            raise InputError(f"last must be True (behind the correction) or False, got {self.last!r}")

    @property
    def levels(self) -> int:
        """m, a side."""
        return 2 ** (self.bits - 1) - 1

    @property
    def label(self) -> str:
        place = ", behind the correction" * self.last
        return f"{self.bits} bits, headroom {self.headroom:g} × the {100 * self.quantile:g}% quantile{place}"


@dataclass(frozen=True)
class Reading:
    """A layer's `read`: Δ·round(clamp(y/Δ, −m, m)) with the step Δ > 0."""

    step: float
    levels: int
    last: bool = False
    rows: int = ROWS  # of the arrays that its range is for

    def __call__(self, y: Tensor) -> Tensor:
        v = (y / self.step).detach()
        inside = v.abs() <= self.levels if y.requires_grad else None
        return straight_through(y, v.round_().clamp_(-self.levels, self.levels).mul_(self.step), inside)


class _Look:
    """A `read` that changes nothing and keeps |y|."""

    last = False

    def __init__(self):
        self.seen: list[Tensor] = []

    def __call__(self, y: Tensor) -> Tensor:
        self.seen.append(y.detach().abs().flatten())
        return y


@dataclass(frozen=True)
class Extents:
    """layer → the quantile of |y| over the products of its blocks of at most `rows` rows, in the ideal network."""

    quantile: float
    rows: int
    of: Mapping[str, float]


def extents(net: nn.Module, batch: Tensor | None, quantile: float = 0.999, rows: int = ROWS) -> Extents:
    """What `attach` measures for its ranges, for several converters: of inputs (B, …); 0 for a layer that they do not
    reach.  Raises InputError for a quantile outside 0 … 1, fewer than 1 row, no batch, or a network without analog
    layers."""
    real("quantile", quantile, 1e-6, 1)
    layers = _layers(net, rows)
    if not isinstance(batch, Tensor):
        raise InputError(f"a converter needs a batch of normalized inputs for its range, got {batch!r:.80}")
    before = [(layer, layer.read, layer.rows) for layer in layers.values()]
    looks = {name: _Look() for name in layers}
    try:
        for name, layer in layers.items():
            layer.read, layer.rows = looks[name], rows
        with unused_norms_seeing(net), evaluating(net):
            net(batch)
    finally:
        for layer, read, rows_before in before:
            layer.read, layer.rows = read, rows_before
    return Extents(quantile, rows, {name: _quantile(look.seen, quantile) for name, look in looks.items()})


def _layers(net: nn.Module, rows: int) -> dict[str, Crossbar]:
    integer("rows of an array", rows, 1)
    layers = dict(crossbars(net))
    if not layers:
        raise InputError(f"{type(net).__name__} has no analog layer; make them with to_analog(net, bits, calibrate)")
    return layers


def _quantile(seen: list[Tensor], quantile: float) -> float:
    values = torch.cat(seen).float() if seen else torch.zeros(1)
    if len(values) > LARGEST:
        some = keyed_generator("converter").integers(len(values), size=LARGEST)
        values = values[torch.from_numpy(some).to(values.device)]
    return float(values.kthvalue(1 + round(quantile * (len(values) - 1))).values)


def attach(net: nn.Module, converter: Converter | None, batch: Tensor | Extents | None, rows: int = ROWS) -> None:
    """Put a converter behind every array of `net`, for training too; None takes them away.

    batch (B, …): normalized inputs, from which the ideal network tells each layer's range; or the `extents` that it
    told before.  rows: of the largest array, as in the `Variation` to come.  A layer that the batch does not reach, or
    whose outputs are all zero, has none.
    Raises InputError for anything but a Converter, fewer than 1 row, no batch, extents of another network, quantile or
    number of rows, or a network without analog layers."""
    if not isinstance(converter, Converter | None):
        raise InputError(f"converter must be a Converter, such as Converter(bits=8), got {converter!r:.80}")
    layers = _layers(net, rows)
    if converter is None:
        reads: dict[str, Reading | None] = dict.fromkeys(layers)
    else:
        found = batch if isinstance(batch, Extents) else extents(net, batch, converter.quantile, rows)
        if (found.quantile, found.rows, found.of.keys()) != (converter.quantile, rows, layers.keys()):
            raise InputError(
                f"extents at quantile {found.quantile:g} of {found.rows} rows and {len(found.of)} layers are not those "
                f"of this converter, {converter.quantile:g}, {rows} rows and {len(layers)} layers; use extents(net, …)"
            )
        reads = {name: _reading(converter, top, rows) for name, top in found.of.items()}
    for name, layer in layers.items():
        layer.read, layer.rows = reads[name], rows


def _reading(converter: Converter, extent: float, rows: int) -> Reading | None:
    step = converter.headroom * extent / converter.levels
    return Reading(step, converter.levels, converter.last, rows) if step > 0 else None


@contextmanager
def converting(
    net: nn.Module, converter: Converter | None, batch: Tensor | Extents | None, rows: int = ROWS
) -> Iterator[nn.Module]:
    """`net` with converters, for as long as the context lasts."""
    before = [(layer, layer.read, layer.rows) for _, layer in crossbars(net)]
    try:
        attach(net, converter, batch, rows)
        yield net
    finally:
        for layer, read, rows_before in before:
            layer.read, layer.rows = read, rows_before
