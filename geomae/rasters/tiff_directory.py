"""Reads the first directory of a TIFF without GDAL, to check that its index has all blocks that its header implies.

GDAL treats a block that is missing in the index as deliberately absent, and so a header with a million columns and an
index of four blocks as a nearly empty raster.
"""

import struct
from typing import BinaryIO, Literal

WIDTH, HEIGHT, BANDS, ROWS_OF_STRIP, PLANES, PREDICTOR = 256, 257, 277, 278, 284, 317
TILE_WIDTH, TILE_HEIGHT = 322, 323
OFFSETS = (324, 273)  # of tiles, of strips
TYPES = {3: "H", 4: "I", 16: "Q"}
MOST_TAGS = 4096  # a directory with more is invalid


def missing_blocks(file: BinaryIO) -> str | None:
    """The number of blocks in the index of a TIFF and in its header, as text, where the index has fewer; else None.

    None also where the directory cannot be parsed: GDAL then reports the error.
    """
    try:
        tags = _directory(file)
    except (struct.error, ValueError):
        return None
    listed = next((tags[tag][0] for tag in OFFSETS if tag in tags), None)
    width, height = (tags.get(tag, (0, 0))[1] for tag in (WIDTH, HEIGHT))
    across = tags.get(TILE_WIDTH, (0, width))[1]
    down = tags[TILE_HEIGHT][1] if TILE_HEIGHT in tags else min(tags.get(ROWS_OF_STRIP, (0, height))[1], height)
    if not listed or 0 in (width, height, across, down):
        return None
    planes = tags.get(BANDS, (0, 1))[1] if tags.get(PLANES, (0, 1))[1] == 2 else 1
    promised = -(-width // across) * -(-height // down) * planes
    if listed >= promised:
        return None
    return f"its header implies {promised} blocks for {height} x {width} pixels, and its index has {listed}"


def encoding(file: BinaryIO) -> tuple[int | None, Literal["<", ">"]]:
    """How pixels become bytes: the predictor, None where it is not known, and the byte order (`<` or `>`)."""
    file.seek(0)
    order: Literal["<", ">"] = "<" if file.read(2) == b"II" else ">"
    try:
        _, predictor = _directory(file).get(PREDICTOR, (1, 1))
    except (struct.error, ValueError):
        return None, order
    return (predictor if predictor in (1, 2, 3) else None), order


def _directory(file: BinaryIO) -> dict[int, tuple[int, int]]:
    """(number of values, first value, or 0 where it is stored outside the directory) of each tag."""
    file.seek(0)
    start = file.read(16)
    order, big = "<" if start[:2] == b"II" else ">", start[2:4] in (b"+\0", b"\0+")
    (place,) = struct.unpack_from(order + ("Q" if big else "I"), start, 8 if big else 4)
    file.seek(place)
    (count,) = struct.unpack(order + ("Q" if big else "H"), file.read(8 if big else 2))
    if count > MOST_TAGS:
        raise ValueError(f"{count} tags")
    size, field = (20, 12) if big else (12, 8)
    entries = file.read(size * count)
    tags = {}
    for at in range(0, size * count, size):
        tag, kind = struct.unpack_from(f"{order}HH", entries, at)
        (length,) = struct.unpack_from(order + ("Q" if big else "I"), entries, at + 4)
        letter = TYPES.get(kind)
        inside = letter is not None and length * struct.calcsize(letter) <= size - field
        tags[tag] = (length, struct.unpack_from(f"{order}{letter}", entries, at + field)[0] if inside else 0)
    return tags
