"""Write the trained networks of a profile as data/networks/*.safetensors:   python -m benchmarks.ship PROFILE [NETWORK]

Those of the store, trained where they are not there yet (hours), on the images that ANALOG_PIM_DATASETS names; of one
network alone where it is named.  What is shipped already is written anew only with ANALOG_PIM_TRAIN=1.  LeNet-5 with
noisy float or binary weights is not shipped: it takes the room of ten others, and seconds to train; nor are the two of
which notebook 01 draws the weights before quantization, which no file keeps.
"""

import platform
import subprocess
import sys
from pathlib import Path

import torch

from lib.companion import studies
from lib.companion.profiles import profile
from lib.data import public_name
from lib.experiments import engine, keys
from lib.experiments.settings import Settings
from lib.precision import training_precision
from lib.shipped import FOLDER, ship
from lib.training import State
from lib.trials import Trial

WIDTHS = {0.125: "eighth", 0.25: "quarter", 0.5: "half", 1.0: "full"}


def name_of(trial: Trial) -> str:
    """resnet18-quarter-cifar100-A4W2-qavat-mixed-fixed-0.23-s0, say."""
    images = public_name(trial.dataset).partition(":")[2] or trial.dataset
    law = "fixed" if trial.variation.law == "layer-fixed" else ""
    about = [trial.network, WIDTHS.get(trial.width, f"{trial.width:g}"), images, trial.bits, trial.method.lower()]
    about += [
        "" if trial.quantizers == "learned" else trial.quantizers,
        "mixed" if trial.first else "",
        law,
        f"{trial.variation.total:g}" if trial.variation.total else "",
    ]
    return "-".join(part for part in (*about, f"s{trial.seed}") if part)


def left_out(trial: Trial) -> bool:
    large = trial.method == "float-VAT" or "W1" in str(trial.bits)
    drawn = (trial.method, trial.seed, trial.quantizers) == ("QAT", 0, "learned") and trial.bits in ("A4W2", "A4W4")
    return trial.network == "lenet5" and (large or drawn)


def main(name: str, network: str | None = None) -> None:
    settings = Settings.read()
    chosen = profile(name, settings.networks, settings.seeds, settings.datasets)
    wanted = dict.fromkeys(m.trial for m in studies.every_measurement(chosen, chosen.notebooks or studies.ALL))
    commit = subprocess.run(["git", "rev-parse", "HEAD"], capture_output=True, text=True, check=True).stdout.strip()
    FOLDER.mkdir(exist_ok=True)
    # all at hand before the first is shipped: from then on its descendants would start from the shipped one
    states: dict[Path, tuple[Trial, State]] = {}
    for trial in wanted:
        if left_out(trial) or network not in (None, trial.network) or keys.shipped_for(trial, settings):
            continue
        engine.ensure(trial, settings)
        state, path = keys.checkpoint(trial, settings), FOLDER / f"{name_of(trial)}.safetensors"
        assert state is not None  # it has just been trained
        assert path not in states, f"two trainings are called {path.stem}"
        states[path] = trial, state
    for path, (trial, state) in states.items():
        trained = {
            "device": settings.device if settings.device == "cuda" else platform.processor() or platform.machine(),
            "precision": f"{keys.precision(trial, settings, training_precision)} products",
            "torch": torch.__version__,
            "python": platform.python_version(),
            "commit": commit,
        }
        print(ship(trial, keys.dataset_of(trial, settings), state, path, trained).name, flush=True)


if __name__ == "__main__":
    main(*sys.argv[1:])
