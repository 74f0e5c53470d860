"""Notebook 05: what self-tuning brings back, along σ and against every control on the same chips.

Loss: accuracy of QAT on an ideal chip minus accuracy at hand.
Recovery: (tuned − untuned)/(oracle − untuned), a ratio of means over the same chips.
"""

import numpy as np
import pandas as pd

from ..estimators import Oracle
from ..selftuning import Gain, SelfTuning
from ..statistics import Claim, Estimate
from ..variation import NO_VARIATION, Chip
from .cases import COLUMNS, NETS, Bench, Case, benches, controls
from .claims import (
    ALLOWED_LOSS,
    alike,
    average,
    below_ideal,
    best_of,
    claimed,
    difference,
    good_chips,
    groups,
    loss,
    paired,
    per_chip,
    recovered,
    stated,
    summary,
    where,
)
from .profiles import Profile

NEEDED_GAIN, NEEDED_RECOVERY = 5.0, 0.8
PROBED = NETS[:2]
BY = ["network", "law", "net"]


def measurements(profile: Profile, seed: int = 0) -> list[Case]:
    """The three networks along σ, untuned and tuned; at the mixed point also by the oracle, and every control; both
    laws."""
    found = []
    for bench in benches(profile, seed):
        mixed, plain = bench.pattern(), {"untuned": None, profile.tuned_by: bench.tuning}
        oracle = SelfTuning(Oracle())
        found += [bench.ideal(net) for net in NETS]
        for net in NETS:
            for by, tuning in plain.items():
                names = {"of": "axis", "tuned by": by}
                found += [bench.sweep(net, bench.pattern(sigma=s), tuning, **names, sigma=s) for s in bench.axis]
            for by, tuning in (plain | {"oracle": oracle}).items():
                found.append(bench.claimed(net, mixed, tuning, of="tuned", **{"tuned by": by}))
        found.append(bench.fixed("float", NO_VARIATION, of="whole"))
        for net, by in (("QAVAT", "untuned"), ("QAVAT mixed", "untuned"), ("QAVAT", profile.tuned_by)):
            found.append(bench.fixed(net, mixed, plain[by], of="chips", **{"tuned by": by}))
        for tuning in (*plain.values(), oracle, COLUMNS, *controls(bench)):
            found.append(bench.sweep("QAVAT", mixed, tuning, of="control"))
        # what tuning can aim at
        found.append(bench.sweep("QAVAT", bench.parts["within"], of="control", tuning="within only"))
        for by, tuning in plain.items():
            for share in bench.shares:
                names = {"of": "share", "tuned by": by, "share": share}
                found.append(bench.sweep("QAVAT", bench.pattern(share), tuning, **names))
    return found


def self_tuned(table: pd.DataFrame) -> pd.DataFrame:
    """The rows of chips that tuned themselves by the self-tuning of the claims."""
    return table[~table["tuned by"].isin(("untuned", "oracle"))]


def axis_table(table: pd.DataFrame) -> pd.DataFrame:
    """network, law, net, tuned by, sigma: mean accuracy (%) and loss (points), each with its interval."""
    by, ideal = [*BY, "tuned by", "sigma"], where(table, of="ideal")
    return summary(where(table, of="axis"), by, lambda rows: {"mean": average(rows), "loss": loss(ideal, rows)})


def ideal_table(table: pd.DataFrame) -> pd.DataFrame:
    """network, law: mean accuracy (%) of QAT on an ideal chip, on the images that the chips of a claim see."""
    return summary(where(table, of="ideal", net="QAT"), BY[:2], lambda rows: {"mean": average(rows)})


def axis_claims(table: pd.DataFrame) -> dict[tuple, list[Claim]]:
    """(network, law, σ) → the three claims of the paper read off the axis: the gain of QAVAT over QAT, the loss of the
    best training alone, and the loss of QAVAT tuned."""
    found, ideal = {}, where(table, of="ideal")
    for names, rows in groups(where(table, of="axis"), [*BY[:2], "sigma"]):
        untuned = where(rows, **{"tuned by": "untuned"})
        best = where(untuned, net=best_of(untuned))
        tuned = where(self_tuned(rows), net="QAVAT")
        found[tuple(names.values())] = [
            *claimed(
                where(untuned, net=PROBED),
                BY[:2],
                "gain of QAVAT over QAT",
                lambda r: paired(r, "net", "QAVAT", "QAT"),
                above=0,
            ),
            *claimed(best, BY, "loss of the best training alone", lambda r: loss(ideal, r), above=ALLOWED_LOSS),
            *claimed(tuned, BY, "loss of QAVAT, self-tuned", lambda r: loss(ideal, r), below=ALLOWED_LOSS),
        ]
    return found


def below_the_floor(profile: Profile) -> pd.DataFrame:
    """network, σ, chips of the one axis under the proportional law: how many have a gain 1 + e_B below the floor."""
    rows = []
    for bench in (b for b in benches(profile) if b.law == Gain.law):
        for sigma in bench.axis:
            chips = [Chip.of(profile.purpose, i) for i in range(bench.setting.chips)]
            below = sum(1 + bench.pattern(sigma=sigma).shared(chip) < Gain().floor for chip in chips)
            rows.append({"network": bench.setting.network, "σ": sigma, "chips": len(chips), "below the floor": below})
    return pd.DataFrame(rows)


def axis_verdicts(found: dict[tuple, list[Claim]]) -> pd.DataFrame:
    """network, law, σ: each claim's value with interval and verdict, and whether all three are shown."""
    rows = []
    for (network, law, sigma), three in found.items():
        told = {
            c.statement: f"{c.estimate.value:.1f} [{c.estimate.low:.1f}, {c.estimate.high:.1f}]: {c.verdict}"
            for c in three
        }
        every = all(c.verdict == "holds" for c in three)
        rows.append({"network": network, "law": law, "σ": sigma} | told | {"all three shown": "yes" if every else "no"})
    return pd.DataFrame(rows)


def tuned_table(table: pd.DataFrame) -> pd.DataFrame:
    """network, law, net, tuning: mean, distance from its own ideal chip, loss and recovery, each with its interval."""

    tuned, ideal = where(table, of="tuned"), where(table, of="ideal")

    def statistics(rows: pd.DataFrame) -> dict:
        untuned, oracle = (per_chip(alike(tuned, rows, *BY, **{"tuned by": by})) for by in ("untuned", "oracle"))
        return {
            "mean": average(rows),
            "distance_own": below_ideal(ideal, rows, rows.net.iloc[0]),
            "loss": loss(ideal, rows),
            "recovery": recovered(per_chip(rows), untuned, oracle),
        }

    return summary(tuned, [*BY, "tuning", "tuned by"], statistics)


def yield_table(table: pd.DataFrame) -> pd.DataFrame:
    """network, law, net, tuned by: yield (%) with its interval; trained and tuned, on images that all chips share."""

    def statistics(rows: pd.DataFrame) -> dict:
        return {"yield": good_chips(rows, alike(table, rows, *BY[:2], of="whole").accuracy.item())}

    return summary(where(table, of="chips"), [*BY, "tuned by"], statistics)


def yield_claims(yields: pd.DataFrame) -> list[Claim]:
    """Tuned by reference cells, more than half of the chips are good."""
    return stated(self_tuned(yields), "good chips, self-tuned", "yield", above=50, unit="%")


def recovery_claims(tuned: pd.DataFrame, profile: Profile) -> list[Claim]:
    """Reference cells recover 80% of what the oracle does; expected of QAT and QAVAT wherever the oracle gains 5 points
    or more."""
    untuned, oracle = (tuned[tuned["tuned by"] == by].set_index(BY)["mean"] for by in ("untuned", "oracle"))
    rows = self_tuned(tuned).set_index(BY, drop=False)
    told = rows.each.map(lambda each: all(np.isfinite(e.value) for e in each["recovery"].values()))
    rows = rows.assign(enough=told & (oracle - untuned >= NEEDED_GAIN))
    few = f"; the oracle gains less than {NEEDED_GAIN:g} points"
    rows["point"] = rows.point.where(rows.enough, rows.point + few)
    statement, expected = "share of the oracle's gain that self-tuning recovers", profile.claims_expected
    required = {
        "above": NEEDED_RECOVERY,
        "unit": "ratio",
        "expected": lambda row: expected and row.net in PROBED and bool(row.enough),
    }
    return stated(rows, statement, "recovery", **required)


def loss_claims(tuned: pd.DataFrame, profile: Profile) -> list[Claim]:
    """Self-tuned, the loss against QAT on an ideal chip is below 10 points; expected of QAVAT."""
    statement, expected = "loss against QAT on an ideal chip, self-tuned", profile.claims_expected
    required = {"below": ALLOWED_LOSS, "expected": lambda row: expected and row.net == "QAVAT"}
    return stated(self_tuned(tuned), statement, "loss", **required)


def training_claims(table: pd.DataFrame) -> list[Claim]:
    """Does training still matter once the chip tunes itself?"""
    tuned = self_tuned(where(table, of="tuned", net=PROBED))
    return claimed(
        tuned, BY[:2], "gain of QAVAT over QAT, both tuned", lambda rows: paired(rows, "net", *PROBED[::-1]), above=0
    )


def control_table(table: pd.DataFrame) -> pd.DataFrame:
    """network, law, tuning: mean, gain over no tuning and distance from the oracle (paired, points), of QAVAT.

    The last row, "within only", has no between-chip variation at all: what tuning can aim at."""
    tried = where(table, of="control")

    def statistics(rows: pd.DataFrame) -> dict:
        others = (per_chip(alike(tried, rows, *BY, tuning=t)) for t in ("none", "oracle"))
        gain, over = (difference(per_chip(rows), other) for other in others)
        return {"mean": average(rows), "gain": gain, "over_oracle": over}

    return summary(tried, [*BY, "tuning"], statistics)


def control_claims(table: pd.DataFrame, profile: Profile) -> list[Claim]:
    """Self-tuning against each control, on the same chips."""

    def gain(bench: Bench, control) -> list[Claim]:
        ours, names = bench.tuning.label, {"network": bench.setting.network, "law": bench.law}
        rows = where(table, of="control", tuning=(control.label, ours), **names)
        statement = f"gain of {ours} over {control.label}"
        return claimed(rows, BY, statement, lambda r: paired(r, "tuning", ours, control.label), above=0)

    return [one for bench in benches(profile) for control in controls(bench) for one in gain(bench, control)]


def tuned_share_table(table: pd.DataFrame) -> pd.DataFrame:
    """network, law, tuned by, share, mean: one network, trained within-only, tuned and untuned at every share."""
    by = ["network", "law", "tuned by", "share"]
    return summary(where(table, of="share"), by, lambda rows: {"mean": average(rows)})


def share_claims(table: pd.DataFrame) -> list[Claim]:
    """Tuning costs nothing where there is nothing to tune: at ρ = 0 it loses less than a point."""

    def cost(rows: pd.DataFrame) -> Estimate:
        return difference(per_chip(rows, **{"tuned by": "untuned"}), per_chip(self_tuned(rows)))

    nothing = where(table, of="share", share=0.0)
    return claimed(nothing, BY[:2], "what tuning costs where nothing is shared", cost, below=1)
