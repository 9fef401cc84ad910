"""A sensor: its bands in stored order, and how a stored value becomes a physical one."""

from collections.abc import Mapping
from dataclasses import dataclass, field

from geomae.errors import CatalogError, nearest
from geomae.sensors.band import Band, plain_name

UNITS = {
    "reflectance": "dimensionless, 1 is all of the incoming light",
    "radiance": "W / (m2 sr um)",
    "brightness_temperature": "kelvin; surface temperature too",
    "digital_number": "as stored, without a physical unit",
    "backscatter": "dimensionless, linear power",
    "decibel": "10 log10 of the backscatter",
}
"""The units that a sensor or a catalogue entry can name, and what they mean."""


@dataclass(frozen=True)
class Scaling:
    """How a stored value becomes a physical one: physical = stored x scale + offset, in `unit`."""

    unit: str
    scale: float
    offset: float


@dataclass(frozen=True)
class Sensor:
    """The bands of a sensor's product, in the product's order, and the scaling that they are stored with.

    `unit`, `scale` and `offset` are those of all bands that `overrides` does not name (by `Band.name`). `nodata` lists
    the stored values that mark a pixel as not measured. `source` names the documents that the figures come from.
    """

    name: str
    title: str
    unit: str
    scale: float
    offset: float
    nodata: tuple[float, ...]
    bands: tuple[Band, ...]
    source: str
    overrides: Mapping[str, Scaling] = field(default_factory=dict)

    def band(self, token: str) -> Band:
        """Find a band by the sensor's own name or by its common name; case and leading zeros do not matter.

        The sensor's own names go first. Raises CatalogError when no band answers to `token`, or more than one does.
        """
        wanted = plain_name(token)
        by_name = [band for band in self.bands if plain_name(band.name) == wanted]
        found = by_name or [band for band in self.bands if band.common_name == wanted]
        # `B6` of ETM+ is stored twice, as B6_VCID_1 and B6_VCID_2
        found = found or [band for band in self.bands if plain_name(band.name).startswith(f"{wanted}_")]
        if len(found) == 1:
            return found[0]
        if found:
            choices = " or ".join(band.name for band in found)
            raise CatalogError(f"band {token!r} of sensor {self.name} is ambiguous; write {choices}")
        names = dict.fromkeys(one for band in self.bands for one in (band.name, band.common_name) if one)
        raise CatalogError(f"sensor {self.name} has no band {token!r}; {nearest(token, names)}")

    def scaling(self, band: Band) -> Scaling:
        """Give the scaling that `band` is stored with in this sensor's product."""
        return self.overrides.get(band.name, Scaling(self.unit, self.scale, self.offset))
