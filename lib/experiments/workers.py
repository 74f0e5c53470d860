"""What runs in a worker: pure functions of their arguments, on the same number of threads wherever they run.

So a table does not depend on how many workers there are, nor on which of them was lost: a task that is lost is run
again from what the client sent.  Workers write nothing; the client alone writes the store.
"""

import platform
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from functools import lru_cache

import numpy as np
import torch
from torch import nn

from ..analog import Tuner
from ..checks import InputError, RunError
from ..classify import inputs, look_over
from ..converter import Extents, converting, extents
from ..data import Dataset, Images
from ..evaluation import Counts, evaluate
from ..folding import Plan, plan
from ..identity import described
from ..selftuning import Tuning
from ..sources import PACKAGE, SOURCES, source_digest
from ..training import State
from ..trials import Measurement, Trial, calibration, restored, train
from .datasets import load
from .store import key_of

THREADS = 1  # of a task on the CPU; two such tasks side by side do more than one of two threads


@contextmanager
def pinned() -> Iterator[None]:
    before = torch.get_num_threads()
    torch.set_num_threads(THREADS)
    try:
        yield
    finally:
        torch.set_num_threads(before)


def identity() -> dict[str, str]:
    """What must agree between client and worker for the numbers to be those of this code."""
    return {
        PACKAGE: source_digest(sorted(SOURCES))[:12],
        "torch": torch.__version__,
        "numpy": np.__version__,
        "python": platform.python_version(),
    }


def about(task: Trial | Measurement) -> str:
    """What a task computes, with all code: client and worker must agree, or results come under a wrong key."""
    return key_of({"task": described(task)}, sorted(SOURCES))[:16]


def require_same(task: Trial | Measurement, expected: str) -> None:
    if about(task) != expected:
        raise RunError(
            f"a worker has other code than the client for this task: a file, of {PACKAGE} or of your own, has changed "
            "since it was imported, or differs between the machines (or a dictionary that your code fills as it runs "
            "has changed its key: use functools.cache); start again (a notebook: restart the kernel)"
        )


@dataclass(frozen=True)
class Source:
    """A dataset as a task names it: the fingerprint that its content must have, and the folder of this machine's data,
    None on another machine, which knows its own."""

    name: str
    fingerprint: str
    folder: str | None

    def load(self) -> Dataset:
        """Raises InputError where the content is not the client's."""
        found = load(self.name, self.folder)
        if found.fingerprint != self.fingerprint:
            raise InputError(
                f"dataset {self.name!r} of this worker has the fingerprint {found.fingerprint[:12]}, the client's has "
                f"{self.fingerprint[:12]}; put the same files on both (--data-dir)"
            )
        return found


@lru_cache(4)
def split(source: Source, purpose: str, n: int | None, skip: int) -> Images:
    """The images of a measurement."""
    data = source.load()
    return (data.test if purpose == "test" else data.validation).balanced(n, skip)


class Shared:
    """A state that the client sent, within reach of many tasks, whatever workers die; two are never equal."""

    def __init__(self, state: State):
        self.state = state


@lru_cache(4)
def network(trial: Trial, source: Source, checkpoint: Shared, device: str) -> tuple[nn.Module, Plan]:
    """The network of a checkpoint and how to run it; measurements of this worker share it, and leave it as it is."""
    data = source.load()
    net, images = restored(trial, data, checkpoint.state).to(device), data.train.to(device)
    look_over(net, images)
    return net, plan(net, inputs(net, images.take(slice(0, 2))))


@lru_cache(4)
def ranges(trial: Trial, source: Source, checkpoint: Shared, quantile: float, rows: int, device: str) -> Extents:
    """What the converters of a network must hold."""
    net, _ = network(trial, source, checkpoint, device)
    return extents(net, calibration(source.load()).to(device), quantile, rows)


@lru_cache(4)
def tuner(tuning: Tuning, trial: Trial, source: Source, checkpoint: Shared, device: str) -> Tuner:
    """What a tuning does once for a network: seconds, where it is statistics over many chips."""
    net, _ = network(trial, source, checkpoint, device)
    found = tuning.bind(net, source.load().train.to(device))
    if found is None:
        raise InputError(f"{type(tuning).__name__}.bind returned nothing; it must return the tuner of its chips")
    return found


def trained(
    trial: Trial,
    code: str,
    source: Source,
    parent: Shared | None,
    state: Shared | None,
    until: int,
    precision: str,
    device: str,
) -> State:
    """One segment of a training: from `state`, else its parent's checkpoint, to epoch `until`; code: `about` it."""
    require_same(trial, code)
    with pinned():
        data = source.load()
        start = restored(trial.parent, data, parent.state) if parent else None
        result = train(trial, data, start, state and state.state, until, device, precision)
        return {name: tensor.detach().cpu().contiguous() for name, tensor in result.items()}


def measured(
    m: Measurement, code: str, source: Source, checkpoint: Shared, chips: list[int], precision: str, device: str
) -> Counts:
    """The counts of some chips of a measurement; code: `about` it."""
    require_same(m, code)
    with pinned():
        images, v = split(source, m.purpose, m.images, m.skip).to(device), m.variation
        net, quick = network(m.trial, source, checkpoint, device)
        tuning = tuner(m.tuning, m.trial, source, checkpoint, device) if m.tuning else None
        held = m.converter and ranges(m.trial, source, checkpoint, m.converter.quantile, v.rows, device)
        how = {"precision": precision, "quick": quick, "images_per_chip": m.images_per_chip, "purpose": m.purpose}
        with converting(net, m.converter, held, v.rows):
            return evaluate(net, images, v, chips, tuning=tuning, **how)
