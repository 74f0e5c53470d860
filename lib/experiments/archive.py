"""The stored results of a profile as one file, for a class: made once, unpacked on every laptop.

Keys hold the precision of a training and a Monte Carlo, which is the best of the machine that asks: elsewhere it may be
another one, and nothing would be found.  So an archive says for every network which precision its results were made in,
and the store that holds it answers for these networks in that precision, as long as the code is the same.
"""

import gzip
import io
import json
import platform
import tarfile
from collections.abc import Iterable
from pathlib import Path

import torch

from ..checks import InputError, RunError
from ..evaluation import best_precision
from ..precision import training_precision
from ..sources import MEASURING_SOURCES, source_digest
from ..torch_internals import multiplies_bfloat16
from ..trials import Measurement
from . import engine
from . import keys as naming
from .settings import Settings
from .store import MANIFEST

KEPT = ("checkpoints", "counts", "tables")


def pack(measurements: Iterable[Measurement], others: Iterable[str], settings: Settings, path: str | Path) -> int:
    """Write everything that `measurements` stand on, and entries whose key begins with one of `others`, into a .tar.gz.

    Returns how many files went in.  The same store gives the same bytes.
    Raises RunError where the store lacks something, or cannot be read."""
    wanted = list(measurements)
    work = engine.missing(wanted, settings)
    if work.trials or work.measurements:
        lacking = f"{len(work.trials)} trainings and {len(work.measurements)} measurements"
        raise RunError(f"the store lacks {lacking}; run ./run_all.sh with the same options first")
    keys = {engine.trial_key(m.trial, settings) for m in wanted} | {engine.measurement_key(m, settings) for m in wanted}
    folder, beginnings = settings.store.folder, tuple(others)
    files = [p for kind in KEPT for p in sorted((folder / kind).glob("??/*")) if not p.name.startswith(".")]
    files = [p for p in files if _wanted(p, keys, beginnings)]
    try:
        with open(path, "wb") as raw, gzip.GzipFile("", "wb", mtime=0, fileobj=raw) as packed:
            archive = tarfile.open(fileobj=packed, mode="w")  # noqa: SIM115  # ends with the file around it
            _add(archive, MANIFEST, json.dumps(manifest(wanted, settings), indent=1).encode())
            for file in files:
                _add(archive, file.relative_to(folder).as_posix(), file.read_bytes())
            archive.close()
    except OSError as error:
        raise RunError(f"cannot write {path} ({error.strerror}); free space or rights there") from error
    return len(files)


def _wanted(path: Path, keys: set, beginnings: tuple[str, ...]) -> bool:
    return path.parts[-3] == "tables" or path.name.partition(".")[0] in keys or path.name.startswith(beginnings)


def _add(archive: tarfile.TarFile, name: str, content: bytes) -> None:
    about = tarfile.TarInfo(name)
    about.size = len(content)
    archive.addfile(about, io.BytesIO(content))


def manifest(measurements: Iterable[Measurement], settings: Settings) -> dict:
    """On what the results were made, by which code, and the precision of every network."""
    precisions = {}
    for trial in {m.trial for m in measurements}:
        for best in (training_precision, best_precision):
            precisions[naming.named(trial, best)] = naming.precision(trial, settings, best)
    return {
        "sources": source_digest(MEASURING_SOURCES),
        "torch": torch.__version__,
        "processor": f"{platform.machine()}, {torch.backends.cpu.get_cpu_capability()}",
        "bfloat16 in hardware": multiplies_bfloat16(),
        "precisions": dict(sorted(precisions.items())),
    }


def unpack(path: str | Path, settings: Settings) -> dict:
    """Put an archive's results into the store and return its manifest.

    Raises InputError for a file that is no such archive, or whose results another version of the code has made."""
    try:
        with tarfile.open(path) as archive:
            about = json.load(archive.extractfile(MANIFEST))  # type: ignore[arg-type]
            if about["sources"] != source_digest(MEASURING_SOURCES):
                raise InputError(
                    f"{path} holds results of another version of the code, which would not be found; "
                    "check out the version that made it"
                )
            names = archive.getnames()
            if not all(name == MANIFEST or name.partition("/")[0] in KEPT for name in names):
                raise InputError(f"{path} holds more than results; it is no archive made by --pack")
            archive.extractall(settings.store.folder, filter="data")
    except (tarfile.TarError, EOFError, KeyError, OSError, ValueError) as error:
        if isinstance(error, InputError):
            raise
        raise InputError(f"{path} is no archive of results ({error}); make one with ./run_all.sh --pack") from error
    return about
