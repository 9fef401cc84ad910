"""Memory of tensors on the CPU: kept by the process between steps, instead of given back and faulted in anew.

glibc gives large blocks back to the system as soon as they are freed. A training step frees and takes the same sizes
again and again, which costs page faults (tests/benchmarks/training_step.py counts them; --allocator system).
"""

import ctypes

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
