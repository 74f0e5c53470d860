"""Notebook 04: what the mixed pattern costs, to whom, and where.

Means come from slices of the whole test set, one per chip; quantile and yield from images that all chips share.
"""

import copy
from collections.abc import Mapping, Sequence
from dataclasses import replace

import numpy as np
import pandas as pd
from scipy.stats import norm
from torch import nn

from ..accounting import knee, shared_gain
from ..analog import channels_last, crossbars, evaluating, programmed
from ..controls import traffic
from ..conversion import to_analog
from ..data import Dataset
from ..experiments.timing import shape
from ..networks import build
from ..statistics import Claim, Estimate, difference_of_means
from ..torch_internals import BatchNorm
from ..variation import NO_VARIATION, Chip
from .cases import NETS, Case, benches, operating_point
from .claims import (
    ALLOWED_LOSS,
    alike,
    apart,
    average,
    below_ideal,
    best_of,
    claimed,
    columns,
    estimate,
    exactly,
    good_chips,
    groups,
    loss,
    mean_of,
    paired,
    per_chip,
    stated,
    summary,
    tail,
    where,
)
from .profiles import CLAIM_SHARE, Profile, Setting

PROBED = NETS[:2]  # of which the loss is taken apart
DRAWN = (("QAVAT", 0.0), ("QAVAT", CLAIM_SHARE), ("QAVAT mixed", CLAIM_SHARE))  # chip by chip: network and share
BY = ["network", "law", "net"]


def measurements(profile: Profile, seed: int = 0) -> list[Case]:
    """The three networks against the between share; their loss at the mixed point; every chip where quantile and yield
    are asked for; attribution of the loss, as a whole and one part of the network at a time."""
    found = []
    for bench in benches(profile, seed):
        found += [bench.ideal(net) for net in ("float", *NETS)]
        found.append(bench.fixed("float", NO_VARIATION, of="whole"))
        for net in NETS:
            found += [bench.sweep(net, bench.pattern(share), of="share", share=share) for share in bench.shares]
            found += [bench.claimed(net, bench.pattern(share), of="claim", share=share) for share in (0.0, CLAIM_SHARE)]
        for net, share in DRAWN:
            found.append(bench.fixed(net, bench.pattern(share), of="chips", share=share))
        for net in PROBED:
            found += [bench.sweep(net, v, of="cause", cause=cause) for cause, v in bench.parts.items()]
        point = operating_point(bench.setting, "QAVAT", bench.pattern())
        for part, layers in parts_of(bench.setting).items():
            for component in ("within", "between"):
                v = replace(bench.parts[component], layers=layers)
                names = {"part": part, "component": component, "point": point}
                found.append(bench.sweep("QAVAT", v, of="part", **names))
    return found


def parts_of(setting: Setting) -> dict[str, tuple[str, ...]]:
    """Part ("conv 1", "block 3", …) → names of its crossbars: every layer, or residual block, in forward order."""
    of = shape(setting.dataset)
    net = to_analog(build(setting.network, of.channels, of.classes, of.size, 1 / 64))
    kinds = {"AnalogConv2d": "conv", "AnalogLinear": "fc", "BasicBlock": "block"}
    parts: dict[str, tuple[str, ...]] = {}
    for name, child in net.named_children():
        layers = tuple(f"{name}.{inner}" if inner else name for inner, _ in crossbars(child))
        if layers:
            kind = kinds[type(child).__name__]
            parts[f"{kind} {1 + sum(part.startswith(kind) for part in parts)}"] = layers
    return parts


def share_table(table: pd.DataFrame) -> pd.DataFrame:
    """network, law, net, share, mean with its interval, n_chips; from the sweep."""
    return summary(where(table, of="share"), [*BY, "share"], lambda rows: {"mean": average(rows)})


def mixed_claims(table: pd.DataFrame, profile: Profile) -> list[Claim]:
    """The mixed pattern costs more than the within-only one at the same σ; expected for the proportional law."""
    return claimed(
        where(table, of="claim", net=PROBED),
        BY,
        "what the mixed pattern costs beyond within-only at the same σ",
        lambda rows: paired(rows, "share", 0.0, CLAIM_SHARE),
        above=0,
        expected=lambda names: profile.claims_expected and names["law"] == "proportional",
    )


def training_claims(table: pd.DataFrame) -> list[Claim]:
    """Training on the mixed pattern helps under it; and does the best training alone leave a loss above 10 points?"""
    mixed = where(table, of="claim", share=CLAIM_SHARE)
    statement = "gain of training on the mixed pattern over training on the within part"
    pairs = where(mixed, net=NETS[1:])
    claims = claimed(pairs, BY[:2], statement, lambda rows: paired(rows, "net", "QAVAT mixed", "QAVAT"), above=0)
    ideal = where(table, of="ideal")
    for _, rows in groups(mixed, BY[:2]):
        better = where(rows, net=best_of(rows))
        claims += claimed(better, BY, "loss of the best training alone", lambda r: loss(ideal, r), above=ALLOWED_LOSS)
    return claims


def distribution_table(table: pd.DataFrame, profile: Profile) -> pd.DataFrame:
    """network, law, net, share, chip, e_between, accuracy, point: every chip, all on the same images."""
    at = {(b.setting.network, b.law): b for b in benches(profile)}
    frames = [
        rows.assign(e_between=at[n["network"], n["law"]].pattern(n["share"]).between * norm.ppf(rows.place))
        for n, rows in groups(where(table, of="chips"), [*BY, "share", "seed"])
    ]
    return pd.concat(frames, ignore_index=True)[
        [*BY, "share", "seed", "chip", "place", "e_between", "accuracy", "point"]
    ]


def tail_claims(table: pd.DataFrame) -> list[Claim]:
    """The mixed pattern's 5% quantile lies below: the intervals of the two quantiles do not meet."""

    def gap(rows: pd.DataFrame) -> Estimate:
        within, both = (tail(where(rows, share=share)) for share in (0.0, CLAIM_SHARE))
        return replace(apart(within, both), n=both.n)

    statement = "what the mixed pattern costs in the 5 % quantile"
    return claimed(where(table, of="chips", net="QAVAT"), BY[:2], statement, gap, above=0)


def asymmetry_claims(chips: pd.DataFrame) -> list[Claim]:
    """Chips with a positive e_B against chips with a negative one; the interval is that of independent chips, wider."""

    def gap(rows: pd.DataFrame) -> Estimate:
        return difference_of_means(rows.accuracy[rows.e_between > 0], rows.accuracy[rows.e_between < 0])

    statement = "lead of chips with e_B > 0 over those with e_B < 0"
    mixed = where(chips, share=CLAIM_SHARE)
    return claimed(mixed.assign(point=mixed.point.str.replace("same chips", "unpaired")), BY, statement, gap, above=0)


def yield_table(table: pd.DataFrame) -> pd.DataFrame:
    """network, law, net, share, yield (%) and 5% quantile (%), each with its interval, n_chips."""

    def statistics(rows: pd.DataFrame) -> dict:
        whole = alike(table, rows, *BY[:2], of="whole").accuracy.item()
        return {"yield": good_chips(rows, whole), "q05": tail(rows)}

    return summary(where(table, of="chips"), [*BY, "share"], statistics)


def yield_claims(yields: pd.DataFrame) -> list[Claim]:
    """Under the mixed pattern one of the two trainings yields more than half good chips."""
    mixed = where(yields, share=CLAIM_SHARE)
    best = mixed.loc[mixed.groupby(BY[:2], sort=False)["yield"].idxmax()]
    return stated(best, "good chips with the better training", "yield", above=50, unit="%")


def attribution(table: pd.DataFrame) -> pd.DataFrame:
    """network, law, net, cause, distance (points, with interval): quantization = float − ideal chip; within and between
    alone; interaction = the mixed distance beyond their sum.  The same unit normals in all."""

    ideal = where(table, of="ideal")

    def causes(rows: pd.DataFrame) -> dict:
        net = rows.net.iloc[0]
        within, between, both = (per_chip(rows, cause=cause) for cause in ("within", "between", "both"))
        whole, own = (per_chip(alike(ideal, rows, *BY[:2], net=n)) for n in ("float", net))
        return {
            "quantization": mean_of((1, whole), (-1, own)),
            "within": below_ideal(ideal, where(rows, cause="within"), net),
            "between": below_ideal(ideal, where(rows, cause="between"), net),
            "interaction": mean_of((1, within), (1, between), (-1, own.loc[both.index]), (-1, both)),
        }

    found = []
    for _, row in summary(where(table, of="cause"), BY, causes).iterrows():
        for cause, each in row.each.items():
            names = {name: row[name] for name in BY} | {"cause": cause} | columns("distance", estimate(row, cause))
            found.append(
                names | {"n_chips": row.n_chips, "seeds": row.seeds, "point": row.point, "each": {"distance": each}}
            )
    return pd.DataFrame(found)


def attribution_by_part(table: pd.DataFrame) -> pd.DataFrame:
    """network, law, part, component, distance: QAVAT with variation in one layer (or residual block) at a time."""

    by, ideal = ["network", "law", "part", "component"], where(table, of="ideal")
    return summary(where(table, of="part"), by, lambda rows: {"distance": below_ideal(ideal, rows, "QAVAT")})


def attribution_claims(causes: pd.DataFrame) -> list[Claim]:
    """Between-chip variation alone costs something; and within and between do not simply add."""
    statements = {
        "between": "what between-chip variation alone costs",
        "interaction": "what both together cost beyond the sum of each alone",
    }
    return stated(causes.assign(text=causes.cause.map(statements)).dropna(subset="text"), "{text}", "distance", above=0)


def part_claims(parts: pd.DataFrame) -> list[Claim]:
    """The part that loses most, component by component."""
    worst = parts.loc[parts.groupby(["network", "law", "component"], sort=False).distance.idxmax()]
    return stated(worst, "what the {component} part costs in {part} alone, the worst found", "distance", above=0)


def break_even(nets: Mapping[str, nn.Module], data: Dataset, images: int = 64) -> pd.DataFrame:
    """network, layer, fan_in, K_eff (ratio of the means of S² and ‖x‖² over training images), rho = 1/(1 + K_eff).

    At this between share the shared part of the layer-fixed law moves an output as much as the cells' own part."""
    rows, batch = [], data.train.balanced(images).normalized()
    for network, net in nets.items():
        layers = dict(crossbars(net))
        for name, (x, _) in traffic(net, batch).items():
            k, fan_in = knee(layers[name], x, "layer-fixed"), layers[name].weight[0].numel()
            rows.append({"network": network, "layer": name, "fan_in": fan_in, "K_eff": k, "rho": 1 / (1 + k)})
    return pd.DataFrame(rows)


def batch_norm_table(
    nets: Mapping[str, nn.Module], data: Dataset, shared: Sequence[float], images: int = 200
) -> pd.DataFrame:
    """network, e_between, statistics, accuracy (%), change: what a shared proportional gain does to a network.

    Its batch norm uses the batch's own statistics (as in training) or its running ones (as in evaluation), on one batch
    of test images; change is the rms change of the logits over their rms."""
    batch, rows = data.test.balanced(images), []
    x = channels_last(batch.normalized())
    for network, net in nets.items():
        net = copy.deepcopy(net)
        with evaluating(net):
            # running ones first: statistics of the batch move them
            for statistics in ("running (evaluation)", "of the batch (training)"):
                for module in net.modules():
                    if isinstance(module, BatchNorm):
                        module.train(statistics.startswith("of"))
                nominal = net(x)
                for e in shared:
                    with programmed(net, Chip(0), shared_gain(e)):
                        logits = net(x)
                    right = float((logits.argmax(1) == batch.labels).float().mean() * 100)
                    change = float((logits - nominal).square().mean().sqrt() / nominal.square().mean().sqrt())
                    row = {"network": network, "e_between": e, "statistics": statistics}
                    rows.append(row | {"accuracy": right, "change": change})
    return pd.DataFrame(rows)


def batch_norm_claims(gains: pd.DataFrame, point: str) -> list[Claim]:
    """At e_B = −0.5, statistics of the batch lose less than running ones."""
    at = gains[np.isclose(gains.e_between, -0.5)].set_index("statistics").accuracy
    lost = exactly(at["of the batch (training)"] - at["running (evaluation)"])
    statement = "what running statistics lose beyond those of the batch at e_B = −0.5"
    return [Claim(statement, point, lost, above=0, of="sweep")]
