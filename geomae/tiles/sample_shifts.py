"""Shifts of the drawn landscape that are known by construction: a source, and a target that differs in one thing alone.

Both are drawn as the lowland is. A strength between 0 (no difference) and 1 goes from the lowland's values to others.
Axes: H W pixels, B bands of the target, C bands of the spectra.
"""

from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
from numpy.typing import NDArray
from scipy.special import ndtr  # type: ignore[import-untyped]

from geomae.sensors import Band, sensor
from geomae.tiles.sample_domains import BANDS, CROP, DOMAINS, FOREST, GRASS, SENSOR, SHRUB, LandscapeDomain

SOURCE, TARGET = SIDES = ("source", "target")
NONE, COVARIATE, SHARES, CONDITIONAL, CONCEPT, SENSOR_SHIFT = (
    "none", "covariate", "shares", "conditional", "concept", "sensor",
)  # fmt: skip
HAZE, SUN, WET = (0.05, 1.6), (-1.16, 0.54), 1.5  # of a full covariate shift: thick haze, a low sun, a wet month
RENAMED = {GRASS: CROP, SHRUB: FOREST}  # what a concept shift calls otherwise
KEPT = ("B02", "B03", "B04", "B8A", "B11", "B12", "B08", "B06", "B07", "B05", "B01", "B09")  # bands, the last go first
FEWEST_BANDS = 6
WIDENED = 3.0  # times: how much wider the bands of a full sensor shift are


@dataclass(frozen=True)
class Shift:
    """What sets the target apart from the source, and by how much (0 to 1)."""

    kind: str
    strength: float = 1.0

    def domains(self) -> tuple[LandscapeDomain, LandscapeDomain]:
        """The source and the target. They are alike, and on other ground, but for the one thing."""
        lowland, dryland = DOMAINS
        source = replace(lowland, name=SOURCE)
        target = replace(lowland, name=TARGET, epsg=lowland.epsg + 1)
        return source, replace(target, **self._changes(lowland, dryland))

    def rename(self, code_HW: NDArray[np.intp], parcel_HW: NDArray[np.intp], rng: np.random.Generator) -> Any:
        """The classes (H, W) as the target's map names them: of a concept shift, whole parcels and patches otherwise.

        `rng` gives a number to each parcel, and to pixels without one a smooth field.
        """
        if self.kind != CONCEPT:
            return code_HW
        of_parcel = rng.random(int(parcel_HW.max()) + 1)
        coarse = rng.standard_normal((len(code_HW) // 16 + 2, len(code_HW) // 16 + 2))
        patch_HW = ndtr(np.kron(coarse, np.ones((16, 16)))[: len(code_HW), : len(code_HW)])
        chance_HW = np.where(parcel_HW > 0, of_parcel[parcel_HW], patch_HW)
        renamed_HW = code_HW.copy()
        for code, other in RENAMED.items():
            renamed_HW[(code_HW == code) & (chance_HW < self.strength)] = other
        return renamed_HW

    def _changes(self, near: LandscapeDomain, far: LandscapeDomain) -> dict[str, Any]:
        def between(name: str) -> Any:
            return _between(getattr(near, name), getattr(far, name), self.strength)

        if self.kind == COVARIATE:
            ends = {"haze": HAZE, "sun": SUN, "wet": WET}
            return {name: _between(getattr(near, name), end, self.strength) for name, end in ends.items()}
        if self.kind == SHARES:
            return {name: between(name) for name in ("farmed", "wild", "fields")}
        if self.kind == CONDITIONAL:
            pairs = zip(near.mixtures, far.mixtures, strict=True)
            return {"mixtures": tuple(_between(one, other, self.strength) for one, other in pairs)}
        if self.kind == SENSOR_SHIFT:
            kept = KEPT[: len(BANDS) - round(self.strength * (len(BANDS) - FEWEST_BANDS))]
            bands = tuple(name for name in BANDS if name in kept)
            return {"bands": bands, "widening": _between(1.0, WIDENED, self.strength)}
        return {}


def observed_bands(domain: LandscapeDomain) -> tuple[Band, ...]:
    """The bands that a domain's sensor has: some of Sentinel-2's, as wide or wider."""
    known = {band.name: band for band in sensor(SENSOR).bands}
    return tuple(replace(known[name], fwhm_um=known[name].fwhm_um * domain.widening) for name in domain.bands)


def response(domain: LandscapeDomain) -> NDArray[np.float64]:
    """What each band (B) takes of Sentinel-2's (C): the mean over its width of the line through their values.

    A band as wide as Sentinel-2's own is that band.
    """
    centre_C = np.array([band.wavelength_um for band in sensor(SENSOR).bands])
    order = np.argsort(centre_C)
    rows = []
    for band in observed_bands(domain):
        if domain.widening == 1:
            rows.append((centre_C == band.wavelength_um).astype(float))
            continue
        place = np.linspace(-0.5, 0.5, 101) * band.fwhm_um + band.wavelength_um
        row = np.zeros(len(centre_C))
        row[order] = np.mean([np.interp(place, centre_C[order], unit) for unit in np.eye(len(order))], axis=1)
        rows.append(row)
    return np.array(rows)


def _between(near: Any, far: Any, strength: float) -> Any:
    """Numbers, tuples of them and shares by name, part of the way from one to the other."""
    if isinstance(near, Mapping):
        keys = dict.fromkeys((*near, *far))
        return {key: _between(near.get(key, 0.0), far.get(key, 0.0), strength) for key in keys}
    if isinstance(near, tuple):
        return tuple(_between(one, other, strength) for one, other in zip(near, far, strict=True))
    return near + (far - near) * strength
