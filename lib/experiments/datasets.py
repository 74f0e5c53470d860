"""Datasets as a run reads them: folders of images are decoded once and kept, as tensors, under folders/ of the cache.

Sixty thousand JPEGs take half a minute, and every process of a run needs them.  What is kept lies under the names,
sizes and times of all files; the fingerprint is that of the pixels, here as elsewhere.
"""

import contextlib
import hashlib
import os
import tempfile
from functools import lru_cache
from pathlib import Path

from safetensors import SafetensorError
from safetensors.torch import load_file, save_file

from .. import data
from ..data import FOLDER, Dataset, home
from ..folders import read_folder
from .store import CACHE_VARIABLE

PARTS = ("train pixels", "train labels", "test pixels", "test labels")


def load(name: str, folder: str | Path | None = None) -> Dataset:
    """As `lib.load`; a folder of images once a process, again where a file has come or gone."""
    if not (isinstance(name, str) and name.startswith(FOLDER)):
        return data.load(name, folder)
    path = Path(name.removeprefix(FOLDER)).absolute()
    return _folder(path, _times(path))


def fingerprint(name: str, folder: str | Path | None = None) -> str:
    """As that of `lib.data`."""
    return load(name, folder).fingerprint if name.startswith(FOLDER) else data.fingerprint(name, folder)


def _times(path: Path) -> tuple[int, ...]:
    """When something came into, or went from, each folder below."""
    try:
        return tuple(os.stat(folder).st_mtime_ns for folder in _folders(path))
    except FileNotFoundError:
        _folders.cache_clear()
        return tuple(os.stat(folder).st_mtime_ns for folder in _folders(path))


@lru_cache(4)
def _folders(path: Path) -> tuple[str, ...]:
    return tuple(inside for inside, _, _ in _walk(path))


def _walk(path: Path) -> list[tuple[str, list[str], list[str]]]:
    return sorted(os.walk(path, followlinks=True))


@lru_cache(4)
def _folder(path: Path, stamps: tuple[int, ...]) -> Dataset:
    files = [Path(inside, name) for inside, _, names in _walk(path) for name in ["", *sorted(names)]]
    about = [(str(file.relative_to(path)), (stat := file.stat()).st_size, stat.st_mtime_ns) for file in files]
    key = hashlib.sha256(repr((str(path), about)).encode()).hexdigest()
    kept = Path(os.environ.get(CACHE_VARIABLE) or home() / "cache") / "folders" / f"{key}.safetensors"
    try:
        found = load_file(kept)
        splits = [(found[PARTS[i]], found[PARTS[i + 1]]) for i in (0, 2)]
    except (OSError, SafetensorError, KeyError):
        splits = [data._tensors(*split) for split in read_folder(path)]
        _keep(dict(zip(PARTS, (tensor.contiguous() for split in splits for tensor in split), strict=True)), kept)
    return data._assemble(data.public_name(f"{FOLDER}{path}"), *splits)


def _keep(tensors: dict, kept: Path) -> None:
    """All of it or nothing; a cache that cannot be written costs time alone."""
    with contextlib.suppress(OSError, SafetensorError):
        kept.parent.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryDirectory(dir=kept.parent, prefix=".partial-") as partial:
            save_file(tensors, Path(partial) / kept.name)
            os.replace(Path(partial) / kept.name, kept)
