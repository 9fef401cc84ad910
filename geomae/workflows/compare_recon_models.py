"""What reconstructs in a comparison: models of ours and baselines behind one call, under one mask.

B batch, C bands, N cells of the common grid, H W pixels
"""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from geomae.analysis.inpainting import INPAINTINGS, inpainting
from geomae.analysis.shared_masks import common_cell, for_patches, to_pixels
from geomae.encoders.digests import weights_digest
from geomae.encoders.fitting import fit_model
from geomae.encoders.reference import BASELINE, FOLDER, MLFLOW, Reference, parse_encoders
from geomae.errors import BandMismatchError, ConfigError, ModelError
from geomae.models.folder import Model, load_model
from geomae.tracking import download, resolve_uri
from geomae.training.precision import working_precision
from geomae.workflows.selected import Selected

CELL_OF_BASELINES = 8  # pixels; where no model says how large patches are


@dataclass(frozen=True)
class Shown:
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

    reference: Reference
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
class Fitted:
    """All candidates, ready for one data set: `bands` are the places of the bands that every one predicts."""

    predictors: Mapping[str, Callable[[Shown], Tensor]]
    bands: tuple[int, ...]
    cell: int
    notes: tuple[str, ...]

    def predict(self, label: str, shown: Shown) -> Tensor:
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


def fit(candidates: Sequence[Candidate], selected: Selected, device: torch.device, precision: str) -> Fitted:
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
    return Fitted(predictors, compared, cell, tuple(notes))


def _of_model(
    model: Model, names: Sequence[str], compared: Sequence[int], device: torch.device, precision: str
) -> Callable[[Shown], Tensor]:
    own = [band.name for band in model.record.bands]
    taken, given = [names.index(name) for name in own], [own.index(names[place]) for place in compared]
    patch = model.mae.architecture.patch

    def predict(shown: Shown) -> Tensor:
        H, W = shown.pixels_BCHW.shape[-2:]
        patches_BN = for_patches(shown.visible_BN, (H // shown.cell, W // shown.cell), shown.cell, patch)
        tiles = (shown.pixels_BCHW[:, taken].to(device), shown.valid_BCHW[:, taken].to(device))
        with working_precision(device, precision):
            predicted_BCHW, _ = model.reconstruct(*tiles, torch.from_numpy(patches_BN))
        return predicted_BCHW[:, given].to(shown.pixels_BCHW.device)

    return predict


def _of_baseline(text: str, compared: Sequence[int], cell: int) -> Callable[[Shown], Tensor]:
    fill = inpainting(text, cell)

    def predict(shown: Shown) -> Tensor:
        places = list(compared)
        return fill(shown.pixels_BCHW[:, places], (shown.valid_BCHW & shown.visible_B1HW)[:, places])

    return predict


def _encoder_alone(reference: Reference) -> ModelError:
    return ModelError(
        f"{reference.text}: is an encoder without a decoder, which cannot reconstruct; train a masked autoencoder with "
        "`geomae pretrain`, or bring weights with their decoder through `geomae convert`"
    )
