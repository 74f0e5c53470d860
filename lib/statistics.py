"""From per-chip values to statements: mean, 5% quantile, yield and paired difference, each with its interval; of chips
that are independent (`lots` has those of chips that share something).

Pure functions of arrays.  Intervals are meant to cover at 95% (`LEVEL`); the tests check each by simulation at n = 100,
with a heavy lower tail among the populations.  With one chip in six far below, that of a mean covers 88% at n = 20, 92%
at 40.  Intervals over chips speak of these checkpoints, not of a training method.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from .checks import InputError, real

Values = Sequence[float] | np.ndarray
LEVEL = 0.95


@dataclass(frozen=True)
class Estimate:
    """A number, its 95% interval [low, high], and the number n of observations (chips, where not said) behind it."""

    value: float
    low: float
    high: float
    n: int

    def __str__(self) -> str:
        return f"{self.value:.3g} [{self.low:.3g}, {self.high:.3g}], n = {self.n}"


def mean(values: Values) -> Estimate:
    """Mean and Student's t interval: x̄ ± t(n−1)·s/√n.  One value alone has no interval (NaN).

    A heavy lower tail (one chip in six far below) brings its coverage at n = 100 down to about 91%."""
    x = values_of(values)
    n, centre = len(x), float(np.mean(x))
    if n == 1:
        return Estimate(centre, math.nan, math.nan, 1)
    from scipy.stats import t

    half = float(t.ppf((1 + LEVEL) / 2, n - 1)) * float(np.std(x, ddof=1)) / math.sqrt(n)
    return Estimate(centre, centre - half, centre + half, n)


def chips_for(known: Estimate, half_width: float) -> int:
    """Chips in all for a mean known to ± half_width (in its unit), from that of those measured, h₀ half its interval:

    n = max(n₀, ⌈n₀·(h₀/h)²⌉)      first stage of Stein's procedure (Annals of Mathematical Statistics 16, 1945)"""
    target = real("half_width", half_width, 1e-9)
    return max(known.n, math.ceil(known.n * ((known.high - known.low) / 2 / target) ** 2))


def bootstrap_mean(values: Values, resamples: int = 9999, seed: int = 0) -> Estimate:
    """Mean and bootstrap-t interval, which follows the skew of a heavy lower tail (Efron and Tibshirani, *An
    Introduction to the Bootstrap*, 1993, section 12.5):

    [x̄ − q₊·s/√n, x̄ − q₋·s/√n]        q: 97.5% and 2.5% quantiles of (x̄* − x̄)/(s*/√n) over resamples

    With one chip in six far below, it covers 96% at n = 100 where t and BCa cover 91%.  Below 10 values: `mean`."""
    x = values_of(values)
    n, whole = len(x), mean(x)
    if n < 10 or np.ptp(x) == 0:
        return whole
    drawn = x[np.random.default_rng(seed).integers(0, n, (resamples, n))]
    spread = drawn.std(axis=1, ddof=1)
    some = spread > 1e-9 * np.ptp(x)  # a resample of equal values tells nothing of its error
    t = (drawn.mean(axis=1) - whole.value)[some] / spread[some]
    low, high = whole.value - float(x.std(ddof=1)) * np.quantile(t, [(1 + LEVEL) / 2, (1 - LEVEL) / 2])
    return Estimate(whole.value, float(low), float(high), n)


def paired_difference(a: Values, b: Values) -> Estimate:
    """Mean of a − b over the same chips, t interval.  Raises ValueError where the two do not pair up."""
    x, y = values_of(a), values_of(b)
    if x.shape != y.shape:
        raise InputError(f"paired values need the same chips, got {len(x)} and {len(y)}")
    return mean(x - y)


def difference_of_means(a: Values, b: Values) -> Estimate:
    """Mean of a minus mean of b, of different chips, Welch's t interval; NaN where one side has fewer than 2 values."""
    n = min(len(a), len(b))
    if n < 2:
        return Estimate(math.nan, math.nan, math.nan, n)
    x, y = values_of(a), values_of(b)
    d = float(x.mean() - y.mean())
    from scipy.stats import ttest_ind

    interval = ttest_ind(x, y, equal_var=False).confidence_interval(LEVEL)
    return Estimate(d, float(interval.low), float(interval.high), n)


def quantile(values: Values, q: float = 0.05) -> Estimate:
    """The q quantile (linear interpolation) and its order-statistic interval: the tightest pair of ranks whose
    binomial probability of enclosing it is ≥ 95% with ≤ 2.5% a side; NaN where n is too small for a bound."""
    from scipy.stats import binom

    x = np.sort(values_of(values))
    n, q = len(x), real("q", q, 0, 1)
    lower = int(binom.ppf((1 - LEVEL) / 2, n, q))  # P(N < lower) ≤ 2.5%, N = how many lie at or below the quantile
    upper = int(binom.ppf((1 + LEVEL) / 2, n, q)) + 1  # P(N ≥ upper) ≤ 2.5%
    low = float(x[lower - 1]) if lower >= 1 else math.nan
    high = float(x[upper - 1]) if upper <= n else math.nan
    return Estimate(float(np.quantile(x, q)), low, high, n)


def proportion(successes: int, n: int) -> Estimate:
    """successes/n and Wilson's score interval."""
    from scipy.stats import binomtest

    if n < 1 or not 0 <= successes <= n:
        raise InputError(f"a proportion needs 0 ≤ successes ≤ n and n ≥ 1, got {successes} of {n}")
    interval = binomtest(int(successes), int(n)).proportion_ci(LEVEL, method="wilson")
    return Estimate(successes / n, float(interval.low), float(interval.high), int(n))


def difference_of_proportions(a: Estimate, b: Estimate) -> Estimate:
    """a − b of two `proportion`s and Newcombe's interval (method 10: Wilson limits combined); for two networks on the
    same images it is conservative, as it does not use the pairing."""
    d = a.value - b.value
    low = d - math.hypot(a.value - a.low, b.high - b.value)
    return Estimate(d, low, d + math.hypot(a.high - a.value, b.value - b.low), min(a.n, b.n))


def chip_yield(values: Values, threshold: float) -> Estimate:
    """Share of chips at or above `threshold` (same unit as values), Wilson interval."""
    x = values_of(values)
    return proportion(int((x >= real("threshold", threshold)).sum()), len(x))


@dataclass(frozen=True)
class Claim:
    """A statement at an operating point fixed beforehand: a value in its own unit, and between what it must lie.

    expected: the run fails unless it holds.  of: what the estimate's n counts.  each: (training seed, its own
    estimate)."""

    statement: str
    point: str
    estimate: Estimate
    above: float = -math.inf
    below: float = math.inf
    unit: str = "points"
    expected: bool = False
    of: str = "chips"
    each: tuple[tuple[int, Estimate], ...] = ()

    @property
    def in_seeds(self) -> int:
        """In how many seeds the interval over chips alone meets the requirement."""
        return sum(e.low > self.above and e.high < self.below for _, e in self.each)

    @property
    def requirement(self) -> str:
        if self.below == math.inf:
            return f"> {self.above:g}"
        return f"< {self.below:g}" if self.above == -math.inf else f"{self.above:g} to {self.below:g}"

    @property
    def verdict(self) -> str:
        """holds: the whole interval meets the requirement; the opposite holds: all of it misses it.  Else a bound lies
        within the interval: undecided where the value meets the requirement, does not hold where it misses it."""
        e = self.estimate
        if math.isnan(e.low) or math.isnan(e.high):
            return "undecided"
        if e.low > self.above and e.high < self.below:
            return "holds"
        if e.high <= self.above or e.low >= self.below:
            return "the opposite holds"
        return "undecided" if self.above < e.value < self.below else "does not hold"


def variance_components(values: np.ndarray) -> tuple[float, float]:
    """(σ_W, σ_B) of measured deviations (chips, cells) by a one-way analysis of variance:
    σ_W² = MS_within, σ_B² = (MS_between − MS_within)/cells, floored at 0."""
    x = np.asarray(values, float)
    if x.ndim != 2 or min(x.shape) < 2:
        raise InputError(f"variance components need ≥ 2 chips × ≥ 2 cells, got an array of shape {x.shape}")
    within = float(x.var(axis=1, ddof=1).mean())
    between = float(x.mean(axis=1).var(ddof=1)) - within / x.shape[1]
    return math.sqrt(within), math.sqrt(max(0.0, between))


def values_of(values: Values) -> np.ndarray:
    x = np.asarray(values, float)
    if x.ndim != 1 or len(x) == 0 or not np.isfinite(x).all():
        raise InputError(f"statistics need a list of ≥ 1 finite numbers, got shape {x.shape}")
    return x
