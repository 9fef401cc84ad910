"""`geomae predict` on a synthetic scene: memory, how often a block is decoded, and speed compared with the model alone.

    uv run --extra bench python tests/benchmarks/predict.py [--json FILE] [--side 10980] [--share 1] [--threads 2]

A scene of SIDE x SIDE x 12 (uint16, COG with blocks of 256) is written to a temporary folder, and mapped by the real
command, in this process, with an untrained encoder of `tiny` and a linear head for pixels: windows of 64 that overlap
by half. --share uses only the first rows, at full width, because strips are as wide as the scene and memory depends on
the width; the time for the whole scene is extrapolated. Blocks decoded: the bytes that the mapping reads, divided by
the bytes of the file's blocks without overviews, since a block that is decoded twice is read twice (Linux). The model
alone predicts tiles in memory, in batches of the same size, before and after the command, so that a drift of the
machine's speed affects both.
"""

import argparse
import json
import multiprocessing
import os
import resource
import tempfile
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any
from unittest import mock

import numpy as np
import rasterio
import torch
from training_step import machine

from geomae.catalog import open_catalog
from geomae.commands.options import CommonOptions
from geomae.commands.predict import PredictOptions, run
from geomae.encoders.extraction import BATCH_PIXELS
from geomae.models.architecture import Architecture
from geomae.models.folder import Model, TrainedHead, save_model
from geomae.models.head_record import HeadRecord
from geomae.models.heads import build_head
from geomae.models.mae import MaskedAutoencoder
from geomae.prediction import scene_maps
from geomae.prediction.folders import open_predictor
from geomae.prediction.models import WindowModel
from geomae.prediction.scene_maps import MapJob
from geomae.randomness import generator
from geomae.rasters import Grid
from geomae.rasters.writing import cog_in_strips
from geomae.runtime.precision import keep_freed_memory, working_precision
from geomae.sensors.record import SensorRecord
from geomae.tiles.index import build_index
from geomae.tiles.selection import own_record

TILE, BANDS, CLASSES = 64, 12, ("a", "b", "c", "d")
BARE_BATCHES = 8  # of the bare model, before and after
CATALOG = """\
version: 1
datasets:
  scene:
    path: scene.tif
    sensor: sentinel-2-l2a
    bands: [B01, B02, B03, B04, B05, B06, B07, B08, B8A, B09, B11, B12]
    tile: {size: 64, stride: 1024}
"""


class Mapping:
    """The command's own mapping of strips, with its seconds, its windows and the bytes that it reads."""

    def __init__(self) -> None:
        self.seconds, self.windows, self.read_bytes = 0.0, 0, 0
        self._predict_strips = scene_maps.predict_strips

    def __call__(self, compute: Any, jobs: Sequence[MapJob], *others: Any) -> bool:
        """Map strips as the command does, and measure it."""
        before, start = bytes_read(), time.perf_counter()
        done = self._predict_strips(compute, jobs, *others)
        self.seconds, self.read_bytes = time.perf_counter() - start, bytes_read() - before
        self.windows = sum(job.windows for job in jobs)
        return done


def main() -> None:
    """Measure, print, and write the same values as flat JSON."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--json", type=Path)
    parser.add_argument("--side", type=int, default=10_980)
    parser.add_argument("--share", type=float, default=1.0)
    parser.add_argument("--threads", type=int, default=2)
    arguments = parser.parse_args()
    torch.set_num_threads(arguments.threads)
    keep_freed_memory()  # as the command does; both benefit
    rows = max(round(arguments.share * arguments.side), TILE)
    name = machine(torch.device("cpu"))
    print(f"{rows} of {arguments.side} rows x {arguments.side} x {BANDS} uint16, {name}, {arguments.threads} threads")
    with tempfile.TemporaryDirectory() as temporary:
        folder = Path(temporary)
        os.environ["GEOMAE_CACHE"] = str(folder / "cache")
        figures = measure(folder, rows, arguments.side)
    print(
        f"peak memory of the process {figures['peak_memory_gib']:.2f} GiB; blocks decoded / blocks of the file "
        f"{figures['decoded_ratio']:.3f}\n"
        f"bare {figures['bare_tiles_per_s']:.0f} tiles/s, mapping {figures['mapping_tiles_per_s']:.0f}, ratio "
        f"{figures['ratio']:.2f} ({figures['windows']:.0f} windows in {figures['mapping_s']:.0f} s; the whole command "
        f"{figures['command_s']:.0f} s)"
    )
    if rows < arguments.side:
        whole_s = figures["mapping_s"] * arguments.side / rows
        figures["mapping_s_extrapolated"] = whole_s
        print(
            f"extrapolated from {rows / arguments.side:.1%} of the rows: the scene is mapped in {whole_s / 60:.0f} min"
        )
    if arguments.json:
        arguments.json.write_text(json.dumps(figures, indent=1) + "\n", encoding="utf-8")


def measure(folder: Path, rows: int, side: int) -> dict[str, float]:
    """Make scene and model; measure the model alone, the command, and the model alone again."""
    making = multiprocessing.get_context("spawn").Process(target=make_scene, args=(folder / "scene.tif", rows, side))
    making.start()  # in another process, so that its memory is not counted
    making.join()
    assert making.exitcode == 0
    catalog = folder / "data_catalog.yaml"
    catalog.write_text(CATALOG, encoding="utf-8")
    index = build_index(open_catalog(catalog), "scene")
    imagery = own_record(index)
    save_untrained(folder / "model", imagery)
    bare = open_predictor(folder / "model", torch.device("cpu")).fit(imagery, None, torch.device("cpu"))
    common = CommonOptions(
        catalog, folder / "out", device="cpu", precision="32", quiet=True, tracking_uri=f"sqlite:///{folder}/mlflow.db"
    )
    mapping = Mapping()
    before_s = seconds_per_tile(bare)
    start = time.perf_counter()
    with mock.patch.object(scene_maps, "predict_strips", mapping):
        assert run(PredictOptions(common, folder / "model", ("scene",))) == 0
    command_s = time.perf_counter() - start
    peak_gib = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024**2
    bare_rate = 2 / (before_s + seconds_per_tile(bare))
    rate = mapping.windows / mapping.seconds
    return {
        "peak_memory_gib": peak_gib,
        "decoded_ratio": mapping.read_bytes / block_bytes(folder / "scene.tif"),
        "bare_tiles_per_s": bare_rate,
        "mapping_tiles_per_s": rate,
        "ratio": rate / bare_rate,
        "windows": mapping.windows,
        "mapping_s": mapping.seconds,
        "command_s": command_s,
    }


def make_scene(path: Path, rows: int, side: int) -> None:
    """Fields with noise, written in strips; deflate compresses them to half, like real reflectance."""
    grid = Grid(rows, side, 10.0, "EPSG:32632", (10.0, 0.0, 4e5, 0.0, -10.0, 5e6))
    names = [f"band {number}" for number in range(BANDS)]
    with cog_in_strips(path, grid, descriptions=names, dtype="uint16", nodata=0) as write:
        for number, first in enumerate(range(0, rows, TILE)):
            rng = generator(0, "benchmark scene", number)
            fields_CW = rng.integers(500, 4000, (BANDS, 1, -(-side // TILE))).repeat(TILE, axis=2)[:, :, :side]
            noise_CHW = rng.integers(0, 200, (BANDS, min(TILE, rows - first), side), dtype=np.uint16)
            write(first, (fields_CW + noise_CHW).astype(np.uint16))


def save_untrained(folder: Path, imagery: SensorRecord) -> None:
    """The encoder of `tiny`, untrained, with a linear head for pixels that reads its middle block."""
    shape = Architecture(bands=BANDS, patch=8, width=192, depth=12, heads=3, decoder=None)
    head = HeadRecord(
        kind="linear", task="segmentation", classes=CLASSES, codes=(1, 2, 3, 4), sensor=imagery.name, tile=TILE,
        bands=tuple(band.name for band in imagery.bands), gsd_m=imagery.gsd_m, layer=shape.depth // 2,
    )  # fmt: skip
    torch.manual_seed(0)
    trained = TrainedHead(head, build_head(shape, head), {})
    save_model(Model(MaskedAutoencoder(shape).eval(), (imagery,), {}, head=trained), folder)


def seconds_per_tile(model: WindowModel) -> float:
    """Seconds per tile of the model alone on tiles in memory, after a warm-up batch."""
    batch = BATCH_PIXELS["cpu"] // TILE**2
    pixels_BCHW = torch.rand(batch, BANDS, TILE, TILE, generator=torch.Generator().manual_seed(0))
    valid_BCHW = torch.ones_like(pixels_BCHW, dtype=torch.bool)
    with torch.inference_mode(), working_precision(torch.device("cpu"), "32"):
        model.predict(pixels_BCHW, valid_BCHW)
        start = time.perf_counter()
        for _ in range(BARE_BATCHES):
            model.predict(pixels_BCHW, valid_BCHW)
    return (time.perf_counter() - start) / (BARE_BATCHES * batch)


def block_bytes(path: Path) -> int:
    """Bytes of all blocks of full resolution, as they are stored."""
    with rasterio.open(path) as scene:
        across, down = (
            -(-side // block) for side, block in zip(scene.shape[::-1], scene.block_shapes[0][::-1], strict=True)
        )
        cells = np.ndindex(across, down)
        return sum(int(scene.get_tag_item(f"BLOCK_SIZE_{x}_{y}", "TIFF", bidx=1)) for x, y in cells)


def bytes_read() -> int:
    """Bytes that this process has read, of all files."""
    lines = Path("/proc/self/io").read_text(encoding="utf-8").splitlines()
    return int(next(line.split(":")[1] for line in lines if line.startswith("rchar")))


if __name__ == "__main__":
    main()
