"""Quantizers against independent references: values and gradients."""

import math

import pytest
import torch

from lib.quantizers import (
    Binary,
    Bits,
    LearnedSign,
    LearnedStep,
    LegacyActivations,
    LegacySign,
    LineSearch,
    activation_quantizer,
    activation_step,
    levels,
    line_search,
    weight_quantizer,
)


def gradients(quantizer, x, upstream):
    x = x.clone().requires_grad_()
    q = quantizer(x)
    q.backward(upstream)
    return q.detach(), x.grad, quantizer.step.grad if hasattr(quantizer, "step") else None


GRIDS = [(bits, True) for bits in (2, 3, 4, 8)] + [(bits, False) for bits in (1, 2, 4, 8)]


@pytest.mark.parametrize("bits,signed", GRIDS)
def test_learned_step_equals_torch_fake_quantize(bits, signed):
    torch.manual_seed(bits)
    lo, hi = levels(bits, signed)
    step = torch.tensor(0.37)
    x = torch.randn(4000) * (hi + 2) * step * 0.7
    v = x / step
    x = x[~((v > hi) & (v < hi + 0.5) | (v < lo) & (v > lo - 0.5))]  # there torch masks on the rounded value
    upstream = torch.randn_like(x)
    quantizer = LearnedStep(bits, signed, step, count=x.numel())
    q, d_x, d_step = gradients(quantizer, x, upstream)

    reference_x, scale = x.clone().requires_grad_(), step.clone().reshape(1).requires_grad_()
    reference = torch._fake_quantize_learnable_per_tensor_affine(
        reference_x, scale, torch.zeros(1), lo, hi, 1 / math.sqrt(x.numel() * hi)
    )
    reference.backward(upstream)
    torch.testing.assert_close(q, reference.detach())
    torch.testing.assert_close(d_x, reference_x.grad)
    torch.testing.assert_close(d_step, scale.grad[0], rtol=1e-3, atol=1e-4)


@pytest.mark.parametrize("bits,signed", [(2, True), (4, True), (4, False)])
def test_learned_step_beyond_the_last_level_follows_the_formula(bits, signed):
    lo, hi = levels(bits, signed)
    x = torch.tensor([hi + 0.01, hi + 0.2, hi + 0.49, hi + 3.0, lo - 0.2, hi - 0.2])
    q, d_x, d_step = gradients(LearnedStep(bits, signed, torch.tensor(1.0), count=1), x, torch.ones_like(x))
    assert q.tolist() == [hi, hi, hi, hi, lo, hi]
    assert d_x.tolist() == [0, 0, 0, 0, 0, 1]
    assert d_step.item() == pytest.approx((4 * hi + lo + 0.2) / math.sqrt(hi), rel=1e-5)


def test_evaluation_takes_the_same_values_as_training():
    x = torch.randn(1000)
    quantizer = LearnedStep(4, True, torch.tensor(0.21), 1000)
    with torch.no_grad():
        without = quantizer(x)
    assert torch.equal(without, quantizer(x).detach())


@pytest.mark.parametrize("bits", range(1, 9))
def test_level_counts(bits):
    ramp = torch.linspace(-40, 40, 400_001)  # far beyond the last level of quantizers started on a hundredth of it
    weights = weight_quantizer(bits, ramp / 100)
    assert len(weights(ramp).detach().unique()) == (2 if bits == 1 else 2**bits - 1)
    searched = weight_quantizer(bits, ramp / 100, "line-search").eval()
    assert len(searched(ramp).unique()) == (2 if bits == 1 else 2**bits - 1)
    positive = ramp.clamp_min(0)[None]
    assert len(activation_quantizer(bits, positive / 100, signed=False)(positive).detach().unique()) == 2**bits
    signed = activation_quantizer(bits, ramp[None] / 100, signed=True)
    assert len(signed(ramp[None]).detach().unique()) == (2 if bits == 1 else 2**bits - 1)
    if bits > 1:
        legacy = activation_quantizer(bits, ramp[None] / 100, True, "legacy").eval()
        assert int((legacy(ramp[None]).unique() > 0).sum()) == 2 ** (bits - 1) - 1  # 7 positive levels at 4 bits


def test_learned_step_starts_as_in_lsq():
    w = torch.randn(50, 40)
    assert LearnedStep.for_weights(3, w).step.item() == pytest.approx(2 * w.abs().mean().item() / math.sqrt(3))


def test_line_search_is_the_best_of_ten_and_freezes_in_evaluation():
    w = torch.randn(500)
    n = 7
    candidates = torch.linspace(w.abs().max().item() / n, w.abs().median().item() / n, 10)
    errors = [((w - (w / s).round().clamp(-n, n) * s) ** 2).sum().item() for s in candidates]
    assert line_search(w, 4).item() == pytest.approx(candidates[errors.index(min(errors))].item(), rel=1e-5)
    finer = weight_quantizer(4, w, "fine-line-search")
    errors = [((w - q.eval()(w)) ** 2).sum() for q in (LineSearch(4, w), finer)]
    assert finer.n == 100 and errors[1] < errors[0]
    quantizer = LineSearch(4, w)
    quantizer(3 * w)
    assert quantizer.step.item() == pytest.approx(line_search(3 * w, 4).item())
    quantizer.eval()(w)
    assert quantizer.step.item() == pytest.approx(line_search(3 * w, 4).item())
    _, d_w, _ = gradients(LineSearch(2, w), 5 * w, torch.ones_like(w))
    assert (d_w == 1).all()  # not clipped


def test_binary_weights():
    w = torch.tensor([[-2.0, -0.5, 0.0], [0.25, 1.0, 1.25]])
    upstream = torch.arange(6.0).view(2, 3)
    q, d_w, _ = gradients(Binary(), w, upstream)
    mean = w.abs().mean().item()
    assert q.tolist() == [[-mean, -mean, mean], [mean, mean, mean]]
    assert d_w.tolist() == [[0, 1, 2], [3, 4, 0]]


def test_learned_sign_values_and_gradients():
    x = torch.tensor([[-2.0, -0.5, 0.0, 0.5]])
    q, d_x, d_step = gradients(LearnedSign(1, True, torch.tensor(0.75), count=4), x, torch.ones_like(x))
    assert q.tolist() == [[-0.75, -0.75, 0.75, 0.75]]
    assert d_x.tolist() == [[0, 1, 1, 1]]
    assert d_step.item() == pytest.approx(0.0)


def test_legacy_activations_truncate_and_track_the_maximum():
    quantizer = LegacyActivations(4, torch.tensor([7.0]))
    x = torch.tensor([-1.9, -0.9, 0.9, 1.9, 6.99, 9.0])
    assert quantizer.eval()(x).tolist() == [-1, 0, 0, 1, 6, 7]
    quantizer.train()(torch.tensor([17.0]))
    assert quantizer.maximum.item() == pytest.approx(0.99 * 7 + 0.01 * 17)


def test_legacy_sign_scales_each_image_and_channel():
    x = torch.randn(3, 2, 4, 4) * 2
    q, d_x, _ = gradients(LegacySign(), x, torch.ones_like(x))
    torch.testing.assert_close(q, x.sign() * x.abs().mean((2, 3), keepdim=True))
    assert torch.equal(d_x, (x.abs() <= 1).float())
    flat = torch.randn(3, 5)
    torch.testing.assert_close(LegacySign()(flat), flat.sign() * flat.abs().mean(1, keepdim=True))


def test_activation_step_is_near_the_best_and_sees_every_column():
    x = torch.randn(64, 8, 32, 32).relu()
    step = activation_step(x, 4, signed=False)
    fine = torch.linspace(0.05, 0.6, 200)
    errors = [((x - (x / s).round().clamp(0, 15) * s) ** 2).mean().item() for s in fine]
    best = min(errors)
    assert ((x - (x / step).round().clamp(0, 15) * step) ** 2).mean().item() < 1.15 * best
    striped = torch.zeros(64, 8, 32, 32)
    striped[..., 5] = 3.0
    assert activation_step(striped, 4, signed=False) > 1e-3  # a regular stride would have seen only zeros


def test_bits_are_read_and_written():
    assert Bits.parse("A4W2") == Bits(4, 2) and str(Bits(8, 1)) == "A8W1"


def test_an_all_zero_layer_stays_finite():
    w = torch.zeros(10)
    for quantizer in (LearnedStep.for_weights(2, w), LineSearch(2, w), Binary()):
        assert torch.isfinite(quantizer(w)).all()
