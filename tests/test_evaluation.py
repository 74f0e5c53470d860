"""Monte Carlo over chips: counts that add up, chips that pair."""

from dataclasses import replace

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from torch import nn

from lib import (
    Counts,
    Images,
    Variation,
    accuracy,
    adaptive,
    build,
    evaluate,
    evaluate_mean,
    fit,
    load,
    post_training_quantize,
    to_analog,
)
from lib.controls import OutputGain
from lib.evaluation import best_precision
from lib.estimators import ReferenceCells
from lib.training import Recipe


def trained(images):
    model = to_analog(build("lenet5", 1, 3, 12), "A4W2", images.normalized()[:32])
    fit(model, images, Recipe(epochs=4, batch_size=16))
    return model


def test_counts_add_up_and_do_not_depend_on_what_was_asked_before(images):
    model = trained(images)
    whole = evaluate(model, images, Variation(0.8), 6)
    parts = [evaluate(model, images, Variation(0.8), [i], batch_size=7) for i in (4, 1)]
    assert [p.correct[0] for p in parts] == [whole.correct[4], whole.correct[1]]
    assert (whole.images == len(images)).all() and (whole.chips == np.arange(6)).all()
    assert len(set(whole.correct.tolist())) > 1


def test_no_variation_is_the_network_itself(images):
    model = trained(images)
    x = images.normalized()
    right = int((model(x).argmax(1) == images.labels).sum())
    assert evaluate(model, images, Variation(), 2).correct.tolist() == [right, right]


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
    assert list(counts.to_frame().columns) == ["chip", "images", "correct", "accuracy"]


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
    block = [nn.Conv2d(16, 16, 3, 2, 1, bias=False), nn.BatchNorm2d(16), nn.ReLU()]
    torch.manual_seed(0)
    net = nn.Sequential(nn.Conv2d(1, 16, 3, 2, 1, bias=False), nn.BatchNorm2d(16), nn.ReLU(), *block, nn.Flatten(), nn.Linear(784, 10))
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
    assert len(counts.chips) == estimate.n > 20 and (counts.chips == np.arange(estimate.n)).all() and (counts.images == 24).all()
    assert estimate.high - estimate.low == pytest.approx(4.0, rel=0.2) and estimate.value == pytest.approx(counts.accuracy.mean())
    wide_enough, few = evaluate_mean(model, images, Variation(0.8), 50, pilot=20)
    assert wide_enough.n == 20 and (few.images == len(images)).all()
    with pytest.raises(ValueError, match="half_width 0.001 would take .* chips; allowed: at most 100000"):
        evaluate_mean(model, images, Variation(0.8), 0.001, pilot=20)
    with pytest.raises(ValueError, match="pilot must be an integer ≥ 2"):
        evaluate_mean(model, images, Variation(0.8), pilot=1)


def heavy_tail(rng, n):
    """One chip in six far below the rest."""
    return np.where(rng.random(n) < 1 / 6, 85 - rng.exponential(15, n), rng.normal(85, 1, n))


@pytest.mark.parametrize("draw,truth,least", [(lambda rng, n: rng.normal(80, 3, n), 80, 0.93), (heavy_tail, 82.5, 0.91)])
def test_the_planned_interval_covers(draw, truth, least, monkeypatch):
    """Simulated chips in the place of `evaluate`: coverage, and half-widths near the 0.5 points asked for."""
    rng = np.random.default_rng(2)

    def simulated(net, images, variation, chips, *, images_per_chip):
        chips = np.arange(chips) if isinstance(chips, int) else np.array(chips)
        return Counts(chips, np.full(len(chips), 100), draw(rng, len(chips)))

    monkeypatch.setattr(adaptive, "evaluate", simulated)
    images = Images(torch.zeros(1000, 1, 1, 1, dtype=torch.uint8), torch.zeros(1000, dtype=torch.long), (0.0,), (1.0,))
    found = [adaptive.evaluate_mean(None, images)[0] for _ in range(1000)]
    assert least <= np.mean([e.low <= truth <= e.high for e in found]) <= 0.97
    assert 0.45 < np.median([(e.high - e.low) / 2 for e in found]) < 0.51


class Blurred(nn.Module):
    """A constant kernel in a buffer beside a wide convolution, as blur pooling has it: it bears no other type."""

    def __init__(self, constant):
        super().__init__()
        self.conv, self.head = nn.Conv2d(1, 16, 3), nn.Conv2d(16, 3, 1)
        self.register_buffer("kernel", torch.full((16, 1, 3, 3), 1 / 9))
        self.constant = constant

    def forward(self, x):
        x = self.conv(x).relu()
        x = F.conv2d(x, self.kernel, groups=16) if self.constant == "kernel" else torch.einsum("bchw,cd->bdhw", x, self.kernel[:, 0, :1, 0].repeat(1, 16))
        return self.head(x).mean((2, 3))


@pytest.mark.parametrize("constant", ["kernel", "matrix"])
def test_a_constant_that_bears_no_bfloat16_is_tried_before_it_is_chosen(images, monkeypatch, constant):
    monkeypatch.setattr(torch.cpu, "_is_avx512_bf16_supported", lambda: True)
    model = to_analog(Blurred(constant), "A4W4", images.normalized())
    assert best_precision(model, images.normalized()[:2]) == "float32"
    assert len(evaluate(model, images, Variation(0.1), 2).correct) == 2
    with pytest.raises(ValueError, match="Blurred does not run in bfloat16 .*; use precision='float32'"):
        evaluate(model, images, Variation(0.1), 2, precision="bfloat16")


# -- types at the edge ----------------------------------------------------------------------------------------


def flat(outputs=3):
    return to_analog(nn.Sequential(nn.Flatten(), nn.Linear(144, outputs)))


class Returns(nn.Module):
    def __init__(self, what):
        super().__init__()
        self.fc, self.what = nn.Linear(144, 3), what

    def forward(self, x):
        return self.what(self.fc(x.flatten(1)))


class TwoInputs(Returns):
    def forward(self, x, mask):
        return self.fc(x.flatten(1)) * mask


OUTPUTS = {
    "a tuple": (lambda: Returns(lambda y: (y, y)), ["Returns must return logits of shape (32, classes)", "got a tuple"]),
    "a dictionary": (lambda: Returns(lambda y: {"out": y}), ["got a dict"]),
    "one column": (lambda: Returns(lambda y: y[:, :1]), ["at least 2 classes", "(32, 1)"]),
    "one number an image": (lambda: Returns(lambda y: y[:, 0]), ["(32,)"]),
    "maps": (lambda: Returns(lambda y: y[:, :, None]), ["(32, 3, 1)"]),
    "too few classes": (lambda: Returns(lambda y: y[:, :2]), ["labels go up to 2", "2 classes", "needs 3"]),
    "two inputs": (lambda: TwoInputs(None), ["TwoInputs.forward takes (x, mask)", "wrap it"]),
}


@pytest.mark.parametrize("call", [accuracy, lambda net, images: evaluate(net, images, chips=1), lambda net, images: fit(net, images, Recipe(epochs=1))])
@pytest.mark.parametrize("case", OUTPUTS)
def test_what_a_network_must_return_is_named(images, case, call):
    make, parts = OUTPUTS[case]
    with pytest.raises(ValueError) as error:
        call(to_analog(make()), images)
    assert "\n" not in str(error.value) and all(part in str(error.value) for part in parts), str(error.value)


@pytest.mark.parametrize("call", [accuracy, evaluate, fit, lambda net, images: evaluate_mean(net, images), lambda net, images: post_training_quantize(net, "A4W4", images)])
def test_images_of_another_kind_are_named(images, call):
    loader = torch.utils.data.DataLoader([(images.normalized()[0], 0)])
    dataset = load("fashion-mnist")
    for wrong, name in ((loader, "DataLoader"), (images.normalized(), "Tensor"), (dataset, "Dataset"), (None, "NoneType")):
        with pytest.raises(ValueError, match=rf"images must be lib.Images, got {name}; take data.train or data.test"):
            call(flat(), wrong)


@pytest.mark.parametrize("chips", [3, np.int64(3), range(3), [0, 1, 2], np.arange(3), torch.arange(3)])
def test_every_kind_of_number_of_chips_works(images, chips):
    model = flat()
    assert np.array_equal(evaluate(model, images, Variation(0.5), chips).correct, evaluate(model, images, Variation(0.5), 3).correct)


@pytest.mark.parametrize("chips", [2.0, True, "3", [0.5], -1, None])
def test_other_numbers_of_chips_are_named(images, chips):
    with pytest.raises(ValueError, match="chip"):
        evaluate(flat(), images, Variation(0.5), chips)


def test_one_layer_may_be_named_by_a_text(images):
    one = Variation(0.1, layers="1")
    assert one == Variation(0.1, layers=("1",)) == Variation(0.1, layers=["1"]) and len(evaluate(flat(), images, one, 1).correct) == 1
    with pytest.raises(ValueError, match="unknown layer 'conv1'"):
        evaluate(flat(), images, Variation(0.1, layers="conv1"), 1)


@pytest.mark.parametrize("dtype", [torch.float64, torch.float16, torch.bfloat16])
def test_networks_of_other_types_are_measured(images, dtype):
    torch.manual_seed(0)
    model = to_analog(nn.Sequential(nn.Conv2d(1, 4, 3), nn.ReLU(), nn.Flatten(), nn.Linear(400, 3)), "A4W4", images.normalized())
    fit(model, images, Recipe(epochs=6, batch_size=16))
    before = accuracy(model, images), evaluate(model, images, Variation(0.2), 5).accuracy.mean()
    model = model.to(dtype)
    after = accuracy(model, images), evaluate(model, images, Variation(0.2), 5).accuracy.mean()
    assert np.abs(np.subtract(before, after)).max() < 5


# -- words where numbers would be wrong -----------------------------------------------------------------------


def test_a_calibration_batch_of_another_scale_is_questioned(images):
    x = images.normalized()
    layers = lambda: nn.Sequential(nn.Conv2d(1, 4, 3), nn.ReLU(), nn.Flatten(), nn.Linear(400, 3))  # noqa: E731
    for batch, word in ((images.pixels / 255, "unsigned|step"), (100 * x, "step of"), (x / 100, "step of")):
        model = to_analog(layers(), "A4W4", batch)
        for use in (accuracy, lambda net, images: evaluate(net, images, chips=1), lambda net, images: fit(net, images, Recipe(epochs=1))):
            with pytest.warns(UserWarning, match=f"the first layer's quantizer .*({word}).*normalized"):
                use(model, images)


def test_cells_that_nobody_reads_are_named_where_no_batch_was_given(images):
    class Past(Returns):
        def forward(self, x):
            return F.linear(x.flatten(1), self.fc.weight)

    with pytest.warns(UserWarning, match="cells of fc change nothing"):
        evaluate(to_analog(Past(None)), images, Variation(0.5), 1)


def test_a_sound_network_is_measured_without_a_word(images, recwarn):
    model = trained(images)
    evaluate(model, images, Variation(0.2), 2)
    accuracy(model, images)
    assert not [w for w in recwarn if issubclass(w.category, UserWarning)]


LIKELY = {
    "σ as a number": (lambda m, i: evaluate(m, i, 0.3), "variation must be a Variation, .* got 0.3"),
    "an estimator alone": (lambda m, i: evaluate(m, i, Variation(0.1), 1, tuning=ReferenceCells(4)), r"give SelfTuning\(…\) around an estimator"),
    "a control unbound": (lambda m, i: evaluate(m, i, Variation(0.1), 1, tuning=OutputGain()), r"give its bind\(net, data.train\)"),
    "channels": (lambda m, i: accuracy(m, replace(i, pixels=i.pixels.repeat(1, 3, 1, 1), mean=(0.3,) * 3, std=(0.25,) * 3)), r"does not run on a batch of shape"),
    "no batch": (lambda m, i: evaluate(m, i, Variation(0.1), 1, batch_size=0), "batch_size must be an integer ≥ 1, got 0"),
    "a negative batch": (lambda m, i: accuracy(m, i, batch_size=-1), "batch_size must be an integer ≥ 1, got -1"),
    "a chip twice": (lambda m, i: evaluate(m, i, Variation(0.1), [0, 0, 1]), "a chip is named twice"),
}


@pytest.mark.parametrize("case", LIKELY)
def test_likely_mistakes_are_one_line(images, case):
    call, word = LIKELY[case]
    with pytest.raises(ValueError, match=word) as error:
        call(flat(), images)
    assert "\n" not in str(error.value)


def test_classes_of_very_different_brightness_are_no_mistake(images, recwarn):
    """A folder comes class by class: its first images are not like the rest."""
    dark = images.pixels.clone()
    order = images.labels.argsort(stable=True)
    dark = torch.where(images.labels.view(-1, 1, 1, 1) == 0, dark // 12, dark)[order]
    sorted_images = Images(dark, images.labels[order], (0.0,), (1.0,))
    model = to_analog(nn.Sequential(nn.Conv2d(1, 4, 3), nn.ReLU(), nn.Flatten(), nn.Linear(400, 3)), "A4W4", sorted_images.normalized())
    accuracy(model, sorted_images)
    assert not [w for w in recwarn if issubclass(w.category, UserWarning)]
