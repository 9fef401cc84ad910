"""The tile index of a data set: every tile with its place, split, group, domain and label.

T tiles
"""

from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field, replace
from typing import Any

import numpy as np
import pandas as pd
import pyarrow
from numpy.typing import NDArray

from geomae.catalog import (
    Catalog,
    Condition,
    Months,
    Selector,
    Source,
    condition_mask,
    in_own_order,
    require_columns,
    where_mask,
)
from geomae.catalog.attributes import text_of, tile_columns
from geomae.catalog.scene_times import UNSPECIFIED, domains_by_month, with_time_attributes
from geomae.catalog.times import DERIVED, TIME, column_remedy, times_span
from geomae.errors import CatalogError, RasterError, nearest
from geomae.rasters import AuditReport, Grid, audit, scene_grid, sweeping
from geomae.rasters.figure_rows import parts_of
from geomae.rasters.grids import check_stated_grids
from geomae.rasters.tile_moments import MeasuredTiles, TileGrid
from geomae.rasters.work_share import ALONE, WorkShare, reading_threads
from geomae.tiles.earth import to_crs
from geomae.tiles.labels import LabelSource, label_tiles, purity_remarks
from geomae.tiles.points import INVALID, PIXEL_COL, PIXEL_ROW, POINT, REPEAT, contradictions
from geomae.tiles.polygon_labels import ByPolygon, columns_of_polygons, open_labels, values_of_tiles
from geomae.tiles.radiometry import Radiometry
from geomae.tiles.sources import prepare
from geomae.tiles.splits import assign_splits, repeated
from geomae.tiles.statistics import Statistics, Survey, survey
from geomae.tiles.unusable import TOO_LARGE, computable_tiles, without_small_scenes
from geomae.tiles.windows import list_windows

Progress = Callable[[str, int, int], None]  # what, done, total
COLUMNS = ("split", "group", "fold", "place", "block", "domain", "label")


@dataclass(frozen=True)
class PixelLabels:
    """What labels of pixels tell of the tiles.

    `remarks` name problems of the labels. `by_polygon` are the columns that come from polygons, with the split if it
    does. `pieces` counts pixels by tile_id, class and polygon (see `label_tiles`); None without labels of pixels.
    """

    remarks: tuple[str, ...] = ()
    by_polygon: ByPolygon = field(default_factory=dict)
    pieces: pd.DataFrame | None = None


def describe(
    catalog: Catalog,
    name: str,
    source: Source,
    grids: Sequence[Grid | None],
    tiles: pd.DataFrame,
    attributes: pd.DataFrame,
    labels: LabelSource | None,
) -> tuple[pd.DataFrame, PixelLabels]:
    """Add id, centre, group, fold, place, domain and label, which comes from `labels` where pixels have labels."""
    entry = catalog.entry(name)
    tiles = tiles.reset_index(drop=True)
    tiles.insert(0, "tile_id", _tile_ids(source, tiles))
    tiles["x"], tiles["y"] = _centres(grids, tiles)

    found = label_tiles(labels, entry.label.min_purity if entry.label else None, tiles) if labels else None
    by_pixel = PixelLabels()
    if found is not None and labels is not None:
        remarks = (*labels.remarks(), *purity_remarks(found, entry.label.min_purity if entry.label else None))
        by_polygon = columns_of_polygons(catalog, name, labels, attributes, found.seen)
        tile_ids = tiles["tile_id"].to_numpy()[found.pieces["tile"].to_numpy()]
        by_pixel = PixelLabels(remarks, by_polygon, found.pieces.drop(columns="tile").assign(tile_id=tile_ids))
    own = values_of_tiles(by_pixel.by_polygon, found.polygon_T) if found is not None else {}
    named = tile_columns(entry)

    def column(name: str) -> "pd.Series[Any]":
        if name in own:
            return _kept(own[name].tolist())
        return _texts(attributes[named[name][1]]) if name in named else repeated(None, len(tiles))

    for one in ("group", "fold", "place", "domain", "label"):
        tiles[one] = column(one)
    if entry.domain is None or isinstance(entry.domain, str):
        tiles["domain"] = repeated(entry.domain or name, len(tiles))
    elif isinstance(entry.domain, Months):
        tiles["domain"] = _kept(domains_by_month(catalog, name, entry.domain, attributes))
    else:
        tiles["domain"] = _kept([value if value else UNSPECIFIED for value in tiles["domain"]])
    if found is not None:
        tiles["label"] = _kept(found.label_T.tolist())
    elif entry.label is not None and entry.label.folder:
        folders = [source.scenes[scene].attributes["label"] for scene in tiles["scene"]]  # set by the catalogue
        tiles["label"] = _kept(folders)
    if "split" in own:
        tiles["split"] = column("split")
    return tiles, by_pixel


@dataclass(frozen=True)
class TileIndex:
    """The tiles of one data set.

    `tiles` has one row per tile: tile_id, scene (position in `source.scenes`), row, col, size (pixels of the scene's
    grid), x, y (centre in the scene's CRS, float64; NaN without one), split, group, fold, place, block, domain, label
    (None where there is none). `attributes` has the columns of the catalogue's tables in the same order. `left_out`
    counts omitted tiles by reason. `place_column` is the column that `place` comes from, and the key of the catalogue
    that names it. `labels` gives the labels of pixels, where these have any; `remarks` name problems of the labels, and
    `warnings` are the remarks that every command prints. `by_polygon` are the columns of `tiles` that come from
    polygons, by polygon. `pieces` counts pixels by tile, class and polygon (see `label_tiles`); `take` and `select` do
    not reduce it. With `radiometry`, readers of the tiles apply it and return its bands.
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
    by_polygon: ByPolygon = field(default_factory=dict)
    warnings: tuple[str, ...] = ()
    pieces: pd.DataFrame | None = None
    radiometry: Radiometry | None = None

    def __len__(self) -> int:
        return len(self.tiles)

    def take(self, positions: NDArray[np.int64]) -> "TileIndex":
        """The index of a subset of the tiles."""
        return replace(
            self,
            tiles=self.tiles.iloc[positions].reset_index(drop=True),
            attributes=self.attributes.iloc[positions].reset_index(drop=True),
            survey=self.survey.take(positions),
            left_out=dict(self.left_out),
        )

    def select(self, selector: Selector) -> "TileIndex":
        """The tiles that a selector chooses. Raises CatalogError where there are none, naming the values that exist."""
        chosen = np.ones(len(self), dtype=bool)
        for condition in selector.conditions:
            values = self.column(condition.column)
            meets = condition_mask(replace(selector, conditions=(condition,)), {condition.column: values}, len(self))
            if not meets.any():
                raise CatalogError(f"{selector}: no tile has {condition}; {_existing_values(condition, values)}")
            chosen &= meets
        if selector.split is not None:
            splits = self.tiles["split"].to_numpy()
            if not (splits == selector.split).any():
                raise CatalogError(
                    f"{selector}: split {selector.split!r} is empty; {nearest(selector.split, set(splits))}"
                )
            chosen &= splits == selector.split
        if not chosen.any():
            times = [self.column(TIME)] if any(one.column == TIME for one in selector.conditions) else []
            said = f" ({times_span(times[0])})" if times else ""
            raise CatalogError(f"{selector}: selects no tile{said}; loosen the conditions or choose another split")
        return self.take(np.flatnonzero(chosen))

    def column(self, name: str) -> NDArray[Any]:
        """A column of the attributes, or one of domain, label, group."""
        if name in self.attributes:
            return self.attributes[name].to_numpy()
        if name in COLUMNS:
            return self.tiles[name].to_numpy()
        known = [*self.attributes.columns, *COLUMNS]
        raise CatalogError(f"{self.name}: no column {name!r}; {column_remedy(name, known)}")

    def statistics(self) -> Statistics:
        """Statistics of every band over the valid pixels of these tiles."""
        names = [band.name for band in self.source.bands]
        return self.survey.statistics(names, np.arange(len(self)))

    def notes(self) -> list[str]:
        """Sentences for the user on scenes and tiles that were left out."""
        remedy = f"`geomae catalog check --dataset {self.name}` lists them"
        notes = []
        if self.report.quarantined:
            notes.append(f"{len(self.report.quarantined)} of {self.report.scenes} scenes cannot be used; {remedy}")
        if TOO_LARGE in self.left_out:
            notes.append(f"{self.left_out[TOO_LARGE]} of its tiles hold {TOO_LARGE} and are left out; {remedy}")
        return [f"{self.name}: {note}" for note in (*notes, *self.warnings)]

    def content(self) -> list[str]:
        """Digests of the files behind the tiles, in the order of the scenes."""
        used = np.unique(self.tiles["scene"].to_numpy()).tolist()
        return [self.report.content.get(self.source.scenes[scene].id, "") for scene in used]

    def independent_units(self) -> list[str]:
        """The independent unit of each tile: its group, else its block, else the tile itself."""
        columns = (self.tiles[name].tolist() for name in ("group", "block", "tile_id"))
        return [
            str(group) if group is not None else f"block {block}" if block == block and block is not None else str(tile)
            for group, block, tile in zip(*columns, strict=True)
        ]


def build_index(
    catalog: Catalog,
    name: str,
    *,
    threads: int | None = None,
    max_quarantined: float = 1.0,
    progress: Progress = lambda what, done, total: None,
) -> TileIndex:
    """Audit a data set and list its tiles with `threads` threads (default: one per core).

    `progress` is called with (what, done, total). Raises CatalogError or RasterError where the files do not match the
    entry, or where the audit quarantines more than the share `max_quarantined` of the scenes.
    """
    catalog, source = prepare(catalog, name)
    reading = Reading.of(catalog, name, threads or reading_threads(), progress)
    return build_from_report(catalog, name, source, reading.audit(source), reading, max_quarantined)


@dataclass(frozen=True)
class Reading:
    """How tiles are read: the number of threads, the callback for progress, and the share of this process.

    `tiles` are those that the audit measures while it decodes files, where an entry has tiles on a grid.
    """

    threads: int
    progress: Progress
    share: WorkShare = ALONE
    tiles: MeasuredTiles | None = None

    @classmethod
    def of(cls, catalog: Catalog, name: str, threads: int, progress: Progress, share: WorkShare = ALONE) -> "Reading":
        """That of a data set of a catalogue."""
        entry = catalog.entry(name)
        tile = entry.tile if entry.windows is None else None
        tiles = None if tile is None else MeasuredTiles(TileGrid(tile.size, tile.stride or tile.size))
        return cls(threads, progress, share, tiles)

    def audit(self, source: Source) -> AuditReport:
        """Read the files of a data set; see `rasters.audit`."""
        return audit(source, workers=self.threads, share=self.share, progress=self.progress, tiles=self.tiles)


def build_from_report(
    catalog: Catalog, name: str, source: Source, report: AuditReport, reading: Reading, max_quarantined: float
) -> TileIndex:
    """The index of an audited data set; `catalog` holds its completed entry (see `prepare`)."""
    entry = catalog.entry(name)
    _check_quarantine(report, max_quarantined, catalog.place(name))
    source = in_own_order(source, report.numbers)
    left_out: dict[str, int] = {}
    source, sound = _scene_grids(source, report, catalog.place(name))
    grids, report = without_small_scenes(catalog, name, source, sound, report)
    tiles, attributes, warnings = list_windows(catalog, name, source, grids, left_out)
    time_S = np.array([scene.time for scene in source.scenes], dtype=object)
    attributes = with_time_attributes(catalog, name, attributes, time_S[tiles["scene"].to_numpy()])
    labels = open_labels(catalog, name, source, grids)
    require_columns(catalog, name, [*attributes.columns, *(labels.columns if labels else ())])
    if entry.where is not None:
        chosen = where_mask(
            catalog, name, {str(column): attributes[column].to_numpy() for column in attributes}, len(tiles)
        )
        if not chosen.any():
            times = f" ({times_span(attributes[TIME])})" if TIME in entry.where and TIME in attributes else ""
            raise CatalogError(f"{catalog.place(name, 'where')}: no tile meets the condition{times}; loosen it")
        tiles, attributes = _keep(tiles, attributes, chosen, "where", left_out)
    measured = _measured(source, report, tiles, reading)
    if measured.pixel_valid_T is not None:
        tiles, attributes = _keep(tiles, attributes, measured.pixel_valid_T, INVALID, left_out)
        measured = measured.take(np.flatnonzero(measured.pixel_valid_T))
    least = entry.tile.min_valid if entry.tile else 0.0
    enough = (measured.valid_share_T >= least) & (measured.valid_share_T > 0)
    measured = measured.take(np.flatnonzero(enough))
    tiles, attributes = _keep(tiles, attributes, enough, "too few valid pixels", left_out)
    if tiles.empty:
        raise CatalogError(f"{catalog.place(name)}: no tile has enough valid pixels; check `nodata`, `mask` and `tile`")
    near = computable_tiles(catalog, name, source, tiles["scene"].to_numpy(), measured)
    measured = measured.take(np.flatnonzero(near))
    tiles, attributes = _keep(tiles, attributes, near, TOO_LARGE, left_out)
    tiles, by_pixel = describe(catalog, name, source, grids, tiles, attributes, labels)
    tiles, kept = assign_splits(catalog, source, grids, tiles, attributes)
    tiles, attributes = _keep(tiles, attributes, kept, "train tile overlaps another split", left_out)
    if POINT in tiles:
        warnings = (*warnings, *contradictions(catalog, name, tiles))
        tiles = tiles.drop(columns=[POINT, REPEAT])  # the pixels of the points are kept for figures
    measured = measured.take(np.flatnonzero(kept))
    index = TileIndex(name, source, tiles, attributes, grids, report, measured, left_out, entry.place_column)
    index = replace(index, labels=labels, by_polygon=by_pixel.by_polygon, pieces=by_pixel.pieces)
    pyarrow.default_memory_pool().release_unused()  # it holds the pages of ids that were put together from parts
    return replace(index, remarks=(*by_pixel.remarks, *warnings), warnings=warnings)


def _existing_values(condition: Condition, values_T: NDArray[Any]) -> str:
    """The values of a column, for an error message: the range of times and numbers, else the most similar value."""
    known = [one for one in values_T.tolist() if one is not None and one == one]
    if condition.column == TIME:
        return times_span(known)
    ordered = condition.sign[0] in "<>" or condition.column in DERIVED
    if ordered and known and all(isinstance(one, (int, float)) for one in known):
        return f"its values are {min(known):g} to {max(known):g}"
    return nearest(condition.values[0], {str(one) for one in known})


def _scene_grids(source: Source, report: AuditReport, place: str) -> tuple[Source, list[Grid | None]]:
    """The grid of each scene that is not quarantined; and the source, with times from tags where names have none.

    Raises CatalogError, beginning with `place`, for files whose grids differ from what the metadata state.
    """
    scenes, quarantined = list(source.scenes), report.quarantined
    grids: list[Grid | None] = []
    for position, scene in enumerate(source.scenes):
        if scene.id in quarantined:
            grids.append(None)
            continue
        if scene.stated_grids:
            try:
                check_stated_grids(source, scene)
            except RasterError as error:
                raise CatalogError(f"{place}: {error}") from error
        grids.append(report.grids.get(scene.id) or scene_grid(source, scene))
        if scene.time is None and (acquired := report.acquired.get(scene.id)):
            scenes[position] = replace(scene, time=acquired)
    return replace(source, scenes=tuple(scenes)), grids


def _tile_ids(source: Source, tiles: pd.DataFrame) -> "pd.Series[Any]":
    """Ids of tiles: scene, row and column, and a number from the second point on where points have the same tile."""
    ids = [scene.id for scene in source.scenes]
    texts = [pd.Series([], dtype="str")]
    for part in parts_of(len(tiles)):  # a Python string takes several times the memory of its text
        columns = (tiles[one].iloc[part].tolist() for one in ("scene", "row", "col"))
        names = [f"{ids[scene]}:{row}:{col}" for scene, row, col in zip(*columns, strict=True)]
        if REPEAT in tiles:
            repeats = tiles[REPEAT].iloc[part].tolist()
            names = [f"{one}:{times + 1}" if times else one for one, times in zip(names, repeats, strict=True)]
        texts.append(pd.Series(names, dtype="str"))
    return pd.concat(texts, ignore_index=True)


def _centres(grids: Sequence[Grid | None], tiles: pd.DataFrame) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    """The centre (x, y) of each tile in the CRS of its scene, NaN without one."""
    nowhere = (float("nan"),) * 6
    transforms = [nowhere if grid is None or grid.crs is None else grid.transform for grid in grids]
    affine_S6 = np.array(transforms, dtype=np.float64)
    centre_2T = np.empty((2, len(tiles)))
    for part in parts_of(len(tiles)):
        here = tiles.iloc[part]
        row_T, col_T, size_T = (here[name].to_numpy(dtype=np.float64)[:, None] for name in ("row", "col", "size"))
        centre_T12 = to_crs(affine_S6[here["scene"].to_numpy()], col_T + size_T / 2, row_T + size_T / 2)
        centre_2T[:, part] = centre_T12[:, 0].T
    return centre_2T[0], centre_2T[1]


def _kept(values: Sequence[Any] | NDArray[np.object_]) -> "pd.Series[Any]":
    """A column of dtype object, because pandas would turn None among text into NaN, and copy equal texts."""
    return pd.Series(values, dtype="object")


def _texts(values: "pd.Series[Any]") -> "pd.Series[Any]":
    """Values as text, missing ones as None."""
    if pd.api.types.infer_dtype(values, skipna=True) == "string":
        code_T, known = pd.factorize(values)  # equal texts become one, and missing ones have the code -1
        return _kept(np.array([*(text or None for text in known.tolist()), None], dtype=object)[code_T])
    return _kept([text_of(value) for value in values.tolist()])


def _keep(
    tiles: pd.DataFrame, attributes: pd.DataFrame, chosen: NDArray[np.bool_], reason: str, left_out: dict[str, int]
) -> tuple[pd.DataFrame, pd.DataFrame]:
    if chosen.all():
        return tiles, attributes
    left_out[reason] = int((~chosen).sum())
    return tiles[chosen].reset_index(drop=True), attributes[chosen].reset_index(drop=True)


def _measured(source: Source, report: AuditReport, tiles: pd.DataFrame, reading: Reading) -> Survey:
    """The survey of the tiles; for tiles around points also whether the pixel of the point is valid."""
    place_T4 = tiles[["scene", "row", "col", "size"]].to_numpy(dtype=np.int64)
    pixel_T2 = tiles[[PIXEL_ROW, PIXEL_COL]].to_numpy(dtype=np.int64) if PIXEL_ROW in tiles else None

    def done(count: int) -> None:
        reading.progress(f"reading tiles of {source.name}", count, len(place_T4))

    whole, known = ({}, None) if pixel_T2 is not None else (_whole_scenes(source, report), reading.tiles)
    content, threads = _content(source, report), reading.threads
    with sweeping():
        return survey(source, place_T4, content, threads, done, pixel_T2, whole, reading.share, known)


def _whole_scenes(source: Source, report: AuditReport) -> dict[tuple[int, ...], NDArray[np.float64]]:
    """Moments that the audit has computed for whole scenes, by the tile (scene, row, col, size) that is the scene."""
    return {
        (position, 0, 0, grid.height): report.whole[scene.id]
        for position, scene in enumerate(source.scenes)
        if scene.id in report.whole and (grid := report.grids[scene.id]).height == grid.width
    }


def _content(source: Source, report: AuditReport) -> str:
    """Everything that determines the pixels: the bytes of the files and how they are interpreted."""
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
        f"{first.message}; repair or remove them (`geomae catalog check` lists all), or allow more with --set "
        f"data.max_quarantined={(100 * bad // report.scenes + 1) / 100:g}"
    )
