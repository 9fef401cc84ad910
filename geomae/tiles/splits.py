"""Assigns tiles to splits as the catalogue says, and chooses the tiles that pretraining holds out.

T tiles, N tiles near another split, E points around a tile
"""

from collections.abc import Sequence
from typing import Any

import numpy as np
import pandas as pd
import shapely
from numpy.typing import NDArray
from scipy import spatial  # type: ignore[import-untyped]

from geomae.catalog import Catalog, Source
from geomae.catalog.schema import Split
from geomae.catalog.splits import LEFT_OUT, TRAIN, block_splits, group_splits, hold_out, random_splits
from geomae.errors import CatalogError
from geomae.rasters import Grid
from geomae.rasters.grids import crs_label
from geomae.tiles.earth import Floats, Frames, Whole, frames_of, to_sphere
from geomae.vectors.projection import LONGITUDE_LATITUDE

EQUAL_AREA = "EPSG:6933"  # equal area in metres, so that blocks have one size from the equator to the poles
TOUCHING = 1e-3  # share of a tile's side: an overlap below it is rounding of the reprojected outlines
MARGIN = 1.05  # sides of a tile may be curved between the points at which they are sampled
FARTHEST = -0.9  # sine of latitude, seen from a pole: the projection about it is not used beyond, near the other pole
SEEDS, MOST_UNITS = 100, 5000  # seeds that are tried, and groups or tiles up to which they are
AT_ONCE = 1 << 16  # tiles whose outlines are in memory at once
Bools = NDArray[np.bool_]


def assign_splits(
    catalog: Catalog,
    source: Source,
    grids: Sequence[Grid | None],
    tiles: pd.DataFrame,
    attributes: pd.DataFrame,
) -> tuple[pd.DataFrame, Bools]:
    """Add the columns `split`, unless polygons gave it, and `block` (None without blocks); which tiles (T,) stay."""
    name = source.name
    split = catalog.entry(name).split
    block = repeated(None, len(tiles)).to_numpy()
    try:
        if "split" in tiles:  # from polygons
            labels = tiles["split"].to_numpy()
        elif split is None:
            labels = repeated(TRAIN, len(tiles)).to_numpy()
        elif split.column is not None:
            labels = _named(catalog, name, split.column, attributes)
        elif split.block_km is not None:
            place_T4 = tiles[["scene", "row", "col", "size"]].to_numpy(dtype=np.int64)
            frames = frames_of(grids)
            centre_m_T2 = _centres(frames, place_T4, EQUAL_AREA)
            _check_placed(source, grids, frames, place_T4, centre_m_T2)
            labels, block = block_splits(centre_m_T2, split.block_km, split.fractions or {}, split.seed)
            labels[_shares_ground(frames, place_T4, labels == TRAIN)] = LEFT_OUT
        elif split.group is not None:
            labels = group_splits(tiles["group"].to_numpy(), split.group, split.seed)
        else:
            labels = random_splits(tiles["tile_id"].to_numpy(), split.random or {}, split.seed)
    except CatalogError as error:
        text = str(error)
        place = catalog.place(name, "split")
        raise CatalogError(text if text.startswith(str(catalog.path)) else f"{place}: {text}") from error
    split_T, block_T = (pd.Series(values, tiles.index, dtype=object, copy=False) for values in (labels, block))
    tiles = tiles.assign(split=split_T, block=block_T)
    return tiles, np.asarray(labels != LEFT_OUT, dtype=bool)


def repeated(value: str | None, tiles: int) -> "pd.Series[Any]":
    """A column of one value, which is in memory once: every row is a view of it, and none can be written to."""
    return pd.Series(np.broadcast_to(np.array([value], dtype=object), tiles), dtype="object", copy=False)


def seeds_with_all_classes(split: Split | None, tiles: pd.DataFrame) -> tuple[int, ...] | None:
    """The seeds, of 0 to 99, with which every split has tiles of every class.

    `tiles` are all tiles of the data set, with the columns `split`, `label`, `group` and `tile_id`. None if that cannot
    be said: the split is not by `group` or `random`, units are too many, or `tiles` are not those that were assigned.
    """
    if split is None or (split.group is None and split.random is None):
        return None
    unit = tiles["group" if split.random is None else "tile_id"]
    if unit.nunique(dropna=False) > MOST_UNITS:
        return None
    unit_T = unit.to_numpy()
    assign, shares = (random_splits, split.random) if split.random is not None else (group_splits, split.group)
    if shares is None:
        return None
    try:
        if (assign(unit_T, shares, split.seed) != tiles["split"].to_numpy()).any():
            return None
    except CatalogError:  # fewer units than splits
        return None
    label_T = tiles["label"].tolist()

    def complete(seed: int) -> bool:
        pairs = zip(assign(unit_T, shares, seed).tolist(), label_T, strict=True)
        found = {(name, label) for name, label in pairs if label is not None and label == label}
        return len(found) == len(shares) * len({label for _, label in found})

    return tuple(seed for seed in range(SEEDS) if complete(seed))


def validation_tiles(tiles: pd.DataFrame, share: float, seed: int) -> NDArray[np.bool_]:
    """Tiles (T,) to hold out of training: whole groups, else whole blocks, else single tiles, about `share` of all."""
    for column in ("group", "block", "tile_id"):
        if tiles[column].isna().any():
            continue
        held = hold_out(tiles[column].to_numpy(), share, seed)
        if held.any() and not held.all():
            return held
    return np.zeros(len(tiles), dtype=bool)


def _named(catalog: Catalog, name: str, column: str, attributes: pd.DataFrame) -> NDArray[np.object_]:
    values = attributes[column]
    if values.isna().any():
        place = catalog.place(name, "split", "column")
        raise CatalogError(f"{place}: {int(values.isna().sum())} tiles have no {column!r}; fill the column")
    return np.array([str(value) for value in values.tolist()], dtype=object)


def _centres(frames: Frames, place_T4: Whole, target: str) -> Floats:
    """The centre of each tile (T, 2) in a CRS."""
    row_T, col_T = (place_T4[:, 1:3] + place_T4[:, 3:] / 2).T
    return frames.projected(place_T4[:, 0], col_T[:, None], row_T[:, None], target)[:, 0]


def _check_placed(
    source: Source, grids: Sequence[Grid | None], frames: Frames, place_T4: Whole, centre_m_T2: Floats
) -> None:
    """Raise CatalogError, naming the first file, where tiles have no position on Earth."""
    lost = np.flatnonzero(~np.isfinite(centre_m_T2).all(axis=1))
    if not len(lost):
        return
    scene, row, col, _ = place_T4[lost[0]].tolist()
    grid, file = grids[scene], source.scenes[scene].files[0]
    assert grid is not None  # it has tiles
    if grid.crs is None:
        why = f"{file} has no CRS"
    elif frames.crs_S[scene] < 0:
        why = f"the CRS of {file} has no place on Earth ({crs_label(grid.crs)})"
    else:
        why = f"the tile at row {row}, column {col} of {file} lies where its CRS has no place ({crs_label(grid.crs)})"
    scenes = len(np.unique(place_T4[lost, 0]))
    others = f", so for {scenes} scenes" if scenes > 1 else ""
    raise CatalogError(
        f"a split by `block_km` needs a place on Earth for every tile, and {why}{others}; split by `column`, `group` "
        "or `random` instead"
    )


def _shares_ground(frames: Frames, place_T4: Whole, chosen_T: Bools) -> Bools:
    """Which of the chosen tiles (False for the others) share ground with one that is not chosen.

    Outlines are compared on the sphere, so that longitude 180, the poles and scenes in different CRS need no special
    case. Tiles that only touch share no ground.
    """
    shares_T = np.zeros(len(place_T4), dtype=bool)
    near = np.flatnonzero(_near_others(frames, place_T4, chosen_T))
    outline_NE2 = _without_gaps(frames.outlines(place_T4[near], TOUCHING / 2))
    known_N = np.isfinite(outline_NE2).all(axis=(1, 2))
    near, outline_NE3 = near[known_N], to_sphere(outline_NE2[known_N])
    north_N = outline_NE3[:, :, 2].mean(axis=1) >= 0
    for pole, here_N in ((1, north_N), (-1, ~north_N)):
        chosen = near[here_N & chosen_T[near]]
        drawn_N = (pole * outline_NE3[:, :, 2]).min(axis=1) > FARTHEST
        # Lambert's azimuthal projection about the pole, which maps all but the other pole.
        stretch_NE1 = np.sqrt(2 / np.maximum(1 + pole * outline_NE3[:, :, 2:], 1 + FARTHEST))
        polygons_N = shapely.polygons(outline_NE3[:, :, :2] * stretch_NE1)
        others_tree = shapely.STRtree(polygons_N[drawn_N & ~chosen_T[near]])
        hits, _ = others_tree.query(polygons_N[here_N & chosen_T[near]], predicate="intersects")
        shares_T[chosen[np.unique(hits)]] = True
    return shares_T


def _near_others(frames: Frames, place_T4: Whole, chosen_T: Bools) -> Bools:
    """Tiles whose bounding circle meets that of a tile of the other kind (chosen or not chosen)."""
    near_T = np.zeros(len(place_T4), dtype=bool)
    if chosen_T.all() or not chosen_T.any():
        return near_T
    centre_T3 = to_sphere(_centres(frames, place_T4, LONGITUDE_LATITUDE))
    parts = (slice(first, first + AT_ONCE) for first in range(0, len(place_T4), AT_ONCE))
    radius_T = np.concatenate([_radii(frames, place_T4[part], centre_T3[part]) for part in parts])
    for one_T, other_T in ((chosen_T, ~chosen_T), (~chosen_T, chosen_T)):
        nearest_T, _ = spatial.cKDTree(centre_T3[other_T]).query(centre_T3[one_T])
        near_T[one_T] = nearest_T <= radius_T[one_T] + radius_T[other_T].max()
    return near_T


def _radii(frames: Frames, place_T4: Whole, centre_T3: Floats) -> Floats:
    """Radii (T), as chords of the sphere, of circles about the centres that contain the tiles."""
    border_TE3 = to_sphere(frames.outlines(place_T4, per_edge=2))
    away_TE = np.sqrt(((border_TE3 - centre_T3[:, None]) ** 2).sum(axis=2))
    return np.asarray(MARGIN * np.where(np.isfinite(away_TE), away_TE, 0).max(axis=1))


def _without_gaps(outline_NE2: Floats) -> Floats:
    """Outlines (degrees) in which points outside the projection are replaced by the ones before, if any is inside."""
    known_NE = np.isfinite(outline_NE2).all(axis=2)
    if known_NE.all():
        return outline_NE2
    known_or_none_NE = np.where(known_NE, np.arange(known_NE.shape[1]), -1)
    before_NE = np.maximum.accumulate(known_or_none_NE, axis=1)
    before_NE = np.where(before_NE < 0, known_or_none_NE.max(axis=1, keepdims=True), before_NE)  # outlines are rings
    return np.take_along_axis(outline_NE2, before_NE[:, :, None], axis=1)
