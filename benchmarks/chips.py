"""What a chip with a slice of 64 images takes where a process meets it for the first time, and again:

python -m benchmarks.chips [REPEATS]
"""

import statistics
import sys
import time

import pandas as pd
import torch

from lib import ReferenceCells, SelfTuning, Variation, build, evaluate, kept, load, to_analog
from lib.evaluation import _slice
from lib.kept import LIMIT, Kept

CHIPS, IMAGES = 40, 64
NETWORKS = (("lenet5", 1.0), ("resnet18", 0.125), ("vgg11", 0.25))
TUNED = SelfTuning(ReferenceCells(256))
CASES = {
    "untuned": (Variation.split(0.3, 0.5), None),
    "tuned, gain": (Variation.split(0.3, 0.5), TUNED),
    "tuned, offset": (Variation.split(0.23, 0.5, "layer-fixed"), TUNED),
}


def forget() -> None:
    kept.NORMALS = Kept(LIMIT)
    kept._z_between.cache_clear()
    _slice.cache_clear()


def main(repeats: int = 7) -> None:
    torch.set_num_threads(1)
    data, rows = load("fashion-mnist"), []
    batch = data.train.take(slice(0, 64)).normalized()
    for name, width in NETWORKS:
        net = to_analog(build(name, data.channels, data.classes, data.size, width), "A4W2", batch).eval()
        for case, (variation, tuning) in CASES.items():
            taken: list[list[float]] = [[], []]
            for turn in range(2 * repeats):  # first, again, first, …
                if turn % 2 == 0:
                    forget()
                start = time.perf_counter()
                evaluate(net, data.test, variation, CHIPS, tuning=tuning, images_per_chip=IMAGES)
                taken[turn % 2].append(1e3 * (time.perf_counter() - start) / CHIPS)
            first, again = map(statistics.median, taken)
            ratio = statistics.median(a / f for f, a in zip(*taken, strict=True))
            row = {"network": f"{name} ×{width:g}", "case": case, "first (ms)": first, "again (ms)": again}
            rows.append(row | {"ratio": ratio})
    print(pd.DataFrame(rows).round(2).to_string(index=False))


if __name__ == "__main__":
    main(*map(int, sys.argv[1:]))
