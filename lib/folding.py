"""A programmed network as Monte Carlo runs it over many batches, without gradients: the same values, sooner.

What is linear in a layer's cells is folded into them once a chip: activation step s_x, linear correction, batch norm.

    BN( correct( op( s_x·codes(x), w̃ ), · ) + bias ) = op( codes(x), s_x·g·fold(w̃) ) + g·(bias − μ) + β,   g = γ/√(σ² + ε)
"""

from __future__ import annotations

import copy
from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import contextmanager

import torch
from torch import Tensor, fx, nn

from .analog import AnalogConv2d, Crossbar, crossbars
from .quantizers import LearnedStep


def followers(net: nn.Module) -> dict[AnalogConv2d, nn.BatchNorm2d]:
    """The batch norm that reads a convolution's output in evaluation, where it alone reads it, and each is called once.

    Empty for a network that torch.fx cannot trace, because its way depends on its input."""
    traced = copy.deepcopy(net).eval()  # a forward that keeps something would keep a stand-in
    try:
        graph = _Tracer().trace(traced)
    except Exception:  # tracing runs the user's own forward with stand-ins for tensors: anything may come of it
        return {}
    called = [node.target for node in graph.nodes if node.op == "call_module"]
    uses = Counter(inner for name in called for inner in traced.get_submodule(name).modules())
    found = {}
    for node in graph.nodes:
        if node.op == "call_module" and len(node.users) == 1:
            (user,) = node.users
            if user.op == "call_module":
                pair = [traced.get_submodule(target) for target in (node.target, user.target)]
                if _folds(*pair) and uses[pair[0]] == uses[pair[1]] == 1:
                    found[net.get_submodule(node.target)] = net.get_submodule(user.target)
    return found


def _folds(layer: nn.Module, norm: nn.Module) -> bool:
    """Exact types, since a subclass may do more; not linear layers, since BatchNorm1d may mean another axis than theirs."""
    hooks = [hooks for m in (layer, norm) for hooks in (m._forward_hooks, m._forward_pre_hooks)]
    return (type(layer), type(norm)) == (AnalogConv2d, nn.BatchNorm2d) and norm.track_running_stats and not any(hooks)


class _Tracer(fx.Tracer):
    def is_leaf_module(self, m: nn.Module, name: str) -> bool:
        """What holds no crossbar is not looked into: it may ask for shapes, which stand-ins do not have."""
        return isinstance(m, Crossbar) or not any(isinstance(inner, Crossbar) for inner in m.modules())


@contextmanager
def written(net: nn.Module, dtype: torch.dtype | None = None, norms: dict[AnalogConv2d, nn.BatchNorm2d] | None = None) -> Iterator[nn.Module]:
    """Every crossbar of a network in evaluation mode with all that is linear folded into its cells.

    dtype: of the convolutions, None for that of their weights.  Linear layers and what follows keep theirs, since logits
    rounded to few bits would tie.  norms: `followers(net)`."""
    replaced = []
    try:
        for _, layer in crossbars(net):
            norm = (norms or {}).get(layer)
            if norm is None or norm.training or not (layer.correct is None or hasattr(layer.correct, "fold")):
                norm = None
            else:
                replaced.append(norm)
                norm.forward = _same
            forward = _written(layer, dtype if isinstance(layer, AnalogConv2d) else None, norm)
            replaced.append(layer)
            layer.forward = forward
        yield net
    finally:
        for module in replaced:
            module.__dict__.pop("forward", None)


def _same(x: Tensor) -> Tensor:
    return x


def _written(layer: Crossbar, dtype: torch.dtype | None, norm: nn.BatchNorm2d | None) -> Callable[[Tensor], Tensor]:
    quantizer, correct, cells, bias = layer.quantize_input, layer.correct, layer.cells(), layer.bias
    codes, step = (quantizer.codes, quantizer.scale) if isinstance(quantizer, LearnedStep) else (quantizer, 1.0)
    if fold := getattr(correct, "fold", None):
        cells, correct = fold(cells), None
    if norm is not None:
        gain = (norm.running_var + norm.eps).rsqrt() * (1 if norm.weight is None else norm.weight)
        bias = gain * ((0 if bias is None else bias) - norm.running_mean) + (0 if norm.bias is None else norm.bias)
        cells = cells * gain.view(-1, 1, 1, 1)
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
