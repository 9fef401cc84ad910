"""Which ground a model learned from, by the ids of its tiles and the grids of their scenes."""

import json
from dataclasses import replace
from types import SimpleNamespace

import numpy as np
import pandas as pd
import pytest

from geomae.prediction.record import learned_remarks, learned_tiles
from geomae.rasters import Grid
from geomae.tiles.learned_tiles import UNPLACED, UNRECORDED, LearnedTiles, of_content, record_content, record_tiles

GRID = Grid(64, 64, 10.0, "EPSG:32632", (10.0, 0.0, 4e5, 0.0, -10.0, 5e6))


def index_of(*scenes, name="fields", tiles=(), **grids):
    """An index of scenes of one grid, or of their own, with tiles of 16 pixels, or (scene, row, col, size)."""
    table = pd.DataFrame(tiles, columns=["scene", "row", "col", "size"])
    ids = [f"{scenes[scene]}:{row}:{col}" for scene, row, col, _ in table.itertuples(index=False)]
    source = SimpleNamespace(scenes=[SimpleNamespace(id=scene) for scene in scenes])
    known = tuple(grids.get(scene, GRID) for scene in scenes)
    return SimpleNamespace(name=name, source=source, grids=known, tiles=table.assign(tile_id=ids))


def recorded(index):
    """What a folder says of the tiles of an index, after it was written and read."""
    return SimpleNamespace(tile=16, learned=json.loads(json.dumps({index.name: record_tiles(index, [])})))


def pixels_met(record, index, scene="a"):
    """The pixels of a scene that were learned from, as a mask."""
    learned, grid = learned_tiles(record, index), index.grids[0]
    return np.array([[learned.meeting(scene, row, col, 1) for col in range(grid.width)] for row in range(grid.height)])


@pytest.mark.parametrize("scene", ["s0", "2021:a", "deep/s:1:2"])
def test_tiles_that_points_share_are_the_tiles_that_they_are(scene):
    tiles = {"learned": [f"{scene}:16:32", f"{scene}:64:64:2", "elsewhere:0:0"]}
    learned = LearnedTiles.of({"fields": tiles}, 16, index_of(scene))
    assert learned.meeting(scene, 20, 40, 16) and learned.meeting(scene, 70, 70, 0)
    assert not learned.meeting(scene, 32, 32, 16) and not learned.meeting("elsewhere", 0, 0, 16)


def test_a_scene_of_another_data_set_with_the_same_name_is_the_same_scene():
    record = recorded(index_of("a", "b", tiles=[(0, 0, 0, 16), (1, 0, 16, 16)]))
    record.learned["elsewhere"] = {"learned": ["z:0:0"], "held_out": []}
    index = index_of(*"abc", name="pixels", tiles=[(0, 0, 0, 16), (1, 0, 0, 16), (1, 16, 0, 16)])
    learned = learned_tiles(record, index)
    assert learned.meeting("a", 8, 8, 16) and learned.meeting("b", 0, 16, 16)
    assert not learned.meeting("a", 16, 16, 16) and not learned.meeting("c", 0, 0, 16)
    (remark,) = learned_remarks(record, index, "pixels@test")
    assert "(a, b of fields)" in remark
    assert not [*learned_remarks(record, replace_name(index, "fields"), "fields@test")]


def replace_name(index, name):
    return SimpleNamespace(**{**vars(index), "name": name})


def test_only_selected_scenes_are_looked_for_among_those_of_other_data_sets():
    """Of the scenes of two dates, the one that was mapped had not been learned from, and yet this was said of it."""
    record = recorded(index_of("scene2002", name="plots", tiles=[(0, 0, 0, 16)]))
    index = index_of("scene1999", "scene2002", name="cells", tiles=[(0, 0, 0, 16)])
    assert not [*learned_remarks(record, index, "cells[year=1999]")]


FINER = Grid(128, 128, 5.0, GRID.crs, (5.0, 0.0, 4e5, 0.0, -5.0, 5e6))
CUT = Grid(64, 40, 10.0, GRID.crs, (10.0, 0.0, 4e5 + 160, 0.0, -10.0, 5e6 - 80))
ELSEWHERE = replace(GRID, transform=(10.0, 0.0, 5e5, 0.0, -10.0, 5e6))


@pytest.mark.parametrize(
    ("grid", "rows", "cols"),
    [(GRID, (16, 32), (32, 48)), (FINER, (32, 64), (64, 96)), (CUT, (8, 24), (16, 32)), (ELSEWHERE, (0, 0), (0, 0))],
)
def test_tiles_are_found_by_their_ground_where_the_grid_of_the_scene_has_changed(grid, rows, cols):
    record = recorded(index_of("a", tiles=[(0, 16, 32, 16)]))
    index = index_of("a", tiles=[(0, 0, 0, 16)], a=grid)
    wanted = np.zeros((grid.height, grid.width), dtype=bool)
    wanted[slice(*rows), slice(*cols)] = True
    np.testing.assert_array_equal(pixels_met(record, index), wanted)
    assert not [*learned_remarks(record, index, "fields")]


def test_tiles_are_found_in_a_grid_of_another_crs_and_across_longitude_180():
    """A quarter of a scene in degrees, whose other half lies beyond 180, and the same scene from 0 to 360."""
    across = Grid(64, 64, None, "EPSG:4326", (0.01, 0.0, 179.68, 0.0, -0.01, 10.0))
    record = recorded(index_of("a", tiles=[(0, 0, 32, 32)], a=across))
    record.tile = 32
    for now in (replace(across, transform=(0.01, 0.0, -180.32, 0.0, -0.01, 10.0)), replace(across, crs="OGC:CRS84")):
        met = pixels_met(record, index_of("a", tiles=[(0, 0, 0, 32)], a=now))
        assert met[:32, 32:].all() and met.sum() == 32 * 32
    metres = Grid(70, 70, 1000.0, "EPSG:32760", (1e3, 0.0, 790e3, 0.0, -1e3, 11106e3))
    met = pixels_met(record, index_of("a", tiles=[(0, 0, 0, 32)], a=metres))
    assert 0.9 < met.sum() / (32 * 32 * 1.09 * 1.11) < 1.15


def test_without_a_crs_the_same_shape_is_the_same_ground_and_another_one_is_unknown():
    here = replace(GRID, crs=None)
    record = recorded(index_of("a", tiles=[(0, 16, 32, 16)], a=here))
    same = index_of("a", tiles=[(0, 0, 0, 16)], a=here)
    assert pixels_met(record, same).sum() == 16 * 16
    other = index_of("a", tiles=[(0, 0, 0, 16)], a=replace(here, height=20, width=20))
    assert pixels_met(record, other).all()
    (remark,) = learned_remarks(record, other, "fields@test")
    assert remark.startswith("fields@test: ") and "no CRS in both (a)" in remark
    assert [one.doubt for one in learned_tiles(record, other).scenes] == [UNPLACED]


def test_folders_without_grids_are_taken_as_they_are_and_it_is_said():
    record = SimpleNamespace(tile=16, learned={"fields": {"learned": ["a:16:32"], "held_out": ["b:0:0"]}})
    index = index_of("a", "b", tiles=[(0, 0, 0, 16)], a=FINER)
    assert pixels_met(record, index)[16:32, 32:48].all()
    (remark,) = learned_remarks(record, index, "fields")
    assert "did not record the grids of scenes (a)" in remark
    assert {one.doubt for one in learned_tiles(record, index).scenes} == {UNRECORDED}


def test_tiles_of_several_sizes_have_their_own():
    record = recorded(index_of("a", tiles=[(0, 0, 0, 16), (0, 0, 32, 32), (0, 40, 0, 16)]))
    assert pixels_met(record, index_of("a", tiles=[(0, 0, 0, 16)])).sum() == 2 * 16**2 + 32**2


def test_tiles_are_found_by_the_bytes_of_their_files():
    def index(name, **content):
        scenes = [SimpleNamespace(id=key) for key in content]
        index = SimpleNamespace(name=name, tiles=pd.DataFrame({"scene": [0, 0, 1]}), content=content.values)
        index.source, index.report = SimpleNamespace(scenes=scenes), SimpleNamespace(content=content)
        return index

    learned = record_content([index("a", s=64 * "2", t=""), index("a", s=64 * "1", t=64 * "2"), index("b", s="", t="")])
    assert learned == {"a": "11111111 22222222", "b": ""}
    assert of_content(index("a", u=64 * "2", s=64 * "3"), learned["a"]).tolist() == [True, True, False]
    assert not of_content(index("a", u="", s=64 * "3"), learned["b"]).any()
