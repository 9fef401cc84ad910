"""One token per patch and group of bands, with a kernel and a head of its own for each group (Cong et al. 2022).

B batch, N patches, C bands, G groups, X = G * N tokens in the order of the groups, P pixels of a patch, D width
"""

import torch
from torch import Tensor, nn

from geomae.models.embedding import HEAD_GAIN
from geomae.sensors.groups import Groups


class GroupedEmbedding(nn.Module):
    """A linear map of the bands of each group, as `StackedEmbedding` has one of all."""

    stored_C: Tensor

    def __init__(self, groups: Groups, pixels: int, width: int) -> None:
        super().__init__()
        self.sizes = [len(group) for group in groups]
        stored = [band for group in groups for band in group]
        # On the device: a list of Python's would be copied there in every step, and waited for.
        self.register_buffer("stored_C", torch.tensor(stored), persistent=False)
        self.proj = _maps([(len(group) * pixels, width) for group in groups], 1.0)

    def embed(self, patches_BNCP: Tensor, valid_BNCP: Tensor, codes_CF: Tensor) -> Tensor:
        """Tokens (B, X, D). Invalid pixels count as the mean of their band, which is zero here."""
        clean_BNCP = patches_BNCP.where(valid_BNCP, 0).index_select(2, self.stored_C)
        parts = zip(self.proj, torch.split(clean_BNCP, self.sizes, dim=2), strict=True)
        return torch.cat([proj(bands.flatten(2)) for proj, bands in parts], dim=1)


class GroupedHead(nn.Module):
    """A linear map from the token of each group to the bands of that group."""

    natural_C: Tensor

    def __init__(self, groups: Groups, pixels: int, width: int) -> None:
        super().__init__()
        self.groups = groups
        self.proj = _maps([(width, len(group) * pixels) for group in groups], HEAD_GAIN)
        stored = [band for group in groups for band in group]
        natural = sorted(range(len(stored)), key=stored.__getitem__)  # place of each band among the groups' bands
        self.register_buffer("natural_C", torch.tensor(natural), persistent=False)

    def predict(self, tokens_BXD: Tensor, codes_CF: Tensor) -> Tensor:
        """Predictions (B, N, C, P), bands in the model's own order: a group's head is scored against its bands only."""
        parts = tokens_BXD.chunk(len(self.groups), dim=1)
        found = [
            proj(part).unflatten(-1, (len(group), -1))
            for proj, part, group in zip(self.proj, parts, self.groups, strict=True)
        ]
        return torch.cat(found, dim=2).index_select(2, self.natural_C)


def _maps(shapes: list[tuple[int, int]], gain: float) -> nn.ModuleList:
    maps = nn.ModuleList()
    for inputs, outputs in shapes:
        linear = nn.Linear(inputs, outputs)
        nn.init.xavier_uniform_(linear.weight, gain=gain)
        nn.init.zeros_(linear.bias)
        maps.append(linear)
    return maps
