"""Solutions of `10_from_scratch.ipynb`: exercise_N() returns what its cell hands to `check`."""

import torch
import torch.nn.functional as F


def quantize(v, step, lo, hi):
    inside = (v / step).clamp(lo, hi)
    return step * (inside + (inside.round() - inside).detach())


def exercise_1():
    slopes = []
    for v in (0.3, 1.7):
        step = torch.tensor(1.0, requires_grad=True)
        quantize(torch.tensor(v), step, -1, 1).backward()
        slopes.append(step.grad.item())
    return slopes


def exercise_2():
    return ((0.15 / 0.01) ** 2,)


def exercise_3():
    e_b, top, x = 0.3, 0.8, torch.tensor([1.0, 0, 0, 0, 1])
    moves = e_b * top * x.sum().item()
    return moves, moves - moves


def exercise_4(steps=60, lr=0.3, sigma_b=0.3, sigma_w=0.15):
    labels = torch.arange(400) % 2
    grey = torch.tensor([[13, 11, 8, 5, 3], [3, 5, 8, 11, 13]])[labels]
    noise = torch.randint(-9, 10, grey.shape, generator=torch.Generator().manual_seed(0))
    x = (grey + noise).clamp(0, 15) / 15
    start = torch.tensor([[0.3, 0.2, -0.1, -0.2, 0.1], [-0.2, 0.1, -0.3, 0.2, 0.3]])
    normals, found = torch.Generator().manual_seed(0), []
    for on in (1, 0):
        w, step = start.clone().requires_grad_(), (2 * start.abs().mean()).requires_grad_()
        for _ in range(steps):
            e = on * (sigma_b * torch.randn((), generator=normals) + sigma_w * torch.randn(2, 5, generator=normals))
            q = quantize(w, step, -1, 1)
            F.cross_entropy(x @ (q + e * q.abs().amax()).T, labels).backward()
            with torch.no_grad():
                w -= lr * w.grad
                step -= lr * step.grad / w.numel() ** 0.5
            w.grad = step.grad = None
        found.append(step.item())
    return found
