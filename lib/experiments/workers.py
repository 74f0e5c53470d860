"""What runs in a worker: pure functions of their arguments, on the same number of threads wherever they run.

So a table does not depend on how many workers there are, nor on which of them was lost: a task that is lost is run again
from what the client sent.  Workers write nothing; the client alone writes the store.
"""

from __future__ import annotations

import platform
from collections.abc import Iterator
from contextlib import contextmanager
from functools import lru_cache

import numpy as np
import torch
from torch import nn

from ..checks import InputError, RunError
from ..data import Dataset, Images, load
from ..evaluation import Counts, evaluate
from ..identity import described
from ..sources import PACKAGE, SOURCES, source_digest
from ..training import State
from ..trials import Measurement, Trial, restored, train
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
            f"a worker has other code than the client for this task: a file, of {PACKAGE} or of your own, has changed since "
            "it was imported, or differs between the machines (or a dictionary that your code fills as it runs has changed "
            "its key: use functools.cache); start again (a notebook: restart the kernel)"
        )


def dataset(name: str, fingerprint: str) -> Dataset:
    """The worker's own copy of a dataset; ValueError where its content is not the client's."""
    found = load(name)
    if found.fingerprint != fingerprint:
        raise InputError(
            f"dataset {name!r} of this worker has the fingerprint {found.fingerprint[:12]}, the client's has "
            f"{fingerprint[:12]}; put the same files on both (--data-dir)"
        )
    return found


@lru_cache(4)
def split(name: str, fingerprint: str, purpose: str, n: int | None) -> Images:
    """The images of a measurement."""
    data = dataset(name, fingerprint)
    return (data.test if purpose == "test" else data.validation).balanced(n)


class Held:
    """A state that the client sent, within reach of many tasks, whatever workers die; two are never equal."""

    def __init__(self, state: State):
        self.state = state


def held(state: State) -> Held:
    return Held(state)


@lru_cache(4)
def network(trial: Trial, fingerprint: str, checkpoint: Held) -> nn.Module:
    """The network of a checkpoint; the measurements of this worker share it, and leave it as it is."""
    return restored(trial, dataset(trial.dataset, fingerprint), checkpoint.state)


def trained(
    trial: Trial, code: str, fingerprint: str, parent: Held | None, state: Held | None, until: int, device: str
) -> State:
    """One segment of a training: from `state`, or else from its parent's checkpoint, to epoch `until`; code: `about` it."""
    require_same(trial, code)
    with pinned():
        data = dataset(trial.dataset, fingerprint)
        start = restored(trial.parent, data, parent.state) if parent else None
        result = train(trial, data, start, state and state.state, until, device)
        return {name: tensor.detach().cpu().contiguous() for name, tensor in result.items()}


def measured(
    m: Measurement, code: str, fingerprint: str, checkpoint: Held, chips: list[int], precision: str, device: str
) -> Counts:
    """The counts of some chips of a measurement; code: `about` it."""
    require_same(m, code)
    with pinned():
        train = dataset(m.trial.dataset, fingerprint).train
        images = split(m.trial.dataset, fingerprint, m.purpose, m.images).to(device)
        net = network(m.trial, fingerprint, checkpoint).to(device)
        tuning = m.tuning and m.tuning.bind(net, train.to(device))
        slices = {"images_per_chip": m.images_per_chip, "purpose": m.purpose, "precision": precision}
        return evaluate(net, images, m.variation, chips, tuning=tuning, **slices)
