"""Quality layers that products bring along: how they are called, and which of their codes leave clouds out."""

import re
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass


@dataclass(frozen=True)
class QualityLayer:
    """A layer by the `name` that its product gives it.

    `rule` is the part of a catalogue's `mask` that tells invalid pixels, `meaning` what these are.
    """

    name: str
    rule: Mapping[str, Sequence[int]]
    meaning: str

    def mask(self, **place: str) -> dict[str, object]:
        """The catalogue's `mask` for a layer at a place: its `path`, or its `band`."""
        return {**place, **self.rule}

    @property
    def remark(self) -> str:
        """What a person has to know who meets the key."""
        return f"check: {self.meaning} take no part; remove this line to keep them"


SCL = QualityLayer(  # ESA, Sentinel-2 Level-2A scene classification
    "SCL",
    {"invalid_values": (0, 1, 3, 8, 9, 10)},
    "by Sentinel-2's scene classification fill, defects, shadows, clouds and cirrus",
)
QA_PIXEL = QualityLayer(  # USGS, Landsat Collection 2 Level-2 product guide
    "QA_PIXEL",
    {"invalid_bits": (0, 1, 3, 4)},
    "by the bits of Landsat's Collection 2 fill, clouds, their edges and shadows",
)
FMASK = QualityLayer(  # NASA, Harmonized Landsat Sentinel-2 Product User Guide, version 2.0
    "Fmask", {"invalid_bits": (1, 2, 3)}, "by the bits of HLS clouds, their edges and shadows"
)
FMASK_CODES = QualityLayer(  # Zhu and Woodcock 2012: 0 land, 1 water, 2 shadow, 3 snow, 4 cloud, 255 nothing seen
    "Fmask", {"invalid_values": (2, 4, 255)}, "by the codes of Fmask shadows, clouds and fill"
)
LAYERS = (SCL, QA_PIXEL, FMASK)
CODES = frozenset((0, 1, 2, 3, 4, 255))  # of Fmask; its bits make others too


def quality_layer(text: str | None, values: Collection[int] = ()) -> QualityLayer | None:
    """The layer that a token, a description or a path names as a word of its own; None where it names none.

    `values` are those that the layer was seen to hold: they tell Fmask's bits from its codes.
    """
    for one in LAYERS:
        if re.search(rf"(?<![A-Za-z0-9]){one.name}(?![A-Za-z0-9])", text or "", re.IGNORECASE):
            return FMASK_CODES if one is FMASK and values and CODES.issuperset(values) else one
    return None
