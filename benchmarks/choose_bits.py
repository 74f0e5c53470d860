"""Choose `claim_bits` of a profile on the validation split:   python -m benchmarks.choose_bits [PROFILE]

For each network: QAVAT against its alternatives at the claim's σ, at A4W2 and A4W4, on validation images and validation
chips (disjoint from the test chips).  The bits with the larger gain over the better alternative are written into
lib/companion/profiles.py by hand, before anything is measured on the test set.
"""

import sys

from lib.companion import accuracy_vs_sigma, cases, claims
from lib.companion.profiles import profile
from lib.experiments import engine
from lib.statistics import paired_difference
from lib.trials import QUANTIZED

CANDIDATES = ("A4W2", "A4W4")


def main(name: str = "quick") -> None:
    chosen = profile(name)
    for setting in chosen.settings:
        table = engine.frame(engine.collect(accuracy_vs_sigma.validation(chosen, setting, CANDIDATES)))
        best = {}
        for bits in CANDIDATES:
            curves = {m: cases.curve(table, setting, m, bits).sort_values("chip") for m in QUANTIZED}
            values = {m: curve.accuracy.to_numpy() for m, curve in curves.items()}
            gains = {other: paired_difference(values["QAVAT"], values[other]) for other in claims.ALTERNATIVES}
            best[bits] = min(gain.value for gain in gains.values())
            means = "  ".join(f"{method} {v.mean():.1f}" for method, v in values.items())
            over = "  ".join(f"gain over {other}: {gain}" for other, gain in gains.items())
            print(f"{setting.network} {bits}  {means}  {over}", flush=True)
        print(f"{setting.network}: claim_bits = {max(best, key=best.get)}", flush=True)


if __name__ == "__main__":
    main(*sys.argv[1:])
