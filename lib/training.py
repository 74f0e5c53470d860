"""Training: float, variability-oblivious (QAT), float under variation (float-VAT), joint (QAVAT), and PTQ.

    QAVAT step:  loss( net with w̃ = deviate(q_w(w)), a fresh chip a minibatch shared over the batch )   [code 2021]

One `fit` serves them all: the network decides on quantization, `variation` on deviation.  Everything random (batches,
augmentation, chips) is a function of seed and step, so a run that stops after any epoch resumes bit for bit.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import asdict, dataclass, field

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from .analog import channels_last, crossbars, evaluating, layout, programmed, to_analog, wide
from .checks import integer, one_of, real
from .data import Augment, Images
from .folding import idle_relus, without
from .quantizers import TINY, Bits, LearnedStep, activation_step
from .variation import Chip, PassingChip, Variation

State = dict[str, Tensor]  # flat and safe to store: "net/…", "optimizer/…", "epoch"
NO_VARIATION = Variation()


@dataclass(frozen=True)
class Recipe:
    """How to train.  Weight decay acts on weights of crossbars only; quantizer steps, BN and biases are free of it.

    schedule: "cosine" (after a linear warm-up over `warmup` of the steps) or "step" (× decay every `period` epochs).
    bn_draws: fresh chips for the cumulative re-estimation of BN statistics after noisy training; 0 keeps the moving
    averages of the last minibatches [code 2021]."""

    epochs: int = 3
    batch_size: int = 128
    optimizer: str = "sgd"
    lr: float = 0.05
    momentum: float = 0.9
    weight_decay: float = 5e-4
    schedule: str = "cosine"
    warmup: float = 0.0
    period: int = 1
    decay: float = 1.0
    bn_draws: int = 200
    augment: Augment = field(default_factory=Augment)

    def __post_init__(self):
        integer("epochs", self.epochs, 1), integer("batch_size", self.batch_size, 1), integer("period", self.period, 1)
        integer("bn_draws", self.bn_draws, 0), one_of("optimizer", self.optimizer, ("sgd", "adam"))
        one_of("schedule", self.schedule, ("cosine", "step")), real("warmup", self.warmup, 0, 1)
        real("lr", self.lr, 1e-12), real("momentum", self.momentum, 0, 1), real("weight_decay", self.weight_decay, 0)

    @classmethod
    def quick(cls) -> Recipe:
        """About a minute for a small network on two cores."""
        return cls()

    def rate(self, done: float) -> float:
        """Learning rate when the share `done` of all steps is over."""
        if self.schedule == "step":
            return self.lr * self.decay ** math.floor(done * self.epochs / self.period)
        if done < self.warmup:
            return self.lr * done / self.warmup
        return self.lr * 0.5 * (1 + math.cos(math.pi * (done - self.warmup) / (1 - self.warmup or 1)))

    def config(self) -> dict:
        return asdict(self)


def fit(
    net: nn.Module,
    images: Images,
    recipe: Recipe = Recipe(),
    variation: Variation = NO_VARIATION,
    *,
    seed: int = 0,
    resume: State | None = None,
    until: int | None = None,
    progress: Callable[[int], None] | None = None,
) -> State:
    """Train `net` in place, to the end or to epoch `until`, and return the state from which `resume` goes on.

    With variation, `net` needs analog layers; after the last epoch its BN statistics are re-estimated over
    `recipe.bn_draws` fresh chips.  progress(n): called with the images of each minibatch.
    Raises ValueError for a bad seed or epoch, FloatingPointError where the loss is no longer finite."""
    integer("seed", seed, 0, 2**16 - 1)
    until = recipe.epochs if until is None else integer("until", until, 1, recipe.epochs)
    optimizer = _optimizer(net, recipe)
    first = _restore(net, optimizer, resume) if resume else 0
    lay = _Layout(net)
    steps = max(1, len(images) // recipe.batch_size)
    net.train()
    with without(idle_relus(net, images.take(slice(0, 2)).normalized())):
        for epoch in range(first, until):
            for i, (x, labels) in enumerate(images.batches(recipe.batch_size, ("train", seed, epoch), recipe.augment)):
                step, x = epoch * steps + i, lay(x)
                for group in optimizer.param_groups:
                    group["lr"] = recipe.rate(step / (steps * recipe.epochs))
                loss = _step(net, optimizer, x, labels, variation, PassingChip.of("training", step, seed))
                if not math.isfinite(loss):
                    raise FloatingPointError(f"the loss is {loss} in epoch {epoch}; lower lr (now {recipe.lr}) or σ")
                if progress:
                    progress(len(labels))
    if variation and until == recipe.epochs and recipe.bn_draws:
        reestimate_batch_norm(net, images, variation, seed=seed, draws=recipe.bn_draws, batch_size=recipe.batch_size)
    net.eval()
    return _state(net, optimizer, until)


def _step(net, optimizer, x: Tensor, labels: Tensor, variation: Variation, chip: Chip) -> float:
    optimizer.zero_grad(set_to_none=True)
    with fabricated(net, chip, variation):
        loss = F.cross_entropy(net(x), labels)
        loss.backward()
    optimizer.step()
    return loss.item()


class _Layout:
    """Minibatches as `net` computes them fastest: channels-last if it is wide and takes that, which the first one tells."""

    def __init__(self, net: nn.Module):
        self.net, self.format = net, None

    def __call__(self, x: Tensor) -> Tensor:
        if self.format is None:
            self.format = layout(self.net, x) if wide(self.net) else torch.contiguous_format
        return channels_last(x) if self.format is torch.channels_last else x


@contextmanager
def fabricated(net: nn.Module, chip: Chip, variation: Variation) -> Iterator[nn.Module]:
    """`programmed`, or nothing at all without variation, so that a plain float module trains too."""
    if variation:
        with programmed(net, chip, variation):
            yield net
    else:
        yield net


def _optimizer(net: nn.Module, recipe: Recipe) -> torch.optim.Optimizer:
    weights = [m.weight for m in net.modules() if isinstance(m, (nn.Linear, nn.Conv2d))]
    heavy = {id(w) for w in weights}
    groups = [
        {"params": [p for p in net.parameters() if id(p) in heavy], "weight_decay": recipe.weight_decay},
        {"params": [p for p in net.parameters() if id(p) not in heavy], "weight_decay": 0.0},
    ]
    if recipe.optimizer == "adam":
        return torch.optim.Adam(groups, lr=recipe.lr, fused=True)
    return torch.optim.SGD(groups, lr=recipe.lr, momentum=recipe.momentum, fused=True)


def _state(net: nn.Module, optimizer: torch.optim.Optimizer, epoch: int) -> State:
    state = {f"net/{name}": tensor.detach().clone() for name, tensor in net.state_dict().items()}
    for index, entries in optimizer.state_dict()["state"].items():
        for name, tensor in entries.items():
            if tensor is not None:
                state[f"optimizer/{index}/{name}"] = tensor.detach().clone()
    return state | {"epoch": torch.tensor(epoch)}


def _restore(net: nn.Module, optimizer: torch.optim.Optimizer, state: State) -> int:
    load_network(net, state)
    entries: dict[int, dict] = {}
    for name, tensor in state.items():
        if name.startswith("optimizer/"):
            _, index, entry = name.split("/")
            entries.setdefault(int(index), {})[entry] = tensor.clone()
    optimizer.load_state_dict({"state": entries, "param_groups": optimizer.state_dict()["param_groups"]})
    return int(state["epoch"])


def load_network(net: nn.Module, state: State) -> nn.Module:
    """Put the network part of a state into `net` (same architecture and bits) and return it."""
    net.load_state_dict({name[4:]: tensor for name, tensor in state.items() if name.startswith("net/")})
    return net


def reestimate_batch_norm(
    net: nn.Module,
    images: Images,
    variation: Variation = NO_VARIATION,
    *,
    seed: int = 0,
    draws: int = 200,
    batch_size: int = 128,
) -> None:
    """Replace the running statistics of every BN layer by their plain average over `draws` fresh chips, one
    training minibatch each.  A moving average would freeze the last few chips' gains into the network."""
    layers = [m for m in net.modules() if isinstance(m, nn.modules.batchnorm._BatchNorm) and m.track_running_stats]
    if not layers:
        return
    momenta, lay = [layer.momentum for layer in layers], _Layout(net)
    try:
        with evaluating(net):
            for layer in layers:
                layer.reset_running_stats()
                layer.momentum = None  # torch: a cumulative average
                layer.train()
            for draw, x in zip(range(draws), _endless(images, batch_size, seed)):
                with fabricated(net, PassingChip.of("batch-norm", draw, seed), variation):
                    net(lay(x))
    finally:
        for layer, momentum in zip(layers, momenta):
            layer.momentum = momentum


def _endless(images: Images, batch_size: int, seed: int) -> Iterator[Tensor]:
    epoch = 0
    while True:
        for x, _ in images.batches(batch_size, ("batch-norm", seed, epoch)):
            yield x
        epoch += 1


def post_training_quantize(
    net: nn.Module,
    bits: str | Bits,
    images: Images,
    variation: Variation = NO_VARIATION,
    *,
    seed: int = 0,
    batch_size: int = 128,
    draws: int = 200,
    quantizers: str = "line-search",
) -> nn.Module:
    """A quantized copy of a float network: weights by line search; activation steps and BN statistics from one noisy
    pass over (up to `draws` minibatches of) the training data.  [code 2021]; the step rule of the pass is [ours]:
    each layer's step is the mean over minibatches of the L2-best one, `activation_step`."""
    source, batches = net, _endless(images, batch_size, seed)
    net = to_analog(source, bits, next(batches), quantizers)
    for _, layer in crossbars(net):
        if quantizers == "line-search" and isinstance(layer.quantize_input, LearnedStep):
            layer.register_forward_pre_hook(_StepAverage())
    reestimate_batch_norm(net, images, variation, seed=seed, draws=draws, batch_size=batch_size)
    for _, layer in crossbars(net):
        layer._forward_pre_hooks.clear()
    return net.eval()


class _StepAverage:
    """Forward pre-hook: keeps the layer's activation step at the mean of the L2-best steps seen so far."""

    def __init__(self):
        self.total, self.n = 0.0, 0

    def __call__(self, layer: nn.Module, args: tuple[Tensor, ...]) -> None:
        quantizer = layer.quantize_input
        self.total += activation_step(args[0], quantizer.bits, quantizer.signed)
        self.n += 1
        quantizer.step.data.copy_(self.total / self.n).clamp_(min=TINY)
