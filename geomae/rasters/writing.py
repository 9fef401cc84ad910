"""Georeferenced results: tiled, compressed Cloud Optimized GeoTIFFs."""

import contextlib
import tempfile
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal
from xml.sax.saxutils import escape, quoteattr

import numpy as np
import numpy.typing as npt
from rasterio import Affine
from rasterio._path import _parse_path  # a writer class needs it; `rasterio.open` does not accept a class
from rasterio.errors import CRSError, NotGeoreferencedWarning, RasterioError
from rasterio.io import BufferedDatasetWriter, DatasetWriter
from rasterio.shutil import copy as copy_raster
from rasterio.windows import Window as Part

from geomae.errors import RasterError, StorageError
from geomae.files import UNFINISHED, publish_file, write_text
from geomae.rasters.environment import environment, ignore_missing_geotransform
from geomae.rasters.grids import Grid
from geomae.rasters.opening import IDENTITY_GDAL, GdalError

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
    """Publish pixels (C, H, W) at `path` as a COG (deflate with predictor, tiles, overviews), atomically.

    The georeference is `grid`, or `crs` and `transform` (the coefficients a to f of `Affine`), in float64; without
    either the file has no CRS. `scale` and `offset` are recorded for readers (physical = stored x scale + offset) and
    not applied. Use `overviews="nearest"` for class codes.

    Raises RasterError when pixels, grid and descriptions do not fit together, StorageError when the disk is full.
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


@dataclass(frozen=True)
class MapClasses:
    """The classes of a map: a name and a colour (#rrggbb) for each code."""

    codes: tuple[int, ...]
    names: tuple[str, ...]
    colours: tuple[str, ...]


@contextlib.contextmanager
def cog_in_strips(
    path: Path,
    grid: Grid,
    *,
    descriptions: Sequence[str],
    unit: str = "",
    dtype: str = "float32",
    nodata: float = float("nan"),
    classes: MapClasses | None = None,
) -> Iterator[Callable[[int, npt.NDArray[Any]], None]]:
    """Publish a COG that need not fit in memory: yields `write(first_row, strip_CHW)`.

    A strip is as wide as the grid; rows that are never written are `nodata`, or 0 where `dtype` holds integers. With
    `classes` the band holds their codes: it gets a table of colours, and the names as metadata of the band, as
    categories beside the file (`.aux.xml`, which GDAL reads) and as a style for QGIS (`.qml`); overviews use the
    nearest code. Raises as `write_cog` does.
    """
    profile = {
        "width": grid.width, "height": grid.height, "count": len(descriptions), "dtype": dtype, "crs": grid.crs,
        "nodata": nodata, "bigtiff": LAYOUT["bigtiff"],
    }  # fmt: skip
    if tuple(grid.transform) != tuple(Affine.identity())[:6]:
        profile["transform"] = Affine(*grid.transform)
    with (
        publish_file(path) as temporary,
        tempfile.TemporaryDirectory(prefix=UNFINISHED, dir=path.parent) as folder,
        environment(remote=False),
        _writing_errors(path),
    ):
        strips = Path(folder) / "strips.tif"
        with _StripWriter(_parse_path(strips), "w", driver="GTiff", **profile) as target:
            _describe(target, descriptions, unit or None)
            if classes is not None:
                target.write_colormap(
                    1, {code: _rgb(one) for code, one in zip(classes.codes, classes.colours, strict=True)}
                )
                names = zip(classes.codes, classes.names, strict=True)
                target.update_tags(1, **{f"CLASS_{code}": name for code, name in names})

            def write(first_row: int, strip_CHW: npt.NDArray[Any]) -> None:
                target.write(strip_CHW, window=Part(0, first_row, grid.width, strip_CHW.shape[1]))

            yield write
        copy_raster(strips, temporary, driver="COG", **LAYOUT, overview_resampling="nearest" if classes else "average")
        if classes is not None:
            write_text(path.with_name(f"{path.name}.aux.xml"), _categories(classes))
            write_text(path.with_suffix(".qml"), _qgis_style(classes))


def _rgb(colour: str) -> tuple[int, int, int]:
    red, green, blue = bytes.fromhex(colour.removeprefix("#"))
    return red, green, blue


def _categories(classes: MapClasses) -> str:
    """GDAL's side file: a name for every code from 0 on, empty where there is no class."""
    name_of = dict(zip(classes.codes, classes.names, strict=True))
    lines = [f"      <Category>{escape(name_of.get(code, ''))}</Category>" for code in range(max(classes.codes) + 1)]
    inner = "\n".join(["    <CategoryNames>", *lines, "    </CategoryNames>"])
    return f'<PAMDataset>\n  <PAMRasterBand band="1">\n{inner}\n  </PAMRasterBand>\n</PAMDataset>\n'


def _qgis_style(classes: MapClasses) -> str:
    """A style that QGIS applies when it opens the map: a colour and a name per code."""
    entries = [
        f'        <paletteEntry value="{code}" color="{colour}" alpha="255" label={quoteattr(name)}/>'
        for code, name, colour in zip(classes.codes, classes.names, classes.colours, strict=True)
    ]
    return "\n".join([
        "<!DOCTYPE qgis PUBLIC 'http://mrcc.com/qgis.dtd' 'SYSTEM'>",
        '<qgis version="3.22.0" styleCategories="Symbology">',
        "  <pipe>",
        '    <rasterrenderer type="paletted" band="1" opacity="1" alphaBand="-1" nodataColor="">',
        "      <rasterTransparency/>",
        "      <colorPalette>",
        *entries,
        "      </colorPalette>",
        "    </rasterrenderer>",
        "  </pipe>",
        "</qgis>\n",
    ])  # fmt: skip


class _Placed:
    """A writer that never warns about a missing geotransform, even where warnings are errors."""

    def read_transform(self) -> list[float]:
        """The six coefficients in GDAL's order; the identity when there are none."""
        try:
            return list(super().read_transform())  # type: ignore[misc]
        except NotGeoreferencedWarning:
            return list(IDENTITY_GDAL)

    def write_transform(self, transform: Sequence[float]) -> None:
        """Store six coefficients in GDAL's order.

        rasterio warns about pixels of size 1 at the origin, which some drivers treat as no transform; a COG keeps them.
        """
        if [abs(value) for value in transform] == IDENTITY_GDAL:
            ignore_missing_geotransform()
        super().write_transform(transform)  # type: ignore[misc]


class _Writer(_Placed, BufferedDatasetWriter):  # type: ignore[misc]  # rasterio has no types
    """Buffers what is written until it is closed, for drivers that can only copy."""


class _StripWriter(_Placed, DatasetWriter):  # type: ignore[misc]
    """Writes immediately."""


def _describe(target: Any, descriptions: Sequence[str] | None, unit: str | None) -> None:
    for index, text in enumerate(descriptions or (), start=1):
        target.set_band_description(index, text)
    if unit is not None:
        target.units = [unit] * target.count


@contextlib.contextmanager
def _writing_errors(path: Path) -> Iterator[None]:
    """Convert errors of GDAL to RasterError and StorageError."""
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
