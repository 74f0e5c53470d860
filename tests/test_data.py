"""Datasets as tensors: the embedded one, folders, failed downloads, splits, batches, augmentation."""

import gzip
import math
import os
import shutil
from pathlib import Path

import numpy as np
import pytest
import torch
from conftest import ROOT
from PIL import Image

from lib import Images, load
from lib.checks import InputError
from lib.data import FASHION_FINGERPRINT, Augment, augmented, fingerprint, keyed_generator

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


@pytest.mark.parametrize("wrong", [{"crop": -1}, {"crop": 1.5}, {"rotate": -3}, {"rotate": math.nan}], ids=str)
def test_an_impossible_augmentation_is_refused(wrong):
    with pytest.raises(InputError, match=f"{next(iter(wrong))} must be"):
        Augment(**wrong)


@pytest.mark.parametrize("kind", [torch.uint8, torch.float32], ids=str)
def test_augmentation_moves_each_image_on_its_own(kind):
    x = torch.arange(2 * 36).view(2, 1, 6, 6).repeat(20, 1, 1, 1).to(kind)
    flipped = augmented(x, Augment(flip=True), keyed_generator(0))
    same = (flipped == x).flatten(1).all(1)
    assert 5 < int(same.sum()) < 35 and torch.equal(flipped[~same], x[~same].flip(-1))
    cropped = augmented(x, Augment(crop=2), keyed_generator(0))
    padded = torch.nn.functional.pad(x, [2] * 4)
    windows = {(i, j): padded[:, :, i : i + 6, j : j + 6] for i in range(5) for j in range(5)}
    found = {next(at for at, w in windows.items() if torch.equal(w[k], cropped[k])) for k in range(len(x))}
    assert len(found) > 8
    turned = augmented(x, Augment(rotate=15), keyed_generator(0))
    assert turned.shape == x.shape and turned.dtype == kind and not torch.equal(turned, x)


def noise(n=12, h=15, w=15):
    """Pixels of 100 to 255: none is black."""
    return torch.randint(100, 256, (n, 3, h, w), generator=torch.Generator().manual_seed(0), dtype=torch.uint8)


def split_of(pixels):
    return Images(pixels, torch.arange(len(pixels)), (0.5, 0.4, 0.3), (0.2, 0.25, 0.3))


def test_padding_is_black_before_it_is_normalized():
    """[code 2021] crops images, then normalizes them: a border of zeros after that would be grey."""
    images = split_of(noise())
    x, labels = next(images.batches(12, (0,), Augment(crop=4)))
    black = -torch.tensor(images.mean) / torch.tensor(images.std)
    outside = (x < images.normalized(torch.full((1, 3, 1, 1), 50, dtype=torch.uint8))).all(1)
    assert outside.any() and torch.allclose(x.movedim(1, -1)[outside], black)
    assert not outside[:, 4:-4, 4:-4].any()


def test_a_batch_is_made_of_its_augmented_pixels():
    images, augment = split_of(noise()), Augment(crop=2, flip=True, rotate=20)
    x, labels = next(images.batches(12, (0,), augment))
    rng = keyed_generator("batches", 0)
    order = torch.from_numpy(rng.permutation(12))
    assert torch.equal(labels, order)
    assert torch.equal(x, images.normalized(augmented(images.pixels[order], augment, rng)))


def test_a_rotation_makes_no_new_values_and_black_corners():
    pixels = torch.randint(100, 104, (40, 1, 15, 15), dtype=torch.uint8)
    turned = augmented(pixels, Augment(rotate=45), keyed_generator(0))
    assert turned.dtype == torch.uint8 and set(turned.unique().tolist()) == {0, 100, 101, 102, 103}
    assert (turned[:, :, 7, 7] == pixels[:, :, 7, 7]).all()
    assert (turned[..., 0, 0] == 0).any() and not (turned[:, :, 4:-4, 4:-4] == 0).any()
    ones = split_of(torch.full((20, 3, 15, 15), 200, dtype=torch.uint8))
    x, _ = next(ones.batches(20, (0,), Augment(rotate=45)))
    assert torch.equal(x[:, 0].unique(), ones.normalized(torch.tensor([[[[0, 200]]] * 3], dtype=torch.uint8))[0, 0, 0])


@pytest.mark.parametrize("h,w", [(32, 32), (20, 36)])
def test_a_rotation_is_that_of_torchvision(h, w):
    """Of a Pillow image with the defaults, as in [code 2021]."""
    from torchvision.transforms.functional import rotate

    x = noise(10, h, w)
    angles = keyed_generator(0).uniform(-15, 15, 10)
    ours = augmented(x, Augment(rotate=15), keyed_generator(0)).permute(0, 2, 3, 1).numpy()
    for image, turned, angle in zip(x, ours, angles):
        theirs = np.asarray(rotate(Image.fromarray(image.permute(1, 2, 0).numpy()), angle))
        assert (turned == theirs).mean() > 0.995  # a point may lie half way between two pixels


def test_no_augmentation_changes_nothing_and_no_input_is_changed():
    x = noise()
    before = x.clone()
    assert augmented(x, Augment(), keyed_generator(0)) is x
    images = split_of(x)
    got, labels = next(images.batches(12, (0,)))
    assert torch.equal(got, images.normalized()[labels])
    augmented(x, Augment(crop=3, flip=True, rotate=30), keyed_generator(0))
    list(images.batches(5, (0,), Augment(crop=3, flip=True, rotate=30)))
    assert torch.equal(x, before)


def test_draws_keep_their_order():
    """Flips, then rows, columns and angles: a run is repeated by its seed."""
    x, rng = noise(), keyed_generator(1)
    got = augmented(x, Augment(crop=2, flip=True, rotate=15), keyed_generator(1))
    flips = torch.from_numpy(rng.random(12) < 0.5)
    rows, columns = (rng.integers(0, 5, 12) for _ in range(2))
    x = torch.where(flips.view(-1, 1, 1, 1), x.flip(-1), x)
    padded = torch.nn.functional.pad(x, [2] * 4)
    x = torch.stack([image[:, i : i + 15, j : j + 15] for image, i, j in zip(padded, rows, columns)])
    assert torch.equal(got, augmented(x, Augment(rotate=15), rng))


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


def picture(path, value, size=(16, 16)):
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.fromarray(np.full((*size, 3), value, np.uint8)).save(path)


@pytest.fixture
def pets(tmp_path):
    """A folder train, test of cat, dog with twelve images each."""
    for split in ("train", "test"):
        for label, value in (("cat", 10), ("dog", 200)):
            for i in range(12):
                picture(tmp_path / "pets" / split / label / f"{i:02}.png", value + i)
    return tmp_path / "pets"


def refusal(path):
    """The one line that refuses an image folder."""
    with pytest.raises(InputError) as error:
        load(f"imagefolder:{path}")
    assert "\n" not in str(error.value)
    return str(error.value)


def test_any_class_folder_tree(pets, tmp_path):
    data = load(f"imagefolder:{pets}")
    assert data.name == "imagefolder:pets" and data.classes == 2 and data.channels == 3 and len(data.test) == 24
    assert data.test.labels.tolist() == [0] * 12 + [1] * 12
    assert data.test.pixels[:, 0, 0, 0].tolist()[11:13] == [21, 200]
    moved = tmp_path / "elsewhere" / "pets"
    shutil.copytree(pets, moved)
    assert load(f"imagefolder:{moved}").fingerprint == data.fingerprint  # content counts, the path does not
    picture(moved / "test" / "cat" / "00.png", 99)
    assert load(f"imagefolder:{moved}").fingerprint != data.fingerprint


def test_a_folder_is_read_as_torchvision_reads_it(pets):
    from torchvision.datasets import ImageFolder

    picture(pets / "train" / "cat" / "deeper" / "0.PNG", 77)
    picture(pets / "train" / "cat" / "04.jpg", 66)
    (pets / "train" / "notes.txt").write_text("no class"), (pets / "train" / "dog" / "notes.txt").write_text("no image")
    found = ImageFolder(pets / "train")
    data = load(f"imagefolder:{pets}")
    splits = data.train, data.validation
    pairs = [pair for split in splits for pair in zip(split.pixels.numpy(), split.labels.tolist())]
    theirs = sorted((label, np.asarray(image).transpose(2, 0, 1).tobytes()) for image, label in found)
    assert sorted((label, pixels.tobytes()) for pixels, label in pairs) == theirs


def test_the_same_content_has_one_validation_split_whatever_its_name(pets):
    renamed = pets.rename(pets.with_name("animals"))
    shutil.copytree(renamed, pets)
    a, b = (load(f"imagefolder:{path}") for path in (pets, renamed))
    assert a.fingerprint == b.fingerprint and a.name != b.name
    assert torch.equal(a.validation.pixels, b.validation.pixels) and torch.equal(a.train.pixels, b.train.pixels)


@pytest.mark.parametrize("name", [".ipynb_checkpoints", ".Trash", "__MACOSX", "@eaDir"])
@pytest.mark.parametrize("filled", [False, True], ids=["empty", "filled"])
def test_a_folder_of_the_computers_own_is_no_class(pets, name, filled):
    before = load(f"imagefolder:{pets}")
    for place in (pets / "train", pets / "test" / "cat"):
        (place / name).mkdir()
        if filled:
            picture(place / name / "0.png", 50)
    after = load(f"imagefolder:{pets}")
    assert after.fingerprint == before.fingerprint and after.classes == 2


@pytest.mark.parametrize("name", ["._00.png", ".DS_Store", ".hidden.jpg", "Thumbs.db"])
def test_a_file_of_the_computers_own_is_no_image(pets, name):
    before = load(f"imagefolder:{pets}").fingerprint
    (pets / "train" / "cat" / name).write_bytes(b"\x00\x05\x16\x07")
    assert load(f"imagefolder:{pets}").fingerprint == before


def test_a_class_without_images_is_named(pets):
    (pets / "test" / "owl").mkdir()
    (pets / "test" / "owl" / "0.gif").write_bytes(b"GIF89a")
    message = refusal(pets)
    assert str(pets / "test" / "owl") in message and ".png" in message


def test_a_folder_without_classes_is_named(pets):
    shutil.rmtree(pets / "test")
    (pets / "test" / ".git").mkdir(parents=True)
    assert f"no images under {pets / 'test'}" in refusal(pets)


def test_classes_that_only_one_split_has_are_named(pets):
    (pets / "train" / "dog").rename(pets / "train" / "Dog")
    for i in range(7):
        picture(pets / "test" / f"bird{i}" / "0.png", 1)
    message = refusal(pets)
    assert "only train has 'Dog'" in message and "only test has 'bird0'" in message and "3 more" in message
    assert "cat" not in message


@pytest.mark.parametrize("kind", ["truncated", "empty", "text", "dangling link"])
def test_an_image_that_cannot_be_read_is_named(pets, kind):
    file = pets / "train" / "dog" / "05.png"
    Image.fromarray(noise(1, 16, 16)[0].permute(1, 2, 0).numpy()).save(file)
    whole = file.read_bytes()
    file.unlink()
    if kind == "dangling link":
        file.symlink_to(pets / "nowhere.png")
    else:
        file.write_bytes({"truncated": whole[: len(whole) // 2], "empty": b"", "text": b"not found\n"}[kind])
    assert f"cannot read the image {file}" in refusal(pets)


@pytest.mark.parametrize("kind", ["png", "tif", "pgm"])
def test_16_bit_grey_values_are_scaled_and_not_clipped(pets, kind):
    values = np.arange(256, dtype=np.uint16).reshape(16, 16) * 257
    for old in (pets / "test" / "cat").iterdir():
        old.unlink()
    Image.fromarray(values).save(pets / "test" / "cat" / f"0.{kind}")
    found = load(f"imagefolder:{pets}").test.pixels[0]
    assert torch.equal(found, torch.arange(256, dtype=torch.uint8).view(1, 16, 16).expand(3, -1, -1))


@pytest.mark.parametrize("bits", [8, 10, 12, 16])
def test_deep_grey_images_keep_the_high_byte_of_the_bits_in_use(pets, bits):
    """A camera's 12 bits, or 8 bits that an export stored as 16, would all be black as the high byte of 16."""
    values = np.arange(256, dtype=np.uint16).reshape(16, 16) << (bits - 8)
    for file in (pets / "test" / "cat").iterdir():
        Image.fromarray(values if file.stem == "00" else values // 2).save(file)
    found = load(f"imagefolder:{pets}").test
    first = found.pixels[found.labels == 0][0]
    assert torch.equal(first, torch.arange(256, dtype=torch.uint8).view(1, 16, 16).expand(3, -1, -1))


@pytest.mark.parametrize("values", [np.float32(0.5), np.int32(65536), np.int32(-1)], ids=str)
def test_grey_values_of_more_than_16_bits_are_refused_by_the_name_of_the_file(pets, values):
    file = pets / "test" / "cat" / "00.tif"
    Image.fromarray(np.full((16, 16), values)).save(file)
    message = refusal(pets)
    assert str(file) in message and f"{values:g}" in message


@pytest.mark.parametrize("split", ["train", "test"])
def test_the_first_image_of_another_size_is_named(pets, split):
    for name in ("07.png", "03.png"):
        picture(pets / split / "dog" / name, 9, (20, 24))
    expected = [str(pets / split / "dog" / "03.png"), "24×20", "16×16", "one size"]
    assert all(part in refusal(pets) for part in expected)


def test_the_first_image_that_is_not_square_is_named(pets):
    for file in pets.rglob("*.png"):
        picture(file, 1, (16, 18))
    assert f"{pets / 'train' / 'cat' / '00.png'} has 18×16 pixels" in refusal(pets)
