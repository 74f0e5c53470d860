"""Notebook 07: published figures beside ours, and the paper's three claims, from committed tables.

A repeated row holds the difference of means; the verdict was fixed before the first run: *agrees* within `TOLERANCE`
points, *differs* beyond, *not run* where nothing was trained.
"""

import json
import math
from collections.abc import Iterable, Iterator
from dataclasses import replace
from pathlib import Path

import numpy as np
import pandas as pd

from ..checks import InputError
from ..data import ROOT
from ..networks import NAMES
from ..statistics import Claim, Estimate, mean
from ..trials import Measurement
from ..variation import Variation
from .cases import Case, averaged, trial
from .claims import average, claimed, columns, difference, estimate, exactly, over_seeds, paired, per_chip, summary
from .profiles import PROFILES, Profile
from .published import AGAIN, PROTOCOLS, UNCHANGED, VARIED, reported
from .published import variants as varied_trainings

TOLERANCE = 1.5  # points
FIGURES = ROOT / "figures"
PUBLISHED = "07_published"  # the figure whose CSV keeps the rows that were run
EFFECTS = "07_effects"
RECIPES = "07_recipes"
ANSWERS = ("03_gain", "05_loss")  # the figures that answer the abstract
SMALL = 0.5  # points
IDENTITY = ["network", "width", "dataset", "bits", "method", "sigma"]
OURS = ["profile", "mean", "low", "high", "q05", "seeds", "chips"]


def published(profile: Profile, seed: int = 0) -> list[Case]:
    """Every published accuracy of the profile's sizes, on the published protocol; none in `quick`."""
    wanted = [
        _on(row.measurement(rows.chips or profile.published_chips, seed, rows.shorter), profile)
        for rows in profile.published
        if seed in profile.seeds[: rows.seeds]
        for row in reported()
        if rows.holds(row)
    ]
    return [Case(m, m.row()) for m in wanted]


def _on(m: Measurement, profile: Profile) -> Measurement:
    """On the images that stand in place of the published ones, where some do."""
    images = dict(profile.in_place_of).get(m.trial.dataset, m.trial.dataset)
    return replace(m, trial=replace(m.trial, dataset=images))


def variants(profile: Profile, seed: int = 0) -> list[Case]:
    """The row whose training is varied, one change at a time and with one seed, where the profile repeats it."""
    repeated = any((rows.network, rows.width) == (VARIED[0], 1.0) for rows in profile.published)
    if not repeated or seed != profile.seeds[0]:
        return []
    wanted = {name: Measurement(trial, Variation(VARIED[2]), 100) for name, trial in varied_trainings().items()}
    return [Case(m, {"change": name}) for name, m in wanted.items()]


def recipes(profile: Profile, seed: int = 0) -> list[Case]:
    """Published rows with this profile's recipe and our quantizers, where it has their network: is the published gain
    partly the weakness of what it is held against?"""
    same = ((s, r) for s in profile.settings for r in reported() if AGAIN.holds(r) and r.trial().network == s.network)
    found = []
    for setting, row in ((s, r) for s, r in same if s.width == r.width):
        tested, point = Variation(row.sigma), f"{row.network} ×{row.width:g} {row.bits}, σ {row.sigma:g}"
        about = {"network": setting.network, "method": row.method, "sigma": row.sigma, "point": point}
        t = trial(setting, row.method, row.trial().bits, tested, seed)
        found.append(Case(averaged(profile, setting, t, tested, setting.claim_chips), about))
    return found


def measurements(profile: Profile, seed: int = 0) -> list[Case]:
    return published(profile, seed) + variants(profile, seed) + recipes(profile, seed)


def repeated(table: pd.DataFrame, profile: str) -> pd.DataFrame:
    """A row a repeated figure: mean over seeds of the mean over chips (%), its interval `over_seeds` (of one seed
    NaN), mean over seeds of the 5% quantile, seeds, chips per seed."""
    kinds = {how.network: kind for kind, how in PROTOCOLS.items()}
    datasets = {row.network: row.dataset for row in reported()}
    rows, by = [], ["network", "width", "bits", "method", "sigma"]
    for (network, width, bits, method, sigma), group in table.groupby(by, sort=False):
        by_seed = group.groupby("seed").accuracy
        found = over_seeds({s: mean(of) for s, of in by_seed}) if by_seed.ngroups > 1 else mean(by_seed.mean())
        identity = (kinds[network], width, datasets[kinds[network]], bits, method, round(sigma, 9))
        count = by_seed.quantile(0.05).mean(), by_seed.ngroups, int(by_seed.size().min())
        numbers = (profile, found.value, found.low, found.high, *count)
        rows.append(dict(zip(IDENTITY, identity)) | dict(zip(OURS, numbers)))
    return pd.DataFrame(rows, columns=[*IDENTITY, *OURS])


def _figures(kind: str) -> list[Path]:
    """What the last runs of `published` and `paper` left of the figure whose rows they measured."""
    paths = [FIGURES / name / f"{PUBLISHED}.{kind}" for name, profile in PROFILES.items() if profile.published]
    return [path for path in paths if path.exists()]


def committed() -> pd.DataFrame:
    """The rows that the committed runs of `published` and `paper` repeated."""
    columns, frames = [*IDENTITY, *OURS], []
    for path in _figures("csv"):
        frame = pd.read_csv(path).rename(columns=lambda c: c.removeprefix("ours_"))
        frames.append(frame[columns].dropna(subset="mean"))
    if not frames:
        return pd.DataFrame(columns=columns)
    return pd.concat(frames, ignore_index=True).drop_duplicates(IDENTITY, keep="last")


def compared(ours: pd.DataFrame) -> pd.DataFrame:
    """A row a published figure: reported mean, 5% quantile and chips, ours (`ours_…`, empty where not run), the
    difference of the means in points, the verdict, the source."""
    published = pd.DataFrame(vars(row) for row in reported())
    published = published.rename(columns={name: f"reported_{name}" for name in ("mean", "q05", "chips")})
    table = published.merge(ours.rename(columns={name: f"ours_{name}" for name in OURS}), on=IDENTITY, how="left")
    table["difference"] = table.ours_mean - table.reported_mean
    near = table.difference.abs() <= TOLERANCE
    table["verdict"] = np.select([table.ours_mean.isna(), near], ["not run", "agrees"], "differs")
    return table[[c for c in table if c not in ("verdict", "source")] + ["verdict", "source"]]


def newest(fresh: pd.DataFrame, profile: str) -> pd.DataFrame:
    """Committed rows, with those just measured in place of their predecessors."""
    if not len(fresh):
        return committed()
    both = pd.concat([committed(), repeated(fresh, profile)], ignore_index=True)
    return both.drop_duplicates(IDENTITY, keep="last")


def keys_of(measured: list[str], figure: str) -> list[str]:
    """Of the results just measured; where there are none, of those in the committed `figure`."""
    if measured:
        return measured
    return _results(_figures("json") if figure == PUBLISHED else [_committed("published", figure, "json")])


def _results(records: Iterable[Path]) -> list[str]:
    return sorted({key for path in records for key in json.loads(path.read_text("utf-8"))["results"]})


def published_claims(table: pd.DataFrame) -> list[Claim]:
    """What the published figures say among themselves: QAVAT lies above QAT at most of their operating points."""
    means = table.pivot(index=["network", "width", "bits", "sigma"], columns="method", values="reported_mean")
    means = means.dropna(subset=["QAT", "QAVAT"])
    share = exactly(100 * float((means.QAVAT > means.QAT).mean()))  # no interval: one QAT network serves many points
    text = "operating points at which the published QAVAT lies above the published QAT"
    return [Claim(text, f"{len(means)} points, one seed each", share, above=50, unit="%", of="table")]


def agreement_claims(table: pd.DataFrame) -> list[Claim]:
    """One claim a repeated figure: our mean lies within the tolerance of the published one; one seed cannot tell."""
    claims = []
    for row in table[table.verdict != "not run"].itertuples():
        ends = row.ours_low - row.reported_mean, row.ours_high - row.reported_mean
        distance = Estimate(row.difference, *ends, int(row.ours_seeds))
        point = f"{row.network} ×{row.width:g} {row.bits} {row.method}, σ {row.sigma:g}"
        about = {"above": -TOLERANCE, "below": TOLERANCE, "of": "seeds"}
        claims.append(Claim("ours less the published mean", point, distance, **about))
    return claims


def effects(table: pd.DataFrame) -> pd.DataFrame:
    """change, mean (%), effect with its interval (points against the unchanged training, paired over chips), n_chips;
    of what was measured of `variants`, or as committed with `published` where nothing was."""
    if not len(table):
        return pd.read_csv(_committed("published", EFFECTS, "csv"))
    unchanged = per_chip(table, change=UNCHANGED)

    def statistics(rows: pd.DataFrame) -> dict:
        return {"mean": rows.accuracy.mean(), "effect": difference(per_chip(rows), unchanged)}

    return summary(table, ["change"], statistics)


def effect_claims(table: pd.DataFrame, point: str) -> list[Claim]:
    """One claim a change: it moves the mean by less than `SMALL` points."""
    return [
        Claim(f"effect of {row.change}", point, estimate(row, "effect"), above=-SMALL, below=SMALL)
        for _, row in table[table.change != UNCHANGED].iterrows()
    ]


def recipe_table(table: pd.DataFrame) -> pd.DataFrame:
    """network, sigma, method, recipe ("published", "ours"): mean accuracy (%), ours with its interval; of what was
    measured of `recipes`, or as committed with `colour` where nothing was."""
    if not len(table):
        return pd.read_csv(_committed("colour", RECIPES, "csv"))
    ours = summary(table, ["network", "sigma", "method"], lambda rows: {"mean": average(rows)}).assign(recipe="ours")
    theirs = [
        {"network": row.trial().network, "sigma": row.sigma, "method": row.method, "mean": row.mean}
        | {"n_chips": row.chips, "seeds": 1, "recipe": "published"}
        for row in reported()
        if AGAIN.holds(row)
    ]
    return pd.concat([pd.DataFrame(theirs), ours], ignore_index=True)


def recipe_claims(table: pd.DataFrame) -> list[Claim]:
    """With our recipe QAVAT gains less over QAT than published; of what was measured of `recipes`."""
    means = {row.method: row.mean for row in reported() if AGAIN.holds(row)}
    less = round(means["QAVAT"] - means["QAT"], 3)
    text = "gain of QAVAT over QAT with our recipe, below the published one"
    return claimed(table, ["network"], text, lambda rows: paired(rows, "method", "QAVAT", "QAT"), below=less)


def lines(table: pd.DataFrame) -> Iterator[tuple[tuple, dict[str, pd.DataFrame]]]:
    """((network, width, bits), {method: rows by σ}) of what was run, in the order of the file; LeNet-5 where nothing
    was."""
    run = table[table.groupby(["network", "width", "bits"]).ours_mean.transform("count") > 0]
    run = run if len(run) else table[table.network == "LeNet-5"]
    for case, rows in run.groupby(["network", "width", "bits"], sort=False):
        yield case, {method: part.sort_values("sigma") for method, part in rows.groupby("method", sort=False)}


# -- the three claims -----------------------------------------------------------------------------------------


def answering(profile: str) -> tuple[str, ...]:
    """The profiles whose committed figures answer: this one, `colour` and `quick`, as far as they have them; `quick`
    where none has."""
    asked = dict.fromkeys((profile, "colour", "quick"))
    have = (name for name in asked if all((FIGURES / name / f"{figure}.json").exists() for figure in ANSWERS))
    return tuple(have) or ("quick",)


def results_of(profiles: Iterable[str]) -> list[str]:
    """Keys of the results on which those figures of some profiles stand."""
    return _results(_committed(profile, figure, "json") for profile in profiles for figure in ANSWERS)


def settings_of(profiles: Iterable[str]) -> pd.DataFrame:
    """profile, network, width, images, bits, seeds; σ of claim 1 (within chips, proportional) and of claims 2 and 3
    (half of its variance between chips), law by law."""
    rows = []
    for profile in (PROFILES[name] for name in profiles):
        record = json.loads(_committed(profile.name, ANSWERS[0], "json").read_text("utf-8"))
        images = {d.get("in place of"): d["name"] for d in record.get("datasets") or [record["dataset"]]}
        for s in profile.settings:
            own = images.get(s.dataset, s.dataset)
            about = {"profile": profile.name, "network": NAMES[s.network], "width": s.width, "images": own}
            about |= {"bits": s.claim_bits, "seeds": len(profile.seeds), "σ, claim 1": profile.claim_sigma}
            rows.append(about | {f"σ, claims 2 and 3, {law}": sigma for law, sigma in s.sigma.items()})
    return pd.DataFrame(rows)


def _committed(profile: str, figure: str, kind: str) -> Path:
    path = FIGURES / profile / f"{figure}.{kind}"
    if not path.exists():
        command = f"./run_all.sh --profile {profile} --only {figure[:2]}"
        raise InputError(f"no committed figure {path.relative_to(ROOT)}; make it with {command}")
    return path


def three_claims(profile: str) -> pd.DataFrame:
    """claim, profile, network, case, value with interval (points), chips, seeds: what the committed figures of a
    profile say of each statement of the abstract.  Claim 1, bits by bits: the smallest gain of QAVAT at the largest
    σ over all that was tried, the finer search of PTQ-VAT included.  2 and 3: at a between share of one half, the loss
    of the best training alone, and of QAVAT tuned by reference cells."""
    gain, loss = (pd.read_csv(_committed(profile, figure, "csv")) for figure in ANSWERS)
    rows = []
    top = gain[gain.sigma == gain.sigma.max()]
    for (network, bits), both in top.groupby(["network", "bits"], sort=False):
        least = both.loc[both.gain.idxmin()]
        rows.append(_row(1, network, f"{bits}, over {least.against}", least, "gain"))
    untuned = loss[loss["tuned by"] == "untuned"]
    best = untuned.groupby(["network", "law"], sort=False).loss.idxmin()
    tuned = loss.index[(loss.net == "QAVAT") & (loss["tuned by"] == "reference cells")]
    for number, found in ((2, best), (3, tuned)):
        for _, row in loss.loc[found].iterrows():
            rows.append(_row(number, row.network, f"{row.law}, {row.net}", row, "loss"))
    found = pd.DataFrame(rows)
    found.insert(1, "profile", profile)
    return found


def _row(claim: int, network: str, case: str, found: pd.Series, name: str) -> dict:
    row = {"claim": claim, "network": network, "case": case}
    return row | columns("points", estimate(found, name)) | {"chips": int(found.n_chips), "seeds": int(found.seeds)}


def statement_claims(table: pd.DataFrame, below: float) -> list[Claim]:
    """The statements, not the numbers: a gain above 0, an untuned loss above `below`, a tuned one below it (points)."""
    texts = {
        1: ("gain of QAVAT over its best alternative", {"above": 0}),
        2: ("loss against QAT on an ideal chip, training alone", {"above": below}),
        3: ("loss against QAT on an ideal chip, self-tuned", {"below": below}),
    }
    claims = []
    for _, row in table.iterrows():
        text, requirement = texts[row.claim]
        of = "seeds" if row.seeds > 1 else "chips"
        found = Estimate(row.points, row.points_low, row.points_high, int(row[of]))
        claims.append(Claim(text, f"{row.profile}: {NAMES[row.network]}, {row.case}", found, **requirement, of=of))
    return [c for c in claims if not math.isnan(c.estimate.value)]
