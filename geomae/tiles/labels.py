"""Labels of tiles from rasters of classes, and what is wrong with these rasters.

T tiles, H W pixels of a tile
"""

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field

import numpy as np
import pandas as pd
from numpy.typing import NDArray

from geomae.catalog import Label, Source
from geomae.rasters import Grid, Window, describe_bands, read_labels
from geomae.rasters.remarks import listed

PURITY = 0.5  # default of `min_purity`: more than half of a tile speaks for its label
SHOWN = 5  # codes that a remark names


def read_label_codes(
    source: Source, grids: Sequence[Grid | None], tiles: pd.DataFrame
) -> Iterator[tuple[int, NDArray[np.int32], NDArray[np.bool_]]]:
    """Position, class codes (H, W) and where they are known, of each tile that has a label raster."""
    for position, (scene, row, col, size) in enumerate(tiles[["scene", "row", "col", "size"]].itertuples(index=False)):
        path, grid = source.scenes[scene].label_path, grids[scene]
        if path is not None and grid is not None:
            yield position, *read_labels(path, grid, Window(row, col, size, size), remote=source.remote)


def raster_labels(
    label: Label, source: Source, grids: Sequence[Grid | None], tiles: pd.DataFrame
) -> tuple[NDArray[np.object_], tuple[str, ...]]:
    """The label (T,) of each tile, None where no class reaches `min_purity` of all the tile's pixels; and what is wrong
    with the rasters, a sentence each.
    """
    classes = label.classes or {}
    codes = np.array(sorted(classes))
    least = PURITY if label.min_purity is None else label.min_purity
    label_T = np.full(len(tiles), None, dtype=object)
    paths = [source.scenes[scene].label_path for scene in tiles["scene"]]
    rasters: dict[str, _LabelRaster] = {}
    for position, codes_HW, known_HW in read_label_codes(source, grids, tiles):
        counts = np.array([((codes_HW == code) & known_HW).sum() for code in codes])
        best = int(counts.argmax())
        if counts[best] > 0 and counts[best] >= least * codes_HW.size:
            label_T[position] = classes[int(codes[best])]
        path = str(paths[position])
        if path not in rasters:
            rasters[path] = _LabelRaster(len(describe_bands(path, remote=source.remote)))
        rasters[path].see(codes_HW, known_HW, named=counts[best] > 0)
    return label_T, _remarks(rasters, codes.tolist())


@dataclass
class _LabelRaster:
    """What tiles found in one label raster: whether it covers any, whether any code is a class, and other codes."""

    bands: int
    known: bool = False
    named: bool = False
    others: set[int] = field(default_factory=set)

    def see(self, codes_HW: NDArray[np.int32], known_HW: NDArray[np.bool_], *, named: bool) -> None:
        """Add the codes of a tile, of which some are classes if `named`."""
        self.named |= named
        if not self.named and len(self.others) < SHOWN:
            self.others.update(np.unique(codes_HW[known_HW]).tolist())
        self.known |= bool(known_HW.any())


def _remarks(rasters: dict[str, _LabelRaster], codes: Sequence[int]) -> tuple[str, ...]:
    def those(chosen: Callable[[_LabelRaster], bool]) -> list[str]:
        return [path for path, raster in rasters.items() if chosen(raster)]

    messages = []
    if elsewhere := those(lambda one: not one.known):
        messages.append(
            f"the label rasters of {listed(elsewhere)} know no pixel of any tile: they lie in another place or hold "
            "nodata there; check `label.raster` and the CRS of the files"
        )
    if foreign := those(lambda one: one.known and not one.named):
        held = sorted(set().union(*(rasters[path].others for path in foreign)))[:SHOWN]
        messages.append(
            f"the label rasters of {listed(foreign)} hold none of the codes of `label.classes` "
            f"({', '.join(map(str, codes[:SHOWN]))}) but {', '.join(map(str, held))}; correct `classes`"
        )
    if several := those(lambda one: one.bands > 1):
        messages.append(
            f"the label rasters of {listed(several)} have several bands, as pictures do, and the first is taken for "
            "class codes; if it holds none, rewrite them with one band of codes"
        )
    return tuple(messages)
