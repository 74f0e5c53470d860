"""A programmed network as Monte Carlo runs it over many batches, without gradients: the same values, sooner.

What is linear in a layer's cells is folded into them once a chip: activation step s_x, linear correction, batch norm,
and the division by the step s of the layer that reads it through ReLUs and max-poolings alone.

    BN( correct( op( s_x·codes(x), w̃ ), · ) + bias ) = op( codes(x), s_x·g·fold(w̃) ) + g·(bias − μ) + β
    with g = γ/√(σ² + ε)
    codes( pool( relu( y ) ) ) = round( clamp( pool( y/s ), 0, n ) )

The last line holds for gradients too: while a network trains, the ReLUs before such a quantizer rest (`idle_relus`).
"""

from __future__ import annotations

import copy
import logging
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from contextlib import AbstractContextManager, contextmanager
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor, fx, nn

from .analog import AnalogConv2d, AnalogLinear, Crossbar, crossbars, evaluating, layout, programmed
from .quantizers import LearnedStep
from .torch_internals import is_watched
from .variation import Chip, Variation

log = logging.getLogger(__name__)
CROSSBARS = (AnalogConv2d, AnalogLinear)
MONOTONIC = (nn.ReLU, nn.MaxPool2d, nn.Flatten, nn.Identity)  # and indifferent to a positive factor


@dataclass(frozen=True)
class Chain:
    """What follows a convolution, where each module alone reads the one before and is called once.

    norm: its batch norm.  reader: the crossbar at the end, whose unsigned quantizer clamps at zero, so that the ReLUs
    before it change nothing, and whose step the convolution can divide by.  passed: what stands between."""

    norm: nn.BatchNorm2d | None = None
    passed: tuple[nn.Module, ...] = ()
    reader: Crossbar | None = None

    @property
    def relus(self) -> list[nn.ReLU]:
        return [m for m in self.passed if type(m) is nn.ReLU]

    def holds(self, layer: Crossbar) -> bool:
        """Whether correction, batch norm and division act on the cells alone, whatever a tuner has changed."""
        modules = [m for m in (layer, self.norm, *self.passed, self.reader) if m is not None]
        if not _foldable(layer) or not all(map(_plain, modules)):
            return False
        if layer.read is not None or (layer.correct is not None and getattr(layer.correct, "fold", None) is None):
            return False
        averaged = self.norm is None or not self.norm.training
        return averaged and (self.reader is None or _clamps(self.reader))


@dataclass(frozen=True)
class Plan:
    """How a network may be evaluated: the layout of its inputs in memory, and the chains of its convolutions."""

    layout: torch.memory_format = torch.contiguous_format
    chains: dict[Crossbar, Chain] = field(default_factory=dict)


def plan(net: nn.Module, x: Tensor) -> Plan:
    """The quickest plan for `net` that computes the same on a few inputs x (B, …)."""
    format = layout(net, x)
    try:
        return Plan(format, _chains_that_hold(net, x, format))
    except Exception as error:  # any forward of the user's: it may not bear a copy, float64, or stand-ins for tensors
        log.info("nothing of %s is folded, which is slower: %s", type(net).__name__, error)
        return Plan(format)


def _chains_that_hold(net: nn.Module, x: Tensor, format: torch.memory_format) -> dict[Crossbar, Chain]:
    """The chains found in a copy of `net`, if they hold there."""
    twin = copy.deepcopy(net).double()
    with evaluating(twin), torch.random.fork_rng(devices=[]):
        found = _chains(twin)
        if found and not _same_result(twin, x.double(), Plan(format, found)):
            log.info("nothing of %s is folded, which is slower: folded it computes something else", type(net).__name__)
            return {}
    mine: dict = dict(zip(twin.modules(), net.modules(), strict=True)) | {None: None}
    return {
        mine[layer]: Chain(mine[c.norm], tuple(mine[m] for m in c.passed), mine[c.reader]) for layer, c in found.items()
    }


def _same_result(net: nn.Module, x: Tensor, plan: Plan) -> bool:
    """Slowly and folded, on one chip: a forward may do what no trace shows."""
    x = x.contiguous(memory_format=plan.layout)
    with programmed(net, Chip(0), Variation(0.1)):
        slowly = net(x)
        with folded(net, None, plan):
            return torch.allclose(net(x), slowly, rtol=1e-6, atol=1e-6 * float(slowly.abs().max()))


def _chains(net: nn.Module) -> dict[Crossbar, Chain]:
    """The chain of each convolution that has one; `net` is a copy in evaluation mode that is used for nothing else."""
    nodes, certain = _calls(net)
    convolutions = [(node, m) for node in nodes if type(m := certain(node)) is AnalogConv2d]
    found = {layer: _followed(node, certain) for node, layer in convolutions}
    return {layer: chain for layer, chain in found.items() if chain != Chain()}


def idle_relus(net: nn.Module, x: Tensor) -> list[nn.ReLU]:
    """The ReLUs of a network in training that change neither value nor gradient, found in a copy and tried on x (B, …).

    Each is read, through ReLUs and max-poolings alone, by a crossbar whose unsigned quantizer takes what is negative to
    zero, and its gradient too."""
    if not any(True for _ in crossbars(net)):
        return []
    try:
        twin, outputs = copy.deepcopy(net), []
        with torch.no_grad(), torch.random.fork_rng(devices=[x.device] if x.is_cuda else []):
            nodes, certain = _calls(twin)
            chains = {m: _followed(node, certain) for node in nodes if type(m := certain(node)) is nn.ReLU}
            found = [relu for relu, chain in chains.items() if chain.reader is not None and chain.norm is None]
            for resting in ([], found):
                torch.manual_seed(0)  # dropout
                with without(resting):
                    outputs.append(twin(x))
        mine: dict[Any, Any] = dict(zip(twin.modules(), net.modules(), strict=True))
        return [mine[relu] for relu in found] if torch.equal(*outputs) else []
    except Exception as error:  # any forward of the user's
        log.info("all ReLUs of %s are computed, which is slower: %s", type(net).__name__, error)
        return []


@contextmanager
def _replaced(forwards: dict[nn.Module, Callable[[Tensor], Tensor]]) -> Iterator[None]:
    try:
        for module, forward in forwards.items():
            module.forward = forward
        yield
    finally:
        for module in forwards:
            module.__dict__.pop("forward", None)


def without(modules: Sequence[nn.Module]) -> AbstractContextManager[None]:
    """The modules named pass on what they are given."""
    return _replaced(dict.fromkeys(modules, _same))


def _calls(net: nn.Module) -> tuple[list[fx.Node], Callable[[fx.Node], nn.Module | None]]:
    """The calls of a copy that is used for nothing else, in order, and the module that a call certainly is.

    None for a network that keeps what it computes or is watched; torch.fx raises where calls depend on the input."""
    if not all(map(_plain, _containers(net))):
        return [], lambda node: None
    graph = _Tracer().trace(net)
    if any(isinstance(value, fx.Proxy) for m in net.modules() for value in vars(m).values()):
        return [], lambda node: None
    called = [str(node.target) for node in graph.nodes if node.op == "call_module"]
    uses = Counter(inner for name in called for inner in net.get_submodule(name).modules())

    def certain(node: fx.Node) -> nn.Module | None:
        """The module called, if it is called here alone and nobody looks at what goes in or out."""
        module = net.get_submodule(str(node.target)) if node.op == "call_module" else None
        return module if module is not None and uses[module] == 1 and _plain(module) else None

    return list(graph.nodes), certain


def _followed(node: fx.Node, certain: Callable[[fx.Node], nn.Module | None]) -> Chain:
    """Exact types throughout, since a subclass may do more; no BatchNorm1d, whose axis may not be that of its layer."""
    norm: nn.BatchNorm2d | None = None
    passed: tuple[nn.Module, ...] = ()
    while len(node.users) == 1:
        (node,) = node.users
        module = certain(node)
        if type(module) is nn.BatchNorm2d and module.track_running_stats and norm is None and not passed:
            norm = module
        elif isinstance(module, Crossbar) and type(module) in CROSSBARS and _clamps(module):
            return Chain(norm, passed, module)
        elif module is not None and type(module) in MONOTONIC:
            passed += (module,)
        else:
            break
    return Chain(norm)


def _clamps(reader: Crossbar) -> bool:
    """Whether a crossbar's quantizer takes negative inputs to zero."""
    return type(q := reader.quantize_input) is LearnedStep and not q.signed and _plain(q)


def _plain(m: nn.Module) -> bool:
    """No hook looks at what goes in or out, and the forward is that of its type."""
    return not is_watched(m) and "forward" not in vars(m)


def _containers(net: nn.Module) -> Iterator[nn.Module]:
    beside = (m for m in net.modules() if not isinstance(m, Crossbar))
    return (m for m in beside if any(isinstance(inner, Crossbar) for inner in m.modules()))


class _Tracer(fx.Tracer):
    def is_leaf_module(self, m: nn.Module, name: str) -> bool:
        """What holds no crossbar is not looked into: it may ask for shapes, which stand-ins do not have."""
        return isinstance(m, Crossbar) or not any(isinstance(inner, Crossbar) for inner in m.modules())


@contextmanager
def folded(net: nn.Module, dtype: torch.dtype | None = None, plan: Plan = Plan()) -> Iterator[nn.Module]:
    """Every crossbar of a network in evaluation mode with all that is linear folded into its cells.

    dtype: of the convolutions, None for that of their weights.  Linear layers and what follows keep theirs, since
    logits rounded to few bits would tie.  A layer whose forward or activation quantizer somebody has changed is left
    alone."""
    chains = {layer: chain for layer, chain in plan.chains.items() if chain.holds(layer)}
    divided = {chain.reader for chain in chains.values()}
    forwards: dict[nn.Module, Callable[[Tensor], Tensor]] = {m: _halved for m in net.modules() if _halves(m)}
    for _, layer in crossbars(net):
        if not _foldable(layer):
            continue
        chain = chains.get(layer, Chain())
        own = dtype if isinstance(layer, AnalogConv2d) else None
        forwards[layer] = _folded_forward(layer, own, chain, layer in divided, plan.layout)
        forwards |= dict.fromkeys(chain.relus, _same)
        if chain.norm is not None:
            forwards[chain.norm] = _same
    with _replaced(forwards):
        yield net


def _foldable(layer: Crossbar) -> bool:
    return type(layer) in CROSSBARS and "forward" not in vars(layer) and _plain(layer.quantize_input)


def _same(input: Tensor) -> Tensor:  # torch's own name, for callers by keyword
    return input


def _halves(m: nn.Module) -> bool:
    """Whether a module is the usual max-pooling of 2×2, written in any of its ways."""
    sizes = (getattr(m, name, None) for name in ("kernel_size", "stride", "padding", "dilation"))
    plain = type(m) is nn.MaxPool2d and not (m.ceil_mode or m.return_indices) and "forward" not in vars(m)
    return plain and [s if isinstance(s, tuple) else (s, s) for s in sizes] == [(2, 2), (2, 2), (0, 0), (1, 1)]


def _halved(input: Tensor) -> Tensor:
    """Max-pooling of 2×2 as two element-by-element maxima: torch's own keeps indices too, in 3 to 17 times the time."""
    height, width = (side // 2 * 2 for side in input.shape[-2:])
    x = torch.maximum(input[..., 0:height:2, :], input[..., 1:height:2, :])
    return torch.maximum(x[..., 0:width:2], x[..., 1:width:2])


def _folded_forward(
    layer: Crossbar, dtype: torch.dtype | None, chain: Chain, divided: bool, format: torch.memory_format
) -> Callable[[Tensor], Tensor]:
    """divided: the layer before has divided its output by this one's step already."""
    quantizer, correct = layer.quantize_input, layer.correct
    codes: Callable[[Tensor], Tensor] = quantizer
    step: Tensor | float = 1.0
    if isinstance(quantizer, LearnedStep):
        codes, step = (quantizer.rounded_ if divided else quantizer.codes), quantizer.scale
    cells, bias = layer.cells(), layer.bias
    if (fold := getattr(correct, "fold", None)) and layer.read is None:
        cells, correct = fold(cells), None
    if chain.norm is not None:
        cells, bias = _normalized(cells, bias, chain.norm)
    if chain.reader is not None:
        step_after: Any = chain.reader.quantize_input.scale
        cells, bias = cells / step_after, None if bias is None else bias / step_after
    scaled = (cells * step).to(dtype or cells.dtype)
    scaled = scaled.contiguous(memory_format=format) if scaled.dim() == 4 else scaled
    shift = None if bias is None else bias.to(scaled.dtype)
    if correct is None and layer.read is None:
        return lambda input: layer.op(codes(input).to(scaled.dtype), scaled, shift)
    exact = layer.weight.dtype  # where a correction trusts its reading must not depend on rounding

    def forward(input: Tensor) -> Tensor:
        x = codes(input)
        few = x.to(scaled.dtype)
        y = layer.finished(lambda rows: layer.part(few, scaled, rows).to(exact), x.to(exact) * step).to(scaled.dtype)
        return y if shift is None else y + shift.view(layer.bias_shape)

    return forward


def _normalized(cells: Tensor, bias: Tensor | None, norm: Any) -> tuple[Tensor, Tensor]:
    """g·w̃ and g·(bias − μ) + β."""
    gain = (norm.running_var + norm.eps).rsqrt() * (1 if norm.weight is None else norm.weight)
    shift = gain * ((0 if bias is None else bias) - norm.running_mean) + (0 if norm.bias is None else norm.bias)
    return cells * gain.view(-1, 1, 1, 1), shift
