"""Notebook 02: two laws, two components, the shape of cells, and the size of σ in a device."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import numpy as np
import pandas as pd
import torch
from torch import Tensor

from ..networks import NAMES
from ..statistics import Claim, bootstrap_mean, paired_difference, variance_components
from ..trials import Measurement
from ..variation import CELLS, Chip, Variation
from . import cases
from .claims import columns, exactly
from .profiles import CLAIM_SHARE, Profile, Setting

# PCM programming noise: standard deviation in µS over the target conductance g/g_max, g_max = 25 µS.
# Source: aihwkit, src/aihwkit/inference/noise/pcm.py, PCMLikeNoiseModel (Nandakumar et al., ICECS 2019).
PCM_COEFFICIENTS, PCM_G_MAX = (0.26348, 1.9650, -1.1731), 25.0


def measurements(profile: Profile, seed: int = 0) -> list[Measurement]:
    """Notebook 02: one QAT network at total σ = 0.3, both laws, within only and half between; and every distribution
    of cells at σ = 0.3 and 0.5."""
    setting = profile.settings[0]
    net = cases.trial(setting, "QAT", setting.claim_bits, seed=seed)
    variations = [Variation.split(sigma, share, law) for law, sigma in setting.sigma.items() for share in (0.0, CLAIM_SHARE)]
    variations += [Variation(top, cells=cells) for top in (0.3, 0.5) for cells in CELLS]
    n = setting.claim_chips
    return [Measurement(net, v, n, profile.test_images) for v in variations] + [cases.measured(profile, setting, net, 0.0)]


def deviated(weight: Tensor, variations: Mapping[str, Variation], chip: Chip, layer: str) -> pd.DataFrame:
    """name, weight, deviated: every cell of a layer before and after fabrication, a block a variation."""
    frames = []
    for name, variation in variations.items():
        after = variation.deviate(chip, layer, weight)(weight)
        frames.append(pd.DataFrame({"name": name, "weight": weight.flatten().numpy(), "deviated": after.flatten().numpy()}))
    return pd.concat(frames, ignore_index=True)


def deviated_claims(cells: pd.DataFrame) -> list[Claim]:
    """Under the proportional law a weight of zero stays zero; under the layer-fixed law it does not."""
    zero = cells[cells.weight == 0].groupby("name").deviated.std()
    return [
        Claim("the law moves cells that hold zero (standard deviation of their deviated weight)", name, exactly(value), of="chip")
        for name, value in zero.items()
    ]


def cell_maps(chips: Sequence[int], variation: Variation, layer: str, shape: tuple[int, int]) -> dict[int, np.ndarray]:
    """chip → e of a layer, cell by cell."""
    like = torch.empty(shape)
    return {i: variation.deviation(Chip.of("test", i), layer, like).numpy() for i in chips}


def map_table(maps: Mapping[int, np.ndarray]) -> pd.DataFrame:
    """chip, mean and standard deviation of e over the cells drawn."""
    return pd.DataFrame({"chip": i, "mean": float(e.mean()), "std": float(e.std(ddof=1)), "cells": e.size} for i, e in maps.items())


def map_claims(numbers: pd.DataFrame, variation: Variation) -> list[Claim]:
    """The grain of every chip is σ_W; only the tint differs."""
    worst = float((numbers["std"] / variation.within - 1).abs().max())
    return [Claim("every chip's grain is within 10 % of σ_W (points to spare)", f"{len(numbers)} chips", exactly(10 - 100 * worst), of="draw")]


def measured_components(variation: Variation, chips: Sequence[int], cells: int) -> pd.DataFrame:
    """n_chips, sigma_within, sigma_between recovered from simulated cells by one-way analysis of variance."""
    like = torch.empty(cells)
    e = np.stack([variation.deviation(Chip.of("test", i), "cells", like).numpy() for i in range(max(chips))])
    rows = [dict(zip(("n_chips", "sigma_within", "sigma_between"), (n, *variance_components(e[:n])))) for n in chips]
    return pd.DataFrame(rows)


def component_claims(recovered: pd.DataFrame, variation: Variation) -> list[Claim]:
    """With the most chips, both components are within a tenth of the truth."""
    last = recovered.iloc[-1]
    return [
        Claim(f"σ_{name} is recovered within 10 % (share of the tolerance left)", f"{last.n_chips:.0f} chips",
              exactly(1 - abs(found / true - 1) / 0.1), of="draw")
        for name, found, true in (("W", last.sigma_within, variation.within), ("B", last.sigma_between, variation.between))
    ]  # fmt: skip


def pcm_noise(points: int = 101) -> pd.DataFrame:
    """g (share of full scale), sigma_full_scale (%), sigma_relative (% of the target) of PCM programming."""
    g = np.linspace(0.02, 1, points)
    sigma = np.polynomial.Polynomial(PCM_COEFFICIENTS)(g)  # µS
    return pd.DataFrame({"g": g, "sigma_full_scale": 100 * sigma / PCM_G_MAX, "sigma_relative": 100 * sigma / (g * PCM_G_MAX)})


def pcm_claims(noise: pd.DataFrame) -> list[Claim]:
    """Single PCM devices stay below 5 % of full scale: σ = 0.5 is a stress test."""
    worst = float(noise.sigma_full_scale.max())
    return [Claim("PCM programming noise stays below 5 % of full scale (points to spare)", "any target", exactly(5 - worst), of="fit")]


def patterns(table, setting: Setting):
    """Rows of notebook 02 at the σ of the mixed patterns, normal cells: law × (ρ = 0, ρ = 0.5), named in `pattern`."""
    rows = table[(table.cells == "normal") & np.isclose(table.sigma, table.law.map(setting.sigma))]
    return rows.assign(pattern=rows.law + np.where(rows.sigma_between > 0, ", ρ = 0.5", ", ρ = 0"))


def chips_claims(table, profile: Profile) -> list[Claim]:
    """Notebook 02: half of the variance moved between chips costs accuracy, both laws."""
    setting, claims = profile.settings[0], []
    for law, sigma in setting.sigma.items():
        rows = patterns(table[table.law == law], setting)
        within, mixed = (r.sort_values("chip").accuracy.to_numpy() for r in (rows[rows.sigma_between == 0], rows[rows.sigma_between > 0]))
        point = f"{NAMES[setting.network]} {setting.claim_bits} QAT, {law}, σ {sigma:g}, same chips"
        claims.append(Claim("a between share of 0.5 costs accuracy against 0 (points)", point, paired_difference(within, mixed)))
    return claims


def cells_table(table):
    """cells, sigma, mean with bootstrap interval, worst chip: within-chip proportional variation, by distribution."""
    rows = []
    for (cells, sigma), group in table[(table.law == "proportional") & (table.sigma > 0) & (table.sigma_between == 0)].groupby(["cells", "sigma"]):
        row = {"cells": cells, "sigma": sigma} | columns("mean", bootstrap_mean(group.accuracy))
        rows.append(row | {"worst": group.accuracy.min(), "n_chips": len(group)})
    return pd.DataFrame(rows)


def cells_claims(table, profile: Profile) -> list[Claim]:
    """Notebook 02: at equal σ, does the shape of the distribution matter?"""
    setting, claims = profile.settings[0], []
    for sigma in (0.3, 0.5):
        rows = table[(table.law == "proportional") & np.isclose(table.sigma, sigma) & (table.sigma_between == 0)].sort_values("chip")
        by = {cells: group.accuracy.to_numpy() for cells, group in rows.groupby("cells")}
        point = f"{NAMES[setting.network]} {setting.claim_bits} QAT, proportional σ {sigma:g}, same chips"
        claims.append(Claim("lognormal cells cost less than normal ones (points)", point, paired_difference(by["lognormal"], by["normal"])))
    return claims
