"""Notebook 05: what self-tuning brings back, against every control on the same chips.

Loss (i): against the same network on an ideal chip.  Loss (ii): against QAT on an ideal chip; the claims use (ii).
Recovery: (tuned − untuned)/(oracle − untuned), a ratio of means over the same chips.
"""

import numpy as np
import pandas as pd

from ..estimators import Oracle
from ..selftuning import SelfTuning
from ..statistics import Claim, bootstrap_mean, mean, recovery
from .cases import COLUMNS, NETS, Case, benches, controls
from .claims import (
    accuracies,
    aligned,
    claimed,
    columns,
    difference,
    good_chips,
    groups,
    paired,
    stated,
    summary,
    where,
)
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


def reference(table: pd.DataFrame, rows: pd.DataFrame) -> float:
    """Accuracy (%) of QAT on an ideal chip, of the network and law of some rows."""
    names = {"network": rows.network.iloc[0], "law": rows.law.iloc[0]}
    return accuracies(table, of="ideal", net="QAT", **names).item()


def tuned_table(table: pd.DataFrame) -> pd.DataFrame:
    """network, law, net, tuning: mean, both losses, recovery, yield (%) with intervals, 5% quantile; in full."""
    found = []
    for names, rows in groups(where(table, of="tuned"), BY):
        whole = accuracies(table, **names | {"net": "float"}).item()
        ideal = accuracies(table, of="ideal", **names).item()
        untuned, oracle = (accuracies(rows, **{"tuned by": by}) for by in ("untuned", "oracle"))
        for more, part in groups(rows, ["tuning", "tuned by"]):
            values = accuracies(part)
            row = names | {"tuning": more["tuning"]} | columns("mean", bootstrap_mean(values))
            row |= columns("loss_own", bootstrap_mean(ideal - values))
            row |= columns("loss", bootstrap_mean(reference(table, rows) - values))
            row |= columns("recovery", recovery(*aligned(values, untuned, oracle)))
            row |= {"q05": float(np.quantile(values, 0.05)), "n_chips": len(values)}
            row |= columns("yield", good_chips(part, whole))
            found.append(row | {"tuned by": more["tuned by"], "point": part.point.iloc[0]})
    return pd.DataFrame(found)


def yield_claims(tuned: pd.DataFrame) -> list[Claim]:
    """Tuned by reference cells, more than half of the chips are good."""
    return stated(self_tuned(tuned), "good chips, self-tuned", "yield", above=50, unit="%")


def recovery_claims(table: pd.DataFrame, profile: Profile) -> list[Claim]:
    """Reference cells recover 80% of what the oracle does; expected wherever the oracle gains 5 points or more."""
    statement = "share of the oracle's gain that self-tuning recovers"
    claims = []
    for _, rows in groups(where(table, of="tuned"), BY):
        untuned, oracle = (accuracies(rows, **{"tuned by": by}) for by in ("untuned", "oracle"))
        tuned = accuracies(self_tuned(rows))
        enough = mean(oracle - untuned).value >= NEEDED_GAIN
        point = rows.point.iloc[0] + ("" if enough else f"; the oracle gains less than {NEEDED_GAIN:g} points")
        share, required = recovery(*aligned(tuned, untuned, oracle)), profile.claims_expected and enough
        claims.append(Claim(statement, point, share, above=NEEDED_RECOVERY, unit="ratio", expected=required))
    return claims


def loss_claims(table: pd.DataFrame, profile: Profile) -> list[Claim]:
    """Self-tuned, the loss against QAT on an ideal chip is below 10 points; expected for QAVAT of the first network."""
    return claimed(
        self_tuned(where(table, of="tuned")),
        BY,
        "loss, self-tuned",
        lambda rows: bootstrap_mean(reference(table, rows) - rows.accuracy),
        below=ALLOWED_LOSS,
        expected=lambda at: (
            profile.claims_expected and at["net"] == "QAVAT" and at["network"] == profile.settings[0].network
        ),
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
        same = where(tried, **{name: rows[name].iloc[0] for name in BY})
        gain, over = (difference(accuracies(rows), accuracies(same, tuning=t)) for t in ("none", "oracle"))
        return {"mean": bootstrap_mean(rows.accuracy), "gain": gain, "over_oracle": over}

    return summary(tried, [*BY, "tuning"], statistics)


def control_claims(table: pd.DataFrame, profile: Profile) -> list[Claim]:
    """Self-tuning against each control, on the same chips."""
    claims = []
    for bench in benches(profile):
        rows = where(table, of="control", network=bench.setting.network, law=bench.law, net="QAVAT")
        ours = bench.tuning.label
        for control in controls(bench, "QAVAT"):
            gain = paired(rows, "tuning", ours, control.label)
            claims.append(Claim(f"gain of {ours} over {control.label}", rows.point.iloc[0], gain, above=0))
    return claims


def tuned_share_table(table: pd.DataFrame) -> pd.DataFrame:
    """network, law, tuning, share, mean: one network, trained within-only, tuned and untuned at every share."""
    by = ["network", "law", "tuning", "share"]
    return summary(where(table, of="share"), by, lambda rows: {"mean": bootstrap_mean(rows.accuracy)})


def share_claims(table: pd.DataFrame) -> list[Claim]:
    """Tuning costs nothing where there is nothing to tune: at ρ = 0 it loses less than a point."""
    claims = []
    for _, rows in groups(where(table, of="share", share=0.0), BY[:2]):
        cost = difference(accuracies(rows, **{"tuned by": "untuned"}), accuracies(self_tuned(rows)))
        claims.append(Claim("what tuning costs where nothing is shared", rows.point.iloc[0], cost, below=1))
    return claims
