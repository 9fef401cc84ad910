"""The masked autoencoder of He et al. 2022 written down once more, from the paper, in float64 and without any module.

It judges ours: weights in the published layout go in, prediction, loss and features come out.

B batch, C bands, N patches, D width
"""

import math

import torch
from torch import Tensor
from torch.nn import functional

torch.set_num_threads(1)  # on a busy machine, threads of so small products wait for each other most of the time


def sincos(side: int, width: int) -> Tensor:
    """Positions (1, 1 + N, D) of a square grid: zeros for the class token, then column features, then row features."""
    table = torch.zeros(1, 1 + side * side, width, dtype=torch.float64)
    for place in range(side * side):
        row, col = divmod(place, side)
        for half, value in enumerate((col, row)):
            for i in range(width // 4):
                angle = value / 10000 ** (i / (width / 4))
                table[0, 1 + place, half * (width // 2) + i] = math.sin(angle)
                table[0, 1 + place, half * (width // 2) + width // 4 + i] = math.cos(angle)
    return table


def published_weights(
    *,
    bands: int = 3,
    side: int = 4,
    patch: int = 4,
    width: int = 24,
    depth: int = 2,
    decoder: tuple[int, int] | None = (16, 1),
    learned: tuple[str, ...] = (),
    seed: int = 0,
) -> dict[str, Tensor]:
    """Random weights in the published layout; positions in `learned` (encoder, decoder) are random too.

    Everything is drawn, biases and norms as well, so that no default can hide a wrong mapping.
    """
    rng = torch.Generator().manual_seed(seed)

    def draw(*shape: int, about: float = 0.0, scale: float | None = None) -> Tensor:
        scale = scale or (shape[-1] ** -0.5 if len(shape) > 1 else 0.3)
        return about + scale * torch.randn(*shape, generator=rng)

    def blocks(prefix: str, width: int, depth: int) -> dict[str, Tensor]:
        found = {}
        for name in (f"{prefix}.{number}" for number in range(depth)):
            for layer, rows, cols in (
                ("attn.qkv", 3 * width, width),
                ("attn.proj", width, width),
                ("mlp.fc1", 4 * width, width),
                ("mlp.fc2", width, 4 * width),
            ):
                found |= {f"{name}.{layer}.weight": draw(rows, cols), f"{name}.{layer}.bias": draw(rows)}
            for norm in ("norm1", "norm2"):
                found |= {f"{name}.{norm}.weight": draw(width, about=1.0), f"{name}.{norm}.bias": draw(width)}
        return found

    def positions(which: str, width: int) -> Tensor:
        return draw(1, 1 + side * side, width, scale=0.5) if which in learned else sincos(side, width).float()

    weights = {
        "cls_token": draw(1, 1, width, scale=0.5),
        "pos_embed": positions("encoder", width),
        "patch_embed.proj.weight": draw(width, bands, patch, patch, scale=(bands * patch * patch) ** -0.5),
        "patch_embed.proj.bias": draw(width),
        **blocks("blocks", width, depth),
        "norm.weight": draw(width, about=1.0),
        "norm.bias": draw(width),
    }
    if decoder is None:
        return weights
    narrow, short = decoder
    return weights | {
        "mask_token": draw(1, 1, narrow, scale=0.5),
        "decoder_pos_embed": positions("decoder", narrow),
        "decoder_embed.weight": draw(narrow, width),
        "decoder_embed.bias": draw(narrow),
        **blocks("decoder_blocks", narrow, short),
        "decoder_norm.weight": draw(narrow, about=1.0),
        "decoder_norm.bias": draw(narrow),
        "decoder_pred.weight": draw(patch * patch * bands, narrow),
        "decoder_pred.bias": draw(patch * patch * bands),
    }


class Reference:
    """The published model as functions of its weights."""

    def __init__(
        self, weights: dict[str, Tensor], heads: int, decoder_heads: int, eps: float, target: str = "none"
    ) -> None:
        self.w = {name: value.double() for name, value in weights.items()}
        self.heads, self.decoder_heads, self.eps, self.target = heads, decoder_heads, eps, target

    def features(self, pixels_BCHW: Tensor) -> Tensor:
        """The encoder's output (B, 1 + N, D) on whole tiles, class token first."""
        return self._encode(pixels_BCHW, [list(range(self.places))] * len(pixels_BCHW))

    def reconstruct(self, pixels_BCHW: Tensor, visible: list[list[int]]) -> tuple[Tensor, Tensor]:
        """Predictions (B, N, p * p * C), pixels of a patch in the order (row, column, band), and the loss."""
        latent = self._encode(pixels_BCHW, visible)
        x = self._linear("decoder_embed", latent)
        whole = self.w["mask_token"].expand(len(x), self.places, -1).clone()
        for tile, places in enumerate(visible):
            for k, place in enumerate(places):
                whole[tile, place] = x[tile, 1 + k]
        x = torch.cat([x[:, :1], whole], 1) + self.w["decoder_pos_embed"]
        x = self._blocks("decoder_blocks", x, self.decoder_heads)
        prediction = self._linear("decoder_pred", self._norm("decoder_norm", x))[:, 1:]
        truth = self._patches(pixels_BCHW)
        if self.target == "patch":
            mean, variance = truth.mean(-1, keepdim=True), truth.var(-1, keepdim=True)
            truth = (truth - mean) / (variance + 1e-6).sqrt()
        error = (prediction - truth).square().mean(-1)
        hidden = torch.tensor([[place not in places for place in range(self.places)] for places in visible])
        return prediction, error[hidden].mean()

    @property
    def places(self) -> int:
        return self.w["pos_embed"].shape[1] - 1

    @property
    def patch(self) -> int:
        return self.w["patch_embed.proj.weight"].shape[-1]

    def _patches(self, pixels_BCHW: Tensor) -> Tensor:
        side = self.patch
        rows = [
            pixels_BCHW[:, :, top : top + side, left : left + side].permute(0, 2, 3, 1).flatten(1)
            for top in range(0, pixels_BCHW.shape[2], side)
            for left in range(0, pixels_BCHW.shape[3], side)
        ]
        return torch.stack(rows, 1).double()

    def _encode(self, pixels_BCHW: Tensor, visible: list[list[int]]) -> Tensor:
        kernel, bias = self.w["patch_embed.proj.weight"], self.w["patch_embed.proj.bias"]
        x = functional.conv2d(pixels_BCHW.double(), kernel, bias, stride=self.patch).flatten(2).transpose(1, 2)
        x = x + self.w["pos_embed"][:, 1:]
        x = torch.stack([tile[places] for tile, places in zip(x, visible, strict=True)])
        start = (self.w["cls_token"] + self.w["pos_embed"][:, :1]).expand(len(x), -1, -1)
        return self._norm("norm", self._blocks("blocks", torch.cat([start, x], 1), self.heads))

    def _blocks(self, prefix: str, x: Tensor, heads: int) -> Tensor:
        number = 0
        while f"{prefix}.{number}.norm1.weight" in self.w:
            name = f"{prefix}.{number}"
            x = x + self._attention(name, self._norm(f"{name}.norm1", x), heads)
            inner = self._linear(f"{name}.mlp.fc1", self._norm(f"{name}.norm2", x))
            gelu = inner * 0.5 * (1 + torch.erf(inner / math.sqrt(2)))
            x = x + self._linear(f"{name}.mlp.fc2", gelu)
            number += 1
        return x

    def _attention(self, name: str, x: Tensor, heads: int) -> Tensor:
        queries, keys, values = self._linear(f"{name}.attn.qkv", x).chunk(3, dim=-1)
        size = x.shape[-1] // heads
        mixed = []
        for head in range(heads):
            own = slice(head * size, (head + 1) * size)
            scores = queries[..., own] @ keys[..., own].transpose(1, 2) / math.sqrt(size)
            mixed.append(scores.softmax(-1) @ values[..., own])
        return self._linear(f"{name}.attn.proj", torch.cat(mixed, -1))

    def _norm(self, name: str, x: Tensor) -> Tensor:
        centred = x - x.mean(-1, keepdim=True)
        scaled = centred / (centred.square().mean(-1, keepdim=True) + self.eps).sqrt()
        return scaled * self.w[f"{name}.weight"] + self.w[f"{name}.bias"]

    def _linear(self, name: str, x: Tensor) -> Tensor:
        return x @ self.w[f"{name}.weight"].T + self.w[f"{name}.bias"]
