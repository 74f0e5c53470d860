"""Solutions of `01_quantizers.ipynb`: exercise_N() returns what its cell hands to `check`."""

import torch

from lib.quantizers import LearnedStep


def passes(quantizer, x):
    """The inputs at which the gradient passes."""
    x = x.clone().requires_grad_()
    quantizer(x).sum().backward()
    return x.detach()[x.grad > 0]


def exercise_1():
    x = torch.linspace(-2.5, 2.5, 5001)
    return (passes(LearnedStep(2, True, torch.tensor(0.5), 1), x).max().item(),)


def exercise_2():
    found = passes(LearnedStep(4, False, torch.tensor(1.0), 1), torch.linspace(-5, 20, 250_001))
    return round(found.min().item(), 2), found.max().item()


def exercise_3():
    x = torch.linspace(-20, 20, 4001)
    return [len(LearnedStep(bits, True, torch.tensor(1.0), 1)(x).unique()) for bits in (2, 3, 4)]
