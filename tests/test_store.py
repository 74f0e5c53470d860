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
    store.save_table("t", "a,b\n1,2\n", {})
    for path in [*tmp_path.glob("checkpoints/*/*"), *tmp_path.glob("*/*/*.csv")]:
        content = bytearray(path.read_bytes())
        if damage == "flip":
            content[len(content) // 2] ^= 1
        path.write_bytes({"truncate": content[:-3], "flip": content, "empty": b""}[damage])
    assert store.checkpoint("k") is None and len(store.counts("m").chips) == 0 and store.table("t") is None
    assert capsys.readouterr().err.count("damaged entry") == 3
    assert not list(tmp_path.glob("checkpoints/*/*")) and not list(tmp_path.glob("*/*/*.csv"))


def write_two(folder):
    (folder / "a").mkdir()
    (folder / "a" / "one").write_text("1")
    (folder / "two").write_text("2")


def test_a_folder_is_made_once(tmp_path):
    store = Store(tmp_path)
    made = store.folder_of("k", write_two)
    assert (made / "a" / "one").read_text() == "1" and (made / "two").read_text() == "2"
    assert store.folder_of("k", lambda folder: pytest.fail("it is there")) == made


@pytest.mark.parametrize("damage", ["cut", "removed", "renamed", "added"])
def test_a_damaged_folder_is_reported_and_made_again(tmp_path, damage, capsys):
    made = Store(tmp_path).folder_of("k", write_two)
    one = made / "a" / "one"
    {
        "cut": lambda: one.write_text(""),
        "removed": one.unlink,
        "renamed": lambda: one.rename(made / "one"),
        "added": lambda: (made / "three").write_text("3"),
    }[damage]()
    assert Store(tmp_path).folder_of("k", write_two) == made
    assert sorted(path.name for path in made.rglob("*")) == ["a", "one", "two"] and one.read_text() == "1"
    assert "damaged entry" in capsys.readouterr().err


def test_a_folder_is_complete_or_not_there(tmp_path):
    def interrupted(folder):
        write_two(folder)
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        Store(tmp_path).folder_of("k", interrupted)
    assert not [path for path in tmp_path.rglob("*") if path.is_file()]

    def second(folder):  # another run is faster
        write_two(folder)
        Store(tmp_path).folder_of("k", write_two)

    made = Store(tmp_path).folder_of("k", second)
    assert [path.name for path in made.parent.iterdir()] == [made.name]


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
    (tmp_path / "folders").write_text("in the way")
    for write in (lambda store: store.append_counts("m", counts(0), {}), lambda store: store.folder_of("k", write_two)):
        with pytest.raises(OSError, match="cannot write to the store .* nothing stored so far is lost"):
            write(Store(tmp_path))


def test_clean_removes_everything(tmp_path):
    store = Store(tmp_path / "cache")
    store.save_checkpoint("k", STATE, {})
    store.discard("k")
    assert store.checkpoint("k") is None
    store.clean()
    assert not (tmp_path / "cache").exists()
