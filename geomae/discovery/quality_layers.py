"""Quality layers of products: their names, and the codes that mask clouds and other invalid pixels."""

import contextlib
import re
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from geomae.errors import RasterError
from geomae.rasters.grids import Window
from geomae.rasters.opening import header
from geomae.rasters.reading import read_map


@dataclass(frozen=True)
class QualityLayer:
    """A layer with the `name` that its product gives it.

    `rule` is the part of a catalogue's `mask` that selects invalid pixels; `meaning` describes them.
    """

    name: str
    rule: Mapping[str, Sequence[int]]
    meaning: str

    def mask(self, **place: str | int) -> dict[str, object]:
        """The catalogue's `mask` for a layer at a place: its `path`, or its `band`."""
        return {**place, **self.rule}

    @property
    def remark(self) -> str:
        """The comment that explains the key to the user."""
        return f"check: {self.meaning} are masked; remove this line to keep them"


SCL = QualityLayer(  # ESA, Sentinel-2 Level-2A scene classification
    "SCL",
    {"invalid_values": (0, 1, 3, 8, 9, 10)},
    "fill, defects, shadows, clouds and cirrus of Sentinel-2's scene classification",
)
QA_PIXEL = QualityLayer(  # USGS, Landsat Collection 2 Level-2 product guide
    "QA_PIXEL",
    {"invalid_bits": (0, 1, 3, 4)},
    "fill, clouds, their edges and shadows in the bits of Landsat's Collection 2",
)
FMASK = QualityLayer(  # NASA, Harmonized Landsat Sentinel-2 Product User Guide, version 2.0
    "Fmask", {"invalid_bits": (1, 2, 3)}, "clouds, their edges and shadows in the bits of HLS"
)
FMASK_CODES = QualityLayer(  # Zhu and Woodcock 2012: 0 land, 1 water, 2 shadow, 3 snow, 4 cloud, 255 nothing seen
    "Fmask", {"invalid_values": (2, 4, 255)}, "shadows, clouds and fill in the codes of Fmask"
)
UDM2 = QualityLayer(  # Planet, usable data masks: the first band is 1 where the ground is seen clearly
    "udm2", {"invalid_values": (0,)}, "pixels that are not clear in Planet's usable data mask"
)
LAYERS = (SCL, QA_PIXEL, FMASK)  # known by a word in a name
CODES = frozenset((0, 1, 2, 3, 4, 255))  # of Fmask; its bits also give other values
TELLING_CODES = frozenset((2, 4))  # shadow and cloud: without them, a layer of CODES may as well be any mask of 0 and 1
MOST_VALUES = 16  # different values of a band that may be a quality layer
LOOKED_AT, LOOKED_PX = 40, 512  # number of files that are read, and of rows and columns around their centres, at most


def quality_layer(text: str | None, values: Collection[int] = ()) -> QualityLayer | None:
    """The layer that a token, a description or a path contains as a separate word; None if there is none.

    `values` are those found in the layer: they distinguish Fmask's bits from its codes.
    """
    for one in LAYERS:
        if re.search(rf"(?<![A-Za-z0-9]){one.name}(?![A-Za-z0-9])", text or "", re.IGNORECASE):
            return FMASK_CODES if one is FMASK and values and CODES.issuperset(values) else one
    return None


def layer_by_values(root: Path, files: Sequence[str], numbers: Sequence[int]) -> tuple[int, list[int]] | None:
    """The first of the stored bands `numbers` (from 1) that holds few whole values, as quality layers do, and these.

    A band with the codes of Fmask is preferred. Some of the `files` (relative to `root`) are read; negative
    values are fill and do not count. None if no band has 2 to 16 values.
    """
    values: dict[int, set[float]] = {number: set() for number in numbers}
    looked = min(len(files), LOOKED_AT)
    for path in (str(root / files[len(files) * place // looked]) for place in range(looked)):
        values = {number: found for number, found in values.items() if len(found) <= MOST_VALUES}
        if not values:
            return None
        with contextlib.suppress(RasterError):
            info = header(path)
            height, width = min(info.height, LOOKED_PX), min(info.width, LOOKED_PX)
            middle = Window((info.height - height) // 2, (info.width - width) // 2, height, width)
            stored_CHW = read_map(path, middle)
            for number in values:
                found = np.unique(stored_CHW[number - 1])
                found = found[np.isfinite(found) & (found >= 0)]
                values[number] |= set(found[: MOST_VALUES + 1].tolist())
    whole = {
        number: sorted(map(int, found))
        for number, found in values.items()
        if 2 <= len(found) <= MOST_VALUES and all(value == int(value) for value in found)
    }
    best = next((number for number, found in whole.items() if is_fmask(found)), next(iter(whole), None))
    return None if best is None else (best, whole[best])


def is_fmask(values: Collection[int]) -> bool:
    """Whether values are codes of Fmask, with shadows or clouds among them."""
    return CODES.issuperset(values) and not TELLING_CODES.isdisjoint(values)
