"""What training needs of a model, whoever built it.

B tiles, C bands, H W pixels, F features of a band's code, D width
"""

from abc import ABC, abstractmethod
from collections.abc import Sequence
from typing import NamedTuple

from torch import Tensor, nn

from geomae.models.masking import Mask
from geomae.sensors.band import Groups


class Loss(NamedTuple):
    """A loss of each tile and what it is divided by, as sums, so that ranks and passes can be added before dividing."""

    sum_B: Tensor
    count_B: Tensor

    def mean(self) -> Tensor:
        """The mean over what was counted; 0 where nothing was."""
        return self.sum_B.sum() / self.count_B.sum().clamp(min=1)


class View(NamedTuple):
    """Standardised tiles under a mask, with what is known of their sensor; `gsd_m` may differ by tile (B,)."""

    pixels_BCHW: Tensor
    valid_BCHW: Tensor
    codes_CF: Tensor
    mask: Mask
    gsd_m: float | Tensor | None = None
    dataset: int = 0


class Trainable(nn.Module, ABC):
    """A network that the terms of an objective teach."""

    decoder: nn.Module | None  # with `blocks`; None: it cannot learn from pixels

    @property
    @abstractmethod
    def width(self) -> int:
        """D of what the heads of the terms take."""

    @property
    @abstractmethod
    def groups(self) -> Groups | None:
        """Bands of each token, which masks have to know; None: all bands are in one, or it takes no masks."""

    @abstractmethod
    def reached(self, pixels: bool) -> Sequence[nn.Module]:
        """The blocks of the encoder, in their order, that gradients of the terms reach, with or without `pixels`."""

    @abstractmethod
    def unreached(self, pixels: bool) -> Sequence[nn.Module]:
        """The parts that no gradient reaches."""

    @abstractmethod
    def read(self, view: View, pixels: bool, *, shielded: bool = False) -> tuple[Tensor, Loss | None]:
        """The mean (B, D), in float32, of what it says of a view; with `pixels` also the loss on hidden ones.

        With `shielded` that loss teaches nothing of what the mean is made from.
        """
