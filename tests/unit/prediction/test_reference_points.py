"""Reference points on ground that the model learned from, in the mapped scene and in one of another date."""

from dataclasses import replace
from types import SimpleNamespace

import numpy as np
import pytest

from geomae.errors import ConfigError
from geomae.prediction.reference_points import ReferencePoints, check_places, place_sample
from geomae.rasters import Grid, write_cog

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


def map_of(folder, name, code, grid):
    """A job with a map whose pixels all have one code."""
    write_cog(folder / f"map_{name}.tif", np.full((1, grid.height, grid.width), code, np.uint8), grid=grid, nodata=255)
    index = SimpleNamespace(source=SimpleNamespace(scenes=[SimpleNamespace(id=name)]), grids=(grid,))
    return SimpleNamespace(
        name=name, scene=SimpleNamespace(id=name), grid=grid, lattice=SimpleNamespace(cell=1),
        selected=SimpleNamespace(index=index), path=lambda out, kind="map": out / f"{kind}_{name}.tif",
    )  # fmt: skip


CLASSES = SimpleNamespace(tile=16, learned={}, classes=("bright", "dark"), map_codes=(3, 7))


def test_points_drawn_in_a_scene_are_of_its_map_where_another_overlaps(tmp_path):
    grid = Grid(8, 8, 40.0, CRS, (40.0, 0.0, 4e5, 0.0, -40.0, 5e6))
    jobs = [map_of(tmp_path, "before", 3, grid), map_of(tmp_path, "now", 7, grid)]
    given = points_at((3, 3), (20, 20), (40, 40))
    drawn = replace(given, strata_N=("now", "before", "now"))
    assert place_sample(given, CLASSES, jobs, tmp_path, None).map_N.tolist() == [0, 0, 0]
    assert place_sample(drawn, CLASSES, jobs, tmp_path, None).map_N.tolist() == [1, 0, 1]


def test_a_point_is_on_learned_ground_where_the_map_that_has_its_class_learned_from_it(tmp_path):
    """The first map has no class there, and the model learned the ground of the second; and the other way round."""
    grid = Grid(8, 8, 40.0, CRS, (40.0, 0.0, 4e5, 0.0, -40.0, 5e6))
    jobs = [map_of(tmp_path, name, code, grid) for name, code in (("before", 3), ("now", 7))]
    codes = np.full((1, 8, 8), 3, np.uint8)
    codes[0, :2] = 255
    write_cog(tmp_path / "map_before.tif", codes, grid=grid, nodata=255)
    index = SimpleNamespace(source=SimpleNamespace(scenes=[one.scene for one in jobs]), grids=(grid, grid))
    jobs = [SimpleNamespace(**{**vars(one), "selected": SimpleNamespace(index=index)}) for one in jobs]
    record = SimpleNamespace(**{**vars(CLASSES), "tile": 2, "learned": {"plots": {"learned": ["now:0:0", "now:4:4"]}}})
    given = points_at((3, 3), (36, 36), (40, 10), (10, 40))
    checked = check_places(given, record, jobs)
    assert not checked.learned_N.any() and "2 of 4 points" in checked.remarks[0] and "(now)" in checked.remarks[0]
    sample = place_sample(checked, record, jobs, tmp_path, None)
    assert sample.map_N.tolist() == [0, 0, 1] and sample.reference_N.shape == (3,)  # the first point is left out
    left_out, another = sample.origin
    assert "1 of 4 points lie on ground that the model learned from (" in left_out
    assert "1 of 4 points" in another and "another scene (now)" in another
    drawn = replace(given, strata_N=("before", "now", "now", "now"))
    assert check_places(drawn, record, jobs).learned_N.tolist() == [False, True, False, False]


def test_strata_that_are_no_scene_are_refused_before_anything_is_mapped():
    record = SimpleNamespace(**{**vars(RECORD), **vars(CLASSES)})
    jobs = [SimpleNamespace(**{**vars(job_of("now")), "name": "now"})]
    with pytest.raises(ConfigError, match="'nowhere' is no scene that was mapped, while others are"):
        check_places(replace(points_at((40, 40), (41, 41)), strata_N=("now", "nowhere")), record, jobs)


@pytest.mark.parametrize(("left", "longitudes"), [(170.0, (-175.0, 175.0)), (-190.0, (-175.0, 175.0)), (0.0, (-2, 2))])
def test_points_are_found_on_maps_across_180_and_from_0_to_360(tmp_path, left, longitudes):
    wide = 20 if left else 360
    grid = Grid(4, wide, None, "EPSG:4326", (1.0, 0.0, left, 0.0, -1.0, 2.0))
    jobs = [map_of(tmp_path, "now", 7, grid)]
    places = np.array([[one, 0.5] for one in longitudes], dtype=float)
    given = ReferencePoints("--sample a.gpkg", places, "EPSG:4326", np.zeros(2, int), (), np.zeros(2, bool))
    given = check_places(given, CLASSES, jobs)
    assert place_sample(given, CLASSES, jobs, tmp_path, None).map_N.tolist() == [1, 1]
