"""Galileo as the start of an adaptation, and as a network trained by the objective's terms without a decoder.

B tiles, C bands, H W pixels, D width
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from functools import cached_property
from pathlib import Path
from typing import Any

from torch import Tensor, nn

from geomae.config import Objective
from geomae.encoders.galileo import PATCH, GalileoEncoder, galileo_encoder
from geomae.encoders.galileo_weights import PROVENANCE, publish, read_renamed
from geomae.encoders.interface import weights_digest
from geomae.encoders.specification import GALILEO, Reference
from geomae.files import read_json
from geomae.models.folder import to_physical
from geomae.models.trainable import Loss, Trainable, View
from geomae.sensors.record import SensorRecord

NETWORK = "network."  # prefix of its weights' names in a `GalileoTrainable`
WHOLE = "views are whole tiles: Galileo takes no masks here, and masking.band_dropout does not apply"


class GalileoTrainable(Trainable):
    """One network, with one encoder per data set. A view's embedding is the mean of the valid tokens after the norm."""

    decoder = None

    def __init__(self, encoders: Sequence[GalileoEncoder], records: Sequence[SensorRecord]) -> None:
        super().__init__()
        self.network = encoders[0].network
        self.encoders = [replace(one, network=self.network) for one in encoders]
        self.records = list(records)

    @property
    def width(self) -> int:
        """See `Trainable`."""
        return 4 * self.network.quarter

    @property
    def groups(self) -> None:
        """See `Trainable`."""
        return None

    def reached(self, pixels: bool) -> Sequence[nn.Module]:
        """All blocks; see `Trainable`."""
        return list(self.network.blocks)

    def unreached(self, pixels: bool) -> Sequence[nn.Module]:
        """The patch kernels of groups that are complete in no data set; see `Trainable`."""
        seen = {group for one in self.encoders for group in one.fitted.groups}
        return [kernel for group, kernel in self.network.embed.items() if group not in seen]

    def read(self, view: View, pixels: bool, *, shielded: bool = False) -> tuple[Tensor, Loss | None]:
        """See `Trainable`; the view's mask is ignored."""
        encoder, record = self.encoders[view.dataset], self.records[view.dataset]
        tokens = encoder.tokens(to_physical(view.pixels_BCHW, record), view.valid_BCHW, view.gsd_m)
        return tokens.pooled("mean").float(), None


@dataclass(frozen=True)
class GalileoStart:
    """A folder with Galileo's files, and weights under our names, which may differ from those in the folder."""

    named: Reference
    weights: Mapping[str, Tensor]

    @property
    def folder(self) -> Path:
        """The folder of its files."""
        return Path(self.named.name)

    @cached_property
    def provenance(self) -> dict[str, Any]:
        """The provenance that an adaptation wrote; empty for published files."""
        path = self.folder / PROVENANCE
        return dict(read_json(path)) if path.is_file() else {}

    @property
    def digest(self) -> str:
        """Hex digest (32 characters) of the weights."""
        return weights_digest(self.weights)[:32]

    @property
    def decoding(self) -> None:
        """None: the published decoder predicts latents, not pixels, and is not read."""
        return None

    @property
    def has_head(self) -> bool:
        """See `Start`; Galileo is an encoder alone."""
        return False

    @property
    def groups(self) -> None:
        """None: it takes no masks."""
        return None

    @property
    def objective(self) -> Objective:
        """The default objective: the contrastive loss between two views of each tile."""
        return Objective(pixels=0, contrast=1)

    @property
    def training(self) -> dict[str, Any]:
        """Settings of its training: the side of a patch in pixels."""
        return {"patch": int(self.named.options.get("patch", PATCH))}

    @property
    def untouched(self) -> tuple[str, ...]:
        """Nothing but the weights that do not learn; see `Start`."""
        return ()

    def with_sensor(self, imagery: SensorRecord, notes: list[str]) -> "GalileoStart":
        """Return itself: it stores no statistics of sensors."""
        return self

    def fit(self, imagery: SensorRecord, sizes: Sequence[int]) -> tuple[SensorRecord, tuple[str, ...]]:
        """Return the record of the bands in complete groups, and notes.

        Raises BandMismatchError, ConfigError or ModelError where it cannot take the data set or tiles of these sizes.
        """
        encoder = self._encoder(imagery)
        for size in sizes:
            encoder.patch_grid(size, size)
        return encoder.fitted.record, (*encoder.notes[:-1], WHOLE)

    def network(self, records: Sequence[SensorRecord]) -> GalileoTrainable:
        """Return a trainable copy of the network for the data sets with these records, in this order."""
        learner = GalileoTrainable([self._encoder(one) for one in records], records)
        learner.network.load_state_dict({name: self.weights[name] for name in learner.network.state_dict()})
        return learner

    def with_weights(self, weights: Mapping[str, Tensor]) -> "GalileoStart":
        """Return this start with the weights of such a trainable copy."""
        return replace(
            self, weights={**self.weights, **{name.removeprefix(NETWORK): value for name, value in weights.items()}}
        )

    def same_embeddings(self, other: "GalileoStart") -> bool:
        """Always True: apart from weights, both folders have the same files, which decide the embeddings."""
        return True

    def save(self, folder: Path, provenance: dict[str, Any]) -> None:
        """Publish the weights at `folder`, which must not exist, in the form that `galileo:FOLDER` reads."""
        publish(folder, self.folder, self.weights, provenance)

    def reference(self, folder: Path) -> str:
        """Return the ENCODER text of a saved folder, with the patch and month options of this start."""
        options = "&".join(f"{key}={value}" for key, value in self.named.options.items())
        return f"{GALILEO}:{folder}" + (f"?{options}" if options else "")

    def _encoder(self, imagery: SensorRecord) -> GalileoEncoder:
        return galileo_encoder(self.named, None, "mean", imagery, "cpu")


def galileo_start(reference: Reference) -> GalileoStart:
    """Return the start that `galileo:FOLDER` names. Raises ModelError for weights that are absent or damaged."""
    return GalileoStart(reference, read_renamed(Path(reference.name)))
