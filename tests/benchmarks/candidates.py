"""Training steps to be measured: those of geomae, and of other implementations as their users run them."""

from collections.abc import Callable
from dataclasses import dataclass

import torch
from torch import Tensor

Step = Callable[[], None]


@dataclass(frozen=True)
class Case:
    """The shapes, which are equal for all candidates."""

    batch: int
    side: int
    patch: int
    encoder: tuple[int, int, int]  # width, depth, heads
    decoder: tuple[int, int, int]
    bands: int = 3
    ratio: float = 0.75

    @property
    def patches(self) -> int:
        """Patches of a tile."""
        return (self.side // self.patch) ** 2

    def products(self) -> float:
        """Floating point operations in the matrix products of one step of `full`: forward once, backward twice."""
        seen, all_tokens = 1 + round((1 - self.ratio) * self.patches), 1 + self.patches
        pixels, hidden = self.patch**2 * self.bands, self.patches + 1 - seen
        width, narrow = self.encoder[0], self.decoder[0]
        forward = _blocks(self.encoder, seen) + _blocks(self.decoder, all_tokens)
        forward += 2 * (seen * (pixels * width + width * narrow) + hidden * narrow * pixels)
        return 3 * self.batch * forward


SMALL = Case(64, 64, 8, (384, 12, 6), (192, 4, 6))
BASE = Case(16, 224, 16, (768, 12, 12), (512, 8, 16))


def ours(
    case: Case,
    device: torch.device,
    precision: str,
    kind: str = "full",
    predict: float = 1.0,
    *,
    compiled: bool = False,
) -> Step:
    """The step of `geomae pretrain`: our model, guard, clipping and optimizer, as the training loop takes them."""
    from geomae.config import Decoder
    from geomae.models.architecture import Architecture
    from geomae.models.mae import MaskedAutoencoder, compile_in_place
    from geomae.models.masking import Mask
    from geomae.training.optimizer import build_optimizer, decayed, guarded_step

    width, depth, heads = case.encoder
    narrow, layers, narrow_heads = case.decoder
    shape = Architecture(
        embedding="stacked", bands=case.bands, patch=case.patch, width=width, depth=depth, heads=heads, target="patch",
        decoder=Decoder(kind=kind, width=narrow, depth=layers, heads=narrow_heads, predict=predict),
    )  # fmt: skip
    model = MaskedAutoencoder(shape).to(device).train()
    if compiled:
        compile_in_place(model)
    optimizer = build_optimizer(model, decayed(model), 0.05)
    pixels_BCHW = torch.randn(case.batch, case.bands, case.side, case.side, device=device)
    valid_BCHW = torch.ones_like(pixels_BCHW, dtype=torch.bool)
    order_BN = torch.stack([torch.randperm(case.patches) for _ in range(case.batch)]).to(device)
    codes_CF = torch.zeros(case.bands, 1, device=device)  # a stacked embedding does not use them
    visible = round((1 - case.ratio) * case.patches)
    predicted = round(predict * (case.patches - visible)) if predict < 1 else None
    mask = Mask(order_BN, visible, predicted=predicted)

    def step() -> None:
        with torch.autocast(device.type, torch.bfloat16, enabled=precision == "bf16"):
            loss = model(pixels_BCHW, valid_BCHW, codes_CF, mask)
        loss.mean().backward()
        norm = torch.nn.utils.clip_grad_norm_(model.parameters(), 1.0)
        guarded_step(optimizer, 1e-4, ~torch.isfinite(norm))

    return step


def transformers(case: Case, device: torch.device, precision: str, attention: str) -> Step:
    """`ViTMAEForPreTraining` with AdamW, as its users run it."""
    from transformers import ViTMAEConfig, ViTMAEForPreTraining

    width, depth, heads = case.encoder
    narrow, layers, narrow_heads = case.decoder
    config = ViTMAEConfig(
        hidden_size=width, num_hidden_layers=depth, num_attention_heads=heads, intermediate_size=4 * width,
        image_size=case.side, patch_size=case.patch, num_channels=case.bands, decoder_hidden_size=narrow,
        decoder_num_hidden_layers=layers, decoder_num_attention_heads=narrow_heads,
        decoder_intermediate_size=4 * narrow, mask_ratio=case.ratio, norm_pix_loss=True, attn_implementation=attention,
    )  # fmt: skip
    model = ViTMAEForPreTraining(config).to(device).train()
    pixels_BCHW = torch.randn(case.batch, case.bands, case.side, case.side, device=device)
    return _plain_step(model.parameters(), lambda: model(pixels_BCHW).loss, device, precision)


def lightly(case: Case, device: torch.device, precision: str) -> Step:
    """A masked autoencoder from lightly's timm modules with AdamW, built as in its documentation."""
    from lightly.models import utils
    from lightly.models.modules.masked_autoencoder_timm import MAEDecoderTIMM
    from lightly.models.modules.masked_vision_transformer_timm import MaskedVisionTransformerTIMM
    from timm.models.vision_transformer import VisionTransformer

    width, depth, heads = case.encoder
    narrow, layers, narrow_heads = case.decoder
    vit = VisionTransformer(
        img_size=case.side, patch_size=case.patch, in_chans=case.bands, num_classes=0, embed_dim=width, depth=depth,
        num_heads=heads,
    )  # fmt: skip
    encoder = MaskedVisionTransformerTIMM(vit).to(device).train()
    decoder = MAEDecoderTIMM(
        num_patches=case.patches, patch_size=case.patch, in_chans=case.bands, embed_dim=width,
        decoder_embed_dim=narrow, decoder_depth=layers, decoder_num_heads=narrow_heads,
    )  # fmt: skip
    decoder = decoder.to(device).train()
    pixels_BCHW = torch.randn(case.batch, case.bands, case.side, case.side, device=device)
    size = (case.batch, 1 + case.patches)

    def loss() -> Tensor:
        kept, masked = utils.random_token_mask(size=size, mask_ratio=case.ratio, device=device)
        seen = decoder.embed(encoder.encode(pixels_BCHW, idx_keep=kept))
        tokens = utils.set_at_index(utils.repeat_token(decoder.mask_token, size).to(seen.dtype), kept, seen)
        predicted = decoder.predict(utils.get_at_index(decoder.decode(tokens), masked))
        target = utils.get_at_index(utils.patchify(pixels_BCHW, case.patch), masked - 1)
        target = (target - target.mean(-1, keepdim=True)) / (target.var(-1, keepdim=True) + 1e-6).sqrt()
        return (predicted - target).square().mean()

    return _plain_step([*encoder.parameters(), *decoder.parameters()], loss, device, precision)


def _plain_step(parameters: object, loss: Callable[[], Tensor], device: torch.device, precision: str) -> Step:
    optimizer = torch.optim.AdamW(parameters, lr=1e-4, betas=(0.9, 0.95), weight_decay=0.05)

    def step() -> None:
        with torch.autocast(device.type, torch.bfloat16, enabled=precision == "bf16"):
            value = loss()
        value.backward()
        optimizer.step()
        optimizer.zero_grad()

    return step


def _blocks(shape: tuple[int, int, int], tokens: int) -> float:
    """Operations of a tile's tokens through transformer blocks: four linear maps, and attention."""
    width, depth, _ = shape
    return depth * 2 * (12 * tokens * width**2 + 2 * tokens**2 * width)
