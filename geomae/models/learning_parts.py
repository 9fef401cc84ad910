"""Fine-tuning: which weights are trained, their learning rates, and stochastic depth.

full         the head and all of the encoder that it reads
lora         low-rank updates of the attention layers (Hu et al. 2022), and the head
last-blocks  the last blocks that the head reads, and the head
head         the head alone

Blocks after the last one that the head reads do not run and stay unchanged.
"""

import re
from collections.abc import Callable

from timm.layers.drop import DropPath
from torch import nn

from geomae.errors import ConfigError
from geomae.models.finetuned import FinetunedNetwork
from geomae.models.trainable_weights import Share, add_low_rank

BLOCK = re.compile(r"encoder\.blocks\.(\d+)\.")


def let_learn(network: FinetunedNetwork, method: str, *, blocks: int, rank: int) -> Share:
    """Freeze all weights but those of `method`. Low-rank updates are added to `network` in place, initialised from
    torch's generator. Raises ConfigError where the head reads fewer than `blocks` blocks.
    """
    encoder, total = network.encoder, sum(value.numel() for value in network.parameters())
    read = network.head.layers[-1]
    if method == "last-blocks" and blocks > read:
        raise ConfigError(f"blocks: {blocks} are to be trained, but the head reads only {read}; choose fewer")
    encoder.requires_grad_(method == "full")
    if method == "last-blocks":
        encoder.blocks[read - blocks : read].requires_grad_(True)
    if method == "lora":
        for block in encoder.blocks[:read]:
            add_low_rank(block.get_submodule("attn"), rank)
    encoder.blocks[read:].requires_grad_(False)
    encoder.norm.requires_grad_(False)  # unused: the head reads tokens before the last norm
    return Share(sum(value.numel() for value in network.parameters() if value.requires_grad), total)


def rate_scales(depth: int, decay: float) -> Callable[[str], float]:
    """Layer-wise decay: a function from a parameter's name to the factor decay^(depth + 1 - l) of its learning rate.

    l is 0 for the embedding and the learned tokens, i for block i counted from 1, and depth + 1 for the head, which
    reads `depth` blocks (He et al. 2022, appendix A.1; Clark et al. 2020).
    """

    def scale(name: str) -> float:
        block = BLOCK.match(name)
        layer = int(block[1]) + 1 if block else depth + 1 if name.startswith("head.") else 0
        return float(decay ** (depth + 1 - layer))

    return scale


def skip_at_random(network: FinetunedNetwork, most: float) -> None:
    """Add stochastic depth to the trained blocks (Huang et al. 2016): their residual branches are dropped at random.

    The probability rises linearly from 0 in the first block to `most` in the last block that the head reads.
    """
    blocks = network.encoder.blocks[: network.head.layers[-1]]
    for number, block in enumerate(blocks):
        chance = most * number / max(len(blocks) - 1, 1)
        learns = any(value.requires_grad for value in block.parameters())
        for name in ("drop_path1", "drop_path2"):
            setattr(block, name, DropPath(chance) if learns and chance > 0 else nn.Identity())
