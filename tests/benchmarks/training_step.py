"""One training step against other implementations, in turn, in one process: tiles per second.

    uv run --extra bench python tests/benchmarks/training_step.py [--json FILE] [--device cuda] [--rounds N]

On a CPU: 64 x 64 x 3 tiles, patch 8, encoder 384/12/6, decoder 192/4/6, batch 64, mask ratio 0.75, target `patch`,
AdamW included; then our decoders `full` and `cross` at base size (768/12/12, decoder 512/8/16, 224 x 224 x 3 tiles,
patch 16). With --device cuda: base and large at 224, batch 256, bf16, with the peak of memory. A turn is one step that
does not count, because the caches still hold another's tensors, and some that do; every round gives each candidate a
turn, so that a machine whose speed drifts is fair to all. Freed memory is kept as `geomae pretrain` keeps it, from
which all gain; --allocator system gives it back.
"""

import argparse
import json
import os
import platform
import statistics
import time
import warnings
from functools import partial
from pathlib import Path

import torch
from candidates import BASE, SMALL, Case, Step, lightly, ours, transformers

WARM_UP = 2  # rounds until the heap has grown to what a step takes
PEAK_SIDE = {"cpu": 2048, "cuda": 8192}  # of the matrices whose product gives the machine's peak
GPU_BATCH = 256


def main() -> None:
    """Measure, print the tables, and write the same figures as flat JSON."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--json", type=Path)
    parser.add_argument("--device", default="cpu")
    parser.add_argument("--rounds", type=int, default=9)
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--allocator", choices=["kept", "system"], default="kept")
    arguments = parser.parse_args()
    device = torch.device(arguments.device)
    torch.set_num_threads(arguments.threads)
    torch.set_float32_matmul_precision("highest")  # fp32 for true: no reduced matrix products on either side
    from geomae.training.allocator import keep_freed_memory
    from geomae.training.precision import precision_for

    auto = precision_for(device.type, "auto")
    kept = arguments.allocator == "kept" and device.type == "cpu" and keep_freed_memory()
    warnings.filterwarnings("ignore")
    print(
        f"machine: {machine(device)}, {arguments.threads} threads, torch {torch.__version__}, auto is {auto}, ", end=""
    )
    print(f"freed memory {'kept' if kept else 'given back'}")
    run = on_cpu if device.type == "cpu" else on_gpu
    figures = run(device, auto, arguments.rounds)
    if arguments.json:
        arguments.json.write_text(json.dumps(figures, indent=1) + "\n", encoding="utf-8")


def on_cpu(device: torch.device, auto: str, rounds: int) -> dict[str, float]:
    """Ours beside its peers at small size, then our own decoders at base size."""
    attention = {precision: fastest_attention(device, precision) for precision in ("32", "bf16")}
    small = {
        "ours_auto": ours(SMALL, device, auto),
        "ours_fp32": ours(SMALL, device, "32"),
        "ours_cross_auto": ours(SMALL, device, auto, "cross", 0.25),
        "transformers_fp32": transformers(SMALL, device, "32", attention["32"]),
        "transformers_bf16": transformers(SMALL, device, "bf16", attention["bf16"]),
        "lightly_fp32": lightly(SMALL, device, "32"),
    }
    seconds = measure(small, device, rounds, steps=3)
    figures = table(SMALL, seconds, "transformers_fp32")
    del small
    base = {
        "ours_base_full_auto": ours(BASE, device, auto),
        "ours_base_cross_auto": ours(BASE, device, auto, "cross", 0.25),
    }
    figures |= table(BASE, measure(base, device, max(rounds // 3, 2), steps=1), "ours_base_full_auto")
    for name, case, precision in (("ours_auto", SMALL, auto), ("ours_fp32", SMALL, "32")):
        figures |= share_of_peak(name, case, figures[f"{name}_tiles_per_s"], device, precision)
    return figures


def on_gpu(device: torch.device, auto: str, rounds: int) -> dict[str, float]:
    """Base and large, one after the other: each alone fills the memory."""
    figures: dict[str, float] = {}
    for size, encoder in (("base", (768, 12, 12)), ("large", (1024, 24, 16))):
        case = Case(GPU_BATCH, 224, 16, encoder, (512, 8, 16))
        for name, kind, predict in (
            (f"ours_{size}_full_auto", "full", 1.0),
            (f"ours_{size}_cross_auto", "cross", 0.25),
        ):
            torch.cuda.empty_cache()
            torch.cuda.reset_peak_memory_stats(device)
            step = ours(case, device, auto, kind, predict)
            figures |= table(case, measure({name: step}, device, rounds, steps=5), name)
            figures[f"{name}_peak_memory_gib"] = torch.cuda.max_memory_allocated(device) / 2**30
            print(f"{name}: {figures[f'{name}_peak_memory_gib']:.1f} GiB of memory at most")
            if kind == "full":
                figures |= share_of_peak(name, case, figures[f"{name}_tiles_per_s"], device, auto)
            del step
    return figures


def measure(candidates: dict[str, Step], device: torch.device, rounds: int, steps: int) -> dict[str, list[float]]:
    """Seconds per step of every candidate in every round, after WARM_UP rounds that do not count."""
    seconds: dict[str, list[float]] = {name: [] for name in candidates}
    for round_number in range(rounds + WARM_UP):
        for name, step in candidates.items():
            step()
            found = timed(partial(_repeat, step, steps), device) / steps
            if round_number >= WARM_UP:
                seconds[name].append(found)
    return seconds


def table(case: Case, seconds: dict[str, list[float]], reference: str) -> dict[str, float]:
    """Print tiles per second and ratios to the reference round by round; gives them by name."""
    figures = {f"{name}_tiles_per_s": case.batch / statistics.median(values) for name, values in seconds.items()}
    print(f"{'':22} {'tiles/s':>8}  ratio to {reference}: median (min to max over rounds)")
    for name, values in seconds.items():
        ratios = sorted(theirs / mine for mine, theirs in zip(values, seconds[reference], strict=True))
        figures[f"{name}_ratio"] = statistics.median(ratios)
        speed = figures[f"{name}_tiles_per_s"]
        print(f"{name:22} {speed:8.1f}  {statistics.median(ratios):.2f} ({ratios[0]:.2f} to {ratios[-1]:.2f})")
    return figures


def share_of_peak(name: str, case: Case, tiles_per_s: float, device: torch.device, precision: str) -> dict[str, float]:
    """How much of the machine's measured rate of matrix products the products of a step reach."""
    side = PEAK_SIDE[device.type]
    kind = torch.bfloat16 if precision == "bf16" else torch.float32
    a, b = (torch.randn(side, side, device=device).to(kind) for _ in range(2))
    peak = 2 * side**3 / min(timed(lambda: torch.mm(a, b), device) for _ in range(8))
    share = case.products() / case.batch * tiles_per_s / peak
    print(f"{name}: {share:.0%} of {peak / 1e12:.2f} TFLOP/s, the peak of products of {side} x {side} in {precision}")
    return {f"{name}_share_of_peak": share, f"{name}_peak_tflops": peak / 1e12}


def fastest_attention(device: torch.device, precision: str) -> str:
    """The attention with which transformers is faster here."""
    steps = {kind: transformers(SMALL, device, precision, kind) for kind in ("eager", "sdpa")}
    seconds = measure(steps, device, 3, steps=1)
    return min(seconds, key=lambda kind: statistics.median(seconds[kind]))


def timed(work: Step, device: torch.device) -> float:
    """Seconds that `work` takes on the device."""
    _wait(device)
    start = time.perf_counter()
    work()
    _wait(device)
    return time.perf_counter() - start


def machine(device: torch.device) -> str:
    """The device as people know it."""
    if device.type == "cuda":
        return torch.cuda.get_device_name(device)
    info = Path("/proc/cpuinfo")
    lines = info.read_text(encoding="utf-8").splitlines() if info.exists() else []
    name = next(
        (line.split(":", 1)[1].strip() for line in lines if line.startswith("model name")), platform.processor()
    )
    return f"{name} ({os.cpu_count()} cores seen)"


def _repeat(step: Step, times: int) -> None:
    for _ in range(times):
        step()


def _wait(device: torch.device) -> None:
    if device.type == "cuda":
        torch.cuda.synchronize(device)


if __name__ == "__main__":
    main()
