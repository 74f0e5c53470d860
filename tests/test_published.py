"""Published figures, the runs that repeat them, and how the two are compared."""

import csv
import io
import json

import numpy as np
import pandas as pd
import pytest
from conftest import ROOT

from lib.companion import Notebook, notebook, paper_versus_ours
from lib.companion.profiles import PROFILES, profile
from lib.companion.published import PROTOCOLS, abstract, reported, variants
from lib.experiments import engine, timing
from lib.experiments.settings import Settings

FIGURES = ROOT / "figures"


def committed_figures(stem):
    """The committed tables of this name, one a profile."""
    found = sorted(FIGURES.glob(f"*/{stem}.csv"))
    assert found, f"no {stem}.csv under {FIGURES}"
    return [pytest.param(path, id=path.parent.name) for path in found]


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
    assert trial.start is None and trial.variation.within == row.sigma
    assert trial.quantizers == "legacy" and trial.seed == 2 and trial.recipe is how.recipe
    assert how.recipe.augment.flip and how.recipe.bn_draws == 0 and how.recipe.weight_decay == 0
    oblivious = {r.trial() for r in reported() if r.method == "QAT" and r.network == "LeNet-5"}
    assert len(oblivious) == 1  # one network for every σ


def test_profiles_repeat_what_they_say():
    chosen = profile("published")
    wanted = [case.measurement for seed in chosen.seeds for case in paper_versus_ours.published(chosen, seed)]
    rows = {(m.trial.network, m.trial.method, m.variation.total) for m in wanted}
    vgg = {("vgg11", "QAT", sigma) for sigma in (0.1, 0.2, 0.3, 0.4, 0.5)}
    vgg |= {("vgg11", "QAVAT", sigma) for sigma in (0.3, 0.5)}
    lenet = {("lenet5-classic", method, sigma) for method in ("QAT", "QAVAT") for sigma in (0.2, 0.4, 0.6)}
    assert rows == lenet | vgg and len(wanted) == 3 * len(lenet) + 7  # seeds of LeNet-5 alone
    third = {(m.trial.recipe.epochs, m.trial.recipe.period) for m in wanted if m.trial.network == "vgg11"}
    assert third == {(60, 20)} and len({m.trial for m in wanted if m.trial.method == "QAT" and m.trial.width < 1}) == 1
    assert {(m.trial.network, m.chips) for m in wanted} == {("lenet5-classic", 300), ("vgg11", 100)}
    assert all(m.images is None and m.images_per_chip is None for m in wanted)
    everything = paper_versus_ours.published(profile("paper"))
    assert len(everything) == sum(r.repeatable for r in reported())
    assert paper_versus_ours.published(profile("quick")) == []


def test_published_rows_run_on_images_that_stand_for_theirs(tmp_path):
    chosen = profile("published", datasets=f"cifar10=imagefolder:{tmp_path}")
    datasets = {(m.measurement.trial.network, m.measurement.trial.dataset) for m in paper_versus_ours.published(chosen)}
    assert datasets == {("lenet5-classic", "mnist"), ("vgg11", f"imagefolder:{tmp_path}")}
    with pytest.raises(ValueError, match="'cifar100'; allowed: mnist, cifar10"):
        profile("published", datasets=f"cifar100=imagefolder:{tmp_path}")


def test_a_profile_of_some_networks():
    chosen = profile("paper", "lenet5-classic, vgg11")
    assert [s.network for s in chosen.settings] == ["vgg11"]
    assert [(rows.network, rows.width) for rows in chosen.published] == [
        ("LeNet-5", 1),
        *(("VGG-11", w) for w in (0.25, 1, 2)),
    ]
    assert profile("published", seeds="0,2").seeds == (0, 2)
    with pytest.raises(ValueError, match="unknown network 'lenet'; allowed: lenet5, lenet5-classic"):
        profile("published", "lenet")


def counts(row, accuracies):
    """What `engine.collect` gives for a row: (seed, chips) of accuracies."""
    frames = [
        pd.DataFrame({"chip": range(len(values)), "accuracy": values, **row.measurement(len(values), seed).row()})
        for seed, values in enumerate(accuracies)
    ]
    return pd.concat(frames, ignore_index=True)


def test_comparison_is_over_seeds(tmp_path, monkeypatch):
    monkeypatch.setattr(paper_versus_ours, "FIGURES", tmp_path)
    row = reported()[0]
    near = counts(row, row.mean + np.array([[0.5, 0.7], [-0.2, 0.0], [0.4, 0.4]]))
    far = counts(reported()[1], [[50.0, 50.6], [50.2, 50.8]])
    ours = paper_versus_ours.newest(pd.concat([near, far]), "published")
    table = paper_versus_ours.compared(ours)
    assert len(table) == 286 and table.verdict.value_counts().to_dict() == {"not run": 284, "agrees": 1, "differs": 1}
    first = table.iloc[0]
    seeds = row.mean + np.array([0.6, -0.1, 0.4])
    assert first.ours_mean == pytest.approx(seeds.mean()) and (first.ours_seeds, first.ours_chips) == (3, 2)
    half = 4.302653 * seeds.std(ddof=1) / np.sqrt(3)
    assert first.ours_high - first.ours_mean == pytest.approx(half, rel=1e-5)
    good, bad = paper_versus_ours.agreement_claims(table)
    assert good.estimate.value == pytest.approx(0.3) and good.requirement == "-1.5 to 1.5" and good.of == "seeds"
    assert bad.verdict == "the opposite holds"
    alike = paper_versus_ours.repeated(counts(row, [[90.0, 91.0, 92.0]] * 3), "published").iloc[0]
    half = 4.302653 / np.sqrt(3)  # seeds that agree by chance leave what the chips leave
    assert (alike.low, alike.high) == pytest.approx((91 - half, 91 + half))
    # what a run commits is read again, and replaced by a newer one
    folder = tmp_path / "published"
    folder.mkdir()
    table.to_csv(folder / "07_published.csv", index=False)
    again = paper_versus_ours.newest(counts(row, [[90.0, 91.0]]), "published")
    assert len(again) == 2 and again["mean"].iloc[-1] == 90.5
    assert again.set_index("method").loc["QAT"].seeds.tolist() == [2.0, 1.0]
    assert len(list(paper_versus_ours.lines(table))) == 1
    lonely = paper_versus_ours.agreement_claims(paper_versus_ours.compared(again))[0]
    assert lonely.estimate.n == 1 and lonely.verdict == "undecided"  # one seed decides nothing


def test_a_variant_changes_one_thing():
    base, *others = variants().values()
    names = [{name for name, value in vars(trial).items() if value != vars(base)[name]} for trial in others]
    assert names == [{"train_images"}, {"quantizers"}, {"quantizers"}]
    assert (base.recipe.epochs, base.recipe.period) == (31, 10)
    assert paper_versus_ours.variants(profile("quick")) == []
    assert len(paper_versus_ours.variants(profile("published"))) == 4


def test_another_recipe_repeats_a_published_point():
    chosen = profile("colour")
    found = [case.measurement for seed in chosen.seeds for case in paper_versus_ours.recipes(chosen, seed)]
    assert {(m.trial.method, m.trial.seed) for m in found} == {(m, s) for m in ("QAT", "QAVAT") for s in range(3)}
    assert {(m.trial.bits, m.trial.width, m.trial.quantizers) for m in found} == {("A8W4", 0.25, "learned")}
    assert {m.trial.start.epochs for m in found} == {80} and {m.variation.within for m in found} == {0.5}
    assert paper_versus_ours.recipes(profile("quick")) == paper_versus_ours.recipes(profile("published")) == []


def test_gains_of_another_recipe_are_paired_over_chips_and_seeds(monkeypatch):
    frames = [
        pd.DataFrame({"method": method, "seed": seed, "chip": range(4), "place": np.nan, "accuracy": base + seed})
        for seed in range(3)
        for method, base in (("QAT", np.array([50.0, 52, 54, 56])), ("QAVAT", np.array([60.0, 62, 64, 70])))
    ]
    measured = pd.concat(frames).assign(network="vgg11", sigma=0.5, point="here")
    means = paper_versus_ours.recipe_table(measured).set_index(["recipe", "method"])
    assert means["mean"].tolist() == [37.517, 67.178, 54, 65] and means.seeds.tolist() == [1, 1, 3, 3]
    assert means.n_chips.tolist() == [1000, 1000, 4, 4] and means.mean_low.isna().tolist() == [True, True, False, False]
    (less,) = paper_versus_ours.recipe_claims(measured)
    assert less.verdict == "holds" and less.estimate.value == 11 and less.requirement == "< 29.661"
    monkeypatch.setattr(paper_versus_ours, "FIGURES", paper_versus_ours.ROOT / "no-figures")
    with pytest.raises(ValueError, match="07_recipes.csv.*--profile colour --only 07"):
        paper_versus_ours.recipe_table(pd.DataFrame())


def test_effects_are_paired_over_chips(tmp_path, monkeypatch):
    values = {"unchanged": [90.0, 80.0, 85.0], "one": [90.2, 80.1, 85.3], "two": [88.0, 78.5, 83.0]}
    frames = [
        pd.DataFrame({"change": name, "seed": 0, "chip": range(3), "place": np.nan, "accuracy": v})
        for name, v in values.items()
    ]
    found = paper_versus_ours.effects(pd.concat(frames)).set_index("change")
    assert found.loc["one", "effect"] == pytest.approx(0.2) and found.loc["two", "effect"] == pytest.approx(-11 / 6)
    assert (found.loc["unchanged", ["effect", "effect_low", "effect_high"]] == 0).all() and (found.n_chips == 3).all()
    one, two = paper_versus_ours.effect_claims(found.reset_index(), "here")
    assert one.estimate.value == pytest.approx(0.2) and two.verdict == "the opposite holds"
    monkeypatch.setattr(paper_versus_ours, "FIGURES", tmp_path)
    monkeypatch.setattr(paper_versus_ours, "ROOT", tmp_path)
    with pytest.raises(ValueError, match="07_effects.csv.*--profile published --only 07"):
        paper_versus_ours.effects(pd.DataFrame())


def test_without_committed_figures_the_fix_is_named(monkeypatch):
    monkeypatch.setattr(paper_versus_ours, "FIGURES", paper_versus_ours.ROOT / "no-figures")
    with pytest.raises(ValueError, match="no committed figure no-figures/quick/03_gain.json; make it with ./run_all"):
        paper_versus_ours.results_of(["quick"])
    assert paper_versus_ours.answering("published") == ("quick",)
    assert len(paper_versus_ours.committed()) == 0 and paper_versus_ours.keys_of([], "07_published") == []


def test_a_profile_answers_for_itself_once_it_has_both_figures(tmp_path, monkeypatch):
    monkeypatch.setattr(paper_versus_ours, "FIGURES", tmp_path)
    (tmp_path / "published").mkdir()
    for figure, keys in (("03_gain", ["b", "a"]), ("05_loss", ["b", "c"])):
        assert paper_versus_ours.answering("published") == ("quick",)
        (tmp_path / "published" / f"{figure}.json").write_text(json.dumps({"results": keys}))
    assert paper_versus_ours.answering("published") == ("published",)
    assert paper_versus_ours.results_of(["published"]) == ["a", "b", "c"]


def test_a_record_names_the_results_that_its_figure_shows(tmp_path, monkeypatch):
    """Those just measured; those of the committed figure of which it repeats the numbers where nothing was."""
    monkeypatch.setattr(paper_versus_ours, "FIGURES", tmp_path)
    for profile_name, figure, keys in (
        ("published", "07_published", ["p"]),
        ("paper", "07_published", ["q"]),
        ("quick", "07_published", ["no"]),
        ("published", "07_effects", ["e"]),
    ):
        (tmp_path / profile_name).mkdir(exist_ok=True)
        (tmp_path / profile_name / f"{figure}.json").write_text(json.dumps({"results": keys}))
    assert paper_versus_ours.keys_of([], "07_published") == ["p", "q"]
    assert paper_versus_ours.keys_of([], "07_effects") == ["e"]
    assert paper_versus_ours.keys_of(["y", "z"], "07_effects") == ["y", "z"]


@pytest.mark.parametrize("name", ["quick", "published", "smoke"])
def test_only_a_profile_with_results_of_its_own_publishes_claims(name, tmp_path, monkeypatch):
    """The notebook, cell by cell, where nothing is measured; one without results must not show those of quick."""
    shown, tables = {}, []
    monkeypatch.setattr(Notebook, "publish", lambda self, fig, figure, data, **record: shown.update({figure: record}))
    monkeypatch.setattr(notebook, "show_table", lambda table, *_: tables.append(table))
    monkeypatch.setattr(paper_versus_ours, "published", lambda profile, seed: [])
    monkeypatch.setattr(paper_versus_ours, "variants", lambda profile, seed: [])
    monkeypatch.setattr(paper_versus_ours, "recipes", lambda profile, seed: [])
    cells = json.loads((ROOT / "notebooks" / "07_paper_versus_ours.ipynb").read_text("utf-8"))["cells"]
    cells = ["".join(cell["source"]) for cell in cells if cell["cell_type"] == "code"]
    scope = {"PROFILE": name, "SEED": 0}
    for cell in cells[1:]:
        exec(cell, scope)
    own = (FIGURES / name / "03_gain.json").exists()
    assert set(shown) == {"07_published", "07_effects"} | ({"07_claims"} if own else set())
    assert any(list(table) == list(scope["claims"]) for table in tables) != own
    assert scope["nb"].profile.name == name
    assert all(record["keys"] and record["claims"] for record in shown.values())


@pytest.mark.parametrize("path", committed_figures("07_claims"))
def test_committed_claims_are_those_of_the_committed_figures_beside_them(path):
    sources = paper_versus_ours.answering(path.parent.name)
    expected, claims = io.StringIO(), pd.concat(map(paper_versus_ours.three_claims, sources), ignore_index=True)
    claims.to_csv(expected, index=False, float_format="%.6g", lineterminator="\n")
    assert path.read_text("utf-8") == expected.getvalue()
    record = json.loads(path.with_suffix(".json").read_text("utf-8"))
    assert record["results"] == paper_versus_ours.results_of(sources)


@pytest.mark.parametrize("path", committed_figures("07_published"))
def test_committed_comparisons_show_the_reported_figures(path):
    table = pd.read_csv(path)
    expected = pd.DataFrame(vars(row) for row in reported())
    for column in ("network", "width", "dataset", "bits", "method", "sigma"):
        assert table[column].tolist() == expected[column].tolist()
    for column in ("mean", "q05", "chips"):
        assert table[f"reported_{column}"].tolist() == expected[column].tolist()


@pytest.mark.parametrize("path", committed_figures("07_published"))
def test_committed_comparisons_show_the_figures_of_the_profile_that_measured_them(path):
    columns = [*paper_versus_ours.IDENTITY, *(f"ours_{name}" for name in paper_versus_ours.OURS)]
    run = pd.read_csv(path, dtype=str).dropna(subset="ours_mean")
    for owner, rows in run.groupby("ours_profile"):
        theirs = pd.read_csv(FIGURES / owner / path.name, dtype=str)
        theirs = theirs[theirs.ours_profile == owner]
        assert PROFILES[owner].published and rows[columns].merge(theirs[columns]).shape == rows[columns].shape
    assert PROFILES[path.parent.name].published or len(run) == len(paper_versus_ours.committed())
    numbers = run.astype(dict.fromkeys(("ours_mean", "reported_mean", "difference"), float))
    assert (numbers.difference - (numbers.ours_mean - numbers.reported_mean)).abs().max() < 1e-4
    near = numbers.difference.abs() <= paper_versus_ours.TOLERANCE
    assert (numbers.verdict == np.where(near, "agrees", "differs")).all()


@pytest.mark.parametrize("path", committed_figures("07_effects"))
def test_committed_effects_are_those_of_the_profile_that_measured_them(path):
    owner = path.parent.name if paper_versus_ours.variants(profile(path.parent.name)) else "published"
    assert path.read_bytes() == (FIGURES / owner / path.name).read_bytes()


def test_statements_are_judged_by_their_intervals():
    table = paper_versus_ours.three_claims("quick")
    assert set(table.claim) == {1, 2, 3} and (table.points_low <= table.points).all()
    table = table.assign(points=5.0, points_low=3.0, points_high=9.0)
    by = {c.statement: c.verdict for c in paper_versus_ours.statement_claims(table, 10.0)}
    about = "loss against QAT on an ideal chip, {}".format
    assert by["gain of QAVAT over its best alternative"] == "holds" == by[about("self-tuned")]
    assert by[about("training alone")] == "the opposite holds"


def test_costs_need_no_dataset(monkeypatch, tmp_path):
    monkeypatch.setattr(timing, "load", None)
    assert timing.shape("mnist").train == 55_000 and timing.shape("cifar10").train == 50_000 - 50_000 // 12
    assert not timing.at_hand("mnist", tmp_path) and not timing.at_hand("fashion-mnist", tmp_path)
    wanted = [case.measurement for case in paper_versus_ours.published(profile("published", seeds="0"))]
    work = engine.missing(wanted, Settings.read(data=tmp_path, cache=tmp_path))
    seeds = len(work.trials) / len({t.network for t in work.trials})
    assert len(work.measurements) == 13 and seeds > 1 and work.seconds("cpu") > 3600


def test_shapes_are_those_of_the_data():
    from lib import load

    data = load("fashion-mnist")
    shape = timing.Shape(data.channels, data.classes, data.size, len(data.train), len(data.test))
    assert timing.shape("fashion-mnist") == shape


def test_the_committed_table_is_that_of_the_file():
    with open(paper_versus_ours.ROOT / "data" / "reported.csv", newline="", encoding="utf-8") as file:
        assert len(list(csv.reader(file))) == 1 + 286 + 3
    assert set(PROFILES) == {"smoke", "rehearsal", "quick", "colour", "published", "paper"}
