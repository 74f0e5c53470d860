"""Claims on made-up chips whose answers are known: signs, references, which chips are compared, at which point."""

import math
from dataclasses import dataclass, replace

import numpy as np
import pandas as pd
import pytest

from lib import Chip, Counts, SelfTuning
from lib.companion import accuracy_vs_sigma, cases, cost_of_self_tuning, self_tuning, within_and_between_chips
from lib.companion.claims import apart, contrast, difference, measured, over_seeds, per_chip, scaled, where
from lib.companion.profiles import profile
from lib.estimators import ReadOnce
from lib.evaluation import places
from lib.statistics import Estimate, mean

SMOKE = profile("smoke")
MANY = replace(SMOKE, settings=tuple(replace(s, claim_chips=80, many_chips=80) for s in SMOKE.settings), seeds=(0,))
IDEAL = {"float": 95, "QAT": 92, "QAVAT": 90, "QAVAT mixed": 88}


def made_up(measurements, accuracy, of=MANY):
    """The table of a study: chip i of a case has accuracy(names) − i mod 5 (%)."""
    wanted, found = [case for seed in of.seeds for case in measurements(of, seed)], {}
    for case in wanted:
        chips = np.arange(case.measurement.chips)
        names = {"of": "", "net": "", "seed": case.measurement.trial.seed} | case.names
        right = accuracy(names) - chips % 5 * (names["of"] != "ideal")
        lot = places(chips, case.measurement.variation, "test")
        found[case.measurement] = Counts(chips, np.full(len(chips), 100), right, lot)
    return cases.tidy(wanted, found)


def mixed_pattern(names):
    """QAT loses 40 points times ρ, QAVAT half of that, QAVAT mixed 5."""
    if names["of"] == "ideal":
        return IDEAL[names["net"]]
    if names["net"] == "QAVAT mixed":
        return 85
    return 90 - round((40 if names["net"] == "QAT" else 20) * names.get("share", 0))


def tuned(names):
    """Untuned 60, oracle 85, self-tuned 80; QAT 2 less."""
    if names["of"] == "ideal":
        return IDEAL[names["net"]]
    levels = {"untuned": 60, "oracle": 85}
    return levels.get(names.get("tuned by"), 80) - 2 * (names["net"] == "QAT")


@pytest.fixture(scope="module")
def mixed():
    return made_up(within_and_between_chips.measurements, mixed_pattern)


def test_the_mixed_pattern_costs_what_each_chip_loses(mixed):
    claims = within_and_between_chips.mixed_claims(mixed, MANY)
    costs = {("QAVAT" if " QAVAT," in c.point else "QAT"): c.estimate for c in claims}
    for name, cost in (("QAT", 20), ("QAVAT", 10)):
        e = costs[name]
        assert (e.value, e.low, e.high) == pytest.approx((cost, cost, cost)) and e.n == 80
    assert len(claims) == 8
    assert all("ρ 0.5" in c.point for c in claims)


def test_the_loss_of_training_alone_is_that_of_the_better_training_against_qat(mixed):
    claims = within_and_between_chips.training_claims(mixed)
    gains, losses = ([c for c in claims if c.statement.startswith(kind)] for kind in ("gain", "loss"))
    assert len(gains) == len(losses) == 4
    assert all(c.estimate.value == pytest.approx(5) for c in gains)  # 85 of QAVAT mixed, 80 of QAVAT
    assert all(c.estimate.value == pytest.approx(92 - 83, abs=0.2) and "QAVAT mixed" in c.point for c in losses)


def test_every_chip_has_its_own_shared_deviation(mixed):
    table = within_and_between_chips.distribution_table(mixed.sample(frac=1, random_state=0), MANY)
    bench = cases.benches(MANY)[0]
    rows = where(table, network=bench.setting.network, law=bench.law, net="QAVAT", share=0.5)
    assert len(rows) == 80
    for row in rows.itertuples():
        assert row.e_between == pytest.approx(bench.pattern(0.5).shared(Chip.of("test", row.chip)))


def test_tuned_losses_are_against_qat_on_an_ideal_chip():
    table = made_up(self_tuning.measurements, tuned)
    found = self_tuning.tuned_table(table)
    loss = where(found, net="QAVAT").groupby("tuned by").loss.first()
    expected = {"untuned": 92 - 58, "oracle": 92 - 83, "reference cells": 92 - 78}
    assert loss.to_dict() == pytest.approx(expected, abs=0.2)  # a lot weighs its chips
    assert found[found["tuned by"] == "reference cells"].recovery.to_numpy() == pytest.approx(0.8)
    losses = [c.estimate.value for c in self_tuning.loss_claims(found, MANY) if " QAVAT," in c.point]
    assert losses == pytest.approx([14] * 4, abs=0.2)
    assert [c.estimate.value for c in self_tuning.training_claims(table)] == pytest.approx([2] * 4)


def test_comparisons_do_not_depend_on_the_order_of_rows(mixed):
    shuffled = mixed.sample(frac=1, random_state=1)
    ours, theirs = (within_and_between_chips.mixed_claims(t, MANY) for t in (mixed, shuffled))
    assert sorted(c.estimate.value for c in ours) == sorted(c.estimate.value for c in theirs)
    assert all(c.estimate.low == pytest.approx(c.estimate.high) for c in theirs)


def test_different_chips_are_no_pairs(mixed):
    some = per_chip(mixed, of="chips", net="QAVAT", share=0.5, network="lenet5", law="proportional")
    assert difference(some, some).value == 0
    for other in (some[1:], some.rename(index=lambda i: i + 1), pd.concat([some, some])):
        with pytest.raises(ValueError, match="needs the same chips, each once"):
            contrast((1, some), (-1, other))


def test_two_intervals_are_apart_by_their_nearer_ends():
    assert apart(Estimate(5, 4, 7, 9), Estimate(1, 0, 2, 9)) == Estimate(4, 2, 7, 9)
    assert scaled(Estimate(3, 2, 5, 9), -1, 10) == Estimate(7, 5, 8, 9)


def test_equal_cases_count_once(mixed):
    twice = made_up(lambda *at: within_and_between_chips.measurements(*at) * 2, mixed_pattern)
    assert len(twice) == len(mixed)
    assert profile("published", seeds="0,0").seeds == (0,)


def test_operating_points():
    setting, bench = profile("quick").settings[0], cases.benches(profile("quick"))[0]
    assert [cases.training(setting, sigma).within for sigma in (0.1, 0.3, 0.4, 0.5, 0.6)] == [0.3, 0.3, 0.5, 0.5, 0.5]
    assert bench.parts["within"].within == pytest.approx(0.3 / 2**0.5) == bench.parts["between"].between
    found = [c for c in accuracy_vs_sigma.measurements(SMOKE) if c.names["of"] == "mean"]
    wanted = {(c.names["bits"], c.names["sigma"]): c.measurement.chips for c in found}
    assert wanted["A4W2", 0.5] == 3 and wanted["A4W4", 0.5] == 2 and wanted["A4W2", 0.0] == 1


@dataclass(frozen=True)
class Half(ReadOnce):
    label = "half"

    def estimate(self, chip, variation):
        return variation.shared(chip) / 2


def test_another_self_tuning_appears_under_its_own_name():
    mine = replace(MANY, tuning=SelfTuning(Half()))
    found = self_tuning.tuned_table(made_up(self_tuning.measurements, tuned, mine))
    assert set(found["tuned by"]) == {"untuned", "half", "oracle"}


@pytest.mark.parametrize(
    "estimate, text",
    [
        ((1.234, 0.5, 2.0), "1.23 [0.50, 2.00] points"),
        ((0.0, -0.001, 3.7), "0.00 [0.00, 3.70] points"),
        ((88.5, 88.5, 88.5), "88.50 points"),
        ((1.2e-7, 1.2e-7, 1.2e-7), "1.2e-07 points"),
        ((0.0, 0.0, 0.0), "0.00 points"),
        ((5.0, math.nan, math.nan), "5.00 [–, –] points"),
        ((math.nan, math.nan, math.nan), "not defined"),
    ],
)
def test_an_estimate_is_shown_with_its_interval_where_it_has_one(estimate, text):
    assert measured(*estimate, "points") == text


@pytest.mark.parametrize("chips_sd", [1, 20])
def test_a_difference_of_methods_is_covered_over_three_seeds(chips_sd):
    """A seed effect of 5 points on each method, and chips that differ little or much."""
    rng, hits = np.random.default_rng(0), []
    for _ in range(2000):
        own = 3 + rng.normal(0, 5, 3) - rng.normal(0, 5, 3)
        e = over_seeds({seed: mean(rng.normal(d, chips_sd, 40)) for seed, d in enumerate(own)})
        hits.append(e.low <= 3 <= e.high)
    assert np.mean(hits) >= 0.93


def test_a_statement_on_several_seeds_is_one_over_seeds():
    """QAT loses 20 points with seed 0 and 26 with seed 1: mean 23, Student's t interval of two values."""

    def with_luck(names):
        unlucky = names["net"] == "QAT" and names.get("share", 0) and names["seed"]
        return mixed_pattern(names) - 6 * bool(unlucky)

    table = made_up(within_and_between_chips.measurements, with_luck, replace(MANY, seeds=(0, 1)))
    claims = within_and_between_chips.mixed_claims(table, MANY)
    (qat,) = {c.estimate for c in claims if " QAT," in c.point}
    assert (qat.value, qat.n) == (23, 2) and qat.high - 23 == pytest.approx(12.7062 * 3, rel=1e-4)
    one = next(c for c in claims if " QAT," in c.point)
    assert one.of == "seeds" and one.in_seeds == 2 and [e.value for _, e in one.each] == [20, 26]
    assert one.verdict == "undecided"  # though it holds in each of two seeds
    (qavat,) = {c.estimate for c in claims if " QAVAT," in c.point}
    assert qavat == Estimate(10, 10, 10, 2)
    shares = within_and_between_chips.yield_table(table)
    assert where(shares, net="QAT", share=0.5).each.map(lambda each: sorted(each["yield"]) == [0, 1]).all()


@pytest.mark.parametrize("study", [within_and_between_chips, self_tuning, cost_of_self_tuning, accuracy_vs_sigma])
def test_every_table_bears_several_seeds(study):
    """Each group has as many estimates as there are seeds, and the first seed alone gives its own."""
    two, one = replace(MANY, seeds=(0, 1)), replace(MANY, seeds=(0,))
    tables = {of: made_up(study.measurements, lambda names: 80 - names["seed"], of) for of in (one, two)}
    made = {
        within_and_between_chips: [study_table("share_table"), study_table("attribution"), study_table("yield_table")],
        self_tuning: [study_table("tuned_table"), study_table("control_table"), study_table("tuned_share_table")],
        cost_of_self_tuning: [lambda study, table: study.reading_table(table, two)],
        accuracy_vs_sigma: [study_table("summary"), study_table("gains")],
    }
    for make in made[study]:
        alone, both = (make(study, tables[of]) for of in (one, two))
        assert len(alone) == len(both)
        for a, b in zip(alone.each, both.each):
            assert all(list(found) == [0, 1] and repr(found[0]) == repr(a[name][0]) for name, found in b.items())


def study_table(name):
    return lambda study, table: getattr(study, name)(table)
