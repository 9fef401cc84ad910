"""The grid of a scene, the mapping from it to each of its files, and resampling with validity.

Each output pixel depends only on its position on the grid and is summed in a fixed order, so that reading a window and
reading the whole scene give identical values.

C bands, h w pixels of the file, H W pixels of the grid, L pixels along one axis of the grid, K pixels in a weighted sum
"""

import functools
import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt
from rasterio import Affine
from rasterio.crs import CRS
from rasterio.errors import CRSError

from geomae.catalog import BandFile, Scene, Source
from geomae.errors import RasterError
from geomae.rasters.headers import Header
from geomae.rasters.opening import header

Floats = npt.NDArray[np.float32]
Bools = npt.NDArray[np.bool_]
Indexes = npt.NDArray[np.int64]
SMALLEST_WEIGHT = 1e-6


GSD_TOLERANCE = 0.05  # a file this close to `gsd_m` is not resampled
FINEST = 64  # largest ratio of the pixel size of a scene's finest file to that of its grid
SNAP = 1e-3  # pixels over a whole raster: smaller offsets are rounding in the file's header
HALF = 0.5 + SNAP  # pixels by which the edges of the files of a scene may differ


@dataclass(frozen=True)
class Axis:
    """How one axis of a grid maps to a file of `size` pixels: file coordinate = grid coordinate x scale + offset."""

    scale: float
    offset: float
    size: int

    @property
    def aligned(self) -> bool:
        """Whether the pixels of both coincide."""
        return self.scale == 1.0 and self.offset == 0.0


@dataclass(frozen=True)
class Taps:
    """The pixels of a file, and their weights, that make up output pixels along one axis.

    `size` pixels are read from `first` on; `index_LK` and `nearest_L` count from `first`. `nearest_L` is the pixel that
    contains the centre of the output pixel.
    """

    first: int
    size: int
    index_LK: Indexes
    weight_LK: Floats
    nearest_L: Indexes


@functools.lru_cache(maxsize=256)  # the files of a scene share them
def taps(axis: Axis, start: int, length: int) -> Taps:
    """Bilinear weights of the file's pixels for the pixels `start` to `start + length` of the grid.

    Where the file is finer than the grid, the triangle filter is widened to the output pixel, so that no pixel is
    skipped.
    """
    centre_L = _centres(axis, start, length) - 0.5
    centre_L = np.clip(centre_L, 0, axis.size - 1)  # the outer half of a border pixel has one neighbour only
    half = max(1.0, axis.scale)
    index_LK = (np.floor(centre_L - half).astype(np.int64) + 1)[:, None] + np.arange(math.ceil(2 * half))
    weight_LK = np.maximum(0.0, 1 - np.abs(index_LK - centre_L[:, None]) / half)
    weight_LK[(index_LK < 0) | (index_LK >= axis.size)] = 0
    weight_LK /= weight_LK.sum(axis=1, keepdims=True)
    index_LK = np.clip(index_LK, 0, axis.size - 1)
    nearest_L = np.clip(np.floor(_centres(axis, start, length)).astype(np.int64), 0, axis.size - 1)
    first = int(min(index_LK.min(), nearest_L.min()))
    last = int(max(index_LK.max(), nearest_L.max()))
    return Taps(first, last + 1 - first, index_LK - first, weight_LK.astype(np.float32), nearest_L - first)


def nearest(axis: Axis, start: int, length: int, *, reach: float) -> tuple[Indexes, Bools]:
    """The file's pixel at the centre of each pixel of the grid, and whether there is one.

    Positions up to `reach` pixels beyond the border of the file count as its last pixel.
    """
    position_L = _centres(axis, start, length)
    inside_L = (position_L >= -reach) & (position_L <= axis.size + reach)
    return np.clip(np.floor(position_L).astype(np.int64), 0, axis.size - 1), inside_L


def bilinear(values_Chw: Floats, valid_Chw: Bools, rows: Taps, cols: Taps) -> tuple[Floats, Bools]:
    """Bilinear interpolation of valid pixels: (pixels_CHW, valid_CHW).

    Invalid pixels have no weight, but their values must be finite. An output pixel is valid where the nearest pixel of
    the file is.
    """
    sum_CHW = _weighted_sum(values_Chw * valid_Chw, rows, cols)
    # Where all pixels are valid, the weights are identical for all bands.
    counted = valid_Chw[:1] if valid_Chw.all() else valid_Chw
    weight_CHW = _weighted_sum(counted.astype(np.float32), rows, cols)
    valid_CHW = valid_Chw[:, rows.nearest_L][:, :, cols.nearest_L] & (weight_CHW > SMALLEST_WEIGHT)
    return np.where(valid_CHW, sum_CHW / np.where(valid_CHW, weight_CHW, 1), np.float32(0)), valid_CHW


def _centres(axis: Axis, start: int, length: int) -> npt.NDArray[np.float64]:
    return (np.arange(start, start + length, dtype=np.float64) + 0.5) * axis.scale + axis.offset


def _weighted_sum(values_Chw: Floats, rows: Taps, cols: Taps) -> Floats:
    values_CHw = _sum(values_Chw[:, rows.index_LK[:, k]] * rows.weight_LK[:, k, None] for k in _steps(rows))
    return _sum(values_CHw[:, :, cols.index_LK[:, k]] * cols.weight_LK[:, k] for k in _steps(cols))


def _steps(one: Taps) -> range:
    return range(one.index_LK.shape[1])


def _sum(terms: Any) -> Floats:
    total: Floats | None = None
    for term in terms:
        total = term if total is None else np.add(total, term, out=total)
    assert total is not None  # there is at least one tap
    return total


@dataclass(frozen=True)
class Window:
    """A rectangle of pixels; `row` and `col` are those of its upper left pixel."""

    row: int
    col: int
    height: int
    width: int


@dataclass(frozen=True)
class Grid:
    """The pixels of a scene: how many, how large in metres (None if unknown), and where on Earth.

    `crs` is an authority string or WKT, None without georeferencing. `transform` has the coefficients (a, b, c, d, e,
    f) of `Affine`, from pixel (column, row) to world (x, y), in float64.
    """

    height: int
    width: int
    gsd_m: float | None
    crs: str | None
    transform: tuple[float, float, float, float, float, float]


@dataclass(frozen=True)
class SceneFile:
    """One file of a scene: which bands it holds, and how the pixels of the grid map to its own.

    `positions` are indexes into the bands of the source, `indexes` the numbers of the stored bands.
    """

    header: Header
    positions: tuple[int, ...]
    indexes: tuple[int, ...]
    rows: Axis
    cols: Axis

    @functools.cached_property
    def itemsize(self) -> int:
        """Bytes of the widest stored value among the bands."""
        return max(np.dtype(self.header.dtypes[index - 1]).itemsize for index in self.indexes)


@dataclass(frozen=True)
class Layout:
    """All that is needed to read a scene."""

    grid: Grid
    parts: tuple[SceneFile, ...]
    mask: SceneFile | None


def scene_grid(source: Source, scene: Scene) -> Grid:
    """The grid of a scene: that of its finest file, or one with pixels of `source.gsd_m` over the same extent.

    Without a CRS the pixel size is not in the files: files of one shape are assumed to be at `source.gsd_m`; otherwise
    the largest is assumed to have the gsd of the sensor's finest band. Raises RasterError for inconsistent files.
    """
    return scene_layout(source, scene).grid


def scene_layout(source: Source, scene: Scene) -> Layout:
    """The grid of a scene and the mapping to its files. Raises RasterError when they do not fit together."""
    return layout_of(source, scene, functools.partial(header, remote=source.remote))


def layout_of(source: Source, scene: Scene, header_of: Callable[[str], Header]) -> Layout:
    """The same from known headers. Raises RasterError when the files do not fit together."""
    headers = tuple(map(header_of, scene.files))
    mask = None if scene.mask is None else header_of(scene.mask.path)
    finest_gsd_m = min((band.gsd_m for band in source.bands if band.gsd_m is not None), default=None)
    return _layout(scene.bands, headers, scene.mask, mask, source.gsd_m, finest_gsd_m)


def check_stated_grids(source: Source, scene: Scene) -> None:
    """Raise RasterError, naming scene, file and both values, where a file's CRS or shape is not the stated one."""
    for stated in scene.stated_grids:
        info = header(stated.path, remote=source.remote)
        if stated.crs is not None and not _same_crs(stated.crs, info.crs):
            _contradict(scene, stated.path, "CRS", crs_label(info.crs), crs_label(stated.crs))
        if stated.shape is not None and stated.shape != info.shape:
            has, said = (f"{height} x {width} pixels" for height, width in (info.shape, stated.shape))
            _contradict(scene, stated.path, "shape", has, said)


def crs_label(crs: str | None) -> str:
    """A CRS for messages: as written in the file, truncated."""
    return "no CRS" if crs is None else crs if len(crs) <= 40 else f"{crs[:37]}..."


def check_window(window: Window, grid: Grid, where: str) -> None:
    """Raise RasterError unless `window` lies within `grid`."""
    inside = min(window.row, window.col) >= 0 and min(window.height, window.width) > 0
    if not inside or window.row + window.height > grid.height or window.col + window.width > grid.width:
        raise RasterError(
            f"{where}: the window of {window.height} x {window.width} pixels at row {window.row}, column {window.col} "
            f"leaves the grid of {grid.height} x {grid.width}; choose one that lies within"
        )


def axes(info: Header, grid_to_file: Affine, grid_height: int, grid_width: int, where: str) -> tuple[Axis, Axis]:
    """The mapping of rows and of columns from a grid to a file. Raises RasterError for a rotated or flipped file."""
    turn = max(abs(grid_to_file.b) * grid_height, abs(grid_to_file.d) * grid_width)
    if turn > HALF or grid_to_file.a <= 0 or grid_to_file.e <= 0:
        raise RasterError(f"{where}: {info.path} is rotated or flipped against the others; warp them to one grid first")
    rows = _axis(grid_to_file.e, grid_to_file.f, grid_height, info.height)
    return rows, _axis(grid_to_file.a, grid_to_file.c, grid_width, info.width)


@functools.lru_cache(maxsize=16384)
def _layout(
    bands: tuple[BandFile, ...],
    headers: tuple[Header, ...],
    mask_band: BandFile | None,
    mask: Header | None,
    gsd_m: float | None,
    finest_gsd_m: float | None,
) -> Layout:
    reference = _finest(headers)
    grid, to_reference = _grid(reference, headers, gsd_m, finest_gsd_m)
    parts = []
    for info in headers:
        positions = tuple(position for position, band in enumerate(bands) if band.path == info.path)
        indexes = tuple(bands[position].index for position in positions)
        _check_indexes(info, indexes)
        reference_to_file = _between(reference, info)
        _check_extent(reference, info, reference_to_file)
        rows, cols = axes(info, reference_to_file @ to_reference, grid.height, grid.width, reference.path)
        parts.append(SceneFile(info, positions, indexes, rows, cols))
    mask_part = None
    if mask is not None and mask_band is not None:
        _check_indexes(mask, (mask_band.index,))
        mask_to_file = _mask_between(reference, mask)
        rows, cols = axes(mask, mask_to_file @ to_reference, grid.height, grid.width, reference.path)
        mask_part = SceneFile(mask, (0,), (mask_band.index,), rows, cols)
    return Layout(grid, tuple(parts), mask_part)


def _finest(headers: Sequence[Header]) -> Header:
    """The file with the smallest pixels; without a CRS, the one with most pixels. All must have one CRS, or none."""
    first = headers[0]
    for other in headers:
        if other.crs != first.crs:
            raise RasterError(
                f"{first.path} has CRS {crs_label(first.crs)} and {other.path} has {crs_label(other.crs)}; "
                "warp the files of a scene to one CRS first"
            )
    if first.crs is None:
        return max(headers, key=lambda one: one.height * one.width)
    return min(headers, key=lambda one: abs(one.affine.determinant))


def _grid(
    reference: Header, headers: Sequence[Header], gsd_m: float | None, finest_gsd_m: float | None
) -> tuple[Grid, Affine]:
    """The common grid, and the mapping from its pixels to the pixels of the reference."""
    pixel_m = reference.pixel_m
    if reference.crs is None and any(one.shape != reference.shape for one in headers):
        pixel_m = finest_gsd_m
    sides_m = reference.sides_m or (pixel_m, pixel_m)
    near = gsd_m is None or all(side_m is None or abs(gsd_m / side_m - 1) <= GSD_TOLERANCE for side_m in sides_m)
    if pixel_m is None or gsd_m is None or near:
        known_m = next((one for one in (gsd_m, pixel_m, reference.roughly_m, finest_gsd_m) if one is not None), None)
        return Grid(reference.height, reference.width, known_m, reference.crs, reference.transform), Affine.identity()
    affine = reference.affine
    metres = pixel_m / math.sqrt(abs(affine.determinant))  # per unit of the CRS
    factor_x = gsd_m / (math.hypot(affine.a, affine.d) * metres)
    factor_y = gsd_m / (math.hypot(affine.b, affine.e) * metres)
    if not 1 / FINEST <= gsd_m / pixel_m <= max(reference.height, reference.width):
        raise RasterError(
            f"{reference.path}: has {reference.height} x {reference.width} pixels of {pixel_m:g} m, which cannot be "
            f"resampled to {gsd_m:g} m; correct `gsd_m`"
        )
    height, width = max(1, round(reference.height / factor_y)), max(1, round(reference.width / factor_x))
    to_reference = Affine.scale(factor_x, factor_y)
    a, b, c, d, e, f = tuple(affine @ to_reference)[:6]
    return Grid(height, width, gsd_m, reference.crs, (a, b, c, d, e, f)), to_reference


def _between(reference: Header, info: Header) -> Affine:
    """The mapping from pixels of the reference to pixels of a file."""
    if info is reference:
        return Affine.identity()
    if reference.crs is not None:
        return ~info.affine @ reference.affine
    factor = (reference.height / info.height + reference.width / info.width) / 2
    whole = round(factor)
    if max(abs(info.height * whole - reference.height), abs(info.width * whole - reference.width)) <= whole / 2:
        factor = whole  # for example 61 pixels of 20 m for 121 of 10 m
    return Affine.scale(1 / factor)


def _mask_between(reference: Header, mask: Header) -> Affine:
    if reference.crs is not None and mask.crs is not None:
        if reference.crs != mask.crs:
            raise RasterError(
                f"{mask.path} has CRS {crs_label(mask.crs)} and {reference.path} has {crs_label(reference.crs)}; "
                "warp the mask to the grid of its scene first"
            )
        return ~mask.affine @ reference.affine
    for large, small in ((reference, mask), (mask, reference)):
        factor = large.height // small.height
        if factor >= 1 and large.shape == (small.height * factor, small.width * factor):
            return Affine.scale(1 / factor if large is reference else factor)
    raise RasterError(
        f"{mask.path} has {mask.height} x {mask.width} pixels and {reference.path} {reference.height} x "
        f"{reference.width}; without a CRS in both, a mask must have the shape of its scene or a whole multiple of it"
    )


def _check_extent(reference: Header, info: Header, to_file: Affine) -> None:
    """Raise RasterError where edges differ by more than half a pixel of the file, which is the coarser one."""
    left, top = to_file @ (0, 0)
    right, bottom = to_file @ (reference.width, reference.height)
    gaps = (left, top, right - info.width, bottom - info.height)
    if max(abs(gap) for gap in gaps) > HALF:
        raise RasterError(
            f"{reference.path} and {info.path} do not cover the same ground: their edges differ by up to "
            f"{max(abs(gap) for gap in gaps):.1f} pixels of the latter; cut them to one extent first"
        )


def _check_indexes(info: Header, indexes: Sequence[int]) -> None:
    if max(indexes) > info.count:
        raise RasterError(f"{info.path}: has {info.count} bands, and band {max(indexes)} is needed; correct `bands`")


def _axis(scale: float, offset: float, length: int, size: int) -> Axis:
    """A mapping without the rounding in headers of files whose pixels coincide."""
    if abs(scale - 1) * length < SNAP and abs(offset) < SNAP:
        return Axis(1.0, 0.0, size)
    return Axis(scale, 0.0 if abs(offset) < SNAP * scale else offset, size)


def _contradict(scene: Scene, path: str, what: str, has: str, said: str) -> None:
    raise RasterError(
        f"scene {scene.id}: {path} has {has}, and its item says {said}; correct the {what} in the item, or the link"
    )


@functools.cache
def _same_crs(stated: str, own: str | None) -> bool:
    """Whether both are the same CRS; False where one is invalid."""
    try:
        return own is not None and bool(CRS.from_user_input(stated) == CRS.from_user_input(own))
    except CRSError:
        return False
