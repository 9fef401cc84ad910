"""The settings that define a model's architecture, and the presets."""

from typing import Any, Literal, NamedTuple

from pydantic import Field, model_validator
from torch import Tensor

from geomae.config import Decoder, Embedding, Frozen
from geomae.errors import ModelError
from geomae.models.band_embedding import EMBEDDINGS


class Size(NamedTuple):
    """Width, depth and number of attention heads of an encoder."""

    width: int
    depth: int
    heads: int


PRESETS = {
    "tiny": Size(192, 12, 3),
    "small": Size(384, 12, 6),
    "base": Size(768, 12, 12),
    "large": Size(1024, 24, 16),
    "huge": Size(1280, 32, 16),
}


class Architecture(Frozen):
    """Everything needed to build a model; stored in the model folder.

    The four stages of a convolutional autoencoder have an eighth, a quarter, a half and all of `width`; `depth` blocks
    follow.
    """

    kind: Literal["mae", "cae"] = Field("mae", description="mae: transformers, cae: convolutional")
    embedding: Embedding = "spectral"
    bands: int = Field(gt=0, description="number of bands; of a spectral embedding, those it was trained with")
    groups: tuple[tuple[int, ...], ...] | None = Field(
        None, description="bands of each token of a grouped embedding, as indices into the model's bands"
    )
    patch: int = Field(gt=0, description="side of a patch in pixels")
    width: int = Field(gt=0)
    depth: int = Field(gt=0)
    heads: int = Field(gt=0, description="attention heads; in a convolutional autoencoder, groups of its group norms")
    decoder: Decoder | None = Field(
        Decoder(), description="None without a decoder; a convolutional autoencoder has its own, without settings"
    )
    target: Literal["none", "patch", "patch-band"] = "none"
    norm_eps: float = Field(1e-6, gt=0, description="epsilon of the layer norms")
    positions: Literal["sincos", "gsd", "table"] = Field(
        "sincos",
        description="sincos: computed for any grid; gsd: computed and scaled by the gsd; table: stored for one grid",
    )
    reference_gsd_m: float = Field(10.0, gt=0, description="gsd in metres at which positions are not scaled")
    grid: tuple[int, int] | None = Field(None, description="rows and columns of stored positions")

    @model_validator(mode="after")
    def _consistent(self) -> "Architecture":
        if self.width % self.heads:
            raise ValueError(f"heads: {self.heads} does not divide the width {self.width}")
        if self.kind == "cae" and (self.embedding != "stacked" or self.positions != "sincos" or self.width % 8):
            raise ValueError("kind: cae needs embedding stacked, positions sincos and a width that 8 divides")
        if self.kind == "cae" and self.width // 8 % self.heads:
            raise ValueError(f"heads: {self.heads} does not divide an eighth of the width {self.width}")
        if self.positions == "table" and self.grid is None:
            raise ValueError("grid: stored positions need the rows and columns of their grid")
        if (self.groups is not None) != (self.embedding == "grouped"):
            raise ValueError("groups: are required by embedding grouped, and allowed with no other")
        if self.groups and sorted(i for group in self.groups for i in group) != list(range(self.bands)):
            raise ValueError("groups: every band must be in exactly one group")
        return self

    @property
    def tokens(self) -> int:
        """Tokens per patch: one per group, or one for all bands."""
        return len(self.groups or (0,))

    @property
    def any_bands(self) -> bool:
        """Whether the weights take any set of bands, and not one that is fixed."""
        return EMBEDDINGS[self.embedding].any_bands

    @property
    def middle(self) -> int:
        """See `middle_layer`."""
        return middle_layer(self.depth)

    def position_scale(self, gsd_m: float | Tensor | None) -> float | Tensor:
        """The factor by which positions are multiplied; (B,) where the gsd differs by tile.

        Raises ModelError where the model scales positions by the gsd and `gsd_m` is None.
        """
        if self.positions != "gsd":
            return 1.0
        if gsd_m is None:
            raise ModelError("positions=gsd needs the ground sample distance of the tiles; add gsd_m to the catalogue")
        return gsd_m / self.reference_gsd_m


def middle_layer(depth: int) -> int:
    """The block of an encoder, counted from 1, after which training compares views and commands take the features.

    Where the decoder is small, the last blocks of the encoder specialise in the reconstruction (docs/choices.md).
    """
    return max(1, depth // 2)


def architecture(preset: str, **options: Any) -> Architecture:
    """Build the architecture of a preset; `options` are further fields of `Architecture`."""
    return Architecture.model_validate({**PRESETS[preset]._asdict(), **options})
