"""Notebook 03: every method against σ within chips.  Gains are paired: the same chips for all methods."""

from collections.abc import Iterator

import pandas as pd

from ..controls import NoisyBatchNorm
from ..networks import NAMES
from ..statistics import Claim, Estimate
from ..trials import QUANTIZED
from ..variation import Variation
from . import cases, claims
from .cases import Case
from .claims import (
    ALTERNATIVES,
    NOISY_QAT,
    OTHERS,
    alike,
    apart,
    average,
    difference,
    exactly,
    good_chips,
    paired,
    per_chip,
    tail,
    where,
)
from .profiles import Profile, Setting

FINE = "PTQ-VAT, finer search"  # of weight steps than is published: a harder alternative, reported but not expected


def measurements(profile: Profile, seed: int = 0) -> list[Case]:
    """Every method of every setting against σ, within-chip proportional variation; at the claim's point also what is
    made of QAT and PTQ-VAT, and the tails."""
    found = []
    for setting in profile.settings:
        tried = [(method, bits, profile.sigmas) for bits in setting.bits for method in QUANTIZED]
        tried += [("float", None, (0.0,))] + [("float-VAT", None, profile.sigmas)] * setting.beside
        for method, bits, sigmas in tried:
            for sigma in sigmas:
                t = cases.trial(setting, method, bits, cases.training(setting, sigma), seed)
                found.append(cases.within(profile, setting, t, sigma, trained_sigma=round(t.variation.total, 9)))
        found += at_the_claim(profile, setting, seed)
    return found


def at_the_claim(profile: Profile, setting: Setting, seed: int) -> list[Case]:
    """Beside the sweep: QAT re-estimated, PTQ-VAT searched more finely, and quantile and yield of the three methods."""
    sigma, bits = profile.claim_sigma, setting.claim_bits
    trained = cases.training(setting, sigma)
    trials = {method: cases.trial(setting, method, bits, trained, seed) for method in QUANTIZED}
    fine = cases.trial(setting, "PTQ-VAT", bits, trained, seed, quantizers="fine-line-search")
    noisy = NoisyBatchNorm(Variation(sigma), setting.recipe.bn_draws)
    more = [(trials["QAT"], noisy, NOISY_QAT)] + [(fine, None, FINE)] * setting.beside
    names = {"trained_sigma": trained.total}
    found = [cases.within(profile, setting, t, sigma, tuning, **names, method=name) for t, tuning, name in more]
    about = {"network": setting.network, "bits": bits, "sigma": sigma, "of": "fixed"}
    for method, t in trials.items():
        found.append(Case(cases.fixed(profile, setting, t, Variation(sigma)), about | {"method": method}))
    whole = cases.fixed(profile, setting, cases.trial(setting, "float", seed=seed), Variation())
    return [*found, Case(whole, {"network": setting.network, "method": "float", "of": "fixed"})]


def summary(table: pd.DataFrame) -> pd.DataFrame:
    """A row per network, bits, method and σ: mean accuracy (%) with interval."""

    def statistics(rows: pd.DataFrame) -> dict:
        # without variation all chips are one: nothing for an interval over chips to say
        return {"mean": average(rows) if rows.sigma.iloc[0] else exactly(rows.accuracy.item())}

    return claims.summary(where(table, of="mean"), ["network", "bits", "method", "trained_sigma", "sigma"], statistics)


def tails(table: pd.DataFrame) -> pd.DataFrame:
    """A row per network and method at the claim's point: 5% quantile (%) and yield (%), each with its interval."""

    def statistics(rows: pd.DataFrame) -> dict:
        whole = alike(table, rows, "network", method="float", of="fixed").accuracy.item()
        return {"q05": tail(rows), "yield": good_chips(rows, whole)}

    return claims.summary(where(table, of="fixed", method=QUANTIZED), ["network", "bits", "method"], statistics)


def panels_of(profile: Profile) -> list[tuple[str, str]]:
    """(network, bits) of every panel."""
    return [(setting.network, bits) for setting in profile.settings for bits in setting.bits]


def by_method(summary_table: pd.DataFrame, network: str, bits: str) -> Iterator[tuple[str, pd.DataFrame]]:
    """(method, rows by σ) of one network: the quantized methods at `bits`, then the float upper reference."""
    rows = summary_table[(summary_table.network == network) & summary_table.bits.isin([bits, "float"])]
    for method in (*QUANTIZED[::-1], "float-VAT"):
        if len(rows[rows.method == method]):
            yield method, rows[rows.method == method].sort_values("sigma")


def gains(table: pd.DataFrame) -> pd.DataFrame:
    """A row per network, bits, alternative and σ at which it was measured: QAVAT − alternative on the same chips, with
    interval (points)."""
    means, parts = where(table, of="mean"), []

    def gain(rows: pd.DataFrame, other: str) -> Estimate:
        found = difference(per_chip(rows), per_chip(alike(means, rows, "network", "bits", "sigma", method=other)))
        return found if rows.sigma.iloc[0] else exactly(found.value)

    for other in (*ALTERNATIVES, FINE):
        measured = means[means.method == other].set_index(["network", "bits", "sigma"]).index
        rows = where(means, method="QAVAT")
        rows = rows[rows.set_index(["network", "bits", "sigma"]).index.isin(measured)]
        if rows.empty:
            continue
        found = claims.summary(rows, ["network", "bits", "sigma"], lambda r: {"gain": gain(r, other)})  # noqa: B023
        found.insert(2, "against", other)
        parts.append(found)
    return pd.concat(parts).sort_values(["network", "bits"], kind="stable", ignore_index=True)


def at_claim(table: pd.DataFrame, profile: Profile) -> pd.DataFrame:
    """The rows at the claim's σ, with the operating point."""
    rows = where(table, sigma=profile.claim_sigma)
    return rows.assign(point=rows.network.map(NAMES) + " " + rows.bits + f", σ {profile.claim_sigma:g}, same chips")


def accuracy_claims(table: pd.DataFrame, profile: Profile) -> list[Claim]:
    """QAVAT beats each alternative at the claim's σ and the bits fixed on the validation split; beside them, it beats a
    finer search of PTQ-VAT's steps, and that search changes something."""
    sure = {(s.network, other) for s in profile.settings for other in ALTERNATIVES if other not in s.doubtful}
    rows = where(at_claim(table, profile), of="mean")
    fixed = pd.concat(where(rows, network=s.network, bits=s.claim_bits) for s in profile.settings)

    def gain(above: str, other: str) -> list[Claim]:
        return claims.claimed(
            fixed,
            ["network", "bits"],
            f"gain of {above} over {other}",
            lambda r: paired(r, "method", above, other),
            expected=lambda row: profile.claims_expected and above == "QAVAT" and (row.network, other) in sure,
            above=0,
        )

    pairs = [("QAVAT", other) for other in (*ALTERNATIVES, FINE)]
    measured = set(fixed.method)
    return [one for pair in (*pairs, (FINE, "PTQ-VAT")) if measured.issuperset(pair) for one in gain(*pair)]


def quantile_claims(table: pd.DataFrame, profile: Profile) -> list[Claim]:
    """The unlucky chips of QAVAT beat those of each alternative: the intervals of the quantiles do not meet."""

    rows = where(at_claim(table, profile), of="fixed")

    def gain(other: str) -> list[Claim]:
        def gap(r: pd.DataFrame) -> Estimate:
            return apart(*(tail(where(r, method=method)) for method in ("QAVAT", other)))

        return claims.claimed(rows, ["network"], f"gain of QAVAT over {other} in the 5 % quantile", gap, above=0)

    return [one for other in OTHERS for one in gain(other)]


def yield_claims(table: pd.DataFrame, profile: Profile) -> list[Claim]:
    """At the claim's σ more than half of the chips are good with QAVAT."""

    def good(rows: pd.DataFrame) -> Estimate:
        return good_chips(rows, alike(table, rows, "network", method="float", of="fixed").accuracy.item())

    ours = where(at_claim(table, profile), method="QAVAT", of="fixed")
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
