"""Folders of images as arrays: PATH/train/CLASS/*, PATH/test/CLASS/*; square RGB images of one size.

What computers add by themselves (hidden files and folders, `__MACOSX`, `@eaDir`) is neither class nor image.  What
cannot be used is named by its path.
"""

from __future__ import annotations

import os
from collections.abc import Collection
from pathlib import Path

import numpy as np

from .checks import InputError

KINDS = (".jpg", ".jpeg", ".png", ".ppm", ".bmp", ".pgm", ".tif", ".tiff", ".webp")
SIZES = "images must be square and of one size; resize them first"


def read_folder(path: Path) -> list[tuple[np.ndarray, list[int]]]:
    """(pixels uint8 (N, H, W, 3), labels by the alphabetical order of the classes), of train and of test."""
    found = {split: _classes(path / split) for split in ("train", "test")}
    _same_classes(path, found["train"], found["test"])
    arrays: dict[Path, np.ndarray] = {}
    for file in [file for classes in found.values() for files in classes.values() for file in files]:
        arrays[file] = _pixels(file)
        _same_size(file, arrays)
    _to_eight_bits(arrays)
    return [
        (
            np.stack([arrays[file] for files in classes.values() for file in files]),
            [label for label, files in enumerate(classes.values()) for _ in files],
        )
        for classes in found.values()
    ]


def _classes(folder: Path) -> dict[str, list[Path]]:
    """Class → its images, classes in alphabetical order."""
    try:
        names = sorted(entry.name for entry in os.scandir(folder) if entry.is_dir() and not _hidden(entry.name))
    except OSError:
        names = []
    if not names:
        raise InputError(f"no images under {folder}; imagefolder:PATH needs PATH/train/CLASS/* and PATH/test/CLASS/*")
    classes = {name: _images(folder / name) for name in names}
    for name, files in classes.items():
        if not files:
            kinds = ", ".join(KINDS)
            raise InputError(f"no images in {folder / name}; every class needs some ({kinds}), or remove the folder")
    return classes


def _images(folder: Path) -> list[Path]:
    """In the order of torchvision's `ImageFolder`, since the order is part of a dataset's fingerprint."""
    found = []
    for inside, _, files in sorted(os.walk(folder, followlinks=True)):
        if not any(map(_hidden, Path(inside).relative_to(folder).parts)):
            wanted = [name for name in sorted(files) if name.lower().endswith(KINDS) and not _hidden(name)]
            found += [Path(inside) / name for name in wanted]
    return found


def _hidden(name: str) -> bool:
    return name.startswith(".") or name in ("__MACOSX", "@eaDir")


def _same_classes(path: Path, train: Collection[str], test: Collection[str]) -> None:
    only = {"train": sorted(set(train) - set(test)), "test": sorted(set(test) - set(train))}
    differing = [f"only {split} has {_listed(names)}" for split, names in only.items() if names]
    if differing:
        raise InputError(f"{path}: train and test must have the same classes; {', '.join(differing)}")


def _listed(names: list[str], most: int = 5) -> str:
    return " ".join(map(repr, names[:most])) + (f" and {len(names) - most} more" if len(names) > most else "")


def _pixels(file: Path) -> np.ndarray:
    """uint8 (H, W, 3), or grey values of more bits (H, W)."""
    from PIL import Image

    try:
        with Image.open(file) as image:
            array = np.array(image if image.mode[0] in "IF" else image.convert("RGB"))
    except Exception as error:  # Pillow's readers raise anything from OSError to SyntaxError
        raise InputError(f"cannot read the image {file} ({' '.join(str(error).split())}); mend or remove it") from None
    if array.ndim == 2 and (array.dtype.kind == "f" or array.min() < 0 or array.max() > 65535):
        raise InputError(
            f"{file} has grey values from {array.min():g} to {array.max():g} ({array.dtype}); allowed are 8 or 16 "
            "bits: scale them to 0…65535 and save it as a 16-bit PNG"
        )
    return array


def _to_eight_bits(arrays: dict[Path, np.ndarray]) -> None:
    """Grey values of more than 8 bits to the high byte of the bits in use, three times.  How many are in use (12 of a
    camera, 8 of a careless export) the largest value of all images tells: one scale for the whole dataset."""
    deep = {file: array for file, array in arrays.items() if array.ndim == 2}
    bits = max(8, *(int(array.max()).bit_length() for array in deep.values()), 0) if deep else 8
    for file, array in deep.items():
        arrays[file] = np.repeat((array >> (bits - 8)).astype(np.uint8)[..., None], 3, 2)


def _same_size(file: Path, arrays: dict[Path, np.ndarray]) -> None:
    """Of the array last read, against the first."""
    first, (height, width) = next(iter(arrays)), arrays[file].shape[:2]
    if arrays[first].shape[:2] != (height, width):
        other = "×".join(map(str, arrays[first].shape[1::-1]))
        raise InputError(f"{file} has {width}×{height} pixels, but {first} has {other}; {SIZES}")
    if height != width:
        raise InputError(f"{file} has {width}×{height} pixels; {SIZES}")
