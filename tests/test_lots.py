"""A lot of chips: its places, its weights, and intervals that cover on populations with heavy lower tails."""

import numpy as np
import pytest
from scipy.stats import norm

from lib import Chip
from lib.lots import lot_mean, lot_quantile, lot_ratio, lot_yield, shares
from lib.variation import golden

RUNS = 1000


def lenet(z, rng):
    """Good chips near 88 %, those of z_B below −1.2 collapse, one in twelve is unlucky besides."""
    noise = (1 + 3 * (z < -0.8)) * rng.normal(size=z.shape) - (rng.random(z.shape) < 1 / 12) * rng.exponential(
        6, z.shape
    )
    return 88 - 60 / (1 + np.exp(3 * (z + 1.2))) + noise


def resnet(z, rng):
    """Half of the chips collapse, and each has much of its own."""
    noise = (3 + 4 * (z < 0)) * rng.normal(size=z.shape) - (rng.random(z.shape) < 1 / 12) * rng.exponential(6, z.shape)
    return 82 - 70 / (1 + np.exp(2 * (z + 0.3))) + noise


POPULATIONS = [lenet, resnet]
EVERYBODY = norm.ppf((np.arange(200_000) + 0.5) / 200_000)


def lots(rng, n, runs=RUNS):
    for _ in range(runs):
        u = golden(int(rng.integers(2**63)) * 2 + 1, np.arange(n))
        yield u, norm.ppf(u)


def truth_of(population, statistic):
    return statistic(population(EVERYBODY, np.random.default_rng(0)))


def test_places_are_those_of_the_golden_ratio_and_more_keep_the_first():
    u = golden(12345, np.arange(1000))
    expected = (12345 / 2**64 + np.arange(1000) * (5**0.5 - 1) / 2) % 1
    assert np.allclose(u, expected, atol=1e-12) and (golden(12345, np.arange(10)) == u[:10]).all()
    assert u.min() > 0 and u.max() < 1
    far = golden(0, np.arange(1 << 20))[-1]  # exact where floating point would have lost ten bits
    assert far == (((1 << 20) - 1) * 0x9E3779B97F4A7C15 % 2**64 // 2**11 + 0.5) / 2**53


@pytest.mark.parametrize("n", [1, 2, 7, 100, 101])
def test_weights_part_the_interval(n):
    u = golden(2**63 + 1, np.arange(n))
    w = shares(u)
    assert w.sum() == pytest.approx(1) and (w > 0).all()
    grid = (np.arange(10_000) + 0.5) / 10_000
    nearest = np.abs(grid[:, None] - u).argmin(1)
    assert np.allclose(w, np.bincount(nearest, minlength=n) / 10_000, atol=2e-4)


def test_a_function_of_the_place_is_integrated_exactly_in_the_limit():
    u = golden(1, np.arange(2000))
    assert lot_mean(np.sin(u), u).value == pytest.approx(1 - np.cos(1), abs=1e-5)
    flat = lot_mean(np.full(50, 7.0), golden(1, np.arange(50)))
    assert (flat.low, flat.value, flat.high) == pytest.approx((7, 7, 7))


@pytest.mark.parametrize("n", [20, 40, 100, 200])
@pytest.mark.parametrize("population", POPULATIONS)
def test_means_and_paired_differences_are_covered(population, n):
    rng, truth = np.random.default_rng(n), truth_of(population, np.mean)
    gap = truth - truth_of(lenet, np.mean) + 3
    covered = np.zeros(2)
    for u, z in lots(rng, n):
        a, b = population(z, rng), lenet(z, rng) - 3
        for i, (values, true) in enumerate(((a, truth), (a - b, gap))):
            e = lot_mean(values, u)
            covered[i] += e.low <= true <= e.high
    assert (covered / RUNS >= 0.93).all(), covered / RUNS


@pytest.mark.parametrize("n", [20, 40, 100])
def test_ratios_are_covered(n):
    """What tuning recovers of what the oracle does: both gain where z_B is far from zero."""
    rng, hits = np.random.default_rng(n), 0
    oracle = 88 - lenet(EVERYBODY, np.random.default_rng(1))
    truth = 0.9  # the tuned gain is nine tenths of the oracle's on average
    for u, z in lots(rng, n):
        best = 88 - lenet(z, rng)
        e = lot_ratio(0.9 * best + rng.normal(0, 1, n), best, u)
        hits += e.low <= truth <= e.high
    assert oracle.mean() > 5 and hits / RUNS >= 0.93


@pytest.mark.parametrize("n", [100, 200])
@pytest.mark.parametrize("population", POPULATIONS)
def test_quantiles_and_yields_are_covered(population, n):
    rng = np.random.default_rng(n)
    low, good = truth_of(population, lambda a: np.quantile(a, 0.05)), truth_of(population, lambda a: np.mean(a >= 80))
    covered = np.zeros(2)
    for u, z in lots(rng, n):
        a = population(z, rng)
        for i, (e, true) in enumerate(((lot_quantile(a, u), low), (lot_yield(a, u, 80), good))):
            covered[i] += e.low <= true <= e.high
    assert (covered / RUNS >= 0.93).all(), covered / RUNS


@pytest.mark.parametrize(("population", "times"), [(lenet, 15), (resnet, 8)])
def test_a_lot_is_worth_many_times_its_number(population, times):
    rng = np.random.default_rng(0)
    spread = [lot_mean(population(z, rng), u).value for u, z in lots(rng, 100)]
    drawn = [population(rng.normal(size=100), rng).mean() for _ in range(RUNS)]
    assert np.var(drawn) > times * np.var(spread)


def test_equal_weights_would_not_do():
    """Gaps of three lengths: the plain mean of a lot is off by more than its weighted mean."""
    rng, plain, weighted = np.random.default_rng(0), [], []
    for u, z in lots(rng, 40):
        a = 88 - 60 / (1 + np.exp(3 * (z + 1.2)))  # without the chips' own part
        plain.append(a.mean())
        weighted.append(lot_mean(a, u).value)
    truth = (88 - 60 / (1 + np.exp(3 * (EVERYBODY + 1.2)))).mean()
    assert np.mean(np.square(np.array(plain) - truth)) > 3 * np.mean(np.square(np.array(weighted) - truth))


@pytest.mark.parametrize("purpose", ["test", "validation"])
def test_a_lot_in_which_every_chip_is_good_has_a_yield_of_one(purpose):
    """Weights sum to 1 but for the last digit."""
    u = np.array([Chip.of(purpose, i).place for i in range(200)])
    for n in range(1, 201):
        good, bad = (lot_yield(np.full(n, value), u[:n], 85) for value in (90.0, 80.0))
        assert good.value == pytest.approx(1) and good.value <= 1 == good.high and bad.value == bad.low == 0


def test_one_chip_has_no_interval_and_places_are_checked():
    assert np.isnan(lot_mean([80.0], [0.5]).low)
    for places in ([0.5], [0.5, 1.0], [0.0, 0.5]):
        with pytest.raises(ValueError, match="a lot needs a place between 0 and 1 for each value, got"):
            lot_mean([80.0, 81.0], places)
    assert np.isnan(lot_ratio([1.0, -1.0, 0.5], [1.0, -1.0, 0.5], [0.1, 0.4, 0.8]).value)
