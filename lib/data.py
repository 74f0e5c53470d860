"""Datasets as tensors: whole splits in memory, batches cut and augmented by tensor operations, no worker processes.

Fashion-MNIST is embedded (MIT licence, Zalando SE); MNIST and CIFAR come through torchvision, which checks their MD5
sums; `imagefolder:PATH` is any tree train/CLASS/*, test/CLASS/*.  Validation images are cut from the training data.
"""

from __future__ import annotations

import gzip
import hashlib
import math
import os
import shutil
import tempfile
from collections.abc import Iterator
from dataclasses import dataclass, replace
from functools import lru_cache
from pathlib import Path

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor

from .checks import InputError, RunError, integer, one_of, real
from .folders import read_folder
from .variation import keyed_generator

ROOT = Path(__file__).resolve().parent.parent
DATASETS = ("fashion-mnist", "mnist", "cifar10", "cifar100")
FOLDER = "imagefolder:"  # begins the name of a dataset that is a tree of class folders
DATA_VARIABLE = "ANALOG_PIM_DATA"
VALIDATION_SHARE = 12  # one training image in twelve
FASHION_SHA256 = {  # of the uncompressed files
    "train-images-idx3-ubyte": "c59f468a2f672dc815687fe0f83887768d799fd8a3f3276145d20f83aa44d888",
    "train-labels-idx1-ubyte": "bad3541b69d912435c50bb6ba87bec294ff4f6a2e1246121d8633921760443d9",
    "t10k-images-idx3-ubyte": "5b4141f0afbad91edebe8549f8fcffe087ea10ca49f1dbef5c9a5cd8815ce37b",
    "t10k-labels-idx1-ubyte": "0402a96d92fd2663957122ceb108a494c5af83dab82d92729df917d7dec38c34",
}
FASHION_FINGERPRINT = "c2df23e9d135ade7af62bf6273886728f606f79e67e066d2485f52ee9d597534"  # of all four
PIXELS, LABELS = "pixels must be a uint8 tensor (N, C, H, W)", "labels must be a tensor (N,) of integers"


@dataclass(frozen=True)
class Augment:
    """Horizontal flip, random crop after black padding (pixels), rotation by up to ± `rotate` degrees."""

    crop: int = 0
    flip: bool = False
    rotate: float = 0.0

    def __post_init__(self):
        integer("crop", self.crop, 0)
        real("rotate", self.rotate, 0, 180)


@dataclass(frozen=True)
class Images:
    """One split.  pixels: uint8 (N, C, H, W); labels: int64 (N,), of any integers; mean, std: per channel, 0…1."""

    pixels: Tensor
    labels: Tensor
    mean: tuple[float, ...]
    std: tuple[float, ...]

    def __post_init__(self):
        _check_pixels(self.pixels)
        _check_labels(self.labels)
        if not 0 < len(self.pixels) == len(self.labels):
            found = f"{len(self.pixels)} images, {len(self.labels)} labels"
            raise InputError(f"a split needs images, one label each; got {found}")
        object.__setattr__(self, "labels", self.labels.long())
        integer("labels, which count the classes from 0,", int(self.labels.min()), 0)
        _check_moments(self.mean, self.std, self.pixels.shape[1])

    def __len__(self) -> int:
        return len(self.labels)

    def to(self, device: str | torch.device) -> Images:
        return replace(self, pixels=self.pixels.to(device), labels=self.labels.to(device))

    def take(self, index: Tensor | slice) -> Images:
        return replace(self, pixels=self.pixels[index], labels=self.labels[index])

    def balanced(self, n: int | None, skip: int = 0) -> Images:
        """A fixed subset of n images (None: all), equal numbers a class (±1), interleaved, after the first `skip`."""
        integer("number of images to skip", skip, 0, len(self) - 1)
        if n is None and not skip:
            return self
        n = integer("number of images", len(self) - skip if n is None else n, 1, len(self) - skip)
        rank, labels = torch.empty(len(self), dtype=torch.long), self.labels.cpu()  # of an image within its class
        for label in labels.unique():
            where = (labels == label).nonzero().squeeze(1)
            rank[where] = torch.arange(len(where))
        order = np.lexsort((labels.numpy(), rank.numpy()))[skip : skip + n]
        return self.take(torch.from_numpy(np.ascontiguousarray(order)).to(self.labels.device))

    def normalized(self, pixels: Tensor | None = None) -> Tensor:
        """float32 (x/255 − mean)/std, channel by channel."""
        pixels = self.pixels if pixels is None else pixels
        mean = torch.tensor(self.mean, device=pixels.device).view(-1, 1, 1)
        scale = torch.tensor(self.std, device=pixels.device).view(-1, 1, 1).reciprocal()
        return (pixels.float() / 255 - mean) * scale

    def batches(self, size: int, key: tuple, augment: Augment = Augment()) -> Iterator[tuple[Tensor, Tensor]]:
        """Shuffled whole batches (x normalized, labels); a function of `key` alone.  A short last batch is dropped,
        unless it is the only one."""
        rng = keyed_generator("batches", *key)
        order = torch.from_numpy(rng.permutation(len(self))).to(self.labels.device)
        for start in range(0, max(len(self) - size, 0) + 1, size):
            index = order[start : start + size]
            yield self.normalized(augmented(self.pixels[index], augment, rng)), self.labels[index]


def _check_pixels(pixels) -> None:
    if not isinstance(pixels, Tensor):
        raise InputError(f"{PIXELS}, got a {type(pixels).__name__}; use torch.as_tensor(pixels)")
    if pixels.dtype != torch.uint8:
        raise InputError(f"{PIXELS}, got {pixels.dtype}; of values 0…1 use (255 * x).round().to(torch.uint8)")
    if pixels.dim() != 4 or 0 in pixels.shape[1:]:
        fix = "; use pixels.unsqueeze(1) for grey images" if pixels.dim() == 3 else ""
        raise InputError(f"{PIXELS}, got the shape {tuple(pixels.shape)}{fix}")


def _check_labels(labels) -> None:
    if not isinstance(labels, Tensor):
        raise InputError(f"{LABELS}, got a {type(labels).__name__}; use torch.as_tensor(labels)")
    if labels.dim() != 1:
        fix = "labels.argmax(1) if they are one-hot" if labels.shape[1:].numel() > 1 else "labels.flatten()"
        raise InputError(f"{LABELS}, got the shape {tuple(labels.shape)}; use {fix}")
    if labels.is_floating_point() or labels.is_complex() or labels.dtype == torch.bool:
        raise InputError(f"{LABELS}, got {labels.dtype}; use labels.long()")


def _check_moments(mean, std, channels: int) -> None:
    for what, values in (("mean", mean), ("std", std)):
        if not isinstance(values, (tuple, list)) or len(values) != channels:
            found = len(values) if isinstance(values, (tuple, list)) else f"a {type(values).__name__}"
            fix = "; images with the channels last need pixels.permute(0, 3, 1, 2)" if channels > 4 else ""
            raise InputError(f"{what} must be a tuple of {channels} numbers, one a channel, got {found}{fix}")
        for value in values:
            real(f"{what} in units of 0…1", value, 0, 1 if what == "mean" else math.inf)
    if 0 in std:
        raise InputError(f"std must be > 0, got {std!r}; use 1.0 for a channel that is constant")


def augmented(x: Tensor, augment: Augment, rng: np.random.Generator) -> Tensor:
    """x (B, C, H, W), pixels of which 0 is black, with each image flipped, cropped and rotated on its own."""
    b, _, h, w = x.shape
    if augment.flip:
        x = torch.where(_draw(rng.random(b) < 0.5, x).view(b, 1, 1, 1), x.flip(-1), x)
    if augment.crop:
        shift = [_draw(rng.integers(0, 2 * augment.crop + 1, b), x) for _ in range(2)]
        rows = (shift[0][:, None] + torch.arange(h, device=x.device))[:, None, :, None]
        columns = (shift[1][:, None] + torch.arange(w, device=x.device))[:, None, None, :]
        channels = torch.arange(x.shape[1], device=x.device)[None, :, None, None]
        x = F.pad(x, [augment.crop] * 4)[torch.arange(b, device=x.device)[:, None, None, None], channels, rows, columns]
    if augment.rotate:
        angle = _draw(np.radians(rng.uniform(-augment.rotate, augment.rotate, b)), x).float()
        cos, sin, zero = angle.cos(), angle.sin(), torch.zeros_like(angle)
        turn = torch.stack([cos, -sin * h / w, zero, sin * w / h, cos, zero], 1).view(b, 2, 3)
        grid = F.affine_grid(turn, list(x.shape), align_corners=False)
        x = F.grid_sample(x.float(), grid, mode="nearest", align_corners=False).to(x.dtype)
    return x


def _draw(values: np.ndarray, like: Tensor) -> Tensor:
    return torch.from_numpy(values).to(like.device)


@dataclass(frozen=True)
class Dataset:
    """Three splits, and a fingerprint (SHA-256 of every pixel and label, never of a path)."""

    name: str
    train: Images
    validation: Images
    test: Images
    classes: int
    fingerprint: str

    @property
    def channels(self) -> int:
        return self.train.pixels.shape[1]

    @property
    def size(self) -> int:
        return self.train.pixels.shape[-1]


def data_folder(given: str | Path | None = None) -> Path:
    """Where data live: the argument, else ANALOG_PIM_DATA, else data/ of the checkout, else the user's cache folder."""
    given = given or os.environ.get(DATA_VARIABLE)
    return Path(given) if given else home() / "data"


def home() -> Path:
    """Of data and cache: the checkout, else (plain installation) the user's cache folder."""
    if (ROOT / "pyproject.toml").exists():
        return ROOT
    from platformdirs import user_cache_path

    return user_cache_path("analog-pim-companion")


def public_name(name: str) -> str:
    """A dataset's name for keys and records: imagefolder:PATH without the way to its folder."""
    return FOLDER + Path(name.removeprefix(FOLDER)).name if name.startswith(FOLDER) else name


def load(name: str, folder: str | Path | None = None) -> Dataset:
    """The dataset `name` (`DATASETS`, or imagefolder:PATH), from `folder` (default: `data_folder()`).

    Raises ValueError for an unknown name, RuntimeError (what to fetch) for a failed download or a damaged file."""
    if not isinstance(name, str):
        raise InputError(f"a dataset's name is text, such as 'imagefolder:PATH', got {' '.join(repr(name).split())}")
    if name.startswith(FOLDER):
        splits = read_folder(Path(name.removeprefix(FOLDER)))
        return _assemble(public_name(name), *(_tensors(*split) for split in splits))
    one_of("dataset", name, [*DATASETS, "imagefolder:PATH"])
    return _load_named(name, data_folder(folder).resolve())


def fingerprint(name: str, folder: str | Path | None = None) -> str:
    """That of `load(name, folder)`.  The embedded files are not read for it: what loads has these checksums."""
    embedded = name == "fashion-mnist" and (data_folder(folder) / name).is_dir()
    return FASHION_FINGERPRINT if embedded else load(name, folder).fingerprint


@lru_cache(maxsize=4)
def _load_named(name: str, folder: Path) -> Dataset:
    if name == "fashion-mnist" and (folder / name).is_dir():
        return _assemble(name, *_embedded_fashion_mnist(folder / name))
    return _assemble(name, *_torchvision(name, folder))


def _assemble(name: str, train: tuple[Tensor, Tensor], test: tuple[Tensor, Tensor]) -> Dataset:
    digest = hashlib.sha256()
    for part in (*train, *test):
        digest.update(str(tuple(part.shape)).encode() + part.numpy().tobytes())
    # per channel over the training images; a tenth of them is plenty for two moments
    sample = train[0][:: max(1, len(train[0]) // 6000)].float() / 255
    mean = tuple(round(v, 6) for v in sample.mean((0, 2, 3)).tolist())
    std = tuple(round(max(v, 1e-3), 6) for v in sample.std((0, 2, 3)).tolist())
    content = digest.hexdigest()  # and not the name: it may be another one elsewhere
    order = torch.from_numpy(keyed_generator("validation split", content).permutation(len(train[0])))
    cut = max(1, len(order) // VALIDATION_SHARE)
    whole = Images(*train, mean, std)
    classes = int(max(train[1].max(), test[1].max())) + 1
    splits = whole.take(order[cut:]), whole.take(order[:cut]), Images(*test, mean, std)
    return Dataset(name, *splits, classes, content)


def _embedded_fashion_mnist(folder: Path):
    parts, restore = {}, "restore it with: git checkout -- data/fashion-mnist"
    for name, expected in FASHION_SHA256.items():
        path = folder / f"{name}.gz"
        try:
            raw = gzip.decompress(path.read_bytes())
        except (OSError, EOFError) as error:
            raise RunError(f"cannot read {path} ({error}); {restore}") from None
        if hashlib.sha256(raw).hexdigest() != expected:
            raise RunError(f"{path} is damaged (wrong SHA-256); {restore}")
        dims = [int(d) for d in np.frombuffer(raw, ">i4", raw[3], offset=4)]  # IDX: byte 3 counts the dimensions
        parts[name] = torch.from_numpy(np.frombuffer(raw, np.uint8, offset=4 + 4 * len(dims)).reshape(dims).copy())
    pairs = ((parts[f"{split}-images-idx3-ubyte"], parts[f"{split}-labels-idx1-ubyte"]) for split in ("train", "t10k"))
    return tuple((images.unsqueeze(1), labels.long()) for images, labels in pairs)


def _torchvision(name: str, folder: Path):
    """Read from `folder`, else download into a temporary folder beside it and move it in when complete."""
    from torchvision import datasets

    cls = datasets.FashionMNIST if name == "fashion-mnist" else getattr(datasets, name.upper())
    try:
        splits = [cls(folder, train=train, download=False) for train in (True, False)]
    except RuntimeError:
        try:
            folder.mkdir(parents=True, exist_ok=True)
            with tempfile.TemporaryDirectory(dir=folder, prefix=".download-") as partial:
                for train in (True, False):
                    cls(partial, train=train, download=True)
                for part in Path(partial).iterdir():  # what stood there failed its check
                    shutil.rmtree(folder / part.name, ignore_errors=True)
                    os.replace(part, folder / part.name)
        except Exception as error:  # torchvision raises anything from URLError to RuntimeError here
            what = getattr(cls, "url", None) or "its four .gz files of " + " or ".join(getattr(cls, "mirrors", ()))
            where = folder if hasattr(cls, "url") else folder / cls.__name__ / "raw"
            raise RunError(
                f"cannot download {name} ({' '.join(str(error).split())}); fetch {what}, put it into {where}, "
                f"or name another folder with --data-dir or {DATA_VARIABLE}"
            ) from None
        splits = [cls(folder, train=train, download=False) for train in (True, False)]
    return tuple(_tensors(split.data, split.targets) for split in splits)


def _tensors(data, targets) -> tuple[Tensor, Tensor]:
    pixels = torch.as_tensor(data)
    pixels = pixels.unsqueeze(1) if pixels.dim() == 3 else pixels.permute(0, 3, 1, 2).contiguous()
    return pixels, torch.as_tensor(targets, dtype=torch.long)
