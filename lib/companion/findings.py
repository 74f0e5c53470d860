"""From tables of counts to statements: summaries, paired gains, claims, and the words of an alt text.

Every comparison is on the same chips, every claim at an operating point that the profile fixed beforehand.
"""

from __future__ import annotations

import numpy as np
import pandas as pd

from ..networks import NAMES
from ..statistics import (
    Claim,
    Estimate,
    bootstrap_mean,
    chip_yield,
    difference_of_proportions,
    mean,
    paired_difference,
    proportion,
    quantile,
)
from ..trials import QUANTIZED
from .profiles import Profile, Setting

ALTERNATIVES = ("QAT", "PTQ-VAT")  # what QAVAT is held against, each on its own
YIELD_MARGIN = 5.0  # points below float accuracy that a good chip may lose


def curve(table, setting: Setting, method: str, bits: str):
    """Rows of one method of one setting, at its bits ("float" for the float methods)."""
    same = (table.network == setting.network) & (table.dataset == setting.dataset) & (table.width == setting.width)
    return table[same & (table.method == method) & (table.bits == (bits if method in QUANTIZED else "float"))]


def accuracies(table, setting: Setting, method: str, bits: str, sigma: float) -> np.ndarray:
    """Accuracy (%) of every chip in the order of chips, averaged over seeds; empty where it was not measured."""
    rows = curve(table, setting, method, bits)
    rows = rows[np.isclose(rows.sigma, sigma)]
    return rows.groupby("chip").accuracy.mean().to_numpy()


def float_accuracy(table, setting: Setting) -> float:
    """% of the float network without variation."""
    return float(accuracies(table, setting, "float", "float", 0.0).mean())


def summary(table, profile: Profile):
    """A row per network, bits, method and σ: mean with interval, 5% quantile with interval, yield with interval."""
    rows = []
    for setting in profile.settings:
        threshold = float_accuracy(table, setting) - YIELD_MARGIN
        for bits in (*setting.bits, "float"):
            for method in QUANTIZED if bits != "float" else ("float", "float-VAT"):
                of_method = curve(table, setting, method, bits)
                for sigma in sorted(of_method.sigma.unique()):
                    values = accuracies(table, setting, method, bits, sigma)
                    found = (bootstrap_mean(values), quantile(values), chip_yield(values, threshold))
                    if not sigma:  # without variation all chips are one: nothing for an interval over chips to say
                        found = tuple(exactly(e.value) for e in found)
                    trained = of_method[of_method.sigma == sigma].trained_sigma.max()
                    row = {"network": setting.network, "bits": bits, "method": method, "trained_sigma": trained, "sigma": sigma}
                    row |= {"n_chips": len(values), "seeds": of_method.seed.nunique()}
                    for name, estimate in zip(("mean", "q05", "yield"), found):
                        row |= _columns(name, estimate)
                    rows.append(row)
    return pd.DataFrame(rows)


def by_method(summary_table, network: str, bits: str):
    """(method, rows by σ) of one network: the quantized methods at `bits`, then the float upper reference."""
    rows = summary_table[(summary_table.network == network) & summary_table.bits.isin([bits, "float"])]
    for method in (*QUANTIZED[::-1], "float-VAT"):
        yield method, rows[rows.method == method].sort_values("sigma")


def gains(table, profile: Profile):
    """A row per network, bits, alternative and σ: QAVAT − alternative on the same chips, with interval (points)."""
    rows = []
    for setting in profile.settings:
        for bits in setting.bits:
            for other in ALTERNATIVES:
                for sigma in profile.sigmas:
                    ours, theirs = (accuracies(table, setting, m, bits, sigma) for m in ("QAVAT", other))
                    row = {"network": setting.network, "bits": bits, "against": other, "sigma": sigma, "n_chips": len(ours)}
                    gain = paired_difference(ours, theirs) if sigma else exactly(ours[0] - theirs[0])
                    rows.append(row | _columns("gain", gain))
    return pd.DataFrame(rows)


def accuracy_claims(table, profile: Profile) -> list[Claim]:
    """QAVAT beats each alternative at σ = claim_sigma; expected at the bits fixed on the validation split."""
    claims = []
    for setting in profile.settings:
        for bits in sorted(setting.bits, key=lambda b: b != setting.claim_bits):
            ours, *others = (
                accuracies(table, setting, method, bits, profile.claim_sigma) for method in ("QAVAT", *ALTERNATIVES)
            )
            for other, values in zip(ALTERNATIVES, others):
                statement = f"QAVAT is more accurate than {other} (points)"
                point = f"{NAMES[setting.network]} {bits}, σ {profile.claim_sigma:g}, same chips"
                expected = profile.claims_expected and bits == setting.claim_bits
                claims.append(Claim(statement, point, paired_difference(ours, values), expected=expected))
    return claims


def quantile_claims(table, profile: Profile) -> list[Claim]:
    """The unlucky chips of QAVAT beat those of each alternative: the intervals of the quantiles do not meet."""
    claims = []
    for setting in profile.settings:
        ours, *others = (
            quantile(accuracies(table, setting, m, setting.claim_bits, profile.claim_sigma)) for m in ("QAVAT", *ALTERNATIVES)
        )
        for other, q in zip(ALTERNATIVES, others):
            gap = Estimate(ours.value - q.value, ours.low - q.high, ours.high - q.low, ours.n)
            point = f"{NAMES[setting.network]} {setting.claim_bits}, σ {profile.claim_sigma:g}"
            claims.append(Claim(f"the 5 % quantile of QAVAT lies above that of {other} (points)", point, gap))
    return claims


def yield_claims(table, profile: Profile) -> list[Claim]:
    """At the claim's σ more than half of the chips are good with QAVAT."""
    claims = []
    for setting in profile.settings:
        values = accuracies(table, setting, "QAVAT", setting.claim_bits, profile.claim_sigma)
        share = scaled(chip_yield(values, float_accuracy(table, setting) - YIELD_MARGIN), 100)
        point = f"{NAMES[setting.network]} {setting.claim_bits}, σ {profile.claim_sigma:g}"
        claims.append(Claim("QAVAT yields more than 50 % good chips (%)", point, share, 50.0))
    return claims


def drop_claims(table, profile: Profile) -> list[Claim]:
    """Notebook 00: the variability-oblivious network loses accuracy on real chips, and QAVAT loses less."""
    setting, top = profile.settings[0], profile.claim_sigma
    lost = {
        method: accuracies(table, setting, method, setting.claim_bits, 0.0)[0]
        - accuracies(table, setting, method, setting.claim_bits, top)
        for method in ("QAT", "QAVAT")
    }
    point = f"{NAMES[setting.network]} {setting.claim_bits}, σ {top:g}"
    return [
        Claim("QAT loses accuracy between an ideal and a real chip (points)", point, mean(lost["QAT"])),
        Claim("QAVAT loses less than QAT (points)", point, paired_difference(lost["QAT"], lost["QAVAT"])),
    ]


def bits_claims(table, profile: Profile) -> list[Claim]:
    """Notebook 01: what the bits cost on an ideal chip, against the float network on the same images."""
    setting = profile.settings[0]
    right = table[table.sigma == 0].groupby(["method", "bits", "quantizers"])[["correct", "images"]].sum()
    share = {key: proportion(int(row.correct), int(row.images)) for key, row in right.iterrows()}
    whole = share["float", "float", "learned"]
    return [
        Claim(
            f"{bits} costs less than {YIELD_MARGIN:g} points (points to spare)",
            f"{NAMES[setting.network]}, ideal chip",
            scaled(difference_of_proportions(share["QAT", bits, "learned"], whole), 100, YIELD_MARGIN),
            of="images",
        )
        for bits in ("A4W4", "A4W2", "A4W1", "A2W2", "A1W1")
    ]


def patterns(table, setting: Setting):
    """Rows of notebook 02 at the σ of the mixed patterns, normal cells: law × (ρ = 0, ρ = 0.5), named in `pattern`."""
    rows = table[(table.cells == "normal") & np.isclose(table.sigma, table.law.map(setting.sigma))]
    return rows.assign(pattern=rows.law + np.where(rows.sigma_between > 0, ", ρ = 0.5", ", ρ = 0"))


def chips_claims(table, profile: Profile) -> list[Claim]:
    """Notebook 02: half of the variance moved between chips costs accuracy, both laws."""
    setting, claims = profile.settings[0], []
    for law, sigma in setting.sigma.items():
        rows = patterns(table[table.law == law], setting)
        within, mixed = (r.sort_values("chip").accuracy.to_numpy() for r in (rows[rows.sigma_between == 0], rows[rows.sigma_between > 0]))
        point = f"{NAMES[setting.network]} {setting.claim_bits} QAT, {law}, σ {sigma:g}, same chips"
        claims.append(Claim("a between share of 0.5 costs accuracy against 0 (points)", point, paired_difference(within, mixed)))
    return claims


def cells_table(table):
    """cells, sigma, mean with bootstrap interval, worst chip: within-chip proportional variation, by distribution."""
    rows = []
    for (cells, sigma), group in table[(table.law == "proportional") & (table.sigma > 0) & (table.sigma_between == 0)].groupby(["cells", "sigma"]):
        row = {"cells": cells, "sigma": sigma} | _columns("mean", bootstrap_mean(group.accuracy))
        rows.append(row | {"worst": group.accuracy.min(), "n_chips": len(group)})
    return pd.DataFrame(rows)


def cells_claims(table, profile: Profile) -> list[Claim]:
    """Notebook 02: at equal σ, does the shape of the distribution matter?"""
    setting, claims = profile.settings[0], []
    for sigma in (0.3, 0.5):
        rows = table[(table.law == "proportional") & np.isclose(table.sigma, sigma) & (table.sigma_between == 0)].sort_values("chip")
        by = {cells: group.accuracy.to_numpy() for cells, group in rows.groupby("cells")}
        point = f"{NAMES[setting.network]} {setting.claim_bits} QAT, proportional σ {sigma:g}, same chips"
        claims.append(Claim("lognormal cells cost less than normal ones (points)", point, paired_difference(by["lognormal"], by["normal"])))
    return claims


def trends(summary_table, of: list[tuple[str, str]], column: str) -> str:
    """Alt text of a figure with a panel a case: where every line starts and ends."""
    parts = []
    for network, bits in of:
        lines = [(m, rows) for m, rows in by_method(summary_table, network, bits) if len(rows)]
        ends = ", ".join(f"{m} from {rows[column].iloc[0]:.0f} to {rows[column].iloc[-1]:.0f}" for m, rows in lines)
        parts.append(f"{NAMES[network]} {bits}, σ from 0 to {lines[0][1].sigma.max():g}: {ends}")
    return ". ".join(parts) + "."


def gain_trends(gain_table) -> str:
    """Alt text of the gain figure: the gain at the largest σ."""
    last = gain_table[gain_table.sigma == gain_table.sigma.max()]
    return "At the largest σ: " + ", ".join(
        f"{NAMES[r.network]} {r.bits} against {r.against} {r.gain:+.1f}" for r in last.itertuples()
    )


def exactly(value: float) -> Estimate:
    """A value that no chip varies."""
    return Estimate(float(value), float(value), float(value), 1)


def scaled(e: Estimate, factor: float, offset: float = 0.0) -> Estimate:
    return Estimate(*(offset + factor * v for v in (e.value, e.low, e.high)), e.n)


def _columns(name: str, e: Estimate) -> dict:
    return {name: e.value, f"{name}_low": e.low, f"{name}_high": e.high}
