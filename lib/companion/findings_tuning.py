"""Notebooks 05 and 06: what self-tuning brings back, what it costs, and when it is enough.  Tables and claims.

Loss (i): against the same network on an ideal chip.  Loss (ii): against QAT on an ideal chip; the claims use (ii).
Recovery: (tuned − untuned)/(oracle − untuned), a ratio of means over the same chips.
"""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np
import pandas as pd
from torch import Tensor, nn

from ..accounting import cost, floored_chips
from ..selftuning import Gain, Oracle, ReferenceCells, ReferenceColumns, SelfTuning
from ..statistics import Claim, Estimate, bootstrap_mean, chip_yield, mean, paired_difference, recovery
from ..variation import Variation
from . import studies
from .findings import YIELD_MARGIN, scaled
from .findings_mixed import chips_of, columns, float_accuracy, mixed, place
from .profiles import CLAIM_SHARE, Profile, Setting

NEEDED_GAIN, NEEDED_RECOVERY, ALLOWED_LOSS = 5.0, 0.8, 10.0
PROBED = ("QAT", "QAVAT")


def tuned_table(results, profile: Profile) -> pd.DataFrame:
    """network, law, net, tuning: mean, both losses, recovery, yield (%) with intervals, 5% quantile; full measurements."""
    rows = []
    for setting in profile.settings:
        for law, _ in profile.shares:
            reference = chips_of(results, setting, "QAT", Variation(law=law))[0]
            v, threshold = mixed(setting, law), float_accuracy(results, setting) - YIELD_MARGIN
            for net in PROBED:
                ideal = chips_of(results, setting, net, Variation(law=law))[0]
                untuned, oracle = (chips_of(results, setting, net, v, label) for label in ("none", "oracle"))
                for label in ("none", studies.tuning(profile, law).label, "oracle"):
                    values = chips_of(results, setting, net, v, label)
                    row = {"network": setting.network, "law": law, "net": net, "tuning": label, **columns("mean", bootstrap_mean(values))}
                    row |= columns("loss_own", bootstrap_mean(ideal - values)) | columns("loss", bootstrap_mean(reference - values))
                    row |= columns("recovery", recovery(values, untuned, oracle)) | {"q05": float(np.quantile(values, 0.05)), "n_chips": len(values)}
                    rows.append(row | columns("yield", scaled(chip_yield(values, threshold), 100)))
    return pd.DataFrame(rows)


def yield_claims(tuned: pd.DataFrame, profile: Profile) -> list[Claim]:
    """Tuned by reference cells, more than half of the chips are good."""
    claims = []
    for r in tuned[~tuned.tuning.isin(["none", "oracle"])].rename(columns={"yield": "good"}).itertuples():
        setting = next(s for s in profile.settings if s.network == r.network)
        share = Estimate(r.good, r.yield_low, r.yield_high, r.n_chips)
        claims.append(Claim("self-tuned, more than 50 % of the chips are good (%)", place(setting, r.net, mixed(setting, r.law)), share, 50.0))
    return claims


def recovery_claims(results, profile: Profile) -> list[Claim]:
    """Reference cells recover 80% of what the oracle does; expected wherever the oracle gains 5 points or more."""
    claims = []
    for setting in profile.settings:
        for law, _ in profile.shares:
            for net in PROBED:
                v, tuned = mixed(setting, law), studies.tuning(profile, law).label
                untuned, tuned, oracle = (chips_of(results, setting, net, v, label) for label in ("none", tuned, "oracle"))
                enough = mean(oracle - untuned).value >= NEEDED_GAIN
                statement = f"self-tuning recovers more than {NEEDED_RECOVERY:.0%} of what the oracle does (ratio)"
                point = place(setting, net, v) + ("" if enough else f"; the oracle gains less than {NEEDED_GAIN:g} points")
                claims.append(Claim(statement, point, recovery(tuned, untuned, oracle), NEEDED_RECOVERY, profile.claims_expected and enough))
    return claims


def loss_claims(results, profile: Profile) -> list[Claim]:
    """Self-tuned, the loss against QAT on an ideal chip is below 10 points; expected for QAVAT of the first network."""
    claims = []
    for setting in profile.settings:
        for law, _ in profile.shares:
            reference = chips_of(results, setting, "QAT", Variation(law=law))[0]
            for net in PROBED:
                values = chips_of(results, setting, net, mixed(setting, law), studies.tuning(profile, law).label)
                spare = bootstrap_mean(ALLOWED_LOSS - (reference - values))
                expected = profile.claims_expected and net == "QAVAT" and setting is profile.settings[0]
                statement = f"self-tuned, the loss stays below {ALLOWED_LOSS:g} points (points to spare)"
                claims.append(Claim(statement, place(setting, net, mixed(setting, law)), spare, expected=expected))
    return claims


def training_claims(results, profile: Profile) -> list[Claim]:
    """Does training still matter once the chip tunes itself?"""
    claims = []
    for setting in profile.settings:
        for law, _ in profile.shares:
            v = mixed(setting, law)
            ours, theirs = (chips_of(results, setting, net, v, studies.tuning(profile, law).label) for net in ("QAVAT", "QAT"))
            claims.append(Claim("both tuned, QAVAT beats QAT (points)", place(setting, "QAVAT", v), paired_difference(ours, theirs)))
    return claims


# -- controls -------------------------------------------------------------------------------------------------


def control_table(results, profile: Profile) -> pd.DataFrame:
    """network, law, net, tuning: mean, gain over no tuning and distance from the oracle (paired, points), n_chips; the
    sweep.  The last row, "within only", has no between-chip variation at all: what tuning can aim at."""
    rows = []
    for setting in profile.settings:
        for law, _ in profile.shares:
            v = mixed(setting, law)
            for net in PROBED:
                values = {
                    "none" if t is None else t.label: chips_of(results, setting, net, v, "none" if t is None else t.label, sweep=True)
                    for t in studies.controls(profile, setting, net, v)
                }
                values["within only"] = chips_of(results, setting, net, Variation(v.within, law=law), sweep=True)
                for label, found in values.items():
                    row = {"network": setting.network, "law": law, "net": net, "tuning": label, **columns("mean", bootstrap_mean(found))}
                    row |= columns("gain", paired_difference(found, values["none"])) | columns("over_oracle", paired_difference(found, values["oracle"]))
                    rows.append(row | {"n_chips": len(found)})
    return pd.DataFrame(rows)


def control_claims(controls: pd.DataFrame, results, profile: Profile) -> list[Claim]:
    """Self-tuning against each control, on the same chips."""
    claims = []
    for setting in profile.settings:
        for law, _ in profile.shares:
            v, label = mixed(setting, law), studies.tuning(profile, law).label
            ours = chips_of(results, setting, "QAVAT", v, label, sweep=True)
            for control in studies.controls(profile, setting, "QAVAT", v)[4:]:
                theirs = chips_of(results, setting, "QAVAT", v, control.label, sweep=True)
                claims.append(Claim(f"{label} beat {control.label} (points)", place(setting, "QAVAT", v), paired_difference(ours, theirs)))
    return claims


def tuned_share_table(results, profile: Profile) -> pd.DataFrame:
    """network, law, tuning, share, mean: one network, trained within-only, tuned and untuned at every share."""
    rows = []
    for setting in profile.settings:
        for law, shares in profile.shares:
            for label in ("none", studies.tuning(profile, law).label):
                for share in shares:
                    found = bootstrap_mean(chips_of(results, setting, "QAVAT", mixed(setting, law, share), label, sweep=True))
                    rows.append({"network": setting.network, "law": law, "tuning": label, "share": share, **columns("mean", found), "n_chips": found.n})
    return pd.DataFrame(rows)


def share_claims(results, profile: Profile) -> list[Claim]:
    """Tuning costs nothing where there is nothing to tune: at ρ = 0 it loses less than a point."""
    claims = []
    for setting in profile.settings:
        for law, _ in profile.shares:
            v, label = mixed(setting, law, 0.0), studies.tuning(profile, law).label
            tuned, untuned = (chips_of(results, setting, "QAVAT", v, t, sweep=True) for t in (label, "none"))
            claims.append(Claim("without between-chip variation tuning costs less than 1 point (points to spare)", place(setting, "QAVAT", v), mean(1 - (untuned - tuned))))
    return claims


def floor_table(results, profile: Profile) -> pd.DataFrame:
    """network, tuning, floored (chips of the test whose gain lies below the floor), mean, worst; QAVAT at the stress σ."""
    rows, v, cells = [], Variation.split(profile.claim_sigma, CLAIM_SHARE), ReferenceCells(dict(profile.cells)["proportional"])
    cases = [("none", v, None), ("oracle", v, SelfTuning(Oracle(), Gain()))]
    cases += [(f"floor {f:g}", v, SelfTuning(cells, Gain(f))) for f in studies.FLOORS] + [("within only", Variation(v.within), None)]
    for setting in profile.settings:
        for name, variation, tuning in cases:
            label = tuning.label if tuning else "none"
            values = chips_of(results, setting, "QAVAT", variation, label, sweep=True, trained=profile.claim_sigma)
            low = len(floored_chips(tuning.estimator, v, range(len(values)), tuning.correction.floor)) if tuning else 0
            rows.append(
                {"network": setting.network, "tuning": name, "floored": low, **columns("mean", bootstrap_mean(values)),
                 "worst": values.min(), "n_chips": len(values)}
            )  # fmt: skip
    return pd.DataFrame(rows)


def stress_claims(results, profile: Profile) -> list[Claim]:
    """At the stress σ too, the tuned loss stays below 10 points (the paper's number at an unknown σ)."""
    claims, v = [], Variation.split(profile.claim_sigma, CLAIM_SHARE)
    for setting in profile.settings:
        reference = chips_of(results, setting, "QAT", Variation())[0]
        label = studies.tuning(profile, "proportional").label
        values = chips_of(results, setting, "QAVAT", v, label, sweep=True, trained=profile.claim_sigma)
        statement = f"self-tuned, the loss stays below {ALLOWED_LOSS:g} points (points to spare)"
        claims.append(Claim(statement, place(setting, "QAVAT", v), bootstrap_mean(ALLOWED_LOSS - (reference - values))))
    return claims


# -- cost -----------------------------------------------------------------------------------------------------


def size_table(results, profile: Profile, nets: Mapping[tuple[str, str], nn.Module], batches: Mapping[str, Tensor]) -> pd.DataFrame:
    """network, law, kind, size, cells, cell_share, operation_share, mean, below_oracle (paired points) and recovery.

    nets: (network, law) → the tuned network; batches: network → inputs for the cost."""
    rows = []
    for setting in profile.settings:
        for law, _ in profile.shares:
            v = mixed(setting, law)
            untuned, oracle = (chips_of(results, setting, "QAVAT", v, label, sweep=True) for label in ("none", "oracle"))
            for kind, made, sizes in (("cells", ReferenceCells, profile.cell_counts), ("columns", ReferenceColumns, profile.column_counts)):
                for size in sizes:
                    tuning = SelfTuning(made(size))
                    values = chips_of(results, setting, "QAVAT", v, tuning.label, sweep=True)
                    price = cost(tuning, nets[setting.network, law], batches[setting.network], law)
                    row = {"network": setting.network, "law": law, "kind": kind, "size": size, "cells": price.cells}
                    row |= {"cell_share": price.cell_share, "operation_share": price.operation_share, **columns("mean", bootstrap_mean(values))}
                    row |= columns("below_oracle", paired_difference(oracle, values)) | columns("recovery", recovery(values, untuned, oracle))
                    rows.append(row | {"n_chips": len(values)})
    return pd.DataFrame(rows)


def smallest_table(sizes: pd.DataFrame) -> pd.DataFrame:
    """network, law, kind: the smallest size within one point of the oracle, by its estimate and by its whole interval."""
    rows = []
    for (network, law, kind), group in sizes.groupby(["network", "law", "kind"], sort=False):
        found = {"network": network, "law": law, "kind": kind}
        for name, column in (("estimate", "below_oracle"), ("interval", "below_oracle_high")):
            good = group[group[column] <= 1]
            found |= {f"by_{name}": good["size"].min() if len(good) else np.nan, f"cells_{name}": good["cells"].min() if len(good) else np.nan}
        rows.append(found)
    return pd.DataFrame(rows)


def size_claims(results, profile: Profile) -> list[Claim]:
    """The cells of the claims stay within one point of the oracle."""
    claims = []
    for setting in profile.settings:
        for law, _ in profile.shares:
            v, label = mixed(setting, law), studies.tuning(profile, law).label
            tuned, oracle = (chips_of(results, setting, "QAVAT", v, t, sweep=True) for t in (label, "oracle"))
            claims.append(Claim(f"{label} are within one point of the oracle (points to spare)", place(setting, "QAVAT", v), mean(1 - (oracle - tuned))))
    return claims


def reading_table(results, profile: Profile) -> pd.DataFrame:
    """network, law, error ("noise" or "step"), size, deviation (the size itself, or step/√12), mean, lost (paired points
    against an exact reading)."""
    rows = []
    for setting in profile.settings:
        for law, _ in profile.shares:
            v, n = mixed(setting, law), dict(profile.cells)[law]
            exact = chips_of(results, setting, "QAVAT", v, ReferenceCells(n).label, sweep=True)
            tried = [("noise", r, ReferenceCells(n, read_noise=r)) for r in studies.READ_NOISES]
            tried += [("step", s, ReferenceCells(n, step=s)) for s in studies.READ_STEPS]
            for error, size, estimator in tried:
                values = chips_of(results, setting, "QAVAT", v, estimator.label, sweep=True)
                rows.append(
                    {"network": setting.network, "law": law, "error": error, "size": size,
                     "deviation": size / (1 if error == "noise" else np.sqrt(12)), **columns("mean", bootstrap_mean(values)),
                     **columns("lost", paired_difference(exact, values)), "n_chips": len(values)}
                )  # fmt: skip
    return pd.DataFrame(rows)


def reading_claims(readings: pd.DataFrame, profile: Profile) -> list[Claim]:
    """A reading with an error of 0.03 is good enough: it costs less than a point."""
    claims = []
    for r in readings[(readings.error == "noise") & np.isclose(readings["size"], 0.03)].itertuples():
        setting = next(s for s in profile.settings if s.network == r.network)
        e = Estimate(1 - r.lost, 1 - r.lost_high, 1 - r.lost_low, r.n_chips)
        claims.append(Claim("a reading noise of 0.03 costs less than 1 point (points to spare)", place(setting, "QAVAT", mixed(setting, r.law)), e))
    return claims


# -- prices --------------------------------------------------------------------------------------------------


def price_table(setting: Setting, profile: Profile, net: nn.Module, batch: Tensor, law: str) -> pd.DataFrame:
    """tuning: cells, share of the array, images or probes a chip, digital operations an inference and their share."""
    rows = []
    for tuning in studies.controls(profile, setting, "QAVAT", mixed(setting, law))[2:]:
        rows.append({"network": setting.network, "law": law, "tuning": tuning.label, **vars(cost(tuning, net, batch, law))})
    return pd.DataFrame(rows)
