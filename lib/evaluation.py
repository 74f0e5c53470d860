"""Monte Carlo over chips: how many images each chip gets right.  Counts, not percentages, so that runs add up."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor, nn

from .analog import Crossbar, Tuner, channels_last, crossbars, evaluating, programmed, wide
from .checks import integer, one_of
from .data import Images
from .folding import way, written
from .statistics import Estimate, chip_yield, mean, quantile
from .variation import Chip, Variation, keyed_generator


@dataclass(frozen=True)
class Counts:
    """Per chip: its index, images seen, images right; int64 (n,) each."""

    chips: np.ndarray
    images: np.ndarray
    correct: np.ndarray

    @property
    def accuracy(self) -> np.ndarray:
        """% right, (n,)."""
        return 100 * self.correct / self.images

    def summary(self, threshold: float | None = None) -> dict[str, Estimate]:
        """mean and 5% quantile in %, and with `threshold` (%) the yield as a share of chips."""
        result = {"mean": mean(self.accuracy), "q05": quantile(self.accuracy)}
        return result if threshold is None else result | {"yield": chip_yield(self.accuracy, threshold)}

    def to_frame(self):
        """pandas DataFrame: chip, images, correct, accuracy."""
        import pandas as pd

        columns = {"chip": self.chips, "images": self.images, "correct": self.correct, "accuracy": self.accuracy}
        return pd.DataFrame(columns)


def evaluate(
    net: nn.Module,
    images: Images,
    variation: Variation = Variation(),
    chips: int | Sequence[int] = 100,
    *,
    tuning: Tuner | None = None,
    images_per_chip: int | None = None,
    purpose: str = "test",
    precision: str | None = None,
    batch_size: int = 250,
    progress: Callable[[int], None] | None = None,
) -> Counts:
    """Program `net` as each chip (0 … n − 1, or the indices given) and count what it classifies right.

    tuning: what the chip does about its variation (`SelfTuning`, or a control bound to this network).
    images_per_chip: every chip sees a random slice of its own, the same for every network and tuning: enough for a
    mean, but it widens quantile and yield; None: every chip sees every image.
    precision: of the convolutions, "float32" or "bfloat16", None for `best_precision(net)`; it moves single predictions,
    not the mean.  progress(n): called with the images of each chip.
    Chip i is the same cell by cell for every network layout of the same names, σ, law and tuning.
    Raises ValueError for no chips, a bad index, an unknown precision or more images a chip than there are."""
    indices = range(integer("chips", chips, 1)) if isinstance(chips, int) else list(chips)
    if len(indices) == 0:
        raise ValueError("evaluate needs at least one chip, got none")
    seen = len(images) if images_per_chip is None else integer("images_per_chip", images_per_chip, 1, len(images))
    precision = best_precision(net) if precision is None else one_of("precision", precision, PRECISIONS)
    # float32 leaves a network of another type as it is
    dtype = torch.bfloat16 if precision == "bfloat16" else None
    quick = way(net, images.take(slice(0, 2)).normalized())
    whole = list(_batches(images, batch_size, dtype, quick.layout)) if seen == len(images) else None
    correct = []
    with evaluating(net):
        for chip in (Chip.of(purpose, index) for index in indices):
            batches = whole or _batches(images.take(_slice(chip, len(images), seen)), batch_size, dtype, quick.layout)
            with programmed(net, chip, variation, tuning), written(net, dtype, quick):
                correct.append(sum(int((net(x).argmax(1) == labels).sum()) for x, labels in batches))
            if progress:
                progress(seen)
    n = len(indices)
    return Counts(np.array(indices, np.int64), np.full(n, seen, np.int64), np.array(correct, np.int64))


def _slice(chip: Chip, total: int, size: int) -> Tensor:
    """The images that a chip sees: `size` of `total`, without repetition, a function of the chip's seed."""
    return torch.from_numpy(keyed_generator("slice", chip.seed).permutation(total)[:size].copy())


def _batches(images: Images, size: int, dtype: torch.dtype | None, layout: torch.memory_format) -> Iterator[tuple[Tensor, Tensor]]:
    """(x normalized, labels) in the layout and type of the fastest convolutions."""
    for part in _parts(images, size):
        x = part.normalized()
        yield (channels_last(x) if layout is torch.channels_last else x).to(dtype), part.labels


PRECISIONS = ("float32", "bfloat16")
# they take bfloat16 inputs beside their own float32 parameters, or have none
MIXED = (Crossbar, nn.BatchNorm2d, nn.BatchNorm1d)


def best_precision(net: nn.Module) -> str:
    """The fastest precision at which `net` can be evaluated here: a function of network and type of processor alone.

    bfloat16 where the processor multiplies it in hardware, the convolutions are `wide`, and every module with parameters
    takes it.  It holds activation codes of up to 8 bits exactly, and rounds cells by 0.2%, far below any σ."""
    quantizers = {id(q) for _, layer in crossbars(net) for q in (layer.quantize_input, layer.quantize_weight)}
    modules = [m for m in net.modules() if id(m) not in quantizers and any(True for _ in m.parameters(recurse=False))]
    on_cpu = all(p.device.type == "cpu" and p.dtype == torch.float32 for p in net.parameters())
    fits = on_cpu and wide(net) and all(isinstance(m, MIXED) for m in modules)
    return "bfloat16" if fits and torch.cpu._is_avx512_bf16_supported() else "float32"


def accuracy(net: nn.Module, images: Images, batch_size: int = 250) -> float:
    """% right of a network as it stands, analog or not, without any chip."""
    with evaluating(net):
        right = sum(int((_predict(net, part) == part.labels).sum()) for part in _parts(images, batch_size))
    return 100 * right / len(images)


def _predict(net: nn.Module, images: Images) -> Tensor:
    return net(images.normalized()).argmax(1)


def _parts(images: Images, size: int) -> list[Images]:
    return [images.take(slice(start, start + size)) for start in range(0, len(images), size)]
