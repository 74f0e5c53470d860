"""A programmed network as Monte Carlo runs it over many batches, without gradients: the same values, sooner.

What is linear in a layer's cells is folded into them once a chip: activation step s_x, linear correction, batch norm,
and the division by the step s of the layer that reads it through ReLUs and max-poolings alone.

    BN( correct( op( s_x·codes(x), w̃ ), · ) + bias ) = op( codes(x), s_x·g·fold(w̃) ) + g·(bias − μ) + β,   g = γ/√(σ² + ε)
    codes( pool( relu( y ) ) ) = round( clamp( pool( y/s ), 0, n ) )
"""

from __future__ import annotations

import copy
from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass

import torch
from torch import Tensor, fx, nn

from .analog import AnalogConv2d, Crossbar, crossbars
from .quantizers import LearnedStep


@dataclass(frozen=True)
class Chain:
    """What follows a convolution, where each module alone reads the one before and is called once.

    norm: its batch norm.  reader: the crossbar at the end, whose unsigned quantizer clamps at zero, so that `relus` on
    the way change nothing, and whose step the convolution can divide by."""

    norm: nn.BatchNorm2d | None = None
    relus: tuple[nn.ReLU, ...] = ()
    reader: Crossbar | None = None


def chains(net: nn.Module) -> dict[AnalogConv2d, Chain]:
    """The chain of each convolution that has one, in evaluation.

    Empty for a network that torch.fx cannot trace, because its way depends on its input."""
    traced = copy.deepcopy(net).eval()  # a forward that keeps something would keep a stand-in
    try:
        graph = _Tracer().trace(traced)
    except Exception:  # tracing runs the user's own forward with stand-ins for tensors: anything may come of it
        return {}
    called = [node.target for node in graph.nodes if node.op == "call_module"]
    uses = Counter(inner for name in called for inner in traced.get_submodule(name).modules())

    def certain(node: fx.Node) -> nn.Module | None:
        """The module called, if it is called here alone and no hook reads what goes in or out."""
        module = traced.get_submodule(node.target) if node.op == "call_module" else None
        hooked = module is not None and (module._forward_hooks or module._forward_pre_hooks)
        return module if uses[module] == 1 and not hooked else None

    found = {}
    for node in graph.nodes:
        if type(certain(node)) is AnalogConv2d and (chain := _followed(node, certain, net)) != Chain():
            found[net.get_submodule(node.target)] = chain
    return found


def _followed(node: fx.Node, certain: Callable[[fx.Node], nn.Module | None], net: nn.Module) -> Chain:
    """Exact types throughout, since a subclass may do more; no BatchNorm1d, which may mean another axis than its layer."""
    norm, relus, passed = None, (), False
    while len(node.users) == 1:
        (node,) = node.users
        module = certain(node)
        if type(module) is nn.BatchNorm2d and module.track_running_stats and not passed and norm is None:
            norm = net.get_submodule(node.target)
            continue
        passed = True
        if type(module) is nn.ReLU:
            relus += (net.get_submodule(node.target),)
        elif isinstance(module, Crossbar) and type(q := module.quantize_input) is LearnedStep and not q.signed:
            return Chain(norm, relus, net.get_submodule(node.target))
        elif type(module) not in (nn.MaxPool2d, nn.Flatten, nn.Identity):  # monotonic, and indifferent to a positive factor
            break
    return Chain(norm)


class _Tracer(fx.Tracer):
    def is_leaf_module(self, m: nn.Module, name: str) -> bool:
        """What holds no crossbar is not looked into: it may ask for shapes, which stand-ins do not have."""
        return isinstance(m, Crossbar) or not any(isinstance(inner, Crossbar) for inner in m.modules())


@contextmanager
def written(net: nn.Module, dtype: torch.dtype | None = None, found: dict[AnalogConv2d, Chain] | None = None) -> Iterator[nn.Module]:
    """Every crossbar of a network in evaluation mode with all that is linear folded into its cells.

    dtype: of the convolutions, None for that of their weights.  Linear layers and what follows keep theirs, since logits
    rounded to few bits would tie.  found: `chains(net)`."""
    linear = {layer: chain for layer, chain in (found or {}).items() if _linear(layer, chain)}
    divided, replaced = {chain.reader for chain in linear.values()}, []
    try:
        for _, layer in crossbars(net):
            chain = linear.get(layer, Chain())
            forward = _written(layer, dtype if isinstance(layer, AnalogConv2d) else None, chain, layer in divided)
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


def _linear(layer: Crossbar, chain: Chain) -> bool:
    """Whether correction and batch norm act on the cells alone: neither asks for the batch."""
    return (layer.correct is None or hasattr(layer.correct, "fold")) and not (chain.norm and chain.norm.training)


def _same(x: Tensor) -> Tensor:
    return x


def _halves(m: nn.Module) -> bool:
    """Whether a module is the usual max-pooling of 2×2, written in any of its ways."""
    sizes = (getattr(m, name, None) for name in ("kernel_size", "stride", "padding", "dilation"))
    plain = type(m) is nn.MaxPool2d and not (m.ceil_mode or m.return_indices)
    return plain and [s if isinstance(s, tuple) else (s, s) for s in sizes] == [(2, 2), (2, 2), (0, 0), (1, 1)]


def _halved(x: Tensor) -> Tensor:
    """Max-pooling of 2×2 as two element-by-element maxima: torch's own also keeps indices, which takes 3 to 17 times longer."""
    height, width = (side // 2 * 2 for side in x.shape[-2:])
    x = torch.maximum(x[..., 0:height:2, :], x[..., 1:height:2, :])
    return torch.maximum(x[..., 0:width:2], x[..., 1:width:2])


def _written(layer: Crossbar, dtype: torch.dtype | None, chain: Chain, divided: bool) -> Callable[[Tensor], Tensor]:
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
    cells = cells.to(memory_format=torch.channels_last) if cells.dim() == 4 else cells
    bias = None if bias is None else bias.to(cells.dtype)
    if correct is None:
        return lambda x: layer.op(codes(x).to(cells.dtype), cells, bias)
    exact = layer.weight.dtype  # where a correction trusts its reading must not depend on rounding

    def forward(x: Tensor) -> Tensor:
        x = codes(x)
        y = correct(layer.op(x.to(cells.dtype), cells).to(exact), x.to(exact) * step).to(cells.dtype)
        return y if bias is None else y + bias.view(layer.bias_shape)

    return forward
