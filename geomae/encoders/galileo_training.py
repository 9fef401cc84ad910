"""Galileo as what an adaptation begins from, and as a network that the terms without a decoder teach.

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

NETWORK = "network."  # before the names of its weights in a `GalileoTrainable`
WHOLE = "views are whole tiles: Galileo takes no masks here, and masking.band_dropout does not apply"


class GalileoTrainable(Trainable):
    """One network, and how it takes each data set. A view is the mean of the seen tokens of the last layer, normed."""

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
        """All blocks."""
        return list(self.network.blocks)

    def unreached(self, pixels: bool) -> Sequence[nn.Module]:
        """The kernels of groups that no data set has whole."""
        seen = {group for one in self.encoders for group in one.fitted.groups}
        return [kernel for group, kernel in self.network.embed.items() if group not in seen]

    def read(self, view: View, pixels: bool, *, shielded: bool = False) -> tuple[Tensor, Loss | None]:
        """See `Trainable`; the mask has no part in it."""
        encoder, record = self.encoders[view.dataset], self.records[view.dataset]
        tokens = encoder.tokens(to_physical(view.pixels_BCHW, record), view.valid_BCHW, view.gsd_m)
        return tokens.pooled("mean").float(), None


@dataclass(frozen=True)
class GalileoStart:
    """A folder with Galileo's files, and weights (under our names) that may be others than those in it."""

    named: Reference
    weights: Mapping[str, Tensor]

    @property
    def folder(self) -> Path:
        """Where its files are."""
        return Path(self.named.name)

    @cached_property
    def provenance(self) -> dict[str, Any]:
        """Of a folder that an adaptation left; empty for published files."""
        path = self.folder / PROVENANCE
        return dict(read_json(path)) if path.is_file() else {}

    @property
    def digest(self) -> str:
        """Names the weights."""
        return weights_digest(self.weights)[:32]

    @property
    def decoding(self) -> None:
        """None: the published decoder predicts latents, not pixels, and is not read."""
        return None

    @property
    def groups(self) -> None:
        """None: it takes no masks."""
        return None

    @property
    def objective(self) -> Objective:
        """Two views of one tile are told apart from other tiles."""
        return Objective(pixels=0, contrast=1)

    @property
    def training(self) -> dict[str, Any]:
        """The side of its patches, by which valid pixels are counted."""
        return {"patch": int(self.named.options.get("patch", PATCH))}

    @property
    def untouched(self) -> tuple[str, ...]:
        """Nothing but weights."""
        return ()

    def with_sensor(self, imagery: SensorRecord, notes: list[str]) -> "GalileoStart":
        """The same: it knows no statistics of sensors."""
        return self

    def fit(self, imagery: SensorRecord, sizes: Sequence[int]) -> tuple[SensorRecord, tuple[str, ...]]:
        """The bands of the groups that are whole, and how it takes them.

        Raises BandMismatchError, ConfigError or ModelError where it cannot take the data set or tiles of these sizes.
        """
        encoder = self._encoder(imagery)
        for size in sizes:
            encoder.patch_grid(size, size)
        return encoder.fitted.record, (*encoder.notes[:-1], WHOLE)

    def network(self, records: Sequence[SensorRecord]) -> GalileoTrainable:
        """A copy of the weights that may learn the data sets with these records, by their numbers."""
        learner = GalileoTrainable([self._encoder(one) for one in records], records)
        learner.network.load_state_dict({name: self.weights[name] for name in learner.network.state_dict()})
        return learner

    def with_weights(self, weights: Mapping[str, Tensor]) -> "GalileoStart":
        """The same with the weights of such a copy."""
        return replace(
            self, weights={**self.weights, **{name.removeprefix(NETWORK): value for name, value in weights.items()}}
        )

    def same_embeddings(self, other: "GalileoStart") -> bool:
        """Always: nothing but weights, and what is in both folders, decides them."""
        return True

    def save(self, folder: Path, provenance: dict[str, Any]) -> None:
        """Publish it at `folder`, which must not exist, as a folder that `galileo:` reads."""
        publish(folder, self.folder, self.weights, provenance)

    def reference(self, folder: Path) -> str:
        """The ENCODER text of such a folder, with the patch and the month of this one."""
        options = "&".join(f"{key}={value}" for key, value in self.named.options.items())
        return f"{GALILEO}:{folder}" + (f"?{options}" if options else "")

    def _encoder(self, imagery: SensorRecord) -> GalileoEncoder:
        return galileo_encoder(self.named, None, "mean", imagery, "cpu")


def galileo_start(reference: Reference) -> GalileoStart:
    """What `galileo:FOLDER` names. Raises ModelError for weights that are absent or damaged."""
    return GalileoStart(reference, read_renamed(Path(reference.name)))
