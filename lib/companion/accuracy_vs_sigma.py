"""Notebook 03: every method against σ within chips.  Gains are paired: the same chips for all methods."""

from __future__ import annotations

import pandas as pd

from ..networks import NAMES
from ..statistics import Claim, Estimate, bootstrap_mean, chip_yield, paired_difference, quantile
from ..trials import QUANTIZED, Measurement
from ..variation import Variation
from . import cases
from .cases import accuracies, curve
from .claims import ALTERNATIVES, YIELD_MARGIN, columns, exactly, scaled
from .profiles import Profile, Setting


def measurements(profile: Profile, seed: int = 0) -> list[Measurement]:
    """Notebook 03: every method of every setting against σ, within-chip proportional variation."""
    wanted = []
    for setting in profile.settings:
        wanted.append(cases.measured(profile, setting, cases.trial(setting, "float", seed=seed), 0.0))
        for sigma in profile.sigmas:
            trained = cases.training(setting, sigma)
            upper = cases.trial(setting, "float-VAT", None, trained, seed)
            wanted.append(cases.measured(profile, setting, upper, sigma))
            for bits in setting.bits:
                for method in QUANTIZED:
                    wanted.append(cases.measured(profile, setting, cases.trial(setting, method, bits, trained, seed), sigma))
    return wanted


def validation(profile: Profile, setting: Setting, bits: tuple[str, ...], chips: int = 50, seed: int = 0) -> list[Measurement]:
    """How claim_bits is chosen: every quantized method at the claim's σ, on validation images and validation chips."""
    sigma = profile.claim_sigma
    trials = [cases.trial(setting, m, b, cases.training(setting, sigma), seed) for b in bits for m in QUANTIZED]
    return [Measurement(t, Variation(sigma), chips, profile.test_images, purpose="validation") for t in trials]


def panels_of(profile: Profile) -> list[tuple[str, str]]:
    """(network, bits) of every panel."""
    return [(setting.network, bits) for setting in profile.settings for bits in setting.bits]


def accuracy_in_float(table, setting: Setting) -> float:
    """% of the float network without variation."""
    return float(accuracies(table, setting, "float", "float", 0.0).mean())


def summary(table, profile: Profile):
    """A row per network, bits, method and σ: mean with interval, 5% quantile with interval, yield with interval."""
    rows = []
    for setting in profile.settings:
        threshold = accuracy_in_float(table, setting) - YIELD_MARGIN
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
                        row |= columns(name, estimate)
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
                    rows.append(row | columns("gain", gain))
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
        share = scaled(chip_yield(values, accuracy_in_float(table, setting) - YIELD_MARGIN), 100)
        point = f"{NAMES[setting.network]} {setting.claim_bits}, σ {profile.claim_sigma:g}"
        claims.append(Claim("QAVAT yields more than 50 % good chips (%)", point, share, 50.0))
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
