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

from geomae.catalog import open_catalog
from geomae.embeddings import tile_columns, write_geoparquet
from geomae.embeddings.geoparquet import footprints
from geomae.embeddings.store import ABOUT
from geomae.rasters import write_cog
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
