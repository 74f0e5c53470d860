"""Training: float, variability-oblivious (QAT), float under variation (float-VAT), joint (QAVAT).

    QAVAT step:  loss( net with w̃ = deviate(q_w(w)), a fresh chip a minibatch shared over the batch )   [code 2021]

One `fit` serves them all: the network decides on quantization, `variation` on deviation.  Everything random (batches,
augmentation, chips, dropout) is a function of seed and step, so a run that stops after any epoch resumes bit for bit.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass, field

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from .analog import dtype_of, varying
from .batch_norm import Layout, fabricated, reestimate_batch_norm, train_mode
from .checks import DivergedError, InputError, integer, one_of, real
from .classify import look_over
from .data import Augment, Images
from .folding import idle_relus, without
from .precision import PRECISIONS, multiplying, refusal, training_precision
from .variation import NO_VARIATION, Chip, PassingChip, Variation, keyed_seed, require_variation

State = dict[str, Tensor]  # flat and safe to store: "net/…", "optimizer/…", "epoch"


@dataclass(frozen=True)
class Recipe:
    """How to train.  Weight decay acts on weights of crossbars only; quantizer steps, BN and biases are free of it.

    schedule: "cosine" (after a linear warm-up over `warmup` of the steps) or "step" (× decay every `period` epochs).
    clip: largest norm of the gradient of all parameters together, None for any: with frozen batch norm an unlucky chip
    has a gradient many times that of others, and one step would throw the network away.
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
    clip: float | None = None
    bn_draws: int = 200
    augment: Augment = field(default_factory=Augment)

    def __post_init__(self):
        for count in ("epochs", "batch_size", "period"):
            integer(count, getattr(self, count), 1)
        integer("bn_draws", self.bn_draws, 0)
        one_of("optimizer", self.optimizer, ("sgd", "adam"))
        one_of("schedule", self.schedule, ("cosine", "step"))
        real("warmup", self.warmup, 0, 1)
        real("lr", self.lr, 1e-12)
        real("momentum", self.momentum, 0, 1)
        real("weight_decay", self.weight_decay, 0)
        if self.clip is not None:
            real("clip", self.clip, 1e-12)

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


def fit(
    net: nn.Module,
    images: Images,
    recipe: Recipe = Recipe(),
    variation: Variation = NO_VARIATION,
    *,
    seed: int = 0,
    resume: State | None = None,
    until: int | None = None,
    begun: int = 0,
    precision: str | None = None,
    progress: Callable[[int], None] | None = None,
) -> State:
    """Train `net` in place, to the end or to epoch `until`, and return the state from which `resume` goes on.

    `net` ends in evaluation mode.  With variation, `net` needs analog layers; after the last epoch its BN statistics
    are re-estimated over `recipe.bn_draws` fresh chips.  What is `frozen` stays so.
    begun: epochs of an earlier training of it on these images: order, augmentation and chips go on from there.
    precision: of the products, "float32" or "bfloat16", None for `training_precision(net)`; all else is float32.
    progress(n): called with the images of each minibatch.
    Raises InputError for a bad seed or epoch, a network in half precision, a precision that it does not bear and
    whatever `look_over` refuses, DivergedError where the loss is no longer finite."""
    integer("seed", seed, 0, 2**16 - 1)
    integer("begun", begun, 0)
    one_of("precision", precision, (None, *PRECISIONS))
    if not isinstance(recipe, Recipe):
        raise InputError(
            f"recipe must be a Recipe, such as Recipe.quick(), got {recipe!r:.80}; the variation comes after it"
        )
    until = recipe.epochs if until is None else integer("until", until, 1, recipe.epochs)
    if (dtype := dtype_of(net)) not in (torch.float32, torch.float64):
        raise InputError(
            f"fit trains in float32 or float64, {type(net).__name__} is in {dtype}; call net.float() first"
        )
    require_variation(variation)
    if variation.total:
        varying(net, variation)
    look_over(net, images)
    if not any(p.requires_grad for p in net.parameters()):
        raise InputError(
            f"no parameter of {type(net).__name__} takes a gradient; call requires_grad_(True) on what is to be trained"
        )
    few = images.take(slice(0, 2)).normalized().to(dtype)
    if precision is None:
        precision = training_precision(net, few)
    elif precision == "bfloat16" and (reason := refusal(net, few)):
        raise InputError(f"{type(net).__name__} does not train in bfloat16 ({reason}); use precision='float32'")
    optimizer = _optimizer(net, recipe)
    first = _restore(net, optimizer, resume) if resume else 0
    lay = Layout(net)
    steps = max(1, len(images) // recipe.batch_size)
    train_mode(net)
    place = next(net.parameters()).device
    with torch.random.fork_rng([place] if place.type == "cuda" else []), without(idle_relus(net, few)):
        for epoch in range(first, until):
            for i, (x, labels) in enumerate(
                images.batches(recipe.batch_size, ("train", seed, begun + epoch), recipe.augment)
            ):
                step, x = epoch * steps + i, lay(x)
                for group in optimizer.param_groups:
                    group["lr"] = recipe.rate(step / (steps * recipe.epochs))
                draw = begun * steps + step
                torch.manual_seed(keyed_seed("dropout", seed, draw))
                chip = PassingChip.of("training", draw, seed)
                loss = _step(net, optimizer, x, labels, variation, chip, recipe.clip, precision)
                if not math.isfinite(loss):
                    raise DivergedError(f"the loss is {loss} in epoch {epoch}; lower lr (now {recipe.lr}) or σ")
                if progress:
                    progress(len(labels))
    if variation.total and until == recipe.epochs and recipe.bn_draws:
        draws, size = recipe.bn_draws, recipe.batch_size
        reestimate_batch_norm(net, images, variation, seed=seed, draws=draws, batch_size=size, precision=precision)
    net.eval()
    return _state(net, optimizer, until)


def _step(
    net,
    optimizer,
    x: Tensor,
    labels: Tensor,
    variation: Variation,
    chip: Chip,
    clip: float | None = None,
    precision: str = "float32",
) -> float:
    optimizer.zero_grad(set_to_none=True)
    with fabricated(net, chip, variation):
        with multiplying(precision, x):
            y = net(x)
        loss = F.cross_entropy(y.to(x.dtype), labels)
        loss.backward()
    if clip:
        nn.utils.clip_grad_norm_(net.parameters(), clip)
    optimizer.step()
    return loss.item()


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
    net.load_state_dict(
        {name.removeprefix("net/"): tensor for name, tensor in state.items() if name.startswith("net/")}
    )
    return net
