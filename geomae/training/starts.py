"""The start of an adaptation: an own model, or a published encoder that is trained further."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, Protocol, Self

from torch import Tensor

from geomae.config import Decoder, Objective
from geomae.encoders.interface import weights_digest
from geomae.encoders.own_models import fit_model
from geomae.models.folder import Model, save_model
from geomae.models.mae import MaskedAutoencoder
from geomae.models.trainable import Trainable
from geomae.sensors.band import Groups
from geomae.sensors.record import SensorRecord, record_of, unused_name


class Start(Protocol):
    """What `adapt` needs of the model that it starts from, and of the adapted model."""

    @property
    def provenance(self) -> dict[str, Any]:
        """The origin of the model; the key `from` holds the provenance of its predecessor."""

    @property
    def digest(self) -> str:
        """Hex digest of the weights."""

    @property
    def decoding(self) -> Model | None:
        """The model with a decoder, which can be trained to predict pixels; None without a decoder."""

    @property
    def has_head(self) -> bool:
        """Whether a head for labels goes with the model, as with a fine-tuned one."""

    @property
    def groups(self) -> Groups | None:
        """See `Trainable`."""

    @property
    def objective(self) -> Objective:
        """The default objective of the adaptation."""

    @property
    def training(self) -> dict[str, Any]:
        """The fields of the training configuration that the model determines, such as patch and embedding."""

    @property
    def untouched(self) -> tuple[str, ...]:
        """Notes on parts that an adaptation does not change, besides the weights that do not learn."""

    def with_sensor(self, imagery: SensorRecord, notes: list[str]) -> Self:
        """Return this start with the sensor of `imagery`, on whose tiles it will be trained; adds to `notes`."""

    def fit(self, imagery: SensorRecord, sizes: Sequence[int]) -> tuple[SensorRecord, tuple[str, ...]]:
        """Return the bands and statistics by which tiles of these `sizes` are read, and notes on what was adapted.

        Raises BandMismatchError, ConfigError or ModelError where the model cannot take them.
        """

    def network(self, records: Sequence[SensorRecord]) -> Trainable:
        """Return a trainable copy of the network for the data sets with these records, in this order."""

    def with_weights(self, weights: Mapping[str, Tensor]) -> Self:
        """Return this start with the weights of such a trainable copy."""

    def same_embeddings(self, other: Self) -> bool:
        """Whether `other`, given equal weights, would return equal embeddings."""

    def save(self, folder: Path, provenance: dict[str, Any]) -> None:
        """Publish the model at `folder`, which must not exist."""

    def reference(self, folder: Path) -> str:
        """Return the ENCODER text of the model that `save` wrote to `folder`."""


@dataclass(frozen=True)
class OwnStart:
    """A geomae model as the start of an adaptation."""

    model: Model

    @property
    def provenance(self) -> dict[str, Any]:
        """See `Start`."""
        return self.model.provenance

    @property
    def digest(self) -> str:
        """See `Start`."""
        return weights_digest(self.model.mae.state_dict())[:32]

    @property
    def decoding(self) -> Model | None:
        """See `Start`."""
        return self.model if self.model.mae.decoder is not None else None

    @property
    def has_head(self) -> bool:
        """See `Start`."""
        return self.model.head is not None

    @property
    def groups(self) -> Groups | None:
        """See `Start`."""
        return self.model.mae.groups

    @property
    def objective(self) -> Objective:
        """The objective of its training; where that is unknown, pixels, or contrast for a model without a decoder."""
        provenance: Mapping[str, Any] | None = self.provenance
        while provenance is not None:
            if "objective" in provenance:
                return Objective(**{"pixels": 0.0} | provenance["objective"])
            provenance = provenance.get("from")
        return Objective() if self.decoding else Objective(pixels=0, contrast=1)

    @property
    def training(self) -> dict[str, Any]:
        """See `Start`."""
        shape = self.model.mae.architecture
        return {
            "model": shape.kind, "patch": shape.patch, "embedding": shape.embedding, "target": shape.target,
            "positions": "gsd" if shape.positions == "gsd" else "sincos", "reference_gsd_m": shape.reference_gsd_m,
            "decoder": shape.decoder or Decoder(),
        }  # fmt: skip

    @property
    def untouched(self) -> tuple[str, ...]:
        """A note on the head of a fine-tuned model, which was trained on the encoder before adaptation."""
        head = self.model.head
        if head is None:
            return ()
        what = f"{len(head.record.classes)} classes, their calibration" if head.record.classes else "numbers"
        return (
            f"the head ({head.record.task}: {what}) is not adapted; only labels can tell how well it still predicts",
        )

    def with_sensor(self, imagery: SensorRecord, notes: list[str]) -> "OwnStart":
        """Return this start with a record of the sensor of `imagery`. Raises BandMismatchError where bands do not fit.

        Statistics of the model's training are kept. An unknown sensor is added as the first, with the statistics of
        the imagery. With a spectral embedding, unknown bands of a known sensor are added in the same way.
        """
        model = self.model
        known = record_of(model.sensors, imagery.name, imagery.unit, imagery.bands)
        if known is None:
            fitted, said = fit_model(model, imagery, "--model")
            notes += said
            added = replace(fitted.record, name=unused_name(model.sensors, fitted.record.name))
            return OwnStart(replace(model, sensors=(added, *model.sensors)))
        new = [band.name for band in imagery.bands if band.name not in {one.name for one in known.bands}]
        if not new or not model.mae.architecture.any_bands:
            return self
        notes.append(f"bands of {known.name} that are new to the model: {', '.join(new)}")
        more = imagery.select(new)
        whole = replace(
            known, bands=known.bands + more.bands, mean_C=known.mean_C + more.mean_C, std_C=known.std_C + more.std_C
        )
        return OwnStart(replace(model, sensors=tuple(whole if one is known else one for one in model.sensors)))

    def fit(self, imagery: SensorRecord, sizes: Sequence[int]) -> tuple[SensorRecord, tuple[str, ...]]:
        """See `Start`; `sizes` are not checked here but by `usable_tiles`."""
        fitted, said = fit_model(self.model, imagery, "--model")
        return fitted.record, said

    def network(self, records: Sequence[SensorRecord]) -> MaskedAutoencoder:
        """See `Start`; the network is the same for all data sets."""
        mae = MaskedAutoencoder(self.model.mae.architecture)
        mae.load_state_dict(self.model.mae.state_dict())
        return mae

    def with_weights(self, weights: Mapping[str, Tensor]) -> "OwnStart":
        """See `Start`."""
        mae = MaskedAutoencoder(self.model.mae.architecture)
        mae.load_state_dict(weights)
        return OwnStart(replace(self.model, mae=mae.eval()))

    def same_embeddings(self, other: "OwnStart") -> bool:
        """Whether both have the same sensors and statistics."""
        return self.model.sensors == other.model.sensors

    def save(self, folder: Path, provenance: dict[str, Any]) -> None:
        """See `Start`."""
        save_model(replace(self.model, provenance=provenance), folder)

    def reference(self, folder: Path) -> str:
        """The folder itself."""
        return str(folder)
