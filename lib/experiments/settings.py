"""The settings of a run: read once from command line and environment, then passed on."""

from __future__ import annotations

import os
from collections.abc import Mapping
from dataclasses import dataclass, fields, replace
from pathlib import Path

import torch

from ..checks import InputError, integer, one_of
from ..data import DATA_VARIABLE, ROOT, home
from ..precision import PRECISIONS
from ..shipped import FOLDER as SHIPPED
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
    "datasets": "ANALOG_PIM_DATASETS",
    "train": "ANALOG_PIM_TRAIN",
    "shipped": "ANALOG_PIM_SHIPPED",
}
MEMORY = 2 * 2**30  # bytes that a local worker may need


@dataclass(frozen=True)
class Settings:
    """Where a run computes, and where it reads and writes; `Settings.read()` makes one.

    device: cpu or cuda, None for cuda where there is one.  precision: of training and Monte Carlo, None for the best
    of each network.  jobs: worker processes here, 0 for none beside this one, None for one a core.  scheduler: address
    of a Dask scheduler, None for workers here.  data, cache, figures: folders.  networks, seeds: those of a profile
    that are wanted ("lenet5,vgg11", "0,1"), None for all.  datasets: images in the place of a profile's own,
    "cifar100=imagefolder:PATH", several apart by ";".  train: train what comes trained with the project, too; shipped:
    the folder of what does."""

    device: str | None = None
    precision: str | None = None
    jobs: int | None = None
    scheduler: str | None = None
    data: Path = ROOT / "data"
    cache: Path = ROOT / "cache"
    figures: Path = ROOT / "build" / "interactive" / "figures"
    networks: str | None = None
    seeds: str | None = None
    datasets: str | None = None
    train: bool = False
    shipped: Path = SHIPPED

    def __post_init__(self):
        object.__setattr__(self, "device", _device(self.device))
        object.__setattr__(self, "jobs", _jobs(self.jobs))
        if self.precision is not None:
            one_of("precision", self.precision, PRECISIONS)
        object.__setattr__(self, "train", str(self.train) in ("True", "1"))
        for name in ("scheduler", "networks", "seeds", "datasets"):
            if getattr(self, name) == "":
                raise InputError(f"{name} is empty; name some, or leave it out")
        for name in ("data", "cache", "figures", "shipped"):
            path = Path(getattr(self, name)).absolute()  # a kernel runs in another folder
            if path.exists() and not path.is_dir():
                raise InputError(f"the {name} folder {path} is a file; name a folder ({VARIABLES[name]})")
            object.__setattr__(self, name, path)

    @classmethod
    def read(cls, environment: Mapping[str, str] = os.environ, **given) -> Settings:
        """What is `given` (None: nothing), else the environment's variable, else the default.

        Raises InputError for an unknown name, a device that is not there, an unknown precision, jobs that are no
        number, or a file in the place of a folder."""
        for name in given:
            one_of("setting", name, VARIABLES)
        found: dict = {name: environment.get(variable) or None for name, variable in VARIABLES.items()}
        found |= {name: value for name, value in given.items() if value is not None}
        found |= {name: found[name] or home() / name for name in ("data", "cache")}
        return cls(**{name: value for name, value in found.items() if value is not None})

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
