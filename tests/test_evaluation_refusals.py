"""What is given to be measured: types at the edge, mistakes named in a line, words where numbers would be wrong."""

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from conftest import in_colour, trained, with_norms
from torch import nn

from lib import Images, Variation, accuracy, evaluate, evaluate_mean, fit, load, post_training_quantize, to_analog
from lib.checks import InputError
from lib.controls import OutputGain
from lib.estimators import ReferenceCells
from lib.folding import plan
from lib.training import Recipe


def test_a_plan_of_another_network_is_refused(images):
    here, other = with_norms(images), with_norms(images)
    for quick in (plan(other, images.normalized()[:2]), other, True):
        with pytest.raises(InputError, match="quick must be what plan"):
            evaluate(here, images, Variation(0.5), 1, quick=quick)


def flat(outputs=3):
    return to_analog(nn.Sequential(nn.Flatten(), nn.Linear(144, outputs)))


def convolutional():
    return nn.Sequential(nn.Conv2d(1, 4, 3), nn.ReLU(), nn.Flatten(), nn.Linear(400, 3))


class Returns(nn.Module):
    def __init__(self, what):
        super().__init__()
        self.fc, self.what = nn.Linear(144, 3), what

    def forward(self, x):
        return self.what(self.fc(x.flatten(1)))


class TwoInputs(Returns):
    def forward(self, x, mask):
        return self.fc(x.flatten(1)) * mask


# what a network returns → parts of the line that refuses it
OUTPUTS = {
    "a tuple": (
        lambda: Returns(lambda y: (y, y)),
        ["Returns must return logits of shape (32, classes)", "got a tuple"],
    ),
    "a dictionary": (lambda: Returns(lambda y: {"out": y}), ["got a dict"]),
    "one column": (lambda: Returns(lambda y: y[:, :1]), ["at least 2 classes", "(32, 1)"]),
    "one number an image": (lambda: Returns(lambda y: y[:, 0]), ["(32,)"]),
    "maps": (lambda: Returns(lambda y: y[:, :, None]), ["(32, 3, 1)"]),
    "too few classes": (lambda: Returns(lambda y: y[:, :2]), ["labels go up to 2", "2 classes", "needs 3"]),
    "two inputs": (lambda: TwoInputs(None), ["TwoInputs.forward takes (x, mask)", "wrap it"]),
}
USES = [
    accuracy,
    lambda net, images: evaluate(net, images, chips=1),
    lambda net, images: fit(net, images, Recipe(epochs=1)),
]


@pytest.mark.parametrize("call", USES)
@pytest.mark.parametrize("case", OUTPUTS)
def test_what_a_network_must_return_is_named(images, case, call):
    make, parts = OUTPUTS[case]
    with pytest.raises(ValueError) as error:
        call(to_analog(make()), images)
    assert "\n" not in str(error.value) and all(part in str(error.value) for part in parts), str(error.value)


TAKE_IMAGES = [
    accuracy,
    evaluate,
    fit,
    lambda net, images: evaluate_mean(net, images),
    lambda net, images: post_training_quantize(net, "A4W4", images),
]


@pytest.mark.parametrize("call", TAKE_IMAGES)
def test_images_of_another_kind_are_named(images, call):
    loader = torch.utils.data.DataLoader([(images.normalized()[0], 0)])
    others = {"DataLoader": loader, "Tensor": images.normalized(), "Dataset": load("fashion-mnist"), "NoneType": None}
    for name, wrong in others.items():
        with pytest.raises(ValueError, match=rf"images must be lib.Images, got {name}; take data.train or data.test"):
            call(flat(), wrong)


@pytest.mark.parametrize("chips", [3, np.int64(3), range(3), [0, 1, 2], np.arange(3), torch.arange(3)])
def test_every_kind_of_number_of_chips_works(images, chips):
    model = flat()
    found, expected = (evaluate(model, images, Variation(0.5), n).correct for n in (chips, 3))
    assert np.array_equal(found, expected)


@pytest.mark.parametrize("chips", [2.0, True, "3", [0.5], -1, None])
def test_other_numbers_of_chips_are_named(images, chips):
    with pytest.raises(ValueError, match="chip"):
        evaluate(flat(), images, Variation(0.5), chips)


def test_one_layer_may_be_named_by_a_text(images):
    one = Variation(0.1, layers="1")
    assert one == Variation(0.1, layers=("1",)) == Variation(0.1, layers=["1"])
    assert len(evaluate(flat(), images, one, 1).correct) == 1
    with pytest.raises(ValueError, match="unknown layer 'conv1'"):
        evaluate(flat(), images, Variation(0.1, layers="conv1"), 1)


@pytest.mark.parametrize("dtype", [torch.float64, torch.float16, torch.bfloat16])
def test_networks_of_other_types_are_measured(images, dtype):
    torch.manual_seed(0)
    model = to_analog(convolutional(), "A4W4", images.normalized())
    fit(model, images, Recipe(epochs=6, batch_size=16))
    before = accuracy(model, images), evaluate(model, images, Variation(0.2), 5).accuracy.mean()
    model = model.to(dtype)
    after = accuracy(model, images), evaluate(model, images, Variation(0.2), 5).accuracy.mean()
    assert np.abs(np.subtract(before, after)).max() < 5


def test_a_calibration_batch_of_another_scale_is_questioned(images):
    x = images.normalized()
    for batch, word in ((images.pixels / 255, "unsigned|step"), (100 * x, "step of"), (x / 100, "step of")):
        model = to_analog(convolutional(), "A4W4", batch)
        for use in USES:
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


def measured(**options):
    """Evaluates one chip with these options."""
    return lambda net, images: evaluate(net, images, Variation(0.1), 1, **options)


LIKELY = {
    "σ as a number": (lambda m, i: evaluate(m, i, 0.3), "variation must be a Variation, .* got 0.3"),
    "an estimator alone": (measured(tuning=ReferenceCells(4)), r"give SelfTuning\(…\) around an estimator"),
    "a control unbound": (measured(tuning=OutputGain()), r"give its bind\(net, data.train\)"),
    "channels": (lambda m, i: accuracy(m, in_colour(i)), "does not run on a batch of shape"),
    "no batch": (measured(batch_size=0), "batch_size must be an integer ≥ 1, got 0"),
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
    model = to_analog(convolutional(), "A4W4", sorted_images.normalized())
    accuracy(model, sorted_images)
    assert not [w for w in recwarn if issubclass(w.category, UserWarning)]
