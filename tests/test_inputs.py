"""Bad input gets an error that names the value and what is allowed."""

import math

import numpy as np
import pytest
import torch
from torch import nn

import lib
from lib import Bits, Chip, Images, Recipe, Variation, build, evaluate, fit, load, to_analog
from lib.companion.profiles import profile
from lib.data import data_folder
from lib.experiments.settings import Settings
from lib.quantizers import activation_quantizer, levels, weight_quantizer
from lib.statistics import chip_yield, proportion, quantile, variance_components
from lib.trials import Measurement, Trial

X = torch.randn(4, 3)
NET = nn.Linear(3, 2)
ONE = Images(torch.zeros(2, 1, 3, 3, dtype=torch.uint8), torch.tensor([0, 1]), (0.0,), (1.0,))
TRIAL = Trial("fashion-mnist", "lenet5", "float", Recipe())

WRONG_BITS = (0, -1, 33, 2.5)


def analog():
    return to_analog(NET, "A4W2", X)


# a call → parts of the line that it gets
BAD = {
    # bits
    **{f"bits {b}": (lambda b=b: to_analog(NET, f"A4W{b}", X), ["weight bits", "1 to 8", str(b)]) for b in WRONG_BITS},
    **{
        f"activation bits {b}": (lambda b=b: to_analog(NET, f"A{b}W4", X), ["activation bits", "1 to 8", str(b)])
        for b in WRONG_BITS
    },
    **{f"Bits({b})": (lambda b=b: Bits(4, b), ["1 to 8", str(b)]) for b in (*WRONG_BITS, True)},
    **{f"weight quantizer {b}": (lambda b=b: weight_quantizer(b, X), ["1 to 8", str(b)]) for b in WRONG_BITS},
    **{
        f"activation quantizer {b}": (lambda b=b: activation_quantizer(b, X, True), ["1 to 8", str(b)])
        for b in WRONG_BITS
    },
    "bits as text": (lambda: to_analog(NET, "W2A4", X), ["A4W2", "'W2A4'"]),
    "one signed bit": (lambda: levels(1, True), ["2 to 8"]),
    "quantizers": (
        lambda: to_analog(NET, "A4W2", X, "best"),
        ["'best'", "learned, line-search, fine-line-search, legacy"],
    ),
    "no calibration": (lambda: to_analog(NET, "A4W2"), ["calibrate", "none"]),
    "empty calibration": (lambda: to_analog(NET, "A4W2", X[:0]), ["calibrate", "none"]),
    "nothing to convert": (lambda: to_analog(nn.ReLU(), "A4W2", X), ["ReLU", "no Conv2d or Linear"]),
    # variation
    **{
        f"σ {s}": (lambda s=s: Variation(within=s), ["σ_within must be", "≥ 0", repr(s)])
        for s in (-0.1, math.nan, math.inf, "0.3")
    },
    "σ_between": (lambda: Variation(between=-1.0), ["σ_between", "≥ 0", "-1.0"]),
    **{
        f"share {s}": (lambda s=s: Variation.split(0.3, s), ["between_share", "0 to 1", repr(s)])
        for s in (-0.1, 1.5, math.nan)
    },
    "law": (lambda: Variation(0.1, law="log"), ["'log'", "proportional, layer-fixed"]),
    "cells": (lambda: Variation(0.1, cells="uniform"), ["'uniform'", "normal"]),
    "chip seed": (lambda: Chip(-1), ["chip seed", "-1"]),
    "chip purpose": (lambda: Chip.of("fun", 0), ["'fun'", "test, validation"]),
    "no analog layer": (lambda: evaluate(NET, ONE, Variation(0.1), 1), ["no analog layer", "to_analog"]),
    "layer": (lambda: evaluate(analog(), ONE, Variation(0.1, layers=("conv9",)), 1), ["layer 'conv9'"]),
    "slice": (
        lambda: evaluate(analog(), ONE, Variation(0.1), 1, images_per_chip=3),
        ["images_per_chip", "1 to 2", "3"],
    ),
    # data and networks
    "dataset": (lambda: load("cifar"), ["'cifar'", "fashion-mnist, mnist, cifar10, cifar100, imagefolder:PATH"]),
    "imagefolder": (lambda: load("imagefolder:/nowhere"), ["/nowhere/train", "PATH/train/CLASS"]),
    "empty dataset": (lambda: ONE.take(slice(0, 0)), ["images", "0 images"]),
    "too many images": (lambda: ONE.balanced(3), ["number of images", "1 to 2", "3"]),
    "network": (lambda: build("alexnet", 1, 10, 28), ["'alexnet'", "lenet5", "resnet18"]),
    "width": (lambda: build("vgg11", 1, 10, 28, width=0), ["width", "0"]),
    "classes": (lambda: build("vgg11", 1, 1, 28), ["classes", "≥ 2"]),
    **{
        f"small for {n}": (lambda n=n, s=s: build(n, 1, 10, s), [n, f"{s}×{s}", "at least"])
        for n, s in (("lenet5", 8), ("vgg11", 16), ("resnet18", 4))
    },
    "classic size": (lambda: build("lenet5-classic", 3, 10, 64), ["28×28 to 32×32", "64×64"]),
    # training and measuring
    "epochs": (lambda: Recipe(epochs=0), ["epochs", "≥ 1", "0"]),
    "images": (lambda: Measurement(TRIAL, Variation(), 1, "validation"), ["images", "≥ 1", "'validation'"]),
    "optimizer": (lambda: Recipe(optimizer="lion"), ["'lion'", "sgd, adam"]),
    "schedule": (lambda: Recipe(schedule="linear"), ["'linear'", "cosine, step"]),
    "lr": (lambda: Recipe(lr=-1.0), ["lr", "-1.0"]),
    "seed": (lambda: fit(NET, ONE, seed=-1), ["seed", "-1"]),
    "until": (lambda: fit(NET, ONE, Recipe(epochs=2), until=3), ["until", "1 to 2", "3"]),
    "chips": (lambda: evaluate(to_analog(NET), ONE, Variation(0.1), 0), ["chips", "≥ 1", "0"]),
    "no chips": (lambda: evaluate(to_analog(NET), ONE, Variation(0.1), []), ["at least one chip"]),
    "method": (lambda: Trial("mnist", "lenet5", "QAVT", Recipe()), ["'QAVT'", "QAVAT"]),
    "trial network": (lambda: Trial("mnist", "lenet", "float", Recipe()), ["'lenet'", "lenet5"]),
    "purpose": (lambda: Measurement(TRIAL, Variation(0.1), purpose="training"), ["'training'", "test, validation"]),
    "profile": (lambda: profile("fast"), ["'fast'", "smoke, rehearsal, quick, colour, published, paper"]),
    "device": (lambda: Settings.read(device="tpu"), ["'tpu'", "cpu, cuda"]),
    "precision": (lambda: Settings.read(precision="float16"), ["'float16'", "float32, bfloat16"]),
    "jobs": (lambda: Settings.read(jobs="many"), ["jobs", "0 to 256", "'many'"]),
    "jobs that only look like a number": (lambda: Settings.read(jobs="²"), ["jobs", "0 to 256", "'²'"]),
    # statistics
    "proportion": (lambda: proportion(5, 3), ["5 of 3"]),
    "quantile": (lambda: quantile([1.0, 2.0], 1.5), ["0 to 1", "1.5"]),
    "threshold": (lambda: chip_yield([1.0], math.nan), ["threshold", "nan"]),
    "components": (lambda: variance_components(np.zeros((1, 5))), ["2 chips", "(1, 5)"]),
}


@pytest.mark.parametrize("case", BAD, ids=str)
def test_bad_input_is_named(case):
    call, expected = BAD[case]
    with pytest.raises(ValueError) as error:
        call()
    message = str(error.value)
    assert "\n" not in message and all(part in message for part in expected), message


def test_cuda_without_a_gpu(monkeypatch):
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    with pytest.raises(ValueError, match="'cuda'; allowed: cpu"):
        Settings.read(device="cuda")
    assert Settings.read({}).device == "cpu"


def test_data_folder_order(monkeypatch, tmp_path):
    monkeypatch.setenv("ANALOG_PIM_DATA", str(tmp_path / "b"))
    assert data_folder(tmp_path / "a") == tmp_path / "a" and data_folder() == tmp_path / "b"
    monkeypatch.delenv("ANALOG_PIM_DATA")
    assert data_folder().name == "data" and (data_folder() / "fashion-mnist").is_dir()


def test_public_names_exist():
    assert all(hasattr(lib, name) for name in lib.__all__)
