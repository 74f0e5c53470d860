"""The look of the figures: contrast on white, colours apart for the colour-blind, a second cue in grey."""

import io
from itertools import combinations, pairwise

import numpy as np
import pytest
from matplotlib import rc_context
from matplotlib.colors import to_hex
from matplotlib.text import Text

from lib.companion import figures

# Machado, Oliveira & Fernandes (2009), severity 1.0: linear RGB → as seen
SEEN = {
    "all colours": np.eye(3),
    "protanopia": [[0.152286, 1.052583, -0.204868], [0.114503, 0.786281, 0.099216], [-0.003882, -0.048116, 1.051998]],
    "deuteranopia": [[0.367322, 0.860646, -0.227968], [0.280085, 0.672501, 0.047413], [-0.011820, 0.042940, 0.968881]],
    "tritanopia": [[1.255528, -0.076749, -0.178779], [-0.078411, 0.930809, 0.147602], [0.004733, 0.691367, 0.303900]],
}
TO_XYZ = np.array([[0.4124, 0.3576, 0.1805], [0.2126, 0.7152, 0.0722], [0.0193, 0.1192, 0.9505]])  # sRGB, D65
PALETTES = {"methods": figures.STYLE, "tunings": figures.TUNING_STYLE, "bits": dict(enumerate(figures.BITS_STYLE))}


def linear(color: str) -> np.ndarray:
    v = np.array([int(color[i : i + 2], 16) / 255 for i in (1, 3, 5)])
    return np.where(v <= 0.04045, v / 12.92, ((v + 0.055) / 1.055) ** 2.4)


def contrast(color: str) -> float:
    """Against white."""
    return 1.05 / (linear(color) @ TO_XYZ[1] + 0.05)


def lab(rgb: np.ndarray) -> np.ndarray:
    """CIE L*a*b* of linear RGB."""
    t = TO_XYZ @ np.clip(rgb, 0, 1) / TO_XYZ.sum(1)
    f = np.where(t > (6 / 29) ** 3, np.cbrt(t), t / (3 * (6 / 29) ** 2) + 4 / 29)
    return np.array([116 * f[1] - 16, 500 * (f[0] - f[1]), 200 * (f[1] - f[2])])


@pytest.mark.parametrize("name", PALETTES)
def test_every_colour_has_three_to_one_against_white(name):
    for look in PALETTES[name].values():
        assert contrast(look["color"]) >= 3, look


@pytest.mark.parametrize("seen", SEEN)
@pytest.mark.parametrize("name", PALETTES)
def test_colours_stay_apart_for_every_eye_or_differ_in_marker_and_line(name, seen):
    for (a, one), (b, other) in combinations(PALETTES[name].items(), 2):
        distance = np.linalg.norm(np.subtract(*(lab(SEEN[seen] @ linear(x["color"])) for x in (one, other))))
        cues = one["marker"] != other["marker"] and one["linestyle"] != other["linestyle"]
        assert distance >= (8 if cues else 15), (a, b, seen, distance)


@pytest.mark.parametrize("name", PALETTES)
def test_in_grey_marker_and_line_tell_them_apart(name):
    cues = [(look["marker"], look["linestyle"]) for look in PALETTES[name].values()]
    assert len(set(cues)) == len(cues)
    assert len({marker for marker, _ in cues}) == len(cues)


@rc_context()
def test_labels_at_line_ends_do_not_overlap_in_what_is_saved():
    figures.use_style()
    fig, axes = figures.panels(2, 2, sharey=True)
    ends = dict(zip(figures.STYLE, (99, 97, 96, 40, 39, 5)))
    for ax in axes.flat:
        for label, end in ends.items():
            ax.plot([0, 1], [0, end], label=label, **figures.STYLE[label])
        ax.set_ylim(0, 100)
    figures.finding(fig, "Many lines end close to each other")
    figures.label_lines(fig)
    fig.savefig(io.BytesIO(), dpi=100)
    assert [len(ax.texts) for ax in axes.flat] == [0, len(ends)] * 2
    for ax in axes[:, 1]:
        boxes = sorted((Text.get_window_extent(text).extents for text in ax.texts), key=lambda box: box[1])
        assert all(upper[1] >= lower[3] - 1 for lower, upper in pairwise(boxes))
        assert all(box[0] > ax.bbox.x1 and box[2] <= fig.bbox.x1 + 1 for box in boxes)  # beside the panel, not cut
        places = {text.get_text(): text.xyann[1] for text in ax.texts}
        assert sorted(places, key=places.get) == sorted(ends, key=ends.get)
        assert places["float"] == pytest.approx(5)  # far from others: at the end of its line
        assert np.mean([places[name] for name in ("QAVAT", "QAT", "PTQ-VAT")]) == pytest.approx(97.3, abs=0.5)


def test_labels_at_line_ends_can_be_read():
    fig, [[ax]] = figures.panels(1, 1)
    for label, look in (figures.STYLE | figures.TUNING_STYLE | dict(enumerate(figures.BITS_STYLE))).items():
        ax.plot([0, 1], label=label, **look)
    figures.label_lines(fig)
    assert all(contrast(to_hex(text.get_color())) >= 4.5 for text in ax.texts)


def test_what_values_reach_from_and_to():
    assert figures.extent([3.4, 11.6, 7]) == "3 to 12" and figures.extent([2.1, 1.9]) == "2"
    assert figures.extent([-0.26, 0.04], 1) == "−0.3 to 0" and figures.extent([]) == "–" == figures.extent([np.nan])
