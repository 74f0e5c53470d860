"""Notebook 06: the error that n cells or m columns leave, what they cost, and when they are enough."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import numpy as np
import pandas as pd
from torch import Tensor, nn

from ..accounting import column_positions, cost, knee, predicted_error, simulated_errors
from ..analog import crossbars
from ..controls import traffic
from ..data import Dataset
from ..estimators import Oracle, ReferenceCells, ReferenceColumns
from ..selftuning import SelfTuning
from ..statistics import Claim, Estimate, bootstrap_mean, mean, paired_difference, recovery
from ..trials import Measurement
from ..variation import Chip, Variation
from . import cases
from .cases import chips_of, mixed, place
from .claims import columns, exactly
from .profiles import CLAIM_SHARE, Profile, Setting

READ_NOISES, READ_STEPS = (0.01, 0.03, 0.1), (0.05, 0.2, 0.5)  # of the reading, in units of e


def measurements(profile: Profile, seed: int = 0) -> list[Measurement]:
    """Notebook 06: QAVAT tuned by n cells, by m columns, and by readings with noise or few levels."""
    wanted = []
    for setting in profile.settings:
        sweep = cases.sweep(profile, setting)
        for law, _ in profile.shares:
            net, mixed = cases.networks(setting, law, seed)["QAVAT"], Variation.split(setting.sigma[law], CLAIM_SHARE, law)
            n = dict(profile.cells)[law]
            estimators = [Oracle(), *map(ReferenceCells, sorted({n, *profile.cell_counts})), *map(ReferenceColumns, profile.column_counts)]
            estimators += [ReferenceCells(n, read_noise=r) for r in READ_NOISES] + [ReferenceCells(n, step=s) for s in READ_STEPS]
            wanted += [sweep(net, mixed), *(sweep(net, mixed, SelfTuning(e)) for e in estimators)]
    return wanted


def size_table(results, profile: Profile, nets: Mapping[tuple[str, str], nn.Module], batches: Mapping[str, Tensor]) -> pd.DataFrame:
    """network, law, kind, size, cells, cell_share, operation_share, mean, below_oracle (paired points) and recovery.

    nets: (network, law) → the tuned network; batches: network → inputs for the cost."""
    rows = []
    for setting in profile.settings:
        for law, _ in profile.shares:
            v = mixed(setting, law)
            untuned, oracle = (chips_of(results, setting, "QAVAT", v, label, sweep=True) for label in ("none", "oracle"))
            for kind, made, sizes in (("cells", ReferenceCells, profile.cell_counts), ("columns", ReferenceColumns, profile.column_counts)):
                for size in sizes:
                    tuning = SelfTuning(made(size))
                    values = chips_of(results, setting, "QAVAT", v, tuning.label, sweep=True)
                    price = cost(tuning, nets[setting.network, law], batches[setting.network], law)
                    row = {"network": setting.network, "law": law, "kind": kind, "size": size, "cells": price.cells}
                    row |= {"cell_share": price.cell_share, "operation_share": price.operation_share, **columns("mean", bootstrap_mean(values))}
                    row |= columns("below_oracle", paired_difference(oracle, values)) | columns("recovery", recovery(values, untuned, oracle))
                    rows.append(row | {"n_chips": len(values)})
    return pd.DataFrame(rows)


def smallest_table(sizes: pd.DataFrame) -> pd.DataFrame:
    """network, law, kind: the smallest size within one point of the oracle, by its estimate and by its whole interval."""
    rows = []
    for (network, law, kind), group in sizes.groupby(["network", "law", "kind"], sort=False):
        found = {"network": network, "law": law, "kind": kind}
        for name, column in (("estimate", "below_oracle"), ("interval", "below_oracle_high")):
            good = group[group[column] <= 1]
            found |= {f"by_{name}": good["size"].min() if len(good) else np.nan, f"cells_{name}": good["cells"].min() if len(good) else np.nan}
        rows.append(found)
    return pd.DataFrame(rows)


def size_claims(results, profile: Profile) -> list[Claim]:
    """The cells of the claims stay within one point of the oracle."""
    claims = []
    for setting in profile.settings:
        for law, _ in profile.shares:
            v, label = mixed(setting, law), cases.tuning(profile, law).label
            tuned, oracle = (chips_of(results, setting, "QAVAT", v, t, sweep=True) for t in (label, "oracle"))
            claims.append(Claim(f"{label} are within one point of the oracle (points to spare)", place(setting, "QAVAT", v), mean(1 - (oracle - tuned))))
    return claims


def reading_table(results, profile: Profile) -> pd.DataFrame:
    """network, law, error ("noise" or "step"), size, deviation (the size itself, or step/√12), mean, lost (paired points
    against an exact reading)."""
    rows = []
    for setting in profile.settings:
        for law, _ in profile.shares:
            v, n = mixed(setting, law), dict(profile.cells)[law]
            exact = chips_of(results, setting, "QAVAT", v, ReferenceCells(n).label, sweep=True)
            tried = [("noise", r, ReferenceCells(n, read_noise=r)) for r in READ_NOISES]
            tried += [("step", s, ReferenceCells(n, step=s)) for s in READ_STEPS]
            for error, size, estimator in tried:
                values = chips_of(results, setting, "QAVAT", v, estimator.label, sweep=True)
                rows.append(
                    {"network": setting.network, "law": law, "error": error, "size": size,
                     "deviation": size / (1 if error == "noise" else np.sqrt(12)), **columns("mean", bootstrap_mean(values)),
                     **columns("lost", paired_difference(exact, values)), "n_chips": len(values)}
                )  # fmt: skip
    return pd.DataFrame(rows)


def reading_claims(readings: pd.DataFrame, profile: Profile) -> list[Claim]:
    """A reading with an error of 0.03 is good enough: it costs less than a point."""
    claims = []
    for r in readings[(readings.error == "noise") & np.isclose(readings["size"], 0.03)].itertuples():
        setting = next(s for s in profile.settings if s.network == r.network)
        e = Estimate(1 - r.lost, 1 - r.lost_high, 1 - r.lost_low, r.n_chips)
        claims.append(Claim("a reading noise of 0.03 costs less than 1 point (points to spare)", place(setting, "QAVAT", mixed(setting, r.law)), e))
    return claims


def price_table(setting: Setting, profile: Profile, net: nn.Module, batch: Tensor, law: str) -> pd.DataFrame:
    """tuning: cells, share of the array, images or probes a chip, digital operations an inference and their share."""
    rows = []
    for tuning in cases.controls(profile, setting, "QAVAT", mixed(setting, law))[2:]:
        rows.append({"network": setting.network, "law": law, "tuning": tuning.label, **vars(cost(tuning, net, batch, law))})
    return pd.DataFrame(rows)


def error_table(
    nets: Mapping[str, nn.Module], data: Dataset, within: float, sizes: Sequence[int], chips: int, e_between: float = 0.2, images: int = 8
) -> pd.DataFrame:
    """network, layer, inputs, law, kind, size, cells, predicted, simulated: error variance of each network's linear layer
    of most inputs, corrected, at fixed e_B, averaged over outputs and training images and divided by the layer's own part
    (what the oracle leaves)."""
    kinds, rows = (("cells", ReferenceCells, sizes), ("columns", ReferenceColumns, (1, 2, 4, 8))), []
    tried = [(kind, size, made(size)) for kind, made, counts in kinds for size in counts]
    for network, net in nets.items():
        seen = traffic(net, data.train.balanced(images).normalized())
        name, layer = max(crossbars(net), key=lambda item: item[1].weight[0].numel() * isinstance(item[1], nn.Linear))
        x, about = seen[name][0], {"network": network, "layer": name, "inputs": layer.weight[0].numel()}
        for law in ("proportional", "layer-fixed"):
            own = predicted_error(layer, x, Oracle(), within, law, e_between)[0].mean()
            simulated = simulated_errors(layer, x, [estimator for *_, estimator in tried], within, law, e_between, chips=range(chips))
            for (kind, size, estimator), (found, _) in zip(tried, simulated):
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
    rows, tried = [], (("gain_knee", "proportional", proportional), ("K_eff", "layer-fixed", layer_fixed))
    seen = {law: traffic(net, batch) for _, law, net in tried}
    for name, layer in crossbars(proportional):
        row = {"layer": name, "cells": layer.weight.numel(), "fan_in": layer.weight[0].numel()}
        row |= {column: knee(dict(crossbars(net))[name], seen[law][name][0], law) for column, law, net in tried}
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
