"""Reference points on ground that the model learned from, in the mapped scene and in one of another date."""

from types import SimpleNamespace

import numpy as np
import pytest

from geomae.errors import ConfigError
from geomae.prediction.reference_points import ReferencePoints, check_places

CRS = "EPSG:32632"
RECORD = SimpleNamespace(tile=16, learned={"plots": {"learned": ["now:0:0", "before:16:16"]}})


def points_at(*pixels):
    """Reference points in the centres of pixels of 5 m."""
    places = np.array([[4e5 + 5 * (col + 0.5), 5e6 - 5 * (row + 0.5)] for row, col in pixels])
    return ReferencePoints("--sample a.gpkg", places, CRS, np.zeros(len(places), int), (), np.zeros(len(places), bool))


def job_of(scene):
    """A map of 8 x 8 pixels of one of two scenes of the same ground, 64 x 64 pixels each."""
    grid = SimpleNamespace(crs=CRS, transform=(5.0, 0.0, 4e5, 0.0, -5.0, 5e6))
    cells = SimpleNamespace(crs=CRS, transform=(40.0, 0.0, 4e5, 0.0, -40.0, 5e6), height=8, width=8)
    scenes = [SimpleNamespace(id="before"), SimpleNamespace(id="now")]
    index = SimpleNamespace(source=SimpleNamespace(scenes=scenes), grids=(grid, grid))
    of_scene = SimpleNamespace(id=scene)
    return SimpleNamespace(
        scene=of_scene, grid=cells, lattice=SimpleNamespace(cell=8), selected=SimpleNamespace(index=index)
    )


def test_points_on_learned_ground_are_marked_and_those_of_another_date_are_told_of():
    given = points_at((3, 3), (20, 20), (17, 30), (40, 40), (50, 10))
    checked = check_places(given, RECORD, [job_of("now")])
    assert checked.learned_N.tolist() == [True, False, False, False, False]
    left_out, another = checked.remarks
    assert "1 of 5 points lie on ground that the model learned from" in left_out
    assert (
        f"{4 / 64:.1%} of the map, and are left out" in left_out
    )  # a tile of 16 pixels covers 2 x 2 pixels of the map
    assert "2 of 5 points lie on ground that the model learned from in another scene (before)" in another


def test_both_dates_mapped_leave_out_the_points_of_the_first_map_that_covers_them():
    checked = check_places(points_at((20, 20), (40, 40), (50, 10)), RECORD, [job_of("before"), job_of("now")])
    assert checked.learned_N.tolist() == [True, False, False]
    assert len(checked.remarks) == 1


def test_a_sample_of_learned_ground_alone_is_refused_with_what_to_do():
    with pytest.raises(ConfigError, match=r"3 of 4 points lie on ground .* leaves 1 to estimate from; draw .*--train"):
        check_places(points_at((3, 3), (4, 4), (5, 5), (40, 40)), RECORD, [job_of("now")])
    assert check_places(points_at((40, 40)), RECORD, [job_of("now")]).remarks == ()
