"""The compressed blocks of a GeoTIFF: where they lie, and whether each is whole.

Each deflated block is a zlib stream that ends with an Adler-32 checksum, at which some decoders do not look. It is
compared with what the decoded pixels come to, so that no block is decoded twice; only where it differs, or where
not all pixels of a block are at hand, the stream itself is decoded.

C bands, h w pixels
"""

import zlib
from collections.abc import Sequence
from dataclasses import dataclass, field
from io import BytesIO
from pathlib import Path
from typing import Any, BinaryIO, Literal

import numpy as np
import numpy.typing as npt
from rasterio.io import DatasetReader

from geomae.errors import RasterError
from geomae.rasters.headers import Header
from geomae.rasters.stored import Span
from geomae.rasters.tiff_directory import Directory

Array = npt.NDArray[Any]
Block = tuple[int, int, int]  # plane, row and column; a plane is one band, or all of them where they are interleaved
CHECKSUM_BYTES = 4
ROWS = 16  # of a block that are encoded at once: they stay in the cache of a core
HORIZONTAL, FLOATING = 2, 3  # predictors


@dataclass(frozen=True)
class BlockIndex:
    """The deflated blocks of a file: `place` has their start and length (planes, rows, columns, 2), 0 where absent.

    `predictor` and `order` (`<` or `>`) are how pixels become the bytes that are compressed; None where that is not
    known. `packed` says that values have fewer bits than their type. `content` are the bytes of the file, if at hand.
    """

    info: Header
    place: npt.NDArray[np.int64]
    predictor: int | None
    order: Literal["<", ">"]
    packed: bool
    content: bytes | None = field(default=None, repr=False, compare=False)

    def damaged(self, inner: Span, indexes: Sequence[int], around: Span, raw_Chw: Array) -> list[Block]:
        """Those that begin in `inner` and are damaged; `raw_Chw` are the bands `indexes` of the file in `around`."""
        there = self._within(inner)
        if not there:
            return []
        with open_bytes(self.info.path, self.content) as file:
            return [one for one in there if not self._fits(file, one, indexes, around, raw_Chw)]

    def all_damaged(self) -> list[Block]:
        """All that are damaged, each decoded by itself."""
        with open_bytes(self.info.path, self.content) as file:
            every = self._within(Span(0, 0, self.info.height, self.info.width))
            return [one for one in every if not self._is_whole(file, one)]

    def _within(self, inner: Span) -> list[Block]:
        """The blocks, plane by plane, whose first pixel lies in a rectangle."""
        height, width = self.info.block_height, self.info.block_width
        rows = range(-(-inner.row // height), -(-(inner.row + inner.height) // height))
        cols = range(-(-inner.col // width), -(-(inner.col + inner.width) // width))
        return [(plane, row, col) for plane in range(len(self.place)) for row in rows for col in cols]

    def _fits(self, file: BinaryIO, block: Block, indexes: Sequence[int], around: Span, raw_Chw: Array) -> bool:
        """Whether a block is whole, of its pixels where they are at hand."""
        start, length = self.place[block].tolist()
        if not start or not length:
            return True  # one that is absent holds nodata, which is allowed
        pixels_hwC = self._pixels(block, indexes, around, raw_Chw)
        if pixels_hwC is None or length <= CHECKSUM_BYTES:
            return self._is_whole(file, block)
        file.seek(start + length - CHECKSUM_BYTES)
        expected, found = int.from_bytes(file.read(CHECKSUM_BYTES), "big"), 1
        for row in range(0, len(pixels_hwC), ROWS):
            found = zlib.adler32(_encoded(pixels_hwC[row : row + ROWS], self.predictor, self.order).data, found)
        return found == expected or self._is_whole(file, block)

    def _pixels(self, block: Block, indexes: Sequence[int], around: Span, raw_Chw: Array) -> Array | None:
        """A view of all pixels (h, w, C) that a block holds; None where they are not all at hand."""
        plane, row, col = block
        info, bands = self.info, range(1, self.info.count + 1) if self.info.interleaved else (block[0] + 1,)
        top, left = row * info.block_height - around.row, col * info.block_width - around.col
        rows = min(info.block_height, info.height - row * info.block_height)
        if info.block_width < info.width and rows < info.block_height:
            return None  # the lower edge of a tile is padded
        if (
            self.predictor is None or self.packed
            or left + info.block_width > around.width or top + rows > around.height
            or raw_Chw.dtype != np.dtype(info.dtypes[plane]) or not set(bands) <= set(indexes)
        ):  # fmt: skip
            return None
        part_Chw = raw_Chw[:, top : top + rows, left : left + info.block_width]
        if tuple(bands) != tuple(indexes):
            part_Chw = part_Chw[[indexes.index(band) for band in bands]]
        return part_Chw.transpose(1, 2, 0)

    def _is_whole(self, file: BinaryIO, block: Block) -> bool:
        """Whether its stream ends with the right checksum and has as many bytes as its pixels need."""
        start, length = self.place[block].tolist()
        if not start or not length:
            return True
        plane, row, _ = block
        info = self.info
        depth = np.dtype(info.dtypes[plane]).itemsize * (info.count if info.interleaved else 1)
        largest = info.block_height * info.block_width * depth
        rows = min(info.block_height, info.height - row * info.block_height)
        smallest = 0 if self.packed else rows * info.block_width * depth
        file.seek(start)
        decoder = zlib.decompressobj()
        try:  # bounded: a stream may expand a thousandfold
            size = len(decoder.decompress(file.read(length), largest + 1))
        except zlib.error:
            return False
        return decoder.eof and smallest <= size <= largest


def open_bytes(path: str, content: bytes | None) -> BinaryIO:
    """A file, or its `content` where that was read already."""
    return Path(path).open("rb") if content is None else BytesIO(content)


def index_of_blocks(
    dataset: DatasetReader, info: Header, directory: Directory | None, content: bytes | None = None
) -> BlockIndex | None:
    """The deflated blocks of a GeoTIFF with its directory, and its bytes if at hand; None for any other file.

    Raises RasterError when the file ends before its blocks do.
    """
    if info.compression != "DEFLATE":
        return None
    planes, rows, cols = (
        1 if info.interleaved else info.count, -(-info.height // info.block_height), -(-info.width // info.block_width)
    )  # fmt: skip
    with open_bytes(info.path, content) as file:
        listed = None if directory is None else directory.blocks(file, planes * rows * cols)
        size = file.seek(0, 2)
    place = _place_by_gdal(dataset, (planes, rows, cols)) if listed is None else listed.reshape(planes, rows, cols, 2)
    start, length = place[..., 0], place[..., 1]
    if ((start > 0) & (length > 0) & (start + length > size)).any():
        raise RasterError(f"{info.path}: ends before its data does (a part is missing); restore or remove it")
    packed = bool(dataset.tags(1, ns="IMAGE_STRUCTURE").get("NBITS"))
    order = "<" if directory is None else directory.order
    predictor = None if directory is None else directory.predictor
    return BlockIndex(info, place, predictor, order, packed, content)


def _place_by_gdal(dataset: DatasetReader, shape: tuple[int, int, int]) -> npt.NDArray[np.int64]:
    """Start and length of each block by GDAL, which repairs some damaged indexes: planes, rows, columns, 2."""
    place = np.zeros((*shape, 2), dtype=np.int64)
    for plane, row, col in np.ndindex(*shape):
        for which, what in enumerate(("OFFSET", "SIZE")):
            tag = dataset.get_tag_item(f"BLOCK_{what}_{col}_{row}", dm="TIFF", bidx=plane + 1)
            place[plane, row, col, which] = int(tag or 0)
    return place


def describe_damage(damaged: Sequence[Block]) -> str | None:
    """Name the first damaged block and say how many there are; None without any."""
    if not damaged:
        return None
    plane, row, col = min(damaged)
    return f"{len(damaged)} damaged blocks, the first is the block at row {row}, column {col} of band {plane + 1}"


def _encoded(pixels_hwC: Array, predictor: int | None, order: Literal["<", ">"]) -> Array:
    """The bytes that are compressed, of some rows of pixels of a block."""
    pixels_hwC, dtype = np.ascontiguousarray(pixels_hwC), pixels_hwC.dtype
    height, width, count = pixels_hwC.shape
    if predictor == FLOATING:
        bytes_hnb = pixels_hwC.astype(dtype.newbyteorder(">")).view(np.uint8).reshape(height, width * count, -1)
        planes_hwC = bytes_hnb.transpose(0, 2, 1).reshape(height, -1, count)
        return _differences(planes_hwC)
    if predictor == HORIZONTAL:
        pixels_hwC = _differences(pixels_hwC.view(f"u{dtype.itemsize}"))
    return np.ascontiguousarray(pixels_hwC.astype(pixels_hwC.dtype.newbyteorder(order), copy=False))


def _differences(values_hwC: Array) -> Array:
    """Each value less the one to its left, modulo the size of the type."""
    differences_hwC = values_hwC.copy()
    np.subtract(values_hwC[:, 1:], values_hwC[:, :-1], out=differences_hwC[:, 1:])
    return differences_hwC
