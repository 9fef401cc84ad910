"""One training step compared with other implementations, alternately in one process: tiles per second.

    uv run --extra bench python tests/benchmarks/training_step.py [--json FILE] [--device cuda] [--compile]

On a CPU: 64 x 64 x 3 tiles, patch 8, encoder 384/12/6, decoder 192/4/6, batch 64, mask ratio 0.75, target `patch`,
AdamW included; then geomae's decoders `full` and `cross` at base size (768/12/12, decoder 512/8/16, tiles of
224 x 224 x 3, patch 16). With --device cuda: base and large at 224, batch 256, bf16, with peak memory. Every round
measures each candidate: one warm-up step, because the caches still hold tensors of another candidate, and some counted
steps. A drift of the machine's speed thus affects all candidates. --compile adds geomae with `compile=true`, and prints
the time of its first step. Freed memory is kept as in `geomae pretrain`, which helps all candidates. --allocator system
returns it: the table then gives the page faults of a step, and the share of processor time that the system uses during
the step.
"""

import argparse
import json
import os
import platform
import resource
import statistics
import time
import warnings
from functools import partial
from pathlib import Path
from typing import NamedTuple

import torch
from candidates import BASE, SMALL, Case, Step, lightly, ours, transformers

WARM_UP = 2  # rounds until the heap has grown to what a step takes
PEAK_SIDE = {"cpu": 2048, "cuda": 8192}  # of the matrices whose product gives the machine's peak
GPU_BATCH = 256


class Turn(NamedTuple):
    """A step of a candidate in one round: its seconds, page faults, and the system's share of the processors' time."""

    seconds: float
    faults: float
    system: float


def main() -> None:
    """Measure, print the tables, and write the same values as flat JSON."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--json", type=Path)
    parser.add_argument("--device", default="cpu")
    parser.add_argument("--rounds", type=int, default=9)
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--compile", action="store_true")
    parser.add_argument("--allocator", choices=["kept", "system"], default="kept")
    arguments = parser.parse_args()
    device = torch.device(arguments.device)
    torch.set_num_threads(arguments.threads)
    torch.set_float32_matmul_precision("highest")  # full fp32: no reduced precision for any candidate
    from geomae.runtime.precision import keep_freed_memory, precision_for

    auto = precision_for(device.type, "auto")
    kept = arguments.allocator == "kept" and device.type == "cpu" and keep_freed_memory()
    warnings.filterwarnings("ignore")
    print(
        f"machine: {machine(device)}, {arguments.threads} threads, torch {torch.__version__}, auto is {auto}, ", end=""
    )
    print(f"freed memory {'kept' if kept else 'given back'}")
    run = on_cpu if device.type == "cpu" else on_gpu
    figures = run(device, auto, arguments.rounds, arguments.compile)
    if arguments.json:
        arguments.json.write_text(json.dumps(figures, indent=1) + "\n", encoding="utf-8")


def on_cpu(device: torch.device, auto: str, rounds: int, compiled: bool) -> dict[str, float]:
    """geomae and other implementations at small size, then geomae's decoders at base size."""
    attention = {precision: fastest_attention(device, precision) for precision in ("32", "bf16")}
    small = {
        "ours_auto": ours(SMALL, device, auto),
        "ours_fp32": ours(SMALL, device, "32"),
        "ours_cross_auto": ours(SMALL, device, auto, "cross", 0.25),
        "transformers_fp32": transformers(SMALL, device, "32", attention["32"]),
        "transformers_bf16": transformers(SMALL, device, "bf16", attention["bf16"]),
        "lightly_fp32": lightly(SMALL, device, "32"),
    }
    figures: dict[str, float] = {}
    if compiled:
        small["ours_compiled_auto"] = ours(SMALL, device, auto, compiled=True)
        figures |= first_step("ours_compiled_auto", small["ours_compiled_auto"], device)
    figures |= table(SMALL, measure(small, device, rounds, steps=3), "transformers_fp32")
    del small
    base = {
        "ours_base_full_auto": ours(BASE, device, auto),
        "ours_base_cross_auto": ours(BASE, device, auto, "cross", 0.25),
    }
    figures |= table(BASE, measure(base, device, max(rounds // 3, 2), steps=1), "ours_base_full_auto")
    for name, case, precision in (("ours_auto", SMALL, auto), ("ours_fp32", SMALL, "32")):
        figures |= share_of_peak(name, case, figures[f"{name}_tiles_per_s"], device, precision)
    return figures


def on_gpu(device: torch.device, auto: str, rounds: int, compiled: bool) -> dict[str, float]:
    """Base and large, one after the other: each alone fills the memory."""
    figures: dict[str, float] = {}
    for size, encoder in (("base", (768, 12, 12)), ("large", (1024, 24, 16))):
        case = Case(GPU_BATCH, 224, 16, encoder, (512, 8, 16))
        variants = [("full", "full", 1.0, False), ("cross", "cross", 0.25, False)]
        for title, kind, predict, asked in [*variants, *([("compiled", "full", 1.0, True)] if compiled else [])]:
            name = f"ours_{size}_{title}_auto"
            torch.cuda.empty_cache()
            torch.cuda.reset_peak_memory_stats(device)
            step = ours(case, device, auto, kind, predict, compiled=asked)
            if asked:
                figures |= first_step(name, step, device)
            figures |= table(case, measure({name: step}, device, rounds, steps=5), name)
            figures[f"{name}_peak_memory_gib"] = torch.cuda.max_memory_allocated(device) / 2**30
            print(f"{name}: {figures[f'{name}_peak_memory_gib']:.1f} GiB of memory at most")
            if kind == "full":
                figures |= share_of_peak(name, case, figures[f"{name}_tiles_per_s"], device, auto)
            del step
    return figures


def first_step(name: str, step: Step, device: torch.device) -> dict[str, float]:
    """Print and return the seconds of the first step, in which a compiled model is compiled."""
    seconds = timed(step, device)
    print(f"{name}: {seconds:.0f} s for the first step")
    return {f"{name}_first_step_s": seconds}


def measure(candidates: dict[str, Step], device: torch.device, rounds: int, steps: int) -> dict[str, list[Turn]]:
    """Measure every candidate in every round, after WARM_UP rounds that do not count."""
    turns: dict[str, list[Turn]] = {name: [] for name in candidates}
    for round_number in range(rounds + WARM_UP):
        for name, step in candidates.items():
            step()
            before = resource.getrusage(resource.RUSAGE_SELF)
            seconds = timed(partial(_repeat, step, steps), device)
            after = resource.getrusage(resource.RUSAGE_SELF)
            user, system = after.ru_utime - before.ru_utime, after.ru_stime - before.ru_stime
            if round_number >= WARM_UP:
                faults = (after.ru_minflt - before.ru_minflt) / steps
                turns[name].append(Turn(seconds / steps, faults, system / max(user + system, 1e-9)))
    return turns


def table(case: Case, turns: dict[str, list[Turn]], reference: str) -> dict[str, float]:
    """Print tiles per second and ratios to the reference in each round; returns them by name."""
    figures: dict[str, float] = {}
    print(f"{'':22} {'tiles/s':>8} {'faults':>8} {'system':>7}  ratio to {reference}: median (min to max over rounds)")
    for name, found in turns.items():
        ratios = sorted(theirs.seconds / mine.seconds for mine, theirs in zip(found, turns[reference], strict=True))
        seconds, faults, system = (statistics.median(column) for column in zip(*found, strict=True))
        speed, ratio = case.batch / seconds, statistics.median(ratios)
        figures |= {f"{name}_tiles_per_s": speed, f"{name}_ratio": ratio}
        figures |= {f"{name}_page_faults": faults, f"{name}_system_share": system}
        spread = f"{ratio:.2f} ({ratios[0]:.2f} to {ratios[-1]:.2f})"
        print(f"{name:22} {speed:8.1f} {faults:8.0f} {system:7.1%}  {spread}")
    return figures


def share_of_peak(name: str, case: Case, tiles_per_s: float, device: torch.device, precision: str) -> dict[str, float]:
    """Fraction of the machine's measured rate of matrix products that a step reaches."""
    side = PEAK_SIDE[device.type]
    kind = torch.bfloat16 if precision == "bf16" else torch.float32
    a, b = (torch.randn(side, side, device=device).to(kind) for _ in range(2))
    peak = 2 * side**3 / min(timed(lambda: torch.mm(a, b), device) for _ in range(8))
    share = case.products() / case.batch * tiles_per_s / peak
    print(f"{name}: {share:.0%} of {peak / 1e12:.2f} TFLOP/s, the peak of products of {side} x {side} in {precision}")
    return {f"{name}_share_of_peak": share, f"{name}_peak_tflops": peak / 1e12}


def fastest_attention(device: torch.device, precision: str) -> str:
    """The attention implementation with which transformers is faster here."""
    steps = {kind: transformers(SMALL, device, precision, kind) for kind in ("eager", "sdpa")}
    turns = measure(steps, device, 3, steps=1)
    return min(turns, key=lambda kind: statistics.median(turn.seconds for turn in turns[kind]))


def timed(work: Step, device: torch.device) -> float:
    """Seconds that `work` takes on the device."""
    _wait(device)
    start = time.perf_counter()
    work()
    _wait(device)
    return time.perf_counter() - start


def machine(device: torch.device) -> str:
    """The name of the device."""
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
