"""Analog networks to a file and back, without pickle."""

import pytest
import torch
from safetensors.torch import save_file
from torch import nn

from lib import Chip, Variation, build, load_analog, programmed, save_analog, to_analog

CASES = [
    ("lenet5", "A4W2", "learned"),
    ("lenet5", "A1W1", "learned"),
    ("lenet5", "A4W4", "line-search"),
    ("lenet5", "A4W4", "fine-line-search"),
    ("lenet5-classic", "A1W1", "legacy-channels"),
    ("lenet5-classic", "A4W4", "legacy"),
    ("resnet18", None, "learned"),
]


@pytest.mark.parametrize("name,bits,quantizers", CASES, ids=str)
def test_a_network_comes_back(name, bits, quantizers, tmp_path):
    x = torch.randn(8, 1, 28, 28, generator=torch.Generator().manual_seed(0))
    float_net = build(name, 1, 10, 28, 0.25)
    net = to_analog(float_net, bits, x, quantizers).eval()
    with torch.no_grad():
        for parameter in net.parameters():  # as if trained
            parameter.mul_(1.1)
    save_analog(net, tmp_path / "net.safetensors")
    other = build(name, 1, 10, 28, 0.25, seed=1)
    back = load_analog(other, tmp_path / "net.safetensors")
    assert not back.training
    assert type(other) is type(float_net) and not hasattr(next(other.children()), "quantize_input")
    for chip in (None, Chip(3)):
        outs = []
        for n in (net, back):
            with torch.no_grad(), programmed(n, chip or Chip(0), Variation(0.3 if chip else 0.0)):
                outs.append(n(x))
        assert torch.equal(*outs)
    assert torch.equal(net.train()(x), back.train()(x))  # it trains on with the same quantizers


def test_one_file_one_network(tmp_path):
    x, path = torch.randn(4, 1, 28, 28), tmp_path / "net.safetensors"
    save_analog(to_analog(build("lenet5", 1, 10, 28), "A4W2", x), path)
    with pytest.raises(ValueError, match="is not the network saved in .*size mismatch"):
        load_analog(build("lenet5", 1, 7, 28), path)
    with pytest.raises(ValueError, match="Linear is not the network saved"):
        load_analog(nn.Linear(3, 2), path)
    with pytest.raises(FileNotFoundError):
        load_analog(build("lenet5", 1, 10, 28), tmp_path / "none")
    path.write_bytes(path.read_bytes()[:-8])
    with pytest.raises(ValueError, match="no readable safetensors"):
        load_analog(build("lenet5", 1, 10, 28), path)
    save_file({"a": torch.ones(1)}, path)
    with pytest.raises(ValueError, match="format None"):
        load_analog(build("lenet5", 1, 10, 28), path)


def test_what_a_file_cannot_hold(tmp_path):
    with pytest.raises(ValueError, match="no analog layer to save"):
        save_analog(nn.Linear(3, 2), tmp_path / "x")
    net = to_analog(nn.Linear(3, 2), "A4W4", torch.randn(4, 3))
    net.quantize_weight = nn.Tanh()
    with pytest.raises(ValueError, match="type Tanh, a file can hold: .*LearnedStep"):
        save_analog(net, tmp_path / "x")


def test_places_that_take_no_file(tmp_path):
    net = to_analog(nn.Linear(3, 2), "A4W4", torch.randn(4, 3))
    with pytest.raises(OSError, match="cannot write .*folder that exists"):
        save_analog(net, tmp_path / "none" / "x")
    with pytest.raises(ValueError, match="is a folder"):
        load_analog(nn.Linear(3, 2), tmp_path)
