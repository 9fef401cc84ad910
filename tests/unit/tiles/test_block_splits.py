"""Splits by block share no ground wherever they lie: that of the pixels, each looked up in every other scene."""

from functools import cache
from types import SimpleNamespace

import numpy as np
import pandas as pd
import pyproj
import pytest
from helpers import CATALOG, write_catalog
from tile_indexes import grid, regular

from geomae.catalog import LEFT_OUT, open_catalog
from geomae.errors import CatalogError
from geomae.rasters import Grid, write_cog
from geomae.tiles.index import build_index
from geomae.tiles.splits import assign_splits

BLOCKS = CATALOG + "    split: {block_km: 2, fractions: {train: 0.6, test: 0.4}}\n"


def dealt(folder, grids, size=8, stride=8):
    """The tiles of scenes with their splits; those that are left out too."""
    tiles = [one for number, it in enumerate(grids) for one in regular(it.height, it.width, size, stride, number)]
    frame = pd.DataFrame(tiles, columns=["scene", "row", "col", "size"])
    scenes = tuple(SimpleNamespace(files=(f"{number}.tif",)) for number in range(len(grids)))
    catalog = open_catalog(write_catalog(folder, BLOCKS))
    labelled, kept = assign_splits(catalog, SimpleNamespace(name="tiny", scenes=scenes), grids, frame, frame)
    assert (kept == (labelled["split"] != LEFT_OUT)).all()
    return labelled


def shares(one, other, grids, points):
    """Which tiles of `one` share ground with one of `other`: points (share of the side) are looked up in the other."""
    return covered(one, other, grids, points).any(axis=1) | covered(other, one, grids, points).any(axis=0)


def covered(one, other, grids, points):
    """Which tiles of `one` (rows) hold a point that lies in a tile of `other` (columns), by longitude and latitude."""
    result = np.zeros((len(one), len(other)), dtype=bool)
    scene, row, col, size = other[["scene", "row", "col", "size"]].to_numpy().T
    for place, tile in enumerate(one.itertuples()):
        right, down = points * tile.size
        x, y = onto(grids[tile.scene].transform, tile.col + right, tile.row + down)
        lon, lat = to(grids[tile.scene].crs, 4326)(x, y)
        for number in np.unique(scene):
            mates = np.flatnonzero(scene == number)
            for turn in (-360, 0, 360):
                x, y = to(4326, grids[number].crs)(np.asarray(lon) + turn, lat)
                a, _, c, _, e, f = grids[number].transform
                right, down = (x - c) / a - col[mates, None], (y - f) / e - row[mates, None]
                within = (np.minimum(right, down) > 0) & (np.maximum(right, down) < size[mates, None])
                result[place, mates] |= within.any(axis=1)
    return result


CENTRES = np.stack(np.meshgrid(np.arange(0.5, 8) / 8, np.arange(0.5, 8) / 8)).reshape(2, -1)
ALONG, NEAR = np.linspace(0.001, 0.999, 300), np.full(300, 0.001)
EDGES = np.hstack([[ALONG, NEAR], [ALONG, 1 - NEAR], [NEAR, ALONG], [1 - NEAR, ALONG]])


def onto(transform, col, row):
    a, b, c, d, e, f = transform
    return a * col + b * row + c, d * col + e * row + f


@cache
def to(source, target):
    return pyproj.Transformer.from_crs(source, target, always_xy=True).transform


def utm(zone, lon, lat, side=24, step=200.0):
    x, y = to(4326, zone)(lon, lat)
    return grid(side, side, f"EPSG:{zone}", left=x - side * step / 2, top=y + side * step / 2, step=step)


AROUND_180 = [utm(32660, 180.0, 10.0), utm(32601, -180.0, 10.0)]
DEGREES = [grid(24, 24, "EPSG:4326", left=left, top=10.03, step=0.002) for left in (-180.02, 179.97, 539.975)]
X, Y = to(4326, 3832)(180, 10)
PACIFIC = [grid(24, 24, "EPSG:3832", left=X - 2400, top=Y + 2400, step=200), AROUND_180[0]]
NORTH = [grid(24, 24, crs, left=-2300, top=2500, step=200) for crs in ("EPSG:3413", "EPSG:3995")]
SOUTH = [
    grid(24, 24, "EPSG:3031", left=-2300, top=2500, step=200),
    Grid(16, 24, None, "EPSG:4326", (1.0, 0.0, -200.0, 0.0, -0.0015, -90 + 16 * 0.0015)),
]


@pytest.mark.parametrize(
    "grids", [AROUND_180, DEGREES, PACIFIC, NORTH, SOUTH], ids=["utm", "degrees", "3832", "north", "south"]
)
def test_splits_share_no_ground_at_180_and_at_the_poles(grids, tmp_path):
    tiles = dealt(tmp_path, grids)
    train, test, left_out = (tiles[tiles["split"] == one] for one in ("train", "test", LEFT_OUT))
    assert min(len(train), len(test), len(left_out)) > 0
    assert not shares(train, test, grids, CENTRES).any()
    assert shares(left_out, test, grids, EDGES).all()  # none is left out without a reason


@pytest.mark.parametrize("scene", [AROUND_180[0], DEGREES[0], DEGREES[2], PACIFIC[0], NORTH[0], SOUTH[1]])
def test_tiles_that_touch_share_no_ground(scene, tmp_path):
    assert LEFT_OUT not in set(dealt(tmp_path, [scene])["split"])


def test_a_tile_belongs_to_the_block_of_its_centre(tmp_path):
    scene = PACIFIC[0]
    tiles = dealt(tmp_path, [scene])
    a, _, c, _, e, f = scene.transform
    x_m, y_m = to("EPSG:3832", "EPSG:6933")(c + a * (tiles["col"] + 4), f + e * (tiles["row"] + 4))
    blocks = [f"{np.floor(x / 2000):.0f},{np.floor(y / 2000):.0f}" for x, y in zip(x_m, y_m, strict=True)]
    assert tiles["block"].tolist() == blocks


SITE = 'LOCAL_CS["site",UNIT["metre",1]]'
MOON = (
    'GEOGCS["Moon",DATUM["Moon",SPHEROID["Moon",1737400,0]],PRIMEM["Reference meridian",0],UNIT["degree",0.01745329]]'
)
HEIGHTS = 'VERT_CS["heights",VERT_DATUM["sea",2005],UNIT["metre",1],AXIS["Up",UP]]'


@pytest.mark.parametrize(
    ("crs", "why"),
    [
        (None, "1.tif has no CRS, so for 2 scenes;"),
        (SITE, "the CRS of 1.tif has no place on Earth (LOCAL_CS["),
        (MOON, "the CRS of 1.tif has no place on Earth (GEOGCS["),
        (HEIGHTS, "the CRS of 1.tif has no place on Earth (VERT_CS["),
        ("+proj=geos +h=35785831", "the tile at row 0, column 0 of 1.tif lies where its CRS has no place ("),
    ],
)
def test_without_a_place_on_earth_there_are_no_blocks(crs, why, tmp_path):
    lost = grid(8, 8, crs, left=9e6, top=9e6)
    with pytest.raises(CatalogError) as caught:
        dealt(tmp_path, [AROUND_180[0], lost, lost])
    message = str(caught.value)
    assert "\n" not in message
    for part in ("datasets.tiny.split: ", why, "split by `column`, `group` or `random` instead"):
        assert part in message


def test_a_tile_at_the_limb_of_the_globe_is_compared_by_what_is_on_it(tmp_path):
    geostationary = "+proj=geos +h=35785831 +lon_0=140"
    grids = [
        grid(8, 8, geostationary, left=5.25e6, top=1e5, step=25_000),  # a third of its outline is space
        grid(24, 128, "EPSG:4326", left=-154.0, top=1.3, step=0.1),
    ]
    tiles = dealt(tmp_path, grids)
    train, test, left_out = (tiles[tiles["split"] == one] for one in ("train", "test", LEFT_OUT))
    assert not shares(train, test, grids, CENTRES).any()
    assert shares(left_out, test, grids, EDGES).all()
    assert 0 in set(left_out["scene"])


def test_an_index_of_files_on_both_sides_of_180_has_no_ground_in_two_splits(tmp_path):
    (tmp_path / "scenes").mkdir()
    rng = np.random.default_rng(0)
    for number, scene in enumerate(AROUND_180):
        pixels_CHW = rng.integers(1000, 3000, (4, 24, 24)).astype(np.uint16)
        write_cog(tmp_path / "scenes" / f"{number}.tif", pixels_CHW, crs=scene.crs, transform=scene.transform)
    index = build_index(open_catalog(write_catalog(tmp_path, BLOCKS.replace("size: 16", "size: 8"))), "tiny")
    train, test = (index.tiles[index.tiles["split"] == one] for one in ("train", "test"))
    assert len(train) + len(test) == len(index) < 18
    assert not shares(train, test, index.grids, CENTRES).any()
    assert index.left_out == {"train tile overlaps another split": 18 - len(index)}
