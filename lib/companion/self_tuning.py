"""Notebook 05: what self-tuning brings back, against every control on the same chips.

Loss: accuracy of QAT on an ideal chip minus accuracy at hand.
Recovery: (tuned − untuned)/(oracle − untuned), a ratio of means over the same chips.
"""

import numpy as np
import pandas as pd

from ..estimators import Oracle
from ..selftuning import SelfTuning
from ..statistics import Claim, Estimate, bootstrap_mean, recovery
from .cases import COLUMNS, NETS, Case, benches, controls
from .claims import accuracies, aligned, alike, claimed, difference, good_chips, loss, paired, stated, summary, where
from .profiles import Profile

NEEDED_GAIN, NEEDED_RECOVERY, ALLOWED_LOSS = 5.0, 0.8, 10.0
PROBED = NETS[:2]
BY = ["network", "law", "net"]


def measurements(profile: Profile, seed: int = 0) -> list[Case]:
    """The same chips untuned, tuned, and with every control; both laws, QAT and QAVAT."""
    found = []
    for bench in benches(profile, seed):
        mixed = bench.pattern()
        plain = {"untuned": None, "oracle": SelfTuning(Oracle()), profile.tuned_by: bench.tuning}
        found.append(bench.ideal("float"))
        for net in PROBED:
            found.append(bench.ideal(net))
            order = ("untuned", profile.tuned_by, "oracle")
            found += [bench.full(net, mixed, plain[by], of="tuned", **{"tuned by": by}) for by in order]
            tried = [*plain.values(), COLUMNS, *controls(bench, net)]
            found += [bench.sweep(net, mixed, t, of="control") for t in tried]
            # what tuning can aim at
            found.append(bench.sweep(net, bench.parts["within"], of="control", tuning="within only"))
        for by in ("untuned", profile.tuned_by):
            for share in bench.shares:
                names = {"of": "share", "tuned by": by, "share": share}
                found.append(bench.sweep("QAVAT", bench.pattern(share), plain[by], **names))
    return found


def self_tuned(table: pd.DataFrame) -> pd.DataFrame:
    """The rows of chips that tuned themselves by the self-tuning of the claims."""
    return table[~table["tuned by"].isin(("untuned", "oracle"))]


def tuned_table(table: pd.DataFrame) -> pd.DataFrame:
    """network, law, net, tuning: mean, distance from its own ideal chip, loss, recovery, yield (%), each with its
    interval, and 5% quantile; from whole test sets."""

    def statistics(rows: pd.DataFrame) -> dict:
        whole, ideal = (
            alike(table, rows, *BY[:2], of="ideal", net=n).accuracy.item() for n in ("float", rows.net.iloc[0])
        )
        untuned, oracle = (alike(table, rows, *BY, of="tuned", **{"tuned by": by}) for by in ("untuned", "oracle"))
        return {
            "mean": bootstrap_mean(rows.accuracy),
            "distance_own": bootstrap_mean(ideal - rows.accuracy),
            "loss": loss(table, rows),
            "recovery": recovery(*aligned(*map(accuracies, (rows, untuned, oracle)))),
            "q05": float(np.quantile(rows.accuracy, 0.05)),
            "yield": good_chips(rows, whole),
        }

    return summary(where(table, of="tuned"), [*BY, "tuning", "tuned by"], statistics)


def yield_claims(tuned: pd.DataFrame) -> list[Claim]:
    """Tuned by reference cells, more than half of the chips are good."""
    return stated(self_tuned(tuned), "good chips, self-tuned", "yield", above=50, unit="%")


def recovery_claims(tuned: pd.DataFrame, profile: Profile) -> list[Claim]:
    """Reference cells recover 80% of what the oracle does; expected wherever the oracle gains 5 points or more."""
    untuned, oracle = (tuned[tuned["tuned by"] == by].set_index(BY)["mean"] for by in ("untuned", "oracle"))
    rows = self_tuned(tuned).set_index(BY, drop=False)
    told = rows.each.map(lambda each: all(np.isfinite(e.value) for e in each["recovery"].values()))
    rows = rows.assign(enough=told & (oracle - untuned >= NEEDED_GAIN))
    few = f"; the oracle gains less than {NEEDED_GAIN:g} points"
    rows["point"] = rows.point.where(rows.enough, rows.point + few)
    statement, expected = "share of the oracle's gain that self-tuning recovers", profile.claims_expected
    required = {"above": NEEDED_RECOVERY, "unit": "ratio", "expected": lambda row: expected and bool(row.enough)}
    return stated(rows, statement, "recovery", **required)


def loss_claims(tuned: pd.DataFrame, profile: Profile) -> list[Claim]:
    """Self-tuned, the loss against QAT on an ideal chip is below 10 points; expected for QAVAT of the first network."""
    ours = profile.claims_expected and ("QAVAT", profile.settings[0].network)
    expected = {"expected": lambda row: (row.net, row.network) == ours}
    return stated(
        self_tuned(tuned), "loss against QAT on an ideal chip, self-tuned", "loss", below=ALLOWED_LOSS, **expected
    )


def training_claims(table: pd.DataFrame) -> list[Claim]:
    """Does training still matter once the chip tunes itself?"""
    tuned = self_tuned(where(table, of="tuned"))
    return claimed(
        tuned, BY[:2], "gain of QAVAT over QAT, both tuned", lambda rows: paired(rows, "net", *PROBED[::-1]), above=0
    )


def control_table(table: pd.DataFrame) -> pd.DataFrame:
    """network, law, net, tuning: mean, gain over no tuning and distance from the oracle (paired, points), n_chips.

    From the sweep.  The last row, "within only", has no between-chip variation at all: what tuning can aim at."""
    tried = where(table, of="control")

    def statistics(rows: pd.DataFrame) -> dict:
        others = (accuracies(alike(tried, rows, *BY, tuning=t)) for t in ("none", "oracle"))
        gain, over = (difference(accuracies(rows), other) for other in others)
        return {"mean": bootstrap_mean(rows.accuracy), "gain": gain, "over_oracle": over}

    return summary(tried, [*BY, "tuning"], statistics)


def control_claims(table: pd.DataFrame, profile: Profile) -> list[Claim]:
    """Self-tuning against each control, on the same chips."""
    claims = []
    for bench in benches(profile):
        rows = where(table, of="control", network=bench.setting.network, law=bench.law, net="QAVAT")
        ours = bench.tuning.label
        for control in controls(bench, "QAVAT"):
            tried = where(rows, tuning=(control.label, ours))
            about = f"gain of {ours} over {control.label}"
            claims += claimed(tried, BY, about, lambda r: paired(r, "tuning", ours, control.label), above=0)  # noqa: B023
    return claims


def tuned_share_table(table: pd.DataFrame) -> pd.DataFrame:
    """network, law, tuning, share, mean: one network, trained within-only, tuned and untuned at every share."""
    by = ["network", "law", "tuning", "share"]
    return summary(where(table, of="share"), by, lambda rows: {"mean": bootstrap_mean(rows.accuracy)})


def share_claims(table: pd.DataFrame) -> list[Claim]:
    """Tuning costs nothing where there is nothing to tune: at ρ = 0 it loses less than a point."""

    def cost(rows: pd.DataFrame) -> Estimate:
        return difference(accuracies(rows, **{"tuned by": "untuned"}), accuracies(self_tuned(rows)))

    nothing = where(table, of="share", share=0.0)
    return claimed(nothing, BY[:2], "what tuning costs where nothing is shared", cost, below=1)
