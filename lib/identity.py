"""What a key says of values and of code: configuration in plain values, and the code that really runs.

The sources of this package are read once, when it is imported: keys speak of the code in memory, and `require_unchanged`
refuses to go on where the files on disk are other ones by now.  A class or function of the user's own counts by its
compiled code and all of his that it reaches, so an edited `estimate` in a cell or a file gives another key.
"""

from __future__ import annotations

import ast
import collections
import dataclasses
import dis
import functools
import hashlib
import importlib.util
import json
import math
import sys
import types
from collections.abc import Iterable, Iterator, Mapping
from enum import Enum
from pathlib import Path
from pickle import PicklingError, dumps

import numpy as np
import torch

from .checks import InputError, RunError

FOLDER = Path(__file__).resolve().parent
TRAINING_SOURCES = (
    "checks", "quantizers", "variation", "analog", "conversion", "networks", "folders", "data", "classify", "folding",
    "batch_norm", "training", "post_training", "trials",
)  # fmt: skip
MEASURING_SOURCES = (*TRAINING_SOURCES, "evaluation", "selftuning", "controls")


def _stamp(path: Path) -> tuple[int, int]:
    about = path.stat()
    return about.st_mtime_ns, about.st_size


_STAMPS = {path.stem: _stamp(path) for path in sorted(FOLDER.glob("*.py"))}
SOURCES = {name: (FOLDER / f"{name}.py").read_text("utf-8") for name in _STAMPS}  # as imported


# -- this package ---------------------------------------------------------------------------------------------


def source_digest(names: Iterable[str], sources: Mapping[str, str] = SOURCES) -> str:
    """SHA-256 (hex) over the code of the modules named, without comments, layout and docstrings.

    Raises LookupError for a module that does not exist: it would count for nothing, silently."""
    names = tuple(names)
    for name in names:
        if name not in sources:
            raise LookupError(f"no module {name!r} among the sources of {__package__}")
    return _digest(names, tuple(sources[name] for name in names))


@functools.lru_cache(None)
def _digest(names: tuple[str, ...], texts: tuple[str, ...]) -> str:
    return _sha("".join(f"{name}\n{_code_only(text)}\n" for name, text in zip(names, texts)).encode())


@functools.lru_cache(None)
def _code_only(source: str) -> str:
    """The syntax tree as text, without docstrings."""
    tree = ast.parse(source)
    for node in ast.walk(tree):
        if isinstance(node, (ast.Module, ast.ClassDef, ast.FunctionDef)) and ast.get_docstring(node, clean=False) is not None:
            node.body = node.body[1:]
    return ast.dump(tree)


def require_unchanged(names: Iterable[str] = MEASURING_SOURCES) -> None:
    """RunError where the code of a module on disk is no longer the one that was imported."""
    for name in names:
        path = FOLDER / f"{name}.py"
        try:
            same = _stamp(path) == _STAMPS[name] or _code_only(path.read_text("utf-8")) == _code_only(SOURCES[name])
        except (OSError, SyntaxError):
            same = False
        if not same:
            raise RunError(
                f"{path.parent.name}/{path.name} has changed on disk since it was imported, so no result is stored under its "
                "name; start again (a notebook: restart the kernel); nothing stored so far is lost"
            )


# -- values ---------------------------------------------------------------------------------------------------


PLAIN = (bool, int, float, str, type(None))


def described(value):
    """A value as JSON holds it: two that compute different things never look alike.

    Plain values stay; a frozen dataclass becomes its type's name, its fields and, where its class or a function it `uses`
    is the user's own, the digest of that code.  Raises InputError for what no key can hold."""
    if isinstance(value, float) and not math.isfinite(value):
        return {"float": str(value)}
    if type(value) in PLAIN:
        return value
    if isinstance(value, np.generic):
        return described(value.item())
    if type(value) is tuple:
        return [described(v) for v in value]
    if type(value) is list:
        return {"list": [described(v) for v in value]}
    if type(value) in (set, frozenset):
        return {"set": sorted((described(v) for v in value), key=repr)}
    if type(value) is dict:
        return {"dict": [[described(k), described(v)] for k, v in value.items()]}
    if isinstance(value, torch.Tensor):
        whole = value.detach().cpu().contiguous().view(-1)
        return [str(value.dtype), list(value.shape), _sha(whole.view(torch.uint8).numpy().tobytes() if whole.numel() else b"")]
    if type(value) is np.ndarray and value.dtype != object:
        return [f"torch.{value.dtype}", list(value.shape), _sha(np.ascontiguousarray(value).tobytes())]
    if isinstance(value, CODE):
        return code_of(value)
    kind = type(value)
    if dataclasses.is_dataclass(value):
        fields = {f.name: described(getattr(value, f.name)) for f in dataclasses.fields(value) if f.name != "uses"}
        own = [code_of(thing) for thing in (kind, *getattr(value, "uses", ())) if not _keyed(getattr(thing, "__module__", None) or "")]
        return {"type": kind.__name__} | fields | ({"code": own} if own else {})
    return {"type": kind.__qualname__, "code": code_of(kind), "state": _state(value)}


def _state(value):
    """The content of an object of any other class: of the user's own by its attributes, else by its pickle."""
    if isinstance(value, Enum):
        return [value.name, described(value.value)]
    try:
        if _installed(type(value).__module__) is None and hasattr(value, "__dict__"):
            base = next((b for b in (*PLAIN[1:4], tuple, list, dict) if isinstance(value, b)), None)
            return [described(base(value)) if base else None, described(dict(vars(value)))]
        return _sha(dumps(value))
    except (PicklingError, TypeError, AttributeError, RecursionError) as error:
        raise InputError(
            f"{value!r:.60} of type {type(value).__name__} cannot be part of a key ({error}); allowed: numbers, text, arrays, "
            "functions, frozen dataclasses, and tuples or dictionaries of them"
        ) from None


def _sha(content: bytes) -> str:
    return hashlib.sha256(content).hexdigest()


def _keyed(module: str) -> bool:
    """Whether a module of this package enters every key of a measurement anyway."""
    return module.partition(".")[0] == __package__ and module.rpartition(".")[2] in MEASURING_SOURCES


# -- code of the user's own -----------------------------------------------------------------------------------


BUILT_IN = (types.BuiltinFunctionType, types.MethodDescriptorType, types.WrapperDescriptorType, types.ClassMethodDescriptorType, np.ufunc)
CODE = (types.FunctionType, type, types.MethodType, types.ModuleType, functools.partial, functools._lru_cache_wrapper, *BUILT_IN)


def code_of(thing) -> str:
    """SHA-256 (16 hex digits) over the compiled code of a class or function, of its bases, defaults and closures, and of the
    globals it uses, as far as they are the user's own; of what is installed its name and version.

    Compiled code rather than source text: it is there in every shell, and an edited file does not change it.
    Raises InputError for a global that no key can hold, and for a user's module imported within a function."""
    return _sha("\n".join(_parts(thing, {})).encode())[:16]


def _parts(thing, seen: dict[int, tuple[int, object]]) -> Iterator[str]:
    """seen: id → (number, the object itself, which keeps its id its own)."""
    if not isinstance(thing, CODE):
        yield json.dumps(described(thing), sort_keys=True)
        return
    if id(thing) in seen:
        yield f"as number {seen[id(thing)][0]}"
        return
    seen[id(thing)] = len(seen), thing
    if isinstance(thing, functools._lru_cache_wrapper):
        yield from _parts(thing.__wrapped__, seen)
    elif isinstance(thing, functools.partial):
        yield str(sorted(thing.keywords))
        for part in (thing.func, *thing.args, *(thing.keywords[k] for k in sorted(thing.keywords))):
            yield from _parts(part, seen)
    elif isinstance(thing, types.MethodType):
        for part in (thing.__func__, thing.__self__):
            yield from _parts(part, seen)
    elif isinstance(thing, BUILT_IN):
        yield f"{getattr(thing, '__module__', None)} {getattr(thing, '__qualname__', thing)}"
    elif isinstance(thing, types.ModuleType):
        if (installed := _installed(thing.__name__)) is None:
            raise InputError(f"the module {thing.__name__} as a whole cannot be part of a key; use names of it, as in {thing.__name__}.f(x)")
        yield installed
    elif (installed := _installed(thing.__module__ or "")) is not None:
        yield f"{installed} {thing.__qualname__}"
    else:
        yield from (_class if isinstance(thing, type) else _function)(thing, seen)


def _installed(module: str) -> str | None:
    """Name and version of a module that is not the user's own; of a module of this package that no key holds, its digest."""
    top, name = module.partition(".")[0], module.rpartition(".")[2]
    if top in ("", "__main__"):  # executed without a name, or in a notebook, whose main module is that of its kernel
        return None
    if top == __package__:
        return module if name in MEASURING_SOURCES or name == top else f"{module} {source_digest([name])}"
    if top in sys.stdlib_module_names:
        return module
    found = sys.modules.get(top)
    file = getattr(found, "__file__", None) if found else getattr(importlib.util.find_spec(top), "origin", None)
    if file and {"site-packages", "dist-packages"} & set(Path(file).parts):
        return f"{module} {getattr(found, '__version__', '')}"
    return None


def _function(f: types.FunctionType, seen: dict) -> Iterator[str]:
    yield from _code(f.__code__, f.__doc__)
    for value in (*(f.__defaults__ or ()), *(f.__kwdefaults__ or {}).values(), *(v for k, v in sorted(vars(f).items()) if k != "__wrapped__")):
        yield from _parts(value, seen)
    for cell in f.__closure__ or ():
        yield from _parts(cell.cell_contents, seen)
    for name, value in _globals(f.__code__, f.__globals__):
        try:
            yield from [name, *_parts(value, seen)]
        except InputError as error:
            raise InputError(f"{f.__qualname__} uses the global {name}: {error}") from None


def _code(code: types.CodeType, doc: str | None = None) -> Iterator[str]:
    """Instructions, names and constants; the docstring does not count."""
    yield f"{code.co_name} {code.co_code.hex()} {code.co_names} {code.co_varnames} {code.co_freevars}"
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
                raise InputError(f"{code.co_name} imports {step.argval or 'a module'} within itself; import it at the top, so that a key can hold its code")
            yield step.argval, _installed(step.argval)
        if step.opname not in ("LOAD_GLOBAL", "LOAD_NAME") or step.argval not in names:
            continue
        name, value = step.argval, names[step.argval]
        for following in steps[i + 1 :]:
            if not (isinstance(value, types.ModuleType) and following.opname in ("LOAD_ATTR", "LOAD_METHOD")):
                break
            if not hasattr(value, following.argval):
                break
            name, value = f"{name}.{following.argval}", getattr(value, following.argval)
        yield name, value
    for constant in code.co_consts:
        if isinstance(constant, types.CodeType):
            yield from _globals(constant, names)


_ASIDE = (  # of a class: what follows from the fields, or from the bases
    "__dict__", "__weakref__", "__doc__", "__module__", "__annotations__", "__dataclass_fields__", "__dataclass_params__", "__match_args__",
    "__slots__", "__slotnames__", "__parameters__", "__abstractmethods__", "_abc_impl", "_is_protocol", "_is_runtime_protocol", "__protocol_attrs__",
    "__non_callable_proto_members__", "__orig_bases__", "__firstlineno__", "__static_attributes__", "__annotate__", "__annotate_func__",
)  # fmt: skip
_GENERATED = ("__init__", "__repr__", "__eq__", "__hash__", "__setattr__", "__delattr__", "__replace__", "__lt__", "__le__", "__gt__", "__ge__", "__getstate__", "__setstate__")


def _class(kind: type, seen: dict) -> Iterator[str]:
    """Bases, defaults of fields, methods and attributes."""
    yield kind.__qualname__
    for base in kind.__bases__:
        yield from _parts(base, seen)
    own = vars(kind)
    if issubclass(kind, (Enum, tuple)):  # of what Python makes for these, their names and values tell
        yield repr([(m.name, m.value) for m in kind]) if issubclass(kind, Enum) else repr(getattr(kind, "_fields", ()))
        own = {k: v for k, v in own.items() if getattr(v, "__module__", None) == kind.__module__ and isinstance(v, types.FunctionType)}
        own = {k: v for k, v in own.items() if v.__code__.co_filename not in ("<string>", collections.__file__)}
    for field in own.get("__dataclass_fields__", {}).values():
        for value in (field.name, field.default, field.default_factory):
            yield from _parts("none" if isinstance(value, type(dataclasses.MISSING)) else value, seen)
    for name, member in sorted(own.items()):
        if isinstance(member, (staticmethod, classmethod)):
            member = member.__func__
        elif isinstance(member, (property, functools.cached_property)):
            member = getattr(member, "fget", None) or member.func
        generated = "__dataclass_params__" in own and name in _GENERATED
        generated = generated and (not isinstance(member, types.FunctionType) or member.__code__.co_filename in ("<string>", dataclasses.__file__))
        if generated or name in _ASIDE or isinstance(member, (types.MemberDescriptorType, types.GetSetDescriptorType)):
            continue
        try:
            yield from [name, *_parts(member, seen)]
        except InputError as error:
            raise InputError(f"{kind.__qualname__}.{name}: {error}") from None
