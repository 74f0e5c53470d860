"""Where a run computes, and at which precision it measures: the same answer for every task of it."""

from __future__ import annotations

import os
from functools import lru_cache

import torch

from ..checks import InputError, one_of
from ..conversion import to_analog
from ..evaluation import PRECISIONS, best_precision
from ..networks import build
from ..trials import Trial
from . import timing

DEVICE_VARIABLE = "ANALOG_PIM_DEVICE"
PRECISION_VARIABLE = "ANALOG_PIM_PRECISION"


def device(name: str | None = None) -> torch.device:
    """cpu or cuda: the argument, else ANALOG_PIM_DEVICE, else cuda where there is one."""
    name = name or os.environ.get(DEVICE_VARIABLE) or ("cuda" if torch.cuda.is_available() else "cpu")
    one_of("device", name, ("cpu", "cuda"))
    if name == "cuda" and not torch.cuda.is_available():
        raise InputError("unknown device 'cuda'; allowed: cpu; this machine or this build of torch has no CUDA GPU")
    return torch.device(name)


def precision(trial: Trial) -> str:
    """Of the Monte Carlo of a trial's network: ANALOG_PIM_PRECISION, else the best here; the client decides for all."""
    if chosen := os.environ.get(PRECISION_VARIABLE):
        return one_of("precision", chosen, PRECISIONS)
    of = timing.shape(trial.dataset)
    return _best_precision(trial.network, trial.width, of.channels, of.classes, of.size, device().type)


@lru_cache
def _best_precision(name: str, width: float, channels: int, classes: int, size: int, device: str) -> str:
    net = to_analog(build(name, channels, classes, size, width)).to(device)
    return best_precision(net, torch.zeros(2, channels, size, size, device=device))
