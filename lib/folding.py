"""A programmed network as Monte Carlo runs it over many batches, without gradients: the same values, sooner.

What is linear in a layer's cells is folded into them once a chip: activation step s_x, linear correction, batch norm,
and the division by the step s of the layer that reads it through ReLUs and max-poolings alone.

    BN( correct( op( s_x·codes(x), w̃ ), · ) + bias ) = op( codes(x), s_x·g·fold(w̃) ) + g·(bias − μ) + β,   g = γ/√(σ² + ε)
    codes( pool( relu( y ) ) ) = round( clamp( pool( y/s ), 0, n ) )

The last line holds for gradients too: while a network trains, the ReLUs before such a quantizer rest (`idle_relus`).
"""

from __future__ import annotations

import copy
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field

import torch
from torch import Tensor, fx, nn

from .analog import AnalogConv2d, AnalogLinear, Crossbar, crossbars, evaluating, layout, programmed
from .quantizers import LearnedStep
from .variation import Chip, Variation


@dataclass(frozen=True)
class Chain:
    """What follows a convolution, where each module alone reads the one before and is called once.

    norm: its batch norm.  reader: the crossbar at the end, whose unsigned quantizer clamps at zero, so that the ReLUs on
    the way change nothing, and whose step the convolution can divide by.  passed: what stands between."""

    norm: nn.BatchNorm2d | None = None
    passed: tuple[nn.Module, ...] = ()
    reader: Crossbar | None = None

    @property
    def relus(self) -> list[nn.ReLU]:
        return [m for m in self.passed if type(m) is nn.ReLU]

    def holds(self, layer: AnalogConv2d) -> bool:
        """Whether correction, batch norm and division act on the cells alone, now that a tuner may have changed them."""
        quiet = _foldable(layer) and all(map(_plain, filter(None, (layer, self.norm, *self.passed, self.reader))))
        linear = layer.correct is None or hasattr(layer.correct, "fold")
        return quiet and linear and not (self.norm and self.norm.training) and (self.reader is None or _clamps(self.reader))


@dataclass(frozen=True)
class Way:
    """How a network may be evaluated: the layout of its inputs in memory, and the chains of its convolutions."""

    layout: torch.memory_format = torch.contiguous_format
    chains: dict[AnalogConv2d, Chain] = field(default_factory=dict)


def way(net: nn.Module, x: Tensor) -> Way:
    """The quickest way of `net` that computes the same on a few inputs x (B, …)."""
    how = layout(net, x)
    try:
        return Way(how, _tried(net, x, how))
    except Exception:  # any forward of the user's: it may not bear a copy, float64, or stand-ins for tensors
        return Way(how)


def _tried(net: nn.Module, x: Tensor, how: torch.memory_format) -> dict[AnalogConv2d, Chain]:
    """The chains found in a copy of `net`, if they hold there."""
    twin = copy.deepcopy(net).double()
    with evaluating(twin), torch.random.fork_rng(devices=[]):
        found = _chains(twin)
        if not found or not _same_result(twin, x.double(), Way(how, found)):
            return {}
    mine = dict(zip(twin.modules(), net.modules())) | {None: None}
    return {mine[layer]: Chain(mine[c.norm], tuple(mine[m] for m in c.passed), mine[c.reader]) for layer, c in found.items()}


def _same_result(net: nn.Module, x: Tensor, way: Way) -> bool:
    """Slowly and folded, on one chip: a forward may do what no trace shows."""
    x = x.contiguous(memory_format=way.layout)
    with programmed(net, Chip(0), Variation(0.1)):
        slowly = net(x)
        with written(net, None, way):
            return torch.allclose(net(x), slowly, rtol=1e-6, atol=1e-6 * float(slowly.abs().max()))


def _chains(net: nn.Module) -> dict[AnalogConv2d, Chain]:
    """The chain of each convolution that has one; `net` is a copy in evaluation mode that is used for nothing else."""
    nodes, certain = _calls(net)
    convolutions = [(node, m) for node in nodes if type(m := certain(node)) is AnalogConv2d]
    found = {layer: _followed(node, certain) for node, layer in convolutions}
    return {layer: chain for layer, chain in found.items() if chain != Chain()}


def idle_relus(net: nn.Module, x: Tensor) -> list[nn.ReLU]:
    """The ReLUs of a network in training that change neither value nor gradient, found in a copy and tried on x (B, …):
    each is read, through ReLUs and max-poolings alone, by a crossbar whose unsigned quantizer takes what is negative to
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
        mine = dict(zip(twin.modules(), net.modules()))
        return [mine[relu] for relu in found] if torch.equal(*outputs) else []
    except Exception:  # any forward of the user's
        return []


@contextmanager
def without(modules: Sequence[nn.Module]) -> Iterator[None]:
    """The modules named pass on what they are given."""
    try:
        for module in modules:
            module.forward = _same
        yield
    finally:
        for module in modules:
            module.__dict__.pop("forward", None)


def _calls(net: nn.Module) -> tuple[list[fx.Node], Callable[[fx.Node], nn.Module | None]]:
    """The calls of a copy that is used for nothing else, in order, and the module that a call certainly is.

    None for a network that keeps what it computes or is watched; torch.fx raises where the way depends on the input."""
    if not all(map(_plain, _containers(net))):
        return [], lambda node: None
    graph = _Tracer().trace(net)
    if any(isinstance(kept, fx.Proxy) for m in net.modules() for kept in vars(m).values()):
        return [], lambda node: None
    called = [node.target for node in graph.nodes if node.op == "call_module"]
    uses = Counter(inner for name in called for inner in net.get_submodule(name).modules())

    def certain(node: fx.Node) -> nn.Module | None:
        """The module called, if it is called here alone and nobody looks at what goes in or out."""
        module = net.get_submodule(node.target) if node.op == "call_module" else None
        return module if module is not None and uses[module] == 1 and _plain(module) else None

    return list(graph.nodes), certain


def _followed(node: fx.Node, certain: Callable[[fx.Node], nn.Module | None]) -> Chain:
    """Exact types throughout, since a subclass may do more; no BatchNorm1d, which may mean another axis than its layer."""
    norm, passed = None, ()
    while len(node.users) == 1:
        (node,) = node.users
        module = certain(node)
        if type(module) is nn.BatchNorm2d and module.track_running_stats and norm is None and not passed:
            norm = module
        elif type(module) in (AnalogConv2d, AnalogLinear) and _clamps(module):
            return Chain(norm, passed, module)
        elif type(module) in (nn.ReLU, nn.MaxPool2d, nn.Flatten, nn.Identity):  # monotonic, indifferent to a positive factor
            passed += (module,)
        else:
            break
    return Chain(norm)


def _clamps(reader: Crossbar) -> bool:
    """Whether a crossbar's quantizer takes negative inputs to zero."""
    return type(q := reader.quantize_input) is LearnedStep and not q.signed and _plain(q)


def _plain(m: nn.Module) -> bool:
    """No hook looks at what goes in or out, and the forward is that of its type."""
    return not (m._forward_hooks or m._forward_pre_hooks or "forward" in vars(m))


def _containers(net: nn.Module) -> Iterator[nn.Module]:
    return (m for m in net.modules() if not isinstance(m, Crossbar) and any(isinstance(inner, Crossbar) for inner in m.modules()))


class _Tracer(fx.Tracer):
    def is_leaf_module(self, m: nn.Module, name: str) -> bool:
        """What holds no crossbar is not looked into: it may ask for shapes, which stand-ins do not have."""
        return isinstance(m, Crossbar) or not any(isinstance(inner, Crossbar) for inner in m.modules())


@contextmanager
def written(net: nn.Module, dtype: torch.dtype | None = None, way: Way = Way()) -> Iterator[nn.Module]:
    """Every crossbar of a network in evaluation mode with all that is linear folded into its cells.

    dtype: of the convolutions, None for that of their weights.  Linear layers and what follows keep theirs, since logits
    rounded to few bits would tie.  A layer whose forward or activation quantizer somebody has changed is left alone."""
    folded = {layer: chain for layer, chain in way.chains.items() if chain.holds(layer)}
    divided, replaced = {chain.reader for chain in folded.values()}, []
    try:
        for _, layer in crossbars(net):
            if not _foldable(layer):
                continue
            chain = folded.get(layer, Chain())
            forward = _written(layer, dtype if isinstance(layer, AnalogConv2d) else None, chain, layer in divided, way.layout)
            now = {layer: forward} | dict.fromkeys(chain.relus, _same) | ({chain.norm: _same} if chain.norm else {})
            replaced += now
            for module, forward in now.items():
                module.forward = forward
        for module in filter(_halves, net.modules()):
            replaced.append(module)
            module.forward = _halved
        yield net
    finally:
        for module in replaced:
            module.__dict__.pop("forward", None)


def _foldable(layer: Crossbar) -> bool:
    return type(layer) in (AnalogConv2d, AnalogLinear) and "forward" not in vars(layer) and _plain(layer.quantize_input)


def _same(input: Tensor) -> Tensor:  # torch's own name, for callers by keyword
    return input


def _halves(m: nn.Module) -> bool:
    """Whether a module is the usual max-pooling of 2×2, written in any of its ways."""
    sizes = (getattr(m, name, None) for name in ("kernel_size", "stride", "padding", "dilation"))
    plain = type(m) is nn.MaxPool2d and not (m.ceil_mode or m.return_indices) and "forward" not in vars(m)
    return plain and [s if isinstance(s, tuple) else (s, s) for s in sizes] == [(2, 2), (2, 2), (0, 0), (1, 1)]


def _halved(input: Tensor) -> Tensor:
    """Max-pooling of 2×2 as two element-by-element maxima: torch's own also keeps indices, which takes 3 to 17 times longer."""
    height, width = (side // 2 * 2 for side in input.shape[-2:])
    x = torch.maximum(input[..., 0:height:2, :], input[..., 1:height:2, :])
    return torch.maximum(x[..., 0:width:2], x[..., 1:width:2])


def _written(
    layer: Crossbar, dtype: torch.dtype | None, chain: Chain, divided: bool, how: torch.memory_format
) -> Callable[[Tensor], Tensor]:
    """divided: the layer before has divided its output by this one's step already."""
    quantizer, correct, cells, bias = layer.quantize_input, layer.correct, layer.cells(), layer.bias
    codes, step = (quantizer.codes, quantizer.scale) if isinstance(quantizer, LearnedStep) else (quantizer, 1.0)
    codes = quantizer.rounded_ if divided else codes
    if fold := getattr(correct, "fold", None):
        cells, correct = fold(cells), None
    if (norm := chain.norm) is not None:
        gain = (norm.running_var + norm.eps).rsqrt() * (1 if norm.weight is None else norm.weight)
        bias = gain * ((0 if bias is None else bias) - norm.running_mean) + (0 if norm.bias is None else norm.bias)
        cells = cells * gain.view(-1, 1, 1, 1)
    if chain.reader is not None:
        step_after = chain.reader.quantize_input.scale
        cells, bias = cells / step_after, None if bias is None else bias / step_after
    cells = (cells * step).to(dtype or cells.dtype)
    cells = cells.contiguous(memory_format=how) if cells.dim() == 4 else cells
    bias = None if bias is None else bias.to(cells.dtype)
    if correct is None:
        return lambda input: layer.op(codes(input).to(cells.dtype), cells, bias)
    exact = layer.weight.dtype  # where a correction trusts its reading must not depend on rounding

    def forward(input: Tensor) -> Tensor:
        x = codes(input)
        y = correct(layer.op(x.to(cells.dtype), cells).to(exact), x.to(exact) * step).to(cells.dtype)
        return y if bias is None else y + bias.view(layer.bias_shape)

    return forward
