"""What an adaptation can begin from: a model of ours, or a published encoder that goes on learning."""

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
from geomae.sensors.record import SensorRecord


class Start(Protocol):
    """What `adapt` needs of the model that it begins from, and of the one that it leaves."""

    @property
    def provenance(self) -> dict[str, Any]:
        """Where the model comes from, `from` what it was made from."""

    @property
    def digest(self) -> str:
        """Names the weights."""

    @property
    def decoding(self) -> Model | None:
        """The model that predicts pixels, and can learn from them; None without a decoder."""

    @property
    def groups(self) -> Groups | None:
        """See `Trainable`."""

    @property
    def objective(self) -> Objective:
        """The terms to go on with where the user names none."""

    @property
    def training(self) -> dict[str, Any]:
        """The fields of the training's configuration that the model decides: patch, embedding and so on."""

    @property
    def untouched(self) -> tuple[str, ...]:
        """In words: what an adaptation leaves as it is, beside the weights that do not learn."""

    def with_sensor(self, imagery: SensorRecord, notes: list[str]) -> Self:
        """The same for one that will learn the tiles of `imagery`; notes say what was decided."""

    def fit(self, imagery: SensorRecord, sizes: Sequence[int]) -> tuple[SensorRecord, tuple[str, ...]]:
        """Bands and statistics by which tiles of these `sizes` are read, and what was adapted, in words.

        Raises BandMismatchError, ConfigError or ModelError where the model cannot take them.
        """

    def network(self, records: Sequence[SensorRecord]) -> Trainable:
        """A copy of the weights that may learn the data sets with these records, by their numbers."""

    def with_weights(self, weights: Mapping[str, Tensor]) -> Self:
        """The same with the weights of such a copy."""

    def same_embeddings(self, other: Self) -> bool:
        """Whether one with equal weights embeds tiles alike."""

    def save(self, folder: Path, provenance: dict[str, Any]) -> None:
        """Publish it at `folder`, which must not exist."""

    def reference(self, folder: Path) -> str:
        """How users name the encoder that `save` left in `folder`."""


@dataclass(frozen=True)
class OwnStart:
    """A model folder of ours."""

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
    def groups(self) -> Groups | None:
        """See `Start`."""
        return self.model.mae.groups

    @property
    def objective(self) -> Objective:
        """The terms that it was trained with; pixels where it does not say, and contrast where it has no decoder."""
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
        """The head of a fine-tuned model, which learned to read the encoder as it was."""
        head = self.model.head
        if head is None:
            return ()
        what = f"{len(head.record.classes)} classes, their calibration" if head.record.classes else "numbers"
        return (
            f"the head ({head.record.task}: {what}) stays as it was fine-tuned; labels alone tell what it is worth",
        )

    def with_sensor(self, imagery: SensorRecord, notes: list[str]) -> "OwnStart":
        """With a record of the sensor of `imagery`. Raises BandMismatchError where its bands do not fit.

        What the model was trained with stays; a sensor that it does not know becomes its first, with the statistics of
        the imagery, and so do the bands of a known sensor that a spectral embedding has not met.
        """
        model = self.model
        known = next((one for one in model.sensors if (one.name, one.unit) == (imagery.name, imagery.unit)), None)
        if known is None:
            fitted, said = fit_model(model, imagery, "--model")
            notes += said
            return OwnStart(replace(model, sensors=(fitted.record, *model.sensors)))
        new = [band.name for band in imagery.bands if band.name not in {one.name for one in known.bands}]
        if not new or model.mae.architecture.embedding != "spectral":
            return self
        notes.append(f"bands of {known.name} that the model learns anew: {', '.join(new)}")
        more = imagery.select(new)
        whole = replace(
            known, bands=known.bands + more.bands, mean_C=known.mean_C + more.mean_C, std_C=known.std_C + more.std_C
        )
        return OwnStart(replace(model, sensors=tuple(whole if one is known else one for one in model.sensors)))

    def fit(self, imagery: SensorRecord, sizes: Sequence[int]) -> tuple[SensorRecord, tuple[str, ...]]:
        """See `Start`; that the patch divides the tiles is the training's own rule."""
        fitted, said = fit_model(self.model, imagery, "--model")
        return fitted.record, said

    def network(self, records: Sequence[SensorRecord]) -> MaskedAutoencoder:
        """See `Start`; one network takes all data sets."""
        mae = MaskedAutoencoder(self.model.mae.architecture)
        mae.load_state_dict(self.model.mae.state_dict())
        return mae

    def with_weights(self, weights: Mapping[str, Tensor]) -> "OwnStart":
        """See `Start`."""
        mae = MaskedAutoencoder(self.model.mae.architecture)
        mae.load_state_dict(weights)
        return OwnStart(replace(self.model, mae=mae.eval()))

    def same_embeddings(self, other: "OwnStart") -> bool:
        """Whether both know the same statistics."""
        return self.model.sensors == other.model.sensors

    def save(self, folder: Path, provenance: dict[str, Any]) -> None:
        """See `Start`."""
        save_model(replace(self.model, provenance=provenance), folder)

    def reference(self, folder: Path) -> str:
        """The folder itself."""
        return str(folder)
