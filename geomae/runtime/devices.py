"""Devices and ranks, through Lightning Fabric."""

import logging
import os
from dataclasses import dataclass
from typing import Any

import torch

from geomae.errors import ConfigError
from geomae.runtime.fabric import Fabric, SLURMEnvironment, TorchElasticEnvironment
from geomae.runtime.peers import watch_peers
from geomae.runtime.precision import keep_freed_memory, precision_for
from geomae.runtime.signals import die_with_parent

__all__ = ["Fabric", "SLURMEnvironment", "TorchElasticEnvironment"]


def device_for(device: str) -> str:
    """Return `cpu`, `cuda` or `mps`; `auto` takes the fastest available. Raises ConfigError for one that is absent."""
    cuda, mps = torch.cuda.is_available(), torch.backends.mps.is_available()
    if device == "auto":
        return "cuda" if cuda else "mps" if mps else "cpu"
    if device not in ("cpu", "cuda", "mps"):
        raise ConfigError(f"--device {device}: choose auto, cpu, cuda or mps")
    if (device == "cuda" and not cuda) or (device == "mps" and not mps):
        raise ConfigError(f"--device {device}: there is none on this machine; --device auto takes what there is")
    return device


def build_fabric(device: str, devices: int, nodes: int, strategy: str) -> Fabric:
    """Return a Fabric that is not launched yet. Raises ConfigError for a combination that cannot run.

    A rank that Fabric started is set to end with its parent process; on CPU, malloc is set to keep freed memory.
    """
    if started_by_us():
        die_with_parent()
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
    if device == "cpu":
        keep_freed_memory()
    logging.getLogger("lightning_fabric").setLevel(logging.WARNING)  # our own lines say what Fabric would announce
    return Fabric(
        accelerator=device,
        devices=devices,
        num_nodes=nodes,
        strategy=chosen,
        precision="32-true",  # of the weights; `working_precision` sets that of the computation
    )


def external() -> bool:
    """Whether SLURM or torchrun started the ranks."""
    return bool(SLURMEnvironment.detect() or TorchElasticEnvironment.detect())


def early_rank() -> int:
    """Return the rank of this process before Fabric is launched: 0 for the process that the user started."""
    for environment in (TorchElasticEnvironment, SLURMEnvironment):  # under torchrun in SLURM, torchrun sets the ranks
        if environment.detect():
            return int(environment().global_rank())
    return int(os.environ.get("NODE_RANK", "0")) * 1_000_000 + int(os.environ.get("LOCAL_RANK", "0"))


def started_by_us() -> bool:
    """Whether Fabric's launcher started this process, which then has to end with rank 0."""
    return not external() and int(os.environ.get("LOCAL_RANK", "0")) > 0


@dataclass(frozen=True)
class Compute:
    """Where models run: devices and ranks (`fabric`) and the `precision`, `32` or `bf16`."""

    fabric: Fabric
    precision: str


def open_compute(
    device: str = "auto", precision: str = "auto", devices: int = 1, nodes: int = 1, strategy: str = "auto"
) -> Compute:
    """Return the requested devices and precision; Fabric is launched where SLURM or torchrun started the ranks.

    Raises ConfigError for a combination that cannot run.
    """
    fabric = build_fabric(device, devices, nodes, strategy)
    chosen = precision_for(fabric.device.type, precision)
    if external():
        launch(fabric)
    return Compute(fabric, chosen)


def launch(fabric: Fabric) -> None:
    """Start the other ranks, or join those that a scheduler started. After that, all ranks end when one dies."""
    fabric.launch()
    nodes: int = getattr(fabric.strategy, "num_nodes", 1)
    if fabric.world_size > 1:
        watch_peers(fabric.global_rank, fabric.world_size, nodes, fabric.broadcast)


def gather_objects(fabric: Fabric, own: Any) -> list[Any]:
    """Return the objects `own` of all ranks, in rank order; every rank must call this."""
    every: list[Any] = [own] * fabric.world_size
    if fabric.world_size > 1:
        torch.distributed.all_gather_object(every, own)
    return every


def check_shares(batch: int, accumulate: int, ranks: int) -> None:
    """Raise ConfigError unless every rank gets the same number of a step's tiles in every accumulation pass."""
    if batch % (ranks * accumulate):
        raise ConfigError(
            f"batch: {batch} tiles cannot be shared by {ranks} devices in {accumulate} passes; "
            f"take a multiple of {ranks * accumulate}"
        )


def _started_ranks(devices: int, nodes: int) -> tuple[int, int]:
    """Return the number of processes on this node, and of nodes, as SLURM or torchrun started them.

    Without either, `devices` and `nodes`. Raises ConfigError where an option other than the default 1 contradicts.
    """
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
