"""Quality layers of products: their names, and the codes that mask clouds and other invalid pixels."""

import re
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass


@dataclass(frozen=True)
class QualityLayer:
    """A layer with the `name` that its product gives it.

    `rule` is the part of a catalogue's `mask` that selects invalid pixels; `meaning` describes them.
    """

    name: str
    rule: Mapping[str, Sequence[int]]
    meaning: str

    def mask(self, **place: str) -> dict[str, object]:
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
LAYERS = (SCL, QA_PIXEL, FMASK)
CODES = frozenset((0, 1, 2, 3, 4, 255))  # of Fmask; its bits also give other values


def quality_layer(text: str | None, values: Collection[int] = ()) -> QualityLayer | None:
    """The layer that a token, a description or a path contains as a separate word; None if there is none.

    `values` are those found in the layer: they distinguish Fmask's bits from its codes.
    """
    for one in LAYERS:
        if re.search(rf"(?<![A-Za-z0-9]){one.name}(?![A-Za-z0-9])", text or "", re.IGNORECASE):
            return FMASK_CODES if one is FMASK and values and CODES.issuperset(values) else one
    return None
