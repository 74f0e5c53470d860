"""The site of a smoke run: all of it there, whole, and nothing fetched from elsewhere."""

import html
import json
import re
from itertools import pairwise

import pytest
from conftest import ROOT

from lib.checks import InputError, RunError
from lib.companion import site
from lib.companion.profiles import profile


@pytest.fixture(scope="module")
def pages(smoke, project):
    """Name → text of every page."""
    folder = project / "build" / "smoke" / "site"
    return {path.stem: path.read_text("utf-8") for path in folder.glob("*.html")}


@pytest.fixture
def built(monkeypatch, tmp_path):
    """A project folder with a built site of two files."""
    monkeypatch.setattr(site, "ROOT", tmp_path)
    out = tmp_path / "build" / "smoke" / "site"
    (out / "_static").mkdir(parents=True)
    for name in ("index.html", "_static/style.css"):
        (out / name).write_text(name)
    return out


def article(page: str) -> str:
    return re.search(r"<article.*?</article>", page, re.S).group(0)


def test_sphinx_has_nothing_to_say(smoke, project):
    assert (project / "build" / "smoke" / "site.log").read_text("utf-8") == ""
    seconds = int(re.search(r"site: build/smoke/site/index.html   \((\d+) s\)", smoke.stdout).group(1))
    assert seconds <= 40


def test_every_page_is_linked_and_reads_in_order(pages):
    for name in (
        *(p.stem for p in (ROOT / "notebooks").glob("*.ipynb")),
        *"gallery claims provenance glossary lab_sheet".split(),
    ):
        assert f'href="{name}.html"' in pages["index"]
        levels = [int(level) for level in re.findall(r"<h([1-6])", article(pages[name]))]
        assert levels[0] == 1 and levels.count(1) == 1 and all(b <= a + 1 for a, b in pairwise(levels)), name
        assert re.search(r'<html lang="en"', pages[name]) and "<main" in pages[name] and "<nav" in pages[name]


def test_nothing_is_fetched_from_elsewhere(pages, project):
    fetched = re.compile(
        r'<(?:script|img|iframe|source|video)\b[^>]*\bsrc="(https?:)?//|'
        r'<link\b(?![^>]*rel="canonical")[^>]*href="(https?:)?//'
    )
    for name, page in pages.items():
        assert not fetched.search(page), name
    for path in (project / "build" / "smoke" / "site" / "_static").rglob("*.css"):
        assert not re.search(r"url\(['\"]?https?:", path.read_text("utf-8")), path


def test_figures_claims_and_provenance_are_those_of_the_run(pages, project):
    records = [json.loads(p.read_text("utf-8")) for p in (project / "build" / "smoke" / "figures").glob("*.json")]
    text = html.unescape(re.sub(r"<[^>]+>", "", pages["claims"]))
    assert len(records) > 35 and pages["gallery"].count("<figure") == len(records)
    for record in records:
        assert f"_images/{record['figure']}.png" in pages["gallery"] and record["png"][:12] in pages["provenance"]
        assert all(" ".join(c["statement"].split()) in text for c in record["claims"])


def test_no_table_shows_what_only_python_reads(pages):
    cells = [cell for page in pages.values() for cell in re.findall(r"<td>(.*?)</td>", page, re.S)]
    assert len(cells) > 1000
    assert [cell for cell in cells if re.match(r"\{|nan\b|NaN|None|array\(|&lt;NA", cell)] == []


def test_a_page_shows_the_parameters_of_its_run(pages):
    for name in ("00_start_here", "07_paper_versus_ours"):
        page = html.unescape(re.sub(r"<[^>]+>", "", article(pages[name])))
        assert re.findall(r'^PROFILE = "(\w+)"', page, re.M) == ["smoke"], name


def test_code_that_only_plots_is_folded_and_formulas_are_typeset(pages):
    page = pages["02_variation_and_chips"]
    folded = re.findall(r'<div class="cell[^"]*tag_hide-input.*?<pre>(.*?)</pre>', page, re.S)
    assert len(folded) >= 8 and all(any(name in code for name in ("figures", "panels", "diagrams")) for code in folded)
    assert 'class="math' in pages["10_from_scratch"] and "_static/mathjax" in pages["10_from_scratch"].replace(
        "sphinx-mathjax-offline", "mathjax"
    )


def test_the_notebooks_link_words_of_the_glossary_at_their_first_use(pages):
    known = set(re.findall(r'<section id="([\w-]+)">', pages["glossary"])) - {"glossary", "symbols"}
    linked = set()
    for path in sorted((ROOT / "notebooks").glob("*.ipynb")):
        cells = [c for c in json.loads(path.read_text("utf-8"))["cells"] if c["cell_type"] == "markdown"]
        found = re.findall(r"\]\(\.\./site/glossary\.md#([\w-]+)\)", "\n".join("".join(c["source"]) for c in cells))
        assert set(found) <= known and len(found) == len(set(found)), path.stem
        assert all(f'href="glossary.html#{name}"' in pages[path.stem] for name in found)
        linked |= set(found)
    assert len(known) >= 30 and known == linked


def test_the_search_knows_the_words(project):
    index = (project / "build" / "smoke" / "site" / "searchindex.js").read_text("utf-8")
    assert '"refer":' in index and '"cell":' in index


def test_a_copy_is_made_by_one_command(built, tmp_path):
    site.copy_site(profile("smoke"), str(tmp_path / "public"))
    assert (tmp_path / "public" / "_static" / "style.css").read_text() == "_static/style.css"
    with pytest.raises(InputError, match="is no new or empty folder"):
        site.copy_site(profile("smoke"), str(tmp_path / "public"))
    with pytest.raises(RunError, match=r"no site of profile 'quick' is built; run \./run_all.sh --profile quick first"):
        site.copy_site(profile("quick"), str(tmp_path / "other"))


def test_what_sphinx_says_when_it_fails_is_one_line(monkeypatch, tmp_path):
    monkeypatch.setattr(site, "ROOT", tmp_path)

    def broken(chosen, target):
        target.mkdir(parents=True)
        (target / "conf.py").write_text("extensions = ['no_such_extension']")
        return target

    monkeypatch.setattr(site, "gather", broken)
    with pytest.raises(RunError, match="the site could not be built: .*no_such_extension.*full log: "):
        site.build_site(profile("smoke"))


def test_a_notebook_that_failed_is_no_page():
    error = {"cells": [{"cell_type": "code", "source": "", "metadata": {}, "outputs": [{"output_type": "error"}]}]}
    assert site._failed(error) and site._failed({"cells": []})
