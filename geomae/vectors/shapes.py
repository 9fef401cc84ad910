"""Polygons as flat arrays of vertices: transformation between CRS, repair, and area.

N polygons, V vertices of all their rings, S edges; coordinates are (x, y), east before north, float64
"""

from collections.abc import Callable

import numpy as np
import shapely
from numpy.typing import NDArray

from geomae.vectors.projection import TURN, Floats, in_degrees, transform

Geometries = NDArray[np.object_]
Whole = NDArray[np.int64]
EQUAL_AREA = "EPSG:6933"
EQUAL_AREA_TURN = 2 * 17_367_530.445161  # circumference of EPSG:6933 in metres: twice its x at longitude 180
MOST_ROUNDS = 8  # an edge is cut into at most 3^8 pieces
POLYGON, MULTIPOLYGON = 3, 6


def polygonal(geometries_N: Geometries) -> Geometries:
    """Keep only the polygons of geometries: drop lines and points that repair or intersection may leave."""
    result_N = geometries_N.copy()
    for place in np.flatnonzero(~np.isin(shapely.get_type_id(geometries_N), (POLYGON, MULTIPOLYGON))).tolist():
        parts = shapely.get_parts(shapely.get_parts(geometries_N[place]))
        result_N[place] = shapely.multipolygons(parts[shapely.get_type_id(parts) == POLYGON])
    return result_N


def mended(geometries_N: Geometries) -> tuple[Geometries, int]:
    """Repair invalid geometries (for example, rings that cross themselves); also returns how many were repaired."""
    broken_N = ~shapely.is_valid(geometries_N) & ~shapely.is_missing(geometries_N)
    if not broken_N.any():
        return geometries_N, 0
    result_N = geometries_N.copy()
    result_N[broken_N] = polygonal(shapely.make_valid(geometries_N[broken_N]))
    return result_N, int(broken_N.sum())


def areas_m2(geometries_N: Geometries, crs: str) -> Floats:
    """Area of each polygon (N) in square metres, in EPSG:6933; infinite where a vertex cannot be transformed."""
    if not len(geometries_N):
        return np.zeros(0)
    kind, points_V2, offsets = shapely.to_ragged_array(geometries_N)
    metres_V2 = transform(crs, EQUAL_AREA, points_V2)
    metres_V2[:, 0] = _continuous(metres_V2[:, 0], _first_corner(offsets), EQUAL_AREA_TURN)
    lost_N = _any_lost(metres_V2, offsets)
    metres_V2[~np.isfinite(metres_V2)] = 0
    area_N = shapely.area(shapely.from_ragged_array(kind, metres_V2, offsets))
    return np.where(lost_N, np.inf, area_N)


def reprojected(
    geometries_N: Geometries, source: str, target: str, to_pixels: Callable[[Floats], Floats], tolerance: float
) -> tuple[Geometries, NDArray[np.bool_]]:
    """Transform polygons from `source` to pixels; also returns which polygons (N) could be transformed.

    `to_pixels` maps points of `target` to pixels. A straight edge in one CRS is curved in the other, so edges are cut
    into thirds until they lie within `tolerance` pixels of the true curve. Longitudes continue beyond 180 where a
    polygon crosses it.
    """
    kind, points_V2, offsets = shapely.to_ragged_array(geometries_N)
    own_degrees, degrees = in_degrees(source), in_degrees(target)

    def placed(points_V2: Floats, anchor_V: Floats) -> Floats:
        there_V2 = transform(source, target, points_V2)
        if degrees and source != target:
            there_V2[:, 0] += TURN * np.round((anchor_V - there_V2[:, 0]) / TURN)
        return to_pixels(there_V2)

    if degrees and not own_degrees:  # longitudes of a polygon stay near that of its first vertex
        first_V = _first_corner(offsets)
        anchor_V = transform(source, target, points_V2[first_V])[:, 0]
    else:
        anchor_V = points_V2[:, 0]
    if source == target:
        return shapely.from_ragged_array(kind, to_pixels(points_V2), offsets), np.ones(len(geometries_N), dtype=bool)
    points_V2, pixels_V2, rings = _bent(points_V2, anchor_V, offsets[0], placed, tolerance, moving=own_degrees)
    offsets = (rings, *offsets[1:])
    reached_N = ~_any_lost(pixels_V2, offsets)
    pixels_V2[~np.isfinite(pixels_V2)] = 0
    return shapely.from_ragged_array(kind, pixels_V2, offsets), reached_N


def _bent(
    points_V2: Floats,
    anchor_V: Floats,
    rings: Whole,
    placed: Callable[[Floats, Floats], Floats],
    tolerance: float,
    *,
    moving: bool,
) -> tuple[Floats, Floats, Whole]:
    """Add the vertices that curved edges need; returns vertices, their pixels, and the first vertex of each ring.

    The anchor of a new vertex, a longitude near which it is placed, is that of the vertex before it, or with `moving`
    its own x.
    """
    pixels_V2 = placed(points_V2, anchor_V)
    rings = rings.astype(np.int64)
    open_V = np.ones(len(points_V2), dtype=bool)  # whether the edge that begins here is still to be checked
    open_V[rings[1:] - 1] = False  # the last vertex of a ring repeats its first
    for _ in range(MOST_ROUNDS):
        at_S = np.flatnonzero(open_V)
        thirds = []
        far_S = np.zeros(len(at_S), dtype=bool)
        for share in (1 / 3, 2 / 3):
            source_S2 = points_V2[at_S] + share * (points_V2[at_S + 1] - points_V2[at_S])
            target_S2 = placed(source_S2, source_S2[:, 0] if moving else anchor_V[at_S])
            straight_S2 = pixels_V2[at_S] + share * (pixels_V2[at_S + 1] - pixels_V2[at_S])
            far_S |= np.hypot(*(target_S2 - straight_S2).T) > tolerance
            thirds.append((source_S2, target_S2))
        open_V[at_S[~far_S]] = False
        if not far_S.any():
            break
        at_S = at_S[far_S]
        where = np.repeat(at_S + 1, 2)
        new_points, new_pixels = (
            np.stack([thirds[0][part][far_S], thirds[1][part][far_S]], axis=1).reshape(-1, 2) for part in (0, 1)
        )
        rings = rings + 2 * np.searchsorted(at_S, rings)
        points_V2 = np.insert(points_V2, where, new_points, axis=0)
        pixels_V2 = np.insert(pixels_V2, where, new_pixels, axis=0)
        anchor_V = np.insert(anchor_V, where, np.repeat(anchor_V[at_S], 2))
        open_V = np.insert(open_V, where, True)
    return points_V2, pixels_V2, rings


def _starts(offsets: tuple[Whole, ...]) -> Whole:
    """Index of the first vertex of each polygon, and finally the number of vertices: (N + 1)."""
    starts = np.asarray(offsets[-1], dtype=np.int64)
    for inner in reversed(offsets[:-1]):
        starts = np.asarray(inner, dtype=np.int64)[starts]
    return starts


def _first_corner(offsets: tuple[Whole, ...]) -> Whole:
    """For each vertex (V), the index of the first vertex of its polygon."""
    starts = _starts(offsets)
    return np.repeat(starts[:-1], np.diff(starts))


def _any_lost(points_V2: Floats, offsets: tuple[Whole, ...]) -> NDArray[np.bool_]:
    """Which polygons (N) have a vertex that is not finite; every polygon must have vertices."""
    lost_V = ~np.isfinite(points_V2).all(axis=1)
    return np.asarray(np.logical_or.reduceat(lost_V, _starts(offsets)[:-1]))


def _continuous(x_V: Floats, first_V: Whole, turn: float) -> Floats:
    """Shift `x_V` by whole turns to within half a turn of the first vertex of each polygon."""
    return np.asarray(x_V + turn * np.round((x_V[first_V] - x_V) / turn))
