"""What self-tuning costs, and how much error it leaves: the formulas, and a simulation to hold them against.

With v = Var(ê − e_B) (`estimator.variance`), y = Σ w·x, S = Σ x, over the cells of one output  [ours]:

    proportional, 1 + e_B ≥ floor    variance  [σ_W²·Σ w²x² + v·y²] / (1 + e_B)²       first order in ê − e_B
                  1 + e_B < floor    variance  σ_W²·Σ w²x² / floor²,   bias ((1 + e_B)/floor − 1)·y
                  left uncorrected   variance  σ_W²·Σ w²x²,            bias e_B·y
    layer-fixed                      variance  max|w|²·[σ_W²·‖x‖² + v·S²]

With references on the chip and A arrays that differ, an output over row blocks r gains σ_A²·(Σ y_r² − y²/A) in the
place of v·y², or σ_A²·(Σ S_r² − S²/A) in that of v·S² (`mismatch_error`).

For n cells the two terms meet at n = y²/Σw²x² (proportional) and n = S²/‖x‖² = K_eff (layer-fixed).
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor, nn

from .analog import Crossbar, crossbars, evaluating, programmed
from .arrays import row_blocks
from .checks import InputError, one_of
from .columns import ReferenceColumns, column_shape
from .controls import traffic
from .estimators import Estimator, Oracle, ReferenceCells, by_array, grid_of
from .selftuning import (
    CORRECTIONS,
    Gain,
    Offset,
    SelfTuning,
    Tuning,
    correction_for,
    over_outputs,
    peak,
    refuse_other_law,
)
from .variation import Chip, Variation


@dataclass(frozen=True)
class Cost:
    """cells: extra analog cells a chip, and as a share of the network's.  chip_images: images or probe inputs that
    every chip is run on before use.  operations: extra digital operations an inference, and as a share of its
    products.  Constants that fold into batch norm, bias or the next activation step cost none."""

    cells: int
    cell_share: float
    chip_images: int
    operations: int
    operation_share: float


def cost(tuning: Tuning, net: nn.Module, batch: Tensor, variation: Variation) -> Cost:
    """What a self-tuning or a control takes on inputs like `batch` (B, C, H, W).

    variation: its law, mapping and largest array count, its σ do not."""
    layers, operations = dict(crossbars(net)), 0
    seen = traffic(net, batch[:1])  # sizes do not depend on how many images run
    if isinstance(tuning, SelfTuning):
        for name, (x, y) in seen.items():
            operations += _operations(tuning, variation, layers[name], x[0], y[0])
    products = sum(y[0].numel() * layers[name].weight[0].numel() for name, (_, y) in seen.items())
    cells = tuning.cells(net, variation) if isinstance(tuning, SelfTuning) else tuning.cells(net)
    whole = variation.cells_of_a_weight * sum(layer.weight.numel() for layer in layers.values())
    return Cost(cells, cells / whole, tuning.chip_images, operations, operations / products)


def _operations(tuning: SelfTuning, variation: Variation, layer: Crossbar, x: Tensor, y: Tensor) -> int:
    """Additions, multiplications and comparisons of one layer for one image, as this code does them."""
    estimator, outputs = tuning.estimator, y.numel()
    correction, m = tuning.correction or correction_for(variation.law), estimator.readings
    _, rows, blocks = grid_of(layer, variation).counts if by_array(estimator) else (1, 1, 1)
    sums = outputs // layer.weight.shape[0] * column_shape(layer)[0]  # (position, group) pairs
    # S: sum the channels, then slide a box over the positions; again for every row block
    box = (x.numel() + sums * layer.weight[0, 0].numel()) * rows
    if isinstance(correction, Offset):
        if variation.mapping == "differential":  # what cells share cancels
            return 0
        if m:  # columns carry ê·S themselves
            return sums * m * rows * blocks + outputs
        return box + sums * (2 * rows - 1) * blocks + outputs  # else S of each array times its number, added up
    if not isinstance(correction, Gain):  # a second product of the layer, subtracted
        return outputs * (layer.weight[0].numel() + 1)
    if not m:  # one gain a chip, or a column block, folds away; arrays below each other need their own before the sum
        return outputs * rows if rows > 1 else 0
    power = x.numel() + box  # ‖x‖², to decide on S²/‖x‖² ≥ 1: a square, a division and a comparison
    # m readings, divided by S; then one division an output and row block
    return box + power + sums * (3 + m + 1) * rows * blocks + outputs * rows


def predicted_error(
    layer: Crossbar, x: Tensor, estimator, within: float, law: str, e_between: float = 0.0, floor: float = Gain.floor
) -> tuple[Tensor, Tensor]:
    """(variance, bias) of every output of a corrected layer at fixed e_B and input x, by the formulas above.

    InputError for a law without a formula, or an estimate per array, whose sums go over row blocks."""
    _has_formula(law, estimator)
    w = layer.quantize_weight(layer.weight).detach()
    y = layer.op(x, w)
    if law == "layer-fixed":
        own = within**2 * layer.input_sum(x.square())
        variance = peak(layer) ** 2 * (own + estimator.charge_variance(layer, x, within))
        return over_outputs(layer, variance).expand_as(y), torch.zeros_like(y)
    used = estimator.reads(layer, x)
    moving = used & (1 + e_between >= floor)  # a floored gain is constant
    v = over_outputs(layer, torch.where(moving, estimator.variance(layer, x, within), 0.0))
    gain = over_outputs(layer, torch.where(used, max(1 + e_between, floor), 1.0))
    variance = (within**2 * layer.op(x.square(), w.square()) + v * y.square()) / gain**2
    return variance, ((1 + e_between) / gain - 1) * y


def mismatch_error(layer: Crossbar, x: Tensor, variation: Variation, arrays: int, e_between: float = 0.0) -> Tensor:
    """What σ_A adds to the variance of every output of a layer that is corrected by the mean of the chip's `arrays`, at
    fixed e_B and input x (proportional: first order in e_A, above the floor).

    InputError for a law or a mapping without a formula."""
    _has_formula(variation.law)
    one_of("mapping with a formula", variation.mapping, ("single-ended", "differential"), "simulate another")
    w, blocks = layer.quantize_weight(layer.weight).detach(), row_blocks(layer.weight[0].numel(), variation.rows)
    if variation.law == "layer-fixed":
        parts, scale = [layer.input_sum(x, rows) for rows in blocks], peak(layer)
    else:
        parts, scale = [layer.part(x, w, rows) for rows in blocks], torch.tensor(1 / (1 + e_between))
    if variation.law == "layer-fixed" and variation.mapping == "differential":
        return torch.zeros_like(layer.op(x, w))
    each = torch.stack(parts)
    spread = each.square().sum(0) - each.sum(0).square() / arrays
    return over_outputs(layer, (variation.array * scale) ** 2 * spread).expand_as(layer.op(x, w))


def _has_formula(law: str, estimator=None) -> None:
    one_of("law with a formula", law, ("proportional", "layer-fixed"), "simulate another")
    if by_array(estimator):
        raise InputError(f"no formula for an estimate per array, got {estimator!r:.80}; use per='chip'")


@dataclass(frozen=True)
class SharedGain(Variation):
    """A variation whose every chip has the same e_B."""

    fixed: float = 0.0

    def shared(self, chip: Chip) -> float:
        return self.fixed


def shared_gain(e_between: float, within: float = 0.0, law: str = "proportional") -> SharedGain:
    """σ_W as given, and e_B = e_between on every chip."""
    return SharedGain(within, abs(e_between), law, fixed=e_between)


def simulated_errors(
    layer: Crossbar,
    x: Tensor,
    estimators: Sequence[Estimator],
    within: float,
    law: str,
    e_between: float = 0.0,
    floor: float = Gain.floor,
    chips: Sequence[int] = range(200),
) -> list[tuple[Tensor, Tensor]]:
    """The same of each estimator over the same simulated chips, which all have this e_B."""
    for estimator in estimators:
        _has_formula(law, estimator)
    variation = shared_gain(e_between, within, law)
    correction = Gain(floor) if law == "proportional" else CORRECTIONS[law]()
    w = layer.quantize_weight(layer.weight).detach()
    nominal, n = layer.op(x, w), len(chips)
    total, square = ([torch.zeros_like(nominal) for _ in estimators] for _ in range(2))
    for chip in (Chip.of("test", i) for i in chips):
        deviate = variation.deviate(chip, "layer", w)
        deviated = layer.op(x, w if deviate is None else deviate(w))
        for i, estimator in enumerate(estimators):
            error = correction.slot(estimator, layer, "layer", chip, variation)(deviated, x) - nominal
            total[i] += error
            square[i] += error.square()
    return [((q - t.square() / n) / (n - 1), t / n) for t, q in zip(total, square)]


def knee(layer: Crossbar, x: Tensor, law: str) -> float:
    """The n at which the error of n reference cells equals the layer's own, on average over inputs and outputs:
    mean(y²)/mean(Σw²x²), or mean(S²)/mean(‖x‖²)."""
    own, with_one = (
        predicted_error(layer, x, estimator, 1.0, law)[0].mean() for estimator in (Oracle(), ReferenceCells(1))
    )
    return float(with_one / own - 1)


def column_positions(
    net: nn.Module, batch: Tensor, columns: ReferenceColumns, variation: Variation, chip: Chip
) -> list[dict]:
    """For every layer of a chip tuned by columns (proportional law): positions (images × groups × places), how many
    were left uncorrected because K_eff < 1, and how many met the floor."""
    refuse_other_law(Gain(), variation)
    rows, layers = [], dict(crossbars(net))
    with evaluating(net), programmed(net, chip, variation, SelfTuning(columns)):
        for name, (x, _) in traffic(net, batch).items():
            reads = columns.reads(layers[name], x)
            low = 1 + columns.deviation(layers[name], name, chip, variation)(x) < Gain.floor
            counts = {"positions": reads.numel(), "uncorrected": int((~reads).sum()), "floored": int(low.sum())}
            rows.append({"layer": name} | counts)
    return rows
