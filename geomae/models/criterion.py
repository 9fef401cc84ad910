"""The training loss of fine-tuning: cross entropy for classes, squared error for numbers.

B tiles, C bands, H W pixels, K classes; labels are codes, -1 where unknown, or standardised numbers
"""

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor
from torch.nn.functional import cross_entropy

from geomae.models.head_record import REGRESSION

UNKNOWN = -1


@dataclass(frozen=True)
class Criterion:
    """The loss of a task. `weight_K` is the weight of each class; with None, all labels count the same."""

    task: str
    weight_K: Sequence[float] | None = None
    smoothing: float = 0.0

    def losses(self, outputs_BK: Tensor, labels_B: Tensor, valid_BCHW: Tensor) -> Tensor:
        """The loss of each tile (B,), summed over labelled valid pixels where pixels are labelled.

        Logits that do not count are replaced before any arithmetic, so that a NaN there cannot reach a gradient.
        """
        if self.task == REGRESSION:
            return (outputs_BK[:, 0] - labels_B).square()
        known_B = self._known(labels_B, valid_BCHW)
        logits_BK = outputs_BK.where(known_B[:, None], 0)
        labels_B = labels_B.where(known_B, UNKNOWN)
        weight_K = None if self.weight_K is None else logits_BK.new_tensor(self.weight_K)
        loss_B = cross_entropy(
            logits_BK, labels_B, weight_K, ignore_index=UNKNOWN, reduction="none", label_smoothing=self.smoothing
        )
        return loss_B.flatten(1).sum(1) if loss_B.ndim > 1 else loss_B

    def count(self, labels_B: Tensor, valid_BCHW: Tensor) -> float:
        """The divisor of the summed loss: the number of labelled tiles or pixels, weighted by class."""
        if self.task == REGRESSION:
            return float(len(labels_B))
        known = labels_B[self._known(labels_B, valid_BCHW)]
        if self.weight_K is None:
            return float(len(known))
        return float(torch.tensor(self.weight_K, dtype=torch.float64)[known.cpu()].sum())

    @staticmethod
    def _known(labels_B: Tensor, valid_BCHW: Tensor) -> Tensor:
        return (labels_B != UNKNOWN) & valid_BCHW.any(1) if labels_B.ndim == 3 else labels_B != UNKNOWN
