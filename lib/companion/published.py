"""The published accuracies of data/reported.csv, and the training and measurement that repeats each.

Protocol of [code 2021]: `legacy` quantizers, random start, its schedules, crops with black borders, rotations to the
nearest pixel, final-epoch weights, moving BN averages, one network per σ (QAT: one for all), 1,000 chips on the whole
test set.  Ours differs in:

- a twelfth of the training images is held out (validation split);
- normalization by this training set's own moments; the standard deviations published for CIFAR-10 are 0.20, where
  those of its pixels are 0.25;
- images are flipped before they are cropped, not after, which has the same distribution;
- classifiers of VGG-11 and ResNet-18 with a digital bias;
- BN statistics of PTQ-VAT: theirs are moving averages over one epoch of augmented images in training mode; ours are
  plain averages over one pass of images as they are.  The quantizers' running maxima move along in both;
- VGG-11 A5W5: its figures are of 7 May 2021, when the scale of weights was a running maximum and weights were not
  rounded to the nearest level; repeated here with the line search that took its place;
- VGG-11 in profile `published`: a third of its epochs and of its period, one seed, 100 chips;
- chips, minibatches and initial weights from other random numbers.
"""

import csv
from dataclasses import dataclass, replace

from ..data import ROOT, Augment
from ..quantizers import Bits
from ..training import Recipe
from ..trials import METHODS, Measurement, Trial
from ..variation import Variation

REPORTED = ROOT / "data" / "reported.csv"
ACCURACY = "accuracy (%)"
_PLAIN: dict = {"weight_decay": 0.0, "schedule": "step", "bn_draws": 0}
_CIFAR10, _CIFAR100 = Augment(crop=4, flip=True), Augment(crop=4, flip=True, rotate=15)


@dataclass(frozen=True)
class Protocol:
    """How the published networks of one kind were trained."""

    network: str
    dataset: str
    recipe: Recipe
    quantizers: str


PROTOCOLS = {
    "LeNet-5": Protocol(
        "lenet5-classic",
        "mnist",
        Recipe(epochs=91, optimizer="adam", lr=1e-3, period=30, decay=0.1, **_PLAIN),
        "legacy-channels",
    ),
    "VGG-11": Protocol(
        "vgg11",
        "cifar10",
        Recipe(epochs=181, optimizer="adam", lr=1e-3, period=60, decay=0.1, augment=_CIFAR10, **_PLAIN),
        "legacy",
    ),
    "ResNet-18": Protocol(
        "resnet18", "cifar100", Recipe(epochs=241, lr=0.1, period=60, decay=0.2, augment=_CIFAR100, **_PLAIN), "legacy"
    ),
}


@dataclass(frozen=True)
class Reported:
    """One published accuracy: mean and 5% quantile in % over `chips` simulated chips."""

    network: str
    width: float
    dataset: str
    bits: str
    method: str
    sigma: float
    mean: float
    q05: float
    chips: int
    source: str

    @property
    def repeatable(self) -> bool:
        """Whether `method` is one of ours; PTQ without BN re-estimation is not."""
        return self.method in METHODS

    def trial(self, seed: int = 0, shorter: int = 1) -> Trial:
        """The training that the row speaks of, in the `shorter`-th part of its schedule; QAT is one network for every
        σ."""
        how, noisy = PROTOCOLS[self.network], self.method != "QAT"
        recipe = how.recipe
        if shorter > 1:
            recipe = replace(recipe, epochs=recipe.epochs // shorter, period=recipe.period // shorter)
        return Trial(
            how.dataset, how.network, self.method, recipe, str(Bits.parse(self.bits)),
            Variation(self.sigma if noisy else 0.0), width=self.width, seed=seed, quantizers=how.quantizers,
        )  # fmt: skip

    def measurement(self, chips: int, seed: int = 0, shorter: int = 1) -> Measurement:
        return Measurement(self.trial(seed, shorter), Variation(self.sigma), chips)


@dataclass(frozen=True)
class Selection:
    """Some rows of one network, to be repeated.  bits, methods, sigmas: None for all.  seeds: of a profile's, the first
    so many, None for all.  shorter: the part of the published schedule, 3 for a third of it.  chips: if not the
    profile's."""

    network: str
    width: float
    bits: str | None = None
    methods: tuple[str, ...] | None = None
    sigmas: tuple[float, ...] | None = None
    seeds: int | None = None
    shorter: int = 1
    chips: int | None = None

    @property
    def dataset(self) -> str:
        return PROTOCOLS[self.network].dataset

    def holds(self, row: Reported) -> bool:
        asked = ((self.bits and (self.bits,), row.bits), (self.methods, row.method), (self.sigmas, row.sigma))
        same = (self.network, self.width) == (row.network, row.width)
        return same and row.repeatable and all(wanted is None or value in wanted for wanted, value in asked)


# whose training is repeated with the recipe of `colour`
AGAIN = Selection("VGG-11", 0.25, "A8W4", ("QAT", "QAVAT"), (0.5,))


def reported() -> list[Reported]:
    """Every published accuracy, in the order of the file."""
    kinds = {"width": float, "sigma": float, "mean": float, "q05": float, "chips": int}
    return [
        Reported(**{name: kinds.get(name, str)(row[name]) for name in Reported.__dataclass_fields__})
        for row in _rows()
        if row["quantity"] == ACCURACY
    ]


VARIED = ("LeNet-5", "QAVAT", 0.4)  # network, method, σ of the row whose training is varied
UNCHANGED = "unchanged"


def variants(seed: int = 0) -> dict[str, Trial]:
    """What the known differences from the published protocol do: the training of one row on a third of its schedule,
    unchanged and with one thing changed."""
    trial = next(row for row in reported() if (row.network, row.method, row.sigma) == VARIED).trial(seed)
    trial = replace(trial, recipe=replace(trial.recipe, epochs=31, period=10))
    return {
        UNCHANGED: trial,
        "a twelfth fewer images": replace(trial, train_images=50_416),
        "binary scale of the layer": replace(trial, quantizers="legacy"),
        "our quantizers": replace(trial, quantizers="learned"),
    }


def abstract() -> dict[str, float]:
    """The three numbers of the paper's abstract [paper]: what they are → points."""
    return {row["quantity"]: float(row["mean"]) for row in _rows() if row["quantity"] != ACCURACY}


def _rows() -> list[dict[str, str]]:
    with open(REPORTED, newline="", encoding="utf-8") as file:
        return list(csv.DictReader(file))
