"""One style for all figures: colours, panels, bars, bands, and what an alt text says of them."""

import textwrap
from collections.abc import Iterable, Sequence

import numpy as np
import pandas as pd

from ..networks import NAMES

# Okabe–Ito colours, its two pale ones darker: 3:1 against white; marker and line style repeat the distinction
STYLE = {
    "QAVAT": {"color": "#0072B2", "marker": "o", "linestyle": "-"},
    "QAT": {"color": "#D55E00", "marker": "s", "linestyle": "--"},
    "PTQ-VAT": {"color": "#009E73", "marker": "^", "linestyle": "-."},
    "QAVAT mixed": {"color": "#CC79A7", "marker": "D", "linestyle": ":"},
    "float-VAT": {"color": "#767676", "marker": "d", "linestyle": ":"},
    "float": {"color": "#000000", "marker": "x", "linestyle": ":"},
}
TUNING_STYLE = {
    "untuned": {"color": "#767676", "marker": "x", "linestyle": ":"},
    "reference cells": {"color": "#3B97D3", "marker": "o", "linestyle": "-"},
    "oracle": {"color": "#C98200", "marker": "^", "linestyle": "--"},
    "reference columns": {"color": "#882255", "marker": "s", "linestyle": "-."},
}
OWN = TUNING_STYLE["reference cells"]  # what a user puts in their place looks the same
PLACE_STYLE = {  # where reference cells sit
    "untuned": TUNING_STYLE["untuned"],
    "chip's cells": TUNING_STYLE["reference cells"],
    "arrays' cells": {"color": "#0072B2", "marker": "D", "linestyle": "-"},
    "BN on the chip": {"color": "#CC79A7", "marker": "s", "linestyle": "-."},
}
MAPPING_STYLE = {
    "single-ended, untuned": TUNING_STYLE["untuned"],
    "single-ended, chip's cells": TUNING_STYLE["reference cells"],
    "differential, untuned": {"color": "#E69F00"},
    "differential, chip's cells": {"color": "#D55E00"},
}
# components of variation are no methods: greys
PATTERN_STYLE = {"within": {"color": "#BBBBBB"}, "between": {"color": "#555555"}}
# of bits and other things that have no colour of their own; nine, as many as the profiles have
_LOOKS = zip(
    ("#0072B2", "#C98200", "#CC79A7", "#009E73", "#A63D00", "#3B97D3", "#882255", "#767676", "#000000"),
    ("o", "s", "^", "D", "v", "x", "P", "d", "+"),
    ("-", "--", "-.") * 3,
    strict=True,
)
BITS_STYLE = [{"color": color, "marker": marker, "linestyle": line} for color, marker, line in _LOOKS]

SINGLE, DOUBLE = 3.5, 7.16  # inches: one column of a journal's page, and both
CLOTHES = "t-shirt trousers pullover dress coat sandal shirt sneaker bag boot".split()  # classes of Fashion-MNIST


def use_style() -> None:
    """Set seaborn's quiet theme at the size of print: what is drawn as wide as a column keeps its letters there."""
    import matplotlib
    import seaborn

    seaborn.set_theme(context="paper", style="whitegrid", font="DejaVu Sans")
    sizes = {"axes.titlesize": 9, "axes.labelsize": 8.5, "legend.fontsize": 8, "lines.markersize": 4}
    ticks = {"xtick.labelsize": 8, "ytick.labelsize": 8}
    matplotlib.rcParams.update({"figure.constrained_layout.use": True, "figure.dpi": 100, "pdf.fonttype": 42})
    matplotlib.rcParams.update(sizes | ticks)


def panels(rows: int, columns: int, height: float = 2.4, width: float | None = None, **options):
    """(figure, axes of shape (rows, columns)), unknown to pyplot: a notebook shows it when published, not before.

    height: of a row, inches; width: of the figure, where not that of a column (one panel) or of both (several)."""
    from matplotlib.figure import Figure

    fig = Figure(figsize=(width or (DOUBLE if columns > 1 else SINGLE), height * rows))
    return fig, fig.subplots(rows, columns, squeeze=False, **options)


def wrapped(n: int, height: float = 2.4, columns: int = 4, **options):
    """(figure, the n axes in reading order): rows of up to `columns` panels."""
    columns = min(n, columns)
    fig, axes = panels(-(-n // columns), columns, height, **options)
    for ax in axes.flat[n:]:
        ax.remove()
    return fig, list(axes.flat[:n])


def case_panels(table: pd.DataFrame, xlabel: str = "", ylabel: str = "", height: float = 2.3, **options):
    """(figure, {(network, law): (ax, rows)}): a row of panels a network, a column a law; labels at the edges."""
    networks, laws = list(table.network.unique()), list(table.law.unique())
    fig, axes = panels(len(networks), len(laws), height, **options)
    parts = {}
    for i, network in enumerate(networks):
        for j, law in enumerate(laws):
            axes[i, j].set_title(f"{NAMES[network]}, {law}")
            parts[network, law] = axes[i, j], table[(table.network == network) & (table.law == law)]
    for ax in axes[-1]:
        ax.set_xlabel(xlabel)
    for ax in axes[:, 0]:
        ax.set_ylabel(ylabel)
    return fig, parts


def case_bars(
    table: pd.DataFrame,
    category: str,
    group: str,
    value: str,
    ylabel: str,
    styles: dict | None = None,
    ylim: tuple[float, float] | None = None,
    dotted: float | None = None,
    sharey: bool | str = True,
):
    """The figure of `bars` in case panels; dotted: a horizontal line at this value."""
    fig, parts = case_panels(table, ylabel=ylabel, sharey=sharey)
    for ax, rows in parts.values():
        bars(ax, rows, category, group, value, styles)
        if dotted is not None:
            ax.axhline(dotted, color="k", lw=1, ls=":")
        if ylim:
            ax.set_ylim(ylim)
    legend_above(fig, fig.axes[0])
    return fig


def bars(ax, rows: pd.DataFrame, category: str, group: str, value: str, styles: dict | None = None) -> None:
    """Bars of `value` with its interval: side by side by `group`, colour and hatch; many names stand aslant."""
    names, groups = list(rows[category].unique()), list(rows[group].unique())
    styles, width = styles or STYLE, 0.8 / len(groups)
    for k, name in enumerate(groups):
        part = rows[rows[group] == name].set_index(category).reindex(names)
        x = np.arange(len(names)) + (k - (len(groups) - 1) / 2) * width
        ends = np.array(whiskers(part, value))  # NaN where there is no interval: nothing is drawn
        look = {"color": styles.get(name, OWN)["color"], "hatch": ("", "///", "...")[k % 3], "edgecolor": "white"}
        ax.bar(x, part[value], width, yerr=ends, label=name, error_kw={"lw": 1, "capsize": 2}, **look)
        ax.plot(*seeds(x, part, value), **DOTS)
    ax.axhline(0, color="k", lw=0.8)
    ax.set_xticks(range(len(names)), names, rotation=45 if len(names) > 6 else 0)


def whiskers(rows: pd.DataFrame, value: str) -> list[pd.Series]:
    """How far the interval of `value` (columns value_low, value_high) reaches below it and above it."""
    below, above = rows[value] - rows[f"{value}_low"], rows[f"{value}_high"] - rows[value]
    return [below.clip(lower=0), above.clip(lower=0)]


def band(ax, rows: pd.DataFrame, x: str, y: str, label: str | None = None, **style) -> None:
    """A line with markers and its 95% band (columns y_low, y_high), where there is one: elsewhere they are NaN."""
    ax.plot(rows[x], rows[y], label=label, **style)
    ax.fill_between(rows[x], rows[f"{y}_low"], rows[f"{y}_high"], color=style.get("color"), alpha=0.18, linewidth=0)
    ax.plot(*seeds(rows[x], rows, y), **DOTS)


DOTS = {"color": "k", "ms": 2.5, "ls": "none", "marker": ".", "zorder": 3}


def seeds(places: Iterable[float], rows: pd.DataFrame, value: str) -> tuple[list[float], list[float]]:
    """(place, value) of each seed of a `summary`, where it has several: what `DOTS` show."""
    found = [
        (place, e.value)
        for place, each in zip(places, rows.get("each", ()))
        if isinstance(each, dict) and len(each[value]) > 1
        for e in each[value].values()
    ]
    return [place for place, _ in found], [y for _, y in found]


def lines(ax, rows: pd.DataFrame, x: str, y: str, line: str, styles: dict) -> None:
    """Lines with their bands, one for each value of the column `line`."""
    for name, points in rows.groupby(line, sort=False):
        band(ax, points, x, y, label=name, **styles.get(name, OWN))


def described(table: pd.DataFrame, panel: Sequence[str], line: str | Sequence[str], value: str) -> str:
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
            if values.max() > max(first, last) + margin:
                text += f", up to {short(values.max())} between"
            if values.min() < min(first, last) - margin:
                text += f", down to {short(values.min())} between"
            ends.append(text)
        parts.append(f"{', '.join(NAMES.get(str(c), str(c)) for c in case)}: {', '.join(ends)}")
    return ". ".join(parts) + "."


def cumulative(ax, values, label: str, **style) -> None:
    """Steps: the share of the values up to each of them."""
    ranks = [(i + 1) / len(values) for i in range(len(values))]
    ax.step(sorted(values), ranks, where="post", label=label, **style)


def legend_above(fig, ax) -> None:
    """One legend for all panels, above them, where it hides no data."""
    handles, labels = ax.get_legend_handles_labels()
    columns = 2 if fig.get_figwidth() <= SINGLE else len(labels) if len(labels) < 5 else 3
    fig.legend(handles, labels, loc="outside upper center", ncols=columns, frameon=False)


def span(axes) -> str:
    """The range of the vertical axes of one or several panels, for an alt text: "40 to 90"."""
    limits = np.array([ax.get_ylim() for ax in np.ravel(axes)])
    return f"{limits.min():.0f} to {limits.max():.0f}"


def finding(fig, text: str) -> None:
    """The figure's title: what was found, in a sentence without a full stop; above its legend, where it has one."""
    text = textwrap.fill(text.replace(" %", "\u00a0%"), int(12 * fig.get_figwidth()))
    if fig.legends:
        fig.legends[0].set_title(text, prop={"size": 9.5, "weight": "bold"})
    else:
        fig.suptitle(text, fontsize=9.5, fontweight="bold")


def extent(values: Iterable[float], digits: int = 0) -> str:
    """What values reach from and to, for a sentence: "3 to 12", "3" where both are written alike, a dash for none."""
    values = [v for v in values if not np.isnan(v)]
    written = [f"{v:.{digits}f}".replace("-", "−") for v in (min(values), max(values))] if values else ["–"]
    return " to ".join(dict.fromkeys("0" if w.strip("−0.") == "" else w for w in written))


def label_lines(fig) -> None:
    """Every line labelled beside its right end, in the last panel of each row; to be called when all has a place."""
    last = [ax for ax in fig.axes if ax.get_subplotspec().is_last_col()]
    texts = [_end_labels(ax) for ax in last]
    fig.draw_without_rendering()  # which makes room for the texts
    for ax, of_panel in zip(last, texts):
        _move_apart(ax, of_panel)


def _end_labels(ax) -> list:
    """Text beside the panel, led to from the end of each line; in its colour, darkened to 4.5:1 against white."""
    from matplotlib.colors import to_rgb
    from matplotlib.transforms import offset_copy

    beside = offset_copy(ax.get_yaxis_transform(), ax.figure, x=10, units="points")
    look = {"textcoords": beside, "annotation_clip": False, "va": "center", "fontsize": 8}
    found = []
    for line, label in zip(*ax.get_legend_handles_labels()):
        end, color = line.get_xydata()[-1], [0.75 * c for c in to_rgb(line.get_color())]
        leader = {"arrowstyle": "-", "color": color, "lw": 0.6, "shrinkA": 1, "shrinkB": 3, "relpos": (0, 0.5)}
        found.append(ax.annotate(label, end, (1, end[1]), color=color, arrowprops=leader, **look))
    return found


def _move_apart(ax, texts: list) -> None:
    """Labels of one panel a line's height apart, as near to the ends of their lines as that allows."""
    from scipy.optimize import isotonic_regression

    texts = sorted(texts, key=lambda text: text.xy[1])
    ends = ax.transData.transform([text.xy for text in texts])[:, 1]
    heights = 1.35 * 8 * ax.figure.dpi / 72 * np.arange(len(texts))
    for text, pixel in zip(texts, isotonic_regression(ends - heights).x + heights):
        text.xyann = 1, ax.transData.inverted().transform((0, pixel))[1]
