"""Building blocks of encoders and decoders: timm's blocks, attention kernels, shifted windows, positions.

Attention kernels are chosen by a fixed rule: a choice by timing would differ between runs, and with it the last bits of
the weights. Positions are the fixed 2-D ones of He et al. 2022: each half of the width encodes one axis as in Vaswani
et al. 2017.

B batch, K tokens, G tokens per patch, X = G * rows * cols tokens, D width, W windows,
L = G * w * w tokens of a window
"""

from functools import partial
from typing import Any

import torch
from timm.models.vision_transformer import Block
from torch import Tensor, nn

from geomae.errors import ModelError
from geomae.models.architecture import Architecture

LONGEST_PLAIN = 256  # tokens up to which plain attention is faster on CPUs in bf16 (tests/benchmarks/training_step.py)


def prefers_fused(device: torch.device, dtype: torch.dtype, tokens: int) -> bool:
    """Whether PyTorch's fused attention is faster than plain matrix products for `tokens` tokens.

    On CUDA, fused kernels are faster at every length that occurs here. On CPUs, the fused kernel is optimised for long
    sequences; in bf16 its backward pass on short ones costs more than plain attention as a whole.
    """
    if device.type != "cpu":
        return True
    return dtype == torch.float32 or tokens > LONGEST_PLAIN


def choose_kernels(blocks: nn.Module, device: torch.device, tokens: int) -> None:
    """Choose fused or plain attention in every timm block of `blocks`, for the current autocast precision."""
    autocast = torch.is_autocast_enabled(device.type)
    dtype = torch.get_autocast_dtype(device.type) if autocast else torch.float32
    fused = prefers_fused(device, dtype, tokens)
    for module in blocks.modules():
        if hasattr(module, "fused_attn"):
            module.fused_attn = fused  # type: ignore[assignment]


def attend(q_BHYE: Tensor, k_BHVE: Tensor, v_BHVE: Tensor) -> Tensor:
    """Attention (B, H, Y, E) of Y queries to V keys in H heads, fused or plain by `prefers_fused`."""
    if prefers_fused(q_BHYE.device, q_BHYE.dtype, k_BHVE.shape[2]):
        fused: Tensor = nn.functional.scaled_dot_product_attention(q_BHYE, k_BHVE, v_BHVE)
        return fused
    weight = (q_BHYE * q_BHYE.shape[-1] ** -0.5) @ k_BHVE.transpose(-2, -1)
    mixed: Tensor = weight.softmax(dim=-1) @ v_BHVE
    return mixed


def sincos_positions(
    rows: int, cols: int, width: int, device: torch.device | str = "cpu", scale: float = 1.0
) -> Tensor:
    """Sine-cosine positions (N, D) in float32 of a grid of rows x cols patches, in row-major order.

    The first half of the D features encodes the column, the second the row, as in the published weights. Row and column
    are multiplied by `scale`, which is gsd_m / reference_gsd_m where positions follow the gsd: a distance on the ground
    is then encoded in the same way at every resolution (Reed et al. 2023, Scale-MAE, section 3).
    """
    row, col = torch.meshgrid(torch.arange(rows), torch.arange(cols), indexing="ij")
    # In float64, since angles over a wide grid lose digits in float32.
    places = encode_places(scale * row.reshape(-1).double(), scale * col.reshape(-1).double(), width)
    return places.to(device)


def encode_places(row: Tensor, col: Tensor, width: int) -> Tensor:
    """Sine-cosine encoding (..., D) in float32 of rows and columns (...). `width` D must be a multiple of 4."""
    if width % 4:
        raise ValueError(f"positions need a width that is a multiple of 4, not {width}")
    dtype = torch.float32 if row.device.type == "mps" else torch.float64
    frequency = 10000.0 ** (-torch.arange(width // 4, dtype=dtype, device=row.device) / (width / 4))
    halves = []
    for axis in (col, row):
        angle = axis[..., None].to(dtype) * frequency
        halves += [angle.sin(), angle.cos()]
    return torch.cat(halves, dim=-1).float()


def attend_in_windows(
    block: nn.Module, x_BXD: Tensor, shape: tuple[int, int], tokens: int, window: int, shift: int
) -> Tensor:
    """Apply `block` to tokens (B, X, D) within windows of w x w patches; tokens are ordered by group, row and column.

    Shifted windows wrap around the edges; an attention mask separates patches that are not neighbours. Raises
    ModelError where windows do not divide the grid.
    """
    rows, cols = shape
    check_window(window, shape)
    B, D = len(x_BXD), x_BXD.shape[-1]
    x = x_BXD.reshape(B, tokens, rows, cols, D)
    if shift:
        x = x.roll((-shift, -shift), dims=(2, 3))
    x = x.reshape(B, tokens, rows // window, window, cols // window, window, D).permute(0, 2, 4, 1, 3, 5, 6)
    x = x.reshape(-1, tokens * window**2, D)
    mask = None
    if shift:
        mask = _window_mask(shape, tokens, window, shift, x.device).to(x.dtype).repeat(B, 1, 1)[:, None]
    windows: Tensor = block(x, attn_mask=mask)
    x = windows.reshape(B, rows // window, cols // window, tokens, window, window, D).permute(0, 3, 1, 4, 2, 5, 6)
    x = x.reshape(B, tokens, rows, cols, D)
    if shift:
        x = x.roll((shift, shift), dims=(2, 3))
    return x.reshape(B, -1, D)


def check_window(window: int, shape: tuple[int, int]) -> None:
    """Raise ModelError where the window does not divide the grid."""
    if shape[0] % window or shape[1] % window:
        raise ModelError(
            f"decoder.window: {window} does not divide a grid of {shape[0]} x {shape[1]} patches; choose one that does"
        )


def _window_mask(shape: tuple[int, int], tokens: int, window: int, shift: int, device: torch.device) -> Tensor:
    """Attention mask (W, L, L) of shifted windows: minus infinity between parts that only wrapping brings together."""
    region = torch.zeros(shape, dtype=torch.long, device=device)
    for axis, size in enumerate(shape):
        place = torch.arange(size, device=device)
        part = (place >= size - window).long() + (place >= size - shift).long()
        region = 3 * region + (part[:, None] if axis == 0 else part[None, :])
    cut = region.reshape(shape[0] // window, window, shape[1] // window, window).permute(0, 2, 1, 3)
    cut = cut.reshape(-1, window**2).repeat(1, tokens)
    return torch.zeros(1, device=device).masked_fill(cut[:, :, None] != cut[:, None, :], float("-inf"))


def blocks(architecture: Architecture, width: int, depth: int, heads: int) -> nn.ModuleList:
    """Pre-norm self-attention blocks of timm, with its parameter names."""
    made = nn.ModuleList(
        Block(width, heads, mlp_ratio=4, qkv_bias=True, norm_layer=layer_norm(architecture)) for _ in range(depth)
    )
    start_linear(made)
    return made


def layer_norm(architecture: Architecture) -> Any:
    """A function from the width to a layer norm with the epsilon of this architecture."""
    return partial(nn.LayerNorm, eps=architecture.norm_eps)


def start_linear(module: nn.Module) -> None:
    """Initialise every linear layer of `module`: Xavier weights, zero biases (He et al. 2022, appendix A.1)."""
    for part in module.modules():
        if isinstance(part, nn.Linear):
            nn.init.xavier_uniform_(part.weight)
            nn.init.zeros_(part.bias)


def token(width: int, count: int = 1) -> nn.Parameter:
    """Create learned tokens (1, count, D)."""
    return nn.Parameter(torch.empty(1, count, width).normal_(std=0.02))


class Positions(nn.Module):
    """Position encodings that are added to tokens: computed for any grid, or stored for one."""

    table: Tensor | None

    def __init__(self, architecture: Architecture, width: int) -> None:
        super().__init__()
        self.width = width
        self.shape = architecture.grid if architecture.positions == "table" else None
        table = None if self.shape is None else torch.zeros(1 + self.shape[0] * self.shape[1], width)
        self.register_buffer("table", table)  # comes with converted weights; not trained
        self.computed: dict[tuple[torch.device, tuple[int, int], float], Tensor] = {}  # one transfer, not one per batch

    def forward(self, place_BK: Tensor, shape: tuple[int, int], scale: float | Tensor) -> Tensor:
        """Positions (B, K, D) in float32 of the patches at `place_BK` in a grid of `shape`; `scale` may be (B,)."""
        if self.table is None:
            if isinstance(scale, Tensor):
                row_BK, col_BK = (scale[:, None] * part for part in (place_BK // shape[1], place_BK % shape[1]))
                return encode_places(row_BK, col_BK, self.width)
            key = (place_BK.device, shape, scale)
            if key not in self.computed:
                self.computed[key] = sincos_positions(*shape, self.width, place_BK.device, scale)
            return self.computed[key][place_BK]
        if self.shape != shape:
            raise ModelError(
                f"this model has positions for {self.shape} patches only, not for {shape}; cut tiles to that size"
            )
        return self.table[1:][place_BK]

    def of_class(self) -> Tensor | float:
        """The position that is added to the class token: 0 unless positions are stored."""
        return 0.0 if self.table is None else self.table[0]
