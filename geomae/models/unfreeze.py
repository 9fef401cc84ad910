"""Which weights of a model go on learning when it is adapted.

full         all of them
last-blocks  the last blocks of the encoder, all norms, and the decoder, which has to follow what the encoder says
lora         corrections of low rank to the blocks of encoder and decoder, all norms, what is known of single bands, and
             on demand the last blocks of the encoder in full (in the manner of ExPLoRA, Khanna et al. 2024)
norm         all norms
"""

from dataclasses import dataclass

from torch import nn

from geomae.errors import ConfigError
from geomae.models.embedding import KernelBasis, StackedEmbedding, StackedHead
from geomae.models.grouped import GroupedEmbedding, GroupedHead
from geomae.models.low_rank import add_low_rank
from geomae.models.mae import MaskedAutoencoder

METHODS = ("full", "last-blocks", "lora", "norm")
NORMS = (nn.LayerNorm, nn.GroupNorm)


@dataclass(frozen=True)
class Share:
    """How many parameters of a model learn, and how many it has without corrections of low rank."""

    trained: int
    total: int

    @property
    def share(self) -> float:
        """Of the model's parameters."""
        return self.trained / self.total


def unfreeze(mae: MaskedAutoencoder, method: str, *, blocks: int, rank: int) -> Share:
    """Let only the weights of `method` learn; the last `blocks` of the encoder do so in full.

    Corrections of low rank are put into `mae`, begun from torch's generator. Raises ConfigError where the encoder has
    not so many blocks, or none that corrections are for.
    """
    depth, total = len(mae.encoder.blocks), sum(value.numel() for value in mae.parameters())
    if blocks > depth:
        raise ConfigError(f"--blocks {blocks}: the encoder has {depth} blocks")
    if method == "lora" and mae.architecture.kind == "cae":
        raise ConfigError("--method lora: is for transformers, and the model is convolutional; choose another method")
    mae.requires_grad_(method == "full")
    free: list[nn.Module] = [part for part in mae.modules() if isinstance(part, NORMS)]
    if method in ("last-blocks", "lora"):
        free += mae.encoder.blocks[depth - blocks :]
    if method == "last-blocks" and mae.decoder is not None:
        free.append(mae.decoder)
    if method == "lora":
        free += [part for module in mae.modules() if (part := _of_bands(module)) is not None]
    for part in free:
        part.requires_grad_(True)
    if method == "lora":
        for part in (*mae.encoder.blocks[: depth - blocks], *(mae.decoder.blocks if mae.decoder is not None else ())):
            add_low_rank(part, rank)
    return Share(sum(value.numel() for value in mae.parameters() if value.requires_grad), total)


def _of_bands(module: nn.Module) -> nn.Module | None:
    """What a module knows of single bands, which no map of the blocks can learn for it; None for most modules."""
    if isinstance(module, KernelBasis):
        return module.mixture
    return module if isinstance(module, (StackedEmbedding, StackedHead, GroupedEmbedding, GroupedHead)) else None
