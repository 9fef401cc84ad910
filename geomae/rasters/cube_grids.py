"""CRS and transform of a cube, from CF grid mappings, `spatial_ref`, `proj:` attributes and coordinates.

Coordinates are those of pixel centres and must be evenly spaced. Rows are returned from north to south and columns from
west to east, however they are stored. Without a CRS, coordinates that count pixels from 0 keep the stored order.
"""

import json
import re
from collections.abc import Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray
from rasterio.crs import CRS
from rasterio.errors import CRSError

from geomae.errors import RasterError

if TYPE_CHECKING:
    import xarray as xr

UNEVEN = 0.05  # pixels: tolerance of a coordinate, for degrees in float32
SAME = 1e-3  # pixels by which a stated transform and the coordinates may differ
WKT_KEYS = ("crs_wkt", "spatial_ref", "proj:wkt2", "wkt")
CODE_KEYS = ("proj:code", "proj:epsg", "epsg", "epsg_code")
DEGREES = re.compile(r"degrees?_?(north|east|N|E)", re.IGNORECASE)
Transform = tuple[float, float, float, float, float, float]
IDENTITY: Transform = (1.0, 0.0, 0.0, 0.0, 1.0, 0.0)


@dataclass(frozen=True)
class Ground:
    """CRS and transform as in `Header`, and whether rows and columns are stored in reverse order."""

    crs: str | None
    transform: Transform
    flip_y: bool
    flip_x: bool


def ground_of(cube: "xr.Dataset", variable: str, y: str, x: str, where: str) -> Ground:
    """Georeference of an array. Raises RasterError for unevenly spaced coordinates and for an invalid CRS."""
    array = cube[variable]
    mapping = _grid_mapping(cube, array)
    crs = _crs(cube, array, mapping, y, x, where)
    stated = _stated_transform(cube, array, mapping)
    _refuse_curved(cube, array, y, x, where)
    rows = _axis(cube, y, array.sizes[y], None if stated is None else (stated[4], stated[5]), where)
    cols = _axis(cube, x, array.sizes[x], None if stated is None else (stated[0], stated[2]), where)
    counted = _counts(cube, y, array.sizes[y])
    if crs is None and (rows is None or cols is None or counted):
        upward, leftward = rows is not None and rows[0] > 0, cols is not None and cols[0] < 0
        return Ground(None, IDENTITY, upward and not counted, leftward)
    if rows is None or cols is None:
        missing = y if rows is None else x
        raise RasterError(
            f"{where}: has a CRS, but its dimension {missing!r} has no coordinates; add those of the pixel centres, or "
            "GeoTransform to its grid mapping"
        )
    (step_y, top, flip_y), (step_x, left, flip_x) = (
        _upright(rows, array.sizes[y], down=True),
        _upright(cols, array.sizes[x], down=False),
    )
    return Ground(crs, (step_x, 0.0, left, 0.0, step_y, top), flip_y, flip_x)


def _upright(axis: tuple[float, float], length: int, *, down: bool) -> tuple[float, float, bool]:
    """(step, edge, flipped) of an axis in southward (`down`) or eastward direction."""
    step, edge = axis
    if (step > 0) == down:
        return -step, edge + step * length, True
    return step, edge, False


def _axis(
    cube: "xr.Dataset", dim: str, length: int, stated: tuple[float, float] | None, where: str
) -> tuple[float, float] | None:
    """(step, edge of the first pixel) along a dimension; None where they are unknown."""
    if dim not in cube.variables:
        return stated
    centres = np.asarray(cube[dim].values)
    if centres.dtype.kind not in "iuf" or centres.shape != (length,):
        raise RasterError(f"{where}: the coordinates of {dim!r} are not numbers; write those of the pixel centres")
    centres = centres.astype(np.float64)
    if stated is not None and _fits(stated, centres):
        return stated
    if length < 2:
        if stated is None:
            return None
        return stated[0], float(centres[0]) - stated[0] / 2
    step = float(centres[-1] - centres[0]) / (length - 1)
    beside = np.abs(centres - (centres[0] + step * np.arange(length))).max() if step else np.inf
    if not np.isfinite(step) or not beside <= UNEVEN * abs(step):
        raise RasterError(
            f"{where}: the coordinates of {dim!r} are not evenly spaced; warp it to a regular grid "
            "(rioxarray's reproject, or xarray's interp) first"
        )
    return step, float(centres[0]) - step / 2


def _fits(stated: tuple[float, float], centres: NDArray[np.float64]) -> bool:
    """Whether a stated transform agrees with the coordinates; a cropped cube may have kept that of the original."""
    step, edge = stated
    ends = edge + step * (np.array([0, len(centres) - 1]) + 0.5)
    return bool(step and np.abs(ends - centres[[0, -1]]).max() <= SAME * abs(step))


def _counts(cube: "xr.Dataset", dim: str, length: int) -> bool:
    """Whether the coordinates of a dimension count its pixels, or their centres, from 0."""
    if dim not in cube.variables:
        return True
    centres = np.asarray(cube[dim].values)
    return centres.dtype.kind in "iuf" and any(np.array_equal(centres, np.arange(length) + half) for half in (0, 0.5))


def _refuse_curved(cube: "xr.Dataset", array: "xr.DataArray", y: str, x: str, where: str) -> None:
    """Raise RasterError for arrays with longitude and latitude of each pixel (curvilinear grids)."""
    if y in cube.variables and x in cube.variables:
        return
    named = str(array.attrs.get("coordinates", "")).split()
    curved = [name for name in named if name in cube.variables and set(cube[name].dims) == {y, x}]
    if curved:
        raise RasterError(
            f"{where}: has coordinates for each pixel ({', '.join(curved)}) and no regular grid; warp it "
            "to one (gdalwarp -geoloc, or rioxarray's reproject) first"
        )


def _grid_mapping(cube: "xr.Dataset", array: "xr.DataArray") -> Mapping[str, Any]:
    """The attributes of the grid mapping of an array; of `spatial_ref` or `crs` where it names none."""
    named = str(array.attrs.get("grid_mapping", "")).split(":")[0].strip()
    for name in (named, "spatial_ref", "crs"):
        if name in cube.variables and cube[name].ndim == 0:
            return dict(cube[name].attrs)
    return {}


def _crs(
    cube: "xr.Dataset", array: "xr.DataArray", mapping: Mapping[str, Any], y: str, x: str, where: str
) -> str | None:
    scalars = {name: cube[name].values.item() for name in CODE_KEYS if name in cube.variables and cube[name].ndim == 0}
    for attributes in (mapping, array.attrs, cube.attrs, scalars):
        text = next((attributes[key] for key in WKT_KEYS if isinstance(attributes.get(key), str)), None)
        code = next((attributes[key] for key in CODE_KEYS if attributes.get(key) is not None), None)
        projjson = attributes.get("proj:projjson")
        try:
            if text:
                return _written(CRS.from_wkt(text))
            if code is not None:
                return _written(CRS.from_user_input(f"EPSG:{code}" if str(code).isdigit() else str(code)))
            if projjson:
                return _written(CRS.from_user_input(projjson if isinstance(projjson, str) else json.dumps(projjson)))
            if "grid_mapping_name" in attributes:
                return _from_cf(attributes)
        except (CRSError, ValueError) as error:
            raise RasterError(f"{where}: its CRS cannot be read ({error}); correct its attributes") from error
    units = [str(cube[dim].attrs.get("units", "")) if dim in cube.variables else "" for dim in (y, x)]
    return "EPSG:4326" if all(DEGREES.fullmatch(unit) for unit in units) else None


def _from_cf(attributes: Mapping[str, Any]) -> str:
    """The CRS of the parameters of a CF grid mapping. Raises ValueError where they are invalid."""
    import pyproj

    plain = {key: one.tolist() if hasattr(one, "tolist") else one for key, one in attributes.items()}
    try:
        made = pyproj.CRS.from_cf(plain)
    except (KeyError, pyproj.exceptions.CRSError) as error:
        raise ValueError(str(error)) from error
    code = made.to_epsg()
    return f"EPSG:{code}" if code else _written(CRS.from_wkt(made.to_wkt()))


def _written(crs: CRS) -> str:
    return str(crs.to_string())


def _stated_transform(cube: "xr.Dataset", array: "xr.DataArray", mapping: Mapping[str, Any]) -> Transform | None:
    """The transform from attributes; None where it is missing, rotated or malformed."""
    found: list[float] = []
    for attributes in (mapping, array.attrs, cube.attrs):
        gdal, own = attributes.get("GeoTransform"), attributes.get("proj:transform")
        try:
            if gdal is not None:
                c, a, b, f, d, e = [float(one) for one in (gdal.split() if isinstance(gdal, str) else gdal)]
                found = [a, b, c, d, e, f]
            elif own is not None:
                found = [float(one) for one in own][:6]
        except (TypeError, ValueError):
            continue
        if len(found) == 6:
            break
    if len(found) != 6 or found[1] or found[3]:
        return None
    a, b, c, d, e, f = found
    return a, b, c, d, e, f
