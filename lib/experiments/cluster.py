"""Where tasks run: worker processes of this machine, or a Dask scheduler that somebody else started.

Locally --jobs processes, 0 for none beside this one.  Elsewhere --scheduler tcp://HOST:PORT; workers import the
installed project, have one thread each and need no shared disk.
"""

import copyreg
import functools
import logging
import sys
from collections.abc import Iterator
from contextlib import contextmanager, nullcontext

import torch

from ..checks import InputError, RunError
from ..sources import PACKAGE
from . import workers
from .settings import Settings

ATTEMPTS = 3  # to start local workers
PATIENCE = 60  # seconds for the first worker of a scheduler to come
DASK = {
    # Dask lets glibc give freed memory back at once; torch would fault it in again at every step, at half speed
    "distributed.nanny.pre-spawn-environ.MALLOC_TRIM_THRESHOLD_": 2**32,
    "distributed.nanny.pre-spawn-environ.MALLOC_MMAP_THRESHOLD_": 2**25,
    # a checkpoint travels with its task: nothing else keeps it
    "distributed.admin.large-graph-warning-threshold": "1GiB",
    "distributed.scheduler.allowed-failures": 3,
    # a laptop that slept finds its workers long unheard of: given up, they would leave the run waiting for ever
    "distributed.scheduler.worker-ttl": None,
    "distributed.worker.daemon": True,
    "distributed.comm.timeouts.connect": "20s",
}


@contextmanager
def connected(tasks: int, settings: Settings) -> Iterator:
    """A Dask client, its workers checked; no more local workers than tasks.

    Raises RunError where no worker comes, where one has other code, and where workers or their memory are lost."""
    import dask
    from distributed import Client  # sets levels of its own, so it comes first

    for name in ("distributed", "distributed.client"):  # what concerns a user reaches him as an exception
        logging.getLogger(name).setLevel(logging.CRITICAL)
    with dask.config.set(DASK):
        if address := settings.scheduler or dask.config.get("scheduler-address", None):
            with _losses_explained(f"scheduler at {address}"), _remote(address) as client:
                _verify(client, "install the same on both: pip install -e .")
                yield client
            return
        n = min(settings.workers, max(1, tasks))
        alone = _main_left_alone() if n else nullcontext()
        with (
            _losses_explained("worker processes"),
            alone,
            _started(n) as workers_here,
            Client(workers_here, set_as_default=False) as client,
        ):
            _verify(client, "it changed on disk while the run started; start again")
            yield client


@contextmanager
def _losses_explained(peer: str) -> Iterator[None]:
    from concurrent.futures import CancelledError

    from distributed import client, comm

    lost = CancelledError, comm.CommClosedError, getattr(client, "ClosedClientError", CancelledError)
    try:
        yield
    except lost as error:
        raise RunError(
            f"the connection to the {peer} is lost ({_line(error)}); once it is there again, the "
            "same command goes on: nothing stored so far is lost"
        ) from error
    except (MemoryError, torch.OutOfMemoryError) as error:
        raise RunError(
            f"a task found no memory left ({_line(error)}); take fewer worker processes (--jobs 1), or --device "
            "cpu where the GPU's memory is short"
        ) from error


def _line(error: BaseException) -> str:
    return " ".join(str(error).split())[:200] or type(error).__name__


def _cached(function):
    """A cached function as pickles hold it: by its name, or, where workers cannot import that, as what it caches."""
    if function.__module__ != "__main__":
        return function.__qualname__
    return _cached_again, (function.__wrapped__, function.cache_parameters())


def _cached_again(wrapped, parameters: dict):
    return functools.lru_cache(**parameters)(wrapped)


copyreg.pickle(functools._lru_cache_wrapper, _cached)


@contextmanager
def _main_left_alone() -> Iterator[None]:
    """Processes that start meanwhile do not import the main module again: it may have come from standard input, or
    begin the whole run anew.  Classes and functions of it travel with the tasks that need them."""
    main = sys.modules["__main__"]
    file, spec = main.__dict__.pop("__file__", None), main.__spec__
    main.__spec__ = None  # with neither it looks like that of an interactive session
    try:
        yield
    finally:
        if file is not None:
            main.__file__ = file
        if spec is not None:
            main.__spec__ = spec


def _started(n: int):
    """A LocalCluster of n processes, or of none beside this one; where one dies while it starts, Dask gives up."""
    from distributed import LocalCluster

    options = {"threads_per_worker": 1, "dashboard_address": ":0", "memory_limit": None}
    for left in reversed(range(ATTEMPTS)):
        try:
            return LocalCluster(n_workers=max(1, n), processes=n > 0, silence_logs=logging.CRITICAL, **options)
        except (RuntimeError, OSError) as error:
            if not left:
                failed = f"worker processes died {ATTEMPTS} times while starting ({error})"
                raise RunError(f"{failed}; try fewer: --jobs 1, or --jobs 0 for none") from error


@contextmanager
def _remote(address: str) -> Iterator:
    from distributed import Client
    from distributed.comm import get_address_host_port

    try:
        get_address_host_port(address, strict=True)
    except ValueError as error:
        raise InputError(f"the Dask scheduler {address!r} is no address ({error}); allowed: tcp://HOST:PORT") from None
    try:
        client = Client(address, timeout=20, set_as_default=False)
    except (OSError, TypeError) as error:  # TypeError: tls:// without its certificates
        said = f"no Dask scheduler answers at {address!r} ({error})"
        raise RunError(f"{said}; start one with `dask scheduler`") from error
    with client:
        try:
            client.wait_for_workers(1, timeout=PATIENCE)
        except TimeoutError as error:
            start = f"start some with `dask worker {address} --nthreads 1`"
            raise RunError(f"the scheduler at {address} has no worker after {PATIENCE} s; {start}") from error
        yield client


expected = workers.identity  # of every worker


def _verify(client, fix: str) -> None:
    """One line for the first worker that would not compute the same numbers; fix: of one that has something else."""
    mine = expected()
    for address, threads in client.nthreads().items():
        if threads != 1:
            instead = "start it with --nthreads 1, and more workers instead"
            raise RunError(f"worker {address} has {threads} threads; {instead}")
    for address, theirs in client.run(workers.identity, on_error="return").items():
        if isinstance(theirs, Exception):
            raise RunError(f"worker {address} cannot import this project as {PACKAGE} ({theirs}); {fix}")
        for what, version in mine.items():
            if theirs[what] != version:
                raise RunError(f"worker {address} has {what} {theirs[what]}, this client {version}; {fix}")
