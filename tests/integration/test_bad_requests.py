"""What is wrong with a request is said in one line, with the place and the remedy, before anything is written."""

from pathlib import Path

import numpy as np
import pytest
from helpers import CATALOG, SMALL, called, changed_catalog, contents, refused, refuses, write_catalog

from geomae.commands.pretrain import PretrainOptions, run
from geomae.errors import BandMismatchError, CatalogError, CheckpointError, ConfigError, StorageError
from geomae.rasters import write_cog

REQUESTS = {
    "no file matches": (
        changed_catalog("scenes/*.tif", "scenes/*.jp2"),
        {},
        CatalogError,
        ["data_catalog.yaml:4: datasets.tiny.path", "no file matches 'scenes/*.jp2'", "s0.tif", "correct the pattern"],
    ),
    "too few bands": (
        changed_catalog("[red, green, blue, nir]", "[red, green, blue]"),
        {},
        CatalogError,
        ["data_catalog.yaml", "datasets.tiny", "s0.tif: has 4 bands instead of 3", "correct `bands`"],
    ),
    "two sources": (
        changed_catalog("    sensor:", "    sample: {}\n    sensor:"),
        {},
        CatalogError,
        ["data_catalog.yaml:5: datasets.tiny", "two sources, `path` and `sample`", "keep one"],
    ),
    "no source": (
        changed_catalog("    path: scenes/*.tif\n", ""),
        {},
        CatalogError,
        ["data_catalog.yaml:3", "no source", "add `path`"],
    ),
    "unknown sensor": (
        changed_catalog("sensor: naip", "sensor: nap"),
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
        changed_catalog("size: 16", "size: 64"),
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
        changed_catalog("scenes/*.tif", "../*.tif"),
        {},
        CatalogError,
        ["data_catalog.yaml:4: datasets.tiny.path", "leaves the catalogue's folder", "outside: true"],
    ),
    "absolute path": (
        changed_catalog("scenes/*.tif", "/scenes/*.tif"),
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
    "batch that cannot be shared": (
        CATALOG,
        {"config": "pixels", "changes": ("batch=9", "accumulate=2")},
        ConfigError,
        ["batch: 9 tiles", "2 passes", "multiple of 2"],
    ),
    "unknown setting": (
        CATALOG,
        {"changes": ("maskin.ratio=0.5",)},
        ConfigError,
        ["unknown key 'maskin'", "did you mean 'masking'?"],
    ),
    "value that is text": (CATALOG, {"changes": ("steps=many",)}, ConfigError, ["steps", "'many'"]),
    "setting without a value": (CATALOG, {"changes": ("steps",)}, ConfigError, ["--set steps", "KEY=VALUE"]),
    "ratio that leaves nothing": (
        CATALOG,
        {"changes": ("masking.ratio=1",)},
        ConfigError,
        ["masking.ratio", "less than 1"],
    ),
    "device": (CATALOG, {"device": "gpu"}, ConfigError, ["--device gpu", "auto, cpu, cuda or mps"]),
    "precision": (CATALOG, {"precision": "16"}, ConfigError, ["--precision 16", "auto, 32 or bf16"]),
    "strategy": (CATALOG, {"strategy": "dp"}, ConfigError, ["--strategy dp", "auto, ddp or fsdp"]),
}


@pytest.mark.parametrize("name", REQUESTS)
def test_refused(name, work):
    catalog, wishes, kind, parts = REQUESTS[name]
    write_catalog(work, catalog)
    before = contents(work)
    refuses(kind, parts, **wishes)
    assert contents(work) == before


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
    parts = ["data_catalog.yaml:3", "quarantines 1 of 2 scenes", "s1.tif", "--set data.max_quarantined=0.51"]
    refuses(CatalogError, parts)


def test_no_share_helps_where_every_scene_is_quarantined(work):
    for path in (work / "scenes").iterdir():
        write_cog(path, np.zeros((4, 32, 32), dtype=np.uint16))
    write_catalog(work)
    for share in ("0.1", "1"):
        with pytest.raises(CatalogError) as caught:
            run(PretrainOptions(changes=(f"data.max_quarantined={share}",), quiet=True))
        assert "quarantines every scene (2 constant), and none is left to use; first: " in str(caught.value)
        assert "max_quarantined" not in str(caught.value)


@pytest.mark.parametrize(
    ("arguments", "blamed"),
    [
        (["--set", "no.such=1"], "error: --set no.such=1: unknown key 'no'; known: "),
        (["--set", "steps=3", "--set", "masking.ratio=2"], "error: --set masking.ratio=2: masking.ratio: must be less"),
        (["--set", "masking.ration=0.5"], "error: --set masking.ration=0.5: unknown key 'masking.ration'; did you"),
        (["--set", "batch=9"], "error: --set batch=9: batch: 9 tiles are too few"),
        (["--config", "mine.yaml", "--set", "batch=9"], "error: mine.yaml:1: unknown key 'stepz'"),
    ],
)
def test_the_option_is_blamed_and_not_the_file_that_it_changes(work, arguments, blamed):
    write_catalog(work)
    (work / "mine.yaml").write_text("stepz: 4\n")
    done = called("pretrain", *arguments, cwd=work)
    refused(done)
    assert done.stderr.startswith(blamed), done.stderr


def test_an_option_of_adapt_is_blamed_by_its_own_name(work):
    write_catalog(work)
    done = called("adapt", "--model", "x", "--target", "tiny", "--steps", "0", cwd=work)
    refused(done, "error: --steps 0: steps: must be greater than 0")


@pytest.mark.parametrize("words", [["convert", "{}", "m"], ["catalog", "init", "{}"], ["pretrain", "--resume", "{}"]])
def test_a_name_that_no_disk_takes_is_one_line(work, words):
    done = called(*[word.format("n" * 300) for word in words], cwd=work)
    refused(done, "nnn...: too long a name for the file system; shorten it")


def test_an_out_that_is_something_else(work):
    write_catalog(work)
    (work / "file").write_text("mine")
    refuses(StorageError, ["--out file: is a file", "choose another folder"], out=Path("file"))
    refuses(StorageError, ["--out scenes: is not empty", "choose another folder"], out=Path("scenes"))


def test_going_on_with_what_is_no_run(work):
    write_catalog(work)
    refuses(CheckpointError, ["scenes: holds no run", "run.json"], resume=work / "scenes")
    refuses(CheckpointError, ["absent: holds no run"], resume=work / "absent")
    assert not (work / "absent").exists()
