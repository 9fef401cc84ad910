"""Inspection of files for the audit: one pass over bytes and one over pixels, cached while a file is unchanged.

C bands, h w pixels of a block, T windows of one size, H W their pixels, P = H x W
"""

import hashlib
import math
import os
import zlib
from collections.abc import Callable, Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from itertools import repeat
from pathlib import Path
from typing import Any, BinaryIO

import numpy as np
import numpy.typing as npt
from rasterio.io import DatasetReader

from geomae.catalog import Placement, Source
from geomae.catalog.schema_cubes import is_cube
from geomae.errors import RasterError
from geomae.files import cache_folder, digest, file_digest
from geomae.rasters.cube_reading import CubeStep
from geomae.rasters.file_records import BandRecord, FileRecord, RecordCache
from geomae.rasters.headers import Header, Stamp
from geomae.rasters.opening import describe_dataset, is_remote, opened
from geomae.rasters.reading import physical
from geomae.rasters.side_files import side_digest
from geomae.rasters.stored import Span, read_stored
from geomae.rasters.tiff_directory import missing_blocks
from geomae.rasters.work_share import ALONE, WorkShare

PASS_VALUES = 8_000_000  # values held at once
SAMPLE_PIXELS = 65_536  # per band, for median, quantile and repeated values
WHOLE_PIXELS = 2**18  # most pixels of a file whose moments are computed: it is read in one piece
DARK = 0.01  # quantile of the valid pixels of a band that counts as its dark value
FILL_SHARE = 0.005  # smallest share of the valid pixels for which the lowest or highest value may be nodata
VERSION = 6  # raise it when `inspect_file` changes its results


def check_blocks(path: str, dataset: DatasetReader, info: Header, file: BinaryIO) -> str | None:
    """Describe damage of a GeoTIFF: its first damaged block and their number, or an incomplete index; None without.

    Each deflate block is a zlib stream that ends with an Adler-32 checksum, which some decoders ignore. A block that is
    absent holds nodata, which is allowed.

    Raises RasterError when the file ends before its blocks do.
    """
    if dataset.driver != "GTiff":
        return None
    missing = missing_blocks(file)
    if missing is not None or info.compression != "DEFLATE":
        return missing
    size = file.seek(0, 2)
    bits = dataset.tags(1, ns="IMAGE_STRUCTURE").get("NBITS")
    bands = range(1, 2) if info.interleaved else range(1, info.count + 1)
    damaged: list[str] = []
    for band in bands:
        depth = np.dtype(info.dtypes[band - 1]).itemsize * (info.count if info.interleaved else 1)
        largest = info.block_height * info.block_width * depth
        for row in range(-(-info.height // info.block_height)):
            rows = min(info.block_height, info.height - row * info.block_height)
            smallest = 0 if bits else rows * info.block_width * depth
            for col in range(-(-info.width // info.block_width)):
                start, length = (
                    int(dataset.get_tag_item(f"BLOCK_{what}_{col}_{row}", dm="TIFF", bidx=band) or 0)
                    for what in ("OFFSET", "SIZE")
                )
                if not start or not length:
                    continue
                if start + length > size:
                    raise RasterError(f"{path}: ends before its data does (a part is missing); restore or remove it")
                file.seek(start)
                if not _is_whole(file.read(length), smallest, largest):
                    damaged.append(f"block at row {row}, column {col} of band {band}")
    return None if not damaged else f"{len(damaged)} damaged blocks, the first is the {damaged[0]}"


Place = Callable[[tuple[str | None, ...]], Placement]  # descriptions of a file -> its number of each band


@dataclass(frozen=True)
class Wanted:
    """One file to inspect: (number of the stored band, scale, offset) for each band, and nodata values.

    `imagery` says whether it holds bands of the data set; else it is a mask.
    """

    path: str
    bands: tuple[tuple[int, float, float], ...]
    nodata: tuple[float, ...]
    remote: bool
    imagery: bool = True


def inspect_file(wanted: Wanted, place: Place | None = None) -> FileRecord:
    """Read a whole file in pieces and describe it. Its problems are in the record and never raised.

    For a remote file only the header and one window are read, and the digest covers address and header.
    """
    digest = beside = None
    try:
        if not is_remote(wanted.path) and not is_cube(wanted.path):
            digest, beside = file_digest(Path(wanted.path)), side_digest(wanted.path)
        # Otherwise damaged JPEG data are decoded to grey with only a warning.
        with opened(wanted.path, remote=wanted.remote, GDAL_ERROR_ON_LIBJPEG_WARNING="TRUE") as dataset:
            info = describe_dataset(wanted.path, None, dataset)
            if digest is None:
                digest = hashlib.sha256(repr(info).encode()).hexdigest()
            count, dtype = info.count, info.dtypes[wanted.bands[0][0] - 1 if wanted.bands[0][0] <= info.count else 0]
            damage = _damage(wanted.path, dataset, info)
            if damage is not None:
                return FileRecord(digest, count, dtype, "damaged", f"{wanted.path}: {damage}; restore or remove it")
            known = tuple(band for band in wanted.bands if band[0] <= count)
            stored = known
            if place is not None and wanted.imagery:
                placement = place(info.names)
                if placement.numbers is None:
                    text = placement.text
                    return FileRecord(digest, count, dtype, "band-order", text, beside=beside, header=info)
                stored = tuple((placement.numbers[number - 1], scale, offset) for number, scale, offset in known)
            values = hashlib.sha256(repr((info.shape, info.dtypes, info.nodata, info.missing, info.limits)).encode())
            of_values = isinstance(dataset, CubeStep) and not is_remote(wanted.path)
            seen = values.update if of_values else None
            measured = _measure(dataset, info, stored, wanted.nodata, seen) if known else []
            if of_values:
                digest = values.hexdigest()  # of the values of this step, as the rest of the store does not matter
            bands = tuple((band[0], record) for band, record in zip(known, measured, strict=True))
            return FileRecord(digest, count, dtype, bands=bands, beside=beside, header=info)
    except RasterError as error:
        return FileRecord(digest, kind="unreadable", message=str(error))
    except OSError as error:
        message = f"{wanted.path}: cannot be read ({error.strerror or error}); check the path and the permissions"
        return FileRecord(digest, kind="unreadable", message=message)


def inspect_files(
    source: Source,
    wanted: Sequence[Wanted],
    place: Place | None,
    stamps: Mapping[str, Stamp],
    *,
    workers: int,
    share: WorkShare = ALONE,
    progress: Callable[[int], None] = lambda done: None,
) -> dict[str, FileRecord]:
    """Inspect files with `workers` threads; those that have not changed since the last time are not read again.

    `place` finds the bands of the data set in a file by its descriptions. `stamps` are the states of existing local
    files. Every process of `share` reads its part, and all get all records. `progress` is called with the number of
    files that are done. Where the cache cannot be read or written, files are read again.
    """
    keys = _keys(wanted, stamps, _order_key(source))
    cache = RecordCache(_cache_file(source, wanted), keys)
    known = [set(one) for one in share.exchange(list(cache.known))]  # each node may have its own cache
    records = {path: record for path, record in cache.known.items() if all(path in one for one in known)}
    missing = [one for one in wanted if one.path not in records]
    progress(len(records))
    if not missing:
        return records
    own = share.own(missing)
    executor = ThreadPoolExecutor(max_workers=max(1, workers), thread_name_prefix="audit")
    read: dict[str, FileRecord] = {}
    try:
        for one, record in zip(own, executor.map(inspect_file, own, repeat(place)), strict=True):
            read[one.path] = record
            if share.ranks == 1:
                cache.add(one.path, record)
            progress(min(len(records) + share.ranks * len(read), len(wanted)))
    finally:
        executor.shutdown(wait=True, cancel_futures=True)
        cache.save()
    if share.ranks > 1:
        read = {path: record for part in share.exchange(read) for path, record in part.items()}
        for path, record in read.items() if share.leads else ():
            cache.add(path, record)
        cache.save()
    return records | read


def moments(
    pixels_CTHW: npt.NDArray[np.float32], valid_CTHW: npt.NDArray[np.bool_]
) -> tuple[npt.NDArray[np.float64], ...]:
    """For each window the valid share (T), and per band (T, C) count, mean, sum of squared deviations, minimum and
    maximum (infinite where empty).
    """
    shape_CTP = (*pixels_CTHW.shape[:2], -1)
    flat = pixels_CTHW.reshape(shape_CTP).astype(np.float64, order="C")  # a fixed order of summation
    ok = np.ascontiguousarray(valid_CTHW.reshape(shape_CTP))
    count = ok.sum(2).astype(np.float64)
    if ok.all():  # the same result, faster
        mean = flat.sum(2) / np.maximum(count, 1)
        low, high = flat.min(2), flat.max(2)
        squares = np.square(np.subtract(flat, mean[:, :, None], out=flat), out=flat).sum(2)
    else:
        mean = np.where(ok, flat, 0).sum(2) / np.maximum(count, 1)
        squares = np.where(ok, (flat - mean[:, :, None]) ** 2, 0).sum(2)
        low, high = np.where(ok, flat, np.inf).min(2), np.where(ok, flat, -np.inf).max(2)
    return ok.mean(axis=(0, 2)), count.T, mean.T, squares.T, low.T, high.T


def _is_whole(stream: bytes, smallest: int, largest: int) -> bool:
    """Whether a zlib stream ends with the right checksum and has the size of its block."""
    decoder = zlib.decompressobj()
    try:
        length = len(decoder.decompress(stream, largest + 1))  # bounded: a stream may expand a thousandfold
    except zlib.error:
        return False
    return decoder.eof and smallest <= length <= largest


def _damage(path: str, dataset: DatasetReader, info: Header) -> str | None:
    if is_remote(path) or isinstance(dataset, CubeStep):
        return None
    with Path(path).open("rb") as file:
        return check_blocks(path, dataset, info, file)


def _measure(
    dataset: DatasetReader,
    info: Header,
    bands: tuple[tuple[int, float, float], ...],
    nodata: tuple[float, ...],
    seen: Callable[[bytes], None] | None = None,
) -> list[BandRecord]:
    """Records of the stored `bands` (number, scale, offset); `seen` is called with the bytes of all their pixels."""
    indexes, scale_C, offset_C = (tuple(column) for column in zip(*bands, strict=True))
    step = max(1, math.isqrt(info.height * info.width // SAMPLE_PIXELS))
    valid_C, not_finite_C = np.zeros(len(bands), np.int64), np.zeros(len(bands), np.int64)
    low_C, high_C = np.full(len(bands), np.inf), np.full(len(bands), -np.inf)
    samples_C: list[list[npt.NDArray[np.float32]]] = [[] for _ in bands]
    pixels, whole = 0, []
    for span in _spans(info, len(bands)):
        raw_Chw, valid_Chw = read_stored(dataset, info, indexes, span, nodata)
        if seen is not None:
            seen(raw_Chw.tobytes())
        declared_C = valid_Chw.sum(axis=(1, 2))
        values_Chw = physical(raw_Chw, valid_Chw, scale_C, offset_C)
        pixels += span.height * span.width
        if span.height * span.width == info.height * info.width <= WHOLE_PIXELS:
            _, _, mean_TC, squares_TC, _, _ = moments(values_Chw[:, None], valid_Chw[:, None])
            whole = list(zip(mean_TC[0].tolist(), squares_TC[0].tolist(), strict=True))
        here_C = valid_Chw.sum(axis=(1, 2))
        valid_C += here_C
        not_finite_C += declared_C - here_C
        low_C = np.minimum(low_C, values_Chw.min(axis=(1, 2), where=valid_Chw, initial=np.inf))
        high_C = np.maximum(high_C, values_Chw.max(axis=(1, 2), where=valid_Chw, initial=-np.inf))
        rows, cols = slice(-span.row % step, None, step), slice(-span.col % step, None, step)
        for position, sample in enumerate(samples_C):
            sample.append(values_Chw[position, rows, cols][valid_Chw[position, rows, cols]])
    records = []
    for position, samples in enumerate(samples_C):
        merged = np.concatenate(samples)
        any_valid = valid_C[position] > 0
        fill, fill_share = _fill(merged)
        records.append(
            BandRecord(
                pixels=pixels,
                valid=int(valid_C[position]),
                not_finite=int(not_finite_C[position]),
                low=float(low_C[position]) if any_valid else None,
                high=float(high_C[position]) if any_valid else None,
                median=float(np.median(merged)) if merged.size else None,
                dark=float(np.quantile(merged, DARK)) if merged.size else None,
                fill=fill,
                fill_share=fill_share,
                mean=whole[position][0] if whole else None,
                squares=whole[position][1] if whole else None,
            )
        )
    return records


def _fill(sample_N: npt.NDArray[np.float32]) -> tuple[float | None, float]:
    """The value of a band's sample that may be nodata, and its share of the sample; see `BandRecord`."""
    if sample_N.size == 0:
        return None, 0.0
    low, high = sample_N.min(), sample_N.max()
    rest_N = sample_N[(sample_N > low) & (sample_N < high)]
    if rest_N.size == 0:
        return None, 0.0
    first, last = float(rest_N.min()), float(rest_N.max())
    for value, gap in ((low, first - float(low)), (high, float(high) - last)):
        share = np.count_nonzero(sample_N == value) / sample_N.size
        if gap > last - first > 0 and share >= FILL_SHARE:
            return float(value), share
    return None, 0.0


def _spans(info: Header, bands: int) -> Iterator[Span]:
    """Rectangles of whole blocks that cover the file and fit in memory; for a remote file only the middle one."""
    height, width = info.block_height, info.block_width
    budget = PASS_VALUES // bands
    if height * width > budget:
        height = max(1, budget // width)
    else:
        width = min(info.width, width * max(1, budget // (height * width)))
        if width >= info.width:
            height *= max(1, budget // (height * info.width))
    rows, cols = range(0, info.height, height), range(0, info.width, width)
    if is_remote(info.path):
        rows, cols = (one[len(one) // 2 : len(one) // 2 + 1] for one in (rows, cols))
    for row in rows:
        for col in cols:
            yield Span(row, col, min(height, info.height - row), min(width, info.width - col))


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
