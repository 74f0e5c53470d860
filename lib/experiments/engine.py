"""collect(): measurements in, counts out.  What the store lacks is trained and measured, in segments.

Every segment (a training epoch, a few seconds of chips) is a Dask task that takes a state and returns one, so an
interrupt or a lost worker costs a segment; the client submits what has become possible and stores what comes back.
"""

import sys
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, replace

import numpy as np

from ..checks import InputError, RunError
from ..evaluation import Counts, places
from ..precision import training_precision
from ..sources import require_unchanged
from ..training import State
from ..trials import Measurement, Trial
from . import cluster, timing, workers
from .datasets import fingerprint
from .keys import checkpoint, counted_in, measurement_key, precision, shipped_for, trial_key
from .settings import Settings

SHARD_SECONDS = 8.0  # of a task that measures, as estimated; half of that on the processors we know
URGENT = 10**9  # Dask priority of what is quick and needed by others


def stored(m: Measurement, settings: Settings) -> Counts:
    """The chips of a measurement that the store has, of those asked for."""
    key = measurement_key(m, settings)
    counts = settings.store.counts(key) if key else Counts(*np.zeros((3, 0), np.int64))
    asked = counts.chips < m.chips
    chips = counts.chips[asked]
    return Counts(chips, counts.images[asked], counts.correct[asked], places(chips, m.variation, m.purpose))


@dataclass(frozen=True)
class Work:
    """What the store lacks: trials in an order that trains parents first, measurements with their missing chips."""

    trials: list[Trial]
    measurements: list[tuple[Measurement, list[int]]]

    def seconds(self, device: str) -> float:
        """Estimated time on one core (or GPU) of this machine."""
        training = sum(timing.training_seconds(trial, device) for trial in self.trials)
        return training + sum(len(chips) * timing.chip_seconds(m, device) for m, chips in self.measurements)


def missing(measurements: Iterable[Measurement], settings: Settings) -> Work:
    """What is not stored.  Of a dataset that is still to be downloaded nothing is: keys hold its content."""
    wanted, gaps = merged(measurements), []
    trials: dict[Trial, None] = {}
    readable = {name for name in {m.trial.dataset for m in wanted} if timing.at_hand(name, settings.data)}
    for m in wanted:
        known = m.trial.dataset in readable
        done = set(stored(m, settings).chips.tolist()) if known else set()
        if chips := [chip for chip in range(m.chips) if chip not in done]:
            gaps.append((m, chips))
            for trial in _lineage(m.trial, settings if known else None):
                if trial not in trials and not (known and _is_trained(trial, settings)):
                    trials[trial] = None
    return Work(list(trials), gaps)


def merged(measurements: Iterable[Measurement]) -> list[Measurement]:
    """Each measurement once, with the largest number of chips asked for."""
    chips: dict[Measurement, int] = {}
    for m in measurements:
        try:
            hash(m)
        except TypeError as error:
            fault = f"a tuning of {m.label} has a field that may change ({error})"
            raise InputError(f"{fault}; use tuples in the place of lists and arrays") from None
        bare = replace(m, chips=1)
        chips[bare] = max(m.chips, chips.get(bare, 0))
    return [replace(bare, chips=n) for bare, n in chips.items()]


def _lineage(trial: Trial, settings: Settings | None) -> list[Trial]:
    """A trial after its ancestors, from the first that is not shipped; settings: None where images are not at hand."""
    if settings and shipped_for(trial, settings):
        return []
    return [*(_lineage(trial.parent, settings) if trial.parent else []), trial]


def _is_trained(trial: Trial, settings: Settings) -> bool:
    return bool(shipped_for(trial, settings)) or settings.store.has_checkpoint(trial_key(trial, settings))


def collect(
    measurements: Iterable[Measurement], settings: Settings | None = None, progress: bool = True
) -> dict[Measurement, Counts]:
    """The counts of every measurement, under the measurement that asked for them; `frame` makes a table of them.

    Trains and measures what the store lacks; the result depends on the store's content alone.
    Raises RunError where the sources on disk are no longer those that were imported."""
    require_unchanged()
    settings = settings or Settings.read()
    wanted = list(measurements)
    work = missing(wanted, settings)
    if work.measurements:
        _compute(work, settings, progress)
    return {m: stored(m, settings) for m in wanted}


def frame(found: Mapping[Measurement, Counts]):
    """A pandas table with a row per measurement and chip: `Measurement.row`, chip, images, correct, accuracy (%)."""
    import pandas as pd

    parts = [counts.to_frame().assign(**m.row()) for m, counts in found.items()]
    return pd.concat(parts, ignore_index=True) if parts else pd.DataFrame()


def _compute(work: Work, settings: Settings, progress: bool) -> None:
    from distributed import KilledWorker
    from tqdm import tqdm

    form = "{desc} {percentage:3.0f}%|{bar}| {elapsed}<{remaining}"
    calm = 0.5 if sys.stderr.isatty() else 30  # seconds between lines of a log file
    tasks, total = len(work.trials) + len(work.measurements), work.seconds(settings.device)
    total *= 1 + 1e-9  # the parts may add up to more in the last digit, of which tqdm warns
    with (
        tqdm(total=total, bar_format=form, disable=not progress, mininterval=calm, dynamic_ncols=True) as bar,
        cluster.connected(tasks, settings) as client,
    ):
        try:
            _Run(client, work, settings, bar).finish()
        except KilledWorker as error:
            died = "workers died again and again on one task: for lack of memory (try --jobs 1), or in a library"
            raise RunError(f"{died} (--jobs 0 shows it): {' '.join(str(error).split())[:200]}") from error


class _Run:
    """The graph as it unfolds: a trial's checkpoint, once there, starts what waits for it."""

    def __init__(self, client, work: Work, settings: Settings, bar):
        from distributed import as_completed

        self.client, self.settings, self.store, self.bar = client, settings, settings.store, bar
        self.futures = as_completed(loop=client.loop)
        self.then: dict = {}  # future → what to do with its result
        self.waiting: dict[Trial, list[Callable[[State], None]]] = {}
        self.urgency = _critical_paths(work, settings.device)
        for trial in work.trials:
            self.want(trial, lambda state: None)
        of: dict[Trial, list[tuple[Measurement, list[int]]]] = {}
        for m, chips in work.measurements:
            of.setdefault(m.trial, []).append((m, chips))
        for trial, gaps in of.items():
            self.want(trial, lambda state, trial=trial, gaps=gaps: self.measure(trial, gaps, state))

    def finish(self) -> None:
        """Store every result as it comes, in whatever order."""
        for future in self.futures:
            self.then.pop(future)(future.result())

    def submit(self, then: Callable, function: Callable, *arguments, key: str, priority: float = 0) -> None:
        future = self.client.submit(function, *arguments, key=key, priority=priority)
        self.then[future] = then
        self.futures.add(future)

    def shared(self, state: State | None, key: str):
        """A future of a state that any number of tasks may use; the scheduler keeps it while one of them needs it."""
        return (
            None if state is None else self.client.submit(workers.Shared, state, key=f"shared-{key}", priority=URGENT)
        )

    def source(self, trial: Trial) -> workers.Source:
        """The trial's dataset, as a worker finds it."""
        here = None if self.settings.scheduler else str(self.settings.data)
        return workers.Source(trial.dataset, fingerprint(trial.dataset, self.settings.data), here)

    def want(self, trial: Trial, then: Callable[[State], None]) -> None:
        """Call then(state) with the trial's checkpoint: now, or when it has been trained."""
        state = None if trial in self.waiting else checkpoint(trial, self.settings)
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
        key, device = trial_key(trial, self.settings), self.settings.device
        state = self.store.progress(key)
        epoch = int(state["epoch"]) + 1 if state else 1
        start = self.shared(parent, trial_key(trial.parent, self.settings)) if parent and not state else None
        resumed = self.shared(state, f"{key}-{epoch - 1}")
        how = precision(trial, self.settings, training_precision), device
        arguments = trial, workers.about(trial), self.source(trial), start, resumed, epoch, *how
        segments = 1 if trial.method == "PTQ-VAT" else trial.recipe.epochs

        def store(state: State) -> None:
            self.bar.set_description(f"train {trial.label}", refresh=False)
            self.bar.update(Work([trial], []).seconds(device) / segments)
            if epoch < segments:
                self.store.save_progress(key, state, trial.config())
                self.train(trial, parent)
                return
            self.store.save_checkpoint(key, state, trial.config())
            for then in self.waiting.pop(trial):
                then({name: tensor for name, tensor in state.items() if name.startswith("net/")})

        self.submit(store, workers.trained, *arguments, key=f"train-{key}-{epoch}", priority=self.urgency.get(trial, 0))

    def measure(self, trial: Trial, gaps: list[tuple[Measurement, list[int]]], state: State) -> None:
        """Submit what is missing of a network's measurements; its state goes out once."""
        checkpoint = self.shared(state, trial_key(trial, self.settings))
        for m, chips in gaps:
            self.shards(m, chips, checkpoint)

    def shards(self, m: Measurement, chips: list[int], checkpoint) -> None:
        """Submit the missing chips of a measurement, in groups of about SHARD_SECONDS."""
        key, config = measurement_key(m, self.settings), {"trial": m.trial.config(), **m.config()}
        cost = Work([], [(m, chips)]).seconds(self.settings.device) / len(chips)  # of a chip
        known = set(self.store.counts(key).chips.tolist())  # of a network that was lost and came out the same again
        self.bar.update(sum(chip in known for chip in chips) * cost)
        chips = [chip for chip in chips if chip not in known]
        size = max(1, round(SHARD_SECONDS / cost))
        how = counted_in(m, self.settings), self.settings.device

        def store(counts: Counts) -> None:
            self.bar.set_description(m.label, refresh=False)
            self.store.append_counts(key, counts, config)
            self.bar.update(len(counts.chips) * cost)

        for part in (chips[i : i + size] for i in range(0, len(chips), size)):
            arguments = m, workers.about(m), self.source(m.trial), checkpoint, part, *how
            self.submit(store, workers.measured, *arguments, key=f"measure-{key}-{part[0]}-{part[-1]}", priority=-1)


def _critical_paths(work: Work, device: str) -> dict[Trial, float]:
    """Trial → estimated seconds of the longest chain of trainings that begins with it: what should start first."""
    paths: dict[Trial, float] = {}
    for trial in reversed(work.trials):  # children after their parents
        below = max((paths[t] for t in paths if t.parent == trial), default=0.0)
        paths[trial] = Work([trial], []).seconds(device) + below
    return paths


def ensure(trial: Trial, settings: Settings) -> None:
    """Train a trial now if the store lacks it or finds it damaged."""
    if not _is_trained(trial, settings):
        untrained = [t for t in _lineage(trial, settings) if not _is_trained(t, settings)]
        _compute(Work(untrained, []), settings, progress=False)
