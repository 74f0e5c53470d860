"""Notebook 03: every method against σ within chips.  Gains are paired: the same chips for all methods."""

from collections.abc import Iterator

import pandas as pd

from ..networks import NAMES
from ..statistics import Claim, bootstrap_mean, chip_yield, quantile
from ..trials import QUANTIZED
from . import cases
from .cases import Case
from .claims import (
    ALTERNATIVES,
    YIELD_MARGIN,
    accuracies,
    apart,
    columns,
    difference,
    exactly,
    good_chips,
    groups,
    where,
)
from .profiles import Profile, Setting


def measurements(profile: Profile, seed: int = 0) -> list[Case]:
    """Every method of every setting against σ, within-chip proportional variation."""
    found = []
    for setting in profile.settings:
        tried = [(method, bits, profile.sigmas) for bits in setting.bits for method in QUANTIZED]
        tried += [("float", None, (0.0,)), ("float-VAT", None, profile.sigmas)]
        for method, bits, sigmas in tried:
            for sigma in sigmas:
                t = cases.trial(setting, method, bits, cases.training(setting, sigma), seed)
                trained = round(t.variation.total, 9)
                found.append(cases.within(profile, setting, t, sigma, trained_sigma=trained, seed=seed))
    return found


def panels_of(profile: Profile) -> list[tuple[str, str]]:
    """(network, bits) of every panel."""
    return [(setting.network, bits) for setting in profile.settings for bits in setting.bits]


def summary(table: pd.DataFrame) -> pd.DataFrame:
    """A row per network, bits, method and σ: mean with interval, 5% quantile with interval, yield with interval."""
    rows = []
    for names, part in groups(table, ["network", "bits", "method", "trained_sigma", "sigma"]):
        values, whole = part.accuracy, accuracies(table, network=names["network"], method="float").item()
        found = (bootstrap_mean(values), quantile(values), chip_yield(values, whole - YIELD_MARGIN))
        if not names["sigma"]:  # without variation all chips are one: nothing for an interval over chips to say
            found = tuple(exactly(e.value) for e in found)
        names |= {"n_chips": len(values), "seeds": part.seed.nunique()}
        for name, estimate in zip(("mean", "q05", "yield"), found, strict=True):
            names |= columns(name, estimate)
        rows.append(names)
    return pd.DataFrame(rows)


def by_method(summary_table: pd.DataFrame, network: str, bits: str) -> Iterator[tuple[str, pd.DataFrame]]:
    """(method, rows by σ) of one network: the quantized methods at `bits`, then the float upper reference."""
    rows = summary_table[(summary_table.network == network) & summary_table.bits.isin([bits, "float"])]
    for method in (*QUANTIZED[::-1], "float-VAT"):
        yield method, rows[rows.method == method].sort_values("sigma")


def gains(table: pd.DataFrame, profile: Profile) -> pd.DataFrame:
    """A row per network, bits, alternative and σ: QAVAT − alternative on the same chips, with interval (points)."""
    rows = []
    for network, bits in panels_of(profile):
        at = {"network": network, "bits": bits}
        for other in ALTERNATIVES:
            for sigma in profile.sigmas:
                ours, theirs = (accuracies(table, **at, method=m, sigma=sigma) for m in ("QAVAT", other))
                gain = difference(ours, theirs) if sigma else exactly(ours.item() - theirs.item())
                row = at | {"against": other, "sigma": sigma, "n_chips": len(ours)}
                rows.append(row | columns("gain", gain))
    return pd.DataFrame(rows)


def at_claim(table: pd.DataFrame, profile: Profile, setting: Setting, bits: str) -> dict[str, pd.Series]:
    """Method → accuracy (%) of every chip at the claim's σ."""
    at = {"network": setting.network, "bits": bits, "sigma": profile.claim_sigma}
    return {method: accuracies(table, **at, method=method) for method in QUANTIZED}


def accuracy_claims(table: pd.DataFrame, profile: Profile) -> list[Claim]:
    """QAVAT beats each alternative at σ = claim_sigma; expected at the bits fixed on the validation split."""
    claims = []
    for setting in profile.settings:
        for bits in sorted(setting.bits, key=lambda b: b != setting.claim_bits):
            values = at_claim(table, profile, setting, bits)
            expected = profile.claims_expected and bits == setting.claim_bits
            point = f"{NAMES[setting.network]} {bits}, σ {profile.claim_sigma:g}, same chips"
            for other in ALTERNATIVES:
                gain = difference(values["QAVAT"], values[other])
                claims.append(Claim(f"gain of QAVAT over {other}", point, gain, above=0, expected=expected))
    return claims


def quantile_claims(table: pd.DataFrame, profile: Profile) -> list[Claim]:
    """The unlucky chips of QAVAT beat those of each alternative: the intervals of the quantiles do not meet."""
    claims = []
    for setting in profile.settings:
        values = at_claim(table, profile, setting, setting.claim_bits)
        point = f"{NAMES[setting.network]} {setting.claim_bits}, σ {profile.claim_sigma:g}"
        for other in ALTERNATIVES:
            gap = apart(quantile(values["QAVAT"]), quantile(values[other]))
            claims.append(Claim(f"gain of QAVAT over {other} in the 5 % quantile", point, gap, above=0))
    return claims


def yield_claims(table: pd.DataFrame, profile: Profile) -> list[Claim]:
    """At the claim's σ more than half of the chips are good with QAVAT."""
    claims = []
    for setting in profile.settings:
        at = {"network": setting.network, "bits": setting.claim_bits, "sigma": profile.claim_sigma, "method": "QAVAT"}
        good = good_chips(where(table, **at), accuracies(table, network=setting.network, method="float").item())
        point = f"{NAMES[setting.network]} {setting.claim_bits}, σ {profile.claim_sigma:g}"
        claims.append(Claim("good chips with QAVAT", point, good, above=50, unit="%"))
    return claims


def trends(summary_table: pd.DataFrame, of: list[tuple[str, str]], column: str) -> str:
    """Alt text of a figure with a panel a case: where every line starts and ends."""
    parts = []
    for network, bits in of:
        lines = [(m, rows) for m, rows in by_method(summary_table, network, bits) if len(rows)]
        ends = ", ".join(f"{m} from {rows[column].iloc[0]:.0f} to {rows[column].iloc[-1]:.0f}" for m, rows in lines)
        parts.append(f"{NAMES[network]} {bits}, σ from 0 to {lines[0][1].sigma.max():g}: {ends}")
    return ". ".join(parts) + "."


def gain_trends(gain_table: pd.DataFrame) -> str:
    """Alt text of the gain figure: the gain at the largest σ."""
    last = gain_table[gain_table.sigma == gain_table.sigma.max()]
    found = (f"{NAMES[r.network]} {r.bits} against {r.against} {r.gain:+.1f}" for r in last.itertuples())
    return "At the largest σ: " + ", ".join(found)
