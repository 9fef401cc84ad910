"""What is wrong with a request is said in one line, with the place and the remedy, and nothing is left behind."""

import os
import subprocess
import sys
from concurrent.futures import ThreadPoolExecutor

import numpy as np
import pytest
from helpers import (
    CATALOG,
    SMALL,
    changed_catalog,
    contents,
    options,
    refused,
    refuses,
    state,
    write_catalog,
    write_scenes,
)

from geomae.errors import BandMismatchError, CatalogError, CheckpointError, ConfigError, GeomaeError, StorageError
from geomae.rasters import write_cog
from geomae.workflows.pretrain import run
from geomae.workflows.pretrain_job import Request
from geomae.workflows.run_folder import RunFolder


@pytest.fixture
def work(tmp_path, monkeypatch):
    """A folder with scenes and no catalogue yet, which is the current folder."""
    write_scenes(tmp_path / "scenes", scenes=2, side=32)
    monkeypatch.chdir(tmp_path)
    return tmp_path


@pytest.fixture(scope="module")
def finished(tmp_path_factory, tracking_uri):
    """A finished run of two steps on a catalogue of its own, in `run` beside the catalogue."""
    folder = tmp_path_factory.mktemp("finished")
    write_scenes(folder / "scenes", scenes=2, side=32)
    catalog = write_catalog(folder)
    request = Request(
        catalog=catalog, changes=(*SMALL, "steps=2"), out=folder / "run", tracking_uri=tracking_uri, quiet=True
    )
    assert run(request) == 0
    return folder


COMMANDS = {
    "missing catalogue": (
        None,
        ["--catalog", "absent.yaml"],
        ["absent.yaml: there is no catalogue", "--catalog", "geomae catalog init"],
    ),
    "duplicate key": (
        changed_catalog("    unit: reflectance\n", "    unit: reflectance\n    unit: radiance\n"),
        [],
        ["data_catalog.yaml:8:", "duplicate key", '"unit"', "keep one"],
    ),
    "unknown key": (
        changed_catalog("sensor: naip", "sensr: naip"),
        [],
        ["data_catalog.yaml:5:", "datasets.tiny", "'sensr'", "did you mean 'sensor'?"],
    ),
    "unknown band": (
        changed_catalog("green, blue", "gren, blue"),
        [],
        ["data_catalog.yaml:6:", "bands", "'gren'", "did you mean 'green'?"],
    ),
    "where that calls": (
        CATALOG + '    where: "len(split) == 5"\n',
        [],
        ["data_catalog.yaml:11:", "where", "len", "functions are not called", "compare a column with a value"],
    ),
    "unknown data set": (
        CATALOG,
        ["--dataset", "tinny@train"],
        ["data_catalog.yaml", "no data set 'tinny'", "did you mean 'tiny'?"],
    ),
    "unknown configuration": (CATALOG, ["--config", "tinny"], ["--config tinny", "did you mean 'tiny'?"]),
    "unknown option": (CATALOG, ["--dateset", "tiny"], ["--dateset", "--dataset", "geomae pretrain --help"]),
    "option that is no number": (CATALOG, ["--seed", "one"], ["--seed", "integer", "geomae pretrain --help"]),
}


def test_the_command_refuses(geomae, tmp_path):
    """All of them at once, because each process takes seconds to start."""

    def attempt(name):
        catalog, arguments, parts = COMMANDS[name]
        work = tmp_path / name
        write_scenes(work / "scenes", scenes=1, side=32)
        if catalog is not None:
            write_catalog(work, catalog)
        before = contents(work)
        refused(geomae("pretrain", *arguments, "--out", "out", cwd=work), *parts)
        assert contents(work) == before, name

    with ThreadPoolExecutor(2) as pool:
        assert len(list(pool.map(attempt, COMMANDS))) == len(COMMANDS)


def test_the_command_refuses_a_folder_that_holds_a_run(geomae, finished):
    before = state(finished / "run")
    refused(
        geomae("pretrain", "--out", "run", cwd=finished),
        "--out run: already holds a run", "--resume run", "choose another folder",
    )  # fmt: skip
    assert state(finished / "run") == before
    assert not list(finished.glob("run/.unfinished-*"))


def test_the_command_refuses_to_go_on_with_another_configuration(geomae, finished):
    before = contents(finished)
    settings = options("batch=4", "masking.ratio=0.5")
    done = geomae("pretrain", "--resume", "run", *settings, "--seed", "3", cwd=finished)
    differences = ["batch (8 there, 4 here)", "masking.ratio (0.75 there, 0.5 here)", "seed (0 there, 3 here)"]
    refused(done, "--resume", *differences, "leave these out", "new run")
    assert contents(finished) == before


def unfinished(folder):
    """The run as if it had been killed before its summary."""
    (folder / "run" / "summary.json").unlink()
    return folder / "run"


def test_going_on_with_another_catalogue_or_other_contents(work, tracking_uri):
    catalog = write_catalog(work)
    assert run(Request(changes=(*SMALL, "steps=2"), out=work / "run", tracking_uri=tracking_uri, quiet=True)) == 0
    folder = unfinished(work)
    parts = [f"--resume {folder}", "the catalogue or its files are others", "restore them", "start a new run"]
    catalog.write_text(changed_catalog("scale: 0.0001", "scale: 0.001"))
    refuses(CheckpointError, parts, resume=folder)
    catalog.write_text(CATALOG)
    (work / "scenes" / "s1.tif").unlink()
    write_cog(work / "scenes" / "s1.tif", np.arange(4 * 32 * 32, dtype=np.uint16).reshape(4, 32, 32))
    refuses(CheckpointError, parts, resume=folder)
    assert not (folder / "summary.json").exists()


LIMITED = """
import resource, sys
resource.setrlimit(resource.RLIMIT_FSIZE, (10_000_000, 10_000_000))
from geomae.cli import main
main()
"""


def test_no_room_on_the_disk(work, tracking_uri):
    """No file may grow beyond 10 MB, which the weights do; with room again the run goes on."""
    write_catalog(work)
    settings = options(*SMALL, "steps=2", "save_every=1")
    arguments = ["pretrain", *settings, "--out", "run", "--tracking-uri", tracking_uri, "--quiet"]
    done = subprocess.run(
        [sys.executable, "-c", LIMITED, *arguments],
        cwd=work,
        env=os.environ,
        capture_output=True,
        text=True,
        check=False,
    )
    refused(done, "checkpoints", "cannot be written", "make room")
    assert not list(work.rglob(".unfinished-*"))
    assert not list((work / "run").glob("checkpoints/step-*"))
    assert not (work / "run" / "summary.json").exists()
    assert run(Request(resume=work / "run", tracking_uri=tracking_uri, quiet=True)) == 0
    assert (work / "run" / "summary.json").is_file()


def test_no_room_for_one_more_line(tmp_path):
    (tmp_path / "history.jsonl").symlink_to("/dev/full")
    with pytest.raises(StorageError, match=r"history.jsonl: cannot be written .*; make room, then go on with --resume"):
        RunFolder(tmp_path).log(1, {"train/loss": 1.0})


def test_every_error_ends_with_2():
    kinds = [GeomaeError, CatalogError, ConfigError, BandMismatchError, CheckpointError, StorageError]
    assert {kind("").exit_code for kind in kinds} == {2}
