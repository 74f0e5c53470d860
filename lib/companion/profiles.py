"""Profiles: scale and nothing else.  The same code runs every profile; an operating point never depends on results.

`claim_bits` of a network is the bit width with the larger gain of QAVAT over its best alternative on the validation
split at σ = 0.5, among those listed in `bits`; `python -m benchmarks.choose_bits` repeats that choice, and
site/results.md gives its numbers.
"""

from dataclasses import replace
from pathlib import Path

from ..checks import InputError, one_of
from ..data import DATASETS, FOLDER, Augment
from ..networks import NETWORKS
from ..training import Recipe
from .published import PROTOCOLS, Selection
from .scale import AXIS, CLAIM_SHARE, FIXED_SIGMA, MIXED_SIGMA, SHARES, Profile, Setting

__all__ = ["AXIS", "CLAIM_SHARE", "FIXED_SIGMA", "MIXED_SIGMA", "PROFILES", "SHARES", "Profile", "Setting", "profile"]

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
# chosen on validation images and chips of seed 0 (benchmarks/colour.md): float 40 or 80 epochs, methods 8 or 12 from
# there, lr 0.1
_CROPS = Augment(crop=4, flip=True)
_LONG = Recipe(epochs=80, batch_size=256, lr=0.2, warmup=0.1, augment=_CROPS)
_TUNING = Recipe(epochs=12, batch_size=256, lr=0.1, warmup=0.1, augment=_CROPS)
_FROZEN_COLOUR = Recipe(epochs=6, batch_size=256, lr=0.1, warmup=0.1, clip=1.0, augment=_CROPS)
_COLOUR_VGG = Setting(
    "cifar10",
    "vgg11",
    0.25,
    train_images=None,
    start=_LONG,
    recipe=_TUNING,
    mixed=(("proportional", replace(_FROZEN_COLOUR, lr=0.03)), ("layer-fixed", _FROZEN_COLOUR)),
    bits=("A4W2",),
    claim_bits="A4W2",
    trained_sigmas=(0.5,),
    claim_chips=100,
    chips=24,
    many_chips=100,
    slice_images=64,
    axis=AXIS[::2],
    beside=False,
)
_COLOUR_RESNET = replace(
    _COLOUR_VGG,
    dataset="cifar100",
    network="resnet18",
    start=replace(_LONG, epochs=40),
    recipe=replace(_TUNING, epochs=8),
    mixed=(("proportional", _FROZEN_COLOUR), ("layer-fixed", _FROZEN_COLOUR)),
    claim_chips=80,
)
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
            "colour",
            (_COLOUR_VGG, _COLOUR_RESNET),
            shares=(("proportional", (0.0, 0.25, 0.5, 1.0)), ("layer-fixed", (0.0, 0.01, 0.1, 0.5))),
            cell_counts=(16, 256, 1024, 4096),
            column_counts=(1, 4),
            alphas=(0.0, 0.03, 0.1, 1.0),
            converter_bits=(6, 8),
            fixed_images=250,
            seeds=(0, 1, 2),
            notebooks=("03", "04", "05", "06", "07", "09"),
        ),
        Profile(
            "published",
            (),
            notebooks=("07",),
            published=(
                Selection("LeNet-5", 1.0),
                Selection("VGG-11", 0.25, "A8W4", ("QAT",), seeds=1, shorter=3, chips=100),
                Selection("VGG-11", 0.25, "A8W4", ("QAVAT",), (0.3, 0.5), seeds=1, shorter=3, chips=100),
            ),
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
                Selection("LeNet-5", 1.0),
                *(Selection("VGG-11", w) for w in (0.25, 1.0, 2.0)),
                *(Selection("ResNet-18", w) for w in (0.25, 1.0)),
            ),
            published_chips=1000,
            seeds=(0, 1, 2),
        ),
    )
}


def profile(name: str, networks: str | None = None, seeds: str | None = None, datasets: str | None = None) -> Profile:
    """The profile of that name, reduced to some `networks` ("lenet5,vgg11") and training `seeds` ("0,1"), with other
    images in place of its own ("cifar100=imagefolder:PATH", several apart by ";"), if named.

    Raises InputError for an unknown profile or network, a seed or dataset that the profile does not have, or images of
    an unknown kind."""
    found = PROFILES[one_of("profile", name, PROFILES)]
    if datasets:
        found = _with_images(found, datasets)
    if seeds:
        known = {str(seed): seed for seed in found.seeds}
        wanted = [one_of("seed of this profile", part.strip(), known) for part in seeds.split(",")]
        found = replace(found, seeds=tuple(known[part] for part in dict.fromkeys(wanted)))
    if networks:
        names = [one_of("network", part.strip(), NETWORKS) for part in networks.split(",")]
        found = replace(
            found,
            settings=tuple(s for s in found.settings if s.network in names),
            published=tuple(rows for rows in found.published if PROTOCOLS[rows.network].network in names),
        )
    return found


def _with_images(found: Profile, datasets: str) -> Profile:
    """Other images in place of a profile's own."""
    repeated = [rows.dataset for rows in found.published]
    own, given = list(dict.fromkeys([*(s.dataset for s in found.settings), *repeated])), {}
    for part in datasets.split(";"):
        dataset, _, images = part.strip().partition("=")
        one_of("dataset of this profile", dataset, own)
        if images.startswith(FOLDER):
            path = Path(images.removeprefix(FOLDER)).absolute()  # a kernel runs in another folder
            if not path.is_dir():
                raise InputError(
                    f"--dataset {part}: {path} is no folder; it needs PATH/train/CLASS/*, PATH/test/CLASS/*"
                )
            images = f"{FOLDER}{path}"
        else:
            one_of("images", images, [*DATASETS, f"{FOLDER}PATH"])
        given[dataset] = images
    settings = tuple(replace(s, dataset=given.get(s.dataset, s.dataset)) for s in found.settings)
    return replace(found, settings=settings, in_place_of=tuple(given.items()), claims_expected=False)
