"""What a raster says about itself, read once per file and checked before any memory is spent on pixels."""

import functools
import math
from dataclasses import dataclass

import numpy as np
from rasterio import Affine
from rasterio.crs import CRS
from rasterio.enums import ColorInterp, MaskFlags
from rasterio.errors import CRSError
from rasterio.io import DatasetReader

from geomae.errors import RasterError
from geomae.rasters.handles import Stamp, borrowed, environment, stamp

LARGEST_BYTES = 2 * 1024**3  # of one window, and of one block, which GDAL decodes as a whole
METRES_PER_DEGREE = 111_320.0  # along a meridian


@dataclass(frozen=True)
class Header:
    """The header of one file.

    `stamp` tells this state of the file from others. `transform` has the coefficients (a, b, c, d, e, f) of
    `Affine`, from pixel to world. `crs` is an authority string
    or WKT, None where there is none. `pixel_m` is the pixel size in metres, known for projected CRS only; `roughly_m`
    is also estimated from degrees. `alpha` is the number of the alpha band. `masked` says whether the file has a
    mask for all its bands.
    """

    path: str
    stamp: Stamp
    height: int
    width: int
    dtypes: tuple[str, ...]
    nodata: tuple[float | None, ...]
    descriptions: tuple[str | None, ...]
    crs: str | None
    transform: tuple[float, float, float, float, float, float]
    pixel_m: float | None
    roughly_m: float | None
    block_height: int
    block_width: int
    interleaved: bool
    compression: str | None
    alpha: int | None
    masked: bool

    @property
    def count(self) -> int:
        """Number of bands."""
        return len(self.dtypes)

    @property
    def shape(self) -> tuple[int, int]:
        """(height, width) in pixels."""
        return self.height, self.width

    @property
    def affine(self) -> Affine:
        """From pixel (column, row) to world (x, y)."""
        return Affine(*self.transform)


def header(path: str, *, remote: bool = False) -> Header:
    """Read the header of `path`; a second call costs one `stat`.

    Raises RasterError for a file that cannot be opened, has no bands, complex values, or blocks too large to decode.
    """
    return _header(path, stamp(path, remote=remote), remote)


def describe_bands(path: str, *, remote: bool = False) -> tuple[str | None, ...]:
    """Give the descriptions that the file has for its bands, in stored order, None where it has none."""
    return header(path, remote=remote).descriptions


@functools.lru_cache(maxsize=16384)  # about 2 kB each
def _header(path: str, current: Stamp, remote: bool) -> Header:
    with environment(remote=remote), borrowed(path, current, remote=remote) as dataset:
        return describe_dataset(path, current, dataset)


def describe_dataset(path: str, current: Stamp, dataset: DatasetReader) -> Header:
    """Give the header of an open data set. Raises as `header` does."""
    if dataset.count == 0:
        raise RasterError(f"{path}: holds no bands; name one of its sub-files, or leave it out")
    crs = dataset.crs or None
    affine = dataset.transform
    pixel_m = _pixel_m(crs, affine)
    flags = dataset.mask_flag_enums[0]
    alpha = dataset.colorinterp.index(ColorInterp.alpha) + 1 if ColorInterp.alpha in dataset.colorinterp else None
    block_height, block_width = dataset.block_shapes[0]
    structure = dataset.tags(ns="IMAGE_STRUCTURE")
    found = Header(
        path=path,
        stamp=current,
        height=dataset.height,
        width=dataset.width,
        dtypes=tuple(dataset.dtypes),
        nodata=tuple(None if value is None else float(value) for value in dataset.nodatavals),
        descriptions=tuple(dataset.descriptions),
        crs=None if crs is None else crs.to_string(),
        transform=tuple(affine)[:6],
        pixel_m=pixel_m,
        roughly_m=pixel_m if pixel_m is not None else _roughly_m(crs, affine, dataset.height, dataset.width),
        block_height=block_height,
        block_width=block_width,
        interleaved=structure.get("INTERLEAVE") == "PIXEL",
        compression=structure.get("COMPRESSION"),
        alpha=alpha,
        masked=MaskFlags.per_dataset in flags and MaskFlags.alpha not in flags,
    )
    _check(found)
    return found


def _pixel_m(crs: CRS | None, affine: Affine) -> float | None:
    if crs is None or not crs.is_projected:
        return None
    try:
        metres = float(crs.linear_units_factor[1])
    except CRSError:
        return None
    return math.sqrt(abs(affine.determinant)) * metres


def _roughly_m(crs: CRS | None, affine: Affine, height: int, width: int) -> float | None:
    if crs is None or not crs.is_geographic:
        return None
    _, latitude = affine @ (width / 2, height / 2)
    narrowing = max(math.cos(math.radians(latitude)), 1e-3)
    return math.sqrt(abs(affine.determinant) * narrowing) * METRES_PER_DEGREE


def _check(found: Header) -> None:
    for dtype in set(found.dtypes):
        if dtype.startswith("complex"):
            raise RasterError(f"{found.path}: holds complex values ({dtype}); convert them to intensity first")
    bands = found.count if found.interleaved else 1
    size = found.block_height * found.block_width * bands * max(np.dtype(one).itemsize for one in found.dtypes)
    if size > LARGEST_BYTES:
        raise RasterError(
            f"{found.path}: one block of {found.block_height} x {found.block_width} pixels needs "
            f"{size / 1024**3:.1f} GiB, more than {LARGEST_BYTES / 1024**3:.0f}; "
            "rewrite the file in tiles (gdal_translate -of COG)"
        )
