"""One function a result: profile → the measurements it needs, and one a result: table → its claims.

Noisy methods are trained at the smallest listed σ at or above the tested one (in `quick` at one or two σ), and every
statement compares methods on the same chips.
"""

from __future__ import annotations

from dataclasses import replace

import numpy as np

from .profiles import Profile, Setting
from .statistics import Claim, Estimate, bootstrap_mean, chip_yield, mean, paired_difference, quantile
from .trials import NOISY, QUANTIZED, Measurement, Trial
from .variation import Variation

ALTERNATIVES = ("QAT", "PTQ-VAT")  # what QAVAT is held against, each on its own
YIELD_MARGIN = 5.0  # points below float accuracy that a good chip may lose


def trial(setting: Setting, method: str, bits: str | None = None, sigma: float = 0.0, seed: int = 0, **changes) -> Trial:
    """A trial of a setting; the noisy methods are trained at within-chip, proportional `sigma`."""
    return Trial(
        setting.dataset, setting.network, method,
        recipe=setting.start if method == "float" else setting.recipe,
        bits=bits if method in QUANTIZED else None,
        variation=Variation(sigma) if method in NOISY else Variation(),
        start=None if method == "float" else setting.start,
        width=setting.width, train_images=setting.train_images, seed=seed, **changes,
    )  # fmt: skip


def trained_sigma(setting: Setting, tested: float) -> float:
    """The smallest σ of training at or above the tested one, else the largest."""
    above = [s for s in setting.trained_sigmas if s >= tested]
    return min(above) if above else max(setting.trained_sigmas)


def start_here(profile: Profile, seed: int = 0) -> list[Measurement]:
    """Notebook 00: the first network, QAT and QAVAT, on ideal chips and at the claim's σ."""
    setting = profile.settings[0]
    top = profile.claim_sigma
    return [
        _measured(profile, setting, trial(setting, method, setting.claim_bits, trained_sigma(setting, top), seed), sigma)
        for method in ("QAT", "QAVAT")
        for sigma in (0.0, top)
    ]


def quantizers(profile: Profile, seed: int = 0) -> list[Measurement]:
    """Notebook 01: QAT of the first network at 1, 2 and 4 weight bits, learned step and line search, no variation."""
    setting = profile.settings[0]
    cases = [("A4W1", "learned"), *((b, q) for b in ("A4W2", "A4W4") for q in ("learned", "line-search"))]
    cases += [("A2W2", "learned"), ("A1W1", "learned")]
    trials = [trial(setting, "float", seed=seed)]
    trials += [trial(setting, "QAT", bits, seed=seed, quantizers=kind) for bits, kind in cases]
    return [_measured(profile, setting, t, 0.0) for t in trials]


def chips(profile: Profile, seed: int = 0) -> list[Measurement]:
    """Notebook 02: one QAT network at total σ = 0.3, both laws, within only and half between; and by σ alone."""
    setting = profile.settings[0]
    net = trial(setting, "QAT", setting.claim_bits, seed=seed)
    variations = [
        Variation.split(0.3 * scale, share, law)
        for law, scale in (("proportional", 1.0), ("layer-fixed", 0.23 / 0.3))
        for share in (0.0, 0.5)
    ]
    n = setting.claim_chips
    return [Measurement(net, v, n, profile.test_images) for v in variations] + [_measured(profile, setting, net, 0.0)]


def accuracy_vs_sigma(profile: Profile, seed: int = 0, purpose: str = "test") -> list[Measurement]:
    """Notebook 03: every method of every setting against σ, within-chip proportional variation."""
    wanted = []
    for setting in profile.settings:
        wanted.append(_measured(profile, setting, trial(setting, "float", seed=seed), 0.0, purpose))
        for sigma in profile.sigmas:
            trained = trained_sigma(setting, sigma)
            upper = trial(setting, "float-VAT", None, trained, seed)
            wanted.append(_measured(profile, setting, upper, sigma, purpose))
            for bits in setting.bits:
                for method in QUANTIZED:
                    wanted.append(_measured(profile, setting, trial(setting, method, bits, trained, seed), sigma, purpose))
    return wanted


def _measured(profile: Profile, setting: Setting, t: Trial, sigma: float, purpose: str = "test") -> Measurement:
    """One chip without variation, the claim's number at the claim's point, the setting's number elsewhere."""
    claimed = sigma == profile.claim_sigma and t.bits == setting.claim_bits
    n = 1 if sigma == 0 else setting.claim_chips if claimed else setting.chips
    return Measurement(t, Variation(sigma), n, profile.test_images, purpose)


ALL = {"00": start_here, "01": quantizers, "02": chips, "03": accuracy_vs_sigma}


def every_measurement(profile: Profile, notebooks, seed: int = 0) -> list[Measurement]:
    """The union of the studies behind some notebooks ("00", …)."""
    return [m for name in notebooks if name in ALL for m in ALL[name](profile, seed)]


# -- from tables to statements --------------------------------------------------------------------------------


def curve(table, setting: Setting, method: str, bits: str):
    """Rows of one method of one setting, at its bits ("float" for the float methods)."""
    same = (table.network == setting.network) & (table.dataset == setting.dataset) & (table.width == setting.width)
    return table[same & (table.method == method) & (table.bits == (bits if method in QUANTIZED else "float"))]


def accuracies(table, setting: Setting, method: str, bits: str, sigma: float) -> np.ndarray:
    """Accuracy (%) of every chip in the order of chips, averaged over seeds; empty where it was not measured."""
    rows = curve(table, setting, method, bits)
    rows = rows[np.isclose(rows.sigma, sigma)]
    return rows.groupby("chip").accuracy.mean().to_numpy()


def float_accuracy(table, setting: Setting) -> float:
    """% of the float network without variation."""
    return float(accuracies(table, setting, "float", "float", 0.0).mean())


def summary(table, profile: Profile):
    """A row per network, bits, method and σ: mean with interval, 5% quantile with interval, yield with interval."""
    import pandas as pd

    rows = []
    for setting in profile.settings:
        threshold = float_accuracy(table, setting) - YIELD_MARGIN
        for bits in (*setting.bits, "float"):
            for method in QUANTIZED if bits != "float" else ("float", "float-VAT"):
                of_method = curve(table, setting, method, bits)
                for sigma in sorted(of_method.sigma.unique()):
                    values = accuracies(table, setting, method, bits, sigma)
                    trained = of_method[of_method.sigma == sigma].trained_sigma.max()
                    row = {"network": setting.network, "bits": bits, "method": method, "trained_sigma": trained, "sigma": sigma}
                    rows.append(row | {"n_chips": len(values), "seeds": of_method.seed.nunique()}
                                | _columns("mean", bootstrap_mean(values)) | _columns("q05", quantile(values))
                                | _columns("yield", chip_yield(values, threshold)))  # fmt: skip
    return pd.DataFrame(rows)


def gains(table, profile: Profile):
    """A row per network, bits, alternative and σ: QAVAT − alternative on the same chips, with interval (points)."""
    import pandas as pd

    rows = []
    for setting in profile.settings:
        for bits in setting.bits:
            for other in ALTERNATIVES:
                for sigma in profile.sigmas:
                    ours, theirs = (accuracies(table, setting, m, bits, sigma) for m in ("QAVAT", other))
                    row = {"network": setting.network, "bits": bits, "against": other, "sigma": sigma, "n_chips": len(ours)}
                    rows.append(row | _columns("gain", paired_difference(ours, theirs)))
    return pd.DataFrame(rows)


def accuracy_claims(table, profile: Profile) -> list[Claim]:
    """QAVAT beats each alternative at σ = claim_sigma, at bits fixed on the validation split."""
    claims = []
    for setting in profile.settings:
        point = f"{setting.network} {setting.claim_bits}, σ {profile.claim_sigma:g}, same chips"
        ours, *others = (
            accuracies(table, setting, method, setting.claim_bits, profile.claim_sigma) for method in ("QAVAT", *ALTERNATIVES)
        )
        for other, values in zip(ALTERNATIVES, others):
            statement = f"QAVAT is more accurate than {other} (points)"
            claims.append(Claim(statement, point, paired_difference(ours, values), 0.0, profile.claims_expected))
    return claims


def drop_claims(table, profile: Profile) -> list[Claim]:
    """Notebook 00: the variability-oblivious network loses accuracy on real chips, and QAVAT loses less."""
    setting, top = profile.settings[0], profile.claim_sigma
    lost = {
        method: accuracies(table, setting, method, setting.claim_bits, 0.0)[0]
        - accuracies(table, setting, method, setting.claim_bits, top)
        for method in ("QAT", "QAVAT")
    }
    point = f"{setting.network} {setting.claim_bits}, σ {top:g}"
    return [
        Claim("QAT loses accuracy between an ideal and a real chip (points)", point, mean(lost["QAT"])),
        Claim("QAVAT loses less than QAT (points)", point, paired_difference(lost["QAT"], lost["QAVAT"])),
    ]


def best_bits(setting: Setting, gain_table) -> str:
    """The bits with the larger worst-case gain of QAVAT: how `claim_bits` is chosen, on validation gains."""
    worst = gain_table[gain_table.network == setting.network].groupby("bits").gain.min()
    return str(worst.idxmax())


def with_bits(setting: Setting, bits: tuple[str, ...]) -> Setting:
    """The setting with other bits to try; its claim is measured at each of them."""
    return replace(setting, bits=bits)


def _columns(name: str, e: Estimate) -> dict:
    return {name: e.value, f"{name}_low": e.low, f"{name}_high": e.high}
