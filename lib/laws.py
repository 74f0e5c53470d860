"""What a deviation does to a weight: law × distribution of cells × mapping, each independent of the others.

law             (w, e) ↦ w̃
distribution    (z, σ) ↦ e_W of mean 0 and standard deviation σ
mapping         which cells hold a weight: one, two whose difference it is, or as registered
"""

from __future__ import annotations

import inspect
import math
from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

from .checks import InputError, integer, one_of, real

Law = Callable[[Tensor, Tensor], Tensor]  # (w, e) ↦ w̃


def proportional(w: Tensor, e: Tensor) -> Tensor:
    """w̃ = w·(1 + e); gradient to w: (1 + e)·g.  Shapes: w, e broadcast.  Within part [code 2021]."""
    return w * (1 + e)


def layer_fixed(w: Tensor, e: Tensor) -> Tensor:
    """w̃ = w + e·max|w| of the layer; gradient to w: g, plus Σ e·g to the cells that hold the maximum, in equal parts
    and with their sign, so that training can learn a smaller full scale.  [ours]"""
    return w + e * w.abs().amax()


@dataclass(frozen=True)
class Measured:
    """w̃ = w + e·σ(|w|/max|w|)·max|w|, σ(g) = c₀ + c₁g + c₂g² + … of the conductance g from 0 to 1 of the full scale.

    The gradient is autograd's.  Form as in aihwkit's noise of PCM programming; its use for shared parts is [ours].
    Raises InputError for no coefficients, one that is no finite number, or a σ(g) below 0 or nowhere above it."""

    curve: tuple[float, ...]

    def __post_init__(self):
        if not isinstance(self.curve, (tuple, list)) or not self.curve:
            raise InputError(
                f"curve must list the coefficients c₀, c₁, … of σ(g), such as (0.1, 0.2), got {self.curve!r}"
            )
        object.__setattr__(self, "curve", tuple(real("coefficient of the curve", c) for c in self.curve))
        turns = np.asarray(np.polynomial.Polynomial(self.curve).deriv().roots(), complex)
        places = np.array([0.0, 1.0, *turns.real[(turns.imag == 0) & (turns.real > 0) & (turns.real < 1)]])
        values = np.polynomial.polynomial.polyval(places, self.curve)
        if values.min() < 0 or values.max() <= 0:
            at, value = places[values.argmin()], values.min()
            raise InputError(
                f"σ(g) of the curve {self.curve} is {value:.3g} at g = {at:.3g}; allowed: 0 or more from g = 0 to 1, "
                "and not 0 throughout; fit it over the conductances in use"
            )

    def sigma(self, g: Tensor) -> Tensor:
        """σ(g), by Horner's rule."""
        value = torch.full_like(g, self.curve[-1])
        for c in self.curve[-2::-1]:
            value = value * g + c
        return value

    def __call__(self, w: Tensor, e: Tensor) -> Tensor:
        top = w.abs().amax()
        return w + e * self.sigma(w.abs() / top.clamp_min(torch.finfo(w.dtype).tiny)) * top


MEASURED = "measured"  # needs a curve
LAWS: dict[str, Law] = {"proportional": proportional, "layer-fixed": layer_fixed}


def normal(z: Tensor, sigma: float) -> Tensor:
    """e_W = σ·z."""
    return z * sigma


def lognormal(z: Tensor, sigma: float) -> Tensor:
    """e_W = exp(s·z − s²/2) − 1 with s² = ln(1 + σ²): mean 0, standard deviation σ, never below −1.  [ours]"""
    s = math.sqrt(math.log1p(sigma**2))
    return (z * s).sub_(s**2 / 2).expm1_()


# How a cell's unit normal becomes its deviation with mean 0 and standard deviation σ; independent of the law.
CellDistribution = Callable[[Tensor, float], Tensor]  # (z, σ) ↦ e_W
CELLS: dict[str, CellDistribution] = {"normal": normal, "lognormal": lognormal}

Combine = Callable[[Law, Tensor, Tensor], Tensor]  # (law, w, e) ↦ w̃; e (cells, …): of the cells that hold a weight


def single_ended(law: Law, w: Tensor, e: Tensor) -> Tensor:
    """A weight is one signed value on one cell: w̃ = law(w, e[0]).  Shapes: e (1, …) over w."""
    return law(w, e[0])


def differential(law: Law, w: Tensor, e: Tensor) -> Tensor:
    """A weight is the difference of two cells, one of which holds 0: w̃ = law(g⁺, e[0]) − law(g⁻, e[1]).

    g± = (|w| ± w)/2, so that both take half of the gradient where w = 0.  Shapes: e (2, …) over w.  [ours]"""
    plus, minus = law(torch.stack([w.abs() + w, w.abs() - w]) / 2, e)
    return plus - minus


MAPPINGS: dict[str, Combine] = {"single-ended": single_ended, "differential": differential}
CELLS_OF_A_WEIGHT = {"single-ended": 1, "differential": 2}
BUILT_IN = (*LAWS, MEASURED, *CELLS, *MAPPINGS)


def law_of(name: str, curve: tuple[float, ...] | None) -> Law:
    """The law of that name; InputError for an unknown one, and for a curve that is missing or not asked for."""
    if name == MEASURED:
        return Measured(curve)  # type: ignore[arg-type]  # it refuses None
    if curve is not None:
        raise InputError(
            f"only the law {MEASURED!r} takes a curve, got curve={curve!r} with law={name!r}; leave one out"
        )
    return LAWS[one_of("law", name, LAWS, f"{MEASURED!r} takes a curve, register_law adds one")]


def register_law(name: str, law: Law) -> None:
    """Make law(w, e) ↦ w̃, differentiable in w, known as `name` to `Variation(law=name)`; its code enters every key.

    On a differential pair w and e have a leading axis of 2 cells: what is of the layer (its maximum, say) must be taken
    over all axes.

    A tuner needs a correction for it: `SelfTuning(estimator, correction)`.  Raises InputError for a built-in name."""
    _register(LAWS, "law", name, law)


def register_cells(name: str, distribution: CellDistribution) -> None:
    """Make distribution(z, σ) ↦ e_W, of mean 0 and standard deviation σ for unit normals z, known as `name` to
    `Variation(cells=name)`; its code enters every key.  Raises InputError for a built-in name."""
    _register(CELLS, "distribution of cells", name, distribution)


def register_mapping(name: str, combine: Combine, cells: int) -> None:
    """Make combine(law, w, e) ↦ w̃, e (cells, …) over w the deviations of the cells that hold a weight, known as `name`
    to `Variation(mapping=name)`; its code enters every key.  Where all e are 0 it gives w.

    To tune it takes `SelfTuning(estimator, Response(law))`.  Raises InputError for a built-in name, or no cells."""
    cells = integer("cells of a weight", cells, 1)
    _register(MAPPINGS, "mapping", name, combine, 3)
    CELLS_OF_A_WEIGHT[name] = cells


def _register(registry: dict, what: str, name: str, function: Callable, arguments: int = 2) -> None:
    try:
        inspect.signature(function).bind(*[None] * arguments)
        sound = isinstance(name, str) and name not in BUILT_IN
    except (TypeError, ValueError):
        sound = False
    if not sound:
        raise InputError(
            f"a {what} needs a name other than {', '.join(BUILT_IN)} and a function of {arguments} arguments, "
            f"got {name!r}, {function!r:.60}"
        )
    registry[name] = function
