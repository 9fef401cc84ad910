"""Reads the first directory of a TIFF without GDAL: what its index must have, where its blocks lie, and its CRS tags.

GDAL treats a block that is missing in the index as deliberately absent, and so a header with a million columns and an
index of four blocks as a nearly empty raster.
"""

import struct
from dataclasses import dataclass
from typing import BinaryIO, Literal

import numpy as np
import numpy.typing as npt

MAGICS = (b"II*\0", b"MM\0*", b"II+\0", b"MM\0+")
WIDTH, HEIGHT, BANDS, ROWS_OF_STRIP, PLANES, PREDICTOR = 256, 257, 277, 278, 284, 317
TILE_WIDTH, TILE_HEIGHT = 322, 323
OFFSETS = (324, 273)  # of tiles, of strips
SIZES = (325, 279)
TYPES = {3: "H", 4: "I", 16: "Q"}
VALUE_BYTES = {1: 1, 2: 1, 3: 2, 4: 4, 6: 1, 7: 1, 8: 2, 9: 4, 11: 4, 12: 8, 16: 8}  # by type
GEO_KEYS = (34735, 34736, 34737)
# GDAL takes the CRS from the geokeys or its own metadata, and for ground control points where there is no transform.
PLACED_BY = (*GEO_KEYS, 42112, 33550, 34264)
TIE_POINTS = 33922
MOST_TAGS = 4096  # a directory with more is invalid


@dataclass(frozen=True)
class Directory:
    """The tags of a TIFF: type, number of values, and the bytes of its value or of the place of its values."""

    order: Literal["<", ">"]
    big: bool
    tags: dict[int, tuple[int, int, bytes]]

    def missing_blocks(self) -> str | None:
        """The number of blocks in the index and in the header, as text, where the index has fewer; else None."""
        listed = next((self._count(tag) for tag in OFFSETS if tag in self.tags), None)
        width, height = self._value(WIDTH, 0), self._value(HEIGHT, 0)
        across = self._value(TILE_WIDTH, width)
        strip = min(self._value(ROWS_OF_STRIP, height), height)
        down = self._value(TILE_HEIGHT, strip)
        if not listed or 0 in (width, height, across, down):
            return None
        planes = self._value(BANDS, 1) if self._value(PLANES, 1) == 2 else 1
        promised = -(-width // across) * -(-height // down) * planes
        if listed >= promised:
            return None
        return f"its header implies {promised} blocks for {height} x {width} pixels, and its index has {listed}"

    @property
    def predictor(self) -> int | None:
        """How pixels are predicted from their neighbours before they are compressed; None where that is not known."""
        predictor = self._value(PREDICTOR, 1)
        return predictor if predictor in (1, 2, 3) else None

    def blocks(self, file: BinaryIO, number: int) -> npt.NDArray[np.int64] | None:
        """Start and length of each of `number` blocks (number, 2); None where GDAL may take them to be others."""
        columns = []
        for tags in (OFFSETS, SIZES):
            tag = next((one for one in tags if one in self.tags), None)
            if tag is None or self._count(tag) != number or self.tags[tag][0] not in TYPES:
                return None
            content = self._bytes(file, tag)
            if content is None:
                return None
            kind = np.dtype(TYPES[self.tags[tag][0]]).newbyteorder(self.order)
            columns.append(np.frombuffer(content, dtype=kind).astype(np.int64))
        place = np.stack(columns, axis=-1)
        return place if (place > 0).all() else None

    def crs_key(self, file: BinaryIO) -> tuple[object, ...] | None:
        """Equal for two files of the same CRS tags; None without any, and where they cannot be read."""
        if GEO_KEYS[0] not in self.tags:
            return None
        parts = [self._bytes(file, tag) if tag in self.tags else b"" for tag in PLACED_BY]
        return None if None in parts else (self.order, self._count(TIE_POINTS), *parts)

    def _count(self, tag: int) -> int:
        return self.tags[tag][1] if tag in self.tags else 0

    def _value(self, tag: int, default: int) -> int:
        """The first value of a tag, or 0 where it is stored outside the directory."""
        if tag not in self.tags:
            return default
        kind, length, field = self.tags[tag]
        letter = TYPES.get(kind)
        if letter is None or length * struct.calcsize(letter) > len(field):
            return 0
        value: int = struct.unpack_from(self.order + letter, field)[0]
        return value

    def _bytes(self, file: BinaryIO, tag: int) -> bytes | None:
        """All values of a tag as they are stored; None where they are not there."""
        kind, length, field = self.tags[tag]
        size = VALUE_BYTES.get(kind, 0) * length
        if size <= len(field):
            return field[:size]
        (place,) = struct.unpack(self.order + ("Q" if self.big else "I"), field)
        end = file.seek(0, 2)
        if place + size > end:  # also keeps an invalid length from filling the memory
            return None
        file.seek(place)
        return file.read(size)


def read_directory(file: BinaryIO) -> Directory | None:
    """The first directory; None where it cannot be parsed, of which GDAL then reports the error."""
    file.seek(0)
    start = file.read(16)
    if start[:4] not in MAGICS:
        return None
    order: Literal["<", ">"] = "<" if start[:2] == b"II" else ">"
    big = start[2:4] in (b"+\0", b"\0+")
    try:
        (place,) = struct.unpack_from(order + ("Q" if big else "I"), start, 8 if big else 4)
        file.seek(place)
        (count,) = struct.unpack(order + ("Q" if big else "H"), file.read(8 if big else 2))
        size = 20 if big else 12
        entries = file.read(size * count) if count <= MOST_TAGS else b""
        if len(entries) < size * count:
            return None
        every = struct.iter_unpack(order + ("HHQ8s" if big else "HHI4s"), entries)
        return Directory(order, big, {tag: (kind, length, field) for tag, kind, length, field in every})
    except (struct.error, ValueError, OverflowError):
        return None
