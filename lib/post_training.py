"""Post-training quantization: a trained float network becomes a quantized one without another training step."""

from __future__ import annotations

import torch
from torch import Tensor, nn

from .analog import Crossbar, crossbars
from .batch_norm import averaging, endless_batches, moving_norms, noisy_passes
from .checks import integer
from .classify import require_images
from .conversion import to_analog
from .data import Images
from .quantizers import TINY, Bits, LearnedStep, LegacyActivations, activation_step, thinned
from .variation import NO_VARIATION, Variation, require_variation


def post_training_quantize(
    net: nn.Module,
    bits: str | Bits,
    images: Images,
    variation: Variation = NO_VARIATION,
    *,
    seed: int = 0,
    batch_size: int = 128,
    draws: int = 200,
    quantizers: str = "line-search",
) -> nn.Module:
    """A quantized copy of a float network: weights by line search; activation steps and BN statistics from one noisy
    pass over (up to `draws` minibatches of) the training data, in which the running maxima of `legacy` quantizers move
    too.  [code 2021]; the rule for learned steps is [ours]: each layer's step is the mean over minibatches of the
    L2-best one, `activation_step`, for the inputs of all its calls."""
    require_images(images)
    integer("draws", draws, 1)
    require_variation(variation)
    net = to_analog(net, bits, next(endless_batches(images, batch_size, seed)), quantizers)
    layers = [layer for _, layer in crossbars(net)]
    learned = [(m, q) for m in layers if isinstance(q := m.quantize_input, LearnedStep)]
    averages = [_StepAverage(m, q) for m, q in learned if quantizers.endswith("line-search")]
    running = [m.quantize_input for m in layers if isinstance(m.quantize_input, LegacyActivations)]
    try:
        with averaging(moving_norms(net)) as norms:
            for _ in noisy_passes(net, [*norms, *running], images, variation, seed, draws, batch_size):
                for average in averages:
                    average.update()
    finally:
        for average in averages:
            average.hook.remove()
    return net.eval()


class _StepAverage:
    """Keeps a layer's activation step at the mean over minibatches of the L2-best step for all that it was given."""

    def __init__(self, layer: Crossbar, quantizer: LearnedStep):
        self.quantizer, self.total, self.n = quantizer, torch.tensor(0.0), 0
        self.seen: list[Tensor] = []
        self.hook = layer.register_forward_pre_hook(self._note, with_kwargs=True)

    def _note(self, layer: Crossbar, args: tuple[Tensor, ...], named: dict[str, Tensor]) -> None:
        self.seen.append(thinned(args[0] if args else named["input"]))

    def update(self) -> None:
        """After each minibatch."""
        if self.seen:
            self.total = self.total + activation_step(torch.cat(self.seen), self.quantizer.bits, self.quantizer.signed)
            self.n += 1
            self.quantizer.step.data.copy_(self.total / self.n).clamp_(min=TINY)
            self.seen.clear()
