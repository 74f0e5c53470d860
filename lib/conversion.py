"""The way from any network to an analog one: which layers become crossbars, and where their quantizers start."""

from __future__ import annotations

import copy
import logging
import warnings
from collections.abc import Collection, Iterator
from contextlib import contextmanager
from dataclasses import is_dataclass

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from .analog import ANALOG, Crossbar, crossbars, dtype_of, evaluating, require_one_input, run, watched
from .checks import InputError, one_of
from .quantizers import QUANTIZER_SETS, Bits, activation_quantizer, thinned, weight_quantizer
from .torch_internals import BatchNorm, has_own_weight, is_compiled, is_uninitialized, without_fast_path

log = logging.getLogger(__name__)


def to_analog(
    net: nn.Module, bits: str | Bits | None = None, calibrate: Tensor | None = None, quantizers: str = "learned"
) -> nn.Module:
    """A copy of `net` whose Conv2d and Linear layers, anywhere in its tree, are crossbars.

    bits: "A4W2", or None for float crossbars (deviated, not quantized).
    calibrate: a batch (B, C, H, W) of normalized inputs, required with bits: it fixes every layer's sign and step.
    With or without bits it shows which layers' cells change the output.
    quantizers: "learned" (default), "line-search" weights, "legacy" [code 2021], or "legacy-channels" (its earlier
    binary weights, `BinaryChannels`).
    Layers whose cells change nothing on the batch, and every other kind of module, stay digital: `report` lists them; a
    warning says where that is more than half of the parameters.  Of a network that is analog already, quantizers are
    made anew and converters taken off.
    Raises InputError for wrong bits or quantizers, a batch that is missing, empty, not finite, all zero or not
    normalized, and for a network without such a layer, or with weights that are computed, lazy or scripted."""
    require_convertible(net)
    batch = None if bits is None and calibrate is None else _calibration(net, calibrate)
    # tried without quantizers: through coarse ones the signal of a network that is still untrained may die out
    idle = [] if batch is None else unread(converted(net, None), batch)
    analog = converted(net, bits, batch, quantizers, idle)
    _warn_of_digital_share(analog)
    return analog


def converted(
    net: nn.Module,
    bits: str | Bits | None,
    batch: Tensor | None = None,
    quantizers: str = "learned",
    leave: Collection[str] = (),
) -> nn.Module:
    """`to_analog` for networks and batches that are known to be sound; the layers named in `leave` stay digital."""
    one_of("quantizers", quantizers, QUANTIZER_SETS)
    net = copied(net)
    for module in net.modules():
        without_fast_path(module)
    # exact types: a subclass may bypass forward (as MultiheadAttention's out_proj does)
    found: list = [m for name, m in net.named_modules() if type(m) in ANALOG and name not in leave]
    if not found:
        used = ", or none whose weights this batch reaches" if leave else ""
        raise InputError(f"{type(net).__name__} has no Conv2d or Linear layer to put on a crossbar{used}")
    if bits is None:
        for layer in found:
            place(layer, nn.Identity(), nn.Identity())
        return net
    assert batch is not None, "quantizers need a batch"
    widths = Bits.parse(bits)
    for layer, quantize_input in _observe(net, found, widths, batch, quantizers).items():
        place(layer, quantize_input, weight_quantizer(widths.weights, layer.get_parameter("weight"), quantizers))
    return net


def copied(net: nn.Module) -> nn.Module:
    """A deep copy.  An activation that a module keeps comes without its graph, which no copy can take along."""
    attributes = (value for m in net.modules() for name, value in vars(m).items() if not name.startswith("_"))
    activations = [tensor for value in attributes for tensor in _tensors(value) if not tensor.is_leaf]
    return copy.deepcopy(net, {id(v): v.detach().clone() for v in activations})


def place(layer: nn.Module, quantize_input: nn.Module, quantize_weight: nn.Module) -> None:
    """Turn a Conv2d or Linear into a crossbar where it stands: its name, mode, hooks and sharing stay as they are.  A
    converter goes: its range was that of the layer before."""
    layer.__class__ = ANALOG[type(layer)]
    vars(layer).pop("read", None)
    layer.quantize_input, layer.quantize_weight = (
        quantize_input.train(layer.training),
        quantize_weight.train(layer.training),
    )


def _observe(
    net: nn.Module, layers: list[nn.Module], bits: Bits, batch: Tensor, quantizers: str
) -> dict[nn.Module, nn.Module]:
    """The activation quantizer of each layer that one forward pass of `batch` reaches, started on the inputs of all its
    calls: a layer that is shared needs one step for them all."""
    legacy = quantizers.startswith("legacy")
    # some values (the largest, for legacy), whether any is negative, features
    calls: dict[nn.Module, list[tuple[Tensor, bool, int]]] = {}

    def look(module: nn.Module, x: Tensor) -> None:
        values = x.abs().max().view(1) if legacy else thinned(x)
        calls.setdefault(module, []).append((values, bool((x < 0).any()), x[0].numel()))

    with watched(layers, look), unused_norms_seeing(net):
        _output(net, batch)
    made = {}
    for module, seen in calls.items():
        values, signs, counts = zip(*seen)
        # [code 2021] quantizes, then multiplies the unquantized input in linear layers of more than one bit
        slip = legacy and bits.activations > 1 and isinstance(module, nn.Linear)
        start = torch.cat(values), any(signs), quantizers, sum(counts)
        made[module] = nn.Identity() if slip else activation_quantizer(bits.activations, *start)
    return made


@contextmanager
def unused_norms_seeing(net: nn.Module) -> Iterator[None]:
    """Batch norms as they were made (mean 0, variance 1, γ 0 or 1, β 0) and not frozen normalize by the batch at hand,
    and keep nothing of it.  In evaluation mode they would change nothing: the signal of an untrained network shrinks
    from layer to layer, and steps fitted to that are hundreds of times too small for its first training step."""

    def by_the_batch(m: BatchNorm, args: tuple[Tensor, ...], y: Tensor) -> Tensor | None:
        if not args or args[0].numel() == args[0].shape[1]:  # one value per channel has no variance
            return None
        return F.batch_norm(args[0], None, None, m.weight, m.bias, training=True, eps=m.eps)

    plain = (nn.BatchNorm1d, nn.BatchNorm2d, nn.BatchNorm3d)  # exact types: a subclass may compute something else
    norms = [m for m in net.modules() if type(m) in plain and m.training == net.training and _as_made(m)]
    hooks = [m.register_forward_hook(by_the_batch) for m in norms]
    try:
        yield
    finally:
        for hook in hooks:
            hook.remove()


def _as_made(m: nn.Module) -> bool:
    made = {"running_mean": (0.0,), "running_var": (1.0,), "weight": (0.0, 1.0), "bias": (0.0,)}
    values = [(getattr(m, name), allowed) for name, allowed in made.items() if getattr(m, name) is not None]
    return m.running_mean is not None and all(v[0].item() in a and v.eq(v[0]).all() for v, a in values)


def unread(net: nn.Module, batch: Tensor) -> list[str]:
    """The names of crossbars of a float `net` whose cells do not change its output for a batch (B, …).

    In evaluation mode; they are never called, read past their forward, or without effect.
    A layer that is called, and whose output the gradient of the network's output reaches, is read; any other is tried
    alone, with cells far from their own.  Parameters of zero, behind which everything looks idle until they are
    trained, are moved a little; so `net` should be a copy."""
    with torch.no_grad():
        for p in net.parameters():
            p.copy_(torch.where(p == 0, 0.1 * _wave(p), p))
    few = batch[:: max(1, len(batch) // 4)][:4]
    reached, found = _reached(net, few), []
    for name, layer in crossbars(net):
        if layer not in reached and not (_matters(net, layer, few) or _matters(net, layer, batch)):
            found.append(name)
    return found


def _output(net: nn.Module, x: Tensor) -> list[Tensor]:
    """The tensors that a network returns in evaluation mode, with random numbers that are the same each time."""
    with evaluating(net), torch.random.fork_rng(devices=[x.device] if x.is_cuda else []):
        torch.manual_seed(0)
        return _tensors(run(net, x))


def _reached(net: nn.Module, x: Tensor) -> set[nn.Module]:
    """The crossbars called in evaluation mode whose output the gradient of the network's output reaches."""
    called, outputs = set[nn.Module](), {}
    layers = [layer for _, layer in crossbars(net)]
    with watched(layers, lambda layer, x: called.add(layer)):
        _output(net, x)

    def keep(layer: Crossbar, args: tuple, y: Tensor) -> Tensor:
        outputs[layer] = y if y.requires_grad else y.detach().requires_grad_()
        return outputs[layer]

    hooks = [layer.register_forward_hook(keep) for layer in layers]
    try:
        with evaluating(net), torch.enable_grad(), torch.random.fork_rng(devices=[]):
            parts = [t for t in _tensors(net(x)) if t.requires_grad]
            total = [(t * _wave(t)).sum() for t in parts]
            slopes = torch.autograd.grad(total, list(outputs.values()), allow_unused=True) if parts else ()
    except RuntimeError as error:
        log.info("no gradient passes %s, so each layer is tried alone: %s", type(net).__name__, error)
        slopes = ()
    finally:
        for hook in hooks:
            hook.remove()
    return called & {layer for layer, slope in zip(outputs, slopes) if slope is not None and slope.any()}


def _matters(net: nn.Module, layer: Crossbar, x: Tensor) -> bool:
    """Whether the output changes where the cells of one layer move up and down by more than the largest is worth."""
    nominal = _output(net, x)
    layer.deviate = lambda w: w + (1 + 2 * w.abs().max()) * _wave(w)
    try:
        return not all(map(torch.equal, _output(net, x), nominal))
    finally:
        layer.deviate = None


def _wave(like: Tensor) -> Tensor:
    """Numbers between −1 and 1 in no regular order."""
    wave = torch.arange(like.numel(), device=like.device, dtype=torch.float32).mul(2.4).cos()
    return wave.view(like.shape).to(like.dtype)


def _tensors(output) -> list[Tensor]:
    """The tensors in what a network returns."""
    if isinstance(output, Tensor):
        return [output]
    if is_dataclass(output):
        return _tensors(vars(output))
    parts = output.values() if isinstance(output, dict) else output if isinstance(output, (list, tuple)) else ()
    return [tensor for part in parts for tensor in _tensors(part)]


# -- what cannot be converted ---------------------------------------------------------------------------------


def require_convertible(net: nn.Module) -> None:
    """InputError in one line, with the fix, for networks whose layers cannot become crossbars."""
    if is_compiled(net):
        raise InputError(
            f"{type(net).__name__} is scripted or compiled; convert the module that it was made of, then compile"
        )
    for name, module in net.named_modules():
        if is_uninitialized(module):
            raise InputError(f"layer {name!r} is a lazy layer without weights; run one batch through the network first")
        if isinstance(module, torch.jit.ScriptModule):
            raise InputError(f"module {name!r} is scripted; convert the module that it was made of")
        if isinstance(module, (nn.Linear, nn.Conv2d)) and not has_own_weight(module):
            raise InputError(
                f"the weight of layer {name!r} is computed (weight_norm, spectral_norm, pruning or another "
                "parametrization); make it permanent first: remove_parametrizations(layer, 'weight') of "
                "torch.nn.utils.parametrize, remove_weight_norm of torch.nn.utils, or prune.remove"
            )


def _calibration(net: nn.Module, batch: Tensor | None) -> Tensor:
    """A batch from which signs and steps can be read, in the type of the network's parameters."""
    normalized = (
        "calibrate must be a batch of at least one normalized input, such as images.take(slice(0, 256)).normalized()"
    )
    if not isinstance(batch, Tensor) or batch.dim() == 0 or len(batch) == 0:
        raise InputError(
            f"{normalized}; got {'none' if batch is None or isinstance(batch, Tensor) else type(batch).__name__}"
        )
    if batch.dtype == torch.uint8:
        raise InputError(f"{normalized}; got raw pixels (uint8)")
    require_one_input(net)
    if not batch.is_floating_point():
        return batch  # of an embedding, say
    if not torch.isfinite(batch).all():
        raise InputError(f"{normalized}; got {int((~torch.isfinite(batch)).sum())} values that are not finite")
    if not batch.any():
        raise InputError(f"{normalized}; got zeros alone, which tell no step")
    if batch.dim() == 4 and batch.min() >= 0 and 100 < batch.max() <= 255 and not batch.frac().any():
        raise InputError(
            f"{normalized}; got whole numbers from {batch.min():g} to {batch.max():g}, which look like raw pixels"
        )
    return batch.to(dtype_of(net))


def _warn_of_digital_share(net: nn.Module) -> None:
    layers = [layer for _, layer in crossbars(net)]
    quantizers = [q for layer in layers for q in (layer.quantize_input, layer.quantize_weight)]
    steps = {id(p) for q in quantizers for p in q.parameters()}
    whole = sum(p.numel() for p in net.parameters() if id(p) not in steps)
    cells = sum(layer.weight.numel() for layer in layers)
    if cells < whole / 2:
        warnings.warn(
            f"only {100 * cells / whole:.0f} % of the parameters of {type(net).__name__} are on crossbars, the others "
            "stay digital and exact; report(net) says which and why",
            stacklevel=3,
        )
