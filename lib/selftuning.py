"""Self-tuning: a chip estimates what its cells share and corrects its activations.  estimator × correction.

    proportional   y ← ỹ / max(1 + ê, floor)        one gain per chip: folds into batch norm or the next activation step
    layer-fixed    y ← ỹ − max|q_w|·ê·S             S = Σ q_a(x) over the receptive field: an offset for each input;
                                                    none on a differential pair, where what cells share cancels
    any other      y ← ỹ − ê·op(x, u)               u = w̃(e = 1) − w, of laws that are linear in e

Before bias, batch norm and the next quantizer; with an estimate per array, the product of each row block by itself.
[ours]; the abstract says only that activations are adjusted layer by layer during inference.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Protocol

from torch import Tensor, nn

from .analog import Correct, Crossbar, Tuner, crossbars
from .arrays import Grid, Rows
from .checks import InputError, frozen_dataclass, has, real
from .data import Images
from .estimators import Estimator, ReadOnce, by_array, grid_of, grids_of
from .laws import BUILT_IN, MEASURED
from .variation import NO_VARIATION, Chip, Variation


def peak(layer: Crossbar) -> Tensor:
    """max|q_w| of a layer."""
    return layer.quantize_weight(layer.weight).detach().abs().amax()


def over_outputs(layer: Crossbar, value: Tensor, grid: Grid | None = None) -> Tensor:
    """A value a group, or a group and column block of `grid`, repeated over its outputs; one for all outputs, or for
    the whole chip, stays as it is."""
    if value.dim() == 0 or value.shape[layer.channel] in (1, layer.weight.shape[0]):
        return value
    return (grid or Grid(layer.weight.shape, getattr(layer, "groups", 1))).over_outputs(value, layer.channel)


class Correction(Protocol):
    """How a layer's output is corrected by what an estimator says.  A new one is a frozen dataclass.

    law: the one it is made for.  slot: what fills the layer's `correct` on one chip."""

    @property
    def law(self) -> str: ...

    def slot(self, estimator: Estimator, layer: Crossbar, name: str, chip: Chip, variation: Variation) -> Correct: ...


@dataclass(frozen=True)
class Slot:
    """What fills a layer's `correct` on one chip.

    correct: (ỹ, x, rows) ↦ y, linear in ỹ.  fold: where it is linear in the cells too, its equal on them,
    op(x, fold(w̃)) = correct(op(x, w̃), x).  by_rows: each row block needs its own, or can have it."""

    correct: Callable[[Tensor, Tensor, Rows | None], Tensor]
    fold: Callable[[Tensor], Tensor] | None = None
    by_rows: bool = False

    def __call__(self, y: Tensor, x: Tensor, rows: Rows | None = None) -> Tensor:
        return self.correct(y, x, rows)


def behind(layer: Crossbar) -> bool:
    """Whether a converter stands behind the correction, so that it must act on each row block."""
    return layer.read is not None and layer.read.last


@dataclass(frozen=True)
class Gain:
    """y ← ỹ / max(1 + ê, floor).  The floor keeps a chip (or a position) of tiny or negative gain finite."""

    floor: float = 0.25
    law = "proportional"

    def __post_init__(self):
        real("floor", self.floor, 1e-6, 1)

    def slot(self, estimator: Estimator, layer: Crossbar, name: str, chip: Chip, variation: Variation) -> Correct:
        apart, grid, floor = by_array(estimator), grid_of(layer, variation), self.floor
        if isinstance(estimator, ReadOnce):  # constants, whatever x
            gains = (1 + estimator.known(layer, name, chip, variation)).clamp_min(floor).to(layer.weight)
            each = grid.spread(gains) if apart else gains
            index = (-1,) + (1,) * (-1 - layer.channel)  # along the axis of the outputs

            def divided(y: Tensor, x: Tensor, rows: Rows | None) -> Tensor:
                one = gains[:, rows.index if rows else 0].reshape(index) if apart else gains
                return y / over_outputs(layer, one, grid).to(x.dtype)

            return Slot(divided, lambda w: w / each.to(w), apart or behind(layer))
        read = estimator.deviation(layer, name, chip, variation)

        def gain(x: Tensor, rows: Rows | None) -> Tensor:
            e = read(x, rows) if rows and apart else read(x)  # a column of the chip crosses all row blocks
            return over_outputs(layer, (1 + e).clamp_min(floor), grid).to(x.dtype)

        return Slot(lambda y, x, rows: y / gain(x, rows), None, apart or behind(layer))


@dataclass(frozen=True)
class Offset:
    """y ← ỹ − max|q_w|·ê·S, with S summed over each group's own inputs; y ← ỹ on a differential pair."""

    law = "layer-fixed"

    def slot(self, estimator: Estimator, layer: Crossbar, name: str, chip: Chip, variation: Variation) -> Correct:
        if variation.mapping == "differential":
            return Slot(lambda y, x, rows: y, lambda w: w, behind(layer))
        read, top, grid = estimator.charge(layer, name, chip, variation), peak(layer), grid_of(layer, variation)
        column = top * estimator.column(layer, name, chip, variation).to(top)

        def offset(x: Tensor, rows: Rows | None) -> Tensor:
            return over_outputs(layer, top * (read(x, rows) if rows else read(x)), grid)

        return Slot(
            lambda y, x, rows: y - offset(x, rows),
            lambda w: w - (grid.over_outputs(column, 0) if column.dim() else column),
            behind(layer),  # charges of row blocks add up
        )


@dataclass(frozen=True)
class Response:
    """y ← ỹ − ê·op(x, u), u = w̃(e = 1) − w: how the cells answer to what they share, for a law that is linear in e.

    Exact, at the price of a second digital product a layer; law: the one it is used for."""

    law: str = "measured"

    def slot(self, estimator: Estimator, layer: Crossbar, name: str, chip: Chip, variation: Variation) -> Correct:
        grid, w = grid_of(layer, variation), layer.quantize_weight(layer.weight).detach()
        law, _, combine = variation.uses
        u = combine(law, w, w.new_ones((variation.cells_of_a_weight,) + (1,) * w.dim())) - w
        if isinstance(estimator, ReadOnce):
            e = estimator.known(layer, name, chip, variation)
            told = (grid.spread(e) if e.dim() else e).to(w) * u
            return Slot(lambda y, x, rows: y - layer.part(x, told.to(x), rows), lambda v: v - told, behind(layer))
        read = estimator.deviation(layer, name, chip, variation)

        def share(x: Tensor, rows: Rows | None) -> Tensor:
            e = read(x, rows) if rows and by_array(estimator) else read(x)
            return over_outputs(layer, e, grid) * layer.part(x, u.to(x), rows)

        return Slot(lambda y, x, rows: y - share(x, rows), None, by_array(estimator) or behind(layer))


CORRECTIONS = {"proportional": Gain, "layer-fixed": Offset, MEASURED: Response}


def correction_for(law: str) -> Correction:
    """The correction made for a law; InputError for a registered law, which has none of its own."""
    if law not in CORRECTIONS:
        raise InputError(
            f"no correction is known for the law {law!r}; give SelfTuning(estimator, correction) one of that law"
        )
    return CORRECTIONS[law]()


def refuse_other_law(correction: Correction, variation: Variation) -> None:
    """InputError where a correction meets a law, or a registered mapping, that it was not made for."""
    if correction.law != variation.law:
        right = f"{CORRECTIONS[variation.law].__name__}()" if variation.law in CORRECTIONS else "one made for that law"
        found = f"{type(correction).__name__} corrects the {correction.law} law"
        raise InputError(f"{found}, this variation is {variation.law}; use {right}")
    if isinstance(correction, (Gain, Offset)) and variation.mapping not in BUILT_IN:
        found = f"{type(correction).__name__} knows a single cell or a differential pair for each weight"
        raise InputError(f'{found}, not the mapping {variation.mapping!r}; use Response("{variation.law}")')


class Tuning(Protocol):
    """What a measurement may try against variation: `SelfTuning`, or a control.  A new one is a frozen dataclass.

    label: its name in tables.  chip_images: images (or probe inputs) that each chip is run on before use."""

    @property
    def label(self) -> str: ...

    @property
    def chip_images(self) -> int: ...

    def cells(self, net: nn.Module) -> int:
        """Extra cells on the chip."""

    def bind(self, net: nn.Module, train: Images) -> Tuner:
        """What is done once for a network, with training images; the tuner of its chips."""


@dataclass(frozen=True)
class SelfTuning:
    """A tuner for `evaluate` and `programmed`: fills the `correct` slot of every layer.

    estimator: any `Estimator`, such as ReferenceCells(256).  correction: any `Correction`, None for that of the
    variation's law.  Raises InputError for the correction of another law, or parts that are no frozen dataclasses."""

    estimator: Estimator
    correction: Correction | None = None
    chip_images = 0

    def __post_init__(self):
        frozen_dataclass("an estimator", self.estimator, "ReferenceCells(256)")
        parts = ("label", "readings", "deviation", "charge", "column", "reads", "cells")
        has("an estimator", self.estimator, parts, "ReadOnce with a label and estimate(chip, variation)")
        if self.correction is not None:
            frozen_dataclass("a correction", self.correction, "Gain()")
            has("a correction", self.correction, ("law", "slot"), "Gain")

    @property
    def label(self) -> str:
        floor = getattr(self.correction, "floor", Gain.floor)
        exact = ", by its response" if isinstance(self.correction, Response) else ""
        return self.estimator.label + exact + (f", floor {floor:g}" if floor != Gain.floor else "")

    @contextmanager
    def __call__(self, net: nn.Module, chip: Chip, variation: Variation) -> Iterator[nn.Module]:
        correction = self.correction or correction_for(variation.law)
        refuse_other_law(correction, variation)
        variation = variation.laid(grids_of(net, variation)) if variation.array else variation
        for name, layer in crossbars(net):
            if variation.varies(name):
                layer.correct = correction.slot(self.estimator, layer, name, chip, variation)
        yield net

    def cells(self, net: nn.Module, variation: Variation = NO_VARIATION) -> int:
        placed = (variation,) if by_array(self.estimator) else ()  # who has cells on the chip alone needs no arrays
        return self.estimator.cells(net, *placed)

    def bind(self, net: nn.Module, train: Images) -> SelfTuning:
        """Itself: it needs no images."""
        return self
