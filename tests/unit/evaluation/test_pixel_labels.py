"""Labels of pixels: those of invalid pixels are in no row."""

from dataclasses import replace

import numpy as np
from helpers import write_catalog

from geomae import open_catalog
from geomae.evaluation.pixel_labels import read_pixel_rows
from geomae.metrics.predictions import UNKNOWN
from geomae.rasters import write_cog
from geomae.tiles.selection import select_tiles

CATALOG = """
version: 1
datasets:
  mine: {path: scene.tif, sensor: naip, bands: [red, green], unit: reflectance, scale: 0.0001, offset: 0, nodata: 0,
         tile: {size: 16}, label: {raster: labels.tif, classes: {1: crop, 2: tree}}}
"""


def write_rasters(folder):
    """A scene of two tiles, and its labels."""
    pixels = np.random.default_rng(0).integers(300, 3000, (2, 16, 32)).astype(np.uint16)
    pixels[:, :, 16:23], pixels[0, :, 23] = 0, 0
    labels = np.full((1, 16, 32), 1, dtype=np.uint8)
    labels[..., 25:] = 2
    place = {"crs": "EPSG:32632", "transform": (10.0, 0.0, 4e5, 0.0, -10.0, 5e6)}
    write_cog(folder / "scene.tif", pixels, nodata=0, **place)
    write_cog(folder / "labels.tif", labels, overviews="nearest", **place)


def test_labels_of_invalid_pixels_are_unknown(tmp_path):
    """The first seven columns of the second tile are invalid, and its eighth in one band only, which does not count."""
    write_rasters(tmp_path)
    catalog = open_catalog(write_catalog(tmp_path, CATALOG))
    rows = read_pixel_rows(select_tiles(catalog, ["mine"])[0], "--train mine")
    assert rows.names == ("crop", "tree")
    assert (rows.code_PHW[0] == 0).all()
    assert rows.code_PHW[1, 5].tolist() == [UNKNOWN] * 7 + [0] * 2 + [1] * 7
    assert rows.majority_P.tolist() == ["crop", "tree"]  # by all labels the second would be mostly crop
    assert rows.valid_PHW[0].all() and rows.valid_PHW[1, 5].tolist() == [False] * 7 + [True] * 9


def test_pixels_that_are_valid_in_bands_that_are_not_used_alone_are_unknown(tmp_path):
    """Encoders see the bands that the data sets of a probe share."""
    catalog = open_catalog(write_catalog(tmp_path, CATALOG))
    write_rasters(tmp_path)
    (selected,) = select_tiles(catalog, ["mine"])
    rows = read_pixel_rows(replace(selected, imagery=selected.imagery.select(["red"])), "--train mine")
    assert rows.code_PHW[1, 5].tolist() == [UNKNOWN] * 8 + [0] + [1] * 7
