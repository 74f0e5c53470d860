"""One function a result: profile → the measurements it needs.

Noisy methods are trained at the smallest listed σ at or above the tested one (in `quick` at one or two σ).
"""

from __future__ import annotations

from dataclasses import replace

from ..analog import crossbars
from ..controls import NoisyBatchNorm, OutputGain, PerChipBatchNorm, StaticFold
from ..conversion import to_analog
from ..experiments.timing import shape
from ..networks import build
from ..selftuning import Gain, Oracle, ReferenceCells, ReferenceColumns, SelfTuning
from ..trials import NOISY, QUANTIZED, Measurement, Trial
from ..variation import CELLS, Variation
from .profiles import CLAIM_SHARE, Profile, Setting
from .published import VARIED, reported
from .published import variants as varied_trainings


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


def start_here(profile: Profile, seed: int = 0) -> list[Measurement]:
    """Notebook 00: the first network, QAT and QAVAT, on ideal chips and at the claim's σ."""
    setting = profile.settings[0]
    top = profile.claim_sigma
    return [
        _measured(profile, setting, trial(setting, method, setting.claim_bits, training(setting, top), seed), sigma)
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
    """Notebook 02: one QAT network at total σ = 0.3, both laws, within only and half between; and every distribution
    of cells at σ = 0.3 and 0.5."""
    setting = profile.settings[0]
    net = trial(setting, "QAT", setting.claim_bits, seed=seed)
    variations = [Variation.split(sigma, share, law) for law, sigma in setting.sigma.items() for share in (0.0, CLAIM_SHARE)]
    variations += [Variation(top, cells=cells) for top in (0.3, 0.5) for cells in CELLS]
    n = setting.claim_chips
    return [Measurement(net, v, n, profile.test_images) for v in variations] + [_measured(profile, setting, net, 0.0)]


def accuracy_vs_sigma(profile: Profile, seed: int = 0) -> list[Measurement]:
    """Notebook 03: every method of every setting against σ, within-chip proportional variation."""
    wanted = []
    for setting in profile.settings:
        wanted.append(_measured(profile, setting, trial(setting, "float", seed=seed), 0.0))
        for sigma in profile.sigmas:
            trained = training(setting, sigma)
            upper = trial(setting, "float-VAT", None, trained, seed)
            wanted.append(_measured(profile, setting, upper, sigma))
            for bits in setting.bits:
                for method in QUANTIZED:
                    wanted.append(_measured(profile, setting, trial(setting, method, bits, trained, seed), sigma))
    return wanted


def validation(profile: Profile, setting: Setting, bits: tuple[str, ...], chips: int = 50, seed: int = 0) -> list[Measurement]:
    """How claim_bits is chosen: every quantized method at the claim's σ, on validation images and validation chips."""
    sigma = profile.claim_sigma
    trials = [trial(setting, m, b, training(setting, sigma), seed) for b in bits for m in QUANTIZED]
    return [Measurement(t, Variation(sigma), chips, profile.test_images, purpose="validation") for t in trials]


def _measured(profile: Profile, setting: Setting, t: Trial, sigma: float) -> Measurement:
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


def within_and_between(profile: Profile, seed: int = 0) -> list[Measurement]:
    """Notebook 04: the three networks against the between share; on whole test sets where quantile and yield are asked
    for; attribution of the loss, as a whole and one part of the network at a time."""
    wanted = []
    for setting in profile.settings:
        full, sweep = _full(profile, setting), _sweep(profile, setting)
        wanted.append(_measured(profile, setting, trial(setting, "float", seed=seed), 0.0))
        for law, shares in profile.shares:
            sigma, nets = setting.sigma[law], networks(setting, law, seed)
            mixed = Variation.split(sigma, CLAIM_SHARE, law)
            parts = [Variation(), Variation(mixed.within, law=law), Variation(between=mixed.between, law=law), mixed]
            for name, net in nets.items():
                wanted.append(_measured(profile, setting, net, 0.0))
                wanted += [sweep(net, Variation.split(sigma, share, law)) for share in shares]
                wanted.append(full(net, mixed))
                if name != "QAVAT mixed":
                    wanted.append(full(net, Variation(sigma, law=law)))
                    wanted += [sweep(net, v) for v in parts]
            for layers in parts_of(setting).values():
                wanted += [sweep(nets["QAVAT"], replace(v, layers=layers)) for v in parts[1:3]]
        stressed = networks(setting, "proportional", seed, profile.claim_sigma)
        wanted += [sweep(stressed[m], Variation.split(profile.claim_sigma, share)) for m in ("QAT", "QAVAT") for share in (0.0, CLAIM_SHARE)]
    return wanted


def self_tuning(profile: Profile, seed: int = 0) -> list[Measurement]:
    """Notebook 05: the same chips untuned, tuned, and with every control; both laws, QAT and QAVAT; stress and floor."""
    wanted = []
    for setting in profile.settings:
        full, sweep = _full(profile, setting), _sweep(profile, setting)
        wanted.append(_measured(profile, setting, trial(setting, "float", seed=seed), 0.0))
        for law, shares in profile.shares:
            sigma, nets = setting.sigma[law], networks(setting, law, seed)
            mixed, tuned = Variation.split(sigma, CLAIM_SHARE, law), tuning(profile, law)
            for name in ("QAT", "QAVAT"):
                wanted.append(_measured(profile, setting, nets[name], 0.0))
                wanted += [full(nets[name], mixed, t) for t in (None, SelfTuning(Oracle()), tuned)]
                wanted += [sweep(nets[name], mixed, t) for t in controls(profile, setting, name, mixed)]
                wanted.append(sweep(nets[name], Variation(mixed.within, law=law)))  # what tuning can aim at
            for share in shares:
                wanted += [sweep(nets["QAVAT"], Variation.split(sigma, share, law), t) for t in (None, tuned)]
        stress = Variation.split(profile.claim_sigma, CLAIM_SHARE)
        net, n = networks(setting, "proportional", seed, profile.claim_sigma)["QAVAT"], dict(profile.cells)["proportional"]
        floors = [SelfTuning(ReferenceCells(n), None if f == Gain.floor else Gain(f)) for f in FLOORS]
        wanted += [sweep(net, stress, t) for t in (None, SelfTuning(Oracle()), *floors)]
        wanted.append(sweep(net, Variation(stress.within)))
    return wanted


def tuning_cost(profile: Profile, seed: int = 0) -> list[Measurement]:
    """Notebook 06: QAVAT tuned by n cells, by m columns, and by readings with noise or few levels."""
    wanted = []
    for setting in profile.settings:
        sweep = _sweep(profile, setting)
        for law, _ in profile.shares:
            net, mixed = networks(setting, law, seed)["QAVAT"], Variation.split(setting.sigma[law], CLAIM_SHARE, law)
            n = dict(profile.cells)[law]
            estimators = [Oracle(), *map(ReferenceCells, sorted({n, *profile.cell_counts})), *map(ReferenceColumns, profile.column_counts)]
            estimators += [ReferenceCells(n, read_noise=r) for r in READ_NOISES] + [ReferenceCells(n, step=s) for s in READ_STEPS]
            wanted += [sweep(net, mixed), *(sweep(net, mixed, SelfTuning(e)) for e in estimators)]
    return wanted


FLOORS = (0.1, Gain.floor, 0.5)
READ_NOISES, READ_STEPS = (0.01, 0.03, 0.1), (0.05, 0.2, 0.5)  # of the reading, in units of e


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


def parts_of(setting: Setting) -> dict[str, tuple[str, ...]]:
    """Part ("conv 1", "block 3", …) → names of its crossbars: every layer, or residual block, in forward order."""
    of = shape(setting.dataset)
    net = to_analog(build(setting.network, of.channels, of.classes, of.size, 1 / 64))
    kinds = {"AnalogConv2d": "conv", "AnalogLinear": "fc", "BasicBlock": "block"}
    parts: dict[str, tuple[str, ...]] = {}
    for name, child in net.named_children():
        layers = tuple(f"{name}.{inner}" if inner else name for inner, _ in crossbars(child))
        if layers:
            kind = kinds[type(child).__name__]
            parts[f"{kind} {1 + sum(part.startswith(kind) for part in parts)}"] = layers
    return parts


def published(profile: Profile, seed: int = 0) -> list[Measurement]:
    """Notebook 07: every published accuracy of the profile's sizes, on the published protocol; none in `quick`."""
    rows = [row for row in reported() if (row.network, row.width) in profile.published and row.repeatable]
    return [row.measurement(profile.published_chips, seed) for row in rows]


def variants(profile: Profile) -> dict[str, Measurement]:
    """Notebook 07: the row whose training is varied, one change at a time, where the profile repeats it."""
    if (VARIED[0], 1.0) not in profile.published:
        return {}
    return {name: Measurement(trial, Variation(VARIED[2]), 100) for name, trial in varied_trainings().items()}


def paper_versus_ours(profile: Profile, seed: int = 0) -> list[Measurement]:
    return published(profile, seed) + list(variants(profile).values())


def _full(profile: Profile, setting: Setting):
    """Claims, quantiles and yields: the claim's number of chips, all test images."""
    return lambda net, variation, tuning=None: Measurement(net, variation, setting.claim_chips, profile.test_images, None, tuning)


def _sweep(profile: Profile, setting: Setting):
    """Means: fewer chips, each on a slice of the images."""
    return lambda net, variation, tuning=None: Measurement(
        net, variation, setting.chips, profile.test_images, setting.sweep_images, tuning
    )


ALL = {
    "00": start_here, "01": quantizers, "02": chips, "03": accuracy_vs_sigma,
    "04": within_and_between, "05": self_tuning, "06": tuning_cost, "07": paper_versus_ours,
}  # fmt: skip


def every_measurement(profile: Profile, notebooks, seed: int = 0) -> list[Measurement]:
    """The union of the studies behind some notebooks ("00", …)."""
    return [m for name in notebooks if name in ALL for m in ALL[name](profile, seed)]


def cases(profile: Profile) -> list[tuple[str, str]]:
    """(network, bits) of every panel."""
    return [(setting.network, bits) for setting in profile.settings for bits in setting.bits]
