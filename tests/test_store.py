"""The store: keys that follow formulas, entries that notice damage, counts that only grow."""

import subprocess
import sys

import numpy as np
import pytest
import torch
from conftest import ROOT, copy_project, environment, replaced

from lib import sources
from lib.checks import RunError
from lib.evaluation import Counts
from lib.experiments.store import Store, key_of
from lib.sources import MEASURING_SOURCES, SOURCES, TRAINING_SOURCES

STATE = {"net/w": torch.arange(6.0).view(2, 3), "optimizer/0/momentum_buffer": torch.ones(3), "epoch": torch.tensor(2)}


def counts(*chips):
    n = np.array(chips)
    return Counts(n, np.full_like(n, 100), 50 + n)


def keys(**edits: tuple[str, str]):
    """The keys of both stages with some modules' texts edited: module=(old, new)."""
    texts = SOURCES | {name: replaced(SOURCES[name], *edit) for name, edit in edits.items()}
    return [key_of({"a": 1}, stage, texts) for stage in (TRAINING_SOURCES, MEASURING_SOURCES)]


def test_a_number_in_a_formula_changes_both_keys():
    before, after = keys(), keys(quantizers=("2 ** (bits - 1) - 1", "2 ** (bits - 1) - 2"))
    assert after[0] != before[0] and after[1] != before[1]


def test_a_new_tuner_keeps_the_checkpoints():
    before, after = keys(), keys(estimators=('return "oracle"', 'return "the oracle"'))
    assert after[0] == before[0] and after[1] != before[1]


SAME_CODE = [
    ('"""e_W of cells with the unit normals z."""', '"""The same in other words."""'),
    ("# Chips of one purpose never meet", "# A remark.  Chips of one purpose never meet"),
    ("return self.between * chip.z_between()", "return (self.between) * chip.z_between()"),
]


@pytest.mark.parametrize("old,new", SAME_CODE)
def test_comments_docstrings_and_layout_do_not_count(old, new):
    assert keys(variation=(old, new)) == keys()


def test_a_module_that_does_not_exist_is_an_error():
    """It would count for nothing, and its edits would go unnoticed."""
    for names in (("quantisers",), (*TRAINING_SOURCES, "")):
        with pytest.raises(LookupError, match="no module"):
            key_of({}, names)


# -- the code that ran ----------------------------------------------------------------------------------------

LIVE = """
import sys
from pathlib import Path
from lib import Variation, data, sources
from lib.experiments import engine
from lib.experiments.settings import Settings
from lib.trials import Measurement, Trial
from lib.training import Recipe
trial = Trial("fashion-mnist", "lenet5", "float", Recipe(epochs=1, batch_size=16), width=1/16, train_images=32)
m = Measurement(trial, Variation(), 1, images=20)
settings = Settings.read(jobs=0)
key = engine.trial_key(trial, settings)
path = Path(sources.FOLDER) / "{file}"
text = path.read_text("utf-8")
assert {old!r} in text
path.write_text(text.replace({old!r}, {new!r}), "utf-8")
assert engine.trial_key(trial, settings) == key  # a key speaks of the code in memory
try:
    engine.collect([m], settings, progress=False)
except RuntimeError as error:
    print("refused:", error)
try:
    settings.store.save_table("k", "a", {{}})
except RuntimeError as error:
    print("nothing stored:", not settings.cache.exists())
"""


EDITED = [
    ("quantizers.py", "TINY = 1e-8", "TINY = 1e-7", True),  # imported long ago
    ("controls.py", "chip_images = 0", "chip_images = 1", True),  # this run uses no control, but a key holds them
    ("data.py", "VALIDATION_SHARE = 12", "VALIDATION_SHARE = 12  # one in twelve", False),
    ("companion/figures.py", "import numpy as np", "import numpy as np  # noqa", False),
]


@pytest.mark.parametrize("file,old,new,refused", EDITED)
def test_an_edited_source_stops_a_run_before_anything_is_stored(tmp_path, file, old, new, refused):
    folder = copy_project(tmp_path / "copy")
    code = LIVE.format(file=file, old=old, new=new)
    env = environment(folder) | {"ANALOG_PIM_CACHE": str(tmp_path / "cache")}
    out = subprocess.run([sys.executable, "-c", code], cwd=folder, env=env, capture_output=True, text=True)
    assert out.returncode == 0, out.stderr
    assert ("refused: " in out.stdout) is refused and ("nothing stored: True" in out.stdout) is refused
    if refused:
        assert f"{file} has changed on disk" in out.stdout and "start again" in out.stdout


def test_an_edit_that_is_taken_back_is_no_change(tmp_path, monkeypatch):
    monkeypatch.setattr(sources, "_STAMPS", dict.fromkeys(sources._STAMPS, (0, 0)))  # as after touch
    sources.require_unchanged()
    monkeypatch.setattr(sources, "SOURCES", sources.SOURCES | {"variation": "x = 1"})
    with pytest.raises(RunError, match="variation.py has changed on disk"):
        Store(tmp_path).append_counts("m", counts(0), {})


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


def test_counts_only_grow_and_never_repeat(tmp_path):
    store = Store(tmp_path)
    store.append_counts("m", counts(0, 1, 2), {"sigma": 0.3})
    store.append_counts("m", counts(5, 6), {"sigma": 0.3})
    store.append_counts("m", counts(2, 3, 4), {"sigma": 0.3})  # another run measured chip 2 as well
    got = store.counts("m")
    assert got.chips.tolist() == list(range(7)) and got.correct.tolist() == list(range(50, 57))


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


def test_clean_leaves_what_is_not_its_own(tmp_path):
    store = Store(tmp_path)
    store.save_checkpoint("k", STATE, {})
    (tmp_path / "thesis.txt").write_text("mine")
    store.clean()
    assert [path.name for path in tmp_path.iterdir()] == ["thesis.txt"]


MINE = """
from dataclasses import dataclass
from lib.estimators import ReadOnce
@dataclass(frozen=True)
class Mine(ReadOnce):
    label = "mine"
    def estimate(self, chip, variation):
        return 1 * variation.shared(chip)
"""
USERS = """
from pathlib import Path
from lib import Recipe, SelfTuning, Variation
from lib.experiments import engine
from lib.trials import Measurement, Trial
import mine
if __name__ == "__main__":
    path = Path(mine.__file__)
    path.write_text(path.read_text().replace("return 1 *", "return -1 *"))
    recipe = Recipe(epochs=1, batch_size=16)
    trial = Trial("fashion-mnist", "lenet5", "QAT", recipe, "A4W4", width=1/16, train_images=32)
    m = Measurement(trial, Variation(0.1, 0.5), 2, images=20, tuning=SelfTuning(mine.Mine()))
    try:
        print(engine.frame(engine.collect([m], progress=False)))
    except RuntimeError as error:
        print("refused:", error)
"""


def test_a_users_module_edited_after_its_import_is_not_measured_by_workers(tmp_path):
    """Workers import what stands on disk; under the key of the old code they would store results of the new."""
    (tmp_path / "mine.py").write_text(MINE)
    (tmp_path / "script.py").write_text(USERS)
    env = environment(ROOT) | {"ANALOG_PIM_CACHE": str(tmp_path / "cache"), "ANALOG_PIM_JOBS": "1"}
    out = subprocess.run([sys.executable, "script.py"], cwd=tmp_path, env=env, capture_output=True, text=True)
    assert "refused: a worker has other code than the client" in out.stdout, out.stdout + out.stderr
    assert not list((tmp_path / "cache").glob("counts/*/*.csv"))
