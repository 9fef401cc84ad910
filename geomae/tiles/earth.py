"""Where the pixels of scenes lie on Earth: in a CRS, by longitude and latitude, and on the unit sphere.

S scenes, F some of them, T tiles, X points of a tile, E points around a tile, K points; coordinates are (x, y) in a
CRS, float64
"""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from geomae.rasters import Grid
from geomae.vectors.projection import LONGITUDE_LATITUDE, transform, transformer

Floats = NDArray[np.float64]
Whole = NDArray[np.int64]

PER_EDGE = 4  # points of an outline: an edge that is straight in the tile's CRS is curved in another
MARGIN = 1.05  # sides of a scene may be curved between the points at which they are sampled
BORDER_82 = np.array([(0, 0), (0, 0.5), (0, 1), (0.5, 1), (1, 1), (1, 0.5), (1, 0), (0.5, 0)])
_IDENTITY = (1.0, 0.0, 0.0, 0.0, 1.0, 0.0)


@dataclass(frozen=True)
class Frames:
    """How the pixels of scenes map to the world.

    `crs_S` indexes `crs_names`; it is -1 where a scene has no CRS, or one without a position on Earth. `affine_S6` maps
    pixels (column, row) to the CRS, and is the identity without a CRS.
    """

    crs_names: tuple[str, ...]
    crs_S: Whole
    affine_S6: Floats

    def in_crs(self, scene_T: Whole, col_TX: Floats, row_TX: Floats) -> Floats:
        """Positions (T, X, 2) of pixels in the CRS of their scenes."""
        return to_crs(self.affine_S6[scene_T], col_TX, row_TX)

    def projected(self, scene_T: Whole, col_TX: Floats, row_TX: Floats, target: str) -> Floats:
        """Positions (T, X, 2) of pixels in the CRS `target`; NaN where a pixel has none."""
        points_TX2 = self.in_crs(scene_T, col_TX, row_TX)
        crs_K = np.repeat(self.crs_S[scene_T], points_TX2.shape[1])
        return reproject(self.crs_names, crs_K, points_TX2.reshape(-1, 2), target).reshape(points_TX2.shape)

    def longitude_latitude(self, scene_T: Whole, col_TX: Floats, row_TX: Floats) -> Floats:
        """Positions (T, X, 2) in degrees. Longitudes may exceed 180; latitudes are clipped at the poles."""
        degrees_TX2 = self.projected(scene_T, col_TX, row_TX, LONGITUDE_LATITUDE)
        degrees_TX2[..., 1] = np.clip(degrees_TX2[..., 1], -90, 90)
        return degrees_TX2

    def outlines(self, place_T4: Whole, inset: float = 0.0, per_edge: int = PER_EDGE) -> Floats:
        """Points around tiles (scene, row, col, size) in degrees: (T, E, 2), anticlockwise where north is up.

        `inset` is the fraction of a side by which outlines are shrunk on each side.
        """
        scene_T, row_T1, col_T1, size_T1 = place_T4[:, 0], *(place_T4[:, k : k + 1] for k in (1, 2, 3))
        around_E2 = inset + (1 - 2 * inset) * _around(per_edge)
        return self.longitude_latitude(scene_T, col_T1 + around_E2[:, 0] * size_T1, row_T1 + around_E2[:, 1] * size_T1)

    def circles(self, scene_F: Whole, shape_S2: Whole) -> tuple[Floats, Floats]:
        """Circles around scenes of `shape_S2` (height, width): centres on the sphere (F, 3), radii as chords (F)."""
        height_F1, width_F1 = shape_S2[scene_F].T[:, :, None]
        share_92 = np.concatenate([[[0.5, 0.5]], BORDER_82])
        degrees_F92 = self.projected(scene_F, width_F1 * share_92[:, 0], height_F1 * share_92[:, 1], LONGITUDE_LATITUDE)
        sphere_F93 = to_sphere(degrees_F92)
        distance_F8 = np.sqrt(((sphere_F93[:, 1:] - sphere_F93[:, :1]) ** 2).sum(axis=2))
        unknown_F = ~np.isfinite(distance_F8).all(axis=1)  # part of the border lies outside the projection
        centre_F3 = np.where(unknown_F[:, None], [0.0, 0.0, 1.0], sphere_F93[:, 0])
        return centre_F3, np.where(unknown_F, 2.0, MARGIN * distance_F8.max(axis=1, initial=0.0))


def frames_of(grids: Sequence[Grid | None], crs_numbers: dict[str, int] | None = None) -> Frames:
    """The frames of scenes. New CRS are added to `crs_numbers`, so that several data sets can share it."""
    numbers: dict[str, int] = {} if crs_numbers is None else crs_numbers
    crs_S = np.array([_crs_number(grid, numbers) for grid in grids], dtype=np.int64)
    transforms = [_IDENTITY if grid is None or grid.crs is None else grid.transform for grid in grids]
    return Frames(tuple(numbers), crs_S, np.array(transforms, dtype=np.float64))


def to_sphere(degrees: Floats) -> Floats:
    """Longitudes and latitudes (..., 2) as unit vectors (..., 3), which have no discontinuity at 180 or at a pole."""
    longitude, latitude = np.radians(np.moveaxis(degrees, -1, 0))
    flat = np.cos(latitude)
    return np.stack([flat * np.cos(longitude), flat * np.sin(longitude), np.sin(latitude)], axis=-1)


def reproject(crs_names: Sequence[str], crs_K: Whole, points_K2: Floats, target: str) -> Floats:
    """Points (K, 2) in the CRS `target`; NaN where a point has no position there."""
    result_K2 = np.full(points_K2.shape, np.nan)
    for number in np.unique(crs_K[crs_K >= 0]).tolist():
        here = np.flatnonzero(crs_K == number)
        result_K2[here] = transform(crs_names[number], target, points_K2[here])
    return result_K2


def to_crs(affine_K6: Floats, col_KX: Floats, row_KX: Floats) -> Floats:
    """Points (K, X, 2) in the CRS from pixels (K, X)."""
    a, b, c, d, e, f = affine_K6.T[:, :, None]
    return np.stack([a * col_KX + b * row_KX + c, d * col_KX + e * row_KX + f], axis=-1)


def to_pixels(affine_K6: Floats, points_KX2: Floats) -> Floats:
    """Pixels (column, row: K, X, 2) from points in the CRS."""
    a, b, c, d, e, f = affine_K6.T[:, :, None]
    x, y = points_KX2[..., 0] - c, points_KX2[..., 1] - f
    determinant = a * e - b * d
    return np.stack([(e * x - b * y) / determinant, (a * y - d * x) / determinant], axis=-1)


def _crs_number(grid: Grid | None, numbers: dict[str, int]) -> int:
    if grid is None or grid.crs is None or transformer(grid.crs, LONGITUDE_LATITUDE) is None:
        return -1
    return numbers.setdefault(grid.crs, len(numbers))


def _around(per_edge: int) -> Floats:
    """Points (E, 2) on the edge of a unit square as (column, row), anticlockwise from the lower left."""
    share = np.arange(per_edge) / per_edge
    one, none = np.ones(per_edge), np.zeros(per_edge)
    sides = ((share, one), (one, 1 - share), (1 - share, none), (none, share))
    return np.concatenate([np.stack(side, axis=1) for side in sides])
