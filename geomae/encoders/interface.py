"""What every encoder is: tiles of one data set go in, in physical units, and vectors come out.

B tiles, C bands, H W pixels, N patches, D width
"""

from typing import Protocol

from torch import Tensor

from geomae.sensors import Band


class Encoder(Protocol):
    """An encoder that is ready for the bands and the unit of one data set."""

    @property
    def text(self) -> str:
        """How the user named it, without its label."""

    @property
    def bands(self) -> tuple[Band, ...]:
        """The bands that `embed` expects, in this order; those of the data set by name."""

    @property
    def gsd_m(self) -> float | None:
        """The ground sample distance that it takes the pixels for."""

    @property
    def digest(self) -> str:
        """Names what decides an embedding (weights, layer, pooling, normalisation): equal digests, equal embeddings."""

    @property
    def notes(self) -> tuple[str, ...]:
        """In words: how it normalises, which bands it takes and what was adapted."""

    def patch_grid(self, height: int, width: int) -> tuple[int, int]:
        """Rows and columns of the patch embeddings of a tile of this size; ConfigError where it cannot take it."""

    def embed(self, pixels_BCHW: Tensor, valid_BCHW: Tensor | None = None) -> tuple[Tensor, Tensor]:
        """Embeddings (tile_BD, patches_BND) in float32; N counts the patches row by row.

        Without `valid_BCHW`, pixels that are finite are valid. A patch without a valid pixel does not enter `tile_BD`.
        """
