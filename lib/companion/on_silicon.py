"""Notebook 09: where self-tuning stands on silicon: arrays that differ, differential pairs, converters, real devices.

Everything is QAVAT trained on the within part of single-ended cells, as in notebook 05, on the same chips.  The total σ
and the shared part ρ = ½ stay; α is the part of what cells share that each array has for itself.
"""

import math
from dataclasses import replace
from functools import lru_cache

import numpy as np
import pandas as pd

from ..controls import PerChipBatchNorm
from ..conversion import converted
from ..converter import Converter
from ..estimators import Oracle, ReferenceCells, grids_of
from ..evaluation import Counts
from ..experiments import timing
from ..networks import build
from ..selftuning import SelfTuning
from ..statistics import Claim, Estimate
from ..variation import Variation
from . import cases
from .cases import PCM_COEFFICIENTS, PCM_G_MAX, Bench, Case, benches
from .claims import (
    ALLOWED_LOSS,
    alike,
    average,
    claimed,
    columns,
    difference,
    groups,
    loss,
    paired,
    per_chip,
    scaled,
    summary,
    where,
)
from .profiles import CLAIM_SHARE, Profile, Setting

NET, ALPHA, HEADROOMS = "QAVAT", 0.1, (1.0, 4.0)  # ALPHA: of the claims
BY = ["network", "law"]
TRANSPARENT = Converter(16, 16.0)  # clips nothing, in the float32 of all converters: what they are held against
# σ(g) in units of the largest conductance.  RRAM: 6,000 cells of two chips of github.com/akashlevy/RRAM-RADAR-Tuning,
# targets 112 and 170 µS, through which `fit_cells` draws a line; what it says of smaller conductances nobody measured.
DEVICES = {"PCM": tuple(c / PCM_G_MAX for c in PCM_COEFFICIENTS), "RRAM": (0.164, -0.107)}


@lru_cache
def arrays_of(setting: Setting) -> int:
    """Arrays of 256 × 256 cells that a network takes."""
    of = timing.shape(setting.dataset)
    net = converted(build(setting.network, of.channels, of.classes, of.size, setting.width), None)
    return sum(grid.arrays for _, grid in grids_of(net, Variation()))


def chip_cells(bench: Bench) -> SelfTuning:
    """The reference cells of the claims, spread over the whole chip."""
    return SelfTuning(ReferenceCells(dict(bench.profile.cells)[bench.law]))


def array_cells(bench: Bench) -> SelfTuning:
    """An equal part of as many cells in each array; what is left over is not used."""
    return SelfTuning(ReferenceCells(max(1, chip_cells(bench).estimator.n // arrays_of(bench.setting)), per="array"))


def tunings(bench: Bench) -> dict[str, SelfTuning | PerChipBatchNorm | None]:
    """What a chip may do, with as many reference cells in all, or with unlabelled images."""
    batch = bench.setting.recipe.batch_size
    tried = {"untuned": None, "chip's cells": chip_cells(bench), "arrays' cells": array_cells(bench)}
    return tried | {"BN on the chip": PerChipBatchNorm(batch, batch)}


def pattern(bench: Bench, alpha: float = 0.0, **hardware) -> Variation:
    return Variation.split(bench.sigma, CLAIM_SHARE, bench.law, array_share=alpha, **hardware)


def case(bench: Bench, v: Variation, tuning=None, converter: Converter | None = None, /, **names) -> Case:
    """A mean over half of a sweep's chips."""
    chips = -(-bench.setting.chips // 2)
    m = cases.averaged(bench.profile, bench.setting, bench.networks[NET], v, chips, tuning)
    about = {"network": bench.setting.network, "law": bench.law, "net": NET}
    point = cases.operating_point(bench.setting, NET, v) + (f", α {v.array_share:.3g}" if v.array else "")
    return Case(replace(m, converter=converter), about | {"point": point} | names)


def measurements(profile: Profile, seed: int = 0) -> list[Case]:
    """α, cells per array, differential pairs, converters, published devices: both laws, every network."""
    found = []
    for bench in benches(profile, seed):
        plain, tried = pattern(bench), tunings(bench)
        found.append(bench.ideal("QAT"))
        for alpha in profile.alphas:
            at = {"of": "alpha", "alpha": alpha}
            for by, tuning in tried.items():
                if by != "BN on the chip" or alpha in (0.0, ALPHA, profile.alphas[-1]):  # four times as slow
                    found.append(case(bench, pattern(bench, alpha), tuning, **at, by=by))
        for alpha in (ALPHA, profile.alphas[-1]):
            ns = {f"{n}": ReferenceCells(n, per="array") for n in profile.array_cells} | {"oracle": Oracle("array")}
            for n, estimator in ns.items():
                at = {"of": "cells", "alpha": alpha, "n": n}
                found.append(case(bench, pattern(bench, alpha), SelfTuning(estimator), **at))
        within = Variation(plain.within, law=bench.law)
        for mapping in ("single-ended", "differential"):
            patterns = {"within only": within, "α = 0": plain, f"α = {ALPHA:g}": pattern(bench, ALPHA)}
            for name, v in patterns.items():
                for by in ("untuned", "chip's cells"):
                    if by != "untuned" and mapping == "differential" and bench.law == "layer-fixed":
                        continue  # what cells share cancels in a pair, so there is nothing to tune
                    at = {"of": "mapping", "mapping": mapping, "pattern": name, "by": by}
                    found.append(case(bench, replace(v, mapping=mapping), tried[by], **at))
        for bits in profile.converter_bits:
            tried_at = {f"headroom {h:g}": Converter(bits, h) for h in HEADROOMS}
            for name, converter in (tried_at | {"behind the correction": Converter(bits, last=True)}).items():
                at = {"of": "converter", "bits": bits, "converter": name}
                found.append(case(bench, plain, chip_cells(bench), converter, **at))
        found.append(case(bench, plain, chip_cells(bench), TRANSPARENT, of="transparent"))
        if bench.law == "proportional":  # a device has a law of its own
            for device, curve in DEVICES.items():
                for mapping in ("single-ended", "differential"):
                    v = Variation(1.0, law="measured", curve=curve, mapping=mapping)
                    found.append(case(bench, v, **{"of": "device", "device": device, "mapping": mapping}))
    return found


def alpha_table(table: pd.DataFrame) -> pd.DataFrame:
    """network, law, by, alpha: mean accuracy (%) and loss (points), each with its interval."""
    ideal = where(table, of="ideal")
    by = [*BY, "by", "alpha"]
    return summary(where(table, of="alpha"), by, lambda r: {"mean": average(r), "loss": loss(ideal, r)})


def halving(alphas: np.ndarray, gains: np.ndarray) -> float:
    """The α at which a gain has fallen to half of that at α = 0, on straight lines between the α measured; NaN if at
    none, or where there is no gain at α = 0."""
    below = np.flatnonzero(gains < gains[0] / 2)
    if not len(below) or gains[0] <= 0:
        return math.nan
    i = below[0]
    share = (gains[i - 1] - gains[0] / 2) / (gains[i - 1] - gains[i])
    return float(alphas[i - 1] + share * (alphas[i] - alphas[i - 1]))


def half_table(table: pd.DataFrame) -> pd.DataFrame:
    """network, law: what the chip's cells bring at α = 0 (points), and the α at which they bring half of that: mean,
    smallest and largest of the training seeds."""
    rows = []
    for names, part in groups(where(table, of="alpha"), BY):
        gains = {seed: chip_gains(own) for seed, own in part.groupby("seed")}
        halves = [halving(part.alpha.unique(), found) for found in gains.values()]
        about = {"gain at α = 0": np.mean([found[0] for found in gains.values()]), "half at α": np.mean(halves)}
        rows.append(names | about | {"smallest": min(halves), "largest": max(halves), "seeds": len(halves)})
    return pd.DataFrame(rows)


def chip_gains(rows: pd.DataFrame) -> np.ndarray:
    """What the chip's cells bring at each α (points), of one seed."""
    each = (at for _, at in groups(rows, ["alpha"]))
    return np.array([paired(at, "by", "chip's cells", "untuned").value for at in each])


def alpha_claims(table: pd.DataFrame) -> list[Claim]:
    """At α = 0.1: the loss tuned by the chip's cells, and by as many in the arrays; and what their place brings."""
    at, ideal = where(table, of="alpha", alpha=ALPHA), where(table, of="ideal")
    found = []
    for by in ("chip's cells", "arrays' cells"):
        told = f"loss, tuned by the {by}"
        found += claimed(where(at, by=by), BY, told, lambda r: loss(ideal, r), below=ALLOWED_LOSS)
    told = "gain of cells in the arrays over as many on the chip"
    return found + claimed(at, BY, told, lambda r: paired(r, "by", "arrays' cells", "chip's cells"), above=0)


def cells_table(table: pd.DataFrame, profile: Profile) -> pd.DataFrame:
    """network, law, alpha, n, cells (of the chip): points below the oracle of each array, of n cells per array."""
    settings = {s.network: s for s in profile.settings}
    tried = where(table, of="cells")

    def statistics(rows: pd.DataFrame) -> dict:
        oracle = per_chip(alike(tried, rows, *BY, "alpha", n="oracle"))
        return {"below_oracle": difference(oracle, per_chip(rows)), "mean": average(rows)}

    found = summary(tried[tried.n != "oracle"], [*BY, "alpha", "n"], statistics).astype({"n": int})
    found["cells"] = found.n * found.network.map(lambda name: arrays_of(settings[name]))
    return found


def cells_claims(table: pd.DataFrame) -> list[Claim]:
    """16 cells in each array come within a point of the oracle of each array."""
    at = where(table, of="cells", alpha=ALPHA)
    return claimed(
        at, BY, "what 16 cells per array lose against its oracle", lambda r: paired(r, "n", "oracle", "16"), below=1
    )


def mapping_table(table: pd.DataFrame) -> pd.DataFrame:
    """network, law, mapping, pattern, by: loss (points) with its interval."""
    ideal, by = where(table, of="ideal"), [*BY, "mapping", "pattern", "by"]
    return summary(where(table, of="mapping"), by, lambda r: {"loss": loss(ideal, r), "mean": average(r)})


def mapping_claims(table: pd.DataFrame) -> list[Claim]:
    """On a differential pair, untuned: the loss; and what tuning brings there."""
    pairs, ideal = where(table, of="mapping", mapping="differential", pattern="α = 0"), where(table, of="ideal")
    untuned = where(pairs, by="untuned")
    found = claimed(untuned, BY, "loss of a differential pair, untuned", lambda r: loss(ideal, r), below=ALLOWED_LOSS)
    told, pairs = "gain of tuning on a differential pair", where(pairs, law="proportional")  # else 0 by construction
    return found + claimed(pairs, BY, told, lambda r: paired(r, "by", "chip's cells", "untuned"), above=0)


def converter_table(table: pd.DataFrame) -> pd.DataFrame:
    """network, law, converter, bits: mean, and what the converter costs a tuned chip (points, the same chips)."""

    def statistics(rows: pd.DataFrame) -> dict:
        return {"mean": average(rows), "cost": converter_cost(table, rows)}

    found = summary(where(table, of="converter"), [*BY, "converter", "bits"], statistics)
    return found.astype({"bits": int})


def converter_cost(table: pd.DataFrame, rows: pd.DataFrame) -> Estimate:
    """What a converter costs against one that clips nothing and has 16 bits."""
    return difference(per_chip(alike(where(table, of="transparent"), rows, *BY)), per_chip(rows))


def converter_claims(table: pd.DataFrame) -> list[Claim]:
    """A converter of 8 bits, with and without room for the shared part, costs a tuned chip less than a point."""
    found = []
    for headroom in HEADROOMS:
        at = where(table, of="converter", bits=8, converter=f"headroom {headroom:g}")
        told = f"cost of a converter of 8 bits, headroom {headroom:g}"
        found += claimed(at, BY, told, lambda r: converter_cost(table, r), below=1)
    return found


def device_table(table: pd.DataFrame) -> pd.DataFrame:
    """network, device, mapping: mean and loss, of programming noise alone."""
    ideal = where(table, of="ideal", law="proportional")
    by = ["network", "law", "device", "mapping"]
    return summary(where(table, of="device"), by, lambda r: {"mean": average(r), "loss": loss(ideal, r)})


def curve_table(found, cells, truth: Variation) -> pd.DataFrame:
    """g, σ_W(g) fitted with its band, and true, in units of the largest target."""
    g = np.linspace(0, 1, 41)
    value, low, high = found.own_sigma(cells, g)
    true = truth.within * np.polynomial.polynomial.polyval(g, truth.curve)
    return pd.DataFrame({"g": g, "sigma": value, "sigma_low": low, "sigma_high": high, "true": true})


def yield_table(found: dict[str, Counts], least: float) -> pd.DataFrame:
    """chip: mean, 5% quantile and yield (%) above `least` %, each with its interval, of one network on fixed images."""
    rows = []
    for name, counts in found.items():
        told = counts.summary(least)
        rows.append({"chip": name} | columns("mean", told["mean"]) | columns("q05", told["q05"]))
        rows[-1] |= columns("yield", scaled(told["yield"], 100))
    return pd.DataFrame(rows)
