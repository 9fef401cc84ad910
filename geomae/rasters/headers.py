"""The header of a raster, or of a time step of a cube: everything that is known before pixels are read."""

import math
from dataclasses import dataclass, field, fields
from typing import Any

import numpy as np
from rasterio import Affine
from rasterio.crs import CRS
from rasterio.errors import CRSError

from geomae.catalog.band_order import ALPHA
from geomae.errors import RasterError

LARGEST_BYTES = 2 * 1024**3  # memory of one window, and of one block, which is decoded as a whole
METRES_PER_DEGREE = 111_320.0  # along a meridian
Stamp = tuple[int | str, ...] | None  # the state of a local file, which changes with it; None for a remote one


@dataclass(frozen=True, slots=True)  # there may be 100,000
class Header:
    """The header of one file.

    `stamp` is the state of the file. `transform` has the coefficients (a, b, c, d, e, f) of `Affine`, from pixel to
    world. `crs` is an authority string or WKT, None without one. `pixel_m` is the pixel size in metres, known for
    projected CRS only; `roughly_m` is also estimated for degrees. `alpha` is the number of the alpha band. `masked`
    says whether the file has a mask for all its bands. `scales` and `offsets` are tags of the bands, 1 and 0 without
    tags. `palette` says whether a band holds indices of a colour table, `lossy` whether the compression changes values.
    `placed_by` is the georeference of a file without a CRS, which is not used: "ground control points" or "RPCs".
    `pages` counts the pages of a TIFF, of which the first is read. `acquired` is the time in its tags, if any. As
    cubes declare them, `missing` are further nodata values, and `limits` the smallest and the largest valid value.
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
    scales: tuple[float, ...]
    offsets: tuple[float, ...]
    palette: bool
    lossy: bool
    placed_by: str | None
    pages: int
    # Not in `repr`, of which the digest of a remote file is made, so that digests of older versions stay valid.
    acquired: str | None = field(default=None, repr=False)
    missing: tuple[float, ...] = field(default=(), repr=False)
    limits: tuple[float, float] | None = field(default=None, repr=False)

    @property
    def sides_m(self) -> tuple[float, float] | None:
        """Width and height of a pixel in metres, known for projected CRS only."""
        if self.pixel_m is None:
            return None
        metres = self.pixel_m / math.sqrt(abs(self.affine.determinant))  # per unit of the CRS
        a, b, _, d, e, _ = self.transform
        return math.hypot(a, d) * metres, math.hypot(b, e) * metres

    @property
    def names(self) -> tuple[str | None, ...]:
        """The descriptions, and "alpha" for an alpha band that has none.

        Four bands of 8 bits are an exception: GDAL marks the last as alpha even if it is, as in NAIP, near infrared.
        """
        if self.alpha is None or self.descriptions[self.alpha - 1] or (self.count, self.dtypes[0]) == (4, "uint8"):
            return self.descriptions
        return (*self.descriptions[: self.alpha - 1], ALPHA, *self.descriptions[self.alpha :])

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


HEADER_FIELDS = tuple(one.name for one in fields(Header))


def header_from_dict(values: dict[str, Any]) -> Header:
    """A header from JSON. Raises TypeError for anything else."""
    fixed: dict[str, Any] = {key: tuple(one) if isinstance(one, list) else one for key, one in values.items()}
    return Header(**fixed)


def side_m(crs: CRS | None, affine: Affine) -> float | None:
    """Side of a pixel in metres, None where its CRS is not projected."""
    if crs is None or not crs.is_projected:
        return None
    try:
        metres = float(crs.linear_units_factor[1])
    except CRSError:
        return None
    return math.sqrt(abs(affine.determinant)) * metres


def about_m(crs: CRS | None, affine: Affine, height: int, width: int) -> float | None:
    """The approximate side of a pixel in metres at the centre of a raster in degrees; None for other CRS."""
    if crs is None or not crs.is_geographic:
        return None
    _, latitude = affine @ (width / 2, height / 2)
    narrowing = max(math.cos(math.radians(latitude)), 1e-3)
    return math.sqrt(abs(affine.determinant) * narrowing) * METRES_PER_DEGREE


def check_header(info: Header) -> None:
    """Raise RasterError for complex values, blocks too large to decode, and a transform that is not finite."""
    if not all(map(math.isfinite, info.transform)):
        remedy = "correct it, or the .aux.xml or world file that it comes from"
        raise RasterError(f"{info.path}: its georeference has numbers that are not finite; {remedy}")
    for dtype in set(info.dtypes):
        if dtype.startswith("complex"):
            raise RasterError(f"{info.path}: holds complex values ({dtype}); convert them to intensity first")
    bands = info.count if info.interleaved else 1
    size = info.block_height * info.block_width * bands * max(np.dtype(one).itemsize for one in info.dtypes)
    if size > LARGEST_BYTES:
        raise RasterError(
            f"{info.path}: one block of {info.block_height} x {info.block_width} pixels needs "
            f"{size / 1024**3:.1f} GiB, more than {LARGEST_BYTES / 1024**3:.0f}; "
            "rewrite the file in tiles (gdal_translate -of COG)"
        )
