"""Variation: what fabrication does to the cells of a chip, in three levels.

    e = σ_B·z_B + σ_A·z_A(a) + σ_W·z_W,i    unit normals: z_B one per chip, z_A one per array, z_W one per cell
    σ² = σ_B² + σ_A² + σ_W²

Within part under the proportional law [code 2021]; what cells share, and every other law, [ours].
A chip stores nothing but its seed: the same unit normals serve every σ, ρ, law and method, which pairs them all.
z_B is spread over the chips of a purpose (`lots`), z_W independent.
"""

from __future__ import annotations

import copy
import hashlib
import math
from collections.abc import Callable, Iterable
from dataclasses import dataclass, field, fields
from functools import lru_cache
from statistics import NormalDist

import numpy as np
import torch
from torch import Tensor

from .arrays import COLUMNS, ROWS, Grid
from .checks import InputError, integer, one_of, real
from .laws import CELLS, CELLS_OF_A_WEIGHT, MAPPINGS, CellDistribution, Combine, Law, law_of


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

    def z_arrays(self, layer: str, counts: tuple[int, ...]) -> Tensor:
        """z_A of a layer's arrays, `Grid.counts`, float32 on the CPU."""
        return self._normals("z_A", layer, shape=counts)

    def z_reference(self, n: int, layer: str = "", counts: tuple[int, ...] = ()) -> Tensor:
        """z of n reference cells of the chip, (n,), or of each array of a layer, (n, *counts); more cells keep the
        first ones."""
        return self._normals("z_ref", *filter(None, (layer,)), shape=(n, *counts))

    def z_columns(self, layer: str, shape: tuple[int, ...]) -> Tensor:
        """z of a layer's dummy columns, shape (m, cells of a column …); more columns keep the first ones."""
        return self._normals("z_col", layer, shape=shape)

    def z_reading(self, layer: str = "", counts: tuple[int, ...] = (1,)) -> Tensor:
        """Unit normals of the errors of reading the reference cells: the chip's, (1,), or a layer's arrays', counts."""
        return self._normals("z_read", *filter(None, (layer,)), shape=counts)

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


@dataclass(frozen=True)
class Variation:
    """Standard deviations of the three components (no unit: relative to the weight, or to the layer's maximum).

    law, cells, mapping (the cells of a weight): built in, or registered by `register_law`, `register_cells` and
    `register_mapping`.  curve: coefficients of σ(g) of the law "measured", whose σ here are multiples of it.  array,
    rows, columns: σ_A, and the largest array.  layers: names of the layers that vary, None for all of them.  large:
    allow a σ above 1.
    Raises InputError for a σ below 0 or above 1, an array without rows or columns, an unknown law, distribution of
    cells or mapping, and a curve that is missing, not asked for or negative."""

    within: float = 0.0
    between: float = 0.0
    law: str = "proportional"
    cells: str = "normal"
    layers: tuple[str, ...] | None = None
    large: bool = False
    array: float = 0.0
    rows: int = ROWS
    columns: int = COLUMNS
    mapping: str = "single-ended"
    curve: tuple[float, ...] | None = None
    # what its names stand for, as they were registered then
    uses: tuple[Law, CellDistribution, Combine] = field(init=False, repr=False)
    cells_of_a_weight: int = field(init=False, repr=False)

    grids = ()  # name → Grid of every layer of a network, where `laid` has said so

    def __post_init__(self):
        for name in ("within", "between", "array"):
            object.__setattr__(self, name, _sigma(f"σ_{name}", getattr(self, name), self.large))
        for name in ("rows", "columns"):
            integer(f"{name} of an array", getattr(self, name), 1)
        if self.layers is not None:
            object.__setattr__(self, "layers", (self.layers,) if isinstance(self.layers, str) else tuple(self.layers))
        if self.curve is not None:
            object.__setattr__(self, "curve", tuple(self.curve) if np.iterable(self.curve) else self.curve)
        law = law_of(self.law, self.curve)
        one_of("distribution of cells", self.cells, CELLS, "register_cells adds one")
        one_of("mapping", self.mapping, MAPPINGS, "register_mapping adds one")
        object.__setattr__(self, "uses", (law, CELLS[self.cells], MAPPINGS[self.mapping]))
        object.__setattr__(self, "cells_of_a_weight", CELLS_OF_A_WEIGHT[self.mapping])

    @classmethod
    def split(
        cls,
        total: float,
        between_share: float,
        law: str = "proportional",
        cells: str = "normal",
        large: bool = False,
        *,
        array_share: float = 0.0,
        **hardware,
    ) -> Variation:
        """σ_W = σ·√(1 − ρ), σ_B = σ·√(ρ(1 − α)), σ_A = σ·√(ρα): ρ is the share of the variance that cells have in
        common, α the part of it that each array has for itself.  hardware: rows, columns, mapping, curve, layers."""
        total, share = _sigma("σ", total, large), real("between_share", between_share, 0, 1)
        alone = real("array_share", array_share, 0, 1)
        within, between, array = (total * math.sqrt(part) for part in (1 - share, share * (1 - alone), share * alone))
        return cls(within, between, law, cells, large=large, array=array, **hardware)

    def __reduce__(self):
        """What a user has registered travels along, to workers that know nothing of it."""
        return _restored, (type(self), {f.name: getattr(self, f.name) for f in fields(self)})

    @property
    def total(self) -> float:
        return math.hypot(self.within, self.between, self.array)

    @property
    def between_share(self) -> float:
        """ρ = (σ_B² + σ_A²)/σ², what cells of an array have in common, as in `split`; 0 without variation."""
        return (self.between**2 + self.array**2) / self.total**2 if self.total else 0.0

    @property
    def array_share(self) -> float:
        """α = σ_A²/(σ_A² + σ_B²); 0 where cells share nothing."""
        return self.array**2 / (self.array**2 + self.between**2) if self.array else 0.0

    @property
    def label(self) -> str:
        """Its name in lists."""
        law = f"{self.law} " if self.law != "proportional" else ""
        share = f" ρ {self.between_share:.3g}" if self.between or self.array else ""
        array = f" α {self.array_share:.3g}" if self.array else ""
        mapping = f", {self.mapping}" if self.mapping != "single-ended" else ""
        return f"{law}σ {self.total:.3g}{share}{array}{mapping}"

    def grid(self, shape: Iterable[int], groups: int = 1) -> Grid:
        """The arrays of a layer with weights of that shape."""
        return Grid(tuple(shape), groups, self.rows, self.columns)

    def laid(self, grids: Iterable[tuple[str, Grid]]) -> Variation:
        """The same variation, which knows the arrays of one network: those that vary."""
        twin = copy.copy(self)
        object.__setattr__(twin, "grids", tuple((name, grid) for name, grid in grids if self.varies(name)))
        return twin

    def shared(self, chip: Chip) -> float:
        """e_B = σ_B·z_B, the part that all cells of a chip have in common."""
        return self.between * chip.z_between() if self.between else 0.0

    def common(self, chip: Chip) -> float:
        """e_B + ē_A: what cells spread over the whole chip have in common, ē_A the mean over its arrays (`laid`)."""
        if not self.array:
            return self.shared(chip)
        return self.shared(chip) + self.array * _mean_of_arrays(chip, self.grids)

    def of_arrays(self, chip: Chip, layer: str, grid: Grid) -> Tensor:
        """e_B + e_A of a layer's arrays, `Grid.counts`, float64."""
        shared = torch.full(grid.counts, self.shared(chip), dtype=torch.float64)
        return shared + self.array * chip.z_arrays(layer, grid.counts) if self.array else shared

    def own(self, z: Tensor) -> Tensor:
        """e_W of cells with the unit normals z."""
        return self.uses[1](z, self.within) if self.within else torch.zeros_like(z)

    def deviation(self, chip: Chip, layer: str, like: Tensor, groups: int = 1, cell: int = 0) -> Tensor:
        """e = e_B + e_A + e_W of one layer on one chip, with the shape, device and type of `like`.

        groups: of the layer, which lie on arrays of their own.  cell: which of the cells of a weight, from 0."""
        shared: Tensor | float = self.shared(chip)
        if self.array:
            grid = self.grid(like.shape, groups)
            shared = grid.spread(self.of_arrays(chip, layer, grid).to(torch.float32 if self.within else like.dtype))
        if not self.within:
            return torch.zeros_like(like).add_(shared.to(like) if isinstance(shared, Tensor) else shared)
        name = (layer, f"{layer}/second")[cell] if cell < 2 else f"{layer}/{cell}"
        e = self.own(chip.z_within(name, tuple(like.shape)))
        return (e.add_(shared) if self.between or self.array else e).to(like)

    def varies(self, layer: str) -> bool:
        """Whether the cells of a layer deviate at all."""
        return self.total > 0 and (self.layers is None or layer in self.layers)

    def deviate(self, chip: Chip, layer: str, like: Tensor, groups: int = 1) -> Callable[[Tensor], Tensor] | None:
        """What the layer's first slot holds on this chip: q_w(w) ↦ w̃; None where nothing varies."""
        if not self.varies(layer):
            return None
        law, _, combine = self.uses
        own = [self.deviation(chip, layer, like, groups, cell) for cell in range(self.cells_of_a_weight)]
        e = torch.stack(own) if len(own) > 1 else own[0][None]
        return lambda w: combine(law, w, e)


@lru_cache(1)  # every layer of a chip asks for it
def _mean_of_arrays(chip: Chip, grids: tuple[tuple[str, Grid], ...]) -> float:
    """Mean of z_A over all arrays of a chip."""
    parts = [chip.z_arrays(name, grid.counts).double().flatten() for name, grid in grids]
    return float(torch.cat(parts).mean()) if parts else 0.0


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
