"""collect(): measurements in, one table of counts out.  What the store lacks is trained and measured, in segments.

Every segment (a training epoch, a few seconds of chips) is a Dask task that takes a state and returns one, so an
interrupt or a lost worker costs a segment; the client submits what has become possible and stores what comes back.
"""

from __future__ import annotations

import io
import sys
from collections.abc import Callable, Hashable, Iterable, Mapping
from dataclasses import dataclass, replace

import numpy as np

from ..checks import InputError, RunError
from ..data import Dataset, fingerprint, load
from ..evaluation import Counts
from ..sources import MEASURING_SOURCES, PACKAGE, TRAINING_SOURCES, require_unchanged
from ..training import State
from ..trials import Measurement, Trial, restored
from . import cluster, timing, workers
from .hardware import device, precision
from .store import DTYPE, Store, key_of

SHARD_SECONDS = 8.0  # of a task that measures, as estimated; half of that on the processors we know
URGENT = 10**9  # Dask priority of what is quick and needed by others


def dataset_of(trial: Trial) -> Dataset:
    return load(trial.dataset)


def trial_key(trial: Trial) -> str:
    return key_of({"trial": trial.config(), "data": fingerprint(trial.dataset), "dtype": DTYPE}, TRAINING_SOURCES)


def measurement_key(m: Measurement, store: Store) -> str | None:
    """Of the counts of a network as the store holds it; None where it is still to be trained."""
    if (content := store.checkpoint_digest(trial_key(m.trial))) is None:
        return None
    config = {
        "trial": trial_key(m.trial),
        "checkpoint": content,
        "measurement": m.config(),
        "dtype": precision(m.trial),
    }
    return key_of(config, MEASURING_SOURCES)


def stored(m: Measurement, store: Store) -> Counts:
    """The chips of a measurement that the store has."""
    key = measurement_key(m, store)
    return store.counts(key) if key else Counts(*np.zeros((3, 0), np.int64))


@dataclass(frozen=True)
class Work:
    """What the store lacks: trials in an order that trains parents first, measurements with their missing chips."""

    trials: list[Trial]
    measurements: list[tuple[Measurement, list[int]]]


def missing(measurements: Iterable[Measurement], store: Store) -> Work:
    """What is not stored.  Of a dataset that is still to be downloaded nothing is: keys hold its content."""
    wanted, trials, gaps = merged(measurements), {}, []
    readable = {name for name in {m.trial.dataset for m in wanted} if timing.at_hand(name)}
    for m in wanted:
        known = m.trial.dataset in readable
        done = set(stored(m, store).chips.tolist()) if known else ()
        chips = [chip for chip in range(m.chips) if chip not in done]
        if chips:
            gaps.append((m, chips))
            for trial in _lineage(m.trial):
                if trial not in trials and not (known and store.has_checkpoint(trial_key(trial))):
                    trials[trial] = None
    return Work(list(trials), gaps)


def merged(measurements: Iterable[Measurement]) -> list[Measurement]:
    """Each measurement once, with the largest number of chips asked for."""
    chips: dict[Measurement, int] = {}
    for m in measurements:
        try:
            hash(m)
        except TypeError as error:
            raise InputError(
                f"a tuning of {m.label} has a field that may change ({error}); use tuples in the place of lists and arrays"
            ) from None
        bare = replace(m, chips=1)
        chips[bare] = max(m.chips, chips.get(bare, 0))
    return [replace(bare, chips=n) for bare, n in chips.items()]


def _lineage(trial: Trial) -> list[Trial]:
    """A trial after its ancestors."""
    return [*(_lineage(trial.parent) if trial.parent else []), trial]


def collect(measurements: Iterable[Measurement], store: Store | None = None, progress: bool = True):
    """A pandas table with a row per measurement and chip: `Measurement.row`, key, chip, images, correct, accuracy (%).

    Trains and measures what the store lacks.  The table depends on the store's content alone; for no measurements it is
    empty.  Raises RunError where the sources on disk are no longer those that were imported."""
    require_unchanged()
    store = store or Store()
    wanted = list(measurements)
    work = missing(wanted, store)
    if work.measurements:
        _compute(work, store, progress)
    return table(wanted, store)


def table(measurements: Iterable[Measurement], store: Store):
    import pandas as pd

    rows, parts = [], []
    for m in merged(measurements):
        key, counts = measurement_key(m, store), stored(m, store).to_frame()
        rows.append(m.row() | {"key": key[:16]})
        parts.append(counts[counts.chip < m.chips])
    if not rows:
        return pd.DataFrame()
    about = pd.DataFrame(rows)
    repeated = about.loc[about.index.repeat([len(part) for part in parts])].reset_index(drop=True)
    return pd.concat([pd.concat(parts, ignore_index=True), repeated], axis=1)


def _compute(work: Work, store: Store, progress: bool) -> None:
    from distributed import KilledWorker
    from tqdm import tqdm

    form = "{desc} {percentage:3.0f}%|{bar}| {elapsed}<{remaining}"
    calm = 0.5 if sys.stderr.isatty() else 30  # seconds between lines of a log file
    tasks = len(work.trials) + len(work.measurements)
    with (
        tqdm(total=seconds(work), bar_format=form, disable=not progress, mininterval=calm, dynamic_ncols=True) as bar,
        cluster.connected(tasks) as client,
    ):
        try:
            _Run(client, work, store, bar).finish()
        except KilledWorker as error:
            said = " ".join(str(error).split())[:200]
            raise RunError(
                f"workers died again and again on one task: for lack of memory (try --jobs 1), or in a library (--jobs 0 shows it): {said}"
            ) from error


class _Run:
    """The graph as it unfolds: a trial's checkpoint, once there, starts what waits for it."""

    def __init__(self, client, work: Work, store: Store, bar):
        from distributed import as_completed

        self.client, self.store, self.bar, self.device = client, store, bar, str(device())
        self.futures = as_completed(loop=client.loop)
        self.then: dict = {}  # future → what to do with its result
        self.waiting: dict[Trial, list[Callable[[State], None]]] = {}
        self.urgency = _critical_paths(work)
        for trial in work.trials:
            self.want(trial, lambda state: None)
        for m, chips in work.measurements:
            self.want(m.trial, lambda state, m=m, chips=chips: self.measure(m, chips, state))

    def finish(self) -> None:
        """Store every result as it comes, in whatever order."""
        for future in self.futures:
            self.then.pop(future)(future.result())

    def submit(self, then: Callable, function: Callable, *arguments, key: str, priority: float = 0) -> None:
        future = self.client.submit(function, *arguments, key=key, priority=priority)
        self.then[future] = then
        self.futures.add(future)

    def held(self, state: State | None, key: str):
        """A future of a state that any number of tasks may share; the scheduler keeps it while one of them needs it."""
        return None if state is None else self.client.submit(workers.held, state, key=f"held-{key}", priority=URGENT)

    def want(self, trial: Trial, then: Callable[[State], None]) -> None:
        """Call then(state) with the trial's checkpoint: now, or when it has been trained."""
        state = None if trial in self.waiting else self.store.checkpoint(trial_key(trial))
        if state is not None:
            then(state)
        elif trial in self.waiting:
            self.waiting[trial].append(then)
        else:
            self.waiting[trial] = [then]
            if trial.parent:
                self.want(trial.parent, lambda parent: self.train(trial, parent))
            else:
                self.train(trial, None)

    def train(self, trial: Trial, parent: State | None) -> None:
        """Submit the next epoch of a trial."""
        key = trial_key(trial)
        state = self.store.progress(key)
        epoch = int(state["epoch"]) + 1 if state else 1
        start = None if state else self.held(parent, trial_key(trial.parent)) if parent else None
        arguments = (
            trial,
            workers.about(trial),
            dataset_of(trial).fingerprint,
            start,
            self.held(state, f"{key}-{epoch - 1}"),
            epoch,
            self.device,
        )
        last = trial.method == "PTQ-VAT" or epoch == trial.recipe.epochs

        def store(state: State) -> None:
            self.bar.set_description(f"train {trial.label}", refresh=False)
            self.bar.update(seconds(Work([trial], [])) / (1 if trial.method == "PTQ-VAT" else trial.recipe.epochs))
            if not last:
                self.store.save_progress(key, state, trial.config())
                return self.train(trial, parent)
            self.store.save_checkpoint(key, state, trial.config())
            for then in self.waiting.pop(trial):
                then({name: tensor for name, tensor in state.items() if name.startswith("net/")})

        self.submit(store, workers.trained, *arguments, key=f"train-{key}-{epoch}", priority=self.urgency.get(trial, 0))

    def measure(self, m: Measurement, chips: list[int], state: State) -> None:
        """Submit the missing chips of a measurement, in groups of about SHARD_SECONDS."""
        key, config = measurement_key(m, self.store), {"trial": m.trial.config(), **m.config()}
        cost = seconds(Work([], [(m, chips)])) / len(chips)  # a chip
        known = set(self.store.counts(key).chips.tolist())  # of a network that was lost and came out the same again
        self.bar.update(sum(chip in known for chip in chips) * cost)
        chips = [chip for chip in chips if chip not in known]
        size = max(1, round(SHARD_SECONDS / cost))
        checkpoint, data = self.held(state, trial_key(m.trial)), dataset_of(m.trial).fingerprint

        def store(counts: Counts) -> None:
            self.bar.set_description(m.label, refresh=False)
            self.store.append_counts(key, counts, config)
            self.bar.update(len(counts.chips) * cost)

        for part in (chips[i : i + size] for i in range(0, len(chips), size)):
            arguments = m, workers.about(m), data, checkpoint, part, precision(m.trial), self.device
            self.submit(store, workers.measured, *arguments, key=f"measure-{key}-{part[0]}-{part[-1]}", priority=-1)


def _critical_paths(work: Work) -> dict[Trial, float]:
    """Trial → estimated seconds of the longest chain of trainings that begins with it: what should start first."""
    paths: dict[Trial, float] = {}
    for trial in reversed(work.trials):  # children after their parents
        below = max((paths[t] for t in paths if t.parent == trial), default=0.0)
        paths[trial] = seconds(Work([trial], [])) + below
    return paths


def _ensure(trial: Trial, store: Store) -> None:
    """Train a trial now if the store lacks it or finds it damaged."""
    if not store.has_checkpoint(trial_key(trial)):
        missing = [t for t in _lineage(trial) if not store.has_checkpoint(trial_key(t))]
        _compute(Work(missing, []), store, progress=False)


def network(trial: Trial, store: Store | None = None):
    """The trained network of a trial, in evaluation mode on the CPU; trained now if the store lacks it."""
    store = store or Store()
    _ensure(trial, store)
    return restored(trial, dataset_of(trial), store.checkpoint(trial_key(trial)))


def kept(made: Callable, trials: Mapping[Hashable, Trial], **arguments):
    """The table that made(networks, dataset, **arguments) returns, computed once: from then on it is the store's.

    made: a function of this package; its module is part of the key.  trials: label → trial, all of one dataset; `made` is
    given label → trained network.  arguments: plain values.  Computed on a task's threads, so that the table does not
    depend on who made it.  Raises ValueError for a function from elsewhere."""
    import pandas as pd

    package, _, module = made.__module__.partition(".")
    if package != PACKAGE:
        instead = f"allowed are functions of {PACKAGE}; call it with the networks instead"
        raise InputError(f"{made.__name__} of {made.__module__} cannot be kept: {instead}")
    store, sources = Store(), (*MEASURING_SOURCES, "accounting", module)
    require_unchanged(sources)
    for t in trials.values():
        _ensure(t, store)
    networks = [[label, store.checkpoint_digest(trial_key(t))] for label, t in trials.items()]
    about = {"table": made.__name__, "networks": networks, "arguments": arguments, "dtype": DTYPE}
    if (text := store.table(key := key_of(about, sources))) is None:
        with workers.pinned():
            data = dataset_of(next(iter(trials.values())))
            found = made({label: network(t, store) for label, t in trials.items()}, data, **arguments)
        store.save_table(key, text := found.to_csv(index=False, lineterminator="\n"), about)
    return pd.read_csv(io.StringIO(text))


def seconds(work: Work) -> float:
    """Estimated time of the missing work on one core (or GPU) of this machine."""
    where = str(device())
    training = sum(timing.training_seconds(trial, where) for trial in work.trials)
    return training + sum(len(chips) * timing.chip_seconds(m, where) for m, chips in work.measurements)
