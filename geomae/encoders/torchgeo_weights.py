"""What torchgeo's published weights were trained on: their names, files, bands and values.

C bands
"""

import os
import re
from collections.abc import Sequence
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

import torch

from geomae.encoders.timm_models import picture_bands
from geomae.encoders.values import (
    STORED,
    Range,
    Values,
    decibel_range,
    linear_range,
    picture_range,
    standardised,
    stored_range,
    stretched_range,
    values,
)
from geomae.errors import BandMismatchError, ConfigError, ModelError
from geomae.models.convert.reading import first_line
from geomae.models.standardise import SensorRecord
from geomae.sensors import Band, match_bands, sensor

TRAINED_ON = {  # how names of weights begin -> our table of the sensor, and how the names of its products begin
    "SENTINEL2": ("sentinel-2-l1c", "sentinel-2"),
    "SENTINEL1": ("sentinel-1-grd", "sentinel-1"),
    "LANDSAT_TM": ("landsat-5-tm", "landsat-5"),
    "LANDSAT_ETM": ("landsat-7-etm", "landsat-7"),
    "LANDSAT": ("landsat-8-oli", "landsat-8"),
    "NAIP": ("naip", "naip"),
}
CROMA_BANDS = ("B1", "B2", "B3", "B4", "B5", "B6", "B7", "B8", "B8A", "B9", "B11", "B12")
INITIALS = {"R": "red", "G": "green", "B": "blue"}
ANY_BANDS = "torchgeo:DOFABase16_Weights.DOFA_MAE or an encoder with the spectral embedding takes any optical bands"
TCI_WHITE = (
    0.3558  # reflectance that the true colour picture of Sentinel-2 L1C shows as 255 (ESA, product specification)
)
SATLAS_TOP = 8160.0  # Satlas divides the other bands by it (allenai/satlas, Normalization.md)
LANDSAT_STEP, LANDSAT_ZERO = 2e-5, -0.1  # reflectance of Landsat 8 Level 1: numbers x 2e-5 - 0.1 (USGS)
SATLAS_LANDSAT = (4000.0, 20320.0)  # numbers that become 0 and 1 there


def fitted(member: Any | None, model: str, imagery: SensorRecord, text: str) -> tuple[SensorRecord, Values]:
    """The bands of the data set that a model takes, in its order, and how their values are brought to its own.

    `member` is an entry of an enum of weights, or None for a model that a file of the user's belongs to: that is given
    all bands, or those it has by its making, standardised. Raises BandMismatchError and ConfigError.
    """
    if model.startswith(("dofa", "panopticon", "copernicusfm")):
        record = _optical(imagery, text)
        return record, standardised(record)
    if model.startswith("croma"):
        record = _matched("SENTINEL2", CROMA_BANDS, imagery, text)
        return record, values(stretched_range(record), (), record)
    steps = _steps(member)
    if model.startswith("scalemae") or (member is not None and "bands" not in member.meta):
        record = picture_bands(imagery, text, ANY_BANDS)
        steps = steps or [((0.0,), (255.0,)), ((0.485, 0.456, 0.406), (0.229, 0.224, 0.225))]
        return record, values(picture_range(record, 255.0), steps, record)
    if member is None:
        return imagery, standardised(imagery)
    record = _matched(member.name, member.meta["bands"], imagery, text)
    return record, values(_range(member.name, record, steps, text), steps, record)


def fetch(member: Any, text: str) -> Path:
    """The file of published weights, fetched once into torch's folder. Raises ModelError where it is out of reach."""
    name = Path(urlsplit(member.url).path).name
    path = Path(torch.hub.get_dir()) / "checkpoints" / name
    remedy = f"fetch {member.url} elsewhere and write {text}?checkpoint=FILE"
    if path.is_file():
        return path
    if os.environ.get("HF_HUB_OFFLINE", "").upper() in ("1", "ON", "YES", "TRUE"):
        raise ModelError(
            f"{text}: its weights are not on this machine, and HF_HUB_OFFLINE forbids to fetch them; {remedy}"
        )
    digest = re.search(r"-([0-9a-f]{8,})\.", name)
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        torch.hub.download_url_to_file(member.url, str(path), digest and digest[1], progress=False)
    except (OSError, RuntimeError) as error:
        raise ModelError(f"{text}: its weights cannot be fetched ({first_line(error)}); {remedy}") from error
    return path


def input_size(member: Any | None, default: int) -> int:
    """Pixels a side that the transforms of the weights end with."""
    sizes = [getattr(step, "size", None) for step in _transforms(member)]
    found = [size[0] if isinstance(size, Sequence) else size for size in sizes if size is not None]
    return int(found[-1]) if found else default


def _range(name: str, record: SensorRecord, steps: Sequence[Any], text: str) -> Range:
    """The numbers that the transforms expect, from physical units."""
    if name.startswith("SENTINEL1") and "SATLAS" not in name:
        return decibel_range(record, text)
    if "SATLAS" in name and record.unit == "reflectance" and name.startswith(("SENTINEL2", "LANDSAT")):
        return _satlas_range(name, record)
    if name.endswith("_SECO"):
        raise ConfigError(
            f"{text}: how its 8-bit values were made of reflectance was not published; take other weights"
        )
    if name.startswith("SENTINEL2") and "SATLAS" not in name:
        return stored_range(record, text)
    return picture_range(record, 255.0)


def _satlas_range(name: str, record: SensorRecord) -> Range:
    if name.startswith("LANDSAT"):
        low, high = SATLAS_LANDSAT
        shift = -LANDSAT_ZERO / LANDSAT_STEP
        factors = [1 / LANDSAT_STEP] * len(record.bands)
        note = f"reflectance as numbers of Landsat Level 1, {low:g} to {high:g}"
        return linear_range(record, factors, shift, low, [high] * len(factors), note)
    shown = [band.common_name in INITIALS.values() for band in record.bands]
    factors = [255.0 / TCI_WHITE if one else STORED for one in shown]
    note = (
        f"red, green, blue as the true colour picture (reflectance 0 to {TCI_WHITE} is 0 to 255), others x {STORED:g}"
    )
    return linear_range(record, factors, 0.0, 0.0, [255.0 if one else SATLAS_TOP for one in shown], note)


def _steps(member: Any | None) -> list[tuple[Sequence[float], Sequence[float]]]:
    """Means and standard deviations of the transforms that normalise values."""
    found = [step for step in _transforms(member) if hasattr(step, "mean") and hasattr(step, "std")]
    return [([float(x) for x in step.mean], [float(x) for x in step.std]) for step in found]


def _transforms(member: Any | None) -> list[Any]:
    transforms = None if member is None else member.transforms
    return list(transforms) if isinstance(transforms, torch.nn.Sequential) else [transforms]


def _matched(name: str, wanted: Sequence[str], imagery: SensorRecord, text: str) -> SensorRecord:
    """The bands of the data set that the weights were trained on: by name within the sensor, else by wavelength."""
    table, family = next(found for begin, found in TRAINED_ON.items() if name.startswith(begin))
    published = [_band(INITIALS.get(one, one), table) for one in wanted]
    known = [band for band in published if band is not None]
    places = iter(match_bands(known, imagery.bands, same_sensor=imagery.name.startswith(family)))
    met = [None if band is None else next(places) for band in published]
    missing = [one for one, place in zip(wanted, met, strict=True) if place is None]
    if missing:
        raise BandMismatchError(
            f"{text}: needs {', '.join(missing)} of {family}, which the data set ({imagery.name}: "
            f"{', '.join(band.name for band in imagery.bands)}) has not; {ANY_BANDS}"
        )
    return imagery.select([imagery.bands[place].name for place in met if place is not None])


def _band(name: str, table: str) -> Band | None:
    offered = sensor(table).bands
    place = match_bands([Band(name, None, 1.0, 1.0, None)], offered, same_sensor=True)[0]
    return None if place is None else offered[place]


def _optical(imagery: SensorRecord, text: str) -> SensorRecord:
    names = [band.name for band in imagery.bands if band.polarisation is None]
    if not names:
        raise BandMismatchError(
            f"{text}: takes optical bands, and the data set ({imagery.name}) has none; take another"
        )
    return imagery.select(names)
