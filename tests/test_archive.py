"""The stored results of a profile as one file: everything is found again, on a processor of another type too."""

import io
import json
import tarfile

import pytest

from lib import precision, sources
from lib.checks import InputError, RunError
from lib.companion import studies
from lib.companion.profiles import profile
from lib.experiments import archive, engine, keys
from lib.experiments.settings import Settings
from lib.experiments.store import MANIFEST


@pytest.fixture
def made(smoke, project, tmp_path):
    """(archive, measurements) of the smoke run."""
    wanted = studies.every_measurement(profile("smoke"), ["00", "03"])
    path = tmp_path / "results.tar.gz"
    assert archive.pack(wanted, [], Settings(cache=project / "cache"), path) > 20
    return path, wanted


@pytest.fixture
def elsewhere(monkeypatch):
    """A processor that multiplies bfloat16 if this one does not, and the other way round."""
    here = precision.multiplies_bfloat16()
    monkeypatch.setattr(precision, "multiplies_bfloat16", lambda: not here)
    keys._best.cache_clear()
    yield
    keys._best.cache_clear()


def work(wanted, settings) -> int:
    found = engine.missing(wanted, settings)
    return len(found.trials) + len(found.measurements)


def test_everything_is_found_again(made, tmp_path):
    path, wanted = made
    settings = Settings(cache=tmp_path / "cache")
    assert work(wanted, settings) > 20
    about = archive.unpack(path, settings)
    assert work(wanted, settings) == 0 and about["torch"] and about["processor"]


def test_on_another_type_of_processor_too(made, tmp_path, elsewhere):
    path, wanted = made
    settings = Settings(cache=tmp_path / "cache")
    archive.unpack(path, settings)
    assert work(wanted, settings) == 0
    (settings.cache / MANIFEST).unlink()
    assert work(wanted, settings) > 0, "the other processor has other keys: else this test shows nothing"


def test_other_code_is_not_answered_for(made, tmp_path, monkeypatch, elsewhere):
    path, wanted = made
    settings = Settings(cache=tmp_path / "cache")
    archive.unpack(path, settings)
    about = json.loads((settings.cache / MANIFEST).read_text("utf-8"))
    (settings.cache / MANIFEST).write_text(json.dumps(about | {"sources": "of another version"}))
    assert work(wanted, settings) > 0
    monkeypatch.setitem(sources.SOURCES, "evaluation", "changed = True")
    with pytest.raises(InputError, match="holds results of another version of the code"):
        archive.unpack(path, settings)


def test_the_same_store_gives_the_same_bytes(made, project, tmp_path):
    path, wanted = made
    archive.pack(wanted, [], Settings(cache=project / "cache"), tmp_path / "again.tar.gz")
    assert (tmp_path / "again.tar.gz").read_bytes() == path.read_bytes()


def test_clean_forgets_it(made, tmp_path):
    settings = Settings(cache=tmp_path / "cache")
    archive.unpack(made[0], settings)
    settings.store.clean()
    assert not settings.cache.exists()


def test_what_is_no_archive_is_refused_in_a_line(tmp_path):
    settings = Settings(cache=tmp_path / "cache")
    (tmp_path / "text").write_text("no archive")
    for name in ("text", "missing"):
        with pytest.raises(InputError, match="is no archive of results"):
            archive.unpack(tmp_path / name, settings)
    about = json.dumps({"sources": sources.source_digest(sources.MEASURING_SOURCES), "precisions": {}}).encode()
    with tarfile.open(tmp_path / "more", "w") as file:
        for name in (MANIFEST, "../elsewhere"):
            entry = tarfile.TarInfo(name)
            entry.size = len(about)
            file.addfile(entry, io.BytesIO(about))
    with pytest.raises(InputError, match="holds more than results"):
        archive.unpack(tmp_path / "more", settings)


def test_an_incomplete_store_is_not_packed(tmp_path):
    wanted = studies.every_measurement(profile("smoke"), ["00"])
    with pytest.raises(RunError, match=r"the store lacks \d+ trainings and \d+ measurements; run ./run_all.sh"):
        archive.pack(wanted, [], Settings(cache=tmp_path), tmp_path / "results.tar.gz")
