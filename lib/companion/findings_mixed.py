"""Notebook 04: what the mixed pattern costs, to whom, and where.  Tables and claims from the counts of its study.

A *sweep* gives every chip a slice of the images (means only); a *full* measurement gives it all of them.
"""

from __future__ import annotations

import numpy as np
import pandas as pd

from ..accounting import shared_deviations
from ..checks import InputError
from ..networks import NAMES
from ..statistics import Claim, Estimate, bootstrap_mean, chip_yield, difference_of_means, paired_difference, quantile
from ..variation import Variation
from .findings import YIELD_MARGIN, exactly, scaled
from .profiles import CLAIM_SHARE, Profile, Setting
from .studies import parts_of

NETS = ("QAT", "QAVAT", "QAVAT mixed")
Results = dict[tuple, np.ndarray]
IDENTITY = ["dataset", "network", "width", "bits", "method", "trained", "tested", "tuning", "images_per_chip"]


def indexed(table: pd.DataFrame) -> Results:
    """The table of `engine.collect` as a dictionary for `chips_of`: accuracies in the order of chips, mean over seeds."""
    keyed = table.assign(trained=list(zip(table.trained_law, table.trained_sigma, table.trained_share)))
    keyed["tested"] = list(zip(table.law.where(table.sigma > 0, "proportional"), table.sigma_within, table.sigma_between, table.layers))
    for identity, keys in keyed.groupby([*IDENTITY, "seed"]).key.unique().items():
        if len(keys) > 1:
            raise InputError(f"{len(keys)} results share the identity {identity}; give the tunings labels that differ")
    by_chip = keyed.groupby([*IDENTITY, "chip"], sort=True).accuracy.mean()
    return {key: values.to_numpy() for key, values in by_chip.groupby(IDENTITY)}


def chips_of(
    results: Results, setting: Setting, net: str, variation: Variation, tuning: str = "none", sweep: bool = False, trained: float | None = None
) -> np.ndarray:
    """Accuracy (%) of every chip; empty where it was not measured.

    net: of `NETS`, or "float".  trained: total σ of its training, where it is not that of the law's claim."""
    law, training = variation.law, ("proportional", 0.0, 0.0)
    if net.startswith("QAVAT"):
        sigma = setting.sigma[law] if trained is None else trained
        training = (law, round(sigma, 9), CLAIM_SHARE if net.endswith("mixed") else 0.0)
    layers = "all" if variation.layers is None else "+".join(variation.layers)
    tested = (law if variation else "proportional", variation.within, variation.between, layers)
    key = (setting.dataset, setting.network, setting.width, "float" if net == "float" else setting.claim_bits, net.split()[0])
    key += (training, tested, tuning, (setting.sweep_images or 0) if sweep else 0)
    return results.get(key, np.array([]))


def float_accuracy(results: Results, setting: Setting) -> float:
    """% of the float network without variation."""
    return float(chips_of(results, setting, "float", Variation())[0])


def mixed(setting: Setting, law: str, share: float = CLAIM_SHARE) -> Variation:
    return Variation.split(setting.sigma[law], share, law)


def columns(name: str, e: Estimate) -> dict:
    return {name: e.value, f"{name}_low": e.low, f"{name}_high": e.high}


def place(setting: Setting, net: str, variation: Variation, extra: str = "same chips") -> str:
    """The operating point of a claim in words."""
    share = f", ρ {variation.between_share:.3g}" if variation.between else ""
    return f"{NAMES[setting.network]} {setting.claim_bits} {net}, {variation.law} σ {variation.total:.3g}{share}, {extra}"


# -- accuracy against the between share -----------------------------------------------------------------------


def share_table(results, profile: Profile) -> pd.DataFrame:
    """network, law, net, share, mean with bootstrap interval, n_chips; from the sweep."""
    rows = []
    for setting in profile.settings:
        for law, shares in profile.shares:
            for net in NETS:
                for share in shares:
                    found = bootstrap_mean(chips_of(results, setting, net, mixed(setting, law, share), sweep=True))
                    rows.append({"network": setting.network, "law": law, "net": net, "share": share, **columns("mean", found), "n_chips": found.n})
    return pd.DataFrame(rows)


def mixed_claims(results, profile: Profile) -> list[Claim]:
    """The mixed pattern costs more than the within-only one at the same σ; expected for the proportional law."""
    claims = []
    for setting in profile.settings:
        for law, _ in profile.shares:
            for net in ("QAT", "QAVAT"):
                within, both = (chips_of(results, setting, net, mixed(setting, law, share)) for share in (0.0, CLAIM_SHARE))
                expected = profile.claims_expected and law == "proportional"
                point = place(setting, net, mixed(setting, law))
                statement = "the mixed pattern costs more than within-only at the same σ (points)"
                claims.append(Claim(statement, point, paired_difference(within, both), expected=expected))
    return claims


def training_claims(results, profile: Profile) -> list[Claim]:
    """Training on the mixed pattern helps under the mixed pattern; and whether it brings the loss below 10 points."""
    claims = []
    for setting in profile.settings:
        for law, _ in profile.shares:
            v = mixed(setting, law)
            within, both = (chips_of(results, setting, net, v) for net in ("QAVAT", "QAVAT mixed"))
            point = place(setting, "QAVAT", v)
            claims.append(Claim("training on the mixed pattern beats training on the within part (points)", point, paired_difference(both, within)))
            ideal = chips_of(results, setting, "QAT", Variation(law=law))[0]
            best = max((within, both), key=np.mean)
            lost = bootstrap_mean(ideal - best)
            claims.append(Claim("training alone loses more than 10 points against QAT on an ideal chip (points)", point, lost, 10.0))
    return claims


def stress_table(results, profile: Profile) -> pd.DataFrame:
    """network, net, share, mean: the proportional law at the claim's σ of notebook 03, networks trained there."""
    rows, sigma = [], profile.claim_sigma
    for setting in profile.settings:
        for net in ("QAT", "QAVAT"):
            for share in (0.0, CLAIM_SHARE):
                values = chips_of(results, setting, net, Variation.split(sigma, share), sweep=True, trained=sigma)
                rows.append({"network": setting.network, "net": net, "sigma": sigma, "share": share, **columns("mean", bootstrap_mean(values)), "n_chips": len(values)})
    return pd.DataFrame(rows)


# -- distribution, yield, asymmetry ---------------------------------------------------------------------------


def distribution_table(results, profile: Profile) -> pd.DataFrame:
    """network, law, net, share, chip, e_between, accuracy: every chip of the full measurements."""
    frames = []
    for setting in profile.settings:
        for law, _ in profile.shares:
            for net in NETS:
                for share in (0.0, CLAIM_SHARE):
                    values = chips_of(results, setting, net, mixed(setting, law, share))
                    e = shared_deviations(mixed(setting, law, share), range(len(values)))
                    frames.append(pd.DataFrame({"network": setting.network, "law": law, "net": net, "share": share, "chip": range(len(values)), "e_between": e, "accuracy": values}))
    return pd.concat(frames, ignore_index=True)


def tail_claims(results, profile: Profile) -> list[Claim]:
    """The mixed pattern's 5% quantile lies below: the intervals of the two quantiles do not meet."""
    claims = []
    for setting in profile.settings:
        for law, _ in profile.shares:
            within, both = (quantile(chips_of(results, setting, "QAVAT", mixed(setting, law, share))) for share in (0.0, CLAIM_SHARE))
            gap = Estimate(within.value - both.value, within.low - both.high, within.high - both.low, both.n)
            claims.append(Claim("the mixed pattern lowers the 5 % quantile (points)", place(setting, "QAVAT", mixed(setting, law)), gap))
    return claims


def asymmetry_claims(chips: pd.DataFrame, profile: Profile) -> list[Claim]:
    """Chips with a positive e_B against chips with a negative one."""
    claims = []
    for setting in profile.settings:
        for law, _ in profile.shares:
            for net in ("QAT", "QAVAT"):
                rows = chips[(chips.network == setting.network) & (chips.law == law) & (chips.net == net) & (chips.share > 0)]
                gap = difference_of_means(rows.accuracy[rows.e_between > 0], rows.accuracy[rows.e_between < 0])
                statement = "chips with e_B > 0 are more accurate than those with e_B < 0 (points)"
                claims.append(Claim(statement, place(setting, net, mixed(setting, law), "unpaired"), gap))
    return claims


def yield_table(results, profile: Profile) -> pd.DataFrame:
    """network, law, net, share, yield (%) with Wilson interval, q05 with its interval, n_chips."""
    rows = []
    for setting in profile.settings:
        threshold = float_accuracy(results, setting) - YIELD_MARGIN
        for law, _ in profile.shares:
            for net in NETS:
                for share in (0.0, CLAIM_SHARE):
                    values = chips_of(results, setting, net, mixed(setting, law, share))
                    if len(values):
                        found = scaled(chip_yield(values, threshold), 100)
                        rows.append(
                            {"network": setting.network, "law": law, "net": net, "share": share, **columns("yield", found),
                             **columns("q05", quantile(values)), "n_chips": found.n}
                        )  # fmt: skip
    return pd.DataFrame(rows)


def yield_claims(yields: pd.DataFrame, profile: Profile) -> list[Claim]:
    """Under the mixed pattern some network yields more than half good chips."""
    claims = []
    for setting in profile.settings:
        for law, _ in profile.shares:
            rows = yields[(yields.network == setting.network) & (yields.law == law) & (yields.share > 0)]
            best = rows.loc[rows["yield"].idxmax()]
            share = Estimate(best["yield"], best.yield_low, best.yield_high, int(best.n_chips))
            claims.append(Claim("the best of the three yields more than 50 % good chips (%)", place(setting, best.net, mixed(setting, law)), share, 50.0))
    return claims


# -- attribution ----------------------------------------------------------------------------------------------


def attribution(results, profile: Profile) -> pd.DataFrame:
    """network, law, net, cause, loss (points, with interval): quantization = float − ideal chip; within and between
    alone; interaction = the mixed loss beyond their sum.  The same unit normals in all."""
    rows = []
    for setting in profile.settings:
        whole = float_accuracy(results, setting)
        for law, _ in profile.shares:
            v = mixed(setting, law)
            cases = [Variation(law=law), Variation(v.within, law=law), Variation(between=v.between, law=law), v]
            for net in ("QAT", "QAVAT"):
                ideal, within, between, both = (chips_of(results, setting, net, case, sweep=True) for case in cases)
                causes = {
                    "quantization": exactly(whole - chips_of(results, setting, net, cases[0])[0]),
                    "within": bootstrap_mean(ideal - within),
                    "between": bootstrap_mean(ideal - between),
                    "interaction": bootstrap_mean(within + between - ideal - both),
                }
                rows += [
                    {"network": setting.network, "law": law, "net": net, "cause": cause, **columns("loss", e), "n_chips": len(both)}
                    for cause, e in causes.items()
                ]
    return pd.DataFrame(rows)


def attribution_by_part(results, profile: Profile) -> pd.DataFrame:
    """network, law, part, component, loss: QAVAT with variation in one layer (or residual block) at a time."""
    rows = []
    for setting in profile.settings:
        for law, _ in profile.shares:
            v = mixed(setting, law)
            ideal = chips_of(results, setting, "QAVAT", Variation(law=law), sweep=True)
            for part, layers in parts_of(setting).items():
                for component, alone in (("within", (v.within, 0.0)), ("between", (0.0, v.between))):
                    values = chips_of(results, setting, "QAVAT", Variation(*alone, law, layers=layers), sweep=True)
                    found = bootstrap_mean(ideal - values)
                    rows.append({"network": setting.network, "law": law, "part": part, "component": component, **columns("loss", found), "n_chips": found.n})
    return pd.DataFrame(rows)


def attribution_claims(causes: pd.DataFrame, profile: Profile) -> list[Claim]:
    """Between-chip variation alone costs something; and within and between do not simply add."""
    claims = []
    for r in causes[causes.cause.isin(["between", "interaction"])].itertuples():
        setting = next(s for s in profile.settings if s.network == r.network)
        e = Estimate(r.loss, r.loss_low, r.loss_high, r.n_chips)
        what = "between-chip variation alone costs accuracy" if r.cause == "between" else "both together cost more than the sum of each alone"
        claims.append(Claim(f"{what} (points)", place(setting, r.net, mixed(setting, r.law)), e))
    return claims


def part_claims(parts: pd.DataFrame, profile: Profile) -> list[Claim]:
    """The part that loses most, component by component."""
    claims = []
    for (network, law, component), rows in parts.groupby(["network", "law", "component"], sort=False):
        worst = rows.loc[rows.loss.idxmax()]
        setting = next(s for s in profile.settings if s.network == network)
        e = Estimate(worst.loss, worst.loss_low, worst.loss_high, int(worst.n_chips))
        claims.append(Claim(f"the {component} part in {worst.part} alone, the worst found, costs accuracy (points)", place(setting, "QAVAT", mixed(setting, law)), e))
    return claims
