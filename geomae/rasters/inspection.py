"""Inspection of files for the audit: one pass over bytes and one over pixels, cached while a file is unchanged."""

import contextlib
import functools
import hashlib
import os
import signal
from collections.abc import Callable, Iterator, Mapping, Sequence
from concurrent.futures import BrokenExecutor, Executor, ThreadPoolExecutor
from dataclasses import replace
from itertools import repeat
from multiprocessing import resource_tracker
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
from rasterio.crs import CRS
from rasterio.io import DatasetReader

from geomae.catalog import Placement, Source
from geomae.catalog.band_order import StoredOrder
from geomae.catalog.schema_cubes import is_cube
from geomae.errors import RasterError
from geomae.files import cache_folder, digest, file_digest
from geomae.rasters.cube_reading import CubeStep
from geomae.rasters.environment import environment, sweeping
from geomae.rasters.figure_rows import Scratch
from geomae.rasters.file_records import BandRecord, FileRecord, RecordCache
from geomae.rasters.headers import Header, Stamp
from geomae.rasters.measuring import READING, WHOLE_PIXELS, PixelPass, Wanted
from geomae.rasters.opening import LOCAL_OPENING, describe_dataset, is_remote, opened
from geomae.rasters.side_files import side_digest, side_files
from geomae.rasters.tiff_blocks import BlockIndex, describe_damage, index_of_blocks, open_bytes
from geomae.rasters.tiff_directory import Directory, read_directory
from geomae.rasters.tile_moments import MeasuredTiles, TileGrid, TileMoments
from geomae.rasters.work_share import ALONE, WorkShare

LARGE_BYTES = 1 << 24  # of a file whose digest is computed beside the reading of its pixels
BATCH_BYTES, BATCH_FILES = 1 << 22, 32  # that a thread, or a process, reads in turn
MANY_FILES = 4096  # in batches, from which on processes read more of them than threads while they start
MOST_CRS = 1024  # that are remembered
VERSION = 6  # raise it when `inspect_file` changes its results

Array = npt.NDArray[Any]
Place = Callable[[tuple[str | None, ...]], Placement]  # descriptions of a file -> its number of each band
_CRS: dict[tuple[object, ...], CRS] = {}  # of files with the same CRS tags


def inspect_file(wanted: Wanted, place: Place | None = None, pool: Executor | None = None) -> FileRecord:
    """Read a whole file in pieces and describe it. Its problems are in the record and never raised.

    For a remote file only the header and one window are read, and the digest covers address and header. The pieces of a
    large file are read by the threads of `pool`.
    """
    path, digest, content, waiting = wanted.path, None, None, None
    try:
        local = not is_remote(path) and not is_cube(path)
        large = local and Path(path).stat().st_size > LARGE_BYTES
        if large and pool is not None:
            waiting = pool.submit(file_digest, Path(path))
        elif large:
            digest = file_digest(Path(path))
        elif local:
            content = Path(path).read_bytes()
            digest = hashlib.sha256(content).hexdigest()
        beside = side_digest(path) if local else None
        record = _Inspection(wanted, place, pool, content).run()
        digest = digest if waiting is None else waiting.result()
        return replace(record, digest=record.digest or digest, beside=beside if record.header is not None else None)
    except OSError as error:
        message = f"{path}: cannot be read ({error.strerror or error}); check the path and the permissions"
        return FileRecord(digest, kind="unreadable", message=message)


class _Inspection:
    """One file that is read, without the digest of its bytes: `content` are these bytes, if at hand."""

    def __init__(self, wanted: Wanted, place: Place | None, pool: Executor | None, content: bytes | None) -> None:
        self.wanted, self.place, self.pool, self.content = wanted, place, pool, content
        self.known = FileRecord()
        self.directory: Directory | None = None
        self.blocks: BlockIndex | None = None

    def run(self) -> FileRecord:
        """The record."""
        path, key = self.wanted.path, None
        if not is_remote(path) and not is_cube(path):
            with open_bytes(path, self.content) as file:
                self.directory = read_directory(file)
                if self.directory is not None and not side_files(path):  # which may have a CRS of their own
                    key = self.directory.crs_key(file)
        try:
            crs = None if key is None else _CRS.get(key)
            with opened(path, remote=self.wanted.remote, crs=crs, **READING) as dataset:
                if key is not None and dataset.crs and len(_CRS) < MOST_CRS:
                    _CRS[key] = dataset.crs
                return self._record(dataset)
        except RasterError as error:
            damage = None if self.blocks is None else describe_damage(self.blocks.all_damaged())
            if damage is not None:
                return self._damaged(damage)
            return FileRecord(self.known.digest, kind="unreadable", message=str(error))

    def _record(self, dataset: DatasetReader) -> FileRecord:
        wanted, info = self.wanted, describe_dataset(self.wanted.path, None, dataset)
        remote, cube = is_remote(wanted.path), isinstance(dataset, CubeStep)
        digest = hashlib.sha256(repr(info).encode()).hexdigest() if remote or cube else None
        first = wanted.bands[0][0]
        self.known = FileRecord(digest, info.count, info.dtypes[first - 1 if first <= info.count else 0])
        if dataset.driver == "GTiff" and not remote:
            missing = None if self.directory is None else self.directory.missing_blocks()
            if missing is not None:
                return self._damaged(missing)
            self.blocks = index_of_blocks(dataset, info, self.directory, self.content)
        known = tuple(band for band in wanted.bands if band[0] <= info.count)
        stored, wrong_order = known, None
        if self.place is not None and wanted.imagery:
            placement = self.place(info.names)
            if placement.numbers is None:
                wrong_order = placement.text
            else:
                stored = tuple((placement.numbers[number - 1], scale, offset) for number, scale, offset in known)
        tiles = self._tiles(info, len(known))
        values = hashlib.sha256(repr((info.shape, info.dtypes, info.nodata, info.missing, info.limits)).encode())
        measured: list[BandRecord] = []
        if known and wrong_order is None:
            found = PixelPass(info, stored, wanted.nodata, self.blocks, tiles)
            measured, damaged = found.run(dataset, self.pool, values.update if cube and not remote else None)
        else:
            damaged = [] if self.blocks is None else self.blocks.all_damaged()
        if damaged:
            return self._damaged(str(describe_damage(damaged)))
        if wrong_order is not None:
            return replace(self.known, kind="band-order", message=wrong_order, header=info)
        # The digest of a step of a store is that of its values: the other bytes of the store do not matter.
        digest = values.hexdigest() if cube and not remote else digest
        bands = tuple((band[0], record) for band, record in zip(known, measured, strict=True))
        return replace(self.known, digest=digest, bands=bands, header=info, tiles=tiles)

    def _damaged(self, damage: str) -> FileRecord:
        message = f"{self.wanted.path}: {damage}; restore or remove it"
        return replace(self.known, kind="damaged", message=message)

    def _tiles(self, info: Header, bands: int) -> TileMoments | None:
        """Room for the moments of the tiles of a file, where it has any; one that is a tile has those of the whole."""
        tiles = self.wanted.tiles
        if tiles is None or bands == 0 or is_remote(self.wanted.path) or is_cube(self.wanted.path):
            return None
        grid = tiles.grid
        alone = info.height == info.width == grid.size and info.height * info.width <= WHOLE_PIXELS
        if alone or 0 in grid.shape(info.height, info.width):
            return None
        return TileMoments(grid, info.height, info.width, bands, tiles.scratch)


def inspect_files(
    source: Source,
    wanted: Sequence[Wanted],
    stamps: Mapping[str, Stamp],
    *,
    workers: int,
    share: WorkShare = ALONE,
    progress: Callable[[int], None] = lambda done: None,
) -> tuple[dict[str, FileRecord], dict[str, TileMoments]]:
    """Inspect files with `workers` threads or processes; those that did not change since the last time are not read.

    `stamps` are the states of existing local files. Every process of `share` reads its part, and all get all records;
    the moments of tiles are those of the files that this process read in this call. `progress` is called with the
    number of files that are done. Where the cache cannot be read or written, files are read again.
    """
    keys = _keys(wanted, stamps, _order_key(source))
    cache = RecordCache(_cache_file(source, wanted), keys)
    known = [set(one) for one in share.exchange(list(cache.known))]  # each node may have its own cache
    records = {path: record for path, record in cache.known.items() if all(path in one for one in known)}
    missing = [one for one in wanted if one.path not in records]
    progress(len(records))
    if not missing:
        return records, {}
    own = share.own(missing)
    read: dict[str, FileRecord] = {}
    tiles: dict[str, TileMoments] = {}
    try:
        for one, record in _inspect_all(_batches(own, stamps), source.order, max(1, workers)):
            if record.tiles is not None:
                tiles[one.path] = record.tiles
            read[one.path] = replace(record, tiles=None)
            if share.ranks == 1:
                cache.add(one.path, read[one.path])
            progress(min(len(records) + share.ranks * len(read), len(wanted)))
    finally:
        cache.save()
    if share.ranks > 1:
        read = {path: record for part in share.exchange(read) for path, record in part.items()}
        for path, record in read.items() if share.leads else ():
            cache.add(path, record)
        cache.save()
    return records | read, tiles


def _batches(wanted: Sequence[Wanted], stamps: Mapping[str, Stamp]) -> list[list[Wanted]]:
    """Files one after the other in batches that take a moment, so that threads rarely wait for each other."""
    batches: list[list[Wanted]] = []
    left = 0
    for one in wanted:
        stamp = stamps.get(one.path)
        size = int(stamp[0]) if stamp and not is_cube(one.path) and not is_remote(one.path) else BATCH_BYTES
        if not batches or left < size or len(batches[-1]) >= BATCH_FILES:
            batches.append([])
            left = BATCH_BYTES
        batches[-1].append(one)
        left -= size
    return batches


def _inspect_all(
    batches: Sequence[list[Wanted]], order: StoredOrder | None, workers: int
) -> Iterator[tuple[Wanted, FileRecord]]:
    """Inspect files: batches of many small ones with `workers` processes, and all others with as many threads.

    Threads hardly read small files side by side, because Python itself does most of that work. Where processes cannot
    be started, or end, threads read what is left.
    """
    small = [batch for batch in batches if len(batch) > 1]
    left = [batch for batch in batches if len(batch) == 1]
    if workers == 1 or sum(map(len, small)) < MANY_FILES:
        small, left = [], list(batches)
    if small:
        inspected = 0
        with contextlib.suppress(BrokenExecutor, OSError):
            for batch, records in zip(small, _inspect_in_processes(small, order, workers), strict=True):
                inspected += 1
                yield from zip(batch, records, strict=True)
        left += small[inspected:]
    place = placing(order)
    executor, pool = (ThreadPoolExecutor(workers, name) for name in ("audit", "pieces"))
    with sweeping():
        try:
            found = executor.map(_inspect_batch, left, repeat(place), repeat(pool))
            for batch, records in zip(left, found, strict=True):
                yield from zip(batch, records, strict=True)
        finally:
            pool.shutdown(wait=False, cancel_futures=True)
            executor.shutdown(wait=True, cancel_futures=True)


def _inspect_in_processes(
    batches: Sequence[list[Wanted]], order: StoredOrder | None, workers: int
) -> Iterator[list[FileRecord]]:
    """Inspect batches in other processes, and bring the moments of tiles into this one's scratch file."""
    from loky import ProcessPoolExecutor  # few data sets have so many files, and every command imports this module

    processes = ProcessPoolExecutor(workers)
    try:
        with _interrupts_blocked():
            waiting = [processes.submit(_inspect_sent, *_to_send(batch), order) for batch in batches]
        for batch, found in zip(batches, waiting, strict=True):
            yield [_with_tiles(*one) for one in zip(batch, found.result(), strict=True)]
    finally:
        processes.shutdown(kill_workers=True)  # else it waits for all batches when the user interrupts


@contextlib.contextmanager
def _interrupts_blocked() -> Iterator[None]:
    """Processes that start meanwhile do not hear Ctrl-C, which goes to all: this one ends them."""
    resource_tracker.ensure_running()  # would undo the next line when the first process starts
    before = signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGINT})  # which processes inherit
    try:
        yield
    finally:
        signal.pthread_sigmask(signal.SIG_SETMASK, before)


def _to_send(batch: Sequence[Wanted]) -> tuple[list[Wanted], list[TileGrid | None]]:
    """A batch, and the grids of its tiles in place of this process's room for their moments."""
    grids = [None if one.tiles is None else one.tiles.grid for one in batch]
    return [replace(one, tiles=None) for one in batch], grids


def _inspect_sent(
    batch: Sequence[Wanted], grids: Sequence[TileGrid | None], order: StoredOrder | None
) -> list[tuple[FileRecord, Array | None]]:
    """Inspect a batch in the process that it was sent to; the moments of tiles as rows, for they lie in a file here."""
    scratch = Scratch()
    wanted = [
        one if grid is None else replace(one, tiles=MeasuredTiles(grid, scratch=scratch))
        for one, grid in zip(batch, grids, strict=True)
    ]
    records = _inspect_batch(wanted, placing(order), None)
    return [
        (replace(one, tiles=None), None if one.tiles is None else np.array(one.tiles.rows.open())) for one in records
    ]


def _with_tiles(wanted: Wanted, found: tuple[FileRecord, Array | None]) -> FileRecord:
    """The record with the moments of tiles that another process measured."""
    record, rows_T = found
    if rows_T is None or wanted.tiles is None or record.header is None:
        return record
    tiles = TileMoments(wanted.tiles.grid, *record.header.shape, len(record.bands), wanted.tiles.scratch)
    tiles.rows.put(np.arange(len(rows_T)), rows_T)
    return replace(record, tiles=tiles)


def _inspect_batch(batch: Sequence[Wanted], place: Place | None, pool: Executor | None) -> list[FileRecord]:
    """Inspect files in turn, within settings of GDAL that are entered once; a single file enters its own."""
    if len(batch) == 1:
        return [inspect_file(batch[0], place, pool)]
    with environment(remote=False, **READING, **LOCAL_OPENING):
        return [inspect_file(one, place, pool) for one in batch]


def placing(order: StoredOrder | None) -> Place | None:
    """How the bands of files are found; files mostly have the same descriptions."""
    return None if order is None else functools.cache(order.place)


def _cache_file(source: Source, wanted: Sequence[Wanted]) -> Path:
    """One cache file per data set and folder."""
    folders = sorted({str(Path(one.path).parent) for one in wanted})
    try:
        folder = os.path.commonpath(folders)
    except ValueError:  # no path, or addresses mixed with files
        folder = "|".join(folders)
    return cache_folder() / "audit" / f"{digest({'name': source.name, 'folder': folder})}.ndjson"


def _order_key(source: Source) -> str:
    """A key that changes with everything that determines the order of bands."""
    order = source.order
    if order is None:
        return ""
    return digest([order.names, order.stated, order.layer, [band.to_dict() for band in order.sensor.bands]])


def _keys(wanted: Sequence[Wanted], stamps: Mapping[str, Stamp], order: str) -> dict[str, str]:
    """Keys that change with a file and with the way it is read; none for missing and for remote files."""
    ways: dict[tuple[Any, ...], str] = {}
    keys = {}
    for one in wanted:
        stamp = stamps.get(one.path)
        if stamp is None:
            continue
        way = one.bands, one.nodata, one.imagery
        if way not in ways:
            ways[way] = digest([VERSION, way, order])
        keys[one.path] = f"{ways[way]} {stamp}"
    return keys
