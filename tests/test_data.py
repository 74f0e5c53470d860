"""Datasets as tensors: the embedded one, folders, failed downloads, splits, batches, augmentation."""

import gzip
import os
import shutil

import numpy as np
import pytest
import torch
from PIL import Image

from conftest import ROOT
from lib import load
from lib.data import FASHION_FINGERPRINT, Augment, augmented, fingerprint, keyed_generator


def test_fashion_mnist_is_embedded_and_split():
    data = load("fashion-mnist")
    assert (len(data.train), len(data.validation), len(data.test)) == (55_000, 5_000, 10_000)
    assert (data.channels, data.size, data.classes) == (1, 28, 10)
    assert data.fingerprint == fingerprint("fashion-mnist") == FASHION_FINGERPRINT
    x = data.train.take(slice(0, 5000)).normalized()
    assert abs(x.mean()) < 0.05 and abs(x.std() - 1) < 0.05


def test_validation_is_cut_from_training_data_without_overlap():
    data = load("fashion-mnist")
    rows = {name: {r.tobytes() for r in split.pixels.numpy()} for name, split in (("t", data.train), ("v", data.validation))}
    assert len(rows["t"] & rows["v"]) < 10  # the published set itself repeats a few images


def test_balanced_subsets_are_fixed_and_nested():
    test = load("fashion-mnist").test
    small, large = test.balanced(100), test.balanced(1000)
    assert (large.labels.bincount() == 100).all()
    assert torch.equal(small.pixels, large.pixels[:100])
    assert test.balanced(None) is test


def test_batches_are_a_function_of_their_key(images):
    a, b, c = ([labels for _, labels in images.batches(10, key)] for key in ((0, 1), (0, 1), (0, 2)))
    assert all(torch.equal(x, y) for x, y in zip(a, b)) and not torch.equal(torch.cat(a), torch.cat(c))
    assert len(a) == 9 and all(len(x) == 10 for x in a)  # the short last batch is dropped
    assert [len(x) for _, x in images.take(slice(0, 7)).batches(10, (0,))] == [7]


def test_augmentation_moves_each_image_on_its_own():
    x = torch.arange(2 * 36.0).view(2, 1, 6, 6).repeat(20, 1, 1, 1)
    flipped = augmented(x, Augment(flip=True), keyed_generator(0))
    same = (flipped == x).flatten(1).all(1)
    assert 5 < int(same.sum()) < 35 and torch.equal(flipped[~same], x[~same].flip(-1))
    cropped = augmented(x, Augment(crop=2), keyed_generator(0))
    padded = torch.nn.functional.pad(x, [2] * 4)
    windows = {(i, j): padded[:, :, i : i + 6, j : j + 6] for i in range(5) for j in range(5)}
    found = {next(at for at, w in windows.items() if torch.equal(w[k], cropped[k])) for k in range(len(x))}
    assert len(found) > 8
    turned = augmented(x, Augment(rotate=15), keyed_generator(0))
    assert turned.shape == x.shape and not torch.equal(turned, x)


def test_a_damaged_file_says_how_to_restore_it(tmp_path):
    shutil.copytree(ROOT / "data" / "fashion-mnist", tmp_path / "fashion-mnist")
    path = tmp_path / "fashion-mnist" / "t10k-labels-idx1-ubyte.gz"
    raw = bytearray(gzip.decompress(path.read_bytes()))
    raw[100] ^= 1
    path.write_bytes(gzip.compress(bytes(raw)))
    with pytest.raises(RuntimeError, match="damaged .* git checkout"):
        load("fashion-mnist", tmp_path)
    path.unlink()
    with pytest.raises(RuntimeError, match="cannot read .* git checkout"):
        load("fashion-mnist", tmp_path)


@pytest.mark.parametrize("name,needs", [("cifar10", "cifar-10-python.tar.gz"), ("mnist", "MNIST")])
def test_a_failed_download_says_what_to_fetch_and_leaves_nothing(tmp_path, monkeypatch, name, needs):
    import urllib.request

    def refuse(*arguments, **options):
        raise OSError("no route to host")

    monkeypatch.setattr(urllib.request, "urlopen", refuse)
    with pytest.raises(RuntimeError) as error:
        load(name, tmp_path)
    assert needs in str(error.value) and "--data-dir" in str(error.value) and "\n" not in str(error.value)
    assert os.listdir(tmp_path) == []


def picture(path, value, size=16):
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.fromarray(np.full((size, size, 3), value, np.uint8)).save(path)


def test_any_class_folder_tree(tmp_path):
    for split in ("train", "test"):
        for label, value in (("cat", 10), ("dog", 200)):
            for i in range(12):
                picture(tmp_path / "pets" / split / label / f"{i}.png", value + i)
    data = load(f"imagefolder:{tmp_path / 'pets'}")
    assert data.name == "imagefolder:pets" and data.classes == 2 and data.channels == 3 and len(data.test) == 24
    moved = tmp_path / "elsewhere" / "pets"
    shutil.copytree(tmp_path / "pets", moved)
    assert load(f"imagefolder:{moved}").fingerprint == data.fingerprint  # content counts, the path does not
    picture(moved / "test" / "cat" / "0.png", 99)
    assert load(f"imagefolder:{moved}").fingerprint != data.fingerprint
    picture(moved / "test" / "cat" / "0.png", 99, size=20)
    with pytest.raises(ValueError, match="one size"):
        load(f"imagefolder:{moved}")
    shutil.rmtree(moved / "test" / "dog")
    with pytest.raises(ValueError, match="classes"):
        load(f"imagefolder:{moved}")
