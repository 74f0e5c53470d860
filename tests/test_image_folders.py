"""Folders of images as datasets: what is read, as torchvision reads it, and what is named where it cannot be."""

import shutil

import numpy as np
import pytest
import torch
from conftest import noise
from PIL import Image

from lib import load
from lib.checks import InputError


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
