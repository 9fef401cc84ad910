"""What is wrong with a request is said in one line, with the place and the remedy, and nothing is left behind."""

import resource

import pytest
from helpers import (
    CATALOG,
    SMALL,
    called,
    changed_catalog,
    contents,
    options,
    refused,
    write_catalog,
    write_scenes,
)

from geomae.commands.pretrain import PretrainOptions, run
from geomae.commands.run import RunFolder
from geomae.errors import BandMismatchError, CatalogError, CheckpointError, ConfigError, GeomaeError, StorageError

CHECK = ("catalog", "check")
STATS = ("catalog", "stats", "--quiet")  # progress would come before what is said
PRETRAIN = ("pretrain", "--quiet")
OTHER = CATALOG.partition("datasets:\n")[2].replace("tiny", "rgb").replace("blue, nir", "blue, null")
COMMANDS = {
    "missing catalogue": (
        None,
        [*PRETRAIN, "--catalog", "absent.yaml"],
        ["absent.yaml: there is no catalogue", "--catalog", "geomae catalog init"],
    ),
    "duplicate key": (
        changed_catalog("    unit: reflectance\n", "    unit: reflectance\n    unit: radiance\n"),
        CHECK,
        ["data_catalog.yaml:8:", "duplicate key", '"unit"', "keep one"],
    ),
    "unknown key": (
        changed_catalog("sensor: naip", "sensr: naip"),
        CHECK,
        ["data_catalog.yaml:5: datasets.tiny", "unknown key 'sensr'", "did you mean 'sensor'?"],
    ),
    "no file matches": (
        changed_catalog("scenes/*.tif", "scenes/*.jp2"),
        CHECK,
        ["data_catalog.yaml:4: datasets.tiny.path", "no file matches 'scenes/*.jp2'", "s0.tif", "correct the pattern"],
    ),
    "unknown band": (
        changed_catalog("green, blue", "gren, blue"),
        CHECK,
        ["data_catalog.yaml:6: datasets.tiny.bands.1", "naip has no band 'gren'", "did you mean 'green'?"],
    ),
    "number of bands": (
        changed_catalog("[red, green, blue, nir]", "[red, green, blue]"),
        PRETRAIN,
        ["data_catalog.yaml:3: datasets.tiny", "s0.tif: has 4 bands instead of 3", "`bands`, with null for each"],
    ),
    "two sources": (
        changed_catalog("    sensor:", "    sample: {}\n    sensor:"),
        CHECK,
        ["data_catalog.yaml:5: datasets.tiny", "two sources, `path` and `sample`", "keep one"],
    ),
    "empty split": (
        CATALOG,
        [*STATS, "--dataset", "tiny@trian"],
        ["tiny@trian: split 'trian' is empty", "did you mean 'train'?"],
    ),
    "tile larger than the raster": (
        changed_catalog("size: 16", "size: 64"),
        STATS,
        ["data_catalog.yaml:10: datasets.tiny.tile.size", "64 pixels is larger than s0 (32 x 32)", "write at most 32"],
    ),
    "patch that does not divide": (
        CATALOG,
        [*PRETRAIN, "--set", "patch=6"],
        ["tiny", "patch of 6 pixels does not divide a tile of 16", "--set patch=4"],
    ),
    "unknown data set": (
        CATALOG,
        [*PRETRAIN, "--dataset", "tinny@train"],
        ["data_catalog.yaml: there is no data set 'tinny'", "did you mean 'tiny'?"],
    ),
    "unknown data set, unlike any": (
        CATALOG + OTHER,
        [*STATS, "--dataset", "hls"],
        ["data_catalog.yaml: there is no data set 'hls'", "known: rgb, tiny"],
    ),
    "where that calls": (
        CATALOG + '    where: "len(split) == 5"\n',
        CHECK,
        ["data_catalog.yaml:11: datasets.tiny.where", "character 4", "functions are not called", "compare a column"],
    ),
    "path out of the folder": (
        changed_catalog("scenes/*.tif", "../*.tif"),
        CHECK,
        ["data_catalog.yaml:4: datasets.tiny.path", "leaves the catalogue's folder", "add `outside: true`"],
    ),
    "stacked with two sets of bands": (
        CATALOG + OTHER,
        [*PRETRAIN, "--dataset", "tiny", "--dataset", "rgb", *options(*SMALL, "embedding=stacked")],
        ["embedding=stacked needs one set of bands", "tiny and rgb differ", "--set embedding=spectral takes any"],
    ),
    "unknown configuration": (CATALOG, [*PRETRAIN, "--config", "tinny"], ["--config tinny", "did you mean 'tiny'?"]),
    "unknown option": (CATALOG, [*PRETRAIN, "--dateset", "x"], ["--dateset", "--dataset", "geomae pretrain --help"]),
    "option that is no number": (
        CATALOG,
        [*PRETRAIN, "--seed", "one"],
        ["--seed", "integer", "geomae pretrain --help"],
    ),
}


@pytest.mark.parametrize("name", COMMANDS)
def test_the_command_refuses(geomae, tmp_path, name):
    """All in this process but one, because each process takes seconds to start."""
    catalog, arguments, parts = COMMANDS[name]
    write_scenes(tmp_path / "scenes", scenes=1, side=32)
    if catalog is not None:
        write_catalog(tmp_path, catalog)
    before = contents(tmp_path)
    call = geomae if name == "missing catalogue" else called
    refused(call(*arguments, "--out", "out", cwd=tmp_path), *parts)
    assert contents(tmp_path) == before


def test_no_room_on_the_disk(work, tracking_uri):
    """No file may grow beyond 10 MB, which the weights do; with room again the run goes on."""
    write_catalog(work)
    settings = options(*SMALL, "steps=2", "save_every=1")
    arguments = ["pretrain", *settings, "--out", "run", "--tracking-uri", tracking_uri, "--quiet"]
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (10_000_000, hard))
    try:
        done = called(*arguments, cwd=work)
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))
    refused(done, "checkpoints", "cannot be written", "make room")
    assert not list(work.rglob(".unfinished-*"))
    assert not list((work / "run").glob("checkpoints/step-*"))
    assert not (work / "run" / "summary.json").exists()
    assert run(PretrainOptions(resume=work / "run", tracking_uri=tracking_uri, quiet=True)) == 0
    assert (work / "run" / "summary.json").is_file()


def test_no_room_for_one_more_line(tmp_path):
    (tmp_path / "history.jsonl").symlink_to("/dev/full")
    with pytest.raises(StorageError, match=r"history.jsonl: cannot be written .*; make room, then go on with --resume"):
        RunFolder(tmp_path).log(1, {"train/loss": 1.0})


def test_every_error_ends_with_2():
    kinds = [GeomaeError, CatalogError, ConfigError, BandMismatchError, CheckpointError, StorageError]
    assert {kind("").exit_code for kind in kinds} == {2}
