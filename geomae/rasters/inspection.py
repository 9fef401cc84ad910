"""What the audit needs to know of one file: one pass over its bytes and one over its pixels, block after block."""

import hashlib
import math
from collections.abc import Iterator
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
from rasterio.io import DatasetReader

from geomae.errors import RasterError
from geomae.files import file_digest
from geomae.rasters.deflate import check_blocks
from geomae.rasters.handles import is_remote, opened
from geomae.rasters.headers import Header, describe_dataset
from geomae.rasters.stored import Span, physical, read_stored

# C bands, h w pixels of a block

PASS_VALUES = 8_000_000  # values held at once
SAMPLE_PIXELS = 65_536  # of each band, for the median


@dataclass(frozen=True)
class Wanted:
    """One file and what to read of it: (number of the stored band, scale, offset) for each band, and nodata values."""

    path: str
    bands: tuple[tuple[int, float, float], ...]
    nodata: tuple[float, ...]
    remote: bool


@dataclass(frozen=True)
class BandRecord:
    """Counts of pixels, and range and median of the valid ones in physical units (None when there are none)."""

    pixels: int
    valid: int
    not_finite: int
    low: float | None
    high: float | None
    median: float | None


@dataclass(frozen=True)
class FileRecord:
    """What was found in one file. `kind` and `message` say what is wrong, None for a file that reads."""

    digest: str | None = None
    count: int = 0
    dtype: str = ""
    kind: str | None = None
    message: str | None = None
    bands: tuple[tuple[int, BandRecord], ...] = ()

    def to_dict(self) -> dict[str, Any]:
        """Give the record as what JSON has."""
        return asdict(self)

    @classmethod
    def from_dict(cls, values: dict[str, Any]) -> "FileRecord":
        """Read what `to_dict` gave. Raises TypeError, KeyError or ValueError for anything else."""
        bands = tuple((int(index), BandRecord(**band)) for index, band in values["bands"])
        return cls(**{**values, "bands": bands})


def inspect_file(wanted: Wanted) -> FileRecord:
    """Read a file whole, in pieces, and describe it; what is wrong with it is in the record and never raised.

    Of a remote file only the header and one window are read, and the digest covers address and header.
    """
    digest = None
    try:
        if not is_remote(wanted.path):
            digest = file_digest(Path(wanted.path))
        # Damaged JPEG data are decoded to grey with a mere warning otherwise.
        with opened(wanted.path, remote=wanted.remote, GDAL_ERROR_ON_LIBJPEG_WARNING="TRUE") as dataset:
            found = describe_dataset(wanted.path, None, dataset)
            if digest is None:
                digest = hashlib.sha256(repr(found).encode()).hexdigest()
            count, dtype = found.count, found.dtypes[wanted.bands[0][0] - 1 if wanted.bands[0][0] <= found.count else 0]
            damage = _damage(wanted.path, dataset, found)
            if damage is not None:
                return FileRecord(digest, count, dtype, "damaged", f"{wanted.path}: {damage}; restore or remove it")
            known = tuple(band for band in wanted.bands if band[0] <= count)
            bands = _measure(dataset, found, known, wanted.nodata) if known else ()
            return FileRecord(digest, count, dtype, bands=bands)
    except RasterError as error:
        return FileRecord(digest, kind="unreadable", message=str(error))
    except OSError as error:
        message = f"{wanted.path}: cannot be read ({error.strerror or error}); check the path and the permissions"
        return FileRecord(digest, kind="unreadable", message=message)


def _damage(path: str, dataset: DatasetReader, found: Header) -> str | None:
    if is_remote(path):
        return None
    with Path(path).open("rb") as file:
        return check_blocks(path, dataset, found, file)


def _measure(
    dataset: DatasetReader, found: Header, bands: tuple[tuple[int, float, float], ...], nodata: tuple[float, ...]
) -> tuple[tuple[int, BandRecord], ...]:
    indexes, scale_C, offset_C = (tuple(column) for column in zip(*bands, strict=True))
    step = max(1, math.isqrt(found.height * found.width // SAMPLE_PIXELS))
    valid_C, not_finite_C = np.zeros(len(bands), np.int64), np.zeros(len(bands), np.int64)
    low_C, high_C = np.full(len(bands), np.inf), np.full(len(bands), -np.inf)
    samples_C: list[list[npt.NDArray[np.float32]]] = [[] for _ in bands]
    pixels = 0
    for span in _spans(found, len(bands)):
        raw_Chw, valid_Chw = read_stored(dataset, found, indexes, span, nodata)
        declared_C = valid_Chw.sum(axis=(1, 2))
        values_Chw = physical(raw_Chw, valid_Chw, scale_C, offset_C)
        pixels += span.height * span.width
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
        records.append(
            BandRecord(
                pixels=pixels,
                valid=int(valid_C[position]),
                not_finite=int(not_finite_C[position]),
                low=float(low_C[position]) if any_valid else None,
                high=float(high_C[position]) if any_valid else None,
                median=float(np.median(merged)) if merged.size else None,
            )
        )
    return tuple(zip(indexes, records, strict=True))


def _spans(found: Header, bands: int) -> Iterator[Span]:
    """Rectangles that cover the file along its blocks, each small enough to hold; of a remote file the middle one."""
    height, width = found.block_height, found.block_width
    budget = PASS_VALUES // bands
    if height * width > budget:
        height = max(1, budget // width)
    else:
        width = min(found.width, width * max(1, budget // (height * width)))
        if width >= found.width:
            height *= max(1, budget // (height * found.width))
    rows, cols = range(0, found.height, height), range(0, found.width, width)
    if is_remote(found.path):
        rows, cols = (one[len(one) // 2 : len(one) // 2 + 1] for one in (rows, cols))
    for row in rows:
        for col in cols:
            yield Span(row, col, min(height, found.height - row), min(width, found.width - col))
