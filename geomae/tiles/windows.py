"""The windows of scenes that are tiles: on a regular grid, from a table, or around points.

T tiles, S scenes
"""

from collections.abc import Sequence

import numpy as np
import pandas as pd
from numpy.typing import NDArray

from geomae.catalog import Catalog, Points, Source, read_windows
from geomae.errors import CatalogError
from geomae.rasters import Grid
from geomae.tiles.points import point_tiles

PLACE = ["scene", "row", "col", "size"]


def list_windows(
    catalog: Catalog, name: str, source: Source, grids: Sequence[Grid | None], left_out: dict[str, int]
) -> tuple[pd.DataFrame, pd.DataFrame, tuple[str, ...]]:
    """All tiles (scene, row, col, size) of the scenes that have a grid, the attributes of their scene and window, and
    remarks. Omitted points and tiles are added to `left_out`.
    """
    windows = catalog.entry(name).windows
    if isinstance(windows, Points):
        around = point_tiles(catalog, name, source, grids)
        left_out |= around.left_out
        return around.tiles, around.attributes, around.remarks
    if windows is not None:
        return *_listed(catalog, name, source, grids), ()
    return *_regular(catalog, name, source, grids), ()


def _regular(
    catalog: Catalog, name: str, source: Source, grids: Sequence[Grid | None]
) -> tuple[pd.DataFrame, pd.DataFrame]:
    """Tiles on a regular grid; without `tile` each scene is one tile."""
    entry = catalog.entry(name)
    corners: dict[tuple[int, int], NDArray[np.int32]] = {}  # (3, T) by the shape of the grid
    numbers = [number for number, grid in enumerate(grids) if grid is not None]
    shapes = [(grid.height, grid.width) for grid in grids if grid is not None]
    for height, width in dict.fromkeys(shapes):
        size = entry.tile.size if entry.tile else max(height, width)
        stride = (entry.tile.stride if entry.tile else None) or size
        rows, cols = (_starts(length, size, stride) for length in (height, width))
        row_T, col_T = np.repeat(rows, len(cols)), np.tile(cols, len(rows))
        corners[height, width] = np.stack([row_T, col_T, np.full_like(row_T, size)])
    scene_T = np.repeat(np.array(numbers, dtype=np.int32), [corners[shape].shape[1] for shape in shapes])
    corner_3T = np.concatenate([np.zeros((3, 0), dtype=np.int32), *(corners[shape] for shape in shapes)], axis=1)
    tiles = pd.DataFrame(dict(zip(PLACE, (scene_T, *corner_3T), strict=True)), copy=False)
    table = pd.DataFrame([dict(scene.attributes) for scene in source.scenes])
    return tiles, table.iloc[tiles["scene"].to_numpy()].reset_index(drop=True)


def _starts(length: int, size: int, stride: int) -> NDArray[np.int32]:
    """Start of each tile along one axis; a remainder shorter than a tile is left out."""
    return np.arange(0, length - size + 1, stride, dtype=np.int32)


def _listed(
    catalog: Catalog, name: str, source: Source, grids: Sequence[Grid | None]
) -> tuple[pd.DataFrame, pd.DataFrame]:
    """The tiles of a table of windows, for scenes that exist and are not quarantined."""
    windows = read_windows(catalog, name)
    by_stem = {scene.stem: number for number, scene in enumerate(source.scenes)}
    if len(by_stem) < len(source.scenes):
        raise CatalogError(
            f"{catalog.place(name, 'windows')}: several scenes have one name in different folders, so that windows "
            "are ambiguous; rename them, or make a data set of each folder"
        )
    unknown = sorted(set(windows["stem"]) - set(by_stem))
    if len(unknown) == windows["stem"].nunique():
        raise CatalogError(
            f"{catalog.place(name, 'windows', 'key')}: no window belongs to a scene; the first is of {unknown[0]!r}, "
            f"the first scene is {source.scenes[0].stem!r}"
        )
    windows = windows[~windows["stem"].isin(unknown)]
    windows.insert(0, "scene", windows.pop("stem").map(by_stem.__getitem__))
    shape_S2 = np.array([(-1, -1) if grid is None else (grid.height, grid.width) for grid in grids])
    windows = windows[shape_S2[windows["scene"], 0] >= 0].reset_index(drop=True)
    corner_T2, shape_T2 = windows[["row", "col"]].to_numpy(dtype=np.int64), shape_S2[windows["scene"]]
    leaves_T = ((corner_T2 < 0) | (corner_T2 + windows[["size"]].to_numpy() > shape_T2)).any(axis=1)
    if leaves_T.any():
        scene, row, col, size = windows[PLACE].to_numpy()[leaves_T.argmax()].tolist()
        raise CatalogError(
            f"{catalog.place(name, 'windows')}: the window at row {row}, column {col} of {size} pixels leaves "
            f"{source.scenes[scene].id} ({shape_S2[scene, 0]} x {shape_S2[scene, 1]}); correct the table"
        )
    return windows[PLACE], windows.drop(columns=PLACE)
