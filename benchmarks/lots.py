"""What a lot of chips is worth, on chips of the project's own:   python -m benchmarks.lots [CHIPS]

QAVAT of both networks of `quick` under the mixed pattern (proportional, ρ = 0.5), on validation chips that each see a
slice of the validation images.  Lots and random samples are drawn from these, a lot by taking at each place one of
the few chips whose z_B lies nearest.  Printed: how many times less the mean of a lot varies, and how often its interval
covers the mean of all chips.
"""

import sys

import numpy as np

from lib import Chip
from lib.companion import cases
from lib.companion.profiles import profile
from lib.experiments import engine
from lib.lots import lot_mean
from lib.trials import Measurement
from lib.variation import golden

NEAREST, RUNS, IMAGES = 5, 3000, 250


def main(chips: int = 2000) -> None:
    rng = np.random.default_rng(0)
    for bench in cases.benches(profile("quick")):
        if bench.law != "proportional":
            continue
        m = Measurement(bench.networks["QAVAT"], bench.pattern(), chips, None, IMAGES, purpose="validation")
        accuracy = engine.collect([m])[m].accuracy
        order = np.argsort([Chip.of("validation", i).place for i in range(chips)])
        # the chips as a population that is spread evenly, so that its mean is that of any number of lots
        even = (np.arange(chips) + 0.5) / chips
        for n in (20, 40, 100, 200):
            lots, covered = [], 0
            for _ in range(RUNS):
                u = golden(int(rng.integers(2**63)) * 2 + 1, np.arange(n))
                near = np.searchsorted(even, u) + rng.integers(-(NEAREST // 2), NEAREST // 2 + 1, n)
                found = lot_mean(accuracy[order[near.clip(0, chips - 1)]], u)
                lots.append(found.value)
                covered += found.low <= accuracy.mean() <= found.high
            drawn = rng.choice(accuracy, (RUNS, n)).mean(1)
            times = drawn.var() / np.var(lots)
            name = f"{bench.setting.network} σ {bench.sigma:g}, {n} chips of {chips}"
            print(f"{name}: variance of the mean {times:.1f} times less, coverage {covered / RUNS:.3f}", flush=True)


if __name__ == "__main__":
    main(*map(int, sys.argv[1:]))
