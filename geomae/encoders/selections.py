"""What the commands that embed tiles share: from their common options to a store of embeddings."""

import contextlib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from xarray import Dataset

from geomae import __version__
from geomae.catalog import Catalog
from geomae.commands.run import CommonOptions
from geomae.embeddings import open_embeddings
from geomae.encoders import DEFAULT_POOLING, MIDDLE, Encoder, EncoderReference, OwnEncoder, load_encoders
from geomae.encoders.extraction import EncoderTiles, Extracted, Progress, extract
from geomae.encoders.foreign import ForeignEncoder
from geomae.encoders.interface import weights_digest
from geomae.errors import CatalogError
from geomae.files import digest
from geomae.runtime import devices
from geomae.runtime.console import Screen
from geomae.runtime.devices import Fabric
from geomae.runtime.precision import keep_freed_memory, precision_for
from geomae.runtime.signals import Stop, die_with_parent
from geomae.tiles.index import TileIndex
from geomae.tiles.selection import Selection, select_tiles


@dataclass(frozen=True)
class Session:
    """What a command of analysis works with; on several devices every rank has one."""

    common: CommonOptions
    screen: Screen
    fabric: Fabric
    catalog: Catalog
    precision: str

    @property
    def leads(self) -> bool:
        """Whether this process writes the results; also known before the others are started."""
        return devices.early_rank() == 0

    def select(self, texts: Sequence[str]) -> list[Selection]:
        """The tiles that the selectors mean; where a scheduler started the ranks, the first measures for the others."""
        with self.fabric.rank_zero_first() if devices.external() else contextlib.nullcontext():
            return select_tiles(self.catalog, texts, self.screen)

    def launch(self) -> None:
        """Start the other ranks: after all that can be wrong with the request, so that it is said once."""
        if not devices.external():
            self.fabric.launch()


@dataclass(frozen=True)
class Choice:
    """How the tiles are embedded: None is the encoder's default; `patches` keeps the patch embeddings too."""

    layer: int | None = None
    pooling: str | None = None
    patches: bool = False


@dataclass(frozen=True)
class Embedded:
    """The tiles of some selections in a store, each once, and how they came there."""

    parts: tuple[EncoderTiles, ...]
    extracted: Extracted

    def open(self) -> Dataset:
        """The store (see `open_embeddings`)."""
        return open_embeddings(self.extracted.path)


def open_session(common: CommonOptions) -> Session:
    """Devices and catalogue as asked for. Raises ConfigError and CatalogError for what cannot be."""
    if devices.started_by_us():
        die_with_parent()
    catalog = common.open_catalog()
    fabric = devices.build_fabric(common.device, common.devices, common.nodes, "auto")
    if fabric.device.type == "cpu":
        keep_freed_memory()
    if devices.external():
        fabric.launch()
    screen = Screen(shown=not common.quiet and devices.early_rank() == 0)
    return Session(common, screen, fabric, catalog, precision_for(fabric.device.type, common.precision))


def load_for(
    session: Session, references: Sequence[EncoderReference], choice: Choice, selected: Sequence[Selection]
) -> list[dict[str, Encoder]]:
    """Each encoder, ready for every data set of the selections: one mapping of data sets to encoders per reference."""
    ready: dict[str, list[Encoder]] = {}
    for one in selected:
        if one.index.name not in ready:
            ready[one.index.name] = load_encoders(
                references,
                choice.layer or MIDDLE,
                choice.pooling or DEFAULT_POOLING,
                imagery=one.imagery,
                device=session.fabric.device,
                tracking_uri=session.common.tracking_uri,
                tile=int(one.index.tiles["size"].iloc[0]),
            )
    return [{name: encoders[number] for name, encoders in ready.items()} for number in range(len(references))]


def embed_selected(
    session: Session,
    encoders: Mapping[str, Encoder],
    choice: Choice,
    selected: Sequence[Selection],
    out: Path,
    stop: Stop,
    progress: Progress,
) -> Embedded | None:
    """Embed the tiles of the selections, each once, into the store in `out`; every rank calls this after `launch`.

    A store that was begun is gone on with, a finished one is taken. None where `stop` ended the work.
    """
    parts = _parts(encoders, selected)
    extracted = extract(
        parts,
        out,
        attributes=_attributes(session.catalog, encoders, selected),
        fabric=session.fabric,
        precision=session.precision,
        patches=choice.patches,
        stop=stop,
        progress=progress,
    )
    return Embedded(parts, extracted) if extracted is not None else None


def rows_of(dataset: Dataset, selected: Selection) -> NDArray[np.int64]:
    """Where the tiles of a selection stand in a store. Raises CatalogError for a tile that is not in it."""
    here = np.flatnonzero(dataset["dataset"].to_numpy() == selected.index.name)
    place = dict(zip(dataset["tile_id"].to_numpy()[here].tolist(), here.tolist(), strict=True))
    try:
        return np.array([place[tile_id] for tile_id in selected.index.tiles["tile_id"]], dtype=np.int64)
    except KeyError as error:
        raise CatalogError(
            f"{selected.name}: tile {error} is not among the embeddings; embed the selection again"
        ) from error


def model_run(encoders: Mapping[str, Encoder]) -> str | None:
    """The run in MLflow that made the model of an encoder, where it is known."""
    own = _own(encoders)
    found = own.model.provenance.get("mlflow_run") if own else None
    return str(found) if found else None


def encoder_digest(encoders: Mapping[str, Encoder]) -> str:
    """Names what decides the embeddings of these data sets."""
    return digest({name: one.digest for name, one in encoders.items()})


def identity(encoders: Mapping[str, Encoder]) -> dict[str, Any]:
    """What an encoder is on any data set: weights, layer and pooling. For others than our models, also its bands."""
    own, first = _own(encoders), next(iter(encoders.values()))
    layered = first if isinstance(first, (OwnEncoder, ForeignEncoder)) else None
    return {
        "model_digest": weights_digest(own.model.mae.state_dict()) if own else first.digest,
        "layer": layered.layer if layered else None,
        "pooling": layered.pooling if layered else None,
    }


def _parts(encoders: Mapping[str, Encoder], selected: Sequence[Selection]) -> tuple[EncoderTiles, ...]:
    """The selections without the tiles that stand in an earlier one."""
    seen: set[tuple[str, str]] = set()
    parts = []
    for one in selected:
        names = [(one.index.name, tile_id) for tile_id in one.index.tiles["tile_id"].tolist()]
        new = np.array([position for position, name in enumerate(names) if name not in seen], dtype=np.int64)
        if len(new):
            index: TileIndex = one.index if len(new) == len(names) else one.index.take(new)
            parts.append(EncoderTiles(encoders[one.index.name], index))
        seen.update(names)
    return tuple(parts)


def _attributes(catalog: Catalog, encoders: Mapping[str, Encoder], selected: Sequence[Selection]) -> dict[str, Any]:
    return {
        "encoder": next(iter(encoders.values())).text,
        "catalogue_digest": catalog.digest(sorted(encoders)),
        "data_digest": digest([one.digest() for one in selected]),
        "version": __version__,
        **identity(encoders),
    }


def _own(encoders: Mapping[str, Encoder]) -> OwnEncoder | None:
    return next((one for one in encoders.values() if isinstance(one, OwnEncoder)), None)
