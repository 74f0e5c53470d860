"""What of a network is analog, what stays digital, and why."""

from __future__ import annotations

from dataclasses import dataclass

from torch import nn

from .analog import ANALOG, Crossbar, crossbars
from .checks import one_of
from .laws import CELLS_OF_A_WEIGHT
from .torch_internals import BatchNorm


@dataclass(frozen=True)
class LayerReport:
    """One module that holds parameters: where it computes, how many cells it takes, and why."""

    name: str
    kind: str
    place: str  # "analog" or "digital"
    cells: int
    why: str


def report(net: nn.Module, mapping: str = "single-ended") -> list[LayerReport]:
    """A row for every module of `net` that holds parameters itself: what is analog, what stays digital, and why.

    mapping: as in `Variation`; a differential pair takes two cells a weight.  Raises InputError for an unknown one."""
    rows = []
    of_a_weight = CELLS_OF_A_WEIGHT[one_of("mapping", mapping, CELLS_OF_A_WEIGHT, "register_mapping adds one")]
    quantizers = {id(q) for _, layer in crossbars(net) for q in (layer.quantize_input, layer.quantize_weight)}
    for name, module in net.named_modules():
        if id(module) in quantizers or not any(True for _ in module.parameters(recurse=False)):
            continue
        kind, cells, place = type(module).__name__, 0, "digital"
        if isinstance(module, Crossbar):
            place, cells = "analog", of_a_weight * module.weight.numel()
            why = "weights on a crossbar" + ("" if module.bias is None else ", bias digital")
        elif type(module) in ANALOG:
            why = "the output for the calibration batch does not depend on its weights in this layer"
        elif isinstance(module, (nn.Linear, nn.Conv2d)):
            why = f"a subclass of {type(module).__mro__[1].__name__} may compute without its forward"
        elif isinstance(module, BatchNorm):
            why = "normalization is digital and exact"
        else:
            why = "neither Conv2d nor Linear"
        rows.append(LayerReport(name or "(network)", kind, place, cells, why))
    return rows
