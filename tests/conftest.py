"""Shared by the tests: tiny datasets and networks, simulated cells, a copy of the project in a folder of its own."""

import math
import os
import shutil
import subprocess
import sys
import warnings
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from torch import nn
from xdist.scheduler import LoadFileScheduling

from lib import Recipe, build, fit, fit_cells, to_analog
from lib.cells import Cells
from lib.data import Images

ROOT = Path(__file__).resolve().parent.parent
if "PYTEST_XDIST_WORKER" in os.environ:
    torch.set_num_threads(1)  # of several processes: more would wait for each other most of the time


@pytest.fixture
def images():
    """96 images of 1×12×12 in three classes that a small network can learn."""
    generator = torch.Generator().manual_seed(0)
    labels = torch.arange(96) % 3
    pixels = torch.randint(0, 80, (96, 1, 12, 12), generator=generator, dtype=torch.uint8)
    for i, label in enumerate(labels.tolist()):
        pixels[i, :, 4 * label : 4 * label + 4] += 120
    return Images(pixels, labels, (0.3,), (0.25,))


def in_colour(images):
    """The same images in three channels: a network of one channel does not run on them."""
    return replace(images, pixels=images.pixels.repeat(1, 3, 1, 1), mean=(0.3,) * 3, std=(0.25,) * 3)


def noise(n=12, h=15, w=15):
    """Pixels of 100 to 255: none is black."""
    return torch.randint(100, 256, (n, 3, h, w), generator=torch.Generator().manual_seed(0), dtype=torch.uint8)


@pytest.fixture
def two_threads():
    """Two threads of torch, also where the tests run side by side and have one each."""
    before = torch.get_num_threads()
    torch.set_num_threads(2)
    yield
    torch.set_num_threads(before)


@pytest.fixture(scope="session")
def project(tmp_path_factory):
    """A copy of the project (data linked, of the figures their tables) in which a run may write what it likes."""
    return copy_project(tmp_path_factory.mktemp("project"))


@pytest.fixture(scope="session")
def smoke(project):
    """`./run_all.sh --profile smoke` in that copy, once for all tests."""
    run = companion(project, "--profile", "smoke")
    assert run.returncode == 0, run.stdout + run.stderr
    return run


def copy_project(folder: Path) -> Path:
    for name in ("lib", "notebooks", "site"):
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


def trained(images):
    """An A4W2 LeNet-5 that has learned `images`."""
    model = to_analog(build("lenet5", 1, 3, 12), "A4W2", images.normalized()[:32])
    fit(model, images, Recipe(epochs=4, batch_size=16))
    return model


def with_norms(images, bits="A4W4"):
    """Two convolutions with their batch norms (1 and 4), dropout (5) and a linear layer (7), in training mode."""
    torch.manual_seed(0)
    first = nn.Conv2d(1, 4, 3, bias=False), nn.BatchNorm2d(4), nn.ReLU()
    second = nn.Conv2d(4, 4, 3, bias=False), nn.BatchNorm2d(4), nn.Dropout(0.5)
    net = nn.Sequential(*first, *second, nn.Flatten(), nn.Linear(256, 3))
    return to_analog(net, bits, images.normalized()[:32]).train()


TARGETS = np.array([-1.0, -0.5, 0.0, 0.25, 0.75, 1.0])
LEVELS = np.array([5.0, 10.0, 15.0, 20.0, 25.0])  # µS


def simulated(variation, chips, cells, seed, offset=0.0, targets=TARGETS, factor=1.0, lognormal=False) -> Cells:
    """Cells drawn with numpy alone, unlike the chips of lib: an independent look at the model."""
    rng = np.random.default_rng(seed)
    z, s = rng.standard_normal((chips, cells)), math.sqrt(math.log1p(variation.within**2))
    own = np.expm1(s * z - s**2 / 2) if lognormal else variation.within * z
    e = offset + variation.between * rng.standard_normal((chips, 1)) + own
    target = np.tile(targets, (chips, cells // len(targets) + 1))[:, :cells]
    scale = target if variation.law == "proportional" else np.abs(targets).max()
    return Cells(np.repeat(np.arange(chips), cells), target.ravel(), (factor * (target + scale * e)).ravel())


def quiet(cells: Cells, **how):
    """What `fit_cells` finds, without its warnings."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        return fit_cells(cells, **how)


class WholeFiles(LoadFileScheduling):
    """Processes share out whole files, those with tests of the project's copy as one: it is made and run once."""

    def _split_scope(self, nodeid):
        file = super()._split_scope(nodeid)
        return "copy" if Path(file).name in OF_THE_COPY else file


OF_THE_COPY = {f"test_{name}.py" for name in "archive browser companion companion_failures site".split()}


def pytest_xdist_make_scheduler(config, log):
    return WholeFiles(config, log)


def pytest_collection_modifyitems(items):
    users = {item.path.name for item in items if "project" in getattr(item, "fixturenames", ())}
    assert users <= OF_THE_COPY, f"add to OF_THE_COPY: {users - OF_THE_COPY}"


def pytest_terminal_summary(terminalreporter):
    """Tests that did not run are named loudly: a green line above would hide them."""
    skipped = terminalreporter.stats.get("skipped", [])
    if skipped:
        terminalreporter.section("NOT RUN", sep="!", red=True)
        for report in skipped:
            terminalreporter.write_line(f"{report.nodeid}: {report.longrepr[2]}")
