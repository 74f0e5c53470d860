"""Choose `claim_bits` of a profile on the validation split:   python -m benchmarks.choose_bits [PROFILE]

For each network: QAVAT against its alternatives at the claim's σ, at A4W2 and A4W4, on validation images and validation
chips (disjoint from the test chips).  The bits with the larger gain over the better alternative are written into
lib/companion/profiles.py by hand, before anything is measured on the test set.
"""

import sys

from lib.companion import cases
from lib.companion.claims import OTHERS
from lib.companion.profiles import Profile, Setting, profile
from lib.experiments import engine
from lib.statistics import paired_difference
from lib.trials import QUANTIZED, Measurement
from lib.variation import Variation

CANDIDATES, IMAGES = ("A4W2", "A4W4"), 1000


def measurements(chosen: Profile, setting: Setting, bits: str, chips: int = 50) -> dict[str, Measurement]:
    """Method → its measurement at the claim's σ, on validation images and validation chips."""
    sigma, found = chosen.claim_sigma, {}
    for method in QUANTIZED:
        trial = cases.trial(setting, method, bits, cases.training(setting, sigma))
        found[method] = Measurement(trial, Variation(sigma), chips, IMAGES, purpose="validation")
    return found


def main(name: str = "quick") -> None:
    chosen = profile(name)
    for setting in chosen.settings:
        best = {}
        for bits in CANDIDATES:
            wanted = measurements(chosen, setting, bits)
            counts = engine.collect(wanted.values())
            values = {method: counts[m].accuracy for method, m in wanted.items()}
            gains = {other: paired_difference(values["QAVAT"], values[other]) for other in OTHERS}
            best[bits] = min(gain.value for gain in gains.values())
            means = "  ".join(f"{method} {v.mean():.1f}" for method, v in values.items())
            over = "  ".join(f"gain over {other}: {gain}" for other, gain in gains.items())
            print(f"{setting.network} {bits}  {means}  {over}", flush=True)
        print(f"{setting.network}: claim_bits = {max(best, key=best.get)}", flush=True)


if __name__ == "__main__":
    main(*sys.argv[1:])
