"""Monte Carlo over chips: counts that add up, chips that pair, intervals that cover."""

from functools import partial

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from conftest import trained, with_norms
from scipy.stats import norm
from torch import nn

from lib import (
    Chip,
    Counts,
    Images,
    Variation,
    adaptive,
    build,
    evaluate,
    evaluate_mean,
    evaluation,
    fit,
    load,
    to_analog,
)
from lib.evaluation import best_precision
from lib.folding import plan
from lib.lots import lot_mean, lot_quantile, lot_yield
from lib.statistics import bootstrap_mean
from lib.training import Recipe
from lib.variation import golden


def test_counts_add_up_and_do_not_depend_on_what_was_asked_before(images):
    model = trained(images)
    whole = evaluate(model, images, Variation(1.5, large=True), 6)
    parts = [evaluate(model, images, Variation(1.5, large=True), [i], batch_size=7) for i in (4, 1)]
    assert [p.correct[0] for p in parts] == [whole.correct[4], whole.correct[1]]
    assert (whole.images == len(images)).all() and (whole.chips == np.arange(6)).all()
    assert len(set(whole.correct.tolist())) > 1


def test_no_variation_is_the_network_itself(images):
    model = trained(images)
    x = images.normalized()
    right = int((model(x).argmax(1) == images.labels).sum())
    assert evaluate(model, images, Variation(), 2).correct.tolist() == [right, right]


def test_a_plan_found_before_gives_the_same_counts(images):
    net = with_norms(images).eval()
    how = plan(net, images.normalized()[:2])
    assert how.chains  # something is folded
    told, again = (evaluate(net, images, Variation(0.5), 5, quick=quick) for quick in (None, how))
    assert (told.correct == again.correct).all() and len(set(told.correct)) > 1


def test_evaluation_leaves_the_network_alone(images):
    model = trained(images).train()
    before = {k: v.clone() for k, v in model.state_dict().items()}
    evaluate(model, images, Variation(0.3), 2)
    assert model.training and all(torch.equal(v, before[k]) for k, v in model.state_dict().items())
    assert model[0].weight.is_contiguous()


def test_validation_chips_are_others(images):
    model = trained(images)
    a, b = (evaluate(model, images, Variation(0.8), 8, purpose=p).correct for p in ("test", "validation"))
    assert not np.array_equal(a, b)


def test_summary(images):
    counts = evaluate(trained(images), images, Variation(0.8), 80)
    summary = counts.summary(threshold=50)
    assert summary["mean"].low < counts.accuracy.mean() < summary["mean"].high
    assert summary["q05"].low <= summary["q05"].value <= summary["q05"].high and 0 <= summary["yield"].value <= 1
    assert list(counts.to_frame().columns) == ["chip", "place", "images", "correct", "accuracy"]


def test_chips_that_share_something_are_a_lot(images):
    model, mixed = trained(images), Variation(0.3, 0.5)
    counts = evaluate(model, images, mixed, 80, purpose="validation")
    assert counts.places.tolist() == [Chip.of("validation", i).place for i in range(80)]
    found, values = counts.summary(threshold=50), counts.accuracy
    assert found["mean"] == lot_mean(values, counts.places) and found["q05"] == lot_quantile(values, counts.places)
    assert found["yield"] == lot_yield(values, counts.places, 50)
    assert counts.to_frame().place.tolist() == counts.places.tolist()
    independent = evaluate(model, images, Variation(0.5), 3)
    assert independent.places is None and independent.to_frame().place.isna().all()


def test_slices_belong_to_the_chip_and_are_unbiased(images):
    model = trained(images)
    sliced = evaluate(model, images, Variation(0.8), 200, images_per_chip=24)
    again = evaluate(model, images, Variation(0.8), [7], images_per_chip=24, batch_size=5)
    assert (sliced.images == 24).all() and sliced.correct[7] == again.correct[0]
    ideal = evaluate(model, images, Variation(), 40, images_per_chip=24)
    assert len(np.unique(ideal.correct)) > 1 or ideal.correct[0] in (0, 24)  # chips see different images
    whole = evaluate(model, images, Variation(0.8), 200)
    gap = sliced.accuracy - whole.accuracy  # the same chips
    assert abs(gap.mean()) < 4 * gap.std() / np.sqrt(200) + 1e-9


@pytest.fixture(scope="module")
def wide():
    """A small convolutional network of 16 channels, trained for a moment on real images, and 1,000 test images."""
    data = load("fashion-mnist")
    second = [nn.Conv2d(16, 16, 3, 2, 1, bias=False), nn.BatchNorm2d(16), nn.ReLU()]
    torch.manual_seed(0)
    first = [nn.Conv2d(1, 16, 3, 2, 1, bias=False), nn.BatchNorm2d(16), nn.ReLU()]
    net = nn.Sequential(*first, *second, nn.Flatten(), nn.Linear(784, 10))
    net = to_analog(net, "A4W2", data.train.take(slice(0, 64)).normalized())
    fit(net, data.train.balanced(3000), Recipe(epochs=1, bn_draws=20), Variation(0.3))
    return net, data.test.balanced(1000)


@pytest.mark.parametrize("law", ["proportional", "layer-fixed"])
def test_bfloat16_does_not_move_the_mean(wide, law):
    """Less than 0.1 point over 200 paired chips; single predictions do differ."""
    net, images = wide
    variation = Variation.split(0.3, 0.5, law)
    exact, fast = (evaluate(net, images, variation, 200, precision=p) for p in ("float32", "bfloat16"))
    assert 40 < exact.accuracy.mean() < 85 and not np.array_equal(exact.correct, fast.correct)
    assert abs((fast.accuracy - exact.accuracy).mean()) < 0.1


def test_best_precision_is_chosen_by_what_the_network_is(wide, monkeypatch):
    net, images = wide
    x = images.normalized()[:2]
    monkeypatch.setattr(torch.cpu, "_is_avx512_bf16_supported", lambda: True)
    assert best_precision(net, x) == "bfloat16"
    narrow = to_analog(build("lenet5", 1, 10, 28), "A4W2", images.normalized()[:8])
    assert best_precision(narrow, x) == "float32"  # six channels gain nothing
    prelu = nn.Sequential(net, nn.PReLU())  # its own parameter would not take bfloat16
    assert best_precision(prelu, x) == "float32" and best_precision(build("vgg11", 1, 10, 28, 0.25), x) == "float32"
    monkeypatch.setattr(torch.cpu, "_is_avx512_bf16_supported", lambda: False)
    assert best_precision(net, x) == "float32"
    with pytest.raises(ValueError, match="unknown precision 'float16'; allowed: None, float32, bfloat16"):
        evaluate(net, images, precision="float16")


def test_a_mean_to_a_given_half_width(images):
    model = trained(images)
    estimate, counts = evaluate_mean(model, images, Variation(0.8), 2.0, pilot=20, images_per_chip=24)
    assert len(counts.chips) == estimate.n > 20
    assert (counts.chips == np.arange(estimate.n)).all() and (counts.images == 24).all()
    assert estimate.high - estimate.low == pytest.approx(4.0, rel=0.2)
    assert estimate.value == pytest.approx(counts.accuracy.mean())
    mixed, lot = evaluate_mean(model, images, Variation(0.3, 0.5), 3.0, pilot=20)
    assert mixed == lot_mean(lot.accuracy, lot.places) and (mixed.high - mixed.low) / 2 < 3.3
    wide_enough, few = evaluate_mean(model, images, Variation(0.8), 50, pilot=20)
    assert wide_enough.n == 20 and (few.images == len(images)).all()
    with pytest.raises(ValueError, match="half_width 0.001 would take .* chips; allowed: at most 100000"):
        evaluate_mean(model, images, Variation(0.8), 0.001, pilot=20)
    with pytest.raises(ValueError, match="pilot must be an integer ≥ 2"):
        evaluate_mean(model, images, Variation(0.8), pilot=1)


def heavy_tail(rng, n):
    """One chip in six far below the rest."""
    return np.where(rng.random(n) < 1 / 6, 85 - rng.exponential(15, n), rng.normal(85, 1, n))


def a_lot_with_a_tail(chips):
    """Chips that collapse below z_B = −1.2, at places of a lot that begins anywhere."""
    u = golden(a_lot_with_a_tail.start, chips)
    z = norm.ppf(u)
    return u, 88 - 60 / (1 + np.exp(3 * (z + 1.2)))


@pytest.mark.parametrize("pilot,target", [(100, 0.5), (100, 1.0), (50, 0.5)])
@pytest.mark.parametrize("kind", ["bell", "heavy tail", "a lot"])
def test_the_planned_interval_covers(kind, pilot, target, monkeypatch):
    """Simulated chips in place of `evaluate`: coverage, and half-widths near what was asked for."""
    rng = np.random.default_rng(2)
    z = norm.ppf((np.arange(100_000) + 0.5) / 100_000)
    truth = {"bell": 80, "heavy tail": 82.5, "a lot": (88 - 60 / (1 + np.exp(3 * (z + 1.2)))).mean()}[kind]

    def simulated(net, images, variation, chips, *, images_per_chip):
        chips = np.arange(chips) if isinstance(chips, int) else np.array(chips)
        n, places = len(chips), None
        if kind == "a lot":
            places, values = a_lot_with_a_tail(chips)
            values = values + rng.normal(0, 3, n)
        else:
            values = heavy_tail(rng, n) if kind == "heavy tail" else rng.normal(80, 3, n)
        return Counts(chips, np.full(n, 100), values, places)

    monkeypatch.setattr(adaptive, "evaluate", simulated)
    monkeypatch.setattr(evaluation, "bootstrap_mean", partial(bootstrap_mean, resamples=499))
    images = Images(torch.zeros(1000, 1, 1, 1, dtype=torch.uint8), torch.zeros(1000, dtype=torch.long), (0.0,), (1.0,))
    found = []
    for _ in range(400):
        a_lot_with_a_tail.start = int(rng.integers(2**63))
        found.append(adaptive.evaluate_mean(None, images, half_width=target, pilot=pilot)[0])
    least = 0.9 if (kind, pilot) == ("heavy tail", 50) else 0.93  # as its docstring says
    assert np.mean([e.low <= truth <= e.high for e in found]) >= least
    # a pilot may already be enough
    assert np.median([(e.high - e.low) / 2 for e in found]) < 1.05 * target


class Blurred(nn.Module):
    """A constant kernel in a buffer beside a wide convolution, as blur pooling has it: it bears no other type."""

    def __init__(self, constant):
        super().__init__()
        self.conv, self.head = nn.Conv2d(1, 16, 3), nn.Conv2d(16, 3, 1)
        self.register_buffer("kernel", torch.full((16, 1, 3, 3), 1 / 9))
        self.constant = constant

    def forward(self, x):
        x = self.conv(x).relu()
        if self.constant == "kernel":
            x = F.conv2d(x, self.kernel, groups=16)
        else:
            x = torch.einsum("bchw,cd->bdhw", x, self.kernel[:, 0, :1, 0].repeat(1, 16))
        return self.head(x).mean((2, 3))


@pytest.mark.parametrize("constant", ["kernel", "matrix"])
def test_a_constant_that_bears_no_bfloat16_is_tried_before_it_is_chosen(images, monkeypatch, constant):
    monkeypatch.setattr(torch.cpu, "_is_avx512_bf16_supported", lambda: True)
    model = to_analog(Blurred(constant), "A4W4", images.normalized())
    assert best_precision(model, images.normalized()[:2]) == "float32"
    assert len(evaluate(model, images, Variation(0.1), 2).correct) == 2
    with pytest.raises(ValueError, match="Blurred does not run in bfloat16 .*; use precision='float32'"):
        evaluate(model, images, Variation(0.1), 2, precision="bfloat16")
