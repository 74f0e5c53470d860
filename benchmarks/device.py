"""What a GPU computes and how fast, beside this machine's processor:   python -m benchmarks.device

Four results on both devices (a forward pass, one chip's cells, counts of an untuned and a tuned lot, a short training),
then seconds of a training step and of a chip, one process each: shipped networks, random
images.  Exits with 1 where the devices disagree by more than the products' rounding explains.
"""

import copy
import sys
import time

import pandas as pd
import torch
from torch import nn

from lib import Images, ReferenceCells, SelfTuning, Variation, evaluate, fit, load_shipped, programmed
from lib.analog import crossbars
from lib.training import Recipe
from lib.variation import Chip

MIXED, TUNED = Variation.split(0.3, 0.5), SelfTuning(ReferenceCells(256))
CASES = {
    "ResNet-18 ×¼": ("resnet18-quarter-tinyimagenet100-A4W2-qavat-0.3-s0", 100),
    "VGG-11 ×¼": ("vgg11-quarter-cifar10-A4W2-qavat-0.3-s0", 10),
}


def images(n: int, classes: int) -> Images:
    """Random, the same everywhere."""
    g = torch.Generator().manual_seed(0)
    pixels = torch.randint(0, 256, (n, 3, 32, 32), generator=g, dtype=torch.uint8)
    return Images(pixels, torch.arange(n) % classes, (0.5,) * 3, (0.25,) * 3)


def analog(name: str) -> nn.Module:
    """A trained one: from a random start 4-bit networks part on a change of 1e-4 in the last digits."""
    return load_shipped(name)


def agreement(device: str) -> pd.DataFrame:
    """what, difference: of a device's results from the CPU's, each relative to the CPU's, and what is allowed."""
    rows = []
    for title, (name, classes) in CASES.items():
        here = analog(name)
        there, data = copy.deepcopy(here).to(device), images(512, classes)
        with torch.no_grad(), programmed(here, Chip(7), MIXED), programmed(there, Chip(7), MIXED):
            x = data.normalized()[:64]
            a, b = here(x), there(x.to(device)).cpu()
            cells = [(p.cells(), q.cells().cpu()) for p, q in zip(_layers(here), _layers(there), strict=True)]
        rows.append((f"{title}, logits of a chip", _apart(a, b), 0.05))  # TF32, and codes that it moves by one
        rows.append((f"{title}, cells of a chip", max(_apart(w, v) for w, v in cells), 1e-6))
        for what, tuning in (("untuned", None), ("tuned", TUNED)):
            counts = [
                evaluate(net, split, MIXED, 4, tuning=tuning, precision="float32").correct.sum() / (4 * len(split))
                for net, split in ((here, data), (there, data.to(device)))
            ]
            rows.append((f"{title}, share right, {what}", abs(counts[0] - counts[1]), 0.02))
        recipe = Recipe(epochs=1, batch_size=64, lr=1e-3, bn_draws=4)
        for net, split in ((here, data), (there, data.to(device))):
            fit(net, split, recipe, Variation(0.3), precision="float32")
        with torch.no_grad():
            trained = [torch.cat([w.weight.detach().cpu().flatten() for w in _layers(n)]) for n in (here, there)]
        rows.append((f"{title}, weights after 8 steps", _apart(*trained), 0.05))
    return pd.DataFrame(rows, columns=["what", "difference", "allowed"])


def speed(device: str, steps: int = 20, batch: int = 256) -> pd.DataFrame:
    """network, precision, what, seconds: a step of `batch` images, and a chip on 500 images."""
    rows = []
    for title, (name, classes) in CASES.items():
        for precision in ("float32", "bfloat16"):
            for what, variation in (("QAT step", Variation()), ("QAVAT step", Variation(0.3))):
                net = analog(name).to(device)
                recipe = Recipe(epochs=1, batch_size=batch, lr=0.01, bn_draws=0)
                short, long = (images(n * batch, classes).to(device) for n in (3, 3 + steps))
                fit(net, short, recipe, variation, precision=precision)
                taken = [_timed(fit, net, split, recipe, variation, precision=precision) for split in (short, long)]
                rows.append((title, precision, what, (taken[1] - taken[0]) / steps))
        net, split = analog(name).to(device), images(500, classes).to(device)
        for what, tuning in (("chip of 500 images", None), ("chip, tuned", TUNED)):
            few, many = (
                _timed(evaluate, net, split, MIXED, n, tuning=tuning, precision="float32") for n in (2, 2 + steps)
            )
            rows.append((title, "float32", what, (many - few) / steps))
    return pd.DataFrame(rows, columns=["network", "precision", "what", "seconds"])


def _layers(net: nn.Module) -> list:
    return [layer for _, layer in crossbars(net)]


def _apart(a: torch.Tensor, b: torch.Tensor) -> float:
    return float((a - b).norm() / a.norm())


def _timed(function, *arguments, **options) -> float:
    began = time.perf_counter()
    function(*arguments, **options)
    return time.perf_counter() - began


def main() -> int:
    device = "cuda" if torch.cuda.is_available() else "cpu"
    name = torch.cuda.get_device_name() if device == "cuda" else "no GPU: this processor twice"
    print(f"{name}, torch {torch.__version__}, {torch.get_num_threads()} threads")
    found = agreement(device)
    print(found.to_string(index=False), flush=True)
    print(speed(device).to_string(index=False))
    return int((found.difference > found.allowed).any())


if __name__ == "__main__":
    sys.exit(main())
