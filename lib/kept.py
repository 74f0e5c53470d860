"""Chips that Monte Carlo meets again: every σ, law, tuning and training is measured on the same ones.

Drawing normals took a tenth to a third of it (benchmarks/results.md), so a process keeps those that it drew last.
Where more chips are met in turn than `LIMIT` holds, that gains nothing.
"""

from __future__ import annotations

import threading
from collections import OrderedDict
from collections.abc import Hashable
from functools import lru_cache

from torch import Tensor

from .variation import Chip

LIMIT = 3 * 2**27  # bytes of normals a process: 100 chips of ResNet-18 at a quarter of its width take 284 MB


class KeptChip(Chip):
    """A chip whose unit normals, the same as those of `Chip`, are drawn once as long as they are kept."""

    def __repr__(self) -> str:
        return repr(Chip(self.seed))

    def z_between(self) -> float:
        return _z_between(self.seed)

    def _normals(self, *key: str, shape: tuple[int, ...]) -> Tensor:
        about = (self.seed, key, shape)
        z = NORMALS.get(about)
        if z is None:
            z = super()._normals(*key, shape=shape)
            NORMALS.keep(about, z)
        return z.clone()  # who asks may change it in place


@lru_cache(2**16)
def _z_between(seed: int) -> float:
    return Chip(seed).z_between()


class Kept:
    """The tensors used last, at most `limit` bytes of them; for any number of threads."""

    def __init__(self, limit: int):
        self.limit, self.bytes = limit, 0
        self._tensors: OrderedDict[Hashable, Tensor] = OrderedDict()
        self._lock = threading.Lock()

    def get(self, key: Hashable) -> Tensor | None:
        with self._lock:
            if key in self._tensors:
                self._tensors.move_to_end(key)
            return self._tensors.get(key)

    def keep(self, key: Hashable, tensor: Tensor) -> None:
        with self._lock:
            if key not in self._tensors:
                self._tensors[key] = tensor
                self.bytes += tensor.nbytes
            while self.bytes > self.limit:
                self.bytes -= self._tensors.popitem(last=False)[1].nbytes


NORMALS = Kept(LIMIT)
