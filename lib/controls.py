"""Controls: what self-tuning is held against, on the same chips.  [ours] where no source is named.

    StaticFold         y ← ỹ − max|q_w|·ê·S̄         S replaced by its mean over training images: folds into the bias
    OutputGain         y ← ỹ·mean|y₀|/mean|ỹ₀|       y₀: responses to stored probe inputs, as aihwkit compensates drift
    PerChipBatchNorm   BN statistics re-estimated on the chip from unlabelled training images
    NoisyBatchNorm     BN statistics re-estimated once, over fresh chips: no chip is measured at all

`control.bind(net, train)` does what is done once for a network and returns its tuner.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass

import torch
from torch import Tensor, nn

from .analog import Correct, Tuner, crossbars, evaluating
from .arrays import Rows
from .batch_norm import moving_norms, reestimate_batch_norm
from .checks import InputError, integer
from .data import Images
from .estimators import ReadOnce, by_array, grids_of
from .selftuning import Offset, behind, over_outputs, peak, refuse_other_law
from .variation import Chip, Variation


@dataclass(frozen=True)
class _Recorder:
    """A `correct` that notes what it is given, and does what the layer's own does."""

    name: str
    seen: dict[str, tuple[Tensor, Tensor]]
    correct: Correct | None
    behind: bool  # a converter stands behind it

    @property
    def by_rows(self) -> bool:
        return self.behind if self.correct is None else getattr(self.correct, "by_rows", False)

    def __call__(self, y: Tensor, x: Tensor, *rows: Rows) -> Tensor:
        before = self.seen.setdefault(self.name, (x, y))
        if rows and rows[0].index and before[0] is x:  # another row block of the first call
            self.seen[self.name] = x, before[1] + y
        return y if self.correct is None else self.correct(y, x, *rows)


def traffic(net: nn.Module, batch: Tensor) -> dict[str, tuple[Tensor, Tensor]]:
    """layer → (q_a(x), product before correction and bias) of one forward pass of the network as it stands, corrections
    included; only layers that are reached, a shared one at its first call."""
    seen: dict[str, tuple[Tensor, Tensor]] = {}
    before = [(layer, layer.correct) for _, layer in crossbars(net)]
    try:
        for name, layer in crossbars(net):
            layer.correct = _Recorder(name, seen, layer.correct, behind(layer))
        with evaluating(net):
            net(batch)
    finally:
        for layer, correct in before:
            layer.correct = correct
    return seen


class Control:
    """What all controls share: no extra cells, nothing done at inference.  A new one is a frozen dataclass as `Tuning`
    says."""

    @property
    def chip_images(self) -> int:
        """Images (or probe inputs) that each chip is run on before use."""
        return self.images  # type: ignore[attr-defined]  # where a control has none, it says 0

    def cells(self, net: nn.Module) -> int:
        """Extra cells on the chip."""
        return 0


@dataclass(frozen=True)
class StaticFold(Control):
    """Offset with the mean of S over `images` training images (a number a layer and group) in the place of S.

    Layer-fixed law only: under the proportional law `Gain` is static already.  Raises ValueError for an estimator that
    reads at every inference: it could not fold."""

    estimator: ReadOnce
    images: int = 256
    chip_images = 0

    def __post_init__(self):
        integer("images", self.images, 1)
        if not isinstance(self.estimator, ReadOnce):
            raise InputError(
                f"a static fold needs an estimator that reads the chip once, got {self.estimator!r}; use ReferenceCells"
            )
        if by_array(self.estimator):
            raise InputError(f"a static fold has one estimate per chip, got {self.estimator!r}; use per='chip'")

    @property
    def label(self) -> str:
        return f"static fold, {self.estimator.label}"

    def cells(self, net: nn.Module) -> int:
        return self.estimator.cells(net)

    def bind(self, net: nn.Module, train: Images) -> Tuner:
        shifts = {}
        seen = traffic(net, train.balanced(self.images).normalized())
        layers = dict(crossbars(net))
        for name, (x, _) in seen.items():
            layer = layers[name]
            groups = layer.input_sum(x).movedim(layer.channel, 0).flatten(1).mean(1)  # S̄, one a group
            shifts[name] = peak(layer) * over_outputs(layer, groups.view(layer.bias_shape))

        @contextmanager
        def tuner(net: nn.Module, chip: Chip, variation: Variation) -> Iterator[nn.Module]:
            refuse_other_law(Offset(), variation)
            e = self.estimator.read(chip, variation.laid(grids_of(net, variation)))
            cancels = variation.mapping == "differential"  # what cells share
            for name, layer in crossbars(net):
                if variation.varies(name) and name in shifts and not cancels:
                    layer.correct = lambda y, x, shift=e * shifts[name]: y - shift
            yield net

        return tuner


@dataclass(frozen=True)
class OutputGain(Control):
    """One gain a layer from `images` probe inputs: the layer's own inputs for training images, recorded digitally.

    aihwkit (`src/aihwkit/inference/compensation/drift.py`) reads the responses to fixed synthetic inputs instead.
    Either law.  mean|ỹ| holds the cells' own noise too: the gain is below one at e_B = 0, and restores no sign."""

    images: int = 16

    def __post_init__(self):
        integer("images", self.images, 1)

    @property
    def label(self) -> str:
        return f"output gain, {self.images} probes"

    def bind(self, net: nn.Module, train: Images) -> Tuner:
        seen = traffic(net, train.balanced(self.images).normalized())
        probes = {name: (x, y.abs().mean()) for name, (x, y) in seen.items()}

        @contextmanager
        def tuner(net: nn.Module, chip: Chip, variation: Variation) -> Iterator[nn.Module]:
            for name, layer in crossbars(net):
                if variation.varies(name) and name in probes:
                    x, expected = probes[name]
                    found = layer.op(x, layer.cells()).abs().mean()
                    # silent probes tell nothing
                    gain = torch.where((found > 0) & (expected > 0), expected / found, 1.0)
                    layer.correct = lambda y, x, gain=gain: y * gain
            yield net

        return tuner


@dataclass(frozen=True)
class PerChipBatchNorm(Control):
    """Running statistics from `images` unlabelled training images through the chip itself, in whole batches.

    It removes shifts of single channels too, which no e_B can."""

    images: int = 1024
    batch_size: int = 128

    def __post_init__(self):
        integer("batch_size", self.batch_size, 2)
        integer("images", self.images, self.batch_size)
        if self.images % self.batch_size:
            raise InputError(f"images must be a multiple of batch_size {self.batch_size}, got {self.images}")

    @property
    def label(self) -> str:
        return f"BN on the chip, {self.images} images"

    def bind(self, net: nn.Module, train: Images) -> Tuner:
        _statistics(net)
        images = train.balanced(self.images)

        @contextmanager
        def tuner(net: nn.Module, chip: Chip, variation: Variation) -> Iterator[nn.Module]:
            with _statistics_restored(net):
                reestimate_batch_norm(net, images, draws=self.images // self.batch_size, batch_size=self.batch_size)
                yield net

        return tuner


@dataclass(frozen=True)
class NoisyBatchNorm(Control):
    """Running statistics averaged over `draws` fresh chips of `variation` (training minibatches of 128, seed 0).

    So noisy training ends: what this alone gives to a network trained without variation."""

    variation: Variation
    draws: int = 200
    chip_images = 0

    def __post_init__(self):
        integer("draws", self.draws, 1)

    @property
    def label(self) -> str:
        return f"BN over {self.draws} other chips"

    def bind(self, net: nn.Module, train: Images) -> Tuner:
        with _statistics_restored(net):
            reestimate_batch_norm(net, train, self.variation, draws=self.draws)
            noisy = [value.clone() for value in _statistics(net)]

        @contextmanager
        def tuner(net: nn.Module, chip: Chip, variation: Variation) -> Iterator[nn.Module]:
            with _statistics_restored(net):
                _restore(net, noisy)
                yield net

        return tuner


def _statistics(net: nn.Module) -> list[Tensor]:
    """The running statistics of every BN layer that is not frozen; InputError for a network without any."""
    layers = moving_norms(net)
    if not layers:
        raise InputError(f"{type(net).__name__} has no batch norm to re-estimate; use SelfTuning or OutputGain")
    return [buffer for layer in layers for buffer in layer.buffers()]


def _restore(net: nn.Module, values: list[Tensor]) -> None:
    for buffer, value in zip(_statistics(net), values):
        buffer.copy_(value)


@contextmanager
def _statistics_restored(net: nn.Module) -> Iterator[None]:
    """The BN statistics of `net` are the same at the end as at the beginning."""
    before = [value.clone() for value in _statistics(net)]
    try:
        yield
    finally:
        _restore(net, before)
