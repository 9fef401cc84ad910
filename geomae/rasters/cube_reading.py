"""One array of a cube at one time step as a raster: its header, and its pixels, read chunk by chunk.

C bands, h w pixels of a window
"""

import itertools
import math
from collections.abc import Sequence
from functools import partial
from typing import TYPE_CHECKING, Any

import numpy as np
import numpy.typing as npt
from rasterio import Affine
from rasterio.crs import CRS
from rasterio.windows import Window as RasterioWindow

from geomae.catalog.schema_cubes import CubeAddress, cube_address
from geomae.errors import RasterError
from geomae.rasters.blocks import LARGEST_BLOCK, shared_blocks
from geomae.rasters.cube_grids import ground_of
from geomae.rasters.cube_layouts import labels_of
from geomae.rasters.cube_stores import open_store, reason
from geomae.rasters.headers import LARGEST_BYTES, Header, Stamp, about_m, side_m

if TYPE_CHECKING:
    import xarray as xr

Array = npt.NDArray[Any]
DRIVER = "cube"
UNCHUNKED = 256  # side of the blocks of an array without chunks
SMALL = 128  # largest side of the windows that are read from such blocks


class CubeStep:
    """An opened array of a cube, with the part of the interface of rasterio's `DatasetReader` that reading uses."""

    driver = DRIVER

    def __init__(self, path: str, current: Stamp) -> None:
        """Find the array in its store. Raises RasterError where it is not there."""
        self.path = path
        self.address: CubeAddress = cube_address(path)
        self._current = current
        cube = open_store(self.address.store, current)
        if self.address.variable not in cube.variables:
            raise RasterError(f"{path}: the store no longer has this array; correct `variables`")
        self._array: xr.DataArray = cube[self.address.variable]
        self._cube = cube
        dims = {self.address.y, self.address.x} | {self.address.band, self.address.time} - {None}
        if set(self._array.dims) != dims:
            raise RasterError(f"{path}: the array has the dimensions {', '.join(map(str, self._array.dims))} now")
        self._ground = ground_of(cube, self.address.variable, self.address.y, self.address.x, path)
        self.shape = self._array.sizes[self.address.y], self._array.sizes[self.address.x]
        self.dtype = _read_as(self._array)
        self._chunks = _chunk_shape(self._array)

    def close(self) -> None:
        """Does nothing, because the store is shared."""

    @property
    def units(self) -> tuple[str | None, ...]:
        """The unit that the array states, for each band."""
        return (str(self._array.attrs.get("units") or "") or None,) * self._count

    @property
    def _count(self) -> int:
        return 1 if self.address.band is None else self._array.sizes[self.address.band]

    def header(self, acquired: str | None = None) -> Header:
        """The header, as of a file. Raises RasterError for arrays that are not numeric."""
        if self._array.dtype.kind not in "biufc":
            raise RasterError(f"{self.path}: holds {self._array.dtype} and no numbers; name another array")
        attributes, ground = self._array.attrs, self._ground
        count = self._count
        labels = (self.address.variable,) if self.address.band is None else labels_of(self._cube, self.address.band)
        height, width = self.shape
        by_dim = dict(zip(self._array.dims, self._chunks or self._array.shape, strict=True))
        crs, affine = None if ground.crs is None else CRS.from_user_input(ground.crs), Affine(*ground.transform)
        fills = self._values("_FillValue")
        return Header(
            path=self.path,
            stamp=self._current,
            height=height,
            width=width,
            dtypes=(str(self.dtype),) * count,
            nodata=(fills[0] if fills else None,) * count,
            descriptions=tuple(labels),
            crs=ground.crs,
            transform=ground.transform,
            pixel_m=(pixel_m := side_m(crs, affine)),
            roughly_m=pixel_m if pixel_m is not None else about_m(crs, affine, height, width),
            block_height=by_dim[self.address.y] if self._chunks else min(UNCHUNKED, height),
            block_width=by_dim[self.address.x],
            interleaved=False,
            compression=None,
            alpha=None,
            masked=False,
            scales=(_figure(attributes.get("scale_factor"), 1.0),) * count,
            offsets=(_figure(attributes.get("add_offset"), 0.0),) * count,
            palette=False,
            lossy=False,
            placed_by=None,
            pages=1,
            acquired=acquired,
            missing=tuple(self._values("missing_value")),
            limits=self._limits(),
        )

    def read(self, indexes: Sequence[int], window: RasterioWindow) -> Array:
        """Stored values (C, h, w) of bands, counted from 1, in a window of the north-up grid."""
        height, width = self.shape
        rows = _stored_range(window.row_off, window.height, height, self._ground.flip_y)
        cols = _stored_range(window.col_off, window.width, width, self._ground.flip_x)
        raw_Chw = np.empty((len(indexes), window.height, window.width), dtype=self.dtype)
        for position, index in enumerate(indexes):
            spans = {self.address.y: rows, self.address.x: cols}
            if self.address.band is not None:
                spans[self.address.band] = (index - 1, index)
            if self.address.time is not None and self.address.step is not None:
                spans[self.address.time] = (self.address.step, self.address.step + 1)
            try:
                part = self._gather([spans[str(dim)] for dim in self._array.dims])
            except Exception as error:  # codecs and HDF5 raise various errors for damaged chunks
                raise RasterError(
                    f"{self.path}: cannot be read ({reason(error)}); restore it or leave it out"
                ) from error
            order = [dim for dim in self._array.dims if dim in (self.address.y, self.address.x)]
            part = part.reshape([spans[str(dim)][1] - spans[str(dim)][0] for dim in order])
            part_hw = part if order[0] == self.address.y else part.T
            raw_Chw[position] = part_hw[:: -1 if self._ground.flip_y else 1, :: -1 if self._ground.flip_x else 1]
        return raw_Chw

    def _gather(self, spans: list[tuple[int, int]]) -> Array:
        """The stored values of a box, from the chunks that overlap it.

        Small boxes of an array without chunks come from blocks: what HDF5 in Python does for each request takes
        milliseconds, however few pixels it is for.
        """
        chunks = self._chunks
        if chunks is None and math.prod(stop - start for start, stop in spans) <= SMALL**2:
            spatial = (self.address.y, self.address.x)
            chunks = tuple(min(UNCHUNKED, n) if dim in spatial else 1 for dim, n in self._array.sizes.items())
        if chunks is None or math.prod(chunks) * self.dtype.itemsize > LARGEST_BLOCK:
            return self._fetch(tuple(slice(*span) for span in spans))
        box = np.empty([stop - start for start, stop in spans], dtype=self.dtype)
        met = [range(start // size, -(-stop // size)) for (start, stop), size in zip(spans, chunks, strict=True)]
        for place in itertools.product(*met):
            key = (self.address.store, self._current, self.address.variable, place)
            bounds = zip(place, chunks, self._array.shape, strict=True)
            whole = tuple(slice(at * size, min((at + 1) * size, end)) for at, size, end in bounds)
            chunk = shared_blocks().get(key, partial(self._fetch, whole))
            source, target = [], []
            for at, size, (start, stop) in zip(place, chunks, spans, strict=True):
                first, last = max(start, at * size), min(stop, (at + 1) * size)
                source.append(slice(first - at * size, last - at * size))
                target.append(slice(first - start, last - start))
            box[tuple(target)] = chunk[tuple(source)]
        return box

    def _fetch(self, box: tuple[slice, ...]) -> Array:
        """Read and decode one box."""
        values: Array = self._array[box].values
        if values.dtype.kind in "iu" and values.dtype != self.dtype and values.dtype.itemsize == self.dtype.itemsize:
            return values.astype(values.dtype.newbyteorder("="), copy=False).view(self.dtype)
        return values.astype(self.dtype, copy=False)

    def _values(self, key: str) -> list[float]:
        """The values of an attribute, in the type of the array."""
        found = self._array.attrs.get(key)
        if found is None or isinstance(found, (str, bytes)):
            return []
        values = np.atleast_1d(found)
        if self.dtype.kind == "u" and values.dtype.kind == "i":  # stored as signed integers, declared `_Unsigned`
            values = values.astype(f"i{self.dtype.itemsize}").view(self.dtype)
        return [float(one) for one in values]

    def _limits(self) -> tuple[float, float] | None:
        """The smallest and the largest valid stored value, where attributes declare them."""
        both = self._values("valid_range")
        if len(both) == 2:
            return both[0], both[1]
        low, high = self._values("valid_min"), self._values("valid_max")
        return (low[0] if low else -math.inf, high[0] if high else math.inf) if low or high else None


def _read_as(array: "xr.DataArray") -> np.dtype[Any]:
    """The type of returned values: native byte order, uint8 for booleans, unsigned where `_Unsigned` says so."""
    dtype: np.dtype[Any] = array.dtype.newbyteorder("=")
    if dtype.kind == "b":
        return np.dtype("uint8")
    if dtype.kind == "i" and str(array.attrs.get("_Unsigned", "")).lower() == "true":
        return np.dtype(f"u{dtype.itemsize}")
    return dtype


def _chunk_shape(array: "xr.DataArray") -> tuple[int, ...] | None:
    """The shape of an array's chunks; None where it has none. Raises RasterError for chunks too large to decode."""
    found = array.encoding.get("chunks") or array.encoding.get("chunksizes")
    if not found or len(found) != array.ndim:
        return None
    size = math.prod(found) * array.dtype.itemsize
    if size > LARGEST_BYTES:
        raise RasterError(
            f"{array.name}: one chunk of {' x '.join(map(str, found))} needs {size / 1024**3:.1f} GiB, more than "
            f"{LARGEST_BYTES / 1024**3:.0f}; rewrite the cube in smaller chunks"
        )
    return tuple(int(one) for one in found)


def _stored_range(start: int, length: int, size: int, flipped: bool) -> tuple[int, int]:
    return (size - start - length, size - start) if flipped else (start, start + length)


def _figure(value: Any, default: float) -> float:
    try:
        figure = float(np.asarray(value).item())
    except (TypeError, ValueError):
        return default
    return figure if math.isfinite(figure) else default
