"""The training objective: a model with the heads of its loss terms.

pixels            squared error of the reconstruction of hidden pixels (mae.py)
contrast, places  contrastive loss between two views of a place (contrast.py)
textures          squared error of predicted features of the tile, or of its partner (textures.py)

B tiles, E width of the projection, P texture components, D width
"""

from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn

from geomae.config import Objective
from geomae.models.contrast import Gather, Negatives, Projection, contrast
from geomae.models.mae import MaskedAutoencoder
from geomae.models.textures import TextureHead, TextureTargets
from geomae.models.trainable import Loss, Trainable, View

KEPT = "kept."  # prefix of the names of weights that do not belong to a head


class TermLosses(NamedTuple):
    """The loss of each term, None for terms of weight 0, and the pooled embeddings (B, D) of the first views."""

    pixels: Loss | None
    places: Loss | None
    contrast: Loss | None
    textures: Loss | None
    pooled_BD: Tensor


class TrainedModel(nn.Module):
    """A model (`kept`) with the heads of its loss terms, which are discarded after training.

    `targets` holds the texture targets of each data set.
    """

    def __init__(self, kept: Trainable, objective: Objective, targets: Sequence[TextureTargets] = ()) -> None:
        super().__init__()
        self.kept, self.objective = kept, objective
        self.projection = Projection(kept.width) if objective.paired else None
        self.targets = nn.ModuleList(targets)
        self.textures = TextureHead(kept.width, len(targets)) if objective.textures else None
        # With several terms, a stop-gradient keeps the pixel loss from the first half of the encoder, whose output
        # commands use as features: it trains the second half and the decoder only.
        self.shielded = len(objective.weights()) > 1
        for part in kept.unreached(objective.pixels > 0):
            part.requires_grad_(False)

    def forward(
        self,
        first: View,
        second: View | None = None,
        negatives: Negatives | None = None,
        gather: Gather = lambda rows: rows,
    ) -> TermLosses:
        """The losses of this rank's tiles, as sums and counts, so that ranks are added before dividing."""
        places = alone = None
        pooled_BD, pixels = self.kept.read(first, self.objective.pixels > 0, shielded=self.shielded)
        if self.projection is not None and second is not None and negatives is not None:
            views_BE = (self.projection(pooled_BD), self.projection(self.kept.read(second, False)[0]))
            loss_B = contrast(*views_BE, negatives, self.objective.temperature, gather)
            places = self._of_pairs(loss_B, negatives.partner_B) if self.objective.places else None
            alone = self._of_pairs(loss_B, ~negatives.partner_B) if self.objective.contrast else None
        textures = self._textures(pooled_BD, first, second, negatives) if self.textures and self.training else None
        return TermLosses(pixels, places, alone, textures, pooled_BD.detach())

    def predict(self, *inputs: Any) -> Tensor:
        """`MaskedAutoencoder.predict` of the kept model; the trainer marks this name as a forward method."""
        assert isinstance(self.kept, MaskedAutoencoder)  # the only model with a decoder
        return self.kept.predict(*inputs)

    @staticmethod
    def _of_pairs(loss_B: Tensor, chosen_B: Tensor) -> Loss:
        return Loss(loss_B.where(chosen_B, 0), chosen_B.long())

    def _textures(self, pooled_BD: Tensor, first: View, second: View | None, negatives: Negatives | None) -> Loss:
        """Mean squared error over the components of each tile, or of its partner where it has one.

        Only used in training, since targets exist for the training data sets alone.
        """
        assert self.textures is not None
        if second is None or negatives is None:
            partner_B, second = pooled_BD.new_zeros(len(pooled_BD), dtype=torch.bool), first
        else:
            partner_B = negatives.partner_B
        if second.dataset == first.dataset:  # one pass suffices: filters cost as much as blocks
            partner_B111 = partner_B[:, None, None, None]
            pixels_BCHW = torch.where(partner_B111, second.pixels_BCHW, first.pixels_BCHW)
            valid_BCHW = torch.where(partner_B111, second.valid_BCHW, first.valid_BCHW)
            target_BP, counted_B = self.targets[first.dataset](pixels_BCHW, valid_BCHW)
        else:
            own_BP, own_B = self.targets[first.dataset](first.pixels_BCHW, first.valid_BCHW)
            other_BP, other_B = self.targets[second.dataset](second.pixels_BCHW, second.valid_BCHW)
            target_BP = torch.where(partner_B[:, None], other_BP, own_BP)
            counted_B = torch.where(partner_B, other_B, own_B)
        dataset_B = partner_B.long() * (second.dataset - first.dataset) + first.dataset
        error_B = (self.textures(pooled_BD, dataset_B) - target_BP).square().mean(1)
        return Loss(error_B.where(counted_B, 0), torch.ones_like(error_B))


def kept_weights(weights: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """Select the weights of the kept model from those of a `TrainedModel`, under the names of that model."""
    return {name.removeprefix(KEPT): value for name, value in weights.items() if name.startswith(KEPT)}
