"""Notebook 01: levels, gradients, and what 1, 2 and 4 bits cost on an ideal chip."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import pandas as pd
import torch
from torch import Tensor, nn

from ..networks import NAMES
from ..quantizers import activation_quantizer
from ..statistics import Claim, difference_of_proportions, proportion
from ..trials import QUANTIZED, Measurement
from . import cases
from .claims import YIELD_MARGIN, exactly, scaled
from .profiles import Profile


def measurements(profile: Profile, seed: int = 0) -> list[Measurement]:
    """Notebook 01: QAT of the first network at 1, 2 and 4 weight bits, learned step and line search, no variation."""
    setting = profile.settings[0]
    tried = [("A4W1", "learned"), *((b, q) for b in ("A4W2", "A4W4") for q in ("learned", "line-search"))]
    tried += [("A2W2", "learned"), ("A1W1", "learned")]
    trials = [cases.trial(setting, "float", seed=seed)]
    trials += [cases.trial(setting, "QAT", bits, seed=seed, quantizers=kind) for bits, kind in tried]
    return [cases.measured(profile, setting, t, 0.0) for t in trials]


def level_table(layers: Mapping[str, nn.Module]) -> pd.DataFrame:
    """bits, level, share: the distinct values of each layer's quantized weights and how often each occurs."""
    rows = []
    for bits, layer in layers.items():
        values, counts = layer.quantize_weight(layer.weight.detach()).unique(return_counts=True)
        for value, count in zip(values.tolist(), counts.tolist()):
            rows.append({"bits": bits, "level": value, "share": count / layer.weight.numel()})
    return pd.DataFrame(rows)


def level_claims(levels: pd.DataFrame) -> list[Claim]:
    """W bits give at most 2^W levels."""
    return [
        Claim(f"{bits} uses at most {2 ** int(bits[-1])} levels (levels to spare, + 1)", "largest layer",
              exactly(2 ** int(bits[-1]) - len(rows) + 1), of="layer")
        for bits, rows in levels.groupby("bits")
    ]  # fmt: skip


def gradient_table(quantizers: Mapping[str, nn.Module], x: Tensor) -> pd.DataFrame:
    """quantizer, x, q, dq_dx, dq_ds from autograd, point by point; dq_ds is NaN where the step is not learned."""
    frames = []
    for name, quantizer in quantizers.items():
        points = x.clone().requires_grad_()
        q = quantizer(points)
        (slope,) = torch.autograd.grad(q.sum(), points, retain_graph=True)
        step = getattr(quantizer, "step", None)
        by_step = torch.full_like(x, torch.nan)
        if isinstance(step, nn.Parameter):
            by_step = torch.stack([torch.autograd.grad(value, step, retain_graph=True)[0] for value in q])
        columns = {"x": x, "q": q.detach(), "dq_dx": slope, "dq_ds": by_step}
        frames.append(pd.DataFrame({"quantizer": name, **{k: v.numpy() for k, v in columns.items()}}))
    return pd.concat(frames, ignore_index=True)


def gradient_claims(curves: pd.DataFrame) -> list[Claim]:
    """The learned step passes the gradient exactly where |x| < n·s = 1."""
    rows = curves[curves.quantizer.str.startswith("learned")]
    agree = float(((rows.dq_dx == 1) == (rows.x.abs() < 1)).mean() * 100)
    return [Claim("autograd passes the gradient just where |x| < n·s (% of points)", "learned step, n·s = 1", exactly(agree), 99.9, of="sweep")]


def activation_views(image: Tensor, widths: Sequence[int]) -> dict[str, Tensor]:
    """title → picture: the float image and its signed quantizations."""
    views = {"float": image}
    for bits in widths:
        quantizer = activation_quantizer(bits, image, signed=True)
        views[f"{bits} bit{'s' if bits > 1 else ''}"] = quantizer(image).detach()
    return views


def view_table(views: Mapping[str, Tensor]) -> pd.DataFrame:
    """view, levels, rms error against the float image (in its own standard deviations)."""
    reference = views["float"]
    rows = [
        {"view": name, "levels": len(picture.unique()), "rms_error": float((picture - reference).square().mean().sqrt())}
        for name, picture in views.items()
    ]
    return pd.DataFrame(rows)


def view_claims(numbers: pd.DataFrame) -> list[Claim]:
    """Four bits at least halve the error of two."""
    error = numbers.set_index("view").rms_error
    return [Claim("2 bits have more than twice the rms error of 4 bits (ratio)", "this image", exactly(error["2 bits"] / error["4 bits"]), 2.0, of="image")]


def bits_table(table: pd.DataFrame) -> pd.DataFrame:
    """label, quantizers, accuracy with Wilson interval over the test images (%), best first."""
    rows = []
    for (method, bits, kind), counts in table.groupby(["method", "bits", "quantizers"])[["correct", "images"]].sum().iterrows():
        share = scaled(proportion(int(counts.correct), int(counts.images)), 100)
        label = "float" if method not in QUANTIZED else bits + (", line search" if kind == "line-search" else "")
        rows.append({"label": label, "bits": bits, "quantizers": kind, "accuracy": share.value, "low": share.low, "high": share.high})
    return pd.DataFrame(rows).sort_values("accuracy", ignore_index=True)


def bits_claims(table, profile: Profile) -> list[Claim]:
    """Notebook 01: what the bits cost on an ideal chip, against the float network on the same images."""
    setting = profile.settings[0]
    right = table[table.sigma == 0].groupby(["method", "bits", "quantizers"])[["correct", "images"]].sum()
    share = {key: proportion(int(row.correct), int(row.images)) for key, row in right.iterrows()}
    whole = share["float", "float", "learned"]
    return [
        Claim(
            f"{bits} costs less than {YIELD_MARGIN:g} points (points to spare)",
            f"{NAMES[setting.network]}, ideal chip",
            scaled(difference_of_proportions(share["QAT", bits, "learned"], whole), 100, YIELD_MARGIN),
            of="images",
        )
        for bits in ("A4W4", "A4W2", "A4W1", "A2W2", "A1W1")
    ]
