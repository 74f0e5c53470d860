"""What every notebook stands on: its profile, its settings, its results, and where its figures go.

    nb = Notebook("quick", seed=0)
    table = nb.collect(self_tuning.measurements)          a row per case and chip
    nb.publish(fig, "05_loss", data, claims=claims, alt="…", caption="…")

Nothing that is written depends on the time: reruns of the same results give the same bytes.
"""

import base64
import hashlib
import html
import io
import json
import platform
from collections.abc import Callable, Iterable, Sequence
from dataclasses import replace
from importlib.metadata import version

import numpy as np
import pandas as pd

from ..checks import InputError
from ..data import ROOT, Dataset, public_name
from ..experiments import engine, results
from ..experiments.datasets import fingerprint, load
from ..experiments.settings import Settings
from ..sources import SOURCES, path_of
from ..statistics import Claim
from ..trials import Trial
from . import cases, figures
from .claims import measured, origin
from .profiles import profile

PACKAGES = ("torch", "torchvision", "numpy", "scipy", "pandas", "matplotlib", "seaborn")


class Notebook:
    """One notebook's run.  changes: of its profile, such as tuning=SelfTuning(MyEstimator())."""

    def __init__(self, name: str, seed: int = 0, **changes):
        figures.use_style()
        self.settings, self.seed = Settings.read(), seed
        self.seeds: set[int] = set()  # whose results were read
        self.shipped: set[str] = set()  # networks that came trained with the project, of those read
        found = profile(name, self.settings.networks, self.settings.seeds, self.settings.datasets)
        if not (found.settings or found.published):
            raise InputError(f"profile {name!r} has none of the networks {self.settings.networks!r}; name another")
        self.changes = {name: repr(value) for name, value in changes.items()}
        # a claim is expected of the profile as it stands
        seeds = found.seeds if seed in found.seeds else (seed,)
        changed = {"claims_expected": found.claims_expected and not changes, "seeds": seeds} | changes
        self.profile = replace(found, **changed)
        self.memory = results.Memory(self.settings)
        self.keys: list[str] = []  # of all results so far; latest: of those last collected
        self.latest: list[str] = []

    def collect(self, measurements: Callable, every_seed: bool = True) -> pd.DataFrame:
        """The tidy table of a study, of every seed of the profile or of this notebook's: what the store lacks is
        computed now."""
        seeds = self.profile.seeds if every_seed else (self.seed,)
        self.seeds |= set(seeds)
        wanted = [case for seed in seeds for case in measurements(self.profile, seed)]
        found = engine.collect([case.measurement for case in wanted], self.settings)
        self.latest = [engine.measurement_key(m, self.settings) for m in found]
        self.keys += self.latest
        self.shipped |= {one.name for m in found if (one := engine.shipped_for(m.trial, self.settings))}
        return cases.tidy(wanted, found)

    @property
    def interval(self) -> str:
        """What the intervals of this run say, for a caption."""
        n = len(self.profile.seeds)
        return (
            "95% intervals over chips, one training seed" if n == 1 else f"95% intervals over {n} training seeds (dots)"
        )

    def network(self, trial: Trial):
        """The trained network of a trial."""
        return results.network(trial, self.settings)

    def tabulated(self, function: Callable, trials: dict, **arguments) -> pd.DataFrame:
        """The table that a function of this package makes of trained networks, from the store if it is there; networks
        of several datasets each on their own images, one table below the other."""
        parts: dict[str, dict] = {}
        for label, trial in trials.items():
            parts.setdefault(trial.dataset, {})[label] = trial
        tables = [results.tabulated(function, part, self.settings, **arguments) for part in parts.values()]
        return pd.concat(tables, ignore_index=True)

    def dataset(self, name: str) -> Dataset:
        return load(name, self.settings.data)

    def publish(
        self,
        fig,
        name: str,
        data: pd.DataFrame,
        *,
        alt: str,
        claims: Sequence[Claim] = (),
        caption: str = "",
        keys: Iterable[str] | None = None,
        dataset: str | None = None,
    ) -> None:
        """Write NAME.pdf, .png, .csv and .json into the run's folder of figures, and show the image with its claims.

        name: "03_accuracy", the notebook's number first.  data: what is plotted; the points of its claims stay with
        them.  keys: of the results it stands on, and dataset: its images, where not those of the notebook's results."""
        folder, data = self.settings.figures, _to_read(data)
        folder.mkdir(parents=True, exist_ok=True)
        png = self._image(fig, "png", dpi=300, metadata={"Software": None})
        fig.set_layout_engine("none")  # the layout is done, and stays as it is
        pdf = self._image(fig, "pdf", metadata={"CreationDate": None, "Producer": None, "Creator": None})
        own = list(dict.fromkeys(s.dataset for s in self.profile.settings)) if dataset is None else [dataset]
        if dataset is None and (told := self.images):
            caption = f"{caption} {told}"
        record = {
            "figure": name,
            "alt": alt,
            "caption": caption,
            "claims": [claim_record(c, self.seed) for c in claims],
            "profile": self.profile.name,
            "parameters": {"SEED": self.seed} | self.changes,
            "seeds": sorted(self.seeds if keys is None else {seed for claim in claims for seed, _ in claim.each}),
            "results": sorted({key[:16] for key in (self.keys if keys is None else keys)}),
            "dataset": self._images_of(own[0]) if own[0] else None,
            **({"datasets": [self._images_of(name) for name in own]} if len(own) > 1 else {}),
            **({"shipped networks": sorted(self.shipped)} if self.shipped else {}),
            "sources": tree_digest(),
            "packages": {package: version(package) for package in PACKAGES},
            "python": platform.python_version(),
            "device": self.settings.device,
            "png": hashlib.sha256(png).hexdigest(),
            "pdf": hashlib.sha256(pdf).hexdigest(),
        }
        (folder / f"{name}.png").write_bytes(png)
        (folder / f"{name}.pdf").write_bytes(pdf)
        data.to_csv(folder / f"{name}.csv", index=False, float_format="%.6g", lineterminator="\n")
        text = json.dumps(record, indent=1, sort_keys=True, ensure_ascii=False) + "\n"
        (folder / f"{name}.json").write_text(text, "utf-8")
        _show(png, fig.get_figwidth(), alt, caption, claims, data)

    @property
    def images(self) -> str:
        """Which images stand in place of the profile's own, for a caption; empty where none do."""
        used, repeated = {s.dataset for s in self.profile.settings}, {rows.dataset for rows in self.profile.published}
        told = [
            f"{public_name(images)} in place of {own}"
            for own, images in self.profile.in_place_of
            if images in used or own in repeated
        ]
        return f"Images: {', '.join(told)}." if told else ""

    def _images_of(self, name: str) -> dict[str, str]:
        own = {images: of for of, images in self.profile.in_place_of}
        found = {"name": public_name(name), "fingerprint": fingerprint(name, self.settings.data)}
        return found | ({"in place of": own[name]} if name in own else {})

    @staticmethod
    def _image(fig, kind: str, **options) -> bytes:
        content = io.BytesIO()
        fig.savefig(content, format=kind, **options)
        return content.getvalue()


def claim_record(claim: Claim, seed: int) -> dict:
    """A claim as plain values for JSON; a missing bound is null.  seed: of the notebook, where it names none itself."""
    e = claim.estimate
    bounds = {"value": e.value, "low": e.low, "high": e.high}
    plain = ("statement", "point", "unit", "of", "expected", "requirement", "verdict")
    return {
        **{name: getattr(claim, name) for name in plain},
        **{name: None if np.isnan(v) else float(f"{v:.8g}") for name, v in bounds.items()},
        "n": e.n,
        "seeds": [s for s, _ in claim.each] or ([seed] if claim.of in ("chips", "images", "sweep") else None),
        "in_seeds": claim.in_seeds if claim.each else None,
    }


def tree_digest() -> str:
    """SHA-256 over the sources of lib/ and notebooks/."""
    digest = hashlib.sha256()
    for path in sorted([*map(path_of, SOURCES), *(ROOT / "notebooks").glob("*.ipynb")]):
        digest.update(path.relative_to(ROOT).as_posix().encode() + path.read_bytes())
    return digest.hexdigest()


def _show(png: bytes, inches: float, alt: str, caption: str, claims: Sequence[Claim], data: pd.DataFrame) -> None:
    from IPython.display import HTML, display

    source = f"data:image/png;base64,{base64.b64encode(png).decode()}"
    image = (
        f'<img style="width:{1.3 * inches:.2f}in;max-width:100%" alt="{html.escape(alt, quote=True)}" src="{source}">'
    )
    parts = [f"<figure>{image}<figcaption>{html.escape(caption)}</figcaption></figure>"]
    if claims:
        parts.append("<p><b>Claims</b></p>" + claims_frame(claims).to_html(index=False, classes="claims"))
    rows = f"{len(data)} rows" if len(data) > 12 else "all rows"
    numbers = _scrolling(data.round(2).to_html(index=False, na_rep="–", classes="one-line"), 24)
    parts.append(f"<details><summary>The plotted numbers ({rows})</summary>{numbers}</details>")
    display(HTML("".join(parts)))


def claims_frame(claims: Sequence[Claim]) -> pd.DataFrame:
    """The claims as a table to read."""
    return pd.DataFrame(
        {
            "verdict": c.verdict + (" (expected)" if c.expected else ""),
            "claim": f"{c.statement}: required {c.requirement}",
            "where": c.point,
            "measured [95%]": measured(c.estimate.value, c.estimate.low, c.estimate.high, c.unit),
            "from": origin(c.estimate.n, c.of, c.in_seeds, c.each),
        }
        for c in claims
    )


def show_table(data: pd.DataFrame, digits: int = 2, wrap: bool = False) -> None:
    """A table in full, in a box that scrolls; of a `summary` without what claims alone need.  wrap long cells."""
    from IPython.display import HTML, display

    rounded = _to_read(data).round(digits).apply(_whole).rename_axis(columns=None)
    table = rounded.to_html(index=False, na_rep="–", classes=None if wrap else "one-line")
    display(HTML(_scrolling(table, 32)))


def _whole(column: pd.Series) -> pd.Series:
    """Counts as counts, where a missing one has made floats of them."""
    whole = pd.api.types.is_float_dtype(column) and (column.dropna() % 1 == 0).all()
    return column.astype("Int64").astype(object).where(column.notna(), "–") if whole else column


def _to_read(data: pd.DataFrame) -> pd.DataFrame:
    return data.drop(columns=["point", "each"], errors="ignore")


def _scrolling(table: str, height: int) -> str:
    return f'<div tabindex="0" style="max-height:{height}em;overflow:auto">{table}</div>'
