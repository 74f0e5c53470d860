"""Notebook 01: levels, gradients, and what 1, 2 and 4 bits cost on an ideal chip."""

from collections.abc import Mapping, Sequence

import pandas as pd
import torch
from torch import Tensor, nn

from ..networks import NAMES
from ..quantizers import activation_quantizer
from ..statistics import Claim, difference_of_proportions, proportion
from ..trials import QUANTIZED
from . import cases
from .cases import Case
from .claims import YIELD_MARGIN, exactly, scaled
from .profiles import Profile


def measurements(profile: Profile, seed: int = 0) -> list[Case]:
    """QAT of the first network at 1, 2 and 4 weight bits, learned step and line search, no variation."""
    setting = profile.settings[0]
    tried = [("A4W1", "learned"), *((b, q) for b in ("A4W2", "A4W4") for q in ("learned", "line-search"))]
    tried += [("A2W2", "learned"), ("A1W1", "learned")]
    trials = [cases.trial(setting, "float", seed=seed)]
    trials += [cases.trial(setting, "QAT", bits, seed=seed, quantizers=kind) for bits, kind in tried]
    return [cases.within(profile, setting, t, 0.0, quantizers=t.quantizers) for t in trials]


def level_table(layers: Mapping[str, nn.Module]) -> pd.DataFrame:
    """bits, level, share: the distinct values of each layer's quantized weights and how often each occurs."""
    rows = []
    for bits, layer in layers.items():
        values, counts = layer.quantize_weight(layer.weight.detach()).unique(return_counts=True)
        for value, count in zip(values.tolist(), counts.tolist()):
            rows.append({"bits": bits, "level": value, "share": count / layer.weight.numel()})
    return pd.DataFrame(rows)


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
        {
            "view": name,
            "levels": len(picture.unique()),
            "rms_error": float((picture - reference).square().mean().sqrt()),
        }
        for name, picture in views.items()
    ]
    return pd.DataFrame(rows)


def view_claims(numbers: pd.DataFrame) -> list[Claim]:
    """Four bits at least halve the error of two."""
    error = numbers.set_index("view").rms_error
    ratio = exactly(error["2 bits"] / error["4 bits"])
    return [Claim("rms error of 2 bits over that of 4 bits", "this image", ratio, above=2, unit="ratio", of="image")]


def shares_right(table: pd.DataFrame) -> pd.DataFrame:
    """method, bits, quantizers (index): share, the `Estimate` of the images that are right."""
    counts = table.groupby(["method", "bits", "quantizers"])[["correct", "images"]].sum()
    counts["share"] = [proportion(int(c), int(n)) for c, n in zip(counts.correct, counts.images, strict=True)]
    return counts


def bits_table(table: pd.DataFrame) -> pd.DataFrame:
    """label, quantizers, accuracy with Wilson interval over the test images (%), best first."""
    rows = []
    for (method, bits, kind), found in shares_right(table).share.items():
        percent = scaled(found, 100)
        label = "float" if method not in QUANTIZED else bits + (", line search" if kind == "line-search" else "")
        row = {"label": label, "bits": bits, "quantizers": kind}
        rows.append(row | {"accuracy": percent.value, "low": percent.low, "high": percent.high})
    return pd.DataFrame(rows).sort_values("accuracy", ignore_index=True)


def bits_claims(table: pd.DataFrame, profile: Profile) -> list[Claim]:
    """What the bits cost on an ideal chip, against the float network on the same images."""
    share, claims = shares_right(table).share, []
    for bits in ("A4W4", "A4W2", "A4W1", "A2W2", "A1W1"):
        lost = difference_of_proportions(share["float", "float", "learned"], share["QAT", bits, "learned"])
        point = f"{NAMES[profile.settings[0].network]}, ideal chip"
        claims.append(
            Claim(f"what {bits} loses against float", point, scaled(lost, 100), below=YIELD_MARGIN, of="images")
        )
    return claims
