"""The training objective: a model with the heads of its loss terms.

pixels            squared error of the reconstruction of hidden pixels (mae.py)
contrast, places  contrastive loss between two views of a place (contrast.py)
textures          squared error of predicted features of the tile, or of its partner (textures.py)

TERMS is the registry: a new term is a weight in `config.Objective`, and an entry there (CONTRIBUTING.md).

B tiles, E width of the projection, P texture components, D width
"""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, NamedTuple, Protocol

import torch
from torch import Tensor, nn

from geomae.config import Objective
from geomae.models.contrast import Gather, Negatives, Projection, contrast
from geomae.models.mae import MaskedAutoencoder
from geomae.models.textures import TextureHead, TextureTargets
from geomae.models.trainable import Loss, Trainable, View

KEPT = "kept."  # prefix of the names of weights that do not belong to a head


class TermLosses(NamedTuple):
    """The loss of each term that has a weight, in their order, and the pooled embeddings (B, D) of the first views."""

    by_term: dict[str, Loss]
    pooled_BD: Tensor


class Read(NamedTuple):
    """What the model makes of a step: embeddings, the loss on hidden pixels, and the contrastive loss of each tile."""

    pooled_BD: Tensor
    pixels: Loss | None
    compared_B: Tensor | None
    first: View
    second: View | None
    negatives: Negatives | None


class StepTiles(Protocol):
    """The tiles of a step on the host, from which a term tells its count (`tiles.batches.Batch`)."""

    @property
    def tile_ids(self) -> Sequence[str]:
        """One id per tile."""

    @property
    def hidden_B(self) -> Tensor:
        """Number of scored pixels of each tile, over all bands."""

    @property
    def negatives(self) -> Negatives | None:
        """Which tiles have a partner; None where no views are compared."""


@dataclass(frozen=True)
class Term:
    """A term of the loss.

    `loss` gives the sum and count of each tile; None leaves the term out, which only validation may. `count` tells the
    summed count of this rank's tiles without reading from the device. `head` makes, from the width of the embeddings,
    a layer that only training needs; it is `heads[name]` of the TrainedModel.
    """

    loss: "Callable[[TrainedModel, Read], Loss | None]"
    count: Callable[[StepTiles], float]
    head: Callable[[int], nn.Module] | None = None


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
        own = {name: TERMS[name].head for name in objective.weights()}
        self.heads = nn.ModuleDict({name: make(kept.width) for name, make in own.items() if make is not None})
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
        compared_B = None
        pooled_BD, pixels = self.kept.read(first, self.objective.pixels > 0, shielded=self.shielded)
        if self.projection is not None and second is not None and negatives is not None:
            views_BE = (self.projection(pooled_BD), self.projection(self.kept.read(second, False)[0]))
            compared_B = contrast(*views_BE, negatives, self.objective.temperature, gather)
        read = Read(pooled_BD, pixels, compared_B, first, second, negatives)
        losses = {name: TERMS[name].loss(self, read) for name in self.objective.weights()}
        return TermLosses({name: one for name, one in losses.items() if one is not None}, pooled_BD.detach())

    def predict(self, *inputs: Any) -> Tensor:
        """`MaskedAutoencoder.predict` of the kept model; the trainer marks this name as a forward method."""
        assert isinstance(self.kept, MaskedAutoencoder)  # the only model with a decoder
        return self.kept.predict(*inputs)

    def texture_loss(self, read: Read) -> Loss | None:
        """Mean squared error over the components of each tile, or of its partner where it has one.

        None outside training, since targets exist for the training data sets alone.
        """
        if self.textures is None or not self.training:
            return None
        pooled_BD, first, second, negatives = read.pooled_BD, read.first, read.second, read.negatives
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


def _of_pairs(read: Read, partners: bool) -> Loss | None:
    """The contrastive loss of the tiles with a partner, or of those without."""
    if read.compared_B is None or read.negatives is None:
        return None
    chosen_B = read.negatives.partner_B if partners else ~read.negatives.partner_B
    return Loss(read.compared_B.where(chosen_B, 0), chosen_B.long())


def _count_pairs(tiles: StepTiles, partners: bool) -> float:
    assert tiles.negatives is not None  # views are compared
    counted_B, partner_B = tiles.negatives.counted_B, tiles.negatives.partner_B
    return float((partner_B if partners else counted_B & ~partner_B).sum())


TERMS: Mapping[str, Term] = {
    "pixels": Term(lambda model, read: read.pixels, lambda tiles: float(tiles.hidden_B.sum())),
    "places": Term(lambda model, read: _of_pairs(read, True), lambda tiles: _count_pairs(tiles, True)),
    "contrast": Term(lambda model, read: _of_pairs(read, False), lambda tiles: _count_pairs(tiles, False)),
    "textures": Term(TrainedModel.texture_loss, lambda tiles: float(len(tiles.tile_ids))),
}


def kept_weights(weights: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """Select the weights of the kept model from those of a `TrainedModel`, under the names of that model."""
    return {name.removeprefix(KEPT): value for name, value in weights.items() if name.startswith(KEPT)}
