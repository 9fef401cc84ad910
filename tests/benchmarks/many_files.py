"""`geomae catalog check` on many small files and on one whole scene: files per second, share of decoding, memory.

    uv run python tests/benchmarks/many_files.py files [--files 10000] [--dtype uint16] [--bands 4] [--json FILE]
    uv run python tests/benchmarks/many_files.py scene [--side 10980] [--bands 12] [--json FILE]

`files` writes files of 64 x 64 pixels (deflate) to a temporary folder and runs the command twice, each time in a new
process, with a separate cache folder: first cold, with an empty cache, then again, with unchanged files. `scene` writes
one scene (uint16, tiled, deflate), decodes it block by block on all cores without the command, and runs the command
cold and again; the second run is what indexing takes. The time of a check of one file (the start of the program) is
subtracted. Rates are given for elapsed time and for CPU seconds, which other work on the machine changes less. The
files are in the file cache when they are read, so that the program is measured and not the disk.
"""

import argparse
import json
import os
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from concurrent.futures import ProcessPoolExecutor, ThreadPoolExecutor
from dataclasses import dataclass
from itertools import repeat
from multiprocessing import get_context
from pathlib import Path
from typing import Any

import numpy as np
import rasterio
from rasterio.windows import Window

from geomae.rasters import write_cog

START = "from geomae.cli import main; main()"
SIDE = 64  # of small files
CORNER = (10.0, 0.0, 400_000.0, 0.0, -10.0, 5_000_000.0)
CATALOG = """\
version: 1
datasets:
  scenes:
    path: "{path}"
    sensor:
      name: made
      unit: reflectance
      bands: [{bands}]
    scale: 0.0001
    offset: 0
    tile: {{size: 64, stride: {stride}}}
"""


def main() -> None:
    """Make files, run the command on them, print the values and write the same as flat JSON."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("what", choices=["files", "scene"])
    parser.add_argument("--files", type=int, default=10_000)
    parser.add_argument("--side", type=int, default=10_980)
    parser.add_argument("--bands", type=int)
    parser.add_argument("--dtype", choices=["uint16", "float32"], default="uint16")
    parser.add_argument("--json", type=Path)
    arguments = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder:
        if arguments.what == "files":
            figures = of_files(Path(folder), arguments.files, arguments.bands or 4, arguments.dtype)
        else:
            figures = of_scene(Path(folder), arguments.side, arguments.bands or 12)
    if arguments.json:
        arguments.json.write_text(json.dumps(figures, indent=1) + "\n", encoding="utf-8")


def of_files(folder: Path, files: int, bands: int, dtype: str) -> dict[str, float]:
    """Files per second of both runs, and their peak memory."""
    start = timed_start(folder / "one", bands, dtype)
    apart(make_files, folder / "many", files, bands, dtype)
    figures = {"start_s": start.seconds, "start_cpu_s": start.cpu_s}
    for name in ("cold", "unchanged"):
        run = check(folder / "many")
        rate, by_cpu = (
            files / max(own - first, 1e-9) for own, first in ((run.seconds, start.seconds), (run.cpu_s, start.cpu_s))
        )
        print(
            f"{name}: {run.seconds:.1f} s, {rate:,.0f} files/s; {by_cpu:,.0f} files per second of CPU; "
            f"at most {run.peak_mib:,.0f} MiB"
        )
        figures |= {f"{name}_s": run.seconds, f"{name}_files_per_s": rate, f"{name}_peak_mib": run.peak_mib}
        figures |= {f"{name}_files_per_cpu_s": by_cpu}
    return figures


def of_scene(folder: Path, side: int, bands: int) -> dict[str, float]:
    """Seconds of decoding alone, of the cold check and of the second check, with the peak memory of both."""
    start = timed_start(folder / "one", bands, "uint16")
    apart(make_scene, folder / "scene", side, bands)
    decoding_s, decoding_cpu_s = apart(decode, folder / "scene" / "s.tif")
    print(f"decoding alone: {decoding_s:.1f} s, {decoding_cpu_s:.1f} s of CPU")
    figures = {"start_s": start.seconds, "decoding_s": decoding_s, "decoding_cpu_s": decoding_cpu_s}
    for name in ("cold", "unchanged"):
        run = check(folder / "scene")
        seconds, cpu_s = run.seconds - start.seconds, run.cpu_s - start.cpu_s
        print(
            f"{name}: {seconds:.1f} s, {decoding_s / seconds:.2f} of the speed of decoding; {cpu_s:.1f} s of CPU, "
            f"{decoding_cpu_s / cpu_s:.2f}; at most {run.peak_mib:,.0f} MiB"
        )
        figures |= {f"{name}_s": seconds, f"{name}_cpu_s": cpu_s, f"{name}_peak_mib": run.peak_mib}
    return figures


def apart(function: Callable[..., Any], *words: object) -> Any:
    """What a function gives, in a process of its own: the system counts memory of a parent as that of its children."""
    with ProcessPoolExecutor(1, get_context("spawn")) as pool:
        return pool.submit(function, *words).result()


@dataclass(frozen=True)
class Run:
    """Elapsed seconds and CPU seconds of the command, and its peak memory in MiB."""

    seconds: float
    cpu_s: float
    peak_mib: float


def check(folder: Path) -> Run:
    """Run `geomae catalog check` in a new process, with the cache beside the files."""
    begun = time.perf_counter()
    named = ["--catalog", folder / "data_catalog.yaml", "--out", folder / f"out-{begun}"]
    words = [sys.executable, "-c", START, "catalog", "check", "--quiet", *named]
    environment = os.environ | {"GEOMAE_CACHE": str(folder / "cache")}
    process = subprocess.Popen(words, env=environment)
    _, status, usage = os.wait4(process.pid, 0)
    process.returncode = os.waitstatus_to_exitcode(status)
    if process.returncode:
        raise SystemExit(f"the check ended with {process.returncode}")
    return Run(time.perf_counter() - begun, usage.ru_utime + usage.ru_stime, usage.ru_maxrss / 1024)


def timed_start(folder: Path, bands: int, dtype: str) -> Run:
    """A check of one file, the second time."""
    make_files(folder, 1, bands, dtype)
    start = [check(folder) for _ in range(2)][-1]
    print(f"start of the program (check of one file): {start.seconds:.1f} s, {start.cpu_s:.1f} s of CPU")
    return start


def make_files(folder: Path, files: int, bands: int, dtype: str) -> None:
    """Files of noise, a thousand in each folder, all different."""
    describe(folder, "*/*.tif", bands, SIDE)
    with ThreadPoolExecutor(os.cpu_count()) as pool:
        list(pool.map(make_file, repeat(folder), range(files), repeat(bands), repeat(dtype)))


def make_file(folder: Path, number: int, bands: int, dtype: str) -> None:
    """One file of noise."""
    path = folder / f"{number // 1000:04d}" / f"{number:06d}.tif"
    path.parent.mkdir(exist_ok=True)
    pixels_CHW = np.random.default_rng(number).integers(500, 4000, (bands, SIDE, SIDE)).astype(dtype)
    options = {"compress": "deflate", "crs": "EPSG:32632", "transform": rasterio.Affine(*CORNER)}
    with rasterio.open(path, "w", driver="GTiff", height=SIDE, width=SIDE, count=bands, dtype=dtype, **options) as made:
        made.write(pixels_CHW)


def make_scene(folder: Path, side: int, bands: int) -> None:
    """Fields with noise; deflate compresses them to half, like real reflectance."""
    describe(folder, "s.tif", bands, SIDE)
    rng = np.random.default_rng(0)
    pixels_CHW = np.empty((bands, side, side), dtype=np.uint16)
    for band_HW in pixels_CHW:
        field_HW = rng.integers(500, 4000, (side // 61 + 1, side // 61 + 1), dtype=np.uint16)
        band_HW[:] = field_HW.repeat(61, axis=0).repeat(61, axis=1)[:side, :side]
        band_HW += rng.integers(0, 200, (side, side), dtype=np.uint16)
    write_cog(folder / "s.tif", pixels_CHW, crs="EPSG:32632", transform=CORNER)


def describe(folder: Path, path: str, bands: int, stride: int) -> None:
    """Write the catalogue of a folder."""
    folder.mkdir()
    named = ", ".join(f"{{name: b{n}, wavelength_um: {0.4 + 0.05 * n:.2f}, fwhm_um: 0.03}}" for n in range(bands))
    text = CATALOG.format(path=path, bands=named, stride=stride)
    (folder / "data_catalog.yaml").write_text(text, encoding="utf-8")


def decode(path: Path) -> tuple[float, float]:
    """Elapsed and CPU seconds to decode every block once on all cores, each with its own file handle."""
    cores = os.cpu_count() or 1
    begun, begun_cpu = time.perf_counter(), time.process_time()
    with ThreadPoolExecutor(cores) as pool:
        list(pool.map(decode_part, repeat(path), range(cores), repeat(cores)))
    return time.perf_counter() - begun, time.process_time() - begun_cpu


def decode_part(path: Path, part: int, parts: int) -> None:
    """Decode the rows of blocks of one core."""
    with rasterio.open(path) as scene:
        height = scene.block_shapes[0][0]
        for number in range(part, -(-scene.height // height), parts):
            scene.read(window=Window(0, number * height, scene.width, min(height, scene.height - number * height)))


if __name__ == "__main__":
    main()
