"""GeoParquet of embeddings opens in geopandas and DuckDB, and its footprints lie where the tiles do."""

import warnings

import duckdb
import geopandas
import numpy as np
import pyproj
import pytest
import shapely
import xarray
from helpers import CATALOG, write_catalog
from tiles.tile_indexes import tile_index

from geomae.catalog import open_catalog
from geomae.embeddings import tile_columns, write_geoparquet
from geomae.embeddings.geoparquet import footprints, without_footprint
from geomae.embeddings.store import ABOUT
from geomae.rasters import Grid, write_cog
from geomae.tiles.index import build_index

WIDTH = 5


@pytest.fixture(scope="session")
def index(tiny_catalog):
    return build_index(open_catalog(tiny_catalog), "tiny")


def store_of(index):
    """What `open_embeddings` would give."""
    columns = {name: ("tile", values) for name, values in tile_columns(index).items()}
    embedding = np.arange(len(index) * WIDTH, dtype=np.float32).reshape(-1, WIDTH)
    return xarray.Dataset({"embedding": (("tile", "feature"), embedding)}, coords=columns)


def exported(index, folder):
    path = folder / "embeddings.parquet"
    write_geoparquet(store_of(index), footprints(index), path)
    return path


def test_columns_of_an_index(index):
    columns = tile_columns(index)
    assert list(columns) == list(ABOUT)
    assert set(columns["crs"]) == {"EPSG:32632"}
    assert set(columns["dataset"]) == {"tiny"}
    assert set(columns["label"]) == {""}
    assert columns["file"][0] == "s0"
    np.testing.assert_array_equal(columns["x"], index.tiles["x"])
    assert columns["x"].dtype == np.float64


def test_geopandas_and_duckdb_read_it(index, tmp_path):
    path = exported(index, tmp_path)
    frame = geopandas.read_parquet(path)
    assert list(frame.columns) == [*ABOUT, "embedding", "geometry"]
    assert frame.crs == "EPSG:4326"
    np.testing.assert_array_equal(np.stack(frame["embedding"]), store_of(index)["embedding"])
    assert frame["embedding"].iloc[0].dtype == np.float32
    assert frame["tile_id"].tolist() == index.tiles["tile_id"].tolist()
    query = f"select tile_id, x, embedding[2] from read_parquet('{path}') order by y desc, x limit 1"
    assert duckdb.sql(query).fetchall() == [("s0:0:0", 400_040.0, 1.0)]
    assert duckdb.sql(f"select typeof(embedding) from '{path}' limit 1").fetchall() == [("FLOAT[]",)]


def test_footprints_lie_where_the_tiles_do(index, tmp_path):
    frame = geopandas.read_parquet(exported(index, tmp_path))
    assert frame.geometry.is_valid.all()
    back = frame.to_crs("EPSG:32632")
    np.testing.assert_allclose(back.area, 80.0**2, rtol=1e-6)  # 16 pixels of 5 m
    np.testing.assert_allclose(back.centroid.x, index.tiles["x"], atol=1e-3)
    np.testing.assert_allclose(back.centroid.y, index.tiles["y"], atol=1e-3)
    assert frame.total_bounds == pytest.approx((7.73, 45.14, 7.77, 45.15), abs=0.01)


def scenes(folder, crs, corner):
    transform = (5.0, 0.0, corner[0], 0.0, -5.0, corner[1]) if crs else None
    rng = np.random.default_rng(0)
    (folder / "scenes").mkdir()
    write_cog(
        folder / "scenes" / "s.tif", rng.integers(1, 99, (4, 32, 32)).astype(np.uint16), crs=crs, transform=transform
    )
    return build_index(open_catalog(write_catalog(folder, CATALOG)), "tiny")


def test_without_a_crs_the_geometry_is_null(tmp_path):
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", message=".*no geotransform.*")
        path = exported(scenes(tmp_path, None, (0, 0)), tmp_path)
    frame = geopandas.read_parquet(path)
    assert len(frame) == 4
    assert frame.geometry.isna().all()
    assert frame.crs == "EPSG:4326"
    assert frame["crs"].tolist() == [""] * 4
    assert duckdb.sql(f"select count(*) from '{path}' where geometry is null").fetchall() == [(4,)]


def test_a_tile_on_longitude_180_is_in_two_parts(tmp_path):
    x, y = pyproj.Transformer.from_crs(4326, 32660, always_xy=True).transform(180.0, -17.0)
    index = scenes(tmp_path, "EPSG:32660", (x - 100, y))
    frame = geopandas.read_parquet(exported(index, tmp_path))
    parts = frame.geometry[frame.geometry.geom_type == "MultiPolygon"]
    assert len(parts)
    assert (shapely.area(parts) < 1e-4).all()
    assert (np.abs(shapely.bounds(parts)[:, [0, 2]]) <= 180).all()
    assert frame.geometry.is_valid.all()


def outlines(crs, transform, size=16, tiles=((0, 0), (0, 16), (16, 0), (16, 16))):
    index = tile_index([Grid(32, 32, None, crs, transform)], [(0, row, col, size) for row, col in tiles])
    return footprints(index)


def to(source, target, *point):
    return pyproj.Transformer.from_crs(source, target, always_xy=True).transform(*point)


def on_the_sphere_km2(geometry):
    return abs(pyproj.Geod(ellps="WGS84").geometry_area_perimeter(geometry)[0]) / 1e6


X_180, Y_180 = to(4326, 3832, 180.0, -17.0)
ACROSS = {
    "an edge on 180": ("EPSG:3832", (10.0, 0, X_180 - 160, 0, -10.0, Y_180)),
    "an edge beside 180": ("EPSG:3832", (10.0, 0, X_180 - 160 + 1e-7, 0, -10.0, Y_180)),
    "within a tile": ("EPSG:3832", (10.0, 0, X_180 - 80, 0, -10.0, Y_180)),
    "degrees, an edge": ("EPSG:4326", (0.001, 0, 180 - 0.016, 0, -0.001, -17)),
    "degrees beyond -180": ("EPSG:4326", (0.001, 0, -180.02, 0, -0.001, -17)),
    "degrees of 0 to 360": ("EPSG:4326", (0.001, 0, 270.0, 0, -0.001, -17)),
    "degrees beyond 360": ("EPSG:4326", (0.001, 0, 359.99, 0, -0.001, -17)),
}


@pytest.mark.parametrize("crs_and_transform", ACROSS.values(), ids=ACROSS)
def test_footprints_at_180_are_valid_and_within_the_degrees_of_geojson(crs_and_transform):
    crs, transform = crs_and_transform
    found = outlines(crs, transform)
    assert shapely.is_valid(found).all()
    assert {one.geom_type for one in found} <= {"Polygon", "MultiPolygon"}
    west, south, east, north = shapely.total_bounds(found)
    assert -180 <= west <= east <= 180
    assert all(max(part.bounds[2] - part.bounds[0] for part in shapely.get_parts(one)) < 0.1 for one in found)
    a, _, _, _, e, _ = transform
    across, down = (a, -e) if crs == "EPSG:4326" else (a / X_180 * (180 - 150), None)
    expected = across * 16 * (down * 16 if down else north - south) / (1 if down else 2)
    np.testing.assert_allclose(shapely.area(found), expected, rtol=1e-3)


POLES = [
    ("EPSG:3413", (100.0, 0, -800.0, 0, -100.0, 800.0), ((0, 0),), 90),  # inside a tile
    ("EPSG:3413", (100.0, 0, -1600.0, 0, -100.0, 1600.0), ((0, 0), (0, 16), (16, 0), (16, 16)), 90),  # a corner
    ("EPSG:3413", (100.0, 0, -800.0, 0, -100.0, 1600.0), ((0, 0), (16, 0)), 90),  # on an edge
    ("EPSG:3031", (100.0, 0, -300.0, 0, -100.0, 1300.0), ((0, 0),), -90),
    ("EPSG:4326", (1.0, 0, -180.0, 0, -0.01, -90 + 0.16), ((0, 0),), -90),
    ("EPSG:4326", (22.5, 0, 0.0, 0, -0.01, 90.0), ((0, 0),), 90),  # all around
]


@pytest.mark.parametrize(("crs", "transform", "tiles", "pole"), POLES)
def test_footprints_at_the_poles_are_valid_and_as_large_as_the_tiles(crs, transform, tiles, pole):
    found = outlines(crs, transform, tiles=tiles)
    assert shapely.is_valid(found).all()
    west, south, east, north = shapely.total_bounds(found)
    assert -180 <= west <= east <= 180
    assert (north if pole > 0 else south) == pytest.approx(pole, abs=1e-3)
    for one, (row, col) in zip(found, tiles, strict=True):
        a, _, c, _, e, f = transform
        centre = to(crs, 4326, c + a * (col + 8), f + e * (row + 8))
        assert one.buffer(1e-9).covers(shapely.Point((centre[0] + 180) % 360 - 180, centre[1]))
        if crs != "EPSG:4326":
            scale = pyproj.Proj(crs).get_factors(0, pole * 0.9999).areal_scale
            square_km2 = (16 * 0.1) ** 2 / scale
            assert on_the_sphere_km2(shapely.segmentize(one, 0.5)) == pytest.approx(square_km2, rel=0.01)


@pytest.mark.parametrize("crs", ['LOCAL_CS["site",UNIT["metre",1]]', "+proj=longlat +R=1737400 +type=crs"])
def test_a_crs_without_a_place_on_earth_gives_no_footprint_and_it_is_said(crs):
    index = tile_index([Grid(32, 32, None, crs, (5.0, 0, 0, 0, -5.0, 0)), None], [(0, 0, 0, 16), (0, 16, 0, 16)])
    found = footprints(index)
    assert found.tolist() == [None, None]
    line = without_footprint(index, found)
    assert "\n" not in line
    assert line.startswith("d: 2 of 2 tiles have no geometry in the table, because the CRS of d/0.tif (")
    assert without_footprint(index, np.array([shapely.Point(0, 0)] * 2)) is None
