"""How the second phase of QAVAT mixed was chosen:   python -m benchmarks.choose_mixed [SEED]

Epochs and learning rate of the frozen phase, out of the same number of epochs in all, on validation images and
validation chips: both networks of `quick` under both laws at their mixed points.  Beside it what train-mode batch norm
gives in one phase.  The first line of a case is QAVAT trained on the within part alone.
"""

import sys
from dataclasses import replace

from lib.companion import cases
from lib.companion.profiles import profile
from lib.experiments import engine
from lib.trials import Measurement

RATES, CHIPS = (0.03, 0.1, 0.2), 100


def main(seed: int = 0) -> None:
    tried = {}
    for bench in cases.benches(profile("quick"), seed):
        setting, networks = bench.setting, bench.networks
        about = setting.network, bench.law
        tried[*about, "within alone", 0.0] = networks["QAVAT"]
        tried[*about, "one phase, norms of the batch", 0.0] = cases.trial(
            setting, "QAVAT", setting.claim_bits, bench.pattern(), seed
        )
        for epochs in range(1, setting.recipe.epochs):
            for rate in RATES:
                frozen = replace(dict(setting.mixed)[bench.law], epochs=epochs, lr=rate)
                second = replace(setting, mixed=((bench.law, frozen),))
                tried[*about, f"{epochs} of {setting.recipe.epochs} epochs frozen", rate] = cases.mixed_trial(
                    second, bench.sigma, bench.law, seed
                )
    patterns = {(b.setting.network, b.law): b.pattern() for b in cases.benches(profile("quick"))}
    asked = {
        names: Measurement(trial, patterns[names[:2]], CHIPS, None, 250, purpose="validation")
        for names, trial in tried.items()
    }
    found = engine.collect(asked.values())
    for (network, law, what, rate), m in asked.items():
        at = f", rate {rate:g}" if rate else ""
        print(f"{network}, {law}: {what}{at}: {found[m].summary()['mean']} %")


if __name__ == "__main__":
    main(*map(int, sys.argv[1:]))
