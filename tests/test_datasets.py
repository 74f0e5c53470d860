"""Folders of images as a run reads them: decoded once, read again where a file changed."""

import numpy as np
import pytest
from PIL import Image

from lib import data
from lib.experiments import datasets


@pytest.fixture
def pets(tmp_path, monkeypatch):
    monkeypatch.setenv("ANALOG_PIM_CACHE", str(tmp_path / "cache"))
    rng = np.random.default_rng(0)
    for split, n in (("train", 24), ("test", 4)):
        for label in ("cat", "dog"):
            (folder := tmp_path / "pets" / split / label).mkdir(parents=True)
            for i in range(n):
                Image.fromarray(rng.integers(0, 256, (8, 8, 3), np.uint8)).save(folder / f"{i:03}.png")
    datasets._folder.cache_clear()
    datasets._folders.cache_clear()
    return tmp_path / "pets"


def test_a_folder_is_decoded_once_and_is_what_the_library_reads(pets, tmp_path, monkeypatch):
    plain = data.load(f"imagefolder:{pets}")
    first = datasets.load(f"imagefolder:{pets}")
    assert first is datasets.load(f"imagefolder:{pets}")
    assert len(list((tmp_path / "cache" / "folders").iterdir())) == 1
    datasets._folder.cache_clear()  # another process
    monkeypatch.setattr(datasets, "read_folder", lambda path: pytest.fail("it is kept"))
    again = datasets.load(f"imagefolder:{pets}")
    for found in (first, again):
        assert (found.name, found.fingerprint) == ("imagefolder:pets", plain.fingerprint)
        assert (found.train.pixels == plain.train.pixels).all() and found.train.mean == plain.train.mean
    assert datasets.fingerprint(f"imagefolder:{pets}") == plain.fingerprint


def test_a_file_that_comes_is_noticed(pets):
    before = datasets.fingerprint(f"imagefolder:{pets}")
    Image.fromarray(np.zeros((8, 8, 3), np.uint8)).save(pets / "train" / "cat" / "more.png")
    assert datasets.fingerprint(f"imagefolder:{pets}") != before
    (pets / "train" / "cow").mkdir()
    with pytest.raises(ValueError, match="cow"):
        datasets.load(f"imagefolder:{pets}")


def test_a_damaged_or_missing_cache_costs_time_alone(pets, tmp_path):
    before = datasets.fingerprint(f"imagefolder:{pets}")
    (kept,) = (tmp_path / "cache" / "folders").iterdir()
    kept.write_bytes(b"damaged")
    datasets._folder.cache_clear()
    assert datasets.fingerprint(f"imagefolder:{pets}") == before
