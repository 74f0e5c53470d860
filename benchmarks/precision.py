"""Whether training and measuring in bfloat16 moves a result:   python -m benchmarks.precision

Every claim's point of `quick` whose network multiplies in bfloat16 here, on validation images and validation chips:
accuracy at the best precision minus accuracy in float32, on the same chips, seed by seed.
"""

from collections.abc import Iterator

import pandas as pd

from lib.companion import cases
from lib.companion.profiles import Profile, profile
from lib.experiments import engine
from lib.experiments.settings import Settings
from lib.precision import training_precision
from lib.statistics import mean


def points(rehearsal: Profile, seed: int) -> Iterator[cases.Case]:
    """Claim 1 at σ 0.5, claims 2 and 3 at the mixed points, untuned and tuned."""
    for setting in rehearsal.settings:
        for method in ("QAT", "PTQ-VAT", "QAVAT"):
            v = cases.training(setting, rehearsal.claim_sigma)
            t = cases.trial(setting, method, setting.claim_bits, v, seed)
            yield cases.within(rehearsal, setting, t, rehearsal.claim_sigma, point="within chips")
    for bench in cases.benches(rehearsal, seed):
        for net in cases.NETS:
            for tuning in (None, bench.tuning):
                yield bench.claimed(net, bench.pattern(), tuning)


def main() -> None:
    rehearsal, best = profile("rehearsal"), Settings.read()
    asked = {seed: list(points(rehearsal, seed)) for seed in rehearsal.seeds}
    asked = {
        seed: [c for c in of if engine.precision(c.measurement.trial, best, training_precision) != "float32"]
        for seed, of in asked.items()
    }
    measurements = [case.measurement for of in asked.values() for case in of]
    if not measurements:
        raise SystemExit("no network of `quick` multiplies in bfloat16 on this processor: nothing to compare")
    fast, exact = (engine.collect(measurements, settings) for settings in (best, best.but(precision="float32")))
    rows = [
        {
            "point": f"{case.names['point']} {case.names.get('method', '')} {case.names.get('tuning', '')}".strip(),
            "seed": seed,
            "float32": exact[case.measurement].summary()["mean"].value,
            "difference": fast[case.measurement].summary()["mean"].value
            - exact[case.measurement].summary()["mean"].value,
        }
        for seed, of in asked.items()
        for case in of
    ]
    table = pd.DataFrame(rows)
    print(table.pivot(index="point", columns="seed", values="difference").round(2).to_string())
    by_point = table.groupby("point", sort=False).difference.apply(lambda d: str(mean(d.to_numpy())))
    print(f"\nmean over seeds, with its t interval\n{by_point.to_string()}")
    by_seed = table.groupby("seed").difference.mean()
    print(f"\nmean over all points, over seeds: {mean(by_seed.to_numpy())}")


if __name__ == "__main__":
    main()
