"""Devices, ranks and precision through Lightning Fabric, and memory that the process keeps between steps.

glibc gives large blocks back to the system as soon as they are freed. A training step frees and takes the same sizes
again and again, which costs page faults (tests/benchmarks/training_step.py counts them; --allocator system).
"""

import ctypes
import logging
import os
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from lightning_fabric import Fabric
from lightning_fabric.plugins.environments.slurm import SLURMEnvironment
from lightning_fabric.plugins.environments.torchelastic import TorchElasticEnvironment

from geomae.errors import ConfigError
from geomae.runtime.signals import die_with_parent

__all__ = ["Fabric", "SLURMEnvironment", "TorchElasticEnvironment"]

# Parameters of mallopt(3): when the top of the heap is given back, and how many blocks may be mapped on their own.
TRIM_THRESHOLD, MMAP_MAX = -1, -4
NEVER = 2**31 - 1


def device_for(device: str) -> str:
    """`cpu`, `cuda` or `mps`: for `auto`, the best there is. Raises ConfigError for one that is absent."""
    cuda, mps = torch.cuda.is_available(), torch.backends.mps.is_available()
    if device == "auto":
        return "cuda" if cuda else "mps" if mps else "cpu"
    if device not in ("cpu", "cuda", "mps"):
        raise ConfigError(f"--device {device}: choose auto, cpu, cuda or mps")
    if (device == "cuda" and not cuda) or (device == "mps" and not mps):
        raise ConfigError(f"--device {device}: there is none on this machine; --device auto takes what there is")
    return device


def build_fabric(device: str, devices: int, nodes: int, strategy: str) -> Fabric:
    """A Fabric that is not launched yet. Raises ConfigError for a combination that cannot run."""
    device = device_for(device)
    if strategy not in ("auto", "ddp", "fsdp"):
        raise ConfigError(f"--strategy {strategy}: choose auto, ddp or fsdp")
    if strategy == "fsdp" and device != "cuda":
        raise ConfigError(f"--strategy fsdp: needs CUDA devices, not {device}; --strategy ddp runs everywhere")
    devices, nodes = _started_ranks(devices, nodes)
    if device == "cuda" and devices > torch.cuda.device_count():
        raise ConfigError(f"--devices {devices}: this machine has {torch.cuda.device_count()}")
    chosen: Any = strategy if strategy != "auto" else ("ddp" if devices * nodes > 1 else "auto")
    if chosen == "fsdp":
        from lightning_fabric.strategies.fsdp import FSDPStrategy
        from timm.models.vision_transformer import Block

        chosen = FSDPStrategy(auto_wrap_policy={Block}, use_orig_params=True)
    logging.getLogger("lightning_fabric").setLevel(logging.WARNING)  # what it announces stands in our own lines
    return Fabric(
        accelerator=device,
        devices=devices,
        num_nodes=nodes,
        strategy=chosen,
        precision="32-true",  # of the weights; see `working_precision`
    )


def external() -> bool:
    """Whether SLURM or torchrun started the ranks."""
    return bool(SLURMEnvironment.detect() or TorchElasticEnvironment.detect())


def early_rank() -> int:
    """The rank of this process before Fabric is launched: 0 for the process that the user started."""
    for environment in (TorchElasticEnvironment, SLURMEnvironment):  # torchrun within SLURM counts its own ranks
        if environment.detect():
            return int(environment().global_rank())
    return int(os.environ.get("NODE_RANK", "0")) * 1_000_000 + int(os.environ.get("LOCAL_RANK", "0"))


def started_by_us() -> bool:
    """Whether Fabric's launcher made this process: it dies with rank 0 then."""
    return not external() and int(os.environ.get("LOCAL_RANK", "0")) > 0


@dataclass(frozen=True)
class Compute:
    """What models run on: devices and ranks through `fabric`, and the `precision`, `32` or `bf16`."""

    fabric: Fabric
    precision: str


def open_compute(
    device: str = "auto", precision: str = "auto", devices: int = 1, nodes: int = 1, strategy: str = "auto"
) -> Compute:
    """Devices as asked for, launched where a scheduler started the ranks. Raises ConfigError for what cannot be."""
    if started_by_us():
        die_with_parent()
    fabric = build_fabric(device, devices, nodes, strategy)
    chosen = precision_for(fabric.device.type, precision)
    if fabric.device.type == "cpu":
        keep_freed_memory()
    if external():
        fabric.launch()
    return Compute(fabric, chosen)


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


def _started_ranks(devices: int, nodes: int) -> tuple[int, int]:
    """Processes on this node, and nodes: where SLURM or torchrun started them, it has decided, and 1 says nothing."""
    if TorchElasticEnvironment.detect():
        starter, here, names = "torchrun", int(os.environ["LOCAL_WORLD_SIZE"]), "--nproc-per-node and --nnodes"
        everywhere = int(os.environ["WORLD_SIZE"])
    elif SLURMEnvironment.detect():
        starter, names = "SLURM", "--ntasks-per-node and --nodes of srun"
        everywhere = int(os.environ["SLURM_NTASKS"])
        here = int(os.environ.get("SLURM_NTASKS_PER_NODE", everywhere))
    else:
        return devices, nodes
    for option, chosen, there in (("--devices", devices, here), ("--nodes", nodes, everywhere // here)):
        if chosen not in (1, there):
            raise ConfigError(f"{option} {chosen}: {starter} gives {there}; leave it out, or change {names}")
    return here, everywhere // here
