"""What a profile is made of: the scale of a run, its operating points, and the settings of each network."""

from dataclasses import dataclass
from pathlib import Path

from ..checks import InputError
from ..data import ROOT
from ..quantizers import Bits
from ..selftuning import SelfTuning
from ..training import Recipe
from .published import Selection

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
    beside: whether notebook 03 has float-VAT and a finer search of PTQ-VAT's steps beside the methods.
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
    beside: bool = True

    @property
    def sigma(self) -> dict[str, float]:
        """Total σ of the mixed patterns, law by law, at the claim's weight bits."""
        return {"proportional": MIXED_SIGMA, "layer-fixed": FIXED_SIGMA[Bits.parse(self.claim_bits).weights]}


@dataclass(frozen=True)
class Profile:
    """settings: the networks of the results; the first is also that of the introductory notebooks.

    notebooks: those it is made for, None for all.  in_place_of: (dataset, the images that stand for it), if any do.
    published: the rows of data/reported.csv that are repeated on the published protocol, on published_chips.
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
    array_cells: tuple[int, ...] = (4, 16, 64)
    converter_bits: tuple[int, ...] = (4, 6, 8)
    purpose: str = "test"
    skip_images: int = 0
    test_images: int | None = None
    fixed_images: int | None = None
    notebooks: tuple[str, ...] | None = None
    in_place_of: tuple[tuple[str, str], ...] = ()
    published: tuple[Selection, ...] = ()
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
