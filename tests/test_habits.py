"""Lint, format and types; the page of what one may add, as it stands."""

import re
import subprocess
import sys

from conftest import ROOT, environment


def run(*command, cwd=ROOT):
    done = subprocess.run([sys.executable, *command], cwd=cwd, env=environment(ROOT), capture_output=True, text=True)
    assert done.returncode == 0, done.stdout + done.stderr
    return done.stdout


def test_ruff_finds_nothing():
    run("-m", "ruff", "check", "--no-cache", "lib", "notebooks", "site", "tests", "benchmarks")
    run("-m", "ruff", "format", "--no-cache", "--check", "lib", "notebooks", "site", "tests", "benchmarks")


def test_the_science_is_typed(tmp_path):
    run("-m", "mypy", "--cache-dir", str(tmp_path))


def test_what_one_may_add_runs_as_it_stands(tmp_path):
    blocks = re.findall(r"```python\n(.*?)```", (ROOT / "lib" / "ADD_YOUR_OWN.md").read_text("utf-8"), re.S)
    (tmp_path / "mine.py").write_text("\n".join(blocks), "utf-8")
    printed = run("mine.py", cwd=tmp_path)
    assert printed.count("[") == 8
