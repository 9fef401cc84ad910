"""Labels of tiles from a raster of classes: the most frequent class, where it is pure enough."""

from collections.abc import Sequence

import numpy as np
import pandas as pd
from numpy.typing import NDArray

from geomae.catalog.parts import Label
from geomae.catalog.source import Source
from geomae.rasters import Grid, Window, read_labels

PURITY = 0.5  # default of `min_purity`: more than half of a tile speaks for its label


def raster_labels(
    label: Label, source: Source, grids: Sequence[Grid | None], tiles: pd.DataFrame
) -> NDArray[np.object_]:
    """The label (T,) of each tile, None where no class reaches `min_purity` of all the tile's pixels."""
    classes = label.classes or {}
    codes = np.array(sorted(classes))
    least = PURITY if label.min_purity is None else label.min_purity
    found = np.full(len(tiles), None, dtype=object)
    for number, (scene, row, col, size) in enumerate(tiles[["scene", "row", "col", "size"]].itertuples(index=False)):
        path, grid = source.scenes[scene].label_path, grids[scene]
        if path is None or grid is None:
            continue
        values_HW, known_HW = read_labels(path, grid, Window(row, col, size, size), remote=source.remote)
        counts = np.array([((values_HW == code) & known_HW).sum() for code in codes])
        best = int(counts.argmax())
        if counts[best] > 0 and counts[best] >= least * values_HW.size:
            found[number] = classes[int(codes[best])]
    return found
