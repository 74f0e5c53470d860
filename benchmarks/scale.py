"""What grows and what does not: the time to an interval, cost and memory against chips, trainings against workers."""

from __future__ import annotations

import resource
import statistics
import subprocess
import sys
import time
from dataclasses import replace
from functools import partial

import pandas as pd
import torch

from lib import Recipe, Variation, build, evaluate, evaluate_mean, fit, load, to_analog
from lib.experiments import cluster, workers
from lib.experiments.settings import Settings
from lib.trials import Trial

from .speed import seconds, turns

SIGMA = Variation(0.3)
FIXED_CHIPS, FIXED_IMAGES = 1000, 10_000


def interval() -> pd.DataFrame:
    """A QAVAT network trained here for a minute; the fixed protocol's time is that of 5 chips, times 200."""
    data, rows = load("fashion-mnist"), []
    for name, width in (("lenet5", 1.0), ("vgg11", 0.25)):
        start, images = build(name, data.channels, data.classes, data.size, width), data.train.balanced(6000)
        fit(start, images, Recipe(epochs=3, warmup=0.1))
        net = to_analog(start, "A4W2", data.train.take(slice(0, 64)).normalized())
        fit(net, images, Recipe(epochs=2, warmup=0.1, bn_draws=50), SIGMA)
        fixed = FIXED_CHIPS / 5 * seconds(partial(evaluate, net, data.test, SIGMA, 5))
        began = time.perf_counter()
        estimate, counts = evaluate_mean(net, data.test, SIGMA, 0.5)
        planned = time.perf_counter() - began
        rows.append(
            {
                "network": f"{name} ×{width:g}",
                "mean (%)": round(estimate.value, 2),
                "±": round((estimate.high - estimate.low) / 2, 2),
                "chips": estimate.n,
                "images a chip": int(counts.images[0]),
                "seconds": round(planned, 1),
                "fixed protocol, seconds": round(fixed),
                "ratio": f"1/{fixed / planned:.0f}",
            }
        )
    return pd.DataFrame(rows)


def chips() -> pd.DataFrame:
    """Seconds a chip and peak memory of 1 … 10,000 chips."""
    rows = []
    for n in (1, 100, 1000, 10_000):
        command = [sys.executable, "-m", "benchmarks.scale", str(n)]
        run = subprocess.run(command, capture_output=True, text=True, check=True)
        taken, peak = map(float, run.stdout.split())
        each = round(1e3 * taken / n, 2)
        rows.append({"chips": n, "seconds": round(taken, 2), "ms a chip": each, "peak memory (MiB)": round(peak)})
    return pd.DataFrame(rows)


def one_size(n: int) -> tuple[float, float]:
    """(seconds, peak memory in MiB) of n chips in this process."""
    data = load("fashion-mnist")
    net = to_analog(build("lenet5", 1, 10, 28), "A4W4", data.train.take(slice(0, 64)).normalized())
    evaluate(net, data.test, SIGMA, 1, images_per_chip=50)
    taken = seconds(lambda: evaluate(net, data.test, SIGMA, n, images_per_chip=50))
    unit = 2**20 if sys.platform == "darwin" else 2**10
    return taken, resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / unit


def workers_cases(name: str, width: float, client, n: int) -> dict:
    """n trainings of one epoch: one after the other on all threads, and side by side on the workers."""
    data = load("fashion-mnist")
    trial = Trial("fashion-mnist", name, "QAVAT", Recipe(epochs=1, bn_draws=10), "A4W4", SIGMA, None, width, 2000)
    trials = [replace(trial, seed=seed) for seed in range(n)]

    def alone():
        for t in trials:
            images = data.train.balanced(t.train_images)
            net = build(name, data.channels, data.classes, data.size, width, t.seed)
            net = to_analog(net, t.bits, images.normalized(images.pixels[:256]))
            fit(net, images, t.recipe, t.variation, seed=t.seed)

    def shared():
        options = data.fingerprint, None, None, 1, "cpu"
        client.gather([client.submit(workers.trained, t, *options, pure=False) for t in trials])

    return {"alone": alone, "workers": shared}


def workers_table(repeats: int) -> pd.DataFrame:
    rows, n = [], torch.get_num_threads()
    with cluster.connected(n, Settings(jobs=n)) as client:
        for name, width in (("lenet5", 1.0), ("vgg11", 0.25), ("resnet18", 0.125)):
            found = turns(workers_cases(name, width, client, 2 * n), repeats)
            rows.append(
                {
                    "network": f"{name} ×{width:g}",
                    "workers": n,
                    "seconds, one process": round(found.alone.median(), 1),
                    "seconds, workers": round(found.workers.median(), 1),
                    "ratio": f"{statistics.median(found.alone / found.workers):.2f}",
                }
            )
    return pd.DataFrame(rows)


if __name__ == "__main__":
    print(*one_size(int(sys.argv[1])))
