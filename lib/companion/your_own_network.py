"""Notebook 08: what stands for a user's own files (a network, folders of images, a CSV of cells), and its tables.

The way itself, from network to chips, is in the notebook's cells.
"""

import csv
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pandas as pd
import torch.nn.functional as F
from torch import Tensor, nn

from ..cells import ARRAY, COLUMNS, Cells
from ..data import Dataset
from ..fitting import Fit
from ..placement import report
from ..statistics import Claim
from ..variation import Variation, keyed_generator
from .claims import average, difference, exactly, per_chip, summary, tail
from .profiles import Profile


class Branched(nn.Module):
    """Two paths of different kernels that meet in a sum, then a depthwise convolution: (B, 3, H, W) → (B, classes)."""

    def __init__(self, classes: int = 10):
        super().__init__()
        self.stem = nn.Sequential(nn.Conv2d(3, 16, 3, padding=1, bias=False), nn.BatchNorm2d(16), nn.ReLU())
        self.wide = nn.Sequential(nn.Conv2d(16, 32, 3, stride=2, padding=1, bias=False), nn.BatchNorm2d(32))
        self.point = nn.Conv2d(16, 32, 1, stride=2)  # with a bias and no batch norm
        depthwise = nn.Conv2d(32, 32, 3, stride=2, padding=1, groups=32, bias=False)
        self.depth = nn.Sequential(depthwise, nn.BatchNorm2d(32), nn.ReLU())
        self.mix = nn.Sequential(nn.Conv2d(32, 64, 1, bias=False), nn.BatchNorm2d(64), nn.ReLU())
        self.head = nn.Linear(64, classes)

    def forward(self, x: Tensor) -> Tensor:
        x = self.stem(x)
        x = F.relu(self.wide(x) + self.point(x))
        return self.head(self.mix(self.depth(x)).mean((2, 3)))


@dataclass(frozen=True)
class Scale:
    """Images of each split, epochs of the float network and of fine-tuning, draws of BN re-estimation, chips."""

    train: int
    test: int
    epochs: int
    tuning_epochs: int
    bn_draws: int
    chips: int


def scale(profile: Profile) -> Scale:
    return Scale(120, 40, 1, 1, 2, 4) if profile.name == "smoke" else Scale(3600, 300, 8, 4, 100, 100)


def write_images(folder: Path, data: Dataset, of: Scale) -> Path:
    """FOLDER/{train,test}/CLASS/NNNN.png from a dataset, in colour as photographs are; returns `folder`."""
    from PIL import Image

    for split, chosen in (("train", data.train.balanced(of.train)), ("test", data.test.balanced(of.test))):
        for label in range(data.classes):
            (folder / split / f"class{label}").mkdir(parents=True)
        for i, (pixels, label) in enumerate(zip(chosen.pixels.numpy(), chosen.labels.tolist(), strict=True)):
            picture = Image.fromarray(pixels[0]).convert("RGB")
            picture.save(folder / split / f"class{label}" / f"{i:04}.png", compress_level=1)
    return folder


def write_cells(path: Path, truth: Variation, chips: int = 20, cells: int = 64, seed: int = 0, arrays: int = 1) -> Path:
    """A CSV of `cells` cells on each of `chips` chips as a tester would write it, in µS: targets up to 20 µS and the
    values read back, deviating by `truth`; returns `path`.  arrays: among which the cells of a chip are shared out in
    equal parts, with a column of their names where there are two or more."""
    rng = keyed_generator("measured cells", seed)
    target = rng.choice([-20.0, -10.0, -5.0, 5.0, 10.0, 20.0], (chips, cells))
    e = truth.between * rng.standard_normal((chips, 1)) + truth.within * rng.standard_normal((chips, cells))
    if arrays > 1:
        e += truth.array * rng.standard_normal((chips, arrays)).repeat(cells // arrays, 1)
    scale = Cells(np.empty(0), target, target).scale(truth.law, truth.curve or (1.0,))
    measured = target + e * scale
    header = COLUMNS if arrays == 1 else (COLUMNS[0], ARRAY, *COLUMNS[1:])
    with open(path, "w", newline="", encoding="utf-8") as file:
        writer = csv.writer(file, lineterminator="\n")
        writer.writerow(header)
        for c in range(chips):
            for i, (t, m) in enumerate(zip(target[c], measured[c], strict=True)):
                array = () if arrays == 1 else (f"chip{c}.{i * arrays // cells}",)
                writer.writerow((f"chip{c}", *array, i, f"{t:g}", f"{m:.4f}"))
    return path


def conversion(nets: dict[str, nn.Module]) -> pd.DataFrame:
    """network, kind, place, modules, cells: what `report` says of analog networks, by kind of module."""
    rows = [{"network": name, **vars(row)} for name, net in nets.items() for row in report(net)]
    table = pd.DataFrame(rows).groupby(["network", "kind", "place"], sort=False)
    return table.agg(modules=("name", "size"), cells=("cells", "sum"), why=("why", "first")).reset_index()


def shares(nets: dict[str, nn.Module]) -> pd.DataFrame:
    """network, parameters on crossbars, digital ones (biases, batch norm; no quantizer steps) and their share (%)."""
    rows = []
    for name, net in nets.items():
        steps = sum(p.numel() for n, p in net.named_parameters() if ".quantize_" in f".{n}")
        cells = sum(row.cells for row in report(net))
        digital = sum(p.numel() for p in net.parameters()) - steps - cells
        percent = 100 * digital / (cells + digital)
        rows.append({"network": name, "on crossbars": cells, "digital": digital, "digital, %": percent})
    return pd.DataFrame(rows)


def fit_table(found: Fit, truth: Variation) -> pd.DataFrame:
    """parameter, fitted with interval, true: σ_W, σ_B and the common factor of readings and targets."""
    values = {"σ_W": (found.within, truth.within), "σ_B": (found.between, truth.between), "factor": (found.factor, 1.0)}
    rows = ((name, e.value, e.low, e.high, true, e.n) for name, (e, true) in values.items())
    return pd.DataFrame(rows, columns=["parameter", "fitted", "low", "high", "true", "n"])


def fit_claims(table: pd.DataFrame, found: Fit) -> list[Claim]:
    """The interval contains the truth: the smaller distance of the true value from its ends is positive."""
    claims = []
    for row in table.itertuples():
        statement = f"room of the true value within the interval of {row.parameter}"
        room = exactly(min(row.high - row.true, row.true - row.low))
        claims.append(Claim(statement, "simulated cells", room, above=0, unit="", of="fit"))
    statement, lead = "lead of the likelier law", exactly(found.evidence)
    return [*claims, Claim(statement, found.law, lead, above=2, unit="log likelihood", of="fit")]


def chip_means(cells: Cells, found: Fit) -> pd.DataFrame:
    """chip, mean: each chip's mean calibrated deviation under the fitted law, in the order of the file."""
    table = pd.DataFrame({"chip": cells.chips, "mean": found.deviations(cells)}).dropna()
    return table.groupby("chip", sort=False)["mean"].mean().reset_index()


def chip_table(table: pd.DataFrame) -> pd.DataFrame:
    """net, tuning, mean with its interval, 5% quantile, chips (%)."""

    def statistics(rows: pd.DataFrame) -> dict:
        return {"mean": average(rows), "q05": tail(rows).value}

    return summary(table, ["net", "tuning"], statistics).rename(columns={"n_chips": "chips"})


def chip_claims(table: pd.DataFrame, variation: Variation) -> list[Claim]:
    """Fine-tuning with variation against conversion alone and against QAT; tuned against untuned; the same chips."""
    point = f"{variation.law} σ_W {variation.within:.3f}, σ_B {variation.between:.3f}, same chips"
    pairs = [
        ("gain of QAVAT fine-tuning over conversion alone", ("QAVAT", "untuned"), ("converted", "untuned")),
        ("gain of QAVAT fine-tuning over QAT fine-tuning", ("QAVAT", "untuned"), ("QAT", "untuned")),
        ("gain of self-tuning, QAVAT", ("QAVAT", "self-tuned"), ("QAVAT", "untuned")),
        ("gain of QAVAT over QAT, both self-tuned", ("QAVAT", "self-tuned"), ("QAT", "self-tuned")),
    ]
    claims = []
    for statement, *cases in pairs:
        gain = difference(*(per_chip(table, net=net, tuning=tuning) for net, tuning in cases))
        claims.append(Claim(statement, point, gain, above=0))
    return claims
