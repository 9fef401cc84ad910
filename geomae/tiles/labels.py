"""Labels of pixels, from rasters or polygons, and the labels of tiles that follow from them.

T tiles, H W pixels of a window, K classes, P classes or polygons in a tile
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import Protocol

import numpy as np
import pandas as pd
from numpy.typing import NDArray

from geomae.catalog import Label, Source
from geomae.rasters import Grid, Window, describe_bands, read_labels
from geomae.rasters.remarks import listed

PURITY = 0.5  # default of `min_purity`: half of a tile's pixels have to be of the class of its label
NONE = -1  # the class of a pixel without a label, and the polygon of a pixel outside all polygons
SHOWN = 5  # codes that a remark lists
PIECES = ("tile", "class", "polygon", "pixels")  # columns of the counts of pixels by tile, class and polygon
Numbers = NDArray[np.int32]
Whole = NDArray[np.int64]


@dataclass(frozen=True)
class LabelledPixels:
    """The class of each pixel (H, W) as an index of the names, and the polygon that contains it; -1 for none.

    `polygon_HW` holds numbers of features in the vector file; it is None for labels from rasters.
    """

    code_HW: Numbers
    polygon_HW: Numbers | None = None


class LabelSource(Protocol):
    """The labels of a data set's pixels: one interface for rasters and polygons."""

    @property
    def names(self) -> tuple[str, ...]:
        """The names of the classes, in order."""

    @property
    def columns(self) -> tuple[str, ...]:
        """The columns of polygons, which group, split, places and domain may name."""

    def read(self, scene: int, window: Window) -> LabelledPixels:
        """The labels of a window of the scene's grid; `scene` is its index in the source."""

    def remarks(self) -> tuple[str, ...]:
        """Problems of the labels that have been read, one sentence each."""


@dataclass(frozen=True)
class TileLabels:
    """The label (T,) of each tile, None where it has none, and the polygon (T,) that gives it, -1 where none does.

    `pieces` counts pixels by tile, class and polygon (see `label_tiles`); `highest` is the largest share of a tile's
    pixels that one class has.
    """

    label_T: NDArray[np.object_]
    polygon_T: Numbers
    pieces: pd.DataFrame
    highest: float

    @property
    def seen(self) -> NDArray[np.int64]:
        """All polygons that have a pixel in some tile, in order."""
        polygon = self.pieces["polygon"].unique()
        return np.sort(polygon[polygon != NONE]).astype(np.int64)


def label_tiles(labels: LabelSource, min_purity: float | None, tiles: pd.DataFrame) -> TileLabels:
    """The label of each tile: its most frequent class, where that has at least `min_purity` of the tile's pixels.

    The polygon of a tile is the one with most pixels of that class; without a label, the one with most pixels.
    `pieces` has a row for each class in a tile, or for each polygon where there are polygons: tile (its position),
    class, polygon and pixels.
    """
    least = PURITY if min_purity is None else min_purity
    names = labels.names
    label_T = np.full(len(tiles), None, dtype=object)
    polygon_T = np.full(len(tiles), NONE, dtype=np.int32)
    pieces: list[NDArray[np.int64]] = [np.zeros((4, 0), dtype=np.int64)]
    highest = 0.0
    for position, (scene, row, col, size) in enumerate(tiles[["scene", "row", "col", "size"]].itertuples(index=False)):
        pixels = labels.read(scene, Window(row, col, size, size))
        code_P, polygon_P, count_P = _pieces(pixels)
        code, count = _most_frequent(code_P, count_P)
        labelled = code != NONE and count >= least * size**2
        highest = max(highest, count / size**2)
        if labelled:
            label_T[position] = names[code]
        own_P = code_P == code if labelled else np.ones(len(code_P), dtype=bool)
        polygon_T[position], _ = _most_frequent(polygon_P[own_P], count_P[own_P])
        pieces.append(np.stack([np.full_like(code_P, position), code_P, polygon_P, count_P]))
    table = pd.DataFrame(np.concatenate(pieces, axis=1).T, columns=list(PIECES))
    return TileLabels(label_T, polygon_T, table, highest)


def purity_remarks(found: TileLabels, min_purity: float | None) -> tuple[str, ...]:
    """A remark where pixels have labels, but no tile has enough of one class to have a label."""
    least = PURITY if min_purity is None else min_purity
    if found.highest == 0 or any(label is not None for label in found.label_T.tolist()):
        return ()
    return (
        "no tile has a label, though pixels have (`--task segmentation`): the largest share of a tile's pixels that a "
        f"class has is {found.highest:.0%}, and `min_purity` is {least:g}; for labels of tiles lower it, or make tiles "
        "smaller",
    )


def _pieces(pixels: LabelledPixels) -> tuple[Whole, Whole, Whole]:
    """Class, polygon and number of pixels (P) of each polygon in a window, or of each class without polygons."""
    if pixels.polygon_HW is None:
        code_P, count_P = np.unique(pixels.code_HW, return_counts=True)
        polygon_P = np.full_like(code_P, NONE)
        there_P = code_P != NONE
    else:
        polygon_P, first_P, count_P = np.unique(pixels.polygon_HW, return_index=True, return_counts=True)
        code_P = pixels.code_HW.ravel()[first_P]
        there_P = polygon_P != NONE
    return code_P[there_P].astype(np.int64), polygon_P[there_P].astype(np.int64), count_P[there_P].astype(np.int64)


def _most_frequent(number_P: Whole, count_P: Whole) -> tuple[int, int]:
    """The number >= 0 with the largest sum of counts (the lowest in a tie), and the sum; -1 and 0 for none."""
    there_P = number_P >= 0
    values, place_P = np.unique(number_P[there_P], return_inverse=True)
    if not len(values):
        return NONE, 0
    sums = np.bincount(place_P, count_P[there_P])
    best = int(sums.argmax())
    return int(values[best]), int(sums[best])


class RasterLabels:
    """Labels from rasters of class codes: one raster for each scene, or one for all."""

    columns: tuple[str, ...] = ()

    def __init__(self, label: Label, source: Source, grids: Sequence[Grid | None]) -> None:
        classes = {int(code): name for code, name in (label.classes or {}).items()}
        self.names = tuple(sorted(set(classes.values())))
        self._codes = np.array(sorted(classes), dtype=np.int64)
        self._class_of_code = np.array([self.names.index(classes[code]) for code in self._codes.tolist()], np.int32)
        self._source, self._grids = source, grids
        self._rasters: dict[str, _LabelRaster] = {}

    def read(self, scene: int, window: Window) -> LabelledPixels:
        """See `LabelSource`. A pixel takes the code at its centre."""
        path, grid = self._source.scenes[scene].label_path, self._grids[scene]
        class_HW = np.full((window.height, window.width), NONE, dtype=np.int32)
        if path is None or grid is None:
            return LabelledPixels(class_HW)
        remote = self._source.remote
        codes_HW, known_HW = read_labels(path, grid, window, remote=remote)
        place_HW = np.searchsorted(self._codes, codes_HW).clip(max=len(self._codes) - 1)
        listed_HW = known_HW & (self._codes[place_HW] == codes_HW)
        class_HW[listed_HW] = self._class_of_code[place_HW[listed_HW]]
        if path not in self._rasters:
            self._rasters[path] = _LabelRaster(len(describe_bands(path, remote=remote)))
        self._rasters[path].add(codes_HW, known_HW, named=bool(listed_HW.any()))
        return LabelledPixels(class_HW)

    def remarks(self) -> tuple[str, ...]:
        """See `LabelSource`."""
        messages = []
        if elsewhere := self._paths_where(lambda one: not one.known):
            messages.append(
                f"the label rasters of {listed(elsewhere)} have no value at any pixel of a tile: they lie elsewhere or "
                "hold nodata there; check `label.raster` and the CRS of the files"
            )
        if foreign := self._paths_where(lambda one: one.known and not one.named):
            held = sorted(set().union(*(self._rasters[path].others for path in foreign)))[:SHOWN]
            messages.append(
                f"the label rasters of {listed(foreign)} hold none of the codes of `label.classes` "
                f"({', '.join(map(str, self._codes[:SHOWN].tolist()))}) but {', '.join(map(str, held))}; correct "
                "`classes`"
            )
        if several := self._paths_where(lambda one: one.bands > 1):
            messages.append(
                f"the label rasters of {listed(several)} have several bands, as images do, and the first is read "
                "as class codes; if it holds none, rewrite them with one band of codes"
            )
        return tuple(messages)

    def _paths_where(self, chosen: "Callable[[_LabelRaster], bool]") -> list[str]:
        return [path for path, raster in self._rasters.items() if chosen(raster)]


@dataclass
class _LabelRaster:
    """What was read from a label raster: whether it has values in tiles, whether any is a class, and other codes."""

    bands: int
    known: bool = False
    named: bool = False
    others: set[int] = field(default_factory=set)

    def add(self, codes_HW: NDArray[np.int32], known_HW: NDArray[np.bool_], *, named: bool) -> None:
        """Add the codes of a tile, of which some are classes if `named`."""
        self.named |= named
        if not self.named and len(self.others) < SHOWN:
            self.others.update(np.unique(codes_HW[known_HW]).tolist())
        self.known |= bool(known_HW.any())
