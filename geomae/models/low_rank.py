"""Linear maps that learn a correction of low rank beside weights that stay (LoRA, Hu et al. 2022).

I inputs, O outputs, R rank
"""

import math
from collections.abc import Mapping

from torch import Tensor, nn

SCALE = 2.0  # of the correction; usually written alpha / r, with alpha = 2 r, so that one rate suits every rank
DOWN, UP = "down_RI", "up_OR"


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
    found = {name: value for name, value in weights.items() if not name.endswith((f".{DOWN}", f".{UP}"))}
    for name, down_RI in weights.items():
        if name.endswith(f".{DOWN}"):
            place = name.removesuffix(DOWN)
            weight_OI = weights[place + "weight"]
            # In float64: the sum is rounded once.
            change_OI = SCALE * weights[place + UP].double() @ down_RI.double()
            found[place + "weight"] = (weight_OI.double() + change_OI).to(weight_OI.dtype)
    return found
