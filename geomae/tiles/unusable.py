"""Scenes and tiles that are left out although their files are sound: scenes smaller than a tile, too large values.

T tiles, C bands
"""

from collections.abc import Sequence
from dataclasses import replace

import numpy as np
from numpy.typing import NDArray

from geomae.catalog import Catalog, Scene, Source
from geomae.errors import CatalogError
from geomae.rasters import Grid
from geomae.rasters.audit import LARGEST_VALUE, stored_value
from geomae.rasters.audit_report import AuditReport, Problem
from geomae.rasters.figure_rows import parts_of
from geomae.tiles.statistics import Survey

TOO_LARGE = f"values beyond {LARGEST_VALUE:g}"  # the reason in counts of omitted tiles
PROPOSED_TILE = 64  # pixels: proposed in errors where `tile` is missing


def without_small_scenes(
    catalog: Catalog, name: str, source: Source, grids: Sequence[Grid | None], report: AuditReport
) -> tuple[tuple[Grid | None, ...], AuditReport]:
    """The grids, None for scenes that are smaller than a tile, and the report with a problem for each of them.

    Without `tile` a scene is one tile and has to be square. Entries with `windows` are not checked. Raises CatalogError
    where no scene is left.
    """
    entry = catalog.entry(name)
    if entry.windows is not None:
        return tuple(grids), report
    known = [(scene, grid) for scene, grid in zip(source.scenes, grids, strict=True) if grid is not None]
    small = {
        scene.id: Problem(scene.id, scene.files, "size", _too_small(scene, grid, entry.tile.size if entry.tile else 0))
        for scene, grid in known
        if min(grid.height, grid.width) < (entry.tile.size if entry.tile else max(grid.height, grid.width))
    }
    if len(small) == len(known):
        scene, grid = max(known, key=lambda one: min(one[1].height, one[1].width))
        side, where = min(grid.height, grid.width), f"{scene.id} ({grid.height} x {grid.width})"
        what = f"a tile of {entry.tile.size} pixels is larger than {where}" if entry.tile else f"{where} is not square"
        remedy = f"write at most {side}" if entry.tile else f"add `tile: {{size: {min(side, PROPOSED_TILE)}}}`"
        better = "" if len(known) == 1 else f", and no other scene is {'larger' if entry.tile else 'square'}"
        raise CatalogError(f"{catalog.place(name, 'tile', 'size')}: {what}{better}; {remedy}")
    left = tuple(None if scene.id in small else grid for scene, grid in zip(source.scenes, grids, strict=True))
    return left, replace(report, problems=(*report.problems, *small.values()))


def computable_tiles(
    catalog: Catalog, name: str, source: Source, scene_T: NDArray[np.int64], measured: Survey
) -> NDArray[np.bool_]:
    """Which tiles (T,) hold no value beyond LARGEST_VALUE. Raises CatalogError where none does, naming the first."""
    near_T = np.ones(len(measured), dtype=bool)
    for part in parts_of(len(measured)):
        near_T[part] = ~_far(measured.figures(np.arange(part.start, part.stop))).any(axis=1)
    if len(scene_T) and not near_T.any():
        first = measured.figures(np.arange(1))
        band = int(_far(first)[0].argmax())
        low, high = first["low"][0, band], first["high"][0, band]
        value = stored_value(float(low if -low > high else high), source.scale_C[band], source.offset_C[band])
        file = source.scenes[int(scene_T[0])].bands[band].path
        raise CatalogError(
            f"{catalog.place(name, 'nodata')}: every tile holds {TOO_LARGE}, too large to compute with; the "
            f"first is {value} in {source.bands[band].name} of {file}; if it is no measurement, declare `nodata`"
        )
    return near_T


def _far(rows: NDArray[np.void]) -> NDArray[np.bool_]:
    """Where (T, C) figures of tiles have a value beyond LARGEST_VALUE."""
    return np.asarray(np.maximum(-rows["low"], rows["high"]) > LARGEST_VALUE)


def _too_small(scene: Scene, grid: Grid, size: int) -> str:
    has = f"{scene.files[0]}: has {grid.height} x {grid.width} pixels"
    if size:
        return f"{has}, less than a tile of {size}; leave it out, or write a smaller `tile: size`"
    return f"{has} and is not square; add `tile: {{size: {min(grid.height, grid.width, PROPOSED_TILE)}}}`"
