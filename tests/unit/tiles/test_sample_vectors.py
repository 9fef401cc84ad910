"""The survey of the drawn landscape: points and fields that say what the class raster says where they lie."""

from datetime import date

import numpy as np
import pytest
import rasterio
import shapely

from geomae.randomness import generator
from geomae.tiles.sample_landscape import CLASSES, DOMAINS, FOREST, landscape
from geomae.tiles.sample_vectors import LATEST_DAYS, SurveyedScene, survey_fields, survey_points
from geomae.vectors.projection import transform
from geomae.vectors.reading import read_vector


@pytest.fixture(scope="module")
def surveyed(tmp_path_factory):
    """The folder of a small landscape, and the layers of its points and fields."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("GEOMAE_CACHE", str(tmp_path_factory.mktemp("cache")))
        folder = landscape(size=128, scenes=1)
    return folder, *(read_vector(str(folder / f"{name}.geojson"), place="here") for name in ("points", "fields"))


def codes_at(folder, layer):
    """The codes of the class rasters below the middle of each feature, by an own calculation of the pixel."""
    inside = shapely.point_on_surface(layer.geometries)
    found = []
    for domain in DOMAINS:
        groups = layer.columns["cluster" if "cluster" in layer.columns else "field"]
        own_N = groups.str.startswith(domain.name).to_numpy()
        xy_N2 = transform("EPSG:4326", f"EPSG:{domain.epsg}", shapely.get_coordinates(inside[own_N]))
        with rasterio.open(folder / f"labels/{domain.name}_0.tif") as labels:
            codes_HW = labels.read(1)
        cols, rows = ((xy_N2 - [300_000, 4_900_000]) / [10, -10]).astype(int).T
        found += codes_HW[rows, cols].tolist()
    return found


def test_points_and_fields_have_the_class_of_the_raster_below_them(surveyed):
    folder, points, fields = surveyed
    for layer in (points, fields):
        assert [CLASSES[code] for code in codes_at(folder, layer)] == layer.columns["class"].tolist()
    assert points.kinds.keys() == {"points"} and fields.kinds.keys() == {"polygons"}
    assert len(points) > 20 and len(fields) > 20
    assert len(set(points.columns["cluster"])) >= 8 and len(set(fields.columns["field"])) == len(fields)
    assert points.columns["tree_cover"].between(0, 1).all()


def test_fields_are_simple_and_do_not_overlap(surveyed):
    _, _, fields = surveyed
    assert shapely.is_valid(fields.geometries).all()
    first, second = shapely.STRtree(fields.geometries).query(fields.geometries, predicate="overlaps")
    assert not len(first) and not len(second)


def test_visits_follow_the_scene_and_a_cluster_has_one_day(surveyed):
    _, points, fields = surveyed
    first = {domain.name: domain.first_day for domain in DOMAINS}
    for cluster, rows in points.columns.groupby("cluster"):
        (day,) = {date.fromisoformat(time) for time in rows["time"]}
        assert 0 <= (day - first[cluster.split("_")[0]]).days <= LATEST_DAYS
    assert set(fields.columns["time"]) == {day.isoformat() for day in first.values()}


def test_what_was_not_seen_is_not_surveyed():
    codes_HW = np.full((64, 64), FOREST, np.uint8)
    codes_HW[:, 32:] = 0
    scene = SurveyedScene("a", date(2021, 1, 1), "EPSG:32632", (10, 0, 3e5, 0, -10, 49e5), codes_HW, CLASSES)
    points, fields = survey_points(scene, FOREST, generator(0, "survey", "a")), survey_fields(scene)
    assert [one["properties"]["tree_cover"] for one in points] == [1, 1]
    (field,) = fields
    corners_N2 = transform("EPSG:4326", "EPSG:32632", np.array(field["geometry"]["coordinates"][0]))
    np.testing.assert_allclose(corners_N2.min(axis=0), [300_010, 4_899_690], atol=0.05)
    np.testing.assert_allclose(corners_N2.max(axis=0), [300_310, 4_899_990], atol=0.05)
