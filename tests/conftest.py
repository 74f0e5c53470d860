"""Shared by the tests: a tiny dataset, a copy of the project, and folders of their own for cache and build."""

import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from torch import nn

from lib import to_analog
from lib.data import Images

ROOT = Path(__file__).resolve().parent.parent


@pytest.fixture
def images():
    """96 images of 1×12×12 in three classes that a small network can learn."""
    generator = torch.Generator().manual_seed(0)
    labels = torch.arange(96) % 3
    pixels = torch.randint(0, 80, (96, 1, 12, 12), generator=generator, dtype=torch.uint8)
    for i, label in enumerate(labels.tolist()):
        pixels[i, :, 4 * label : 4 * label + 4] += 120
    return Images(pixels, labels, (0.3,), (0.25,))


@pytest.fixture(scope="session")
def project(tmp_path_factory):
    """A copy of the project (data linked, of the figures their tables) in which a run may write what it likes."""
    return copy_project(tmp_path_factory.mktemp("project"))


def copy_project(folder: Path) -> Path:
    for name in ("lib", "notebooks"):
        shutil.copytree(ROOT / name, folder / name, ignore=shutil.ignore_patterns("__pycache__", ".ipynb_checkpoints"))
    shutil.copy(ROOT / "pyproject.toml", folder)
    shutil.copytree(ROOT / "figures", folder / "figures", ignore=shutil.ignore_patterns("*.png", "*.pdf"))
    (folder / "data").symlink_to(ROOT / "data")
    return folder


def companion(folder: Path, *arguments: str, **options) -> subprocess.CompletedProcess:
    """Run `python -m lib.companion` of a copy."""
    command = [sys.executable, "-m", "lib.companion", *arguments]
    return subprocess.run(command, cwd=folder, env=environment(folder), capture_output=True, text=True, **options)


def environment(folder: Path) -> dict[str, str]:
    clean = {k: v for k, v in os.environ.items() if not k.startswith("ANALOG_PIM_")}
    return clean | {"PYTHONPATH": str(folder), "PYTHONDONTWRITEBYTECODE": "1"}


def replaced(text: str, old: str, new: str, count: int = -1) -> str:
    """`text` with `new` for `old`, which must be there: else a test of the difference tests nothing."""
    assert old in text, f"{old!r} is not in the text"
    return text.replace(old, new, count)


# every kind of layer that self-tuning must serve
LAYERS = {
    "linear": lambda: nn.Linear(12, 7),
    "conv": lambda: nn.Conv2d(4, 6, 3),
    "stride": lambda: nn.Conv2d(4, 6, 3, stride=2),
    "padding": lambda: nn.Conv2d(4, 6, 3, padding=1),
    "reflect": lambda: nn.Conv2d(4, 6, 3, padding=1, padding_mode="reflect"),
    "dilation": lambda: nn.Conv2d(4, 6, 3, dilation=2),
    "groups": lambda: nn.Conv2d(4, 6, 3, groups=2, padding=1),
    "depthwise": lambda: nn.Conv2d(4, 8, 3, groups=4, bias=False),
}


def layer_and_input(kind, signed):
    """An A4W4 analog layer of `LAYERS` and a batch of inputs, with or without negative values."""
    torch.manual_seed(len(kind))
    module = LAYERS[kind]()
    x = torch.randn(5, 12) if kind == "linear" else torch.randn(5, 4, 9, 9)
    x = x if signed else x.abs()
    return to_analog(module, "A4W4", x), x
