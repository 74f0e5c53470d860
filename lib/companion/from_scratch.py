"""Notebook 10: the whole idea in plain torch, held against the library number by number."""

import hashlib
from collections.abc import Mapping

import pandas as pd
import torch
from torch import Tensor, nn

from ..data import Images
from ..statistics import Claim
from .claims import exactly

TOLERANCE = 1e-5  # of two orders of the same float32 operations


def images(grey: Tensor, labels: Tensor) -> Images:
    """Images of 1×1×n pixels for the library; grey: (N, n) of 16 levels 0 … 15, which become grey/15 again."""
    return Images((17 * grey).to(torch.uint8).view(len(grey), 1, 1, -1), labels, (0.0,), (1.0,))


def network(w: Tensor) -> nn.Module:
    """A float network of one linear layer with the weights w (outputs, inputs), for `to_analog`."""
    net = nn.Sequential(nn.Flatten(), nn.Linear(w.shape[1], w.shape[0], bias=False))
    net[1].weight.data.copy_(w)
    return net


def key(grey: Tensor) -> str:
    """What the results stand on: SHA-256 of the images."""
    return hashlib.sha256(grey.to(torch.uint8).numpy().tobytes()).hexdigest()


def agreement_table(pairs: Mapping[str, tuple[Tensor, Tensor]]) -> pd.DataFrame:
    """what, numbers, largest distance: plain torch beside the library."""
    rows = ((what, a.numel(), float((a.detach() - b.detach()).abs().max())) for what, (a, b) in pairs.items())
    return pd.DataFrame(rows, columns=["what", "numbers", "largest distance"])


def agreement_claims(agreement: pd.DataFrame) -> list[Claim]:
    """Plain torch and the library give the same numbers."""
    return [
        Claim(
            f"distance of plain torch from the library: {row.what}",
            f"{row.numbers} numbers",
            exactly(row["largest distance"]),
            below=TOLERANCE,
            unit="",
            of="sweep",
            expected=True,
        )
        for _, row in agreement.iterrows()
    ]


def error_table(ideal: Tensor, outputs: Mapping[tuple[str, str], Tensor]) -> pd.DataFrame:
    """law, tuning, input, ideal, chip: the output of one column, input by input."""
    frames = [
        pd.DataFrame({"law": law, "tuning": tuning, "input": range(len(y)), "ideal": ideal, "chip": y})
        for (law, tuning), y in outputs.items()
    ]
    return pd.concat(frames, ignore_index=True)


def error_claims(errors: pd.DataFrame) -> list[Claim]:
    """On this chip, reference cells remove more than half of the squared error, under either law."""
    power = (errors.chip - errors.ideal).pow(2).groupby([errors.law, errors.tuning]).mean()
    return [
        Claim(
            "what tuning leaves of the squared error of a column",
            f"{law}, one chip, all inputs",
            exactly(power[law, "tuned"] / power[law, "untuned"]),
            below=0.5,
            unit="ratio",
            of="sweep",
        )
        for law in errors.law.unique()
    ]
