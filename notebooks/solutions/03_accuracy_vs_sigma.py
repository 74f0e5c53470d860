"""Solutions of `03_accuracy_vs_sigma.ipynb`: exercise_N() returns what its cell hands to `check`."""

import math

import pandas as pd

from lib.companion import cases
from lib.companion.profiles import profile
from lib.data import ROOT


def exercise_1():
    gain = pd.read_csv(ROOT / "figures" / "quick" / "03_gain.csv")  # the notebook has it as `gain`
    rows = gain[(gain.network == "lenet5") & (gain.against == "PTQ-VAT") & (gain.sigma == gain.sigma.max())]
    tie = rows.loc[rows.gain.abs().idxmin()]
    return tie.bits, tie.gain


def exercise_2(deviation=10, correlation=0.9, chips=30):
    paired = deviation * math.sqrt(2 * (1 - correlation) / chips)
    return paired, deviation * math.sqrt(2 / chips)


def exercise_3():
    setting = profile("quick").settings[0]
    return [cases.training(setting, sigma).within for sigma in (0.4, 0.1)]
