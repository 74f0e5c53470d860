"""collect(): what is missing is computed once, in an order that works, and resumes where it stopped."""

from dataclasses import dataclass, replace
from types import SimpleNamespace

import pandas as pd
import pytest
import torch

from lib import Recipe, Variation, data, evaluate, laws
from lib.checks import InputError
from lib.companion import Notebook, within_and_between_chips
from lib.controls import OutputGain, PerChipBatchNorm
from lib.data import Dataset
from lib.estimators import Oracle, ReadOnce, ReferenceCells
from lib.experiments import engine, keys, results, timing, workers
from lib.experiments.settings import Settings
from lib.selftuning import SelfTuning
from lib.trials import Measurement, Phase, Trial, train

RECIPE = Recipe(epochs=2, batch_size=32, bn_draws=2)
FLOAT = Trial("toy", "lenet5", "float", RECIPE)
QAVAT = Trial("toy", "lenet5", "QAVAT", RECIPE, "A4W2", Variation(0.3), start=RECIPE)
PTQ = replace(QAVAT, method="PTQ-VAT")


@pytest.fixture(autouse=True)
def toy(images, monkeypatch):
    """A dataset that only this process knows, so everything is computed in it."""
    dataset = Dataset("toy", images, images.take(slice(0, 30)), images.take(slice(30, 90)), 3, "f" * 64)
    monkeypatch.setenv("ANALOG_PIM_JOBS", "0")
    for module in (data, keys, workers, timing):
        monkeypatch.setattr(module, "load", lambda name, folder=None: dataset)
    caches = (timing.forward_seconds, workers.split, workers.network, workers.ranges)
    for cache in caches:
        cache.cache_clear()
    yield
    for cache in caches:
        cache.cache_clear()


def run_in(folder):
    """The settings of a run with a store of its own."""
    return Settings.read(cache=folder)


def collect(settings, *measurements):
    return engine.frame(engine.collect(measurements, settings, progress=False))


def test_parents_are_trained_first_and_shared(tmp_path):
    work = engine.missing([Measurement(PTQ, Variation(0.3)), Measurement(QAVAT, Variation(0.3))], run_in(tmp_path))
    assert [t.method for t in work.trials] == ["float", "float-VAT", "PTQ-VAT", "QAVAT"]


def test_more_chips_cost_only_the_difference(tmp_path):
    settings, m = run_in(tmp_path), Measurement(QAVAT, Variation(0.5), 4)
    first = collect(settings, m)
    work = engine.missing([replace(m, chips=6), m], settings)
    assert work.trials == [] and [chips for _, chips in work.measurements] == [[4, 5]]
    more = collect(settings, replace(m, chips=6))
    assert more[more.chip < 4].reset_index(drop=True).equals(first) and len(more) == 6
    assert len(collect(settings, m)) == 4


def test_a_second_call_computes_nothing(tmp_path, monkeypatch):
    settings, m = run_in(tmp_path), Measurement(PTQ, Variation(0.3), 2)
    first = collect(settings, m)
    monkeypatch.setattr(engine, "_compute", lambda *a: pytest.fail("nothing was missing"))
    assert collect(settings, m).equals(first)


def test_an_interrupted_training_goes_on_from_its_last_epoch(tmp_path, monkeypatch):
    undisturbed = collect(run_in(tmp_path / "a"), Measurement(QAVAT, Variation(0.5), 3))
    settings, calls = run_in(tmp_path / "b"), []
    real = workers.train

    def interrupted(trial, dataset, parent, state, until, *arguments):
        calls.append((trial.method, until))
        if calls == [("float", 1), ("float", 2), ("QAVAT", 1), ("QAVAT", 2)]:
            raise RuntimeError("on purpose")
        return real(trial, dataset, parent, state, until, *arguments)

    monkeypatch.setattr(workers, "train", interrupted)
    with pytest.raises(RuntimeError, match="on purpose"):
        collect(settings, Measurement(QAVAT, Variation(0.5), 3))
    resumed = collect(settings, Measurement(QAVAT, Variation(0.5), 3))
    assert calls[4:] == [("QAVAT", 2)]
    assert resumed.equals(undisturbed)


def test_a_second_phase_goes_on_from_the_first_with_its_batch_norms(tmp_path, monkeypatch):
    """Its statistics are those of the first, whatever segments it is trained in; its steps and weights move."""
    first = Phase(replace(RECIPE, epochs=1), Variation(0.3))
    mixed = replace(QAVAT, first=first, variation=Variation.split(0.3, 0.5), network="lenet5")
    settings = run_in(tmp_path)
    table = collect(settings, Measurement(mixed, Variation.split(0.3, 0.5), 3))
    assert mixed.parent == replace(QAVAT, recipe=first.recipe) and table.place.notna().all()
    before, after = (results.network(t, settings).state_dict() for t in (mixed.parent, mixed))
    norms = [name for name in before if "running" in name]
    assert norms and all(torch.equal(before[name], after[name]) for name in norms)
    moved = [
        name for name in before if name.endswith(("weight", "step")) and not torch.equal(before[name], after[name])
    ]
    assert any(name.endswith("step") for name in moved) and any(name.endswith("weight") for name in moved)
    data, parent = keys.load("toy"), results.network(mixed.parent, settings)
    with workers.pinned():
        at_once = train(mixed, data, parent)
    assert all(torch.equal(at_once[f"net/{name}"], value) for name, value in after.items())
    with pytest.raises(ValueError, match="only QAVAT has a first phase, got method='PTQ-VAT'"):
        replace(PTQ, first=first)


def test_images_that_are_skipped_are_not_seen(tmp_path):
    settings = run_in(tmp_path)
    whole, rest = Measurement(FLOAT, Variation(), 1), Measurement(FLOAT, Variation(), 1, skip=20)
    table = collect(settings, whole, rest)
    assert table.images.tolist() == [60, 40]
    net, test = results.network(FLOAT, settings), keys.load("toy").test
    assert table.correct.iloc[1] == evaluate(net, test.balanced(None, skip=20), chips=1).correct[0]


def test_a_damaged_checkpoint_is_trained_again(tmp_path, capsys):
    settings = run_in(tmp_path)
    first = collect(settings, Measurement(QAVAT, Variation(0.5), 2))
    for path in tmp_path.glob("checkpoints/*/*"):
        path.write_bytes(path.read_bytes()[:-1])
    grown = collect(settings, Measurement(QAVAT, Variation(0.5), 4))
    assert grown[grown.chip < 2].reset_index(drop=True).equals(first)
    assert "damaged entry" in capsys.readouterr().err


def test_restored_networks_are_the_trained_ones(tmp_path):
    settings = run_in(tmp_path)
    collect(settings, Measurement(PTQ, Variation(0.5), 1))
    a, b = results.network(PTQ, settings), results.network(PTQ, settings)
    x = keys.load("toy").test.normalized()
    assert torch.equal(a(x), b(x)) and not a.training


def test_a_small_table_is_computed_once(tmp_path, monkeypatch, two_threads):
    """Notebook 04's, with the network trained on the way; other arguments are another table, --force makes it again."""
    settings = run_in(tmp_path)
    made, shared = within_and_between_chips.batch_norm_table, [-0.5, 0.0, 0.5]
    first = results.tabulated(made, {"toy": QAVAT}, settings, shared=shared, images=20)
    assert list(first.network.unique()) == ["toy"] and len(first) == 6
    threads = torch.get_num_threads()
    direct = made({"toy": results.network(QAVAT, settings)}, keys.load("toy"), shared, 20)
    assert (first.drop(columns="change") == direct.drop(columns="change")).all(axis=None)
    assert torch.get_num_threads() == threads
    with monkeypatch.context() as patched:
        patched.setattr(results, "network", lambda *a: pytest.fail("the table is there"))
        assert results.tabulated(made, {"toy": QAVAT}, settings, shared=shared, images=20).equals(first)
    assert len(results.tabulated(made, {"toy": QAVAT}, settings, shared=[0.0], images=20)) == 2
    settings.store.discard_tables()
    assert results.tabulated(made, {"toy": QAVAT}, settings, shared=shared, images=20).equals(first)
    with pytest.raises(ValueError, match="allowed are functions of lib"):
        results.tabulated(collect, {"toy": QAVAT}, settings)
    with pytest.raises(InputError, match="are of mnist, toy; make a table for each dataset"):
        results.tabulated(made, {"toy": QAVAT, "b": replace(QAVAT, dataset="mnist")}, settings)


def test_a_notebook_s_networks_of_two_datasets_see_their_own_images(monkeypatch):
    def table(function, trials, settings):
        return pd.DataFrame({"network": list(trials), "images": [t.dataset for t in trials.values()]})

    monkeypatch.setattr(results, "tabulated", table)
    trials = {"a": QAVAT, "b": replace(QAVAT, dataset="mnist"), "c": replace(QAVAT, seed=1)}
    found = Notebook.tabulated(SimpleNamespace(settings=None), None, trials)
    assert dict(zip(found.network, found.images)) == {"a": "toy", "c": "toy", "b": "mnist"} and list(found.index) == [
        0,
        1,
        2,
    ]


def test_table_says_what_was_measured(tmp_path):
    row = collect(run_in(tmp_path), Measurement(QAVAT, Variation.split(0.5, 0.2, "layer-fixed"), 1)).iloc[0]
    assert (row.method, row.bits, row.law, row.trained_sigma) == ("QAVAT", "A4W2", "layer-fixed", 0.3)
    assert row.sigma == pytest.approx(0.5)
    assert row.images == 60 and row.accuracy == pytest.approx(100 * row.correct / 60)


def test_estimates_grow_with_the_work(tmp_path):
    wanted = [[Measurement(QAVAT, Variation(0.3), n)] for n in (1, 1000)]
    few, many = (engine.missing(ms, run_in(tmp_path)).seconds("cpu") for ms in wanted)
    assert 0 < few < many


def test_trials_refuse_what_makes_no_sense():
    with pytest.raises(ValueError, match="QAVAT needs a variation"):
        replace(QAVAT, variation=Variation())
    with pytest.raises(ValueError, match="float takes no bits, got 'A4W2'"):
        replace(FLOAT, bits="A4W2")
    with pytest.raises(ValueError, match="QAT trains without variation"):
        replace(QAVAT, method="QAT")


def test_tunings_and_slices_are_part_of_a_measurement(tmp_path):
    settings, mixed = run_in(tmp_path), Variation(0.3, 0.3)
    cells = [SelfTuning(ReferenceCells(n)) for n in (4, 8)]
    tunings = [None, *cells, OutputGain(4), PerChipBatchNorm(16, 8)]
    wanted = [Measurement(QAVAT, mixed, 3, tuning=t) for t in tunings]
    wanted.append(Measurement(QAVAT, mixed, 3, images_per_chip=20))
    table = collect(settings, *wanted)
    assert len({engine.measurement_key(m, settings) for m in wanted}) == len(wanted)
    labels = ["none", "4 cells", "8 cells", "output gain, 4 probes", "BN on the chip, 16 images", "none"]
    assert table.tuning.tolist() == [label for label in labels for _ in range(3)]
    assert table.images.tolist() == [60] * 15 + [20] * 3
    before = set(tmp_path.glob("checkpoints/*/*"))
    collect(settings, Measurement(QAVAT, mixed, 3, tuning=SelfTuning(Oracle())))
    assert set(tmp_path.glob("checkpoints/*/*")) == before


def test_the_longest_chain_of_trainings_starts_first(tmp_path):
    longer = replace(QAVAT, recipe=replace(RECIPE, epochs=20))
    work = engine.missing([Measurement(t, Variation(0.3)) for t in (PTQ, longer)], run_in(tmp_path))
    urgency = engine._critical_paths(work, "cpu")
    assert urgency[longer] > urgency[PTQ.parent] > urgency[PTQ] > 0
    assert urgency[FLOAT] == pytest.approx(max(urgency.values()))


def test_precision_is_part_of_the_key(monkeypatch, tmp_path):
    settings, m = run_in(tmp_path), Measurement(QAVAT, Variation(0.3), 1)
    assert engine.measurement_key(m, settings) is None  # its network is still to be trained
    collect(settings, m)
    keys = set()
    for precision in ("float32", "bfloat16"):
        keys.add(engine.measurement_key(m, settings.but(precision=precision)))
    assert len(keys) == 2


def test_a_worker_with_other_data_is_refused():
    with pytest.raises(ValueError, match="fingerprint ffffffffffff, the client's has 000000000000"):
        workers.Source("toy", "0" * 64, None).load()


# -- whose code, whose network --------------------------------------------------------------------------------


SHRINK = """
@dataclass(frozen=True)
class Shrink(ReadOnce):
    label = "shrink"
    def estimate(self, chip, variation):
        return {factor} * variation.shared(chip)
"""


def shrinking(factor):
    """A user's estimator as a notebook cell defines it; edited, it has another factor."""
    space = {"dataclass": dataclass, "ReadOnce": ReadOnce, "__name__": "__main__"}
    exec(SHRINK.format(factor=factor), space)
    return Measurement(QAVAT, Variation(0.1, 0.9), 8, tuning=SelfTuning(space["Shrink"]()))


def test_an_edited_estimator_is_measured_anew(tmp_path):
    settings = run_in(tmp_path)
    first, edited, again = (collect(settings, shrinking(factor)) for factor in (1, -1, 1))
    assert first.equals(again) and not first.correct.equals(edited.correct)
    assert engine.measurement_key(shrinking(1), settings) != engine.measurement_key(shrinking(-1), settings)
    assert (first.tuning == edited.tuning).all()


def test_a_registered_law_redefined_trains_anew(tmp_path, monkeypatch):
    monkeypatch.setattr(laws, "LAWS", dict(laws.LAWS))
    keys, settings = [], run_in(tmp_path)
    for factor in (1, 2, 1):
        laws.register_law("mine", eval(f"lambda w, e: w + {factor} * e", {"__name__": "users"}))
        trial = replace(QAVAT, variation=Variation(0.2, law="mine"))
        keys.append(engine.trial_key(trial, settings))
        assert len(collect(settings, Measurement(trial, Variation(0.2, law="mine"), 2))) == 2
    assert keys[0] == keys[2] != keys[1]
    assert len(list(tmp_path.glob("checkpoints/*/*.safetensors"))) == 3  # with the float parent


def other_processor(state, eps=0.5):
    return {name: t + eps * torch.rand_like(t) if t.is_floating_point() else t for name, t in state.items()}


@pytest.mark.filterwarnings("ignore:the first layer's quantizer")  # of a network that was shaken
def test_a_network_lost_and_trained_otherwise_brings_its_own_counts(tmp_path, monkeypatch):
    """Two networks never mix in one table: they did where another processor trained a lost checkpoint again."""
    settings, m = run_in(tmp_path), Measurement(QAVAT, Variation(0.5), 4)
    first, key = collect(settings, m), engine.measurement_key(m, settings)
    settings.store._remove("checkpoints", engine.trial_key(QAVAT, settings))
    assert engine.measurement_key(m, settings) is None
    assert [chips for _, chips in engine.missing([m], settings).measurements] == [[0, 1, 2, 3]]
    real = workers.train
    monkeypatch.setattr(workers, "train", lambda *a: other_processor(real(*a)) if a[4] == RECIPE.epochs else real(*a))
    grown = collect(settings, replace(m, chips=6))
    assert len(grown) == 6 and engine.measurement_key(m, settings) != key
    assert not grown[grown.chip < 4].reset_index(drop=True).correct.equals(first.correct)


def test_a_network_lost_and_trained_the_same_keeps_its_counts(tmp_path, monkeypatch):
    settings, m = run_in(tmp_path), Measurement(QAVAT, Variation(0.5), 3)
    first = collect(settings, m)
    settings.store._remove("checkpoints", engine.trial_key(QAVAT, settings))
    monkeypatch.setattr(workers, "measured", lambda *a: pytest.fail("its chips are known"))
    assert collect(settings, m).equals(first)


def test_a_small_table_is_of_the_networks_that_it_was_made_of(tmp_path, monkeypatch):
    settings = run_in(tmp_path)
    made, arguments = within_and_between_chips.batch_norm_table, {"shared": [-0.5, 0.5], "images": 60}
    first = results.tabulated(made, {"toy": QAVAT}, settings, **arguments)
    key = engine.trial_key(QAVAT, settings)
    state = settings.store.checkpoint(key)
    settings.store._remove("checkpoints", key)
    settings.store.save_checkpoint(key, other_processor(state), {})
    assert not results.tabulated(made, {"toy": QAVAT}, settings, **arguments).equals(first)
