"""What a raster, or a time step of a cube, says of itself before any of its pixels is read."""

import math
from dataclasses import dataclass, field
from typing import Any

import numpy as np
from rasterio import Affine
from rasterio.crs import CRS
from rasterio.errors import CRSError

from geomae.catalog.band_order import ALPHA
from geomae.errors import RasterError

LARGEST_BYTES = 2 * 1024**3  # of one window, and of one block, which is decoded as a whole
METRES_PER_DEGREE = 111_320.0  # along a meridian
Stamp = tuple[int | str, ...] | None  # what tells this state of a local file from others, None for a remote one


@dataclass(frozen=True)
class Header:
    """The header of one file.

    `stamp` tells this state of the file from others. `transform` has the coefficients (a, b, c, d, e, f) of
    `Affine`, from pixel to world. `crs` is an authority string
    or WKT, None where there is none. `pixel_m` is the pixel size in metres, known for projected CRS only; `roughly_m`
    is also estimated from degrees. `alpha` is the number of the alpha band. `masked` says whether the file has a
    mask for all its bands. `scales` and `offsets` are the tags of the bands, 1 and 0 where there is none. `palette`
    says whether a band holds places in a table of colours, `lossy` whether the compression changes values.
    `placed_by` says what would place a file without a CRS: "ground control points" or "RPCs". `pages` counts those of a
    TIFF; the first is read. `acquired` is the time that its tags tell, if they tell one. `missing` are further stored
    values that are no measurement, and `limits` the least and the largest that are one, as cubes declare them.
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
    # The digest of a remote file is of its header as it was before these were there.
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

        Not of four bands of 8 bits: GDAL marks the last as alpha whatever it holds, as the near infrared of NAIP.
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


def header_from_dict(values: dict[str, Any]) -> Header:
    """Read what JSON has of a header. Raises TypeError for anything else."""
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
    """The same in the middle of a raster in degrees."""
    if crs is None or not crs.is_geographic:
        return None
    _, latitude = affine @ (width / 2, height / 2)
    narrowing = max(math.cos(math.radians(latitude)), 1e-3)
    return math.sqrt(abs(affine.determinant) * narrowing) * METRES_PER_DEGREE


def check_header(info: Header) -> None:
    """Raise RasterError for complex values, blocks too large to decode, and a place that is no figure."""
    if not all(map(math.isfinite, info.transform)):
        remedy = "correct it, or the .aux.xml or world file that says so"
        raise RasterError(f"{info.path}: its georeference holds figures that are not finite; {remedy}")
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
