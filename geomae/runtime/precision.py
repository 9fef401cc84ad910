"""Which precision a device computes in, and memory of tensors that the process keeps between steps.

A training step needs these without Fabric. glibc gives large blocks back to the system as soon as they are freed. A
step frees and takes the same sizes again and again, which costs page faults (tests/benchmarks/training_step.py counts
them; --allocator system).
"""

import ctypes
from pathlib import Path

import torch

from geomae.errors import ConfigError

# Parameters of mallopt(3): when the top of the heap is given back, and how many blocks may be mapped on their own.
TRIM_THRESHOLD, MMAP_MAX = -1, -4
NEVER = 2**31 - 1


def keep_freed_memory() -> bool:
    """Let malloc keep what is freed, for the rest of the process; False where the C library is not glibc."""
    try:
        mallopt = ctypes.CDLL(None).mallopt
    except (OSError, TypeError, AttributeError):  # musl, macOS, Windows
        return False
    return bool(mallopt(TRIM_THRESHOLD, NEVER)) and bool(mallopt(MMAP_MAX, 0))


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
