"""collect(): measurements in, one table of counts out.  What the store lacks is trained and measured, in segments.

Local and sequential: one process, one progress bar in estimated seconds.  An interrupt costs at most one training epoch
or a few seconds of chips.
"""

from __future__ import annotations

import os
import sys
import time
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, replace
from functools import lru_cache

import torch

from .checks import one_of
from .data import Dataset, load
from .evaluation import Counts, evaluate
from .networks import build
from .store import DTYPE, MEASURING_SOURCES, TRAINING_SOURCES, Store, key_of
from .trials import Measurement, Trial, restored, train

DEVICE_VARIABLE = "ANALOG_PIM_DEVICE"
SHARD_SECONDS = 5.0  # counts are stored at least this often
STEP_COST = 5.0  # a training step against a forward pass of the same images, for the estimate alone


def device(name: str | None = None) -> torch.device:
    """cpu or cuda: the argument, else ANALOG_PIM_DEVICE, else cuda where there is one."""
    name = name or os.environ.get(DEVICE_VARIABLE) or ("cuda" if torch.cuda.is_available() else "cpu")
    one_of("device", name, ("cpu", "cuda"))
    if name == "cuda" and not torch.cuda.is_available():
        raise ValueError("unknown device 'cuda'; allowed: cpu; this machine or this build of torch has no CUDA GPU")
    return torch.device(name)


def dataset_of(trial: Trial) -> Dataset:
    return load(trial.dataset)


def trial_key(trial: Trial) -> str:
    config = {"trial": trial.config(), "data": dataset_of(trial).fingerprint, "dtype": DTYPE}
    return key_of(config, TRAINING_SOURCES)


def measurement_key(m: Measurement) -> str:
    config = {"checkpoint": trial_key(m.trial), "measurement": m.config(), "dtype": DTYPE}
    return key_of(config, MEASURING_SOURCES)


@dataclass(frozen=True)
class Work:
    """What the store lacks: trials in an order that trains parents first, measurements with their missing chips."""

    trials: list[Trial]
    measurements: list[tuple[Measurement, list[int]]]


def missing(measurements: Iterable[Measurement], store: Store) -> Work:
    trials: dict[Trial, None] = {}
    gaps = []
    for m in merged(measurements):
        done = set(store.counts(measurement_key(m)).chips.tolist())
        chips = [chip for chip in range(m.chips) if chip not in done]
        if chips:
            gaps.append((m, chips))
            for trial in _lineage(m.trial):
                if trial not in trials and not store.has_checkpoint(trial_key(trial)):
                    trials[trial] = None
    return Work(list(trials), gaps)


def merged(measurements: Iterable[Measurement]) -> list[Measurement]:
    """Each measurement once, with the largest number of chips asked for."""
    chips: dict[Measurement, int] = {}
    for m in measurements:
        bare = replace(m, chips=1)
        chips[bare] = max(m.chips, chips.get(bare, 0))
    return [replace(bare, chips=n) for bare, n in chips.items()]


def _lineage(trial: Trial) -> list[Trial]:
    """A trial after its ancestors."""
    return [*(_lineage(trial.parent) if trial.parent else []), trial]


def collect(measurements: Iterable[Measurement], store: Store | None = None, progress: bool = True):
    """A pandas table with a row per measurement and chip: `Measurement.row`, key, chip, images, correct, accuracy (%).

    Trains and measures what the store lacks.  The table depends on the store's content alone."""
    store = store or Store()
    wanted = list(measurements)
    work = missing(wanted, store)
    if work.measurements:
        _compute(work, store, progress)
    return table(wanted, store)


def table(measurements: Iterable[Measurement], store: Store):
    import pandas as pd

    frames = []
    for m in merged(measurements):
        key = measurement_key(m)
        frame = store.counts(key).to_frame()
        frames.append(frame[frame.chip < m.chips].assign(**m.row(), key=key[:16]))
    return pd.concat(frames, ignore_index=True)


def _compute(work: Work, store: Store, progress: bool) -> None:
    from tqdm import tqdm

    form = "{desc} {percentage:3.0f}%|{bar}| {elapsed}<{remaining}"
    calm = 0.5 if sys.stderr.isatty() else 30  # seconds between lines of a log file
    with tqdm(total=seconds(work), bar_format=form, disable=not progress, mininterval=calm, dynamic_ncols=True) as bar:
        for trial in work.trials:
            _train(trial, store, bar)
        for m, chips in work.measurements:
            _measure(m, chips, store, bar)


def _train(trial: Trial, store: Store, bar) -> None:
    """Epoch by epoch, the state stored after each."""
    bar.set_description(f"train {trial.label}", refresh=False)
    key, dataset = trial_key(trial), dataset_of(trial)
    config = trial.config()
    state = store.progress(key)
    epoch = int(state["epoch"]) if state else 0
    parent = _checkpoint(trial.parent, store) if trial.parent else None
    cost = STEP_COST * forward_seconds(trial.network, trial.width, trial.dataset)
    while True:
        epoch += 1
        state = train(trial, dataset, parent, state, epoch, device(), lambda n: bar.update(n * cost))
        if trial.method == "PTQ-VAT" or epoch == trial.recipe.epochs:
            return store.save_checkpoint(key, state, config)
        store.save_progress(key, state, config)


def _measure(m: Measurement, chips: list[int], store: Store, bar) -> None:
    bar.set_description(m.label, refresh=False)
    dataset = dataset_of(m.trial)
    split = dataset.test if m.purpose == "test" else dataset.validation
    images = split.balanced(m.images).to(device())
    net = _checkpoint(m.trial, store).to(device())
    key, config = measurement_key(m), {"trial": m.trial.config(), **m.config()}
    cost = seconds(Work([], [(m, chips)])) / len(chips)  # a chip
    for part in _shards(net, images, m, chips, dataset.train):
        store.append_counts(key, part, config)
        bar.update(len(part.chips) * cost)


def _shards(net, images, m: Measurement, chips: list[int], train) -> Iterator[Counts]:
    """Counts in groups of chips that took about SHARD_SECONDS; the first group is one chip."""
    tuning = m.tuning and m.tuning.bind(net, train.to(device()))
    start, size = 0, 1
    while start < len(chips):
        began = time.monotonic()
        part = chips[start : start + size]
        yield evaluate(net, images, m.variation, part, tuning=tuning, images_per_chip=m.images_per_chip, purpose=m.purpose)
        start += size
        size = max(1, int(len(part) * SHARD_SECONDS / (time.monotonic() - began)))


def _checkpoint(trial: Trial, store: Store):
    """The trained network; a checkpoint that was found damaged only now is trained again."""
    state = store.checkpoint(trial_key(trial))
    if state is None:
        from tqdm import tqdm

        for ancestor in _lineage(trial):
            if not store.has_checkpoint(trial_key(ancestor)):
                _train(ancestor, store, tqdm(disable=True))
        state = store.checkpoint(trial_key(trial))
    return restored(trial, dataset_of(trial), state)


def network(trial: Trial, store: Store | None = None):
    """The trained network of a trial, in evaluation mode on the CPU; trained now if the store lacks it."""
    return _checkpoint(trial, store or Store())


def seconds(work: Work) -> float:
    """Estimated time of the missing work on this machine, from a measured forward pass of each network."""
    total = 0.0
    for trial in work.trials:
        images = trial.train_images or len(dataset_of(trial).train)
        noisy = trial.recipe.bn_draws * trial.recipe.batch_size / STEP_COST if trial.variation else 0
        passes = images * trial.recipe.epochs + noisy if trial.method != "PTQ-VAT" else 2 * noisy
        total += passes * STEP_COST * forward_seconds(trial.network, trial.width, trial.dataset)
    for m, chips in work.measurements:
        images = m.images_per_chip or m.images or len(dataset_of(m.trial).test)
        images += getattr(m.tuning, "chip_images", 0)
        total += len(chips) * images * forward_seconds(m.trial.network, m.trial.width, m.trial.dataset)
    return total


@lru_cache
def forward_seconds(name: str, width: float, dataset: str) -> float:
    """Seconds of a float forward pass an image, the better of two batches."""
    data = load(dataset)
    net = build(name, data.channels, data.classes, data.size, width).eval().to(device())
    x = data.train.take(slice(0, 100)).to(device()).normalized()
    times = []
    with torch.no_grad():
        for _ in range(3):
            began = time.perf_counter()
            net(x).sum().item()
            times.append(time.perf_counter() - began)
    return min(times) / len(x)

