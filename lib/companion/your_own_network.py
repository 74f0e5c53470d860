"""Notebook 08: a network, images and a sigma that this project did not bring.

What a user would do with files of his own is done here with files made on the spot: a class folder of PNG images, a CSV of
measured cells, a module with a branch.  What is trained and measured is kept in the store.
"""

from __future__ import annotations

import csv
import hashlib
from collections.abc import Callable
from dataclasses import dataclass, replace
from pathlib import Path

import pandas as pd
import torch
import torch.nn.functional as F
from safetensors import torch as safe
from torch import Tensor, nn

from ..analog import report
from ..cells import COLUMNS
from ..conversion import to_analog
from ..data import Dataset, fingerprint, load
from ..evaluation import Counts, best_precision, evaluate
from ..experiments.store import Store, key_of
from ..experiments.workers import pinned
from ..fitting import Fit
from ..identity import described
from ..post_training import post_training_quantize
from ..estimators import ReferenceCells
from ..selftuning import SelfTuning
from ..sources import MEASURING_SOURCES, require_unchanged
from ..statistics import Claim, bootstrap_mean, paired_difference, quantile
from ..training import Recipe, State, fit, load_network
from ..variation import Variation, keyed_generator
from .claims import exactly
from .profiles import Profile

SOURCES = (*MEASURING_SOURCES, "companion.your_own_network")
BITS, TUNED = "A4W4", SelfTuning(ReferenceCells(256))
NETS = ("converted", "QAT", "QAVAT")  # quantized as it is; fine-tuned without variation; fine-tuned with it


class Branched(nn.Module):
    """Two paths of different kernels that meet in a sum, then a depthwise convolution: (B, 3, H, W) → (B, classes)."""

    def __init__(self, classes: int = 10):
        super().__init__()
        self.stem = nn.Sequential(nn.Conv2d(3, 16, 3, padding=1, bias=False), nn.BatchNorm2d(16), nn.ReLU())
        self.wide = nn.Sequential(nn.Conv2d(16, 32, 3, stride=2, padding=1, bias=False), nn.BatchNorm2d(32))
        self.point = nn.Conv2d(16, 32, 1, stride=2)  # with a bias and no batch norm
        self.depth = nn.Sequential(nn.Conv2d(32, 32, 3, stride=2, padding=1, groups=32, bias=False), nn.BatchNorm2d(32), nn.ReLU())
        self.mix = nn.Sequential(nn.Conv2d(32, 64, 1, bias=False), nn.BatchNorm2d(64), nn.ReLU())
        self.head = nn.Linear(64, classes)

    def forward(self, x: Tensor) -> Tensor:
        x = self.stem(x)
        x = F.relu(self.wide(x) + self.point(x))
        return self.head(self.mix(self.depth(x)).mean((2, 3)))


@dataclass(frozen=True)
class Scale:
    """images of each split, epochs of the float network and of fine-tuning, chips."""

    train: int
    test: int
    epochs: int
    tuning_epochs: int
    chips: int


def scale(profile: Profile) -> Scale:
    return Scale(120, 40, 1, 1, 4) if profile.name == "smoke" else Scale(3600, 300, 8, 4, 100)


# -- files as a user has them ---------------------------------------------------------------------------------


def images(of: Scale) -> Path:
    """CLOTHES/{train,test}/CLASS/NNNN.png from Fashion-MNIST, in colour as photographs are.  Kept in the store: to write
    thousands of files takes a disk seconds."""
    require_unchanged(SOURCES)
    about = {"images": "clothes", "train": of.train, "test": of.test, "data": fingerprint("fashion-mnist")}
    return Store().folder_of(key_of(about, ("data", "companion.your_own_network")), lambda folder: _write_images(folder / "clothes", of)) / "clothes"


def _write_images(folder: Path, of: Scale) -> None:
    from PIL import Image

    data = load("fashion-mnist")
    for split, chosen in (("train", data.train.balanced(of.train)), ("test", data.test.balanced(of.test))):
        for label in range(data.classes):
            (folder / split / f"class{label}").mkdir(parents=True)
        for i, (pixels, label) in enumerate(zip(chosen.pixels.numpy(), chosen.labels.tolist())):
            picture = Image.fromarray(pixels[0]).convert("RGB")
            picture.save(folder / split / f"class{label}" / f"{i:04}.png", compress_level=1)


def write_cells(path: Path, truth: Variation, chips: int = 20, cells: int = 64, seed: int = 0) -> Path:
    """A CSV of `cells` cells on each of `chips` chips as a tester would write it, in µS: targets up to 20 µS and the
    values read back, deviating by `truth`; returns `path`."""
    rng = keyed_generator("measured cells", seed)
    target = rng.choice([-20.0, -10.0, -5.0, 5.0, 10.0, 20.0], (chips, cells))
    e = truth.between * rng.standard_normal((chips, 1)) + truth.within * rng.standard_normal((chips, cells))
    measured = target + e * (target if truth.law == "proportional" else 20.0)
    with open(path, "w", newline="", encoding="utf-8") as file:
        writer = csv.writer(file, lineterminator="\n")
        writer.writerow(COLUMNS)
        for c in range(chips):
            writer.writerows((f"chip{c}", i, f"{target[c, i]:g}", f"{measured[c, i]:.4f}") for i in range(cells))
    return path


# -- conversion -----------------------------------------------------------------------------------------------


def conversion(nets: dict[str, nn.Module]) -> pd.DataFrame:
    """network, kind, place, modules, cells: what `report` says of analog networks, by kind of module."""
    rows = [{"network": name, **vars(row)} for name, net in nets.items() for row in report(net)]
    table = pd.DataFrame(rows).groupby(["network", "kind", "place"], sort=False)
    return table.agg(modules=("name", "size"), cells=("cells", "sum"), why=("why", "first")).reset_index()


def shares(nets: dict[str, nn.Module]) -> pd.DataFrame:
    """network, cells, digital: parameters on crossbars and beside them (biases, batch norm; no quantizer steps)."""
    rows = []
    for name, net in nets.items():
        steps = sum(p.numel() for n, p in net.named_parameters() if ".quantize_" in f".{n}")
        cells = sum(row.cells for row in report(net))
        rows.append({"network": name, "cells": cells, "digital": sum(p.numel() for p in net.parameters()) - steps - cells})
    return pd.DataFrame(rows)


def conversion_claims(table: pd.DataFrame) -> list[Claim]:
    return [
        Claim("more than 90 % of the parameters sit on crossbars (%)", row.network, exactly(100 * row.cells / (row.cells + row.digital)), 90.0, of="network")
        for row in table.itertuples()
    ]  # fmt: skip


# -- a sigma from measurements --------------------------------------------------------------------------------


def fit_table(found: Fit, truth: Variation) -> pd.DataFrame:
    """parameter, fitted with interval, true: σ_W, σ_B and the common factor of readings and targets."""
    values = ((found.within, truth.within), (found.between, truth.between), (found.factor, 1.0))
    return pd.DataFrame(
        {"parameter": name, "fitted": e.value, "low": e.low, "high": e.high, "true": true, "n": e.n}
        for name, (e, true) in zip(("σ_W", "σ_B", "factor"), values)
    )


def fit_claims(table: pd.DataFrame, found: Fit) -> list[Claim]:
    """The interval contains the truth: the smaller distance of the true value from its ends is positive."""
    claims = [
        Claim(f"the interval of {row.parameter} contains the true value (room to its nearer end)", "simulated cells",
              exactly(min(row.high - row.true, row.true - row.low)), of="fit")
        for row in table.itertuples()
    ]  # fmt: skip
    return [*claims, Claim("the cells decide on the law (log likelihood ahead of the other's)", found.law, exactly(found.evidence), 2.0, of="fit")]


def chip_means(cells, found: Fit) -> pd.DataFrame:
    """chip, mean: each chip's mean calibrated deviation under the fitted law, in the order of the file."""
    table = pd.DataFrame({"chip": cells.chips, "mean": found.deviations(cells)}).dropna()
    return table.groupby("chip", sort=False)["mean"].mean().reset_index()


# -- from a float network to a robust one ---------------------------------------------------------------------


def float_network(data: Dataset, of: Scale, seed: int = 0) -> nn.Module:
    """What stands for the network that a user has trained elsewhere."""

    def made() -> State:
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(seed)
            net = Branched(data.classes)
        return fit(net, data.train, Recipe(epochs=of.epochs, lr=0.1, warmup=0.1), seed=seed)

    return load_network(Branched(data.classes), _kept(data, of, seed, "float", Variation(), made)).eval()


def fine_tuned(net: nn.Module, data: Dataset, of: Scale, variation: Variation, seed: int = 0) -> dict[str, nn.Module]:
    """`NETS` made of a trained float network: converted alone, and with a few epochs of fine-tuning on top; QAVAT under the
    within-chip part of `variation`, since training on a gain that tuning removes wastes resolution."""
    batch = data.train.take(slice(0, 256)).normalized()
    recipe, found = Recipe(epochs=of.tuning_epochs, lr=0.02, warmup=0.1, bn_draws=100 if of.chips > 10 else 2), {}
    for name in NETS:
        used = replace(variation, between=0.0) if name == "QAVAT" else Variation()

        def made(name=name, used=used) -> State:
            if name == "converted":
                return {f"net/{k}": v for k, v in post_training_quantize(net, BITS, data.train, draws=recipe.bn_draws).state_dict().items()}
            return fit(to_analog(net, BITS, batch), data.train, recipe, used, seed=seed)

        state = _kept(data, of, seed, f"{name} of {_digest(net)}", used, made)
        quantizers = "line-search" if name == "converted" else "learned"
        found[name] = load_network(to_analog(net, BITS, batch, quantizers), state).eval()
    return found


def key(data: Dataset, of: Scale, seed: int = 0) -> str:
    """Of everything that notebook 08 shows of these images."""
    return key_of({"data": data.fingerprint, "scale": vars(of), "seed": seed}, SOURCES)[:16]


def _digest(net: nn.Module) -> str:
    """SHA-256 of everything that a network has learned."""
    return hashlib.sha256(safe.save({name: tensor.contiguous() for name, tensor in net.state_dict().items()})).hexdigest()


def _kept(data: Dataset, of: Scale, seed: int, name: str, variation: Variation, made: Callable[[], State]) -> State:
    """The state of a training: from the store, or made now on one thread and stored."""
    config = {"own network": name, "scale": vars(of), "seed": seed, "variation": described(variation), "data": data.fingerprint}
    require_unchanged(SOURCES)
    store, key = Store(), key_of(config, SOURCES)
    if (state := store.checkpoint(key)) is None:
        with pinned():
            store.save_checkpoint(key, made(), config)
        state = store.checkpoint(key)
    return state


def measured(nets: dict[str, nn.Module], data: Dataset, of: Scale, variation: Variation) -> pd.DataFrame:
    """net, tuning, chip, accuracy (%), key: every network on the same chips, untuned and tuned, and on an ideal chip."""
    require_unchanged(SOURCES)
    frames = []
    for name, net in nets.items():
        for label, v, tuning in (("ideal chip", Variation(), None), ("untuned", variation, None), ("self-tuned", variation, TUNED)):
            precision = best_precision(net, data.test.take(slice(0, 2)).normalized())
            config = {"state": _digest(net), "precision": precision, "variation": described(v), "tuning": label, "data": data.fingerprint, "scale": vars(of)}
            store, key, n = Store(), key_of(config, SOURCES), of.chips if v else 1
            if len(store.counts(key).chips) < n:
                with pinned():
                    store.append_counts(key, evaluate(net, data.test, v, n, tuning=tuning, precision=precision), config)
            counts: Counts = store.counts(key)
            frames.append(counts.to_frame().assign(net=name, tuning=label, key=key[:16]))
    return pd.concat(frames, ignore_index=True)[["net", "tuning", "chip", "accuracy", "key"]]


def chip_table(table: pd.DataFrame) -> pd.DataFrame:
    """net, tuning, mean with bootstrap interval, 5% quantile, chips (%)."""
    rows = []
    for (net, tuning), group in table.groupby(["net", "tuning"], sort=False):
        e = bootstrap_mean(group.accuracy)
        row = {"net": net, "tuning": tuning, "mean": e.value, "mean_low": e.low, "mean_high": e.high}
        rows.append(row | {"q05": quantile(group.accuracy).value, "chips": e.n})
    return pd.DataFrame(rows)


def chip_claims(table: pd.DataFrame, variation: Variation) -> list[Claim]:
    """Fine-tuning with variation against conversion alone and against QAT; tuned against untuned; the same chips."""
    by = {key: group.sort_values("chip").accuracy.to_numpy() for key, group in table.groupby(["net", "tuning"])}
    point = f"{variation.law} σ_W {variation.within:.3f}, σ_B {variation.between:.3f}, same chips"
    pairs = [
        ("QAVAT fine-tuning beats conversion alone (points)", ("QAVAT", "untuned"), ("converted", "untuned")),
        ("QAVAT fine-tuning beats QAT fine-tuning (points)", ("QAVAT", "untuned"), ("QAT", "untuned")),
        ("self-tuning raises QAVAT (points)", ("QAVAT", "self-tuned"), ("QAVAT", "untuned")),
        ("self-tuned, QAVAT beats QAT (points)", ("QAVAT", "self-tuned"), ("QAT", "self-tuned")),
    ]
    return [Claim(text, point, paired_difference(by[a], by[b])) for text, a, b in pairs]
