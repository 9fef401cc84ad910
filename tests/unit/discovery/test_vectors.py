"""Which columns look like classes, and what `infer_catalog` makes of vector files beside rasters."""

import json

import numpy as np
import pandas as pd
import pytest

from geomae.catalog import open_catalog
from geomae.discovery.draft_catalog import infer_catalog
from geomae.discovery.vectors import class_columns, group_column
from geomae.rasters import write_cog
from geomae.tiles.dataset_check import check_dataset

LEFT, TOP = 500_000.0, 5_000_000.0


def squares(places_px, size_px=16, crs="EPSG:32632", **columns):
    """GeoJSON of squares, or of points where `size_px` is 0, at pixels of the raster."""
    features = []
    for number, (col, row) in enumerate(places_px):
        x, y, side = LEFT + 10 * col, TOP - 10 * row, 10 * size_px
        ring = [[x, y], [x + side, y], [x + side, y - side], [x, y - side], [x, y]]
        shape = {"type": "Polygon", "coordinates": [ring]} if side else {"type": "Point", "coordinates": [x, y]}
        properties = {name: values[number] for name, values in columns.items()}
        features.append({"type": "Feature", "properties": properties, "geometry": shape})
    crs = {"type": "name", "properties": {"name": f"urn:ogc:def:crs:{crs.replace(':', '::')}"}}
    return json.dumps({"type": "FeatureCollection", "crs": crs, "features": features})


@pytest.fixture
def folder(tmp_path):
    """A raster of 64 pixels with the names of Sentinel-2."""
    pixels_CHW = np.random.default_rng(0).integers(500, 3000, (4, 64, 64)).astype(np.uint16)
    names = ("B02", "B03", "B04", "B08")
    transform = (10.0, 0.0, LEFT, 0.0, -10.0, TOP)
    write_cog(tmp_path / "in/a.tif", pixels_CHW, crs="EPSG:32632", transform=transform, descriptions=names)
    return tmp_path / "in"


def drafted(folder):
    """The catalogue as `init` writes it, opened, and its text."""
    path = folder.parent / "data_catalog.yaml"
    path.write_text(infer_catalog(folder, path).text(), encoding="utf-8")
    return open_catalog(path), path.read_text(encoding="utf-8")


def test_columns_that_look_like_classes_come_by_name_then_text_then_numbers():
    table = pd.DataFrame(
        {
            "fid": range(60),
            "code": [number % 5 for number in range(60)],
            "owner": ["Ann", "Bo"] * 30,
            "LC_type": [f"t{number % 3}" for number in range(60)],
            "name": [f"n{number}" for number in range(60)],
            "plot": [f"p{number % 6}" for number in range(60)],
            "height": np.linspace(0, 1, 60),
            "same": ["x"] * 60,
        }
    )
    assert class_columns(table) == ("LC_type", "owner", "code")
    assert group_column(table, ("LC_type",)) == "plot"
    assert group_column(table.drop(columns="plot"), ()) == "fid"
    assert group_column(table.drop(columns=["plot", "fid"]).assign(id=table["code"]), ()) is None  # a code of classes
    assert class_columns(pd.DataFrame({"year": [2020, 2021] * 5, "class_id": [1, 2] * 5})) == ("class_id",)


def test_polygons_without_a_column_of_fields_are_groups_by_their_number(folder):
    places = [(0, 0), (32, 0), (0, 32), (32, 32)]
    (folder / "fields.geojson").write_text(squares(places, 32, cls=["a", "b", "a", "b"], id=[1, 2, 1, 2]))
    assert "within one split: group: {column: polygon}" in drafted(folder)[1]


def test_polygons_beside_a_raster_become_labels_that_check_accepts(folder):
    places = [(0, 0), (32, 0), (0, 32), (32, 32)]
    text = squares(places, 32, kind=["a", "b", "a", "b"], crop=["x", "x", "y", "y"], field=[1, 2, 3, 4])
    (folder / "fields.geojson").write_text(text)
    (folder / "far.geojson").write_text(squares([(5000, 5000)] * 3, crop=["x", "y", "y"]))
    (folder / "damaged.gpkg").write_bytes(b"nothing")
    catalog, text = drafted(folder)
    label = catalog.entry("in").label
    assert label.vector.path == "in/fields.geojson" and label.vector.column == "crop"
    assert "check: assumed to hold the classes of 4 polygons: x, y" in text
    assert "other columns that could be classes: kind" in text and "group: {column: field}" in text
    assert "far.geojson: its polygons lie on no raster here" in text and "not in the catalogue: damaged.gpkg: " in text
    checked = check_dataset(catalog, "in")
    assert checked.error is None and set(checked.tiles.tiles["label"]) <= {"x", "y", None}


def test_points_beside_a_raster_become_windows_that_check_accepts(folder):
    places = [(16, 16), (40, 20), (20, 40), (2, 2)]  # the tile of the first begins in the corner
    (folder / "plots.geojson").write_text(squares(places, 0, label=[3, 4, 4, 3], plot=[1, 1, 2, 2]))
    catalog, text = drafted(folder)
    grid, entry = catalog.entry("in"), catalog.entry("in_points")
    assert (grid.tile.size, grid.windows, grid.label) == (64, None, None)
    assert (entry.windows.points, entry.windows.size, entry.label.column) == ("in/plots.geojson", 32, "label")
    assert (entry.tile, entry.path, entry.bands) == (None, grid.path, grid.bands)
    assert catalog.default == ("in",)  # a command without a data set, as `pretrain`, takes the whole scenes
    assert "check: assumed to hold the classes of 4 points, 3 of them with a whole window in a scene: 3, 4" in text
    checked = check_dataset(catalog, "in_points")
    assert checked.error is None and checked.tiles.tiles["label"].tolist() == ["3", "4", "4"]
    assert len(check_dataset(catalog, "in").tiles) == 1


def test_what_cannot_be_classes_is_named_in_a_comment(folder):
    (folder / "trees.geojson").write_text(squares([(9, 9), (40, 40)], 4, height=[1.5, 2.5]))
    catalog, text = drafted(folder)
    assert catalog.entry("in").label is None
    assert "in/trees.geojson has 2 polygons here, and no column that looks like classes (columns: height)" in text


def test_folders_without_vectors_stay_as_they_were(folder):
    (folder / "table.csv").write_text("a,b\n1,2\n")
    (folder / "settings.json").write_text("{}")
    assert "vector" not in drafted(folder)[1]


def test_dates_in_names_become_a_pattern_and_names_of_products_a_comment(folder):
    first = (folder / "a.tif").read_bytes()
    for number, name in enumerate(("north_20210607", "north_20210901"), start=1):
        pixels_CHW = np.random.default_rng(number).integers(500, 3000, (4, 64, 64)).astype(np.uint16)
        corner = (10.0, 0.0, LEFT, 0.0, -10.0, TOP)
        names = ("B02", "B03", "B04", "B08")
        write_cog(folder / f"{name}.tif", pixels_CHW, crs="EPSG:32632", transform=corner, descriptions=names)
    assert "time:" not in drafted(folder)[1]  # a.tif has no date
    (folder / "a.tif").unlink()
    catalog, text = drafted(folder)
    assert catalog.entry("in").time.pattern == "%Y%m%d" and "2021-06-07 to 2021-09-01" in text
    checked = check_dataset(catalog, "in")
    assert checked.error is None and set(checked.tiles.attributes["time"]) == {"2021-06-07", "2021-09-01"}
    (folder / "north_20211130.tif").write_bytes(first)
    (folder / "north_20211201.tif").write_bytes(first)  # the same bytes: one of the two days is wrong
    doubled = check_dataset(drafted(folder)[0], "in")
    assert set(doubled.tiles.attributes["time"]) == {"2021-06-07", "2021-09-01", "2021-11-30"}
    assert [one.kind for one in doubled.report.problems] == ["duplicate"]
    for path in folder.glob("*.tif"):
        path.rename(folder / f"S2A_MSIL2A_{path.stem[-8:]}T101031_N0500_R022_T32TPS_20230131T000000.tif")
    assert "# the file names have acquisition dates: times are 2021-06-07" in drafted(folder)[1]
