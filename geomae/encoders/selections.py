"""From the user's ENCODER texts to embeddings: load an encoder per data set, and embed each tile once, into a store.

T tiles, D features, R C rows and columns of patches
"""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from importlib.metadata import version
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from xarray import Dataset

from geomae.catalog import Catalog
from geomae.embeddings import open_embeddings, write_geoparquet
from geomae.embeddings.geoparquet import footprints, without_footprint
from geomae.encoders.baselines import baseline_encoder
from geomae.encoders.extraction import EncoderTiles, Extracted, Progress, extract
from geomae.encoders.interface import DEFAULT_POOLING, MIDDLE, Encoder, Layer, check_pooling, weights_digest
from geomae.encoders.own_models import OwnEncoder, own_encoder
from geomae.encoders.specification import (
    BASELINE,
    FOLDER,
    LIBRARIES,
    MLFLOW,
    EncoderSpec,
    Reference,
    absolute,
    parse_encoder,
)
from geomae.errors import CatalogError, ConfigError
from geomae.files import digest
from geomae.models.folder import Model, load_model
from geomae.models.lineage import Step, lineage
from geomae.runtime.devices import Compute
from geomae.runtime.signals import Stop
from geomae.sensors.record import SensorRecord
from geomae.tiles.index import TileIndex
from geomae.tiles.radiometry import Radiometry
from geomae.tiles.selection import Selection

ByDataset = Mapping[str, Encoder]  # name of a data set -> one encoder, loaded for that data set


def load_encoder(
    encoder: str | Path | Reference,
    layer: Layer = None,
    pooling: str | None = None,
    *,
    imagery: SensorRecord | None = None,
    device: str | torch.device = "cpu",
    tracking_uri: str | None = None,
    tile: int | None = None,
    like: Model | None = None,
) -> Encoder:
    """Load the encoder that an ENCODER text names, for the data set that `imagery` describes.

    `layer` counts the blocks from 1; None is the last after its norm, and "middle" the commands' default. `pooling` is
    `mean` (default), `cls` or `mean-std` (twice the width). An encoder without layers or pooling ignores them, and its
    notes say so. Without `imagery`, a model folder uses its first sensor. `tile` is a tile size in pixels, checked
    here. Baselines take the patch size of the model `like`, and `baseline:random` its architecture. Raises
    ConfigError, ModelError or BandMismatchError where the encoder cannot be loaded or does not fit.
    """
    reference = encoder if isinstance(encoder, Reference) else parse_encoder(str(encoder))
    pooling = check_pooling(pooling)
    if reference.kind in (FOLDER, MLFLOW):
        model = load_model(model_folder(reference, tracking_uri), device)
        loaded: Encoder = own_encoder(reference, layer, pooling, imagery, model)
    elif imagery is None:
        raise ConfigError(f"{reference.text}: has to know the bands; give imagery=, the record of the data set")
    elif reference.kind == BASELINE:
        loaded = baseline_encoder(reference, layer, pooling, imagery, device, like)
    else:
        loaded = LIBRARIES[reference.kind].load(reference, layer, pooling, imagery, device)
    if tile is not None:
        loaded.patch_grid(tile, tile)
    return loaded


@dataclass(frozen=True)
class EmbeddingSpec:
    """How tiles are embedded: None is the commands' default; `patches` stores the patch embeddings too."""

    layer: int | None = None
    pooling: str | None = None
    patches: bool = False


@dataclass(frozen=True)
class Embedded:
    """The store with the embedded tiles of some selections, each tile once, and the encoders that embedded them."""

    parts: tuple[EncoderTiles, ...]
    extracted: Extracted

    def open(self) -> Dataset:
        """Open the store (see `open_embeddings`)."""
        return open_embeddings(self.extracted.path)

    def write_table(self, path: Path) -> list[str]:
        """Publish embeddings and tile footprints as GeoParquet. Returns lines on the tiles without a footprint."""
        outlines = [footprints(part.index) for part in self.parts]
        write_geoparquet(self.open(), np.concatenate(outlines), path)
        said = (without_footprint(part.index, own_T) for part, own_T in zip(self.parts, outlines, strict=True))
        return [line for line in said if line is not None]


@dataclass(frozen=True)
class Embeddings:
    """The embeddings of one encoder; `made_by` is the MLflow run that trained its model, where it is known.

    `mapped` are those of test tiles behind a radiometry, by its method and the selector.
    """

    label: str
    store: Dataset
    path: Path
    patches: bool
    made_by: str | None
    mapped: "Mapping[tuple[str, str], MappedTiles]" = field(default_factory=dict)

    @property
    def notes(self) -> tuple[str, ...]:
        """The encoder's normalisation, its bands and what was adapted, in words."""
        return tuple(self.store.attrs["notes"])

    def of(self, selected: Selection) -> NDArray[np.float32]:
        """Return the embeddings of a selection: of tiles (T, D), with `patches` of patches (T, R, C, D)."""
        variable = self.store["patch_embedding" if self.patches else "embedding"]
        rows = rows_of(self.store, selected)
        order = np.argsort(rows, kind="stable")  # reading in stored order is fastest
        values: NDArray[np.float32] = np.empty((len(rows), *variable.shape[1:]), dtype=np.float32)
        values[order] = variable.isel(tile=rows[order]).to_numpy()
        return values


@dataclass(frozen=True)
class MappedTiles:
    """Tiles whose pixels were brought to what a source measures, and their embeddings."""

    radiometry: Radiometry
    embeddings: Embeddings


class EncoderLoader:
    """Loads encoders for the data sets of some selections; baselines take the patch size of the first own model."""

    def __init__(
        self,
        spec: EmbeddingSpec,
        selections: Sequence[Selection],
        device: torch.device,
        tracking_uri: str | None = None,
    ) -> None:
        self.spec, self.selections = spec, selections
        self._device, self._tracking_uri = device, tracking_uri
        self._imagery: dict[str, SensorRecord] = {one.index.name: one.imagery for one in selections}
        self._sizes = {
            name: sorted(
                {int(size) for one in selections if one.index.name == name for size in one.index.tiles["size"]}
            )
            for name in self._imagery
        }
        self._like: Model | None = None

    def of_others(self, selections: Sequence[Selection]) -> "EncoderLoader":
        """One for other selections, that loads as this does, baselines with the same patch size included."""
        other = EncoderLoader(self.spec, selections, self._device, self._tracking_uri)
        other._like = self._like
        return other

    def load(self, reference: Reference) -> dict[str, Encoder]:
        """Load an encoder for each data set. Raises the errors of `load_encoder`, also for the sizes of the tiles."""
        ready = {name: self._ready(reference, name) for name in self._imagery}
        first = next(iter(ready.values()))
        if self._like is None and isinstance(first, OwnEncoder):
            self._like = first.model
        return ready

    def load_trained(self, specs: Sequence[EncoderSpec]) -> dict[str, ByDataset]:
        """Load the encoders that are not baselines, by label, so that errors are found before any work begins.

        Baselines take the patch size of the first own model, and so fit the tiles that it fits. Without such a model
        their patches are those of `tiny`; they are then loaded here once, as a check.
        """
        references = [one for spec in specs if not spec.baseline for one in spec.references]
        trained: dict[str, ByDataset] = {one.label: self.load(one) for one in references}
        if self._like is None:
            for spec in specs:
                if spec.baseline:
                    self._try(spec.references[0])
        return trained

    def _try(self, baseline: Reference) -> None:
        """Load a baseline for each data set, as a check. Raises ConfigError for tile sizes that it cannot take."""
        try:
            for name in self._imagery:
                self._ready(baseline, name)
        except ConfigError as error:
            raise ConfigError(f"{error}, or leave this baseline out (`--no-baselines`)") from error

    def _ready(self, reference: Reference, name: str) -> Encoder:
        encoder = load_encoder(
            reference,
            self.spec.layer or MIDDLE,
            self.spec.pooling or DEFAULT_POOLING,
            imagery=self._imagery[name],
            device=self._device,
            tracking_uri=self._tracking_uri,
            like=self._like,
        )
        for size in self._sizes[name]:
            encoder.patch_grid(size, size)
        return encoder


def embed_specs(
    compute: Compute,
    catalog: Catalog,
    specs: Sequence[EncoderSpec],
    trained: Mapping[str, ByDataset],
    loader: EncoderLoader,
    out: Path,
    stop: Stop | None = None,
    progress: Progress = lambda what, done, total, figures: None,
) -> Iterator[Embeddings]:
    """Yield the embeddings of each encoder, extracted unless its store is complete; ends early where `stop` is set.

    `trained` are the encoders that are loaded already (`loader.load_trained`); the others are loaded when needed.
    """
    for reference in (one for encoder in specs for one in encoder.references):
        encoders = trained.get(reference.label) or loader.load(reference)

        def report(what: str, done: int, total: int, figures: str, label: str = reference.label) -> None:
            progress(f"{what} by {label}", done, total, figures)

        embedded = embed_selections(
            compute, catalog, encoders, loader.selections, out / reference.label, stop, report, loader.spec.patches
        )
        if embedded is None:
            return
        path = embedded.extracted.path
        yield Embeddings(reference.label, embedded.open(), path, loader.spec.patches, model_run(encoders))


def embed_selections(
    compute: Compute,
    catalog: Catalog,
    encoders: ByDataset,
    selections: Sequence[Selection],
    out: Path,
    stop: Stop | None = None,
    progress: Progress = lambda what, done, total, figures: None,
    patches: bool = False,
) -> Embedded | None:
    """Embed the tiles of the selections, each once, into the store in `out`. After launch, every rank calls this.

    An unfinished store is resumed, and a finished one is reused. Returns None where `stop` ended the work.
    """
    parts = _parts(encoders, selections)
    extracted = extract(
        parts,
        out,
        attributes=_attributes(catalog, encoders, selections),
        fabric=compute.fabric,
        precision=compute.precision,
        patches=patches,
        stop=stop,
        progress=progress,
    )
    return Embedded(parts, extracted) if extracted is not None else None


def embedding_params(
    compute: Compute,
    catalog: Catalog,
    reference: Reference,
    encoders: ByDataset,
    selections: Sequence[Selection],
    spec: EmbeddingSpec,
) -> dict[str, Any]:
    """Return, as JSON values, everything that decides the embeddings of some selections by one encoder."""
    return {
        "catalog": str(catalog.path.absolute()),
        "catalogue_digest": catalog.digest(sorted(encoders)),
        "dataset": [one.name for one in selections],
        "encoder": absolute(reference.text),
        "encoder_digest": encoder_digest(encoders),
        "layer": spec.layer,
        "pooling": spec.pooling,
        "patches": spec.patches,
        "precision": compute.precision,
        "data_digest": [one.digest() for one in selections],
    }


def describe_embedding(
    compute: Compute, catalog: Catalog, encoders: ByDataset, selections: Sequence[Selection], spec: EmbeddingSpec
) -> list[str]:
    """Return lines for the user: what would be embedded, by which encoder and on which devices."""
    lines = [f"catalogue {catalog.path}"]
    for one in selections:
        sizes = sorted(set(one.index.tiles["size"].tolist()))
        lines.append(f"embed {one.name}: {len(one.index)} tiles of {', '.join(map(str, sizes))} pixels")
    lines += [f"{encoder.text} on {name}: {note}" for name, encoder in encoders.items() for note in encoder.notes]
    kept = "tile and patch embeddings" if spec.patches else "tile embeddings"
    fabric = compute.fabric
    return [*lines, f"{kept} on {fabric.world_size} x {fabric.device.type} in {compute.precision}"]


def rows_of(dataset: Dataset, selected: Selection) -> NDArray[np.int64]:
    """Return the row of each tile of a selection in a store. Raises CatalogError for a tile that is not in it."""
    here = np.flatnonzero(dataset["dataset"].to_numpy() == selected.index.name)
    place = dict(zip(dataset["tile_id"].to_numpy()[here].tolist(), here.tolist(), strict=True))
    try:
        return np.array([place[tile_id] for tile_id in selected.index.tiles["tile_id"]], dtype=np.int64)
    except KeyError as error:
        raise CatalogError(
            f"{selected.name}: tile {error} is not among the embeddings; embed the selection again"
        ) from error


def model_run(encoders: ByDataset) -> str | None:
    """Return the id of the MLflow run that trained the model of an encoder; None where it is unknown."""
    own = _own(encoders)
    run_id = own.model.provenance.get("mlflow_run") if own else None
    return str(run_id) if run_id else None


def origin(encoders: ByDataset) -> tuple[Step, ...]:
    """Return the lineage of an own model; empty for any other encoder."""
    own = _own(encoders)
    return lineage(own.model.provenance) if own else ()


def encoder_digest(encoders: ByDataset) -> str:
    """Return a hex digest of everything that decides the embeddings of these data sets."""
    return digest({name: one.digest for name, one in encoders.items()})


def identity(encoders: ByDataset) -> dict[str, Any]:
    """Return the identity of an encoder for any data set: digest of its weights, layer and pooling.

    For encoders that are not own models, the digest also covers the bands.
    """
    own, first = _own(encoders), next(iter(encoders.values()))
    return {
        "model_digest": weights_digest(own.model.mae.state_dict()) if own else first.digest,
        "layer": getattr(first, "layer", None),  # baselines have no layers and no pooling
        "pooling": getattr(first, "pooling", None),
    }


def model_folder(reference: Reference, tracking_uri: str | None) -> Path:
    """Return the model folder that a text names; a model in MLflow is fetched first."""
    if reference.kind == FOLDER:
        return Path(reference.name)
    from geomae.tracking import download, resolve_uri

    return download(reference.name, resolve_uri(tracking_uri))


def _parts(encoders: ByDataset, selected: Sequence[Selection]) -> tuple[EncoderTiles, ...]:
    """Return each selection with its encoder, without the tiles that an earlier selection has."""
    seen: set[tuple[str, str]] = set()
    parts = []
    for one in selected:
        names = [(one.index.name, tile_id) for tile_id in one.index.tiles["tile_id"].tolist()]
        first = {name: position for position, name in reversed(list(enumerate(names)))}  # a tile may occur twice
        new = np.array(sorted(place for name, place in first.items() if name not in seen), dtype=np.int64)
        if len(new):
            index: TileIndex = one.index if len(new) == len(names) else one.index.take(new)
            parts.append(EncoderTiles(encoders[one.index.name], index))
        seen.update(names)
    return tuple(parts)


def _attributes(catalog: Catalog, encoders: ByDataset, selected: Sequence[Selection]) -> dict[str, Any]:
    return {
        "encoder": next(iter(encoders.values())).text,
        "catalogue_digest": catalog.digest(sorted(encoders)),
        "data_digest": digest([one.digest() for one in selected]),
        "version": version("geomae"),
        **identity(encoders),
    }


def _own(encoders: ByDataset) -> OwnEncoder | None:
    return next((one for one in encoders.values() if isinstance(one, OwnEncoder)), None)
