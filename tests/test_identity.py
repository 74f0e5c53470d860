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

from lib import Variation, register_cells, register_law
from lib.accounting import shared_gain
from lib.checks import InputError
from lib.content import code_of
from lib.controls import Control
from lib.identity import described
from lib.estimators import Oracle, ReadOnce, ReferenceCells
from lib.selftuning import Gain, SelfTuning
from lib.training import Recipe
from lib.trials import Measurement, Trial
from lib.variation import CELLS, LAWS

FACTOR, TABLE = 1.0, np.array([1.0, 2.0])


def defined(source: str, name: str = "Mine", **names):
    """What `name` is after a file or a notebook cell with this source has run."""
    space = {"__name__": "users_own", "dataclass": dataclass, "ReadOnce": ReadOnce, "math": math, "np": np, "torch": torch, "wraps": wraps, "field": field, **names}
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


def helper(source: str):
    return defined(source, "helper")


def key(tuner_or_type) -> str:
    return json.dumps(described(SelfTuning(tuner_or_type())), sort_keys=True)


# pairs that must differ: what a user edits, and where it stands
EDITS = {
    "a number in the method": (lambda: estimator("1 * 0.5"), lambda: estimator("-1 * 0.5")),
    "an operator": (lambda: estimator("self.n + 1"), lambda: estimator("self.n - 1")),
    "the name of a method": (lambda: estimator("chip.seed"), lambda: estimator("chip.__hash__()")),
    "a global number": (lambda: estimator("FACTOR", FACTOR=1.0), lambda: estimator("FACTOR", FACTOR=2.0)),
    "a global array": (lambda: estimator("TABLE[0]", TABLE=np.array([1.0])), lambda: estimator("TABLE[0]", TABLE=np.array([2.0]))),
    "a helper": (
        lambda: estimator("helper(3)", helper=helper("def helper(x):\n    return x")),
        lambda: estimator("helper(3)", helper=helper("def helper(x):\n    return -x")),
    ),
    "a helper of a helper": (
        lambda: estimator("h(3)", h=defined("def h(x):\n    return g(x)", "h", g=helper("def helper(x):\n    return x"))),
        lambda: estimator("h(3)", h=defined("def h(x):\n    return g(x)", "h", g=helper("def helper(x):\n    return 2 * x"))),
    ),
    "a default argument": (
        lambda: estimator("h()", h=defined("def h(x=1):\n    return x", "h")),
        lambda: estimator("h()", h=defined("def h(x=2):\n    return x", "h")),
    ),
    "a closure": (
        lambda: estimator("h()", h=defined("def make(k):\n    return lambda: k\nh = make(1)", "h")),
        lambda: estimator("h()", h=defined("def make(k):\n    return lambda: k\nh = make(2)", "h")),
    ),
    "a base class": (
        lambda: defined("class Base(ReadOnce):\n    def estimate(self, c, v):\n        return 1\n@dataclass(frozen=True)\nclass Mine(Base):\n    label = 'm'"),
        lambda: defined("class Base(ReadOnce):\n    def estimate(self, c, v):\n        return 2\n@dataclass(frozen=True)\nclass Mine(Base):\n    label = 'm'"),
    ),
    "a class attribute": (
        lambda: defined("@dataclass(frozen=True)\nclass Mine(ReadOnce):\n    label = 'm'\n    k = 1"),
        lambda: defined("@dataclass(frozen=True)\nclass Mine(ReadOnce):\n    label = 'm'\n    k = 2"),
    ),
    "a property": (
        lambda: defined("@dataclass(frozen=True)\nclass Mine(ReadOnce):\n    label = 'm'\n    @property\n    def k(self):\n        return 1"),
        lambda: defined("@dataclass(frozen=True)\nclass Mine(ReadOnce):\n    label = 'm'\n    @property\n    def k(self):\n        return 2"),
    ),
    "what a decorator does": (
        lambda: estimator("h(3)", h=defined("def deco(f):\n    @wraps(f)\n    def g(x):\n        return max(1, f(x))\n    return g\n@deco\ndef h(x):\n    return x", "h")),
        lambda: estimator("h(3)", h=defined("def deco(f):\n    @wraps(f)\n    def g(x):\n        return min(1, f(x))\n    return g\n@deco\ndef h(x):\n    return x", "h")),
    ),
    "which of two helpers": (
        lambda: defined("def f(x):\n    return x\ndef g(x):\n    return -x\nCHOSEN = f" + ESTIMATOR.replace("{body}", "(f(1), g(1), CHOSEN(1))")),
        lambda: defined("def f(x):\n    return x\ndef g(x):\n    return -x\nCHOSEN = g" + ESTIMATOR.replace("{body}", "(f(1), g(1), CHOSEN(1))")),
    ),
    "the default of a helper's field": (
        lambda: estimator("H().k", H=defined("@dataclass(slots=True)\nclass H:\n    k: float = 1.0", "H")),
        lambda: estimator("H().k", H=defined("@dataclass(slots=True)\nclass H:\n    k: float = 2.0", "H")),
    ),
    "a default factory": (
        lambda: estimator("H().k", H=defined("@dataclass\nclass H:\n    k: list = field(default_factory=lambda: [1.0])", "H")),
        lambda: estimator("H().k", H=defined("@dataclass\nclass H:\n    k: list = field(default_factory=lambda: [2.0])", "H")),
    ),
    "a helper's own __init__": (
        lambda: estimator("H().k", H=defined("class H:\n    def __init__(self):\n        self.k = 1", "H")),
        lambda: estimator("H().k", H=defined("class H:\n    def __init__(self):\n        self.k = 2", "H")),
    ),
    "an object's state": (
        lambda: estimator("h.k", h=defined("class H:\n    pass\nh = H()\nh.k = 1", "h")),
        lambda: estimator("h.k", h=defined("class H:\n    pass\nh = H()\nh.k = 2", "h")),
    ),
    "an attribute of a function": (
        lambda: estimator("h.k", h=defined("def h():\n    pass\nh.k = 1", "h")),
        lambda: estimator("h.k", h=defined("def h():\n    pass\nh.k = 2", "h")),
    ),
    "a name after _is_": (
        lambda: defined("@dataclass(frozen=True)\nclass Mine(ReadOnce):\n    label = 'm'\n    _is_on = 1"),
        lambda: defined("@dataclass(frozen=True)\nclass Mine(ReadOnce):\n    label = 'm'\n    _is_on = 2"),
    ),
    "a set of names": (lambda: estimator("chip in {'a', 'b'}"), lambda: estimator("chip in {'a', 'c'}")),
}  # fmt: skip


@pytest.mark.parametrize("case", EDITS)
def test_an_edit_of_the_users_own_code_is_another_key(case):
    before, after = EDITS[case]
    assert key(before()) != key(after())
    assert key(before()) == key(before())  # and the same code run twice is the same


@pytest.mark.parametrize("module", ["controls", "selftuning", "experiments.store", "users_own"])
def test_a_users_module_that_is_called_like_one_of_ours_counts_by_its_code(module):
    source = """
        @dataclass(frozen=True)
        class Mine(ReadOnce):
            def estimate(self, chip, variation):
                return {} * variation.between
        """
    once, twice = (defined(source.format(factor), __name__=module)() for factor in (1, 2))
    assert described(once) != described(twice)


def test_docstrings_and_comments_of_the_users_do_not_count():
    other = ESTIMATOR.replace("What it does.", "In other words.").replace("Shrinks", "Grows").replace("return", "return  # a remark\\\n")
    assert key(estimator("1")) == key(defined(other.replace("# a remark\\\n", "").replace("{body}", "1")))


def test_a_control_a_law_a_distribution_and_subclasses_count_by_their_code():
    def control(body):
        return defined(f"@dataclass(frozen=True)\nclass Mine(Control):\n    label = 'c'\n    def bind(self, net, train):\n        return {body}", Control=Control)

    assert described(control("1")()) != described(control("2")())
    wide = "class Mine(Variation):\n    def own(self, z):\n        return {} * z"
    subclasses = [defined(wide.format(k), Variation=Variation)(0.1) for k in (1, 2)]
    assert len({json.dumps(described(v)) for v in (*subclasses, Variation(0.1))}) == 3
    slow = "class Mine(Recipe):\n    def rate(self, done):\n        return {}"
    assert described(defined(slow.format(0.1), Recipe=Recipe)()) != described(defined(slow.format(0.2), Recipe=Recipe)())
    assert described(shared_gain(0.1)) != described(Variation(0.0, 0.1))


@pytest.fixture
def registries():
    before = dict(LAWS), dict(CELLS)
    yield
    for registry, known in zip((LAWS, CELLS), before):
        registry.clear()
        registry.update(known)


def test_registered_laws_and_distributions_are_part_of_every_key(registries):
    def keys(k):
        register_law("squared", partial(defined("def law(w, e, k):\n    return w + k * e * w.square()", "law"), k=k))
        register_cells("flat", defined(f"def cells(z, sigma):\n    return {k} * sigma * z.erf()", "cells"))
        v = Variation(0.1, law="squared", cells="flat")
        trial = Trial("fashion-mnist", "lenet5", "QAVAT", Recipe(), "A4W2", v)
        return [json.dumps(thing, sort_keys=True) for thing in (trial.config(), Measurement(trial, v).config())]

    assert keys(1) == keys(1) and all(a != b for a, b in zip(keys(1), keys(2)))
    weight = torch.ones(3)
    v, old = Variation(0.1, law="squared", cells="flat"), Variation(0.1, law="squared")
    register_law("squared", defined("def law(w, e):\n    return w", "law"))  # an object made before keeps the law that it was made with
    assert Variation(0.1, law="squared") != old and pickle.loads(pickle.dumps(Variation(0.1))) == Variation(0.1)
    assert not torch.equal(v.deviate(_chip(), "a", weight)(weight), Variation(0.1).deviate(_chip(), "a", weight)(weight))
    with pytest.raises(InputError, match="no correction is known for the law 'squared'"):
        with SelfTuning(Oracle())(torch.nn.Linear(1, 1), _chip(), v):
            pass


def _chip():
    from lib import Chip

    return Chip(3)


@pytest.mark.parametrize("call", [
    lambda: register_law("proportional", torch.add), lambda: register_cells("normal", torch.mul), lambda: register_law("x", 3),
    lambda: register_law("x", lambda w: w), lambda: register_law(3, lambda w, e: w),
])  # fmt: skip
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
    out = subprocess.run([sys.executable, "-c", code], cwd=tmp_path, env=environment(ROOT), capture_output=True, text=True)
    assert out.stdout.split() == ["mine", "True"], out.stderr


@pytest.mark.parametrize("build,parts", [
    (lambda: estimator("thing.x", thing=threading.Lock()), ["Mine.estimate", "uses the global thing", "cannot be part of a key"]),
    (lambda: estimator("helpers", helpers=type(sys)("helpers")), ["the module helpers as a whole"]),
    (lambda: defined("@dataclass(frozen=True)\nclass Mine(ReadOnce):\n    label = 'm'\n    def estimate(self, c, v):\n        import users_helpers\n        return 1"), ["imports users_helpers within itself", "at the top"]),
])  # fmt: skip
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
    for body in ("math.sqrt(2)", "np.exp(1.0)", "torch.tensor(1.0).item()", "np.random.default_rng(0).normal()", "np.linalg.norm(self.n)"):
        assert code_of(estimator(body)) == code_of(estimator(body)) != code_of(estimator("0.0"))
    assert code_of(Oracle) != code_of(ReferenceCells) and code_of(Gain) == code_of(Gain)


def test_plain_values_stay_and_others_are_refused():
    assert described((1, np.float64(0.5), None, "a")) == [1, 0.5, None, "a"] and described({"b", "a"}) == described({"a", "b"})
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
    (1, True), (1, 1.0), ({1: 2}, {"1": 2}), ({"a": 1, "b": 2}, {"b": 2, "a": 1}), ([1, 2], (1, 2)), (Point(1, 2), Turned(1, 2)),
    (Point(1, 2), (1, 2)), (Colour.RED, Colour.BLUE), (float("inf"), float("-inf")), (float("nan"), "nan"),
    (torch.ones(2, dtype=torch.bfloat16), torch.ones(2)), (partial(round, ndigits=1), partial(round, number=1)), (range(3), range(4)),
]  # fmt: skip


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
