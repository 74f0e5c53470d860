"""Figures and their records: what is drawn again, and when."""

import io
import json

import pandas as pd
import pytest
from matplotlib.figure import Figure

from lib.companion import figures
from lib.companion.profiles import Profile


@pytest.fixture
def publish(tmp_path, monkeypatch):
    """publish(height) draws a line; returns the suffixes of the files that were drawn, beside the PNG."""
    drawn, draw = [], Figure.savefig

    def noted(fig, to, **options):
        drawn.append(to.suffix)
        draw(fig, to, **options)

    monkeypatch.setattr(Figure, "savefig", noted)
    monkeypatch.setattr(Profile, "figures", tmp_path / "published")
    monkeypatch.setenv(figures.FIGURES_VARIABLE, str(tmp_path / "staged"))

    def run(height: float) -> list[str]:
        drawn.clear()
        fig, axes = figures.panels(1, 1)
        axes[0, 0].plot([0, 1], [0, height])
        numbers = pd.DataFrame({"x": [0, 1], "y": [0, height]})
        figures.publish(fig, "00_line", numbers, alt="A line.", profile=Profile("test", ()), parameters={})
        return list(drawn)

    return run


def test_a_pdf_is_drawn_again_only_where_the_picture_or_its_sources_changed(publish, tmp_path, monkeypatch):
    staged, published = tmp_path / "staged", tmp_path / "published"
    assert publish(1) == [".pdf"]
    staged.rename(published)
    first = {path.name: path.read_bytes() for path in published.iterdir()}
    assert publish(1) == []
    assert {path.name: path.read_bytes() for path in staged.iterdir()} == first
    assert publish(2) == [".pdf"]
    monkeypatch.setattr(figures, "tree_digest", lambda: "other sources")
    assert publish(1) == [".pdf"]


@pytest.mark.parametrize("spoil", ["cut", "missing", "unrecorded", "no record", "not JSON"])
def test_a_pdf_that_is_not_the_recorded_one_is_not_taken_over(publish, tmp_path, spoil):
    publish(1)
    published = tmp_path / "published"
    (tmp_path / "staged").rename(published)
    good, pdf, record = (published / "00_line.pdf").read_bytes(), published / "00_line.pdf", published / "00_line.json"
    if spoil == "cut":
        pdf.write_bytes(good[:-10])
    elif spoil == "missing":
        pdf.unlink()
    elif spoil == "unrecorded":
        content = json.loads(record.read_text("utf-8"))
        del content["pdf"]
        record.write_text(json.dumps(content), "utf-8")
    elif spoil == "no record":
        record.unlink()
    else:
        record.write_text("{", "utf-8")
    assert publish(1) == [".pdf"]
    assert (tmp_path / "staged" / "00_line.pdf").read_bytes() == good


def test_the_picture_is_that_of_savefig():
    """Byte by byte, layout and legend included, and the figure keeps its resolution."""
    figures.use_style()

    def drawn():
        fig, axes = figures.panels(2, 2, sharey=True)
        for ax in axes.flat:
            ax.plot([0, 1], [1, 2], label="a line")
            ax.set(title="title", xlabel="x", xscale="symlog")
        figures.legend_above(fig, axes[0, 0])
        return fig

    ours, theirs, image = drawn(), drawn(), io.BytesIO()
    theirs.savefig(image, format="png", dpi=150, metadata={"Software": None})
    assert figures._png(ours) == image.getvalue() and ours.dpi == theirs.dpi
