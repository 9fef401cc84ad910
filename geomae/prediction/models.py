"""Predicting models: one small interface, with saved probes and fine-tuned models behind it.

B windows, C bands, H W pixels, N = R x S patches of a window, D width, K classes (1 for numbers)
"""

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Protocol

import torch
from torch import Tensor

from geomae.encoders.interface import Encoder
from geomae.encoders.own_models import OwnEncoder, fit_model
from geomae.evaluation.between_patches import between_patches
from geomae.evaluation.final_probe import LinearMap
from geomae.models.finetuned import Finetuned
from geomae.prediction.record import PredictorRecord
from geomae.sensors.record import SensorRecord
from geomae.tiles.radiometry import Radiometry


class WindowModel(Protocol):
    """A model that was fitted to the bands and the unit of one data set."""

    @property
    def record(self) -> PredictorRecord:
        """The description of the predictor: task, classes, imagery and training tiles."""

    @property
    def bands(self) -> tuple[str, ...]:
        """Names of the data set's bands that it takes, in this order."""

    @property
    def notes(self) -> tuple[str, ...]:
        """Bands, normalisation and alignment, in words."""

    @property
    def confidence_notes(self) -> tuple[str, ...]:
        """What makes the calibration of its probabilities uncertain, in words."""

    def check_size(self, size: int) -> None:
        """Raise ConfigError for windows of a size (in pixels) that the model cannot take."""

    def predict(self, pixels_BCHW: Tensor, valid_BCHW: Tensor) -> Tensor:
        """Return class probabilities of windows (B, K) or of pixels (B, K, H, W), or numbers (B, 1).

        Pixels are in physical units; the result is in float32 on the CPU.
        """


@dataclass(frozen=True)
class ProbeModel:
    """A frozen encoder followed by a linear map; where `radiometry` is given, pixels are mapped first."""

    record: PredictorRecord
    encoder: Encoder
    head: LinearMap
    device: torch.device
    radiometry: Radiometry | None = None

    @property
    def bands(self) -> tuple[str, ...]:
        """Names of the bands that it takes."""
        if self.radiometry is not None:
            return self.radiometry.taken
        return tuple(band.name for band in self.encoder.bands)

    @property
    def notes(self) -> tuple[str, ...]:
        """The encoder's notes, and the alignment between encoder and linear map, or of pixels, if any."""
        what = "embeddings" if self.radiometry is None else "pixels"
        aligned = (f"{what} aligned by {self.head.align}: {self.head.why}",) if self.head.why else ()
        return (*self.encoder.notes, *aligned)

    @property
    def confidence_notes(self) -> tuple[str, ...]:
        """See `WindowModel`."""
        return self.head.calibration.notes if self.head.calibration is not None else ()

    def check_size(self, size: int) -> None:
        """Raise ConfigError for windows of a size that the encoder cannot take."""
        self.encoder.patch_grid(size, size)

    def predict(self, pixels_BCHW: Tensor, valid_BCHW: Tensor) -> Tensor:
        """See `WindowModel`. Probabilities of pixels are interpolated bilinearly between the patches' centres."""
        if self.radiometry is not None:
            names = [band.name for band in self.encoder.bands]
            pixels_BCHW, valid_BCHW = _mapped(self.radiometry, names, pixels_BCHW, valid_BCHW)
        tile_BD, patches_BND = self.encoder.embed(pixels_BCHW.to(self.device), valid_BCHW.to(self.device))
        if not self.record.of_pixels:
            return torch.from_numpy(self.head.apply(tile_BD.float().cpu().numpy())).float()
        height, width = pixels_BCHW.shape[-2:]
        share_BNK = torch.from_numpy(self.head.apply(patches_BND.float().cpu().numpy())).float()
        shape = (len(share_BNK), share_BNK.shape[2], *self.encoder.patch_grid(height, width))
        return between_patches(share_BNK.transpose(1, 2).reshape(shape), valid_BCHW.any(1).cpu())


@dataclass(frozen=True)
class FinetunedModel:
    """A fine-tuned encoder with its head."""

    record: PredictorRecord
    model: Finetuned
    adapted: tuple[str, ...] = ()

    @classmethod
    def fit(cls, record: PredictorRecord, model: Finetuned, imagery: SensorRecord, text: str) -> "FinetunedModel":
        """Return the model for a data set. Raises BandMismatchError where bands are missing."""
        fitted, adapted = fit_model(model.model, imagery, text)
        return cls(record, replace(model, model=fitted), adapted)

    @property
    def bands(self) -> tuple[str, ...]:
        """Names of the bands that it takes."""
        return self.model.bands

    @property
    def notes(self) -> tuple[str, ...]:
        """Bands, standardisation and what was adapted, in words."""
        return (
            f"bands {', '.join(self.bands)}, standardised by the statistics of {self.model.model.record.name}",
            *self.adapted,
        )

    @property
    def confidence_notes(self) -> tuple[str, ...]:
        """See `WindowModel`."""
        return self.model.record.calibration.notes if self.model.record.calibration is not None else ()

    def check_size(self, size: int) -> None:
        """Raise ConfigError for windows that cannot be divided into patches."""
        OwnEncoder(self.model.model).patch_grid(size, size)

    def predict(self, pixels_BCHW: Tensor, valid_BCHW: Tensor) -> Tensor:
        """See `WindowModel`. Probabilities are calibrated; numbers are in their unit."""
        given = self.model.logits if self.record.of_numbers else self.model.probabilities
        return given(pixels_BCHW, valid_BCHW).float().cpu()


@dataclass(frozen=True)
class CorrectedModel:
    """A model of windows whose pixels are mapped first; it takes the bands that the radiometry uses."""

    model: WindowModel
    radiometry: Radiometry

    @property
    def record(self) -> PredictorRecord:
        """See `WindowModel`."""
        return self.model.record

    @property
    def bands(self) -> tuple[str, ...]:
        """Names of the bands that the radiometry uses."""
        return self.radiometry.taken

    @property
    def notes(self) -> tuple[str, ...]:
        """Those of the model, and what pixels are mapped by."""
        return (*self.model.notes, f"pixels mapped by {self.radiometry.method}: {self.radiometry.about}")

    @property
    def confidence_notes(self) -> tuple[str, ...]:
        """See `WindowModel`."""
        return self.model.confidence_notes

    def check_size(self, size: int) -> None:
        """See `WindowModel`."""
        self.model.check_size(size)

    def predict(self, pixels_BCHW: Tensor, valid_BCHW: Tensor) -> Tensor:
        """See `WindowModel`."""
        return self.model.predict(*_mapped(self.radiometry, self.model.bands, pixels_BCHW, valid_BCHW))


def _mapped(
    radiometry: Radiometry, names: Sequence[str], pixels_BCHW: Tensor, valid_BCHW: Tensor
) -> tuple[Tensor, Tensor]:
    """The named bands of the source, computed from the bands of the target."""
    pixels, valid = radiometry.apply(pixels_BCHW.cpu().numpy(), valid_BCHW.cpu().numpy())
    places = [radiometry.bands.index(name) for name in names]
    return torch.from_numpy(pixels[:, places]), torch.from_numpy(valid[:, places])
