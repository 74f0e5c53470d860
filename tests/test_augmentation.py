"""Augmentation of images: crops, flips and rotations, each image on its own, drawn in a fixed order."""

import math

import numpy as np
import pytest
import torch
from conftest import noise
from PIL import Image

from lib import Images
from lib.checks import InputError
from lib.data import Augment, augmented, keyed_generator


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
