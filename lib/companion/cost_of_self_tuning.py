"""Notebook 06: the error that n cells or m columns leave, what they cost, and when they are enough."""

from collections.abc import Mapping, Sequence

import numpy as np
import pandas as pd
from torch import Tensor, nn

from ..accounting import column_positions, cost, knee, predicted_error, simulated_errors
from ..analog import crossbars
from ..columns import ReferenceColumns
from ..controls import traffic
from ..data import Dataset
from ..estimators import Oracle, ReferenceCells
from ..selftuning import SelfTuning
from ..statistics import Claim
from ..variation import Chip, Variation
from .cases import COLUMNS, Case, benches, controls
from .claims import (
    alike,
    average,
    claimed,
    difference,
    exactly,
    groups,
    paired,
    per_chip,
    recovered,
    stated,
    summary,
    where,
)
from .profiles import Profile

READ_NOISES, READ_STEPS = (0.01, 0.03, 0.1), (0.05, 0.2, 0.5)  # of the reading, in units of e
BY = ["network", "law"]


def measurements(profile: Profile, seed: int = 0) -> list[Case]:
    """QAVAT tuned by n cells, by m columns, and by readings with noise or few levels."""
    found = []
    for bench in benches(profile, seed):
        v, n = bench.pattern(), dict(profile.cells)[bench.law]

        def case(estimator, **names) -> Case:
            return bench.sweep("QAVAT", v, estimator and SelfTuning(estimator), **names)  # noqa: B023  # used here

        found += [case(e, of="tuned") for e in (None, Oracle(), ReferenceCells(n))]
        found += [case(ReferenceCells(s), of="size", kind="cells", size=s) for s in profile.cell_counts]
        found += [case(ReferenceColumns(s), of="size", kind="columns", size=s) for s in profile.column_counts]
        for error, sizes in (("noise", READ_NOISES), ("step", READ_STEPS)):
            for size in sizes:
                deviation = size if error == "noise" else size / np.sqrt(12)
                option = {"read_noise" if error == "noise" else "step": size}
                names = {"of": "reading", "error": error, "size": size, "deviation": deviation}
                found.append(case(ReferenceCells(n, **option), **names))
    return found


def size_table(
    table: pd.DataFrame, nets: Mapping[tuple[str, str], nn.Module], batches: Mapping[str, Tensor]
) -> pd.DataFrame:
    """network, law, kind, size, cells, cell_share, operation_share, mean, below_oracle (paired points) and recovery.

    nets: (network, law) → the tuned network; batches: network → inputs for the cost."""

    def statistics(rows: pd.DataFrame) -> dict:
        network, law, kind, size = rows[[*BY, "kind", "size"]].iloc[0]
        estimator = ReferenceCells(int(size)) if kind == "cells" else ReferenceColumns(int(size))
        price = cost(SelfTuning(estimator), nets[network, law], batches[network], Variation(law=law))
        tuned = alike(table, rows, *BY, of="tuned")
        untuned, oracle = (per_chip(tuned, tuning=label) for label in ("none", "oracle"))
        values = per_chip(rows)
        return {
            "cells": price.cells,
            "cell_share": price.cell_share,
            "operation_share": price.operation_share,
            "mean": average(rows),
            "below_oracle": difference(oracle, values),
            "recovery": recovered(values, untuned, oracle),
        }

    return summary(where(table, of="size"), [*BY, "kind", "size"], statistics).astype({"size": int})


def smallest_table(sizes: pd.DataFrame) -> pd.DataFrame:
    """network, law, kind: the smallest size within one point of the oracle, by its estimate and its whole interval."""
    rows = []
    for names, group in groups(sizes, [*BY, "kind"]):
        for name, column in (("estimate", "below_oracle"), ("interval", "below_oracle_high")):
            good = group[group[column] <= 1]
            names |= {f"by_{name}": good["size"].min(), f"cells_{name}": good["cells"].min()}
        rows.append(names)
    return pd.DataFrame(rows)


def size_claims(table: pd.DataFrame, profile: Profile) -> list[Claim]:
    """The cells of the claims stay within one point of the oracle."""
    claims = []
    for law, n in profile.cells:
        ours, rows = ReferenceCells(n).label, where(table, of="tuned", law=law)
        about = f"what {ours} lose against the oracle"
        claims += claimed(rows, BY, about, lambda r: paired(r, "tuning", "oracle", ours), below=1)  # noqa: B023
    return claims


def reading_table(table: pd.DataFrame, profile: Profile) -> pd.DataFrame:
    """network, law, error ("noise" or "step"), size, deviation (the size itself, or step/√12), mean, lost (paired
    points against an exact reading)."""
    exact = {law: ReferenceCells(n).label for law, n in profile.cells}

    def statistics(rows: pd.DataFrame) -> dict:
        best = per_chip(alike(table, rows, *BY, of="tuned", tuning=exact[rows.law.iloc[0]]))
        return {"mean": average(rows), "lost": difference(best, per_chip(rows))}

    return summary(where(table, of="reading"), [*BY, "error", "size", "deviation"], statistics)


def reading_claims(readings: pd.DataFrame) -> list[Claim]:
    """A reading with an error of 0.03 is good enough: it costs less than a point."""
    return stated(where(readings, error="noise", size=0.03), "what a reading noise of 0.03 costs", "lost", below=1)


def price_table(
    profile: Profile, nets: Mapping[tuple[str, str], nn.Module], batches: Mapping[str, Tensor]
) -> pd.DataFrame:
    """network, law, tuning: cells, share of the array, images or probes per chip, digital operations per inference and
    their share.  batches: network → inputs."""
    rows = []
    for bench in benches(profile):
        at = bench.setting.network, bench.law
        for tuning in (bench.tuning, COLUMNS, *controls(bench)):
            price = vars(cost(tuning, nets[at], batches[at[0]], Variation(law=bench.law)))
            rows.append({"network": at[0], "law": at[1], "tuning": tuning.label, **price})
    return pd.DataFrame(rows)


def error_table(
    nets: Mapping[str, nn.Module],
    data: Dataset,
    within: float,
    sizes: Sequence[int],
    chips: int,
    e_between: float = 0.2,
    images: int = 8,
) -> pd.DataFrame:
    """network, layer, inputs, law, kind, size, cells, predicted, simulated: error variance of a corrected layer.

    Of each network's linear layer of most inputs, at fixed e_B, averaged over outputs and training images and divided
    by the layer's own part (what the oracle leaves)."""
    kinds, rows = (("cells", ReferenceCells, sizes), ("columns", ReferenceColumns, (1, 2, 4, 8))), []
    tried = [(kind, size, made(size)) for kind, made, counts in kinds for size in counts]
    for network, net in nets.items():
        seen = traffic(net, data.train.balanced(images).normalized())
        name, layer = max(crossbars(net), key=lambda item: item[1].weight[0].numel() * isinstance(item[1], nn.Linear))
        x, about = seen[name][0], {"network": network, "layer": name, "inputs": layer.weight[0].numel()}
        for law in ("proportional", "layer-fixed"):
            own = predicted_error(layer, x, Oracle(), within, law, e_between)[0].mean()
            estimators = [estimator for *_, estimator in tried]
            simulated = simulated_errors(layer, x, estimators, within, law, e_between, chips=range(chips))
            for (kind, size, estimator), (found, _) in zip(tried, simulated, strict=True):
                predicted = predicted_error(layer, x, estimator, within, law, e_between)[0].mean()
                cells = size if kind == "cells" else size * about["inputs"]
                row = about | {"law": law, "kind": kind, "size": size, "cells": cells}
                rows.append(row | {"predicted": float(predicted / own), "simulated": float(found.mean() / own)})
    return pd.DataFrame(rows)


def error_claims(errors: pd.DataFrame, point: str, chips: int) -> list[Claim]:
    """Formula and simulation agree within 15% at every size."""
    worst = exactly(100 * float((errors.simulated / errors.predicted - 1).abs().max()))
    statement = "largest distance of the simulated error variance from the formula"
    return [Claim(statement, f"{point}, {chips} chips", worst, below=15, unit="%", of="sweep")]


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


def position_table(
    nets: Mapping[tuple[str, str], nn.Module], profile: Profile, batches: Mapping[str, Tensor], columns: int
) -> pd.DataFrame:
    """network, positions, uncorrected (%), floored (%): dummy columns under the proportional law, on test chip 0.
    batches: network → inputs."""
    rows = []
    for bench in benches(profile):
        if bench.law != "proportional":
            continue
        net, network = nets[bench.setting.network, bench.law], bench.setting.network
        positions = column_positions(
            net, batches[network], ReferenceColumns(columns), bench.pattern(), Chip.of("test", 0)
        )
        found = pd.DataFrame(positions)
        share = 100 * found[["uncorrected", "floored"]].sum() / found.positions.sum()
        first = {"uncorrected in the first layer": 100 * found.uncorrected[0] / found.positions[0]}
        rows.append({"network": network, "positions": found.positions.sum(), **share, **first})
    return pd.DataFrame(rows)
