"""An edit of the user's own code is another key, wherever it stands; one of its words alone is not."""

from functools import partial

import numpy as np
import pytest
from test_identity import ESTIMATOR, FROZEN, defined, estimator, key

from lib.identity import described

BASE = """
class Base(ReadOnce):
    def estimate(self, c, v):
        return {k}
@dataclass(frozen=True)
class Mine(Base):
    label = 'm'
"""
DECORATED = """
def deco(f):
    @wraps(f)
    def g(x):
        return {k}(1, f(x))
    return g
@deco
def h(x):
    return x
"""
TWO_HELPERS = """
def f(x):
    return x
def g(x):
    return -x
CHOSEN = {k}
"""


def pair(make, before, after):
    """What `make` gives before and after an edit, when it is called for."""
    return partial(make, before), partial(make, after)


def whole(source: str):
    """k → the estimator of this source, k filled in."""
    return lambda k: defined(source.replace("{k}", str(k)))


def using(body: str, name: str, source: str):
    """k → an estimator that returns `body`, in which `name` is what this source defines, k filled in."""
    return lambda k: estimator(body, **{name: defined(source.replace("{k}", str(k)), name)})


def returning(body: str):
    return defined(f"def helper(x):\n    return {body}", "helper")


def nested(body: str):
    """An estimator whose helper has a helper that returns this."""
    return estimator("h(3)", h=defined("def h(x):\n    return g(x)", "h", g=returning(body)))


# pairs that must differ: what a user edits, and where it stands
EDITS = {
    "a number in the method": pair(estimator, "1 * 0.5", "-1 * 0.5"),
    "an operator": pair(estimator, "self.n + 1", "self.n - 1"),
    "the name of a method": pair(estimator, "chip.seed", "chip.__hash__()"),
    "a global number": pair(lambda k: estimator("FACTOR", FACTOR=k), 1.0, 2.0),
    "a global array": pair(lambda k: estimator("TABLE[0]", TABLE=np.array([k])), 1.0, 2.0),
    "a helper": pair(lambda body: estimator("helper(3)", helper=returning(body)), "x", "-x"),
    "a helper of a helper": pair(nested, "x", "2 * x"),
    "a default argument": pair(using("h()", "h", "def h(x={k}):\n    return x"), 1, 2),
    "a closure": pair(using("h()", "h", "def make(k):\n    return lambda: k\nh = make({k})"), 1, 2),
    "a base class": pair(whole(BASE), 1, 2),
    "a class attribute": pair(whole(FROZEN + "    k = {k}"), 1, 2),
    "a property": pair(whole(FROZEN + "    @property\n    def k(self):\n        return {k}"), 1, 2),
    "what a decorator does": pair(using("h(3)", "h", DECORATED), "max", "min"),
    "which of two helpers": pair(whole(TWO_HELPERS + ESTIMATOR.replace("{body}", "(f(1), g(1), CHOSEN(1))")), "f", "g"),
    "the default of a helper's field": pair(
        using("H().k", "H", "@dataclass(slots=True)\nclass H:\n    k: float = {k}"), 1.0, 2.0
    ),
    "a default factory": pair(
        using("H().k", "H", "@dataclass\nclass H:\n    k: list = field(default_factory=lambda: [{k}])"), 1.0, 2.0
    ),
    "a helper's own __init__": pair(
        using("H().k", "H", "class H:\n    def __init__(self):\n        self.k = {k}"), 1, 2
    ),
    "an object's state": pair(using("h.k", "h", "class H:\n    pass\nh = H()\nh.k = {k}"), 1, 2),
    "an attribute of a function": pair(using("h.k", "h", "def h():\n    pass\nh.k = {k}"), 1, 2),
    "a name after _is_": pair(whole(FROZEN + "    _is_on = {k}"), 1, 2),
    "a set of names": pair(estimator, "chip in {'a', 'b'}", "chip in {'a', 'c'}"),
}


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
    other = ESTIMATOR.replace("What it does.", "In other words.").replace("Shrinks", "Grows")
    other = other.replace("return", "return  # a remark\\\n")
    assert key(estimator("1")) == key(defined(other.replace("# a remark\\\n", "").replace("{body}", "1")))
