"""Which precision a device computes in, and the context that a model then runs in."""

from pathlib import Path

import torch

from geomae.errors import ConfigError


def precision_for(device: str, precision: str) -> str:
    """`32` or `bf16`: for `auto`, bf16 where the processor multiplies matrices in it."""
    if precision in ("32", "bf16"):
        return precision
    if precision != "auto":
        raise ConfigError(f"--precision {precision}: choose auto, 32 or bf16")
    if device == "cuda":
        return "bf16" if torch.cuda.is_bf16_supported(including_emulation=False) else "32"
    return "bf16" if device == "cpu" and cpu_multiplies_bf16() else "32"


def cpu_multiplies_bf16() -> bool:
    """Whether this processor has instructions for bf16 products (AVX512-BF16, AMX, or Arm's)."""
    try:
        info = Path("/proc/cpuinfo").read_text(encoding="utf-8", errors="replace")
    except OSError:
        return False
    flags = next((line for line in info.splitlines() if line.lower().startswith(("flags", "features"))), "").split()
    return bool({"avx512_bf16", "amx_bf16", "bf16"} & set(flags))


def working_precision(device: torch.device, precision: str) -> torch.autocast:
    """The context in which a model runs: with `bf16`, matrix products in bf16 and sums, norms and losses in fp32.

    Not Fabric's own mixed precision, which rounds the pixels themselves, and with them the targets, to bf16.
    """
    return torch.autocast(device.type, torch.bfloat16, enabled=precision == "bf16")
