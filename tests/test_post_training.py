"""Quantization after training: of the float network's copy, with steps and statistics from a noisy pass."""

from dataclasses import replace

import torch
from torch import nn

from lib import Recipe, Variation, accuracy, build, fit, post_training_quantize, to_analog
from lib.analog import crossbars
from lib.quantizers import LineSearch


def test_post_training_quantization(images):
    floating = to_analog(build("lenet5", 1, 3, 12), None, images.normalized()[:32])
    fit(floating, images, Recipe(epochs=6, batch_size=16, lr=0.05, bn_draws=4), Variation(0.2))
    before = {k: v.clone() for k, v in floating.state_dict().items()}
    quantized = post_training_quantize(floating, "A4W4", images, Variation(0.2), draws=6, batch_size=16)
    assert all(torch.equal(v, before[k]) for k, v in floating.state_dict().items())  # the float network is untouched
    for _, layer in crossbars(quantized):
        assert isinstance(layer.quantize_weight, LineSearch) and not layer._forward_pre_hooks
    assert accuracy(quantized, images) > accuracy(floating, images) - 10
    assert not torch.equal(quantized[1].running_mean, floating[1].running_mean)  # BN comes from the noisy pass
    first = next(layer for _, layer in crossbars(quantized)).quantize_input
    assert first.signed and first.step > 0
    finer = post_training_quantize(
        floating, "A4W4", images, Variation(0.2), draws=6, batch_size=16, quantizers="fine-line-search"
    )
    again = next(layer for _, layer in crossbars(finer)).quantize_input
    assert torch.equal(again.step, first.step)  # the search is of weights alone


def test_the_noisy_pass_moves_the_running_maxima_of_legacy_quantizers(images):
    """As the published pass over the training data does; in evaluation mode they would keep the calibration batch's."""

    def quantized(draws):
        options = {"draws": draws, "batch_size": 16, "quantizers": "legacy"}
        return post_training_quantize(floating, "A4W4", wide, Variation(0.3), **options)

    def maxima(network):
        quantizers = [layer.quantize_input for _, layer in crossbars(network)]
        return torch.stack([q.maximum for q in quantizers if hasattr(q, "maximum")])

    floating = build("vgg11", 1, 3, 28, 1 / 16)
    wide = replace(images, pixels=images.pixels.repeat(1, 1, 3, 3)[..., :28, :28])
    once, often = quantized(1), quantized(6)
    assert len(maxima(once)) == 8 and (maxima(once) != maxima(often)).sum() >= 7
    assert not any(m.training for m in often.modules())


def test_a_step_after_training_fits_all_calls_of_a_layer(images):
    class Twice(nn.Module):
        def __init__(self):
            super().__init__()
            self.first, self.layer, self.head = nn.Linear(144, 8), nn.Linear(8, 8), nn.Linear(8, 3)

        def forward(self, x):
            return self.head(self.layer(30 * self.layer(self.first(x.flatten(1)).relu()).relu()))

    torch.manual_seed(0)
    quantized = post_training_quantize(Twice(), "A8W8", images, draws=4, batch_size=32)
    seen = []
    quantized.layer.register_forward_pre_hook(lambda layer, args: seen.append(args[0]))
    with torch.no_grad():
        quantized(images.normalized())
    assert float((quantized.layer.quantize_input(seen[1]) - seen[1]).norm() / seen[1].norm()) < 0.05
