"""Small tables behind the teaching parts of the notebooks: levels, gradients, cells, components, batch norm.  No
training here."""

from __future__ import annotations

import copy
from collections.abc import Mapping, Sequence

import numpy as np
import pandas as pd
import torch
from torch import Tensor, nn

from ..accounting import column_positions, knee, predicted_error, shared_gain, simulated_errors
from ..analog import channels_last, crossbars, evaluating, programmed
from ..controls import traffic
from ..data import Dataset
from ..quantizers import activation_quantizer
from ..selftuning import Oracle, ReferenceCells, ReferenceColumns
from ..statistics import Claim, proportion, variance_components
from ..trials import QUANTIZED
from ..variation import Chip, Variation
from .findings import exactly, scaled
from .profiles import CLAIM_SHARE, Profile

# PCM programming noise: standard deviation in µS over the target conductance g/g_max, g_max = 25 µS.
# Source: aihwkit, src/aihwkit/inference/noise/pcm.py, PCMLikeNoiseModel (Nandakumar et al., ICECS 2019).
PCM_COEFFICIENTS, PCM_G_MAX = (0.26348, 1.9650, -1.1731), 25.0


def spread(chips: Sequence[int], centre: float, width: float = 0.25) -> np.ndarray:
    """Heights that keep points of one row apart: a golden-ratio sequence of the chip number around `centre`."""
    return centre + width * (2 * (np.asarray(chips) * 0.6180339887 % 1) - 1)


def predictions(labels: Tensor, before: Tensor, after: Tensor) -> pd.DataFrame:
    """One row an image: its class, and what the network says on an ideal and on a real chip."""
    return pd.DataFrame({"image": range(len(labels)), "label": labels, "ideal": before, "chip": after})


def one_chip_claims(labels: Tensor, before: Tensor, after: Tensor) -> list[Claim]:
    """More than half of a handful of images stay right on one chip: shown, not expected."""
    right = scaled(proportion(int((after == labels).sum()), len(labels)), 100)
    return [Claim("one chip gets more than 50 % of these images right (%)", f"chip 0, {len(labels)} images", right, 50.0, of="images")]


# -- 01: quantizers -------------------------------------------------------------------------------------------


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


# -- 02: variation and chips ----------------------------------------------------------------------------------


def deviated(weight: Tensor, variations: Mapping[str, Variation], chip: Chip, layer: str) -> pd.DataFrame:
    """name, weight, deviated: every cell of a layer before and after fabrication, a block a variation."""
    frames = []
    for name, variation in variations.items():
        after = variation.deviate(chip, layer, weight)(weight)
        frames.append(pd.DataFrame({"name": name, "weight": weight.flatten().numpy(), "deviated": after.flatten().numpy()}))
    return pd.concat(frames, ignore_index=True)


def deviated_claims(cells: pd.DataFrame) -> list[Claim]:
    """Under the proportional law a weight of zero stays zero; under the layer-fixed law it does not."""
    zero = cells[cells.weight == 0].groupby("name").deviated.std()
    return [
        Claim("the law moves cells that hold zero (standard deviation of their deviated weight)", name, exactly(value), of="chip")
        for name, value in zero.items()
    ]


def cell_maps(chips: Sequence[int], variation: Variation, layer: str, shape: tuple[int, int]) -> dict[int, np.ndarray]:
    """chip → e of a layer, cell by cell."""
    like = torch.empty(shape)
    return {i: variation.deviation(Chip.of("test", i), layer, like).numpy() for i in chips}


def map_table(maps: Mapping[int, np.ndarray]) -> pd.DataFrame:
    """chip, mean and standard deviation of e over the cells drawn."""
    return pd.DataFrame({"chip": i, "mean": float(e.mean()), "std": float(e.std(ddof=1)), "cells": e.size} for i, e in maps.items())


def map_claims(numbers: pd.DataFrame, variation: Variation) -> list[Claim]:
    """The grain of every chip is σ_W; only the tint differs."""
    worst = float((numbers["std"] / variation.within - 1).abs().max())
    return [Claim("every chip's grain is within 10 % of σ_W (points to spare)", f"{len(numbers)} chips", exactly(10 - 100 * worst), of="draw")]


def measured_components(variation: Variation, chips: Sequence[int], cells: int) -> pd.DataFrame:
    """n_chips, sigma_within, sigma_between recovered from simulated cells by one-way analysis of variance."""
    like = torch.empty(cells)
    e = np.stack([variation.deviation(Chip.of("test", i), "cells", like).numpy() for i in range(max(chips))])
    rows = [dict(zip(("n_chips", "sigma_within", "sigma_between"), (n, *variance_components(e[:n])))) for n in chips]
    return pd.DataFrame(rows)


def component_claims(recovered: pd.DataFrame, variation: Variation) -> list[Claim]:
    """With the most chips, both components are within a tenth of the truth."""
    last = recovered.iloc[-1]
    return [
        Claim(f"σ_{name} is recovered within 10 % (share of the tolerance left)", f"{last.n_chips:.0f} chips",
              exactly(1 - abs(found / true - 1) / 0.1), of="draw")
        for name, found, true in (("W", last.sigma_within, variation.within), ("B", last.sigma_between, variation.between))
    ]  # fmt: skip


def pcm_noise(points: int = 101) -> pd.DataFrame:
    """g (share of full scale), sigma_full_scale (%), sigma_relative (% of the target) of PCM programming."""
    g = np.linspace(0.02, 1, points)
    sigma = np.polynomial.Polynomial(PCM_COEFFICIENTS)(g)  # µS
    return pd.DataFrame({"g": g, "sigma_full_scale": 100 * sigma / PCM_G_MAX, "sigma_relative": 100 * sigma / (g * PCM_G_MAX)})


def pcm_claims(noise: pd.DataFrame) -> list[Claim]:
    """Single PCM devices stay below 5 % of full scale: σ = 0.5 is a stress test."""
    worst = float(noise.sigma_full_scale.max())
    return [Claim("PCM programming noise stays below 5 % of full scale (points to spare)", "any target", exactly(5 - worst), of="fit")]


# -- 04: batch norm and a shared gain -------------------------------------------------------------------------


def break_even(nets: Mapping[str, nn.Module], data: Dataset, images: int = 64) -> pd.DataFrame:
    """network, layer, fan_in, K_eff (ratio of the means of S² and ‖x‖² over training images), rho = 1/(1 + K_eff): at this
    between share the shared part of the layer-fixed law moves an output as much as the cells' own part."""
    rows, batch = [], data.train.balanced(images).normalized()
    for network, net in nets.items():
        layers = dict(crossbars(net))
        for name, (x, _) in traffic(net, batch).items():
            k = knee(layers[name], x, "layer-fixed")
            rows.append({"network": network, "layer": name, "fan_in": layers[name].weight[0].numel(), "K_eff": k, "rho": 1 / (1 + k)})
    return pd.DataFrame(rows)


def batch_norm_table(nets: Mapping[str, nn.Module], data: Dataset, shared: Sequence[float], images: int = 200) -> pd.DataFrame:
    """network, e_between, statistics, accuracy (%), change: what a shared proportional gain does to a network whose batch
    norm uses the batch's own statistics (as in training) or its running ones (as in evaluation), on one batch of test
    images; change is the rms change of the logits over their rms."""
    batch, rows = data.test.balanced(images), []
    x = channels_last(batch.normalized())
    for network, net in nets.items():
        net = copy.deepcopy(net)
        with evaluating(net):
            # running ones first: statistics of the batch move them
            for statistics in ("running (evaluation)", "of the batch (training)"):
                for module in net.modules():
                    if isinstance(module, nn.modules.batchnorm._BatchNorm):
                        module.train(statistics.startswith("of"))
                nominal = net(x)
                for e in shared:
                    with programmed(net, Chip(0), shared_gain(e)):
                        logits = net(x)
                    right = float((logits.argmax(1) == batch.labels).float().mean() * 100)
                    change = float((logits - nominal).square().mean().sqrt() / nominal.square().mean().sqrt())
                    rows.append({"network": network, "e_between": e, "statistics": statistics, "accuracy": right, "change": change})
    return pd.DataFrame(rows)


def batch_norm_claims(gains: pd.DataFrame, point: str) -> list[Claim]:
    """At e_B = −0.5, statistics of the batch lose less than running ones."""
    at = gains[np.isclose(gains.e_between, -0.5)].set_index("statistics").accuracy
    lost = exactly(at["of the batch (training)"] - at["running (evaluation)"])
    return [Claim("at e_B = −0.5 running statistics lose more than those of the batch (points)", point, lost, of="sweep")]


# -- 06: the error of one layer --------------------------------------------------------------------------------


def error_table(
    nets: Mapping[str, nn.Module], data: Dataset, within: float, sizes: Sequence[int], chips: int, e_between: float = 0.2, images: int = 8
) -> pd.DataFrame:
    """network, layer, inputs, law, kind, size, cells, predicted, simulated: error variance of each network's linear layer
    of most inputs, corrected, at fixed e_B, averaged over outputs and training images and divided by the layer's own part
    (what the oracle leaves)."""
    kinds, rows = (("cells", ReferenceCells, sizes), ("columns", ReferenceColumns, (1, 2, 4, 8))), []
    cases = [(kind, size, made(size)) for kind, made, counts in kinds for size in counts]
    for network, net in nets.items():
        seen = traffic(net, data.train.balanced(images).normalized())
        name, layer = max(crossbars(net), key=lambda item: item[1].weight[0].numel() * isinstance(item[1], nn.Linear))
        x, about = seen[name][0], {"network": network, "layer": name, "inputs": layer.weight[0].numel()}
        for law in ("proportional", "layer-fixed"):
            own = predicted_error(layer, x, Oracle(), within, law, e_between)[0].mean()
            simulated = simulated_errors(layer, x, [estimator for *_, estimator in cases], within, law, e_between, chips=range(chips))
            for (kind, size, estimator), (found, _) in zip(cases, simulated):
                predicted = predicted_error(layer, x, estimator, within, law, e_between)[0].mean()
                row = about | {"law": law, "kind": kind, "size": size, "cells": size if kind == "cells" else size * about["inputs"]}
                rows.append(row | {"predicted": float(predicted / own), "simulated": float(found.mean() / own)})
    return pd.DataFrame(rows)


def error_claims(errors: pd.DataFrame, point: str, chips: int) -> list[Claim]:
    """Formula and simulation agree within 15% at every size."""
    worst = float((errors.simulated / errors.predicted - 1).abs().max())
    return [Claim("simulated error variance lies within 15 % of the formula (points to spare)", f"{point}, {chips} chips", exactly(15 - 100 * worst), of="sweep")]


def knee_table(proportional: nn.Module, layer_fixed: nn.Module, batch: Tensor) -> pd.DataFrame:
    """layer, cells, fan_in, gain_knee, K_eff: where the error of n cells equals the layer's own, in the network trained
    for each law."""
    rows, cases = [], (("gain_knee", "proportional", proportional), ("K_eff", "layer-fixed", layer_fixed))
    seen = {law: traffic(net, batch) for _, law, net in cases}
    for name, layer in crossbars(proportional):
        row = {"layer": name, "cells": layer.weight.numel(), "fan_in": layer.weight[0].numel()}
        row |= {column: knee(dict(crossbars(net))[name], seen[law][name][0], law) for column, law, net in cases}
        rows.append(row)
    return pd.DataFrame(rows)


def position_table(nets: Mapping[tuple[str, str], nn.Module], profile: Profile, batch: Tensor, columns: int) -> pd.DataFrame:
    """network, positions, uncorrected (%), floored (%): dummy columns under the proportional law, on test chip 0."""
    rows = []
    for setting in profile.settings:
        net, v = nets[setting.network, "proportional"], Variation.split(setting.sigma["proportional"], CLAIM_SHARE)
        found = pd.DataFrame(column_positions(net, batch, ReferenceColumns(columns), v, Chip.of("test", 0)))
        share = 100 * found[["uncorrected", "floored"]].sum() / found.positions.sum()
        first = 100 * found.uncorrected[0] / found.positions[0]
        rows.append({"network": setting.network, "positions": found.positions.sum(), **share, "uncorrected in the first layer": first})
    return pd.DataFrame(rows)
