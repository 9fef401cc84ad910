"""Damage in DEFLATE-compressed GeoTIFF that decoders may pass over: the checksum of every block is verified."""

import zlib
from typing import BinaryIO

import numpy as np
from rasterio.io import DatasetReader

from geomae.errors import RasterError
from geomae.rasters.headers import Header


def check_blocks(path: str, dataset: DatasetReader, found: Header, file: BinaryIO) -> str | None:
    """Name the first damaged block of a GeoTIFF and how many there are, or None when there is none.

    Each compressed block is a zlib stream that ends with an Adler-32 checksum; some decoders do not look at it. A
    block that is absent holds nodata, which is allowed.

    Raises RasterError when the file ends before its blocks do.
    """
    if dataset.driver != "GTiff" or found.compression != "DEFLATE":
        return None
    size = file.seek(0, 2)
    bits = dataset.tags(1, ns="IMAGE_STRUCTURE").get("NBITS")
    bands = range(1, 2) if found.interleaved else range(1, found.count + 1)
    damaged: list[str] = []
    for band in bands:
        depth = np.dtype(found.dtypes[band - 1]).itemsize * (found.count if found.interleaved else 1)
        largest = found.block_height * found.block_width * depth
        for row in range(-(-found.height // found.block_height)):
            rows = min(found.block_height, found.height - row * found.block_height)
            smallest = 0 if bits else rows * found.block_width * depth
            for col in range(-(-found.width // found.block_width)):
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


def _is_whole(stream: bytes, smallest: int, largest: int) -> bool:
    """Whether a zlib stream ends with the right checksum and has as many bytes as its block needs."""
    decoder = zlib.decompressobj()
    try:
        length = len(decoder.decompress(stream, largest + 1))  # bounded: a stream may expand a thousandfold
    except zlib.error:
        return False
    return decoder.eof and smallest <= length <= largest
