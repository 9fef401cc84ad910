"""Share of time that training waits for tiles read from JPEG 2000.

    uv run python tests/benchmarks/waiting.py --folder scratch/jp2 [--steps 24] [--one-by-one] [--config tiny]

The scene of `reading.py`, 12 files of 3,072 x 3,072, has 9 blocks with sides of 1,024. Four groups are active and five
blocks of each file are cached, as in an archive in which it is one of many scenes, and no tile stays in memory. The
same training then runs twice with `data.cache`, which the first run fills. `--one-by-one` draws tiles in random order
instead. Prints tiles per second and the share of time spent waiting, for the first four steps, in which reading starts,
and for the rest.
"""

import argparse
import json
import os
import tempfile
from pathlib import Path

from reading import MIB, in_own_process, make

from geomae.commands.pretrain import PretrainOptions, run
from geomae.rasters.blocks import shared_blocks
from geomae.tiles import draw_groups

SIDE, BATCH, LAP = 3072, 64, 4
GROUP_MIB = 24  # 1,024 x 1,024 x 12 in two bytes


def main() -> None:
    """Run the trainings and print a table."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--folder", type=Path, required=True, help="folder of the scene, which is written if absent")
    parser.add_argument("--steps", type=int, default=24)
    parser.add_argument("--one-by-one", action="store_true")
    parser.add_argument("--config", default="tiny")
    arguments = parser.parse_args()
    folder = arguments.folder.absolute()
    os.environ["GEOMAE_CACHE"] = str(folder / "cache")
    if not (folder / "data_catalog.yaml").exists():
        folder.mkdir(parents=True, exist_ok=True)
        make(folder, "12 files, JPEG 2000", SIDE)
    print(
        "| tiles from | tiles/s, first steps | waiting | tiles/s, later | waiting |\n|---|---|---|---|---|", flush=True
    )
    with tempfile.TemporaryDirectory() as temporary:
        cached = f"data.cache={temporary}/tiles"
        runs = [("files", ()), ("files, filling data.cache", (cached,)), ("data.cache", (cached,))]
        for number, (name, changes) in enumerate(runs):
            laps = in_own_process(train, folder, Path(temporary) / str(number), arguments, changes)
            cells = [f"{speed:.1f} | {100 * share:.1f} %" for speed, share in (mean(laps[:1]), mean(laps[1:]))]
            print(f"| {name} | " + " | ".join(cells) + " |", flush=True)


def train(folder: Path, out: Path, arguments: argparse.Namespace, more: tuple[str, ...]) -> list[tuple[float, float]]:
    """Tiles per second and share of waiting, for each lap of steps."""
    draw_groups.IN_TURN_BYTES = 4 * GROUP_MIB * MIB
    draw_groups.FEWEST_TILES = SIDE**2 if arguments.one_by_one else draw_groups.FEWEST_TILES
    shared_blocks().room = 5 * GROUP_MIB * MIB
    steps = arguments.steps
    often = (f"steps={steps}", f"save_every={steps}", f"eval_every={steps}", f"picture_every={steps}")
    changes = (*often, f"log_every={LAP}", f"batch={BATCH}", "data.memory_mb=0", "data.validation=0.01", *more)
    run(
        PretrainOptions(
            catalog=folder / "data_catalog.yaml", datasets=("tiles64",), config=arguments.config, changes=changes,
            out=out, tracking_uri=f"sqlite:///{out}.db", quiet=True, device="cpu",
        )
    )  # fmt: skip
    lines = [json.loads(line) for line in (out / "history.jsonl").read_text(encoding="utf-8").splitlines()]
    names = "train/tiles_per_s", "train/data_wait_share"
    return [(line[names[0]], line[names[1]]) for line in lines if names[0] in line]


def mean(laps: list[tuple[float, float]]) -> tuple[float, float]:
    """Mean over laps, which have equal numbers of tiles."""
    seconds = [1 / speed for speed, _ in laps]
    waited = sum(time * share for time, (_, share) in zip(seconds, laps, strict=True))
    return len(laps) / sum(seconds), waited / sum(seconds)


if __name__ == "__main__":
    main()
