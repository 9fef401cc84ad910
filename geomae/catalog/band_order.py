"""The order in which files store the bands of a data set, and how files with another order are read."""

import re
from collections.abc import Sequence
from dataclasses import dataclass, replace

from geomae.errors import CatalogError
from geomae.sensors import Band, Sensor

ALPHA = "alpha"  # description of a stored band that holds the validity of the others
WITH_NM = re.compile(r"([a-z]+)\d?[_ -](\d{3,5})(?: ?nm)?", re.IGNORECASE)  # `nir_865`, `swir1_1609`
ROUNDING_NM = 1.0
COUNTED = re.compile(r"b0*(\d+)")  # Earth Engine's names of bands without names


@dataclass(frozen=True)
class Placement:
    """How one file is read: for each band of the stored order, its number (from 1) in this file.

    `numbers` is None where the descriptions in the file contradict the stored order. `named` says whether the file
    names any band; `text` lists its descriptions for messages.
    """

    numbers: tuple[int, ...] | None
    named: bool
    text: str

    @property
    def moved(self) -> bool:
        """Whether the file has the bands in another order and is therefore read by their names."""
        return self.numbers is not None and any(number != at for at, number in enumerate(self.numbers, start=1))


@dataclass(frozen=True)
class StoredOrder:
    """The bands that the files of a data set store, in order: `names` of the sensor's bands, None for skipped ones.

    `stated` says whether the catalogue's `bands` defines the order; a file that names its bands differently is then an
    error. `layer` is the description of the mask's layer, if the catalogue names it so; its position may vary.
    """

    sensor: Sensor
    names: tuple[str | None, ...]
    stated: bool
    layer: str | None = None

    def __str__(self) -> str:
        return ", ".join(name or "null" for name in self.names)

    def with_layer(self, description: str, number: int) -> "StoredOrder":
        """This order with the mask's layer as stored band `number` (from 1), unless that band is read as data."""
        if self.names[number - 1] is not None:
            return self
        names = (*self.names[: number - 1], description, *self.names[number:])
        return replace(self, names=names, layer=description)

    def place(self, descriptions: Sequence[str | None]) -> Placement:
        """Find each band in a file by its descriptions; a file without names of bands is read in stored order."""
        text = ", ".join(description or "no name" for description in descriptions)
        as_stored = tuple(range(1, len(self.names) + 1))
        nameless = self.stated and _counts(descriptions)
        found = [None if nameless else self._name(description) for description in descriptions]
        if len(found) != len(self.names) or not any(found):
            return Placement(as_stored, False, text)
        wanted = {at: name for at, name in enumerate(self.names) if name}
        wrong = [at for at, name in wanted.items() if found[at] != name and (found[at] or name in found)]
        if not wrong:
            return Placement(as_stored, True, text)
        once = all(found.count(name) == 1 for name in wanted.values())
        if not once or (self.stated and any(self.names[at] != self.layer for at in wrong)):
            return Placement(None, True, text)
        numbers = tuple(found.index(name) + 1 if name else at for at, name in enumerate(self.names, start=1))
        return Placement(numbers, True, text)

    def _name(self, description: str | None) -> str | None:
        """The name in this order for a description: the mask's layer or a band of the sensor; None for neither."""
        if description is not None and description == self.layer:
            return self.layer
        band = described_band(self.sensor, description)
        return band.name if band else None


def described_band(sensor: Sensor, description: str | None) -> Band | None:
    """The band of a sensor that a description names, None where there is none.

    It is the band's own or common name, or the colour of its common name with its centre in nm (`nir_865` is `nir08` of
    0.86467 um), if both fit one band only.
    """
    if not description:
        return None
    try:
        return sensor.band(description)
    except CatalogError:
        pass
    match = WITH_NM.fullmatch(description.strip())
    if match is None:
        return None
    colour, centre_nm = match[1].lower(), int(match[2])
    fitting = [
        band
        for band in sensor.bands
        if (band.common_name or "").rstrip("0123456789") == colour
        and abs(1000 * band.wavelength_um - centre_nm) <= ROUNDING_NM
    ]
    return fitting[0] if len(fitting) == 1 else None


def is_alpha(description: str | None) -> bool:
    """Whether a description names an alpha band."""
    return description is not None and description.strip().lower() == ALPHA


def _counts(descriptions: Sequence[str | None]) -> bool:
    """Whether the descriptions are only numbers: b1, b2, b3."""
    matches = [COUNTED.fullmatch(description or "") for description in descriptions]
    return all(match and int(match[1]) == at for at, match in enumerate(matches, start=1))
