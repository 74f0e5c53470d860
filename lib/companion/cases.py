"""Setting → named trials and measurements.  What more than one notebook measures.

Noisy methods are trained at the smallest listed σ at or above the tested one (in `quick` at one or two σ).
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace

import pandas as pd

from ..checks import InputError
from ..columns import ReferenceColumns
from ..controls import OutputGain, PerChipBatchNorm, StaticFold
from ..estimators import ReadOnce, ReferenceCells
from ..evaluation import Counts
from ..networks import NAMES
from ..selftuning import SelfTuning
from ..trials import NOISY, QUANTIZED, Measurement, Phase, Trial
from ..variation import NO_VARIATION, Variation
from .profiles import CLAIM_SHARE, Profile, Setting

NETS = ("QAT", "QAVAT", "QAVAT mixed")
# PCM programming noise: standard deviation in µS over the target conductance g/g_max, g_max = 25 µS.
# Source: aihwkit, src/aihwkit/inference/noise/pcm.py, PCMLikeNoiseModel (Nandakumar et al., ICECS 2019).
PCM_COEFFICIENTS, PCM_G_MAX = (0.26348, 1.9650, -1.1731), 25.0
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
    recipe = setting.start if method == "float" else setting.recipe
    trial = Trial(
        setting.dataset,
        setting.network,
        method,
        recipe=recipe,
        bits=bits if method in QUANTIZED else None,
        variation=variation if method in NOISY else NO_VARIATION,
        start=None if method == "float" else setting.start,
        width=setting.width,
        train_images=setting.train_images,
        seed=seed,
    )
    return replace(trial, **changes)


def mixed_trial(setting: Setting, sigma: float, law: str = "proportional", seed: int = 0) -> Trial:
    """QAVAT mixed: first on the within part at the total σ, then on the mixed pattern with batch norm frozen; as many
    epochs in all as the others."""
    within, both = Variation(sigma, law=law), Variation.split(sigma, CLAIM_SHARE, law)
    second, whole = dict(setting.mixed)[law], setting.recipe
    epochs = whole.epochs - second.epochs
    period = max(1, whole.period * epochs // whole.epochs)  # as far down its schedule as the others
    first = Phase(replace(whole, epochs=epochs, period=period), within)
    return trial(setting, "QAVAT", setting.claim_bits, both, seed, recipe=second, first=first)


def training(setting: Setting, tested: float) -> Variation:
    """Within-chip, proportional: the smallest σ of training at or above the tested one, else the largest."""
    above = [s for s in setting.trained_sigmas if s >= tested]
    return Variation(min(above) if above else max(setting.trained_sigmas))


def averaged(profile: Profile, setting: Setting, t: Trial, v: Variation, chips: int, tuning=None) -> Measurement:
    """For a mean: every chip sees a slice of its own of the whole set."""
    seen = {"images": profile.test_images, "images_per_chip": setting.slice_images, "skip": profile.skip_images}
    return Measurement(t, v, chips, tuning=tuning, purpose=profile.purpose, **seen)


def fixed(profile: Profile, setting: Setting, t: Trial, v: Variation, tuning=None) -> Measurement:
    """For quantile and yield: every chip sees the same images, and they speak of these."""
    seen = {"images": profile.fixed_images, "skip": profile.skip_images, "purpose": profile.purpose}
    return Measurement(t, v, setting.many_chips if v.total else 1, tuning=tuning, **seen)


def within(profile: Profile, setting: Setting, t: Trial, sigma: float, tuning=None, /, **names) -> Case:
    """A mean at a within-chip σ: many chips at the claim's point, else the setting's number; without
    variation one chip on the whole set."""
    claimed = sigma == profile.claim_sigma and t.bits == setting.claim_bits
    chips = max(setting.claim_chips, setting.many_chips) if claimed else setting.chips
    about = {"network": setting.network, "bits": t.bits or "float", "method": t.method, "sigma": sigma, "of": "mean"}
    m = averaged(profile, setting, t, Variation(sigma), chips, tuning)
    return Case(m if sigma else replace(m, chips=1, images_per_chip=None), about | names)


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
            "QAVAT mixed": mixed_trial(self.setting, self.sigma, self.law, self.seed),
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

    def pattern(self, share: float = CLAIM_SHARE, sigma: float | None = None) -> Variation:
        return Variation.split(self.sigma if sigma is None else sigma, share, self.law)

    @property
    def axis(self) -> list[float]:
        """The total σ of the one axis: multiples of the law's own."""
        return [round(self.sigma * factor, 4) for factor in self.setting.axis]

    @property
    def parts(self) -> dict[str, Variation]:
        """The mixed pattern and its components, each alone."""
        v = self.pattern()
        return {
            "within": Variation(v.within, law=self.law),
            "between": Variation(between=v.between, law=self.law),
            "both": v,
        }

    def claimed(self, net: str, v: Variation, tuning=None, /, **names) -> Case:
        """A mean of a claim."""
        return self._case(net, v, tuning, names, self._averaged(net, v, self.setting.claim_chips, tuning))

    def sweep(self, net: str, v: Variation, tuning=None, /, **names) -> Case:
        """A mean over fewer chips, the first of a claim's."""
        return self._case(net, v, tuning, names, self._averaged(net, v, self.setting.chips, tuning))

    def fixed(self, net: str, v: Variation, tuning=None, /, **names) -> Case:
        """Quantile and yield."""
        return self._case(net, v, tuning, names, fixed(self.profile, self.setting, self.networks[net], v, tuning))

    def ideal(self, net: str) -> Case:
        """Without variation, on the images that the chips of a claim see."""
        return self.claimed(net, NO_VARIATION, of="ideal")

    def _averaged(self, net: str, v: Variation, chips: int, tuning) -> Measurement:
        return averaged(self.profile, self.setting, self.networks[net], v, chips, tuning)

    def _case(self, net: str, v: Variation, tuning, names: Mapping, measurement: Measurement) -> Case:
        about = {"network": self.setting.network, "law": self.law, "net": net}
        about |= {"tuning": tuning.label if tuning else "none", "point": operating_point(self.setting, net, v)}
        return Case(measurement, about | names)


def benches(profile: Profile, seed: int = 0) -> list[Bench]:
    """Every setting under both laws, at the σ of the mixed patterns."""
    return [Bench(profile, s, law, s.sigma[law], seed) for s in profile.settings for law, _ in profile.shares]


def controls(bench: Bench) -> list:
    """What a chip of notebook 05 may try in place of self-tuning."""
    batch, tried = bench.setting.recipe.batch_size, [OutputGain()]
    if bench.law == "layer-fixed" and isinstance(bench.tuning.estimator, ReadOnce):  # what reads on cannot fold
        tried.append(StaticFold(bench.tuning.estimator))
    return [*tried, PerChipBatchNorm(4 * batch, batch), PerChipBatchNorm(batch, batch)]


def operating_point(setting: Setting, net: str, variation: Variation) -> str:
    """The operating point of a claim in words."""
    share = f", ρ {variation.between_share:.3g}" if variation.between or variation.array else ""
    what = f"{NAMES[setting.network]} {setting.claim_bits} {net}, {variation.law}"
    return f"{what} σ {variation.total:.3g}{share}, same chips"
