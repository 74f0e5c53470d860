"""In a real browser: JupyterLab runs a notebook and a panel, the site opens whole, is searched, and is accessible.

Without Chromium these tests are not run, and the end of the output says so; ANALOG_PIM_BROWSER=required fails them.
"""

import json
import os
import re
import socket
import subprocess
import sys
import time
import urllib.request

import pytest
from browser import CHROMIUM, REQUIRED, chromium, opened, served
from conftest import copy_project, environment, replaced

from lib.companion import panels

pytestmark = pytest.mark.skipif(not CHROMIUM and not REQUIRED, reason="no browser: install Debian's package chromium")
PANEL_SECONDS = 5


@pytest.fixture(scope="module")
def browser():
    with chromium() as found:
        yield found


@pytest.fixture(scope="module")
def address(smoke, project):
    with served(project / "build" / "smoke" / "site") as found:
        yield found


@pytest.fixture(scope="module")
def lab(smoke, project, tmp_path_factory):
    """A JupyterLab in a copy of its own, whose first notebook is of profile smoke and finds what `smoke` computed."""
    finished, project = project, copy_project(tmp_path_factory.mktemp("lab"))
    (project / "cache").symlink_to(finished / "cache")
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    first = (project / "notebooks" / "00_start_here.ipynb").read_text("utf-8")
    (project / "notebooks" / "first.ipynb").write_text(replaced(first, r"PROFILE = \"quick\"", r"PROFILE = \"smoke\""))
    cells = [{"cell_type": "code", "id": "a", "metadata": {}, "outputs": [], "execution_count": None}]
    cells[0]["source"] = "from lib.companion import panels\npanels.column()"
    panel = {"cells": cells, "metadata": json.loads(first)["metadata"], "nbformat": 4, "nbformat_minor": 5}
    (project / "notebooks" / "panel.ipynb").write_text(json.dumps(panel))
    command = [sys.executable, "-m", "jupyterlab", "--no-browser", "--allow-root", f"--port={port}"]
    command += ["--IdentityProvider.token=", "--LabApp.news_url=", f"--ServerApp.root_dir={project}"]
    variables = environment(project) | {"JUPYTER_PREFER_ENV_PATH": "1", "HOME": str(project)}
    log = open(project / "lab.log", "wb")  # noqa: SIM115
    server = subprocess.Popen(command, env=variables, cwd=project, stdout=log, stderr=log)
    try:
        for _ in range(300):
            if server.poll() is not None:
                break
            try:
                urllib.request.urlopen(f"http://127.0.0.1:{port}/api/status").close()
                break
            except OSError:
                time.sleep(0.1)
        assert server.poll() is None, (project / "lab.log").read_text("utf-8")
        yield f"http://127.0.0.1:{port}/lab/tree/notebooks/"
    finally:
        server.terminate()
        server.wait()
        log.close()


def run_all(page) -> None:
    """Run All Cells, once the kernel answers: before, JupyterLab asks for a kernel in a dialog and drops the command.

    The status bar is waited for, since the notebook's own indicator says "idle" while there is no kernel yet.
    """
    page.locator("#jp-main-statusbar").get_by_text("(ipykernel) | Idle").first.wait_for(timeout=60_000)
    page.locator(".lm-MenuBar-itemLabel", has_text="Run").first.click()
    page.locator(".lm-Menu-itemLabel", has_text="Run All Cells").first.click()
    page.locator(".jp-InputPrompt").filter(has_text=re.compile(r"\[[*\d]")).first.wait_for(timeout=60_000)


def test_jupyterlab_runs_the_first_notebook_and_lists_its_sections(browser, lab):
    with opened(browser, lab + "first.ipynb") as (page, _):
        run_all(page)
        # of the last code cell: Run All stops at an error
        page.get_by_text("00.3: not answered yet").wait_for(timeout=120_000, state="attached")
        assert page.locator('[data-mime-type="application/vnd.jupyter.stderr"]').count() == 0
        assert page.locator(".jp-Notebook figure img").count() == 3
        page.keyboard.press("Control+Shift+K")  # the table of contents
        for section in ("1. An ideal chip", "2. One chip with variation", "3. Many chips", "Exercises"):
            page.locator(".jp-TableOfContents", has_text=section).first.wait_for(timeout=10_000)


def test_a_panel_in_jupyterlab_answers_to_the_keyboard(browser, lab):
    with opened(browser, lab + "panel.ipynb") as (page, _):
        run_all(page)
        picture = page.locator(".jp-OutputArea img").first
        picture.wait_for(timeout=60_000)
        assert page.locator(".jp-OutputArea .widget-label", has_text="shared part e_B").count() == 1
        before, handle = picture.get_attribute("src"), page.locator(".noUi-handle").first
        handle.focus()
        began = time.monotonic()
        handle.press("ArrowRight")
        page.wait_for_function("before => document.querySelector('.jp-OutputArea img').src !== before", arg=before)
        assert time.monotonic() - began < PANEL_SECONDS


def test_the_site_opens_whole(browser, address):
    for name in ("index", "02_variation_and_chips", "gallery", "claims", "glossary"):
        with opened(browser, f"{address}{name}.html") as (page, wrong):
            assert wrong == [] and page.locator(".bd-article h1").count() == 1
            assert page.locator("mjx-container").count() > 0 or name not in ("02_variation_and_chips", "glossary")


def test_no_page_is_wider_than_a_telephone(browser, address, project):
    names = sorted(path.name for path in (project / "build" / "smoke" / "site").glob("*.html"))
    assert len(names) >= 20
    for name in names:
        with opened(browser, address + name, viewport={"width": 390, "height": 844}) as (page, _):
            assert page.evaluate("document.documentElement.scrollWidth <= window.innerWidth"), name


def test_a_telephone_shows_claims_row_by_row_and_figures_at_a_size_to_read(browser, address):
    with opened(browser, f"{address}claims.html", viewport={"width": 390, "height": 844}) as (page, _):
        cells = page.locator("table.claims tbody tr").first.locator("td").all()
        tops = [cell.bounding_box()["y"] for cell in cells]
        assert len(cells) == 5 and tops == sorted(set(tops))  # one below the other
    with opened(browser, f"{address}03_accuracy_vs_sigma.html", viewport={"width": 390, "height": 844}) as (page, _):
        assert page.locator("figure img").first.bounding_box()["width"] > 600  # of a double column


def test_the_search_finds_reference_cells(browser, address):
    with opened(browser, f"{address}search.html?q=reference+cells") as (page, wrong):
        found = page.locator("#search-results li a")
        found.first.wait_for(timeout=10_000)
        titles = " ".join(found.all_inner_texts())
        assert wrong == [] and "Self-tuning" in titles and "Glossary" in titles


@pytest.mark.parametrize("law", panels.LAWS)
@pytest.mark.parametrize("cells", [0, 16])
def test_the_column_of_the_site_is_that_of_the_library(browser, address, law, cells):
    with opened(browser, f"{address}02_variation_and_chips.html") as (page, _):
        panel = page.locator('.companion-panel[data-kind="column"]')
        panel.get_by_label("law").select_option(law)
        panel.get_by_label("reference cells").select_option(str(cells))
        panel.get_by_label("shared part e_B").focus()
        page.keyboard.press("ArrowRight")  # 0.3 → 0.4
        _, told = panels.column_figure(0.2, 0.4, law, 64, 0.5, cells)
        assert panel.get_by_role("status").inner_text() == told.replace("-0.00", "+0.00")
        assert panel.locator("circle").count() == panels.INPUTS


def test_the_budget_of_the_site_is_that_of_the_library(browser, address):
    with opened(browser, f"{address}06_cost_of_self_tuning.html") as (page, _):
        panel = page.locator('.companion-panel[data-kind="budget"]')
        data = panel.locator("script").inner_text()
        panel.get_by_label("reading noise").focus()
        page.keyboard.press("ArrowRight")  # 0 → 0.01
        curves = json.loads(data)["curves"]
        _, told = panels.budget_figure(curves, 64, 0.15, 0.01, 0.0, 64)
        assert panel.get_by_role("status").inner_text() == told


@pytest.mark.parametrize("scheme", ["light", "dark"])
@pytest.mark.parametrize("name", ["index", "02_variation_and_chips", "05_self_tuning"])
def test_axe_finds_no_serious_violation(browser, address, name, scheme):
    from axe_playwright_python.sync_playwright import Axe

    with opened(browser, f"{address}{name}.html", color_scheme=scheme) as (page, _):
        found = Axe().run(page).response["violations"]
    serious = [v for v in found if v["impact"] in ("serious", "critical")]
    told = [f"{v['id']}: {v['help']}: {[n['html'][:160] for n in v['nodes'][:3]]}" for v in serious]
    assert not told, "\n".join(told)


def test_a_browser_is_there_where_it_is_required():
    assert CHROMIUM or not os.environ.get("ANALOG_PIM_BROWSER")
