"""What a training and a measurement cost on this machine, estimated from a measured forward pass of each network.

No dataset is read for it: a run is estimated before anything has been downloaded.
"""

import time
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path

import torch

from ..data import VALIDATION_SHARE
from ..networks import build
from ..trials import Measurement, Trial
from .datasets import load
from .workers import pinned

STEP_COST = 3.0  # a training step against a forward pass of the same images


@dataclass(frozen=True)
class Shape:
    """Of a dataset: channels, classes, side of its square images, images to train on (validation apart) and to test."""

    channels: int
    classes: int
    size: int
    train: int
    test: int


def _published(channels: int, classes: int, size: int, train: int) -> Shape:
    return Shape(channels, classes, size, train - train // VALIDATION_SHARE, 10_000)


SHAPES = {
    "fashion-mnist": _published(1, 10, 28, 60_000),
    "mnist": _published(1, 10, 28, 60_000),
    "cifar10": _published(3, 10, 32, 50_000),
    "cifar100": _published(3, 100, 32, 50_000),
}


def shape(dataset: str) -> Shape:
    """Of a dataset: as published, or as read for a folder of images of the user's own."""
    if dataset in SHAPES:
        return SHAPES[dataset]
    data = load(dataset)
    return Shape(data.channels, data.classes, data.size, len(data.train), len(data.test))


def at_hand(dataset: str, folder: Path) -> bool:
    """Whether a dataset can be read from a data folder without a download."""
    if dataset not in SHAPES or (folder / dataset).is_dir():
        return True
    from torchvision import datasets

    kinds = {"fashion-mnist": "FashionMNIST", "mnist": "MNIST", "cifar10": "CIFAR10", "cifar100": "CIFAR100"}
    try:
        getattr(datasets, kinds[dataset])(folder)
    except RuntimeError:
        return False
    return True


def training_seconds(trial: Trial, device: str = "cpu") -> float:
    images, draws = trial.train_images or shape(trial.dataset).train, trial.recipe.bn_draws * trial.recipe.batch_size
    passes = 2 * max(draws, images) if trial.method == "PTQ-VAT" else STEP_COST * images * trial.recipe.epochs
    passes += draws if trial.variation.total and trial.method != "PTQ-VAT" else 0
    return passes * forward_seconds(trial.network, trial.width, trial.dataset, device)


def chip_seconds(m: Measurement, device: str = "cpu") -> float:
    """Of one chip of a measurement."""
    images = m.images_per_chip or m.images or shape(m.trial.dataset).test - m.skip
    images += getattr(m.tuning, "chip_images", 0)
    return images * forward_seconds(m.trial.network, m.trial.width, m.trial.dataset, device)


@lru_cache
def forward_seconds(name: str, width: float, dataset: str, device: str) -> float:
    """Seconds of a float forward pass an image on a task's threads, the best of three."""
    of = shape(dataset)
    net = build(name, of.channels, of.classes, of.size, width).eval().to(device)
    x, times = torch.zeros(100, of.channels, of.size, of.size, device=device), []
    with torch.no_grad(), pinned():
        for _ in range(3):
            began = time.perf_counter()
            net(x).sum().item()
            times.append(time.perf_counter() - began)
    return min(times) / len(x)
