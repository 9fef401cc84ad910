"""Validation under fixed masks: the loss, and the error per band in physical units beside that of the baselines.

B tiles, C bands, N patches, M hidden patches, P pixels of a patch in one band
"""

from collections.abc import Callable, Iterable
from dataclasses import dataclass

import torch
from torch import Tensor

from geomae.models.baselines import mean_of_nearest, mean_of_visible
from geomae.models.embedding import band_codes
from geomae.models.mae import Loss, MaskedAutoencoder
from geomae.models.patches import grid, patchify, take
from geomae.models.standardise import SensorRecord, standardise
from geomae.models.target import context_statistics, restore
from geomae.models.visibility import scored_pixels, seen_and_hidden
from geomae.tiles.loader import Batch

BASELINES = ("baseline:mean", "baseline:nearest")


@dataclass(frozen=True)
class Scores:
    """Errors over hidden valid pixels: `rmse` per name of a prediction and band, in the unit of the data set."""

    loss: float
    tiles: int
    bands: tuple[str, ...]
    rmse: dict[str, tuple[float, ...]]

    def mean(self, name: str) -> float:
        """Mean of the RMSE over the bands."""
        return sum(self.rmse[name]) / len(self.bands)

    def metrics(self, dataset: str) -> dict[str, float]:
        """Flat figures: loss/DATASET, rmse/NAME/DATASET/BAND and its mean over bands, ratio/BASELINE/DATASET."""
        figures = {f"loss/{dataset}": self.loss}
        for name, values in self.rmse.items():
            figures |= {f"rmse/{name}/{dataset}/{band}": v for band, v in zip(self.bands, values, strict=True)}
            figures[f"rmse/{name}/{dataset}/mean"] = self.mean(name)
            if name != "model":
                figures[f"ratio/{name}/{dataset}"] = self.mean("model") / max(self.mean(name), 1e-30)
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
) -> Scores:
    """Score a model on this rank's batches, of which those marked false are not counted; `reduce` adds over ranks.

    `predict` is `mae.predict` as the strategy and the precision in force wrap it.
    """
    device = next(mae.parameters()).device
    names = ("model", *(BASELINES if baselines else ()))
    C = len(record.bands)
    # Sums in float64, where the device has it: squared errors of many pixels lose digits in float32.
    exact = torch.float32 if device.type == "mps" else torch.float64
    totals = torch.zeros(len(names) + 1, C, dtype=exact, device=device)
    loss = torch.zeros(3, dtype=exact, device=device)
    codes_CF = band_codes(record.bands).to(device)
    for batch, counted in batches:
        scored, errors = _errors(predict, mae, record, batch.to(device), codes_CF, baselines, exact)
        if not counted:
            continue
        totals += errors
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
    return Scores(mean_loss, int(loss[2]), tuple(band.name for band in record.bands), rmse)


def _errors(
    predict: Callable[..., Tensor],
    mae: MaskedAutoencoder,
    record: SensorRecord,
    batch: Batch,
    codes_CF: Tensor,
    baselines: bool,
    exact: torch.dtype,
) -> tuple[Loss, Tensor]:
    """The loss, and per prediction and band the sum of squared errors, with the number of pixels as the last row."""
    side, groups, target = mae.architecture.patch, mae.architecture.groups, mae.architecture.target
    shape = grid(batch.pixels_BCHW, side)
    patches_BNCP = patchify(standardise(batch.pixels_BCHW, batch.valid_BCHW, record), side)
    valid_BNCP = patchify(batch.valid_BCHW, side)
    mask = (batch.order_BX, batch.visible, batch.shown_BC, groups)
    seen_BNC, _ = seen_and_hidden(*mask, len(record.bands))
    seen_BNCP = valid_BNCP & seen_BNC[..., None]
    shown_BNCP = valid_BNCP if batch.shown_BC is None else valid_BNCP & batch.shown_BC[:, None, :, None]
    wanted_BM, valid, scored = scored_pixels(valid_BNCP, *mask)
    asked = (codes_CF, batch.order_BX, batch.visible, wanted_BM, shape, record.gsd_m)
    predicted_BMCP = predict(patches_BNCP, shown_BNCP, *asked).float()
    truth = take(patches_BNCP, wanted_BM)
    loss = mae.score(predicted_BMCP, truth, valid, scored)
    known = context_statistics(patches_BNCP, seen_BNCP, target, shape[1])
    if known is not None:
        known = type(known)(*(take(values, wanted_BM) for values in known))
    predictions = [restore(predicted_BMCP, known)]
    if baselines:
        predictions.append(take(mean_of_visible(patches_BNCP, seen_BNCP), wanted_BM))
        predictions.append(take(mean_of_nearest(patches_BNCP, seen_BNCP, shape[1]), wanted_BM))
    sums = [(one - truth).where(scored, 0).square().to(exact).sum((0, 1, 3)) for one in predictions]
    return loss, torch.stack([*sums, scored.sum((0, 1, 3)).to(exact)])
