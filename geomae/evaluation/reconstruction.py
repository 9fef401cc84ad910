"""Reconstructions compared: models and baselines on the same tiles under the same masks; sums are kept, not pixels.

B batch, C bands, N cells of the common grid, H W pixels

T tiles, B tiles of a batch, C bands, N cells
"""

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from itertools import chain
from pathlib import Path

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from geomae.encoders.interface import weights_digest
from geomae.encoders.own import fit_model
from geomae.encoders.reference import BASELINE, FOLDER, MLFLOW, EncoderReference, parse_encoders
from geomae.errors import BandMismatchError, CatalogError, ConfigError, ModelError
from geomae.evaluation.reconstruction_masks import common_cell, for_patches, to_pixels, visible_cells
from geomae.metrics.reconstruction import DATA_RANGE_STD, ErrorSums, error_sums
from geomae.models.folder import Model, load_model
from geomae.models.inpainting import INPAINTINGS, inpainting
from geomae.models.masking import visible_count
from geomae.randomness import generator
from geomae.runtime.precision import working_precision
from geomae.sensors import Band
from geomae.tiles.batches import TileReader, ahead
from geomae.tiles.index import TileIndex
from geomae.tiles.selection import Selection
from geomae.tracking.runs import download, resolve_uri

CELL_OF_BASELINES = 8  # pixels; where no model says how large patches are


@dataclass(frozen=True)
class MaskedTiles:
    """Tiles with all bands of their data set, in its unit, and the cells of them that are visible."""

    pixels_BCHW: Tensor
    valid_BCHW: Tensor
    visible_BN: NDArray[np.bool_]
    cell: int

    @property
    def visible_B1HW(self) -> Tensor:
        """The visible pixels, valid or not."""
        H, W = self.pixels_BCHW.shape[-2:]
        return torch.from_numpy(to_pixels(self.visible_BN, H, W, self.cell))[:, None].to(self.pixels_BCHW.device)


@dataclass(frozen=True)
class Candidate:
    """A model or a baseline as the user named it."""

    reference: EncoderReference
    model: Model | None

    @property
    def label(self) -> str:
        """Names it in files, figures and rows."""
        return self.reference.label

    def digest(self) -> str:
        """Names its weights, or the baseline."""
        return self.reference.text if self.model is None else weights_digest(self.model.mae.state_dict())[:32]

    def made_by(self) -> str | None:
        """The run in MLflow that made the model, where it is known."""
        found = self.model.provenance.get("mlflow_run") if self.model else None
        return str(found) if found else None


@dataclass(frozen=True)
class FittedModels:
    """All candidates, ready for one data set: `bands` are the places of the bands that every one predicts."""

    predictors: Mapping[str, Callable[[MaskedTiles], Tensor]]
    bands: tuple[int, ...]
    cell: int
    notes: tuple[str, ...]

    def predict(self, label: str, shown: MaskedTiles) -> Tensor:
        """What a candidate makes of the tiles, in the bands that are compared, on the device of the pixels."""
        return self.predictors[label](shown)


def load_candidates(texts: Sequence[str], device: torch.device, tracking_uri: str | None) -> list[Candidate]:
    """The models and baselines that `[LABEL=]MODEL` texts name. Raises ConfigError or ModelError for what cannot be."""
    if not texts:
        raise ConfigError("--model: name at least one model folder, MLflow reference or baseline:NAME")
    candidates = []
    for reference in parse_encoders(texts, INPAINTINGS):
        if reference.kind == BASELINE:
            inpainting(reference.text, CELL_OF_BASELINES)  # raises where it is not one
            candidates.append(Candidate(reference, None))
            continue
        if reference.kind not in (FOLDER, MLFLOW):
            raise _encoder_alone(reference)
        named = reference.name
        folder = Path(named) if reference.kind == FOLDER else download(named, resolve_uri(tracking_uri))
        model = load_model(folder, device)
        if model.mae.decoder is None:
            raise _encoder_alone(reference)
        candidates.append(Candidate(reference, model))
    return candidates


def fit(candidates: Sequence[Candidate], selected: Selection, device: torch.device, precision: str) -> FittedModels:
    """The candidates for one data set. Raises BandMismatchError or ModelError where bands or patches do not fit."""
    imagery = selected.imagery
    names = [band.name for band in imagery.bands]
    models, notes = {}, []
    for one in candidates:
        if one.model is not None:
            models[one.label], adapted = fit_model(one.model, imagery, one.reference.text)
            notes += [f"{one.label} on {selected.index.name}: {note}" for note in adapted]
    taken = [{band.name for band in model.record.bands} for model in models.values()]
    compared = tuple(place for place, name in enumerate(names) if all(name in bands for bands in taken))
    if not compared:
        raise BandMismatchError(f"{selected.index.name}: no band is predicted by every model; compare fewer of them")
    if len(compared) < len(names):
        left = ", ".join(name for place, name in enumerate(names) if place not in compared)
        notes.append(f"{selected.index.name}: not every model predicts {left}; these bands are not compared")
    sizes = {label: model.mae.architecture.patch for label, model in models.items()} or {BASELINE: CELL_OF_BASELINES}
    cells = {common_cell(sizes, int(tile)) for tile in set(selected.index.tiles["size"].tolist())}
    (cell,) = cells  # the least common multiple does not depend on the tile
    predictors = {}
    for one in candidates:
        if one.label in models:
            predictors[one.label] = _of_model(models[one.label], names, compared, device, precision)
        else:
            predictors[one.label] = _of_baseline(one.reference.text, compared, cell)
    return FittedModels(predictors, compared, cell, tuple(notes))


def _of_model(
    model: Model, names: Sequence[str], compared: Sequence[int], device: torch.device, precision: str
) -> Callable[[MaskedTiles], Tensor]:
    own = [band.name for band in model.record.bands]
    taken, given = [names.index(name) for name in own], [own.index(names[place]) for place in compared]
    patch = model.mae.architecture.patch

    def predict(shown: MaskedTiles) -> Tensor:
        H, W = shown.pixels_BCHW.shape[-2:]
        patches_BN = for_patches(shown.visible_BN, (H // shown.cell, W // shown.cell), shown.cell, patch)
        tiles = (shown.pixels_BCHW[:, taken].to(device), shown.valid_BCHW[:, taken].to(device))
        with working_precision(device, precision):
            predicted_BCHW, _ = model.reconstruct(*tiles, torch.from_numpy(patches_BN))
        return predicted_BCHW[:, given].to(shown.pixels_BCHW.device)

    return predict


def _of_baseline(text: str, compared: Sequence[int], cell: int) -> Callable[[MaskedTiles], Tensor]:
    fill = inpainting(text, cell)

    def predict(shown: MaskedTiles) -> Tensor:
        places = list(compared)
        return fill(shown.pixels_BCHW[:, places], (shown.valid_BCHW & shown.visible_B1HW)[:, places])

    return predict


def _encoder_alone(reference: EncoderReference) -> ModelError:
    return ModelError(
        f"{reference.text}: is an encoder without a decoder, which cannot reconstruct; train a masked autoencoder with "
        "`geomae pretrain`, or bring weights with their decoder through `geomae convert`"
    )


BATCH_PIXELS = 32 * 64 * 64  # of one band; larger batches are no faster, and large tiles must not fill memory
MASKED, VISIBLE = "masked", "visible"
Pixels = NDArray[np.float32]
Valid = NDArray[np.bool_]


@dataclass(frozen=True)
class MaskKind:
    """How the cells of a tile are hidden."""

    kind: str
    ratio: float

    def __str__(self) -> str:
        return f"{self.kind} {self.ratio:g}"


Tile = tuple[int, Pixels, Valid, dict[MaskKind, Valid]]  # its position, what is shown of its cells under each mask


@dataclass(frozen=True)
class ReconstructionScores:
    """The sums of every candidate on the tiles of one selection, by (label, mask, masked or visible)."""

    selected: Selection
    fitted: FittedModels
    index: TileIndex
    left_out: int
    sums: dict[tuple[str, MaskKind, str], ErrorSums]

    @property
    def bands(self) -> tuple[Band, ...]:
        """The bands that are compared."""
        return tuple(self.selected.imagery.bands[place] for place in self.fitted.bands)

    @property
    def range_C(self) -> NDArray[np.float64]:
        """The data range of PSNR and SSIM."""
        return data_range(self.selected, self.fitted)

    def hidden(self, mask: MaskKind) -> float:
        """The share of a tile's cells that a mask hides: the ratio that was asked for, in whole cells."""
        cells = (int(self.index.tiles["size"].iloc[0]) // self.fitted.cell) ** 2
        return 1 - visible_count(cells, mask.ratio) / cells


def data_range(selected: Selection, fitted: FittedModels) -> NDArray[np.float64]:
    """The data range of the bands that are compared, in the unit of the data set: six standard deviations."""
    return DATA_RANGE_STD * np.array([selected.imagery.std_C[place] for place in fitted.bands])


def score(
    selected: Selection,
    fitted: FittedModels,
    labels: Sequence[str],
    masks: Sequence[MaskKind],
    most: int,
    seed: int,
    device: torch.device,
    progress: Callable[[int, int], None] = lambda done, total: None,
) -> ReconstructionScores:
    """Compare on at most `most` tiles of a selection, drawn by the seed.

    Tiles in which a mask finds too few cells with valid pixels are left out for all masks, and counted. Raises
    CatalogError where none is left, and ModelError for predictions that are not finite.
    """
    drawn = np.sort(generator(seed, "comparison tiles", selected.name).permutation(len(selected.index))[:most])
    index = selected.index.take(drawn)
    reader = TileReader(index, bands=[band.name for band in selected.imagery.bands])
    bands = tuple(selected.imagery.bands[place] for place in fitted.bands)
    range_C = torch.from_numpy(data_range(selected, fitted)).to(device)
    places = list(fitted.bands)
    parts: dict[tuple[str, MaskKind, str], list[ErrorSums]] = {}
    kept: list[int] = []
    for positions, shown in batches(reader, fitted.cell, masks, seed, device):
        kept += positions
        for mask, tiles in shown.items():
            valid = tiles.valid_BCHW[:, places]
            visible = tiles.visible_B1HW
            for label in labels:
                predicted = fitted.predict(label, tiles)
                if not torch.isfinite(predicted).all():
                    raise ModelError(f"{label}: predicts values of {selected.name} that are not finite; train it again")
                for pixels, counted in ((MASKED, valid & ~visible), (VISIBLE, valid & visible)):
                    sums = error_sums(predicted, tiles.pixels_BCHW[:, places], counted, valid, bands, range_C)
                    parts.setdefault((label, mask, pixels), []).append(sums)
        progress(positions[-1] + 1, len(reader))
    if not kept:
        raise CatalogError(f"{selected.name}: no tile has enough valid cells to be shown; hide more with --mask-ratio")
    joined = {key: ErrorSums.joined(values) for key, values in parts.items()}
    return ReconstructionScores(selected, fitted, index.take(np.array(kept)), len(reader) - len(kept), joined)


def batch_of(size: int) -> int:
    """How many tiles of `size` pixels a side make a batch."""
    return max(BATCH_PIXELS // size**2, 1)


def batches(
    reader: TileReader, cell: int, masks: Sequence[MaskKind], seed: int, device: torch.device
) -> Iterator[tuple[list[int], dict[MaskKind, MaskedTiles]]]:
    """Tiles of one size with their masks, as positions and what is shown under each mask.

    Every tile is read once, by a thread that is a batch ahead of the models.
    """
    waiting: list[Tile] = []
    most = batch_of(int(reader.index.tiles["size"].max()))

    def together() -> tuple[list[int], dict[MaskKind, MaskedTiles]]:
        positions, *tiles, cells = zip(*waiting, strict=True)
        pixels, valid = (torch.from_numpy(np.stack(values)).to(device) for values in tiles)
        shown = {mask: MaskedTiles(pixels, valid, np.stack([one[mask] for one in cells]), cell) for mask in masks}
        return list(positions), shown

    def look(position: int) -> Tile | None:
        pixels_CHW, valid_CHW = reader.read(position)
        tile_id = reader.tile_ids[position]
        drawn = {mask: visible_cells(valid_CHW, cell, mask.ratio, mask.kind, seed, tile_id) for mask in masks}
        cells = {mask: one for mask, one in drawn.items() if one is not None}
        return (position, pixels_CHW, valid_CHW, cells) if len(cells) == len(masks) else None

    def read(first: int) -> list[Tile]:
        looked = map(look, range(first, min(first + most, len(reader))))
        return [one for one in looked if one is not None]

    for tile in chain.from_iterable(ahead(read, range(0, len(reader), most), 1)):
        if waiting and (len(waiting) == most or waiting[0][1].shape != tile[1].shape):
            yield together()
            waiting = []
        waiting.append(tile)
    if waiting:
        yield together()
