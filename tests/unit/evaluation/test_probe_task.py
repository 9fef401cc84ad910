"""What a probe can be asked for: classes of pixels that are the most frequent of no tile."""

import numpy as np
import pytest
from helpers import write_catalog

from geomae import open_catalog
from geomae.errors import CatalogError, ConfigError
from geomae.evaluation.probe_sentences import describe_scoring, overlaps
from geomae.evaluation.probe_task import SEGMENTATION, ProbeSettings, read_probe_task
from geomae.rasters import write_cog
from geomae.tiles.selection import select_tiles

CATALOG = """
version: 1
datasets:
  mine: {path: scene.tif, sensor: naip, bands: [red, green], unit: reflectance, scale: 0.0001, offset: 0,
         tile: {size: 16}, label: {raster: labels.tif, classes: {1: crop, 2: tree, 3: pond}}}
"""


def catalog_of(folder, labels_HW):
    """A scene of as many tiles as the labels have."""
    place = {"crs": "EPSG:32632", "transform": (10.0, 0.0, 4e5, 0.0, -10.0, 5e6)}
    pixels = np.random.default_rng(0).integers(300, 3000, (2, *labels_HW.shape)).astype(np.uint16)
    write_cog(folder / "scene.tif", pixels, **place)
    write_cog(folder / "labels.tif", labels_HW[None], overviews="nearest", **place)
    return open_catalog(write_catalog(folder, CATALOG))


def task_of(folder, labels_HW, **settings):
    """The task of a cross-fitted segmentation of all tiles."""
    mine = select_tiles(catalog_of(folder, labels_HW), ["mine"])[0]
    return read_probe_task(ProbeSettings(SEGMENTATION, **{"cross_fit": 2, **settings}), [mine, mine])


def labels_of(tiles=4):
    """Every tile is mostly crop and has some trees."""
    labels_HW = np.ones((16, 16 * tiles), dtype=np.uint8)
    labels_HW[:4] = 2
    return labels_HW


@pytest.mark.parametrize("C", [None, 1.0])
def test_two_classes_in_every_tile_can_be_told_apart_though_all_tiles_are_mostly_of_one(tmp_path, C):
    task = task_of(tmp_path, labels_of(), C=C)
    assert task.names == ("crop", "tree")
    assert sorted(np.concatenate([plan.tests["mine"] for plan in task.plans])) == [0, 1, 2, 3]
    assert all(bool(plan.folds) == (C is None) for plan in task.plans)


def test_a_class_that_is_the_most_frequent_of_one_tile_and_is_in_others_is_tested(tmp_path):
    labels_HW = labels_of()
    labels_HW[:12, :16] = 2
    assert task_of(tmp_path, labels_HW).names == ("crop", "tree")


def test_one_class_alone_or_a_class_in_one_tile_are_refused(tmp_path):
    with pytest.raises(CatalogError, match="all 4 labelled tiles have the label 'crop'"):
        task_of(tmp_path, np.ones((16, 64), dtype=np.uint8))
    labels_HW = labels_of()
    labels_HW[8, 20] = 3
    with pytest.raises(ConfigError, match="'pond' is in one training tile, and --cross-fit tests it with a probe"):
        task_of(tmp_path, labels_HW)


def test_one_tile_cannot_choose_a_strength(tmp_path):
    with pytest.raises(ConfigError, match="one training tile cannot be divided into folds"):
        task_of(tmp_path, labels_of(2))
    assert len(task_of(tmp_path, labels_of(2), C=1.0).plans) == 2


def test_tiles_that_overlap_those_that_their_probe_learns_from_are_told_of(tmp_path):
    """Steps of half a tile: in two folds of single tiles, each has a neighbour in the other fold, or both have."""
    task = task_of(tmp_path, labels_of(), C=1.0)
    assert not [*overlaps(task)]
    (tmp_path / "half").mkdir()
    catalog_of(tmp_path / "half", labels_of())
    path = write_catalog(tmp_path / "half", CATALOG.replace("size: 16", "size: 16, stride: 8"))
    mine = select_tiles(open_catalog(path), ["mine"])[0]
    assert len(mine.index) == 7
    task = read_probe_task(ProbeSettings(SEGMENTATION, C=1.0, cross_fit=2), [mine, mine])
    folds = [set((mine.index.tiles["col"].to_numpy()[plan.tests["mine"]] // 8).tolist()) for plan in task.plans]
    shared = sum(bool({col - 1, col + 1} & other) for own, other in (folds, folds[::-1]) for col in own)
    (sentence,) = overlaps(task)
    assert f"mine: {shared} of 7 tiles overlap tiles that their probe learns from" in sentence
    assert f"{sentence}." in [*describe_scoring(task)]
