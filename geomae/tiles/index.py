"""The tile index of a data set: every tile with its place, split, group, domain and label.

T tiles
"""

from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field, replace
from typing import Any

import numpy as np
import pandas as pd
from numpy.typing import NDArray

from geomae.catalog import (
    Catalog,
    Selector,
    Source,
    condition_mask,
    in_own_order,
    read_windows,
    require_columns,
    where_mask,
)
from geomae.errors import CatalogError, GeomaeError, nearest
from geomae.rasters import AuditReport, Grid, audit, scene_grid
from geomae.tiles.labels import LabelSource, RasterLabels, label_tiles
from geomae.tiles.sources import open_source, prepare
from geomae.tiles.splits import assign_splits
from geomae.tiles.statistics import Statistics, Survey, survey
from geomae.tiles.unusable import TOO_LARGE, computable_tiles, without_small_scenes

COLUMNS = ("split", "group", "fold", "place", "block", "domain", "label")


def describe(
    catalog: Catalog,
    name: str,
    source: Source,
    grids: Sequence[Grid | None],
    tiles: pd.DataFrame,
    attributes: pd.DataFrame,
    labels: LabelSource | None,
) -> pd.DataFrame:
    """Add identity, centre, group, place, domain and label, which comes from `labels` where pixels have labels."""
    entry = catalog.entry(name)
    ids = [source.scenes[scene].id for scene in tiles["scene"]]
    tiles = tiles.reset_index(drop=True)
    tiles.insert(0, "tile_id", [f"{i}:{r}:{c}" for i, r, c in zip(ids, tiles["row"], tiles["col"], strict=True)])
    centres = [
        _centre(grids[scene], row, col, size)
        for scene, row, col, size in tiles[["scene", "row", "col", "size"]].itertuples(index=False)
    ]
    tiles["x"], tiles["y"] = np.array(centres, dtype=np.float64).T

    def column(key: str) -> "pd.Series[Any]":
        return _texts(attributes[key])

    nothing = _kept([None] * len(tiles))
    tiles["group"] = column(entry.group.column) if entry.group else nothing
    folds = entry.group.folds if entry.group else None
    tiles["fold"] = column(folds) if folds else tiles["group"]
    tiles["place"] = column(entry.place_column[0]) if entry.place_column else nothing
    if entry.domain is None or isinstance(entry.domain, str):
        tiles["domain"] = entry.domain or name
    else:
        domain = column(entry.domain.column)
        tiles["domain"] = [value if value else "unspecified" for value in domain]
    if entry.label is None:
        tiles["label"] = nothing
    elif labels is not None:
        tiles["label"] = _kept(label_tiles(labels, entry.label.min_purity, tiles)[0].tolist())
    elif entry.label.folder:
        folders = [source.scenes[scene].attributes["label"] for scene in tiles["scene"]]  # the catalogue put them there
        tiles["label"] = _kept(folders)
    elif entry.label.column is not None:
        tiles["label"] = column(entry.label.column)
    return tiles


@dataclass(frozen=True)
class TileIndex:
    """The tiles of one data set.

    `tiles` has one row per tile: tile_id, scene (position in `source.scenes`), row, col, size (pixels of the scene's
    grid), x, y (centre in the scene's CRS, float64; NaN without one), split, group, fold, place, block, domain, label
    (None where there is none). `attributes` has the columns of the catalogue's tables in the same order. `left_out`
    counts tiles by the reason for which they are not here. `place_column` is the column that `place` comes from, and
    the key of the catalogue that names it. `labels` gives the labels of pixels, where these have any; `remarks` say
    what is wrong with them.
    """

    name: str
    source: Source
    tiles: pd.DataFrame
    attributes: pd.DataFrame
    grids: tuple[Grid | None, ...]
    report: AuditReport
    survey: Survey
    left_out: dict[str, int] = field(default_factory=dict)
    place_column: tuple[str, str] | None = None
    remarks: tuple[str, ...] = ()
    labels: LabelSource | None = None

    def __len__(self) -> int:
        return len(self.tiles)

    def take(self, positions: NDArray[np.int64]) -> "TileIndex":
        """The index of a choice of tiles."""
        return replace(
            self,
            tiles=self.tiles.iloc[positions].reset_index(drop=True),
            attributes=self.attributes.iloc[positions].reset_index(drop=True),
            survey=self.survey.take(positions),
            left_out=dict(self.left_out),
        )

    def select(self, selector: Selector) -> "TileIndex":
        """The tiles that a selector means. Raises CatalogError where there are none, with what there is."""
        chosen = np.ones(len(self), dtype=bool)
        for column, value in selector.conditions:
            one = Selector(self.name, ((column, value),))
            meets = condition_mask(one, {column: self.column(column)}, len(self))
            if not meets.any():
                known = {str(one) for one in self.column(column).tolist()}
                raise CatalogError(f"{selector}: no tile has {column}={value}; {nearest(value, known)}")
            chosen &= meets
        if selector.split is not None:
            splits = self.tiles["split"].to_numpy()
            if not (splits == selector.split).any():
                raise CatalogError(
                    f"{selector}: split {selector.split!r} is empty; {nearest(selector.split, set(splits))}"
                )
            chosen &= splits == selector.split
        if not chosen.any():
            raise CatalogError(f"{selector}: selects no tile; loosen the conditions or choose another split")
        return self.take(np.flatnonzero(chosen))

    def column(self, name: str) -> NDArray[Any]:
        """A column of the attributes, or one of domain, label, group."""
        if name in self.attributes:
            return self.attributes[name].to_numpy()
        if name in COLUMNS:
            return self.tiles[name].to_numpy()
        raise CatalogError(f"{self.name}: no column {name!r}; {nearest(name, [*self.attributes.columns, *COLUMNS])}")

    def statistics(self) -> Statistics:
        """Statistics of every band over the valid pixels of these tiles."""
        names = [band.name for band in self.source.bands]
        return self.survey.statistics(names, np.arange(len(self)))

    def notes(self) -> list[str]:
        """What a person should know of the parts of the data set that are not here."""
        remedy = f"`geomae catalog check --dataset {self.name}` lists them"
        notes = []
        if self.report.quarantined:
            notes.append(f"{len(self.report.quarantined)} of {self.report.scenes} scenes cannot be used; {remedy}")
        if TOO_LARGE in self.left_out:
            notes.append(f"{self.left_out[TOO_LARGE]} of its tiles hold {TOO_LARGE} and are left out; {remedy}")
        return [f"{self.name}: {note}" for note in notes]

    def content(self) -> list[str]:
        """Digests of the files behind the tiles, in the order of the scenes."""
        used = sorted(set(self.tiles["scene"].tolist()))
        return [self.report.content.get(self.source.scenes[scene].id, "") for scene in used]

    def independent_units(self) -> list[str]:
        """What is independent of the rest, tile by tile: its group, else its block, else the tile itself."""
        columns = (self.tiles[name].tolist() for name in ("group", "block", "tile_id"))
        return [
            str(group) if group is not None else f"block {block}" if block == block and block is not None else str(tile)
            for group, block, tile in zip(*columns, strict=True)
        ]


def build_index(
    catalog: Catalog,
    name: str,
    *,
    threads: int = 2,
    max_quarantined: float = 1.0,
    progress: Callable[[str, int, int], None] = lambda what, done, total: None,
) -> TileIndex:
    """Audit a data set and list its tiles. `progress` hears (what, done, total).

    Raises CatalogError or RasterError where the entry and the files do not fit, or where the audit quarantines more
    than the share `max_quarantined` of the scenes.
    """
    catalog, source = prepare(catalog, name)
    entry = catalog.entry(name)
    report = audit(source, workers=threads)
    _check_quarantine(report, max_quarantined, catalog.place(name))
    source = in_own_order(source, report.numbers)
    left_out: dict[str, int] = {}
    quarantined = report.quarantined
    sound = [None if scene.id in quarantined else scene_grid(source, scene) for scene in source.scenes]
    grids, report = without_small_scenes(catalog, name, source, sound, report)
    tiles, attributes = _windows(catalog, name, source, grids)
    require_columns(catalog, name, attributes.columns)
    if entry.where is not None:
        chosen = where_mask(
            catalog, name, {str(column): attributes[column].to_numpy() for column in attributes}, len(tiles)
        )
        tiles, attributes = _keep(tiles, attributes, chosen, "where", left_out)
        if tiles.empty:
            raise CatalogError(f"{catalog.place(name, 'where')}: no tile meets the condition; loosen it")
    place = tiles[["scene", "row", "col", "size"]].to_numpy(dtype=np.int64)
    measured = survey(
        source, place, _content(source, report), threads, lambda done: progress("reading tiles", done, len(place))
    )
    least = entry.tile.min_valid if entry.tile else 0.0
    enough = (measured.valid_share_T >= least) & (measured.valid_share_T > 0)
    measured = measured.take(np.flatnonzero(enough))
    tiles, attributes = _keep(tiles, attributes, enough, "too few valid pixels", left_out)
    if tiles.empty:
        raise CatalogError(f"{catalog.place(name)}: no tile has enough valid pixels; check `nodata`, `mask` and `tile`")
    near = computable_tiles(catalog, name, source, tiles["scene"].to_numpy(), measured)
    measured = measured.take(np.flatnonzero(near))
    tiles, attributes = _keep(tiles, attributes, near, TOO_LARGE, left_out)
    labels = RasterLabels(entry.label, source, grids) if entry.label and entry.label.raster else None
    tiles = describe(catalog, name, source, grids, tiles, attributes, labels)
    remarks = labels.remarks() if labels else ()
    tiles, kept = assign_splits(catalog, source, grids, tiles, attributes)
    left_out |= {"train tile overlaps another split": int((~kept).sum())} if not kept.all() else {}
    tiles, attributes = tiles[kept].reset_index(drop=True), attributes[kept].reset_index(drop=True)
    measured = measured.take(np.flatnonzero(kept))
    return TileIndex(
        name, source, tiles, attributes, grids, report, measured, left_out, entry.place_column, remarks, labels
    )


@dataclass(frozen=True)
class DatasetCheck:
    """How far a data set can be used: what is known of it before the first `error`; `tiles` are those selected."""

    source: Source | None = None
    report: AuditReport | None = None
    tiles: TileIndex | None = None
    error: GeomaeError | None = None

    def select(self, selector: Selector) -> "DatasetCheck":
        """The same of the tiles that a selector means."""
        if self.tiles is None:
            return self
        try:
            return replace(self, tiles=self.tiles.select(selector))
        except GeomaeError as error:
            return replace(self, tiles=None, error=error)


def check_dataset(
    catalog: Catalog,
    name: str,
    *,
    threads: int = 2,
    progress: Callable[[str, int, int], None] = lambda what, done, total: None,
) -> DatasetCheck:
    """Resolve, audit and index a data set, as far as that goes; `progress` hears (what, done, total)."""
    result = DatasetCheck()
    try:
        result = DatasetCheck(source := open_source(catalog, name))
        scenes = len(source.scenes)
        progress(f"auditing {name}", 0, scenes)
        result = replace(result, report=audit(source, workers=threads))
        progress(f"auditing {name}", scenes, scenes)
        tiles = build_index(
            catalog,
            name,
            threads=threads,
            progress=lambda what, done, total: progress(f"{what} of {name}", done, total),
        )
    except GeomaeError as error:
        return replace(result, error=error)
    return replace(result, report=tiles.report, tiles=tiles)


def _centre(grid: Grid | None, row: int, col: int, size: int) -> tuple[float, float]:
    if grid is None or grid.crs is None:
        return float("nan"), float("nan")
    a, b, c, d, e, f = grid.transform
    x, y = col + size / 2, row + size / 2
    return a * x + b * y + c, d * x + e * y + f


def _kept(values: Sequence[Any]) -> "pd.Series[Any]":
    """A column of these values; among text pandas would make NaN of None."""
    return pd.Series(values, dtype="object")


def _texts(values: "pd.Series[Any]") -> "pd.Series[Any]":
    """Values as text, missing ones as None; whole numbers without a decimal point."""

    def text(value: Any) -> str | None:
        if value is None or value != value or value == "":
            return None
        return str(int(value)) if isinstance(value, float) and value.is_integer() else str(value)

    return _kept([text(value) for value in values.tolist()])


def _windows(
    catalog: Catalog, name: str, source: Source, grids: Sequence[Grid | None]
) -> tuple[pd.DataFrame, pd.DataFrame]:
    """All tiles of the scenes that have a grid, with the attributes of their scene and window."""
    entry = catalog.entry(name)
    if entry.windows is not None:
        return _listed(catalog, name, source, grids)
    rows: list[tuple[int, int, int, int]] = []
    for number, grid in enumerate(grids):
        if grid is None:
            continue
        size = entry.tile.size if entry.tile else max(grid.height, grid.width)
        stride = (entry.tile.stride if entry.tile else None) or size
        rows += [
            (number, row, col, size)
            for row in _starts(grid.height, size, stride)
            for col in _starts(grid.width, size, stride)
        ]
    tiles = pd.DataFrame(rows, columns=["scene", "row", "col", "size"])
    table = pd.DataFrame([dict(scene.attributes) for scene in source.scenes])
    attributes = table.iloc[tiles["scene"].to_numpy()].reset_index(drop=True)
    return tiles, attributes


def _starts(length: int, size: int, stride: int) -> range:
    """First pixels of the tiles along one side; a remainder shorter than a tile is left out."""
    return range(0, length - size + 1, stride)


def _listed(
    catalog: Catalog, name: str, source: Source, grids: Sequence[Grid | None]
) -> tuple[pd.DataFrame, pd.DataFrame]:
    """The tiles that a table of windows lists, for scenes that are there and not quarantined."""
    windows = read_windows(catalog, name)
    by_stem = {scene.stem: number for number, scene in enumerate(source.scenes)}
    if len(by_stem) < len(source.scenes):
        raise CatalogError(
            f"{catalog.place(name, 'windows')}: several scenes have one name in different folders, and a window could "
            "belong to any; rename them, or make a data set of each folder"
        )
    unknown = sorted(set(windows["stem"]) - set(by_stem))
    if len(unknown) == windows["stem"].nunique():
        raise CatalogError(
            f"{catalog.place(name, 'windows', 'key')}: no window belongs to a scene; the first is of {unknown[0]!r}, "
            f"the first scene is {source.scenes[0].stem!r}"
        )
    windows = windows[~windows["stem"].isin(unknown)]
    windows.insert(0, "scene", windows.pop("stem").map(by_stem.__getitem__))
    windows = windows[[grids[scene] is not None for scene in windows["scene"]]].reset_index(drop=True)
    for scene, row, col, size in windows[["scene", "row", "col", "size"]].itertuples(index=False):
        grid = grids[scene]
        assert grid is not None
        if row < 0 or col < 0 or row + size > grid.height or col + size > grid.width:
            raise CatalogError(
                f"{catalog.place(name, 'windows')}: the window at row {row}, column {col} of {size} pixels leaves "
                f"{source.scenes[scene].id} ({grid.height} x {grid.width}); correct the table"
            )
    fixed = ["scene", "row", "col", "size"]
    return windows[fixed], windows.drop(columns=fixed)


def _keep(
    tiles: pd.DataFrame, attributes: pd.DataFrame, chosen: NDArray[np.bool_], reason: str, left_out: dict[str, int]
) -> tuple[pd.DataFrame, pd.DataFrame]:
    if not chosen.all():
        left_out[reason] = int((~chosen).sum())
    return tiles[chosen].reset_index(drop=True), attributes[chosen].reset_index(drop=True)


def _content(source: Source, report: AuditReport) -> str:
    """What decides the pixels that are read: the files' bytes and how they are interpreted."""
    reading = (source.scale_C, source.offset_C, source.nodata, source.gsd_m, source.invalid_bits, source.invalid_values)
    bands = [[(band.index, band.path.rsplit("/", 1)[-1]) for band in scene.bands] for scene in source.scenes[:1]]
    orders = [sorted(report.numbers.items())] if report.numbers else []
    return repr((reading, bands, [band.name for band in source.bands], sorted(report.content.items()), *orders))


def _check_quarantine(report: AuditReport, most: float, where: str) -> None:
    bad = len(report.quarantined)
    if bad == 0 or (bad < report.scenes and bad <= most * report.scenes):
        return
    first = next(problem for problem in report.problems if problem.quarantines)
    if bad == report.scenes:
        kinds = Counter(problem.kind for problem in report.problems if problem.quarantines).most_common()
        listed = ", ".join(f"{count} {kind}" for kind, count in kinds)
        raise CatalogError(
            f"{where}: the audit quarantines every scene ({listed}), and none is left to use; first: {first.message}"
        )
    raise CatalogError(
        f"{where}: the audit quarantines {bad} of {report.scenes} scenes, more than the {most:.0%} allowed; first: "
        f"{first.message}; mend or remove them (`geomae catalog check` lists all), or allow more with --set "
        f"data.max_quarantined={(100 * bad // report.scenes + 1) / 100:g}"
    )
