"""Notebook 02: two laws, two components, the shape of cells, and the size of σ in a device."""

from collections.abc import Mapping, Sequence
from dataclasses import replace

import numpy as np
import pandas as pd
import torch
from torch import Tensor

from ..laws import CELLS
from ..lots import lot_mean
from ..networks import NAMES
from ..statistics import Claim, variance_components
from ..variation import Chip, Variation, golden
from . import cases
from .cases import Case
from .claims import average, exactly, paired, summary, where
from .profiles import CLAIM_SHARE, Profile

NEAREST = 5


def measurements(profile: Profile, seed: int = 0) -> list[Case]:
    """One QAT network at total σ = 0.3, both laws, within only and half between; every distribution of cells at σ = 0.3
    and 0.5; and a lot of many chips."""
    setting, chips = profile.settings[0], profile.settings[0].claim_chips
    net = cases.trial(setting, "QAT", setting.claim_bits, seed=seed)
    found = []
    for law, sigma in setting.sigma.items():
        for share in (0.0, CLAIM_SHARE):
            names = {"of": "pattern", "law": law, "share": share, "pattern": f"{law}, ρ = {share:g}"}
            found.append(Case(cases.fixed(profile, setting, net, Variation.split(sigma, share, law)), names))
    for shape in sorted(CELLS):
        for sigma in (0.3, 0.5):
            m = cases.averaged(profile, setting, net, Variation(sigma, cells=shape), chips)
            found.append(Case(m, {"of": "cells", "cells": shape, "sigma": sigma}))
    mixed = Variation.split(setting.sigma["proportional"], CLAIM_SHARE)
    lot = cases.averaged(profile, setting, net, mixed, 5 * chips)
    return [*found, Case(replace(lot, images_per_chip=4 * setting.slice_images), {"of": "lot"})]


def deviated(weight: Tensor, variations: Mapping[str, Variation], chip: Chip, layer: str) -> pd.DataFrame:
    """name, weight, deviated: every cell of a layer before and after fabrication, a block a variation."""
    frames = []
    for name, variation in variations.items():
        after = variation.deviate(chip, layer, weight)(weight)
        cells = {"weight": weight.flatten().numpy(), "deviated": after.flatten().numpy()}
        frames.append(pd.DataFrame({"name": name, **cells}))
    return pd.concat(frames, ignore_index=True)


def cell_maps(chips: Sequence[int], variation: Variation, layer: str, shape: tuple[int, int]) -> dict[int, np.ndarray]:
    """chip → e of a layer, cell by cell."""
    like = torch.empty(shape)
    return {i: variation.deviation(Chip.of("test", i), layer, like).numpy() for i in chips}


def map_table(maps: Mapping[int, np.ndarray]) -> pd.DataFrame:
    """chip, mean and standard deviation of e over the cells drawn."""
    rows = ((i, float(e.mean()), float(e.std(ddof=1)), e.size) for i, e in maps.items())
    return pd.DataFrame(rows, columns=["chip", "mean", "std", "cells"])


def measured_components(variation: Variation, chips: Sequence[int], cells: int, laboratories: int) -> pd.DataFrame:
    """n_chips, sigma_within, sigma_between recovered from simulated cells by one-way analysis of variance: the median
    over laboratories that measure chips of their own, and (…_low, …_high) the middle nine tenths of them.

    Each chip is the first of a lot of its own: whoever measures has no lot that is spread."""
    like, most, found = torch.empty(cells), max(chips), []
    for first in range(0, laboratories * most, most):
        each = (Chip.of("test", 0, run) for run in range(first, first + most))
        e = np.stack([variation.deviation(chip, "cells", like).numpy() for chip in each])
        found.append([variance_components(e[:n]) for n in chips])
    low, middle, high = np.quantile(found, (0.05, 0.5, 0.95), axis=0).transpose(0, 2, 1)  # (component, chips) each
    columns = {"n_chips": chips}
    for i, name in enumerate(("sigma_within", "sigma_between")):
        columns |= {name: middle[i], f"{name}_low": low[i], f"{name}_high": high[i]}
    return pd.DataFrame(columns)


def component_claims(recovered: pd.DataFrame, variation: Variation) -> list[Claim]:
    """With the most chips, both components are within a tenth of the truth."""
    last, claims = recovered.iloc[-1], []
    for name, found, true in (("W", last.sigma_within, variation.within), ("B", last.sigma_between, variation.between)):
        share, point = exactly(found / true), f"{last.n_chips:.0f} chips"
        claims.append(Claim(f"σ_{name} found over true", point, share, above=0.9, below=1.1, unit="ratio", of="draw"))
    return claims


def pcm_noise(points: int = 101) -> pd.DataFrame:
    """g (share of full scale), sigma_full_scale (%), sigma_relative (% of the target) of PCM programming."""
    g = np.linspace(0.02, 1, points)
    sigma = np.polynomial.Polynomial(cases.PCM_COEFFICIENTS)(g)  # µS
    percent = {"sigma_full_scale": 100 * sigma / cases.PCM_G_MAX, "sigma_relative": 100 * sigma / (g * cases.PCM_G_MAX)}
    return pd.DataFrame({"g": g, **percent})


def pcm_claims(noise: pd.DataFrame) -> list[Claim]:
    """Single PCM devices stay below 5 % of full scale: σ = 0.5 is a stress test."""
    worst = exactly(noise.sigma_full_scale.max())
    return [Claim("largest PCM programming noise", "any target", worst, below=5, unit="% of full scale", of="fit")]


def chips_claims(table: pd.DataFrame, profile: Profile) -> list[Claim]:
    """Half of the variance moved between chips costs accuracy, both laws."""
    setting, claims = profile.settings[0], []
    for law, sigma in setting.sigma.items():
        cost = paired(where(table, of="pattern", law=law), "share", 0.0, CLAIM_SHARE)
        point = f"{NAMES[setting.network]} {setting.claim_bits} QAT, {law}, σ {sigma:g}, same chips and images"
        claims.append(Claim("what a between share of 0.5 costs beyond 0", point, cost, above=0))
    return claims


def lot_errors(rows: pd.DataFrame, numbers: Sequence[int] = (10, 20, 40, 100), runs: int = 1000) -> pd.DataFrame:
    """kind, n, error (rms, points) of the mean of n chips drawn from the rows of a large lot: independent, or as a lot
    that begins anywhere, whose chips are taken among the `NEAREST` to each of its places."""
    rng, values = np.random.default_rng(0), rows.sort_values("place").accuracy.to_numpy()
    found, truth = [], values.mean()
    for n in numbers:
        drawn = rng.choice(values, (runs, n)).mean(1)
        lots = []
        for _ in range(runs):
            u = golden(int(rng.integers(2**64, dtype=np.uint64)), np.arange(n))
            near = (u * len(values)).astype(int) + rng.integers(-(NEAREST // 2), NEAREST // 2 + 1, n)
            lots.append(lot_mean(values[near.clip(0, len(values) - 1)], u).value)
        for kind, means in (("independent", drawn), ("a lot", np.array(lots))):
            found.append({"kind": kind, "n": n, "error": float(np.sqrt(np.mean((means - truth) ** 2)))})
    return pd.DataFrame(found)


def lot_claims(errors: pd.DataFrame, point: str) -> list[Claim]:
    """A lot of 100 chips is worth 20 times its number."""
    last = errors[errors.n == errors.n.max()].set_index("kind").error
    worth = exactly((last["independent"] / last["a lot"]) ** 2)
    statement = f"independent chips that one chip of a lot of {errors.n.max()} is worth, for the mean"
    return [Claim(statement, point, worth, above=20, unit="chips", of="resampling")]


def cells_table(table: pd.DataFrame) -> pd.DataFrame:
    """cells, sigma, mean with bootstrap interval, worst chip: within-chip proportional variation, by distribution."""
    return summary(
        where(table, of="cells"), ["cells", "sigma"], lambda rows: {"mean": average(rows), "worst": rows.accuracy.min()}
    )


def cells_claims(table: pd.DataFrame, profile: Profile) -> list[Claim]:
    """At equal σ, does the shape of the distribution matter?"""
    setting, claims = profile.settings[0], []
    for sigma in (0.3, 0.5):
        gain = paired(where(table, of="cells", sigma=sigma), "cells", "lognormal", "normal")
        point = f"{NAMES[setting.network]} {setting.claim_bits} QAT, proportional σ {sigma:g}, same chips"
        claims.append(Claim("lead of lognormal cells over normal ones", point, gain, above=0))
    return claims
