"""The sources of this package as they were imported: what keys are made of, and whether the files are still the same.

They are read once, with the package: keys speak of the code in memory, and `require_unchanged` refuses to go on where
the files on disk are other ones by now.  A module is named as below the package: "training", "experiments.store".
"""

from __future__ import annotations

import ast
import functools
import hashlib
from collections.abc import Iterable, Mapping
from pathlib import Path

from .checks import RunError

FOLDER = Path(__file__).resolve().parent
PACKAGE = __package__  # "lib" or "analog_pim", as it was imported
TRAINING_SOURCES = tuple(
    "checks torch_internals quantizers arrays laws variation analog precision conversion networks folders data "
    "classify folding batch_norm training post_training trials".split()
)
MEASURING_SOURCES = (*TRAINING_SOURCES, *"kept evaluation estimators columns selftuning controls converter".split())


def _stamp(path: Path) -> tuple[int, int]:
    about = path.stat()
    return about.st_mtime_ns, about.st_size


def path_of(name: str) -> Path:
    """The file of a module: "experiments.store" → lib/experiments/store.py."""
    return FOLDER.joinpath(*name.split(".")).with_suffix(".py")


def _modules() -> list[str]:
    """Every module of the package, room by room; no lock, backup or checkpoint of an editor."""
    paths = [path.relative_to(FOLDER).with_suffix("").parts for path in sorted(FOLDER.rglob("*.py"))]
    return [".".join(parts) for parts in paths if not any(part.startswith(".") for part in parts)]


_STAMPS = {name: _stamp(path_of(name)) for name in _modules()}
SOURCES = {name: path_of(name).read_text("utf-8") for name in _STAMPS}  # as imported


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
    return hashlib.sha256(
        "".join(f"{name}\n{_code_only(text)}\n" for name, text in zip(names, texts)).encode()
    ).hexdigest()


@functools.lru_cache(None)
def _code_only(source: str) -> str:
    """The syntax tree as text, without docstrings; of a file that is no Python, its text."""
    try:
        tree = ast.parse(source)
    except SyntaxError:
        return source
    for node in ast.walk(tree):
        if (
            isinstance(node, (ast.Module, ast.ClassDef, ast.FunctionDef))
            and ast.get_docstring(node, clean=False) is not None
        ):
            node.body = node.body[1:]
    return ast.dump(tree)


def require_unchanged(names: Iterable[str] = MEASURING_SOURCES) -> None:
    """RunError where the code of a module on disk is no longer the one that was imported."""
    for name in names:
        path = path_of(name)
        try:
            same = _stamp(path) == _STAMPS[name] or _code_only(path.read_text("utf-8")) == _code_only(SOURCES[name])
        except (OSError, UnicodeDecodeError):
            same = False
        if not same:
            raise RunError(
                f"{path.relative_to(FOLDER.parent)} has changed on disk since it was imported, so no result is stored "
                "under its name; start again (a notebook: restart the kernel); nothing stored so far is lost"
            )
