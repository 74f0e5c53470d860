"""Results that stand on the store: trained networks, tables of them, and `fit` and `evaluate` with a memory."""

import inspect
import io
from collections.abc import Callable, Hashable, Mapping
from dataclasses import replace

import pandas as pd
from torch import nn

from ..analog import crossbars
from ..checks import InputError
from ..content import code_of
from ..conversion import copied
from ..data import Images
from ..evaluation import Counts, best_precision, evaluate, places
from ..identity import described
from ..precision import training_precision
from ..sources import MEASURING_SOURCES, PACKAGE, require_unchanged
from ..training import State, fit, load_network
from ..trials import Trial, restored
from .engine import ensure
from .keys import checkpoint, checkpoint_digest, dataset_of
from .settings import Settings
from .store import DTYPE, key_of
from .workers import pinned

ASKED = inspect.signature(evaluate)


def network(trial: Trial, settings: Settings) -> nn.Module:
    """The trained network of a trial, in evaluation mode on the CPU; trained now if the store lacks it."""
    ensure(trial, settings)
    return restored(trial, dataset_of(trial, settings), checkpoint(trial, settings))


def tabulated(function: Callable, trials: Mapping[Hashable, Trial], settings: Settings, **arguments) -> pd.DataFrame:
    """The table that function(networks, dataset, **arguments) returns, computed once: from then on it is the store's.

    function: of this package; its module is part of the key.  trials: label → trial, all of one dataset; `function` is
    given label → trained network.  arguments: plain values.  Computed on a task's threads, so that the table does not
    depend on who made it.  Raises InputError for a function from elsewhere, and for networks of several datasets."""
    package, _, module = function.__module__.partition(".")
    if package != PACKAGE:
        instead = f"allowed are functions of {PACKAGE}; call it with the networks instead"
        raise InputError(f"the table of {function.__name__} of {function.__module__} cannot be stored: {instead}")
    if len(datasets := {trial.dataset for trial in trials.values()}) > 1:
        raise InputError(
            f"the networks of {function.__name__} are of {', '.join(sorted(datasets))}; make a table for each dataset"
        )
    sources = (*MEASURING_SOURCES, "accounting", module)
    require_unchanged(sources)
    for trial in trials.values():
        ensure(trial, settings)
    digests = [[label, checkpoint_digest(t, settings)] for label, t in trials.items()]
    about = {"table": function.__name__, "networks": digests, "arguments": arguments, "dtype": DTYPE}
    if (text := settings.store.table(key := key_of(about, sources))) is None:
        with pinned():
            data = dataset_of(next(iter(trials.values())), settings)
            found = function({label: network(t, settings) for label, t in trials.items()}, data, **arguments)
        text = found.to_csv(index=False, lineterminator="\n")
        settings.store.save_table(key, text, about)
    return pd.read_csv(io.StringIO(text))


def digest_of(net: nn.Module) -> str:
    """Of code and state of a network, whether its slots are empty because nobody or somebody has emptied them."""
    twin = copied(net)
    for _, layer in crossbars(twin):
        for slot in ("deviate", "read", "correct", "rows"):
            if vars(layer).get(slot, twin) is None:
                delattr(layer, slot)
    return code_of(twin)


class Memory:
    """`fit` and `evaluate` of the science: what they have computed once for the same arguments is the store's.

    keys: of the results that were asked for."""

    def __init__(self, settings: Settings):
        self.store = settings.store
        self.keys: list[str] = []

    def _key(self, about: dict) -> str:
        require_unchanged()
        self.keys.append(key_of(about, MEASURING_SOURCES))
        return self.keys[-1]

    def fit(self, net: nn.Module, images: Images, *arguments, **options) -> State:
        """As `lib.fit`, on a task's threads; the state has no optimizer."""
        few = images.take(slice(0, 2)).normalized()
        options = {"precision": training_precision(net, few)} | options
        about = {"fit": digest_of(net), "images": described(images), "with": described([arguments, options])}
        key = self._key(about)
        if self.store.checkpoint_digest(key) is None:
            with pinned():
                self.store.save_checkpoint(key, fit(net, images, *arguments, **options), {"fit": type(net).__name__})
        state = self.store.checkpoint(key)
        load_network(net, state).eval()
        return state

    def evaluate(self, net: nn.Module, images: Images, *arguments, **options) -> Counts:
        """As `lib.evaluate`, on a task's threads."""
        options = {"precision": best_precision(net, images.take(slice(0, 2)).normalized())} | options
        about = {"evaluate": digest_of(net), "images": described(images), "with": described([arguments, options])}
        key = self._key(about)
        if not len(self.store.counts(key).chips):
            with pinned():
                counts = evaluate(net, images, *arguments, **options)
            self.store.append_counts(key, counts, {"evaluate": type(net).__name__})
        found, asked = self.store.counts(key), ASKED.bind(net, images, *arguments, **options)
        asked.apply_defaults()
        lot = places(found.chips, asked.arguments["variation"], asked.arguments["purpose"])
        return replace(found, places=lot)
