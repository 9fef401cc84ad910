"""The tiles that a command works on: selections with the statistics of their sensors, and whether they share pixels.

T tiles, U tiles of another selection, C bands
"""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace

import numpy as np
import shapely
from numpy.typing import NDArray

from geomae.catalog import Catalog, Selector, resolve_selectors
from geomae.catalog.splits import TRAIN
from geomae.config import Data
from geomae.errors import BandMismatchError, CatalogError, ConfigError
from geomae.files import digest
from geomae.sensors import match_bands, sensor, sensor_names
from geomae.sensors.record import SensorRecord, record_of, same_sensor, unused_name
from geomae.tiles.index import TileIndex, build_index
from geomae.tiles.statistics import Statistics, merge_moments

Progress = Callable[[str, int, int], None]  # what, done, total
Boxes = NDArray[np.float64]
SLIVER = 0.5e-9  # share of a scene: a smaller overlap may be rounding
SHOWN = 3  # tiles named in an error


def sensor_key(index: TileIndex) -> str:
    """The key of statistics: sensor and unit, because digital numbers and reflectance must not be mixed."""
    source = index.source
    usual = sensor(source.sensor).unit if source.sensor in sensor_names() else source.unit
    return source.sensor if source.unit == usual else f"{source.sensor}:{source.unit}"


def record_of_tiles(records: Sequence[SensorRecord], index: TileIndex) -> SensorRecord | None:
    """The record of the sensor of a data set among `records`; None if it is in none (see `record_of`)."""
    return record_of(records, sensor_key(index), index.source.unit, index.source.bands)


def pool(parts: Sequence[tuple[TileIndex, Statistics]]) -> tuple[SensorRecord, ...]:
    """One record per sensor and unit, over all data sets that have it; every pixel has equal weight."""
    known: list[SensorRecord] = []  # without statistics yet
    pooled: list[list[tuple[TileIndex, Statistics]]] = []
    for index, statistics in parts:
        found = record_of_tiles(known, index)
        if found is None:
            key = unused_name(known, sensor_key(index))
            known.append(SensorRecord(key, index.source.unit, None, index.source.bands, (), ()))
            pooled.append([(index, statistics)])
            continue
        at = known.index(found)
        names = {band.name for band in found.bands}
        more = tuple(band for band in index.source.bands if band.name not in names)
        known[at] = replace(found, bands=found.bands + more)
        pooled[at].append((index, statistics))
    return tuple(_pooled(one.name, own) for one, own in zip(known, pooled, strict=True))


def own_statistics(chosen: TileIndex, whole: TileIndex, notes: list[str]) -> tuple[SensorRecord, ...]:
    """Statistics of a sensor that is new to the model, from its own train split (or all tiles, where there is none)."""
    has_train = (whole.tiles["split"] == TRAIN).any()
    notes.append(
        f"{chosen.name}: its sensor {sensor_key(whole)} was not trained on; it is standardised by its own "
        f"{'train split' if has_train else 'tiles'}, which is an alignment in itself"
    )
    return (own_record(whole),)


def own_record(whole: TileIndex) -> SensorRecord:
    """Bands and gsd of a data set, with the statistics of its train split (of all tiles, where it has none)."""
    train = np.flatnonzero((whole.tiles["split"] == TRAIN).to_numpy())
    index = whole.take(train) if len(train) else whole
    return pool([(index, index.statistics())])[0]


def index_gsd_m(index: TileIndex) -> float | None:
    """The ground sample distance of the tiles in metres: from the catalogue, else from the grids of the files."""
    return index.source.gsd_m if index.source.gsd_m is not None else grids_gsd_m(index)


def grids_gsd_m(index: TileIndex) -> float | None:
    """The ground sample distance of the grids in metres, the median where they differ; None where no grid has one."""
    known = [grid.gsd_m for grid in index.grids if grid is not None and grid.gsd_m is not None]
    return float(np.median(known)) if known else None


@dataclass(frozen=True)
class Selection:
    """Tiles of the data set `whole` that a selector chose, and the bands and statistics of its train split."""

    selector: Selector
    index: TileIndex
    imagery: SensorRecord
    whole: TileIndex

    @property
    def name(self) -> str:
        """The selector, as people write it."""
        return str(self.selector)

    def digest(self) -> str:
        """A digest of the files, the choice of tiles, and the radiometry that is applied to them."""
        through = [] if self.index.radiometry is None else [self.index.radiometry.digest]
        return digest([self.index.content(), self.index.tiles["tile_id"].tolist(), *through])


def select_tiles(
    catalog: Catalog,
    chosen: Sequence[str | Selector],
    progress: Progress = lambda what, done, total: None,
    warn: Callable[[str], None] = lambda message: None,
) -> list[Selection]:
    """The tiles of each selector (see `resolve_selectors`; without a split all tiles). A data set is indexed once.

    `progress` is called with (what, done, total), and `warn` with notes on scenes and tiles that cannot be used.
    """
    selectors = resolve_selectors(catalog, chosen, None)
    indexes = build_indexes(catalog, selectors, progress, warn)
    records = {name: own_record(index) for name, index in indexes.items()}
    selections = []
    for one in selectors:
        whole = indexes[one.dataset]
        selections.append(Selection(one, whole.select(one), records[one.dataset], whole))
    return selections


def build_indexes(
    catalog: Catalog,
    selectors: Sequence[Selector],
    progress: Progress = lambda what, done, total: None,
    warn: Callable[[str], None] = lambda message: None,
) -> dict[str, TileIndex]:
    """The tile index of every data set that a selector names. Unusable scenes and tiles are left out, with a warning.

    `progress` is called with (what, done, total).
    """
    indexes: dict[str, TileIndex] = {}
    for name in dict.fromkeys(one.dataset for one in selectors):
        index = indexes[name] = build_index(catalog, name, progress=progress)
        for note in index.notes():
            warn(note)
    return indexes


def index_training(
    catalog: Catalog,
    selectors: Sequence[Selector],
    data: Data,
    progress: Progress = lambda what, done, total: None,
) -> dict[str, TileIndex]:
    """The tile index of every data set of a training, with its number of readers and its limit of unusable files."""
    return {
        name: build_index(
            catalog, name, threads=max(data.readers, 1), max_quarantined=data.max_quarantined, progress=progress
        )
        for name in dict.fromkeys(one.dataset for one in selectors)
    }


def evenly_spread(count: int, most: int) -> list[int]:
    """At most `most` of the positions 0 to `count` - 1: the middles of equal parts."""
    shown = min(count, most)
    return [count * (2 * place + 1) // (2 * shown) for place in range(shown)]


def share_bands(chosen: Sequence[Selection]) -> list[Selection]:
    """The selections with the bands that all their data sets have, in the order of the first one's.

    A linear probe needs the same features in the same order on both sides. Bands match by name within a sensor, else by
    wavelength. Raises BandMismatchError where the data sets have none in common.
    """
    records = {one.index.name: one.imagery for one in chosen}
    first, *others = records.values()
    places = [match_bands(first.bands, one.bands, same_sensor(first, one)) for one in others]
    kept = [number for number in range(len(first.bands)) if all(match[number] is not None for match in places)]
    if not kept:
        raise BandMismatchError(
            f"{', '.join(records)}: have no band in common; a probe needs the same measurements on both sides"
        )
    reduced = {next(iter(records)): first.select([first.bands[number].name for number in kept])}
    for (name, record), match in zip(list(records.items())[1:], places, strict=True):
        met = [place for number in kept if (place := match[number]) is not None]
        reduced[name] = record.select([record.bands[place].name for place in met])
    return [replace(one, imagery=reduced[one.index.name]) for one in chosen]


def check_no_pixel_overlap(one: TileIndex, other: TileIndex, where: str) -> None:
    """Raise ConfigError where tiles of `one` overlap tiles of `other` in the same file, also across data sets."""
    ids = one.tiles["tile_id"].tolist()
    shared = [ids[place] for place in np.flatnonzero(overlapping(one, other))]
    if shared:
        more = f" and {len(shared) - SHOWN} more" if len(shared) > SHOWN else ""
        raise ConfigError(
            f"{where}: {len(shared)} of its tiles overlap tiles of the target ({', '.join(shared[:SHOWN])}{more}); "
            "choose selectors that share no pixels"
        )


def overlapping(one: TileIndex, other: TileIndex) -> NDArray[np.bool_]:
    """Which tiles (T,) of `one` share pixels of a file with a tile of `other`."""
    overlaps_T = np.zeros(len(one), dtype=bool)
    other_boxes = _boxes(other)
    for file, (places, box_T4) in _boxes(one).items():
        if file in other_boxes:
            near, _ = shapely.STRtree(_inner(other_boxes[file][1])).query(_inner(box_T4))
            overlaps_T[places[near]] = True
    return overlaps_T


def _pooled(key: str, parts: Sequence[tuple[TileIndex, Statistics]]) -> SensorRecord:
    first = parts[0][0]
    bands = {band.name: band for index, _ in parts for band in index.source.bands}
    column = {name: number for number, name in enumerate(bands)}
    count_TC = np.zeros((len(parts), len(bands)), dtype=np.int64)
    mean_TC, squares_TC = np.zeros(count_TC.shape), np.zeros(count_TC.shape)
    for row, (_, statistics) in enumerate(parts):
        own = [column[name] for name in statistics.bands]
        count_TC[row, own], mean_TC[row, own] = statistics.count_C, statistics.mean_C
        squares_TC[row, own] = statistics.count_C * statistics.std_C**2
    count_C, mean_C, variance_C = merge_moments(count_TC, mean_TC, squares_TC)
    empty = [name for name, number in column.items() if count_C[number] == 0 or variance_C[number] <= 0]
    if empty:
        raise CatalogError(
            f"{first.name}: band {', '.join(empty)} has no valid pixel or a single value; leave it out (null)"
        )
    std_C = np.sqrt(variance_C)
    means, deviations = tuple(mean_C.tolist()), tuple(std_C.tolist())
    return SensorRecord(key, first.source.unit, index_gsd_m(first), tuple(bands.values()), means, deviations)


def _boxes(index: TileIndex) -> Mapping[str, tuple[NDArray[np.int64], Boxes]]:
    """For each file the positions of tiles and their boxes (T, 4), in fractions of the scene, as grids may differ.

    Where each band has its own file, a tile is listed for each of them.
    """
    boxes: dict[str, tuple[NDArray[np.int64], Boxes]] = {}
    scene_T = index.tiles["scene"].to_numpy()
    row_T, col_T, size_T = (index.tiles[name].to_numpy(np.float64) for name in ("row", "col", "size"))
    for scene in np.unique(scene_T).tolist():
        grid, here = index.grids[scene], np.flatnonzero(scene_T == scene)
        if grid is None:
            continue
        row, col, size = row_T[here], col_T[here], size_T[here]
        box_T4 = np.stack([row / grid.height, col / grid.width, (row + size) / grid.height, (col + size) / grid.width])
        boxes |= dict.fromkeys(index.source.scenes[scene].files, (here, box_T4.T))
    return boxes


def _inner(box_T4: Boxes) -> NDArray[np.object_]:
    """Boxes as shapes, shrunk by SLIVER on each side, so that boxes that only touch do not overlap."""
    return np.asarray(shapely.box(*(box_T4[:, :2] + SLIVER).T, *(box_T4[:, 2:] - SLIVER).T))
