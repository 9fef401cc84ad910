"""From selectors to data sets that are ready to train on: tiles held out, statistics pooled, bands agreed.

C bands
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field, replace

import numpy as np

from geomae.catalog import Catalog, Selector
from geomae.config import PretrainConfig
from geomae.files import digest
from geomae.models.standardise import SensorRecord
from geomae.sensors.groups import Groups
from geomae.tiles.index import TileIndex, build_index
from geomae.tiles.reader import TileReader
from geomae.tiles.splitting import validation_tiles
from geomae.tiles.survey import Statistics
from geomae.training.fit import agree_on_bands, fixed_bands, usable_tiles
from geomae.training.records import index_gsd_m, own_statistics, pool, sensor_key


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

    `groups` are those of a grouped embedding. `catalogue_digest` names the entries, `digest` the entries, the files
    behind them and the choice of tiles.
    """

    training: tuple[Dataset, ...]
    validation: tuple[Dataset, ...]
    sensors: tuple[SensorRecord, ...]
    statistics: dict[str, Statistics]
    indexes: dict[str, TileIndex]
    catalogue_digest: str
    digest: str
    groups: Groups | None = None
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
    chosen, asked = ([(one, indexes[one.dataset].select(one)) for one in part] for part in (selectors, evaluations))
    agree_on_bands([index for _, index in (*chosen, *asked)], config)
    fixed, groups = fixed_bands(chosen[0][1].source.bands, config, notes)
    chosen, asked = (
        [(one, usable_tiles(index, config, fixed, groups, notes)) for one, index in part] for part in (chosen, asked)
    )
    training, held = _hold_out(chosen, config.data.validation, seed, notes)
    statistics = {
        name: index.survey.statistics([band.name for band in index.source.bands], np.arange(len(index)))
        for name, index in training
    }
    sensors = pool([(index, statistics[name]) for name, index in training])
    for _, index in asked:
        if sensor_key(index) not in [record.name for record in sensors]:
            sensors += own_statistics(index, indexes[index.name], notes)
    named = [(str(one), index) for one, index in asked]
    memory = config.data.memory_mb * 1024**2 // max(len(training) + len(held) + len(asked), 1)
    sensors = tuple(one.select(fixed) for one in sensors) if fixed else sensors

    def ready(name: str, index: TileIndex) -> Dataset:
        order = fixed or tuple(band.name for band in index.source.bands)
        record = next(one for one in sensors if one.name == sensor_key(index)).select(order)
        return Dataset(name, TileReader(index, memory, order), replace(record, gsd_m=index_gsd_m(index)))

    content = [[name, index.content(), index.tiles["tile_id"].tolist()] for name, index in (*training, *held, *named)]
    entries = catalog.digest(sorted(indexes))
    return TrainingData(
        tuple(ready(*one) for one in training),
        tuple(ready(*one) for one in (*held, *named)),
        sensors,
        statistics,
        indexes,
        entries,
        digest([entries, content]),
        groups,
        notes,
    )


def _hold_out(
    chosen: Sequence[tuple[Selector, TileIndex]], share: float, seed: int, notes: list[str]
) -> tuple[list[tuple[str, TileIndex]], list[tuple[str, TileIndex]]]:
    """The tiles to train on, and those held out for validation, by name."""
    training, held = [], []
    for selector, index in chosen:
        out = validation_tiles(index.tiles, share, seed)
        training.append((str(selector), index.take(np.flatnonzero(~out))))
        if out.any():
            held.append((f"{selector}-held-out", index.take(np.flatnonzero(out))))
        else:
            notes.append(f"{selector}: too few tiles to hold any out for validation")
    return training, held
