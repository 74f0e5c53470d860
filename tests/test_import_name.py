"""Installed in an environment of its own, ours is `analog_pim` where the working folder holds a `lib` of the user's."""

import hashlib
import shutil
import subprocess
import sys
import sysconfig
import venv
from pathlib import Path
from typing import NamedTuple

import pytest
from conftest import ROOT, environment, replaced
from test_cluster import SCRIPT, scheduler

FOREIGN = 'raise ImportError("this lib is the user\'s")\n'


class Installed(NamedTuple):
    """This project, as some Python imports it."""

    python: Path
    package: Path
    users: Path  # where data and cache belong
    home: Path

    def run(self, folder: Path, code: str, **variables: str) -> subprocess.CompletedProcess:
        """Some code as a script of a working folder, which every process looks into first."""
        (folder / "script.py").write_text(code, "utf-8")
        own = {"HOME": str(self.home), "XDG_CACHE_HOME": str(self.home), "DASK_SCHEDULER_ADDRESS": ""}
        env, command = environment(folder) | own | variables, [self.python, "script.py"]
        return subprocess.run(command, cwd=folder, env=env, capture_output=True, text=True, timeout=200)

    def output(self, folder: Path, code: str, **variables: str) -> str:
        run = self.run(folder, code, **variables)
        assert run.returncode == 0, run.stderr
        return run.stdout


@pytest.fixture(scope="module", params=["plain", "editable"])
def installed(request, tmp_path_factory):
    """A copy of the project, installed by pip; what it depends on comes from this environment."""
    folder = tmp_path_factory.mktemp(request.param)
    env, source, home = (folder / name for name in ("env", "source", "home"))
    venv.create(env, symlinks=True)
    python, site = env / "bin" / "python", Path(sysconfig.get_path("purelib", "venv", {"base": env, "platbase": env}))
    (site / "others.pth").write_text("\n".join(path for path in sys.path if path.endswith("-packages")), "utf-8")
    shutil.copytree(ROOT / "lib", source / "lib", ignore=shutil.ignore_patterns("__pycache__"))
    for name in ("pyproject.toml", "README.md", "LICENSE"):
        shutil.copy(ROOT / name, source)
    how = ["--quiet", "--no-deps", "--no-build-isolation"]
    how += ["--ignore-installed"]  # this environment may have the project too
    what = ["--editable", source] if request.param == "editable" else [source]
    pip = [python, "-m", "pip", "install", *how, *what]
    subprocess.run(pip, env=environment(folder), check=True, capture_output=True)
    if request.param == "editable":
        return Installed(python, source / "lib", source, home)
    return Installed(python, site / "analog_pim", home, home)


@pytest.fixture
def work(tmp_path):
    """A working folder with a `lib` that nobody may import."""
    (tmp_path / "lib").mkdir()
    (tmp_path / "lib" / "__init__.py").write_text(FOREIGN, "utf-8")
    return tmp_path


def test_the_science_works_with_data_and_cache_of_the_user(installed, work):
    code = """
import torch, torchvision
import analog_pim as pim
from analog_pim.data import data_folder
from analog_pim.experiments.settings import Settings
net = pim.to_analog(torchvision.models.resnet18(num_classes=3), "A4W4", torch.randn(2, 3, 32, 32))
images = pim.Images(torch.zeros(6, 3, 32, 32, dtype=torch.uint8), torch.arange(6) % 3, (0.5,) * 3, (0.5,) * 3)
counts = pim.evaluate(net, images, pim.Variation(0.1), chips=2)
cells = sum(row.cells for row in pim.report(net))
print(pim.__file__, data_folder(), Settings.read({}).cache, cells, counts.images.sum(), sep="\\n")
"""
    where, data, cache, cells, seen = installed.output(work, code).splitlines()
    assert Path(where) == installed.package / "__init__.py" and (int(cells), int(seen)) == (11_168_448, 12)
    assert all(Path(path).is_relative_to(installed.users) for path in (data, cache))


def test_a_spawned_process_finds_it(installed, work):
    code = """
import copy, multiprocessing
from concurrent.futures import ProcessPoolExecutor
from analog_pim import Variation
if __name__ == "__main__":
    with ProcessPoolExecutor(1, multiprocessing.get_context("spawn")) as pool:
        print(pool.submit(copy.copy, Variation(0.25)).result() == Variation(0.25))
"""
    assert installed.output(work, code) == "True\n"


# what a run prints and stores: the names of its files hold each result's key and the digest of its content
STUDY = f"""{SCRIPT}
from lib.companion.within_and_between_chips import break_even
from lib.experiments import results
from lib.experiments.settings import Settings
print(results.tabulated(break_even, {{"mine": trial}}, Settings.read()).to_csv())
print(*sorted(path.name for path in Settings.read().cache.rglob("*.*")), sep="\\n")
"""


@pytest.fixture(scope="module")
def expected(tmp_path_factory):
    """What STUDY prints in this checkout, as `lib`, without worker processes."""
    folder = tmp_path_factory.mktemp("checkout")
    checkout = Installed(Path(sys.executable), ROOT / "lib", ROOT, folder)
    store = str(folder / "store")
    return checkout.output(folder, STUDY, PYTHONPATH=str(ROOT), ANALOG_PIM_CACHE=store, ANALOG_PIM_JOBS="0")


@pytest.mark.parametrize("installed,workers", [("plain", "remote"), ("editable", "local")], indirect=["installed"])
def test_dask_workers_find_it_and_results_and_keys_are_those_of_lib(installed, workers, work, expected):
    study = replaced(STUDY, "from lib", "from analog_pim")
    variables = {"ANALOG_PIM_DATA": str(ROOT / "data"), "ANALOG_PIM_CACHE": str(work / "store")}
    if workers == "local":
        assert installed.output(work, study, ANALOG_PIM_JOBS="2", **variables) == expected
        return
    with scheduler(work, n=1, python=installed.python, PYTHONPATH=str(work), **variables) as (address, _):
        assert installed.output(work, study, DASK_SCHEDULER_ADDRESS=address, **variables) == expected


KEYS = """
from dataclasses import dataclass
import lib
from lib import Variation, statistics
from lib.content import code_of
from lib.experiments.cluster import connected
from lib.estimators import ReadOnce

@dataclass(frozen=True)
class Mine(ReadOnce):
    label = "mine"
    part: Variation = Variation(0.1)

    def estimate(self, chip, variation):
        return lib.Chip(3), lib.training.fit, connected, statistics.mean, lambda: lib.analog

    def with_a_local_name(self):
        import lib.controls
        from lib.accounting import cost
        return lib.controls, cost

    def with_a_free_name(self):
        import lib.controls
        return lambda: lib.controls

keys = [code_of(lib.SelfTuning), code_of(Mine), code_of(Mine())]
"""


def test_keys_of_a_users_code_are_the_same_under_both_names(installed, work):
    space = {"__name__": "users_own"}
    exec(KEYS, space)
    stored_so_far = hashlib.sha256(b"lib.selftuning SelfTuning").hexdigest()[:16]
    assert space["keys"][0] == stored_so_far
    assert installed.output(work, replaced(KEYS, "lib", "analog_pim") + "print(*keys)").split() == space["keys"]


@pytest.mark.parametrize("first,second", [("lib", "analog_pim"), ("analog_pim", "lib")])
def test_a_second_copy_in_one_process_is_refused_in_one_line(first, second, installed, tmp_path):
    run = installed.run(tmp_path, f"import {first}.checks\nimport {second}.checks")
    said = run.stderr.strip().rpartition("\n")[2]
    assert said.startswith(f"ImportError: {second} (") and f"is in this process already, as {first} (" in said
    assert run.returncode == 1 and said.endswith("import it under one name only")


def test_a_lib_of_the_users_may_be_imported_beside_it(installed, tmp_path):
    (tmp_path / "lib.py").write_text("mine = 1", "utf-8")
    code = "import lib, analog_pim\nprint(lib.mine, analog_pim.__name__)"
    assert installed.output(tmp_path, code) == "1 analog_pim\n"
