"""Analog networks as files: safetensors with every quantizer and converter in its metadata.  Nothing is pickled.

save_analog(net, "net.safetensors")
net = load_analog(my_module, "net.safetensors")     my_module: the float network that was converted, any weights
"""

from __future__ import annotations

import json
from collections.abc import Callable
from dataclasses import asdict
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import save_file
from torch import nn

from .analog import Crossbar, Read, crossbars
from .checks import InputError, StorageError
from .conversion import copied, place
from .converter import Reading
from .quantizers import (
    SEARCHED,
    Binary,
    BinaryChannels,
    LearnedSign,
    LearnedStep,
    LegacyActivations,
    LegacySign,
    LineSearch,
)

FORMAT = "analog-pim-companion 1"
ONE = torch.ones(1)  # the place of a step, which the file's tensors fill
# type of quantizer → (its numbers for the metadata, the quantizer of those numbers)
KINDS: dict[type, tuple[Callable[[Any], list], Callable[..., nn.Module]]] = {
    nn.Identity: (lambda q: [], nn.Identity),
    Binary: (lambda q: [], Binary),
    BinaryChannels: (lambda q: [], BinaryChannels),
    LegacySign: (lambda q: [], LegacySign),
    LineSearch: (lambda q: [q.bits, q.n], lambda bits, n=SEARCHED: LineSearch(bits, ONE, n)),  # older files: no n
    LegacyActivations: (lambda q: [(q.n + 1).bit_length()], lambda bits: LegacyActivations(bits, ONE)),
    LearnedStep: (lambda q: [q.bits, q.signed, q.count], lambda bits, signed, n: LearnedStep(bits, signed, ONE, n)),
    LearnedSign: (lambda q: [q.bits, q.signed, q.count], lambda bits, signed, n: LearnedSign(bits, signed, ONE, n)),
}
BY_NAME = {kind.__name__: make for kind, (_, make) in KINDS.items()}


def save_analog(net: nn.Module, path: str | Path) -> None:
    """Write the state, the quantizers and the converters of an analog network; slots of a programmed chip are not part
    of it.

    Raises ValueError for a network without analog layers, or a quantizer or a `read` of a type that the file cannot
    describe; OSError where the file cannot be written."""
    layers = {
        name: [_described(name, m.quantize_input), _described(name, m.quantize_weight), *_reading(name, m.read)]
        for name, m in crossbars(net)
    }
    if not layers:
        raise InputError(
            f"{type(net).__name__} has no analog layer to save; make them with to_analog(net, bits, calibrate)"
        )
    tensors = {name: tensor.detach().cpu().contiguous().clone() for name, tensor in net.state_dict().items()}
    try:
        save_file(tensors, str(path), metadata={"format": FORMAT, "layers": json.dumps(layers)})
    except SafetensorError as error:
        raise StorageError(
            f"cannot write {path} ({error}); name a file in a folder that exists and may be written to"
        ) from None


def load_analog(net: nn.Module, path: str | Path) -> nn.Module:
    """An analog copy of the float network `net` with the quantizers, the converters and the state of a file, in
    evaluation mode.

    Raises ValueError where the file is damaged or not one of `save_analog`, or where `net` has other layers;
    FileNotFoundError where there is none."""
    if Path(path).is_dir():
        raise InputError(f"{path} is a folder; name the file in it that save_analog wrote")
    try:
        with safe_open(str(path), "pt") as file:
            about = file.metadata() or {}
            tensors = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118
    except SafetensorError as error:
        raise InputError(f"{path} is no readable safetensors file ({error}); write it again with save_analog") from None
    if about.get("format") != FORMAT:
        raise InputError(
            f"{path} has the format {about.get('format')!r}, allowed: {FORMAT!r}; write it with save_analog"
        )
    net = copied(net)
    try:
        for name, (inputs, weights, *readings) in json.loads(about["layers"]).items():
            layer = net.get_submodule(name)
            place(layer, _made(*inputs), _made(*weights))
            for reading in readings:
                assert isinstance(layer, Crossbar)  # `place` has seen to it
                layer.read, layer.rows = Reading(**reading), reading["rows"]
        net.load_state_dict(tensors)
    except (AttributeError, KeyError, RuntimeError) as error:  # torch names every mismatch, over many lines
        said = " ".join(str(error).split())[:300]
        raise InputError(f"{type(net).__name__} is not the network saved in {path}: {said}") from None
    return net.eval()


def _described(layer: str, quantizer: nn.Module) -> list:
    if type(quantizer) not in KINDS:
        allowed = ", ".join(BY_NAME)
        raise InputError(
            f"layer {layer!r} has a quantizer of type {type(quantizer).__name__}, a file can hold: {allowed}"
        )
    return [type(quantizer).__name__, *KINDS[type(quantizer)][0](quantizer)]


def _reading(layer: str, read: Read | None) -> list[dict]:
    """Nothing where there is no converter."""
    if read is None:
        return []
    if not isinstance(read, Reading):
        raise InputError(f"layer {layer!r} is read by a {type(read).__name__}, a file can hold: Reading (of `attach`)")
    return [asdict(read)]


def _made(kind: str, *numbers) -> nn.Module:
    return BY_NAME[kind](*numbers)
