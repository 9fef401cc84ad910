"""How unusual the errors of a model are at a place, by what they are like where it was trained.

C bands, H W pixels, S pixels of a sample
"""

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

Floats = NDArray[np.float64]


@dataclass(frozen=True)
class UsualErrors:
    """Number of pixels, mean and scatter of a model's errors over the bands, in the unit of the data set."""

    pixels: int
    mean_C: Floats
    scatter_CC: Floats

    @classmethod
    def none(cls, bands: int) -> "UsualErrors":
        """Before any pixel was seen."""
        return cls(0, np.zeros(bands), np.zeros((bands, bands)))

    def joined(self, errors_SC: NDArray[np.floating]) -> "UsualErrors":
        """With another sample of pixels, which are valid in every band."""
        if not len(errors_SC):
            return self
        exact_SC = errors_SC.astype(np.float64)
        here_C, pixels = exact_SC.mean(0), self.pixels + len(exact_SC)
        apart_SC, step_C, share = exact_SC - here_C, here_C - self.mean_C, len(exact_SC) / pixels
        # Chan et al. 1983: the scatter of both parts about their means, and that of the means.
        between_CC = np.outer(step_C, step_C) * self.pixels * share
        return UsualErrors(pixels, self.mean_C + step_C * share, self.scatter_CC + apart_SC.T @ apart_SC + between_CC)

    def anomaly(self, error_CHW: NDArray[np.floating]) -> NDArray[np.float32]:
        """How unusual errors are (1 + C, H, W): first of all bands together, then each band in standard deviations.

        All bands together is the Mahalanobis distance divided by the root of C: about 1 where errors are usual, and
        high where bands err together as they do not where the model was trained. NaN where a band is.
        """
        covariance_CC = self.scatter_CC / self.pixels
        apart_CHW = error_CHW - self.mean_C[:, None, None]
        deviation_C = np.sqrt(np.maximum(np.diag(covariance_CC), np.finfo(np.float32).tiny))
        precision_CC = np.linalg.pinv(covariance_CC, hermitian=True)
        square_HW = np.einsum("chw,ck,khw->hw", apart_CHW, precision_CC, apart_CHW, optimize=True)
        together_HW = np.sqrt(np.maximum(square_HW, 0) / len(apart_CHW))
        return np.concatenate([together_HW[None], apart_CHW / deviation_C[:, None, None]]).astype(np.float32)
