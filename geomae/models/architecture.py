"""What fixes the shape of a model, and the presets."""

from typing import Literal, NamedTuple

from pydantic import Field, model_validator

from geomae.config import Decoder, Frozen


class Size(NamedTuple):
    """Width, depth and heads of an encoder."""

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
    """Everything needed to build a masked autoencoder; stored in the model folder."""

    embedding: Literal["stacked", "spectral"] = "spectral"
    bands: int = Field(gt=0, description="bands of a stacked embedding; of a spectral one, those it was trained with")
    patch: int = Field(gt=0, description="side of a patch in pixels")
    width: int = Field(gt=0)
    depth: int = Field(gt=0)
    heads: int = Field(gt=0)
    decoder: Decoder | None = Field(Decoder(), description="None for an encoder alone")
    target: Literal["none", "patch", "patch-band"] = "none"
    norm_eps: float = Field(1e-6, gt=0, description="epsilon of the layer norms")
    positions: Literal["sincos", "table"] = Field("sincos", description="computed for any grid, or stored for one")
    grid: tuple[int, int] | None = Field(None, description="rows and columns of stored positions")

    @model_validator(mode="after")
    def _consistent(self) -> "Architecture":
        if self.width % self.heads:
            raise ValueError(f"heads: {self.heads} does not divide the width {self.width}")
        if self.positions == "table" and self.grid is None:
            raise ValueError("grid: stored positions need the rows and columns they are for")
        return self


def architecture(preset: str, *, bands: int, patch: int, embedding: str, target: str, decoder: Decoder) -> Architecture:
    """The architecture of a preset."""
    width, depth, heads = PRESETS[preset]
    return Architecture.model_validate(
        {
            "embedding": embedding,
            "bands": bands,
            "patch": patch,
            "width": width,
            "depth": depth,
            "heads": heads,
            "decoder": decoder.model_dump(),
            "target": target,
        }
    )
