"""Variation: what fabrication does to the cells of a chip.  design: distribution × law × seeded chip.

    e = σ_B·z_B + σ_W·z_W,i       z_B one unit normal a chip, z_W,i one a cell
    σ² = σ_W² + σ_B²,  between share ρ = σ_B²/σ²

Within part under the proportional law [code 2021]; between part and layer-fixed law [ours].
A chip stores nothing but its seed: the same unit normals serve every σ, ρ, law and method, which pairs them all.
z_B is spread over the chips of a purpose (`lots`), z_W independent.
"""

from __future__ import annotations

import hashlib
import inspect
import math
from collections.abc import Callable
from dataclasses import dataclass, field, fields
from statistics import NormalDist

import numpy as np
import torch
from torch import Tensor

from .checks import InputError, integer, one_of, real


def key_digest(*key: int | str) -> bytes:
    return hashlib.blake2b("/".join(str(k) for k in key).encode(), digest_size=16).digest()


def keyed_seed(*key: int | str) -> int:
    """64 bits for torch's generators."""
    return int.from_bytes(key_digest(*key)[:8], "little")


def keyed_generator(*key: int | str) -> np.random.Generator:
    """A counter-based generator that depends on nothing but `key`: not on device, threads or earlier draws."""
    return np.random.Generator(np.random.Philox(key=int.from_bytes(key_digest(*key), "little")))


GOLDEN = 0x9E3779B97F4A7C15  # (√5 − 1)/2 in units of 2⁻⁶⁴


def golden(start: int, index: int | np.ndarray) -> np.ndarray:
    """u_i = frac(u₀ + i·(√5 − 1)/2) in (0, 1), exact whatever the index; start: u₀ in units of 2⁻⁶⁴."""
    with np.errstate(over="ignore"):
        places = np.uint64(start) + np.asarray(index, np.uint64) * np.uint64(GOLDEN)
    return ((places >> np.uint64(11)) + 0.5) * 2.0**-53


# Chips of one purpose never meet those of another: each purpose owns 2^48 seeds.
PURPOSES = {"test": 0, "validation": 1, "training": 2, "batch-norm": 3}


@dataclass(frozen=True)
class Chip:
    """One fabricated chip: the seed of its unit normals, 0 ≤ seed < 2^64."""

    seed: int

    def __post_init__(self):
        integer("chip seed", self.seed, 0, 2**64 - 1)

    @classmethod
    def of(cls, purpose: str, index: int, run: int = 0) -> Chip:
        """Chip `index` (0 … 2^32 − 1) for a purpose; `run` (0 … 2^16 − 1) is the training seed that draws it."""
        one_of("chip purpose", purpose, PURPOSES)
        index, run = integer("chip index", index, 0, 2**32 - 1), integer("seed", run, 0, 2**16 - 1)
        return cls(PURPOSES[purpose] << 48 | run << 32 | index)

    @property
    def place(self) -> float:
        """u = frac(u₀ + i·(√5 − 1)/2): where chip i lies in the lot of its purpose and run, 0 < u < 1."""
        lot, index = divmod(self.seed, 2**32)
        return float(golden(keyed_seed("lot", lot), index))

    def z_between(self) -> float:
        """z_B = Φ⁻¹(u), one number for the whole chip."""
        return NormalDist().inv_cdf(self.place)

    def z_within(self, layer: str, shape: tuple[int, ...]) -> Tensor:
        """z_W of a layer, float32 on the CPU, one a cell."""
        return self._normals("z_W", layer, shape=shape)

    def z_reference(self, n: int) -> Tensor:
        """z of the chip's first n reference cells; more cells keep the first ones."""
        return self._normals("z_ref", shape=(n,))

    def z_columns(self, layer: str, shape: tuple[int, ...]) -> Tensor:
        """z of a layer's dummy columns, shape (m, cells of a column …); more columns keep the first ones."""
        return self._normals("z_col", layer, shape=shape)

    def z_reading(self) -> float:
        """The unit normal of the error of reading the reference cells."""
        return float(self._normals("z_read", shape=(1,)))

    def _normals(self, *key: str, shape: tuple[int, ...]) -> Tensor:
        return torch.from_numpy(keyed_generator(key[0], self.seed, *key[1:]).standard_normal(shape, dtype=np.float32))


class PassingChip(Chip):
    """A chip that training sees for one minibatch; its normals come from torch's generator, in a third of the time.

    They are the same again with the same torch and type of processor, as trained weights are; 2^32 sets in all.
    A minibatch after another is no lot: z_B is drawn anew."""

    def z_between(self) -> float:
        return float(keyed_generator("z_B", self.seed).standard_normal())

    def z_within(self, layer: str, shape: tuple[int, ...]) -> Tensor:
        seed = keyed_seed("z_W", self.seed, layer)
        return torch.empty(shape).normal_(generator=torch.Generator().manual_seed(seed))


def proportional(w: Tensor, e: Tensor) -> Tensor:
    """w̃ = w·(1 + e); gradient to w: (1 + e)·g.  Shapes: w, e broadcast.  Within part [code 2021]."""
    return w * (1 + e)


def layer_fixed(w: Tensor, e: Tensor) -> Tensor:
    """w̃ = w + e·max|w| of the layer; gradient to w: g, plus Σ e·g to the cells that hold the maximum, in equal parts
    and with their sign, so that training can learn a smaller full scale.  [ours]"""
    return w + e * w.abs().amax()


Law = Callable[[Tensor, Tensor], Tensor]  # (w, e) ↦ w̃
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
BUILT_IN = (*LAWS, *CELLS)


def register_law(name: str, law: Law) -> None:
    """Make law(w, e) ↦ w̃, differentiable in w, known as `name` to `Variation(law=name)`; its code enters every key.

    A tuner needs a correction for it: `SelfTuning(estimator, correction)`.  Raises InputError for a built-in name."""
    _register(LAWS, "law", name, law)


def register_cells(name: str, distribution: CellDistribution) -> None:
    """Make distribution(z, σ) ↦ e_W, of mean 0 and standard deviation σ for unit normals z, known as `name` to
    `Variation(cells=name)`; its code enters every key.  Raises InputError for a built-in name."""
    _register(CELLS, "distribution of cells", name, distribution)


def _register(registry: dict, what: str, name: str, function: Callable) -> None:
    try:
        inspect.signature(function).bind(None, None)
        sound = isinstance(name, str) and name not in BUILT_IN
    except (TypeError, ValueError):
        sound = False
    if not sound:
        raise InputError(
            f"a {what} needs a name other than {', '.join(BUILT_IN)} and a function of two arguments, "
            f"got {name!r}, {function!r:.60}"
        )
    registry[name] = function


@dataclass(frozen=True)
class Variation:
    """Standard deviations of the two components (no unit: relative to the weight, or to the layer's maximum).

    law, cells: built in, or registered by `register_law` and `register_cells`.
    layers: names of the layers that vary, None for all of them.  large: allow a σ above 1.
    Raises InputError for a σ below 0 or above 1, an unknown law or an unknown distribution of cells."""

    within: float = 0.0
    between: float = 0.0
    law: str = "proportional"
    cells: str = "normal"
    layers: tuple[str, ...] | None = None
    large: bool = False
    # what its names stand for, as they were registered then
    uses: tuple[Law, CellDistribution] = field(init=False, repr=False)

    def __post_init__(self):
        object.__setattr__(self, "within", _sigma("σ_within", self.within, self.large))
        object.__setattr__(self, "between", _sigma("σ_between", self.between, self.large))
        if self.layers is not None:
            object.__setattr__(self, "layers", (self.layers,) if isinstance(self.layers, str) else tuple(self.layers))
        one_of("law", self.law, LAWS, "register_law adds one")
        one_of("distribution of cells", self.cells, CELLS, "register_cells adds one")
        object.__setattr__(self, "uses", (LAWS[self.law], CELLS[self.cells]))

    @classmethod
    def split(
        cls, total: float, between_share: float, law: str = "proportional", cells: str = "normal", large: bool = False
    ) -> Variation:
        """σ_W = σ·√(1 − ρ), σ_B = σ·√ρ for the total σ and the between share ρ of its variance."""
        total, share = _sigma("σ", total, large), real("between_share", between_share, 0, 1)
        return cls(total * math.sqrt(1 - share), total * math.sqrt(share), law, cells, large=large)

    def __reduce__(self):
        """What a user has registered travels along, to workers that know nothing of it."""
        return _restored, (type(self), {f.name: getattr(self, f.name) for f in fields(self)})

    @property
    def total(self) -> float:
        return math.hypot(self.within, self.between)

    @property
    def between_share(self) -> float:
        """ρ = σ_B²/σ²; 0 without variation."""
        return (self.between / self.total) ** 2 if self.total else 0.0

    @property
    def label(self) -> str:
        """Its name in lists."""
        law = f"{self.law} " if self.law != "proportional" else ""
        return f"{law}σ {self.total:.3g}" + (f" ρ {self.between_share:.3g}" if self.between else "")

    def shared(self, chip: Chip) -> float:
        """e_B = σ_B·z_B, the part that all cells of a chip have in common."""
        return self.between * chip.z_between() if self.between else 0.0

    def own(self, z: Tensor) -> Tensor:
        """e_W of cells with the unit normals z."""
        return self.uses[1](z, self.within) if self.within else torch.zeros_like(z)

    def deviation(self, chip: Chip, layer: str, like: Tensor) -> Tensor:
        """e = e_B + e_W of one layer on one chip, with the shape, device and type of `like`."""
        if not self.within:
            return torch.full_like(like, self.shared(chip))
        e = self.own(chip.z_within(layer, tuple(like.shape)))
        return (e.add_(self.shared(chip)) if self.between else e).to(like)

    def varies(self, layer: str) -> bool:
        """Whether the cells of a layer deviate at all."""
        return self.total > 0 and (self.layers is None or layer in self.layers)

    def deviate(self, chip: Chip, layer: str, like: Tensor) -> Callable[[Tensor], Tensor] | None:
        """What the layer's first slot holds on this chip: q_w(w) ↦ w̃; None where nothing varies."""
        if not self.varies(layer):
            return None
        law, e = self.uses[0], self.deviation(chip, layer, like)
        return lambda w: law(w, e)


def require_variation(variation) -> None:
    """InputError for anything but a `Variation`: a σ as a number, say."""
    if not isinstance(variation, Variation):
        raise InputError(f"variation must be a Variation, such as Variation(within=0.3), got {variation!r:.80}")


def _sigma(what: str, value: float, large: bool) -> float:
    """A σ above 1 is most likely a per cent."""
    sigma = real(what, value, 0)
    if sigma > 1 and not large:
        raise InputError(f"{what} must be a fraction from 0 to 1, got {value!r} (30 % is 0.3); large=True allows more")
    return sigma


def _restored(kind: type[Variation], values: dict) -> Variation:
    """A variation that came from another process, where its law may not be registered."""
    variation = object.__new__(kind)
    for name, value in values.items():
        object.__setattr__(variation, name, value)
    return variation


NO_VARIATION = Variation()
