"""One law's view of measured cells: g, nested analysis of variance, likelihood, fit.  `fitting` has the formulas."""

from __future__ import annotations

import math

import numpy as np

from .cells import Cells
from .statistics import LEVEL, Estimate, mean

EXACT = 1e-9  # deviations below are rounding
TOLD = 0.2  # least spread of target/σ, over its mean, from which a slope tells g


class Model:
    """The cells that tell something of e under a law, in groups 0 … A − 1 of chips 0 … k − 1, with their g and e.

    A group is an array where arrays were noted and some chip has two, else a chip.  factor: g, None to estimate it.
    curve: coefficients of the measured law."""

    def __init__(self, cells: Cells, law: str, factor: float | None, curve: tuple[float, ...] = (1.0,)):
        keep = (cells.target != 0) | (law != "proportional")
        chip = np.unique(cells.chips[keep], return_inverse=True)[1]
        groups = chip if cells.arrays is None else np.unique(cells.arrays[keep], return_inverse=True)[1]
        if len(np.unique(groups)) == len(np.unique(chip)):
            groups = chip  # an array a chip tells no σ_A
        _, first, self.group, self.n = np.unique(groups, return_index=True, return_inverse=True, return_counts=True)
        self.parent = chip[first]  # of each group, its chip
        self.arrays = np.bincount(self.parent)  # groups a chip, (k,)
        self.nested = len(self.arrays) < len(self.n)
        informative = Cells(chip, cells.target[keep], cells.measured[keep])
        self.law, self.target, self.measured = law, informative.target, informative.measured
        self.scale = informative.scale(law, curve)
        self.per = self.scale if law == "measured" else 1.0  # cells of a larger σ tell less of the slope
        x = self.centred(self.target / self.per)
        least = TOLD * np.abs(self.target / self.per).mean() if law == "measured" else 0.0
        varies = np.abs(x).max() > EXACT * np.abs(self.target / self.per).max() and x.std() >= least
        self.has_slope = law != "proportional" and varies
        self.x = x * self.has_slope
        self.direction = self.x / (math.sqrt(self.x @ self.x) or 1.0)  # of the slope among the cells
        self.found = self.slope() if self.has_slope else self.ratio()
        self.g = self.found if factor is None else Estimate(float(factor), float(factor), float(factor), 0)
        self.slope_free = self.has_slope and factor is None
        self.e = informative.deviations(law, self.g.value or math.nan, curve)
        self.means, self.rest = self.of_groups(self.e), self.centred(self.e)
        self.nu = len(self.e) - len(self.n) - self.slope_free
        self.ms_w = float(self.rest @ self.rest) / self.nu

    def of_groups(self, values: np.ndarray) -> np.ndarray:
        """Mean of each group's cells, (A,)."""
        return np.bincount(self.group, values) / self.n

    def of_chips(self, means: np.ndarray) -> np.ndarray:
        """Mean of each chip's groups, (k,)."""
        return np.bincount(self.parent, means) / self.arrays

    def centred(self, values: np.ndarray) -> np.ndarray:
        return values - self.of_groups(values)[self.group]

    def spread(self, means: np.ndarray) -> tuple[float, int]:
        """Variance of the groups' means, and its degrees of freedom: within chips where they are arrays, else over
        chips; NaN for a single group."""
        off = means - (self.of_chips(means)[self.parent] if self.nested else means.mean())
        free = len(means) - (len(self.arrays) if self.nested else 1)
        return (float(off @ off) / free if free else math.nan), free

    def ratio(self) -> Estimate:
        """g from chip means of measured/target; from cells, if there is one chip."""
        informative = self.target != 0
        a = self.measured[informative] / self.target[informative]
        chip = np.unique(self.parent[self.group][informative], return_inverse=True)[1]
        means = np.bincount(chip, a) / np.bincount(chip)
        return mean(means if len(means) > 1 else a)

    def slope(self) -> Estimate:
        """g from the regression within groups."""
        from scipy.stats import t

        sxx, nu = self.x @ self.x, len(self.x) - len(self.n) - 1
        g = float(self.x @ (self.measured / self.per) / sxx)
        rest = self.centred((self.measured - g * self.target) / self.per)
        half = float(t.ppf((1 + LEVEL) / 2, nu) * math.sqrt(rest @ rest / nu / sxx))
        return Estimate(g, g - half, g + half, len(self.x))

    def within(self) -> Estimate:
        from scipy.stats import chi2

        low, high = (math.sqrt(self.ms_w * self.nu / chi2.ppf(q, self.nu)) for q in ((1 + LEVEL) / 2, (1 - LEVEL) / 2))
        return self.over_g(Estimate(math.sqrt(self.ms_w), low, high, len(self.e)))

    def shared(self) -> Estimate:
        """What the cells of a group have in common: σ_A where groups are arrays, else σ_B."""
        variance, free = self.spread(self.means)
        within = 1 - 1 / self.arrays[self.parent] if self.nested else np.full(len(self.n), 1 - 1 / len(self.n))
        q = float((within / self.n).sum()) / max(free, 1)  # mean of 1/n
        if self.slope_free:
            q += self.spread(self.of_groups(self.target / self.per))[0] / (self.x @ self.x)
        return self.over_g(between_groups(variance, free, q, self.ms_w, self.nu, len(self.n)))

    def array(self) -> Estimate:
        """σ_A; NaN where no chip has two arrays."""
        return self.shared() if self.nested else Estimate(math.nan, math.nan, math.nan, len(self.n))

    def between(self) -> Estimate:
        """σ_B; NaN for a single chip."""
        if not self.nested:
            return self.shared()
        chips, (inner, nu) = self.of_chips(self.means), self.spread(self.means)
        variance = float(chips.var(ddof=1)) if len(chips) > 1 else math.nan
        q = float((1 / self.arrays).mean())
        return self.over_g(between_groups(variance, len(chips) - 1, q, inner, nu, len(chips)))

    def over_g(self, s: Estimate) -> Estimate:
        """s/ĝ (s divided already).  MOVER: log θ̂ ∓ √((log ŝ − log its end)² + (log ĝ − log its far end)²)."""

        def end(sign: int, of_s: float, of_g: float) -> float:
            if min(s.value, of_s, of_g) > 0:
                return s.value * math.exp(sign * math.hypot(math.log(of_s / s.value), math.log(of_g / self.g.value)))
            return math.inf if of_g <= 0 else of_s  # of_s: the limit of the above for ŝ → 0; and 0 stays 0

        return Estimate(s.value, end(-1, s.low, self.g.high), end(1, s.high, self.g.low), s.n)

    def offset(self) -> Estimate | None:
        """μ = mean measured/(ĝ·max|target|) − mean target/max|target|, over chips."""
        if self.law == "proportional" or (self.g is self.found and not self.has_slope):
            return None
        levels = self.of_groups(self.measured / self.scale)
        mu, level = mean(self.of_chips(self.means)), self.of_chips(levels).mean() / self.g.value
        half = math.hypot(mu.high - mu.value, level * (self.g.high - self.g.low) / 2 / self.g.value)
        return Estimate(mu.value, mu.value - half, mu.value + half, mu.n)

    def log_likelihood(self) -> float:
        """log p(measured) at these estimates, and g·scale of e as Jacobian; −∞ unless g is above 0.

        A chip's group means are normal with the covariance D + σ_B²·11ᵀ, D = diag(σ_A² + σ_W²/n), whose determinant
        is Π D·(1 + σ_B²·Σ 1/D); no array: D = diag(σ_B² + σ_W²/n) alone."""
        if not self.g.value > 0:
            return -math.inf
        w2 = max(self.ms_w, EXACT**2)
        d = np.nan_to_num(self.shared().value) ** 2 + w2 / self.n
        chip = np.nan_to_num(self.between().value) ** 2 if self.nested else 0.0
        off = self.means - self.of_chips(self.means).mean()
        common = 1 + chip * np.bincount(self.parent, 1 / d)
        square = self.rest @ self.rest / w2 + off**2 @ (1 / d)
        square -= (chip * np.bincount(self.parent, off / d) ** 2 / common).sum()
        logdet = ((self.n - 1) * math.log(w2) + np.log(self.n * d)).sum() + np.log(common).sum()
        jacobian = np.log(np.abs(self.g.value * self.scale)).sum()
        return float(-0.5 * (square + logdet + len(self.e) * math.log(2 * math.pi)) - jacobian)

    def goodness(self) -> float:
        """The smaller of the p-values that exist, times their number (Bonferroni)."""
        if np.abs(self.rest).max() < EXACT:
            return math.nan
        found = [p for p in (self.means_alike(), self.spread_alike()) if not math.isnan(p)]
        return min(1.0, len(found) * min(found)) if found else math.nan

    def straight(self) -> np.ndarray:
        """e within chips, less its slope."""
        return self.rest - (self.direction @ self.rest) * self.direction

    def means_alike(self) -> float:
        """p of F = ((Σr² − Σq²)/more)/(Σq²/ν); r: e within chips without its slope, q: without a mean a target too."""
        from scipy.stats import f

        r, group = self.straight(), groups_of(self.target, 16)
        members = [self.centred((group == i).astype(float)) for i in np.unique(group)]
        columns = np.column_stack([self.direction, *members])
        coefficients, _, rank, _ = np.linalg.lstsq(columns, self.rest, rcond=1e-9)
        q, more, nu = self.rest - columns @ coefficients, rank - self.has_slope, len(self.e) - len(self.n) - rank
        if more < 1 or nu < 1:
            return math.nan
        return float(f.sf((r @ r - q @ q) / more / max(q @ q / nu, EXACT**2), more, nu))

    def spread_alike(self) -> float:
        """p of Brown and Forsythe's test on r/√(1 − leverage): a residual is smaller near the few cells of its chip."""
        from scipy.stats import levene

        free, size = 1 - 1 / self.n[self.group] - self.direction**2, groups_of(np.abs(self.target))
        r = self.straight() / np.sqrt(np.maximum(free, EXACT))
        groups = [r[(size == i) & (free > EXACT)] for i in np.unique(size)]
        groups = [group for group in groups if len(group) > 2]  # two lie equally far from their median
        return float(levene(*groups, center="median").pvalue) if len(groups) > 1 else math.nan


def between_groups(variance: float, free: int, q: float, inner: float, nu: int, n: int) -> Estimate:
    """σ = √(V − q·I) for the variance V (free degrees) of n group means, each of which holds q·I of the mean square I
    (nu degrees) inside the groups.  NaN for one group.

    Ends by Williams: free·(V − F_p·q·I)/χ²_p at the upper and the lower quantile p."""
    from scipy.stats import chi2, f

    if free == 0:
        return Estimate(math.nan, math.nan, math.nan, n)
    tails = (1 + LEVEL) / 2, (1 - LEVEL) / 2
    ends = (free * (variance - f.ppf(p, free, nu) * q * inner) / chi2.ppf(p, free) for p in tails)
    value, low, high = (math.sqrt(max(0.0, v)) for v in (variance - q * inner, *ends))
    return Estimate(value, low, high, n)


def groups_of(values: np.ndarray, most: int = 8) -> np.ndarray:
    """Group number of each value: one a level, or quantile groups where there are more levels than `most`."""
    lowest = np.unique(values)
    if len(lowest) > most:
        lowest = np.unique(np.quantile(values, np.linspace(0, 1, most, endpoint=False), method="inverted_cdf"))
    return np.searchsorted(lowest, values, side="right") - 1
