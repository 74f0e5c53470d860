"""What a notebook costs beyond its kernel when all its results are stored:   python -m benchmarks.warm [PROFILE]

Every notebook is executed alone by papermill, as run_all does, after and before a notebook that only imports torch; the
difference is what tables, claims and figures take.
"""

from __future__ import annotations

import os
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import nbformat

from lib.companion.__main__ import NOTEBOOKS, notebooks
from lib.companion.profiles import profile


def seconds(path: Path, name: str, folder: Path) -> float:
    options = ["--no-progress-bar", "--kernel", "python3", "--no-request-save-on-cell-execute"]
    command = [sys.executable, "-m", "papermill", str(path), str(folder / "out.ipynb"), *options]
    command += ["--cwd", str(NOTEBOOKS), "-p", "PROFILE", name]
    environment = os.environ | {"ANALOG_PIM_FIGURES": str(folder), "JUPYTER_PREFER_ENV_PATH": "1", "MPLBACKEND": "agg"}
    began = time.perf_counter()
    subprocess.run(command, env=environment, check=True, capture_output=True)
    return time.perf_counter() - began


def main(name: str = "quick") -> None:
    profile(name)
    with tempfile.TemporaryDirectory() as folder:
        bare = Path(folder, "bare.ipynb")
        cell = nbformat.v4.new_code_cell("import torch\nPROFILE = ''", metadata={"tags": ["parameters"]})
        kernel = {"name": "python3", "display_name": "Python 3", "language": "python"}
        about = {"kernelspec": kernel, "language_info": {"name": "python"}}
        nbformat.write(nbformat.v4.new_notebook(cells=[cell], metadata=about), bare)
        seconds(bare, name, Path(folder))  # warms the disk
        for path in notebooks().values():
            own = seconds(path, name, Path(folder))
            base = seconds(bare, name, Path(folder))
            beyond = f"kernel and torch {base:4.1f} s, difference {own - base:4.1f} s"
            print(f"{path.stem:32} {own:5.1f} s, {beyond}", flush=True)


if __name__ == "__main__":
    main(*sys.argv[1:])
