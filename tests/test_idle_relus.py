"""ReLUs that a quantizer repeats rest in training: the same training bit by bit, and only where that is certain."""

import pytest
import torch
from torch import nn

from lib import Recipe, Variation, build, fit, to_analog, training
from lib.data import Images
from lib.folding import idle_relus

RECIPE = Recipe(epochs=1, batch_size=16, bn_draws=2)
# name, side of its images, width → ReLUs that rest, of all: VGG-11 averages the last one, in ResNet-18 shortcuts read
NETWORKS = {("lenet5", 12, 1.0): (4, 4), ("vgg11", 28, 0.125): (7, 8), ("resnet18", 12, 0.125): (8, 17)}


def grown(images: Images, size: int) -> Images:
    pixels = images.pixels.repeat(1, 1, 3, 3)[..., :size, :size].contiguous()
    return Images(pixels, images.labels, images.mean, images.std)


def trained(net: nn.Module, images: Images, variation: Variation = Variation(0.3)) -> dict[str, torch.Tensor]:
    return fit(net, images, RECIPE, variation, seed=1)


@pytest.mark.parametrize("name,size,width", NETWORKS)
@pytest.mark.parametrize("bits", ["A4W2", "A1W1"])
def test_the_training_is_the_same_bit_by_bit(images, monkeypatch, name, size, width, bits):
    images = grown(images, size)
    x = images.normalized()
    nets = [to_analog(build(name, 1, 3, size, width), bits, x[:32]) for _ in range(2)]
    relus = [m for m in nets[0].modules() if type(m) is nn.ReLU]
    assert (len(idle_relus(nets[0], x[:2])), len(relus)) == NETWORKS[name, size, width]
    spared = trained(nets[0], images)
    assert not any("forward" in vars(m) for m in nets[0].modules())
    monkeypatch.setattr(training, "idle_relus", lambda net, x: [])
    whole = trained(nets[1], images)
    assert all(torch.equal(spared[key], whole[key]) for key in whole) and spared.keys() == whole.keys()


class Net(nn.Module):
    """conv – ReLU – conv on images of 12×12, and what the cases below make of it."""

    def __init__(self, relu=None):
        super().__init__()
        self.first, self.relu, self.second = nn.Conv2d(1, 4, 3), relu or nn.ReLU(), nn.Conv2d(4, 3, 10)

    def forward(self, x):
        return self.second(self.relu(self.first(x))).flatten(1)


class Auxiliary(Net):
    def forward(self, x):
        y = self.relu(self.first(x))
        return self.second(y).flatten(1) + (y.mean((2, 3))[:, :3] if self.training else 0)


class Twice(Net):
    def forward(self, x):
        return self.second(self.relu(self.relu(self.first(x)) - 0.1)).flatten(1)


class InPlace(Net):
    """What the ReLU overwrites is read beside it."""

    def forward(self, x):
        y = self.first(x)
        return self.second(self.relu(y)).flatten(1) + y.mean((2, 3))[:, :3]


class Random(Net):
    def forward(self, x):
        return self.second(nn.functional.dropout(self.relu(self.first(x)), 0.5, self.training)).flatten(1)


class Averaged(Net):
    def forward(self, x):
        return self.second(nn.functional.avg_pool2d(self.relu(self.first(x)), 3, 1, 1)).flatten(1)


class Quicker(Net):
    """Its way depends on the input."""

    def forward(self, x):
        return super().forward(x) if x.sum() != 0 else x.new_zeros(len(x), 3)


class Leaky(nn.ReLU):
    def forward(self, x):
        return nn.functional.leaky_relu(x, 0.1)


def watched():
    net = Net()
    net.relu.register_forward_hook(lambda module, args, y: None)
    return net


UNCERTAIN = [
    Auxiliary,
    Twice,
    lambda: InPlace(nn.ReLU(inplace=True)),
    Random,
    Averaged,
    Quicker,
    watched,
    lambda: Net(Leaky()),
]


@pytest.mark.parametrize("made", UNCERTAIN)
def test_a_relu_works_on_where_more_than_a_quantizer_depends_on_it(images, made):
    net = to_analog(made(), "A4W4", images.normalized())
    before = torch.random.get_rng_state()
    assert idle_relus(net, images.normalized()[:2]) == []
    assert torch.equal(torch.random.get_rng_state(), before)


@pytest.mark.parametrize("quantizers,signed", [("learned", True), ("line-search", False), ("legacy", False)])
def test_the_reader_decides(images, quantizers, signed):
    """A signed grid shows negative values; a line-searched network learns its activation steps as well."""
    net = to_analog(Net(), "A4W4", images.normalized(), quantizers)
    if signed:
        net.second.quantize_input.signed = True
    assert len(idle_relus(net, images.normalized()[:2])) == (quantizers == "line-search")


def test_dropout_and_a_broken_training_leave_nothing_behind(images):
    convolutions = nn.Conv2d(1, 4, 3), nn.ReLU(), nn.Conv2d(4, 4, 3)
    net = nn.Sequential(*convolutions, nn.Dropout(0.5), nn.Flatten(), nn.Linear(256, 3))
    net = to_analog(net, "A4W4", images.normalized())
    assert idle_relus(net, images.normalized()[:2]) == [net[1]] and net.training

    def stop(n):
        assert "forward" in vars(net[1])
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        fit(net, images, RECIPE, Variation(0.3), progress=stop)
    assert "forward" not in vars(net[1])


def test_a_float_network_keeps_all(images):
    assert idle_relus(build("lenet5", 1, 3, 12), images.normalized()[:2]) == []
