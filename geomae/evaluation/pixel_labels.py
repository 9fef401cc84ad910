"""Labels of pixels for a probe: a row per tile, or where groups come from polygons, a row per group in a tile.

T tiles, P rows, N polygons, H x W pixels of a tile
"""

from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import pandas as pd
from numpy.typing import NDArray

from geomae.errors import CatalogError
from geomae.metrics.predictions import UNKNOWN
from geomae.rasters import Window
from geomae.tiles.index import TileIndex
from geomae.tiles.labels import LabelSource
from geomae.tiles.reader import TileReader
from geomae.tiles.selection import Selection
from geomae.vectors.polygons import MOST_CLASSES


@dataclass(frozen=True)
class PixelRows:
    """Rows of labelled pixels: the tile of each row, with its group, fold and split; the class (P, H, W) of each pixel.

    `majority_P` is the most frequent class of a row, empty without any. Pixels without a listed class are UNKNOWN.
    `valid_PHW` tells which pixels of the tile are valid in some band of the selection.
    """

    index: TileIndex
    names: tuple[str, ...]
    code_PHW: NDArray[np.int16]
    majority_P: NDArray[Any]
    valid_PHW: NDArray[np.bool_]


def read_pixel_rows(selected: Selection, where: str) -> PixelRows:
    """The rows of a selection.

    Where group, fold or split come from polygons, two polygons in one tile may be in different splits. A tile then has
    one row per group in it, with the pixels of that group only; pixels of other splits than the selected one are in no
    row. Pixels that are valid in no band of the selection are unknown, whatever their label. Raises CatalogError where
    pixels of the data set have no labels or too many classes, or where its tiles have several sizes.
    """
    index, labels = selected.index, selected.index.labels
    if labels is None:
        raise CatalogError(
            f"{where}: --task segmentation needs labels per pixel; add `label: {{raster, classes}}` or `label: "
            "{vector: {path, column}}`"
        )
    check_class_count(labels, where)
    sizes = set(index.tiles["size"].tolist())
    if len(sizes) > 1:
        raise CatalogError(f"{where}: tiles of {min(sizes)} to {max(sizes)} pixels; --task segmentation needs one size")
    key_N, keys = _keys(index, selected.selector.split)
    size, reader = sizes.pop(), TileReader(index, bands=[band.name for band in selected.imagery.bands])
    valid_THW = np.ones((len(index), size, size), dtype=bool)
    rows: list[tuple[int, int, NDArray[np.int16]]] = []
    for position, (scene, row, col) in enumerate(index.tiles[["scene", "row", "col"]].itertuples(index=False)):
        pixels = labels.read(scene, Window(row, col, size, size))
        code_HW = pixels.code_HW.astype(np.int16)
        if index.survey.valid_share_T[position] < 1:
            valid_THW[position] = reader.read(position)[1].any(0)
            code_HW = np.where(valid_THW[position], code_HW, np.int16(UNKNOWN))
        if key_N is None or pixels.polygon_HW is None:
            rows.append((position, -1, code_HW))
            continue
        key_HW = np.where((pixels.polygon_HW >= 0) & (code_HW != UNKNOWN), key_N[pixels.polygon_HW], -1)
        there = np.unique(key_HW[key_HW >= 0]).tolist()
        rows += [(position, key, np.where(key_HW == key, code_HW, np.int16(UNKNOWN))) for key in there]
        if not there:
            rows.append((position, -1, np.full_like(code_HW, UNKNOWN)))
    code_PHW = np.stack([code_HW for _, _, code_HW in rows])
    count_PK = np.stack([(code_PHW == code).sum((1, 2)) for code in range(len(labels.names))], axis=1)
    majority_P = np.where(count_PK.any(1), np.array(labels.names)[count_PK.argmax(1)], "")
    if key_N is not None:
        index = _of_keys(index, [position for position, _, _ in rows], [key for _, key, _ in rows], keys)
    valid_PHW = valid_THW if key_N is None else valid_THW[[position for position, _, _ in rows]]
    return PixelRows(index, labels.names, code_PHW, majority_P, valid_PHW)


def check_class_count(labels: LabelSource, where: str) -> None:
    """Raise CatalogError for too many classes, as where polygons have measurements, which are for regression."""
    if len(labels.names) > MOST_CLASSES:
        raise CatalogError(
            f"{where}: its polygons hold {len(labels.names)} different values, more than {MOST_CLASSES} classes; name "
            "those to use with `classes`, or predict numbers with --task regression"
        )


def _keys(index: TileIndex, split: str | None) -> tuple[NDArray[np.int64] | None, pd.DataFrame]:
    """For each polygon (N) its row in the table of group, fold, place and split; -1 for another split."""
    columns = {name: value_N for name, value_N in index.by_polygon.items() if name != "domain"}
    if not columns:
        return None, pd.DataFrame()
    table = pd.DataFrame(columns, dtype="object")
    key_N = table.groupby(list(columns), dropna=False, sort=False).ngroup().to_numpy().astype(np.int64)
    keys = table.iloc[np.unique(key_N, return_index=True)[1]].reset_index(drop=True)
    if split is not None and "split" in columns:
        key_N[[value != split for value in columns["split"].tolist()]] = -1
    return key_N, keys


def _of_keys(index: TileIndex, positions: list[int], key_P: list[int], keys: pd.DataFrame) -> TileIndex:
    """The tiles at some positions, which may repeat, with the columns of their keys; their own where the key is -1."""
    taken = index.take(np.array(positions, dtype=np.int64))
    tiles = taken.tiles
    for name in keys:
        own, value_K = tiles[name].tolist(), keys[name].tolist()
        values = [one if key < 0 else value_K[key] for one, key in zip(own, key_P, strict=True)]
        tiles = tiles.assign(**{str(name): pd.Series(values, dtype="object")})
    return replace(taken, tiles=tiles)
