"""Monte Carlo over chips: counts that add up, chips that pair."""

import numpy as np
import torch

from lib import Variation, build, evaluate, fit, to_analog
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
