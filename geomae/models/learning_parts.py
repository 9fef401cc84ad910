"""Which weights of an encoder with a head learn, how fast, and which blocks are skipped at random.

full         all that the head reads
lora         corrections of low rank to the maps of attention (Hu et al. 2022), and the head
last-blocks  the last blocks that the head reads, and the head
head         the head alone

Blocks behind those that the head reads do not run, and stay as they are.
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
    """Let only the weights of `method` learn. Corrections of low rank are put into `network`, begun from torch's
    generator. Raises ConfigError where the head reads fewer than `blocks` blocks.
    """
    encoder, total = network.encoder, sum(value.numel() for value in network.parameters())
    read = network.head.layers[-1]
    if method == "last-blocks" and blocks > read:
        raise ConfigError(f"blocks: {blocks} are to learn, and the head reads {read}; choose fewer")
    encoder.requires_grad_(method == "full")
    if method == "last-blocks":
        encoder.blocks[read - blocks : read].requires_grad_(True)
    if method == "lora":
        for block in encoder.blocks[:read]:
            add_low_rank(block.get_submodule("attn"), rank)
    encoder.blocks[read:].requires_grad_(False)
    encoder.norm.requires_grad_(False)  # heads have norms of their own
    return Share(sum(value.numel() for value in network.parameters() if value.requires_grad), total)


def rate_scales(depth: int, decay: float) -> Callable[[str], float]:
    """What the learning rate of a parameter is multiplied by: decay^(depth + 1 - l), where l is 0 for the embedding
    and the tokens, i for block i from 1, and depth + 1 for the head, which reads `depth` blocks (He et al. 2022,
    appendix A.1; Clark et al. 2020).
    """

    def scale(name: str) -> float:
        block = BLOCK.match(name)
        layer = int(block[1]) + 1 if block else depth + 1 if name.startswith("head.") else 0
        return float(decay ** (depth + 1 - layer))

    return scale


def skip_at_random(network: FinetunedNetwork, most: float) -> None:
    """Skip the branches of blocks that learn while training, the last that the head reads with the chance `most`, the
    first never (Huang et al. 2016). It adds no weights.
    """
    blocks = network.encoder.blocks[: network.head.layers[-1]]
    for number, block in enumerate(blocks):
        chance = most * number / max(len(blocks) - 1, 1)
        learns = any(value.requires_grad for value in block.parameters())
        for name in ("drop_path1", "drop_path2"):
            setattr(block, name, DropPath(chance) if learns and chance > 0 else nn.Identity())
