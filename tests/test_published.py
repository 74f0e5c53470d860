"""Published figures, the runs that repeat them, and how the two are compared."""

import csv

import numpy as np
import pandas as pd
import pytest

from lib import costs, engine, findings_published, studies
from lib.profiles import PROFILES, profile
from lib.published import PROTOCOLS, abstract, reported, variants


def test_reported_figures_are_whole_and_sourced():
    rows = reported()
    assert len(rows) == 286 and len({(r.network, r.width, r.bits, r.method, r.sigma) for r in rows}) == 286
    assert all(0 < r.q05 <= r.mean < 100 and r.chips == 1000 and "QAVAT_FOR_PIM" in r.source for r in rows)
    lenet = {(r.method, r.sigma): round(r.mean, 1) for r in rows if r.network == "LeNet-5"}
    assert [lenet["QAT", s] for s in (0.2, 0.4, 0.6)] == [97.5, 96.0, 90.8]
    assert [lenet["QAVAT", s] for s in (0.2, 0.4, 0.6)] == [97.5, 96.7, 95.0]
    assert list(abstract().values()) == [35.7, 54.0, 10.0]


def test_a_row_names_its_training():
    row = next(r for r in reported() if r.method == "QAVAT" and r.network == "VGG-11")
    trial, how = row.trial(seed=2), PROTOCOLS["VGG-11"]
    assert trial.start is None and trial.variation.within == row.sigma and trial.quantizers == "legacy" and trial.seed == 2
    assert how.recipe.augment.flip and how.recipe.bn_draws == 0 and how.recipe.weight_decay == 0 and trial.recipe is how.recipe
    oblivious = {r.trial() for r in reported() if r.method == "QAT" and r.network == "LeNet-5"}
    assert len(oblivious) == 1  # one network for every σ


def test_profiles_repeat_what_they_say():
    wanted = studies.published(profile("reduced"))
    assert {(m.trial.network, m.trial.width) for m in wanted} == {("lenet5-classic", 1.0), ("vgg11", 0.25), ("resnet18", 0.25)}
    assert all(m.chips == 300 and m.images is None and m.images_per_chip is None for m in wanted)
    everything = studies.published(profile("paper"))
    assert len(everything) == sum(r.repeatable for r in reported()) and studies.published(profile("quick")) == []


def test_a_profile_of_some_networks(monkeypatch):
    monkeypatch.setenv("ANALOG_PIM_NETWORKS", "lenet5-classic, vgg11")
    chosen = profile("reduced")
    assert [s.network for s in chosen.settings] == ["vgg11"] and chosen.published == (("LeNet-5", 1.0), ("VGG-11", 0.25))
    monkeypatch.setenv("ANALOG_PIM_SEEDS", "0,2")
    assert profile("reduced").seeds == (0, 2) and profile("reduced", seeds="1").seeds == (1,)
    monkeypatch.setenv("ANALOG_PIM_NETWORKS", "lenet")
    with pytest.raises(ValueError, match="unknown network 'lenet'; allowed: lenet5, lenet5-classic"):
        profile("reduced")


def counts(row, accuracies):
    """What `engine.collect` gives for a row: (seed, chips) of accuracies."""
    frames = [
        pd.DataFrame({"chip": range(len(values)), "accuracy": values}).assign(**row.measurement(len(values), seed).row())
        for seed, values in enumerate(accuracies)
    ]
    return pd.concat(frames, ignore_index=True)


def test_comparison_is_over_seeds(tmp_path, monkeypatch):
    monkeypatch.setattr(findings_published, "FIGURES", tmp_path)
    row = reported()[0]
    near = counts(row, row.mean + np.array([[0.5, 0.7], [-0.2, 0.0], [0.4, 0.4]]))
    far = counts(reported()[1], [[50.0, 60.0], [50.2, 60.2]])
    ours = findings_published.newest(pd.concat([near, far]), "reduced")
    table = findings_published.compared(ours)
    assert len(table) == 286 and table.verdict.value_counts().to_dict() == {"not run": 284, "agrees": 1, "differs": 1}
    first = table.iloc[0]
    seeds = row.mean + np.array([0.6, -0.1, 0.4])
    assert first.ours_mean == pytest.approx(seeds.mean()) and (first.ours_seeds, first.ours_chips) == (3, 2)
    half = 4.302653 * seeds.std(ddof=1) / np.sqrt(3)
    assert first.ours_high - first.ours_mean == pytest.approx(half, rel=1e-5)
    good, bad = findings_published.agreement_claims(table)
    assert good.estimate.value == pytest.approx(1.2) and good.estimate.high == 1.5 and bad.verdict == "does not hold"
    # what a run commits is read again, and replaced by a newer one
    folder = tmp_path / "reduced"
    folder.mkdir()
    table.to_csv(folder / "07_published.csv", index=False)
    again = findings_published.newest(counts(row, [[90.0, 91.0]]), "reduced")
    assert len(again) == 2 and again.set_index("method").loc["QAT"].seeds.tolist() == [2.0, 1.0] and again["mean"].iloc[-1] == 90.5
    assert len(list(findings_published.lines(table))) == 1
    lonely = findings_published.agreement_claims(findings_published.compared(again))[0]
    assert lonely.estimate.n == 1 and lonely.verdict == "inconclusive"  # one seed decides nothing


def test_a_variant_changes_one_thing():
    base, *others = variants().values()
    names = [{name for name, value in vars(trial).items() if value != vars(base)[name]} for trial in others]
    assert names == [{"train_images"}, {"quantizers"}, {"quantizers"}] and (base.recipe.epochs, base.recipe.period) == (31, 10)
    assert studies.variants(profile("quick")) == {} and len(studies.variants(profile("reduced"))) == 4


def test_effects_are_paired_over_chips(tmp_path, monkeypatch):
    tables = {name: pd.DataFrame({"chip": [1, 0, 2], "accuracy": values}) for name, values in
              {"unchanged": [90.0, 80.0, 85.0], "one": [90.2, 80.1, 85.3], "two": [88.0, 78.5, 83.0]}.items()}  # fmt: skip
    found = findings_published.effects(tables).set_index("change")
    assert found.loc["one", "effect"] == pytest.approx(0.2) and found.loc["two", "effect"] == pytest.approx(-11 / 6)
    assert (found.loc["unchanged", ["effect", "effect_low", "effect_high"]] == 0).all() and (found.n_chips == 3).all()
    one, two = findings_published.effect_claims(found.reset_index(), "here")
    assert one.estimate.value == pytest.approx(0.3) and two.verdict == "does not hold"
    monkeypatch.setattr(findings_published, "FIGURES", tmp_path)
    monkeypatch.setattr(findings_published, "ROOT", tmp_path)
    with pytest.raises(ValueError, match="07_effects.csv.*--profile reduced --only 07"):
        findings_published.effects({})


def test_without_committed_figures_the_fix_is_named(tmp_path, monkeypatch):
    monkeypatch.setattr(findings_published, "FIGURES", findings_published.ROOT / "no-figures")
    with pytest.raises(ValueError, match="no committed figure no-figures/quick/03_gain.json; make it with ./run_all.sh"):
        findings_published.results_of("quick")
    assert len(findings_published.committed()) == 0


def test_statements_are_judged_by_their_intervals():
    table = findings_published.three_claims("quick")
    assert set(table.claim) == {1, 2, 3} and (table.points_low <= table.points).all()
    table = table.assign(points=5.0, points_low=3.0, points_high=9.0)
    by = {c.statement[:9]: c for c in findings_published.statement_claims(table, 10.0)}
    assert by["QAVAT bea"].verdict == "holds" and by["training "].verdict == "does not hold"
    assert by["self-tuni"].estimate.low == 1.0 and by["self-tuni"].verdict == "holds"


def test_costs_need_no_dataset(monkeypatch, tmp_path):
    monkeypatch.setenv("ANALOG_PIM_DATA", str(tmp_path))
    monkeypatch.setattr(costs, "load", None)
    assert costs.shape("mnist").train == 55_000 and costs.shape("cifar10").train == 50_000 - 50_000 // 12
    assert not costs.at_hand("mnist") and not costs.at_hand("fashion-mnist")
    work = engine.missing(studies.published(profile("reduced")), None)
    seeds = len(work.trials) / len({t.network for t in work.trials})
    assert len(work.measurements) == 46 and seeds > 1 and engine.seconds(work) > 3600


def test_shapes_are_those_of_the_data():
    from lib import load

    data = load("fashion-mnist")
    assert costs.shape("fashion-mnist") == costs.Shape(data.channels, data.classes, data.size, len(data.train), len(data.test))


def test_the_committed_table_is_that_of_the_file():
    with open(findings_published.ROOT / "data" / "reported.csv", newline="", encoding="utf-8") as file:
        assert len(list(csv.reader(file))) == 1 + 286 + 3
    assert set(PROFILES) == {"smoke", "quick", "reduced", "paper"}
