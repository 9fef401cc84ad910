"""A data set of many files: what has not changed is not read again, and what is read is read once."""

import os
import shutil
from pathlib import Path

import numpy as np
import pytest
from helpers import changed_catalog, write_catalog, write_scenes

from geomae.catalog import open_catalog
from geomae.files import cache_folder
from geomae.rasters import opening
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
    once = index(tmp_path).survey
    shutil.rmtree(cache_folder() / "survey")
    again = index(tmp_path).survey
    for one, other in zip(once.arrays, again.arrays, strict=True):
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
