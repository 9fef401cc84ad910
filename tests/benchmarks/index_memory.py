"""Bytes of memory for each tile of a data set: what its index keeps, and the peak while it is made.

    uv run python tests/benchmarks/index_memory.py [--bands 3 12] [--sides 500 900] [--code FOLDER ...] [--json FILE]

Writes scenes of two sizes, cut into overlapping tiles of 16 pixels every 2, and indexes each in new processes: *cold*,
with an empty cache, and *again*, with unchanged files. Memory is that of the process as the system counts it (resident
pages, also those of mapped files); the difference between both sizes is divided by the difference of their tiles, so
that the program itself does not count. Pieces of pixels grow with a scene until they have their fixed size, and count
in the *cold* columns: compare tiles in those of *again*. `kept` is the index alone, after it was made, `peak` the most
while it was made, and `check` the peak of `geomae catalog check` altogether.
Last comes what the larger scene takes in all, the program included; with `--sides 500 6400` it has ten million tiles.
`--code` names checkouts of the project that are measured in turn (default: this one), to compare them in one run.
"""

import argparse
import gc
import json
import os
import re
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Sequence
from pathlib import Path

import many_files
import numpy as np

SIZE, STRIDE = 16, 2
HERE = Path(__file__).resolve().parents[2]


def main() -> None:
    """Make scenes, measure each in processes of their own, print the values and write the same as flat JSON."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--bands", type=int, nargs="+", default=[3, 12])
    parser.add_argument("--sides", type=int, nargs=2, default=[500, 900], help="of both scenes, in pixels")
    parser.add_argument("--code", type=Path, nargs="+", default=[HERE])
    parser.add_argument("--json", type=Path)
    parser.add_argument("--measure", type=Path, help=argparse.SUPPRESS)
    arguments = parser.parse_args()
    if arguments.measure:
        print(json.dumps(measure(arguments.measure)))
        return
    figures: dict[str, float] = {}
    print("bytes per tile    bands    kept    peak   check  kept again  peak again  check again")
    with tempfile.TemporaryDirectory() as folder:
        for bands in arguments.bands:
            scenes = [made(Path(folder) / f"{bands}-{side}", side, bands) for side in arguments.sides]
            for position, code in enumerate(arguments.code):
                by_tile, largest = compare(scenes, code)
                values = "".join(f"{by_tile[name]:>{width}.0f}" for name, width in WIDTHS.items())
                print(f"{code.name:<16}{bands:>7}{values}")
                figures |= {f"code{position}_bands{bands}_{name}_bytes": value for name, value in by_tile.items()}
                print(largest)
    if arguments.json:
        arguments.json.write_text(json.dumps(figures, indent=1) + "\n", encoding="utf-8")


WIDTHS = {"kept": 8, "peak": 8, "check": 8, "kept_again": 12, "peak_again": 12, "check_again": 13}


def made(folder: Path, side: int, bands: int) -> Path:
    """A scene, and its catalogue with many tiles."""
    many_files.apart(many_files.make_scene, folder, side, bands)
    catalog = folder / "data_catalog.yaml"
    text = re.sub("size: .*, stride: .*}", f"size: {SIZE}, stride: {STRIDE}}}", catalog.read_text(encoding="utf-8"))
    catalog.write_text(text, encoding="utf-8")
    return folder


def compare(scenes: Sequence[Path], code: Path) -> tuple[dict[str, float], str]:
    """Bytes for each tile by the code of a checkout, and what the larger scene takes in all, in words."""
    rows: list[dict[str, float]] = []
    for folder in scenes:
        row = {}
        for name in ("index", "check"):
            shutil.rmtree(folder / "cache", ignore_errors=True)
            for again in ("", "_again"):
                run = indexed(folder, code) if name == "index" else checked(folder, code)
                row |= {f"{key}{again}": value for key, value in run.items()}
        rows.append(row)
    small, large = rows
    tiles = large["tiles"] - small["tiles"]
    told = ", ".join(f"{name.replace('_', ' ')} {large[name] / 2**20:,.0f} MiB" for name in WIDTHS)
    return {name: (large[name] - small[name]) / tiles for name in WIDTHS}, f"{large['tiles']:,.0f} tiles: {told}"


def indexed(folder: Path, code: Path) -> dict[str, float]:
    """Number of tiles, and bytes that their index keeps and needs, in a new process."""
    words = [sys.executable, str(Path(__file__).resolve()), "--measure", str(folder)]
    done = subprocess.run(words, env=environment(folder, code), stdout=subprocess.PIPE, check=True)
    figures: dict[str, float] = json.loads(done.stdout.splitlines()[-1])
    return figures


def checked(folder: Path, code: Path) -> dict[str, float]:
    """Peak bytes of the whole command."""
    named = ["--catalog", str(folder / "data_catalog.yaml"), "--out", str(folder / f"out-{os.urandom(4).hex()}")]
    words = [sys.executable, "-c", many_files.START, "catalog", "check", "--quiet", *named]
    with subprocess.Popen(words, env=environment(folder, code)) as process:
        _, status, usage = os.wait4(process.pid, 0)
        process.returncode = os.waitstatus_to_exitcode(status)
    if process.returncode:
        raise SystemExit(f"the check ended with {process.returncode}")
    return {"check": usage.ru_maxrss * 1024.0}


def environment(folder: Path, code: Path) -> dict[str, str]:
    """The environment of a process that runs the code of a checkout, with its cache beside the scene."""
    return os.environ | {"GEOMAE_CACHE": str(folder / "cache"), "PYTHONPATH": str(code.resolve())}


def measure(folder: Path) -> dict[str, float]:
    """Index a data set in this process: tiles, bytes that are kept, and the peak above the begin."""
    from geomae.catalog import open_catalog
    from geomae.tiles.index import build_index

    catalog = open_catalog(folder / "data_catalog.yaml")
    np.zeros(1 << 20).sum()
    before = memory("VmRSS")
    index = build_index(catalog, "scenes")
    peak = memory("VmHWM") - before
    gc.collect()
    return {"tiles": float(len(index)), "kept": memory("VmRSS") - before, "peak": peak}


def memory(name: str) -> float:
    """Bytes of resident memory of this process, now (`VmRSS`) or at most until now (`VmHWM`)."""
    found = re.search(rf"{name}:\s*(\d+) kB", Path("/proc/self/status").read_text(encoding="utf-8"))
    assert found is not None
    return float(found[1]) * 1024


if __name__ == "__main__":
    main()
