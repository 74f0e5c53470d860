"""No public function changes what it is given: tensors, networks, images, cells, states."""

import copy

import numpy as np
import pytest
import torch
from torch import nn

import lib
from lib import (
    Chip,
    Converter,
    Images,
    NoisyBatchNorm,
    Oracle,
    OutputGain,
    PerChipBatchNorm,
    Recipe,
    ReferenceCells,
    ReferenceColumns,
    SelfTuning,
    StaticFold,
    Variation,
    accounting,
    accuracy,
    analog,
    columns,
    controls,
    conversion,
    converting,
    data,
    evaluate,
    evaluate_mean,
    fit,
    fit_cells,
    fitting,
    laws,
    load_analog,
    post_training_quantize,
    programmed,
    quantizers,
    reestimate_batch_norm,
    report,
    save_analog,
    statistics,
    to_analog,
)
from lib.analog import evaluating
from lib.cells import Cells
from lib.folding import folded, plan

X = torch.randn(6, 4, 9, 9, generator=torch.Generator().manual_seed(0))
W = torch.randn(5, 4, 3, 3, generator=torch.Generator().manual_seed(1))
Z = torch.randn(1000, generator=torch.Generator().manual_seed(2))
PIXELS = (torch.rand(48, 4, 9, 9, generator=torch.Generator().manual_seed(3)) * 255).to(torch.uint8)
IMAGES = Images(PIXELS, torch.arange(48) % 3, (0.5,) * 4, (0.3,) * 4)
MIXED, FIXED = Variation(0.2, 0.2), Variation(0.2, 0.2, "layer-fixed")
TARGETS = np.tile([0.0, 1, -1, 2, -2, 1, 2, 1], 3)
CELLS = Cells(np.repeat(["a", "b", "c"], 8), TARGETS, TARGETS + 0.1 * np.sin(np.arange(24)))
TUNINGS = [
    SelfTuning(Oracle()),
    SelfTuning(ReferenceCells(4)),
    SelfTuning(ReferenceColumns(2)),
    OutputGain(8),
    PerChipBatchNorm(32, 16),
    NoisyBatchNorm(MIXED, 2),
    StaticFold(ReferenceCells(4), 8),
]


def network(bits="A4W4"):
    torch.manual_seed(0)
    convolution = nn.Conv2d(4, 5, 3), nn.BatchNorm2d(5), nn.ReLU(), nn.MaxPool2d(2)
    net = nn.Sequential(*convolution, nn.Flatten(), nn.Linear(45, 3))
    return (net if bits == "float" else to_analog(net, bits, IMAGES.normalized())).train()


def snapshot(thing):
    """Everything a caller could notice: values, versions in memory, modes, hooks, attributes."""
    if isinstance(thing, nn.Module):
        state = {name: value.clone() for name, value in thing.state_dict().items()}
        return [state, [about(m) for m in thing.modules()]]
    if isinstance(thing, Images):
        return [thing.pixels.clone(), thing.labels.clone()]
    if isinstance(thing, Cells):
        return [np.copy(v) for v in vars(thing).values()]
    if isinstance(thing, dict):
        return {k: snapshot(v) for k, v in thing.items()}
    return copy.deepcopy(thing)


def enter(context):
    with context:
        pass


SLOTS = ("deviate", "read", "correct", "rows")


def about(m):
    """Of one module: type, mode, hooks, which parameters take gradients, attributes."""
    hooks = len(m._forward_hooks), len(m._forward_pre_hooks)
    gradients = [p.requires_grad for p in m.parameters(recurse=False)]
    names = sorted(k for k in vars(m) if not k.startswith("_") and k not in SLOTS)
    values = [getattr(m, k, None) for k in ("momentum", *SLOTS)]
    return type(m), m.training, hooks, gradients, names, values


def same(a, b) -> bool:
    if isinstance(a, torch.Tensor):
        return torch.equal(a, b)
    if isinstance(a, np.ndarray):
        return np.array_equal(a, b)
    if isinstance(a, dict):
        return a.keys() == b.keys() and all(same(a[k], b[k]) for k in a)
    if isinstance(a, (list, tuple)):
        return len(a) == len(b) and all(map(same, a, b))
    return a == b


def program(net, tuner=None, v=MIXED):
    with evaluating(net), programmed(net, Chip(1), v, tuner):
        net(X)


def of_law(tuning):
    """A variation that this tuning corrects."""
    return FIXED if isinstance(tuning, StaticFold) else MIXED


def program_tuned(tuning):
    return lambda net, images: program(net, tuning.bind(net, images), of_law(tuning))


def evaluate_tuned(tuning):
    return lambda net, images: evaluate(net, images, of_law(tuning), 2, tuning=tuning.bind(net, images))


def quantize_trained(quantizers):
    options = {"draws": 2, "batch_size": 16, "quantizers": quantizers}
    return lambda net, images: post_training_quantize(net, "A4W4", images, MIXED, **options)


ONE_EPOCH, TWO_EPOCHS = (Recipe(epochs=n, batch_size=16, bn_draws=2) for n in (1, 2))
HALF = fit(network(), IMAGES, Recipe(epochs=2, batch_size=16), MIXED, until=1)
CALLS = {
    # variation
    **{f"own, {k}": (lambda z, k=k: Variation(0.3, cells=k).own(z), Z) for k in laws.CELLS},
    **{f"cells {k}": (lambda z, k=k: laws.CELLS[k](z, 0.3), Z) for k in laws.CELLS},
    **{f"law {k}": (lambda w, e, k=k: laws.LAWS[k](w, e), W, 0.1 * W) for k in laws.LAWS},
    "deviation": (lambda w: MIXED.deviation(Chip(0), "a", w), W),
    "deviate": (lambda w: FIXED.deviate(Chip(0), "a", w)(w), W),
    # quantizers
    **{
        f"{s} weights": (lambda w, s=s: quantizers.weight_quantizer(4, w, s)(w), W)
        for s in ("learned", "line-search", "legacy")
    },
    **{
        f"{s} activations, {n}": (lambda x, s=s: quantizers.activation_quantizer(4, x, True, s)(x), x)
        for s in ("learned", "legacy")
        for n, x in (("signed", X), ("unsigned", X.abs()))
    },
    "binary": (lambda w: quantizers.weight_quantizer(1, w)(w), W),
    "one bit": (lambda x: quantizers.activation_quantizer(1, x, True)(x), X),
    "codes": (lambda x: quantizers.LearnedStep.for_activations(4, x, True).codes(x), X),
    "step": (lambda x: quantizers.activation_step(x, 4, True), X),
    "line search": (lambda w: quantizers.line_search(w, 4), W),
    "round": (lambda x: quantizers.round_to_levels(x, torch.tensor(0.1), -7, 7), X),
    # conversion and chips
    **{f"to_analog, {b}": (lambda net, x, b=b: to_analog(net, b, x), network("float"), X) for b in ("A4W2", None)},
    "report": (report, network()),
    "programmed": (program, network()),
    **{f"programmed, {t.label}": (program_tuned(t), network(), IMAGES) for t in TUNINGS},
    "converted": (conversion.converted, network("float"), None),
    "layout": (analog.layout, network(), X),
    "channels_last": (analog.channels_last, X),
    "plan": (plan, network(), X),
    "written": (lambda net, x: folded(net, None, plan(net, x)).__enter__() and None, network().eval(), X),
    "save_analog": (lambda net, path: save_analog(net, path), network(), "net.safetensors"),
    "load_analog": (lambda net, path: load_analog(net, path), network("float"), "net.safetensors"),
    # measuring and training
    "accuracy": (accuracy, network(), IMAGES),
    **{
        f"evaluate, {p}": (lambda net, i, p=p: evaluate(net, i, MIXED, 2, precision=p), network(), IMAGES)
        for p in ("float32", "bfloat16", None)
    },
    **{f"evaluate, {t.label}": (evaluate_tuned(t), network(), IMAGES) for t in TUNINGS},
    "evaluate, slices": (lambda net, i, c: evaluate(net, i, MIXED, c, images_per_chip=7), network(), IMAGES, [0, 3]),
    "evaluate_mean": (lambda net, i: evaluate_mean(net, i, MIXED, 40, pilot=3), network(), IMAGES),
    "fit": (lambda i: fit(network(), i, ONE_EPOCH, MIXED), IMAGES),
    "resume": (lambda i, state: fit(network(), i, TWO_EPOCHS, MIXED, resume=state), IMAGES, HALF),
    "reestimate_batch_norm": (lambda i: reestimate_batch_norm(network(), i, MIXED, draws=2, batch_size=16), IMAGES),
    **{
        f"post_training_quantize, {q}": (quantize_trained(q), network("float"), IMAGES)
        for q in ("line-search", "legacy", "learned")
    },
    # what tuning costs
    "cost": (
        lambda net, x: accounting.cost(SelfTuning(ReferenceColumns(2)), net, x, Variation(law="layer-fixed")),
        network(),
        X,
    ),
    "predicted_error": (
        lambda net, x: accounting.predicted_error(net[0], x, ReferenceCells(4), 0.2, "layer-fixed"),
        network(),
        X,
    ),
    "simulated_errors": (
        lambda net, x: accounting.simulated_errors(net[0], x, [Oracle()], 0.2, "proportional", chips=range(3)),
        network(),
        X,
    ),
    "traffic": (controls.traffic, network(), X),
    "converting": (lambda net, x: enter(converting(net, Converter(8), x)), network(), X),
    "effective_cells": (lambda net, x: columns.effective_cells(net[0], x), network(), X),
    # images, cells, statistics
    "normalized": (lambda i: i.normalized(), IMAGES),
    "balanced": (lambda i: i.balanced(7), IMAGES),
    "batches": (lambda i: list(i.batches(16, ("k",), data.Augment(1, True, 10))), IMAGES),
    "augmented": (lambda x: data.augmented(x, data.Augment(1, True, 10), np.random.default_rng(0)), IMAGES.pixels),
    **{f"fit_cells, {law}": (lambda c, law=law: fit_cells(c, law), CELLS) for law in (None, *laws.LAWS)},
    "residual_table": (lambda c: fitting.residual_table(c, fit_cells(c)), CELLS),
    **{
        f.__name__: (lambda a, f=f: f(a), np.array([3.0, 1.0, 2.0, 5.0]))
        for f in (statistics.mean, statistics.bootstrap_mean, statistics.quantile)
    },
    "paired_difference": (statistics.paired_difference, np.array([3.0, 1.0]), np.array([1.0, 2.0])),
}


@pytest.mark.filterwarnings("ignore")
@pytest.mark.parametrize("case", CALLS)
def test_arguments_stay_as_they_are(case, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    save_analog(network(), "net.safetensors")
    call, *arguments = CALLS[case]
    before = [snapshot(a) for a in arguments]
    global_state = torch.get_rng_state()
    call(*arguments)
    assert all(same(snapshot(a), b) for a, b in zip(arguments, before))
    assert torch.equal(torch.get_rng_state(), global_state)  # nobody's random numbers have moved


def test_this_list_is_complete():
    """Functions that are exported and take something that could be changed."""
    takers = {n for n in lib.__all__ if callable(getattr(lib, n)) and not isinstance(getattr(lib, n), type)}
    aside = {
        "build",
        "load",
        "load_shipped",
        "read_cells",
        "register_cells",
        "register_law",
        "register_mapping",
        "shipped_networks",
    }  # take names and paths
    aside |= {"freeze_batch_norm", "attach"}  # they change their network, as they say
    assert {n for n in takers - aside if not any(case.startswith(n) for case in CALLS)} == set()
