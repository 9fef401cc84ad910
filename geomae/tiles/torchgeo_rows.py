"""Data sets of torchgeo that have rows but no files of one image each: written once as files, then read like others.

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
from geomae.tiles.torchgeo_bands import row_bands

FORMAT = 1  # part of the cache key: raise it whenever the same rows give other files
LABELS = "labels.csv"
NARROW = {"int64": "int32", "uint64": "uint32"}  # what few programs read in a TIFF, and what takes its place
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


def _write(folder: Path, rows: Any, place: str) -> None:
    classes = getattr(rows, "classes", None)
    listed = []
    for index in range(len(rows)):
        what = f"{place}: row {index} of {type(rows).__name__}"
        try:
            row = rows[index]
        except Exception as error:  # each class reads its files in its own way
            reason = " ".join(f"{type(error).__name__} {error}".split())
            raise CatalogError(f"{what} cannot be read ({reason}); mend the data") from error
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
    """Names, bytes and times of change of the files below `folder`, by which changed data are noticed."""
    found = []
    for parent, _, names in os.walk(folder):
        for name in names:
            status = os.lstat(Path(parent, name))
            found.append((str(Path(parent, name).relative_to(folder)), status.st_size, status.st_mtime_ns))
    return sorted(found)
