"""What is left out of a data set is named and counted, and one bad scene or tile does not stop the others."""

import os

import numpy as np
import pytest
from helpers import changed_catalog, write_catalog

from geomae.catalog import open_catalog, parse_selector
from geomae.errors import CatalogError
from geomae.rasters import write_cog
from geomae.tiles.dataset_check import check_dataset
from geomae.tiles.index import build_index
from geomae.tiles.selection import build_indexes

FLOATS = changed_catalog("scale: 0.0001", "scale: 1")
WHOLE = changed_catalog("    tile: {size: 16}\n", "")


def corner(number):
    return (5.0, 0.0, 400_000.0 + 1000 * number, 0.0, -5.0, 5_000_000.0)


def floats(folder, *, scenes=2, **values):
    """Scenes of four bands in float32 reflectance; `values` by scene are (place, value) of one pixel each."""
    for number in range(scenes):
        pixels = np.random.default_rng(number).uniform(0.05, 0.5, (4, 32, 32)).astype(np.float32)
        for place, value in values.get(f"s{number}", ()):
            pixels[place] = value
        write_cog(folder / f"s{number}.tif", pixels, crs="EPSG:32632", transform=corner(number))


def shaped(folder, **shapes):
    for number, (name, (height, width)) in enumerate(shapes.items()):
        pixels = np.random.default_rng(number).integers(500, 4000, (4, height, width)).astype(np.uint16)
        write_cog(folder / f"{name}.tif", pixels, crs="EPSG:32632", transform=corner(number))


def heard(path):
    """The index, and what a command warns of."""
    said = []
    catalog = open_catalog(path)
    return build_indexes(catalog, [parse_selector("tiny")], warn=said.append)["tiny"], said


def test_a_tile_whose_values_break_sums_is_left_out_and_said(tmp_path):
    floats(tmp_path / "scenes", s1=[((2, 20, 3), 1e30)])
    index, said = heard(write_catalog(tmp_path, FLOATS))
    assert len(index) == 7
    assert "s1:16:0" not in index.tiles["tile_id"].tolist()
    assert index.left_out == {"values beyond 1e+12": 1}
    remedy = "`geomae catalog check --dataset tiny` lists them"
    assert said == [f"tiny: 1 of its tiles hold values beyond 1e+12 and are left out; {remedy}"]
    assert all(0 < value["max"] <= 0.5 for value in index.statistics().to_dict()["bands"].values())
    check = check_dataset(open_catalog(tmp_path / "data_catalog.yaml"), "tiny")
    assert "s1.tif: 1e+30 in blue is beyond any reflectance" in check.report.problems[0].message


def test_a_file_whose_name_is_no_utf8_is_left_out_and_named(tmp_path):
    shaped(tmp_path / "scenes", a=(32, 32), b=(32, 32))
    odd = os.fsdecode(b"caf\xe9.tif")
    (tmp_path / "scenes/b.tif").rename(tmp_path / "scenes" / odd)
    (tmp_path / "w.csv").write_text("scene,row,col\na,0,0\na,16,16\n")
    listed = "    windows: {table: w.csv, key: scene, row: row, col: col, size: 16}\n"
    for text, tiles in ((WHOLE + listed, 2), (WHOLE + "    tile: {size: 16}\n", 4)):
        check = check_dataset(open_catalog(write_catalog(tmp_path, text)), "tiny")
        assert check.error is None
        assert len(check.tiles) == tiles
        (problem,) = check.report.problems
        assert problem.message.endswith(f"{odd}: has a name that is not UTF-8, which GDAL needs; rename the file")


def test_where_every_tile_has_such_values_the_first_is_named(tmp_path):
    places = [((1, row, col), -3.4e38) for row in (3, 19) for col in (3, 19)]
    floats(tmp_path / "scenes", s0=places, s1=places)
    with pytest.raises(CatalogError) as caught:
        build_index(open_catalog(write_catalog(tmp_path, FLOATS)), "tiny")
    for part in ("datasets.tiny", "-3.4e+38 in green of ", "s0.tif", "declare `nodata`"):
        assert part in str(caught.value)
    text = FLOATS.replace("    tile:", "    nodata: -3.4e38\n    tile:")
    assert len(build_index(open_catalog(write_catalog(tmp_path, text)), "tiny")) == 8


def test_a_band_without_valid_pixels_has_no_figures(tmp_path):
    floats(tmp_path / "scenes", s0=[(2, np.nan)], s1=[(2, np.nan)])
    bands = build_index(open_catalog(write_catalog(tmp_path, FLOATS)), "tiny").statistics().to_dict()["bands"]
    assert bands["blue"] == {"count": 0, "mean": None, "std": None, "min": None, "max": None}
    assert 0.2 < bands["red"]["mean"] < 0.3


def test_a_scene_smaller_than_a_tile_is_left_out_and_named(tmp_path):
    shaped(tmp_path / "scenes", a=(64, 64), b=(10, 60), c=(64, 64))
    index, said = heard(write_catalog(tmp_path))
    assert len(index) == 32
    assert index.report.quarantined == frozenset({"b"})
    assert index.grids[1] is None
    assert said == ["tiny: 1 of 3 scenes cannot be used; `geomae catalog check --dataset tiny` lists them"]
    (problem,) = check_dataset(open_catalog(tmp_path / "data_catalog.yaml"), "tiny").report.problems
    assert (problem.scene, problem.kind) == ("b", "size")
    assert "b.tif: has 10 x 60 pixels, less than a tile of 16; " in problem.message


def test_small_scenes_do_not_count_against_what_may_be_quarantined(tmp_path):
    shaped(tmp_path / "scenes", a=(64, 64), b=(10, 60))
    assert len(build_index(open_catalog(write_catalog(tmp_path)), "tiny", max_quarantined=0.1)) == 16


def test_without_tile_a_scene_that_is_not_square_is_left_out_and_named(tmp_path):
    shaped(tmp_path / "scenes", a=(32, 32), b=(40, 48))
    index, _ = heard(write_catalog(tmp_path, WHOLE))
    assert index.tiles["tile_id"].tolist() == ["a:0:0"]
    (problem,) = index.report.problems
    assert "b.tif: has 40 x 48 pixels and is not square; add `tile: {size: 40}`" in problem.message


@pytest.mark.parametrize(("text", "parts"), [
    (changed_catalog("size: 16", "size: 512"), ("512 pixels is larger than b (40 x 48), and no other", "at most 40")),
    (WHOLE, ("b (40 x 48) is not square, and no other scene is square", "add `tile: {size: 40}`")),
])  # fmt: skip
def test_where_no_scene_fits_it_is_an_error(tmp_path, text, parts):
    shaped(tmp_path / "scenes", a=(10, 60), b=(40, 48))
    with pytest.raises(CatalogError) as caught:
        build_index(open_catalog(write_catalog(tmp_path, text)), "tiny")
    assert all(part in str(caught.value) for part in parts), str(caught.value)
