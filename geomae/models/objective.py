"""What is trained: a masked autoencoder with the heads of the terms that its objective is made of.

pixels            what is hidden of a view is predicted: squared error against the target (mae.py)
contrast, places  the views of a tile are told apart from those of other tiles (contrast.py)
textures          what fixed filters say of a tile, or of its partner, is predicted from its visible part (textures.py)

B tiles, D width
"""

from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn

from geomae.config import Objective
from geomae.models.contrast import Gather, Negatives, Projection, contrast, pool_visible
from geomae.models.encoder import Encoder
from geomae.models.mae import Latent, Loss, MaskedAutoencoder, TilePatches, cut_tiles
from geomae.models.masking import Mask
from geomae.models.textures import TextureHead, TextureTargets

KEPT = "mae."  # before the names of weights that are no head's


class View(NamedTuple):
    """Standardised tiles under a mask, with what is known of their sensor; `gsd_m` may differ by tile (B,)."""

    pixels_BCHW: Tensor
    valid_BCHW: Tensor
    codes_CF: Tensor
    mask: Mask
    gsd_m: float | Tensor | None = None
    dataset: int = 0


class TermLosses(NamedTuple):
    """The loss of each term, None where it has no weight, and the mean visible tokens of the first views (B, D)."""

    pixels: Loss | None
    places: Loss | None
    contrast: Loss | None
    textures: Loss | None
    pooled_BD: Tensor


class TrainedModel(nn.Module):
    """A masked autoencoder and the heads of its terms, which are thrown away after training.

    `targets` of textures are those of each data set.
    """

    def __init__(self, mae: MaskedAutoencoder, objective: Objective, targets: Sequence[TextureTargets] = ()) -> None:
        super().__init__()
        self.mae, self.objective = mae, objective
        self.projection = Projection(mae.architecture.width) if objective.paired else None
        self.targets = nn.ModuleList(targets)
        self.textures = TextureHead(mae.architecture.width, len(targets)) if objective.textures else None
        # Pixels pull the first half of the encoder away from what the other terms teach it (docs/choices.md). Beside
        # them they teach the second half and the decoder alone, which reconstruct no worse.
        self.shielded = len(objective.weights()) > 1
        if not objective.pixels:  # nothing reaches what lies behind the block after which views are compared
            for part in (*mae.encoder.blocks[mae.architecture.middle :], mae.encoder.norm):
                part.requires_grad_(False)

    def forward(
        self,
        first: View,
        second: View | None = None,
        negatives: Negatives | None = None,
        gather: Gather = lambda rows: rows,
    ) -> TermLosses:
        """The losses of this rank's tiles, as sums: nothing is divided before all ranks are added."""
        mae = self.mae
        tiles = cut_tiles(first.pixels_BCHW, first.valid_BCHW, first.mask, mae.architecture.patch)
        pixels = places = alone = None
        latent: Latent | None = None
        if isinstance(mae.encoder, Encoder):
            middle_BVD, other_BVD = self._middle(first, second, tiles)
            pooled_BD = pool_visible(middle_BVD)
            if self.objective.pixels:
                latent = self._last(middle_BVD.detach() if self.shielded else middle_BVD)
            if self.projection is not None and other_BVD is not None and negatives is not None:
                views_BE = (self.projection(pooled_BD), self.projection(pool_visible(other_BVD)))
                loss_B = contrast(*views_BE, negatives, self.objective.temperature, gather)
                places = self._of_pairs(loss_B, negatives.partner_B) if self.objective.places else None
                alone = self._of_pairs(loss_B, ~negatives.partner_B) if self.objective.contrast else None
        else:
            latent = maps = mae.encode(
                tiles.patches_BNCP, tiles.shown_BNCP, first.codes_CF, first.mask, tiles.shape, first.gsd_m
            )
            pooled_BD = maps[-1].float().mean((2, 3))
        if latent is not None:
            predicted_BMCP = mae.decode(latent, first.codes_CF, first.mask, tiles.wanted_BM, tiles.shape, first.gsd_m)
            pixels = mae.score(predicted_BMCP, tiles.truth_BMCP, tiles.valid_BMCP, tiles.scored_BMCP)
        textures = self._textures(pooled_BD, first, second, negatives) if self.textures and self.training else None
        return TermLosses(pixels, places, alone, textures, pooled_BD.detach())

    def predict(self, *inputs: Any) -> Tensor:
        """As `MaskedAutoencoder.predict`, by the name that strategies wrap."""
        return self.mae.predict(*inputs)

    @staticmethod
    def _of_pairs(loss_B: Tensor, chosen_B: Tensor) -> Loss:
        return Loss(loss_B.where(chosen_B, 0), chosen_B.long())

    def _textures(self, pooled_BD: Tensor, first: View, second: View | None, negatives: Negatives | None) -> Loss:
        """Mean squared error over the components of each tile, or of its partner where it has one.

        In training alone: targets are of its data sets.
        """
        assert self.textures is not None
        if second is None or negatives is None:
            partner_B, second = pooled_BD.new_zeros(len(pooled_BD), dtype=torch.bool), first
        else:
            partner_B = negatives.partner_B
        if second.dataset == first.dataset:  # one pass: filters cost as much as blocks
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

    def _middle(self, first: View, second: View | None, tiles: TilePatches) -> tuple[Tensor, Tensor | None]:
        """Visible tokens (B, 1 + V, D) of both views after the middle block, where commands read an encoder."""
        encoder, architecture = self.mae.encoder, self.mae.architecture
        assert isinstance(encoder, Encoder)  # the configuration refuses to compare views of a convolutional model
        starts = [self._start(first, tiles)]
        if second is not None:
            others = cut_tiles(second.pixels_BCHW, second.valid_BCHW, second.mask, architecture.patch)
            starts.append(self._start(second, others))
        # Both go through the blocks as one batch: large products keep more processors busy.
        middle = torch.split(encoder.run(torch.cat(starts), 0, architecture.middle), len(starts[0]))
        return middle[0], middle[1] if second is not None else None

    def _start(self, view: View, tiles: TilePatches) -> Tensor:
        """Visible tokens (B, 1 + V, D) of a view before the first block."""
        encoder, architecture = self.mae.encoder, self.mae.architecture
        assert isinstance(encoder, Encoder)
        self.mae.check_groups(view.mask)
        scale = architecture.position_scale(view.gsd_m)
        return encoder.start(
            tiles.patches_BNCP, tiles.shown_BNCP, view.codes_CF, view.mask.seen_BV, tiles.shape, scale
        )  # fmt: skip

    def _last(self, middle_BVD: Tensor) -> Tensor:
        """The same after all blocks and the norm."""
        encoder, architecture = self.mae.encoder, self.mae.architecture
        assert isinstance(encoder, Encoder)
        return encoder.finish(encoder.run(middle_BVD, architecture.middle, architecture.depth))


def kept_weights(weights: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """Of the weights of a `TrainedModel`, those of its masked autoencoder, by their names there."""
    return {name.removeprefix(KEPT): value for name, value in weights.items() if name.startswith(KEPT)}
