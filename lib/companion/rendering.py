"""From notebooks to figures: papermill executes them in processes of their own, several at a time.

A notebook writes its figures to a stage; they replace the last good ones only when it has succeeded.
"""

import contextlib
import importlib.util
import json
import os
import shutil
import subprocess
import sys
import time
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path

from ..checks import RunError, StorageError
from ..data import ROOT
from ..experiments.settings import Settings
from .profiles import Profile

# the notebook that reads the figures of others, so it is rendered when they are done
PUBLISHED, READ = "07", ("03", "05")
WATCHED_PAPERMILL = Path(__file__).with_name("watched_papermill.py")
RENDERERS = ("papermill", "ipykernel", "sphinx", "myst_nb", "sphinx_book_theme", "sphinx-mathjax-offline")


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


def say(text: str = "", end: str = "\n") -> None:
    """Print at once, so that what fails fails here; exit status 141, as in a shell, where nobody reads on."""
    try:
        print(text, end=end, flush=True)
    except OSError as error:
        # else the interpreter would try again as it ends
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        if isinstance(error, BrokenPipeError):
            raise SystemExit(141) from None
        raise StorageError(f"cannot write the output ({error.strerror}); free space where it goes") from error


@contextlib.contextmanager
def explained(folder: Path) -> Iterator[None]:
    try:
        yield
    except OSError as error:
        raise StorageError(
            f"cannot write to {folder} ({error}); free space or rights there and run the same command again; "
            "nothing stored so far is lost"
        ) from error


def require_renderers() -> None:
    missing = [name for name in RENDERERS if importlib.util.find_spec(name) is None]
    if missing:
        lacking = ", ".join(missing)
        raise RunError(f"notebooks need {lacking}, not installed here; install the project: pip install -e .")


def empty_stage(chosen: Profile) -> Path:
    """The empty folder that notebooks write their figures to, within that of their pages."""
    staged = ROOT / "build" / chosen.name / "staged"
    with explained(staged.parent):
        shutil.rmtree(staged, ignore_errors=True)
        staged.mkdir(parents=True, exist_ok=True)
    return staged


def render(chosen: Profile, selected: dict[str, Path], staged: Path, settings: Settings) -> list[Outcome]:
    """Execute the notebooks, as many at a time as there are cores; the order of the report is theirs."""
    # the last chapters take longest: begun first, they leave no core idle at the end
    waiting = list(reversed(selected.values()))
    waiting.sort(key=lambda path: path.name.startswith(PUBLISHED))
    running: dict[Path, tuple[subprocess.Popen, float]] = {}
    outcomes: dict[Path, Outcome] = {}
    began, at_once = time.monotonic(), max(1, min(len(selected), settings.workers))
    try:
        while waiting or running:
            while waiting and len(running) < at_once:
                if waiting[0].name.startswith(PUBLISHED) and any(path.name.startswith(READ) for path in running):
                    break
                path = waiting.pop(0)
                running[path] = (_start(path, chosen, staged, settings), time.monotonic())
            time.sleep(0.05)
            for path, (process, since) in list(running.items()):
                if process.poll() is not None:
                    del running[path]
                    outcome = outcomes[path] = _finish(path, process.returncode, chosen, staged)
                    outcome.seconds = time.monotonic() - since
                    left = (time.monotonic() - began) / len(outcomes) * (len(selected) - len(outcomes))
                    say(f"{path.stem:32} {outcome.status:8} {outcome.seconds:5.1f} s   ETA {left:3.0f} s")
                    if outcome.error:
                        say(f"  {outcome.error}")
    finally:
        for process, _ in running.values():  # a kernel ends itself when its papermill is gone
            process.kill()
            process.wait()
    return [outcomes[path] for path in selected.values()]


def _start(path: Path, chosen: Profile, staged: Path, settings: Settings) -> subprocess.Popen:
    """papermill in a process of its own, which a Ctrl-C in the terminal does not reach.

    One thread a kernel, however many run at once: the last digits of a sum depend on it."""
    environment = os.environ | settings.but(figures=staged).environment()
    environment |= {"JUPYTER_PREFER_ENV_PATH": "1", "MPLBACKEND": "agg", "OMP_NUM_THREADS": "1"}
    # the kernel's code is this process's, whatever is installed
    environment["PYTHONPATH"] = os.pathsep.join(filter(None, (str(ROOT), os.environ.get("PYTHONPATH"))))
    command = [sys.executable, str(WATCHED_PAPERMILL), str(path), str(staged.parent / path.name)]
    # --no-request-…: it would write the whole notebook twice a cell
    command += ["--no-progress-bar", "--kernel", "python3", "--no-request-save-on-cell-execute"]
    command += ["--cwd", str(path.parent), "-p", "PROFILE", chosen.name, "-p", "SEED", str(chosen.seeds[0])]
    with explained(staged.parent), open(staged.parent / f"{path.stem}.log", "wb") as log:
        return subprocess.Popen(
            command, env=environment, stdin=subprocess.PIPE, stdout=log, stderr=log, start_new_session=True
        )


def _finish(path: Path, code: int, chosen: Profile, staged: Path) -> Outcome:
    """The outcome of an executed notebook; its figures are published if it succeeded."""
    number, executed = path.stem[:2], staged.parent / path.name
    if code:
        return Outcome(path.stem, "failed", error=_error(executed, executed.with_suffix(".log")))
    claims = _claims(staged, number)
    with explained(chosen.figures):
        return Outcome(path.stem, "ok", figures=_publish(staged, chosen, number), claims=claims)


def write(path: Path, text: str) -> None:
    with explained(path.parent):
        path.write_text(text, "utf-8", "backslashreplace")  # half a surrogate pair in a message is no reason to fail


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
