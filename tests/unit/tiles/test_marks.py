"""Labels as marks in tiles: polygons and points come out where they are on the tile's own grid."""

import numpy as np
import pytest

from geomae.catalog import open_catalog
from geomae.reports.canvas import COLOURS, REST_COLOUR
from geomae.reports.label_marks import class_colours
from geomae.tiles.index import build_index
from geomae.tiles.marks import Mark, tile_marks, with_marks
from tests.unit.discovery.test_vectors import folder, squares  # noqa: F401

CATALOG = """\
version: 1
datasets:
  d:
    path: in/a.tif
    sensor: sentinel-2-l2a
    bands: [B02, B03, B04, B08]
    tile: {size: 32}
    label: {vector: {path: in/fields.geojson, column: class}}
"""


@pytest.fixture
def index(folder):  # noqa: F811
    places, classes = [(4, 6), (34, 0), (60, 60)], ["oak", "elm", "oak"]
    (folder / "fields.geojson").write_text(squares(places, 10, **{"class": classes}))
    path = folder.parent / "data_catalog.yaml"
    path.write_text(CATALOG)
    return build_index(open_catalog(path), "d")


def test_outlines_are_in_pixels_of_the_tile_and_carry_their_class(index):
    assert index.tiles[["row", "col"]].to_numpy().tolist() == [[0, 0], [0, 32], [32, 0], [32, 32]]
    (first,), (second,), (fourth,) = (tile_marks(index, position) for position in (0, 1, 3))
    assert (first.name, second.name, fourth.name) == ("oak", "elm", "oak")
    np.testing.assert_allclose([first.xy_V2.min(axis=0), first.xy_V2.max(axis=0)], [[4, 6], [14, 16]], atol=0.01)
    np.testing.assert_allclose(fourth.xy_V2.min(axis=0), [28, 28], atol=0.01)
    assert fourth.xy_V2.max() > 32  # beyond the tile and the scene
    assert tile_marks(index, 2) == []
    assert with_marks(index).tolist() == [0, 1, 3]


def test_points_are_marked_in_every_tile_that_they_lie_in(folder):  # noqa: F811
    places, classes = [(20, 20), (24, 18), (50, 40)], ["oak", "elm", "oak"]
    (folder / "points.geojson").write_text(squares(places, 0, **{"class": classes}))
    path = folder.parent / "data_catalog.yaml"
    points = "    windows: {points: in/points.geojson, size: 16}\n    label: {column: class}\n"
    path.write_text(CATALOG.partition("    tile:")[0] + points)
    index = build_index(open_catalog(path), "d")
    found = [[(mark.name, mark.xy_V2.tolist()) for mark in tile_marks(index, one)] for one in range(3)]
    assert found[2] == [("oak", [[8.5, 8.5]])]
    assert found[0] == [("oak", [[8.5, 8.5]]), ("elm", [[12.5, 6.5]])]


def test_the_most_frequent_classes_have_colours_of_their_own():
    many = [[Mark(f"c{number}", np.zeros((1, 2)))] for number in range(9)] + [[Mark("c8", np.zeros((1, 2)))]]
    colours = class_colours(many)
    assert next(iter(colours)) == "c8" and [*colours.values()][:7] == list(COLOURS)
    assert colours["c7"] == REST_COLOUR
