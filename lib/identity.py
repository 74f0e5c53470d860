"""What a key says of configuration, in plain values."""

from __future__ import annotations

import dataclasses
import functools
import math

import numpy as np

from .content import code_of
from .sources import MEASURING_SOURCES


def described(value):
    """A value as JSON holds it: two that compute different things never look alike.

    Plain values stay; a frozen dataclass becomes its type's name, its fields and, where its class or a function it
    `uses` is the user's own, the digest of that code; anything else becomes a digest of its content.
    Raises InputError for what no key can hold."""
    if isinstance(value, float) and not math.isfinite(value):
        return {"float": str(value)}
    if type(value) in (bool, int, float, str, type(None)):
        return value
    if isinstance(value, np.generic):
        return described(value.item())
    if type(value) is tuple:
        return [described(v) for v in value]
    if type(value) is list:
        return {"list": [described(v) for v in value]}
    if type(value) is dict:
        return {"dict": [[described(k), described(v)] for k, v in value.items()]}
    kind = type(value)
    if not dataclasses.is_dataclass(value) or isinstance(value, type):
        return {"type": kind.__qualname__, "code": code_of(value)}
    ours = kind.__module__.partition(".")[0] == __package__
    names = [f.name for f in dataclasses.fields(value) if f.init or not ours]  # ours follow from the names
    fields = {name: described(getattr(value, name)) for name in names}
    uses = vars(value).get("uses", ()) if ours else ()
    own = [code_of(thing) for thing in (kind, *uses) if not _keyed(getattr(thing, "__module__", None) or "")]
    if not own:
        return {"type": kind.__name__} | fields
    cached = {k for c in kind.__mro__ for k, v in vars(c).items() if isinstance(v, functools.cached_property)}
    fields |= {f.name: getattr(value, f.name) for f in dataclasses.fields(value) if f.name not in ("uses", *fields)}
    known = {"uses", *fields, *cached}
    beside = {k: v for k, v in getattr(value, "__dict__", {}).items() if k not in known}
    return {"type": kind.__name__, "fields": fields, "beside": described(beside), "code": own}


def _keyed(module: str) -> bool:
    """Whether a module of this package enters every key of a measurement anyway."""
    package, _, name = module.partition(".")
    return package == __package__ and name in MEASURING_SOURCES
