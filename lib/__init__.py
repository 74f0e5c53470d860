"""Companion to "Variability-Aware Training and Self-Tuning of Highly Quantized DNNs for Analog PIM" (arXiv 2111.06457).

    net   = to_analog(my_module, bits="A4W2", calibrate=batch)
    fit(net, data.train, Recipe.quick(), Variation(within=0.3))
    tuned = SelfTuning(ReferenceCells(256))
    evaluate(net, data.test, Variation.split(0.3, between_share=0.5), chips=100, tuning=tuned).summary()

An independent reproduction.  [paper] = the abstract; [code 2021] = github.com/JamesTuna/QAVAT_FOR_PIM; [ours] = our
reconstruction.
"""

import sys

__project__ = "analog-pim-companion"  # tells a `lib` of ours from anybody else's
_other = sys.modules.get("lib" if __name__ == "analog_pim" else "analog_pim")
if _other is not None and getattr(_other, "__project__", None) == __project__:
    raise ImportError(
        f"{__name__} ({__file__}) is in this process already, as {_other.__name__} ({_other.__file__}): "
        "its classes would be there twice; import it under one name only"
    )

from .adaptive import evaluate_mean
from .analog import Tuner, programmed
from .batch_norm import freeze_batch_norm, reestimate_batch_norm
from .cells import read_cells
from .checks import UserError
from .columns import ReferenceColumns
from .controls import NoisyBatchNorm, OutputGain, PerChipBatchNorm, StaticFold
from .conversion import to_analog
from .converter import Converter, attach, converting
from .data import Images, load
from .estimators import Estimator, Oracle, ReadOnce, ReferenceCells
from .evaluation import Counts, accuracy, evaluate
from .files import load_analog, save_analog
from .fitting import fit_cells
from .laws import register_cells, register_law, register_mapping
from .networks import build
from .placement import report
from .post_training import post_training_quantize
from .quantizers import Bits
from .selftuning import Correction, Gain, Offset, Response, SelfTuning, Tuning
from .shipped import load_shipped, shipped_networks
from .training import Recipe, fit
from .variation import Chip, Variation

__version__ = "0.1.0"
# fmt: off
__all__ = [
    "Bits", "Chip", "Converter", "Correction", "Counts", "Estimator", "Gain", "Images", "NoisyBatchNorm", "Offset",
    "Oracle", "OutputGain", "PerChipBatchNorm", "ReadOnce", "Recipe", "ReferenceCells", "ReferenceColumns", "Response",
    "SelfTuning", "StaticFold", "Tuner", "Tuning", "UserError", "Variation", "accuracy", "attach", "build",
    "converting", "evaluate", "evaluate_mean", "fit", "fit_cells", "freeze_batch_norm", "load", "load_analog",
    "load_shipped", "post_training_quantize", "programmed", "read_cells", "reestimate_batch_norm", "register_cells",
    "register_law", "register_mapping", "report", "save_analog", "shipped_networks", "to_analog",
]
# fmt: on
