"""What a key says: values, this package's code as it was imported, and code of the user's own."""

import json
import math
import pickle
import subprocess
import sys
import textwrap
import threading
from dataclasses import dataclass, field, replace
from enum import Enum
from functools import lru_cache, partial, wraps
from typing import NamedTuple

import numpy as np
import pytest
import torch
from conftest import ROOT, environment

from lib import Variation, register_cells, register_law, register_mapping
from lib.accounting import shared_gain
from lib.checks import InputError
from lib.content import code_of
from lib.controls import Control
from lib.estimators import Oracle, ReadOnce, ReferenceCells
from lib.identity import described
from lib.laws import CELLS, CELLS_OF_A_WEIGHT, LAWS, MAPPINGS
from lib.selftuning import Gain, SelfTuning
from lib.training import Recipe
from lib.trials import Measurement, Trial


def defined(source: str, name: str = "Mine", **names):
    """What `name` is after a file or a notebook cell with this source has run."""
    known = {"dataclass": dataclass, "field": field, "wraps": wraps, "ReadOnce": ReadOnce}
    space = {"__name__": "users_own", "math": math, "np": np, "torch": torch, **known, **names}
    exec(textwrap.dedent(source), space)
    return space[name]


ESTIMATOR = '''
@dataclass(frozen=True)
class Mine(ReadOnce):
    """Shrinks."""
    label = "mine"
    n: int = 4
    def estimate(self, chip, variation):
        """What it does."""
        return {body}
'''


def estimator(body: str, **names):
    return defined(ESTIMATOR.replace("{body}", body), **names)


def key(tuner_or_type) -> str:
    return json.dumps(described(SelfTuning(tuner_or_type())), sort_keys=True)


FROZEN = """
@dataclass(frozen=True)
class Mine(ReadOnce):
    label = 'm'
"""
CONTROL = """
@dataclass(frozen=True)
class Mine(Control):
    label = 'c'
    def bind(self, net, train):
        return {body}
"""


def test_a_control_a_law_a_distribution_and_subclasses_count_by_their_code():
    def control(body):
        return defined(CONTROL.format(body=body), Control=Control)

    assert described(control("1")()) != described(control("2")())
    wide = "class Mine(Variation):\n    def own(self, z):\n        return {} * z"
    subclasses = [defined(wide.format(k), Variation=Variation)(0.1) for k in (1, 2)]
    assert len({json.dumps(described(v)) for v in (*subclasses, Variation(0.1))}) == 3
    slow = "class Mine(Recipe):\n    def rate(self, done):\n        return {}"
    before, after = (defined(slow.format(rate), Recipe=Recipe)() for rate in (0.1, 0.2))
    assert described(before) != described(after)
    assert described(shared_gain(0.1)) != described(Variation(0.0, 0.1))


@pytest.fixture
def registries():
    registries = LAWS, CELLS, MAPPINGS, CELLS_OF_A_WEIGHT
    before = [dict(registry) for registry in registries]
    yield
    for registry, known in zip(registries, before):
        registry.clear()
        registry.update(known)


def test_registered_laws_distributions_and_mappings_are_part_of_every_key(registries):
    def keys(k):
        register_law("squared", partial(defined("def law(w, e, k):\n    return w + k * e * w.square()", "law"), k=k))
        register_cells("flat", defined(f"def cells(z, sigma):\n    return {k} * sigma * z.erf()", "cells"))
        register_mapping("pair", defined(f"def pair(law, w, e):\n    return law({k} * w, e.mean(0))", "pair"), 2)
        v = Variation(0.1, law="squared", cells="flat", mapping="pair")
        trial = Trial("fashion-mnist", "lenet5", "QAVAT", Recipe(), "A4W2", v)
        return [json.dumps(thing, sort_keys=True) for thing in (trial.config(), Measurement(trial, v).config())]

    mean = defined("def mean(law, w, e):\n    return law(w, e.mean(0))", "mean")
    four, two = (register_mapping("mean", mean, n) or Variation(0.1, mapping="mean") for n in (4, 2))
    assert four != two and described(four) != described(two)
    assert keys(1) == keys(1) and all(a != b for a, b in zip(keys(1), keys(2)))
    weight = torch.ones(3)
    v, old = Variation(0.1, law="squared", cells="flat"), Variation(0.1, law="squared")
    # an object made before keeps the law that it was made with
    register_law("squared", defined("def law(w, e):\n    return w", "law"))
    assert Variation(0.1, law="squared") != old and pickle.loads(pickle.dumps(Variation(0.1))) == Variation(0.1)
    deviated = [one.deviate(_chip(), "a", weight)(weight) for one in (v, Variation(0.1))]
    assert not torch.equal(*deviated)
    with pytest.raises(InputError, match="no correction is known for the law 'squared'"):
        with SelfTuning(Oracle())(torch.nn.Linear(1, 1), _chip(), v):
            pass


def _chip():
    from lib import Chip

    return Chip(3)


NOT_REGISTERED = [
    lambda: register_law("proportional", torch.add),
    lambda: register_cells("normal", torch.mul),
    lambda: register_law("x", 3),
    lambda: register_law("x", lambda w: w),
    lambda: register_law(3, lambda w, e: w),
    lambda: register_mapping("x", lambda w, e: w, 2),
    lambda: register_mapping("differential", lambda law, w, e: w, 2),
]


@pytest.mark.parametrize("call", NOT_REGISTERED)
def test_what_cannot_be_registered_is_named(call):
    with pytest.raises(InputError, match="needs a name other than proportional"):
        call()


def test_a_variation_takes_its_law_along_to_another_process(registries, tmp_path):
    from distributed.protocol.pickle import dumps

    register_law("mine", defined("def law(w, e):\n    return w + e", "law", __name__="__main__"))
    (tmp_path / "v").write_bytes(dumps(replace(Variation(0.2), law="mine")))
    code = (
        "import pickle, torch; v = pickle.load(open('v', 'rb'));"
        "from lib import Chip; w = torch.zeros(4); print(v.law, float(v.deviate(Chip(0), 'a', w)(w).std()) > 0)"
    )
    command = [sys.executable, "-c", code]
    out = subprocess.run(command, cwd=tmp_path, env=environment(ROOT), capture_output=True, text=True)
    assert out.stdout.split() == ["mine", "True"], out.stderr


IMPORTING = FROZEN + "    def estimate(self, c, v):\n        import users_helpers\n        return 1"
NO_KEY = [
    (
        lambda: estimator("thing.x", thing=threading.Lock()),
        ["Mine.estimate", "uses the global thing", "cannot be part of a key"],
    ),
    (lambda: estimator("helpers", helpers=type(sys)("helpers")), ["the module helpers as a whole"]),
    (lambda: defined(IMPORTING), ["imports users_helpers within itself", "at the top"]),
]


@pytest.mark.parametrize("build,parts", NO_KEY)
def test_code_that_no_key_can_hold_is_refused_in_one_line(build, parts):
    with pytest.raises(InputError) as error:
        described(SelfTuning(build()()))
    assert "\n" not in str(error.value) and all(part in str(error.value) for part in parts), str(error.value)


def test_what_is_installed_counts_by_name_and_version_and_recursion_ends():
    @lru_cache
    def fibonacci(n):
        return n if n < 2 else fibonacci(n - 1) + fibonacci(n - 2)

    assert code_of(fibonacci) == code_of(fibonacci)
    from scipy.stats import norm

    assert code_of(estimator("norm.ppf(0.1)", norm=norm)) == code_of(estimator("norm.ppf(0.1)", norm=norm))
    bodies = [
        "math.sqrt(2)",
        "np.exp(1.0)",
        "torch.tensor(1.0).item()",
        "np.random.default_rng(0).normal()",
        "np.linalg.norm(self.n)",
    ]
    for body in bodies:
        assert code_of(estimator(body)) == code_of(estimator(body)) != code_of(estimator("0.0"))
    assert code_of(Oracle) != code_of(ReferenceCells) and code_of(Gain) == code_of(Gain)


def test_plain_values_stay_and_others_are_refused():
    assert described((1, np.float64(0.5), None, "a")) == [1, 0.5, None, "a"]
    assert described({"b", "a"}) == described({"a", "b"})
    assert described(torch.ones(2)) != described(torch.zeros(2)) and described(np.ones(2)) == described(np.ones(2))
    with pytest.raises(InputError, match="of type lock cannot be part of a key"):
        described(threading.Lock())


class Colour(Enum):
    RED = 1
    BLUE = 2


Point, Turned = NamedTuple("Point", [("x", int), ("y", int)]), NamedTuple("Turned", [("y", int), ("x", int)])


@dataclass(frozen=True)
class Quiet:
    k: int = field(default=1, repr=False)


DIFFERENT = [
    (Quiet(1), Quiet(2)),
    (1, True),
    (1, 1.0),
    ({1: 2}, {"1": 2}),
    ({"a": 1, "b": 2}, {"b": 2, "a": 1}),
    ([1, 2], (1, 2)),
    (Point(1, 2), Turned(1, 2)),
    (Point(1, 2), (1, 2)),
    (Colour.RED, Colour.BLUE),
    (float("inf"), float("-inf")),
    (float("nan"), "nan"),
    (torch.ones(2, dtype=torch.bfloat16), torch.ones(2)),
    (partial(round, ndigits=1), partial(round, number=1)),
    (range(3), range(4)),
]


@pytest.mark.parametrize("a,b", DIFFERENT)
def test_different_values_never_look_alike(a, b):
    texts = [json.dumps(described(v), sort_keys=True, allow_nan=False) for v in (a, b, a)]
    assert texts[0] == texts[2] != texts[1]


def test_a_tuning_that_may_change_is_refused():
    @dataclass
    class Loose:
        label: str = "loose"

    trial = Trial("fashion-mnist", "lenet5", "float", Recipe())
    with pytest.raises(InputError, match="must be a frozen dataclass"):
        Measurement(trial, Variation(0.1), tuning=Loose())
    with pytest.raises(InputError, match="an estimator must be a frozen dataclass"):
        SelfTuning(Loose())
