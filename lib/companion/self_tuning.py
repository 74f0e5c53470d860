"""Notebook 05: what self-tuning brings back, against every control on the same chips.

Loss (i): against the same network on an ideal chip.  Loss (ii): against QAT on an ideal chip; the claims use (ii).
Recovery: (tuned − untuned)/(oracle − untuned), a ratio of means over the same chips.
"""

from __future__ import annotations

import numpy as np
import pandas as pd

from ..accounting import floored_chips
from ..estimators import Oracle, ReferenceCells
from ..selftuning import Gain, SelfTuning
from ..statistics import Claim, Estimate, bootstrap_mean, chip_yield, mean, paired_difference, recovery
from ..trials import Measurement
from ..variation import Variation
from . import cases
from .cases import chips_of, float_accuracy, mixed, place
from .claims import YIELD_MARGIN, columns, scaled
from .profiles import CLAIM_SHARE, Profile

FLOORS = (0.1, Gain.floor, 0.5)
NEEDED_GAIN, NEEDED_RECOVERY, ALLOWED_LOSS = 5.0, 0.8, 10.0
PROBED = ("QAT", "QAVAT")


def measurements(profile: Profile, seed: int = 0) -> list[Measurement]:
    """Notebook 05: the same chips untuned, tuned, and with every control; both laws, QAT and QAVAT; stress and floor."""
    wanted = []
    for setting in profile.settings:
        full, sweep = cases.full(profile, setting), cases.sweep(profile, setting)
        wanted.append(cases.measured(profile, setting, cases.trial(setting, "float", seed=seed), 0.0))
        for law, shares in profile.shares:
            sigma, nets = setting.sigma[law], cases.networks(setting, law, seed)
            mixed, tuned = Variation.split(sigma, CLAIM_SHARE, law), cases.tuning(profile, law)
            for name in ("QAT", "QAVAT"):
                wanted.append(cases.measured(profile, setting, nets[name], 0.0))
                wanted += [full(nets[name], mixed, t) for t in (None, SelfTuning(Oracle()), tuned)]
                wanted += [sweep(nets[name], mixed, t) for t in cases.controls(profile, setting, name, mixed)]
                wanted.append(sweep(nets[name], Variation(mixed.within, law=law)))  # what tuning can aim at
            for share in shares:
                wanted += [sweep(nets["QAVAT"], Variation.split(sigma, share, law), t) for t in (None, tuned)]
        stress = Variation.split(profile.claim_sigma, CLAIM_SHARE)
        net, n = cases.networks(setting, "proportional", seed, profile.claim_sigma)["QAVAT"], dict(profile.cells)["proportional"]
        floors = [SelfTuning(ReferenceCells(n), None if f == Gain.floor else Gain(f)) for f in FLOORS]
        wanted += [sweep(net, stress, t) for t in (None, SelfTuning(Oracle()), *floors)]
        wanted.append(sweep(net, Variation(stress.within)))
    return wanted


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
                for label in ("none", cases.tuning(profile, law).label, "oracle"):
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
                v, tuned = mixed(setting, law), cases.tuning(profile, law).label
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
                values = chips_of(results, setting, net, mixed(setting, law), cases.tuning(profile, law).label)
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
            ours, theirs = (chips_of(results, setting, net, v, cases.tuning(profile, law).label) for net in ("QAVAT", "QAT"))
            claims.append(Claim("both tuned, QAVAT beats QAT (points)", place(setting, "QAVAT", v), paired_difference(ours, theirs)))
    return claims


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
                    for t in cases.controls(profile, setting, net, v)
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
            v, label = mixed(setting, law), cases.tuning(profile, law).label
            ours = chips_of(results, setting, "QAVAT", v, label, sweep=True)
            for control in cases.controls(profile, setting, "QAVAT", v)[4:]:
                theirs = chips_of(results, setting, "QAVAT", v, control.label, sweep=True)
                claims.append(Claim(f"{label} beat {control.label} (points)", place(setting, "QAVAT", v), paired_difference(ours, theirs)))
    return claims


def tuned_share_table(results, profile: Profile) -> pd.DataFrame:
    """network, law, tuning, share, mean: one network, trained within-only, tuned and untuned at every share."""
    rows = []
    for setting in profile.settings:
        for law, shares in profile.shares:
            for label in ("none", cases.tuning(profile, law).label):
                for share in shares:
                    found = bootstrap_mean(chips_of(results, setting, "QAVAT", mixed(setting, law, share), label, sweep=True))
                    rows.append({"network": setting.network, "law": law, "tuning": label, "share": share, **columns("mean", found), "n_chips": found.n})
    return pd.DataFrame(rows)


def share_claims(results, profile: Profile) -> list[Claim]:
    """Tuning costs nothing where there is nothing to tune: at ρ = 0 it loses less than a point."""
    claims = []
    for setting in profile.settings:
        for law, _ in profile.shares:
            v, label = mixed(setting, law, 0.0), cases.tuning(profile, law).label
            tuned, untuned = (chips_of(results, setting, "QAVAT", v, t, sweep=True) for t in (label, "none"))
            claims.append(Claim("without between-chip variation tuning costs less than 1 point (points to spare)", place(setting, "QAVAT", v), mean(1 - (untuned - tuned))))
    return claims


def floor_table(results, profile: Profile) -> pd.DataFrame:
    """network, tuning, floored (chips of the test whose gain lies below the floor), mean, worst; QAVAT at the stress σ."""
    rows, v, cells = [], Variation.split(profile.claim_sigma, CLAIM_SHARE), ReferenceCells(dict(profile.cells)["proportional"])
    tried = [("none", v, None), ("oracle", v, SelfTuning(Oracle(), Gain()))]
    tried += [(f"floor {f:g}", v, SelfTuning(cells, Gain(f))) for f in FLOORS] + [("within only", Variation(v.within), None)]
    for setting in profile.settings:
        for name, variation, tuning in tried:
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
        label = cases.tuning(profile, "proportional").label
        values = chips_of(results, setting, "QAVAT", v, label, sweep=True, trained=profile.claim_sigma)
        statement = f"self-tuned, the loss stays below {ALLOWED_LOSS:g} points (points to spare)"
        claims.append(Claim(statement, place(setting, "QAVAT", v), bootstrap_mean(ALLOWED_LOSS - (reference - values))))
    return claims
