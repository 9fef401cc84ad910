"""Limits and costs of pretraining on many GPUs: a simple model, and its table.

    python -m pipelines.scale_model [--preset base] [--epochs 100] [--bands 12]
    python -m pipelines.scale_model --measure OUT

Without --measure it prints the table for 1 to 1,024 GPUs and 1 million to 1 billion tiles of 64 x 64 pixels. The
values in `MEASURED` were measured on two cores without a GPU, by the commands beside them. The values in `ASSUMED` are
of machines that were not available; replace them by your own. With --measure, the same model predicts a training with
two processes on this machine from a training with one, and the training with two is also measured, in OUT.
"""

import argparse
import json
import os
import subprocess
import sys
import time
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path

GPUS = (1, 8, 64, 1024)
TILES = (10**6, 10**7, 10**8, 10**9)
PARAMETERS = {"tiny": 5.4e6, "small": 21.4e6, "base": 85.3e6, "large": 302.6e6, "huge": 630.3e6}  # of the encoders
PATCHES, VISIBLE = 64, 16  # of a tile of 64 x 64 pixels in patches of 8, a quarter of which the encoder sees
FEWEST_STEPS = 10_000  # of a training; a larger batch than leaves so many learns less from each tile
OVERLAP = 2 / 3  # of a step that is backward, during which DDP sums gradients
ADAM_BYTES = 16  # per parameter: weights, gradients and two moments in float32
TWO = ("batch=32", "steps=40", "eval_every=40", "save_every=40", "picture_every=40")


@dataclass(frozen=True)
class Measured:
    """Measured speed of this program on two cores."""

    decoded_per_core: float = 233.0  # windows/s of 64 px, 12 bands, deflate COG: tests/benchmarks/reading.py
    checked_per_core: float = 361.0  # files/s of CPU of `catalog check`, cold: tests/benchmarks/many_files.py files
    index_bytes: float = 233.0  # of a tile, resident: tests/benchmarks/index_memory.py, `kept again`, 3 bands


@dataclass(frozen=True)
class Assumed:
    """Assumed speed of a node of eight GPUs of the H100 kind, its network and its storage."""

    flops: float = 989e12  # of one GPU in bf16, by its data sheet
    reached: float = 0.35  # share of them in a step
    batch: int = 512  # tiles of one GPU
    gpu_bytes: float = 80e9
    cores: int = 12  # for each GPU
    node: int = 8  # GPUs
    node_memory: float = 1e12  # bytes
    within_bytes_s: float = 300e9  # between the GPUs of a node, each
    between_bytes_s: float = 50e9  # between nodes, each: 400 Gbit/s
    storage_bytes_s: float = 20e9  # of the shared file system, all nodes together
    stored_bytes: float = 1.0  # of a pixel of a band, compressed
    price: float = 2.5  # of a GPU for an hour


@dataclass(frozen=True)
class Plan:
    """One line of the table: seconds of the parts of a step, the limiting part, and the total cost."""

    tiles: float
    gpus: int
    compute_s: float
    read_s: float
    storage_s: float
    reduce_s: float
    limit: str
    strategy: str
    hours: float
    cost: float
    check_hours: float
    index_bytes: float


def reduce_seconds(gradient_bytes: float, ranks: int, bytes_s: float) -> float:
    """Seconds of a ring all-reduce (Patarasuk and Yuan 2009): 2 (n - 1) / n times the gradients through each link."""
    return 2 * (ranks - 1) / ranks * gradient_bytes / bytes_s


def tile_flops(parameters: float) -> float:
    """Operations for one tile, forward and backward: 6 per parameter and token, plus a third for the decoder."""
    return 6 * parameters * VISIBLE * 4 / 3


def plan(parameters: float, bands: int, epochs: float, tiles: float, gpus: int, one: Measured, other: Assumed) -> Plan:
    """Plan of a training: the slowest part of a step is the limit; gradients are summed during the backward pass."""
    compute_s = other.batch * tile_flops(parameters) / (other.flops * other.reached)
    read_s = other.batch / (one.decoded_per_core * other.cores)
    nodes = -(-gpus // other.node)
    tile_bytes = 64 * 64 * bands * other.stored_bytes
    storage_s = gpus * other.batch * tile_bytes / other.storage_bytes_s
    link = other.within_bytes_s if nodes == 1 else other.between_bytes_s  # a ring leaves each node once
    reduce_s = reduce_seconds(4 * parameters, gpus, link)
    parts = {
        "computation": compute_s,
        "decoding": read_s,
        "storage": storage_s,
        "network": compute_s + max(0.0, reduce_s - OVERLAP * compute_s) if gpus > 1 else 0.0,
    }
    step_s = max(parts.values())
    limit = "computation" if step_s == compute_s else max(parts, key=lambda name: parts[name])
    if tiles * epochs / (other.batch * gpus) < FEWEST_STEPS:
        limit += ", steps too few"
    index = tiles * one.index_bytes
    if index * min(gpus, other.node) > other.node_memory:
        limit += ", index too large"
    fits = parameters * ADAM_BYTES < other.gpu_bytes / 2
    hours = tiles * epochs / (other.batch * gpus) * step_s / 3600
    check_hours = tiles / (one.checked_per_core * other.cores * gpus) / 3600
    return Plan(
        tiles, gpus, compute_s, read_s, storage_s, reduce_s, limit, "DDP" if fits else "FSDP",
        hours, hours * gpus * other.price, check_hours, index,
    )  # fmt: skip


def table(plans: Iterable[Plan]) -> str:
    """The lines as Markdown."""
    lines = [
        "| tiles | GPUs | a step: compute / decode / storage / gradients, ms | limit | strategy | hours | cost | "
        "check, h | index of a process |",
        "|---|---|---|---|---|---|---|---|---|",
    ]
    for one in plans:
        parts = (one.compute_s, one.read_s, one.storage_s, one.reduce_s)
        milliseconds = " / ".join(f"{1000 * part:.3g}" for part in parts)
        lines.append(
            f"| {one.tiles:,.0f} | {one.gpus:,} | {milliseconds} | {one.limit} | {one.strategy} | {one.hours:,.1f} | "
            f"{one.cost:,.0f} | {one.check_hours:,.2g} | {one.index_bytes / 1e9:,.1f} GB |"
        )
    return "\n".join(lines)


def measure(out: Path) -> str:
    """Predict two processes on this machine from one with half the batch, and measure them."""
    half = _train(out / "one", 1, 16)
    gradient_bytes = float((out / "one/model/model.safetensors").stat().st_size)
    bytes_s = _reduce_speed(int(gradient_bytes))
    reduce_s = reduce_seconds(gradient_bytes, 2, bytes_s)
    predicted_s = half + max(0.0, reduce_s - OVERLAP * half)
    found_s = _train(out / "two", 2, 32)
    return (
        f"one process, 16 tiles: {1000 * half:.0f} ms a step; gradients of {gradient_bytes / 1e6:.1f} MB take "
        f"{1000 * reduce_s:.0f} ms ({bytes_s / 1e6:.0f} MB/s)\n"
        f"two processes, 32 tiles: predicted {1000 * predicted_s:.0f} ms a step, measured {1000 * found_s:.0f} ms "
        f"({found_s / predicted_s:.2f} of the prediction)"
    )


def _train(out: Path, processes: int, batch: int) -> float:
    """Seconds of a step of `geomae pretrain` on the sample landscape, one thread for each process."""
    settings = [word for one in (f"batch={batch}", *TWO[1:]) for word in ("--set", one)]
    words = ["pretrain", "--devices", str(processes), "--out", str(out), "--precision", "32", "--quiet", *settings]
    words += ["--tracking-uri", f"sqlite:///{out.absolute()}.db"]
    start = str(Path(sys.executable).with_name("geomae"))  # which the second process starts again
    subprocess.run([start, *words], check=True, env=os.environ | {"OMP_NUM_THREADS": "1"})
    summary = json.loads((out / "summary.json").read_text(encoding="utf-8"))
    return batch / float(summary["metrics"]["run/tiles_per_s"])


def _reduce_speed(size: int) -> float:
    """Bytes per second through the link of two processes of this machine, by an all-reduce of `size` bytes."""
    words = ["-m", "torch.distributed.run", "--standalone", "--nproc-per-node", "2", "-m", "pipelines.scale_model"]
    done = subprocess.run(
        [sys.executable, *words, "--reduce", str(size)], check=True, capture_output=True, text=True,
        env=os.environ | {"OMP_NUM_THREADS": "1"},
    )  # fmt: skip
    return size / float(done.stdout.split()[-1])


def _reduce(size: int) -> None:
    """As one of two ranks, sum `size` bytes several times; the first prints the median of the seconds."""
    import torch
    import torch.distributed as ranks

    ranks.init_process_group("gloo")
    values, seconds = torch.ones(size // 4), []
    for _ in range(12):
        ranks.barrier()
        begun = time.perf_counter()
        ranks.all_reduce(values)
        seconds.append(time.perf_counter() - begun)
    if ranks.get_rank() == 0:
        print(sorted(seconds[2:])[5])
    ranks.destroy_process_group()


def main() -> None:
    """Print the table, or the predicted and measured times."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--preset", choices=list(PARAMETERS), default="base")
    parser.add_argument("--epochs", type=float, default=100)
    parser.add_argument("--bands", type=int, default=12)
    parser.add_argument("--measure", type=Path)
    parser.add_argument("--reduce", type=int, help=argparse.SUPPRESS)
    chosen = parser.parse_args()
    if chosen.reduce:
        _reduce(chosen.reduce)
    elif chosen.measure:
        print(measure(chosen.measure))
    else:
        known = (PARAMETERS[chosen.preset], chosen.bands, chosen.epochs)
        print(table(plan(*known, tiles, gpus, Measured(), Assumed()) for tiles in TILES for gpus in GPUS))


if __name__ == "__main__":
    main()
