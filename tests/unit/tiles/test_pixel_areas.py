"""The area of pixels: in degrees that of the ellipsoid, in a projection its own but for the scale, and turned alike."""

import numpy as np
import pytest
from pyproj import Geod

from geomae.rasters import Grid
from geomae.tiles.pixel_areas import pixel_hectares

EVERY_ROW = slice(None)


def geodesic_hectares(west, south, east, north):
    """The area between two meridians and two parallels, whose edges are followed in many steps."""
    along = np.linspace(0, 1, 200)
    longitude = np.concatenate([west + along * (east - west), east - along * (east - west)])
    latitude = np.concatenate([np.full(200, south), np.full(200, north)])
    return abs(Geod(ellps="WGS84").polygon_area_perimeter(longitude, latitude)[0]) / 1e4


@pytest.mark.parametrize("step", [-0.5, 0.5], ids=["north-up", "south-up"])
def test_pixels_in_degrees_shrink_towards_the_pole_as_on_the_ellipsoid(step):
    top = 70.0 if step < 0 else 40.0
    area = pixel_hectares(Grid(60, 300, None, "EPSG:4326", (0.5, 0, -20.0, 0, step, top)), EVERY_ROW)
    assert area.shape == (60, 300)
    for row in (0, 31, 59):
        edges = sorted((top + row * step, top + (row + 1) * step))
        assert area[row, [0, 200, 299]] == pytest.approx(geodesic_hectares(0, edges[0], 0.5, edges[1]), rel=1e-5)


def test_a_pixel_on_longitude_180_is_as_large_as_its_neighbours():
    area = pixel_hectares(Grid(2, 8, None, "EPSG:4326", (0.1, 0, 179.55, 0, -0.1, 10.0)), EVERY_ROW)
    assert area[0] == pytest.approx(area[0, 0])


@pytest.mark.parametrize("step", [-0.25, 0.25], ids=["north-up", "south-up"])
def test_pixels_that_reach_beyond_a_pole_have_the_area_up_to_it(step):
    """The rows at the poles of a global grid whose pixel centres are on them."""
    area = pixel_hectares(Grid(721, 1440, None, "EPSG:4326", (0.25, 0, -0.125, 0, step, -360.5 * step)), EVERY_ROW)
    assert area[[0, 720], 7] == pytest.approx(geodesic_hectares(0, 89.875, 0.25, 90), rel=1e-3)
    assert area.sum() == pytest.approx(510_065_622e2, rel=1e-4)


def test_utm_is_off_by_its_scale_alone():
    """On the central meridian lengths are 0.9996 of what they are on the ground, so pixels are larger there."""
    middle = Grid(4, 4, 10.0, "EPSG:32632", (10.0, 0, 500_000.0, 0, -10.0, 5_000_000.0))
    assert pixel_hectares(middle, EVERY_ROW) == pytest.approx(0.01 / 0.9996**2, rel=1e-6)


def test_web_mercator_is_far_too_large_away_from_the_equator():
    scene = Grid(1, 1, 10.0, "EPSG:3857", (10.0, 0, 0.0, 0, -10.0, 8_399_737.9))  # latitude 60
    assert pixel_hectares(scene, EVERY_ROW)[0, 0] == pytest.approx(0.01 / 4, rel=0.01)


def test_a_turned_scene_and_a_strip_of_it_have_the_areas_of_their_places():
    turned = Grid(700, 600, None, "EPSG:4326", (0.008, 0.006, 5.0, 0.006, -0.008, 50.0))
    area = pixel_hectares(turned, EVERY_ROW)
    np.testing.assert_array_equal(pixel_hectares(turned, slice(100, 130)), area[100:130])
    for row, col in ((0, 0), (350, 300), (699, 130)):
        corners = [(col, row), (col + 1, row), (col + 1, row + 1), (col, row + 1)]
        places = [(0.008 * x + 0.006 * y + 5, 0.006 * x - 0.008 * y + 50) for x, y in corners]
        square_metres, _ = Geod(ellps="WGS84").polygon_area_perimeter(*zip(*places, strict=True))
        assert area[row, col] == pytest.approx(abs(square_metres) / 1e4, rel=1e-4)


def test_without_a_crs_pixels_are_as_large_as_said_or_unknown():
    identity = (1.0, 0, 0, 0, 1.0, 0)
    assert pixel_hectares(Grid(2, 3, 30.0, None, identity), EVERY_ROW) == pytest.approx(0.09)
    assert pixel_hectares(Grid(2, 3, None, None, identity), EVERY_ROW) is None
