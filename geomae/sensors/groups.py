"""Groups of bands that share a token: those of the sensor, or those that the user names."""

from collections.abc import Sequence

from geomae.errors import ConfigError, nearest
from geomae.sensors.band import LONGEST_OPTICAL_UM, Band, plain_name

COARSE = 3.0  # times the finest gsd of the light bands: those bands of Sentinel-2 measure the atmosphere, not the land
ATMOSPHERE = ("coastal", "nir09", "cirrus")
RED_EDGE_UM, SWIR_UM, THERMAL_UM = 0.69, 1.0, 3.0  # where these regions begin; Cong et al. 2022 (SatMAE) group likewise
Groups = tuple[tuple[int, ...], ...]


def band_groups(
    bands: Sequence[Band], named: Sequence[Sequence[str]] | None, left_out: Sequence[str]
) -> tuple[tuple[str, ...], Groups]:
    """Names of the bands that belong to a group, in the order of `bands`, and the groups as places among them.

    `named` lists each group's bands by sensor name or common name; None takes `default_groups`. Raises ConfigError
    where a band is unknown, named twice, or in no group and not in `left_out`.
    """
    dropped = {_find(bands, name, "left_out") for name in left_out}
    if named is None:
        groups = [[i for i in group if i not in dropped] for group in default_groups(bands)]
    else:
        groups = [[_find(bands, name, "groups") for name in group] for group in named]
        _check(bands, groups, dropped)
    groups = [group for group in groups if group]
    kept = sorted(i for group in groups for i in group)
    return tuple(bands[i].name for i in kept), tuple(tuple(kept.index(i) for i in group) for group in groups)


def default_groups(bands: Sequence[Band]) -> list[list[int]]:
    """Visible light and near infrared, red edge, short-wave infrared, thermal, radar: those that have bands.

    Without red edge bands, all near infrared counts to the first. Bands for the atmosphere that are much coarser than
    the others (Sentinel-2's of 60 m) are in no group.
    """
    finest = min((band.gsd_m for band in bands if band.gsd_m and band.polarisation is None), default=None)
    red_edge = [(band.common_name or "").startswith("rededge") for band in bands]
    regions: dict[str, list[int]] = {name: [] for name in ("visible", "red edge", "swir", "thermal", "radar")}
    for i, band in enumerate(bands):
        coarse = finest is not None and band.gsd_m is not None and band.gsd_m > COARSE * finest
        if coarse and band.common_name in ATMOSPHERE:
            continue
        if band.polarisation is not None or band.wavelength_um >= LONGEST_OPTICAL_UM:
            region = "radar"
        elif band.wavelength_um >= THERMAL_UM:
            region = "thermal"
        elif band.wavelength_um >= SWIR_UM:
            region = "swir"
        elif any(red_edge) and (red_edge[i] or band.common_name == "nir08"):
            region = "red edge"
        else:
            region = "visible"
        regions[region].append(i)
    return [group for group in regions.values() if group]


def _find(bands: Sequence[Band], name: str, key: str) -> int:
    """The place of the band of that sensor name, else of that common name."""
    for i, band in enumerate(bands):
        if plain_name(band.name) == plain_name(name):
            return i
    for i, band in enumerate(bands):
        if band.common_name == name:
            return i
    known = [band.name for band in bands] + [band.common_name for band in bands if band.common_name]
    raise ConfigError(f"{key}: no band {name!r}; {nearest(name, known)}")


def _check(bands: Sequence[Band], groups: Sequence[Sequence[int]], dropped: set[int]) -> None:
    used = [i for group in groups for i in group]
    twice = sorted({bands[i].name for i in used if used.count(i) > 1 or i in dropped})
    if twice:
        raise ConfigError(f"groups: {', '.join(twice)} named twice; a band belongs to one group or to left_out")
    missing = [bands[i].name for i in range(len(bands)) if i not in used and i not in dropped]
    if missing:
        raise ConfigError(f"groups: {', '.join(missing)} in no group; add to one, or to left_out")
