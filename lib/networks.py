"""The networks of the paper's experiments as ordinary float modules: LeNet-5, VGG-11 and ResNet-18.

`width` multiplies every hidden channel count.  Layers followed by batch norm carry no bias.
"""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from .checks import InputError, integer, one_of, real


class Pad(nn.Module):
    """Zero-pad (B, C, H, W) evenly to at least `size` × `size`: 28×28 images enter VGG-11 and ResNet-18 as 32×32."""

    def __init__(self, size: int):
        super().__init__()
        self.size = size

    def forward(self, x: Tensor) -> Tensor:
        missing = [max(0, self.size - side) for side in (x.shape[-1], x.shape[-2])]
        return F.pad(x, [part for m in missing for part in (m // 2, m - m // 2)]) if any(missing) else x


def lenet5(channels: int, classes: int, size: int, width: float = 1.0) -> nn.Module:
    """conv 6–16, fc 120–84–classes, batch norm after every hidden layer, ReLU, max-pool; images of at least 12×12."""
    c1, c2, f1, f2 = (_scaled(n, width) for n in (6, 16, 120, 84))
    padding = 2 if size < 32 else 0
    side = ((size + 2 * padding - 4) // 2 - 4) // 2  # after two 5×5 convolutions and two poolings
    return nn.Sequential(
        nn.Conv2d(channels, c1, 5, padding=padding, bias=False), nn.BatchNorm2d(c1), nn.ReLU(), nn.MaxPool2d(2),
        nn.Conv2d(c1, c2, 5, bias=False), nn.BatchNorm2d(c2), nn.ReLU(), nn.MaxPool2d(2),
        nn.Flatten(),
        nn.Linear(c2 * side * side, f1, bias=False), nn.BatchNorm1d(f1), nn.ReLU(),
        nn.Linear(f1, f2, bias=False), nn.BatchNorm1d(f2), nn.ReLU(),
        nn.Linear(f2, classes),
    )  # fmt: skip


def lenet5_classic(channels: int, classes: int, size: int, width: float = 1.0) -> nn.Module:
    """[code 2021]: conv 6–16–120, fc 84–classes, tanh, average pool, no batch norm, no bias; images of 28×28 to 32×32,
    padded by the first convolution, so that its quantizer sees the image alone."""
    c1, c2, c3, f1 = (_scaled(n, width) for n in (6, 16, 120, 84))
    return nn.Sequential(
        nn.Conv2d(channels, c1, 5, padding=(33 - size) // 2, bias=False), nn.Tanh(), nn.AvgPool2d(2),
        nn.Conv2d(c1, c2, 5, bias=False), nn.Tanh(), nn.AvgPool2d(2),
        nn.Conv2d(c2, c3, 5, bias=False), nn.Tanh(),
        nn.Flatten(),
        nn.Linear(c3, f1, bias=False), nn.Tanh(),
        nn.Linear(f1, classes, bias=False),
    )  # fmt: skip


def vgg11(channels: int, classes: int, size: int, width: float = 1.0) -> nn.Module:
    """Eight 3×3 convolutions with batch norm, five max-pools, one linear layer; images of at least 28×28."""
    layers: list[nn.Module] = [Pad(32)]
    for out, pool in ((64, 1), (128, 1), (256, 0), (256, 1), (512, 0), (512, 1), (512, 0), (512, 1)):
        out = _scaled(out, width)
        layers += [nn.Conv2d(channels, out, 3, padding=1, bias=False), nn.BatchNorm2d(out), nn.ReLU()]
        layers += [nn.MaxPool2d(2)] * pool
        channels = out
    return nn.Sequential(*layers, nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(channels, classes))


class BasicBlock(nn.Module):
    """conv–BN–ReLU–conv–BN plus a shortcut (1×1 convolution where the shape changes), then ReLU."""

    def __init__(self, channels: int, out: int, stride: int):
        super().__init__()
        self.conv1, self.bn1 = nn.Conv2d(channels, out, 3, stride, 1, bias=False), nn.BatchNorm2d(out)
        self.conv2, self.bn2 = nn.Conv2d(out, out, 3, 1, 1, bias=False), nn.BatchNorm2d(out)
        self.shortcut = nn.Sequential()
        if stride != 1 or channels != out:
            self.shortcut = nn.Sequential(nn.Conv2d(channels, out, 1, stride, bias=False), nn.BatchNorm2d(out))
        self.relu1, self.relu2 = nn.ReLU(), nn.ReLU()

    def forward(self, x: Tensor) -> Tensor:
        return self.relu2(self.bn2(self.conv2(self.relu1(self.bn1(self.conv1(x))))) + self.shortcut(x))


def resnet18(channels: int, classes: int, size: int, width: float = 1.0) -> nn.Module:
    """ResNet-18 with the 3×3 stem used for 32×32 images; images of at least 8×8 (28×28 is padded to 32×32)."""
    first = _scaled(64, width)
    layers = [Pad(32), nn.Conv2d(channels, first, 3, 1, 1, bias=False), nn.BatchNorm2d(first), nn.ReLU()]
    channels = first
    for out, stride in ((64, 1), (128, 2), (256, 2), (512, 2)):
        out = _scaled(out, width)
        layers += [BasicBlock(channels, out, stride), BasicBlock(out, out, 1)]
        channels = out
    return nn.Sequential(*layers, nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(channels, classes))


# name → (builder, smallest side, largest side)
NETWORKS = {
    "lenet5": (lenet5, 12, None),
    "lenet5-classic": (lenet5_classic, 28, 32),
    "vgg11": (vgg11, 28, None),
    "resnet18": (resnet18, 8, None),
}


def build(name: str, channels: int, classes: int, size: int, width: float = 1.0, seed: int = 0) -> nn.Module:
    """A freshly initialized network: a function of its arguments alone, whatever torch's global state.

    Raises ValueError for an unknown name, a width ≤ 0, fewer than 2 classes, or images of a size it cannot take."""
    builder, smallest, largest = NETWORKS[one_of("network", name, NETWORKS)]
    integer("channels", channels, 1)
    integer("classes", classes, 2)
    integer("seed", seed, 0, 2**16 - 1)
    width = real("width", width, 1 / 64)
    if size < smallest or (largest and size > largest):
        allowed = f"at least {smallest}×{smallest}" if not largest else f"{smallest}×{smallest} to {largest}×{largest}"
        raise InputError(f"{name} takes images of {allowed}, got {size}×{size}; resize them or choose another network")
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        return builder(channels, classes, size, width)


def _scaled(channels: int, width: float) -> int:
    return max(1, round(channels * width))


NAMES = {"lenet5": "LeNet-5", "lenet5-classic": "LeNet-5 (classic)", "vgg11": "VGG-11", "resnet18": "ResNet-18"}
