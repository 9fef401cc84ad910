"""The published sensors: read from `tables/`, found by name."""

from collections.abc import Mapping
from functools import cache
from pathlib import Path
from types import MappingProxyType
from typing import Any

from geomae.errors import CatalogError, nearest
from geomae.files import read_yaml
from geomae.sensors.parse import inline_sensor
from geomae.sensors.sensor import Sensor

TABLES = Path(__file__).parent / "tables"

SHORT_NAMES = {
    **{f"s{number}": f"sentinel-{number}" for number in (1, 2)},
    **{f"l{number}": f"landsat-{number}" for number in (4, 5, 7, 8, 9)},
    "mod09": "modis",
    "ps": "planetscope",
}
"""What people call sensors, and the part of our names that stands for it; used for advice, never to choose."""


def sensor(name: str) -> Sensor:
    """Give the published sensor `name`.

    Raises CatalogError for another name. One that stands for several sensors (`sentinel-2`, `landsat-8`) is not
    resolved, because these differ in bands or scaling: the message names the choices.
    """
    sensors = _sensors()
    if name in sensors:
        return sensors[name]
    choices = _meant(name, sensors)
    if len(choices) > 1:
        remedy = f"choose one of these, which differ in bands or scaling: {', '.join(choices)}"
    else:
        remedy = f"did you mean {choices[0]!r}?" if choices else nearest(name, sensors)
    raise CatalogError(f"unknown sensor {name!r}; {remedy}")


def sensor_names() -> tuple[str, ...]:
    """Give the names of all published sensors, in alphabetical order."""
    return tuple(sorted(_sensors()))


def _meant(name: str, sensors: Mapping[str, Sensor]) -> list[str]:
    """Names that hold all of `name`, however it separates its words."""
    words = "".join(part for part in name.lower().replace("_", "-").replace(" ", "-").split("-") if part)
    words = SHORT_NAMES.get(words, words).replace("-", "")
    return [known for known in sorted(sensors) if words and words in known.replace("-", "")]


@cache
def _sensors() -> Mapping[str, Sensor]:
    """All sensors of all tables. Read once in a process; the records are frozen, and the mapping is read-only."""
    found: dict[str, Sensor] = {}
    for path in sorted(TABLES.glob("*.yaml")):
        table = read_yaml(path).values
        for name, entry in table["sensors"].items():
            found[name] = inline_sensor(name, _resolved(entry, table["bands"]))
    return MappingProxyType(found)


def _resolved(entry: Mapping[str, Any], bands: Mapping[str, Mapping[str, Any]]) -> dict[str, Any]:
    """A product's entry with the figures of its bands filled in, and its sources as one text.

    A table gives each band's figures once, under `bands`; a product lists the names of its bands in its order, and
    under `stored` the scaling of those that differ from the others.
    """
    stored = entry.get("stored", {})
    return {
        **{key: value for key, value in entry.items() if key not in ("stored", "sources")},
        "bands": [{"name": name, **bands[name], **stored.get(name, {})} for name in entry["bands"]],
        "source": "; ".join(f"{figure}: {document}" for figure, document in entry["sources"].items()),
    }
