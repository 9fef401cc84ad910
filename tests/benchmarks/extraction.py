"""Speed of extraction from files to a published store, compared with the forward pass on tensors in memory.

    uv run --extra bench python tests/benchmarks/extraction.py [--json FILE] [--device cuda] [--rounds N]

Tiles of 64 x 64 x 7 with `tiny`, up to the last layer and up to the middle one (the default of `geomae embed`; half of
the computation, the same reading). The scenes are written to a temporary folder (uint16, tiled, deflate; in the
file cache after the first round), or come from --catalog with --dataset. Each round measures both, so that a drift of
the machine's speed affects both. Both use the same encoder, batches, precision and threads.
"""

import argparse
import json
import shutil
import statistics
import tempfile
import time
from collections.abc import Callable
from functools import partial
from pathlib import Path

import numpy as np
import torch
from training_step import machine

from geomae.catalog import open_catalog
from geomae.encoders import MIDDLE, Encoder, load_encoder
from geomae.encoders.extraction import BATCH_PIXELS, EncoderTiles, extract
from geomae.rasters import write_cog
from geomae.runtime.devices import build_fabric
from geomae.runtime.precision import keep_freed_memory, precision_for, working_precision
from geomae.tiles.index import TileIndex, build_index
from geomae.tiles.reader import TileReader
from geomae.tiles.selection import own_record

SIDE, SCENES, TILES = 64, 4, 1024
CATALOG = """\
version: 1
datasets:
  scenes:
    path: "*.tif"
    sensor: hls-l30
    bands: [coastal, blue, green, red, nir08, swir16, swir22]
    scale: 0.0001
    offset: 0
    tile: {size: 64}
"""


def main() -> None:
    """Measure, print the table, and write the same values as flat JSON."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--json", type=Path)
    parser.add_argument("--device", default="cpu")
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--catalog", type=Path)
    parser.add_argument("--dataset", default="scenes")
    arguments = parser.parse_args()
    torch.set_num_threads(arguments.threads)
    torch.set_float32_matmul_precision("highest")
    if arguments.device == "cpu":
        keep_freed_memory()  # as `geomae embed` does; both benefit
    auto = precision_for(arguments.device, "auto")
    name = machine(torch.device(arguments.device))
    print(f"machine: {name}, {arguments.threads} threads, torch {torch.__version__}, auto is {auto}")
    figures: dict[str, float] = {}
    with tempfile.TemporaryDirectory() as folder:
        catalog = arguments.catalog or make_scenes(Path(folder))
        index = build_index(open_catalog(catalog), arguments.dataset)
        index = index.take(np.arange(min(len(index), TILES)))
        for layer, named in ((None, "last"), (MIDDLE, "middle")):
            for precision in dict.fromkeys(("32", auto)):
                encoder = load_encoder("baseline:random", layer, imagery=own_record(index), device=arguments.device)
                found = compare(encoder, index, Path(folder) / "out", arguments.device, precision, arguments.rounds)
                figures |= {f"{named}_{precision}_{key}": value for key, value in found.items()}
    if arguments.json:
        arguments.json.write_text(json.dumps(figures, indent=1) + "\n", encoding="utf-8")


def make_scenes(folder: Path) -> Path:
    """Fields with noise; deflate compresses them to half, like real reflectance."""
    rng = np.random.default_rng(0)
    side = SIDE * int((TILES / SCENES) ** 0.5)
    for number in range(SCENES):
        fields_CHW = rng.integers(500, 4000, (7, side // 16, side // 16)).repeat(16, axis=1).repeat(16, axis=2)
        pixels_CHW = (fields_CHW + rng.integers(0, 200, fields_CHW.shape)).astype(np.uint16)
        corner = (30.0, 0.0, 400_000.0 + 40_000 * number, 0.0, -30.0, 5_000_000.0)
        write_cog(folder / f"s{number}.tif", pixels_CHW, crs="EPSG:32632", transform=corner)
    path = folder / "data_catalog.yaml"
    path.write_text(CATALOG, encoding="utf-8")
    return path


def compare(
    encoder: Encoder, index: TileIndex, out: Path, device: str, precision: str, rounds: int
) -> dict[str, float]:
    """Tiles per second of both, and the ratio round by round, after a round that does not count."""
    reader = TileReader(index, 0, [band.name for band in encoder.bands])
    pixels_BCHW, valid_BCHW = (torch.from_numpy(values).to(device) for values in reader.many(range(len(index))))
    batch = BATCH_PIXELS[device] // SIDE**2
    fabric = build_fabric(device, 1, 1, "auto")
    bare = partial(forward, encoder, pixels_BCHW, valid_BCHW, batch, precision)
    whole = partial(extract, [EncoderTiles(encoder, index)], out, attributes={}, fabric=fabric, precision=precision)
    seconds: dict[str, list[float]] = {"bare": [], "extraction": []}
    for number in range(rounds + 1):
        for name, work in (("bare", bare), ("extraction", whole)):
            shutil.rmtree(out, ignore_errors=True)
            found = timed(work)
            if number:
                seconds[name].append(found)
    ratios = sorted(fast / slow for fast, slow in zip(seconds["bare"], seconds["extraction"], strict=True))
    figures = {f"{name}_tiles_per_s": len(index) / statistics.median(values) for name, values in seconds.items()}
    print(
        f"{', '.join(encoder.notes[1:2])}, {precision}: bare {figures['bare_tiles_per_s']:.0f} tiles/s, extraction "
        f"{figures['extraction_tiles_per_s']:.0f}, ratio {statistics.median(ratios):.2f} "
        f"({ratios[0]:.2f} to {ratios[-1]:.2f} over rounds)"
    )
    return figures | {"ratio": statistics.median(ratios)}


def forward(
    encoder: Encoder, pixels_BCHW: torch.Tensor, valid_BCHW: torch.Tensor, batch: int, precision: str
) -> torch.Tensor:
    """The bare forward pass."""
    with torch.inference_mode(), working_precision(pixels_BCHW.device, precision):
        starts = range(0, len(pixels_BCHW), batch)
        found = [encoder.embed(pixels_BCHW[at : at + batch], valid_BCHW[at : at + batch])[0] for at in starts]
        return torch.cat(found).cpu()  # waits for a GPU


def timed(work: Callable[[], object]) -> float:
    """Seconds that `work` takes."""
    start = time.perf_counter()
    work()
    return time.perf_counter() - start


if __name__ == "__main__":
    main()
