"""Which attention kernel a device, precision and length call for: measured once, written down, the same in every run.

A choice made by timing at start would differ from run to run, and with it the last bits of the weights.
"""

import torch
from torch import Tensor, nn

LONGEST_PLAIN = 256  # tokens up to which the plain product won on CPUs in bf16 (tests/benchmarks/training_step.py)


def prefers_fused(device: torch.device, dtype: torch.dtype, tokens: int) -> bool:
    """Whether PyTorch's fused attention is faster than the plain product for `tokens` tokens.

    On CUDA the fused kernels win at every length that occurs here. On CPUs the fused kernel is written for long
    sequences; in bf16 its backward pass on short ones costs more than the whole plain product.
    """
    if device.type != "cpu":
        return True
    return dtype == torch.float32 or tokens > LONGEST_PLAIN


def choose_kernels(blocks: nn.Module, device: torch.device, tokens: int) -> None:
    """Set the kernel of every timm attention in `blocks` for the precision in force."""
    autocast = torch.is_autocast_enabled(device.type)
    dtype = torch.get_autocast_dtype(device.type) if autocast else torch.float32
    fused = prefers_fused(device, dtype, tokens)
    for module in blocks.modules():
        if hasattr(module, "fused_attn"):
            module.fused_attn = fused  # type: ignore[assignment]


def attend(q_BHYE: Tensor, k_BHVE: Tensor, v_BHVE: Tensor) -> Tensor:
    """Attention (B, H, Y, E) of queries to keys of H heads, by the kernel that the rule prefers."""
    if prefers_fused(q_BHYE.device, q_BHYE.dtype, k_BHVE.shape[2]):
        fused: Tensor = nn.functional.scaled_dot_product_attention(q_BHYE, k_BHVE, v_BHVE)
        return fused
    weight = (q_BHYE * q_BHYE.shape[-1] ** -0.5) @ k_BHVE.transpose(-2, -1)
    mixed: Tensor = weight.softmax(dim=-1) @ v_BHVE
    return mixed
