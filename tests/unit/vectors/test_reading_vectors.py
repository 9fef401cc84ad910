"""Vector files: every format gives the same layer, one driver reads each, and what is wrong is said in one line."""

import json
import shutil
import sqlite3

import geopandas as gpd
import numpy as np
import pandas as pd
import pytest
import shapely

from geomae.catalog import open_catalog
from geomae.errors import CatalogError
from geomae.vectors.reading import DEGREES, read_vector, vector_file

POINTS = np.array([(500_000.0, 5_000_000.0), (500_100.0, 5_000_200.0), (500_300.0, 5_000_050.0)])


@pytest.fixture(scope="module")
def frame():
    """Three points in UTM 33 with columns of each kind, of which the last value is missing."""
    columns = {
        "name": ["wheat", "NA", None],
        "count": pd.array([1, 2, None], dtype="Int64"),
        "height": [1.5, 2.5, np.nan],
        "sown": pd.to_datetime(["2021-05-03", "2021-06-01", None]),
    }
    return gpd.GeoDataFrame(columns, geometry=shapely.points(POINTS), crs="EPSG:32633")


@pytest.fixture(scope="module")
def files(frame, tmp_path_factory):
    """The points in each format; GeoJSON is in degrees, as its standard demands."""
    folder = tmp_path_factory.mktemp("vectors")
    dates = frame.assign(sown=frame["sown"].dt.strftime("%Y-%m-%d").astype(object))
    dates.to_file(folder / "p.gpkg", layer="points")
    dates.to_file(folder / "p.shp")
    dates.to_crs(4326).to_file(folder / "p.geojson", driver="GeoJSON", COORDINATE_PRECISION=12)
    dates.to_crs(4326).to_file(folder / "p.geojsonl", driver="GeoJSONSeq", COORDINATE_PRECISION=12)
    shutil.copy(folder / "p.geojson", folder / "p.json")
    frame.to_parquet(folder / "p.parquet")
    table = pd.DataFrame({"x": POINTS[:, 0], "y": POINTS[:, 1], "crs": "EPSG:32633"})
    pd.concat([table, dates.drop(columns="geometry")], axis=1).to_csv(folder / "p.csv", index=False)
    return folder


@pytest.mark.parametrize("name", ["p.gpkg", "p.shp", "p.geojson", "p.geojsonl", "p.json", "p.parquet", "p.csv"])
def test_every_format_gives_the_same_layer(files, name):
    layer = read_vector(str(files / name), place="here")
    xy = shapely.get_coordinates(layer.geometries)
    if layer.crs != "EPSG:32633":
        assert layer.crs == "EPSG:4326"
        again = gpd.GeoSeries(layer.geometries, crs=layer.crs).to_crs("EPSG:32633")
        xy = shapely.get_coordinates(again.to_numpy())
    np.testing.assert_allclose(xy, POINTS, atol=1e-4)
    values = {column: layer.columns[column].tolist() for column in layer.columns}
    assert values["name"] == ["wheat", "NA", None]
    assert [None if one != one else one for one in values["count"]] == [1, 2, None]
    assert values["height"][:2] == [1.5, 2.5]
    assert np.isnan(values["height"][2])
    assert values["sown"] == ["2021-05-03", "2021-06-01", None]
    assert layer.kinds == {"points": 3}


@pytest.mark.filterwarnings("ignore:Series.values returning an ndarray that drops timezone")  # pyarrow, while it writes
def test_dates_and_instants_are_text_that_tells_them_apart(tmp_path):
    properties = {"day": "2021-05-03", "instant": "2021-05-03T10:00:00Z", "list": ["a"], "yes": True, "none": None}
    point = {"type": "Point", "coordinates": [9.0, 47.0, 400.0]}
    text = {"type": "FeatureCollection", "features": [{"type": "Feature", "properties": properties, "geometry": point}]}
    (tmp_path / "p.geojson").write_text(json.dumps(text), encoding="utf-8")
    layer = read_vector(str(tmp_path / "p.geojson"), place="here")
    row = {name: layer.columns[name].tolist()[0] for name in layer.columns}
    assert row == {"day": "2021-05-03", "instant": "2021-05-03T10:00:00Z", "yes": True, "none": None}
    assert layer.crs == "EPSG:4326"  # that of GeoJSON with heights, without them
    assert not shapely.has_z(layer.geometries).any()
    zoned = gpd.GeoDataFrame(
        {"at": pd.to_datetime(["2021-05-03T10:00+02:00"])}, geometry=[shapely.Point(9, 47)], crs=4326
    )
    zoned.to_parquet(tmp_path / "p.parquet")
    assert read_vector(str(tmp_path / "p.parquet"), place="here").columns["at"].tolist() == ["2021-05-03T08:00:00.000Z"]


def test_rows_of_a_table_may_differ_in_crs(tmp_path):
    (tmp_path / "p.csv").write_text("x,y,crs,c\n500000,0,EPSG:32633,1\n15,0,4326,2\n,,EPSG:4326,3\n", encoding="utf-8")
    layer = read_vector(str(tmp_path / "p.csv"), place="here")
    assert layer.crs == DEGREES
    np.testing.assert_allclose(shapely.get_coordinates(layer.geometries), [(15, 0), (15, 0)], atol=1e-9)
    assert layer.geometries[2] is None
    assert layer.columns.to_dict("list") == {"c": [1, 2, 3]}


def test_layers_are_chosen_by_name(frame, tmp_path):
    path = tmp_path / "p.gpkg"
    frame.iloc[:1].to_file(path, layer="plots")
    frame.iloc[1:].to_file(path, layer="trees")
    assert len(read_vector(str(path), layer="trees", place="here")) == 2
    refused(path, "has 2 layers (plots, trees); choose one with `layer`")
    refused(path, "the layer 'tres' does not exist; did you mean 'trees'?", layer="tres")


def test_a_changed_file_is_read_again(frame, tmp_path):
    path = tmp_path / "p.parquet"
    frame.to_parquet(path)
    first = read_vector(str(path), place="here")
    assert read_vector(str(path), place="here") is first
    frame.iloc[:2].to_parquet(path)
    assert len(read_vector(str(path), place="here")) == 2


def refused(path, *parts, layer=None):
    with pytest.raises(CatalogError) as caught:
        read_vector(str(path), layer=layer, place="catalog.yaml:7: datasets.d.windows.points")
    text = str(caught.value)
    assert text.startswith(f"catalog.yaml:7: datasets.d.windows.points: {path}")
    assert "\n" not in text
    for part in parts:
        assert part in text, text


def test_only_the_driver_of_the_suffix_opens_a_file(files, tmp_path):
    """GDAL would open each of these, and the first reads a file that it names."""
    vrt = f"<OGRVRTDataSource><OGRVRTLayer name='points'><SrcDataSource>{files}/p.gpkg</SrcDataSource></OGRVRTLayer>"
    for name in ("v.gpkg", "v.shp", "v.geojson", "v.parquet"):
        (tmp_path / name).write_text(f"{vrt}</OGRVRTDataSource>", encoding="utf-8")
        for suffix in (".shx", ".dbf", ".prj"):
            (tmp_path / "v").with_suffix(suffix).touch()
        refused(tmp_path / name, "but XML or HTML; rename or export it again")
    foreign = {
        "topo": {"type": "Topology", "objects": {}, "arcs": []},
        "esri": {"geometryType": "esriGeometryPoint", "features": [], "spatialReference": {"wkid": 4326}},
    }
    for name, content in foreign.items():
        (tmp_path / f"{name}.json").write_text(json.dumps(content), encoding="utf-8")
        refused(tmp_path / f"{name}.json", "cannot be read as GeoJSON")


@pytest.mark.parametrize(
    ("name", "content", "said"),
    [
        ("p.zip", b"PK\x03\x04", "is an archive; unpack it"),
        ("p.shp", b"PK\x03\x04", "is an archive; unpack it"),
        ("p.gpkg", b"", "is empty; fetch or export it again"),
        ("p.gpkg", b"SQLite format 3\0", "cannot be read as GeoPackage ("),
        ("p.geojson", b'{"type": "FeatureCollection", "features": []}', "holds no features"),
        ("p.geojson", b'{"type": "FeatureCollection", "features": [{', "cannot be read as GeoJSON ("),
        ("p.parquet", b"PAR1PAR1", "cannot be read as GeoParquet ("),
        ("p.kml", b"<kml/>", "vector files end in .gpkg, .geojson"),
        ("p.csv", b"x,y,c\n1,2,3\n", "has no column 'crs'; known: c, x, y (a table of points needs x, y and crs"),
        ("p.csv", b"lon,lat\n1,2\n", "has no column 'x'"),
        ("p.csv", b"x;y;crs\n1;2;3\n", "separates its columns by semicolons"),
        ("p.csv", b"x,y,crs\n1,2,EPSG:4326\n1,a,EPSG:4326\n", "line 3: y is 'a'; write a number"),
        ("p.csv", b"x,y,crs\n1,2,EPSG:4326\n1,2,\n", "line 3: the column 'crs' is empty"),
        ("p.csv", b"x,y,crs\n1,2,EPSG:99999\n", "line 2: its CRS is unknown"),
        ("p.csv", b"x,y,crs\n", "holds no feature"),
    ],
)
def test_what_is_wrong_with_a_file_is_said(tmp_path, name, content, said):
    (tmp_path / name).write_bytes(content)
    refused(tmp_path / name, said)


@pytest.mark.filterwarnings("ignore:'crs' was not provided")
def test_files_without_a_crs_or_a_sidecar_are_refused(frame, files, tmp_path):
    bare = frame[["name", "geometry"]].set_crs(None, allow_override=True)
    for name in ("p.gpkg", "p.parquet"):
        bare.to_parquet(tmp_path / name) if name.endswith("t") else bare.to_file(tmp_path / name)
        refused(tmp_path / name, "does not say its CRS; assign its CRS in a GIS and export it again")
    for suffix in (".shp", ".shx", ".DBF"):
        shutil.copy(files / f"p{suffix.lower()}", tmp_path / f"p{suffix}")
    refused(tmp_path / "p.shp", "a Shapefile is several files, and .prj (its CRS) is missing; copy all of them")
    shutil.copy(files / "p.prj", tmp_path / "p.prj")
    assert len(read_vector(str(tmp_path / "p.shp"), place="here")) == 3
    refused(files / "p.csv", "CSV has no layers; remove `layer`", layer="points")


def test_a_layer_without_geometries_is_named(files, tmp_path):
    shutil.copy(files / "p.gpkg", tmp_path / "p.gpkg")
    with sqlite3.connect(tmp_path / "p.gpkg") as base:
        base.execute("CREATE TABLE notes (fid INTEGER PRIMARY KEY, note TEXT)")
        base.execute(
            "INSERT INTO gpkg_contents (table_name, data_type, identifier) VALUES ('notes', 'attributes', 'n')"
        )
    base.close()
    assert read_vector(str(tmp_path / "p.gpkg"), place="here").layer == "points"
    refused(tmp_path / "p.gpkg", "the layer 'notes' has no geometries; known: points", layer="notes")


def test_points_where_polygons_are_needed(files):
    layer = read_vector(str(files / "p.gpkg"), place="here")
    layer.require("points", "here", "")
    with pytest.raises(CatalogError, match=r"^here: .*p\.gpkg holds 3 points where polygons are needed; use them so$"):
        layer.require("polygons", "here", "use them so")


def test_the_file_of_an_entry_stays_in_its_folder(files, tmp_path):
    shutil.copy(files / "p.gpkg", tmp_path / "plots.gpkg")
    text = "version: 1\ndatasets:\n  d:\n    path: s.tif\n    sensor: naip\n"
    (tmp_path / "c.yaml").write_text(text, encoding="utf-8")
    catalog = open_catalog(tmp_path / "c.yaml")
    assert vector_file(catalog, "d", "plots.gpkg", "windows") == str(tmp_path / "plots.gpkg")
    for path, said in (
        ("../plots.gpkg", "leaves the catalogue's folder"),
        ("https://example.org/p.gpkg", "vector files are read from local disks only"),
        ("plot.gpkg", "there is no file 'plot.gpkg'"),
    ):
        with pytest.raises(CatalogError, match=said):
            vector_file(catalog, "d", path, "windows")
