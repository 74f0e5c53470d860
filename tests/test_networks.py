"""Networks: shapes, sizes, and initial weights that depend on their arguments alone."""

import pytest
import torch

from lib import build

SIZES = {"lenet5": (12, 28, 32, 64), "lenet5-classic": (28, 32), "vgg11": (28, 64), "resnet18": (8, 28)}


@pytest.mark.parametrize("name,size", [(name, size) for name, sizes in SIZES.items() for size in sizes])
def test_shapes(name, size):
    net = build(name, 3, 7, size, width=0.25).eval()
    assert net(torch.randn(2, 3, size, size)).shape == (2, 7)


def test_published_sizes():
    published = {"lenet5-classic": (1, 10, 28), "vgg11": (3, 10, 32), "resnet18": (3, 100, 32)}
    nets = {name: build(name, *arguments) for name, arguments in published.items()}
    cells = {name: sum(p.numel() for p in net.parameters() if p.dim() > 1) for name, net in nets.items()}
    assert cells == {"lenet5-classic": 61_470, "vgg11": 9_222_848, "resnet18": 11_210_432}


def test_a_network_is_a_function_of_its_arguments():
    torch.manual_seed(1)
    a = build("lenet5", 1, 10, 28, seed=3)
    before = torch.get_rng_state()
    b = build("lenet5", 1, 10, 28, seed=3)
    assert torch.equal(torch.get_rng_state(), before)
    assert torch.equal(a[0].weight, b[0].weight) and not torch.equal(a[0].weight, build("lenet5", 1, 10, 28)[0].weight)


def test_only_the_last_layer_has_a_bias_where_batch_norm_follows():
    net = build("lenet5", 1, 10, 28)
    layers = [m for m in net if hasattr(m, "in_features") or hasattr(m, "in_channels")]
    assert [m.bias is not None for m in layers] == [False] * 4 + [True]
