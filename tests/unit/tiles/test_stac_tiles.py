"""Tiles of STAC items are those of the same pixels as plain files, to the bit, wherever items and files lie."""

import functools
import shutil

import numpy as np
import pandas as pd
import pytest
import rasterio
from stac_documents import RangeHandler, item_of, serving, write_collection, write_lines, write_static, write_table

from geomae.catalog import open_catalog
from geomae.errors import CatalogError
from geomae.rasters import read
from geomae.rasters.grids import Window
from geomae.tiles.index import build_index
from geomae.tiles.sample_landscape import BANDS, landscape

PLAIN = "path: 'land/*.tif', scale: 0.0001, offset: 0, nodata: 0, time: {column: day}, table: {path: t.csv, key: k}"
SHARED = f"sensor: sentinel-2-l2a, bands: [{', '.join(BANDS)}], tile: {{size: 16}}"


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    """A catalogue's folder with two scenes of the sample landscape, as files and as items of every kind."""
    folder = tmp_path_factory.mktemp("stac")
    (folder / "land").mkdir()
    rasters = []
    for path in sorted(landscape(size=64, scenes=1).glob("*.tif")):
        rasters.append(folder / "land" / path.name)
        shutil.copyfile(path, rasters[-1])
    (folder / "t.csv").write_text("k,day\n" + "".join(f"{one.stem},2021-06-07T10:30:00Z\n" for one in rasters))
    items = [item_of(one, "land/", version=version) for one, version in zip(rasters, ("1.0.0", "1.1.0"), strict=True)]
    write_collection(folder / "i.json", items)
    write_lines(folder / "i.ndjson", items)
    write_table(folder / "i.parquet", items)
    write_static(folder / "static", [item_of(one, "../land/") for one in rasters])
    return folder


def index(folder, source, shared=SHARED):
    (folder / "c.yaml").write_text(f"version: 1\ndatasets:\n  d: {{{source}, {shared}}}\n")
    return build_index(open_catalog(folder / "c.yaml"), "d")


def pixels(tiles):
    """(pixels, valid) of every tile."""
    columns = (tiles.tiles[name].tolist() for name in ("scene", "row", "col", "size"))
    places = [(scene, Window(row, col, size, size)) for scene, row, col, size in zip(*columns, strict=True)]
    found = [read(tiles.source, tiles.source.scenes[scene], window) for scene, window in places]
    return [np.stack(one) for one in zip(*found, strict=True)]


@pytest.fixture(scope="module")
def plain(folder):
    tiles = index(folder, PLAIN)
    return tiles, pixels(tiles)


def same(tiles, plain):
    expected, values = plain
    pd.testing.assert_frame_equal(tiles.tiles, expected.tiles)
    dates = ["time", "year", "month", "doy"]
    pd.testing.assert_frame_equal(tiles.attributes[dates], expected.attributes[dates])
    for one, other in zip(pixels(tiles), values, strict=True):
        np.testing.assert_array_equal(one, other)
    own, other = (vars(one.statistics()) for one in (tiles, expected))
    for name in own.keys() - {"digest"}:  # that of remote files is of their headers
        np.testing.assert_array_equal(own[name], other[name])


@pytest.mark.parametrize("items", ["i.json", "i.ndjson", "i.parquet", "static/catalog.json"])
def test_tiles_of_items_are_those_of_files(folder, plain, items):
    tiles = index(folder, f"stac: {{items: {items}}}")
    same(tiles, plain)
    assert tiles.content() == plain[0].content()


def test_tiles_over_http_are_those_of_files(folder, plain):
    rasters = sorted((folder / "land").glob("*.tif"))
    with serving(functools.partial(RangeHandler, directory=folder)) as url:
        write_collection(folder / "remote.json", [item_of(one, f"{url}/land/") for one in rasters])
        same(index(folder, "stac: {items: remote.json}, remote: true"), plain)


def test_items_whose_files_are_gone_are_quarantined_and_counted(folder):
    rasters = sorted((folder / "land").glob("*.tif"))
    items = [item_of(rasters[0], "land/"), item_of(rasters[1], "gone/")]
    write_collection(folder / "some.json", items)
    tiles = index(folder, "stac: {items: some.json}")
    assert tiles.report.quarantined == {rasters[1].stem}
    assert set(tiles.tiles["scene"]) == {0}
    assert "1 of 2 scenes cannot be used" in tiles.notes()[0]
    write_collection(folder / "some.json", items[1:])
    with pytest.raises(CatalogError, match=rf"d: the audit quarantines every scene.*{rasters[1].name}: cannot be read"):
        index(folder, "stac: {items: some.json}")


@pytest.mark.parametrize(
    ("change", "expected"),
    [
        ({"proj:epsg": 4326}, "has EPSG:32633, and its item says EPSG:4326; correct the CRS in the item, or the link"),
        ({"proj:epsg": None, "proj:wkt2": "x"}, "has EPSG:32633, and its item says x; correct the CRS in the item"),
        ({"proj:shape": [64, 60]}, "has 64 x 64 pixels, and its item says 64 x 60 pixels; correct the shape"),
    ],
)
def test_a_file_that_lies_elsewhere_than_its_item_says_is_an_error(folder, change, expected):
    raster = min((folder / "land").glob("*.tif"))
    item = item_of(raster, "land/")
    item["assets"]["image"] |= change
    write_collection(folder / "wrong.json", [item])
    with rasterio.open(raster) as dataset:
        expected = expected.replace("EPSG:32633", dataset.crs.to_string())
    with pytest.raises(CatalogError) as caught:
        index(folder, "stac: {items: wrong.json}")
    assert expected in str(caught.value)
    assert f"c.yaml:3: datasets.d: scene {raster.stem}: {folder}/land/{raster.name}" in str(caught.value)


def test_properties_of_items_are_attributes(folder):
    items = [
        item_of(one, "land/", **{"eo:cloud_cover": cloud, "platform": "s2a"})
        for one, cloud in zip(sorted((folder / "land").glob("*.tif")), (3.5, 70), strict=True)
    ]
    write_collection(folder / "cloudy.json", items)
    source = "stac: {items: cloudy.json}, where: '`eo:cloud_cover` < 10 and platform == \"s2a\" and year == 2021'"
    assert set(index(folder, source).tiles["scene"]) == {0}
