"""The engine with networks that come trained: they stand in for their training, and edits keep them."""

import pytest
import torch
from test_engine import FLOAT, QAVAT, RECIPE, collect, run_in, toy  # noqa: F401  # toy: a fixture of every test

from lib import Variation, data, shipped, sources
from lib.analog import crossbars
from lib.estimators import ReferenceCells
from lib.experiments import engine, keys, workers
from lib.selftuning import SelfTuning
from lib.trials import Measurement, restored, train


def test_a_shipped_network_stands_in_for_its_training_and_is_what_training_gives(tmp_path, images, monkeypatch):
    """The same counts to the image; with `train` the training of the same small network, which gives the same again."""
    m = Measurement(QAVAT, Variation.split(0.4, 0.5), 4, tuning=SelfTuning(ReferenceCells(16)))
    settings = run_in(tmp_path / "a").but(shipped=tmp_path / "networks")
    trained = collect(settings, m)
    state, key = keys.checkpoint(QAVAT, settings), keys.measurement_key(m, settings)
    (tmp_path / "networks").mkdir()
    one = shipped.ship(QAVAT, data.load("toy"), state, tmp_path / "networks" / "small.safetensors", {"device": "cpu"})
    assert one.fingerprint == data.load("toy").fingerprint

    fresh = run_in(tmp_path / "b").but(shipped=tmp_path / "networks")
    work = engine.missing([m], fresh)
    assert work.trials == [] and len(work.measurements) == 1
    with monkeypatch.context() as patched:
        patched.setattr(workers, "train", lambda *a: pytest.fail("it is shipped"))
        assert collect(fresh, m).equals(trained)
    assert keys.measurement_key(m, fresh) != key and keys.checkpoint_digest(QAVAT, fresh) == one.digest[:16]
    again = run_in(tmp_path / "c").but(shipped=tmp_path / "networks", train=True)
    assert [t.method for t in engine.missing([m], again).trials] == ["float", "QAVAT"]
    assert collect(again, m).equals(trained) and keys.measurement_key(m, again) == key
    retrained = restored(QAVAT, data.load("toy"), keys.checkpoint(QAVAT, again))
    for (_, a), (_, b) in zip(crossbars(one.network()), crossbars(retrained), strict=True):
        assert torch.equal(a.cells(), b.cells())


def test_edits_of_the_training_code_keep_what_is_shipped(tmp_path, monkeypatch):
    settings = run_in(tmp_path).but(shipped=tmp_path)
    state = train(FLOAT, data.load("toy"), None)
    before = keys.trial_key(QAVAT, settings)
    shipped.ship(FLOAT, data.load("toy"), state, tmp_path / "float.safetensors", {})
    key = keys.trial_key(FLOAT, settings)
    assert keys.trial_key(QAVAT, settings) != before  # it starts from another network now
    monkeypatch.setitem(sources.SOURCES, "training", sources.SOURCES["training"] + "\nEDITED = 1\n")
    assert keys.trial_key(FLOAT, settings) == key
    assert keys.trial_key(FLOAT, settings.but(train=True)) != key
