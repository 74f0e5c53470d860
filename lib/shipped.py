"""Trained networks that come with the project, one safetensors file each under data/networks/.

    net = load_shipped("vgg11-quarter-cifar10-A4W2-qavat-0.3-s0")      in evaluation mode, ready for chips
    w = s·c      weights are kept as the integers c of their quantizer, 2 or 4 bits a code, beside its step s

A file says how, where and on which images its network was trained (`Shipped`), and carries the SHA-256 of all it holds:
that is the network's identity in keys, whatever becomes of the code that trained it.
"""

from __future__ import annotations

import dataclasses
import functools
import hashlib
import json
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import save_file
from torch import Tensor, nn

from .analog import crossbars
from .checks import InputError, RunError, one_of
from .conversion import converted
from .data import ROOT, Augment, Dataset, public_name
from .networks import build
from .quantizers import LearnedStep, LineSearch, levels
from .training import Recipe, State, load_network
from .trials import Phase, Trial, restored
from .variation import Variation

FOLDER = ROOT / "data" / "networks"
FORMAT = "analog-pim-companion network 1"
RESTORE = "restore it with: git checkout -- data/networks"
NESTED = {"recipe": Recipe, "start": Recipe, "variation": Variation, "first": Phase, "augment": Augment}


@dataclass(frozen=True)
class Shipped:
    """One of them.  trial: what was trained; fingerprint, channels, classes, size: of the images it was trained on;
    trained: device, precision, commit and versions, in words; digest: SHA-256 (hex) of tensors and description."""

    name: str
    path: Path
    trial: Trial
    fingerprint: str
    channels: int
    classes: int
    size: int
    trained: Mapping[str, str] = dataclasses.field(hash=False)
    digest: str

    def state(self) -> State:
        """Raises RunError where the file is damaged, or another one than when it was listed."""
        about, tensors, sha256 = _read(self.path)
        if sha256 != self.digest:
            raise RunError(f"{self.path} has been replaced since this process listed it; restart it")
        packed = json.loads(about["codes"])
        state = {}
        for name, tensor in tensors.items():
            if name in packed:
                bits, shape, step = packed[name]
                codes = unpacked(tensor, bits, torch.Size(shape).numel()).view(shape)
                state[f"net/{name}"] = codes.float() * tensors[step].abs()
            else:
                state[f"net/{name}"] = tensor.float() if tensor.dtype == torch.float16 else tensor
        return state

    def network(self) -> nn.Module:
        """In evaluation mode on the CPU, with analog layers.  Raises RunError where the file is damaged."""
        t, shape = self.trial, (self.channels, self.classes, self.size)
        x = torch.randn(2, self.channels, self.size, self.size, generator=torch.Generator().manual_seed(0))
        net = converted(build(t.network, *shape, t.width, t.seed), t.bits, x, t.quantizer_set)
        return load_network(net, self.state()).eval()


def load_shipped(name: str, folder: Path = FOLDER) -> nn.Module:
    """A shipped network by its name, in evaluation mode on the CPU.

    Raises InputError for an unknown name, RunError where its file is damaged."""
    found = shipped_networks(folder)
    if not found:
        raise InputError(f"there are no networks in {folder}; they come with a checkout of the project: git clone it")
    return found[one_of("shipped network", name, found)].network()


def shipped_networks(folder: Path = FOLDER) -> dict[str, Shipped]:
    """Name → network, in alphabetical order; empty where there are none.  Raises RunError for a file that is none."""
    return {one.name: one for one in _found(folder, _stamp(folder)).values()}


def shipped(trial: Trial, fingerprint: str, folder: Path = FOLDER) -> Shipped | None:
    """The shipped network of a trial on images of that fingerprint, whatever their name."""
    return _found(folder, _stamp(folder)).get((fingerprint, _identity(trial)))


def _stamp(folder: Path) -> int:
    """When a file came to a folder, or went; 0 where there is none."""
    return Path(folder).stat().st_mtime_ns if Path(folder).is_dir() else 0


@functools.lru_cache(8)  # every key asks
def _found(folder: Path, stamp: int) -> dict[tuple[str, str], Shipped]:
    networks = [_described(path) for path in sorted(Path(folder).glob("*.safetensors"))]
    return {(one.fingerprint, _identity(one.trial)): one for one in networks}


def ship(trial: Trial, dataset: Dataset, state: State, path: Path, trained: Mapping[str, str]) -> Shipped:
    """Write the network of a state as PATH (NAME.safetensors).  It loads as the same network, to the bit: float weights
    are kept in float16 only if they have no more digits.  Raises RunError where a code would not come back."""
    net = restored(trial, dataset, state)
    tensors, packed = {name: tensor.contiguous().clone() for name, tensor in net.state_dict().items()}, {}
    for layer, crossbar in crossbars(net):
        quantizer, name, w = crossbar.quantize_weight, f"{layer}.weight", crossbar.weight.detach()
        if isinstance(quantizer, (LearnedStep, LineSearch)):
            with torch.no_grad():
                q, step = quantizer(w), quantizer.step.abs()
                codes = (q / step).round().to(torch.int8)
                if not torch.equal(quantizer(codes.float() * step), q):
                    raise RunError(f"layer {layer} of {trial.label} is not what its codes give; train it again")
            packed[name] = [quantizer.bits, list(w.shape), f"{layer}.quantize_weight.step"]
            tensors[name] = packed_codes(codes, quantizer.bits)
        elif torch.equal(w.half().float(), w):
            tensors[name] = w.half()
    about = {
        "format": FORMAT,
        "trial": json.dumps(plain(trial)),
        "fingerprint": dataset.fingerprint,
        "images": json.dumps([dataset.channels, dataset.classes, dataset.size]),
        "trained": json.dumps(dict(trained)),
        "codes": json.dumps(packed),
    }
    save_file(tensors, str(path), metadata=about | {"sha256": _digest(about, tensors)})
    _found.cache_clear()  # a file that was there before
    return _described(path)


def packed_codes(codes: Tensor, bits: int) -> Tensor:
    """uint8, ⌈N·bits/8⌉ of them: c + n of N integers −n … n, the first in the lowest bits; a code a byte where its bits
    do not divide 8."""
    n, each = levels(bits, signed=True)[1], 8 // bits if 8 % bits == 0 else 1
    flat = (codes.flatten().to(torch.int16) + n).to(torch.uint8)
    rows = torch.cat([flat, flat.new_zeros(-len(flat) % each)]).view(-1, each)
    return (rows << (torch.arange(each) * bits).to(torch.uint8)).sum(1, dtype=torch.uint8)


def unpacked(packed: Tensor, bits: int, count: int) -> Tensor:
    """The `count` integers of `packed_codes`, int8 (count,)."""
    n, each = levels(bits, signed=True)[1], 8 // bits if 8 % bits == 0 else 1
    mask = 2**bits - 1 if each > 1 else 255
    rows = (packed[:, None] >> (torch.arange(each) * bits).to(torch.uint8)) & mask
    return (rows.flatten()[:count].to(torch.int16) - n).to(torch.int8)


def plain(value: Any) -> Any:
    """A trial as JSON holds it: what differs from the defaults alone, so that a field which comes later changes
    nothing."""
    if not dataclasses.is_dataclass(value):
        return list(value) if isinstance(value, tuple) else value
    found = {}
    for f in dataclasses.fields(value):
        given = getattr(value, f.name)
        default = f.default if f.default_factory is dataclasses.MISSING else f.default_factory()
        if f.init and (default is dataclasses.MISSING or given != default):
            found[f.name] = plain(public_name(given) if f.name == "dataset" else given)
    return found


def of_plain(kind: type, found: Mapping) -> Any:
    """The frozen value of a type that `plain` described."""
    values = {
        name: of_plain(NESTED[name], value)
        if isinstance(value, dict)
        else tuple(value)
        if type(value) is list
        else value
        for name, value in found.items()
    }
    return kind(**values)


@functools.lru_cache(None)
def _identity(trial: Trial) -> str:
    """What was trained, whatever its images are called."""
    return json.dumps(trial.config() | {"dataset": None}, sort_keys=True)


def _described(path: Path) -> Shipped:
    """What the head of a file says."""
    try:
        with safe_open(str(path), "pt") as file:
            about = file.metadata() or {}
        if about.get("format") != FORMAT:
            raise ValueError(f"the format is {about.get('format')!r}, allowed: {FORMAT!r}")
        trial, trained = of_plain(Trial, json.loads(about["trial"])), json.loads(about["trained"])
        channels, classes, size = json.loads(about["images"])
        images = about["fingerprint"], channels, classes, size
        return Shipped(path.stem, path, trial, *images, trained, about["sha256"])
    except (SafetensorError, KeyError, TypeError, ValueError) as error:
        raise _damaged(path, error) from None


def _read(path: Path) -> tuple[dict[str, str], dict[str, Tensor], str]:
    try:
        with safe_open(str(path), "pt") as file:
            about = file.metadata() or {}
            tensors = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118
    except (SafetensorError, ValueError) as error:
        raise _damaged(path, error) from None
    sha256 = about.pop("sha256", "")
    if _digest(about, tensors) != sha256:
        raise _damaged(path, "wrong SHA-256")
    return about, tensors, sha256


def _digest(about: Mapping[str, str], tensors: Mapping[str, Tensor]) -> str:
    digest = hashlib.sha256(json.dumps(about, sort_keys=True).encode())
    for name, tensor in sorted(tensors.items()):
        digest.update(f"{name} {tensor.dtype} {tuple(tensor.shape)}".encode() + tensor.contiguous().numpy().tobytes())
    return digest.hexdigest()


def _damaged(path: Path, why) -> RunError:
    return RunError(f"{path} is damaged ({' '.join(str(why).split())[:200]}); {RESTORE}")
