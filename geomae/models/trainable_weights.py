"""Which weights of a model go on learning when it is adapted, in full or as corrections of low rank.

I inputs, O outputs, R rank

full         all of them
last-blocks  the last blocks of the encoder, all norms, and the decoder, which has to follow what the encoder says
lora         corrections of low rank to the blocks of encoder and decoder, all norms, what is known of single bands, and
             on demand the last blocks of the encoder in full (in the manner of ExPLoRA, Khanna et al. 2024)
norm         all norms
heads        nothing of the model: only the heads of the terms, which are thrown away; to compare others with
"""

import math
from collections.abc import Mapping
from dataclasses import dataclass

from torch import Tensor, nn

from geomae.errors import ConfigError
from geomae.models.band_embedding import GroupedEmbedding, GroupedHead, KernelBasis, StackedEmbedding, StackedHead
from geomae.models.trainable import Trainable

SCALE = 2.0  # of the correction; usually written alpha / r, with alpha = 2 r, so that one rate suits every rank
DOWN, UP = "down_RI", "up_OR"
NORMS = (nn.LayerNorm, nn.GroupNorm)


class LowRankLinear(nn.Linear):
    """W + SCALE * up @ down. `up` begins at zero, so that the map begins as the one it is made from."""

    def __init__(self, linear: nn.Linear, rank: int) -> None:
        super().__init__(linear.in_features, linear.out_features, bias=linear.bias is not None, device="meta")
        self.weight, self.bias = linear.weight, linear.bias
        self.down_RI = nn.Parameter(linear.weight.new_empty(rank, linear.in_features))
        self.up_OR = nn.Parameter(linear.weight.new_zeros(linear.out_features, rank))
        nn.init.kaiming_uniform_(self.down_RI, a=math.sqrt(5))

    def forward(self, x: Tensor) -> Tensor:
        """Outputs (..., O) of inputs (..., I)."""
        low = nn.functional.linear(nn.functional.linear(x, self.down_RI), self.up_OR)
        return super().forward(x) + SCALE * low


def add_low_rank(module: nn.Module, rank: int) -> None:
    """Put a correction beside every linear map within `module`; names and values of what is there stay.

    The rank is at most half of what the map is wide: beyond that a correction would not be smaller than the map.
    """
    for parent in list(module.modules()):
        for name, part in list(parent.named_children()):
            if isinstance(part, nn.Linear) and not isinstance(part, LowRankLinear):
                setattr(parent, name, LowRankLinear(part, min(rank, max(min(part.weight.shape) // 2, 1))))


def merged(weights: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """A state dict in which every correction is added to its weights: that of a model without any."""
    merged_weights = {name: value for name, value in weights.items() if not name.endswith((f".{DOWN}", f".{UP}"))}
    for name, down_RI in weights.items():
        if name.endswith(f".{DOWN}"):
            place = name.removesuffix(DOWN)
            weight_OI = weights[place + "weight"]
            # In float64: the sum is rounded once.
            change_OI = SCALE * weights[place + UP].double() @ down_RI.double()
            merged_weights[place + "weight"] = (weight_OI.double() + change_OI).to(weight_OI.dtype)
    return merged_weights


@dataclass(frozen=True)
class Share:
    """How many parameters of a model learn, and how many it has without corrections of low rank."""

    trained: int
    total: int

    @property
    def share(self) -> float:
        """Of the model's parameters."""
        return self.trained / self.total


def unfreeze(model: Trainable, method: str, *, blocks: int, rank: int, pixels: bool = True) -> Share:
    """Let only the weights of `method` learn; the last `blocks` of the encoder do so in full.

    Without the term `pixels`, what its gradients alone would reach does not count. Corrections of low rank are put into
    `model`, begun from torch's generator. Raises ConfigError where the encoder has not so many blocks, or none that
    corrections are for.
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
        free += [part for module in model.modules() if (part := _of_bands(module)) is not None]
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


def _of_bands(module: nn.Module) -> nn.Module | None:
    """What a module knows of single bands, which no map of the blocks can learn for it; None for most modules."""
    if isinstance(module, KernelBasis):
        return module.mixture
    return module if isinstance(module, (StackedEmbedding, StackedHead, GroupedEmbedding, GroupedHead)) else None
