"""One training step against other implementations, in turn, in one process: tiles per second.

    uv run --extra bench python tests/benchmarks/training_step.py [--json FILE] [--device cuda] [--rounds N]

Equal shapes, batch, masks and optimizer: 64 x 64 x 3 tiles, patch 8, encoder 384/12/6, decoder 192/4/6, mask ratio
0.75, target `patch`, AdamW included. Every round gives each candidate a turn, so that a machine whose speed drifts is
fair to all. The allocator is set as `geomae pretrain` sets it, from which all gain; --allocator system leaves it.
"""

import argparse
import json
import os
import platform
import statistics
import time
import warnings
from collections.abc import Callable
from pathlib import Path

import torch

BATCH, SIDE, BANDS, PATCH = 64, 64, 3, 8
STEPS, WARM_UP = 3, 2  # steps of a turn; rounds until the heap has grown to what a step takes
Step = Callable[[], None]


def ours(device: torch.device, precision: str) -> Step:
    """The step of `geomae pretrain`: our model, guard, clipping and optimizer, as the training loop takes them."""
    from geomae.config import Decoder
    from geomae.models.architecture import architecture
    from geomae.models.mae import MaskedAutoencoder
    from geomae.training.optimizer import build_optimizer, decayed, guarded_step

    decoder = Decoder(width=192, depth=4, heads=6)
    shape = architecture("small", bands=BANDS, patch=PATCH, embedding="stacked", target="patch", decoder=decoder)
    model = MaskedAutoencoder(shape).to(device).train()
    optimizer = build_optimizer(model, decayed(model), 0.05)
    pixels_BCHW = torch.randn(BATCH, BANDS, SIDE, SIDE, device=device)
    valid_BCHW = torch.ones_like(pixels_BCHW, dtype=torch.bool)
    patches = (SIDE // PATCH) ** 2
    order_BX = torch.stack([torch.randperm(patches) for _ in range(BATCH)]).to(device)
    codes_CF = torch.zeros(BANDS, 1, device=device)  # a stacked embedding does not look at them

    def step() -> None:
        with torch.autocast(device.type, torch.bfloat16, enabled=precision == "bf16"):
            loss = model(pixels_BCHW, valid_BCHW, codes_CF, order_BX, patches // 4)
        loss.mean().backward()
        norm = torch.nn.utils.clip_grad_norm_(model.parameters(), 1.0)
        guarded_step(optimizer, 1e-4, ~torch.isfinite(norm))

    return step


def transformers(device: torch.device, precision: str, attention: str) -> Step:
    """`ViTMAEForPreTraining` with AdamW, as its users run it."""
    from transformers import ViTMAEConfig, ViTMAEForPreTraining

    config = ViTMAEConfig(
        hidden_size=384, num_hidden_layers=12, num_attention_heads=6, intermediate_size=1536, image_size=SIDE,
        patch_size=PATCH, num_channels=BANDS, decoder_hidden_size=192, decoder_num_hidden_layers=4,
        decoder_num_attention_heads=6, decoder_intermediate_size=768, mask_ratio=0.75, norm_pix_loss=True,
        attn_implementation=attention,
    )  # fmt: skip
    model = ViTMAEForPreTraining(config).to(device).train()
    optimizer = torch.optim.AdamW(model.parameters(), lr=1e-4, betas=(0.9, 0.95), weight_decay=0.05)
    pixels_BCHW = torch.randn(BATCH, BANDS, SIDE, SIDE, device=device)

    def step() -> None:
        with torch.autocast(device.type, torch.bfloat16, enabled=precision == "bf16"):
            loss = model(pixels_BCHW).loss
        loss.backward()
        optimizer.step()
        optimizer.zero_grad()

    return step


def measure(candidates: dict[str, Step], device: torch.device, rounds: int) -> dict[str, list[float]]:
    """Seconds per step of every candidate in every round, after WARM_UP rounds that do not count.

    A turn is one step that does not count, because the caches still hold another's tensors, and STEPS that do.
    """
    seconds: dict[str, list[float]] = {name: [] for name in candidates}
    for round_number in range(rounds + WARM_UP):
        for name, step in candidates.items():
            step()
            _wait(device)
            start = time.perf_counter()
            for _ in range(STEPS):
                step()
            _wait(device)
            if round_number >= WARM_UP:
                seconds[name].append((time.perf_counter() - start) / STEPS)
    return seconds


def main() -> None:
    """Measure, print the table, and write the same figures as flat JSON."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--json", type=Path)
    parser.add_argument("--device", default="cpu")
    parser.add_argument("--rounds", type=int, default=15)
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--allocator", choices=["kept", "system"], default="kept")
    arguments = parser.parse_args()
    device = torch.device(arguments.device)
    torch.set_num_threads(arguments.threads)
    # fp32 for true: no reduced matrix products on either side.
    torch.set_float32_matmul_precision("highest")
    from geomae.training.allocator import keep_freed_memory
    from geomae.training.devices import precision_for

    kept = arguments.allocator == "kept" and keep_freed_memory()
    auto = precision_for(device.type, "auto")
    warnings.filterwarnings("ignore")
    candidates = {
        "ours_auto": ours(device, auto),
        "ours_fp32": ours(device, "32"),
        "transformers_fp32": transformers(device, "32", "sdpa"),
        "transformers_bf16": transformers(device, "bf16", "eager" if device.type == "cpu" else "sdpa"),
    }
    seconds = measure(candidates, device, arguments.rounds)
    figures = {f"{name}_tiles_per_s": BATCH / statistics.median(values) for name, values in seconds.items()}
    reference = seconds["transformers_fp32"]
    print(
        f"machine: {machine(device)}, {arguments.threads} threads, torch {torch.__version__}, auto is {auto}, "
        f"freed memory {'kept' if kept else 'given back'}"
    )
    print(f"{'':20} {'tiles/s':>8}  {'ratio to transformers_fp32: median (min to max over rounds)'}")
    for name, values in seconds.items():
        ratios = sorted(theirs / mine for mine, theirs in zip(values, reference, strict=True))
        figures[f"{name}_ratio"] = statistics.median(ratios)
        print(
            f"{name:20} {figures[f'{name}_tiles_per_s']:8.1f}  {statistics.median(ratios):.2f} "
            f"({ratios[0]:.2f} to {ratios[-1]:.2f})"
        )
    if arguments.json:
        arguments.json.write_text(json.dumps(figures, indent=1) + "\n", encoding="utf-8")


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


def _wait(device: torch.device) -> None:
    if device.type == "cuda":
        torch.cuda.synchronize(device)


if __name__ == "__main__":
    main()
