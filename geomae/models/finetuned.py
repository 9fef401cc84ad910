"""A fine-tuned model: an encoder of geomae with a head that predicts classes or numbers.

B tiles, C bands, H W pixels, N patches, P pixels of a patch in one band, F features of a band's code, K classes
"""

from dataclasses import dataclass
from functools import cached_property
from pathlib import Path

import torch
from torch import Tensor, nn

from geomae.errors import ModelError
from geomae.models.encoder import Encoder, mean_over_groups
from geomae.models.folder import Model, SensorTensors, load_model, sensor_tensors
from geomae.models.head_record import REGRESSION, HeadRecord
from geomae.models.heads import Head, PatchTokens
from geomae.models.mae import MaskedAutoencoder
from geomae.models.patches import grid, patchify


class FinetunedNetwork(nn.Module):
    """Encoder and head. Weights are named `encoder.*` and `head.*`, as in a model folder."""

    def __init__(self, mae: MaskedAutoencoder, head: Head) -> None:
        super().__init__()
        if not isinstance(mae.encoder, Encoder):
            raise ModelError("the model is convolutional and has no tokens; fine-tune a transformer (model: mae)")
        self.architecture = mae.architecture
        self.encoder, self.head = mae.encoder, head

    def forward(
        self,
        pixels_BCHW: Tensor,
        valid_BCHW: Tensor,
        codes_CF: Tensor,
        gsd_m: float | Tensor | None = None,
    ) -> Tensor:
        """Outputs of the head for standardised tiles: (B, K), or (B, K, H, W) per pixel; K is 1 for numbers.

        Values of invalid pixels, also NaN, have no influence.
        """
        pixels_BCHW = pixels_BCHW.where(valid_BCHW, 0)
        outputs: Tensor = self.head(self.tokens(pixels_BCHW, valid_BCHW, codes_CF, gsd_m), pixels_BCHW, valid_BCHW)
        return outputs

    def tokens(
        self,
        pixels_BCHW: Tensor,
        valid_BCHW: Tensor,
        codes_CF: Tensor,
        gsd_m: float | Tensor | None = None,
    ) -> PatchTokens:
        """The tokens that the head reads, for standardised tiles whose invalid pixels are 0."""
        shape = self.architecture
        cells = grid(pixels_BCHW, shape.patch)
        valid_BNCP = patchify(valid_BCHW, shape.patch)
        depths = self.encoder.at_depths(
            patchify(pixels_BCHW, shape.patch), valid_BNCP, codes_CF, cells, shape.position_scale(gsd_m),
            self.head.layers,
        )  # fmt: skip
        usable_BX = self.encoder.usable(valid_BNCP)
        depths_BND = [mean_over_groups(x[:, 1:], usable_BX, shape.tokens) for x in depths]
        return PatchTokens(depths_BND, valid_BNCP.flatten(2).any(-1), cells)


@dataclass(frozen=True)
class Finetuned:
    """A fine-tuned model for the bands of `model.record`. Input pixels are in physical units.

    For another sensor or subset of bands, pass the model that `encoders.own_models.fit_model` makes for it; weights are
    shared.
    """

    model: Model
    record: HeadRecord

    @property
    def bands(self) -> tuple[str, ...]:
        """Names of the bands that tiles must have, in order."""
        return tuple(band.name for band in self.model.record.bands)

    @cached_property
    def network(self) -> FinetunedNetwork:
        """Encoder and head."""
        assert self.model.head is not None
        return FinetunedNetwork(self.model.mae, self.model.head.module)

    @cached_property
    def _sensor(self) -> SensorTensors:
        with torch.inference_mode(False):  # cached, and autograd refuses inference tensors
            return sensor_tensors(self.model.record, next(self.model.mae.parameters()).device)

    @torch.no_grad()
    def logits(self, pixels_BCHW: Tensor, valid_BCHW: Tensor | None = None) -> Tensor:
        """Uncalibrated logits in float32: (B, K) or (B, K, H, W). For a regression, numbers in their unit: (B, 1).

        Without `valid_BCHW`, finite pixels are valid. Outputs at invalid pixels have no meaning.
        """
        device = next(self.model.mae.parameters()).device
        pixels_BCHW = pixels_BCHW.to(device)
        valid_BCHW = torch.isfinite(pixels_BCHW) if valid_BCHW is None else valid_BCHW.to(device)
        inputs = self._sensor.standardise(pixels_BCHW, valid_BCHW)
        outputs: Tensor = self.network(inputs, valid_BCHW, self._sensor.codes_CF, self._sensor.gsd_m)
        return outputs * self.record.std + self.record.mean if self.record.task == REGRESSION else outputs

    def probabilities(self, pixels_BCHW: Tensor, valid_BCHW: Tensor | None = None) -> Tensor:
        """Calibrated probabilities of the classes, (B, K) or (B, K, H, W)."""
        return calibrated(self.logits(pixels_BCHW, valid_BCHW), self.record).softmax(1)


def calibrated(logits_BK: Tensor, record: HeadRecord) -> Tensor:
    """Calibrate logits (B, K, ...): the softmax of the result gives the calibrated probabilities."""
    if record.calibration is None:
        return logits_BK
    bias_K = logits_BK.new_tensor(record.calibration.bias)
    return logits_BK / record.calibration.temperature + bias_K.reshape(-1, *(1 for _ in logits_BK.shape[2:]))


def load_finetuned(folder: str | Path, device: str | torch.device = "cpu") -> Finetuned:
    """Read a fine-tuned model. Raises ModelError where the folder is incomplete or has no head."""
    model = load_model(folder, device)
    if model.head is None:
        raise ModelError(
            f"{folder}: has no head: it was pretrained but not fine-tuned; `geomae finetune --model {folder} --train "
            "SELECTOR` gives it one"
        )
    record = model.head.record
    return Finetuned(model.for_sensor(record.sensor, record.bands), record)
