"""What the name of a file tells of the sensor that it came from."""

import re
from collections.abc import Callable

from geomae.workflows.catalog_init_products import FIRST_OFFSET_BASELINE, LANDSAT_SENSORS

FIRST_OFFSET_DAY = 20220125  # from this day on Sentinel-2 products came with baseline 04.00 or later
SENTINEL_2 = ("sentinel-2-l2a", "sentinel-2-l2a-n0400", "sentinel-2-l1c", "sentinel-2-l1c-n0400")
BEGIN = r"(?<![A-Za-z0-9])"

Hint = tuple[tuple[str, ...], bool]
"""Names of sensors, the likeliest first, and whether the name leaves no doubt about the first."""


def hinted_sensors(path: str) -> Hint:
    """What `path` tells: names of sensors in the tables, the likeliest first, and whether there is no doubt.

    Empty where it tells nothing.
    """
    for pattern, read in READERS:
        found = list(pattern.finditer(path))
        if found:
            return read(found[-1])  # the file's own name counts more than that of a folder above it
    return (), False


def _sentinel_2(match: re.Match[str]) -> Hint:
    level, day = f"sentinel-2-{match['level'].lower()}", int(match["day"])
    baseline = match["baseline"]
    if baseline is not None:
        return (f"{level}{'-n0400' if int(baseline) >= FIRST_OFFSET_BASELINE else ''}",), True
    likely, other = (f"{level}-n0400", level) if day >= FIRST_OFFSET_DAY else (level, f"{level}-n0400")
    return (likely, other), False


def _landsat_product(match: re.Match[str]) -> Hint:
    return (LANDSAT_SENSORS[match["number"]] + ("-c2l2" if match["level"] == "L2" else ""),), True


def _landsat(match: re.Match[str]) -> Hint:
    name = LANDSAT_SENSORS[match["number"]]
    return (name, f"{name}-c2l2"), False


def _always(*names: str, certain: bool = False) -> Callable[[re.Match[str]], Hint]:
    return lambda match: (names, certain)


READERS: tuple[tuple[re.Pattern[str], Callable[[re.Match[str]], Hint]], ...] = tuple(
    (re.compile(pattern, re.IGNORECASE), read)
    for pattern, read in (
        (r"S2[A-D]_MSI(?P<level>L1C|L2A)_(?P<day>\d{8})(?:T\d+)?(?:_N(?P<baseline>\d{4}))?", _sentinel_2),
        (BEGIN + r"L[COTEM]0(?P<number>[45789])_(?P<level>L1|L2)[A-Z]{2}_", _landsat_product),
        (r"HLS\.L30\.", _always("hls-l30", certain=True)),
        (r"HLS\.S30\.", _always("hls-s30", certain=True)),
        (BEGIN + r"L[COTEM](?P<number>[45789])\d{13}", _landsat),
        (BEGIN + r"m_\d{7}_[ns][ew]_\d", _always("naip")),
        (BEGIN + r"S1[A-D]_(?:IW|EW|SM)_GRD", _always("sentinel-1-grd")),
        (BEGIN + r"M[OY]D09", _always("modis-land")),
        (r"AnalyticMS(?:_SR)?_8b|SuperDove", _always("planetscope-superdove")),
        (BEGIN + r"HLS(?![a-z])", _always("hls-l30", "hls-s30")),
        (r"landsat[-_ ]?(?P<number>[45789])(?!\d)", _landsat),
        (BEGIN + r"L(?P<number>[45789])(?!\d)", _landsat),
        (r"sentinel[-_ ]?2|" + BEGIN + r"S2(?!\d)", _always(*SENTINEL_2)),
        (r"sentinel[-_ ]?1(?!\d)|" + BEGIN + r"S1(?!\d)", _always("sentinel-1-grd")),
        (BEGIN + r"NAIP(?![a-z])", _always("naip")),
    )
)
"""Patterns and what they mean, the most telling first."""
