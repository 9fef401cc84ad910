"""The tiles that a model is adapted with: of each domain those to learn from and those held out, and its bands.

T tiles
"""

from collections.abc import Sequence
from dataclasses import dataclass, replace

import numpy as np

from geomae.config import PretrainConfig
from geomae.encoders.fitting import fit_model
from geomae.errors import CatalogError, ModelError
from geomae.models.folder import Model
from geomae.models.standardise import SensorRecord
from geomae.tiles.index import TileIndex
from geomae.tiles.reader import TileReader
from geomae.tiles.splitting import validation_tiles
from geomae.training.data import Dataset
from geomae.training.fit import usable_tiles
from geomae.training.records import index_gsd_m
from geomae.workflows.apart import check_apart, overlapping
from geomae.workflows.selected import Selected


@dataclass(frozen=True)
class Domain:
    """The tiles of a selection: those to learn from, and those held out: groups or blocks where there are any."""

    selected: Selected
    training: Dataset
    held: Dataset

    @property
    def name(self) -> str:
        """The selector."""
        return self.selected.name


@dataclass(frozen=True)
class Domains:
    """Target and source, and the model as it begins, which knows the sensors of both. `notes` say what was decided."""

    model: Model
    target: Domain
    source: Domain | None
    notes: tuple[str, ...]

    @property
    def all(self) -> tuple[Domain, ...]:
        """The target first."""
        return (self.target,) if self.source is None else (self.target, self.source)


def read_domains(model: Model, chosen: Sequence[Selected], config: PretrainConfig, seed: int) -> Domains:
    """The domains of the selections, the target's first, for a model that will learn them.

    Raises CatalogError, ConfigError, BandMismatchError or ModelError where tiles, bands and model do not fit together.
    """
    if model.mae.decoder is None:
        raise ModelError(
            "--model: is an encoder without a decoder, which cannot reconstruct and so not be adapted; bring weights "
            "with their decoder through `geomae convert`, or train a model with `geomae pretrain`"
        )
    notes: list[str] = []
    for one in reversed(chosen):  # the target's sensor last, which becomes the first of the model
        model = knowing(model, one.imagery, notes)
    if len(chosen) == 2:
        check_apart(chosen[1].index, chosen[0].index, f"--source {chosen[1].name}")
    memory = config.data.memory_mb * 1024**2 // (2 * len(chosen))
    found = [_domain(model, one, config, memory, seed, notes) for one in chosen]
    return Domains(model, found[0], found[1] if len(found) == 2 else None, tuple(dict.fromkeys(notes)))


def knowing(model: Model, imagery: SensorRecord, notes: list[str]) -> Model:
    """The model with a record of the sensor of `imagery`. Raises BandMismatchError where its bands do not fit.

    What the model was trained with stays; a sensor that it does not know becomes its first, with the statistics of the
    imagery, and so do the bands of a known sensor that a spectral embedding has not met.
    """
    known = next((one for one in model.sensors if (one.name, one.unit) == (imagery.name, imagery.unit)), None)
    if known is None:
        fitted, said = fit_model(model, imagery, "--model")
        notes += said
        return replace(model, sensors=(fitted.record, *model.sensors))
    new = [band.name for band in imagery.bands if band.name not in {one.name for one in known.bands}]
    if not new or model.mae.architecture.embedding != "spectral":
        return model
    notes.append(f"bands of {known.name} that the model learns anew: {', '.join(new)}")
    more = imagery.select(new)
    whole = replace(
        known, bands=known.bands + more.bands, mean_C=known.mean_C + more.mean_C, std_C=known.std_C + more.std_C
    )
    return replace(model, sensors=tuple(whole if one is known else one for one in model.sensors))


def _domain(
    model: Model, selected: Selected, config: PretrainConfig, memory: int, seed: int, notes: list[str]
) -> Domain:
    fitted, said = fit_model(model, selected.imagery, "--model")
    notes += said
    record = fitted.record
    names = tuple(band.name for band in record.bands)
    index = usable_tiles(selected.index, config, names, model.mae.architecture.groups, notes)
    held_T = validation_tiles(index.tiles, config.data.validation, seed)
    if not held_T.any():
        raise CatalogError(
            f"{selected.name}: has {len(index)} usable tile{'s' * (len(index) != 1)}, too few to hold some out, and "
            "without them nobody could say whether an adaptation helped; choose more tiles"
        )

    def part(name: str, tiles: TileIndex) -> Dataset:
        return Dataset(name, TileReader(tiles, memory, names), replace(record, gsd_m=index_gsd_m(tiles)))

    learned, held = (index.take(np.flatnonzero(chosen_T)) for chosen_T in (~held_T, held_T))
    learned = _apart(selected.name, learned, held, notes)
    return Domain(selected, part(selected.name, learned), part(f"{selected.name}-held-out", held))


def _apart(name: str, learned: TileIndex, held: TileIndex, notes: list[str]) -> TileIndex:
    """The tiles to learn from without those that show held-out pixels, where enough are left; notes say what is not."""
    shared_T = overlapping(learned, held)
    many = 2 * shared_T.sum() > len(learned)
    if many:
        notes.append(
            f"{name}: {shared_T.sum()} of the {len(learned)} tiles that are learned from overlap held-out ones, which "
            "flatters every error on these; cut tiles without overlap, or give the data set blocks or groups"
        )
    elif shared_T.any():
        notes.append(f"{name}: {shared_T.sum()} tiles that overlap held-out ones are not learned from")
        learned = learned.take(np.flatnonzero(~shared_T))
    known = set(learned.independent_units()) & set(held.independent_units())
    if known:
        notes.append(
            f"{name}: of {len(known)} of the {len(set(held.independent_units()))} groups of held-out tiles others are "
            "learned from; the groups are too large to hold whole ones out"
        )
    return learned
