"""Datasets as tensors: the embedded one, splits, batches, what is refused, failed downloads."""

import gzip
import math
import os
import shutil
from pathlib import Path

import numpy as np
import pytest
import torch
from conftest import ROOT

from lib import Images, load
from lib.checks import InputError
from lib.data import FASHION_FINGERPRINT, fingerprint

PIXELS, LABELS = torch.zeros(3, 2, 4, 4, dtype=torch.uint8), torch.tensor([0, 1, 1])
MOMENTS = (0.5, 0.5), (0.2, 0.2)


def test_fashion_mnist_is_embedded_and_split():
    data = load("fashion-mnist")
    assert (len(data.train), len(data.validation), len(data.test)) == (55_000, 5_000, 10_000)
    assert (data.channels, data.size, data.classes) == (1, 28, 10)
    assert data.fingerprint == fingerprint("fashion-mnist") == FASHION_FINGERPRINT
    x = data.train.take(slice(0, 5000)).normalized()
    assert abs(x.mean()) < 0.05 and abs(x.std() - 1) < 0.05


def test_validation_is_cut_from_training_data_without_overlap():
    data = load("fashion-mnist")
    train, validation = ({image.tobytes() for image in split.pixels.numpy()} for split in (data.train, data.validation))
    assert len(train & validation) < 10  # the published set itself repeats a few images


def test_balanced_subsets_are_fixed_and_nested():
    test = load("fashion-mnist").test
    small, large = test.balanced(100), test.balanced(1000)
    assert (large.labels.bincount() == 100).all()
    assert torch.equal(small.pixels, large.pixels[:100])
    assert test.balanced(None) is test
    rest, some = test.balanced(None, skip=1000), test.balanced(100, skip=1000)
    assert len(rest) == 9000 and (some.labels.bincount() == 10).all()
    assert torch.equal(some.pixels, rest.pixels[:100])
    seen = {image.numpy().tobytes() for image in large.pixels}
    assert sum(image.numpy().tobytes() in seen for image in rest.pixels) <= 2  # the set itself holds a few twice
    for n, skip, fault in ((9001, 1000, "number of images .*1 to 9000"), (1, 10_000, "to skip .*0 to 9999")):
        with pytest.raises(InputError, match=fault):
            test.balanced(n, skip)


def test_batches_are_a_function_of_their_key(images):
    a, b, c = ([labels for _, labels in images.batches(10, key)] for key in ((0, 1), (0, 1), (0, 2)))
    assert all(torch.equal(x, y) for x, y in zip(a, b)) and not torch.equal(torch.cat(a), torch.cat(c))
    assert len(a) == 9 and all(len(x) == 10 for x in a)  # the short last batch is dropped
    assert [len(x) for _, x in images.take(slice(0, 7)).batches(10, (0,))] == [7]


NO_IMAGES = {  # what a user may pass instead → what the one line says
    "scaled pixels": ((PIXELS / 255, LABELS, *MOMENTS), ["uint8", "float32", "(255 * x).round().to(torch.uint8)"]),
    "wide pixels": ((PIXELS.long(), LABELS, *MOMENTS), ["uint8", "int64"]),
    "NumPy pixels": ((PIXELS.numpy(), LABELS, *MOMENTS), ["uint8", "ndarray", "torch.as_tensor"]),
    "no channels": ((PIXELS[:, 0], LABELS, *MOMENTS), ["(N, C, H, W)", "(3, 4, 4)", "unsqueeze(1)"]),
    "empty pixels": ((PIXELS[:, :0], LABELS, (), ()), ["(N, C, H, W)", "(3, 0, 4, 4)"]),
    "channels last": ((PIXELS.repeat(1, 4, 1, 1), LABELS, *MOMENTS), ["8 numbers", "got 2", "permute"]),
    "column of labels": ((PIXELS, LABELS[:, None], *MOMENTS), ["(N,)", "(3, 1)", "flatten"]),
    "one-hot labels": ((PIXELS, torch.eye(3).long(), *MOMENTS), ["(N,)", "(3, 3)", "argmax(1)"]),
    "one label": ((PIXELS, torch.tensor(1), *MOMENTS), ["(N,)", "()"]),
    "float labels": ((PIXELS, LABELS.float(), *MOMENTS), ["integers", "float32", "labels.long()"]),
    "bool labels": ((PIXELS, LABELS > 0, *MOMENTS), ["integers", "bool"]),
    "NumPy labels": ((PIXELS, LABELS.numpy(), *MOMENTS), ["integers", "ndarray", "torch.as_tensor"]),
    "list of labels": ((PIXELS, [0, 1, 1], *MOMENTS), ["integers", "list", "torch.as_tensor"]),
    "negative label": ((PIXELS, LABELS - 1, *MOMENTS), ["labels", "≥ 0", "-1"]),
    "few labels": ((PIXELS, LABELS[:2], *MOMENTS), ["3 images", "2 labels"]),
    "one mean": ((PIXELS, LABELS, (0.5,), (0.2, 0.2)), ["mean", "2 numbers", "got 1"]),
    "a number as mean": ((PIXELS, LABELS, 0.5, 0.2), ["mean", "2 numbers", "float"]),
    "mean of 0…255": ((PIXELS, LABELS, (127.5, 127.5), (51.0, 51.0)), ["mean", "0…1", "127.5"]),
    "std without end": ((PIXELS, LABELS, (0.5, 0.5), (0.2, math.inf)), ["std", "inf"]),
    "mean that is none": ((PIXELS, LABELS, (0.5, math.nan), (0.2, 0.2)), ["mean", "nan"]),
    "std 0": ((PIXELS, LABELS, (0.5, 0.5), (0.2, 0.0)), ["std", "> 0", "0.0"]),
    "negative std": ((PIXELS, LABELS, (0.5, 0.5), (0.2, -0.2)), ["std", "-0.2"]),
}


@pytest.mark.parametrize("case", NO_IMAGES, ids=str)
def test_what_is_no_split_is_refused_in_one_line(case):
    arguments, expected = NO_IMAGES[case]
    with pytest.raises(InputError) as error:
        Images(*arguments)
    message = str(error.value)
    assert "\n" not in message and all(part in message for part in expected), message


@pytest.mark.parametrize("kind", [torch.uint8, torch.int8, torch.int16, torch.int32, torch.uint16], ids=str)
def test_labels_of_any_integer_type_become_int64(kind):
    images = Images(PIXELS, LABELS.to(kind), *MOMENTS)
    assert images.labels.dtype == torch.int64 and torch.equal(images.labels, LABELS)


NO_NAMES = [Path("imagefolder:pets"), 3, None, b"mnist", np.zeros((30, 2))]


@pytest.mark.parametrize("name", NO_NAMES, ids=lambda name: type(name).__name__)
def test_a_dataset_that_is_not_named_by_text_is_refused(name):
    with pytest.raises(InputError, match="name is text.*'imagefolder:PATH'") as error:
        load(name)
    assert "\n" not in str(error.value)


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
