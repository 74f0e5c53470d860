"""Networks, images and cells that a user brings: notebook 08 and the interface behind it."""

import pandas as pd
import pytest
import torch
from torch import nn
from torch.nn.utils.fusion import fuse_conv_bn_eval

from lib import (
    Chip,
    Oracle,
    Recipe,
    SelfTuning,
    Variation,
    evaluate,
    fit,
    fit_cells,
    load,
    programmed,
    read_cells,
    report,
    to_analog,
)
from lib.companion import your_own_network
from lib.companion.profiles import profile

TINY = your_own_network.Scale(120, 40, 1, 1, 2, 3)


@pytest.fixture(scope="module")
def mine(tmp_path_factory):
    folder = tmp_path_factory.mktemp("mine") / "clothes"
    return your_own_network.write_images(folder, load("fashion-mnist"), TINY)


def test_a_class_folder_is_a_dataset(mine):
    data = load(f"imagefolder:{mine}")
    assert (len(data.train), len(data.validation), len(data.test)) == (110, 10, 40)
    assert (data.channels, data.classes, data.size, data.name) == (3, 10, 28, "imagefolder:clothes")


@pytest.mark.parametrize("name,cells", [("resnet18", 11_172_032), ("mobilenet_v2", 2_202_560)])
def test_networks_of_torchvision(name, cells):
    import torchvision

    torch.manual_seed(0)
    net, x = getattr(torchvision.models, name)(num_classes=10), torch.randn(8, 3, 32, 32)
    with torch.no_grad():
        for _ in range(30):
            net(x)  # BN statistics of an untrained network let its signal fade away
    net.eval()
    analog = to_analog(net, "A8W8", x)
    rows = report(analog)
    weights = [m.weight for m in net.modules() if isinstance(m, (nn.Conv2d, nn.Linear))]
    assert sum(r.cells for r in rows) == cells == sum(weight.numel() for weight in weights)
    assert {r.place for r in rows if r.kind == "BatchNorm2d"} == {"digital"} and all(r.why for r in rows)
    with torch.no_grad(), programmed(analog, Chip(0), Variation(0.1)):
        deviated = analog(x)
    ideal = analog(x).detach()
    assert torch.isfinite(deviated).all() and (deviated - ideal).abs().max() > 0.01 * ideal.abs().max() > 0


def test_every_layer_of_a_branch_and_its_bias_are_converted():
    net = your_own_network.Branched(4).eval()
    analog = to_analog(net, "A8W8", torch.randn(8, 3, 12, 12)).eval()
    kinds = {r.name: (r.kind, r.place) for r in report(analog)}
    assert kinds["point"] == ("AnalogConv2d", "analog") and kinds["depth.0"] == ("AnalogConv2d", "analog")
    assert "bias digital" in next(r.why for r in report(analog) if r.name == "point")
    x = torch.randn(8, 3, 12, 12)
    with torch.no_grad():
        assert (analog(x) - net(x)).abs().max() < 0.05 * net(x).abs().max() + 0.02  # 8 bits are nearly exact


def test_folded_batch_norm_is_the_same_network_on_a_chip():
    """What BN shifts is a bias after folding, digital and exact either way; tuning acts before both."""
    torch.manual_seed(0)
    conv, norm = nn.Conv2d(3, 8, 3), nn.BatchNorm2d(8)
    norm(conv(torch.randn(64, 3, 9, 9)) + 1)
    norm.weight.data.uniform_(0.5, 2), norm.bias.data.normal_()
    x = torch.randn(16, 3, 9, 9)
    plain = to_analog(nn.Sequential(conv, norm).eval(), "A8W8", x).eval()
    folded = to_analog(nn.Sequential(fuse_conv_bn_eval(conv.eval(), norm.eval())), "A8W8", x).eval()
    assert folded[0].bias is not None and len(report(folded)) == 1
    variation = Variation(between=0.4)
    chip = next(c for c in map(Chip, range(99)) if 0.2 < variation.shared(c) < 0.6)
    with torch.no_grad():
        nominal = plain(x)
        assert (folded(x) - nominal).abs().max() < 0.05 * nominal.abs().max()  # two weight grids of 8 bits
        for net in (plain, folded):
            with programmed(net, chip, variation):
                untuned = net(x)
            with programmed(net, chip, variation, SelfTuning(Oracle())):
                torch.testing.assert_close(net(x), nominal, atol=0.05 * float(nominal.abs().max()), rtol=0)
            assert (untuned - nominal).abs().max() > 0.1 * nominal.abs().max()


def test_claims_of_chips_are_paired():
    rows = [("QAVAT", "untuned", 60), ("QAVAT", "self-tuned", 80), ("QAT", "untuned", 40), ("QAT", "self-tuned", 75)]
    rows += [("converted", "untuned", 30)]
    frames = [
        pd.DataFrame({"net": net, "tuning": tuning, "chip": range(3), "accuracy": [a, a + 2.0, a + 4.0]})
        for net, tuning, a in rows
    ]
    table = pd.concat(frames, ignore_index=True).assign(seed=0, place=float("nan"))
    claims = your_own_network.chip_claims(table, Variation(0.2, 0.15))
    assert [c.estimate.value for c in claims] == [30, 20, 20, 5] and all(c.estimate.n == 3 for c in claims)
    assert your_own_network.chip_table(table).chips.tolist() == [3] * 5
    assert your_own_network.scale(profile("quick")).chips == 100


def test_the_fitted_law_is_found_both_ways(tmp_path):
    for law in ("proportional", "layer-fixed"):
        truth = Variation(0.2, 0.15, law)
        found = fit_cells(read_cells(your_own_network.write_cells(tmp_path / "cells.csv", truth, seed=1)))
        assert found.law == law and found.decided and abs(found.within.value - 0.2) < 0.02
        table = your_own_network.fit_table(found, truth)
        assert list(table.parameter) == ["σ_W", "σ_B", "factor"]
        assert len(your_own_network.fit_claims(table, found)) == 4


def test_a_float_module_of_any_kind_is_fine_tuned(images):
    net = nn.Sequential(nn.Flatten(), nn.Linear(144, 16), nn.ReLU(), nn.Linear(16, 3))
    fit(net, images, Recipe(epochs=8, batch_size=16))
    analog = to_analog(net, "A4W4", images.normalized())
    fit(analog, images, Recipe(epochs=4, batch_size=16, bn_draws=2), Variation(0.3))
    assert evaluate(analog, images, Variation(0.3), 20).accuracy.mean() > 60
