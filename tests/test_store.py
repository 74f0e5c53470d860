"""The store: keys that follow formulas, entries that notice damage, counts that only grow."""

import shutil
from pathlib import Path

import numpy as np
import pytest
import torch

import lib
from lib.evaluation import Counts
from lib.store import MEASURING_SOURCES, TRAINING_SOURCES, Store, key_of

STATE = {"net/w": torch.arange(6.0).view(2, 3), "optimizer/0/momentum_buffer": torch.ones(3), "epoch": torch.tensor(2)}


def counts(*chips):
    n = np.array(chips)
    return Counts(n, np.full_like(n, 100), 50 + n)


@pytest.fixture
def sources(tmp_path):
    folder = tmp_path / "sources"
    shutil.copytree(Path(lib.__file__).parent, folder, ignore=shutil.ignore_patterns("__pycache__"))
    return folder


def keys(folder):
    from lib.store import _source_digest

    _source_digest.cache_clear()
    return [key_of({"a": 1}, stage, folder) for stage in (TRAINING_SOURCES, MEASURING_SOURCES)]


def test_a_number_in_a_formula_changes_both_keys(sources):
    before = keys(sources)
    path = sources / "quantizers.py"
    text = path.read_text()
    assert "2 ** (bits - 1) - 1" in text
    path.write_text(text.replace("2 ** (bits - 1) - 1", "2 ** (bits - 1) - 2", 1))
    after = keys(sources)
    assert after[0] != before[0] and after[1] != before[1]


def test_a_new_tuner_keeps_the_checkpoints(sources):
    before = keys(sources)
    (sources / "selftuning.py").write_text("FLOOR = 0.25\n")
    after = keys(sources)
    assert after[0] == before[0] and after[1] != before[1]


def test_comments_and_docstrings_do_not_count(sources):
    before = keys(sources)
    path = sources / "variation.py"
    path.write_text(path.read_text().replace('"""e_W = σ·z."""', '"""The same in other words."""') + "\n# a remark\n")
    assert keys(sources) == before


def test_configuration_counts():
    assert key_of({"a": 1, "b": 2}, ()) == key_of({"b": 2, "a": 1}, ()) != key_of({"a": 1, "b": 3}, ())
    with pytest.raises(ValueError):
        key_of({"sigma": float("nan")}, ())


def test_checkpoints_come_back_without_the_optimizer(tmp_path):
    store = Store(tmp_path)
    assert store.checkpoint("k") is None
    store.save_progress("k", STATE, {})
    assert all(torch.equal(v, STATE[n]) for n, v in store.progress("k").items())
    store.save_checkpoint("k", STATE, {"sigma": 0.3})
    assert list(store.checkpoint("k")) == ["net/w"] and store.progress("k") is None
    assert store.has_checkpoint("k") and not store.has_checkpoint("other")


@pytest.mark.parametrize("damage", ["truncate", "flip", "empty"])
def test_damage_is_noticed_reported_and_removed(tmp_path, damage, capsys):
    store = Store(tmp_path)
    store.save_checkpoint("k", STATE, {})
    store.append_counts("m", counts(0, 1), {})
    for path in [*tmp_path.glob("checkpoints/*/*"), *tmp_path.glob("counts/*/*.csv")]:
        content = bytearray(path.read_bytes())
        if damage == "flip":
            content[len(content) // 2] ^= 1
        path.write_bytes({"truncate": content[:-3], "flip": content, "empty": b""}[damage])
    assert store.checkpoint("k") is None and len(store.counts("m").chips) == 0
    assert capsys.readouterr().err.count("damaged entry") == 2
    assert not list(tmp_path.glob("checkpoints/*/*")) and not list(tmp_path.glob("counts/*/*.csv"))


def test_counts_only_grow_and_never_repeat(tmp_path):
    store = Store(tmp_path)
    store.append_counts("m", counts(0, 1, 2), {"sigma": 0.3})
    store.append_counts("m", counts(5, 6), {"sigma": 0.3})
    store.append_counts("m", counts(2, 3, 4), {"sigma": 0.3})  # another run measured chip 2 as well
    got = store.counts("m")
    assert got.chips.tolist() == list(range(7)) and got.correct.tolist() == list(range(50, 57))
    assert (tmp_path / "counts" / "m" / "m.json").exists()


def test_progress_keeps_only_the_newest(tmp_path):
    store = Store(tmp_path)
    for epoch in range(3):
        store.save_progress("k", STATE | {"epoch": torch.tensor(epoch)}, {})
    assert int(store.progress("k")["epoch"]) == 2 and len(list(tmp_path.glob("progress/*/*"))) == 1


def test_a_folder_that_cannot_be_written_is_one_line(tmp_path):
    (tmp_path / "counts").write_text("in the way")
    with pytest.raises(OSError, match="cannot write to the store .* nothing stored so far is lost"):
        Store(tmp_path).append_counts("m", counts(0), {})


def test_clean_removes_everything(tmp_path):
    store = Store(tmp_path / "cache")
    store.save_checkpoint("k", STATE, {})
    store.discard("k")
    assert store.checkpoint("k") is None
    store.clean()
    assert not (tmp_path / "cache").exists()
