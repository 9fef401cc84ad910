"""From selectors to data sets that are ready to train on: tiles held out, statistics pooled, bands agreed.

C bands
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field

import numpy as np

from geomae.catalog import Catalog, Selector
from geomae.config import PretrainConfig
from geomae.errors import BandMismatchError, CatalogError
from geomae.files import digest
from geomae.models.masking import usable_patches, visible_count
from geomae.models.standardise import SensorRecord
from geomae.sensors import Band, sensor, sensor_names
from geomae.tiles.index import TileIndex, build_index
from geomae.tiles.reader import TileReader
from geomae.tiles.splitting import validation_tiles
from geomae.tiles.survey import Statistics


@dataclass(frozen=True)
class Dataset:
    """Tiles to train on, or to validate on, with the bands and statistics they are standardised by."""

    name: str
    reader: TileReader
    record: SensorRecord

    @property
    def index(self) -> TileIndex:
        """The index of the tiles."""
        return self.reader.index


@dataclass(frozen=True)
class TrainingData:
    """Everything a training reads. `notes` says in words what was decided.

    `catalogue_digest` names the entries, `digest` the entries, the files behind them and the choice of tiles.
    """

    training: tuple[Dataset, ...]
    validation: tuple[Dataset, ...]
    sensors: tuple[SensorRecord, ...]
    statistics: dict[str, Statistics]
    indexes: dict[str, TileIndex]
    catalogue_digest: str
    digest: str
    notes: list[str] = field(default_factory=list)


def assemble(
    catalog: Catalog,
    selectors: Sequence[Selector],
    evaluations: Sequence[Selector],
    config: PretrainConfig,
    seed: int,
    progress: Callable[[str, int, int], None] = lambda what, done, total: None,
) -> TrainingData:
    """Index, split and describe the tiles of a training.

    Raises CatalogError, RasterError or BandMismatchError where the selection, the files and the configuration do not
    fit together.
    """
    notes: list[str] = []
    indexes = {
        name: build_index(
            catalog, name, threads=max(config.data.readers, 1), max_quarantined=config.data.max_quarantined,
            progress=progress,
        )
        for name in dict.fromkeys(one.dataset for one in (*selectors, *evaluations))
    }  # fmt: skip
    chosen = [(one, _usable(indexes[one.dataset].select(one), config, notes)) for one in selectors]
    asked = [(str(one), _usable(indexes[one.dataset].select(one), config, notes)) for one in evaluations]
    _agree_on_bands([index for _, index in chosen] + [index for _, index in asked], config)
    training, held = [], []
    for selector, index in chosen:
        out = validation_tiles(index.tiles, config.data.validation, seed)
        training.append((str(selector), index.take(np.flatnonzero(~out))))
        if out.any():
            held.append((f"{selector}-held-out", index.take(np.flatnonzero(out))))
        else:
            notes.append(f"{selector}: too few tiles to hold any out for validation")
    statistics = {
        name: index.survey.statistics([band.name for band in index.source.bands], np.arange(len(index)))
        for name, index in training
    }
    sensors = _pool([(index, statistics[name]) for name, index in training])
    for _, index in asked:
        if _sensor_key(index) not in [record.name for record in sensors]:
            sensors += _own_statistics(index, indexes[index.name], notes)
    memory = config.data.memory_mb * 1024**2 // max(len(training) + len(held) + len(asked), 1)
    first = training[0][1].source.bands

    def ready(name: str, index: TileIndex) -> Dataset:
        order = [band.name for band in (first if config.embedding == "stacked" else index.source.bands)]
        record = next(one for one in sensors if one.name == _sensor_key(index)).select(order)
        return Dataset(name, TileReader(index, memory, order), record)

    content = [[name, index.content(), index.tiles["tile_id"].tolist()] for name, index in (*training, *held, *asked)]
    return TrainingData(
        tuple(ready(*one) for one in training),
        tuple(ready(*one) for one in (*held, *asked)),
        sensors,
        statistics,
        indexes,
        catalog.digest(sorted(indexes)),
        digest([catalog.digest(sorted(indexes)), content]),
        notes,
    )


def _usable(index: TileIndex, config: PretrainConfig, notes: list[str]) -> TileIndex:
    """The tiles that have enough usable patches for a mask; checks that patches fit the tiles."""
    for size in sorted(set(index.tiles["size"].tolist())):
        if size % config.patch or size <= config.patch:
            raise CatalogError(
                f"{index.name}: a patch of {config.patch} pixels does not divide a tile of {size}; change `tile: size`"
                f", or choose --set patch={_divisor(size, config.patch)}"
            )
    keep = np.ones(len(index), dtype=bool)
    reader = TileReader(index)
    for position in np.flatnonzero(index.survey.valid_share_T < 1).tolist():
        usable = usable_patches(reader.read(position)[1], config.patch, config.data.min_valid_patch)
        keep[position] = usable.sum() > visible_count(len(usable), config.masking.ratio)
    if not keep.any():
        raise CatalogError(f"{index.name}: no tile has enough valid patches; lower data.min_valid_patch")
    if not keep.all():
        notes.append(f"{index.name}: {int((~keep).sum())} tiles left out, too few valid patches")
    return index.take(np.flatnonzero(keep))


def _divisor(size: int, patch: int) -> int:
    """The divisor of `size` nearest to `patch`, smaller than the tile."""
    return min((one for one in range(1, size) if size % one == 0), key=lambda one: abs(one - patch), default=1)


def _agree_on_bands(indexes: Sequence[TileIndex], config: PretrainConfig) -> None:
    if config.embedding != "stacked":
        return
    names = [frozenset((_sensor_key(index), band.name) for band in index.source.bands) for index in indexes]
    for index, found in zip(indexes, names, strict=True):
        if found != names[0]:
            raise BandMismatchError(
                f"embedding=stacked needs one set of bands, but {indexes[0].name} and {index.name} differ; "
                "--set embedding=spectral takes any"
            )


def _sensor_key(index: TileIndex) -> str:
    """Statistics belong to a sensor and a unit: digital numbers and reflectance of one sensor do not mix."""
    source = index.source
    usual = sensor(source.sensor).unit if source.sensor in sensor_names() else source.unit
    return source.sensor if source.unit == usual else f"{source.sensor}:{source.unit}"


def _pool(parts: Sequence[tuple[TileIndex, Statistics]]) -> tuple[SensorRecord, ...]:
    """One record per sensor and unit, over all data sets that have it, each pixel counting once."""
    moments: dict[str, dict[str, tuple[Band, float, float, float]]] = {}
    first: dict[str, TileIndex] = {}
    for index, statistics in parts:
        key = _sensor_key(index)
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
                _gsd_m(index),
                tuple(band for band, *_ in columns),
                tuple(float(mean) for _, _, mean, _ in columns),
                tuple(float(np.sqrt(spread)) for *_, spread in columns),
            )
        )
    return tuple(records)


def _own_statistics(chosen: TileIndex, whole: TileIndex, notes: list[str]) -> tuple[SensorRecord, ...]:
    """Statistics of a sensor that training never saw, from its own train split (or all tiles, where there is none)."""
    train = np.flatnonzero((whole.tiles["split"] == "train").to_numpy())
    index = whole.take(train) if len(train) else whole
    notes.append(
        f"{chosen.name}: its sensor {_sensor_key(index)} was not trained on; it is standardised by its own "
        f"{'train split' if len(train) else 'tiles'}, which is an alignment in itself"
    )
    names = [band.name for band in index.source.bands]
    return _pool([(index, index.survey.statistics(names, np.arange(len(index))))])


def _gsd_m(index: TileIndex) -> float | None:
    if index.source.gsd_m is not None:
        return index.source.gsd_m
    found = [grid.gsd_m for grid in index.grids if grid is not None and grid.gsd_m is not None]
    return float(np.median(found)) if found else None
