"""Validation under fixed masks: the loss, and the error per band in physical units, of the model and of baselines.

T tiles of a data set, B of a batch, C bands, N patches, M hidden patches, P pixels of a patch in one band
"""

from collections.abc import Callable, Iterable
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

from geomae.metrics.reconstruction import TileErrors, sum_squares
from geomae.models.folder import Model, SensorTensors, sensor_tensors
from geomae.models.inpainting_baselines import mean_by_distance, mean_of_nearest, mean_of_visible
from geomae.models.mae import MaskedAutoencoder, cut_tiles
from geomae.models.patches import restore_from_context, take
from geomae.models.trainable import Loss
from geomae.sensors.record import SensorRecord
from geomae.tiles.batches import Batch, BatchSpec, fixed_batches
from geomae.training.data import Dataset

MODEL = "model"  # name of the model's own prediction, beside those of BASELINES
BASELINES = ("baseline:mean", "baseline:nearest", "baseline:idw-patch")


@dataclass(frozen=True)
class ValidationScores:
    """Errors over hidden valid pixels. `rmse`: name of a prediction -> RMSE of each band, in the data set's unit."""

    loss: float
    tiles: int
    bands: tuple[str, ...]
    rmse: dict[str, tuple[float, ...]]

    def mean(self, name: str) -> float:
        """Return the mean of the RMSE over the bands."""
        return sum(self.rmse[name]) / len(self.bands)

    def metrics(self, dataset: str) -> dict[str, float]:
        """Return flat metrics: loss/DATASET, rmse/NAME/DATASET/BAND, its mean over bands, ratio/BASELINE/DATASET."""
        figures = {f"loss/{dataset}": self.loss}
        for name, values in self.rmse.items():
            figures |= {f"rmse/{name}/{dataset}/{band}": v for band, v in zip(self.bands, values, strict=True)}
            figures[f"rmse/{name}/{dataset}/mean"] = self.mean(name)
            if name != MODEL:
                figures[f"ratio/{name}/{dataset}"] = self.mean(MODEL) / max(self.mean(name), 1e-30)
        return figures


@torch.no_grad()
def evaluate(
    predict: Callable[..., Tensor],
    mae: MaskedAutoencoder,
    record: SensorRecord,
    batches: Iterable[tuple[Batch, bool]],
    reduce: Callable[[Tensor], Tensor],
    *,
    baselines: bool,
) -> ValidationScores:
    """Score a model on this rank's batches; batches marked False are not counted. `reduce` sums over ranks.

    `predict` is `mae.predict`, wrapped by the strategy and the precision in use.
    """
    device = next(mae.parameters()).device
    names = (MODEL, *(BASELINES if baselines else ()))
    C = len(record.bands)
    # Sums in float64 where the device supports it: in float32, sums over many pixels would lose precision.
    exact = torch.float32 if device.type == "mps" else torch.float64
    totals = torch.zeros(len(names) + 1, C, dtype=exact, device=device)
    loss = torch.zeros(3, dtype=exact, device=device)
    sensor = sensor_tensors(record, device)
    for batch, counted in batches:
        scored, errors = _errors(predict, mae, sensor, batch.to(device), baselines, exact)
        if not counted:
            continue
        totals += errors.sum(1)
        loss += torch.stack(
            [scored.sum_B.to(exact).sum(), scored.count_B.to(exact).sum(), loss.new_tensor(len(batch.tile_ids))]
        )
    totals, loss = reduce(totals), reduce(loss)
    std_C = torch.tensor(record.std_C, dtype=torch.float64)
    rmse = {
        name: tuple(((totals[i] / totals[-1].clamp(min=1)).sqrt().cpu().double() * std_C).tolist())
        for i, name in enumerate(names)
    }
    mean_loss = float(loss[0] / loss[1].clamp(min=1))
    return ValidationScores(mean_loss, int(loss[2]), tuple(band.name for band in record.bands), rmse)


@torch.no_grad()
def evaluate_contrast(
    compare: Callable[[Batch], Loss],
    record: SensorRecord,
    batches: Iterable[tuple[Batch, bool]],
    reduce: Callable[[Tensor], Tensor],
) -> ValidationScores:
    """Score a model without a decoder by the contrastive loss on held-out tiles, which `compare` returns for a batch.

    The other arguments are those of `evaluate`. There are no errors per band.
    """
    sums = []
    for batch, counted in batches:
        loss = compare(batch)
        sums.append(torch.stack([loss.sum_B.sum(), loss.count_B.sum().to(loss.sum_B.dtype)]) * counted)
    total, count = reduce(torch.stack(sums).sum(0)).tolist()
    return ValidationScores(total / max(count, 1), int(count), tuple(band.name for band in record.bands), {})


@torch.no_grad()
def errors_by_tile(model: Model, dataset: Dataset, spec: BatchSpec, batch: int, device: torch.device) -> TileErrors:
    """Return the errors of a model and of the baselines on every tile, in fp32.

    The masks depend only on the seed and the tile.
    """
    mae, record = model.mae, dataset.record
    sensor = sensor_tensors(record, device)
    sums_by_batch = [
        _errors(mae.predict, mae, sensor, part.to(device), True, torch.float64)[1].cpu()
        for part, _ in fixed_batches(dataset.reader, 0, range(len(dataset.reader)), spec, batch)
    ]
    sums = torch.cat(sums_by_batch, dim=1).numpy()
    variance_C = np.array(record.std_C, dtype=np.float64) ** 2
    squares = {name: sums[i] * variance_C for i, name in enumerate((MODEL, *BASELINES))}
    return TileErrors(squares, sums[-1])


def _errors(
    predict: Callable[..., Tensor],
    mae: MaskedAutoencoder,
    sensor: SensorTensors,
    batch: Batch,
    baselines: bool,
    exact: torch.dtype,
) -> tuple[Loss, Tensor]:
    """Return the loss, and the sum of squared errors per prediction, tile and band; the last row counts the pixels."""
    mask, target = batch.mask, mae.architecture.target
    inputs = sensor.standardise(batch.pixels_BCHW, batch.valid_BCHW)
    tiles = cut_tiles(inputs, batch.valid_BCHW, mask, mae.architecture.patch)
    patches_BNCP, wanted_BM, truth, scored = tiles.patches_BNCP, tiles.wanted_BM, tiles.truth_BMCP, tiles.scored_BMCP
    cols = tiles.shape[1]
    seen_BNC, _ = mask.seen_and_hidden(patches_BNCP.shape[2])
    seen_BNCP = tiles.valid_BNCP & seen_BNC[..., None]
    predicted_BMCP = predict(
        patches_BNCP, tiles.shown_BNCP, sensor.codes_CF, mask, wanted_BM, tiles.shape, sensor.gsd_m
    ).float()
    loss = mae.score(predicted_BMCP, truth, tiles.valid_BMCP, scored)
    predictions = [restore_from_context(predicted_BMCP, wanted_BM, patches_BNCP, seen_BNCP, target, cols)]
    if baselines:
        predictions.append(take(mean_of_visible(patches_BNCP, seen_BNCP), wanted_BM))
        predictions.append(take(mean_of_nearest(patches_BNCP, seen_BNCP, cols), wanted_BM))
        predictions.append(take(mean_by_distance(patches_BNCP, seen_BNCP, cols), wanted_BM))
    return loss, sum_squares(predictions, truth, scored, exact)
