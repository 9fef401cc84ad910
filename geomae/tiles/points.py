"""Tiles around points: the scenes of each point, points left out and why, and points whose labels conflict.

N points, S scenes, F footprints, T tiles: a point in a scene
"""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import pandas as pd
import shapely
from numpy.typing import NDArray
from scipy import spatial  # type: ignore[import-untyped]

from geomae.catalog import Catalog, Points, Source, parse_filter
from geomae.catalog.times import TIME, read_time
from geomae.errors import CatalogError
from geomae.rasters import Grid
from geomae.tiles.earth import Frames, frames_of, to_crs, to_pixels, to_sphere
from geomae.vectors.projection import LONGITUDE_LATITUDE, TURN, extents, in_degrees, transform
from geomae.vectors.reading import VectorLayer, read_vector, vector_file

Floats = NDArray[np.float64]
Whole = NDArray[np.int64]
Bools = NDArray[np.bool_]
Days = NDArray[np.datetime64]

DAY = len("2021-05-03")  # leading characters of a time that give its day (UTC)
DAYS = 30.0  # default of `windows.days`: most days between a point and a scene
NOWHERE = "points without coordinates"
FILTERED = "points that do not meet windows.where"
OUTSIDE = "points outside every scene"
TIMELESS = "points without a time"
EDGE = "tiles of points that leave the scene"
INVALID = "tiles of points on invalid pixels"
PATCH = 8  # pixels: the usual side of a patch, of which tiles are multiples
MOST_CLASSES = 256  # labels with more values than this, or with decimals, are measurements: neighbours may differ
POINT, PIXEL_ROW, PIXEL_COL, REPEAT = POINT_COLUMNS = ("point", "pixel_row", "pixel_col", "repeat")


@dataclass(frozen=True)
class PointTiles:
    """Tiles around points, sorted by scene, then by point.

    `tiles` has scene, row, col, size, and of the point: its number in the file, the row and column of the pixel that
    holds it, and how many points before it have the same tile. `attributes` are the columns of the file, then those of
    the scene that the file does not have. `left_out` counts points and tiles by reason; `remarks` are for the user.
    """

    tiles: pd.DataFrame
    attributes: pd.DataFrame
    left_out: dict[str, int]
    remarks: tuple[str, ...]


def point_tiles(catalog: Catalog, name: str, source: Source, grids: Sequence[Grid | None]) -> PointTiles:
    """The tiles of an entry with `windows: {points, size}`, of scenes that have a grid.

    The centre of a tile is at most half a pixel from its point. Raises CatalogError where no tile is left, saying why,
    and as `read_vector` does.
    """
    entry = catalog.entry(name).windows
    assert isinstance(entry, Points)
    place = catalog.place(name, "windows", "points")
    layer = read_vector(vector_file(catalog, name, entry.points, "windows", "points"), layer=entry.layer, place=place)
    layer.require("points", place, "take the centres of the shapes, or their area with `label: {vector: ...}`")
    left_out: dict[str, int] = {}
    feature_N, xy_N2 = _points(layer, left_out)
    columns = layer.columns
    met = list(_meetings(layer.crs, xy_N2, grids))
    point_T, scene_T, position_T2 = (np.concatenate(arrays) for arrays in zip(*met, strict=True))
    if not len(point_T):
        raise CatalogError(f"{place}: no point lies in a scene: {extents('the file', layer.crs, xy_N2, grids)}")
    _count(left_out, OUTSIDE, len(xy_N2) - len(np.unique(point_T)))
    pixel_T2 = np.floor(position_T2).astype(np.int64)
    corner_T2 = np.floor(position_T2 - entry.size / 2 + 0.5).astype(np.int64)
    tiles = pd.DataFrame(
        {"scene": scene_T, "row": corner_T2[:, 0], "col": corner_T2[:, 1], "size": entry.size}
        | {POINT: feature_N[point_T], PIXEL_ROW: pixel_T2[:, 0], PIXEL_COL: pixel_T2[:, 1]}
    )
    tiles = tiles.sort_values(["scene", POINT], kind="stable", ignore_index=True)
    tiles[REPEAT] = tiles.groupby(["scene", "row", "col"], sort=False).cumcount()
    tiles = _chosen(catalog, name, tiles, columns, left_out)
    tiles, remarks = _in_time(catalog, name, source, tiles, columns, left_out)
    shape_T2 = _shapes(grids)[tiles["scene"]]
    corner_T2 = tiles[["row", "col"]].to_numpy(dtype=np.int64)
    inside_T = np.asarray(((corner_T2 >= 0) & (corner_T2 + entry.size <= shape_T2)).all(axis=1))
    if not inside_T.any():
        where = catalog.place(name, "windows", "size")
        raise CatalogError(f"{where}: every tile of {entry.size} pixels around a point leaves its scene; write less")
    _count(left_out, EDGE, int((~inside_T).sum()))
    tiles = tiles.loc[inside_T].reset_index(drop=True)
    return PointTiles(tiles, _attributes(source, tiles, columns), left_out, remarks)


def contradictions(catalog: Catalog, name: str, tiles: pd.DataFrame) -> tuple[str, ...]:
    """A sentence if tiles with different labels share pixels, with their number; none for measurements.

    `tiles` have the columns of `PointTiles` and `label`. With `windows.strict`, raises CatalogError instead.
    """
    entry = catalog.entry(name).windows
    assert isinstance(entry, Points)
    labelled = tiles[tiles["label"].notna()]
    codes_T, names = pd.factorize(labelled["label"])
    numbers = pd.to_numeric(pd.Series(names), errors="coerce")
    measured = numbers.notna().all() and (numbers % 1 != 0).any()
    if measured or not 1 < len(names) <= MOST_CLASSES:
        return ()
    other_T = _near_others(labelled, codes_T.astype(np.int64))
    if not (other_T >= 0).any():
        return ()
    points = labelled[POINT].to_numpy()
    first = int((other_T >= 0).argmax())
    pair = (first, int(other_T[first]))
    example = " and ".join(f"{names[codes_T[one]]} of point {points[one] + 1}" for one in pair)
    share = f"{len(np.unique(points[other_T >= 0])):,} of the {len(np.unique(points)):,} points with a tile"
    message = (
        f"{share} are nearer than the {entry.size} pixels of a tile to one of another label, as {example}: their tiles "
        "overlap"
    )
    if entry.strict:
        remedy = "leave some out, make `size` smaller, or remove `strict`"
        raise CatalogError(f"{catalog.place(name, 'windows', 'strict')}: {message}; {remedy}")
    return (f"{message}; leave some out or make `size` smaller (any multiple of the encoder's patch, often {PATCH})",)


def _points(layer: VectorLayer, left_out: dict[str, int]) -> tuple[Whole, Floats]:
    """The feature of each point (N) and its coordinates (N, 2); every point of a multipoint feature counts."""
    parts, feature_N = shapely.get_parts(layer.geometries, return_index=True)
    xy_N2 = np.stack([shapely.get_x(parts), shapely.get_y(parts)], axis=1)
    known_N = np.isfinite(xy_N2).all(axis=1)
    feature_N = np.asarray(feature_N, dtype=np.int64)[known_N]
    _count(left_out, NOWHERE, len(layer) - len(np.unique(feature_N)))
    return feature_N, xy_N2[known_N]


def _meetings(crs: str, xy_N2: Floats, grids: Sequence[Grid | None]) -> Iterator[tuple[Whole, Whole, Floats]]:
    """For each scene the points in it, the number of the scene for each, and their pixels (row, column).

    Scenes of one grid are computed together. Only points near a scene are transformed to its CRS, because a projection
    may return arbitrary numbers far from its zone.
    """
    frames = frames_of(grids)
    shape_S2 = _shapes(grids)
    yield np.zeros(0, np.int64), np.zeros(0, np.int64), np.zeros((0, 2))
    placed = np.flatnonzero(frames.crs_S >= 0)
    grid_SX = np.column_stack([frames.crs_S, frames.affine_S6, shape_S2])[placed]
    _, first_F, footprint_S = np.unique(grid_SX, axis=0, return_index=True, return_inverse=True)
    sphere_N3 = to_sphere(transform(crs, LONGITUDE_LATITUDE, xy_N2))
    centre_F3, radius_F = frames.circles(placed[first_F], shape_S2)
    near_F = [
        np.flatnonzero(((sphere_N3 - centre) ** 2).sum(axis=1) <= radius**2)
        for centre, radius in zip(centre_F3, radius_F, strict=True)
    ]
    for number in np.unique(frames.crs_S[placed]).tolist():
        footprints = np.flatnonzero(frames.crs_S[placed[first_F]] == number)
        near = np.unique(np.concatenate([near_F[footprint] for footprint in footprints]))
        there_N2 = np.full(xy_N2.shape, np.nan)
        there_N2[near] = transform(crs, frames.crs_names[number], xy_N2[near])
        for footprint in footprints:
            scene = int(placed[first_F[footprint]])
            positions = _pixels(frames, scene, shape_S2[scene], there_N2[near_F[footprint]])
            inside = ((positions >= 0) & (positions < shape_S2[scene])).all(axis=1)
            point = near_F[footprint][inside]
            for one in placed[footprint_S.reshape(-1) == footprint].tolist():
                yield point, np.full(len(point), one), positions[inside]


def _shapes(grids: Sequence[Grid | None]) -> Whole:
    """Height and width (S, 2) of each scene."""
    return np.array([(0, 0) if grid is None else (grid.height, grid.width) for grid in grids], dtype=np.int64)


def _pixels(frames: Frames, scene: int, shape_2: Whole, xy_N2: Floats) -> Floats:
    """Rows and columns (N, 2) of points in the CRS of a scene; NaN stays NaN."""
    if in_degrees(frames.crs_names[frames.crs_S[scene]]):  # longitudes are equal modulo 360
        corner_4 = np.array([[0.0, shape_2[1], 0.0, shape_2[1]]]), np.array([[0.0, 0.0, shape_2[0], shape_2[0]]])
        left = to_crs(frames.affine_S6[[scene]], *corner_4)[..., 0].min()
        xy_N2 = np.column_stack([left + np.mod(xy_N2[:, 0] - left, TURN), xy_N2[:, 1]])
    return to_pixels(frames.affine_S6[[scene]], xy_N2[None])[0, :, ::-1]


def _chosen(
    catalog: Catalog, name: str, tiles: pd.DataFrame, columns: pd.DataFrame, left_out: dict[str, int]
) -> pd.DataFrame:
    """The tiles of the points that meet `windows.where`."""
    entry = catalog.entry(name).windows
    if not isinstance(entry, Points) or entry.where is None:
        return tiles
    with catalog.at(name, "windows", "where"):
        meets_N = parse_filter(entry.where).mask({str(one): columns[one].to_numpy() for one in columns})
        meets_T = meets_N[tiles[POINT]]
        if not meets_T.any():
            raise CatalogError("no point that lies in a scene meets the condition; loosen it")
    _count(left_out, FILTERED, tiles[POINT][~meets_T].nunique())
    return tiles.loc[meets_T]


def _in_time(
    catalog: Catalog, name: str, source: Source, tiles: pd.DataFrame, columns: pd.DataFrame, left_out: dict[str, int]
) -> tuple[pd.DataFrame, tuple[str, ...]]:
    """The tiles whose point and scene are at most `windows.days` apart, where both have a time; and a remark."""
    entry = catalog.entry(name).windows
    assert isinstance(entry, Points)
    place = catalog.place(name, "windows", "days")
    rule = catalog.entry(name).time
    time = rule.column if rule is not None and rule.column in columns else TIME
    if time not in columns:
        if entry.days is not None:
            raise CatalogError(
                f"{place}: {entry.points} has no column {time!r} with the times of the points; add it, or remove `days`"
            )
        return tiles, ()
    day_S = np.array([scene.time[:DAY] if scene.time else "NaT" for scene in source.scenes], dtype="datetime64[D]")
    if np.isnat(day_S[tiles["scene"]]).all():
        if entry.days is not None:
            raise CatalogError(f"{place}: no scene has a time; add `time`, or remove `days`")
        return tiles, (
            f"points of {entry.points} have times and scenes have none: they are paired with scenes of any time",
        )
    day_T = point_days(columns[time], tiles[POINT].to_numpy(), f"{catalog.place(name, 'windows', 'points')}")
    known_T = ~np.isnat(day_T)
    most = DAYS if entry.days is None else entry.days
    between_T = np.abs((day_S[tiles["scene"]] - day_T) / np.timedelta64(1, "D"))
    near_T = between_T <= most  # False for NaN
    reason = f"points without a scene within {most:g} days"
    if not near_T.any():
        taken, seen = (f"{np.nanmin(days)} to {np.nanmax(days)}" for days in (day_T, day_S[tiles["scene"]]))
        raise CatalogError(
            f"{place}: no point has a scene within {most:g} days: the points are of {taken}, the scenes of {seen}; "
            "add scenes of that time, or allow more `days`"
        )
    points = tiles[POINT].to_numpy()
    _count(left_out, TIMELESS, len(np.unique(points[~known_T])))
    _count(left_out, reason, len(np.setdiff1d(points[known_T], points[near_T])))
    return tiles.loc[near_T], ()


def _near_others(tiles: pd.DataFrame, codes_T: Whole) -> Whole:
    """For each tile the nearest one with another label that shares pixels with it; -1 without any.

    Different labels differ in at least one bit of their codes, so that one search per bit finds every pair.
    """
    size = float(tiles["size"].iloc[0])
    places_T3 = tiles[["row", "col", "scene"]].to_numpy(dtype=np.float64) * [1, 1, 2 * size]  # keeps scenes apart
    other_T = np.full(len(tiles), -1, dtype=np.int64)
    for bit in range(int(codes_T.max()).bit_length()):
        has_T = (codes_T >> bit) & 1 == 1
        for others_T in (has_T, ~has_T):
            others = np.flatnonzero(others_T)
            mine = np.flatnonzero(~others_T & (other_T < 0))
            tree = spatial.cKDTree(places_T3[others])
            distance, nearest = tree.query(places_T3[mine], p=np.inf, distance_upper_bound=size)
            near = np.isfinite(distance)
            other_T[mine[near]] = others[nearest[near]]
    return other_T


def _attributes(source: Source, tiles: pd.DataFrame, columns: pd.DataFrame) -> pd.DataFrame:
    """The columns of the file for each tile, then the attributes of its scene that the file does not have."""
    own = columns.iloc[tiles[POINT].to_numpy()].reset_index(drop=True)
    scenes = pd.DataFrame([dict(scene.attributes) for scene in source.scenes])
    others = scenes[[one for one in scenes.columns if one not in own.columns]]
    return pd.concat([own, others.iloc[tiles["scene"].to_numpy()].reset_index(drop=True)], axis=1)


def point_days(values: "pd.Series[Any]", point_T: Whole, place: str) -> Days:
    """The day (T) of each tile's point, NaT without one."""
    codes_N, texts = pd.factorize(values, use_na_sentinel=True)
    days = []
    for number, text in enumerate(texts):
        try:
            days.append(read_time(text)[:DAY])
        except ValueError as error:
            point = int((codes_N == number).argmax()) + 1
            message = f"{place}: the {values.name} of point {point} is {text!r}, which {error}; or rename the column"
            raise CatalogError(message) from error
    return np.array([*days, "NaT"], dtype="datetime64[D]")[codes_N[point_T]]


def _count(left_out: dict[str, int], reason: str, number: int) -> None:
    if number:
        left_out[reason] = number
