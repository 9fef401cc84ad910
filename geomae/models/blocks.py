"""What encoder and decoders are made of: timm's blocks, and positions for any grid.

B batch, K tokens, D width
"""

from functools import partial
from typing import Any

import torch
from timm.models.vision_transformer import Block
from torch import Tensor, nn

from geomae.errors import ModelError
from geomae.models.architecture import Architecture
from geomae.models.positions import sincos_positions


def blocks(architecture: Architecture, width: int, depth: int, heads: int) -> nn.ModuleList:
    """Self-attention blocks of timm, pre-norm, with its parameter names."""
    made = nn.ModuleList(
        Block(width, heads, mlp_ratio=4, qkv_bias=True, norm_layer=layer_norm(architecture)) for _ in range(depth)
    )
    start_linear(made)
    return made


def layer_norm(architecture: Architecture) -> Any:
    """The layer norm of a model, as a function of the width."""
    return partial(nn.LayerNorm, eps=architecture.norm_eps)


def start_linear(module: nn.Module) -> None:
    """Xavier weights and zero biases in every linear map of `module` (He et al. 2022, appendix A.1)."""
    for part in module.modules():
        if isinstance(part, nn.Linear):
            nn.init.xavier_uniform_(part.weight)
            nn.init.zeros_(part.bias)


def token(width: int, count: int = 1) -> nn.Parameter:
    """Learned tokens (1, count, D)."""
    return nn.Parameter(torch.empty(1, count, width).normal_(std=0.02))


class Positions(nn.Module):
    """What is added to tokens for the place they stand at: computed for any grid, or stored for one."""

    table: Tensor | None

    def __init__(self, architecture: Architecture, width: int) -> None:
        super().__init__()
        self.width = width
        self.shape = architecture.grid if architecture.positions == "table" else None
        table = None if self.shape is None else torch.zeros(1 + self.shape[0] * self.shape[1], width)
        self.register_buffer("table", table)  # came with foreign weights; not trained

    def forward(self, place_BK: Tensor, shape: tuple[int, int], scale: float) -> Tensor:
        """Positions (B, K, D) in float32 of the patches at `place_BK` in a grid of `shape`."""
        if self.table is None:
            return sincos_positions(*shape, self.width, place_BK.device, scale)[place_BK]
        if self.shape != shape:
            raise ModelError(
                f"this model has positions for {self.shape} patches only, not for {shape}; cut tiles to them"
            )
        return self.table[1:][place_BK]

    def of_class(self) -> Tensor | float:
        """What is added to the class token: nothing, unless foreign weights say otherwise."""
        return 0.0 if self.table is None else self.table[0]
