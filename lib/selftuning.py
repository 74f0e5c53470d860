"""Self-tuning: a chip estimates its own shared deviation e_B and corrects its activations.  estimator × correction.

    proportional   y ← ỹ / max(1 + ê, floor)        one gain per chip: folds into batch norm or the next activation step
    layer-fixed    y ← ỹ − max|q_w|·ê·S             S = Σ q_a(x) over the receptive field: an offset for each input

Before bias, batch norm and the next quantizer.  [ours]; the abstract says only that activations are adjusted layer by
layer during inference.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Protocol

from torch import Tensor, nn

from .analog import Correct, Crossbar, Tuner, crossbars
from .checks import InputError, frozen_dataclass, has, real
from .data import Images
from .estimators import Estimator, ReadOnce
from .variation import Chip, Variation


def peak(layer: Crossbar) -> Tensor:
    """max|q_w| of a layer."""
    return layer.quantize_weight(layer.weight).detach().abs().amax()


def over_outputs(layer: Crossbar, value: Tensor) -> Tensor:
    """A value a group repeated over the group's outputs; one for all outputs, or for the whole chip, stays as it is."""
    if value.dim() == 0 or value.shape[layer.channel] == 1:
        return value
    return value.repeat_interleave(layer.weight.shape[0] // value.shape[layer.channel], layer.channel)


class Correction(Protocol):
    """How a layer's output is corrected by what an estimator says.  A new one is a frozen dataclass.

    law: the one it is made for.  slot: what fills the layer's `correct` on one chip."""

    @property
    def law(self) -> str: ...

    def slot(self, estimator: Estimator, layer: Crossbar, name: str, chip: Chip, variation: Variation) -> Correct: ...


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

    def slot(self, estimator: Estimator, layer: Crossbar, name: str, chip: Chip, variation: Variation) -> Correct:
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

    def slot(self, estimator: Estimator, layer: Crossbar, name: str, chip: Chip, variation: Variation) -> Correct:
        read, top = estimator.charge(layer, name, chip, variation), peak(layer)
        column = top * estimator.column(layer, name, chip, variation).to(top)
        outputs = layer.weight.shape[0] // getattr(layer, "groups", 1)
        return Linear(
            lambda y, x: y - over_outputs(layer, top * read(x)),
            lambda w: w - (column.repeat_interleave(outputs, 0) if column.dim() else column),
        )


CORRECTIONS = {correction.law: correction for correction in (Gain, Offset)}


def correction_for(law: str) -> Correction:
    """The correction made for a law; InputError for a registered law, which has none of its own."""
    if law not in CORRECTIONS:
        raise InputError(
            f"no correction is known for the law {law!r}; give SelfTuning(estimator, correction) one of that law"
        )
    return CORRECTIONS[law]()


def refuse_other_law(correction: Correction, variation: Variation) -> None:
    """InputError where a correction meets a law that it was not made for."""
    if correction.law != variation.law:
        right = f"{CORRECTIONS[variation.law].__name__}()" if variation.law in CORRECTIONS else "one made for that law"
        found = f"{type(correction).__name__} corrects the {correction.law} law"
        raise InputError(f"{found}, this variation is {variation.law}; use {right}")


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
        return self.estimator.label + (f", floor {floor:g}" if floor != Gain.floor else "")

    @contextmanager
    def __call__(self, net: nn.Module, chip: Chip, variation: Variation) -> Iterator[nn.Module]:
        correction = self.correction or correction_for(variation.law)
        refuse_other_law(correction, variation)
        for name, layer in crossbars(net):
            if variation.varies(name):
                layer.correct = correction.slot(self.estimator, layer, name, chip, variation)
        yield net

    def cells(self, net: nn.Module) -> int:
        return self.estimator.cells(net)

    def bind(self, net: nn.Module, train: Images) -> SelfTuning:
        """Itself: it needs no images."""
        return self
