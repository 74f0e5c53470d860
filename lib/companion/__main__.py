"""run_all: compute what the notebooks need, render them, report.   python -m lib.companion --help

Two phases.  Compute: the union of all studies through one engine with one progress bar.  Render: papermill executes the
notebooks, which find their results in the store; figures replace the last good ones only when their notebook succeeded.
"""

import argparse
import contextlib
import json
import os
import shutil
import signal
import sys
import time
import traceback
from pathlib import Path

from ..checks import InputError, RunError, StorageError, UserError
from ..data import ROOT
from ..experiments import archive, engine
from ..experiments.settings import Settings
from ..experiments.store import KINDS
from ..trials import Measurement
from . import site, studies
from .profiles import PROFILES, Profile, profile
from .published import PROTOCOLS
from .rendering import PUBLISHED, Outcome, empty_stage, explained, render, require_renderers, say, write

NOTEBOOKS = ROOT / "notebooks"


def notebooks() -> dict[str, Path]:
    """Number → path: {"00": notebooks/00_start_here.ipynb, …}."""
    return {path.name[:2]: path for path in sorted(NOTEBOOKS.glob("[0-9][0-9]_*.ipynb"))}


def main(argv: list[str] | None = None) -> int:
    """Exit status: 0 all ran and every expected claim held, 1 not so, 2 bad arguments, 130 interrupted, 141 nobody
    reads the output (SystemExit)."""
    for name in ("stdout", "stderr"):
        if (stream := getattr(sys, name)) is None:  # closed by the caller
            setattr(sys, name, open(os.devnull, "w"))  # noqa: SIM115  # open to the end
        elif hasattr(stream, "reconfigure"):  # a terminal may have no σ
            stream.reconfigure(errors="backslashreplace")
    for number in (signal.SIGTERM, signal.SIGHUP):
        if signal.getsignal(number) is not signal.SIG_IGN:  # nohup asks for that
            signal.signal(number, signal.default_int_handler)
    try:
        options = _arguments(argv)
        return _run(options)
    except SystemExit:  # --help is printed, perhaps to nobody
        with contextlib.suppress(StorageError):
            say(end="")
        raise
    except KeyboardInterrupt:
        print("\ninterrupted; the same command goes on where this one stopped", file=sys.stderr)
        return 130
    except UserError as error:
        if options.debug:
            traceback.print_exc()
        print(f"error: {error}", file=sys.stderr)
        return 2 if isinstance(error, InputError) else 1


def _arguments(argv: list[str] | None) -> argparse.Namespace:
    description = "Regenerate every figure of the companion."
    parser = argparse.ArgumentParser(prog="run_all.sh", description=description, allow_abbrev=False)
    add = parser.add_argument
    add("--profile", default="quick", help=f"scale of the run: {', '.join(PROFILES)} (default: quick)")
    add("--only", metavar="03,05", help="run these notebooks alone")
    add("--networks", metavar="A,B", help="these networks of the profile alone, e.g. lenet5-classic")
    add("--seeds", metavar="0,1", help="these training seeds of the profile alone")
    add("--jobs", metavar="N", help="worker processes here, 0 for none beside this one (default: one a core)")
    add("--scheduler", metavar="ADDRESS", help="compute on the workers of this Dask scheduler, tcp://HOST:PORT")
    add("--device", help="cpu or cuda (default: cuda where there is one)")
    add("--data-dir", metavar="DIR", help="where datasets are read from and downloaded to")
    add(
        "--dataset",
        metavar="NAME=SOURCE",
        action="append",
        help="other images in place of a profile's own, e.g. cifar100=imagefolder:PATH; may be given several times",
    )
    add("--train", action="store_true", help="train what comes trained with the project, too (data/networks)")
    add("--force", action="store_true", help="recompute what the store has for notebooks 00 to 07 and 09")
    add("--dry-run", action="store_true", help="print what would be trained and measured, with its estimated time")
    add("--list", action="store_true", help="list profiles and notebooks")
    add("--clean", action="store_true", help="delete cache/ and what runs left in build/; figures stay")
    add("--pack", metavar="FILE", help="write the stored results of the profile into one file, for a class")
    add("--unpack", metavar="FILE", help="put the results of such a file into the store")
    add("--copy-site", metavar="DIR", help="copy the site of the profile's last run into a new folder, to be served")
    add("--debug", action="store_true", help="show where an error came from, not its message alone")
    return parser.parse_args(argv)


def _run(options: argparse.Namespace) -> int:
    available = notebooks()
    if options.list:
        say("profiles:  " + " ".join(PROFILES) + "\nnotebooks: " + " ".join(p.stem for p in available.values()))
        return 0
    if not available:
        raise RunError(f"no notebooks in {NOTEBOOKS}; run this from a checkout of the project")
    settings = _settings(options)
    if options.copy_site is not None:
        say(f"copied the site to {site.copy_site(profile(options.profile), options.copy_site)}")
        return 0
    if options.clean:
        return _clean(settings)
    if options.unpack is not None:
        about = archive.unpack(options.unpack, settings)
        say(f"unpacked into {settings.cache}: results made on {about['processor']}, torch {about['torch']}")
        return 0
    chosen = profile(options.profile, settings.networks, settings.seeds, settings.datasets)
    selected = _selected(options.only, available, chosen)
    _check(chosen, selected, settings.networks)
    wanted = studies.every_measurement(chosen, selected)
    if options.dry_run:
        return _dry_run(wanted, settings)
    if options.pack is not None:
        count = archive.pack(wanted, _recorded(chosen), settings, options.pack)
        say(f"packed {count} files into {options.pack}, {Path(options.pack).stat().st_size / 1e6:.0f} MB")
        return 0
    require_renderers()  # before what takes long
    staged = empty_stage(chosen)
    if options.force:
        with explained(settings.cache):
            _forget(wanted, settings)
    began = time.monotonic()
    engine.collect(wanted, settings)
    say(f"computed in {time.monotonic() - began:.0f} s{_came_trained(wanted, settings)}")
    return _conclude(chosen, render(chosen, {number: available[number] for number in selected}, staged, settings))


def _settings(options: argparse.Namespace) -> Settings:
    """What the command line says, else the environment."""
    if options.data_dir is not None and not (options.data_dir and Path(options.data_dir).is_dir()):
        raise InputError(f"--data-dir {options.data_dir!r} is no folder; name an existing one")
    return Settings.read(
        device=options.device,
        jobs=options.jobs,
        scheduler=options.scheduler,
        data=options.data_dir,
        networks=options.networks,
        seeds=options.seeds,
        datasets=";".join(options.dataset) if options.dataset else None,
        train=options.train or None,
    )


def _came_trained(wanted: list[Measurement], settings: Settings) -> str:
    """How many networks no training here has made: an edit of its code does not show in them."""
    trials = {m.trial for m in wanted}
    shipped = sum(engine.shipped_for(trial, settings) is not None for trial in trials)
    return f"; {shipped} of {len(trials)} networks came trained (--train trains them here)" if shipped else ""


def _recorded(chosen: Profile) -> set[str]:
    """Beginnings of the keys behind the profile's figures, those that no study names included (notebook 08)."""
    records = chosen.figures.glob("*.json")
    return {key for path in records for key in json.loads(path.read_text("utf-8"))["results"]}


def _clean(settings: Settings) -> int:
    """Figures that a notebook drew in JupyterLab stay."""
    settings.store.clean()
    build = ROOT / "build"
    made = [path for path in build.glob("*") if path.name != "interactive"]
    for path in made:
        shutil.rmtree(path, ignore_errors=True) if path.is_dir() and not path.is_symlink() else path.unlink()
    for folder in (*made, *(settings.cache / kind for kind in KINDS)):
        if folder.exists():
            raise StorageError(f"cannot delete all of {folder}; delete it by hand, or change the rights there")
    say(f"removed {settings.cache} and what runs left in {build}")
    return 0


def _check(chosen: Profile, selected: list[str], networks: str | None) -> None:
    """Networks without anything to compute are refused."""
    lacking = [number for number in selected if number < PUBLISHED and not chosen.settings]
    if lacking:
        needed = f"which notebook {lacking[0]} needs; use --only {PUBLISHED}"
        raise InputError(f"profile {chosen.name!r} has no setting for {networks!r}, {needed}")
    if selected == [PUBLISHED] and PROFILES[chosen.name].published and not chosen.published:
        repeated = ", ".join(sorted({how.network for how in PROTOCOLS.values()}))
        allowed = f"allowed with --only {PUBLISHED}: {repeated}"
        raise InputError(f"no published figure is repeated with {networks!r}; {allowed}")


def _forget(wanted: list[Measurement], settings: Settings) -> None:
    """Counts first: their keys hold the networks' content."""
    for key in {engine.measurement_key(m, settings) for m in wanted} - {None}:
        settings.store.discard(key)
    for trial in {m.trial for m in wanted}:
        settings.store.discard(engine.trial_key(trial, settings))
    settings.store.discard_tables()  # they stand on the trainings and take seconds


def _selected(only: str | None, available: dict[str, Path], chosen: Profile) -> list[str]:
    if only is None:
        return [number for number in available if chosen.notebooks is None or number in chosen.notebooks]
    names = [part.strip() for part in only.split(",")]
    for name in names:
        if name not in available:
            raise InputError(f"unknown notebook {name!r}; allowed: {', '.join(available)}")
    return [number for number in available if number in names]


def _dry_run(wanted: list[Measurement], settings: Settings) -> int:
    work = engine.missing(wanted, settings)
    for trial in work.trials:
        hours = engine.Work([trial], []).seconds(settings.device) / 3600
        say(f"train    {trial.label:60} seed {trial.seed}   {hours:8.3f} h")
    for m, chips in work.measurements:
        hours = engine.Work([], [(m, chips)]).seconds(settings.device) / 3600
        say(f"measure  {m.label:90} {len(chips):5} chips {hours:8.3f} h")
    hours = work.seconds(settings.device) / 3600
    todo = f"{len(work.trials)} trainings and {len(work.measurements)} measurements to do"
    say(f"{todo}, about {hours:.2f} h of one core here")
    return 0


def _conclude(chosen: Profile, outcomes: list[Outcome]) -> int:
    """Summary and site, then what is in them in print: a terminal that goes away takes none of them with it."""
    summary = {"profile": chosen.name, "notebooks": [vars(o) for o in outcomes]}
    write(ROOT / "build" / chosen.name / "summary.json", json.dumps(summary, indent=1, ensure_ascii=False) + "\n")
    began = time.monotonic()
    try:
        page = site.build_site(chosen)
        took = time.monotonic() - began
    finally:
        status = _report(chosen, outcomes)
    say(f"site: {os.path.relpath(page)}   ({took:.0f} s)")
    return status


def _report(chosen: Profile, outcomes: list[Outcome]) -> int:
    """1 where not all is well."""
    say(f"\n{'':60} claims that hold\n{'notebook':32} {'status':8} {'time':>8} {'figures':>8}  {'expected':9} reported")
    for o in outcomes:
        holds = ([c["verdict"] == "holds" for c in o.claims if c["expected"] is of] for of in (True, False))
        expected, reported = (f"{sum(some)} of {len(some)}" if some else "–" for some in holds)
        say(f"{o.name:32} {o.status:8} {o.seconds:6.1f} s {o.figures:8}  {expected:9} {reported}")
    for c in (c for o in outcomes for c in o.claims if c["expected"] and c["verdict"] != "holds"):
        value, low, high = ("–" if c[k] is None else f"{c[k]:.2f}" for k in ("value", "low", "high"))
        found = f"{value} [{low}, {high}] {c['unit']}, required {c['requirement']}: {c['verdict']}"
        say(f"expected, but {c['statement']}: {found} ({c['point']}, {c['n']} {c['of']})")
    if not any(c["expected"] for o in outcomes for c in o.claims):
        say("none of these claims is expected to hold: they are reported as found (in `smoke`, at toy size)")
    where = f"build/{chosen.name}"
    say(f"\nfigures: {os.path.relpath(chosen.figures)}/   notebooks, logs: {where}/   summary: {where}/summary.json")
    if all(o.good for o in outcomes):
        return 0
    print("not all is well: " + ", ".join(o.name for o in outcomes if not o.good), file=sys.stderr)
    return 1


if __name__ == "__main__":
    sys.exit(main())
