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

from .analog import Tuner, crossbars, evaluating
from .checks import integer
from .data import Images
from .selftuning import Estimator, Offset, column_sum, described, peak, refuse_other_law
from .training import reestimate_batch_norm
from .variation import Chip, Variation


def traffic(net: nn.Module, batch: Tensor) -> dict[str, tuple[Tensor, Tensor]]:
    """layer → (q_a(x), product before correction and bias) of one forward pass of the network as it stands."""
    seen, before = {}, [(layer, layer.correct) for _, layer in crossbars(net)]

    def recorder(name):
        return lambda y, x: seen.setdefault(name, (x, y)) and y

    try:
        for name, layer in crossbars(net):
            layer.correct = recorder(name)
        with evaluating(net):
            net(batch)
    finally:
        for layer, correct in before:
            layer.correct = correct
    return seen


class Control:
    """What all controls share: a description, no extra cells, nothing done at inference."""

    def config(self) -> dict:
        return described(self)

    def cells(self, net: nn.Module) -> int:
        """Extra cells on the chip."""
        return 0


@dataclass(frozen=True)
class StaticFold(Control):
    """Offset with the mean of S over `images` training images (a number a layer and group) in the place of S.

    Layer-fixed law only: under the proportional law `Gain` is static already."""

    estimator: Estimator
    images: int = 256
    chip_images = 0

    def __post_init__(self):
        integer("images", self.images, 1)

    @property
    def label(self) -> str:
        return f"static fold, {self.estimator.label}"

    def cells(self, net: nn.Module) -> int:
        return self.estimator.cells(net)

    def bind(self, net: nn.Module, train: Images) -> Tuner:
        shifts = {}
        seen = traffic(net, train.balanced(self.images).normalized())
        for name, layer in crossbars(net):
            x, y = seen[name]
            groups = column_sum(layer, x).movedim(-3 if y.dim() > 2 else -1, 0).flatten(1).mean(1)  # S̄, one a group
            outputs = groups.repeat_interleave(layer.weight.shape[0] // len(groups))
            shifts[name] = peak(layer) * outputs.view(layer.bias_shape)

        @contextmanager
        def tuner(net: nn.Module, chip: Chip, variation: Variation) -> Iterator[nn.Module]:
            refuse_other_law(Offset(), variation)
            e = self.estimator.estimate(chip, variation)
            for name, layer in crossbars(net):
                if variation.varies(name):
                    layer.correct = lambda y, x, shift=e * shifts[name]: y - shift
            yield net

        return tuner


@dataclass(frozen=True)
class OutputGain(Control):
    """One gain a layer from `images` probe inputs: the layer's own inputs for training images, recorded digitally.

    aihwkit (`src/aihwkit/inference/compensation/drift.py`) reads the largest response to one all-ones input; the mean
    over real inputs is steadier.  Either law."""

    images: int = 16

    def __post_init__(self):
        integer("images", self.images, 1)

    @property
    def label(self) -> str:
        return f"output gain, {self.images} probes"

    @property
    def chip_images(self) -> int:
        return self.images

    def bind(self, net: nn.Module, train: Images) -> Tuner:
        probes = {name: (x, y.abs().mean()) for name, (x, y) in traffic(net, train.balanced(self.images).normalized()).items()}

        @contextmanager
        def tuner(net: nn.Module, chip: Chip, variation: Variation) -> Iterator[nn.Module]:
            for name, layer in crossbars(net):
                if variation.varies(name):
                    x, expected = probes[name]
                    found = layer.op(x, layer.cells()).abs().mean()
                    gain = expected / found.clamp_min(torch.finfo(found.dtype).tiny)
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
        integer("batch_size", self.batch_size, 2), integer("images", self.images, self.batch_size)

    @property
    def label(self) -> str:
        return f"BN on the chip, {self.images} images"

    @property
    def chip_images(self) -> int:
        return self.images

    def bind(self, net: nn.Module, train: Images) -> Tuner:
        _statistics(net)
        images = train.balanced(self.images)

        @contextmanager
        def tuner(net: nn.Module, chip: Chip, variation: Variation) -> Iterator[nn.Module]:
            with _kept(net):
                reestimate_batch_norm(net, images, draws=self.images // self.batch_size, batch_size=self.batch_size)
                yield net

        return tuner


@dataclass(frozen=True)
class NoisyBatchNorm(Control):
    """Running statistics averaged over `draws` fresh chips of `variation`, as noisy training ends: what this alone
    gives to a network trained without variation."""

    variation: Variation
    draws: int = 200
    chip_images = 0

    def __post_init__(self):
        integer("draws", self.draws, 1)

    @property
    def label(self) -> str:
        return f"BN over {self.draws} other chips"

    def bind(self, net: nn.Module, train: Images) -> Tuner:
        with _kept(net):
            reestimate_batch_norm(net, train, self.variation, draws=self.draws)
            noisy = [value.clone() for value in _statistics(net)]

        @contextmanager
        def tuner(net: nn.Module, chip: Chip, variation: Variation) -> Iterator[nn.Module]:
            with _kept(net):
                _restore(net, noisy)
                yield net

        return tuner


def _statistics(net: nn.Module) -> list[Tensor]:
    """The running statistics of every BN layer; ValueError for a network without any."""
    layers = [m for m in net.modules() if isinstance(m, nn.modules.batchnorm._BatchNorm) and m.track_running_stats]
    if not layers:
        raise ValueError(f"{type(net).__name__} has no batch norm to re-estimate; use SelfTuning or OutputGain")
    return [buffer for layer in layers for buffer in (layer.running_mean, layer.running_var, layer.num_batches_tracked)]


def _restore(net: nn.Module, values: list[Tensor]) -> None:
    for buffer, value in zip(_statistics(net), values):
        buffer.copy_(value)


@contextmanager
def _kept(net: nn.Module) -> Iterator[None]:
    """The BN statistics of `net` are the same at the end as at the beginning."""
    before = [value.clone() for value in _statistics(net)]
    try:
        yield
    finally:
        _restore(net, before)
