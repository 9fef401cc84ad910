"""The embeddings that a probe needs: one store per encoder, with every tile of every side once.

T tiles
"""

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
from numpy.typing import NDArray
from xarray import Dataset

from geomae.commands.probe_request import EncoderSpec
from geomae.encoders import DEFAULT_POOLING, MIDDLE, Encoder, EncoderReference, OwnEncoder, load_encoder
from geomae.encoders.selections import Choice, Session, embed_selected, model_run, rows_of
from geomae.errors import BandMismatchError
from geomae.models.folder import Model
from geomae.runtime.signals import Stop
from geomae.sensors import match_bands
from geomae.sensors.record import SensorRecord
from geomae.tiles.selection import Selection


@dataclass(frozen=True)
class Embeddings:
    """The embeddings of one encoder, what it says of itself, and the run that made its model where that is known."""

    store: Dataset
    path: Path
    patches: bool
    made_by: str | None

    @property
    def notes(self) -> tuple[str, ...]:
        """How it normalises, which bands it takes and what was adapted."""
        return tuple(self.store.attrs["notes"])

    def of(self, selected: Selection) -> NDArray[np.float32]:
        """Those of a selection: (T, D), of patches (T, R, C, D)."""
        variable = self.store["patch_embedding" if self.patches else "embedding"]
        rows = rows_of(self.store, selected)
        order = np.argsort(rows, kind="stable")  # a store is read in its own order
        found: NDArray[np.float32] = np.empty((len(rows), *variable.shape[1:]), dtype=np.float32)
        found[order] = variable.isel(tile=rows[order]).to_numpy()
        return found


def share_bands(chosen: Sequence[Selection]) -> list[Selection]:
    """The selections with the bands that all their data sets have, in the order of the first one's.

    A linear probe adds up features, so that a band has to stand in the same place on both sides. Bands match by name
    within a sensor, else by wavelength. Raises BandMismatchError where the data sets have none in common.
    """
    records = {one.index.name: one.imagery for one in chosen}
    first, *others = records.values()
    places = [match_bands(first.bands, one.bands, one.name == first.name) for one in others]
    kept = [number for number in range(len(first.bands)) if all(found[number] is not None for found in places)]
    if not kept:
        raise BandMismatchError(
            f"{', '.join(records)}: have no band in common; a probe needs the same measurements on both sides"
        )
    reduced = {next(iter(records)): first.select([first.bands[number].name for number in kept])}
    for (name, record), found in zip(list(records.items())[1:], places, strict=True):
        met = [place for number in kept if (place := found[number]) is not None]
        reduced[name] = record.select([record.bands[place].name for place in met])
    return [replace(one, imagery=reduced[one.index.name]) for one in chosen]


class Loader:
    """Loads encoders for the data sets of the selections; baselines take after the first model, which is kept."""

    def __init__(self, session: Session, choice: Choice, chosen: Sequence[Selection]) -> None:
        self._session, self._choice = session, choice
        self._imagery: dict[str, SensorRecord] = {one.index.name: one.imagery for one in chosen}
        self._sizes = {
            name: sorted({int(size) for one in chosen if one.index.name == name for size in one.index.tiles["size"]})
            for name in self._imagery
        }
        self._like: Model | None = None

    def load(self, reference: EncoderReference) -> dict[str, Encoder]:
        """The encoder, ready for each data set. Raises what `load_encoder` raises, also for tiles it cannot take."""
        ready = {name: self._ready(reference, name) for name in self._imagery}
        first = next(iter(ready.values()))
        if self._like is None and isinstance(first, OwnEncoder):
            self._like = first.model
        return ready

    def _ready(self, reference: EncoderReference, name: str) -> Encoder:
        encoder = load_encoder(
            reference,
            self._choice.layer or MIDDLE,
            self._choice.pooling or DEFAULT_POOLING,
            imagery=self._imagery[name],
            device=self._session.fabric.device,
            tracking_uri=self._session.common.tracking_uri,
            like=self._like,
        )
        for size in self._sizes[name]:
            encoder.patch_grid(size, size)
        return encoder


def load_trained(entrants: Sequence[EncoderSpec], loader: Loader) -> dict[str, Mapping[str, Encoder]]:
    """The encoders that are no baselines by label: what is wrong with one is known before anything is extracted."""
    return {
        reference.label: loader.load(reference)
        for entrant in entrants
        if not entrant.baseline
        for reference in entrant.references
    }


def embed_all(
    session: Session,
    entrants: Sequence[EncoderSpec],
    trained: Mapping[str, Mapping[str, Encoder]],
    loader: Loader,
    choice: Choice,
    chosen: Sequence[Selection],
    out: Path,
    stop: Stop,
    progress: Callable[[str, int, int, str], None],
) -> Iterator[Embeddings]:
    """The embeddings of each encoder in turn, extracted where they are not there yet; ends where `stop` says so."""
    for reference in (one for entrant in entrants for one in entrant.references):
        encoders = trained.get(reference.label) or loader.load(reference)

        def tell(what: str, done: int, total: int, figures: str, label: str = reference.label) -> None:
            progress(f"{what} by {label}", done, total, figures)

        embedded = embed_selected(session, encoders, choice, chosen, out / reference.label, stop, tell)
        if embedded is None:
            return
        yield Embeddings(embedded.open(), embedded.extracted.path, choice.patches, model_run(encoders))
