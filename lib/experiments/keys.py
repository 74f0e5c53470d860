"""What trainings and measurements are called in the store, and whose checkpoint a trial takes.

A network that comes with the project stands in for its training (`shipped`), unless the settings say `train`: its
identity is the digest of its content, so no edit of code takes it away.
"""

from collections.abc import Callable
from functools import lru_cache

import torch

from ..conversion import converted
from ..data import Dataset
from ..evaluation import best_precision
from ..networks import build
from ..precision import training_precision
from ..shipped import Shipped, shipped
from ..sources import MEASURING_SOURCES, TRAINING_SOURCES
from ..training import State
from ..trials import Measurement, Trial
from . import timing
from .datasets import fingerprint, load
from .settings import Settings
from .store import key_of


def dataset_of(trial: Trial, settings: Settings) -> Dataset:
    return load(trial.dataset, settings.data)


def shipped_for(trial: Trial, settings: Settings) -> Shipped | None:
    """The shipped network that stands in for a training here."""
    return None if settings.train else shipped(trial, fingerprint(trial.dataset, settings.data), settings.shipped)


def trial_key(trial: Trial, settings: Settings) -> str:
    if one := shipped_for(trial, settings):
        return key_of({"shipped": one.digest}, ())
    data = fingerprint(trial.dataset, settings.data)
    dtype = precision(trial, settings, training_precision)
    config = {"trial": trial.config(), "data": data, "dtype": dtype}
    if origin := _origin(trial, settings):
        config["from"] = origin
    return key_of(config, TRAINING_SOURCES)


def _origin(trial: Trial, settings: Settings) -> str | None:
    """Digest of the shipped network from which a training starts, directly or not."""
    if trial.parent is None:
        return None
    one = shipped_for(trial.parent, settings)
    return one.digest if one else _origin(trial.parent, settings)


def checkpoint(trial: Trial, settings: Settings) -> State | None:
    """The trained network of a trial; None where there is none yet."""
    one = shipped_for(trial, settings)
    return one.state() if one else settings.store.checkpoint(trial_key(trial, settings))


def checkpoint_digest(trial: Trial, settings: Settings) -> str | None:
    """Of its content."""
    one = shipped_for(trial, settings)
    return one.digest[:16] if one else settings.store.checkpoint_digest(trial_key(trial, settings))


def measurement_key(m: Measurement, settings: Settings) -> str | None:
    """Of the counts of a network as it is there; None where it is still to be trained."""
    if (content := checkpoint_digest(m.trial, settings)) is None:
        return None
    trial, dtype = trial_key(m.trial, settings), counted_in(m, settings)
    config = {"trial": trial, "checkpoint": content, "measurement": m.config(), "dtype": dtype}
    unpacking = ("shipped",) if shipped_for(m.trial, settings) else ()
    return key_of(config, (*MEASURING_SOURCES, *unpacking))


def precision(trial: Trial, settings: Settings, best: Callable[..., str] = best_precision) -> str:
    """Of a trial's training, or of the Monte Carlo of its network: that of the settings, else of an archive that was
    unpacked, else the best here; the client decides for all."""
    if known := settings.precision or settings.store.precision(named(trial, best)):
        return known
    of = timing.shape(trial.dataset)
    shape = of.channels, of.classes, of.size
    return _best(best, trial.network, trial.width, *shape, trial.bits, trial.quantizers, settings.device)


def counted_in(m: Measurement, settings: Settings) -> str:
    """The precision of a measurement; a converter may have finer levels than bfloat16."""
    return "float32" if m.converter else precision(m.trial, settings)


def named(trial: Trial, best: Callable[..., str]) -> str:
    """What `best` decides on: a network of a size for a data set, and how it is quantized."""
    return f"{best.__name__} {trial.network} ×{trial.width:g} {trial.bits} {trial.quantizers} {trial.dataset}"


@lru_cache
def _best(
    best: Callable[..., str],
    name: str,
    width: float,
    channels: int,
    classes: int,
    size: int,
    bits: str | None,
    quantizers: str,
    device: str,
) -> str:
    x = torch.randn(2, channels, size, size, generator=torch.Generator().manual_seed(0))
    net = converted(build(name, channels, classes, size, width), bits, x, quantizers).to(device)
    return best(net, x.to(device))
