"""From selectors to data sets for training: usable tiles, held-out tiles, statistics and bands.

C bands
"""

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace

import numpy as np

from geomae.catalog import Catalog, Selector
from geomae.config import Objective, PretrainConfig
from geomae.errors import BandMismatchError, CatalogError, ConfigError
from geomae.files import digest
from geomae.models.band_embedding import EMBEDDINGS
from geomae.models.blocks import check_window
from geomae.models.masking import usable_patches, visible_count
from geomae.sensors import Band, band_groups
from geomae.sensors.band import Groups
from geomae.sensors.record import SensorRecord, unused_name
from geomae.tiles.index import TileIndex
from geomae.tiles.places import Partners, find_partners
from geomae.tiles.reader import TileReader
from geomae.tiles.selection import (
    Progress,
    index_gsd_m,
    index_training,
    own_statistics,
    pool,
    record_of_tiles,
    sensor_key,
)
from geomae.tiles.splits import validation_tiles
from geomae.tiles.statistics import Statistics
from geomae.tiles.tile_cache import cache_note, tile_cache

SHOWN = 3  # number of files that an error message names


def usable_tiles(
    index: TileIndex, config: PretrainConfig, names: Sequence[str], groups: Groups | None, notes: list[str]
) -> TileIndex:
    """Return the tiles with enough valid patches for a mask, judged in the bands `names` (empty: all bands).

    `groups` are those of a grouped embedding. Adds to `notes` how many tiles are left out. Raises CatalogError or
    ConfigError where patches, masks, windows or positions do not fit the tiles.
    """
    if config.positions == "gsd" and index_gsd_m(index) is None:
        raise ConfigError(
            f"positions: gsd needs the ground sample distance of {index.name}, and its files do not tell it; add gsd_m "
            "to the catalogue, or --set positions=sincos"
        )
    sizes = sorted(set(index.tiles["size"].tolist()))
    for size in sizes:
        if size % config.patch or size <= config.patch:
            raise CatalogError(_unfit_size(index, size, sizes, config.patch))
        _check_mask(size // config.patch, index, config)
    if config.masking.kind == "bands":
        _check_band_mask(len(groups or index.source.bands), index, config)
    keep = np.ones(len(index), dtype=bool)
    reader = TileReader(index, bands=names)
    for position in np.flatnonzero(index.survey.valid_share_T < 1).tolist():
        usable = usable_patches(reader.read(position)[1], config.patch, config.data.min_valid_patch)
        # Also for masks of bands, because pictures and studies mask patches of the same tiles.
        keep[position] = usable.sum() > visible_count(len(usable), config.masking.ratio)
    if not keep.any():
        raise CatalogError(f"{index.name}: no tile has enough valid patches; lower data.min_valid_patch")
    if not keep.all():
        notes.append(f"{index.name}: {int((~keep).sum())} tiles left out, too few valid patches")
    return index.take(np.flatnonzero(keep))


def _check_mask(side: int, index: TileIndex, config: PretrainConfig) -> None:
    """Raise ConfigError unless masks and windows fit a grid of side x side patches."""
    ratio, patches = config.masking.ratio, side**2
    if config.masking.kind != "bands" and not 0 < round((1 - ratio) * patches) < patches:
        what = "visible" if ratio > 0.5 else "hidden"
        raise ConfigError(
            f"masking.ratio: {ratio} leaves none of {patches} patches {what} ({index.name}); choose one nearer 0.5, or "
            "a smaller patch"
        )
    if config.decoder.kind == "window":
        check_window(config.decoder.window, (side, side))


def _check_band_mask(units: int, index: TileIndex, config: PretrainConfig) -> None:
    """Raise ConfigError unless masks leave some bands, or groups of bands, visible and hide some."""
    if not 0 < round((1 - config.masking.ratio) * units) < units:
        raise ConfigError(
            f"masking.ratio: {config.masking.ratio} leaves none of {units} "
            f"{'groups' if config.embedding == 'grouped' else 'bands'} visible, or none hidden ({index.name}); choose "
            "another, or another masking.kind"
        )


def fixed_bands(
    bands: Sequence[Band], config: PretrainConfig, notes: list[str]
) -> tuple[tuple[str, ...], Groups | None]:
    """Return the band names that all tiles must have, in the model's order, and their groups.

    For a spectral embedding, which takes any bands, the names are empty and the groups None.
    """
    names: tuple[str, ...] = tuple(band.name for band in bands)
    groups = None
    if config.embedding == "grouped":
        names, groups = band_groups(bands, config.groups, config.left_out)
        left = [band.name for band in bands if band.name not in names]
        text = " | ".join(" ".join(names[i] for i in group) for group in groups)
        notes.append(f"groups: {text}" + (f"; left out: {' '.join(left)}" if left else ""))
    return ((), None) if EMBEDDINGS[config.embedding].any_bands else (names, groups)


def _unfit_size(index: TileIndex, size: int, sizes: Sequence[int], patch: int) -> str:
    """Return the message for tiles of `size` pixels that patches do not divide; with several `sizes` it names files."""
    what = f"{index.name}: a patch of {patch} pixels does not divide a tile of {size}"
    own = f"--set patch={_divisor(sizes, patch)}"
    if len(sizes) == 1:
        return f"{what}; change `tile: size`, or choose {own}"
    scenes = dict.fromkeys(index.tiles["scene"][index.tiles["size"] == size].tolist())
    files = [index.source.scenes[scene].files[0] for scene in scenes]
    more = f" and {len(files) - SHOWN} more" if len(files) > SHOWN else ""
    others = ", ".join(str(one) for one in sizes if one != size)
    cut = max(sizes[0] // patch, 2) * patch
    return (
        f"{what} ({', '.join(files[:SHOWN])}{more}), while others are of {others} pixels; write `tile: {{size: {cut}}}`"
        f" to cut all into equal tiles, leave these files out, or choose {own}"
    )


def _divisor(sizes: Sequence[int], patch: int) -> int:
    """Return the common divisor of all `sizes` that is nearest to `patch` and smaller than each of them."""
    most, common = min(sizes), math.gcd(*sizes)
    return min((one for one in range(1, most) if common % one == 0), key=lambda one: abs(one - patch), default=1)


def agree_on_bands(indexes: Sequence[TileIndex], config: PretrainConfig) -> None:
    """Raise BandMismatchError where bands differ between data sets and the embedding needs one set of bands."""
    if EMBEDDINGS[config.embedding].any_bands:
        return
    source = indexes[0].source
    first = SensorRecord(sensor_key(indexes[0]), source.unit, None, source.bands, (), ())
    names = {band.name for band in first.bands}
    for index in indexes:
        if record_of_tiles([first], index) is None or {band.name for band in index.source.bands} != names:
            raise BandMismatchError(
                f"embedding={config.embedding} needs one set of bands, but {indexes[0].name} and {index.name} differ; "
                "--set embedding=spectral takes any"
            )


@dataclass(frozen=True)
class Dataset:
    """Tiles for training or validation, with the bands and statistics by which they are standardised."""

    name: str
    reader: TileReader
    record: SensorRecord

    @property
    def index(self) -> TileIndex:
        """The index of the tiles."""
        return self.reader.index


@dataclass(frozen=True)
class TrainingData:
    """All data of a training. `notes` report automatic decisions.

    `groups` are those of a grouped embedding. `catalogue_digest` is that of the catalogue's entries; `digest` also
    covers their files and the selection of tiles.
    """

    training: tuple[Dataset, ...]
    validation: tuple[Dataset, ...]
    sensors: tuple[SensorRecord, ...]
    statistics: dict[str, Statistics]
    indexes: dict[str, TileIndex]
    catalogue_digest: str
    digest: str
    groups: Groups | None = None
    objective: Objective = field(default_factory=Objective)  # without `places` where no tile has a partner
    partners: Partners | None = None  # of the training tiles, where the objective compares views
    notes: list[str] = field(default_factory=list)


def assemble(
    catalog: Catalog,
    selectors: Sequence[Selector],
    evaluations: Sequence[Selector],
    config: PretrainConfig,
    seed: int,
    progress: Progress = lambda what, done, total: None,
    indexes: Mapping[str, TileIndex] | None = None,
) -> TrainingData:
    """Index and split the tiles of a training and compute their statistics.

    `indexes` is the result of `index_training`, computed here if absent. Raises CatalogError, RasterError or
    BandMismatchError where the selection, the files and the configuration do not fit together.
    """
    if indexes is None:
        indexes = index_training(catalog, (*selectors, *evaluations), config.data, progress)
    notes = [note for index in indexes.values() for note in (*index.notes(), *cache_note(config.data, index))]
    chosen, evals = ([(one, indexes[one.dataset].select(one)) for one in part] for part in (selectors, evaluations))
    agree_on_bands([index for _, index in (*chosen, *evals)], config)
    fixed, groups = fixed_bands(chosen[0][1].source.bands, config, notes)
    chosen, evals = (
        [(one, usable_tiles(index, config, fixed, groups, notes)) for one, index in part] for part in (chosen, evals)
    )
    training, held = _hold_out(chosen, config.data.validation, seed, notes)
    statistics = {name: index.statistics() for name, index in training}
    records = pool([(index, statistics[name]) for name, index in training])
    for _, index in evals:
        if record_of_tiles(records, index) is None:
            (own,) = own_statistics(index, indexes[index.name], notes)
            records += (replace(own, name=unused_name(records, own.name)),)
    named = [(str(one), index) for one, index in evals]
    memory = config.data.memory_mb * 1024**2 // max(len(training) + len(held) + len(evals), 1)
    sensors = tuple(one.select(fixed) for one in records) if fixed else records

    def ready(name: str, index: TileIndex) -> Dataset:
        order = fixed or tuple(band.name for band in index.source.bands)
        whole = record_of_tiles(records, index)
        assert whole is not None  # they are those of all data sets
        record = replace(whole.select(order), gsd_m=index_gsd_m(index))
        return Dataset(name, TileReader(index, memory, order, tile_cache(config.data)), record)

    content = [[name, index.content(), index.tiles["tile_id"].tolist()] for name, index in (*training, *held, *named)]
    entries = catalog.digest(sorted(indexes))
    return TrainingData(
        tuple(ready(*one) for one in training),
        tuple(ready(*one) for one in (*held, *named)),
        sensors,
        statistics,
        dict(indexes),
        entries,
        digest([entries, content]),
        groups,
        *pair_tiles(training, config.objective, notes),
        notes,
    )


def pair_tiles(
    named: Sequence[tuple[str, TileIndex]], objective: Objective, notes: list[str]
) -> tuple[Objective, Partners | None]:
    """Return the objective and the partners of the training tiles: tiles of the same ground at another date or sensor.

    Partners are None where no term compares views. Where no tile has a partner, `places` is removed from the
    objective; raises CatalogError where no other term remains. Notes report the number of partners and how they were
    found.
    """
    if not objective.paired:
        return objective, None
    names, indexes = zip(*named, strict=True)
    partners = find_partners(indexes, names)
    if not objective.places:
        return objective, partners
    notes += partners.how
    if any(partners.count(number) for number in range(len(indexes))):
        return objective, partners
    if not (objective.pixels or objective.contrast):
        raise CatalogError(
            f"objective.places: {'; '.join(partners.how)}; add `places: {{column: ...}}` to the data set, or give "
            "objective.contrast or objective.pixels a weight"
        )
    left = objective.model_copy(update={"places": 0.0})
    remedy = "; if a column names the site of each scene, write `places: {column: NAME}` in the catalogue"
    named_all = all(index.place_column is not None and index.place_column[1] == "places" for index in indexes)
    notes.append(
        "objective.places is left out of the loss, since no tile is known to share ground with another scene; "
        f"the terms {' and '.join(left.weights())} remain{'' if named_all else remedy}"
    )
    return left, partners if left.paired else None


def _hold_out(
    chosen: Sequence[tuple[Selector, TileIndex]], share: float, seed: int, notes: list[str]
) -> tuple[list[tuple[str, TileIndex]], list[tuple[str, TileIndex]]]:
    """Split the tiles into training and held-out validation tiles; both are lists of (name, index)."""
    training, held = [], []
    for selector, index in chosen:
        out = validation_tiles(index.tiles, share, seed)
        training.append((str(selector), index.take(np.flatnonzero(~out))))
        if out.any():
            held.append((f"{selector}-held-out", index.take(np.flatnonzero(out))))
        else:
            notes.append(f"{selector}: too few tiles to hold any out for validation")
    return training, held
