"""Georeferenced results: tiled, compressed Cloud Optimized GeoTIFFs."""

import contextlib
import tempfile
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any, Literal

import numpy as np
import numpy.typing as npt
from rasterio import Affine
from rasterio._path import _parse_path  # what a writer's class takes; `rasterio.open` cannot be given a class
from rasterio.errors import CRSError, NotGeoreferencedWarning, RasterioError
from rasterio.io import BufferedDatasetWriter, DatasetWriter
from rasterio.shutil import copy as copy_raster
from rasterio.windows import Window as Part

from geomae.errors import RasterError, StorageError
from geomae.files import UNFINISHED, publish_file
from geomae.rasters.grids import Grid
from geomae.rasters.opening import IDENTITY_GDAL, GdalError, environment, ignore_missing_geotransform

LAYOUT = {
    "compress": "deflate",
    "predictor": "yes",
    "blocksize": 256,  # pixels; a window of a training tile then touches few blocks
    "bigtiff": "if_safer",
}


def write_cog(
    path: Path,
    pixels_CHW: npt.NDArray[Any],
    *,
    grid: Grid | None = None,
    crs: str | None = None,
    transform: Sequence[float] | None = None,
    nodata: float | None = None,
    descriptions: Sequence[str] | None = None,
    unit: str | None = None,
    scale: float = 1.0,
    offset: float = 0.0,
    overviews: Literal["average", "nearest"] = "average",
) -> None:
    """Publish pixels (C, H, W) at `path` as a COG (deflate with predictor, tiles, overviews), whole or not at all.

    Where on Earth is said by `grid`, or by `crs` and `transform` (the coefficients a to f of `Affine`), kept in
    float64; without either the file has no CRS. `scale` and `offset` are recorded for readers (physical = stored x
    scale + offset) and not applied. Take `overviews="nearest"` for class codes.

    Raises RasterError when pixels, grid and descriptions do not fit together, StorageError when there is no room.
    """
    count, height, width = pixels_CHW.shape
    if grid is not None:
        if (grid.height, grid.width) != (height, width):
            raise RasterError(
                f"{path}: pixels of {height} x {width} do not fit a grid of {grid.height} x {grid.width}; "
                "give `crs` and `transform` for another one"
            )
        crs, transform = grid.crs, grid.transform
    if descriptions is not None and len(descriptions) != count:
        raise RasterError(f"{path}: {len(descriptions)} descriptions for {count} bands; give one for each")
    stored_CHW = pixels_CHW.astype(np.uint8) if pixels_CHW.dtype == np.bool_ else pixels_CHW
    _check_values(path, stored_CHW.dtype, nodata)
    profile: dict[str, Any] = LAYOUT | {
        "width": width,
        "height": height,
        "count": count,
        "dtype": stored_CHW.dtype.name,
    }
    profile |= {"nodata": nodata, "crs": crs, "overview_resampling": overviews}
    if transform is not None and tuple(transform) != tuple(Affine.identity())[:6]:
        profile["transform"] = Affine(*transform)
    with (
        publish_file(path) as temporary,
        environment(remote=False),
        _writing_errors(path),
        _Writer(_parse_path(temporary), "w", driver="COG", **profile) as target,
    ):
        target.write(stored_CHW)
        _describe(target, descriptions, unit)
        target.scales, target.offsets = [scale] * count, [offset] * count


@contextlib.contextmanager
def cog_in_strips(
    path: Path, grid: Grid, *, descriptions: Sequence[str], unit: str
) -> Iterator[Callable[[int, npt.NDArray[np.float32]], None]]:
    """Publish a COG of float32 bands (nodata NaN) that memory need not hold: give `write(first_row, strip_CHW)`.

    A strip is as wide as the grid; rows that are never written are NaN. The same errors as of `write_cog`.
    """
    profile = {
        "width": grid.width, "height": grid.height, "count": len(descriptions), "dtype": "float32", "crs": grid.crs,
        "transform": Affine(*grid.transform), "nodata": float("nan"), "bigtiff": LAYOUT["bigtiff"],
    }  # fmt: skip
    with (
        publish_file(path) as temporary,
        tempfile.TemporaryDirectory(prefix=UNFINISHED, dir=path.parent) as folder,
        environment(remote=False),
        _writing_errors(path),
    ):
        strips = Path(folder) / "strips.tif"
        with DatasetWriter(_parse_path(strips), "w", driver="GTiff", **profile) as target:
            _describe(target, descriptions, unit)

            def write(first_row: int, strip_CHW: npt.NDArray[np.float32]) -> None:
                target.write(strip_CHW, window=Part(0, first_row, grid.width, strip_CHW.shape[1]))

            yield write
        copy_raster(strips, temporary, driver="COG", **LAYOUT, overview_resampling="average")


class _Writer(BufferedDatasetWriter):  # type: ignore[misc]  # rasterio has no types
    """A writer that does not warn about a missing geotransform, also where warnings are errors."""

    def read_transform(self) -> list[float]:
        """Give the six coefficients in GDAL's order, those of the identity when there are none."""
        try:
            return list(super().read_transform())
        except NotGeoreferencedWarning:
            return list(IDENTITY_GDAL)

    def write_transform(self, transform: Sequence[float]) -> None:
        """Store six coefficients in GDAL's order.

        Of pixels of one unit at the origin rasterio warns, as some drivers take these for none; a COG keeps them.
        """
        if [abs(value) for value in transform] == IDENTITY_GDAL:
            ignore_missing_geotransform()
        super().write_transform(transform)


def _describe(target: Any, descriptions: Sequence[str] | None, unit: str | None) -> None:
    for index, text in enumerate(descriptions or (), start=1):
        target.set_band_description(index, text)
    if unit is not None:
        target.units = [unit] * target.count


@contextlib.contextmanager
def _writing_errors(path: Path) -> Iterator[None]:
    """Turn what GDAL raises into our own errors."""
    try:
        yield
    except CRSError as error:
        raise RasterError(f"{path}: cannot be written ({error}); correct the CRS") from error
    except (RasterioError, GdalError) as error:
        reason = str(error).splitlines()[0]
        raise StorageError(f"{path}: cannot be written ({reason}); make room, or choose another folder") from error


def _check_values(path: Path, dtype: np.dtype[Any], nodata: float | None) -> None:
    if dtype.kind not in "iuf":
        raise RasterError(f"{path}: values of type {dtype} are not written; convert them to integers or floats")
    if nodata is None or dtype.kind == "f":
        return
    limits = np.iinfo(dtype)
    if not limits.min <= nodata <= limits.max or nodata != int(nodata):
        raise RasterError(f"{path}: nodata {nodata:g} is no {dtype}; choose one from {limits.min} to {limits.max}")
