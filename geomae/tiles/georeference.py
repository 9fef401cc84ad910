"""Where tiles lie on Earth, and where the ground of a tile lies in the pixels of another scene.

T tiles, S scenes, N pairs of a tile and a scene, M pairs of a tile and a footprint, F footprints, K points; coordinates
are (x, y) in a CRS, float64
"""

from dataclasses import dataclass

import numpy as np
import shapely
from numpy.typing import NDArray
from scipy import spatial  # type: ignore[import-untyped]

from geomae.tiles.earth import Frames, frames_of, reproject, to_pixels, to_sphere
from geomae.tiles.index import TileIndex

Floats = NDArray[np.float64]
Whole = NDArray[np.int64]
Bools = NDArray[np.bool_]

LEAST_SHARE = 0.5  # of a tile's ground that the window in the other scene has to cover
ROUND = 1.5  # axis ratio below which a square and its image surely overlap by more than half (pi / 4 / 1.5)


@dataclass(frozen=True)
class Georeference:
    """The tiles of an index and the grids of its scenes as arrays.

    `crs_S` indexes `crs_names`, -1 without a CRS. `affine_S6` maps pixels (column, row) to the CRS, and is the identity
    without one. `points_T32` are the centre of each tile and the middles of its right and lower sides,
    `sphere_T33` the same as points of the unit sphere (NaN where unknown).
    """

    scene_T: Whole
    row_T: Whole
    col_T: Whole
    size_T: Whole
    crs_names: tuple[str, ...]
    crs_S: Whole
    affine_S6: Floats
    shape_S2: Whole
    points_T32: Floats
    sphere_T33: Floats

    @property
    def crs_T(self) -> Whole:
        """The CRS of each tile."""
        return self.crs_S[self.scene_T]


def georeference(index: TileIndex, crs_numbers: dict[str, int]) -> Georeference:
    """Collect the arrays. New CRS are added to `crs_numbers`, so that several indexes can share it."""
    scene_T, row_T, col_T, size_T = index.tiles[["scene", "row", "col", "size"]].to_numpy(dtype=np.int64).T
    frames = frames_of(index.grids, crs_numbers)
    shape_S2 = np.array([(0, 0) if grid is None else (grid.height, grid.width) for grid in index.grids], dtype=np.int64)
    half_T = size_T / 2
    middle_col_T, middle_row_T = col_T + half_T, row_T + half_T
    col_T3 = np.stack([middle_col_T, col_T + size_T, middle_col_T], axis=1)
    row_T3 = np.stack([middle_row_T, middle_row_T, row_T + size_T], axis=1)
    points_T32 = frames.in_crs(scene_T, col_T3, row_T3)
    sphere_T33 = to_sphere(frames.longitude_latitude(scene_T, col_T3, row_T3))
    names, crs_S, affine_S6 = frames.crs_names, frames.crs_S, frames.affine_S6
    return Georeference(scene_T, row_T, col_T, size_T, names, crs_S, affine_S6, shape_S2, points_T32, sphere_T33)


def meeting_footprints(one: Georeference, other: Georeference) -> tuple[Whole, Whole, Whole]:
    """Tiles of `one` whose centre may lie in a footprint of `other`: tile_M, footprint_M, and footprint_S of scenes.

    Scenes with the same grid share a footprint; it is -1 where a scene has no CRS or no tile. Every pair that overlaps
    is included; some pairs that do not may be included, too.
    """
    footprint_S = np.full(len(other.crs_S), -1, dtype=np.int64)
    nothing = np.zeros(0, dtype=np.int64)
    used = np.intersect1d(np.unique(other.scene_T), np.flatnonzero(other.crs_S >= 0))
    known_T = np.flatnonzero(np.isfinite(one.sphere_T33[:, 0]).all(axis=1))
    if not len(used) or not len(known_T):
        return nothing, nothing, footprint_S
    grid_SX = np.column_stack([other.crs_S, other.affine_S6, other.shape_S2])[used]
    _, first_F, number_S = np.unique(grid_SX, axis=0, return_index=True, return_inverse=True)
    footprint_S[used] = number_S.reshape(-1)
    frames = Frames(other.crs_names, other.crs_S, other.affine_S6)
    centre_F3, radius_F = frames.circles(used[first_F], other.shape_S2)
    near = spatial.cKDTree(one.sphere_T33[known_T, 0]).query_ball_point(centre_F3, radius_F, return_sorted=False)
    counts_F = np.array([len(tiles) for tiles in near])
    tile_M = known_T[np.concatenate([np.array(tiles, dtype=np.int64) for tiles in near])]
    footprint_M = np.repeat(np.arange(len(near)), counts_F)
    order = np.lexsort((footprint_M, tile_M))
    return tile_M[order], footprint_M[order], footprint_S


def carry_over(one: Georeference, tile_N: Whole, other: Georeference, scene_N: Whole) -> tuple[Floats, Floats, Bools]:
    """The centre of each tile in a scene (row, column: N, 2), and the side of a tile pixel in pixels of the scene (N).

    The third array (N) is true where the centre lies in the scene, and a square window of the tile's size around it
    covers at least half of the tile; it does not where the pixels of one scene are strongly elongated in the other.
    Both scenes need a CRS.
    """
    world_N32 = one.points_T32[tile_N]
    from_N, to_N = one.crs_S[one.scene_T[tile_N]], other.crs_S[scene_N]
    for number in np.unique(to_N[from_N != to_N]).tolist():
        here = np.flatnonzero((to_N == number) & (from_N != number))
        target = other.crs_names[number]
        for k in range(3):
            world_N32[here, k] = reproject(one.crs_names, from_N[here], world_N32[here, k], target)
    pixel_N32 = to_pixels(other.affine_S6[scene_N], world_N32)
    # Columns of the matrix: a step of one column, and of one row, in the tile's scene as (column, row) of the other.
    half_N = one.size_T[tile_N] / 2
    matrix_N22 = np.stack([pixel_N32[:, 1] - pixel_N32[:, 0], pixel_N32[:, 2] - pixel_N32[:, 0]], axis=2)
    matrix_N22 = matrix_N22 / half_N[:, None, None]
    zoom_N = np.sqrt(np.abs(matrix_N22[:, 0, 0] * matrix_N22[:, 1, 1] - matrix_N22[:, 0, 1] * matrix_N22[:, 1, 0]))
    shape_N2 = other.shape_S2[scene_N]
    good_N = np.isfinite(pixel_N32).all(axis=(1, 2)) & (zoom_N > 0) & (zoom_N * half_N <= shape_N2.min(axis=1))
    good_N &= ((pixel_N32[:, 0] >= 0) & (pixel_N32[:, 0] <= shape_N2[:, ::-1])).all(axis=1)
    good_N[good_N] = _covered(matrix_N22[good_N] / zoom_N[good_N, None, None]) >= LEAST_SHARE
    return pixel_N32[:, 0, ::-1], zoom_N, good_N


def _covered(matrix_N22: Floats) -> Floats:
    """The share of a square's image under matrices of determinant 1 that lies in it (1 for small distortions)."""
    share_N = np.ones(len(matrix_N22))
    squares_N = (matrix_N22**2).sum(axis=(1, 2))  # r + 1 / r for the ratio r of the axes
    long = np.flatnonzero(squares_N > ROUND + 1 / ROUND)
    if len(long):
        corners_42 = np.array([(-1, -1), (1, -1), (1, 1), (-1, 1)]) / 2
        images = shapely.polygons(np.einsum("nij,kj->nki", matrix_N22[long], corners_42))
        share_N[long] = shapely.area(shapely.intersection(images, shapely.box(-0.5, -0.5, 0.5, 0.5)))
    return share_N
