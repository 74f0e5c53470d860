"""Notebook 04: what the mixed pattern costs, to whom, and where.

A *sweep* gives every chip a slice of the images (means only); a *full* measurement gives it all of them.
"""

from __future__ import annotations

import copy
from collections.abc import Mapping, Sequence
from dataclasses import replace

import numpy as np
import pandas as pd
from torch import nn

from ..accounting import knee, shared_deviations, shared_gain
from ..analog import channels_last, crossbars, evaluating, programmed
from ..controls import traffic
from ..conversion import to_analog
from ..data import Dataset
from ..experiments.timing import shape
from ..networks import build
from ..statistics import Claim, Estimate, bootstrap_mean, chip_yield, difference_of_means, paired_difference, quantile
from ..trials import Measurement
from ..variation import Chip, Variation
from . import cases
from .cases import NETS, chips_of, float_accuracy, mixed, place
from .claims import YIELD_MARGIN, columns, exactly, scaled
from .profiles import CLAIM_SHARE, Profile, Setting


def measurements(profile: Profile, seed: int = 0) -> list[Measurement]:
    """Notebook 04: the three networks against the between share; on whole test sets where quantile and yield are asked
    for; attribution of the loss, as a whole and one part of the network at a time."""
    wanted = []
    for setting in profile.settings:
        full, sweep = cases.full(profile, setting), cases.sweep(profile, setting)
        wanted.append(cases.measured(profile, setting, cases.trial(setting, "float", seed=seed), 0.0))
        for law, shares in profile.shares:
            sigma, nets = setting.sigma[law], cases.networks(setting, law, seed)
            mixed = Variation.split(sigma, CLAIM_SHARE, law)
            parts = [Variation(), Variation(mixed.within, law=law), Variation(between=mixed.between, law=law), mixed]
            for name, net in nets.items():
                wanted.append(cases.measured(profile, setting, net, 0.0))
                wanted += [sweep(net, Variation.split(sigma, share, law)) for share in shares]
                wanted.append(full(net, mixed))
                if name != "QAVAT mixed":
                    wanted.append(full(net, Variation(sigma, law=law)))
                    wanted += [sweep(net, v) for v in parts]
            for layers in parts_of(setting).values():
                wanted += [sweep(nets["QAVAT"], replace(v, layers=layers)) for v in parts[1:3]]
        stressed = cases.networks(setting, "proportional", seed, profile.claim_sigma)
        wanted += [sweep(stressed[m], Variation.split(profile.claim_sigma, share)) for m in ("QAT", "QAVAT") for share in (0.0, CLAIM_SHARE)]
    return wanted


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


def share_table(results, profile: Profile) -> pd.DataFrame:
    """network, law, net, share, mean with bootstrap interval, n_chips; from the sweep."""
    rows = []
    for setting in profile.settings:
        for law, shares in profile.shares:
            for net in NETS:
                for share in shares:
                    found = bootstrap_mean(chips_of(results, setting, net, mixed(setting, law, share), sweep=True))
                    rows.append({"network": setting.network, "law": law, "net": net, "share": share, **columns("mean", found), "n_chips": found.n})
    return pd.DataFrame(rows)


def mixed_claims(results, profile: Profile) -> list[Claim]:
    """The mixed pattern costs more than the within-only one at the same σ; expected for the proportional law."""
    claims = []
    for setting in profile.settings:
        for law, _ in profile.shares:
            for net in ("QAT", "QAVAT"):
                within, both = (chips_of(results, setting, net, mixed(setting, law, share)) for share in (0.0, CLAIM_SHARE))
                expected = profile.claims_expected and law == "proportional"
                point = place(setting, net, mixed(setting, law))
                statement = "the mixed pattern costs more than within-only at the same σ (points)"
                claims.append(Claim(statement, point, paired_difference(within, both), expected=expected))
    return claims


def training_claims(results, profile: Profile) -> list[Claim]:
    """Training on the mixed pattern helps under the mixed pattern; and whether it brings the loss below 10 points."""
    claims = []
    for setting in profile.settings:
        for law, _ in profile.shares:
            v = mixed(setting, law)
            within, both = (chips_of(results, setting, net, v) for net in ("QAVAT", "QAVAT mixed"))
            point = place(setting, "QAVAT", v)
            claims.append(Claim("training on the mixed pattern beats training on the within part (points)", point, paired_difference(both, within)))
            ideal = chips_of(results, setting, "QAT", Variation(law=law))[0]
            best = max((within, both), key=np.mean)
            lost = bootstrap_mean(ideal - best)
            claims.append(Claim("training alone loses more than 10 points against QAT on an ideal chip (points)", point, lost, 10.0))
    return claims


def stress_table(results, profile: Profile) -> pd.DataFrame:
    """network, net, share, mean: the proportional law at the claim's σ of notebook 03, networks trained there."""
    rows, sigma = [], profile.claim_sigma
    for setting in profile.settings:
        for net in ("QAT", "QAVAT"):
            for share in (0.0, CLAIM_SHARE):
                values = chips_of(results, setting, net, Variation.split(sigma, share), sweep=True, trained=sigma)
                rows.append({"network": setting.network, "net": net, "sigma": sigma, "share": share, **columns("mean", bootstrap_mean(values)), "n_chips": len(values)})
    return pd.DataFrame(rows)


def distribution_table(results, profile: Profile) -> pd.DataFrame:
    """network, law, net, share, chip, e_between, accuracy: every chip of the full measurements."""
    frames = []
    for setting in profile.settings:
        for law, _ in profile.shares:
            for net in NETS:
                for share in (0.0, CLAIM_SHARE):
                    values = chips_of(results, setting, net, mixed(setting, law, share))
                    e = shared_deviations(mixed(setting, law, share), range(len(values)))
                    frames.append(pd.DataFrame({"network": setting.network, "law": law, "net": net, "share": share, "chip": range(len(values)), "e_between": e, "accuracy": values}))
    return pd.concat(frames, ignore_index=True)


def tail_claims(results, profile: Profile) -> list[Claim]:
    """The mixed pattern's 5% quantile lies below: the intervals of the two quantiles do not meet."""
    claims = []
    for setting in profile.settings:
        for law, _ in profile.shares:
            within, both = (quantile(chips_of(results, setting, "QAVAT", mixed(setting, law, share))) for share in (0.0, CLAIM_SHARE))
            gap = Estimate(within.value - both.value, within.low - both.high, within.high - both.low, both.n)
            claims.append(Claim("the mixed pattern lowers the 5 % quantile (points)", place(setting, "QAVAT", mixed(setting, law)), gap))
    return claims


def asymmetry_claims(chips: pd.DataFrame, profile: Profile) -> list[Claim]:
    """Chips with a positive e_B against chips with a negative one."""
    claims = []
    for setting in profile.settings:
        for law, _ in profile.shares:
            for net in ("QAT", "QAVAT"):
                rows = chips[(chips.network == setting.network) & (chips.law == law) & (chips.net == net) & (chips.share > 0)]
                gap = difference_of_means(rows.accuracy[rows.e_between > 0], rows.accuracy[rows.e_between < 0])
                statement = "chips with e_B > 0 are more accurate than those with e_B < 0 (points)"
                claims.append(Claim(statement, place(setting, net, mixed(setting, law), "unpaired"), gap))
    return claims


def yield_table(results, profile: Profile) -> pd.DataFrame:
    """network, law, net, share, yield (%) with Wilson interval, q05 with its interval, n_chips."""
    rows = []
    for setting in profile.settings:
        threshold = float_accuracy(results, setting) - YIELD_MARGIN
        for law, _ in profile.shares:
            for net in NETS:
                for share in (0.0, CLAIM_SHARE):
                    values = chips_of(results, setting, net, mixed(setting, law, share))
                    if len(values):
                        found = scaled(chip_yield(values, threshold), 100)
                        rows.append(
                            {"network": setting.network, "law": law, "net": net, "share": share, **columns("yield", found),
                             **columns("q05", quantile(values)), "n_chips": found.n}
                        )  # fmt: skip
    return pd.DataFrame(rows)


def yield_claims(yields: pd.DataFrame, profile: Profile) -> list[Claim]:
    """Under the mixed pattern some network yields more than half good chips."""
    claims = []
    for setting in profile.settings:
        for law, _ in profile.shares:
            rows = yields[(yields.network == setting.network) & (yields.law == law) & (yields.share > 0)]
            best = rows.loc[rows["yield"].idxmax()]
            share = Estimate(best["yield"], best.yield_low, best.yield_high, int(best.n_chips))
            claims.append(Claim("the best of the three yields more than 50 % good chips (%)", place(setting, best.net, mixed(setting, law)), share, 50.0))
    return claims


def attribution(results, profile: Profile) -> pd.DataFrame:
    """network, law, net, cause, loss (points, with interval): quantization = float − ideal chip; within and between
    alone; interaction = the mixed loss beyond their sum.  The same unit normals in all."""
    rows = []
    for setting in profile.settings:
        whole = float_accuracy(results, setting)
        for law, _ in profile.shares:
            v = mixed(setting, law)
            tried = [Variation(law=law), Variation(v.within, law=law), Variation(between=v.between, law=law), v]
            for net in ("QAT", "QAVAT"):
                ideal, within, between, both = (chips_of(results, setting, net, case, sweep=True) for case in tried)
                causes = {
                    "quantization": exactly(whole - chips_of(results, setting, net, tried[0])[0]),
                    "within": bootstrap_mean(ideal - within),
                    "between": bootstrap_mean(ideal - between),
                    "interaction": bootstrap_mean(within + between - ideal - both),
                }
                rows += [
                    {"network": setting.network, "law": law, "net": net, "cause": cause, **columns("loss", e), "n_chips": len(both)}
                    for cause, e in causes.items()
                ]
    return pd.DataFrame(rows)


def attribution_by_part(results, profile: Profile) -> pd.DataFrame:
    """network, law, part, component, loss: QAVAT with variation in one layer (or residual block) at a time."""
    rows = []
    for setting in profile.settings:
        for law, _ in profile.shares:
            v = mixed(setting, law)
            ideal = chips_of(results, setting, "QAVAT", Variation(law=law), sweep=True)
            for part, layers in parts_of(setting).items():
                for component, alone in (("within", (v.within, 0.0)), ("between", (0.0, v.between))):
                    values = chips_of(results, setting, "QAVAT", Variation(*alone, law, layers=layers), sweep=True)
                    found = bootstrap_mean(ideal - values)
                    rows.append({"network": setting.network, "law": law, "part": part, "component": component, **columns("loss", found), "n_chips": found.n})
    return pd.DataFrame(rows)


def attribution_claims(causes: pd.DataFrame, profile: Profile) -> list[Claim]:
    """Between-chip variation alone costs something; and within and between do not simply add."""
    claims = []
    for r in causes[causes.cause.isin(["between", "interaction"])].itertuples():
        setting = next(s for s in profile.settings if s.network == r.network)
        e = Estimate(r.loss, r.loss_low, r.loss_high, r.n_chips)
        what = "between-chip variation alone costs accuracy" if r.cause == "between" else "both together cost more than the sum of each alone"
        claims.append(Claim(f"{what} (points)", place(setting, r.net, mixed(setting, r.law)), e))
    return claims


def part_claims(parts: pd.DataFrame, profile: Profile) -> list[Claim]:
    """The part that loses most, component by component."""
    claims = []
    for (network, law, component), rows in parts.groupby(["network", "law", "component"], sort=False):
        worst = rows.loc[rows.loss.idxmax()]
        setting = next(s for s in profile.settings if s.network == network)
        e = Estimate(worst.loss, worst.loss_low, worst.loss_high, int(worst.n_chips))
        claims.append(Claim(f"the {component} part in {worst.part} alone, the worst found, costs accuracy (points)", place(setting, "QAVAT", mixed(setting, law)), e))
    return claims


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
