"""Keys of a user's code are the same in other processes, with other hash seeds, after a journey, and after use."""

import subprocess
import sys

import pytest
from conftest import ROOT, environment, replaced

SCRIPT = """
import enum, functools, logging, math, sys
from collections import OrderedDict, namedtuple
from dataclasses import dataclass
import numpy as np, torch
from scipy.stats import norm
from torch import nn
from lib.content import code_of
from lib.estimators import ReadOnce

class Level(enum.Enum):
    LOW = frozenset({"a", "b", "c"})
    HIGH = 2
    @property
    def up(self):
        return 1

Pair = namedtuple("Pair", "a b")
class Slots:
    __slots__ = ("k",)
slots = Slots(); slots.k = 3
def h(x):
    return x
vectorized, table, chosen = np.vectorize(h), OrderedDict(a=h, b={"x", "y", "z"}), Pair(1, 2)
layer = nn.Linear(2, 2); nn.init.ones_(layer.weight); nn.init.zeros_(layer.bias)
log = logging.getLogger("mine")
class Single:
    def f(self):
        return DEFAULT
DEFAULT = Single()
def first(x):
    return TABLE["first"](x) if x > 9 else x
TABLE = {"first": first}
@functools.cache
def slow(x):
    return x

@dataclass(frozen=True)
class Mine(ReadOnce):
    label = "mine"
    def estimate(self, chip, variation):
        from scipy.special import erfinv
        slow(1)
        called = norm.ppf(0.5), vectorized(1), first(1), erfinv(0.1)
        return [called, Level.LOW, chosen, slots.k, table, layer, log, DEFAULT, math.pi]
"""
PRINT = """
print(code_of(Mine), code_of(Mine()))
Mine().estimate(None, None)
print(code_of(Mine), code_of(Mine()))
"""
JOURNEY = """
from distributed.protocol.pickle import dumps, loads
import lib.experiments.cluster
m = loads(dumps(Mine()))
print(code_of(type(m)), code_of(m))
"""


def run(tmp_path, code, seed):
    (tmp_path / "script.py").write_text(code)
    env = environment(ROOT) | {"PYTHONHASHSEED": seed}
    out = subprocess.run([sys.executable, "script.py"], cwd=tmp_path, env=env, capture_output=True, text=True)
    assert out.returncode == 0, out.stderr
    return out.stdout.splitlines()


def test_the_same_code_has_the_same_key_everywhere(tmp_path):
    lines = [line for seed in ("0", "1") for line in run(tmp_path, SCRIPT + PRINT + JOURNEY, seed)]
    assert len(lines) == 6 and len(set(lines)) == 1, lines


EDITS = [
    ("HIGH = 2", "HIGH = 3"),
    ("        return 1\n\nPair", "        return 2\n\nPair"),
    ("np.vectorize(h), ", "np.vectorize(abs), "),
    ("slots.k = 3", "slots.k = 4"),
    ("def h(x):\n    return x", "def h(x):\n    return -x"),
    ('"x", "y", "z"', '"x", "y"'),
    ("Pair(1, 2)", "Pair(1, 3)"),
    ("ones_(layer.weight)", "zeros_(layer.weight)"),
    ("if x > 9 else x", "if x > 9 else -x"),
    ("def slow(x):\n    return x", "def slow(x):\n    return 2 * x"),
    ("        return DEFAULT", "        return not DEFAULT"),
]


@pytest.mark.parametrize("old,new", EDITS)
def test_and_every_edit_another(old, new):
    def key(source):
        space = {"__name__": "users_own"}
        exec(source, space)
        return space["code_of"](space["Mine"])

    assert key(SCRIPT) == key(SCRIPT) != key(replaced(SCRIPT, old, new))


TRY = "def f():\n    try:\n        a()\n"
NAMED = "from typing import NamedTuple\nclass f(NamedTuple):\n    k: float = "
METHOD = "class f:\n    @{}method\n    def g(x):\n        return x"
GETTER = "class f:\n    @property\n    def g(self):\n        return 1\n"
SETTER = GETTER + "    @g.setter\n    def g(self, v):\n        self.v = "
PAIRS = [
    ("def f(*x):\n    return max(x)", "def f(x):\n    return max(x)"),
    ("def f(a, b):\n    return a - b", "def f(a, *, b):\n    return a - b"),
    (
        TRY + "        b()\n    except ValueError:\n        return 0\n    return 1",
        TRY + "    except ValueError:\n        return 0\n    else:\n        b()\n    return 1",
    ),
    ("class f(tuple):\n    k = 1", "class f(tuple):\n    k = 2"),
    (NAMED + "1.0", NAMED + "2.0"),
    ("class S(set):\n    pass\nf = S([1])", "class S(set):\n    pass\nf = S([2])"),
    ("t = {1: 2}\nf = t.get", "t = {1: 3}\nf = t.get"),
    (METHOD.format("static"), METHOD.format("class")),
    (SETTER + "v", SETTER + "-v"),
]


@pytest.mark.parametrize("a,b", PAIRS)
def test_what_bytecode_alone_does_not_tell_counts_too(a, b):
    from lib.content import code_of

    keys = []
    for source in (a, b, a):
        space = {"__name__": "users_own"}
        exec(source, space)
        keys.append(code_of(space["f"]))
    assert keys[0] == keys[2] != keys[1]


def test_fields_of_any_name_count():
    from dataclasses import dataclass

    from lib.identity import described

    @dataclass(frozen=True)
    class Odd:
        code: int = 1
        type: int = 1
        uses: int = 1
        fields: int = 1

    assert len({str(described(Odd(*(1 + (i == j) for j in range(4))))) for i in range(5)}) == 5
