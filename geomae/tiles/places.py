"""Which windows of other scenes show the ground of a tile at another time or by another sensor.

T tiles, S scenes, P partners of all tiles, N pairs of a tile and a scene that may be partners, M pairs of a tile and a
key (a place or a footprint) with the scenes behind it, B tiles of a batch
"""

from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import numpy as np
import pandas as pd
import shapely
from numpy.typing import NDArray

from geomae.errors import CatalogError
from geomae.rasters import Grid
from geomae.tiles.georeference import Georeference, carry_over, georeference, meeting_footprints
from geomae.tiles.ground import TrainingGround, starts
from geomae.tiles.index import TileIndex

Floats = NDArray[np.float64]
Whole = NDArray[np.int64]
Bools = NDArray[np.bool_]

MOST = 32  # partners of a tile in one data set, spread evenly over its scenes: more cost memory and add little
LOOKED_AT = 64  # scenes of one place, spread evenly, that are tried first; the others where none of these fits
CHUNK = 500_000  # pairs of tiles and scenes that are processed at once
BLOCK = 512  # rows of a matrix between the tiles of a batch that are computed at once
GSD_TOLERANCE = 0.05
TOUCHING = 1e-6  # share of a side: windows with a smaller overlap only touch
FOOTPRINTS = "overlapping footprints"


@dataclass(frozen=True)
class Partner:
    """The centre of a tile lies at pixel (row, col) of a scene; one pixel of the tile is `zoom` pixels there."""

    dataset: int
    scene: int
    row: float
    col: float
    zoom: float


@dataclass(frozen=True)
class _Side:
    """One data set of a pair: its tiles, their ground, and numbers of places and scenes.

    `place_T` numbers the places across all data sets (-1: unknown); `file_S` numbers the scenes, equal where they share
    a file.
    """

    index: TileIndex
    name: str
    earth: Georeference
    ground: TrainingGround
    place_T: Whole
    file_S: Whole

    @property
    def has_places(self) -> bool:
        """Whether places come from `places` of the catalogue and not from `group.folds`."""
        return self.index.place_column is not None and self.index.place_column[1] == "places"

    @property
    def column(self) -> str:
        """The column of places, in words."""
        name, key = self.index.place_column or ("", "")
        return f"column {name} ({key})"


@dataclass(frozen=True)
class _Table:
    """Partners of the tiles of a data set, sorted by tile, data set and scene.

    Those of tile t are the entries from first_T[t] up to first_T[t + 1].
    """

    first_T: Whole
    dataset_P: NDArray[np.int16]
    scene_P: NDArray[np.int32]
    centre_P2: Floats
    zoom_P: Floats


class Partners:
    """Partners of the tiles of several data sets.

    `how` has one line per data set: how many tiles have a partner and how these were found. `grounds` are the areas of
    the tiles of each data set: every partner lies in them.
    """

    def __init__(self, sides: Sequence[_Side], tables: Sequence[_Table], how: Sequence[str]) -> None:
        self.how = tuple(how)
        self.grounds = tuple(side.ground for side in sides)
        self._tables = tuple(tables)
        self._boxes = tuple(_Boxes(side) for side in sides)

    def of(self, dataset: int, tile: int) -> tuple[Partner, ...]:
        """The partners of a tile (its position in the index), at most 32 in each data set, by data set and scene."""
        table = self._tables[dataset]
        own = slice(int(table.first_T[tile]), int(table.first_T[tile + 1]))
        columns = (table.dataset_P, table.scene_P, table.centre_P2[:, 0], table.centre_P2[:, 1], table.zoom_P)
        return tuple(Partner(*one) for one in zip(*(column[own].tolist() for column in columns), strict=True))

    def with_partner(self, dataset: int, other: int | None = None) -> Whole:
        """Positions of the tiles of a data set that have a partner in any data set, or in `other`."""
        table = self._tables[dataset]
        tile_P = np.repeat(np.arange(len(table.first_T) - 1), np.diff(table.first_T))
        return np.unique(tile_P if other is None else tile_P[table.dataset_P == other])

    def count(self, dataset: int, other: int | None = None) -> int:
        """How many these are."""
        return len(self.with_partner(dataset, other))

    def place_id(self, dataset: int) -> Whole:
        """A number (T) that is equal for tiles of one place across data sets; -1 where it is unknown.

        Values of `group.folds` are used only where files have no CRS, as they are for pairs.
        """
        return self._boxes[dataset].place_T

    def same_ground(self, dataset: int, positions_B: Whole, reach: float) -> Bools:
        """Which pairs of tiles (B, B) of a data set may show the same ground and must not be negatives of each other.

        They have the same place, or their boxes overlap after scaling by `reach` around their centres. The overlap is
        exact within one scene or CRS; between two CRS it is that of circles around the boxes.
        """
        return self._boxes[dataset].overlap(np.asarray(positions_B, dtype=np.int64), reach)


class _Boxes:
    """Where the tiles of a data set lie, to find those of a batch that overlap."""

    def __init__(self, side: _Side) -> None:
        earth = side.earth
        crs_T = earth.crs_T
        self.place_T = side.place_T if side.has_places else np.where(crs_T >= 0, -1, side.place_T)
        # Tiles of one frame have comparable coordinates: those of one CRS, and without one those of one scene.
        self._frame_T = np.where(crs_T >= 0, crs_T, -1 - earth.scene_T)
        self._centre_T2 = earth.points_T32[:, 0]
        self._half_T2 = np.abs(earth.points_T32[:, 1:] - earth.points_T32[:, :1]).sum(axis=1)
        self._sphere_T3 = earth.sphere_T33[:, 0]
        right_T3, down_T3 = (earth.sphere_T33[:, k] - self._sphere_T3 for k in (1, 2))
        diagonals_T2 = np.stack([((right_T3 + sign * down_T3) ** 2).sum(axis=1) for sign in (1, -1)], axis=1)
        self._radius_T = np.sqrt(diagonals_T2.max(axis=1))

    def overlap(self, positions_B: Whole, reach: float) -> Bools:
        """See `Partners.same_ground`."""
        blocks = [positions_B[start : start + BLOCK] for start in range(0, len(positions_B), BLOCK)]
        rows = [self._rows(block, positions_B, reach) for block in blocks]
        same = np.concatenate(rows) if rows else np.zeros((0, 0), dtype=bool)
        # A tree finds the few pairs whose boxes meet, out of B x B of a large batch.
        centre_B2, half_B2 = self._centre_T2[positions_B], self._half_T2[positions_B]
        boxes = shapely.box(*(centre_B2 - reach * half_B2).T, *(centre_B2 + reach * half_B2).T)
        one, other = shapely.STRtree(boxes).query(boxes)
        near = np.abs(centre_B2[one] - centre_B2[other]) < (reach - TOUCHING) * (half_B2[one] + half_B2[other])
        frame_B = self._frame_T[positions_B]
        meeting = near.all(axis=1) & (frame_B[one] == frame_B[other])
        same[one[meeting], other[meeting]] = True
        return same

    def _rows(self, rows: Whole, columns: Whole, reach: float) -> Bools:
        """Which tiles are of one place, or of two frames and close to each other on the sphere."""
        same = (self.place_T[rows, None] == self.place_T[columns]) & (self.place_T[rows, None] >= 0)
        frame_row, frame_column = self._frame_T[rows, None], self._frame_T[columns]
        on_earth_row, on_earth_column = frame_row >= 0, frame_column >= 0
        elsewhere = on_earth_row & on_earth_column & (frame_row != frame_column)
        if elsewhere.any():
            squared = np.zeros(elsewhere.shape)
            for axis in range(3):
                squared += (self._sphere_T3[rows, None, axis] - self._sphere_T3[columns, axis]) ** 2
            limit = reach * (self._radius_T[rows, None] + self._radius_T[columns])
            same |= elsewhere & (squared < limit**2)
        return np.asarray(same)


def find_partners(indexes: Sequence[TileIndex], names: Sequence[str] | None = None) -> Partners:
    """Find the partners of every tile. `indexes` hold the training tiles; `names` are used in `how`.

    Two data sets (or one with itself) are paired by the first of these that both have: the column of `places`, a CRS in
    the files, the column of `group.folds`. A partner is a window in another file, centred on the tile and of its size
    on the ground, that lies wholly on training tiles of its data set. Raises CatalogError where scenes of one place
    have no CRS and differ in size.
    """
    sides = _sides(indexes, names or [index.name for index in indexes])
    tables, how = [], []
    for side in sides:
        ways: Counter[str] = Counter()
        parts = [_pair(side, other, number, ways) for number, other in enumerate(sides)]
        tables.append(_assemble(parts, len(side.index)))
        how.append(_summary(side, sides, tables[-1], ways))
    return Partners(sides, tables, how)


def _sides(indexes: Sequence[TileIndex], names: Sequence[str]) -> list[_Side]:
    crs_numbers: dict[str, int] = {}
    files: dict[str, int] = {}
    place = pd.concat([index.tiles["place"] for index in indexes]).astype("object")
    codes = pd.factorize(place, use_na_sentinel=True)[0].astype(np.int64)
    bounds = np.cumsum([0, *(len(index) for index in indexes)])
    sides = []
    for number, (index, name) in enumerate(zip(indexes, names, strict=True)):
        place_T = codes[bounds[number] : bounds[number + 1]]
        earth = georeference(index, crs_numbers)
        sides.append(_Side(index, name, earth, TrainingGround(index), place_T, _scene_numbers(index, files)))
    return sides


def _scene_numbers(index: TileIndex, files: dict[str, int]) -> Whole:
    """Numbers of scenes, equal where they share a file, across data sets; files of the index are added to `files`."""
    numbers = []
    for scene in index.source.scenes:
        number = next((files[path] for path in scene.files if path in files), len(files))
        files |= dict.fromkeys((path for path in scene.files if path not in files), number)
        numbers.append(number)
    return np.array(numbers, dtype=np.int64)


Columns = tuple[Whole, Whole, Floats, Floats]  # of each partner: tile, scene, row and column, zoom


def _pair(one: _Side, other: _Side, number: int, ways: Counter[str]) -> tuple[int, Columns]:
    """The partners in `other` (data set `number`) of the tiles of `one`; `ways` counts how they were found."""
    if one.has_places and other.has_places:
        by_place = _search(one, other, *_same_place(one, other))
        ways[one.column] += len(by_place[0])
        return number, by_place
    by_ground = _search(one, other, *_same_footprint(one, other))
    ways[FOOTPRINTS] += len(by_ground[0])
    if one.index.place_column is None or other.index.place_column is None:
        return number, by_ground
    by_place = _search(one, other, *_same_place(one, other, without_crs=True), everywhere=False)
    ways[one.column] += len(by_place[0])
    return number, _spread(_joined([by_ground, by_place]))


def _joined(parts: Sequence[Columns]) -> Columns:
    tile, scene, centre, zoom = zip(*parts, strict=True)
    return np.concatenate(tile), np.concatenate(scene), np.concatenate(centre), np.concatenate(zoom)


def _same_place(one: _Side, other: _Side, *, without_crs: bool = False) -> tuple[Whole, Whole, Whole, Whole]:
    """Tiles and their places as keys, and the scenes of each key: tile_M, key_M, key_K, scene_K."""
    tiles, known = one.place_T >= 0, other.place_T >= 0
    if without_crs:  # on at least one side: pairs in which both have one are dropped later
        on_earth, other_on_earth = one.earth.crs_T >= 0, other.earth.crs_T >= 0
        tiles, known = tiles & ~(on_earth & other_on_earth.all()), known & ~(other_on_earth & on_earth.all())
    tile_M = np.flatnonzero(tiles)
    behind = np.unique(np.stack([other.place_T[known], other.earth.scene_T[known]], axis=1), axis=0)
    return tile_M, one.place_T[tile_M], behind[:, 0], behind[:, 1]


def _same_footprint(one: _Side, other: _Side) -> tuple[Whole, Whole, Whole, Whole]:
    """As `_same_place`, with footprints as keys."""
    tile_M, footprint_M, footprint_S = meeting_footprints(one.earth, other.earth)
    scene = np.flatnonzero(footprint_S >= 0)
    scene = scene[np.argsort(footprint_S[scene], kind="stable")]
    return tile_M, footprint_M, footprint_S[scene], scene


def _search(
    one: _Side, other: _Side, tile_M: Whole, key_M: Whole, key_K: Whole, scene_K: Whole, *, everywhere: bool = True
) -> Columns:
    """The partners among tiles and the scenes behind their keys; `key_K` is sorted, and so is `tile_M`.

    `everywhere` false leaves out pairs in which both have a CRS.
    """
    kept: list[Columns] = [(np.zeros(0, np.int64), np.zeros(0, np.int64), np.zeros((0, 2)), np.zeros(0))]
    for tile_N, scene_N in _candidates(tile_M, key_M, key_K, scene_K):
        fits = one.file_S[one.earth.scene_T[tile_N]] != other.file_S[scene_N]
        on_earth_N = (one.earth.crs_T[tile_N] >= 0) & (other.earth.crs_S[scene_N] >= 0)
        fits &= everywhere | ~on_earth_N
        tile_N, scene_N, on_earth_N = tile_N[fits], scene_N[fits], on_earth_N[fits]
        first_N = _evenly(tile_N, LOOKED_AT)
        kept.append(_spread(_on_ground(one, other, tile_N[first_N], scene_N[first_N], on_earth_N[first_N])))
        if not first_N.all():
            rest_N = ~first_N & ~np.isin(tile_N, kept[-1][0])
            kept.append(_spread(_on_ground(one, other, tile_N[rest_N], scene_N[rest_N], on_earth_N[rest_N])))
    return _joined(kept)


def _candidates(tile_M: Whole, key_M: Whole, key_K: Whole, scene_K: Whole) -> Iterator[tuple[Whole, Whole]]:
    """Pairs of tile and scene (N), in chunks; all pairs of a tile are in one chunk."""
    low_M, high_M = np.searchsorted(key_K, key_M), np.searchsorted(key_K, key_M, side="right")
    total_M = np.cumsum(high_M - low_M)
    start = 0
    while start < len(tile_M):
        before = int(total_M[start - 1]) if start else 0
        stop = max(int(np.searchsorted(total_M, before + CHUNK, side="right")), start + 1)
        stop = int(np.searchsorted(tile_M, tile_M[stop - 1], side="right"))  # to the end of the last tile
        low, length = low_M[start:stop], (high_M - low_M)[start:stop]
        which = np.repeat(np.arange(len(low)), length)
        within = np.arange(len(which)) - np.repeat(np.cumsum(length) - length, length)
        yield tile_M[start:stop][which], scene_K[low[which] + within]
        start = stop


def _on_ground(one: _Side, other: _Side, tile_N: Whole, scene_N: Whole, on_earth_N: Bools) -> Columns:
    """The pairs whose window lies on the ground of the other data set: tile, scene, centre and zoom."""
    earth = one.earth
    centre_N2 = np.stack([earth.row_T, earth.col_T], axis=1)[tile_N] + earth.size_T[tile_N, None] / 2
    zoom_N, good_N = np.ones(len(tile_N)), np.ones(len(tile_N), dtype=bool)
    _check_sizes(one, other, earth.scene_T[tile_N[~on_earth_N]], scene_N[~on_earth_N])
    carried = carry_over(earth, tile_N[on_earth_N], other.earth, scene_N[on_earth_N])
    centre_N2[on_earth_N], zoom_N[on_earth_N], good_N[on_earth_N] = carried
    tile_N, scene_N, centre_N2, zoom_N = tile_N[good_N], scene_N[good_N], centre_N2[good_N], zoom_N[good_N]
    side_N = np.maximum(np.rint(earth.size_T[tile_N] * zoom_N), 1).astype(np.int64)
    row_N, col_N = (starts(centre_N2[:, axis], side_N) for axis in range(2))
    holds_N = other.ground.holds_each(scene_N, row_N, col_N, side_N, side_N)
    return tile_N[holds_N], scene_N[holds_N], centre_N2[holds_N], zoom_N[holds_N]


def _check_sizes(one: _Side, other: _Side, scene_N: Whole, partner_N: Whole) -> None:
    """Raise CatalogError where scenes that are paired pixel by pixel differ in size."""
    for scene, partner in np.unique(np.stack([scene_N, partner_N], axis=1), axis=0).tolist():
        first, second = one.index.grids[scene], other.index.grids[partner]
        assert first is not None and second is not None  # they have tiles
        ratio = first.gsd_m / second.gsd_m if first.gsd_m and second.gsd_m else 1.0
        if (first.height, first.width) != (second.height, second.width) or abs(ratio - 1) > GSD_TOLERANCE:
            raise CatalogError(
                f"{one.index.name}: {one.column} says that {one.index.source.scenes[scene].id} ({_size(first)}) and "
                f"{other.index.source.scenes[partner].id} of {other.index.name} ({_size(second)}) show one place; "
                "without a CRS they are paired pixel by pixel and must be of one size: cut them to one extent, add "
                "a CRS, or name another column with `places`"
            )


def _size(grid: Grid) -> str:
    return f"{grid.height} x {grid.width} pixels" + (f" of {grid.gsd_m:g} m" if grid.gsd_m else "")


def _spread(columns: Columns) -> Columns:
    """At most MOST partners of each tile, spread evenly over its scenes; sorted by tile, then scene."""
    order = np.lexsort((columns[1], columns[0]))
    tile_P, scene_P, centre_P2, zoom_P = columns[0][order], columns[1][order], columns[2][order], columns[3][order]
    keep = _evenly(tile_P, MOST)
    return tile_P[keep], scene_P[keep], centre_P2[keep], zoom_P[keep]


def _evenly(tile_P: Whole, most: int) -> Bools:
    """True for at most `most` entries of each tile, evenly spread; `tile_P` is sorted."""
    _, first, counts = np.unique(tile_P, return_index=True, return_counts=True)
    rank_P = np.arange(len(tile_P)) - np.repeat(first, counts)
    most_P = np.maximum(np.repeat(counts, counts), most)
    return np.asarray((rank_P + 1) * most // most_P > rank_P * most // most_P)


def _assemble(parts: Sequence[tuple[int, Columns]], tiles: int) -> _Table:
    """The partners in all data sets as one table."""
    dataset = np.concatenate([np.full(len(columns[0]), number, dtype=np.int16) for number, columns in parts])
    tile, scene, centre, zoom = _joined([columns for _, columns in parts])
    order = np.lexsort((scene, dataset, tile))
    first = np.searchsorted(tile[order], np.arange(tiles + 1))
    return _Table(first, dataset[order], scene[order].astype(np.int32), centre[order], zoom[order])


def _summary(side: _Side, sides: Sequence[_Side], table: _Table, ways: Counter[str]) -> str:
    """One line: how many tiles have a partner, in which data sets, and how they were found."""
    tile_P = np.repeat(np.arange(len(side.index)), np.diff(table.first_T))
    text = f"{side.name}: {len(np.unique(tile_P)):,} of {len(side.index):,} tiles share ground with another scene"
    if not len(tile_P):
        column = f"no windows of other scenes that share a value of {side.column}"
        where = "no column of places" if side.index.place_column is None else column
        unknown = all((one.earth.crs_S < 0).all() for one in sides)
        footprints = "no footprints, as no scene has a CRS" if unknown else f"no {FOOTPRINTS}"
        return f"{text}: {where}, {footprints}"
    text += ", by " + " and by ".join(sorted(way for way, found in ways.items() if found))
    if len(sides) > 1:
        by_dataset = [len(np.unique(tile_P[table.dataset_P == number])) for number in range(len(sides))]
        within = (f"{found:,} in {other.name}" for found, other in zip(by_dataset, sides, strict=True) if found)
        text += f" ({', '.join(within)})"
    return text
