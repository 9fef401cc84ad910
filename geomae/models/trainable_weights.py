"""Which weights of a model are trained during adaptation, in full or as low-rank updates (LoRA, Hu et al. 2022).

I inputs, O outputs, R rank

full         all weights
last-blocks  the last blocks of the encoder, all norms, and the decoder, which must follow changes of the encoder
lora         low-rank updates of the blocks of encoder and decoder, all norms, the weights of single bands, and on
             demand the last blocks of the encoder in full (as in ExPLoRA, Khanna et al. 2024)
norm         all norms
heads        no weight of the model, only the heads of the loss terms, which are discarded: a control
"""

import math
from collections.abc import Mapping
from dataclasses import dataclass

from torch import Tensor, nn

from geomae.errors import ConfigError
from geomae.models.band_embedding import BandLayer
from geomae.models.trainable import Trainable

SCALE = 2.0  # alpha / r of LoRA with alpha = 2 r, so that one learning rate suits every rank
DOWN, UP = "down_RI", "up_OR"
NORMS = (nn.LayerNorm, nn.GroupNorm)


class LowRankLinear(nn.Linear):
    """A linear layer with weights W + SCALE * up @ down. `up` is initialised to zero, so outputs start unchanged."""

    def __init__(self, linear: nn.Linear, rank: int) -> None:
        super().__init__(linear.in_features, linear.out_features, bias=linear.bias is not None, device="meta")
        self.weight, self.bias = linear.weight, linear.bias
        self.down_RI = nn.Parameter(linear.weight.new_empty(rank, linear.in_features))
        self.up_OR = nn.Parameter(linear.weight.new_zeros(linear.out_features, rank))
        nn.init.kaiming_uniform_(self.down_RI, a=math.sqrt(5))

    def forward(self, x: Tensor) -> Tensor:
        """Map inputs (..., I) to outputs (..., O)."""
        low = nn.functional.linear(nn.functional.linear(x, self.down_RI), self.up_OR)
        return super().forward(x) + SCALE * low


def add_low_rank(module: nn.Module, rank: int) -> None:
    """Add a low-rank update to every linear layer within `module`; names and values of its weights stay.

    The rank is at most half of the layer's smaller side: beyond that, an update would not be smaller than the layer.
    """
    for parent in list(module.modules()):
        for name, part in list(parent.named_children()):
            if isinstance(part, nn.Linear) and not isinstance(part, LowRankLinear):
                setattr(parent, name, LowRankLinear(part, min(rank, max(min(part.weight.shape) // 2, 1))))


def merged(weights: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """Add every low-rank update to its weights; returns the state dict of a model without updates."""
    merged_weights = {name: value for name, value in weights.items() if not name.endswith((f".{DOWN}", f".{UP}"))}
    for name, down_RI in weights.items():
        if name.endswith(f".{DOWN}"):
            place = name.removesuffix(DOWN)
            weight_OI = weights[place + "weight"]
            # In float64, so that the sum is rounded only once.
            change_OI = SCALE * weights[place + UP].double() @ down_RI.double()
            merged_weights[place + "weight"] = (weight_OI.double() + change_OI).to(weight_OI.dtype)
    return merged_weights


@dataclass(frozen=True)
class Share:
    """Number of trained parameters, and of all parameters of the model without low-rank updates."""

    trained: int
    total: int

    @property
    def share(self) -> float:
        """Trained parameters as a fraction of all parameters; low-rank updates count as trained."""
        return self.trained / self.total


def unfreeze(model: Trainable, method: str, *, blocks: int, rank: int, pixels: bool = True) -> Share:
    """Freeze all weights but those of `method`; the last `blocks` blocks of the encoder are trained in full.

    Without the loss term `pixels`, parts that no other term reaches stay frozen, and blocks are counted among the
    others. Low-rank updates are added to `model` in place, initialised from torch's generator. Raises ConfigError where
    the encoder has fewer blocks, or where `method` is lora and its blocks have no linear layer.
    """
    reached, unreached = model.reached(pixels), model.unreached(pixels)
    depth, total = len(reached), sum(value.numel() for value in model.parameters())
    decoder = model.decoder if pixels else None
    if blocks > depth:
        raise ConfigError(
            f"--blocks {blocks}: the encoder has {depth} blocks{'' if pixels else ' that its terms reach'}"
        )
    if method == "lora" and not any(isinstance(part, nn.Linear) for block in reached for part in block.modules()):
        raise ConfigError("--method lora: is for transformers, and the model is convolutional; choose another method")
    model.requires_grad_(method == "full")
    free: list[nn.Module] = []
    if method not in ("full", "heads"):
        free += [part for part in model.modules() if isinstance(part, NORMS)]
    if method in ("last-blocks", "lora"):
        free += reached[depth - blocks :]
    if method == "last-blocks" and decoder is not None:
        free.append(decoder)
    if method == "lora":
        free += [module.of_bands for module in model.modules() if isinstance(module, BandLayer)]
    for part in free:
        part.requires_grad_(True)
    for part in unreached:
        part.requires_grad_(False)
    if method == "lora":
        for part in (
            *reached[: depth - blocks],
            *(decoder.get_submodule("blocks").children() if decoder is not None else ()),
        ):
            add_low_rank(part, rank)
    return Share(sum(value.numel() for value in model.parameters() if value.requires_grad), total)
