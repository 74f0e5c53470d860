"""Three diagrams, drawn by code: a crossbar with its converters, a chip among chips, the self-tuning loop.

Each returns (figure, table of its parts with what they mean), which `Notebook.publish` takes as any other figure.
"""

import hashlib

import numpy as np
import pandas as pd

from ..variation import keyed_generator
from .figures import panels

SUM = r"each column adds up:  $y_j = \sum_i w_{ji} x_i$"
INK, BLUE, ORANGE, GREEN, GREY = "#222222", "#0072B2", "#D55E00", "#009E73", "#767676"


def key(parts: pd.DataFrame) -> str:
    """What a diagram stands on: its parts."""
    return hashlib.sha256(parts.to_csv(index=False).encode()).hexdigest()


def _canvas(width: float, height: float):
    fig, [[ax]] = panels(1, 1, height, width)
    ax.set(xlim=(0, 10 * width), ylim=(0, 10 * height), aspect="equal")
    ax.axis("off")
    return fig, ax


def _box(ax, x: float, y: float, w: float, h: float, text: str, color: str = INK, size: float = 10) -> None:
    from matplotlib.patches import FancyBboxPatch

    ax.add_patch(FancyBboxPatch((x, y), w, h, boxstyle="round,pad=0.3", fc="white", ec=color, lw=1.5))
    ax.text(x + w / 2, y + h / 2, text, ha="center", va="center", color=color, fontsize=size)


def _arrow(ax, start: tuple[float, float], end: tuple[float, float], color: str = INK, bend: float = 0.0) -> None:
    how = {"arrowstyle": "-|>", "color": color, "lw": 1.5, "connectionstyle": f"arc3,rad={bend}"}
    ax.annotate("", end, start, arrowprops=how)


def crossbar(rows: int = 4, columns: int = 3):
    """Inputs through converters onto rows, cells, currents summed on columns, through converters to numbers."""
    fig, ax = _canvas(6.4, 4.4)
    left, bottom, dx, dy = 19, 12, 12, 7
    for i in range(rows):
        y = bottom + dy * i
        ax.plot([13, left + dx * (columns - 1) + 4], [y, y], color=BLUE, lw=2)
        _box(ax, 7.5, y - 1.6, 5, 3.2, "DAC", BLUE, 9)
        ax.text(6, y, f"$x_{rows - i}$", ha="right", va="center", fontsize=12)
    for j in range(columns):
        x = left + dx * j
        ax.plot([x, x], [7.6, bottom + dy * (rows - 1) + 3], color=ORANGE, lw=2)
        _box(ax, x - 2.5, 4, 5, 3.2, "ADC", ORANGE, 9)
        ax.text(x, 2.6, f"$y_{j + 1}$", ha="center", va="top", fontsize=12)
        for i in range(rows):
            y = bottom + dy * i
            ax.plot(x, y, "o", ms=13, color="white", mec=INK, mew=1.5)
            ax.text(x + 1.7, y + 1.3, f"$w_{{{j + 1}{rows - i}}}$", fontsize=9)
    ax.text(left + dx * (columns - 1) + 5, bottom + 1.5 * dy, "voltages\non rows", color=BLUE, va="center", fontsize=10)
    ax.text(left + dx * (columns - 1) + 4, 5.5, "currents\nof columns", color=ORANGE, va="center", fontsize=10)
    ax.text(left + dx, bottom + dy * (rows - 1) + 5.2, SUM, ha="center", fontsize=12)
    parts = {
        "x": "inputs, as numbers",
        "DAC": "converter from a number to a voltage on a row",
        "w": "cells, whose conductance is the weight",
        "column": "adds up the currents of its cells",
        "ADC": "converter from a current to a number",
        "y": "outputs, as numbers",
    }
    return fig, _table(parts)


def levels(chips: int = 3, cells: int = 6):
    """Chips of one wafer in their tints, arrays within a chip, cells within an array: where e_B, e_A and e_W live."""
    fig, ax = _canvas(7.6, 3.4)
    rng, at = keyed_generator("diagram"), 2.0
    for chip, shared in enumerate((-0.7, 0.1, 0.8)[:chips]):
        x0, y0, size = at + 24.5 * chip, 6, 20
        _box(ax, x0, y0, size, size, "")
        for ox, oy in ((1.2, 1.2), (10.6, 1.2), (1.2, 10.6), (10.6, 10.6)):
            own = 0.6 * shared + 0.15 * rng.standard_normal() + 0.25 * rng.standard_normal((cells, cells))
            extent = (x0 + ox, x0 + ox + 8.2, y0 + oy, y0 + oy + 8.2)
            ax.imshow(np.clip(own, -1, 1), cmap="RdBu_r", vmin=-1, vmax=1, extent=extent, zorder=3)
        ax.text(
            x0 + size / 2, y0 - 1.2, f"chip {chip}:  $e_B = {0.3 * shared:+.2f}$", ha="center", va="top", fontsize=11
        )
    ax.set(xlim=(0, 76), ylim=(0, 34))
    notes = (
        ("one tint per chip: $\\sigma_B$", (12, 26), (4, 31)),
        ("one shade per array: $\\sigma_A$", (41.5, 24), (29, 31)),
        ("one grain per cell: $\\sigma_W$", (68, 24), (56, 31)),
    )
    for text, end, start in notes:
        ax.annotate(text, end, start, fontsize=11, arrowprops={"arrowstyle": "-", "color": INK}, zorder=4)
    parts = {
        "chip": "e_B = σ_B·z_B, one number per chip, shared by all its cells",
        "array": "e_A = σ_A·z_A, one number per array, shared by its cells",
        "cell": "e_W = σ_W·z_W, one number per cell",
    }
    return fig, _table(parts)


def loop():
    """What a chip does: read the references once, correct every layer's outputs at every inference."""
    fig, ax = _canvas(7.6, 3.6)
    _box(ax, 3, 20, 15, 9, "reference cells\n$e_B + e_{W,k}$", BLUE)
    _box(ax, 27, 20, 14, 9, "mean\n$\\hat e$", BLUE)
    _box(ax, 3, 5, 15, 9, "crossbar\n$\\tilde y$", INK)
    _box(ax, 27, 5, 22, 9, "correct\n$\\tilde y / (1+\\hat e)$  or  $\\tilde y - \\max|w|\\,\\hat e\\,S$", GREEN)
    _box(ax, 58, 5, 14, 9, "bias, BN,\nquantize", GREY)
    _arrow(ax, (18.6, 24.5), (26.4, 24.5), BLUE)
    _arrow(ax, (34, 19.6), (36, 14.6), BLUE)
    _arrow(ax, (18.6, 9.5), (26.4, 9.5))
    _arrow(ax, (49.6, 9.5), (57.4, 9.5), GREEN)
    _arrow(ax, (65, 4.4), (10.5, 4.4), GREY, bend=-0.12)
    _arrow(ax, (10.5, 14.6), (30, 14.8), ORANGE, bend=-0.35)
    ax.text(21.5, 14, "$S$", color=ORANGE, fontsize=12, ha="center", va="center")
    ax.text(50, 24.5, "once per chip", color=BLUE, fontsize=11, va="center")
    ax.set(ylim=(-4, 32))
    ax.text(38, -2.2, "the next layer, at every inference", color=GREY, fontsize=11, ha="center", va="center")
    parts = {
        "reference cells": "read once per chip; each deviates by e_B and a part of its own",
        "mean": "ê, the estimate of e_B",
        "crossbar": "the product of a layer on this chip",
        "correct": "proportional law: divide by 1 + ê; layer-fixed law: subtract max|w|·ê·S",
        "S": "the sum of the layer's inputs, new at every inference",
        "bias, BN, quantize": "digital; then the next layer",
    }
    return fig, _table(parts)


def _table(parts: dict[str, str]) -> pd.DataFrame:
    return pd.DataFrame(parts.items(), columns=["part", "meaning"])
