"""Notebook 03: every method against σ within chips.  Gains are paired: the same chips for all methods."""

from collections.abc import Iterator

import pandas as pd

from ..networks import NAMES
from ..statistics import Claim, Estimate, bootstrap_mean, quantile
from ..trials import QUANTIZED
from . import cases, claims
from .cases import Case
from .claims import ALTERNATIVES, accuracies, alike, apart, difference, exactly, good_chips, paired, where
from .profiles import Profile


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
                found.append(cases.within(profile, setting, t, sigma, trained_sigma=trained))
    return found


def panels_of(profile: Profile) -> list[tuple[str, str]]:
    """(network, bits) of every panel."""
    return [(setting.network, bits) for setting in profile.settings for bits in setting.bits]


def summary(table: pd.DataFrame) -> pd.DataFrame:
    """A row per network, bits, method and σ: mean with interval, 5% quantile with interval, yield (%)
    with interval."""

    def statistics(rows: pd.DataFrame) -> dict:
        values, whole = rows.accuracy, alike(table, rows, "network", method="float").accuracy.item()
        found = {"mean": bootstrap_mean(values), "q05": quantile(values), "yield": good_chips(rows, whole)}
        if rows.sigma.iloc[0]:
            return found
        # without variation all chips are one: nothing for an interval over chips to say
        return {name: exactly(e.value) for name, e in found.items()}

    return claims.summary(table, ["network", "bits", "method", "trained_sigma", "sigma"], statistics)


def by_method(summary_table: pd.DataFrame, network: str, bits: str) -> Iterator[tuple[str, pd.DataFrame]]:
    """(method, rows by σ) of one network: the quantized methods at `bits`, then the float upper reference."""
    rows = summary_table[(summary_table.network == network) & summary_table.bits.isin([bits, "float"])]
    for method in (*QUANTIZED[::-1], "float-VAT"):
        yield method, rows[rows.method == method].sort_values("sigma")


def gains(table: pd.DataFrame) -> pd.DataFrame:
    """A row per network, bits, alternative and σ: QAVAT − alternative on the same chips, with interval (points)."""

    def gain(rows: pd.DataFrame, other: str) -> Estimate:
        found = difference(accuracies(rows), accuracies(alike(table, rows, "network", "bits", "sigma", method=other)))
        return found if rows.sigma.iloc[0] else exactly(found.value)

    parts = []
    for other in ALTERNATIVES:
        rows = where(table, method="QAVAT")
        found = claims.summary(rows, ["network", "bits", "sigma"], lambda r: {"gain": gain(r, other)})  # noqa: B023
        found.insert(2, "against", other)
        parts.append(found)
    return pd.concat(parts).sort_values(["network", "bits"], kind="stable", ignore_index=True)


def at_claim(table: pd.DataFrame, profile: Profile) -> pd.DataFrame:
    """The rows at the claim's σ, with the operating point."""
    rows = where(table, sigma=profile.claim_sigma)
    return rows.assign(point=rows.network.map(NAMES) + " " + rows.bits + f", σ {profile.claim_sigma:g}")


def claim_bits(table: pd.DataFrame, profile: Profile) -> pd.DataFrame:
    """Of these, the rows at the bits that were fixed on the validation split."""
    return pd.concat(where(at_claim(table, profile), network=s.network, bits=s.claim_bits) for s in profile.settings)


def accuracy_claims(table: pd.DataFrame, profile: Profile) -> list[Claim]:
    """QAVAT beats each alternative at σ = claim_sigma; expected at the bits fixed on the validation split."""
    fixed = {s.network: s.claim_bits for s in profile.settings}
    rows = where(at_claim(table, profile), method=QUANTIZED)
    rows = rows.assign(point=rows.point + ", same chips")
    return [
        one
        for other in ALTERNATIVES
        for one in claims.claimed(
            rows,
            ["network", "bits"],
            f"gain of QAVAT over {other}",
            lambda r: paired(r, "method", "QAVAT", other),  # noqa: B023  # used here
            expected=lambda row: profile.claims_expected and row.bits == fixed[row.network],
            above=0,
        )
    ]


def quantile_claims(table: pd.DataFrame, profile: Profile) -> list[Claim]:
    """The unlucky chips of QAVAT beat those of each alternative: the intervals of the quantiles do not meet."""

    def gap(rows: pd.DataFrame, other: str) -> Estimate:
        return apart(*(quantile(accuracies(rows, method=method)) for method in ("QAVAT", other)))

    return [
        one
        for other in ALTERNATIVES
        for one in claims.claimed(
            claim_bits(table, profile),
            ["network"],
            f"gain of QAVAT over {other} in the 5 % quantile",
            lambda r: gap(r, other),  # noqa: B023  # used here
            above=0,
        )
    ]


def yield_claims(table: pd.DataFrame, profile: Profile) -> list[Claim]:
    """At the claim's σ more than half of the chips are good with QAVAT."""

    def good(rows: pd.DataFrame) -> Estimate:
        return good_chips(rows, alike(table, rows, "network", method="float").accuracy.item())

    ours = where(claim_bits(table, profile), method="QAVAT")
    return claims.claimed(ours, ["network"], "good chips with QAVAT", good, above=50, unit="%")


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
