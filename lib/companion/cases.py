"""Setting → named trials and measurements, and their results again.  What more than one notebook measures.

Noisy methods are trained at the smallest listed σ at or above the tested one (in `quick` at one or two σ).
"""

from __future__ import annotations

import numpy as np
import pandas as pd

from ..checks import InputError
from ..controls import NoisyBatchNorm, OutputGain, PerChipBatchNorm, StaticFold
from ..networks import NAMES
from ..estimators import Oracle, ReferenceCells, ReferenceColumns
from ..selftuning import SelfTuning
from ..trials import NOISY, QUANTIZED, Measurement, Trial
from ..variation import Variation
from .profiles import CLAIM_SHARE, Profile, Setting

NETS = ("QAT", "QAVAT", "QAVAT mixed")
Results = dict[tuple, np.ndarray]
IDENTITY = ["dataset", "network", "width", "bits", "method", "trained", "tested", "tuning", "images_per_chip"]


def trial(
    setting: Setting, method: str, bits: str | None = None, variation: Variation = Variation(), seed: int = 0, **changes
) -> Trial:
    """A trial of a setting; the noisy methods are trained under `variation`."""
    return Trial(
        setting.dataset, setting.network, method,
        recipe=setting.start if method == "float" else setting.recipe,
        bits=bits if method in QUANTIZED else None,
        variation=variation if method in NOISY else Variation(),
        start=None if method == "float" else setting.start,
        width=setting.width, train_images=setting.train_images, seed=seed, **changes,
    )  # fmt: skip


def training(setting: Setting, tested: float) -> Variation:
    """Within-chip, proportional: the smallest σ of training at or above the tested one, else the largest."""
    above = [s for s in setting.trained_sigmas if s >= tested]
    return Variation(min(above) if above else max(setting.trained_sigmas))


def measured(profile: Profile, setting: Setting, t: Trial, sigma: float) -> Measurement:
    """One chip without variation, the claim's number at the claim's point, the setting's number elsewhere."""
    claimed = sigma == profile.claim_sigma and t.bits == setting.claim_bits
    n = 1 if sigma == 0 else setting.claim_chips if claimed else setting.chips
    return Measurement(t, Variation(sigma), n, profile.test_images)


def networks(setting: Setting, law: str, seed: int = 0, sigma: float | None = None) -> dict[str, Trial]:
    """The three of notebooks 04 to 06: QAT, QAVAT trained on the within part alone, QAVAT trained on the mixed pattern."""
    sigma, bits = setting.sigma[law] if sigma is None else sigma, setting.claim_bits
    return {
        "QAT": trial(setting, "QAT", bits, seed=seed),
        "QAVAT": trial(setting, "QAVAT", bits, Variation(sigma, law=law), seed),
        "QAVAT mixed": trial(setting, "QAVAT", bits, Variation.split(sigma, CLAIM_SHARE, law), seed),
    }


def tuning(profile: Profile, law: str) -> SelfTuning:
    """The self-tuning of the claims: reference cells, as many as the profile says for the law."""
    return SelfTuning(ReferenceCells(dict(profile.cells)[law]))


def controls(profile: Profile, setting: Setting, method: str, variation: Variation) -> list:
    """Everything that a chip of notebook 05 may try, no tuning first."""
    law, batch = variation.law, setting.recipe.batch_size
    tried = [None, SelfTuning(Oracle()), tuning(profile, law), SelfTuning(ReferenceColumns(4)), OutputGain()]
    if law == "layer-fixed":
        tried.append(StaticFold(tuning(profile, law).estimator))
    tried += [PerChipBatchNorm(8 * batch, batch), PerChipBatchNorm(batch, batch)]
    if method == "QAT":
        tried.append(NoisyBatchNorm(variation, setting.recipe.bn_draws))
    return tried


def full(profile: Profile, setting: Setting):
    """Claims, quantiles and yields: the claim's number of chips, all test images."""
    return lambda net, variation, tuning=None: Measurement(net, variation, setting.claim_chips, profile.test_images, None, tuning)


def sweep(profile: Profile, setting: Setting):
    """Means: fewer chips, each on a slice of the images."""
    return lambda net, variation, tuning=None: Measurement(
        net, variation, setting.chips, profile.test_images, setting.sweep_images, tuning
    )


def curve(table, setting: Setting, method: str, bits: str):
    """Rows of one method of one setting, at its bits ("float" for the float methods)."""
    same = (table.network == setting.network) & (table.dataset == setting.dataset) & (table.width == setting.width)
    return table[same & (table.method == method) & (table.bits == (bits if method in QUANTIZED else "float"))]


def accuracies(table, setting: Setting, method: str, bits: str, sigma: float) -> np.ndarray:
    """Accuracy (%) of every chip in the order of chips, averaged over seeds; empty where it was not measured."""
    rows = curve(table, setting, method, bits)
    rows = rows[np.isclose(rows.sigma, sigma)]
    return rows.groupby("chip").accuracy.mean().to_numpy()


def indexed(table: pd.DataFrame) -> Results:
    """The table of `engine.collect` as a dictionary for `chips_of`: accuracies in the order of chips, mean over seeds."""
    keyed = table.assign(trained=list(zip(table.trained_law, table.trained_sigma, table.trained_share)))
    keyed["tested"] = list(zip(table.law.where(table.sigma > 0, "proportional"), table.sigma_within, table.sigma_between, table.layers))
    for identity, keys in keyed.groupby([*IDENTITY, "seed"]).key.unique().items():
        if len(keys) > 1:
            raise InputError(f"{len(keys)} results share the identity {identity}; give the tunings labels that differ")
    by_chip = keyed.groupby([*IDENTITY, "chip"], sort=True).accuracy.mean()
    return {key: values.to_numpy() for key, values in by_chip.groupby(IDENTITY)}


def chips_of(
    results: Results, setting: Setting, net: str, variation: Variation, tuning: str = "none", sweep: bool = False, trained: float | None = None
) -> np.ndarray:
    """Accuracy (%) of every chip; empty where it was not measured.

    net: of `NETS`, or "float".  trained: total σ of its training, where it is not that of the law's claim."""
    law, training = variation.law, ("proportional", 0.0, 0.0)
    if net.startswith("QAVAT"):
        sigma = setting.sigma[law] if trained is None else trained
        training = (law, round(sigma, 9), CLAIM_SHARE if net.endswith("mixed") else 0.0)
    layers = "all" if variation.layers is None else "+".join(variation.layers)
    tested = (law if variation else "proportional", variation.within, variation.between, layers)
    key = (setting.dataset, setting.network, setting.width, "float" if net == "float" else setting.claim_bits, net.split()[0])
    key += (training, tested, tuning, (setting.sweep_images or 0) if sweep else 0)
    return results.get(key, np.array([]))


def float_accuracy(results: Results, setting: Setting) -> float:
    """% of the float network without variation."""
    return float(chips_of(results, setting, "float", Variation())[0])


def mixed(setting: Setting, law: str, share: float = CLAIM_SHARE) -> Variation:
    return Variation.split(setting.sigma[law], share, law)


def place(setting: Setting, net: str, variation: Variation, extra: str = "same chips") -> str:
    """The operating point of a claim in words."""
    share = f", ρ {variation.between_share:.3g}" if variation.between else ""
    return f"{NAMES[setting.network]} {setting.claim_bits} {net}, {variation.law} σ {variation.total:.3g}{share}, {extra}"
