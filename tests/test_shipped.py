"""Trained networks that come with the project: the same to the bit, found by what was trained, damage noticed."""

import dataclasses
import json

import pytest
import torch

from lib import Variation, evaluate, load_shipped, shipped
from lib.analog import crossbars
from lib.checks import InputError, RunError
from lib.data import Images, _assemble
from lib.training import Recipe
from lib.trials import Phase, Trial, restored, train

RECIPE = Recipe(epochs=1, batch_size=20, lr=0.05, bn_draws=2)
TRIALS = {
    "float": Trial("tiny", "lenet5", "float", RECIPE, width=0.5),
    "QAT A4W2": Trial("tiny", "lenet5", "QAT", RECIPE, "A4W2", width=0.5),
    "PTQ-VAT A4W4": Trial("tiny", "lenet5", "PTQ-VAT", RECIPE, "A4W4", Variation(0.3), width=0.5),
    "QAVAT mixed A4W3": Trial(
        "tiny", "lenet5", "QAVAT", RECIPE, "A4W3", Variation(0.2, 0.2), RECIPE, 0.5, first=Phase(RECIPE, Variation(0.3))
    ),
    "QAT A1W1": Trial("tiny", "lenet5", "QAT", RECIPE, "A1W1", width=0.5),
}
TRAINED = {"device": "this CPU"}


@pytest.fixture(scope="module")
def data():
    g = torch.Generator().manual_seed(0)
    splits = [
        (torch.randint(0, 256, (n, 1, 28, 28), generator=g, dtype=torch.uint8), torch.arange(n) % 4) for n in (120, 40)
    ]
    return _assemble("tiny", *splits)


def trained(trial, data):
    parent = trial.parent and restored(trial.parent, data, trained(trial.parent, data))
    state = train(trial, data, parent)
    return {name: tensor for name, tensor in state.items() if name.startswith("net/")}


@pytest.mark.parametrize("trial", TRIALS.values(), ids=TRIALS)
def test_a_shipped_network_computes_what_the_trained_one_does(trial, data, tmp_path):
    state = trained(trial, data)
    path = tmp_path / "net.safetensors"
    one = shipped.ship(trial, data, state, path, TRAINED)
    assert (one.name, one.trial, one.fingerprint, one.trained) == ("net", trial, data.fingerprint, TRAINED)
    nets = [restored(trial, data, state), load_shipped("net", tmp_path)]
    assert not nets[1].training
    for variation in (Variation(), Variation.split(0.4, 0.5, "layer-fixed")):
        counts = [evaluate(net, data.test, variation, 3).correct for net in nets]
        assert (counts[0] == counts[1]).all()
    x = data.test.normalized()
    with torch.no_grad():
        assert torch.equal(*(net(x) for net in nets))
    if trial.bits:
        for a, b in zip(*(crossbars(net) for net in nets), strict=True):
            assert torch.equal(a[1].cells(), b[1].cells())


def test_ternary_weights_take_two_bits(data, tmp_path):
    one = shipped.ship(TRIALS["QAT A4W2"], data, trained(TRIALS["QAT A4W2"], data), tmp_path / "a.safetensors", {})
    tensors = shipped._read(one.path)[1]
    for name, layer in crossbars(one.network()):
        assert tensors[f"{name}.weight"].numel() == -(-layer.weight.numel() // 4)


@pytest.mark.parametrize("bits", [2, 3, 4, 8])
def test_codes_come_back(bits):
    n = 2 ** (bits - 1) - 1
    codes = torch.randint(-n, n + 1, (5, 3, 7), generator=torch.Generator().manual_seed(bits)).to(torch.int8)
    packed = shipped.packed_codes(codes, bits)
    assert torch.equal(shipped.unpacked(packed, bits, codes.numel()).view_as(codes), codes)


def test_float_weights_keep_every_digit_they_have(data, tmp_path):
    state = trained(TRIALS["float"], data)
    rounded = {n: t.half().float() if n.endswith("weight") and t.dim() > 1 else t for n, t in state.items()}
    for given, kind in ((state, torch.float32), (rounded, torch.float16)):
        one = shipped.ship(TRIALS["float"], data, given, tmp_path / f"{kind}.safetensors"[6:], {})
        back = one.state()
        assert all(torch.equal(back[name], given[name]) for name in given)
        assert shipped._read(one.path)[1]["0.weight"].dtype == kind


def test_every_flipped_byte_is_found(data, tmp_path):
    path = tmp_path / "net.safetensors"
    shipped.ship(TRIALS["QAT A4W2"], data, trained(TRIALS["QAT A4W2"], data), path, TRAINED)
    whole = path.read_bytes()
    places = [3, 40, 300, len(whole) // 2, len(whole) - 1, whole.index(b"sha256") + 12, whole.index(b"this CPU")]
    for place in places:
        path.write_bytes(whole[:place] + bytes([whole[place] ^ 1]) + whole[place + 1 :])
        shipped._found.cache_clear()
        with pytest.raises(RunError, match="is damaged .*git checkout -- data/networks"):
            load_shipped("net", tmp_path)
    path.write_bytes(whole)
    shipped._found.cache_clear()
    load_shipped("net", tmp_path)


def test_a_file_that_came_in_the_place_of_another_is_noticed(data, tmp_path):
    for trial, name in (("float", "net"), ("QAT A4W2", "other")):
        shipped.ship(TRIALS[trial], data, trained(TRIALS[trial], data), tmp_path / f"{name}.safetensors", TRAINED)
    one = shipped.shipped_networks(tmp_path)["net"]
    (tmp_path / "net.safetensors").write_bytes((tmp_path / "other.safetensors").read_bytes())
    with pytest.raises(RunError, match="net.safetensors has been replaced since this process listed it; restart it"):
        one.state()


def test_an_unknown_name_and_an_empty_folder(data, tmp_path):
    with pytest.raises(InputError, match="git clone"):
        load_shipped("net", tmp_path)
    shipped.ship(TRIALS["float"], data, trained(TRIALS["float"], data), tmp_path / "net.safetensors", {})
    with pytest.raises(InputError, match="'other'; allowed: net"):
        load_shipped("other", tmp_path)


def test_it_is_found_by_training_and_images_not_by_their_name(data, tmp_path):
    trial = TRIALS["QAT A4W2"]
    one = shipped.ship(trial, data, trained(trial, data), tmp_path / "net.safetensors", {})
    elsewhere = dataclasses.replace(trial, dataset="imagefolder:/some/where/else")
    assert shipped.shipped(elsewhere, data.fingerprint, tmp_path) == one
    assert shipped.shipped(trial, "another", tmp_path) is None
    assert shipped.shipped(dataclasses.replace(trial, seed=1), data.fingerprint, tmp_path) is None


def test_a_trial_as_plain_values_holds_what_differs_from_the_defaults(data):
    for trial in TRIALS.values():
        told = json.loads(json.dumps(shipped.plain(trial)))
        assert shipped.of_plain(Trial, told) == trial
        assert "seed" not in told and "momentum" not in told["recipe"]


def test_no_path_of_a_folder_is_shipped(data):
    assert shipped.plain(dataclasses.replace(TRIALS["float"], dataset="imagefolder:/home/me/pets"))["dataset"] == (
        "imagefolder:pets"
    )


# -- what is committed --------------------------------------------------------------------------------------------


def test_all_committed_networks_load_and_compute():
    found = shipped.shipped_networks()
    assert sum(s.path.stat().st_size for s in found.values()) <= 25 * 2**20
    for one in found.values():
        net = one.network()
        pixels = torch.zeros(2, one.channels, one.size, one.size, dtype=torch.uint8)
        pixels[1] = 255
        x = Images(pixels, torch.zeros(2, dtype=torch.long), (0.5,) * one.channels, (0.25,) * one.channels).normalized()
        with torch.no_grad():
            y = net(x)
        assert y.shape == (2, one.classes) and torch.isfinite(y).all() and not torch.equal(y[0], y[1])
        assert {"device", "precision", "commit", "torch"} <= set(one.trained)
