"""The masked autoencoder (He et al. 2022) for bands of any sensor: encode visible patches, predict hidden ones.

B batch, C bands, H W pixels, N patches, X tokens of a tile (one per patch and group), M predicted patches, P pixels of
a patch in one band, F features of a band's code, V visible tokens, D width. Pixels are standardised; only valid ones
count.
"""

from collections.abc import Sequence
from typing import NamedTuple

from torch import Tensor, nn

from geomae.errors import ModelError
from geomae.models.architecture import Architecture
from geomae.models.contrast import pool_visible
from geomae.models.convolutional_autoencoder import ConvolutionalDecoder, ConvolutionalEncoder
from geomae.models.decoder import Decoder, build_decoder
from geomae.models.encoder import Encoder
from geomae.models.masking import Mask
from geomae.models.patches import grid, normalise, patch_statistics, patchify, take
from geomae.models.trainable import Loss, Trainable, View
from geomae.sensors.band import Groups

Latent = Tensor | list[Tensor]  # tokens, or the maps of a convolutional encoder


class TilePatches(NamedTuple):
    """Tiles cut into patches, with the pixels that the encoder gets, those to predict and those that are scored."""

    patches_BNCP: Tensor
    valid_BNCP: Tensor
    shown_BNCP: Tensor  # of the bands that the encoder gets, in visible and hidden patches
    wanted_BM: Tensor  # the patches that are predicted
    valid_BMCP: Tensor
    scored_BMCP: Tensor
    shape: tuple[int, int]

    @property
    def truth_BMCP(self) -> Tensor:
        """The true pixels (B, M, C, P) of the patches to predict."""
        return take(self.patches_BNCP, self.wanted_BM)


def cut_tiles(pixels_BCHW: Tensor, valid_BCHW: Tensor, mask: Mask, side: int) -> TilePatches:
    """Cut standardised tiles into patches of `side` pixels under `mask`."""
    valid_BNCP = patchify(valid_BCHW, side)
    return TilePatches(
        patchify(pixels_BCHW, side), valid_BNCP, mask.shown_pixels(valid_BNCP), *mask.scored_pixels(valid_BNCP),
        grid(pixels_BCHW, side),
    )  # fmt: skip


class MaskedAutoencoder(Trainable):
    """Encoder, decoder and loss, as transformers or convolutional. `forward` is encode, decode, score."""

    def __init__(self, architecture: Architecture) -> None:
        super().__init__()
        self.architecture = architecture
        self.encoder: Encoder | ConvolutionalEncoder
        self.decoder: Decoder | ConvolutionalDecoder | None
        if architecture.kind == "cae":
            self.encoder = ConvolutionalEncoder(architecture)
            self.decoder = ConvolutionalDecoder(architecture) if architecture.decoder else None
        else:
            self.encoder, self.decoder = Encoder(architecture), build_decoder(architecture)

    @property
    def width(self) -> int:
        """See `Trainable`."""
        return self.architecture.width

    @property
    def groups(self) -> Groups | None:
        """See `Trainable`."""
        return self.architecture.groups

    def reached(self, pixels: bool) -> Sequence[nn.Module]:
        """All blocks with `pixels`; else those up to the middle block, whose output commands use as features."""
        return list(self.encoder.blocks[: None if pixels else self.architecture.middle])

    def unreached(self, pixels: bool) -> Sequence[nn.Module]:
        """Nothing with `pixels`; else all parts after the middle block."""
        if pixels:
            return []
        behind = [*self.encoder.blocks[self.architecture.middle :], self.encoder.norm]
        return behind if self.decoder is None else [*behind, self.decoder]

    def read(self, view: View, pixels: bool, *, shielded: bool = False) -> tuple[Tensor, Loss | None]:
        """The mean (B, D) of the visible tokens after the middle block; of a convolutional model, of its last map."""
        tiles = cut_tiles(view.pixels_BCHW, view.valid_BCHW, view.mask, self.architecture.patch)
        latent: Latent
        if isinstance(self.encoder, Encoder):
            self.check_groups(view.mask)
            middle, scale = self.architecture.middle, self.architecture.position_scale(view.gsd_m)
            start_BVD = self.encoder.start(
                tiles.patches_BNCP, tiles.shown_BNCP, view.codes_CF, view.mask.seen_BV, tiles.shape, scale
            )  # fmt: skip
            latent = self.encoder.run(start_BVD, 0, middle)
            pooled_BD = pool_visible(latent)
            if pixels:
                latent = latent.detach() if shielded else latent
                latent = self.encoder.finish(self.encoder.run(latent, middle, self.architecture.depth))
        else:
            latent = self.encode(
                tiles.patches_BNCP, tiles.shown_BNCP, view.codes_CF, view.mask, tiles.shape, view.gsd_m
            )  # fmt: skip
            pooled_BD = latent[-1].float().mean((2, 3))
        if not pixels:
            return pooled_BD, None
        predicted_BMCP = self.decode(latent, view.codes_CF, view.mask, tiles.wanted_BM, tiles.shape, view.gsd_m)
        return pooled_BD, self.score(predicted_BMCP, tiles.truth_BMCP, tiles.valid_BMCP, tiles.scored_BMCP)

    def forward(
        self, pixels_BCHW: Tensor, valid_BCHW: Tensor, codes_CF: Tensor, mask: Mask, gsd_m: float | None = None
    ) -> Loss:
        """The reconstruction loss of standardised tiles under `mask`.

        Values of invalid pixels, also NaN, influence neither the loss nor a gradient.
        """
        tiles = cut_tiles(pixels_BCHW, valid_BCHW, mask, self.architecture.patch)
        prediction_BMCP = self.predict(
            tiles.patches_BNCP, tiles.shown_BNCP, codes_CF, mask, tiles.wanted_BM, tiles.shape, gsd_m
        )
        return self.score(prediction_BMCP, tiles.truth_BMCP, tiles.valid_BMCP, tiles.scored_BMCP)

    def predict(
        self,
        patches_BNCP: Tensor,
        shown_BNCP: Tensor,
        codes_CF: Tensor,
        mask: Mask,
        wanted_BM: Tensor,
        shape: tuple[int, int],
        gsd_m: float | Tensor | None = None,
    ) -> Tensor:
        """Predict the patches `wanted_BM`: (B, M, C, P), in the units of the target.

        The encoder sees the pixels `shown_BNCP` in the visible tokens of `mask`.
        """
        self._check_decoder()
        latent = self.encode(patches_BNCP, shown_BNCP, codes_CF, mask, shape, gsd_m)
        return self.decode(latent, codes_CF, mask, wanted_BM, shape, gsd_m)

    def encode(
        self,
        patches_BNCP: Tensor,
        shown_BNCP: Tensor,
        codes_CF: Tensor,
        mask: Mask,
        shape: tuple[int, int],
        gsd_m: float | Tensor | None = None,
    ) -> Latent:
        """Encode the visible tokens: (B, 1 + V, D), or the feature maps of a convolutional encoder."""
        self.check_groups(mask)
        scale = self.architecture.position_scale(gsd_m)
        latent: Latent = self.encoder(patches_BNCP, shown_BNCP, codes_CF, mask.seen_BV, shape, scale)
        return latent

    def decode(
        self,
        latent: Latent,
        codes_CF: Tensor,
        mask: Mask,
        wanted_BM: Tensor,
        shape: tuple[int, int],
        gsd_m: float | Tensor | None = None,
    ) -> Tensor:
        """Predict the patches `wanted_BM` from the output of the encoder: (B, M, C, P)."""
        scale = self.architecture.position_scale(gsd_m)
        prediction: Tensor = self._check_decoder()(latent, codes_CF, mask.order_BX, wanted_BM, shape, scale)
        return prediction

    def check_groups(self, mask: Mask) -> None:
        """Raise ModelError where the mask has other groups of bands than the model."""
        if mask.groups != self.architecture.groups:
            raise ModelError(
                f"the mask is for the groups {mask.groups} of bands, the model has {self.architecture.groups}"
            )

    def _check_decoder(self) -> nn.Module:
        if self.decoder is None:
            raise ModelError("this model is an encoder alone and cannot reconstruct; take one with a decoder")
        return self.decoder

    def score(
        self, prediction_BMCP: Tensor, patches_BMCP: Tensor, valid_BMCP: Tensor, scored_BMCP: Tensor | None = None
    ) -> Loss:
        """Squared error of each tile against the target, over its valid pixels, or over those in `scored_BMCP`.

        Invalid values are replaced before any arithmetic, since a NaN there would otherwise reach the gradient.
        """
        patches_BMCP = patches_BMCP.where(valid_BMCP, 0)
        target_BMCP = normalise(patches_BMCP, patch_statistics(patches_BMCP, valid_BMCP, self.architecture.target))
        counted_BMCP = valid_BMCP if scored_BMCP is None else scored_BMCP
        error_BMCP = (prediction_BMCP.float() - target_BMCP).where(counted_BMCP, 0)
        return Loss(error_BMCP.square().sum((1, 2, 3)), counted_BMCP.sum((1, 2, 3)))


def compile_in_place(model: Trainable) -> None:
    """Compile the blocks at their first call; names of weights and the computation stay the same."""
    for block in [*model.reached(True), *(model.decoder.get_submodule("blocks").children() if model.decoder else [])]:
        block.compile()
