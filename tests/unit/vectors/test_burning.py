"""Polygons on the grids of scenes: which pixels they cover, wherever they come from and however the grid lies."""

import numpy as np
import pyproj
import pytest
import shapely
from rasterio import Affine, features

from geomae.rasters import Grid, Window
from geomae.vectors.burning import Layer, meets, scene_polygons
from geomae.vectors.shapes import areas_m2, mended

UTM = "EPSG:32632"
NORTH = Affine(10, 0, 5e5, 0, -10, 5e6)
AFFINES = {
    "north": NORTH,
    "south-up": Affine(10, 0, 5e5, 0, 10, 5e6),
    "rotated": Affine.translation(5e5, 5e6) @ Affine.rotation(31) @ Affine.scale(10, -10),
    "mirrored": Affine(-10, 0, 5e5, 0, -10, 5e6),
}


def grid_of(affine, side=60, crs=UTM, height=None):
    return Grid(height or side, side, 10.0, crs, tuple(affine)[:6])


def moved(shapes, source, target):
    change = pyproj.Transformer.from_crs(source, target, always_xy=True)
    return shapely.transform(np.array(shapes, dtype=object), lambda points: np.stack(change.transform(*points.T), 1))


def burnt(shapes, crs, grid, window=None, **how):
    """The number of the shape that each pixel lies in."""
    layer = Layer(np.array(shapes, dtype=object), crs)
    return scene_polygons(layer, grid).features(window or Window(0, 0, grid.height, grid.width), **how)


def by_centre(shape, crs, grid):
    """Which pixels have their centre in a shape, each centre brought to the shape's CRS exactly."""
    col, row = np.meshgrid(np.arange(grid.width) + 0.5, np.arange(grid.height) + 0.5)
    x, y = Affine(*grid.transform) @ (col, row)
    x, y = pyproj.Transformer.from_crs(grid.crs, crs, always_xy=True).transform(x, y)
    return shapely.contains_xy(shape, x, y)


@pytest.mark.parametrize("crs", [UTM, "OGC:CRS84"])
@pytest.mark.parametrize("kind", AFFINES)
def test_the_polygons_of_a_raster_give_it_back(kind, crs):
    codes = np.kron(np.random.default_rng(0).integers(1, 4, (10, 10)), np.ones((6, 6))).astype(np.int32)
    found = list(features.shapes(codes, transform=AFFINES[kind]))
    shapes, values = [shapely.geometry.shape(one) for one, _ in found], np.array([int(value) for _, value in found])
    shapes = moved(shapes, UTM, crs) if crs != UTM else shapes
    window = Window(7, 11, 40, 37)
    number = burnt(shapes, crs, grid_of(AFFINES[kind]), window)
    assert (values[number] == codes[7:47, 11:48]).all()
    assert (number >= 0).all()


@pytest.mark.parametrize("turn", [-360, 0, 360])
def test_longitudes_go_round(turn):
    grid = grid_of(NORTH)
    square = moved([shapely.box(500_100, 4_999_800, 500_300, 4_999_900)], UTM, "EPSG:4326")
    number = burnt(shapely.transform(square, lambda points: points + (turn, 0)), "EPSG:4326", grid)  # noqa: RUF005
    assert (np.argwhere(number == 0).min(0).tolist(), int((number == 0).sum())) == ([10, 10], 200)


@pytest.mark.parametrize(("left", "crs"), [(-180.5, "EPSG:4326"), (179.5, "OGC:CRS84")])
def test_a_grid_across_longitude_180_takes_polygons_of_either_side_and_of_another_crs(left, crs):
    grid = grid_of(Affine(0.05, 0, left, 0, -0.05, 0.5), 20, crs)
    both = shapely.MultiPolygon([shapely.box(179.7, -0.2, 180, 0.2), shapely.box(-180, -0.2, -179.7, 0.2)])
    assert np.argwhere(burnt([both], "EPSG:4326", grid) == 0).tolist() == [
        [row, col] for row in range(6, 14) for col in range(4, 16)
    ]
    utm = moved([shapely.box(179.7, -0.2, 180.3, 0.2)], "EPSG:4326", "EPSG:32660")
    assert (burnt(utm, "EPSG:32660", grid) == burnt([both], "EPSG:4326", grid)).mean() > 0.99
    assert (burnt([shapely.box(170, -5, 190, 5)], "EPSG:4326", grid) == 0).all()


def test_the_edges_of_a_large_polygon_in_degrees_are_bent_in_utm():
    """A straight edge of six degrees lies kilometres off where it was bent."""
    grid = grid_of(Affine(2000, 0, 2e5, 0, -2000, 6_700_000), 300)
    shape = shapely.Polygon([(6, 55), (12, 59.9), (12, 55.1), (6.2, 54.9)])
    wanted = by_centre(shape, "EPSG:4326", grid)
    assert 3000 < wanted.sum() < 60_000
    assert ((burnt([shape], "EPSG:4326", grid) == 0) != wanted).sum() <= 2  # an edge may pass by a centre
    straight = moved([shape], "EPSG:4326", UTM)
    assert ((burnt(straight, UTM, grid) == 0) != wanted).sum() > 100


def test_a_polygon_that_reaches_where_the_projection_has_no_place_is_cut():
    world = shapely.box(-180, -90, 180, 90)
    assert (burnt([world], "EPSG:4326", grid_of(NORTH)) == 0).all()
    assert (burnt([shapely.box(-180, 0, 179, 80)], "OGC:CRS84", grid_of(NORTH, crs="EPSG:3857")) == 0).sum() > 0


def test_the_smaller_of_two_polygons_wins_by_area_on_the_ground():
    """In degrees the northern one is wider, on the ground it is smaller."""
    grid = grid_of(Affine(0.05, 0, 0, 0, -0.05, 70), 100, "EPSG:4326", height=1400)
    north, south = shapely.box(0, 0, 4, 70), shapely.box(1, 0, 2, 10)
    assert burnt([north, south], "EPSG:4326", grid)[1300, 30] == 1
    tall, low = shapely.box(0, 55, 3, 70), shapely.box(0, 45, 2, 60)  # 45 and 30 square degrees
    assert areas_m2(np.array([tall, low]), "EPSG:4326")[0] > areas_m2(np.array([tall, low]), "EPSG:4326")[1]
    wide, equator = shapely.box(0, 60, 1, 70), shapely.box(0, 59, 0.9, 69.1)
    number = burnt([wide, equator], "EPSG:4326", grid)
    assert number[100, 5] == int(np.argmin(areas_m2(np.array([wide, equator]), "EPSG:4326")))
    assert burnt([equator, equator], "EPSG:4326", grid)[100, 5] == 0  # of equal ones the first in the file


def test_areas_are_those_on_the_ground():
    square = shapely.box(179, 0, 181, 1)
    geod = pyproj.Geod(ellps="WGS84")
    wanted = abs(geod.geometry_area_perimeter(shapely.box(0, 0, 2, 1))[0])
    assert areas_m2(np.array([square, shapely.box(-1, 0, 1, 1)]), "EPSG:4326") == pytest.approx(wanted, rel=2e-4)


def test_pixels_in_polygons_of_different_classes_are_counted():
    shapes = [
        shapely.box(0, 0, 10, 10),
        shapely.box(5, 0, 15, 10),
        shapely.box(5, 5, 10, 20),
        shapely.box(30, 30, 40, 40),
    ]
    grid = Grid(60, 60, 1.0, UTM, (1, 0, 0, 0, 1, 0))
    here = scene_polygons(Layer(np.array(shapes, dtype=object), UTM), grid)
    contested = here.contested(Window(0, 0, 60, 60), np.array([0, 1, 0, 1], dtype=np.int32))
    assert np.argwhere(contested).tolist() == [[row, col] for row in range(10) for col in range(5, 10)]
    assert not here.contested(Window(0, 0, 60, 60), np.zeros(4, dtype=np.int32)).any()


def test_all_touched_takes_the_pixels_of_the_border():
    square = [shapely.box(2.6, 2.6, 4.4, 4.4)]
    grid = Grid(8, 8, 1.0, UTM, (1, 0, 0, 0, 1, 0))
    assert (burnt(square, UTM, grid) == 0).sum() == 1
    assert (burnt(square, UTM, grid, all_touched=True) == 0).sum() == 9


def test_invalid_polygons_are_repaired_and_counted():
    bow = shapely.Polygon([(0, 0), (4, 4), (4, 0), (0, 4)])
    with_spike = shapely.Polygon([(0, 0), (4, 0), (4, 4), (4, 0), (8, 0), (8, 8), (0, 8)])
    whole, repaired = mended(np.array([bow, shapely.box(0, 0, 1, 1), with_spike, None], dtype=object))
    assert repaired == 2
    assert shapely.is_valid(whole[:3]).all()
    assert set(shapely.get_type_id(whole[:3]).tolist()) <= {3, 6}
    assert shapely.area(whole[0]) == 8


def test_a_large_polygon_is_cut_to_the_window_and_covers_the_same_pixels():
    angle = np.linspace(0, 2 * np.pi, 3001)[:-1]
    star = shapely.Polygon(np.stack([np.cos(angle), np.sin(angle)], 1) * (20 + 8 * np.sin(9 * angle))[:, None] + 30)
    grid = Grid(60, 60, 1.0, UTM, (1, 0, 0, 0, 1, 0))
    whole = burnt([star], UTM, grid)
    assert (burnt([star], UTM, grid, Window(13, 21, 20, 20)) == whole[13:33, 21:41]).all()
    assert ((whole == 0) == by_centre(star, UTM, grid)).all()


def test_what_meets_a_scene_is_told_by_its_extent():
    grid, box = grid_of(NORTH), shapely.box(5e5, 4.9995e6, 5.003e5, 5e6)
    assert meets(Layer(np.array([box, None], dtype=object), UTM), grid)
    assert not meets(Layer(np.array([shapely.box(0, 0, 1, 1)]), UTM), grid)
    assert not meets(Layer(moved([box], UTM, "EPSG:4326")[:0], "EPSG:4326"), grid)
    assert (burnt([shapely.box(0, 0, 1, 1)], UTM, grid) == -1).all()
