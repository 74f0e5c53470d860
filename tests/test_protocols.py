"""What a user brings and gets wrong: an estimator, a correction, a tuner that lacks something or returns nonsense."""

from dataclasses import dataclass

import pytest
from torch import nn

from lib import Oracle, ReadOnce, ReferenceColumns, SelfTuning, Variation, evaluate, to_analog
from lib.companion import cases
from lib.companion.profiles import profile
from lib.laws import LAWS
from lib.selftuning import Gain
from lib.trials import Measurement

MIXED = Variation(0.1, 0.1)


@dataclass(frozen=True)
class Estimates(ReadOnce):
    value: object = 0.0
    label = "mine"

    def estimate(self, chip, variation):
        return self.value


@dataclass(frozen=True)
class Nameless(ReadOnce):
    def estimate(self, chip, variation):
        return 0.0


@dataclass(frozen=True)
class Silent(ReadOnce):
    label = "silent"


@dataclass(frozen=True)
class Bare:
    label = "bare"


@dataclass(frozen=True)
class Corrects:
    factor: float = 1.0
    law = "proportional"

    def slot(self, estimator, layer, name, chip, variation):
        return lambda y, x: y[:1] if self.factor == 1 else y * self.factor


@pytest.fixture
def net(images):
    return to_analog(
        nn.Sequential(nn.Flatten(), nn.Linear(144, 8), nn.ReLU(), nn.Linear(8, 3)), "A4W2", images.normalized()
    ).eval()


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda: SelfTuning(Nameless()), "an estimator needs 'label', Nameless has none; ReadOnce"),
        (lambda: SelfTuning(Bare()), "an estimator needs 'readings', Bare has none"),
        (lambda: SelfTuning(Oracle(), Bare()), "a correction needs 'law', Bare has none; Gain"),
        (lambda: trial_with(Oracle()), "a tuning needs 'chip_images', Oracle has none; SelfTuning"),
    ],
)
def test_a_part_that_lacks_something_is_refused_where_it_is_given(make, message):
    with pytest.raises(ValueError, match=message):
        make()


def trial_with(tuning):
    return Measurement(cases.trial(profile("smoke").settings[0], "QAT", "A4W2"), MIXED, tuning=tuning)


@pytest.mark.parametrize(
    ("tuning", "message"),
    [
        (SelfTuning(Silent()), r"Silent needs estimate\(chip, variation\)"),
        (SelfTuning(Estimates(float("nan"))), "ê of mine must be a finite number, got nan"),
        (SelfTuning(Estimates("0.1")), "ê of mine must be a finite number, got '0.1'"),
        (SelfTuning(Estimates(None)), "ê of mine must be a finite number, got None"),
        (SelfTuning(Oracle(), Corrects()), "must return logits of shape"),
        (SelfTuning(Oracle(), Corrects(float("nan"))), "returns logits that are not finite on Chip"),
        (ReferenceColumns(4), r"give SelfTuning\(…\) around an estimator"),
        (lambda net, chip, variation: None, "what a tuner returns needs '__enter__', NoneType has none"),
    ],
)
def test_what_is_found_on_the_chip_is_one_line(net, images, tuning, message):
    with pytest.raises(ValueError, match=message) as error:
        evaluate(net, images, MIXED, chips=1, tuning=tuning)
    assert "\n" not in str(error.value)
    assert all(layer.correct is None for layer in net.modules() if hasattr(layer, "correct"))


def test_a_correction_that_was_given_is_not_asked_for_again(net, images, monkeypatch):
    monkeypatch.setitem(LAWS, "half root", lambda w, e: w * (1 + e / 2))
    with pytest.raises(
        ValueError, match="corrects the proportional law, this variation is half root; use one made for"
    ):
        evaluate(net, images, Variation(0.1, law="half root"), chips=1, tuning=SelfTuning(Oracle(), Gain()))
