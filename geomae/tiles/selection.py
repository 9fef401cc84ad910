"""The tiles that a command works on, each selection with the bands and statistics of its data set, pooled by sensor."""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from geomae.catalog import Catalog, resolve_selectors
from geomae.catalog.splits import TRAIN
from geomae.errors import CatalogError
from geomae.files import digest
from geomae.runtime.console import Screen
from geomae.sensors import Band, sensor, sensor_names
from geomae.sensors.record import SensorRecord
from geomae.tiles.index import TileIndex, build_index
from geomae.tiles.statistics import Statistics
from geomae.tracking.runs import DatasetRecord


def sensor_key(index: TileIndex) -> str:
    """Statistics belong to a sensor and a unit: digital numbers and reflectance of one sensor do not mix."""
    source = index.source
    usual = sensor(source.sensor).unit if source.sensor in sensor_names() else source.unit
    return source.sensor if source.unit == usual else f"{source.sensor}:{source.unit}"


def pool(parts: Sequence[tuple[TileIndex, Statistics]]) -> tuple[SensorRecord, ...]:
    """One record per sensor and unit, over all data sets that have it, each pixel counting once."""
    moments: dict[str, dict[str, tuple[Band, float, float, float]]] = {}
    first: dict[str, TileIndex] = {}
    for index, statistics in parts:
        key = sensor_key(index)
        first.setdefault(key, index)
        bands = moments.setdefault(key, {})
        for c, band in enumerate(index.source.bands):
            n, mean, square = int(statistics.count_C[c]), statistics.mean_C[c], statistics.std_C[c] ** 2
            _, n0, mean0, square0 = bands.get(band.name, (band, 0.0, 0.0, 0.0))
            total = max(n + n0, 1)
            merged = (n * mean + n0 * mean0) / total
            spread = (n * (square + (mean - merged) ** 2) + n0 * (square0 + (mean0 - merged) ** 2)) / total
            bands[band.name] = (band, n + n0, merged, spread)
    records = []
    for key, bands in moments.items():
        index = first[key]
        empty = [name for name, (_, n, _, spread) in bands.items() if n == 0 or spread <= 0]
        if empty:
            raise CatalogError(
                f"{index.name}: band {', '.join(empty)} has no valid pixel or one value only; leave it out (null)"
            )
        columns = list(bands.values())
        records.append(
            SensorRecord(
                key,
                index.source.unit,
                index_gsd_m(index),
                tuple(band for band, *_ in columns),
                tuple(float(mean) for _, _, mean, _ in columns),
                tuple(float(np.sqrt(spread)) for *_, spread in columns),
            )
        )
    return tuple(records)


def own_statistics(chosen: TileIndex, whole: TileIndex, notes: list[str]) -> tuple[SensorRecord, ...]:
    """Statistics of a sensor that training never saw, from its own train split (or all tiles, where there is none)."""
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
    names = [band.name for band in index.source.bands]
    return pool([(index, index.survey.statistics(names, np.arange(len(index))))])[0]


def index_gsd_m(index: TileIndex) -> float | None:
    """The ground sample distance of the tiles: that of the catalogue, else of the grids of the files."""
    if index.source.gsd_m is not None:
        return index.source.gsd_m
    found = [grid.gsd_m for grid in index.grids if grid is not None and grid.gsd_m is not None]
    return float(np.median(found)) if found else None


@dataclass(frozen=True)
class Selection:
    """Tiles of the data set `whole` that a selector chose, and the bands and statistics of its train split."""

    name: str
    index: TileIndex
    imagery: SensorRecord
    whole: TileIndex

    def digest(self) -> str:
        """Names the files behind the tiles and the choice of tiles."""
        return digest([self.index.content(), self.index.tiles["tile_id"].tolist()])

    def record(self, catalog: Catalog) -> DatasetRecord:
        """The tiles as an input of a run."""
        entry = catalog.entry(self.index.name).model_dump(mode="json", exclude_unset=True, by_alias=True)
        profile = {"tiles": len(self.index), "sensor": self.imagery.name, "unit": self.imagery.unit}
        return DatasetRecord(
            name=self.name,
            digest=self.digest(),
            source=str(catalog.path),
            entry={self.index.name: entry},
            bands=[band.name for band in self.imagery.bands],
            profile=profile,
            context="validation",
        )


def select_tiles(catalog: Catalog, texts: Sequence[str], screen: Screen) -> list[Selection]:
    """The tiles of each selector (see `resolve_selectors`; without a split all); every data set is indexed once."""
    selectors = resolve_selectors(catalog, texts, None)
    found: dict[str, tuple[TileIndex, SensorRecord]] = {}
    for name in dict.fromkeys(one.dataset for one in selectors):
        index = build_index(catalog, name, progress=screen.step)
        screen.close()
        if index.report.quarantined:
            bad = f"{len(index.report.quarantined)} of {index.report.scenes} scenes"
            screen.warn(f"{name}: {bad} cannot be used; `geomae catalog check --dataset {name}` lists them")
        found[name] = (index, own_record(index))
    chosen = []
    for one in selectors:
        whole, imagery = found[one.dataset]
        chosen.append(Selection(str(one), whole.select(one), imagery, whole))
    return chosen
