"""Panels to move by hand: one column of a crossbar, the budget of an estimate; `chip_explorer` has a third.

Each shows itself in a session that somebody sits at.  Elsewhere it leaves its data in the page, where the site's
`panels.js` answers for `column` and `budget`.  All numbers are the library's: `programmed`, `evaluate`, `variance`.
"""

import asyncio
import base64
import hashlib
import html
import io
import json
from collections.abc import Callable, Mapping, Sequence
from functools import lru_cache

import numpy as np
import pandas as pd
import torch
from torch import Tensor, nn

from ..accounting import shared_gain
from ..analog import evaluating, programmed
from ..conversion import to_analog
from ..estimators import ReferenceCells
from ..networks import NAMES
from ..selftuning import SelfTuning
from ..variation import Chip, keyed_generator
from . import figures

LAWS = ("proportional", "layer-fixed")  # those that the site computes too
CELLS = (0, 1, 4, 16, 64, 256, 1024)  # 0: untuned
INPUTS, ROWS, GREY = 300, 256, 16  # inputs drawn; rows of the column; steps of sparsity, and levels of an input


def interactive() -> bool:
    """Whether somebody sits at this session: papermill and nbconvert allow no input."""
    from IPython import get_ipython

    return bool(getattr(getattr(get_ipython(), "kernel", None), "_allow_stdin", False))


# -- one column of a crossbar --------------------------------------------------------------------------------


@lru_cache
def column_parts() -> tuple[Tensor, Tensor, Tensor]:
    """(weights (256,) of levels −1, 0, 1; input codes 1 … 15, (300, 256); ranks 0 … 15 that sparsity cuts, alike)."""
    rng = keyed_generator("panel", "column")
    w = torch.from_numpy(rng.standard_normal(ROWS).round().clip(-1, 1)).float()
    codes, ranks = (torch.from_numpy(rng.integers(low, GREY, (INPUTS, ROWS))).float() for low in (1, 0))
    return w, codes, ranks


def column_outputs(
    within: float, shared: float, law: str, inputs: int, sparsity: float, cells: int, chip: int = 0
) -> tuple[Tensor, Tensor]:
    """(ideal, chip) outputs (300,) of a column of `inputs` cells at e_B = `shared`; cells: of the tuning, or 0."""
    w, codes, ranks = (part[..., :inputs] for part in column_parts())
    x = codes * (ranks >= GREY * sparsity) / (GREY - 1)
    net = nn.Linear(inputs, 1, bias=False)
    net.weight.data.copy_(w)
    net = to_analog(net, "A4W2", torch.ones(1, inputs))
    net.quantize_weight.step.data.fill_(1.0)
    net.quantize_input.step.data.fill_(1 / (GREY - 1))
    tuning = SelfTuning(ReferenceCells(cells)) if cells else None
    with evaluating(net):
        ideal = net(x)[:, 0]
        with programmed(net, Chip.of("test", chip), shared_gain(shared, within, law), tuning):
            return ideal, net(x)[:, 0]


def column_table(within: float, shared: Sequence[float], inputs: int, sparsity: float) -> pd.DataFrame:
    """law, shared (e_B), ideal, chip: a row an input, untuned, on chip 0."""
    frames = []
    for law in LAWS:
        for e in shared:
            ideal, chip = column_outputs(within, e, law, inputs, sparsity, 0)
            frames.append(pd.DataFrame({"law": law, "shared": e, "ideal": ideal, "chip": chip}))
    return pd.concat(frames, ignore_index=True)


def column_key() -> str:
    """What pictures of the column stand on: SHA-256 of its weights and inputs."""
    return hashlib.sha256(b"".join(part.numpy().tobytes() for part in column_parts())).hexdigest()


def column_figure(within: float, shared: float, law: str, inputs: int, sparsity: float, cells: int):
    """(figure, what it says in a line) of one setting of the first panel."""
    ideal, chip = column_outputs(within, shared, law, inputs, sparsity, cells)
    fig, [[ax]] = figures.panels(1, 1, height=3.0, width=4.4)
    look = figures.OWN if cells else figures.TUNING_STYLE["untuned"]
    ax.plot(ideal, chip, look["marker"], color=look["color"], alpha=0.6)
    ax.axline((0, 0), slope=1, color="k", lw=1)
    slope, shift = np.polyfit(ideal, chip, 1) if float(ideal.std()) else (0.0, 0.0)
    scatter = float((chip - (slope * ideal + shift)).std())
    ax.set(xlabel="column on an ideal chip", ylabel="column on this chip")
    told = f"slope {slope:.2f}, shift {shift:+.2f}, scatter {scatter:.2f}"
    ax.set_title(f"{'tuned by ' + str(cells) + ' cells' if cells else 'untuned'}: {told}")
    return fig, told


def column() -> None:
    """Panel 1: σ_W, e_B, law, inputs and sparsity → 300 outputs of a chip against those of an ideal one."""
    w, codes, ranks = column_parts()
    chip, counts = Chip.of("test", 0), [n for n in CELLS if n]
    z = chip.z_within("", (1, ROWS))  # those of a column of K inputs are the first K of them
    data = {
        "weights": w.int().tolist(),
        "inputs": base64.b64encode((GREY * ranks + codes).numpy().astype(np.uint8).tobytes()).decode(),
        "z": [round(v, 5) for v in z.flatten().tolist()],
        "reference": {n: float(chip.z_reference(n).mean(dtype=torch.float64)) for n in counts},
    }
    show("column", column_controls, column_figure, data)


def column_controls() -> dict:
    import ipywidgets as widgets

    return {
        "within": slider("own part σ_W", 0.2, 0, 0.5, 0.05),
        "shared": slider("shared part e_B", 0.3, -0.6, 0.6, 0.1),
        "law": widgets.Dropdown(options=LAWS, value="layer-fixed", description="law"),
        "inputs": widgets.SelectionSlider(options=[16, 64, 256], value=64, description="inputs"),
        "sparsity": slider("share of zeros", 0.5, 0, 0.875, 0.125),
        "cells": widgets.SelectionSlider(options=CELLS, value=0, description="reference cells"),
    }


# -- the budget of an estimate -------------------------------------------------------------------------------


def budget_parts(cells: int, within: float, noise: float, step: float, effective: float) -> dict[str, float]:
    """Error variance of an output under the layer-fixed law in units of max|w|²·‖x‖²: the cells' own σ_W², and
    v·K_eff split by its causes, v = σ_W²/n + noise² + step²/12."""
    tried = {"cells read": ReferenceCells(cells), "noise": ReferenceCells(cells, noise)}
    tried["converter"] = ReferenceCells(cells, noise, step)
    v = {name: e.variance(None, None, within) for name, e in tried.items()}  # type: ignore[arg-type]
    parts = {"cells read": v["cells read"], "noise": v["noise"] - v["cells read"]}
    parts["converter"] = v["converter"] - v["noise"]
    return {"own": within**2} | {name: effective * value for name, value in parts.items()}


def budget_curves(sizes: pd.DataFrame, within: float) -> dict[str, list]:
    """Network → [[error of ê (standard deviation), points below the oracle], …] as measured, in rising order.

    sizes: the table of notebook 06; within: σ_W of its layer-fixed pattern."""
    cells = sizes[(sizes.kind == "cells") & (sizes.law == "layer-fixed")]
    found = cells.assign(error=within / np.sqrt(cells["size"]))
    return {
        NAMES[network]: [[float(e), max(0.0, float(p))] for e, p in sorted(zip(rows.error, rows.below_oracle))]
        for network, rows in found.groupby("network", sort=False)
    }


def points_lost(curve: list, error: float) -> float:
    """Points below the oracle at an error of ê > 0: along its logarithm between the measured ones, constant beyond."""
    errors, points = zip(*curve)
    return float(np.interp(np.log(error), np.log(errors), points))


def budget_figure(curves: Mapping[str, list], cells: int, within: float, noise: float, step: float, effective: float):
    """(figure, what it says): the parts of the error as one bar, and the points that such an error costs."""
    parts = budget_parts(cells, within, noise, step, effective)
    error = float(np.sqrt(sum(v for name, v in parts.items() if name != "own") / effective))
    fig, [[left, right]] = figures.panels(1, 2, height=2.6)
    for x, (value, look) in enumerate(zip(parts.values(), figures.BITS_STYLE)):
        left.bar(x, value, color=look["color"])
        left.annotate(f"{value:.2g}", (x, value), ha="center", va="bottom", fontsize=8)
    left.set_xticks(range(len(parts)), ["cells' own", "reading n", "noise", "converter"], fontsize=7.5)
    left.set(title="error variance by cause", ylabel="in units of max|w|²‖x‖²")
    left.margins(y=0.15)
    lost = {}
    for (name, curve), look in zip(curves.items(), figures.BITS_STYLE):
        lost[name] = points_lost(curve, error)
        right.plot(*zip(*curve), label=name, **look)
        right.plot(error, lost[name], "o", ms=9, mfc="none", mec="k", mew=2)
    right.axvline(error, color="k", lw=1, ls=":")
    right.set(xscale="log", xlabel="error of ê", ylabel="points below the oracle", title="as measured, layer-fixed")
    right.legend()
    told = ", ".join(f"{name} {points:.1f} points" for name, points in lost.items())
    return fig, f"error of ê {error:.3f}, knee at n = {effective:.0f}; lost: {told}"


def budget(sizes: pd.DataFrame, within: float) -> None:
    """Panel 3: n, σ_W, reading noise, converter step and K_eff → the parts of the error, and the points lost.

    The arguments are those of `budget_curves`."""
    curves = budget_curves(sizes, within)

    def controls() -> dict:
        import ipywidgets as widgets

        return {
            "cells": widgets.SelectionSlider(options=[4**k for k in range(7)], value=64, description="cells n"),
            "within": slider("own part σ_W", 0.15, 0.05, 0.5, 0.05),
            "noise": slider("reading noise", 0.0, 0, 0.1, 0.01),
            "step": slider("converter step", 0.0, 0, 0.5, 0.05),
            "effective": widgets.SelectionSlider(options=[2**k for k in range(3, 11)], value=64, description="K_eff"),
        }

    show("budget", controls, lambda **at: budget_figure(curves, **at), {"curves": curves})


# -- what panels share ---------------------------------------------------------------------------------------


def slider(description: str, value: float, low: float, high: float, step: float):
    """A slider of numbers that reports when it is let go."""
    import ipywidgets as widgets

    return widgets.FloatSlider(
        value=value, min=low, max=high, step=step, description=description, continuous_update=False
    )


def show(kind: str, controls: Callable[[], dict], figure: Callable, data: dict, refine: Callable | None = None) -> None:
    """A live panel where somebody sits; elsewhere its data and a line, which the site's script takes over."""
    from IPython.display import HTML, display

    if interactive():
        display(live(controls(), figure, refine))
        return
    about = json.dumps(data, separators=(",", ":")).replace("</", "<\\/")
    note = "This panel works in JupyterLab" + (" and on the site." if data else " alone.")
    script = f'<script type="application/json">{about}</script>'
    display(HTML(f'<div class="companion-panel" data-kind="{kind}">{script}<p><em>{note}</em></p></div>'))


def live(controls: Mapping, figure: Callable, refine: Callable | None = None):
    """A widget that draws `figure(**values)` → (figure, what it says) at every change of a control.

    refine(draw, **values): a coroutine that goes on while nothing is changed."""
    import ipywidgets as widgets

    picture, task = widgets.HTML(), None

    def draw(fig, told: str) -> None:
        content = io.BytesIO()
        fig.savefig(content, format="png", dpi=130)
        source = base64.b64encode(content.getvalue()).decode()
        picture.value = (
            f'<img style="max-width:100%" alt="{html.escape(told, quote=True)}" src="data:image/png;base64,{source}">'
            f'<p role="status">{html.escape(told)}</p>'
        )

    def changed(_=None) -> None:
        nonlocal task
        values = {name: control.value for name, control in controls.items()}
        if task:
            task.cancel()
        draw(*figure(**values))
        if refine:
            try:
                task = asyncio.get_running_loop().create_task(refine(draw, **values))
            except RuntimeError:  # no event loop: what is drawn stays as it is
                task = None

    for control in controls.values():
        control.style.description_width = "8em"
        control.observe(changed, "value")
    changed()
    return widgets.VBox([*controls.values(), picture])
