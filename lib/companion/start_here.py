"""Notebook 00: a network meets its chip."""

from collections.abc import Sequence

import numpy as np
import pandas as pd
from torch import Tensor

from ..networks import NAMES
from ..statistics import Claim, proportion
from ..variation import Variation
from . import cases
from .cases import Case
from .claims import mean_of, per_chip, scaled
from .profiles import Profile


def measurements(profile: Profile, seed: int = 0) -> list[Case]:
    """The first network, QAT and QAVAT, on ideal chips and at the claim's σ; and chip by chip on the same images."""
    setting, top = profile.settings[0], profile.claim_sigma
    trained = cases.training(setting, top)
    trials = [cases.trial(setting, method, setting.claim_bits, trained, seed) for method in ("QAT", "QAVAT")]
    found = [cases.within(profile, setting, t, sigma) for t in trials for sigma in (0.0, top)]
    for t in trials:
        for sigma in (0.0, top):
            names = {"of": "fixed", "method": t.method, "sigma": sigma}
            found.append(Case(cases.fixed(profile, setting, t, Variation(sigma)), names))
    return found


def spread(chips: Sequence[int], centre: float, width: float = 0.25) -> np.ndarray:
    """Heights that keep points of one row apart: a golden-ratio sequence of the chip number around `centre`."""
    return centre + width * (2 * (np.asarray(chips) * 0.6180339887 % 1) - 1)


def predictions(labels: Tensor, before: Tensor, after: Tensor) -> pd.DataFrame:
    """One row an image: its class, and what the network says on an ideal chip and on one with variation."""
    return pd.DataFrame({"image": range(len(labels)), "label": labels, "ideal": before, "chip": after})


def one_chip_claims(labels: Tensor, before: Tensor, after: Tensor, chip: int) -> list[Claim]:
    """More than half of a handful of images stay right on an unlucky chip: shown, not expected."""
    right = scaled(proportion(int((after == labels).sum()), len(labels)), 100)
    point = f"chip {chip}, the worst of those measured, {len(labels)} images"
    return [Claim("most images stay right on an unlucky chip", point, right, above=50, unit="%", of="images")]


def drop_claims(table: pd.DataFrame, profile: Profile) -> list[Claim]:
    """The variability-oblivious network loses accuracy on chips that vary, and QAVAT loses less."""
    setting, top = profile.settings[0], profile.claim_sigma
    ideal = {m: per_chip(table, of="mean", method=m, sigma=0.0).accuracy.item() for m in ("QAT", "QAVAT")}
    real = {m: per_chip(table, of="mean", method=m, sigma=top) for m in ("QAT", "QAVAT")}
    lost = scaled(mean_of((1, real["QAT"])), -1, ideal["QAT"])
    beyond = scaled(mean_of((1, real["QAVAT"]), (-1, real["QAT"])), 1, ideal["QAT"] - ideal["QAVAT"])
    point = f"{NAMES[setting.network]} {setting.claim_bits}, σ {top:g}"
    return [
        Claim("what variation costs QAT", point, lost, above=0),
        Claim("what it costs QAT beyond QAVAT", point, beyond, above=0),
    ]
