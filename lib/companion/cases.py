"""Setting → named trials and measurements.  What more than one notebook measures.

Noisy methods are trained at the smallest listed σ at or above the tested one (in `quick` at one or two σ).
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import pandas as pd

from ..checks import InputError
from ..controls import NoisyBatchNorm, OutputGain, PerChipBatchNorm, StaticFold
from ..estimators import ReadOnce, ReferenceCells, ReferenceColumns
from ..evaluation import Counts
from ..networks import NAMES
from ..selftuning import SelfTuning
from ..trials import NOISY, QUANTIZED, Measurement, Trial
from ..variation import NO_VARIATION, Variation
from .profiles import CLAIM_SHARE, Profile, Setting

NETS = ("QAT", "QAVAT", "QAVAT mixed")
COLUMNS = SelfTuning(ReferenceColumns(4))  # beside the reference cells


@dataclass(frozen=True)
class Case:
    """A measurement, and the names under which its notebook finds it again."""

    measurement: Measurement
    names: Mapping[str, object]


def tidy(cases: Sequence[Case], found: Mapping[Measurement, Counts]) -> pd.DataFrame:
    """A row per case and chip: the case's names, seed, chip, images, correct, accuracy (%); equal cases once.

    Raises InputError where two measurements have the same names: their chips would be taken for each other's."""
    named: dict[tuple, Case] = {}
    for case in cases:
        names = (*case.names.items(), ("seed", case.measurement.trial.seed))
        if named.setdefault(names, case).measurement != case.measurement:
            shown = ", ".join(f"{name}={value!r}" for name, value in names)
            raise InputError(f"2 results share the names {shown}; give the tunings labels that differ")
    frames = [found[case.measurement].to_frame().assign(**dict(names)) for names, case in named.items()]
    return pd.concat(frames, ignore_index=True) if frames else pd.DataFrame()


def trial(
    setting: Setting,
    method: str,
    bits: str | None = None,
    variation: Variation = NO_VARIATION,
    seed: int = 0,
    **changes,
) -> Trial:
    """A trial of a setting; the noisy methods are trained under `variation`."""
    return Trial(
        setting.dataset,
        setting.network,
        method,
        recipe=setting.start if method == "float" else setting.recipe,
        bits=bits if method in QUANTIZED else None,
        variation=variation if method in NOISY else NO_VARIATION,
        start=None if method == "float" else setting.start,
        width=setting.width,
        train_images=setting.train_images,
        seed=seed,
        **changes,
    )


def training(setting: Setting, tested: float) -> Variation:
    """Within-chip, proportional: the smallest σ of training at or above the tested one, else the largest."""
    above = [s for s in setting.trained_sigmas if s >= tested]
    return Variation(min(above) if above else max(setting.trained_sigmas))


def within(profile: Profile, setting: Setting, t: Trial, sigma: float, **names) -> Case:
    """At a within-chip σ: one chip without variation, the claim's number at the claim's point, else the setting's."""
    claimed = sigma == profile.claim_sigma and t.bits == setting.claim_bits
    n = 1 if sigma == 0 else setting.claim_chips if claimed else setting.chips
    about = {"network": setting.network, "bits": t.bits or "float", "method": t.method, "sigma": sigma}
    return Case(Measurement(t, Variation(sigma), n, profile.test_images), about | names)


@dataclass(frozen=True)
class Bench:
    """One setting under one law, as notebooks 04 to 06 measure it: three networks on the same chips.

    sigma: total σ of training and test."""

    profile: Profile
    setting: Setting
    law: str
    sigma: float
    seed: int = 0

    @property
    def networks(self) -> dict[str, Trial]:
        """QAT, QAVAT trained on the within part alone, QAVAT trained on the mixed pattern; and the float network."""
        bits, within = self.setting.claim_bits, Variation(self.sigma, law=self.law)
        return {
            "QAT": trial(self.setting, "QAT", bits, seed=self.seed),
            "QAVAT": trial(self.setting, "QAVAT", bits, within, self.seed),
            "QAVAT mixed": trial(self.setting, "QAVAT", bits, self.pattern(), self.seed),
            "float": trial(self.setting, "float", seed=self.seed),
        }

    @property
    def shares(self) -> tuple[float, ...]:
        return dict(self.profile.shares)[self.law]

    @property
    def tuning(self) -> SelfTuning:
        """The self-tuning of the claims: the profile's own, else as many reference cells as it says for the law."""
        if self.profile.tuning:
            return self.profile.tuning
        return SelfTuning(ReferenceCells(dict(self.profile.cells)[self.law]))

    def pattern(self, share: float = CLAIM_SHARE) -> Variation:
        return Variation.split(self.sigma, share, self.law)

    @property
    def parts(self) -> dict[str, Variation]:
        """The mixed pattern and its components, each alone; "ideal": neither."""
        v = self.pattern()
        return {
            "ideal": NO_VARIATION,
            "within": Variation(v.within, law=self.law),
            "between": Variation(between=v.between, law=self.law),
            "both": v,
        }

    def full(self, net: str, variation: Variation, tuning=None, /, **names) -> Case:
        """Claims, quantiles and yields: the claim's number of chips, all test images."""
        return self._case(net, variation, tuning, self.setting.claim_chips, None, names)

    def sweep(self, net: str, variation: Variation, tuning=None, /, **names) -> Case:
        """Means: fewer chips, each on a slice of the images."""
        return self._case(net, variation, tuning, self.setting.chips, self.setting.sweep_images, names)

    def ideal(self, net: str) -> Case:
        """Without variation, all test images."""
        return self._case(net, NO_VARIATION, None, 1, None, {"of": "ideal"})

    def _case(self, net: str, v: Variation, tuning, chips: int, images: int | None, names: Mapping) -> Case:
        about = {
            "network": self.setting.network,
            "law": self.law,
            "net": net,
            "tuning": tuning.label if tuning else "none",
        }
        about |= {"point": place(self.setting, net, v)} | names
        return Case(Measurement(self.networks[net], v, chips, self.profile.test_images, images, tuning), about)


def benches(profile: Profile, seed: int = 0) -> list[Bench]:
    """Every setting under both laws, at the σ of the mixed patterns."""
    return [Bench(profile, s, law, s.sigma[law], seed) for s in profile.settings for law, _ in profile.shares]


def controls(bench: Bench, method: str) -> list:
    """What a chip of notebook 05 may try in the place of self-tuning."""
    batch, variation = bench.setting.recipe.batch_size, bench.pattern()
    tried: list = [OutputGain()]
    if bench.law == "layer-fixed" and isinstance(bench.tuning.estimator, ReadOnce):  # what reads on cannot fold
        tried.append(StaticFold(bench.tuning.estimator))
    tried += [PerChipBatchNorm(8 * batch, batch), PerChipBatchNorm(batch, batch)]
    if method == "QAT":
        tried.append(NoisyBatchNorm(variation, bench.setting.recipe.bn_draws))
    return tried


def place(setting: Setting, net: str, variation: Variation) -> str:
    """The operating point of a claim in words."""
    share = f", ρ {variation.between_share:.3g}" if variation.between else ""
    what = f"{NAMES[setting.network]} {setting.claim_bits} {net}, {variation.law}"
    return f"{what} σ {variation.total:.3g}{share}, same chips"
