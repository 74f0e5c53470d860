"""One function a result: profile → the measurements it needs.

Noisy methods are trained at the smallest listed σ at or above the tested one (in `quick` at one or two σ).
"""

from __future__ import annotations

from .profiles import Profile, Setting
from .trials import NOISY, QUANTIZED, Measurement, Trial
from .variation import Variation


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


def accuracy_vs_sigma(profile: Profile, seed: int = 0) -> list[Measurement]:
    """Notebook 03: every method of every setting against σ, within-chip proportional variation."""
    wanted = []
    for setting in profile.settings:
        wanted.append(_measured(profile, setting, trial(setting, "float", seed=seed), 0.0))
        for sigma in profile.sigmas:
            trained = trained_sigma(setting, sigma)
            upper = trial(setting, "float-VAT", None, trained, seed)
            wanted.append(_measured(profile, setting, upper, sigma))
            for bits in setting.bits:
                for method in QUANTIZED:
                    wanted.append(_measured(profile, setting, trial(setting, method, bits, trained, seed), sigma))
    return wanted


def validation(profile: Profile, setting: Setting, bits: tuple[str, ...], chips: int = 50, seed: int = 0) -> list[Measurement]:
    """How claim_bits is chosen: every quantized method at the claim's σ, on validation images and validation chips."""
    sigma = profile.claim_sigma
    trials = [trial(setting, m, b, trained_sigma(setting, sigma), seed) for b in bits for m in QUANTIZED]
    return [Measurement(t, Variation(sigma), chips, profile.test_images, "validation") for t in trials]


def _measured(profile: Profile, setting: Setting, t: Trial, sigma: float) -> Measurement:
    """One chip without variation, the claim's number at the claim's point, the setting's number elsewhere."""
    claimed = sigma == profile.claim_sigma and t.bits == setting.claim_bits
    n = 1 if sigma == 0 else setting.claim_chips if claimed else setting.chips
    return Measurement(t, Variation(sigma), n, profile.test_images)


ALL = {"00": start_here, "01": quantizers, "02": chips, "03": accuracy_vs_sigma}


def every_measurement(profile: Profile, notebooks, seed: int = 0) -> list[Measurement]:
    """The union of the studies behind some notebooks ("00", …)."""
    return [m for name in notebooks if name in ALL for m in ALL[name](profile, seed)]


def cases(profile: Profile) -> list[tuple[str, str]]:
    """(network, bits) of every panel."""
    return [(setting.network, bits) for setting in profile.settings for bits in setting.bits]
