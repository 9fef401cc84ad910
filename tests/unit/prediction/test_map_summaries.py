"""Which of many maps are looked at first, and what a map holds in figures."""

from types import SimpleNamespace

import numpy as np
import pytest

from geomae.prediction.assessment import shared_ground_remark
from geomae.prediction.scene_maps import NODATA, MapSummary, most_telling, summarise_map
from geomae.rasters import Grid, write_cog


def of_level(level):
    return MapSummary(None, 1.0, "crop", 1.0, level)


@pytest.mark.parametrize(
    ("most", "levels"),
    [(2, [10, 90]), (3, [10, 20, 90]), (4, [10, 20, 60, 90]), (5, [10, 20, 60, 90, None]), (9, [10, 20, 60, 90, None])],
)
def test_the_least_and_the_most_sure_are_chosen(most, levels):
    known = [of_level(level) for level in (60, None, 10, 90, 20)]
    assert [one.level for one in most_telling(known, most)] == levels


def write(folder, codes_HW, confidence_HW):
    for kind, values in (("map", codes_HW), ("confidence", confidence_HW)):
        write_cog(folder / f"{kind}_s.tif", np.asarray(values)[None], nodata=NODATA)
    height, width = np.shape(codes_HW)
    path = lambda out, kind="map": out / f"{kind}_s.tif"  # noqa: E731
    return SimpleNamespace(lattice=SimpleNamespace(rows=height, cols=width), path=path)


def test_a_map_of_classes_in_figures(tmp_path):
    codes = np.array([[7, 7, 40, NODATA]], np.uint8)
    job = write(tmp_path, codes, np.array([[50, 70, 90, NODATA]], np.uint8))
    record = SimpleNamespace(of_numbers=False, classes=("crop", "water"), map_codes=(40, 7))
    one = summarise_map(job, record, tmp_path)
    assert (one.valid, one.most, one.share, one.level) == (0.75, "water", 2 / 3, 70.0)
    empty = summarise_map(write(tmp_path, np.full((1, 4), NODATA, np.uint8), codes), record, tmp_path)
    assert (empty.valid, empty.most, empty.share, empty.level) == (0.0, None, None, None)


def test_a_map_of_numbers_in_figures(tmp_path):
    job = write(tmp_path, np.array([[1.0, 4.0, np.nan, np.nan]], np.float32), np.zeros((1, 4), np.uint8))
    one = summarise_map(job, SimpleNamespace(of_numbers=True), tmp_path)
    assert (one.valid, one.most, one.level) == (0.5, None, 2.5)


def grid(left, top=5.2e6, crs="EPSG:32632", sides=(100, 200), step=10.0):
    return Grid(*sides, None, crs, (step, 0.0, left, 0.0, -step, top))


@pytest.mark.parametrize(
    ("grids", "said"),
    [
        ([grid(5e5)], None),
        ([grid(5e5), grid(5e5 + 2000)], None),  # side by side
        ([grid(5e5), grid(5e5, top=5.2e6 - 1000)], None),
        ([grid(5e5), grid(5e5)], (2, 400, 200)),
        ([grid(5e5), grid(5e5 + 1000), grid(6e5)], (3, 600, 500)),
        ([grid(5e5), grid(9.0, 46.955, "EPSG:4326", (20, 20), 0.001)], (2, 539, 386)),  # CRS differ
        ([grid(5e5, crs=None), grid(5e5, crs=None)], None),
    ],
)
def test_ground_of_several_maps_is_said_to_count_several_times(grids, said):
    remark = shared_ground_remark(grids)
    if said is None:
        assert remark is None
    else:
        maps, every_ha, once_ha = said
        assert remark.startswith(f"{maps} maps of {every_ha} ha together show {once_ha} ha of ground: ")
