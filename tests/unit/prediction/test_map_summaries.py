"""Which of many maps are looked at first, and what a map holds in figures."""

from types import SimpleNamespace

import numpy as np
import pytest

from geomae.prediction.scene_maps import NODATA, MapSummary, most_telling, summarise_map
from geomae.rasters import write_cog


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
