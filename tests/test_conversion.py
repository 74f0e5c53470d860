"""Which layers become crossbars: those whose cells the output depends on, in twenty networks; what cannot be converted."""

import warnings
from dataclasses import dataclass

import pytest
import torch
import torch.nn.functional as F
from torch import nn
from torch.nn.utils import prune
from torch.nn.utils.parametrizations import weight_norm

from lib import Chip, Variation, build, programmed, report, to_analog
from lib.analog import crossbars, evaluating
from lib.companion.your_own_network import Branched
from lib.folding import folded, plan
from lib.quantizers import LearnedStep


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
        self.body, self.head, self.auxiliary, self.lost = nn.Linear(12, 12), nn.Linear(12, 3), nn.Linear(12, 3), nn.Linear(12, 3)

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
        self.conv = nn.Sequential(nn.Conv2d(4, 8, 3, padding=1, groups=4), nn.BatchNorm2d(8), nn.ReLU(), nn.Conv2d(8, 8, 3, groups=8))
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
    "shared": (Shared, FLAT), "functional": (Functional, FLAT), "tied": (Tied, FLAT), "auxiliary": (Auxiliary, FLAT),
    "attention": (Attention, SERIES), "attention, norm first": (lambda: Attention(True), SERIES), "encoder": (Encoder, SERIES),
    "grouped": (Grouped, MAPS), "dictionary": (Dictionary, MAPS), "gated": (Gated, MAPS),
    "multilayer perceptron": (lambda: nn.Sequential(nn.Linear(12, 9), nn.ReLU(), nn.Linear(9, 3)), FLAT),
    "torchvision resnet18": (lambda: vision("resnet18"), PICTURES),
    "mobilenet_v2": (lambda: vision("mobilenet_v2"), PICTURES),
    "squeezenet1_1": (lambda: vision("squeezenet1_1"), (4, 3, 64, 64)),
    "shufflenet_v2_x0_5": (lambda: vision("shufflenet_v2_x0_5"), PICTURES),
    "mobilenet_v3_small": (lambda: vision("mobilenet_v3_small"), PICTURES),
    "googlenet": (lambda: vision("googlenet", aux_logits=True, init_weights=False), (4, 3, 64, 64)),
}  # fmt: skip
# what must stay digital, since its weights are read past the layer or not at all
IDLE = {"functional": {"fc"}, "auxiliary": {"auxiliary", "lost"}, "googlenet": {"aux1.conv.conv", "aux1.fc1", "aux1.fc2", "aux2.conv.conv", "aux2.fc1", "aux2.fc2"}}


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
            folded = tensors(analog(x.contiguous(memory_format=how.layout)))
    torch.testing.assert_close(folded, plain, rtol=1e-12, atol=1e-12 * float(plain.abs().max()))


def test_a_report_says_why_a_layer_is_digital():
    net, x = alive("functional")
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
            self.first, self.layer, self.head = nn.Conv2d(1, 4, 3, padding=1), nn.Conv2d(4, 4, 3, padding=1), nn.Conv2d(4, 3, 6)

    torch.manual_seed(1)
    analog, seen = to_analog(Convolved(), "A4W4", torch.randn(32, 1, 6, 6), quantizers), []
    analog.layer.register_forward_pre_hook(lambda layer, args: seen.append(args[0]))
    with torch.no_grad():
        analog.eval()(torch.randn(32, 1, 6, 6))
    assert float((analog.layer.quantize_input(seen[1]) - seen[1]).norm() / seen[1].norm()) < 0.3


# -- refusals: one line each, with the fix ----------------------------------------------------------------------

X = torch.randn(8, 12)


def spectral():
    return nn.Sequential(nn.utils.spectral_norm(nn.Linear(12, 3)))


def keeps():
    class Keeps(nn.Module):
        def __init__(self):
            super().__init__()
            self.fc = nn.Linear(12, 3)

        def forward(self, x):
            self.features = self.fc(x)
            return self.features

    net = Keeps()
    net(X)
    return net


class TwoInputs(nn.Module):
    def __init__(self):
        super().__init__()
        self.fc = nn.Linear(12, 3)

    def forward(self, x, mask):
        return self.fc(x) * mask


REFUSED = {
    "parametrized": (lambda: nn.Sequential(weight_norm(nn.Linear(12, 3))), X, ["layer '0'", "computed", "remove_parametrizations"]),
    "old weight norm": (lambda: nn.Sequential(nn.utils.weight_norm(nn.Linear(12, 3))), X, ["layer '0'", "remove_weight_norm"]),
    "spectral norm": (spectral, X, ["layer '0'", "spectral_norm"]),
    "pruned": (lambda: nn.Sequential(prune.l1_unstructured(nn.Linear(12, 3), "weight", 0.5)), X, ["layer '0'", "prune.remove"]),
    "lazy": (lambda: nn.Sequential(nn.LazyLinear(3)), X, ["layer '0'", "lazy", "one batch"]),
    "scripted": (lambda: torch.jit.script(nn.Sequential(nn.Linear(12, 3))), X, ["scripted", "convert the module"]),
    "scripted part": (lambda: nn.Sequential(nn.Linear(12, 3), torch.jit.script(nn.ReLU())), X, ["'1'", "scripted"]),
    "two inputs": (TwoInputs, X, ["TwoInputs.forward takes (x, mask)", "one batch", "wrap it"]),
    "zeros": (lambda: nn.Linear(12, 3), torch.zeros(8, 12), ["calibrate", "zeros alone"]),
    "NaN": (lambda: nn.Linear(12, 3), X.clone().fill_(float("nan")), ["96 values that are not finite"]),
    "one infinite value": (lambda: nn.Linear(12, 3), torch.cat([X, torch.full((1, 12), torch.inf)]), ["12 values that are not finite"]),
    "bytes": (lambda: nn.Linear(12, 3), torch.randint(0, 255, (8, 12), dtype=torch.uint8), ["raw pixels (uint8)", "normalized()"]),
    "pixels as float": (lambda: nn.Sequential(nn.Flatten(), nn.Linear(12, 3)), torch.arange(0, 192, 2.0).view(8, 1, 3, 4), ["look like raw pixels"]),
    "a dataset": (lambda: nn.Linear(12, 3), [X], ["calibrate", "got list"]),
    "unread alone": (lambda: nn.Sequential(OnlyRead()), X, ["no Conv2d or Linear layer", "reaches"]),
}  # fmt: skip


class OnlyRead(nn.Module):
    def __init__(self):
        super().__init__()
        self.fc = nn.Linear(12, 3)

    def forward(self, x):
        return F.linear(x, self.fc.weight)


@pytest.mark.filterwarnings("ignore::FutureWarning", "ignore::DeprecationWarning", "ignore:Lazy modules")
@pytest.mark.parametrize("bits", ["A4W4", None])
@pytest.mark.parametrize("case", REFUSED)
def test_what_cannot_be_converted_is_one_line(case, bits):
    make, batch, parts = REFUSED[case]
    with pytest.raises(ValueError) as error:
        to_analog(make(), bits, batch)
    message = str(error.value)
    assert "\n" not in message and all(part in message for part in parts), message


def test_a_module_that_keeps_an_activation_is_converted():
    net = keeps()
    analog = to_analog(net, "A8W8", X)
    assert (analog(X) - net(X)).abs().max() < 0.1 and net.features.requires_grad


@pytest.mark.parametrize("dtype", [torch.float64, torch.float16, torch.bfloat16])
def test_networks_of_other_types_are_converted_with_a_float_batch(dtype):
    analog = to_analog(nn.Sequential(nn.Linear(12, 5), nn.ReLU(), nn.Linear(5, 3)).to(dtype), "A8W8", X)
    assert analog(X.to(dtype)).dtype == dtype


def test_a_large_digital_share_is_said_at_conversion():
    with pytest.warns(UserWarning, match=r"only \d+ % of the parameters of Sequential are on crossbars.*report\(net\)"):
        to_analog(nn.Sequential(nn.Linear(12, 3), nn.Unflatten(1, (1, 3)), nn.ConvTranspose1d(1, 60, 3), nn.Flatten()), "A4W4", X)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        to_analog(nn.Sequential(nn.Linear(12, 3), nn.BatchNorm1d(3)), "A4W4", X)


def test_an_untrained_network_whose_signal_fades_keeps_its_layers():
    """Through coarse quantizers and fresh batch norms nothing arrives at the output; that says nothing of the layers."""
    torch.manual_seed(0)
    analog = to_analog(build("resnet18", 1, 3, 12, 0.125), "A1W1", torch.randn(8, 1, 12, 12))
    assert len(dict(crossbars(analog))) == 21


def test_quantizers_take_the_mode_of_their_layer():
    net = nn.Sequential(nn.Linear(12, 5), nn.ReLU(), nn.Linear(5, 3))
    net[0].eval()
    analog = to_analog(net, "A4W4", X)
    assert not analog[0].quantize_weight.training and analog[2].quantize_weight.training and isinstance(analog[0].quantize_input, LearnedStep)


# -- what only looks idle ---------------------------------------------------------------------------------------


class Residual(nn.Module):
    """A branch that begins silent: the scale of its batch norm is zero."""

    def __init__(self):
        super().__init__()
        self.stem, self.conv, self.norm, self.head = nn.Conv2d(1, 4, 3), nn.Conv2d(4, 4, 3, padding=1), nn.BatchNorm2d(4), nn.Linear(4, 3)
        nn.init.zeros_(self.norm.weight)

    def forward(self, x):
        x = self.stem(x)
        return self.head((x + self.norm(self.conv(x))).relu().mean((2, 3)))


class Experts(nn.Module):
    """Each image takes one of two ways."""

    def __init__(self):
        super().__init__()
        self.ways, self.head = nn.ModuleList([nn.Linear(12, 12), nn.Linear(12, 12)]), nn.Linear(12, 3)

    def forward(self, x):
        first = x[:, 0] < 1.2
        y = x.new_zeros(x.shape)
        for way, chosen in zip(self.ways, (first, ~first)):
            if chosen.any():
                y[chosen] = plan(x[chosen])
        return self.head(y)


@dataclass
class Output:
    logits: torch.Tensor


class Structured(Residual):
    def forward(self, x):
        return Output(super().forward(x))


class Keyword(Residual):
    def forward(self, x):
        return self.head(input=self.stem(input=x).relu().mean((2, 3)) + self.conv(input=self.stem(x)).mean((2, 3)))


class Noisy(Auxiliary):
    """Drops out in evaluation too."""

    def forward(self, x):
        return F.dropout(super().forward(x), training=True)


def black_first(net):
    x = torch.randn(64, 1, 9, 9)
    x[:32] = 0
    return net, x


ONLY_LOOKING_IDLE = {
    "a silent branch": (lambda: (Residual(), torch.randn(8, 1, 9, 9)), set()),
    "a head of zeros": (lambda: (nn.Sequential(nn.Linear(12, 9), nn.ReLU(), zero(nn.Linear(9, 3))), torch.randn(8, 12)), set()),
    "black images first": (lambda: black_first(nn.Sequential(nn.Conv2d(1, 3, 3, bias=False), nn.ReLU(), nn.Flatten(), nn.Linear(147, 3, bias=False))), set()),
    "experts": (lambda: (Experts(), torch.randn(64, 12)), set()),
    "an output of fields": (lambda: (Structured(), torch.randn(8, 1, 9, 9)), set()),
    "calls by keyword": (lambda: (Keyword(), torch.randn(8, 1, 9, 9)), set()),
    "dropout in evaluation": (lambda: (Noisy(), torch.randn(8, 12)), {"auxiliary", "lost"}),
    "without gradients": (lambda: (Residual().requires_grad_(False), torch.randn(8, 1, 9, 9)), set()),
    "a decision": (lambda: (Decides(), torch.randn(64, 12)), set()),
    "zero_init_residual": (lambda: (vision("resnet18", zero_init_residual=True), torch.randn(4, 3, 32, 32)), set()),
}  # fmt: skip


class Decides(nn.Module):
    """Returns a class: no gradient comes back from it."""

    def __init__(self):
        super().__init__()
        self.first, self.second = nn.Linear(12, 12), nn.Linear(12, 3)

    def forward(self, x):
        return self.second(self.first(x).relu()).argmax(1)


def zero(layer):
    for p in layer.parameters():
        nn.init.zeros_(p)
    return layer


@pytest.mark.parametrize("bits", ["A8W8", None])
@pytest.mark.parametrize("case", ONLY_LOOKING_IDLE)
def test_what_only_looks_idle_is_put_on_crossbars(case, bits):
    torch.manual_seed(0)
    net, x = ONLY_LOOKING_IDLE[case][0]()
    before, state = torch.get_rng_state(), {k: v.clone() for k, v in net.state_dict().items()}
    digital = {row.name for row in report(to_analog(net, bits, x)) if row.kind in ("Linear", "Conv2d")}
    assert digital == ONLY_LOOKING_IDLE[case][1]
    assert torch.equal(torch.get_rng_state(), before) and all(torch.equal(v, state[k]) for k, v in net.state_dict().items())


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
    assert {row.name for row in report(analog) if row.place == "analog"} == {f"encoder.layers.{i}.linear{j}" for i in (0, 1) for j in (1, 2)} | {"head"}


def test_a_batch_of_another_shape_is_named():
    for batch, word in ((torch.randn(4, 3, 9, 9), "(4, 3, 9, 9)"), (torch.tensor(1.0), "at least one"), (torch.randn(9), "of shape (4,)")):
        with pytest.raises(ValueError) as error:
            to_analog(Residual(), "A4W4", batch)
        assert word in str(error.value) and "\n" not in str(error.value)


def test_activations_kept_in_lists_do_not_matter():
    class Lists(Residual):
        def forward(self, x):
            self.seen = {"stem": [self.stem(x)]}
            return super().forward(x)

    net = Lists()
    net(torch.randn(4, 1, 9, 9))
    assert len(report(to_analog(net, "A4W4", torch.randn(4, 1, 9, 9)))) == 4
