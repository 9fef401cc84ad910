"""A data set of many files: what has not changed is not read again, and what is read is read once."""

import gc
import os
import shutil
import signal
import tracemalloc
from concurrent.futures import BrokenExecutor, Future
from pathlib import Path

import numpy as np
import pytest
import rasterio
from helpers import as_ranks, changed_catalog, survey_columns, write_catalog, write_scenes

from geomae.catalog import open_catalog
from geomae.files import cache_folder
from geomae.rasters import inspection, opening, write_cog
from geomae.rasters.work_share import WorkShare
from geomae.tiles import statistics
from geomae.tiles.dataset_check import check_dataset
from geomae.tiles.index import build_index

WHOLE = changed_catalog("    tile: {size: 16}\n", "")


@pytest.fixture(autouse=True)
def cache(tmp_path, monkeypatch):
    monkeypatch.setenv("GEOMAE_CACHE", str(tmp_path / "cache"))


def index(folder):
    return build_index(open_catalog(folder / "data_catalog.yaml"), "tiny", threads=2)


def asked(folder, monkeypatch):
    """How many files are opened, folders listed and states asked for while a data set is indexed."""
    counts = {}
    with monkeypatch.context() as patch:
        for owner, name in ((opening, "_open"), (os, "scandir"), (Path, "stat"), (os, "stat"), (os, "lstat")):
            function = getattr(owner, name)

            def counted(*words, name=name, function=function, **more):
                counts[name] = counts.get(name, 0) + 1
                return function(*words, **more)

            patch.setattr(owner, name, counted)
        index(folder)
    return counts


def test_the_second_time_no_file_is_opened_and_a_folder_is_asked_once(tmp_path, monkeypatch):
    counts = []
    for scenes in (2, 12):
        folder = tmp_path / str(scenes)
        write_scenes(folder / "scenes", scenes=scenes, side=16)
        write_catalog(folder, WHOLE)
        assert asked(folder, monkeypatch)["_open"] == scenes
        counts.append(asked(folder, monkeypatch))
    assert "_open" not in counts[0]
    assert counts[0] == counts[1]


def test_files_that_are_tiles_are_measured_while_they_are_audited_as_when_they_are_read(tmp_path):
    write_scenes(tmp_path / "scenes", scenes=3, side=16)
    write_catalog(tmp_path, WHOLE + "    nodata: 1234\n")
    once = survey_columns(index(tmp_path).survey)
    shutil.rmtree(cache_folder() / "survey")
    for one, other in zip(once, survey_columns(index(tmp_path).survey), strict=True):
        np.testing.assert_array_equal(one, other)


@pytest.mark.parametrize("tile", ["size: 16", "size: 24, stride: 8", "size: 40, stride: 56", "size: 72"])
@pytest.mark.parametrize("pieces", [8_000_000, 20_000])
def test_tiles_of_scenes_are_measured_while_these_are_audited_as_when_they_are_read(
    tmp_path, monkeypatch, tile, pieces
):
    """In one piece and in many, by the threads of one file, with tiles that blocks cut and tiles that overlap."""
    monkeypatch.setattr("geomae.rasters.measuring.PASS_VALUES", pieces)
    monkeypatch.setattr("geomae.rasters.inspection.LARGE_BYTES", 1000)
    write_scenes(tmp_path / "scenes", scenes=2, side=320)
    text = changed_catalog("tile: {size: 16}", f"tile: {{{tile}, min_valid: 0}}")
    write_catalog(tmp_path, text + "    nodata: 1234\n")
    with monkeypatch.context() as patch:
        patch.setattr(statistics, "read", None)
        once = survey_columns(index(tmp_path).survey)
    shutil.rmtree(cache_folder() / "survey")
    for one, other in zip(once, survey_columns(index(tmp_path).survey), strict=True):
        assert one.dtype == other.dtype
        np.testing.assert_array_equal(one, other)


def test_tiles_of_bands_in_files_of_their_own_are_measured_in_the_order_of_the_scene(tmp_path, monkeypatch):
    write_scenes(tmp_path / "all", scenes=1, bands=2, side=64)
    with rasterio.open(tmp_path / "all/s0.tif") as scene:
        for number, name in ((1, "nir"), (2, "blue")):
            path, transform = tmp_path / f"scenes/s0_{name}.tif", tuple(scene.transform)[:6]
            write_cog(path, scene.read([number]), crs="EPSG:32632", transform=transform)
    text = changed_catalog("path: scenes/*.tif", 'path: "scenes/*_{band}.tif"')
    write_catalog(tmp_path, text.replace("[red, green, blue, nir]", "[blue, nir]"))
    with monkeypatch.context() as patch:
        patch.setattr(statistics, "read", None)
        once = survey_columns(index(tmp_path).survey)
    shutil.rmtree(cache_folder() / "survey")
    for one, other in zip(once, survey_columns(index(tmp_path).survey), strict=True):
        np.testing.assert_array_equal(one, other)


def test_a_file_that_changes_is_read_again_alone(tmp_path, monkeypatch):
    write_scenes(tmp_path / "scenes", scenes=4, side=16)
    write_catalog(tmp_path, WHOLE)
    before = index(tmp_path)
    write_scenes(tmp_path / "other", scenes=1, side=16, seed=1)
    (tmp_path / "other/s0.tif").rename(tmp_path / "scenes/s2.tif")
    assert asked(tmp_path, monkeypatch)["_open"] == 1
    after = index(tmp_path)
    same = [one == other for one, other in zip(before.content(), after.content(), strict=True)]
    assert same == [True, True, False, True]


def test_a_line_of_the_cache_that_was_cut_short_costs_that_file_alone(tmp_path, monkeypatch):
    write_scenes(tmp_path / "scenes", scenes=4, side=16)
    write_catalog(tmp_path, WHOLE)
    before = index(tmp_path)
    (lines,) = (cache_folder() / "audit").iterdir()
    lines.write_bytes(lines.read_bytes()[:-40])
    shutil.rmtree(cache_folder() / "audit-report")
    assert asked(tmp_path, monkeypatch)["_open"] == 1
    assert index(tmp_path).report == before.report


def test_an_index_of_many_tiles_takes_few_bytes_of_each(tmp_path):
    """Columns, not objects, and one value where all tiles have it: at most 100 bytes, however many bands there are."""
    write_scenes(tmp_path / "scenes", scenes=1, bands=12, side=208)
    tile, bands = "{size: 16, stride: 2}", [f"b{number}" for number in range(12)]
    sensor = ", ".join(f"{{name: {one}, wavelength_um: 0.5, fwhm_um: 0.1}}" for one in bands)
    text = changed_catalog("tile: {size: 16}", f"tile: {tile}").replace(
        "    bands: [red, green, blue, nir]\n    unit: reflectance\n", ""
    )
    write_catalog(
        tmp_path, text.replace("sensor: naip", f"sensor: {{name: made, unit: reflectance, bands: [{sensor}]}}")
    )
    index(tmp_path)
    tracemalloc.start()
    held = index(tmp_path)
    gc.collect()
    bytes_held, _ = tracemalloc.get_traced_memory()
    tracemalloc.stop()
    assert len(held) == 97**2
    ids = held.tiles["tile_id"].memory_usage(index=False)  # in the memory of Arrow, which is not traced
    assert (bytes_held + ids) / len(held) <= 100


@pytest.mark.parametrize("ranks", [2, 4])
def test_ranks_that_share_a_check_find_what_one_finds_and_read_each_file_once(tmp_path, monkeypatch, ranks):
    write_scenes(tmp_path / "scenes", scenes=5, side=32)
    (tmp_path / "scenes/s3.tif").write_bytes((tmp_path / "scenes/s1.tif").read_bytes())
    (tmp_path / "scenes/s4.tif").write_bytes(b"none")
    catalog = open_catalog(write_catalog(tmp_path))
    one = check_dataset(catalog, "tiny")
    monkeypatch.setenv("GEOMAE_CACHE", str(tmp_path / "other"))
    read, inspect = [], inspection.inspect_file
    monkeypatch.setattr(inspection, "inspect_file", lambda *words: read.append(words[0].path) or inspect(*words))

    def check(rank, exchange):
        return check_dataset(catalog, "tiny", threads=1, share=WorkShare(rank, ranks, exchange))

    for found in as_ranks(ranks, check):
        assert found.report == one.report
        assert found.report.counts == {"duplicate": 1, "unreadable": 1}
        assert found.tiles.tiles.equals(one.tiles.tiles)
        for own, other in zip(survey_columns(found.tiles.survey), survey_columns(one.tiles.survey), strict=True):
            np.testing.assert_array_equal(own, other)
    assert sorted(read) == sorted({*read}) and len(read) == 5


def of_many(folder, monkeypatch):
    """A data set of files of several tiles, two of one content and one that cannot be read, in batches of two."""
    write_scenes(folder / "scenes", scenes=7, side=32)
    (folder / "scenes/s3.tif").write_bytes((folder / "scenes/s1.tif").read_bytes())
    (folder / "scenes/s4.tif").write_bytes(b"none")
    catalog = open_catalog(write_catalog(folder))
    alone = check_dataset(catalog, "tiny", threads=1)
    monkeypatch.setenv("GEOMAE_CACHE", str(folder / "other"))
    monkeypatch.setattr(inspection, "BATCH_FILES", 2)
    monkeypatch.setattr(inspection, "MANY_FILES", 6)
    return alone, catalog


def agrees(found, alone):
    assert found.report == alone.report
    assert found.report.counts == {"duplicate": 1, "unreadable": 1}
    assert found.tiles.tiles.equals(alone.tiles.tiles)
    for own, other in zip(survey_columns(found.tiles.survey), survey_columns(alone.tiles.survey), strict=True):
        np.testing.assert_array_equal(own, other)


def test_processes_that_read_many_files_find_what_threads_find(tmp_path, monkeypatch):
    alone, catalog = of_many(tmp_path, monkeypatch)
    read, inspect = [], inspection.inspect_file
    monkeypatch.setattr(inspection, "inspect_file", lambda *words: read.append(words[0].path) or inspect(*words))
    agrees(check_dataset(catalog, "tiny", threads=2), alone)
    assert len(read) == 1  # the last, which is a batch of one: the others were read elsewhere


class _Dies:
    """Processes that give one batch, and end."""

    def __init__(self, workers):
        assert workers == 2
        self.batches = 0

    def submit(self, function, *words):
        assert signal.SIGINT in signal.pthread_sigmask(signal.SIG_BLOCK, ())  # of Ctrl-C only this process hears
        self.batches += 1
        future = Future()
        if self.batches == 1:
            future.set_result(function(*words))
        else:
            future.set_exception(BrokenExecutor())
        return future

    def shutdown(self, kill_workers):
        assert kill_workers


class _NeverStarts:
    def __init__(self, workers):
        raise OSError("no semaphores here")


@pytest.mark.parametrize(("processes", "left"), [(_Dies, 5), (_NeverStarts, 7)])
def test_threads_read_what_processes_leave(tmp_path, monkeypatch, processes, left):
    alone, catalog = of_many(tmp_path, monkeypatch)
    monkeypatch.setattr("loky.ProcessPoolExecutor", processes)
    read, batch = [], inspection._inspect_batch
    monkeypatch.setattr(
        inspection, "_inspect_batch", lambda *words: (words[2] and read.extend(words[0])) or batch(*words)
    )
    agrees(check_dataset(catalog, "tiny", threads=2), alone)
    assert len(read) == left
    assert signal.SIGINT not in signal.pthread_sigmask(signal.SIG_BLOCK, ())
