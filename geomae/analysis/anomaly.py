"""How unusual the errors of a model are at a place, by what they are like where it was trained.

C bands, H W pixels, S pixels of a sample
"""

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

Floats = NDArray[np.float64]


@dataclass(frozen=True)
class UsualErrors:
    """Mean and covariance of a model's errors over the bands, in the unit of the data set."""

    mean_C: Floats
    covariance_CC: Floats

    @classmethod
    def of(cls, errors_SC: NDArray[np.floating]) -> "UsualErrors":
        """From the errors of a sample of pixels that are valid in every band; at least one."""
        exact_SC = errors_SC.astype(np.float64)
        mean_C = exact_SC.mean(0)
        apart_SC = exact_SC - mean_C
        return cls(mean_C, apart_SC.T @ apart_SC / len(exact_SC))

    def anomaly(self, error_CHW: NDArray[np.floating]) -> NDArray[np.float32]:
        """How unusual errors are (1 + C, H, W): first of all bands together, then each band in standard deviations.

        All bands together is the Mahalanobis distance divided by the root of C: about 1 where errors are usual, and
        high where bands err together as they do not where the model was trained. NaN where a band is.
        """
        apart_CHW = error_CHW - self.mean_C[:, None, None]
        deviation_C = np.sqrt(np.maximum(np.diag(self.covariance_CC), np.finfo(np.float32).tiny))
        precision_CC = np.linalg.pinv(self.covariance_CC, hermitian=True)
        square_HW = np.einsum("chw,ck,khw->hw", apart_CHW, precision_CC, apart_CHW, optimize=True)
        together_HW = np.sqrt(np.maximum(square_HW, 0) / len(apart_CHW))
        return np.concatenate([together_HW[None], apart_CHW / deviation_C[:, None, None]]).astype(np.float32)
