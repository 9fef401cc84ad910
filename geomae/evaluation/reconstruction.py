"""Errors of reconstructions by models and baselines, on the same tiles with the same masks, as sums by tile.

T tiles, B tiles of a batch, C bands, N cells of the common grid, H W pixels
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
from geomae.encoders.own_models import fit_model
from geomae.encoders.specification import BASELINE, FOLDER, MLFLOW, Reference, parse_encoders
from geomae.errors import BandMismatchError, CatalogError, ConfigError, ModelError
from geomae.evaluation.reconstruction_masks import MaskKind, common_cell, for_patches, to_pixels, visible_cells
from geomae.metrics.reconstruction import DATA_RANGE_STD, ErrorSums, error_sums
from geomae.models.folder import Model, load_model
from geomae.models.inpainting_baselines import INPAINTINGS, inpainting
from geomae.models.masking import visible_count
from geomae.randomness import generator
from geomae.runtime.devices import Compute
from geomae.runtime.precision import working_precision
from geomae.sensors import Band
from geomae.tiles.index import TileIndex
from geomae.tiles.reader import TileReader, ahead
from geomae.tiles.selection import Progress, Selection
from geomae.tracking import download, resolve_uri

CELL_OF_BASELINES = 8  # pixels; where no model defines a patch size
BATCH_PIXELS = 32 * 64 * 64  # pixels per band in a batch; larger ones are no faster, and large tiles must fit in memory
MASKED, VISIBLE = "masked", "visible"

Pixels = NDArray[np.float32]
Valid = NDArray[np.bool_]
CellsByMask = dict[MaskKind, Valid]  # the visible cells (N,) of a tile under each mask
Tile = tuple[int, Pixels, Valid, CellsByMask]  # position, pixels, validity, and visible cells


@dataclass(frozen=True)
class MaskedTiles:
    """Tiles with all bands of their data set, in its unit, and their visible cells."""

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

    reference: Reference
    model: Model | None

    @property
    def label(self) -> str:
        """Its name in files, figures and rows."""
        return self.reference.label

    def digest(self) -> str:
        """Identifies its weights, or the baseline."""
        return self.reference.text if self.model is None else weights_digest(self.model.mae.state_dict())[:32]

    def made_by(self) -> str | None:
        """The MLflow run that trained the model; None where it is unknown."""
        run_id = self.model.provenance.get("mlflow_run") if self.model else None
        return str(run_id) if run_id else None


@dataclass(frozen=True)
class FittedModels:
    """All candidates, fitted to the data set of a selection; `places` are the positions of bands that all predict.

    Errors are summed on `device`, which supports float64.
    """

    selected: Selection
    predictors: Mapping[str, Callable[[MaskedTiles], Tensor]]
    places: tuple[int, ...]
    cell: int
    notes: tuple[str, ...]
    device: torch.device

    @property
    def labels(self) -> list[str]:
        """The candidates in the order in which they were named."""
        return list(self.predictors)

    @property
    def bands(self) -> tuple[Band, ...]:
        """The bands that are compared."""
        return tuple(self.selected.imagery.bands[place] for place in self.places)

    @property
    def range_C(self) -> NDArray[np.float64]:
        """The data range of PSNR and SSIM in the unit of the data set: six standard deviations."""
        return DATA_RANGE_STD * np.array([self.selected.imagery.std_C[place] for place in self.places])

    def predict(self, label: str, tiles: MaskedTiles) -> Tensor:
        """Predictions of a candidate for the tiles, in the compared bands, on the device of the pixels."""
        return self.predictors[label](tiles)


def load_candidates(texts: Sequence[str], device: torch.device, tracking_uri: str | None = None) -> list[Candidate]:
    """The models and baselines that `[LABEL=]MODEL` texts name. Raises ConfigError or ModelError for invalid ones."""
    if not texts:
        raise ConfigError("--model: name at least one model folder, MLflow reference or baseline:NAME")
    candidates = []
    for reference in parse_encoders(texts, INPAINTINGS):
        if reference.kind == BASELINE:
            inpainting(reference.text, CELL_OF_BASELINES)  # raises for an unknown baseline
            candidates.append(Candidate(reference, None))
            continue
        if reference.kind not in (FOLDER, MLFLOW):
            raise _encoder_alone(reference)
        name = reference.name
        folder = Path(name) if reference.kind == FOLDER else download(name, resolve_uri(tracking_uri))
        model = load_model(folder, device)
        if model.mae.decoder is None:
            raise _encoder_alone(reference)
        candidates.append(Candidate(reference, model))
    return candidates


def fit_candidates(candidates: Sequence[Candidate], selected: Selection, compute: Compute) -> FittedModels:
    """The candidates, fitted to the data set of a selection.

    Raises BandMismatchError where they predict no band in common, and ModelError where their patches do not fit.
    """
    imagery = selected.imagery
    names = [band.name for band in imagery.bands]
    models, notes = {}, []
    for one in candidates:
        if one.model is not None:
            models[one.label], adapted = fit_model(one.model, imagery, one.reference.text)
            notes += [f"{one.label} on {selected.index.name}: {note}" for note in adapted]
    known = [{band.name for band in model.record.bands} for model in models.values()]
    compared = tuple(place for place, name in enumerate(names) if all(name in bands for bands in known))
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
            predictors[one.label] = _model_predictor(models[one.label], names, compared, compute)
        else:
            predictors[one.label] = _baseline_predictor(one.reference.text, compared, cell)
    device = compute.fabric.device
    exact = torch.device("cpu") if device.type == "mps" else device  # mps has no float64
    return FittedModels(selected, predictors, compared, cell, tuple(notes), exact)


def _model_predictor(
    model: Model, names: Sequence[str], compared: Sequence[int], compute: Compute
) -> Callable[[MaskedTiles], Tensor]:
    own = [band.name for band in model.record.bands]
    inputs, outputs = [names.index(name) for name in own], [own.index(names[place]) for place in compared]
    patch, device = model.mae.architecture.patch, compute.fabric.device

    def predict(tiles: MaskedTiles) -> Tensor:
        H, W = tiles.pixels_BCHW.shape[-2:]
        visible_BN = torch.from_numpy(
            for_patches(tiles.visible_BN, (H // tiles.cell, W // tiles.cell), tiles.cell, patch)
        )
        pixels_BCHW, valid_BCHW = tiles.pixels_BCHW[:, inputs].to(device), tiles.valid_BCHW[:, inputs].to(device)
        with working_precision(device, compute.precision):
            predicted_BCHW, _ = model.reconstruct(pixels_BCHW, valid_BCHW, visible_BN)
        return predicted_BCHW[:, outputs].to(tiles.pixels_BCHW.device)

    return predict


def _baseline_predictor(text: str, compared: Sequence[int], cell: int) -> Callable[[MaskedTiles], Tensor]:
    fill, places = inpainting(text, cell), list(compared)

    def predict(tiles: MaskedTiles) -> Tensor:
        return fill(tiles.pixels_BCHW[:, places], (tiles.valid_BCHW & tiles.visible_B1HW)[:, places])

    return predict


def _encoder_alone(reference: Reference) -> ModelError:
    return ModelError(
        f"{reference.text}: is an encoder without a decoder, which cannot reconstruct; train a masked autoencoder with "
        "`geomae pretrain`, or bring weights with their decoder through `geomae convert`"
    )


@dataclass(frozen=True)
class ReconstructedTile:
    """A tile and its reconstructions by label, in physical units. `visible_HW` are the pixels that models saw.

    Reconstructions hold the original values of visible pixels, because predictions there are not reconstructions.
    """

    tile_id: str
    truth_CHW: Pixels
    visible_HW: Valid
    valid_CHW: Valid
    reconstructions: Mapping[str, Pixels]

    @property
    def hidden(self) -> float:
        """The share of hidden pixels."""
        return float(np.mean(~self.visible_HW))

    def rmse(self, label: str) -> float:
        """Root mean square error over the hidden valid pixels of all bands; NaN where there are none."""
        counted_CHW = self.valid_CHW & ~self.visible_HW
        error = self.reconstructions[label][counted_CHW].astype(np.float64) - self.truth_CHW[counted_CHW]
        return float(np.sqrt(np.mean(error**2))) if error.size else float("nan")


@dataclass(frozen=True)
class ReconstructionScores:
    """The sums of every candidate on the tiles of one selection, by (label, mask, masked or visible)."""

    fitted: FittedModels
    index: TileIndex
    left_out: int
    sums: dict[tuple[str, MaskKind, str], ErrorSums]

    @property
    def selected(self) -> Selection:
        """The selection of the tiles."""
        return self.fitted.selected

    def total(self, label: str, mask: MaskKind) -> ErrorSums:
        """The sums over the masked pixels of all tiles."""
        return self.sums[label, mask, MASKED].weighted(np.ones((1, len(self.index))))

    def hidden(self, mask: MaskKind) -> float:
        """The share of the tiles' cells that a mask hides: its ratio, in whole cells of each tile."""
        cells_T = [(int(size) // self.fitted.cell) ** 2 for size in self.index.tiles["size"].tolist()]
        return 1 - sum(visible_count(cells, mask.ratio) for cells in cells_T) / sum(cells_T)


def score_reconstructions(
    fitted: FittedModels,
    masks: Sequence[MaskKind],
    most: int,
    seed: int,
    progress: Progress = lambda what, done, total: None,
) -> ReconstructionScores:
    """Reconstruct at most `most` tiles of a selection, drawn by the seed, and sum up the errors.

    Tiles with too few valid cells for one of the masks are left out for all masks, and counted. Raises CatalogError
    where none is left, and ModelError for predictions that are not finite.
    """
    selected, places = fitted.selected, list(fitted.places)
    drawn = np.sort(generator(seed, "comparison tiles", selected.name).permutation(len(selected.index))[:most])
    index = selected.index.take(drawn)
    reader = TileReader(index, bands=[band.name for band in selected.imagery.bands])
    range_C = torch.from_numpy(fitted.range_C).to(fitted.device)
    parts: dict[tuple[str, MaskKind, str], list[ErrorSums]] = {}
    kept: list[int] = []
    for positions, by_mask in masked_batches(reader, fitted, masks, seed):
        kept += positions
        for mask, tiles in by_mask.items():
            valid = tiles.valid_BCHW[:, places]
            visible = tiles.visible_B1HW
            for label in fitted.labels:
                predicted = fitted.predict(label, tiles)
                if not torch.isfinite(predicted).all():
                    raise ModelError(f"{label}: predicts values of {selected.name} that are not finite; train it again")
                for pixels, counted in ((MASKED, valid & ~visible), (VISIBLE, valid & visible)):
                    sums = error_sums(predicted, tiles.pixels_BCHW[:, places], counted, valid, fitted.bands, range_C)
                    parts.setdefault((label, mask, pixels), []).append(sums)
        progress(selected.name, positions[-1] + 1, len(reader))
    if not kept:
        raise CatalogError(f"{selected.name}: no tile has enough valid cells to be shown; hide more with --mask-ratio")
    joined = {key: ErrorSums.joined(values) for key, values in parts.items()}
    return ReconstructionScores(fitted, index.take(np.array(kept)), len(reader) - len(kept), joined)


def reconstruct_tile(fitted: FittedModels, index: TileIndex, mask: MaskKind, seed: int) -> ReconstructedTile | None:
    """The first tile of `index` reconstructed by every model under a mask; None where it has too few valid cells."""
    places, bands = list(fitted.places), [band.name for band in fitted.selected.imagery.bands]
    reader = TileReader(index.take(np.array([0])), bands=bands)
    for _, by_mask in masked_batches(reader, fitted, [mask], seed):
        tiles = by_mask[mask]
        visible, truth = tiles.visible_B1HW, tiles.pixels_BCHW[:, places]
        reconstructions = {
            label: truth.where(visible, fitted.predict(label, tiles))[0].cpu().numpy() for label in fitted.labels
        }
        return ReconstructedTile(
            reader.tile_ids[0],
            truth[0].cpu().numpy(),
            visible[0, 0].cpu().numpy(),
            tiles.valid_BCHW[0, places].cpu().numpy(),
            reconstructions,
        )
    return None


def batch_of(size: int) -> int:
    """The number of tiles of `size` x `size` pixels in a batch."""
    return max(BATCH_PIXELS // size**2, 1)


def masked_batches(
    reader: TileReader, fitted: FittedModels, masks: Sequence[MaskKind], seed: int
) -> Iterator[tuple[list[int], dict[MaskKind, MaskedTiles]]]:
    """Positions of tiles of one size, and the tiles under each mask; tiles with too few valid cells are left out.

    Every tile is read once, by a thread that reads one batch in advance.
    """
    waiting: list[Tile] = []
    most, cell = batch_of(int(reader.index.tiles["size"].max())), fitted.cell

    def batch() -> tuple[list[int], dict[MaskKind, MaskedTiles]]:
        positions, *tiles, cells = zip(*waiting, strict=True)
        pixels, valid = (torch.from_numpy(np.stack(values)).to(fitted.device) for values in tiles)
        visible = {mask: np.stack([one[mask] for one in cells]) for mask in masks}
        return list(positions), {mask: MaskedTiles(pixels, valid, visible[mask], cell) for mask in masks}

    def read(position: int) -> Tile | None:
        pixels_CHW, valid_CHW = reader.read(position)
        tile_id = reader.tile_ids[position]
        drawn = {mask: visible_cells(valid_CHW, cell, mask, seed, tile_id) for mask in masks}
        cells = {mask: one for mask, one in drawn.items() if one is not None}
        return (position, pixels_CHW, valid_CHW, cells) if len(cells) == len(masks) else None

    def read_several(first: int) -> list[Tile]:
        tiles = map(read, range(first, min(first + most, len(reader))))
        return [one for one in tiles if one is not None]

    for tile in chain.from_iterable(ahead(read_several, range(0, len(reader), most), 1)):
        if waiting and (len(waiting) == most or waiting[0][1].shape != tile[1].shape):
            yield batch()
            waiting = []
        waiting.append(tile)
    if waiting:
        yield batch()
