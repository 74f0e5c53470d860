"""Notebook 05: what self-tuning brings back, against every control on the same chips.

Loss (i): against the same network on an ideal chip.  Loss (ii): against QAT on an ideal chip; the claims use (ii).
Recovery: (tuned − untuned)/(oracle − untuned), a ratio of means over the same chips.
"""

from __future__ import annotations

import numpy as np
import pandas as pd

from ..accounting import floored_chips
from ..estimators import Oracle
from ..selftuning import Gain, SelfTuning
from ..statistics import Claim, bootstrap_mean, chip_yield, mean, paired_difference, recovery
from .cases import COLUMNS, NETS, Case, benches, controls, place, stressed
from .claims import YIELD_MARGIN, accuracies, columns, estimate, groups, scaled, summary, where
from .profiles import Profile

FLOORS = (0.1, Gain.floor, 0.5)
NEEDED_GAIN, NEEDED_RECOVERY, ALLOWED_LOSS = 5.0, 0.8, 10.0
PROBED = NETS[:2]
BY = ["network", "law", "net"]


def measurements(profile: Profile, seed: int = 0) -> list[Case]:
    """The same chips untuned, tuned, and with every control; both laws, QAT and QAVAT; stress and floor."""
    found = []
    for bench in benches(profile, seed):
        mixed = bench.pattern()
        plain = {"untuned": None, "oracle": SelfTuning(Oracle()), "reference cells": bench.tuning}
        found.append(bench.ideal("float"))
        for net in PROBED:
            found.append(bench.ideal(net))
            order = ("untuned", "reference cells", "oracle")
            found += [bench.full(net, mixed, plain[by], of="tuned", **{"tuned by": by}) for by in order]
            tried = [*plain.values(), COLUMNS, *controls(bench, net)]
            found += [bench.sweep(net, mixed, t, of="control") for t in tried]
            # what tuning can aim at
            found.append(bench.sweep(net, bench.parts["within"], of="control", tuning="within only"))
        for by in ("untuned", "reference cells"):
            for share in bench.shares:
                names = {"of": "share", "tuned by": by, "share": share}
                found.append(bench.sweep("QAVAT", bench.pattern(share), plain[by], **names))
    for bench in stressed(profile, seed):
        v, estimator = bench.pattern(), bench.tuning.estimator
        floors = {f"floor {f:g}": SelfTuning(estimator, None if f == Gain.floor else Gain(f)) for f in FLOORS}
        tried = {"none": None, "oracle": SelfTuning(Oracle()), **floors}
        found += [bench.sweep("QAVAT", v, tuning, of="floor", tuning=name) for name, tuning in tried.items()]
        found.append(bench.sweep("QAVAT", bench.parts["within"], of="floor", tuning="within only"))
    return found


def reference(table: pd.DataFrame, rows: pd.DataFrame) -> float:
    """Accuracy (%) of QAT on an ideal chip, of the network and law of some rows."""
    names = {"network": rows.network.iloc[0], "law": rows.law.iloc[0]}
    return accuracies(table, of="ideal", net="QAT", **names)[0]


def tuned_table(table: pd.DataFrame) -> pd.DataFrame:
    """network, law, net, tuning: mean, both losses, recovery, yield (%) with intervals, 5% quantile; in full."""
    found = []
    for names, rows in groups(where(table, of="tuned"), BY):
        whole = accuracies(table, network=names["network"], net="float")[0]
        ideal = accuracies(table, of="ideal", **names)[0]
        untuned, oracle = (accuracies(rows, **{"tuned by": by}) for by in ("untuned", "oracle"))
        for (tuning, by), part in rows.groupby(["tuning", "tuned by"], sort=False):
            values = part.accuracy.to_numpy()
            row = names | {"tuning": tuning} | columns("mean", bootstrap_mean(values))
            row |= columns("loss_own", bootstrap_mean(ideal - values))
            row |= columns("loss", bootstrap_mean(reference(table, rows) - values))
            row |= columns("recovery", recovery(values, untuned, oracle))
            row |= {"q05": float(np.quantile(values, 0.05)), "n_chips": len(values)}
            row |= columns("yield", scaled(chip_yield(values, whole - YIELD_MARGIN), 100))
            found.append(row | {"tuned by": by})
    return pd.DataFrame(found)


def yield_claims(tuned: pd.DataFrame, profile: Profile) -> list[Claim]:
    """Tuned by reference cells, more than half of the chips are good."""
    statement, claims = "self-tuned, more than 50 % of the chips are good (%)", []
    for bench in benches(profile):
        at = {"network": bench.setting.network, "law": bench.law, "tuned by": "reference cells"}
        for _, row in where(tuned, **at).iterrows():
            point = place(bench.setting, row.net, bench.pattern())
            claims.append(Claim(statement, point, estimate(row, "yield"), 50.0))
    return claims


def recovery_claims(table: pd.DataFrame, profile: Profile) -> list[Claim]:
    """Reference cells recover 80% of what the oracle does; expected wherever the oracle gains 5 points or more."""
    statement = f"self-tuning recovers more than {NEEDED_RECOVERY:.0%} of what the oracle does (ratio)"
    claims = []
    for _, rows in groups(where(table, of="tuned"), BY):
        order = ("untuned", "reference cells", "oracle")
        untuned, tuned, oracle = (accuracies(rows, **{"tuned by": by}) for by in order)
        enough = mean(oracle - untuned).value >= NEEDED_GAIN
        point = rows.point.iloc[0] + ("" if enough else f"; the oracle gains less than {NEEDED_GAIN:g} points")
        share, expected = recovery(tuned, untuned, oracle), profile.claims_expected and enough
        claims.append(Claim(statement, point, share, NEEDED_RECOVERY, expected))
    return claims


def loss_claims(table: pd.DataFrame, profile: Profile) -> list[Claim]:
    """Self-tuned, the loss against QAT on an ideal chip is below 10 points; expected for QAVAT of the first network."""
    statement = f"self-tuned, the loss stays below {ALLOWED_LOSS:g} points (points to spare)"
    claims = []
    for names, rows in groups(where(table, of="tuned", **{"tuned by": "reference cells"}), BY):
        spare = bootstrap_mean(ALLOWED_LOSS - (reference(table, rows) - rows.accuracy.to_numpy()))
        first = names["net"] == "QAVAT" and names["network"] == profile.settings[0].network
        claims.append(Claim(statement, rows.point.iloc[0], spare, expected=profile.claims_expected and first))
    return claims


def training_claims(table: pd.DataFrame) -> list[Claim]:
    """Does training still matter once the chip tunes itself?"""
    claims = []
    for _, rows in groups(where(table, of="tuned", **{"tuned by": "reference cells"}), BY[:2]):
        gain = paired_difference(*(accuracies(rows, net=net) for net in ("QAVAT", "QAT")))
        point = where(rows, net="QAVAT").point.iloc[0]
        claims.append(Claim("both tuned, QAVAT beats QAT (points)", point, gain))
    return claims


def control_table(table: pd.DataFrame) -> pd.DataFrame:
    """network, law, net, tuning: mean, gain over no tuning and distance from the oracle (paired, points), n_chips.

    From the sweep.  The last row, "within only", has no between-chip variation at all: what tuning can aim at."""
    tried = where(table, of="control")

    def statistics(rows: pd.DataFrame) -> dict:
        same = where(tried, **{name: rows[name].iloc[0] for name in BY})
        gain, over = (paired_difference(rows.accuracy, accuracies(same, tuning=t)) for t in ("none", "oracle"))
        return {"mean": bootstrap_mean(rows.accuracy), "gain": gain, "over_oracle": over}

    return summary(tried, [*BY, "tuning"], statistics)


def control_claims(table: pd.DataFrame, profile: Profile) -> list[Claim]:
    """Self-tuning against each control, on the same chips."""
    claims = []
    for bench in benches(profile):
        rows = where(table, of="control", network=bench.setting.network, law=bench.law, net="QAVAT")
        ours = bench.tuning.label
        for control in controls(bench, "QAVAT"):
            gain = paired_difference(*(accuracies(rows, tuning=label) for label in (ours, control.label)))
            claims.append(Claim(f"{ours} beat {control.label} (points)", rows.point.iloc[0], gain))
    return claims


def tuned_share_table(table: pd.DataFrame) -> pd.DataFrame:
    """network, law, tuning, share, mean: one network, trained within-only, tuned and untuned at every share."""
    by = ["network", "law", "tuning", "share"]
    return summary(where(table, of="share"), by, lambda rows: {"mean": bootstrap_mean(rows.accuracy)})


def share_claims(table: pd.DataFrame) -> list[Claim]:
    """Tuning costs nothing where there is nothing to tune: at ρ = 0 it loses less than a point."""
    statement = "without between-chip variation tuning costs less than 1 point (points to spare)"
    claims = []
    for _, rows in groups(where(table, of="share", share=0.0), BY[:2]):
        tuned, untuned = (accuracies(rows, **{"tuned by": by}) for by in ("reference cells", "untuned"))
        claims.append(Claim(statement, rows.point.iloc[0], mean(1 - (untuned - tuned))))
    return claims


def floor_table(table: pd.DataFrame, profile: Profile) -> pd.DataFrame:
    """network, tuning, floored (chips of the test whose gain lies below the floor), mean, worst; QAVAT at the stress
    σ."""
    floors, bench = {f"floor {f:g}": f for f in FLOORS}, stressed(profile)[0]
    estimators = {"oracle": Oracle()} | dict.fromkeys(floors, bench.tuning.estimator)

    def statistics(rows: pd.DataFrame) -> dict:
        name, low = rows.tuning.iloc[0], 0
        if name in estimators:
            low = len(floored_chips(estimators[name], bench.pattern(), rows.chip, floors.get(name, Gain.floor)))
        return {"floored": low, "mean": bootstrap_mean(rows.accuracy), "worst": rows.accuracy.min()}

    return summary(where(table, of="floor"), ["network", "tuning"], statistics)


def stress_claims(table: pd.DataFrame) -> list[Claim]:
    """At the stress σ too, the tuned loss stays below 10 points (the paper's number at an unknown σ)."""
    statement = f"self-tuned, the loss stays below {ALLOWED_LOSS:g} points (points to spare)"
    claims = []
    for _, rows in groups(where(table, of="floor", tuning=f"floor {Gain.floor:g}"), ["network"]):
        spare = bootstrap_mean(ALLOWED_LOSS - (reference(table, rows) - rows.accuracy.to_numpy()))
        claims.append(Claim(statement, rows.point.iloc[0], spare))
    return claims
