"""Labels from polygons, and columns of a tile index whose values come from polygons.

T tiles, N features of the vector file, H W pixels of a window
"""

from collections.abc import Mapping, Sequence
from functools import lru_cache

import numpy as np
import pandas as pd
import shapely
from numpy.typing import NDArray

from geomae.catalog import Catalog, Source
from geomae.catalog.attributes import text_of, tile_columns
from geomae.catalog.schema import Split
from geomae.catalog.splits import NO_SPLIT, group_splits
from geomae.errors import CatalogError
from geomae.rasters import Grid, Window
from geomae.tiles.labels import NONE, LabelledPixels, LabelSource, Numbers, RasterLabels
from geomae.vectors.burning import ScenePolygons, scene_polygons
from geomae.vectors.polygons import LabelPolygons, check_meeting, read_polygons

KEPT_SCENES = 8  # scenes whose polygons are kept in pixel coordinates; tiles are read scene by scene
Texts = NDArray[np.object_]
Whole = NDArray[np.int64]
ByPolygon = Mapping[str, Texts]  # column of the tile index: the value of each polygon (N), None where it has none


class PolygonLabels:
    """Labels from polygons. A pixel belongs to the polygon that contains its centre, the smallest of several."""

    def __init__(self, polygons: LabelPolygons, grids: Sequence[Grid | None]) -> None:
        self.polygons = polygons
        self._grids = grids
        self._contested: dict[tuple[int, Window], int] = {}
        self._lost: dict[Grid, int] = {}
        self._on_grid = lru_cache(KEPT_SCENES)(self._to_pixels)

    @property
    def names(self) -> tuple[str, ...]:
        """See `LabelSource`."""
        return self.polygons.names

    @property
    def columns(self) -> tuple[str, ...]:
        """See `LabelSource`."""
        return tuple(map(str, self.polygons.columns))

    def read(self, scene: int, window: Window) -> LabelledPixels:
        """See `LabelSource`."""
        grid = self._grids[scene]
        if grid is None or grid.crs is None:
            nothing_HW = np.full((window.height, window.width), NONE, dtype=np.int32)
            return LabelledPixels(nothing_HW, nothing_HW)
        here, code_N = self._on_grid(grid), self.polygons.code_N
        polygon_HW = here.features(window, all_touched=self.polygons.all_touched)
        if (scene, window) not in self._contested:
            self._contested[scene, window] = int(here.contested(window, code_N).sum())
        code_HW = np.where(polygon_HW == NONE, NONE, code_N[polygon_HW])
        return LabelledPixels(code_HW, polygon_HW)

    def shapes(self, scene: int, window: Window) -> list[tuple[str | None, shapely.Geometry]]:
        """Class and shape of the polygons that touch a window, in pixels (column, row) of the scene."""
        grid = self._grids[scene]
        if grid is None or grid.crs is None:
            return []
        here, codes = self._on_grid(grid), self.polygons.code_N
        box = shapely.box(window.col, window.row, window.col + window.width, window.row + window.height)
        near = np.sort(here.tree.query(box, predicate="intersects")).tolist()
        code_near = codes[here.feature_M[near]].tolist()
        return [
            (None if code == NONE else self.names[code], here.shapes_M[one])
            for one, code in zip(near, code_near, strict=True)
        ]

    def remarks(self) -> tuple[str, ...]:
        """See `LabelSource`."""
        messages = list(self.polygons.remarks)
        pixels = [count for count in self._contested.values() if count]
        if pixels:
            messages.append(
                f"polygons of different classes overlap on {sum(pixels):,} pixels of {len(pixels):,} tiles; the "
                "smallest polygon counts there"
            )
        unplaced = sum(grid is not None and grid.crs is None for grid in self._grids)
        if unplaced:
            messages.append(f"{unplaced} scenes have no CRS, so that polygons give them no labels")
        if lost := sum(self._lost.values()):
            messages.append(f"{lost:,} polygons have a corner outside the CRS of a scene, and are left out")
        return tuple(messages)

    def _to_pixels(self, grid: Grid) -> ScenePolygons:
        here = scene_polygons(self.polygons.layer, grid)
        self._lost[grid] = here.lost
        return here


def open_labels(
    catalog: Catalog, dataset: str, source: Source, grids: Sequence[Grid | None]
) -> RasterLabels | PolygonLabels | None:
    """The labels of pixels of an entry; None where it has none.

    Raises CatalogError for polygons that cannot be read (see `read_polygons`) or meet no scene.
    """
    label = catalog.entry(dataset).label
    if label is None or (label.raster is None and label.vector is None):
        return None
    if label.raster is not None:
        return RasterLabels(label, source, grids)
    polygons = read_polygons(catalog, dataset)
    check_meeting(catalog, dataset, polygons, grids)
    return PolygonLabels(polygons, grids)


def columns_of_polygons(
    catalog: Catalog, dataset: str, labels: LabelSource, attributes: pd.DataFrame, seen: Whole
) -> ByPolygon:
    """The columns of the tile index that come from polygons; `seen` are the polygons with a pixel in a tile.

    Raises CatalogError where the tiles have an attribute of the same name, for polygons without a split where the split
    is a column, and for fewer groups of polygons than splits.
    """
    if not isinstance(labels, PolygonLabels):
        return {}
    columns = labels.polygons.columns
    taken: dict[str, Texts] = {}
    for name, (keys, column) in tile_columns(catalog.entry(dataset)).items():
        if column not in columns:
            continue
        if column in attributes:
            raise CatalogError(
                f"{catalog.place(dataset, *keys)}: both a table and the polygons have a column {column!r}; rename one"
            )
        taken[name] = _texts(columns[column].tolist())
    split = catalog.entry(dataset).split
    if split is not None and split.group is not None and "group" in taken:
        with catalog.at(dataset, "split"):
            taken["split"] = _splits_of_groups(taken["group"], seen, split)
    elif "split" in taken and any(value is None for value in taken["split"][seen].tolist()):
        place = catalog.place(dataset, "split", "column")
        raise CatalogError(f"{place}: some polygons in tiles have no split; fill the column")
    return taken


def _splits_of_groups(group_N: Texts, seen: Whole, split: Split) -> Texts:
    """The split of each polygon in a tile, one for its whole group; None for other polygons and without a group."""
    split_N = _texts([None] * len(group_N))
    known = seen[[group is not None for group in group_N[seen].tolist()]] if len(seen) else seen
    split_N[known] = group_splits(group_N[known], split.group or {}, split.seed)
    return split_N


def values_of_tiles(by_polygon: ByPolygon, polygon_T: Numbers) -> dict[str, Texts]:
    """The columns of tiles from their polygons; without a polygon the value is None, and for the split `none`."""
    columns: dict[str, Texts] = {}
    for name, value_N in by_polygon.items():
        values = [None if polygon == NONE else value_N[polygon] for polygon in polygon_T.tolist()]
        columns[name] = _texts([NO_SPLIT if value is None and name == "split" else value for value in values])
    return columns


def _texts(values: Sequence[object]) -> Texts:
    """Values as text (N), missing ones as None."""
    texts = np.empty(len(values), dtype=object)
    texts[:] = [text_of(value) for value in values]
    return texts
