"""Figures and their records: what is drawn again, and when."""

import json

import pandas as pd
import pytest

from lib import figures
from lib.profiles import Profile


@pytest.fixture
def publish(tmp_path, monkeypatch):
    """publish(height) draws a line; returns the kinds of file that were drawn."""
    drawn, draw = [], figures.Figure.savefig
    monkeypatch.setattr(figures.Figure, "savefig", lambda fig, to, **options: (drawn.append(options.get("format", "pdf")), draw(fig, to, **options)))
    monkeypatch.setattr(Profile, "figures", tmp_path / "published")
    monkeypatch.setenv(figures.FIGURES_VARIABLE, str(tmp_path / "staged"))

    def run(height: float) -> list[str]:
        drawn.clear()
        fig, axes = figures.panels(1, 1)
        axes[0, 0].plot([0, 1], [0, height])
        figures.publish(fig, "00_line", pd.DataFrame({"x": [0, 1], "y": [0, height]}), alt="A line.", profile=Profile("test", ()), parameters={})
        return list(drawn)

    return run


def test_a_pdf_is_drawn_again_only_where_the_picture_or_its_sources_changed(publish, tmp_path, monkeypatch):
    staged, published = tmp_path / "staged", tmp_path / "published"
    assert publish(1) == ["png", "pdf"]
    staged.rename(published)
    first = {path.name: path.read_bytes() for path in published.iterdir()}
    assert publish(1) == ["png"]
    assert {path.name: path.read_bytes() for path in staged.iterdir()} == first
    assert publish(2) == ["png", "pdf"]
    monkeypatch.setattr(figures, "tree_digest", lambda: "other sources")
    assert publish(1) == ["png", "pdf"]


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
    assert publish(1) == ["png", "pdf"]
    assert (tmp_path / "staged" / "00_line.pdf").read_bytes() == good
