"""Panel 2: one chip, its images with errors in red, and where it lies among other chips.

Answered at once with a few chips for the cloud; more are measured while nothing is changed.
"""

import asyncio
from collections.abc import Callable, Mapping

from torch import nn

from ..analog import evaluating, programmed
from ..data import Images
from ..estimators import Oracle, ReferenceCells
from ..evaluation import evaluate
from ..selftuning import SelfTuning
from ..variation import Chip, Variation
from . import figures
from .panels import CELLS, LAWS, show, slider

FIRST, CLOUD, SHOWN, SEEN = 8, 40, 12, 100  # chips at once, chips in the end; images shown, images counted per chip


class Explorer:
    """Panel 2: a chip, its images with errors in red, and where it lies among other chips.

    networks: (law, training) → trained network; images: the first `SHOWN` are shown, `SEEN` are counted."""

    def __init__(self, networks: Mapping[tuple[str, str], nn.Module], images: Images):
        self.networks, self.images = networks, images.take(slice(0, SEEN))
        self.clouds: dict[tuple, list[tuple[float, float]]] = {}

    def controls(self) -> dict:
        import ipywidgets as widgets

        trainings = list(dict.fromkeys(training for _, training in self.networks))
        tunings = [("untuned", 0), *((f"{n} cells", n) for n in CELLS[1:]), ("oracle", -1)]
        return {
            "chip": widgets.IntSlider(value=0, min=0, max=CLOUD - 1, description="chip", continuous_update=False),
            "sigma": slider("total σ", 0.3, 0, 0.5, 0.05),
            "share": slider("shared ρ", 0.5, 0, 1, 0.1),
            "law": widgets.Dropdown(options=LAWS, description="law"),
            "training": widgets.Dropdown(options=trainings, description="training"),
            "cells": widgets.Dropdown(options=tunings, description="tuning"),
        }

    def accuracy(self, chip: int, **at) -> tuple[float, float]:
        """(z_B, accuracy in %) of a chip."""
        counts = evaluate(self._net(**at), self.images, self._pattern(**at), [chip], tuning=self._tuning(**at))
        return Chip.of("test", chip).z_between(), float(counts.accuracy[0])

    def figure(self, chip: int, **at):
        """(figure, what it says): the chip's images, and the cloud as far as it has been measured."""
        cloud = self.clouds.setdefault(tuple(at.values()), [])
        while len(cloud) < FIRST:
            cloud.append(self.accuracy(len(cloud), **at))
        here = cloud[chip] if chip < len(cloud) else self.accuracy(chip, **at)
        return self._drawn(chip, here, cloud, at)

    async def refine(self, draw: Callable, chip: int, **at) -> None:
        """More chips for the cloud, one at a time, so that a moved slider is answered in between."""
        cloud = self.clouds[tuple(at.values())]
        while len(cloud) < CLOUD:
            await asyncio.sleep(0.01)
            cloud.append(self.accuracy(len(cloud), **at))
            if len(cloud) % FIRST == 0:
                draw(*self.figure(chip, **at))

    def _net(self, law: str, training: str, **_) -> nn.Module:
        return self.networks[law, training]

    @staticmethod
    def _pattern(sigma: float, share: float, law: str, **_) -> Variation:
        return Variation.split(sigma, share, law)

    @staticmethod
    def _tuning(cells: int, **_) -> SelfTuning | None:
        return SelfTuning(Oracle() if cells < 0 else ReferenceCells(cells)) if cells else None

    def _drawn(self, chip: int, here: tuple[float, float], cloud: list, at: dict):
        net, few = self._net(**at), self.images.take(slice(0, SHOWN))
        with evaluating(net), programmed(net, Chip.of("test", chip), self._pattern(**at), self._tuning(**at)):
            classes = net(few.normalized()).argmax(1)
        fig, axes = figures.panels(2, SHOWN // 2 + 3, height=1.2)
        for ax, pixels, label, found in zip(axes[:, 3:].flat, few.pixels, few.labels, classes):
            ax.imshow(pixels[0].numpy(), cmap="gray_r")
            wrong = bool(label != found)
            name = figures.CLOTHES[found]
            ax.set_title(f"{'✗' if wrong else '✓'} {name}", color="#B00000" if wrong else "k", fontsize=7.5)
            ax.set(xticks=[], yticks=[])
        grid = axes[0, 0].get_gridspec()
        for ax in axes[:, :3].flat:
            ax.remove()
        ax, look = fig.add_subplot(grid[:, :3]), figures.STYLE.get(at["training"], figures.OWN)
        ax.plot(*zip(*cloud), look["marker"], color=look["color"], alpha=0.5)
        ax.plot(*here, "o", ms=9, mfc="none", mec="k", mew=2)
        ax.set(xlabel="z_B of the chip", ylabel="accuracy (%)", ylim=(0, 100), title=f"chip {chip}: {here[1]:.0f} %")
        right = int((classes == few.labels).sum())
        return (
            fig,
            f"chip {chip}: {here[1]:.0f} % of {SEEN} images; {right} of the {SHOWN} shown; {len(cloud)} chips drawn",
        )


def explorer(networks: Mapping[tuple[str, str], nn.Module], images: Images) -> None:
    """Show the panel; see `Explorer`."""
    panel = Explorer(networks, images)
    show("explorer", panel.controls, panel.figure, {}, panel.refine)
