"""Profiles: scale and nothing else.  The same code runs every profile; an operating point never depends on results.

`claim_bits` of a network is the bit width with the larger gain of QAVAT over its best alternative on the validation
split at σ = 0.5, among those listed in `bits`; `python -m benchmarks.choose_bits` repeats that choice, and the README
gives its numbers.
"""

from dataclasses import dataclass, replace
from pathlib import Path

from ..checks import InputError, one_of
from ..data import ROOT
from ..networks import NETWORKS
from ..quantizers import Bits
from ..selftuning import SelfTuning
from ..training import Recipe
from .published import PROTOCOLS

MIXED_SIGMA, CLAIM_SHARE = 0.3, 0.5
# weight bits → the layer-fixed σ that disturbs Gaussian weights as much as the proportional 0.3 (0.3·rms|q|/max|q|)
FIXED_SIGMA = {1: 0.30, 2: 0.23, 4: 0.12}
AXIS = (1 / 3, 2 / 3, 1, 4 / 3, 5 / 3)
SHARES = (
    ("proportional", (0.0, 0.1, 0.25, 0.5, 0.75, 1.0)),
    ("layer-fixed", (0.0, 0.001, 0.003, 0.01, 0.03, 0.1, 0.5, 1.0)),  # its shared part adds up coherently
)


@dataclass(frozen=True)
class Setting:
    """One network on one dataset: how it is trained, at which bits and σ, and on how many chips it is measured.

    trained_sigmas: the σ of the noisy methods in notebook 03.  Chips: of a claim's mean, of all other means, and of
    quantile, yield and claims on independent chips.  slice_images: what each chip sees of its own for a mean.  axis: σ
    of notebook 05's one axis, as multiples of the mixed pattern's.
    doubtful: alternatives over which QAVAT's gain is not expected, since its interval over seeds held zero in the
    rehearsal.
    mixed: the second phase of QAVAT mixed, law by law, part of the epochs of `recipe`; how it was chosen on the
    validation split, `python -m benchmarks.choose_mixed` repeats."""

    dataset: str
    network: str
    width: float
    train_images: int | None
    start: Recipe
    recipe: Recipe
    mixed: tuple[tuple[str, Recipe], ...]
    bits: tuple[str, ...]
    claim_bits: str
    trained_sigmas: tuple[float, ...]
    claim_chips: int
    chips: int
    many_chips: int
    slice_images: int
    axis: tuple[float, ...] = AXIS
    doubtful: tuple[str, ...] = ()

    @property
    def sigma(self) -> dict[str, float]:
        """Total σ of the mixed patterns, law by law, at the claim's weight bits."""
        return {"proportional": MIXED_SIGMA, "layer-fixed": FIXED_SIGMA[Bits.parse(self.claim_bits).weights]}


@dataclass(frozen=True)
class Profile:
    """settings: the networks of the results; the first is also that of the introductory notebooks.

    published: (network, width) of data/reported.csv that are repeated on the published protocol, on published_chips.
    purpose: "test", or "validation" for a rehearsal.  skip_images: of the set, left out: they were looked at while the
    method was made.  test_images: what slices for means are cut from, None for all others; fixed_images: what every
    chip sees for quantile and yield.  shares: the between shares ρ of a sweep, law by law.  cells: reference cells of
    the claims, law by law; tuning: another self-tuning in their place.  alphas, array_cells, converter_bits: the array
    shares, reference cells per array and converters of notebook 09."""

    name: str
    settings: tuple[Setting, ...]
    sigmas: tuple[float, ...] = (0.0, 0.1, 0.2, 0.3, 0.4, 0.5)
    claim_sigma: float = 0.5
    shares: tuple[tuple[str, tuple[float, ...]], ...] = SHARES
    cells: tuple[tuple[str, int], ...] = (("proportional", 256), ("layer-fixed", 1024))
    tuning: SelfTuning | None = None
    cell_counts: tuple[int, ...] = (1, 4, 16, 64, 256, 1024, 4096)
    column_counts: tuple[int, ...] = (1, 2, 4, 8)
    alphas: tuple[float, ...] = (0.0, 0.03, 0.1, 0.3, 1.0)
    array_cells: tuple[int, ...] = (1, 4, 16, 64)
    converter_bits: tuple[int, ...] = (4, 6, 8)
    purpose: str = "test"
    skip_images: int = 0
    test_images: int | None = None
    fixed_images: int | None = None
    published: tuple[tuple[str, float], ...] = ()
    published_chips: int = 0
    seeds: tuple[int, ...] = (0,)
    claims_expected: bool = False

    def __post_init__(self):
        if not isinstance(self.tuning, SelfTuning | None):
            raise InputError(f"tuning must be a SelfTuning around an estimator, got {self.tuning!r:.80}")
        if self.tuned_by in ("untuned", "oracle"):
            raise InputError(
                f"a tuning of the label {self.tuned_by!r} is in the study already; give yours another label"
            )

    @property
    def tuned_by(self) -> str:
        """What the self-tuning of the claims is called in figures and tables."""
        return self.tuning.label if self.tuning else "reference cells"

    @property
    def figures(self) -> Path:
        """The folder of its last good figures; smoke and rehearsal never write figures/."""
        build = ROOT / "build" / self.name / "figures"
        return build if self.name in ("smoke", "rehearsal") else ROOT / "figures" / self.name


_SHORT = Recipe(epochs=4, lr=0.05, warmup=0.1)
_FROZEN = Recipe(epochs=2, lr=0.1, warmup=0.1, clip=1.0)
_MIXED = (("proportional", _FROZEN), ("layer-fixed", _FROZEN))
_LENET = Setting(
    "fashion-mnist",
    "lenet5",
    1.0,
    train_images=12_000,
    start=_SHORT,
    recipe=_SHORT,
    mixed=(("proportional", _FROZEN), ("layer-fixed", replace(_FROZEN, epochs=3, lr=0.2))),
    bits=("A4W2", "A4W4"),
    claim_bits="A4W2",
    trained_sigmas=(0.3, 0.5),
    claim_chips=200,
    chips=80,
    many_chips=100,
    slice_images=64,
)
_RESNET = replace(
    _LENET,
    network="resnet18",
    width=0.125,
    train_images=10_000,
    start=replace(_SHORT, epochs=3),
    recipe=replace(_SHORT, epochs=3),
    mixed=_MIXED,
    bits=("A4W2",),
    trained_sigmas=(0.5,),
    claim_chips=80,
    chips=40,
    axis=AXIS[::2],
    doubtful=("PTQ-VAT",),
)
_TINY = Recipe(epochs=2, batch_size=32, lr=0.05, bn_draws=2)
_ONE = replace(_TINY, epochs=1)
_FEW: dict = {
    "train_images": 64,
    "start": _TINY,
    "recipe": _TINY,
    "mixed": (("proportional", _ONE), ("layer-fixed", _ONE)),
    "claim_chips": 3,
    "chips": 2,
    "many_chips": 3,
    "slice_images": 12,
}
_OURS = {name: replace(how.recipe, bn_draws=200) for name, how in PROTOCOLS.items()}


def _second(recipe: Recipe, frozen: Recipe) -> Recipe:
    """Half of the epochs, with frozen batch norm, on the images that the first half sees."""
    alike = {"augment": recipe.augment, "weight_decay": recipe.weight_decay, "batch_size": recipe.batch_size}
    return replace(frozen, epochs=recipe.epochs // 2, **alike)


def _ours(network: str, name: str, width: float, bits: tuple[str, ...], chips: int) -> Setting:
    """A published size on its schedule, with our networks, quantizers, float start and BN re-estimation."""
    dataset, recipe = PROTOCOLS[name].dataset, _OURS[name]
    return Setting(
        dataset,
        network,
        width,
        train_images=None,
        start=recipe,
        recipe=recipe,
        mixed=tuple((law, _second(recipe, frozen)) for law, frozen in _MIXED),
        bits=bits,
        claim_bits=bits[-1],
        trained_sigmas=(0.1, 0.2, 0.3, 0.4, 0.5),
        claim_chips=chips,
        chips=max(100, chips // 10),
        many_chips=chips,
        slice_images=1000,
    )


PROFILES = {
    profile.name: profile
    for profile in (
        Profile(
            "smoke",
            (replace(_LENET, **_FEW), replace(_RESNET, width=1 / 32, **_FEW)),
            sigmas=(0.0, 0.3, 0.5),
            shares=(("proportional", (0.0, 0.5, 1.0)), ("layer-fixed", (0.0, 0.01, 0.5, 1.0))),
            cell_counts=(1, 64, 4096),
            column_counts=(1, 4),
            alphas=(0.0, 0.1),
            array_cells=(1, 16),
            converter_bits=(8,),
            seeds=(0, 1),
            test_images=50,
            fixed_images=25,
        ),
        Profile("rehearsal", (_LENET, _RESNET), purpose="validation", fixed_images=250, seeds=(0, 1, 2)),
        Profile("quick", (_LENET, _RESNET), skip_images=1000, fixed_images=250, seeds=(0, 1, 2), claims_expected=True),
        Profile(
            "reduced",
            (
                _ours("lenet5", "LeNet-5", 1.0, ("A4W2", "A4W4"), 300),
                _ours("vgg11", "VGG-11", 0.25, ("A8W2", "A8W4"), 300),
                _ours("resnet18", "ResNet-18", 0.25, ("A8W2", "A8W4"), 300),
            ),
            published=(("LeNet-5", 1.0), ("VGG-11", 0.25), ("ResNet-18", 0.25)),
            published_chips=300,
            seeds=(0, 1, 2),
        ),
        Profile(
            "paper",
            (
                _ours("lenet5", "LeNet-5", 1.0, ("A1W1", "A4W2", "A4W4"), 1000),
                _ours("vgg11", "VGG-11", 1.0, ("A8W1", "A8W2", "A8W4"), 1000),
                _ours("resnet18", "ResNet-18", 1.0, ("A8W1", "A8W2", "A8W4"), 1000),
            ),
            published=(
                ("LeNet-5", 1.0),
                *(("VGG-11", w) for w in (0.25, 1.0, 2.0)),
                *(("ResNet-18", w) for w in (0.25, 1.0)),
            ),
            published_chips=1000,
            seeds=(0, 1, 2),
        ),
    )
}


def profile(name: str, networks: str | None = None, seeds: str | None = None) -> Profile:
    """The profile of that name, reduced to some `networks` ("lenet5,vgg11") and training `seeds` ("0,1"), if named.

    Raises InputError for an unknown profile or network, or a seed that the profile does not have."""
    found = PROFILES[one_of("profile", name, PROFILES)]
    if seeds:
        known = {str(seed): seed for seed in found.seeds}
        wanted = [one_of("seed of this profile", part.strip(), known) for part in seeds.split(",")]
        found = replace(found, seeds=tuple(known[part] for part in dict.fromkeys(wanted)))
    if not networks:
        return found
    names = [one_of("network", part.strip(), NETWORKS) for part in networks.split(",")]
    return replace(
        found,
        settings=tuple(s for s in found.settings if s.network in names),
        published=tuple((kind, width) for kind, width in found.published if PROTOCOLS[kind].network in names),
    )
