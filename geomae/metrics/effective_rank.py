"""Effective rank of a set of vectors (Roy and Vetterli 2007): 1 where all lie on a line."""

from typing import Any

import numpy as np
from numpy.typing import NDArray


def effective_rank(variance_D: NDArray[np.floating[Any]]) -> float:
    """Exponential of the entropy of the fractions of variance; 0 without variance, NaN where one is not finite."""
    total = variance_D.sum()
    if not np.isfinite(total):
        return float("nan")
    share = variance_D[variance_D > 0] / total if total > 0 else variance_D[:0]
    return float(np.exp(-(share * np.log(share)).sum())) if share.size else 0.0


def rank_of_rows(rows_ND: NDArray[np.floating[Any]]) -> float:
    """Effective rank of vectors (N, D) after their mean is subtracted; NaN where a value is not finite."""
    centred_ND = rows_ND - rows_ND.mean(0)
    if not np.isfinite(centred_ND).all():
        return float("nan")
    return effective_rank(np.linalg.svd(centred_ND.astype(np.float64), compute_uv=False) ** 2)
