"""A digest of code and content of the user's own, as far as a result can depend on it.

Code counts as it was compiled, rather than by its text: it is there in every shell, and an edited file does not change
it.  A function counts with its defaults, closure and globals, a class with its bases and members, an object with its
state, each as deep as it goes; of what is installed, name and version.
"""

from __future__ import annotations

import collections
import copyreg
import dataclasses
import dis
import enum
import functools
import hashlib
import importlib.metadata
import importlib.util
import sys
import types
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import torch

from .checks import InputError
from .sources import MEASURING_SOURCES, SOURCES, source_digest

PLAIN = (bool, int, float, str, bytes, complex, type(None), type(Ellipsis), type(NotImplemented))
BUILT_IN: tuple[type, ...] = (types.BuiltinFunctionType, types.MethodDescriptorType, types.WrapperDescriptorType)
BUILT_IN += (types.ClassMethodDescriptorType, types.MethodWrapperType, np.ufunc)
BUILT_IN += (torch.dtype, torch.device, torch.layout, torch.memory_format)
# files of methods that Python makes
MACHINERY = ("<string>", dataclasses.__file__, enum.__file__, collections.__file__)
ASIDE = frozenset(  # of a class: what follows from its fields or bases, or is left behind by its use
    "__dict__ __weakref__ __doc__ __module__ __annotations__ __dataclass_fields__ __dataclass_params__ __match_args__ "
    "__slots__ __slotnames__ __parameters__ __abstractmethods__ _abc_impl _is_protocol _is_runtime_protocol "
    "__protocol_attrs__ __non_callable_proto_members__ __orig_bases__ __firstlineno__ __static_attributes__ "
    "__annotate__ __annotate_func__ __repr__".split()
)
MADE = frozenset(
    "__init__ __eq__ __hash__ __setattr__ __delattr__ __replace__ __lt__ __le__ __gt__ __ge__ __getstate__ "
    "__setstate__ __new__ _make _replace _asdict __getnewargs__".split()
)
MISSING = type(dataclasses.MISSING)

Seen = dict[int, tuple[int, object]]  # id → (number, the object itself, which keeps its id its own)


def code_of(thing) -> str:
    """SHA-256 (16 hex digits) over code and content of anything.

    Raises InputError for what has no content that stays (a file, a lock), and for a user's module as a whole or
    imported within a function."""
    try:
        return hashlib.sha256("\n".join(_parts(thing, {})).encode()).hexdigest()[:16]
    except RecursionError:
        raise InputError(f"{thing!r:.60} is nested too deep to be part of a key") from None


def _parts(thing, seen: Seen) -> Iterator[str]:
    if type(thing) in PLAIN:
        yield repr(thing)
        return
    if isinstance(thing, BUILT_IN):
        owner = getattr(thing, "__self__", None)
        yield f"{getattr(thing, '__module__', None)} {getattr(thing, '__qualname__', thing)}"
        if owner is not None and not isinstance(owner, (type, types.ModuleType)):
            yield from _parts(owner, seen)
        if isinstance(thing, np.ufunc) and getattr(np, thing.__name__, thing) is not thing:
            raise InputError(f"{thing!r} cannot be part of a key; write it as a function")
        return
    if id(thing) in seen:
        yield f"as number {seen[id(thing)][0]}"
        return
    seen[id(thing)] = len(seen), thing
    yield from _of_its_kind(thing, seen)


def _of_its_kind(thing, seen: Seen) -> Iterator[str]:
    kind = type(thing)
    if kind in (tuple, list):
        yield f"{kind.__name__} of {len(thing)}"
        for part in thing:
            yield from _parts(part, seen)
    elif kind is dict:
        yield f"dict of {len(thing)}"
        for pair in thing.items():
            for part in pair:
                yield from _parts(part, seen)
    elif kind in (set, frozenset):
        yield from (kind.__name__, *sorted(code_of(part) for part in thing))
    elif isinstance(thing, torch.Tensor):
        if thing.layout is not torch.strided:
            raise InputError("a sparse tensor cannot be part of a key; give thing.to_dense()")
        whole = thing.detach().cpu().resolve_conj().resolve_neg().contiguous().view(-1)
        held = whole.view(torch.uint8).numpy().tobytes() if whole.numel() else b""
        yield f"{thing.dtype} {tuple(thing.shape)} {_sha(held)}"
    elif kind is np.ndarray and thing.dtype != object:
        yield f"torch.{thing.dtype} {thing.shape} {_sha(np.ascontiguousarray(thing).tobytes())}"
    elif isinstance(thing, functools._lru_cache_wrapper):
        yield from _parts(thing.__wrapped__, seen)
    elif isinstance(thing, types.MethodType):
        for part in (thing.__func__, thing.__self__):
            yield from _parts(part, seen)
    elif isinstance(thing, types.ModuleType):
        if (installed := _installed(thing.__name__)) is None:
            refusal = f"the module {thing.__name__} as a whole cannot be part of a key"
            raise InputError(f"{refusal}; use names of it, as in {thing.__name__}.f(x)")
        yield installed
    elif isinstance(thing, (types.FunctionType, type)):
        # of a compiled metaclass it is something else than text
        home = thing.__module__ if isinstance(thing.__module__, str) else ""
        if (installed := _installed(home or (type(thing).__module__ if isinstance(thing, type) else ""))) is not None:
            yield f"{installed} {thing.__qualname__}"
        else:
            yield from _class(thing, seen) if isinstance(thing, type) else _function(thing, seen)
    elif isinstance(thing, enum.Enum):
        yield f"member {thing.name}"
        yield from _parts(kind, seen)
    else:
        yield from _object(thing, seen)


def _object(thing, seen: Seen) -> Iterator[str]:
    """What pickling would write of it, except that code counts by its content and not by its name."""
    if isinstance(thing, (np.random.RandomState, np.random.Generator, torch.Generator)):
        yield type(thing).__name__  # its state moves with every use, and every distribution of scipy holds one
        return
    try:
        reduce = copyreg.dispatch_table.get(type(thing))
        reduced = reduce(thing) if reduce else thing.__reduce_ex__(4)
    except Exception as error:  # __reduce_ex__ is anybody's
        raise InputError(
            f"{thing!r:.60} of type {type(thing).__name__} cannot be part of a key ({error}); allowed: numbers, text, "
            "arrays, functions, frozen dataclasses, and tuples or dictionaries of them"
        ) from None
    yield from _parts(type(thing), seen)
    if isinstance(reduced, str):
        yield reduced
        return
    for part in reduced:
        yield from _parts(list(part) if isinstance(part, Iterator) else part, seen)


def _sha(content: bytes) -> str:
    return hashlib.sha256(content).hexdigest()


@functools.lru_cache(None)
def _installed(module: str) -> str | None:
    """Name and version of a module that is not the user's own; of one of ours that no key holds, its digest."""
    top, _, name = module.partition(".")
    if top in ("", "__main__"):  # executed without a name, or in a notebook, whose main module is that of its kernel
        return None
    if top == __package__:
        if not name or name in MEASURING_SOURCES:
            return _spelled(module)
        return f"{_spelled(module)} {source_digest([name if name in SOURCES else f'{name}.__init__'])}"
    if top in sys.stdlib_module_names:
        return module
    found = sys.modules.get(top)
    try:
        file = getattr(found, "__file__", None) if found else getattr(importlib.util.find_spec(top), "origin", None)
    except ValueError:
        file = None
    if file and {"site-packages", "dist-packages"} & set(Path(file).parts):
        return f"{module} {_version(top)}"
    return None


def _spelled(name: str) -> str:
    """A dotted name as keys hold it: this package is `lib` there, under whichever name it was imported."""
    top, dot, rest = name.partition(".")
    return f"lib{dot}{rest}" if top == __package__ else name


def _version(top: str) -> str:
    """Of the distribution that an importable name belongs to, loaded or not."""
    try:
        return importlib.metadata.version(top)
    except importlib.metadata.PackageNotFoundError:
        return " ".join(
            importlib.metadata.version(name) for name in importlib.metadata.packages_distributions().get(top, ())
        )


# -- functions and classes ------------------------------------------------------------------------------------


def _function(f: types.FunctionType, seen: Seen) -> Iterator[str]:
    yield from _code(f.__code__, f.__doc__)
    attributes = {k: v for k, v in vars(f).items() if k != "__wrapped__"}
    for part in (f.__defaults__, f.__kwdefaults__, attributes, *(cell.cell_contents for cell in f.__closure__ or ())):
        yield from _parts(part, seen)
    for name, value in _globals(f.__code__, f.__globals__):
        try:
            yield from [name, *_parts(value, seen)]
        except InputError as error:
            raise InputError(f"{f.__qualname__} uses the global {name}: {error}") from None


def _code(code: types.CodeType, doc: str | None = None) -> Iterator[str]:
    """Instructions, signature, names and constants; the docstring does not count."""
    names, local, free = (tuple(map(_spelled, part)) for part in (code.co_names, code.co_varnames, code.co_freevars))
    yield f"{code.co_name} {code.co_code.hex()} {code.co_exceptiontable.hex()} {names} {local} {free}"
    yield f"{code.co_argcount} {code.co_posonlyargcount} {code.co_kwonlyargcount} {code.co_flags}"
    for i, constant in enumerate(code.co_consts):
        if isinstance(constant, types.CodeType):
            yield from _code(constant)
        elif not (i == 0 and constant == doc):
            yield repr(sorted(map(repr, constant)) if isinstance(constant, frozenset) else constant)


def _globals(code: types.CodeType, names: dict) -> Iterator[tuple[str, object]]:
    """(dotted name, value) of each global that some code uses, through modules to what it takes of them."""
    steps = list(dis.get_instructions(code))
    for i, step in enumerate(steps):
        if step.opname == "IMPORT_NAME":
            if _installed(step.argval) is None:
                imports = f"{code.co_name} imports {step.argval or 'a module'} within itself"
                raise InputError(f"{imports}; import it at the top, so that a key can hold its code")
            yield _spelled(step.argval), _installed(step.argval)
        if step.opname not in ("LOAD_GLOBAL", "LOAD_NAME") or step.argval not in names:
            continue
        name, value = step.argval, names[step.argval]
        for following in steps[i + 1 :]:
            if not (isinstance(value, types.ModuleType) and following.opname in ("LOAD_ATTR", "LOAD_METHOD")):
                break
            if not hasattr(value, following.argval):
                break
            name, value = f"{name}.{following.argval}", getattr(value, following.argval)
        yield _spelled(name), value
    for constant in code.co_consts:
        if isinstance(constant, types.CodeType):
            yield from _globals(constant, names)


def _class(kind: Any, seen: Seen) -> Iterator[str]:
    """Bases, metaclass, defaults of fields, methods and attributes."""
    yield kind.__qualname__
    named = issubclass(kind, tuple) and hasattr(kind, "_fields")
    parts: list = [*kind.__bases__, type(kind)]
    parts += [(f.name, f.default, f.default_factory) for f in vars(kind).get("__dataclass_fields__", {}).values()]
    parts += [(kind._fields, kind._field_defaults)] if named else []
    parts += [[(name, m._value_) for name, m in kind.__members__.items()]] if issubclass(kind, enum.Enum) else []
    for part in parts:
        part = tuple("none" if isinstance(p, MISSING) else p for p in part) if isinstance(part, tuple) else part
        yield from _parts(part, seen)
    for name, member in sorted(vars(kind).items()):
        if name in ASIDE or _made(kind, name, member, named):
            continue
        for part in _unwrapped(member):
            try:
                yield from [f"{type(member).__name__} {name}", *_parts(part, seen)]
            except InputError as error:
                raise InputError(f"{kind.__qualname__}.{name}: {error}") from None


def _unwrapped(member) -> list:
    """The functions within a descriptor."""
    if isinstance(member, (staticmethod, classmethod)):
        return [member.__func__]
    if isinstance(member, property):
        return [f for f in (member.fget, member.fset, member.fdel) if f is not None]
    return [member.func] if isinstance(member, functools.cached_property) else [member]


def _made(kind: Any, name: str, member, named: bool) -> bool:
    """Whether Python made a member from what counts already."""
    if isinstance(member, (types.MemberDescriptorType, types.GetSetDescriptorType)) or (named and name in kind._fields):
        return True
    first = _unwrapped(member)[0]
    code = getattr(first, "__code__", None)
    if issubclass(kind, enum.Enum):  # its members and machinery are no functions of the user's
        return code is None or code.co_filename == enum.__file__
    if named and name.startswith("_") and code is None:
        return True
    made = name in MADE and (named or "__dataclass_params__" in vars(kind))
    return made and (code is None or code.co_filename in MACHINERY)
