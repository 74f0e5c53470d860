"""aihwkit's side of `python -m benchmarks peers`: its environment, its process, and what is timed in it.

Our side calls `environment` and `started`; everything below `made` runs in aihwkit's environment, which alone has it.
There a request a line comes in on stdin, {"name", "width", "train", "io", "precision", "batch"}, and a line with its
seconds goes out on stdout.
"""

from __future__ import annotations

import json
import os
import subprocess
import sys
import sysconfig
import time
import venv
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from functools import cache
from pathlib import Path

import torch
import torch.nn.functional as F
from torch import nn

from lib import Images, Recipe, build, load

ROOT = Path(__file__).resolve().parent.parent
FOLDER = ROOT / "build" / "peers-venv"
AIHWKIT, NEEDED = "aihwkit==1.1.0", ("scipy", "protobuf", "requests", "tqdm")  # what its import asks for
IMAGES, CHIPS, BATCH, STEPS, SIGMA, RECIPE = 1000, 3, 128, 4, 0.3, Recipe(lr=1e-3)


def seconds(run: Callable[[], object]) -> float:
    began = time.perf_counter()
    run()
    return time.perf_counter() - began


@cache
def setting(name: str, width: float) -> tuple[nn.Module, Images, Images]:
    """What both sides share: the float network, the test images, one training minibatch."""
    data = load("fashion-mnist")
    torch.manual_seed(0)
    net = build(name, data.channels, data.classes, data.size, width)
    return net, data.test.balanced(IMAGES), data.train.take(slice(0, BATCH))


def environment() -> Path:
    """aihwkit's Python, made on the first call.  It sees the packages of this one: the same torch, not fetched again.

    Raises CalledProcessError where something cannot be installed."""
    python = FOLDER / "bin" / "python"
    made, recipe = FOLDER / "recipe", "\n".join((AIHWKIT, *NEEDED, sys.executable, sys.version))
    if made.exists() and made.read_text("utf-8") == recipe:
        return python
    print(f"installing {AIHWKIT} under {FOLDER.relative_to(ROOT)}, once", file=sys.stderr, flush=True)
    venv.create(FOLDER, clear=True, symlinks=True, with_pip=True)
    site = sysconfig.get_path("purelib", "venv", {"base": str(FOLDER), "platbase": str(FOLDER)})
    seen = {sysconfig.get_path("purelib"), sysconfig.get_path("platlib")}
    Path(site, "parent.pth").write_text("\n".join(seen), "utf-8")
    pip = [str(python), "-m", "pip", "install", "--quiet", "--disable-pip-version-check", "--retries", "1"]
    # --no-deps: aihwkit also declares build tools, and would choose a torch of its own
    for packages in (("--no-deps", AIHWKIT), NEEDED):
        subprocess.run([*pip, *packages], check=True, capture_output=True, text=True)
    made.write_text(recipe, "utf-8")
    return python


@contextmanager
def started(python: Path) -> Iterator[Callable[..., float]]:
    """ask(name=…, width=…, …) → seconds, in a process that lives until the end.  Raises OSError once it has ended."""
    command = [str(python), "-m", "benchmarks.aihwkit_peer", str(torch.get_num_threads())]
    env = os.environ | {"PYTHONPATH": str(ROOT)}
    pipes = {"stdin": subprocess.PIPE, "stdout": subprocess.PIPE, "text": True}
    with subprocess.Popen(command, cwd=ROOT, env=env, **pipes) as process:

        def ask(**request) -> float:
            print(json.dumps(request), file=process.stdin, flush=True)
            if not (reply := process.stdout.readline()):
                raise ChildProcessError("its process ended")
            return float(reply)

        yield ask


@cache
def made(name: str, width: float, train: bool, io: str, precision: str, batch: int) -> Callable[[], None]:
    """What one request times; the network and its images are prepared once, outside the timing."""
    net, images, minibatch = setting(name, width)
    model = _converted(net, io)
    if train:
        return _steps(model.train(), minibatch.normalized(), minibatch.labels)
    batches = list(zip(images.normalized().split(batch), images.labels.split(batch)))

    def monte_carlo() -> None:
        with torch.no_grad(), torch.autocast("cpu", torch.bfloat16, enabled=precision == "bfloat16"):
            for _ in range(CHIPS):
                model.program_analog_weights()  # without it every repetition is the same chip
                sum(int((model(x).argmax(1) == labels).sum()) for x, labels in batches)

    model.eval()
    return monte_carlo


def _converted(net: nn.Module, io: str) -> nn.Module:
    """`net` on aihwkit's tiles: one a layer, no drift, and our within-chip law in proportion to the weight."""
    from aihwkit.inference.noise.base import BaseNoiseModel
    from aihwkit.nn.conversion import convert_to_analog
    from aihwkit.simulator.configs import TorchInferenceRPUConfig
    from aihwkit.simulator.parameters.enums import WeightModifierType

    class Proportional(BaseNoiseModel):
        """w·(1 + σ·ε), as our law: cheaper than the noise models that come with aihwkit."""

        def apply_programming_noise(self, weights):
            return weights * (1 + SIGMA * torch.randn_like(weights)), [None]

    config = TorchInferenceRPUConfig(noise_model=Proportional(), drift_compensation=None)
    if io == "untouched":
        return convert_to_analog(net, TorchInferenceRPUConfig())
    config.forward.is_perfect = io == "ideal"
    config.mapping.max_input_size = config.mapping.max_output_size = 0  # no limit; the default, 512, splits layers
    config.modifier.type, config.modifier.std_dev = WeightModifierType.MULT_NORMAL, SIGMA  # in training only
    return convert_to_analog(net, config)


def _steps(model: nn.Module, x: torch.Tensor, labels: torch.Tensor) -> Callable[[], None]:
    from aihwkit.optim import AnalogSGD

    decay, momentum = RECIPE.weight_decay, RECIPE.momentum
    optimizer = AnalogSGD(model.parameters(), lr=RECIPE.lr, momentum=momentum, weight_decay=decay, fused=True)
    optimizer.regroup_param_groups()

    def steps() -> None:
        for _ in range(STEPS):
            optimizer.zero_grad(set_to_none=True)
            loss = F.cross_entropy(model(x), labels)
            loss.backward()
            optimizer.step()
            loss.item()

    return steps


if __name__ == "__main__":
    torch.set_num_threads(int(sys.argv[1]))
    replies, sys.stdout = sys.stdout, sys.stderr  # whatever else is printed is no reply
    for line in sys.stdin:
        print(seconds(made(**json.loads(line))), file=replies, flush=True)
