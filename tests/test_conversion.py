"""Which layers become crossbars: those whose cells the output depends on, in twenty networks."""

import pytest
import torch
import torch.nn.functional as F
from torch import nn

from lib import Chip, Variation, build, programmed, report, to_analog
from lib.analog import crossbars, evaluating
from lib.companion.your_own_network import Branched
from lib.converter import Converter, attach
from lib.folding import folded, plan
from lib.quantizers import LearnedStep, activation_quantizer


class Shared(nn.Module):
    """One layer called twice, the second time on inputs thirty times larger."""

    def __init__(self, factor=30.0):
        super().__init__()
        self.first, self.layer, self.head, self.factor = nn.Linear(12, 12), nn.Linear(12, 12), nn.Linear(12, 3), factor

    def forward(self, x):
        x = self.layer(self.first(x).relu()).relu()
        return self.head(self.layer(self.factor * x))


class Functional(nn.Module):
    """Reads a weight past its layer."""

    def __init__(self):
        super().__init__()
        self.fc, self.out = nn.Linear(12, 12), nn.Linear(12, 3)

    def forward(self, x):
        return self.out(F.linear(x, self.fc.weight).relu())


class Tied(Functional):
    """Multiplies by the transpose of a layer's weight on the way back."""

    def forward(self, x):
        return self.out(F.linear(self.fc(x).relu(), self.fc.weight.t()))


class Auxiliary(nn.Module):
    """A head that counts in training alone, and one whose output nobody uses."""

    def __init__(self):
        super().__init__()
        self.body, self.head = nn.Linear(12, 12), nn.Linear(12, 3)
        self.auxiliary, self.lost = nn.Linear(12, 3), nn.Linear(12, 3)

    def forward(self, x):
        x = self.body(x).relu()
        self.lost(x)
        return self.head(x) + (self.auxiliary(x) if self.training else 0)


class Attention(nn.Module):
    def __init__(self, first=False):
        super().__init__()
        self.embed, self.head = nn.Linear(12, 16), nn.Linear(16, 3)
        self.block = nn.TransformerEncoderLayer(16, 4, 32, batch_first=True, norm_first=first)

    def forward(self, x):
        return self.head(self.block(self.embed(x)).mean(1))


class Encoder(Attention):
    def __init__(self):
        super().__init__()
        self.block = nn.TransformerEncoder(self.block, 2)


class Grouped(nn.Module):
    def __init__(self):
        super().__init__()
        first = nn.Conv2d(4, 8, 3, padding=1, groups=4), nn.BatchNorm2d(8), nn.ReLU()
        self.conv = nn.Sequential(*first, nn.Conv2d(8, 8, 3, groups=8))
        self.head = nn.Linear(8, 3)

    def forward(self, x):
        return self.head(self.conv(x).mean((2, 3)))


class Dictionary(Grouped):
    def forward(self, x):
        return {"logits": super().forward(x), "features": (x, [x])}


class Gated(nn.Module):
    """Squeeze and excitation: a branch that multiplies."""

    def __init__(self):
        super().__init__()
        self.conv, self.gate, self.head = nn.Conv2d(4, 8, 3), nn.Conv2d(8, 8, 1), nn.Linear(8, 3)

    def forward(self, x):
        x = self.conv(x).relu()
        return self.head((x * self.gate(x.mean((2, 3), keepdim=True)).sigmoid()).mean((2, 3)))


def vision(name, **options):
    import torchvision

    return getattr(torchvision.models, name)(num_classes=5, **options)


FLAT, MAPS, SERIES, PICTURES = (6, 12), (6, 4, 9, 9), (6, 7, 12), (4, 3, 32, 32)
NETWORKS = {
    "lenet5": (lambda: build("lenet5", 1, 5, 12), (6, 1, 12, 12)),
    "lenet5-classic": (lambda: build("lenet5-classic", 1, 5, 28), (6, 1, 28, 28)),
    "vgg11": (lambda: build("vgg11", 3, 5, 32, 1 / 16), PICTURES),
    "resnet18": (lambda: build("resnet18", 3, 5, 32, 1 / 16), PICTURES),
    "branched": (lambda: Branched(5), (6, 3, 12, 12)),
    "shared": (Shared, FLAT),
    "functional": (Functional, FLAT),
    "tied": (Tied, FLAT),
    "auxiliary": (Auxiliary, FLAT),
    "attention": (Attention, SERIES),
    "attention, norm first": (lambda: Attention(True), SERIES),
    "encoder": (Encoder, SERIES),
    "grouped": (Grouped, MAPS),
    "dictionary": (Dictionary, MAPS),
    "gated": (Gated, MAPS),
    "multilayer perceptron": (lambda: nn.Sequential(nn.Linear(12, 9), nn.ReLU(), nn.Linear(9, 3)), FLAT),
    "torchvision resnet18": (lambda: vision("resnet18"), PICTURES),
    "mobilenet_v2": (lambda: vision("mobilenet_v2"), PICTURES),
    "squeezenet1_1": (lambda: vision("squeezenet1_1"), (4, 3, 64, 64)),
    "shufflenet_v2_x0_5": (lambda: vision("shufflenet_v2_x0_5"), PICTURES),
    "mobilenet_v3_small": (lambda: vision("mobilenet_v3_small"), PICTURES),
    "googlenet": (lambda: vision("googlenet", aux_logits=True, init_weights=False), (4, 3, 64, 64)),
}
# what must stay digital, since its weights are read past the layer or not at all
IDLE = {
    "functional": {"fc"},
    "auxiliary": {"auxiliary", "lost"},
    "googlenet": {f"{head}.{layer}" for head in ("aux1", "aux2") for layer in ("conv.conv", "fc1", "fc2")},
}


def alive(name):
    """A network with batch norm statistics of its inputs, lest its signal fade away, and a batch."""
    make, shape = NETWORKS[name]
    torch.manual_seed(len(name))
    net, x = make(), torch.randn(*shape)
    for module in net.modules():
        if isinstance(module, nn.BatchNorm2d):
            module.momentum = None  # a plain average
    with torch.no_grad():
        for _ in range(20):
            net(x)
    return net.eval(), x


def tensors(output):
    return output["logits"] if isinstance(output, dict) else output


@pytest.mark.filterwarnings("ignore:only .* are on crossbars", "ignore:enable_nested_tensor")
@pytest.mark.parametrize("bits", ["A8W8", None])
@pytest.mark.parametrize("name", NETWORKS)
def test_the_cells_of_every_analog_layer_change_the_output(name, bits):
    net, x = alive(name)
    analog = to_analog(net, bits, x)
    layers = {row.name for row in report(analog) if row.place == "analog"}
    weights = {n for n, m in net.named_modules() if type(m) in (nn.Conv2d, nn.Linear)}
    assert layers == weights - IDLE.get(name, set())
    with evaluating(analog):
        nominal = tensors(analog(x))
        for layer in layers:
            with programmed(analog, Chip(1), Variation(0.9, 0.3, layers=(layer if layer != "(network)" else "",))):
                assert not torch.equal(tensors(analog(x)), nominal), layer


@pytest.mark.filterwarnings("ignore:only .* are on crossbars", "ignore:enable_nested_tensor")
@pytest.mark.parametrize("bits", ["A8W4", None])
@pytest.mark.parametrize("name", NETWORKS)
def test_folded_and_plain_evaluation_agree(name, bits):
    net, x = alive(name)
    analog, x = to_analog(net.double(), bits, x).eval(), x.double()
    how = plan(analog, x)
    with evaluating(analog), programmed(analog, Chip(2), Variation(0.2, 0.1)):
        plain = tensors(analog(x))
        with folded(analog, None, how):
            quickly = tensors(analog(x.contiguous(memory_format=how.layout)))
    torch.testing.assert_close(quickly, plain, rtol=1e-12, atol=1e-12 * float(plain.abs().max()))


def test_a_report_says_why_a_layer_is_digital():
    net, x = alive("functional")
    with pytest.warns(UserWarning, match="18 % of the parameters"):
        rows = {row.name: row for row in report(to_analog(net, None, x))}
    assert rows["fc"].place == "digital" and "does not depend on" in rows["fc"].why and rows["fc"].cells == 0


def test_a_layer_called_twice_takes_its_step_from_all_its_calls():
    """From the first alone, the second input, thirty times larger, was clipped to a relative error of 0.9."""
    torch.manual_seed(0)
    net, x = Shared(), torch.randn(64, 12)
    analog, seen = to_analog(net, "A8W8", x), []
    analog.layer.register_forward_pre_hook(lambda layer, args: seen.append(args[0]))
    with torch.no_grad():
        analog(x)
    small, large = seen
    assert float(large.abs().max() / small.abs().max()) > 5
    quantized = analog.layer.quantize_input(large)
    assert float((quantized - large).norm() / large.norm()) < 0.05
    assert analog.layer.quantize_input.count == 24 and analog.head.quantize_input.count == 12


@pytest.mark.parametrize("quantizers", ["legacy", "line-search"])
def test_so_it_does_with_every_set_of_quantizers(quantizers):
    class Convolved(Shared):
        def __init__(self):
            super().__init__()
            self.first, self.layer = nn.Conv2d(1, 4, 3, padding=1), nn.Conv2d(4, 4, 3, padding=1)
            self.head = nn.Conv2d(4, 3, 6)

    torch.manual_seed(1)
    analog, seen = to_analog(Convolved(), "A4W4", torch.randn(32, 1, 6, 6), quantizers), []
    analog.layer.register_forward_pre_hook(lambda layer, args: seen.append(args[0]))
    with torch.no_grad():
        analog.eval()(torch.randn(32, 1, 6, 6))
    assert float((analog.layer.quantize_input(seen[1]) - seen[1]).norm() / seen[1].norm()) < 0.3


@pytest.mark.filterwarnings("ignore:only .* are on crossbars", "ignore:enable_nested_tensor")
def test_text_with_a_padding_mask_is_converted():
    class Text(nn.Module):
        def __init__(self):
            super().__init__()
            self.embed, self.head = nn.Embedding(50, 16, padding_idx=0), nn.Linear(16, 3)
            self.encoder = nn.TransformerEncoder(nn.TransformerEncoderLayer(16, 4, 32, batch_first=True), 2)

        def forward(self, tokens):
            return self.head(self.encoder(self.embed(tokens), src_key_padding_mask=tokens == 0).mean(1))

    torch.manual_seed(0)
    tokens = torch.randint(1, 50, (6, 9))
    tokens[:, 6:] = 0
    analog = to_analog(Text().eval(), "A8W8", tokens)
    layers = {f"encoder.layers.{i}.linear{j}" for i in (0, 1) for j in (1, 2)}
    assert {row.name for row in report(analog) if row.place == "analog"} == layers | {"head"}


def test_an_untrained_network_whose_signal_fades_keeps_its_layers():
    """Through coarse quantizers and fresh batch norms nothing comes to the output; that says nothing of the layers."""
    torch.manual_seed(0)
    analog = to_analog(build("resnet18", 1, 3, 12, 0.125), "A1W1", torch.randn(8, 1, 12, 12))
    assert len(dict(crossbars(analog))) == 21


def test_quantizers_take_the_mode_of_their_layer():
    net = nn.Sequential(nn.Linear(12, 5), nn.ReLU(), nn.Linear(5, 3))
    net[0].eval()
    analog = to_analog(net, "A4W4", torch.randn(8, 12))
    assert not analog[0].quantize_weight.training and analog[2].quantize_weight.training
    assert isinstance(analog[0].quantize_input, LearnedStep)


@pytest.mark.parametrize("quantizers", ["learned", "legacy"])
def test_steps_of_an_untrained_network_suit_its_first_training_step(quantizers):
    """Its batch norms change nothing in evaluation mode, where the signal shrinks from layer to layer."""
    torch.manual_seed(0)
    x = torch.randn(32, 3, 32, 32)
    net = to_analog(build("vgg11", 3, 10, 32, 0.25), "A8W4", x, quantizers).train()
    norms = [m for m in net.modules() if isinstance(m, nn.BatchNorm2d)]
    assert not any(m.running_mean.any() or (m.running_var != 1).any() for m in norms)  # as they were
    F.cross_entropy(net(x), torch.arange(32) % 10).backward()
    gradients = [float(layer.weight.grad.norm()) for _, layer in crossbars(net)]
    assert max(gradients) < 10 * min(gradients), gradients  # 25,000 times, behind steps of the shrunken signal
    attach(net, Converter(8), x)
    assert all(layer.read for _, layer in crossbars(net))  # none is silent


def _used(m):
    m.running_var.fill_(2.0)


def _folded(m):
    nn.init.constant_(m.weight, 0.5)


@pytest.mark.parametrize("touch", [None, _used, _folded, nn.Module.eval])
def test_steps_follow_batch_norms_that_were_used_folded_or_frozen_as_they_are(touch):
    torch.manual_seed(0)
    x, net = (
        torch.randn(32, 3, 8, 8),
        nn.Sequential(nn.Conv2d(3, 8, 3), nn.BatchNorm2d(8), nn.ReLU(), nn.Conv2d(8, 4, 3)),
    )
    if touch:
        touch(net[1])
    step = to_analog(net, "A4W4", x)[3].quantize_input.step
    with evaluating(net):
        as_it_is = activation_quantizer(4, net[:3](x), signed=False).step
    assert torch.allclose(step, as_it_is, rtol=0.1) == bool(touch)


def test_a_single_value_per_channel_has_no_statistics():
    net = nn.Sequential(nn.Linear(12, 8), nn.BatchNorm1d(8), nn.ReLU(), nn.Linear(8, 3))
    assert to_analog(net, "A4W4", torch.ones(1, 12))[3].quantize_input.step > 0
