"""What is trained and what is measured, as frozen values: Trial → checkpoint, Measurement → counts a chip."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace

import torch
from torch import nn

from .batch_norm import freeze_batch_norm
from .checks import InputError, frozen_dataclass, has, integer, one_of
from .conversion import converted
from .converter import Converter
from .data import Dataset, public_name
from .identity import described
from .networks import NETWORKS, build
from .post_training import post_training_quantize
from .quantizers import QUANTIZER_SETS, Bits
from .selftuning import Tuning
from .training import Recipe, State, fit, load_network
from .variation import NO_VARIATION, Variation

METHODS = ("float", "float-VAT", "QAT", "PTQ-VAT", "QAVAT")
NOISY = ("float-VAT", "PTQ-VAT", "QAVAT")  # trained under variation
QUANTIZED = ("QAT", "PTQ-VAT", "QAVAT")
CALIBRATION_IMAGES = 256


@dataclass(frozen=True)
class Phase:
    """The part of a training before the one that its `Trial` names."""

    recipe: Recipe
    variation: Variation


@dataclass(frozen=True)
class Trial:
    """One training.  start: the recipe of the float network it starts from (same data, width and seed), None for
    random weights.  train_images: a class-balanced subset of the training split, None for all of it.

    first: what was trained before `recipe` and `variation`, which then go on with batch norm frozen.  With the batch's
    own statistics a shared gain cancels, so what chips have in common must be trained so.  [ours]"""

    dataset: str
    network: str
    method: str
    recipe: Recipe
    bits: str | None = None
    variation: Variation = NO_VARIATION
    start: Recipe | None = None
    width: float = 1.0
    train_images: int | None = None
    seed: int = 0
    quantizers: str = "learned"
    first: Phase | None = None

    def __post_init__(self):
        one_of("method", self.method, METHODS)
        one_of("network", self.network, NETWORKS)
        one_of("quantizers", self.quantizers, QUANTIZER_SETS)
        integer("seed", self.seed, 0, 2**16 - 1)
        quantized, noisy = self.method in QUANTIZED, self.method in NOISY
        if (self.bits is not None) != quantized:
            raise InputError(f"{self.method} {'needs' if quantized else 'takes no'} bits, got {self.bits!r}")
        if (self.variation.total > 0) != noisy:
            needs = "needs a" if noisy else "trains without"
            raise InputError(f"{self.method} {needs} variation, got {self.variation}")
        if self.bits is not None:
            Bits.parse(self.bits)
        if self.first and self.method != "QAVAT":
            raise InputError(f"only QAVAT has a first phase, got method={self.method!r}; leave it out")

    @property
    def parent(self) -> Trial | None:
        """The trial whose checkpoint this one starts from."""
        if self.first:
            return replace(self, recipe=self.first.recipe, variation=self.first.variation, first=None)
        if self.method == "PTQ-VAT":
            return replace(self, method="float-VAT", bits=None, quantizers="learned")
        if self.start is None:
            return None
        return replace(
            self, method="float", bits=None, variation=NO_VARIATION, recipe=self.start, start=None, quantizers="learned"
        )

    @property
    def quantizer_set(self) -> str:
        """PTQ searches the steps of trained weights, whatever the set [code 2021]; the others use the set as named."""
        return "line-search" if self.method == "PTQ-VAT" and self.quantizers == "learned" else self.quantizers

    def config(self) -> dict:
        """What a key is made of: the dataset's name, never its path (its content has a fingerprint)."""
        return described(self) | {"dataset": public_name(self.dataset)}

    @property
    def label(self) -> str:
        v = self.variation
        sigma = f" {v.label}" if v.total else ""
        sigma += ", frozen norms" if self.first else ""
        return f"{self.method}{sigma} {self.network} {self.bits or 'float'}"


@dataclass(frozen=True)
class Measurement:
    """One Monte Carlo: a trained network under a test variation.  The number of chips is no part of its identity.

    images: a class-balanced subset of the split, None for all of it, after the first `skip`; images_per_chip: as in
    `evaluate`.
    tuning: a `SelfTuning`, a control or any `Tuning`; None for none.  converter: behind every array, None for none.
    purpose: "test", or "validation" with chips and images of their own, for every choice made before the test set is
    looked at."""

    trial: Trial
    variation: Variation
    chips: int = 100
    images: int | None = None
    images_per_chip: int | None = None
    tuning: Tuning | None = None
    purpose: str = "test"
    skip: int = 0
    converter: Converter | None = None

    def __post_init__(self):
        integer("chips", self.chips, 1)
        integer("skip", self.skip, 0)
        one_of("purpose", self.purpose, ("test", "validation"))
        for name in ("images", "images_per_chip"):
            if getattr(self, name) is not None:
                integer(name, getattr(self, name), 1)
        if not isinstance(self.converter, Converter | None):
            raise InputError(f"converter must be a Converter, such as Converter(bits=8), got {self.converter!r:.80}")
        if self.tuning is not None:
            frozen_dataclass("a tuning", self.tuning, "SelfTuning(ReferenceCells(256))")
            has("a tuning", self.tuning, ("label", "chip_images", "cells", "bind"), "SelfTuning around an estimator")

    def config(self) -> dict:
        seen = {name: getattr(self, name) for name in ("images", "skip", "images_per_chip", "purpose")}
        hardware = {"converter": described(self.converter)} if self.converter else {}
        return {"variation": described(self.variation), "tuning": described(self.tuning), **seen, **hardware}

    @property
    def label(self) -> str:
        converter = f", converter of {self.converter.label}" if self.converter else ""
        return f"{self.trial.label} at {self.variation.label}{converter}" + (
            f", {self.tuning.label}" if self.tuning else ""
        )

    def row(self) -> dict:
        """What identifies it in a table."""
        t, v = self.trial, self.variation
        return {
            "dataset": public_name(t.dataset),
            "network": t.network,
            "width": t.width,
            "bits": t.bits or "float",
            "method": t.method,
            "quantizers": t.quantizers,
            "trained_law": t.variation.law,
            "trained_sigma": round(t.variation.total, 9),
            "trained_share": round(t.variation.between_share, 9),
            "first_epochs": t.first.recipe.epochs if t.first else 0,
            "seed": t.seed,
            "law": v.law,
            "cells": v.cells,
            "sigma": round(v.total, 9),
            "share": round(v.between_share, 9),
            "sigma_within": v.within,
            "sigma_between": v.between,
            "sigma_array": v.array,
            "rows": v.rows,
            "columns": v.columns,
            "mapping": v.mapping,
            "curve": "" if v.curve is None else " ".join(f"{c:.9g}" for c in v.curve),
            "trained_array": t.variation.array,
            "trained_mapping": t.variation.mapping,
            "converter": self.converter.label if self.converter else "none",
            "layers": "all" if v.layers is None else "+".join(v.layers),
            "tuning": self.tuning.label if self.tuning else "none",
            "subset": self.images or 0,
            "skip": self.skip,
            "images_per_chip": self.images_per_chip or 0,
            "split": self.purpose,
        }


def fresh_network(trial: Trial, dataset: Dataset) -> nn.Module:
    return build(trial.network, dataset.channels, dataset.classes, dataset.size, trial.width, trial.seed)


def restored(trial: Trial, dataset: Dataset, state: State) -> nn.Module:
    """The network of a checkpoint, with analog layers (float crossbars for the float methods)."""
    net = converted(fresh_network(trial, dataset), trial.bits, calibration(dataset, 8), trial.quantizer_set)
    return load_network(net, state).eval()


def train(
    trial: Trial,
    dataset: Dataset,
    parent: nn.Module | None,
    resume: State | None = None,
    until: int | None = None,
    device: str | torch.device = "cpu",
    precision: str | None = None,
    progress: Callable[[int], None] | None = None,
) -> State:
    """One segment of a trial: from `resume` (or the parent's network, or random weights) to epoch `until`."""
    images = dataset.train.balanced(trial.train_images).to(device)
    start = (parent if parent is not None else fresh_network(trial, dataset)).to(device)
    if trial.method == "PTQ-VAT":
        assert trial.bits is not None  # a trial that quantizes has bits
        draws = max(trial.recipe.bn_draws, len(images) // trial.recipe.batch_size)
        net = post_training_quantize(
            start, trial.bits, images, trial.variation, seed=trial.seed, draws=draws, quantizers=trial.quantizer_set
        )
        return {f"net/{name}": tensor for name, tensor in net.state_dict().items()}
    net = start  # analog already after a first phase
    if not trial.first or parent is None:
        net = converted(start, trial.bits, calibration(dataset, CALIBRATION_IMAGES).to(device), trial.quantizers)
    begun = 0
    if trial.first:
        freeze_batch_norm(net)
        begun = trial.first.recipe.epochs
    return fit(
        net,
        images,
        trial.recipe,
        trial.variation,
        seed=trial.seed,
        resume=resume,
        until=until,
        begun=begun,
        precision=precision,
        progress=progress,
    )


def calibration(dataset: Dataset, n: int = CALIBRATION_IMAGES) -> torch.Tensor:
    """Class-balanced, normalized training images, (n, C, H, W)."""
    return dataset.train.balanced(min(n, len(dataset.train))).normalized()
