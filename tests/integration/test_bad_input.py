"""What is wrong with a request is said in one line, with the place and the remedy, and nothing is left behind."""

import os
import subprocess
import sys

import numpy as np
import pytest
from helpers import CATALOG, SMALL, options, refused, state, write_catalog, write_scenes

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


def files(folder):
    return sorted(str(path.relative_to(folder)) for path in folder.rglob("*"))


def changed(old, new):
    assert CATALOG.count(old) == 1
    return CATALOG.replace(old, new)


COMMANDS = {
    "missing catalogue": (
        None,
        ["--catalog", "absent.yaml"],
        ["absent.yaml: there is no catalogue", "--catalog", "geomae catalog init"],
    ),
    "duplicate key": (
        changed("    unit: reflectance\n", "    unit: reflectance\n    unit: radiance\n"),
        [],
        ["data_catalog.yaml:8:", "duplicate key", '"unit"', "keep one"],
    ),
    "unknown key": (
        changed("sensor: naip", "sensr: naip"),
        [],
        ["data_catalog.yaml:5:", "datasets.tiny", "'sensr'", "did you mean 'sensor'?"],
    ),
    "unknown band": (
        changed("green, blue", "gren, blue"),
        [],
        ["data_catalog.yaml:6:", "bands", "'gren'", "did you mean 'green'?"],
    ),
    "where that calls": (
        CATALOG + "    where: \"len(split) == 5\"\n",
        [],
        ["data_catalog.yaml:11:", "where", "len", "functions are not called", "compare a column with a value"],
    ),
    "unknown data set": (
        CATALOG,
        ["--dataset", "tinny@train"],
        ["data_catalog.yaml", "no data set 'tinny'", "did you mean 'tiny'?"],
    ),
    "unknown configuration": (CATALOG, ["--config", "tinny"], ["--config tinny", "did you mean 'tiny'?"]),
    "unknown setting": (CATALOG, ["--set", "maskin.ratio=0.5"], ["'maskin'", "did you mean 'masking'?"]),
    "unknown option": (CATALOG, ["--dateset", "tiny"], ["--dateset", "--dataset", "geomae pretrain --help"]),
    "option that is no number": (CATALOG, ["--seed", "one"], ["--seed", "integer", "geomae pretrain --help"]),
}


@pytest.mark.parametrize("name", COMMANDS)
def test_the_command_refuses(name, geomae, work):
    catalog, arguments, parts = COMMANDS[name]
    if catalog is not None:
        write_catalog(work, catalog)
    before = files(work)
    refused(geomae("pretrain", *arguments, "--out", "out", cwd=work), *parts)
    assert files(work) == before


def test_the_command_refuses_a_folder_that_holds_a_run(geomae, finished):
    before = state(finished / "run")
    refused(
        geomae("pretrain", "--out", "run", cwd=finished),
        "--out run: already holds a run", "--resume run", "choose another folder",
    )  # fmt: skip
    assert state(finished / "run") == before
    assert not list(finished.glob("run/.unfinished-*"))


def test_the_command_refuses_to_go_on_with_another_configuration(geomae, finished):
    before = files(finished)
    settings = options("batch=4", "masking.ratio=0.5")
    done = geomae("pretrain", "--resume", "run", *settings, "--seed", "3", cwd=finished)
    differences = ["batch (8 there, 4 here)", "masking.ratio (0.75 there, 0.5 here)", "seed (0 there, 3 here)"]
    refused(done, "--resume", *differences, "leave these out", "new run")
    assert files(finished) == before


IN_PROCESS = {
    "no file matches": (
        changed("scenes/*.tif", "scenes/*.jp2"),
        {},
        CatalogError,
        ["data_catalog.yaml:4: datasets.tiny.path", "no file matches 'scenes/*.jp2'", "s0.tif", "correct the pattern"],
    ),
    "too few bands": (
        changed("[red, green, blue, nir]", "[red, green, blue]"),
        {},
        CatalogError,
        ["data_catalog.yaml", "datasets.tiny", "s0.tif: has 4 bands instead of 3", "correct `bands`"],
    ),
    "two sources": (
        changed("    sensor:", "    sample: {}\n    sensor:"),
        {},
        CatalogError,
        ["data_catalog.yaml:5: datasets.tiny", "two sources, `path` and `sample`", "keep one"],
    ),
    "no source": (changed("    path: scenes/*.tif\n", ""), {}, CatalogError, ["data_catalog.yaml:3", "no source", "add `path`"]),
    "unknown sensor": (
        changed("sensor: naip", "sensor: nap"),
        {},
        CatalogError,
        ["data_catalog.yaml:5: datasets.tiny.sensor", "'nap'", "did you mean 'naip'?"],
    ),
    "empty split": (
        CATALOG,
        {"datasets": ("tiny@tset",)},
        CatalogError,
        ["tiny@tset", "split 'tset' is empty", "train"],
    ),
    "condition that nothing meets": (
        CATALOG + "    domain: here\n",
        {"datasets": ("tiny[domain=there]",)},
        CatalogError,
        ["tiny[domain=there]", "no tile has domain=there", "here"],
    ),
    "unknown column": (
        CATALOG,
        {"datasets": ("tiny[season=green]",)},
        CatalogError,
        ["tiny", "no column 'season'"],
    ),
    "tile larger than the raster": (
        changed("size: 16", "size: 64"),
        {},
        CatalogError,
        ["data_catalog.yaml:10: datasets.tiny.tile.size", "64 pixels is larger than s0 (32 x 32)", "write at most 32"],
    ),
    "patch that does not divide": (
        CATALOG,
        {"changes": ("patch=6",)},
        CatalogError,
        ["tiny", "patch of 6 pixels does not divide a tile of 16", "--set patch=4"],
    ),
    "path out of the folder": (
        changed("scenes/*.tif", "../*.tif"),
        {},
        CatalogError,
        ["data_catalog.yaml:4: datasets.tiny.path", "leaves the catalogue's folder", "outside: true"],
    ),
    "absolute path": (
        changed("scenes/*.tif", "/scenes/*.tif"),
        {},
        CatalogError,
        ["data_catalog.yaml:4: datasets.tiny.path", "leaves the catalogue's folder", "outside: true"],
    ),
    "where that is a statement": (
        CATALOG + "    where: \"__import__('os').getpid() > 0\"\n",
        {},
        CatalogError,
        ["data_catalog.yaml:11: datasets.tiny.where"],
    ),
    "column of the where that is not there": (
        CATALOG + "    where: \"season == 'green'\"\n",
        {},
        CatalogError,
        ["data_catalog.yaml:11: datasets.tiny.where", "season"],
    ),
    "key that is not built yet": (
        CATALOG + "    stac: {}\n",
        {},
        CatalogError,
        ["data_catalog.yaml:11: datasets.tiny", "'stac' is not built yet", "`path`"],
    ),
    "batch that cannot be shared": (
        CATALOG,
        {"changes": ("batch=9", "accumulate=2")},
        ConfigError,
        ["batch: 9 tiles", "2 passes", "multiple of 2"],
    ),
    "value that is text": (CATALOG, {"changes": ("steps=many",)}, ConfigError, ["steps", "'many'"]),
    "setting without a value": (CATALOG, {"changes": ("steps",)}, ConfigError, ["--set steps", "KEY=VALUE"]),
    "ratio that leaves nothing": (CATALOG, {"changes": ("masking.ratio=1",)}, ConfigError, ["masking.ratio", "less than 1"]),
    "device": (CATALOG, {"device": "gpu"}, ConfigError, ["--device gpu", "auto, cpu, cuda or mps"]),
    "precision": (CATALOG, {"precision": "16"}, ConfigError, ["--precision 16", "auto, 32 or bf16"]),
    "strategy": (CATALOG, {"strategy": "dp"}, ConfigError, ["--strategy dp", "auto, ddp or fsdp"]),
}


def refuses(kind, parts, **wishes):
    """The one-line message with which a request in the current folder is refused."""
    with pytest.raises(kind) as caught:
        run(Request(**{"quiet": True, **wishes}))
    message = str(caught.value)
    assert "\n" not in message
    for part in parts:
        assert part in message, message


@pytest.mark.parametrize("name", IN_PROCESS)
def test_refused(name, work):
    catalog, wishes, kind, parts = IN_PROCESS[name]
    write_catalog(work, catalog)
    before = files(work)
    refuses(kind, parts, **wishes)
    assert files(work) == before


def test_several_data_sets_and_no_choice(work):
    entry = CATALOG.partition("datasets:\n")[2]
    write_catalog(work, CATALOG + entry.replace("tiny", "other"))
    refuses(CatalogError, ["data_catalog.yaml", "--dataset", "other, tiny"])


def test_a_link_out_of_the_folder(work, tmp_path_factory):
    elsewhere = tmp_path_factory.mktemp("elsewhere")
    (work / "scenes" / "s1.tif").rename(elsewhere / "s1.tif")
    (work / "scenes" / "s1.tif").symlink_to(elsewhere / "s1.tif")
    write_catalog(work)
    refuses(CatalogError, ["data_catalog.yaml:4: datasets.tiny.path", "s1.tif leaves the catalogue's folder"])


def test_stacked_with_two_sets_of_bands(work):
    entry = CATALOG.partition("datasets:\n")[2]
    other = entry.replace("tiny", "rgb").replace("[red, green, blue, nir]", "[red, green, blue, null]")
    write_catalog(work, CATALOG + other)
    wishes = {"datasets": ("tiny", "rgb"), "changes": (*SMALL, "embedding=stacked")}
    refuses(BandMismatchError, ["tiny and rgb differ", "embedding=spectral takes any"], **wishes)


def test_a_configuration_file_with_an_unknown_key(work):
    write_catalog(work)
    (work / "mine.yaml").write_text("steps: 4\nmasking:\n  ration: 0.5\n")
    refuses(ConfigError, ["mine.yaml:3:", "'masking.ration'", "did you mean 'ratio'?"], config="mine.yaml")


def test_an_unreadable_file_among_two(work):
    (work / "scenes" / "s1.tif").write_bytes(b"II*\0 and nothing else")
    write_catalog(work)
    refuses(CatalogError, ["data_catalog.yaml:3", "quarantines 1 of 2 scenes", "s1.tif", "data.max_quarantined"])


def test_an_out_that_is_something_else(work):
    write_catalog(work)
    (work / "file").write_text("mine")
    refuses(StorageError, ["--out file: is a file", "choose another folder"], out=work.__class__("file"))
    refuses(StorageError, ["--out scenes: is not empty", "choose another folder"], out=work.__class__("scenes"))


def test_going_on_with_what_is_no_run(work):
    write_catalog(work)
    refuses(CheckpointError, ["scenes: holds no run", "run.json"], resume=work / "scenes")
    refuses(CheckpointError, ["absent: holds no run"], resume=work / "absent")
    assert not (work / "absent").exists()


def unfinished(folder):
    """The run as if it had been killed before its summary."""
    (folder / "run" / "summary.json").unlink()
    return folder / "run"


def test_going_on_with_another_catalogue_or_other_files(work, tracking_uri):
    catalog = write_catalog(work)
    assert run(Request(changes=(*SMALL, "steps=2"), out=work / "run", tracking_uri=tracking_uri, quiet=True)) == 0
    folder = unfinished(work)
    parts = [f"--resume {folder}", "the catalogue or its files are others", "restore them", "start a new run"]
    catalog.write_text(changed("scale: 0.0001", "scale: 0.001"))
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


def test_no_room_on_the_disk(geomae, work, tracking_uri):
    """No file may grow beyond 10 MB, which the weights do; with room again the run goes on."""
    write_catalog(work)
    settings = options(*SMALL, "steps=2", "save_every=1")
    arguments = ["pretrain", *settings, "--out", "run", "--tracking-uri", tracking_uri, "--quiet"]
    done = subprocess.run(
        [sys.executable, "-c", LIMITED, *arguments], cwd=work, env=os.environ, capture_output=True, text=True, check=False
    )
    refused(done, "checkpoints", "cannot be written", "make room")
    assert not list(work.rglob(".unfinished-*"))
    assert not list((work / "run").glob("checkpoints/step-*"))
    assert not (work / "run" / "summary.json").exists()
    done = geomae("pretrain", "--resume", "run", "--tracking-uri", tracking_uri, "--quiet", cwd=work)
    assert (done.returncode, done.stderr) == (0, "")
    assert (work / "run" / "summary.json").is_file()


def test_no_room_for_one_more_line(tmp_path):
    (tmp_path / "history.jsonl").symlink_to("/dev/full")
    with pytest.raises(StorageError, match=r"history.jsonl: cannot be written .*; make room, then go on with --resume"):
        RunFolder(tmp_path).log(1, {"train/loss": 1.0})


def test_every_error_ends_with_2():
    kinds = [GeomaeError, CatalogError, ConfigError, BandMismatchError, CheckpointError, StorageError]
    assert {kind("").exit_code for kind in kinds} == {2}
