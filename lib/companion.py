"""run_all: compute what the notebooks need, render them, report.   python -m lib.companion --help

Two phases.  Compute: the union of all studies through one engine with one progress bar.  Render: papermill executes the
notebooks, which find their results in the store; figures replace the last good ones only when their notebook succeeded.
"""

from __future__ import annotations

import argparse
import contextlib
import html
import json
import os
import shutil
import signal
import subprocess
import sys
import time
from dataclasses import dataclass, field
from pathlib import Path

from . import cluster, engine, studies
from .data import DATA_VARIABLE, ROOT
from .profiles import NETWORKS_VARIABLE, PROFILES, SEEDS_VARIABLE, Profile, profile
from .published import PROTOCOLS
from .store import Store

NOTEBOOKS = ROOT / "notebooks"
PUBLISHED, READ = "07", ("03", "05")  # the notebook that reads the figures of others, so it is rendered when they are done
# papermill that ends itself when the run is gone, however it went: only the run holds the other end of its input
WATCHED_PAPERMILL = """
import os, sys, threading
threading.Thread(target=lambda: (sys.stdin.read(), os._exit(1)), daemon=True).start()
from papermill.cli import papermill
papermill()
"""
CAUGHT = (ValueError, RuntimeError, OSError, FloatingPointError)  # what a user can act on: one line, no traceback


@dataclass
class Outcome:
    """What became of one notebook."""

    name: str
    status: str
    seconds: float = 0.0
    figures: int = 0
    claims: list[dict] = field(default_factory=list)
    error: str = ""

    @property
    def good(self) -> bool:
        return self.status == "ok" and all(c["verdict"] == "holds" for c in self.claims if c["expected"])


def notebooks() -> dict[str, Path]:
    """Number → path: {"00": notebooks/00_start_here.ipynb, …}."""
    return {path.name[:2]: path for path in sorted(NOTEBOOKS.glob("[0-9][0-9]_*.ipynb"))}


def main(argv: list[str] | None = None) -> int:
    """Exit status: 0 all ran and every expected claim held, 1 not so, 2 bad arguments, 130 interrupted."""
    options = _arguments(argv)
    for number in (signal.SIGTERM, signal.SIGHUP):
        signal.signal(number, lambda *_: (_ for _ in ()).throw(KeyboardInterrupt))
    try:
        return _run(options)
    except KeyboardInterrupt:
        print("\ninterrupted; the same command goes on where this one stopped", file=sys.stderr)
        return 130
    except CAUGHT as error:
        print(f"error: {error}", file=sys.stderr)
        return 2 if isinstance(error, ValueError) else 1


def _arguments(argv: list[str] | None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(prog="run_all.sh", description="Regenerate every figure of the companion.", allow_abbrev=False)
    parser.add_argument("--profile", default="quick", help=f"scale of the run: {', '.join(PROFILES)} (default: quick)")
    parser.add_argument("--only", metavar="03,05", help="run these notebooks alone")
    parser.add_argument("--networks", metavar="A,B", help="these networks of the profile alone, e.g. lenet5-classic")
    parser.add_argument("--seeds", metavar="0,1", help="these training seeds of the profile alone")
    parser.add_argument("--jobs", metavar="N", help="worker processes of this machine, 0 for none beside this one (default: one a core)")
    parser.add_argument("--scheduler", metavar="ADDRESS", help="compute on the workers of this Dask scheduler, tcp://HOST:PORT")
    parser.add_argument("--device", help="cpu or cuda (default: cuda where there is one)")
    parser.add_argument("--data-dir", metavar="DIR", help="where datasets are read from and downloaded to")
    parser.add_argument("--force", action="store_true", help="recompute results that the store already has")
    parser.add_argument("--dry-run", action="store_true", help="print what would be trained and measured, with its estimated time")
    parser.add_argument("--list", action="store_true", help="list profiles and notebooks")
    parser.add_argument("--clean", action="store_true", help="delete cache/ and build/; figures stay")
    return parser.parse_args(argv)


def _run(options: argparse.Namespace) -> int:
    available = notebooks()
    if options.list:
        print("profiles:  " + " ".join(PROFILES) + "\nnotebooks: " + " ".join(p.stem for p in available.values()))
        return 0
    if options.clean:
        Store().clean()
        shutil.rmtree(ROOT / "build", ignore_errors=True)
        print(f"removed {Store().folder} and {ROOT / 'build'}")
        return 0
    chosen = profile(options.profile, options.networks, options.seeds)
    if options.device:
        os.environ[engine.DEVICE_VARIABLE] = str(engine.device(options.device))
    engine.device()
    if options.jobs is not None:
        os.environ[cluster.JOBS_VARIABLE] = str(cluster.jobs(options.jobs))
    if options.scheduler:
        os.environ[cluster.SCHEDULER_VARIABLE] = options.scheduler
    if options.data_dir:
        if not Path(options.data_dir).is_dir():
            raise ValueError(f"--data-dir {options.data_dir!r} is no folder; name an existing one")
        os.environ[DATA_VARIABLE] = str(Path(options.data_dir).resolve())
    selected = _selected(options.only, available)
    networks = options.networks or os.environ.get(NETWORKS_VARIABLE)
    if not chosen.settings and (lacking := [number for number in selected if number < PUBLISHED]):
        raise ValueError(f"profile {chosen.name!r} has no setting for {networks!r}, which notebook {lacking[0]} needs; use --only {PUBLISHED}")
    if selected == [PUBLISHED] and PROFILES[chosen.name].published and not chosen.published:
        repeated = ", ".join(sorted({how.network for how in PROTOCOLS.values()}))
        raise ValueError(f"no published figure is repeated with {networks!r}; allowed with --only {PUBLISHED}: {repeated}")
    if options.networks:
        os.environ[NETWORKS_VARIABLE] = options.networks
    if options.seeds:
        os.environ[SEEDS_VARIABLE] = options.seeds
    wanted = [m for seed in chosen.seeds for m in studies.every_measurement(chosen, selected, seed)]
    store = Store()
    if options.dry_run:
        return _dry_run(wanted, store)
    if options.force:
        for m in wanted:
            store.discard(engine.measurement_key(m))
            store.discard(engine.trial_key(m.trial))
        store.discard_tables()  # they stand on the trainings and take seconds
    began = time.monotonic()
    engine.collect(wanted, store)
    print(f"computed in {time.monotonic() - began:.0f} s", flush=True)
    outcomes = _render_all(chosen, {number: available[number] for number in selected})
    return _report(chosen, outcomes)


def _selected(only: str | None, available: dict[str, Path]) -> list[str]:
    if only is None:
        return list(available)
    names = [part.strip() for part in only.split(",")]
    for name in names:
        if name not in available:
            raise ValueError(f"unknown notebook {name!r}; allowed: {', '.join(available)}")
    return [number for number in available if number in names]


def _dry_run(wanted: list, store: Store) -> int:
    work = engine.missing(wanted, store)
    for trial in work.trials:
        hours = engine.seconds(engine.Work([trial], [])) / 3600
        print(f"train    {trial.label:60} seed {trial.seed}   {hours:8.3f} h")
    for m, chips in work.measurements:
        hours = engine.seconds(engine.Work([], [(m, chips)])) / 3600
        print(f"measure  {m.label:90} {len(chips):5} chips {hours:8.3f} h")
    hours = engine.seconds(work) / 3600
    print(f"{len(work.trials)} trainings and {len(work.measurements)} measurements to do, about {hours:.2f} h of one core here")
    return 0


def _render_all(chosen: Profile, selected: dict[str, Path]) -> list[Outcome]:
    """Execute the notebooks, as many at a time as there are cores; the order of the report is theirs."""
    build = ROOT / "build" / chosen.name
    staged = build / "staged"
    shutil.rmtree(staged, ignore_errors=True)
    staged.mkdir(parents=True)
    # the last chapters take longest: begun first, they leave no core idle at the end
    waiting = sorted(reversed(selected.values()), key=lambda path: path.name.startswith(PUBLISHED))
    running, outcomes, began = {}, {}, time.monotonic()
    at_once = max(1, min(len(selected), cluster.jobs()))
    try:
        while waiting or running:
            while waiting and len(running) < at_once:
                if waiting[0].name.startswith(PUBLISHED) and any(path.name.startswith(READ) for path in running):
                    break
                path = waiting.pop(0)
                running[path] = (_start(path, chosen, build, staged, at_once), time.monotonic())
            time.sleep(0.05)
            for path, (process, since) in list(running.items()):
                if process.poll() is not None:
                    del running[path]
                    outcome = outcomes[path] = _finish(path, process.returncode, chosen, build, staged)
                    outcome.seconds = time.monotonic() - since
                    left = (time.monotonic() - began) / len(outcomes) * (len(selected) - len(outcomes))
                    print(f"{path.stem:32} {outcome.status:8} {outcome.seconds:5.1f} s   ETA {left:3.0f} s", flush=True)
                    if outcome.error:
                        print(f"  {outcome.error}", flush=True)
    finally:
        for process, _ in running.values():  # a kernel ends itself when its papermill is gone
            process.kill()
            process.wait()
    return [outcomes[path] for path in selected.values()]


def _start(path: Path, chosen: Profile, build: Path, staged: Path, at_once: int) -> subprocess.Popen:
    """papermill in a process of its own, which a Ctrl-C in the terminal does not reach."""
    threads = str(max(1, (os.cpu_count() or 1) // at_once))
    environment = os.environ | {
        "ANALOG_PIM_FIGURES": str(staged), "JUPYTER_PREFER_ENV_PATH": "1", "MPLBACKEND": "agg", "OMP_NUM_THREADS": threads,
    }  # fmt: skip
    command = [sys.executable, "-c", WATCHED_PAPERMILL, str(path), str(build / path.name), "--no-progress-bar", "--kernel", "python3"]
    command.append("--no-request-save-on-cell-execute")  # it would write the whole notebook twice a cell
    with open(build / f"{path.stem}.log", "wb") as log:
        return subprocess.Popen(
            [*command, "--cwd", str(NOTEBOOKS), "-p", "PROFILE", chosen.name],
            env=environment, stdin=subprocess.PIPE, stdout=log, stderr=log, start_new_session=True,
        )  # fmt: skip


def _finish(path: Path, code: int, chosen: Profile, build: Path, staged: Path) -> Outcome:
    """The outcome of an executed notebook; its page, and its figures published if it succeeded."""
    number, executed = path.stem[:2], build / path.name
    if code:
        return Outcome(path.stem, "failed", error=_error(executed, build / f"{path.stem}.log"))
    from nbconvert import HTMLExporter

    body, _ = HTMLExporter().from_filename(str(executed))
    executed.with_suffix(".html").write_text(body, encoding="utf-8")
    claims = _claims(staged, number)
    return Outcome(path.stem, "ok", figures=_publish(staged, chosen, number), claims=claims)


def _error(executed: Path, log: Path) -> str:
    """The exception that a notebook raised, in one line; else the last line of its log."""
    with contextlib.suppress(OSError, ValueError):
        for cell in json.loads(executed.read_text("utf-8"))["cells"]:
            for output in cell.get("outputs", []):
                if output["output_type"] == "error":
                    return " ".join(f"{output['ename']}: {output['evalue']}".split())[:300]
    lines = log.read_text("utf-8", errors="replace").strip().splitlines()
    return lines[-1][:300] if lines else "papermill ended without a word"


def _claims(staged: Path, number: str) -> list[dict]:
    """The claims of a notebook's figures, each once."""
    found = {}
    for record in sorted(staged.glob(f"{number}_*.json")):
        for claim in json.loads(record.read_text("utf-8"))["claims"]:
            found[claim["statement"], claim["point"]] = claim
    return list(found.values())


def _publish(staged: Path, chosen: Profile, number: str) -> int:
    """Move a notebook's figures over the last good ones, file by file."""
    target = chosen.figures
    target.mkdir(parents=True, exist_ok=True)
    fresh = sorted(staged.glob(f"{number}_*"))
    for path in fresh:
        os.replace(path, target / path.name)
    for stale in target.glob(f"{number}_*"):
        if stale.name not in {path.name for path in fresh}:
            stale.unlink()
    return sum(path.suffix == ".png" for path in fresh)


def _report(chosen: Profile, outcomes: list[Outcome]) -> int:
    build = ROOT / "build" / chosen.name
    print(f"\n{'notebook':32} {'status':8} {'time':>8} {'figures':>8}  claims")
    for o in outcomes:
        held = sum(c["verdict"] == "holds" for c in o.claims)
        print(f"{o.name:32} {o.status:8} {o.seconds:6.1f} s {o.figures:8}  {f'{held} of {len(o.claims)} hold' if o.claims else '–'}")
    for o in outcomes:
        for c in o.claims:
            mark = "expected" if c["expected"] else "reported"
            value, low, high = ("–" if c[k] is None else f"{c[k]:.2f}" for k in ("value", "low", "high"))
            print(f"  {c['verdict']:14} {mark}: {c['statement']}: {value} [{low}, {high}] ({c['point']}, {c['n']} {c['of']})")
    summary = {"profile": chosen.name, "notebooks": [vars(o) for o in outcomes]}
    (build / "summary.json").write_text(json.dumps(summary, indent=1, ensure_ascii=False) + "\n", "utf-8")
    rows = "".join(
        f"<li><a href='{o.name}.html'>{html.escape(o.name)}</a> ({o.status}; <a href='{o.name}.log'>log</a>)</li>" for o in outcomes
    )
    page = f"<!doctype html><html lang='en'><meta charset='utf-8'><title>{chosen.name}</title><h1>Notebooks, profile {chosen.name}</h1><ul>{rows}</ul></html>"
    (build / "index.html").write_text(page, encoding="utf-8")
    print(f"\nfigures: {os.path.relpath(chosen.figures)}/   pages: build/{chosen.name}/index.html   summary: build/{chosen.name}/summary.json")
    if all(o.good for o in outcomes):
        return 0
    print("not all is well: " + ", ".join(o.name for o in outcomes if not o.good), file=sys.stderr)
    return 1


if __name__ == "__main__":
    sys.exit(main())
