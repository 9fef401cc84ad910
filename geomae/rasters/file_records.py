"""The audit's record of a file, and its cache, which is valid while the file is unchanged.

The cache is a text file with one line per file that was read. A line is appended when a file is read again, and the
last line of a file is valid. A killed process leaves at most an incomplete line, which is skipped.
"""

import contextlib
import hashlib
import json
import time
from collections.abc import Mapping
from dataclasses import dataclass, field, fields
from pathlib import Path
from typing import Any

from geomae.errors import StorageError
from geomae.files import publish_file
from geomae.rasters.headers import HEADER_FIELDS, Header, header_from_dict
from geomae.rasters.tile_moments import TileMoments

SAVE_SECONDS, SAVE_RECORDS = 30.0, 4096  # after which new records are written


@dataclass(frozen=True, slots=True)
class BandRecord:
    """Counts of pixels; range, median and first percentile (`dark`) of the valid ones in physical units.

    These are None without valid pixels. `fill` is the lowest or highest value, where many pixels have it and its gap to
    the other values is larger than their range: it may be undeclared nodata. `fill_share` is the share of valid pixels
    with that value. `mean` and `squares` (see `moments`) are known for files that were read in one piece.
    """

    pixels: int
    valid: int
    not_finite: int
    low: float | None
    high: float | None
    median: float | None
    dark: float | None = None
    fill: float | None = None
    fill_share: float = 0.0
    mean: float | None = field(default=None, compare=False)
    squares: float | None = field(default=None, compare=False)


# `asdict` copies each value, which takes longer than opening the file.
BAND_FIELDS = tuple(one.name for one in fields(BandRecord))


@dataclass(frozen=True)
class FileFacts:
    """Properties of a file from its header, for remarks: see `Header`. `nodata` is whether the file declares any."""

    names: tuple[str | None, ...]
    scales: tuple[float, ...]
    offsets: tuple[float, ...]
    alpha: int | None
    palette: bool
    lossy: bool
    masked: bool
    nodata: bool
    placed_by: str | None
    pages: int
    sides_m: tuple[float, float] | None

    @classmethod
    def of(cls, info: Header) -> "FileFacts":
        """The facts of a header."""
        nodata = any(value is not None for value in info.nodata)
        look = (info.names, info.scales, info.offsets, info.alpha, info.palette, info.lossy, info.masked)
        return cls(*look, nodata, info.placed_by, info.pages, info.sides_m)


@dataclass(frozen=True, slots=True)
class FileRecord:
    """The record of one file. `kind` and `message` describe its problem; None for a file without one.

    `digest` is of the file's bytes, `beside` of the side files that GDAL reads with it (None without any). `bands` are
    numbered in the stored order of the data set, also where the file has another order (see `StoredOrder`). `tiles` has
    the moments of tiles that were measured while the file was read; they are not cached.
    """

    digest: str | None = None
    count: int = 0
    dtype: str = ""
    kind: str | None = None
    message: str | None = None
    bands: tuple[tuple[int, BandRecord], ...] = ()
    beside: str | None = None
    header: Header | None = None
    tiles: TileMoments | None = field(default=None, compare=False, repr=False)

    @property
    def facts(self) -> FileFacts | None:
        """The facts of its header; None where it was not read."""
        return None if self.header is None else FileFacts.of(self.header)

    @property
    def content(self) -> str | None:
        """Digest of everything that determines the pixels: the bytes of the file and of its side files."""
        if self.digest is None or self.beside is None:
            return self.digest
        return hashlib.sha256(f"{self.digest}\n{self.beside}".encode()).hexdigest()

    def to_dict(self) -> dict[str, Any]:
        """The record as JSON."""
        header = None if self.header is None else {name: getattr(self.header, name) for name in HEADER_FIELDS}
        bands = [(index, {name: getattr(one, name) for name in BAND_FIELDS}) for index, one in self.bands]
        return {name: getattr(self, name) for name in RECORD_FIELDS} | {"header": header, "bands": bands}

    @classmethod
    def from_dict(cls, values: dict[str, Any]) -> "FileRecord":
        """The inverse of `to_dict`. Raises TypeError, KeyError or ValueError for anything else."""
        bands = tuple((int(index), BandRecord(**band)) for index, band in values["bands"])
        header = values["header"]
        return cls(**{**values, "bands": bands, "header": None if header is None else header_from_dict(header)})


RECORD_FIELDS = tuple(one.name for one in fields(FileRecord) if one.name != "tiles")


class RecordCache:
    """The cached records of one data set, in the file `place`; `known` are those whose key equals that in `keys`.

    The key of a path changes with the file and with the way it is read. Errors in reading or writing the cache are
    ignored: files are then read again.
    """

    def __init__(self, place: Path, keys: Mapping[str, str]) -> None:
        self.known: dict[str, FileRecord] = {}
        self._place, self._keys, self._lines = place, keys, 0
        self._unsaved: list[str] = []
        self._saved_s = time.monotonic()
        with contextlib.suppress(OSError), place.open("rb") as lines:
            for line in lines:
                self._lines += 1
                self._read(line)

    def add(self, path: str, record: FileRecord) -> None:
        """Add the record of a file that has a key; the cache is written every SAVE_SECONDS or SAVE_RECORDS."""
        if path not in self._keys or record.kind == "unreadable":  # may be temporary
            return
        self.known[path] = record
        self._unsaved.append(_line(path, self._keys[path], record))
        if time.monotonic() - self._saved_s > SAVE_SECONDS or len(self._unsaved) >= SAVE_RECORDS:
            self.save()

    def save(self) -> None:
        """Append what was added; rewrite the cache where most of its lines are out of date."""
        self._lines += len(self._unsaved)
        with contextlib.suppress(OSError, StorageError):
            if self._lines > 2 * len(self.known):
                with publish_file(self._place) as temporary, temporary.open("w", encoding="utf-8") as file:
                    file.writelines(_line(path, self._keys[path], record) for path, record in self.known.items())
                self._lines = len(self.known)
            else:
                self._place.parent.mkdir(parents=True, exist_ok=True)
                with self._place.open("a", encoding="utf-8") as file:
                    file.write("".join(self._unsaved))
        self._unsaved.clear()
        self._saved_s = time.monotonic()

    def _read(self, line: bytes) -> None:
        try:
            path, key, record = json.loads(line)
            if self._keys.get(path) == key:
                self.known[path] = FileRecord.from_dict(record)
        except (ValueError, TypeError, KeyError, AttributeError):
            return


def _line(path: str, key: str, record: FileRecord) -> str:
    return json.dumps([path, key, record.to_dict()], separators=(",", ":")) + "\n"
