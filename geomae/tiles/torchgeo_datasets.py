"""Bands of torchgeo's data sets, and files for data sets that list none.

Rows of data sets without image files are written as files once, then read like any others.

C bands, H W pixels
"""

import csv
import logging
import os
from collections.abc import Mapping, Sequence
from importlib.metadata import version
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from geomae.errors import CatalogError, StorageError
from geomae.files import cache_folder, digest, publish_dir
from geomae.rasters import write_cog
from geomae.sensors import Band, Sensor

FORMAT = 1  # part of the cache key: raise it whenever the same rows give other files
LABELS = "labels.csv"
NARROW = {"int64": "int32", "uint64": "uint32"}  # types that few programs read in a TIFF, and their replacements
logger = logging.getLogger(__name__)


def rows_as_files(
    rows: Any, arguments: Mapping[str, Any], folders: Sequence[str], place: str
) -> tuple[tuple[str, ...], dict[str, str]]:
    """The rows as COGs in the cache, and the labels of those that have one, by path.

    The files are written on first use, and again when the class, its arguments, torchgeo or a file in `folders`
    changes. They have no CRS, and hold the values that torchgeo gives. Raises CatalogError for a row that cannot be
    read and for one whose `image` is not one (C, H, W) array.
    """
    name = type(rows).__name__
    if not hasattr(rows, "__len__") or len(rows) == 0:
        raise CatalogError(f"{place}: {name} has no rows; check `args` and the data")
    content = [FORMAT, name, version("torchgeo"), len(rows), arguments, [_stamps(folder) for folder in folders]]
    folder = cache_folder() / "torchgeo" / digest(content)
    if not folder.is_dir():
        logger.info("%s: writing %d rows of %s to %s, once", place, len(rows), name, folder)
        try:
            with publish_dir(folder) as unfinished:
                _write(unfinished, rows, place)
        except StorageError:
            if not folder.is_dir():  # else another process was first, with the same rows
                raise
    with (folder / LABELS).open(newline="", encoding="utf-8") as table:
        listed = [(str(folder / row["file"]), row["label"]) for row in csv.DictReader(table)]
    return tuple(path for path, _ in listed), {path: label for path, label in listed if label}


def label_text(label: Any, classes: Any) -> str | None:
    """A label as text: the name of its class where there is one. None for what is not a single label."""
    if isinstance(label, str):
        return label
    if getattr(label, "ndim", None) == 0:  # tensors and arrays with one value
        label = label.item()
    if not isinstance(label, int) or isinstance(label, bool):
        return None
    named = isinstance(classes, (list, tuple)) and 0 <= label < len(classes)
    return str(classes[label]) if named else str(label)


def stored_bands(made: Any, sensor: Sensor, place: str) -> list[str | None] | None:
    """The class's bands in stored order, None for those that its arguments leave out; None where only files can tell.

    Names that the sensor does not know are matched by position, if there are as many bands as the sensor has and all
    known names are at the sensor's positions.
    """
    stored = _all_names(made)
    if not stored:
        return None
    matches = [_find(sensor, name) for name in stored]
    if _agrees(matches, sensor):
        matches = list(sensor.bands)
    chosen = _chosen_names(made)
    partly = bool(chosen) and set(chosen) <= set(stored)
    kept = [not partly or name in chosen for name in stored]
    if all(kept) and None in matches:
        return None
    names = [band.name if keep and band else None for band, keep in zip(matches, kept, strict=True)]
    if sum(kept) != sum(name is not None for name in names):
        raise CatalogError(
            f"{place}: the bands of {type(made).__name__} ({', '.join(stored)}) are not those of sensor {sensor.name}; "
            "add `bands` in stored order, null for bands to be skipped"
        )
    return names


def band_tokens(made: Any, sensor: Sensor, written: Any, place: str, *, strict: bool) -> dict[str, str]:
    """Tokens in file names by the sensor's band, for classes with a file per band.

    `written` is the entry's `bands`. Without it, the bands are those that torchgeo reads and the sensor knows; with
    `strict` the sensor must know them all.
    """
    if isinstance(written, dict):
        return written
    known = {band.name: token for token in (*made.all_bands, *made.bands) if (band := _find(sensor, token))}
    names: Sequence[str | None] = written or [
        band.name if (band := _find(sensor, token)) else token
        for token in made.bands
        if strict or token in known.values()
    ]
    matches = [_find(sensor, name) for name in names]
    for name, band in zip(names or (None,), matches or (None,), strict=True):
        if band is None or band.name not in known:
            raise CatalogError(
                f"{place}: {type(made).__name__} has a file per band, and {name!r} is not a band of both it and sensor "
                f"{sensor.name}; add `bands`, a mapping from name to the token in the files' names"
            )
    return {band.name: known[band.name] for band in matches if band}


def row_bands(made: Any, count: int) -> list[str] | None:
    """Names of the `count` bands of a row, in its order; None where the class does not name them."""
    return next((names for names in (_chosen_names(made), _all_names(made)) if len(names) == count), None)


def _write(folder: Path, rows: Any, place: str) -> None:
    classes = getattr(rows, "classes", None)
    listed = []
    for index in range(len(rows)):
        what = f"{place}: row {index} of {type(rows).__name__}"
        try:
            row = rows[index]
        except Exception as error:  # each class reads its files in its own way
            reason = " ".join(f"{type(error).__name__} {error}".split())
            raise CatalogError(f"{what} cannot be read ({reason}); repair the data") from error
        pixels_CHW = _pixels(row, what)
        file = f"{index:06d}.tif"
        write_cog(folder / file, pixels_CHW, descriptions=row_bands(rows, len(pixels_CHW)))
        listed.append((file, label_text(row.get("label"), classes) or ""))
    with (folder / LABELS).open("w", newline="", encoding="utf-8") as table:
        csv.writer(table).writerows([("file", "label"), *listed])


def _pixels(row: Any, what: str) -> NDArray[Any]:
    """The image (C, H, W) of a row. Raises CatalogError for another shape, for several images and for none."""
    remedy = "save its images as GeoTIFF and name them with `path`"
    if not isinstance(row, Mapping) or "image" not in row:
        has = ", ".join(map(str, row)) if isinstance(row, Mapping) else type(row).__name__
        raise CatalogError(f"{what} has no `image` but {has}; {remedy}")
    image = row["image"]
    if len(shape := tuple(getattr(image, "shape", ()))) != 3:
        raise CatalogError(f"{what} has an image of shape {shape} and not (bands, rows, columns); {remedy}")
    if str(image.dtype) in ("torch.bfloat16", "torch.float16", "float16"):  # a TIFF has neither
        image = image.float() if hasattr(image, "float") else image.astype(np.float32)
    pixels_CHW = np.asarray(image)
    narrow = NARROW.get(pixels_CHW.dtype.name)
    if narrow is None:
        return pixels_CHW
    limits = np.iinfo(narrow)
    if pixels_CHW.size and (pixels_CHW.min() < limits.min or pixels_CHW.max() > limits.max):
        raise CatalogError(f"{what} has values beyond {narrow}; {remedy}")
    return pixels_CHW.astype(narrow)


def _stamps(folder: str) -> list[tuple[str, int, int]]:
    """Names, sizes and modification times of the files below `folder`, to detect changed data."""
    stamps = []
    for parent, _, names in os.walk(folder):
        for name in names:
            status = os.lstat(Path(parent, name))
            stamps.append((str(Path(parent, name).relative_to(folder)), status.st_size, status.st_mtime_ns))
    return sorted(stamps)


def _agrees(matches: Sequence[Band | None], sensor: Sensor) -> bool:
    """Whether there are as many bands as the sensor has, and all known ones are at the sensor's positions."""
    return len(matches) == len(sensor.bands) and all(
        one in (None, own) for one, own in zip(matches, sensor.bands, strict=True)
    )


def _all_names(made: Any) -> list[str]:
    sets = getattr(made, "BAND_SETS", None)
    listed = (getattr(made, "all_bands", None), getattr(made, "all_band_names", None))
    return next(filter(None, map(_names, (*listed, sets.get("all") if isinstance(sets, dict) else None))), [])


def _chosen_names(made: Any) -> list[str]:
    """The bands that the arguments choose: a list, or the name of one of the class's sets."""
    chosen = getattr(made, "bands", None)
    sets = getattr(made, "BAND_SETS", None)
    return _names(sets.get(chosen) if isinstance(chosen, str) and isinstance(sets, dict) else chosen)


def _names(value: Any) -> list[str]:
    listed = isinstance(value, (list, tuple)) and all(isinstance(one, str) for one in value)
    return list(value) if listed else []


def _find(sensor: Sensor, name: str | None) -> Band | None:
    try:
        return sensor.band(name) if name else None
    except CatalogError:
        return None
