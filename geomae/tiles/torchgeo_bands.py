"""What the data sets of torchgeo call their bands, and which bands of a sensor these are."""

from collections.abc import Sequence
from typing import Any

from geomae.errors import CatalogError
from geomae.sensors import Band, Sensor


def stored_bands(made: Any, sensor: Sensor, place: str) -> list[str | None] | None:
    """The class's bands in stored order, null for those that its arguments leave out; None where the files must tell.

    Names that the sensor does not know count by their place, if there are as many as the sensor has and the names that
    it does know are at theirs.
    """
    stored = _all_names(made)
    if not stored:
        return None
    found = [_find(sensor, name) for name in stored]
    if _agrees(found, sensor):
        found = list(sensor.bands)
    chosen = _chosen_names(made)
    partly = bool(chosen) and set(chosen) <= set(stored)
    kept = [not partly or name in chosen for name in stored]
    if all(kept) and None in found:
        return None
    names = [band.name if keep and band else None for band, keep in zip(found, kept, strict=True)]
    if sum(kept) != sum(name is not None for name in names):
        raise CatalogError(
            f"{place}: the bands of {type(made).__name__} ({', '.join(stored)}) are not those of sensor {sensor.name}; "
            "add `bands` in stored order, null for what is to be skipped"
        )
    return names


def band_tokens(made: Any, sensor: Sensor, written: Any, place: str, *, strict: bool) -> dict[str, str]:
    """Tokens in file names by the sensor's band, for classes with a file per band.

    `written` is the entry's `bands`; without it the bands count that torchgeo would read and the sensor knows: with
    `strict` it must know them all.
    """
    if isinstance(written, dict):
        return written
    known = {band.name: token for token in (*made.all_bands, *made.bands) if (band := _find(sensor, token))}
    names: Sequence[str | None] = written or [
        band.name if (band := _find(sensor, token)) else token
        for token in made.bands
        if strict or token in known.values()
    ]
    found = [_find(sensor, name) for name in names]
    for name, band in zip(names or (None,), found or (None,), strict=True):
        if band is None or band.name not in known:
            raise CatalogError(
                f"{place}: {type(made).__name__} has a file per band, and no band is {name!r} both to it and to sensor "
                f"{sensor.name}; add `bands`, a mapping from name to the token in the files' names"
            )
    return {band.name: known[band.name] for band in found if band}


def row_bands(made: Any, count: int) -> list[str] | None:
    """Names of the `count` bands of a row, in its order; None where the class does not tell."""
    return next((names for names in (_chosen_names(made), _all_names(made)) if len(names) == count), None)


def _agrees(found: Sequence[Band | None], sensor: Sensor) -> bool:
    """Whether as many bands as the sensor has are at the sensor's places, as far as they are known."""
    return len(found) == len(sensor.bands) and all(
        one in (None, own) for one, own in zip(found, sensor.bands, strict=True)
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
