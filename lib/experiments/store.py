"""The store: checkpoints, counts and small tables under the key of what made them.

A key is SHA-256 over the canonical configuration, the dataset fingerprint, the dtype, and the sources of the stage as
they were imported: adding a tuner keeps every checkpoint, a changed number in a formula does not.  Comments and
docstrings do not count.  Nothing is written once the sources on disk are other ones: a later run would take it for its
own.  Every file carries the SHA-256 of its content in its name and appears by one rename: a reader sees all of it or
nothing, a damaged one is noticed, and several runs may share a store.  Nothing is unpickled.
"""

import hashlib
import json
import os
import shutil
import sys
import tempfile
from collections.abc import Iterable, Iterator, Mapping
from contextlib import contextmanager, suppress
from functools import lru_cache
from pathlib import Path

import numpy as np
from safetensors import torch as safe

from ..checks import StorageError
from ..evaluation import Counts
from ..sources import MEASURING_SOURCES, SOURCES, require_unchanged, source_digest
from ..training import State

DTYPE = "float32"
CACHE_VARIABLE = "ANALOG_PIM_CACHE"
COLUMNS = ("chip", "images", "correct")
MANIFEST = "archive.json"  # of results that were unpacked here
KINDS = ("checkpoints", "progress", "counts", "tables", "folders")  # of what it holds, a folder each


def key_of(config: dict, sources: Iterable[str], texts: Mapping[str, str] = SOURCES) -> str:
    """SHA-256 (hex) over `config` and the code of the modules named, as it was imported.

    Raises LookupError for a module that does not exist, ValueError for NaN."""
    canonical = json.dumps(config, sort_keys=True, allow_nan=False)
    return hashlib.sha256((canonical + source_digest(sources, texts)).encode()).hexdigest()


class Store:
    """A folder of `KINDS`; progress holds unfinished trainings."""

    def __init__(self, folder: str | Path):
        self.folder = Path(folder)

    # -- checkpoints ------------------------------------------------------------------------------------------

    def has_checkpoint(self, key: str) -> bool:
        return self._read("checkpoints", key, ".safetensors") is not None

    def checkpoint(self, key: str) -> State | None:
        return self._state("checkpoints", key)

    def checkpoint_digest(self, key: str) -> str | None:
        """SHA-256 (16 hex digits) of the content of a checkpoint: counts of a network stay with this network, even
        where its training, done again on another processor, gives another one under the same key."""
        files = self._files("checkpoints", key)
        return files[0].name.split(".")[-2] if files else None

    def save_checkpoint(self, key: str, state: State, config: dict) -> None:
        """Store the final network (no optimizer) and drop what an unfinished training had left."""
        network = {name: tensor for name, tensor in state.items() if name.startswith("net/")}
        self._write_state("checkpoints", key, network, config)
        self._remove("progress", key)

    def progress(self, key: str) -> State | None:
        """The newest state of an unfinished training."""
        return self._state("progress", key)

    def save_progress(self, key: str, state: State, config: dict) -> None:
        old = self._files("progress", key)
        new = self._write_state("progress", key, state, config)
        for path in old:
            if path != new:
                path.unlink(missing_ok=True)

    # -- counts -----------------------------------------------------------------------------------------------

    def counts(self, key: str) -> Counts:
        """All chips measured so far under a key, in order, each once."""
        rows = [np.zeros((0, 3), np.int64)]
        for path in self._files("counts", key):
            content = self._verified(path)
            if content is not None:
                rows.append(np.loadtxt(content.decode().splitlines()[1:], np.int64, delimiter=",", ndmin=2))
        table = np.concatenate(rows)
        _, first = np.unique(table[:, 0], return_index=True)
        return Counts(*table[first].T)

    def append_counts(self, key: str, counts: Counts, config: dict) -> None:
        """Add the chips of `counts` as a file of their own; `config` says in plain words what was measured."""
        rows = np.stack([counts.chips, counts.images, counts.correct], 1)
        text = "\n".join([",".join(COLUMNS), *(",".join(map(str, row)) for row in rows.tolist())]) + "\n"
        self._write("counts", f"{key}.{rows[0, 0]:06d}", ".csv", text.encode())
        self._describe("counts", key, config)

    # -- tables -----------------------------------------------------------------------------------------------

    def table(self, key: str) -> str | None:
        """The text of a table (CSV)."""
        content = self._read("tables", key, ".csv")
        return None if content is None else content.decode()

    def save_table(self, key: str, text: str, config: dict) -> None:
        self._write("tables", key, ".csv", text.encode())
        self._describe("tables", key, config)

    # -- archives ---------------------------------------------------------------------------------------------

    def precision(self, name: str) -> str | None:
        """In which precision results were made that were unpacked here, if by this code; None for others."""
        path = self.folder / MANIFEST
        try:
            about = _manifest(path, path.stat().st_mtime_ns)
        except FileNotFoundError:
            return None
        return about["precisions"].get(name) if about["sources"] == source_digest(MEASURING_SOURCES) else None

    # -- upkeep -----------------------------------------------------------------------------------------------

    def discard(self, key: str) -> None:
        """Forget what was trained or counted under a key."""
        for kind in ("checkpoints", "progress", "counts"):
            self._remove(kind, key)

    def discard_tables(self) -> None:
        shutil.rmtree(self.folder / "tables", ignore_errors=True)

    def clean(self) -> None:
        """Delete the whole store, and its folder unless something else is in it; figures are not part of it."""
        for kind in KINDS:
            shutil.rmtree(self.folder / kind, ignore_errors=True)
        (self.folder / MANIFEST).unlink(missing_ok=True)
        with suppress(OSError):
            self.folder.rmdir()

    # -- files ------------------------------------------------------------------------------------------------

    def _files(self, kind: str, key: str) -> list[Path]:
        shelf = self._shelf(kind, key)
        try:
            names = os.listdir(shelf)  # a glob takes three times as long
        except FileNotFoundError:
            return []
        except OSError as error:
            raise _unreadable(shelf, error) from error
        return sorted(
            shelf / name for name in names if name.startswith(f"{key}.") and name.endswith((".safetensors", ".csv"))
        )

    def _shelf(self, kind: str, key: str) -> Path:
        """One of 256 folders: thousands of entries in one would make each look-up slow."""
        return self.folder / kind / key[:2]

    def _remove(self, kind: str, key: str) -> None:
        for path in self._files(kind, key):
            path.unlink(missing_ok=True)

    def _verified(self, path: Path) -> bytes | None:
        """The content, or None (reported and removed) where it does not match the checksum in the name."""
        try:
            content = path.read_bytes()
        except FileNotFoundError:  # another run has just replaced it
            return None
        except OSError as error:
            raise _unreadable(path, error) from error
        if hashlib.sha256(content).hexdigest()[:16] == path.name.split(".")[-2]:
            return content
        self._report(path)
        path.unlink(missing_ok=True)
        return None

    def _report(self, path: Path) -> None:
        print(f"damaged entry {path.name} in {path.parent}: removed, will be recomputed", file=sys.stderr)

    def _read(self, kind: str, key: str, suffix: str) -> bytes | None:
        for path in self._files(kind, key):
            if path.suffix == suffix and (content := self._verified(path)) is not None:
                return content
        return None

    def _state(self, kind: str, key: str) -> State | None:
        content = self._read(kind, key, ".safetensors")
        return None if content is None else safe.load(content)

    def _write_state(self, kind: str, key: str, state: State, config: dict) -> Path:
        tensors = {name: tensor.detach().cpu().contiguous().clone() for name, tensor in state.items()}
        about = {"config": json.dumps(config, sort_keys=True)}
        return self._write(kind, key, ".safetensors", safe.save(tensors, metadata=about))

    def _write(self, kind: str, stem: str, suffix: str, content: bytes) -> Path:
        path = self._shelf(kind, stem.partition(".")[0]) / f"{stem}.{hashlib.sha256(content).hexdigest()[:16]}{suffix}"
        self._replace(path, content)
        return path

    def _describe(self, kind: str, key: str, config: dict) -> None:
        """Beside the data, in plain words, what they are."""
        about = self._shelf(kind, key) / f"{key}.json"
        if not about.exists():
            self._replace(about, json.dumps(config, sort_keys=True, indent=1).encode())

    def _replace(self, path: Path, content: bytes) -> None:
        with self._writing():
            path.parent.mkdir(parents=True, exist_ok=True)
            with tempfile.NamedTemporaryFile(dir=path.parent, prefix=".writing-", delete=False) as file:
                try:
                    file.write(content)
                    file.close()
                    os.replace(file.name, path)
                except BaseException:
                    Path(file.name).unlink(missing_ok=True)
                    raise

    @contextmanager
    def _writing(self) -> Iterator[None]:
        require_unchanged()
        try:
            yield
        except OSError as error:
            raise StorageError(
                f"cannot write to the store {self.folder} ({error.strerror or error}); free space or rights there, or "
                f"name another folder with {CACHE_VARIABLE}; nothing stored so far is lost"
            ) from error


@lru_cache
def _manifest(path: Path, changed: int) -> dict:
    return json.loads(path.read_text("utf-8"))


def _unreadable(path: Path, error: OSError) -> StorageError:
    fix = f"see to its rights, or name another folder with {CACHE_VARIABLE}"
    return StorageError(f"cannot read {path} ({error.strerror or error}); {fix}")
