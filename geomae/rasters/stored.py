"""Stored values of one file: which of them count, and what they are in physical units."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt
from rasterio.io import DatasetReader
from rasterio.windows import Window as RasterioWindow

from geomae.rasters.headers import Header
from geomae.rasters.resample import Bools, Floats

Array = npt.NDArray[Any]


@dataclass(frozen=True)
class Span:
    """A rectangle of a file's own pixels."""

    row: int
    col: int
    height: int
    width: int


def read_stored(
    dataset: DatasetReader, found: Header, indexes: Sequence[int], span: Span, nodata: Sequence[float]
) -> tuple[Array, Bools]:
    """Read stored bands: (raw_Chw in the file's own type, valid_Chw).

    Invalid is what equals one of `nodata` or the file's own value, and what the file's alpha band or mask hides. Values
    that are not finite are left to `physical`. An alpha band that is itself among `indexes` holds data: NAIP's near
    infrared is often marked so.
    """
    window = RasterioWindow(span.col, span.row, span.width, span.height)
    raw_Chw = dataset.read(list(indexes), window=window)
    valid_Chw = np.ones(raw_Chw.shape, dtype=np.bool_)
    own = [found.nodata[index - 1] for index in indexes]
    if len(set(own)) == 1:
        _strike(raw_Chw, valid_Chw, (*nodata, own[0]))
    else:
        for position, value in enumerate(own):
            _strike(raw_Chw[position], valid_Chw[position], (*nodata, value))
    if found.alpha is not None and found.alpha not in indexes:
        valid_Chw &= dataset.read(found.alpha, window=window) > 0
    if found.masked:
        valid_Chw &= dataset.read_masks(indexes[0], window=window) > 0
    return raw_Chw, valid_Chw


def physical(raw_Chw: Array, valid_Chw: Bools, scale_C: Sequence[float], offset_C: Sequence[float]) -> Floats:
    """Give raw x scale + offset in float32, 0 where invalid; what is not finite becomes invalid in `valid_Chw`."""
    # float32 holds integers of 16 bits exactly; wider ones would lose digits before they are scaled.
    wide = raw_Chw.dtype.itemsize > 2 and raw_Chw.dtype != np.float32
    working = np.float64 if wide else np.float32
    with np.errstate(over="ignore", invalid="ignore"):
        values_Chw: Array = raw_Chw.astype(working)
        if any(scale != 1 for scale in scale_C):
            np.multiply(values_Chw, np.array(scale_C, dtype=working)[:, None, None], out=values_Chw)
        if any(offset != 0 for offset in offset_C):
            np.add(values_Chw, np.array(offset_C, dtype=working)[:, None, None], out=values_Chw)
        pixels_Chw: Floats = values_Chw.astype(np.float32, copy=False)
    if raw_Chw.dtype.kind == "f" or wide:
        valid_Chw &= np.isfinite(pixels_Chw)
    if not valid_Chw.all():
        pixels_Chw[~valid_Chw] = 0
    return pixels_Chw


def _strike(raw: Array, valid: Bools, nodata: Sequence[float | None]) -> None:
    """Mark as invalid what equals one of the values, where the type of the file can hold it at all."""
    for value in dict.fromkeys(nodata):
        if value is None:
            continue
        if raw.dtype.kind == "f":
            if np.isnan(value):
                valid &= ~np.isnan(raw)
            else:
                with np.errstate(over="ignore"):
                    valid &= raw != raw.dtype.type(value)  # -3.4e38 is written with the digits of either precision
        elif float(value).is_integer() and np.iinfo(raw.dtype).min <= value <= np.iinfo(raw.dtype).max:
            valid &= raw != int(value)
