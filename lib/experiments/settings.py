"""The settings of a run: read once from command line and environment, then passed on."""

from __future__ import annotations

import os
from collections.abc import Mapping
from dataclasses import dataclass, fields, replace
from pathlib import Path

import torch

from ..checks import InputError, integer, one_of
from ..data import DATA_VARIABLE, ROOT, data_folder
from ..evaluation import PRECISIONS
from .store import CACHE_VARIABLE, Store

VARIABLES = {
    "device": "ANALOG_PIM_DEVICE",
    "precision": "ANALOG_PIM_PRECISION",
    "jobs": "ANALOG_PIM_JOBS",
    "scheduler": "DASK_SCHEDULER_ADDRESS",
    "data": DATA_VARIABLE,
    "cache": CACHE_VARIABLE,
    "figures": "ANALOG_PIM_FIGURES",
    "networks": "ANALOG_PIM_NETWORKS",
    "seeds": "ANALOG_PIM_SEEDS",
}
MEMORY = 2 * 2**30  # bytes that a local worker may need


@dataclass(frozen=True)
class Settings:
    """Where a run computes, and where it reads and writes; `Settings.read()` makes one.

    device: cpu or cuda.  precision: of Monte Carlo, None for the best of each network.  jobs: worker processes here,
    0 for none beside this one, None for one a core.  scheduler: address of a Dask scheduler, None for workers here.
    data, cache, figures: folders.  networks, seeds: those of a profile that are wanted ("lenet5,vgg11", "0,1"),
    None for all."""

    device: str = "cpu"
    precision: str | None = None
    jobs: int | None = None
    scheduler: str | None = None
    data: Path = ROOT / "data"
    cache: Path = ROOT / "cache"
    figures: Path = ROOT / "build" / "interactive" / "figures"
    networks: str | None = None
    seeds: str | None = None

    @classmethod
    def read(cls, environment: Mapping[str, str] = os.environ, **given) -> Settings:
        """What is `given` (None: nothing), else the environment's variable, else the default.

        Raises InputError for a device that is not there, an unknown precision, or jobs that are no number."""
        found = {name: given.get(name) or environment.get(VARIABLES[name]) or None for name in VARIABLES}
        if given.get("jobs") is not None:
            found["jobs"] = given["jobs"]
        one_of("precision", found["precision"], (None, *PRECISIONS))
        return cls(
            device=_device(found["device"]),
            precision=found["precision"],
            jobs=_jobs(found["jobs"]),
            scheduler=found["scheduler"],
            data=data_folder(found["data"]),
            cache=_cache_folder(found["cache"]),
            figures=Path(found["figures"] or cls.figures),
            networks=found["networks"],
            seeds=found["seeds"],
        )

    def but(self, **changes) -> Settings:
        return replace(self, **changes)

    def environment(self) -> dict[str, str]:
        """The variables by which a process that this one starts reads the same settings."""
        values = {VARIABLES[f.name]: getattr(self, f.name) for f in fields(self)}
        return {name: "" if value is None else str(value) for name, value in values.items()}

    @property
    def store(self) -> Store:
        return Store(self.cache)

    @property
    def workers(self) -> int:
        """Local workers: `jobs`, else one a core as far as memory reaches."""
        if self.jobs is not None:
            return self.jobs
        from dask.system import CPU_COUNT
        from distributed.system import MEMORY_LIMIT

        return max(1, min(CPU_COUNT, MEMORY_LIMIT // MEMORY))


def _device(name: str | None) -> str:
    """cpu or cuda; without a name cuda where there is one."""
    name = one_of("device", name or ("cuda" if torch.cuda.is_available() else "cpu"), ("cpu", "cuda"))
    if name == "cuda" and not torch.cuda.is_available():
        raise InputError("unknown device 'cuda'; allowed: cpu; this machine or this build of torch has no CUDA GPU")
    return name


def _jobs(number: int | str | None) -> int | None:
    if number is None:
        return None
    if not str(number).isdecimal():  # isdigit takes ² too
        raise InputError(f"jobs must be a whole number from 0 to 256, got {number!r}; 0 computes in this process")
    return integer("jobs", int(number), 0, 256)


def _cache_folder(given: str | Path | None) -> Path:
    """The folder given, else cache/ of the checkout, else (plain installation) the user's cache."""
    if given:
        return Path(given)
    if (ROOT / "pyproject.toml").exists():
        return ROOT / "cache"
    from platformdirs import user_cache_path

    return user_cache_path("analog-pim-companion") / "cache"
