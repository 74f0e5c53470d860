"""The site: Sphinx with MyST-NB builds it from the executed notebooks of a profile, offline.

`site/` holds what is written by hand (glossary, lab sheet, style, panels); front page, gallery, claims and provenance
are made here from the records beside the figures.
"""

import json
import math
import os
import shutil
import subprocess
import sys
from pathlib import Path

import pandas as pd

from ..checks import InputError, RunError
from ..data import ROOT
from . import paper_versus_ours
from .claims import measured, origin
from .profiles import Profile
from .published import abstract
from .rendering import explained

PAGES = ROOT / "site"
STATIC = ("style.css", "panels.js", "favicon.svg")
AXIS = "05_axis"  # the figure of the front page
# what a cell has that only plots
DRAWS = (
    "figures.panels(",
    "figures.case_panels(",
    "figures.case_bars(",
    "figures.wrapped(",
    "diagrams.",
    "panels.",
    "chip_explorer.",
)

ANSWERED = "quick"  # the profile whose numbers the answers give
OTHER = (
    "\n\n```{note}\nFigures, titles and claims are of this run. Numbers in the text and in the answers are of profile "
    f"`{ANSWERED}`, except where they name another.\n```\n"
)


def folder(chosen: Profile) -> Path:
    """Where the site of a profile lies."""
    return ROOT / "build" / chosen.name / "site"


def build_site(chosen: Profile) -> Path:
    """Build the site of all executed notebooks of a profile and return its front page; the log lies beside it.

    Raises RunError (its log's last line) where Sphinx fails."""
    build, out = ROOT / "build" / chosen.name, folder(chosen)
    pages = gather(chosen, build / "site-source")
    shutil.rmtree(out, ignore_errors=True)
    command = [sys.executable, "-m", "sphinx", "-b", "html", "-q", "--keep-going", "-d", str(build / "site-doctrees")]
    log = build / "site.log"
    with open(log, "wb") as file:
        command += [str(pages), str(out)]
        done = subprocess.run(command, stdout=file, stderr=file, env=os.environ | {"PYTHONWARNINGS": "ignore"})
    if done.returncode:
        said = [line.strip() for line in log.read_text("utf-8", "replace").splitlines() if "rror: " in line]
        last = said[-1] if said else "Sphinx ended without a word"
        raise RunError(f"the site could not be built: {last[:300]}; full log: {log}")
    return out / "index.html"


def copy_site(chosen: Profile, target: str) -> Path:
    """Copy the built site into a folder that does not exist yet, or is empty.

    Raises InputError where something is there, RunError where no site has been built."""
    path = Path(target)
    if not target or path.is_file() or (path.is_dir() and any(path.iterdir())):
        raise InputError(f"--copy-site {target!r} is no new or empty folder; name one")
    if not (folder(chosen) / "index.html").exists():
        raise RunError(f"no site of profile {chosen.name!r} is built; run ./run_all.sh --profile {chosen.name} first")
    with explained(path):
        return Path(shutil.copytree(folder(chosen), path, dirs_exist_ok=True))


def gather(chosen: Profile, target: Path) -> Path:
    """Write the sources of the site into `target`: executed notebooks, pages by hand, pages from the records."""
    shutil.rmtree(target, ignore_errors=True)
    (target / "_static").mkdir(parents=True)
    for name in STATIC:
        shutil.copy(PAGES / name, target / "_static")
    for path in (PAGES / "conf.py", *PAGES.glob("*.md")):
        shutil.copy(path, target)
    shutil.copytree(ROOT / "notebooks" / "solutions", target / "solutions")
    names = []
    for path in sorted((ROOT / "build" / chosen.name).glob("[0-9][0-9]_*.ipynb")):
        # in JupyterLab the glossary lies beside the notebooks' folder, here beside the pages
        notebook = json.loads(path.read_text("utf-8").replace("(../site/glossary.md#", "(glossary.md#"))
        if not _failed(notebook):
            if chosen.name != ANSWERED:
                notebook["cells"][0]["source"] = "".join(notebook["cells"][0]["source"]) + OTHER
            (target / path.name).write_text(json.dumps(folded(notebook)), "utf-8")
            names.append(path.stem)
    records = [json.loads(path.read_text("utf-8")) for path in sorted(chosen.figures.glob("[0-9][0-9]_*.json"))]
    records = [record for record in records if _notebook(record, names)]
    (target / "figures").mkdir()
    for record in records:
        for kind in ("png", "pdf", "csv"):
            shutil.copy(chosen.figures / f"{record['figure']}.{kind}", target / "figures")
    made = {
        "index": front(chosen, names, records),
        "gallery": gallery(names, records),
        "claims": claims(names, records),
    }
    made["provenance"] = provenance(chosen, names, records)
    for name, text in made.items():
        (target / f"{name}.md").write_text(text, "utf-8")
    return target


def _failed(notebook: dict) -> bool:
    outputs = [o for c in notebook["cells"] for o in c.get("outputs", [])]
    return not outputs or any(o["output_type"] == "error" for o in outputs)


def folded(notebook: dict) -> dict:
    """The notebook with the code folded that only plots, or sets it up: a click opens it.  Its own parameters give way
    to those of the run, which papermill has put into the cell after them."""
    for cell in notebook["cells"]:
        source, tags = "".join(cell["source"]), cell["metadata"].setdefault("tags", [])
        if cell["cell_type"] == "code" and any(name in source for name in DRAWS):
            tags.append("hide-input")
        if "parameters" in tags:
            tags.append("remove-cell")
    return notebook


def _notebook(record: dict, names: list[str]) -> str | None:
    return next((name for name in names if name[:2] == record["figure"][:2]), None)


def front(chosen: Profile, names: list[str], records: list[dict]) -> str:
    """The front page: what it is, the one axis, the three claims, the contents."""
    parts = [(PAGES / "front.txt").read_text("utf-8").replace("PROFILE", chosen.name)]
    axis = next((record for record in records if record["figure"] == AXIS), None)
    if axis:
        parts.append(_figure(axis, f"{_notebook(axis, names)}.html"))
    sources = paper_versus_ours.answering(chosen.name)
    rows = pd.concat(map(paper_versus_ours.three_claims, sources), ignore_index=True)
    judged = paper_versus_ours.statement_claims(rows, abstract()["loss with self-tuning, below (points)"])
    parts.append(
        "## The paper's three claims\n\nAs the committed figures have them (profile "
        f"{', '.join(f'`{name}`' for name in sources)}); intervals of 95%.\n"
    )
    found = [_measured(vars(c.estimate) | {"unit": c.unit}) for c in judged]
    shown = [(c.statement, c.point, text, f"{c.requirement}: {c.verdict}") for c, text in zip(judged, found)]
    parts.append(_claims(("statement", "where", "measured", "required: verdict"), shown))
    contents = "\n".join(names)
    parts.append(f"```{{toctree}}\n:caption: The course\n:maxdepth: 1\n\n{contents}\n```\n")
    more = "results\ngallery\nclaims\nprovenance\nglossary\nlab_sheet\nusing\nmachines"
    parts.append(f"```{{toctree}}\n:caption: At a glance\n:maxdepth: 1\n\n{more}\n```\n")
    return "\n".join(parts)


def gallery(names: list[str], records: list[dict]) -> str:
    """Every figure, small, with links to its notebook, its PDF and its numbers."""
    parts = ["# Gallery\n\nEvery figure of this run; a click leads to its notebook.\n"]
    for name in names:
        own = [record for record in records if _notebook(record, names) == name]
        if own:
            parts.append(f"## {name.replace('_', ' ')}\n")
        for record in own:
            figure = record["figure"]
            links = f"[PDF](figures/{figure}.pdf), [numbers (CSV)](figures/{figure}.csv)"
            parts.append(_figure(record, f"{name}.html") + f"\n`{figure}`: {links}\n")
    return "\n".join(parts)


def claims(names: list[str], records: list[dict]) -> str:
    """Every claim with its verdict, notebook by notebook."""
    parts = ["# Every claim\n"]
    parts.append(
        "*Expected* claims held in the rehearsal, on validation images and chips; the run fails if one does not hold.\n"
    )
    head = ("verdict", "claim", "where", "measured [95%]", "from")
    for name in names:
        found = {}
        for record in records:
            if _notebook(record, names) == name:
                found |= {(c["statement"], c["point"]): c for c in record["claims"]}
        rows = [
            (
                c["verdict"] + (" (expected)" if c["expected"] else ""),
                f"{c['statement']}: required {c['requirement']}",
                c["point"],
                _measured(c),
                origin(c["n"], c["of"], c["in_seeds"], c["seeds"]),
            )
            for c in found.values()
        ]
        if rows:
            parts.append(f"## {name.replace('_', ' ')}\n\nFrom [{name}]({name}.ipynb).\n\n{_claims(head, rows)}")
    return "\n".join(parts)


def provenance(chosen: Profile, names: list[str], records: list[dict]) -> str:
    """What every figure stands on: sources, results, data, seeds, versions."""
    summary = json.loads((ROOT / "build" / chosen.name / "summary.json").read_text("utf-8"))
    parts = [f"# Provenance\n\nProfile `{chosen.name}`. The same is in the JSON file beside every figure.\n"]
    ran = [(n["name"], n["status"], f"{n['seconds']:.0f} s", n["figures"]) for n in summary["notebooks"]]
    parts.append("## The last run\n\n" + _table(("notebook", "status", "time", "figures"), ran))
    rows = []
    for r in records:
        data = r["dataset"]["name"] if r["dataset"] else "–"
        seeds = " ".join(map(str, r["seeds"])) or "–"
        results = f"{len(r['results'])}, first {r['results'][0]}" if r["results"] else "none"
        rows.append((r["figure"], r["sources"][:12], data, seeds, results, r["device"], r["png"][:12]))
    head = ("figure", "sources (SHA-256)", "images", "seeds", "stored results", "device", "picture (SHA-256)")
    parts.append("## Figures\n\n" + _table(head, rows))
    versions = {(*sorted(r["packages"].items()), ("python", r["python"])) for r in records}
    for packages in sorted(versions):
        parts.append("## Versions\n\n" if len(versions) == 1 else "## Versions of some figures\n\n")
        parts.append(_table(("package", "version"), packages))
    return "\n".join(parts)


def _measured(c: dict) -> str:
    value, low, high = (math.nan if c[name] is None else c[name] for name in ("value", "low", "high"))
    return measured(value, low, high, c["unit"])


def _figure(record: dict, target: str) -> str:
    alt = " ".join(record["alt"].split())
    options = f":alt: {alt}\n:target: {target}\n"
    return f"```{{figure}} figures/{record['figure']}.png\n{options}\n{record['caption']}\n```\n"


def _claims(head: tuple, rows) -> str:
    """A table that a narrow screen shows row by row."""
    return f"```{{table}}\n:class: claims\n\n{_table(head, rows)}```\n"


def _table(head: tuple, rows) -> str:
    def line(cells) -> str:
        return "| " + " | ".join(str(cell).replace("|", "\\|").replace("$", "\\$") for cell in cells) + " |"

    return "\n".join([line(head), line(["---"] * len(head)), *map(line, rows)]) + "\n"
