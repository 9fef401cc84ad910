"""The interface between training and a model: losses, views, and the methods that a trainable model must have.

B tiles, C bands, H W pixels, F features of a band's code, D width
"""

from abc import ABC, abstractmethod
from collections.abc import Sequence
from typing import NamedTuple

from torch import Tensor, nn

from geomae.models.masking import Mask
from geomae.sensors.band import Groups


class Loss(NamedTuple):
    """The summed loss and the count of each tile (B,), so that ranks and passes are added before dividing."""

    sum_B: Tensor
    count_B: Tensor

    def mean(self) -> Tensor:
        """Sum of losses divided by sum of counts; 0 where the count is 0."""
        return self.sum_B.sum() / self.count_B.sum().clamp(min=1)


class View(NamedTuple):
    """Standardised tiles with a mask, codes of their bands, gsd (which may differ by tile: (B,)) and data set."""

    pixels_BCHW: Tensor
    valid_BCHW: Tensor
    codes_CF: Tensor
    mask: Mask
    gsd_m: float | Tensor | None = None
    dataset: int = 0


class Trainable(nn.Module, ABC):
    """A network that can be trained by the loss terms of an objective."""

    decoder: nn.Module | None  # has `blocks`; None: the term `pixels` cannot be used

    @property
    @abstractmethod
    def width(self) -> int:
        """Width D of the embeddings that the heads of the loss terms take."""

    @property
    @abstractmethod
    def groups(self) -> Groups | None:
        """Bands of each token, needed to draw masks; None where all bands share a token or the model takes no masks."""

    @abstractmethod
    def reached(self, pixels: bool) -> Sequence[nn.Module]:
        """The blocks of the encoder, in order, that receive gradients, with or without the term `pixels`."""

    @abstractmethod
    def unreached(self, pixels: bool) -> Sequence[nn.Module]:
        """The parts that receive no gradient."""

    @abstractmethod
    def read(self, view: View, pixels: bool, *, shielded: bool = False) -> tuple[Tensor, Loss | None]:
        """The pooled embedding (B, D) of a view in float32; with `pixels` also the loss on hidden pixels.

        With `shielded`, a stop-gradient keeps that loss from the parts that compute the embedding.
        """
