"""What arrays, differential pairs and converters cost a Monte Carlo: `python -m benchmarks.silicon`.

One thread; slices of 64 images, where the work per chip weighs most, and 1,000 images per chip; best of several turns
of all cases, as a ratio to the speed without any of it.  The converter computes in float32, and is compared with that.
"""

import time
from functools import partial

import torch

from lib import Converter, ReferenceCells, SelfTuning, Variation, build, converting, evaluate, load, to_analog

CASES = {
    "without": ({}, None),
    "arrays": ({"array_share": 0.3}, None),
    "differential": ({"mapping": "differential"}, None),
    "chip's cells": ({}, SelfTuning(ReferenceCells(256))),
    "arrays, chip's cells": ({"array_share": 0.3}, SelfTuning(ReferenceCells(256))),
    "arrays' cells": ({}, SelfTuning(ReferenceCells(8, per="array"))),
    "arrays, arrays' cells": ({"array_share": 0.3}, SelfTuning(ReferenceCells(8, per="array"))),
}
TURNS = 6


def best(run, turns: int = TURNS) -> dict[str, float]:
    """Seconds of each case, the best of several turns of all."""
    found: dict[str, float] = {}
    for _ in range(turns):
        for name, seconds in run():
            found[name] = min(seconds, found.get(name, seconds))
    return found


def timed(call) -> float:
    start = time.perf_counter()
    call()
    return time.perf_counter() - start


def main() -> None:
    torch.set_num_threads(1)
    data = load("fashion-mnist")
    batch, images = data.train.take(slice(0, 128)).normalized(), data.validation.balanced(1000)
    for network, width in (("lenet5", 1.0), ("resnet18", 0.125)):
        net = to_analog(build(network, 1, 10, 28, width), "A4W2", batch).eval()
        for size, chips in ((64, 16), (1000, 2)):

            def cases(net=net, size=size, chips=chips):
                for name, (hardware, tuning) in CASES.items():
                    v = Variation.split(0.3, 0.5, **hardware)
                    yield name, timed(partial(evaluate, net, images, v, chips, tuning=tuning, images_per_chip=size))
                v = Variation.split(0.3, 0.5)
                plain = {"images_per_chip": size, "precision": "float32"}
                yield "float32", timed(partial(evaluate, net, images, v, chips, **plain))
                with converting(net, Converter(8), batch):
                    yield "converter", timed(partial(evaluate, net, images, v, chips, **plain))

            found = best(cases)
            for name, seconds in found.items():
                base = "float32" if name == "converter" else "without"
                print(f"{network:9} {size:5} images  {name:22} {1e3 * seconds / chips:7.2f} ms per chip", end="")
                print(f"  {found[base] / seconds:5.2f} of the speed of {base}")


if __name__ == "__main__":
    main()
