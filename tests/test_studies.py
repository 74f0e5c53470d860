"""What the studies ask for, and how a notebook finds it again."""

from dataclasses import replace

import numpy as np
import pandas as pd
import pytest

from benchmarks import choose_bits
from benchmarks.ship import left_out
from lib import Counts, ReferenceCells, SelfTuning, Variation, shipped
from lib.companion import cases, figures, studies, within_and_between_chips
from lib.companion.claims import estimate, exactly, per_chip, summary
from lib.companion.profiles import profile
from lib.experiments.engine import merged
from lib.statistics import Estimate


@pytest.mark.parametrize("name", ["smoke", "quick", "rehearsal"])
@pytest.mark.parametrize("number", studies.ALL)
def test_studies_name_every_measurement_once(name, number):
    wanted = merged(studies.every_measurement(profile(name), [number]))
    if number == "07":  # these profiles repeat no published figure
        return
    assert wanted and {m.purpose for m in wanted} == {"validation" if name == "rehearsal" else "test"}
    rows = pd.DataFrame([m.row() for m in wanted])
    assert not rows.duplicated().any(), rows[rows.duplicated(keep=False)]


@pytest.mark.parametrize("number", ["02", "03", "04", "05", "06"])
def test_quick_looks_at_no_image_that_was_looked_at_while_it_was_made(number):
    """Means speak of all the others, quantile and yield of a fixed set of them, on chips enough for a lower end."""
    quick = profile("quick")
    for m in (case.measurement for case in studies.ALL[number](quick)):
        assert m.skip == 1000
        if m.images_per_chip is None and m.variation.total:
            assert m.chips >= 72 and m.images == quick.fixed_images
        else:
            assert m.images in (None, quick.fixed_images)


def test_the_rehearsal_differs_from_quick_in_images_and_chips_alone():
    one, other = (studies.every_measurement(profile(name), studies.ALL) for name in ("quick", "rehearsal"))
    assert len(one) == len(other) and {m.trial for m in one} == {m.trial for m in other}
    assert [replace(m, purpose="validation", skip=0) for m in one] == other


def test_bits_are_chosen_on_validation_images_and_chips(monkeypatch, capsys):
    def collected(wanted):
        assert {m.purpose for m in wanted} == {"validation"}
        chips = np.arange(50)
        better = {"QAT": 0, "PTQ-VAT": 1, "QAVAT": 3}
        return {m: Counts(chips, chips * 0 + 100, chips * 0 + 50 + better[m.trial.method]) for m in wanted}

    monkeypatch.setattr(choose_bits.engine, "collect", collected)
    choose_bits.main("smoke")
    said = capsys.readouterr().out
    assert "lenet5 A4W2  QAT 50.0  PTQ-VAT 51.0  QAVAT 53.0  gain over QAT: 3 [3, 3], n = 50" in said
    assert "lenet5: claim_bits = A4W2" in said and "resnet18: claim_bits = A4W2" in said


def test_mixed_networks_differ_in_training_alone():
    for bench in cases.benches(profile("quick")):
        nets = bench.networks
        assert nets["QAVAT"].variation == Variation(bench.sigma, law=bench.law)
        mixed = nets["QAVAT mixed"].variation
        assert mixed == Variation.split(bench.sigma, 0.5, bench.law) and mixed.total == pytest.approx(bench.sigma)
        assert nets["QAT"].variation == Variation() and nets["QAT"].recipe == nets["QAVAT"].recipe
        first, second = nets["QAVAT mixed"].first, nets["QAVAT mixed"].recipe
        assert first.variation == nets["QAVAT"].variation
        assert first.recipe.epochs + second.epochs == nets["QAVAT"].recipe.epochs  # equal cost
        assert replace(first.recipe, epochs=1) == replace(nets["QAVAT"].recipe, epochs=1)


def test_a_second_phase_is_as_far_down_the_schedule_and_on_the_same_images():
    for bench in cases.benches(profile("paper")):
        whole, mixed = bench.networks["QAVAT"].recipe, bench.networks["QAVAT mixed"]
        first, second = mixed.first.recipe, mixed.recipe
        assert first.epochs + second.epochs == whole.epochs and second.augment == whole.augment == first.augment
        assert first.rate(0.999) == pytest.approx(whole.rate(0.999)) and second.weight_decay == whole.weight_decay


@pytest.mark.parametrize("name", ["smoke", "quick"])
def test_parts_cover_every_crossbar_once(name):
    for setting in profile(name).settings:
        layers = [layer for part in within_and_between_chips.parts_of(setting).values() for layer in part]
        assert len(layers) == len(set(layers)) == {"lenet5": 5, "resnet18": 21}[setting.network]


def counts_of(measurements):
    """Chips of made-up accuracies: 10·i + chip right of 100, of the i-th measurement."""
    found = {}
    for i, m in enumerate(dict.fromkeys(measurements)):
        chips = np.arange(m.chips)
        found[m] = Counts(chips, np.full(m.chips, 100), (10 * i + chips) % 100)
    return found


@pytest.mark.parametrize("number", ["00", "01", "02", "03", "04", "05", "06"])
def test_a_case_is_found_under_its_own_names(number):
    wanted = studies.ALL[number](profile("smoke"))
    found = counts_of(case.measurement for case in wanted)
    table = cases.tidy(wanted, found)
    for case in wanted:
        names = {name: value for name, value in case.names.items() if name != "point"}
        assert per_chip(table, **names).accuracy.tolist() == found[case.measurement].accuracy.tolist(), names


def test_two_results_under_the_same_names_are_refused():
    """Two estimators of one label, say: their chips would be averaged."""
    bench = cases.benches(profile("smoke"))[0]
    wanted = [bench.sweep("QAT", bench.pattern(), SelfTuning(ReferenceCells(n)), tuning="cells") for n in (4, 8)]
    with pytest.raises(ValueError, match="2 results share the names.*tuning='cells'.*labels that differ"):
        cases.tidy(wanted, counts_of(case.measurement for case in wanted))


def test_a_summary_has_a_row_per_group_in_the_order_of_the_table():
    table = pd.DataFrame({"net": ["b", "b", "a"], "seed": 0, "chip": [0, 1, 0], "accuracy": [1.0, 3.0, 5.0]})
    found = summary(table, ["net"], lambda rows: {"mean": exactly(rows.accuracy.mean()), "worst": rows.accuracy.min()})
    assert found.columns.tolist() == ["net", "mean", "mean_low", "mean_high", "worst", "n_chips", "seeds", "each"]
    assert found.net.tolist() == ["b", "a"] and found["mean"].tolist() == [2, 5] and found.n_chips.tolist() == [2, 1]
    assert estimate(found.iloc[0], "mean") == Estimate(2, 2, 2, 2)


def test_an_interval_of_percentages_ends_where_its_scale_ends():
    """Student's t over two seeds reaches far beyond 0 and 100; a loss has no such ends."""
    table = pd.DataFrame({"net": "a", "seed": [0, 1], "chip": 0, "accuracy": [10.0, 90.0]})
    found = summary(table, ["net"], lambda rows: {n: exactly(rows.accuracy.mean()) for n in ("yield", "loss")}).iloc[0]
    assert (found["yield"], found.yield_low, found.yield_high) == (50, 0, 100)
    assert found.loss_low < 0 and found.loss_high > 100 and found.each["yield"][1].value == 90


def test_alt_text_tells_ends_and_single_bars():
    bars = {"net": ["QAT"] * 3 + ["QAVAT"], "mean": [80.2, np.nan, 40.4, 0.5]}
    rows = pd.DataFrame({"network": "lenet5", "law": "a", **bars})
    assert figures.described(rows, ["network", "law"], "net", "mean") == "LeNet-5, a: QAT from 80 to 40, QAVAT 0.5."


def test_other_images_stand_in_the_place_of_a_profile_s_own(tmp_path):
    chosen = profile("colour", datasets=f"cifar100=imagefolder:{tmp_path}; cifar10=fashion-mnist")
    assert [s.dataset for s in chosen.settings] == ["fashion-mnist", f"imagefolder:{tmp_path}"]
    assert dict(chosen.in_place_of) == {"cifar100": f"imagefolder:{tmp_path}", "cifar10": "fashion-mnist"}
    for given, said in {
        "mnist=cifar10": "'mnist'; allowed: cifar10, cifar100",
        "cifar10=flowers": "'flowers'; allowed: fashion-mnist",
        f"cifar10=imagefolder:{tmp_path}/none": "is no folder",
    }.items():
        with pytest.raises(ValueError, match=said):
            profile("colour", datasets=given)


def test_what_is_shipped_is_what_profiles_train():
    """Nothing of colour is left to train where its images are those of the shipped networks, nor of quick but what
    takes more room than time; and nothing is shipped that nobody reads."""
    wanted = {
        name: {m.trial for m in studies.every_measurement(chosen, chosen.notebooks or studies.ALL)}
        for name, chosen in ((name, profile(name)) for name in ("colour", "quick"))
    }
    left = {trial for trial in wanted["quick"] if left_out(trial)}
    found = {shipped._identity(one.trial) for one in shipped.shipped_networks().values()}
    assert {shipped._identity(trial) for trial in wanted["colour"] | wanted["quick"] - left} == found
    assert len(left) == 10 and len(wanted["colour"]) == 54 and len(found) == 130
