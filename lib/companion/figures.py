"""Figures: one style, and a record beside each (data, claims, provenance, alt text).

`publish` writes NAME.pdf, .png, .csv and .json into the folder that the run names (ANALOG_PIM_FIGURES), else into
build/interactive/figures, and shows the image with its alt text, its claims and its table in the notebook.
Nothing that is written depends on the time: reruns of the same results give the same bytes.
"""

from __future__ import annotations

import base64
import gc
import hashlib
import html
import io
import json
import os
import platform
from collections.abc import Iterable, Sequence
from importlib.metadata import version
from pathlib import Path

import numpy as np
import pandas as pd

from ..data import ROOT, fingerprint
from ..experiments import engine
from ..networks import NAMES
from ..sources import SOURCES, path_of
from ..statistics import Claim
from .profiles import Profile

FIGURES_VARIABLE = "ANALOG_PIM_FIGURES"
PACKAGES = ("torch", "torchvision", "numpy", "scipy", "pandas", "matplotlib", "seaborn")
# Okabe–Ito colours, safe for colour-blind readers; marker and line style repeat the distinction
STYLE = {
    "QAVAT": {"color": "#0072B2", "marker": "o", "linestyle": "-"},
    "QAT": {"color": "#D55E00", "marker": "s", "linestyle": "--"},
    "PTQ-VAT": {"color": "#009E73", "marker": "^", "linestyle": "-."},
    "QAVAT mixed": {"color": "#CC79A7", "marker": "D", "linestyle": ":"},
    "float-VAT": {"color": "#767676", "marker": "d", "linestyle": ":"},
    "float": {"color": "#000000", "marker": "x", "linestyle": ":"},
}
TUNING_STYLE = {
    "none": {"color": "#767676", "marker": "x", "linestyle": ":"},
    "tuned": {"color": "#56B4E9", "marker": "o", "linestyle": "-"},
    "oracle": {"color": "#E69F00", "marker": "^", "linestyle": "--"},
    "columns": {"color": "#882255", "marker": "s", "linestyle": "-."},
}
# patterns and components of variation are no methods: greys
PATTERN_STYLE = {name: {"color": "#BBBBBB"} for name in ("within only", "within")} | {
    name: {"color": "#555555"} for name in ("mixed, ρ = 0.5", "between")
}
BITS_STYLE = [
    {"color": "#0072B2", "marker": "o", "linestyle": "-"},
    {"color": "#E69F00", "marker": "s", "linestyle": "--"},
    {"color": "#CC79A7", "marker": "^", "linestyle": "-."},
]


def use_style() -> None:
    """Set seaborn's quiet theme with sizes that read on a slide and in a column."""
    gc.freeze()  # what imports make stays for good: walking it again and again takes the collector a second a notebook
    import matplotlib
    import seaborn

    seaborn.set_theme(context="notebook", style="whitegrid", font="DejaVu Sans")
    matplotlib.rcParams.update(
        {"figure.constrained_layout.use": True, "figure.dpi": 100, "axes.titlesize": 12, "axes.labelsize": 11,
         "legend.fontsize": 10, "pdf.fonttype": 42, "lines.markersize": 5}
    )  # fmt: skip
    gc.freeze()


def panels(rows: int, columns: int, width: float = 4.2, height: float = 3.2, **options):
    """(figure, axes array of shape (rows, columns)), unknown to pyplot: a notebook shows it when published, not before."""
    from matplotlib.figure import Figure

    fig = Figure(figsize=(width * columns, height * rows))
    return fig, fig.subplots(rows, columns, squeeze=False, **options)


def wrapped(n: int, width: float = 4.2, height: float = 3.2, columns: int = 4, **options):
    """(figure, the n axes in reading order): rows of up to `columns` panels."""
    columns = min(n, columns)
    fig, axes = panels(-(-n // columns), columns, width, height, **options)
    for ax in axes.flat[n:]:
        ax.remove()
    return fig, list(axes.flat[:n])


def case_panels(table: pd.DataFrame, xlabel: str = "", ylabel: str = "", width: float = 4.6, height: float = 3.1, **options):
    """(figure, axes, [(ax, network, law, rows)]): a row of panels a network, a column a law; labels at the edges."""
    networks, laws = list(table.network.unique()), list(table.law.unique())
    fig, axes = panels(len(networks), len(laws), width, height, **options)
    parts = []
    for i, network in enumerate(networks):
        for j, law in enumerate(laws):
            axes[i, j].set_title(f"{NAMES[network]}, {law}")
            parts.append((axes[i, j], network, law, table[(table.network == network) & (table.law == law)]))
    for ax in axes[-1]:
        ax.set_xlabel(xlabel)
    for ax in axes[:, 0]:
        ax.set_ylabel(ylabel)
    return fig, axes, parts


def bars(ax, rows: pd.DataFrame, category: str, group: str, value: str, styles: dict | None = None) -> None:
    """Bars of `value` with its interval (columns value_low, value_high): side by side by `group`, colour and hatch."""
    names, groups = list(rows[category].unique()), list(rows[group].unique())
    styles, width = styles or STYLE, 0.8 / len(groups)
    for k, name in enumerate(groups):
        part = rows[rows[group] == name].set_index(category).reindex(names)
        x = np.arange(len(names)) + (k - (len(groups) - 1) / 2) * width
        spread = [(part[value] - part[f"{value}_low"]).clip(lower=0), (part[f"{value}_high"] - part[value]).clip(lower=0)]
        look = {"color": styles[name]["color"], "hatch": ("", "///", "...")[k % 3], "edgecolor": "white"}
        ax.bar(x, part[value], width, yerr=np.nan_to_num(spread), label=name, error_kw={"lw": 1, "capsize": 2}, **look)
    ax.axhline(0, color="k", lw=0.8)
    ax.set_xticks(range(len(names)), names)


def told(table: pd.DataFrame, panel: Sequence[str], line: str | Sequence[str], value: str) -> str:
    """Alt text of lines or bars: panel by panel, where each line starts and ends and what lies beyond its ends, or what
    each bar shows."""

    def short(v: float) -> str:
        return f"{v:.0f}" if abs(v) >= 2 else f"{v:.2g}"

    parts = []
    for case, rows in table.groupby(list(panel), sort=False):
        ends = []
        for name, values in rows.groupby(line, sort=False)[value]:
            name = " ".join(map(str, name)) if isinstance(name, tuple) else name
            first, last, margin = values.iloc[0], values.iloc[-1], 0.05 * (values.max() - values.min())
            text = f"{name} {short(first)}" if len(values) == 1 else f"{name} from {short(first)} to {short(last)}"
            text += f", up to {short(values.max())} between" if values.max() > max(first, last) + margin else ""
            ends.append(text + (f", down to {short(values.min())} between" if values.min() < min(first, last) - margin else ""))
        parts.append(f"{', '.join(NAMES.get(str(c), str(c)) for c in case)}: {', '.join(ends)}")
    return ". ".join(parts) + "."


def band(ax, x, y, low, high, label: str | None = None, **style) -> None:
    """A line with markers and its 95% band; where an interval is missing (NaN) only the line is drawn."""
    ax.plot(x, y, label=label, **style)
    ax.fill_between(x, low, high, color=style.get("color"), alpha=0.18, linewidth=0)


def legend_above(fig, ax) -> None:
    """One legend for all panels, above them, where it hides no data."""
    fig.legend(*ax.get_legend_handles_labels(), loc="outside upper center", ncols=len(ax.get_legend_handles_labels()[0]))


def span(axes) -> str:
    """The range of the vertical axes of one or several panels, for an alt text: "40 to 90"."""
    limits = np.array([ax.get_ylim() for ax in np.ravel(axes)])
    return f"{limits.min():.0f} to {limits.max():.0f}"


def publish(
    fig,
    name: str,
    data: pd.DataFrame,
    *,
    alt: str,
    profile: Profile,
    parameters: dict,
    claims: Sequence[Claim] = (),
    keys: Iterable[str] = (),
    dataset: str = "",
    caption: str = "",
) -> None:
    """Write the figure with its record, and show it.

    name: "03_accuracy", the notebook's number first.  data: what is plotted.  keys: of the results it stands on."""
    folder = Path(os.environ.get(FIGURES_VARIABLE) or ROOT / "build" / "interactive" / "figures")
    folder.mkdir(parents=True, exist_ok=True)
    png = _png(fig)
    record = {
        "figure": name,
        "alt": alt,
        "caption": caption,
        "claims": [claim_record(c) for c in claims],
        "profile": profile.name,
        "parameters": parameters,
        "results": sorted(set(keys)),
        "dataset": {"name": dataset, "fingerprint": fingerprint(dataset)} if dataset else None,
        "sources": tree_digest(),
        "packages": {package: version(package) for package in PACKAGES},
        "python": platform.python_version(),
        "device": str(engine.device()),
        "png": hashlib.sha256(png).hexdigest(),
    }
    pdf = folder / f"{name}.pdf"
    if (same := _same_pdf(profile.figures / name, record)) is not None:
        pdf.write_bytes(same)
    else:
        fig.set_layout_engine("none")  # the layout is done; computing it again for the PDF would double the time
        fig.savefig(pdf, metadata={"CreationDate": None, "Producer": None, "Creator": None})
    record["pdf"] = hashlib.sha256(pdf.read_bytes()).hexdigest()
    (folder / f"{name}.png").write_bytes(png)
    data.to_csv(folder / f"{name}.csv", index=False, float_format="%.6g", lineterminator="\n")
    (folder / f"{name}.json").write_text(json.dumps(record, indent=1, sort_keys=True, ensure_ascii=False) + "\n", "utf-8")
    _show(png, alt, caption, claims, data)


def _png(fig) -> bytes:
    """The picture at 150 dots an inch.  `savefig` would walk the whole figure twice, the first time drawing nothing."""
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.image import imsave

    canvas, image, dpi = FigureCanvasAgg(fig), io.BytesIO(), fig.dpi
    fig.dpi = 150
    canvas.draw()
    fig.dpi = dpi
    imsave(image, canvas.buffer_rgba(), format="png", origin="upper", dpi=150, metadata={"Software": None})
    return image.getvalue()


def _same_pdf(published: Path, record: dict) -> bytes | None:
    """The published PDF, if the same sources and packages drew the same picture when they made it: a third of the time
    of a figure is its PDF."""
    try:
        before, pdf = json.loads(published.with_suffix(".json").read_text("utf-8")), published.with_suffix(".pdf").read_bytes()
    except (OSError, ValueError):
        return None
    drawn = all(before.get(key) == record[key] for key in ("png", "sources", "packages"))
    return pdf if drawn and before.get("pdf") == hashlib.sha256(pdf).hexdigest() else None


def claim_record(claim: Claim) -> dict:
    """A claim as plain values for JSON; a missing bound is null."""
    e = claim.estimate
    numbers = {k: None if np.isnan(v) else round(v, 6) for k, v in (("value", e.value), ("low", e.low), ("high", e.high))}
    return {
        "statement": claim.statement, "point": claim.point, **numbers, "n": e.n, "of": claim.of, "threshold": claim.threshold,
        "expected": claim.expected, "verdict": claim.verdict,
    }  # fmt: skip


def tree_digest() -> str:
    """SHA-256 over the sources of lib/ and notebooks/."""
    digest = hashlib.sha256()
    for path in sorted([*map(path_of, SOURCES), *(ROOT / "notebooks").glob("*.ipynb")]):
        digest.update(path.relative_to(ROOT).as_posix().encode() + path.read_bytes())
    return digest.hexdigest()


def _show(png: bytes, alt: str, caption: str, claims: Sequence[Claim], data: pd.DataFrame) -> None:
    from IPython.display import HTML, display

    picture = base64.b64encode(png).decode()
    parts = [f'<figure><img style="max-width:100%" alt="{html.escape(alt, quote=True)}" src="data:image/png;base64,{picture}">']
    parts.append(f"<figcaption>{html.escape(caption)}</figcaption></figure>")
    if claims:
        parts.append("<p><b>Claims</b></p>" + claims_frame(claims).to_html(index=False))
    rows = f"{len(data)} rows" if len(data) > 12 else "all rows"
    parts.append(
        f"<details><summary>The plotted numbers ({rows})</summary>"
        f'<div style="max-height:24em;overflow:auto">{data.round(2).to_html(index=False, na_rep="–")}</div></details>'
    )
    display(HTML("".join(parts)))


def claims_frame(claims: Sequence[Claim]) -> pd.DataFrame:
    """The claims as a table to read."""
    return pd.DataFrame(
        {
            "claim": c.statement,
            "at": c.point,
            "estimate": f"{c.estimate.value:.2f}",
            "95% interval": f"{c.estimate.low:.2f} to {c.estimate.high:.2f}",
            "n": f"{c.estimate.n} {c.of}",
            "verdict": c.verdict,
            "expected": "yes" if c.expected else "no",
        }
        for c in claims
    )


def show_table(data: pd.DataFrame, digits: int = 2) -> None:
    """A table in full, in a box that scrolls."""
    from IPython.display import HTML, display

    display(HTML(f'<div style="max-height:32em;overflow:auto">{data.round(digits).to_html(index=False, na_rep="–")}</div>'))
