"""As many chips as a mean needs: a number planned from a pilot, each chip on a random slice of the images.

A fixed protocol of 1000 chips × 10,000 images spends most of its images on knowing single chips well.  For the mean
over chips, a chip on m images adds the variance  σ_chip² + p(1 − p)/m,  and its cost grows with m: many chips on few
images each reach the same interval sooner.  5% quantile and yield need whole test sets: slices widen the distribution.
"""

from __future__ import annotations

import numpy as np
from torch import nn

from .checks import InputError, integer, real
from .classify import require_images
from .data import Images
from .evaluation import Counts, evaluate
from .statistics import Estimate, chips_for, mean
from .variation import NO_VARIATION, Variation

MAX_CHIPS = 100_000
STAGES = 2  # after the pilot


def evaluate_mean(
    net: nn.Module,
    images: Images,
    variation: Variation = NO_VARIATION,
    half_width: float = 0.5,
    *,
    pilot: int = 100,
    images_per_chip: int = 250,
    **options,
) -> tuple[Estimate, Counts]:
    """Mean accuracy (%) over chips with a 95% interval of about ± half_width points, and the counts behind it.

    Chips 0 … pilot − 1 tell the variance and so the number of chips; those correct it, once.  No more looks: stopping
    as soon as an interval seems short enough would cost coverage.
    A pilot of 50 with one chip in six far below covers 92%.  options go to `evaluate`.
    Raises InputError for a half-width that is not above 0, a pilot below 2 chips, or more than 100,000 chips."""
    require_images(images)
    real("half_width", half_width, 1e-9)
    integer("pilot", pilot, 2)
    slices = options | {"images_per_chip": min(images_per_chip, len(images))}
    counts = evaluate(net, images, variation, pilot, **slices)
    for _ in range(STAGES):
        # planned by the t interval: a bootstrap of few chips with a tail is far too wide
        n = chips_for(mean(counts.accuracy) if counts.places is None else counts.summary()["mean"], half_width)
        if n > MAX_CHIPS:
            taken = f"half_width {half_width:g} would take {n} chips"
            raise InputError(f"{taken}; allowed: at most {MAX_CHIPS}; ask for a wider interval")
        if n > len(counts.chips):
            counts = joined(counts, evaluate(net, images, variation, range(len(counts.chips), n), **slices))
    return counts.summary()["mean"], counts


def joined(a: Counts, b: Counts) -> Counts:
    """The counts of two groups of chips."""
    lots = [] if a.places is None or b.places is None else ["places"]
    names = ["chips", "images", "correct", *lots]
    return Counts(*(np.concatenate([getattr(a, name), getattr(b, name)]) for name in names))
