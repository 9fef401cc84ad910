"""The precision a device computes in, and how the process reuses freed memory. A training step imports no Fabric.

glibc returns large blocks to the system as soon as they are freed. Each training step frees and allocates the same
sizes again, which costs page faults (`tests/benchmarks/training_step.py --allocator system` counts them).
"""

import ctypes
from pathlib import Path

import torch

from geomae.errors import ConfigError

# Parameters of mallopt(3): when the top of the heap is returned, and how many blocks may get their own mapping.
TRIM_THRESHOLD, MMAP_MAX = -1, -4
NEVER = 2**31 - 1


def keep_freed_memory() -> bool:
    """Let malloc keep freed memory until the process ends. Returns False where the C library is not glibc."""
    try:
        mallopt = ctypes.CDLL(None).mallopt
    except (OSError, TypeError, AttributeError):  # musl, macOS, Windows
        return False
    return bool(mallopt(TRIM_THRESHOLD, NEVER)) and bool(mallopt(MMAP_MAX, 0))


def precision_for(device: str, precision: str) -> str:
    """Return `32` or `bf16`; `auto` takes bf16 where `device` multiplies bf16 matrices in hardware.

    Raises ConfigError for any other value.
    """
    if precision in ("32", "bf16"):
        return precision
    if precision != "auto":
        raise ConfigError(f"--precision {precision}: choose auto, 32 or bf16")
    if device == "cuda":
        return "bf16" if torch.cuda.is_bf16_supported(including_emulation=False) else "32"
    return "bf16" if device == "cpu" and cpu_multiplies_bf16() else "32"


def cpu_multiplies_bf16() -> bool:
    """Whether this processor has instructions for bf16 matrix products (AVX512-BF16, AMX or Arm's); Linux only."""
    try:
        info = Path("/proc/cpuinfo").read_text(encoding="utf-8", errors="replace")
    except OSError:
        return False
    flags = next((line for line in info.splitlines() if line.lower().startswith(("flags", "features"))), "").split()
    return bool({"avx512_bf16", "amx_bf16", "bf16"} & set(flags))


def working_precision(device: torch.device, precision: str) -> torch.autocast:
    """Return the context in which a model runs: with `bf16`, matrix products in bf16; sums, norms and losses in fp32.

    Fabric's mixed precision is not used because it would round the pixels, and so the targets, to bf16.
    """
    return torch.autocast(device.type, torch.bfloat16, enabled=precision == "bf16")
