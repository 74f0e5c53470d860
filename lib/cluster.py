"""Where tasks run: worker processes of this machine, or a Dask scheduler that somebody else started.

Locally --jobs (ANALOG_PIM_JOBS) processes, 0 for none beside this one.  Elsewhere --scheduler tcp://HOST:PORT, or Dask's
own DASK_SCHEDULER_ADDRESS; workers import the installed project, have one thread each and need no shared disk.
"""

from __future__ import annotations

import logging
import os
from collections.abc import Iterator
from contextlib import contextmanager

from . import workers
from .checks import integer

JOBS_VARIABLE = "ANALOG_PIM_JOBS"
SCHEDULER_VARIABLE = "DASK_SCHEDULER_ADDRESS"
MEMORY = 2 * 2**30  # bytes that a local worker may need
ATTEMPTS = 3  # to start local workers
PATIENCE = 60  # seconds for the first worker of a scheduler to come
SETTINGS = {
    # Dask lets glibc give freed memory back at once; torch would fault it in again at every step, at half the speed
    "distributed.nanny.pre-spawn-environ.MALLOC_TRIM_THRESHOLD_": 2**32,
    "distributed.nanny.pre-spawn-environ.MALLOC_MMAP_THRESHOLD_": 2**25,
    "distributed.admin.large-graph-warning-threshold": "1GiB",  # a checkpoint travels with its task: nothing else keeps it
    "distributed.scheduler.allowed-failures": 3,
    "distributed.worker.daemon": True,
    "distributed.comm.timeouts.connect": "20s",
}


def jobs(number: int | str | None = None) -> int:
    """Local workers: the argument, else ANALOG_PIM_JOBS, else one a core as far as memory reaches."""
    number = os.environ.get(JOBS_VARIABLE) if number is None else number
    if number in (None, ""):
        from dask.system import CPU_COUNT
        from distributed.system import MEMORY_LIMIT

        return max(1, min(CPU_COUNT, MEMORY_LIMIT // MEMORY))
    if not str(number).isdigit():
        raise ValueError(f"jobs must be a whole number from 0 to 256, got {number!r}; 0 computes in this process")
    return integer("jobs", int(number), 0, 256)


@contextmanager
def connected(tasks: int) -> Iterator:
    """A Dask client, its workers checked; no more local workers than tasks.  Raises RuntimeError where no worker comes
    or one has other code."""
    import dask
    from distributed import Client

    logging.getLogger("distributed").setLevel(logging.CRITICAL)  # what concerns a user reaches him as an exception
    with dask.config.set(SETTINGS):
        if address := os.environ.get(SCHEDULER_VARIABLE) or dask.config.get("scheduler-address", None):
            with _remote(address) as client:
                _verify(client)
                yield client
            return
        n = min(jobs(), max(1, tasks))
        with _started(n) as cluster, Client(cluster, set_as_default=False) as client:
            yield client


def _started(n: int):
    """A LocalCluster of n processes, or of none beside this one; Dask gives up where one dies while it starts, we do not."""
    from distributed import LocalCluster

    options = {"threads_per_worker": 1, "dashboard_address": ":0", "memory_limit": None, "silence_logs": logging.CRITICAL}
    for left in reversed(range(ATTEMPTS)):
        try:
            return LocalCluster(n_workers=max(1, n), processes=n > 0, **options)
        except RuntimeError as error:
            if not left:
                raise RuntimeError(f"worker processes died {ATTEMPTS} times while starting ({error}); try fewer: --jobs 1") from error


@contextmanager
def _remote(address: str) -> Iterator:
    from distributed import Client

    try:
        client = Client(address, timeout=20, set_as_default=False)
    except (OSError, ValueError) as error:
        raise RuntimeError(f"no Dask scheduler answers at {address!r} ({error}); start one with `dask scheduler`") from error
    with client:
        try:
            client.wait_for_workers(1, timeout=PATIENCE)
        except TimeoutError as error:
            raise RuntimeError(
                f"the scheduler at {address} has no worker after {PATIENCE} s; start some with `dask worker {address} --nthreads 1`"
            ) from error
        yield client


expected = workers.identity  # of every worker


def _verify(client) -> None:
    """One line for the first worker that would not compute the same numbers."""
    mine = expected()
    for address, threads in client.nthreads().items():
        if threads != 1:
            raise RuntimeError(f"worker {address} has {threads} threads; start it with --nthreads 1, and more workers instead")
    for address, theirs in client.run(workers.identity, on_error="return").items():
        if isinstance(theirs, Exception):
            raise RuntimeError(f"worker {address} cannot import this project ({theirs}); install it there: pip install -e .")
        for what, version in mine.items():
            if theirs[what] != version:
                raise RuntimeError(f"worker {address} has {what} {theirs[what]}, this client {version}; install the same on both")
