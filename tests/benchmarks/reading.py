"""Speed of reading tiles: geomae compared with rasterio, torchgeo, and a memory map as the limit.

    uv run python tests/benchmarks/reading.py [--side 4096] [--windows 200] [--threads 2] [--only NAME]
        [--memory-mb 64] [--json FILE]

A scene of SIDE x SIDE x 12 (uint16) is written in the layouts that are common in archives. Every reader runs in its own
process and gives float32 reflectance (stored x 0.0001) and validity (stored value is not 0) in two rounds: `cold`,
after the system dropped the files from its cache, and `warm`, at other places. `anywhere`: random places, the same for
all such readers; torchgeo's RandomGeoSampler chooses its own places, and torchgeo gives no validity. `drawn`: the tiles
of the scene in the order of training, four times as many; `data.cache`: the same from the cache of decoded tiles, which
was filled before, `warm` in the second epoch. The limit is a memory map of the same pixels, already decoded.

Processor time over all threads is measured, because other programs on the machine change it little. It includes work
that threads do twice, but not waiting for the disk. `--memory-mb` limits the caches of decoded blocks of GDAL and of
geomae to this size each, so that the scene behaves like a part of a large archive. Without it, all readers keep most of
a single scene decoded.
"""

import argparse
import itertools
import json
import multiprocessing
import operator
import os
import tempfile
import time
from collections.abc import Callable, Iterable, Iterator, Sequence
from functools import partial, reduce
from pathlib import Path
from typing import Any

import numpy as np
import rasterio
from rasterio.windows import Window as RasterioWindow

from geomae.catalog import open_catalog
from geomae.randomness import generator
from geomae.rasters import Window, read
from geomae.rasters.blocks import shared_blocks
from geomae.tiles import draw_groups
from geomae.tiles.index import build_index
from geomae.tiles.reader import TileReader, ahead
from geomae.tiles.sources import open_source
from geomae.tiles.tile_cache import TileCache

BANDS = ("B01", "B02", "B03", "B04", "B05", "B06", "B07", "B08", "B8A", "B09", "B11", "B12")
SCALE, FIELD_PX, CHIP_PX, WARM_UP = 0.0001, 64, 64, 4
DRAWN = 4  # times as many tiles as random windows
MIB = 1024**2
DEFLATE = {"driver": "GTiff", "compress": "deflate", "predictor": 2}


def tiled(block: int, **how: str) -> dict[str, Any]:
    """A GeoTIFF in square blocks."""
    return DEFLATE | {"tiled": True, "blockxsize": block, "blockysize": block} | how


LAYOUTS: dict[str, dict[str, Any]] = {
    "12 bands, interleaved by pixel, blocks of 256": tiled(256, interleave="pixel"),
    "12 bands, interleaved by pixel, blocks of 512": tiled(512, interleave="pixel"),
    "12 bands, interleaved by band, blocks of 256": tiled(256, interleave="band"),
    "12 bands, interleaved by band, blocks of 512": tiled(512, interleave="band"),
    "12 files, TIFF, blocks of 512": tiled(512),
    "12 files, JPEG 2000": {"driver": "JP2OpenJPEG", "QUALITY": "100", "REVERSIBLE": "YES"},
    "Zarr, 12 arrays, chunks of 256": {"chunk": 256},
    f"chips of {CHIP_PX}, TIFF": DEFLATE | {"interleave": "pixel"},
}
DATASET = """\
  {name}:
    {path}
    sensor: sentinel-2-l2a
    bands: [{bands}]
    scale: 0.0001
    offset: 0
    nodata: 0
    {tile}
"""
Reading = Callable[[Sequence[Window]], Iterator[None]]  # a step for each window


def main() -> None:
    """Measure every layout and window size, and print a table."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--side", type=int, default=4096)
    parser.add_argument("--windows", type=int, default=200, help="windows per round")
    parser.add_argument("--threads", type=int, default=2, help="threads of geomae's readers with several")
    parser.add_argument("--only", default="", help="only layouts whose name contains this")
    parser.add_argument("--memory-mb", type=int, help="limit of each cache of decoded blocks")
    parser.add_argument("--json", type=Path)
    arguments = parser.parse_args()
    rows: dict[str, dict[str, float]] = {}
    several = f"{arguments.threads} threads"
    readers = ("memory map", "rasterio", "torchgeo", "anywhere", f"anywhere, {several}", "drawn", f"drawn, {several}",
               "data.cache")  # fmt: skip
    print("| tiles/s, cold / warm | " + " | ".join(readers) + " | drawn to torchgeo | data.cache to memory map |")
    print("|---|" + "---|" * (len(readers) + 2))
    for layout in LAYOUTS:
        if arguments.only not in layout:
            continue
        with tempfile.TemporaryDirectory() as temporary:
            in_own_process(make, Path(temporary), layout, arguments.side)
            for size in (64, 128):
                if layout.startswith("chips") and size > CHIP_PX:
                    continue
                row = {}
                in_own_process(list_tiles, Path(temporary), size)
                for reader in readers:
                    if reader == "torchgeo" and not layout.startswith("12 bands"):
                        continue  # torchgeo needs other data sets for chips and single files
                    if reader == "data.cache":
                        in_own_process(fill, Path(temporary), size)
                    speeds = in_own_process(measure, Path(temporary), layout, reader, size, arguments)
                    row |= {f"{reader} cold": speeds[0], f"{reader} warm": speeds[1]}
                rows[f"{layout}, {size} px"] = row
                print_row(f"{layout}, {size} px", row, readers)
    if arguments.json:
        arguments.json.write_text(json.dumps(rows, indent=1) + "\n", encoding="utf-8")


def print_row(name: str, row: dict[str, float], readers: Iterable[str]) -> None:
    """A line of the table."""
    cells = [
        f"{row[f'{reader} cold']:.0f} / {row[f'{reader} warm']:.0f}" if f"{reader} cold" in row else ""
        for reader in readers
    ]
    ratios = [
        " / ".join(f"{row[f'{one} {how}'] / row[f'{other} {how}']:.2g}" for how in ("cold", "warm"))
        if f"{other} warm" in row
        else ""
        for one, other in (("drawn", "torchgeo"), ("data.cache", "memory map"))
    ]
    print(f"| {name} | " + " | ".join((*cells, *ratios)) + " |", flush=True)


def in_own_process(function: Callable[..., Any], *arguments: Any) -> Any:
    """The result of a function in a new process, without caches and memory of other measurements."""
    with multiprocessing.get_context("spawn").Pool(1) as pool:
        return pool.apply(function, arguments)


def make(folder: Path, layout: str, side: int) -> None:
    """The scene: fields with noise, which deflate compresses to half, like real reflectance; no pixel is 0."""
    rng = generator(0, "benchmark reading", 0)
    count = -(-side // FIELD_PX)
    fields_Chw = rng.integers(500, 4000, (len(BANDS), count, count), dtype=np.uint16)
    pixels_CHW = fields_Chw.repeat(FIELD_PX, 1).repeat(FIELD_PX, 2)[:, :side, :side]
    pixels_CHW += rng.integers(0, 200, pixels_CHW.shape, dtype=np.uint16)
    np.save(folder / "pixels.npy", pixels_CHW)
    if layout.startswith("Zarr"):
        write_zarr(folder / "scene.zarr", pixels_CHW, LAYOUTS[layout]["chunk"])
        write_catalog(folder, "cube: {path: scene.zarr}")
        return
    how = LAYOUTS[layout] | {"dtype": "uint16", "crs": "EPSG:32632"}
    files = {"scene.tif": ((0, 0), pixels_CHW)}
    if layout.startswith("12 files"):
        suffix = "jp2" if how["driver"] == "JP2OpenJPEG" else "tif"
        files = {f"scene_{band}.{suffix}": ((0, 0), pixels_CHW[[at]]) for at, band in enumerate(BANDS)}
    if layout.startswith("chips"):
        places = [(top, left) for top in range(0, side, CHIP_PX) for left in range(0, side, CHIP_PX)]
        files = {
            f"{top:05d}_{left:05d}.tif": ((top, left), pixels_CHW[:, top : top + CHIP_PX, left : left + CHIP_PX])
            for top, left in places
        }
    for name, ((top, left), part_CHW) in files.items():
        there = rasterio.Affine(10, 0, 4e5 + 10 * left, 0, -10, 5e6 - 10 * top)
        bands, height, width = part_CHW.shape
        with rasterio.open(
            folder / name, "w", width=width, height=height, count=bands, transform=there, **how
        ) as target:
            target.write(part_CHW)
    write_catalog(folder, f"path: 'scene_{{band}}.{suffix}'" if len(files) == len(BANDS) else "path: '*.tif'")


def write_zarr(path: Path, pixels_CHW: Any, chunk: int) -> None:
    """The scene as a Zarr store, one array per band, with the same place as the files."""
    import xarray

    height, width = pixels_CHW.shape[1:]
    stored = {"_FillValue": np.uint16(0), "grid_mapping": "spatial_ref"}
    centre_y, centre_x = 5e6 - 10 * (np.arange(height) + 0.5), 4e5 + 10 * (np.arange(width) + 0.5)
    arrays = {band: (("y", "x"), pixels_CHW[at], stored) for at, band in enumerate(BANDS)}
    cube = xarray.Dataset(arrays, coords={"y": centre_y, "x": centre_x})
    cube["spatial_ref"] = ((), 0, {"crs_wkt": rasterio.CRS.from_epsg(32632).to_wkt()})
    cube.to_zarr(path, consolidated=False, encoding={band: {"chunks": (chunk, chunk)} for band in BANDS})


def write_catalog(folder: Path, path: str) -> None:
    """The scene as one window, and cut into tiles of 64 and of 128; `path` is the key that names its files."""
    cuts = {"scene": "", "tiles64": "tile: {size: 64}", "tiles128": "tile: {size: 128}"}
    entries = [DATASET.format(name=name, path=path, bands=", ".join(BANDS), tile=cut) for name, cut in cuts.items()]
    (folder / "data_catalog.yaml").write_text("version: 1\ndatasets:\n" + "".join(entries), encoding="utf-8")


def measure(folder: Path, layout: str, reader: str, size: int, arguments: argparse.Namespace) -> tuple[float, float]:
    """Tiles a second, cold and warm."""
    os.environ["GEOMAE_CACHE"] = str(folder / "cache")
    if arguments.memory_mb:
        os.environ["GDAL_CACHEMAX"] = str(arguments.memory_mb)
        shared_blocks().room = arguments.memory_mb * MIB
        draw_groups.IN_TURN_BYTES = arguments.memory_mb * MIB * 2 // 3
    count = arguments.windows * (1 if reader.startswith(("memory", "rasterio", "torchgeo", "anywhere")) else DRAWN)
    rounds = [
        list(places(arguments.side, size, count, layout, number))
        for number, count in enumerate((WARM_UP, count, count))
    ]
    if reader == "data.cache":  # the rest of the first epoch is not counted
        rounds.insert(2, [rounds[1][0]] * max((arguments.side // size) ** 2 - len(rounds[0]) - len(rounds[1]), 0))
    at = [time.process_time()]
    steps = opened(folder, layout, reader, size, arguments)(reduce(operator.iadd, rounds, []))
    for number, windows in enumerate(rounds):
        for _ in windows:
            next(steps)
        if number == 0:  # handles are open, and code is imported
            forget(folder)
        at.append(time.process_time())
    return len(rounds[1]) / (at[2] - at[1]), len(rounds[-1]) / (at[-1] - at[-2])


def places(side: int, size: int, count: int, layout: str, round_number: int) -> Iterable[Window]:
    """Random windows; those of chips are chips."""
    for number in range(count):
        top, left = generator(0, "benchmark places", round_number, number).integers(0, side - size + 1, 2)
        if layout.startswith("chips"):
            top, left = top // CHIP_PX * CHIP_PX, left // CHIP_PX * CHIP_PX
        yield Window(int(top), int(left), size, size)


def forget(folder: Path) -> None:
    """Ask the system to drop its pages of the files (Linux)."""
    for path in folder.rglob("*"):
        if path.is_file():
            with path.open("rb") as file:
                os.fsync(file.fileno())
                os.posix_fadvise(file.fileno(), 0, 0, os.POSIX_FADV_DONTNEED)


def list_tiles(folder: Path, size: int) -> None:
    """Audit and index the scene before any measurement, because this decodes all of it."""
    tiles_of(folder, size, cached=False)


def fill(folder: Path, size: int) -> None:
    """Read all tiles through the cache of decoded tiles."""
    reader = tiles_of(folder, size, cached=True)
    for position in range(len(reader)):
        reader.read(position)


def tiles_of(folder: Path, size: int, *, cached: bool) -> TileReader:
    """The tiles of the scene."""
    os.environ["GEOMAE_CACHE"] = str(folder / "cache")
    index = build_index(open_catalog(folder / "data_catalog.yaml"), f"tiles{size}")
    return TileReader(index, cache=TileCache(folder / "tiles", 10**12) if cached else None)


def drawn(reader: TileReader, threads: int) -> Reading:
    """The tiles in the order in which a training draws them."""
    rng = generator(0, "benchmark order", 0)
    order_T = rng.permutation(len(reader)) if reader.groups is None else reader.groups.draw(rng)[0]

    def one(position: int) -> None:
        reader.read(position)

    return lambda windows: ahead(one, itertools.islice(itertools.cycle(order_T.tolist()), len(windows)), threads)


def opened(folder: Path, layout: str, reader: str, size: int, arguments: argparse.Namespace) -> Reading:
    """The readers, which read windows as pixels and validity."""
    if reader == "memory map":
        return partial(by_memory_map, np.load(folder / "pixels.npy", mmap_mode="r"))
    if reader == "rasterio":
        return partial(by_rasterio, folder, layout)
    if reader == "torchgeo":
        return torchgeo_reading(folder)
    threads = arguments.threads if "threads" in reader else 0
    if not reader.startswith("anywhere"):
        return drawn(tiles_of(folder, size, cached=reader == "data.cache"), threads)
    source = open_source(open_catalog(folder / "data_catalog.yaml"), "scene")
    scenes = {scene.id: scene for scene in source.scenes}

    def one(window: Window) -> None:
        if layout.startswith("chips"):
            read(source, scenes[f"{window.row:05d}_{window.col:05d}"], Window(0, 0, window.height, window.width))
        else:
            read(source, source.scenes[0], window)

    return lambda windows: ahead(one, windows, threads)


def by_memory_map(pixels_CHW: Any, windows: Sequence[Window]) -> Iterator[None]:
    """The limit: nothing is decoded."""
    for at in windows:
        yield physical(np.array(pixels_CHW[:, at.row : at.row + at.height, at.col : at.col + at.width]))


def by_rasterio(folder: Path, layout: str, windows: Sequence[Window]) -> Iterator[None]:
    """Rasterio with open handles (not for chips, which are read once), and one call for all bands of a file.

    A Zarr store is read by zarr itself.
    """
    if layout.startswith("chips"):
        for at in windows:
            with rasterio.open(folder / f"{at.row:05d}_{at.col:05d}.tif") as chip:
                yield physical(chip.read())
        return
    if layout.startswith("Zarr"):
        import zarr

        arrays = [zarr.open_group(folder / "scene.zarr", mode="r")[band] for band in BANDS]
        for at in windows:
            rows, cols = slice(at.row, at.row + at.height), slice(at.col, at.col + at.width)
            yield physical(np.stack([array[rows, cols] for array in arrays]))
        return
    files = sorted([*folder.glob("scene*.tif"), *folder.glob("scene*.jp2")])
    handles = [rasterio.open(path) for path in files]
    for at in windows:
        window = RasterioWindow(at.col, at.row, at.width, at.height)
        yield physical(np.concatenate([handle.read(window=window) for handle in handles]))


def torchgeo_reading(folder: Path) -> Reading:
    """RasterDataset with RandomGeoSampler, without workers; the sampler chooses the places of the windows."""
    from torchgeo.datasets import RasterDataset
    from torchgeo.samplers import RandomGeoSampler, Units

    dataset = RasterDataset(str(folder))

    def reading(windows: Sequence[Window]) -> Iterator[None]:
        for query in RandomGeoSampler(dataset, size=windows[0].height, length=len(windows), units=Units.PIXELS):
            dataset[query]["image"] * SCALE
            yield

    return reading


def physical(raw_CHW: Any) -> None:
    """Reflectance and validity in the form of geomae's readers."""
    valid_CHW = raw_CHW != 0
    pixels_CHW = raw_CHW.astype(np.float32)
    pixels_CHW *= np.float32(SCALE)
    if not valid_CHW.all():
        pixels_CHW[~valid_CHW] = 0


if __name__ == "__main__":
    main()
