"""Labels per pixel, for the probe of segmentation.

T tiles, H x W pixels of a tile
"""

from typing import Any

import numpy as np
from numpy.typing import NDArray

from geomae.analysis.scores import UNKNOWN
from geomae.catalog import Catalog
from geomae.errors import CatalogError
from geomae.rasters import Window, read_labels
from geomae.tiles.index import TileIndex


def read_classes(
    index: TileIndex, catalog: Catalog, where: str
) -> tuple[tuple[str, ...], NDArray[np.int16], NDArray[Any]]:
    """The names of the classes, the class (T, H, W) of each pixel, and the most frequent one (T,) of each tile.

    A pixel that holds no listed class is unknown; so is a tile without any other, whose name is empty. Raises
    CatalogError where the data set has no label raster or tiles of several sizes.
    """
    label = catalog.entry(index.name).label
    if label is None or label.raster is None or not label.classes:
        raise CatalogError(f"{where}: --task segmentation takes labels per pixel; add `label: {{raster, classes}}`")
    sizes = set(index.tiles["size"].tolist())
    if len(sizes) > 1:
        raise CatalogError(f"{where}: tiles of {min(sizes)} to {max(sizes)} pixels; --task segmentation takes one size")
    names = tuple(sorted(set(label.classes.values())))
    size = sizes.pop()
    found_THW = np.full((len(index), size, size), UNKNOWN, dtype=np.int16)
    for number, (scene, row, col) in enumerate(index.tiles[["scene", "row", "col"]].itertuples(index=False)):
        path, grid = index.source.scenes[scene].label_path, index.grids[scene]
        if path is None or grid is None:
            continue
        values_HW, known_HW = read_labels(path, grid, Window(row, col, size, size), remote=index.source.remote)
        for value, name in label.classes.items():
            found_THW[number][(values_HW == value) & known_HW] = names.index(name)
    count_TK = np.stack([(found_THW == code).sum((1, 2)) for code in range(len(names))], axis=1)
    majority_T = np.where(count_TK.any(1), np.array(names)[count_TK.argmax(1)], "")
    return names, found_THW, majority_T
