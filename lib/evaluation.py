"""Monte Carlo over chips: how many images each chip gets right.  Counts, not percentages, so that runs add up."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass
from functools import lru_cache, partial
from numbers import Integral

import numpy as np
import torch
from torch import Tensor, nn

from .analog import Crossbar, Tuner, channels_last, crossbars, evaluating, programmed, varying
from .checks import InputError, integer, one_of
from .classify import inputs, logits, look_over, require_images
from .data import Images
from .folding import Plan, folded, plan
from .kept import KeptChip
from .lots import lot_mean, lot_quantile, lot_yield
from .precision import PRECISIONS, needs_float32, pays
from .statistics import Estimate, bootstrap_mean, chip_yield, quantile
from .variation import NO_VARIATION, Chip, Variation, golden, keyed_generator, keyed_seed

# they take bfloat16 inputs beside their own float32 parameters, or have none
MIXED = (Crossbar, nn.BatchNorm2d, nn.BatchNorm1d)


@dataclass(frozen=True)
class Counts:
    """Per chip: its index, images seen, images right; int64 (n,) each.

    places: where each lies in its lot (`lots`), float64 (n,); None where chips share nothing and are independent."""

    chips: np.ndarray
    images: np.ndarray
    correct: np.ndarray
    places: np.ndarray | None = None

    @property
    def accuracy(self) -> np.ndarray:
        """% right, (n,)."""
        return 100 * self.correct / self.images

    def summary(self, threshold: float | None = None) -> dict[str, Estimate]:
        """mean and 5% quantile in %, and with `threshold` (%) the yield as a share of chips."""
        values, u = self.accuracy, self.places
        result = {
            "mean": bootstrap_mean(values) if u is None else lot_mean(values, u),
            "q05": quantile(values) if u is None else lot_quantile(values, u),
        }
        if threshold is None:
            return result
        return result | {"yield": chip_yield(values, threshold) if u is None else lot_yield(values, u, threshold)}

    def to_frame(self):
        """pandas DataFrame: chip, place (NaN where there is none), images, correct, accuracy."""
        import pandas as pd

        place = np.full(len(self.chips), np.nan) if self.places is None else self.places
        about = {"chip": self.chips, "place": place, "images": self.images, "correct": self.correct}
        return pd.DataFrame(about | {"accuracy": self.accuracy})


def evaluate(
    net: nn.Module,
    images: Images,
    variation: Variation = NO_VARIATION,
    chips: int | Sequence[int] = 100,
    *,
    tuning: Tuner | None = None,
    images_per_chip: int | None = None,
    purpose: str = "test",
    precision: str | None = None,
    batch_size: int = 250,
    quick: Plan | None = None,
    progress: Callable[[int], None] | None = None,
) -> Counts:
    """Program `net` as each chip (0 … n − 1, or the indices given) and count what it classifies right.

    tuning: what the chip does about its variation (`SelfTuning`, or a control bound to this network).
    images_per_chip: every chip sees a random slice of its own, the same for every network and tuning: enough for a
    mean, but it widens quantile and yield; None: every chip sees every image.
    precision: of the convolutions, "float32" or "bfloat16", None for `best_precision(net)`; it moves single
    predictions, not the mean.  quick: the `plan` of this network, where it has been found before; then nothing is tried
    on images again.  progress(n): called with the images of each chip.
    Chip i is the same cell by cell for every network layout of the same names, σ, law and tuning.
    Raises InputError for no chips, a bad index, an unknown precision, one that the network does not bear, more images a
    chip than there are, a plan of another network, and whatever `look_over` refuses."""
    indices = _indices(chips)
    require_images(images)
    varying(net, variation)
    integer("batch_size", batch_size, 1)
    if tuning is not None and (not callable(tuning) or isinstance(tuning, type)):
        fix = "SelfTuning(…) around an estimator" if hasattr(tuning, "deviation") else "its bind(net, data.train)"
        raise InputError(f"tuning must be a tuner that a chip can enter, got {tuning!r:.80}; give {fix}")
    seen = len(images) if images_per_chip is None else integer("images_per_chip", images_per_chip, 1, len(images))
    one_of("precision", precision, (None, *PRECISIONS))
    if not (quick is None or (isinstance(quick, Plan) and quick.chains.keys() <= set(net.modules()))):
        raise InputError(f"quick must be what plan(net, x) returns for this network, or None, got {quick!r:.80}")
    if quick is None:
        look_over(net, images)
    x = inputs(net, images.take(slice(0, 2)))
    precision = precision or best_precision(net, x)
    if quick is None and precision == "bfloat16" and (reason := refusal(net, x, torch.bfloat16)):
        raise InputError(f"{type(net).__name__} does not run in bfloat16 ({reason}); use precision='float32'")
    # float32 leaves a network of another type as it is
    dtype = torch.bfloat16 if precision == "bfloat16" else None
    quick = quick or plan(net, x)
    read = partial(_batches, net, size=batch_size, dtype=dtype, layout=quick.layout)
    whole = list(read(images)) if seen == len(images) else None
    correct = []
    with evaluating(net):
        for chip in (KeptChip.of(purpose, index) for index in indices):
            batches = whole or read(images.take(_slice(chip.seed, len(images), seen)))
            with programmed(net, chip, variation, tuning), folded(net, dtype, quick):
                correct.append(sum(_right(net, x, labels, chip) for x, labels in batches))
            if progress:
                progress(seen)
    n = len(indices)
    found = np.array(indices, np.int64), np.full(n, seen, np.int64), np.array(correct, np.int64)
    return Counts(*found, places(indices, variation, purpose))


def places(chips: Iterable[int], variation: Variation, purpose: str) -> np.ndarray | None:
    """Where chips lie in their lot, (n,); None where they share nothing, so that they are independent."""
    if not variation.between:
        return None
    lot = Chip.of(purpose, 0).seed >> 32
    return golden(keyed_seed("lot", lot), np.fromiter(chips, np.int64))


def _indices(chips: int | Sequence[int]) -> Sequence[int]:
    if isinstance(chips, (int, Integral)):
        return range(integer("chips", chips, 1))
    try:
        indices = chips.tolist() if isinstance(chips, (np.ndarray, Tensor)) else list(chips)
        if isinstance(indices, int):  # an array of no dimension
            return _indices(indices)
    except TypeError:
        raise InputError(f"chips must be a number of chips or a list of their indices, got {chips!r}") from None
    if not indices:
        raise InputError("evaluate needs at least one chip, got none")
    if len(set(indices)) < len(indices):
        raise InputError(f"a chip is named twice among {len(indices)} chips; each is the same each time: name it once")
    return indices


@lru_cache(1024)  # of the same chips, whatever is measured on them
def _slice(seed: int, total: int, size: int) -> Tensor:
    """The images that a chip sees: `size` of `total`, without repetition, a function of the chip's seed."""
    return torch.from_numpy(keyed_generator("slice", seed).permutation(total)[:size].copy())


def _batches(
    net: nn.Module, images: Images, size: int, dtype: torch.dtype | None, layout: torch.memory_format
) -> Iterator[tuple[Tensor, Tensor]]:
    """(x normalized, labels) in the layout and type of the fastest convolutions."""
    for part in _parts(images, size):
        x = inputs(net, part)
        yield (channels_last(x) if layout is torch.channels_last else x).to(dtype), part.labels


def best_precision(net: nn.Module, x: Tensor) -> str:
    """The fastest precision at which `net` can be evaluated here on inputs like x (B, …).

    A function of network, shape and type of processor alone: bfloat16 where it `pays`, nothing `needs_float32`, every
    module with parameters takes it, and a trial does not fail."""
    quantizers = {id(q) for _, layer in crossbars(net) for q in (layer.quantize_input, layer.quantize_weight)}
    modules = [m for m in net.modules() if id(m) not in quantizers and any(True for _ in m.parameters(recurse=False))]
    mixed = pays(net) and not needs_float32(net) and all(isinstance(m, MIXED) for m in modules)
    return "bfloat16" if mixed and not refusal(net, x, torch.bfloat16) else "float32"


def refusal(net: nn.Module, x: Tensor, dtype: torch.dtype) -> str | None:
    """Why a network does not take inputs of a type, tried on x: a constant of its own, a blur's kernel say, may not."""
    try:
        with evaluating(net), folded(net, dtype, Plan()):
            return None if torch.isfinite(net(x.to(dtype))).all() else "not finite"
    except (RuntimeError, TypeError, ValueError) as error:  # the forward is the user's
        return " ".join(str(error).split())[:200]


def accuracy(net: nn.Module, images: Images, batch_size: int = 250) -> float:
    """% right of a network as it stands, analog or not, without any chip."""
    integer("batch_size", batch_size, 1)
    look_over(net, images)
    with evaluating(net):
        right = sum(_right(net, inputs(net, part), part.labels) for part in _parts(images, batch_size))
    return 100 * right / len(images)


def _right(net: nn.Module, x: Tensor, labels: Tensor, chip: Chip | None = None) -> int:
    """How many of a batch are right; InputError for logits that are not finite, which would all count as class 0."""
    y = logits(net, x)
    if not torch.isfinite(y).all():
        where = f" on {chip}" if chip else ""
        raise InputError(f"{type(net).__name__} returns logits that are not finite{where}; look at its law and tuning")
    return int((y.argmax(1) == labels).sum())


def _parts(images: Images, size: int) -> list[Images]:
    return [images.take(slice(start, start + size)) for start in range(0, len(images), size)]
