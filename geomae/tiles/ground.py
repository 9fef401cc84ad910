"""The area that training tiles cover, and whether a window lies wholly in it: training reads no pixel outside.

T tiles, N windows, S scenes with tiles, K scenes whose tables have one shape, E edges of tiles along one axis
"""

import numpy as np
from numpy.typing import NDArray

from geomae.rasters import Window
from geomae.tiles.index import TileIndex

Whole = NDArray[np.int64]
Bools = NDArray[np.bool_]

_SCENE = 2**32  # scene * _SCENE + pixel is one number, so that the edges of all scenes are searched at once


class TrainingGround:
    """The pixels of each scene that lie in some tile of an index.

    With `region_T`, the number of the region of each tile, regions are used instead of scenes. The edges of the tiles
    divide a scene into cells that are covered wholly or not at all. Each scene has a summed-area table of its covered
    cells, whose size depends on the number of tiles and not on that of pixels.
    """

    def __init__(self, index: TileIndex, region_T: Whole | None = None) -> None:
        scene_T, row_T, col_T, size_T = index.tiles[["scene", "row", "col", "size"]].to_numpy(dtype=np.int64).T
        count = len(index.grids)
        if region_T is not None:
            scene_T, count = region_T, int(region_T.max()) + 1
        self._row_edges = np.unique(
            np.concatenate([scene_T, scene_T]) * _SCENE + np.concatenate([row_T, row_T + size_T])
        )
        self._col_edges = np.unique(
            np.concatenate([scene_T, scene_T]) * _SCENE + np.concatenate([col_T, col_T + size_T])
        )
        scenes = np.arange(count + 1) * _SCENE
        self._first_row = np.searchsorted(self._row_edges, scenes)  # per scene, in the edges of all
        self._first_col = np.searchsorted(self._col_edges, scenes)
        self._rows, self._cols = np.diff(self._first_row), np.diff(self._first_col)
        self._start = np.concatenate([[0], np.cumsum(self._rows * self._cols)])
        self._table = self._summed(scene_T, row_T, col_T, size_T)

    def holds(self, scene: int, row: int, col: int, size: int) -> bool:
        """Whether every pixel of a square window lies in some tile."""
        return self.window_within(scene, Window(row, col, size, size))

    def window_within(self, scene: int, window: Window) -> bool:
        """Whether every pixel of a window lies in some tile."""
        scene_N, row_N, col_N, height_N, width_N = np.array(
            [[scene], [window.row], [window.col], [window.height], [window.width]]
        )
        return bool(self.holds_each(scene_N, row_N, col_N, height_N, width_N)[0])

    def holds_each(self, scene_N: Whole, row_N: Whole, col_N: Whole, height_N: Whole, width_N: Whole) -> Bools:
        """The same for many windows (N); False for empty windows."""
        top_N, bottom_N, rows_N = _span(self._row_edges, self._first_row, scene_N, row_N, height_N)
        left_N, right_N, cols_N = _span(self._col_edges, self._first_col, scene_N, col_N, width_N)
        inside_N = rows_N & cols_N
        start_N, width_N = self._start[:-1][scene_N], self._cols[scene_N]

        def above_left(cell_row_N: Whole, cell_col_N: Whole) -> Whole:
            place_N = np.where(inside_N, start_N + cell_row_N * width_N + cell_col_N, 0)
            return self._table[place_N].astype(np.int64)

        covered_N = above_left(bottom_N, right_N) - above_left(top_N, right_N)
        covered_N += above_left(top_N, left_N) - above_left(bottom_N, left_N)
        return np.asarray(inside_N & (covered_N == (bottom_N - top_N) * (right_N - left_N)))

    def bounds(self, scene: int) -> tuple[int, int, int, int]:
        """The first row and column of a scene that lie in a tile, and one past the last."""
        rows, cols = (
            edges[first_S[scene] : first_S[scene + 1]] - scene * _SCENE
            for edges, first_S in ((self._row_edges, self._first_row), (self._col_edges, self._first_col))
        )
        return int(rows[0]), int(cols[0]), int(rows[-1]), int(cols[-1])

    def _summed(self, scene_T: Whole, row_T: Whole, col_T: Whole, size_T: Whole) -> NDArray[np.int32]:
        """The tables of all scenes, one after the other; entry (i, j) counts covered cells above i and left of j."""
        top_T, bottom_T = (
            np.searchsorted(self._row_edges, scene_T * _SCENE + edge_T) - self._first_row[scene_T]
            for edge_T in (row_T, row_T + size_T)
        )
        left_T, right_T = (
            np.searchsorted(self._col_edges, scene_T * _SCENE + edge_T) - self._first_col[scene_T]
            for edge_T in (col_T, col_T + size_T)
        )
        table = np.zeros(max(self._start[-1], 1), dtype=np.int32)
        start_T, width_T = self._start[scene_T], self._cols[scene_T]
        for cell_row_T, cell_col_T, sign in (
            (top_T, left_T, 1), (top_T, right_T, -1), (bottom_T, left_T, -1), (bottom_T, right_T, 1)
        ):  # fmt: skip
            np.add.at(table, start_T + cell_row_T * width_T + cell_col_T, np.int32(sign))
        shapes_S2 = np.stack([self._rows, self._cols], axis=1)
        for rows, cols in np.unique(shapes_S2[self._rows > 0], axis=0).tolist():
            scene_K = np.flatnonzero((self._rows == rows) & (self._cols == cols))
            place_KEE = (self._start[scene_K][:, None] + np.arange(rows * cols)).reshape(-1, rows, cols)
            covered_KEE = table[place_KEE].cumsum(1).cumsum(2) > 0
            summed_KEE = np.zeros((len(scene_K), rows, cols), dtype=np.int32)
            summed_KEE[:, 1:, 1:] = covered_KEE[:, :-1, :-1].cumsum(1, dtype=np.int32).cumsum(2, dtype=np.int32)
            table[place_KEE] = summed_KEE
        return table


def window_around(row: float, col: float, side: int) -> Window:
    """The square window of whole pixels whose centre is nearest to (row, col)."""
    (top, left), _ = _starts_around(np.array([row, col]), side, 0.0)
    return Window(int(top), int(left), side, side)


def draw_window(
    ground: TrainingGround,
    scene: int,
    centre_row: float,
    centre_col: float,
    side: int,
    reach: float,
    rng: np.random.Generator,
    tries: int = 16,
) -> Window | None:
    """A random square window of `side` pixels on the ground, at most `reach` pixels off the centre along each axis.

    All windows of whole pixels on the ground are equally likely. Where none of `tries` draws lies on it, the window
    around the centre itself is tried; None where that does not either. The number of draws from `rng` is always
    `tries`.
    """
    low_2, high_2 = _starts_around(np.array([centre_row, centre_col]), side, reach)
    starts_N2 = rng.integers(low_2, high_2 + 1, size=(tries, 2))
    middle = window_around(centre_row, centre_col, side)
    starts_N2 = np.concatenate([starts_N2, [[middle.row, middle.col]]])
    side_N = np.full(len(starts_N2), side)
    scene_N = np.full(len(starts_N2), scene)
    holds_N = ground.holds_each(scene_N, starts_N2[:, 0], starts_N2[:, 1], side_N, side_N)
    if not holds_N.any():
        return None
    row, col = starts_N2[int(holds_N.argmax())].tolist()
    return Window(row, col, side, side)


def starts(centre_N: NDArray[np.float64], side_N: Whole) -> Whole:
    """First pixels (N) of windows of `side` pixels around centres: as `window_around`, along one axis."""
    return np.floor(centre_N - side_N / 2 + 0.5).astype(np.int64)


def _starts_around(centre_2: NDArray[np.float64], side: int, reach: float) -> tuple[Whole, Whole]:
    """First and last start along each axis; where no whole pixel lies within reach, the nearest one."""
    nearest_2 = starts(centre_2, np.array(side))
    low_2 = np.ceil(centre_2 - side / 2 - reach).astype(np.int64)
    high_2 = np.floor(centre_2 - side / 2 + reach).astype(np.int64)
    none_2 = low_2 > high_2
    return np.where(none_2, nearest_2, low_2), np.where(none_2, nearest_2, high_2)


def _span(edges: Whole, first_S: Whole, scene_N: Whole, start_N: Whole, length_N: Whole) -> tuple[Whole, Whole, Bools]:
    """The first cell of its scene that each window touches along one axis, one past the last, and if both exist."""
    start_N, stop_N = start_N.astype(np.int64), (start_N + length_N).astype(np.int64)
    lowest_N, highest_N = first_S[:-1][scene_N], first_S[1:][scene_N]
    # Pixels beyond the range of a scene would be matched with the edges of another scene.
    inside_N = (length_N > 0) & (start_N >= 0) & (stop_N < _SCENE) & (highest_N > lowest_N)
    start_N, stop_N = np.where(inside_N, start_N, 0), np.where(inside_N, stop_N, 0)
    from_N = np.searchsorted(edges, scene_N * _SCENE + start_N, side="right") - 1 - lowest_N
    to_N = np.searchsorted(edges, scene_N * _SCENE + stop_N, side="left") - lowest_N
    inside_N &= (from_N >= 0) & (to_N < highest_N - lowest_N)
    return np.where(inside_N, from_N, 0), np.where(inside_N, to_N, 0), inside_N
