"""Shifts of the synthetic landscape with a known cause: a source, and a target that differs in one respect only.

Both are generated like the lowland. A strength from 0 (no difference) to 1 interpolates between its values and others.
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
HAZE, SUN, WET = (0.05, 1.6), (-1.16, 0.54), 1.5  # of a full covariate shift: thick haze, low sun, wet month
RENAMED = {GRASS: CROP, SHRUB: FOREST}  # classes that a concept shift renames
KEPT = ("B02", "B03", "B04", "B8A", "B11", "B12", "B08", "B06", "B07", "B05", "B01", "B09")  # bands; last removed first
FEWEST_BANDS = 6
WIDENED = 3.0  # factor of bandwidth at strength 1 of a sensor shift


@dataclass(frozen=True)
class Shift:
    """How the target differs from the source, and how strongly (0 to 1)."""

    kind: str
    strength: float = 1.0

    def domains(self) -> tuple[LandscapeDomain, LandscapeDomain]:
        """The source and the target: different ground, and equal in everything else but the shift."""
        lowland, dryland = DOMAINS
        source = replace(lowland, name=SOURCE)
        target = replace(lowland, name=TARGET, epsg=lowland.epsg + 1)
        return source, replace(target, **self._changes(lowland, dryland))

    def rename(self, code_HW: NDArray[np.intp], parcel_HW: NDArray[np.intp], rng: np.random.Generator) -> Any:
        """The classes (H, W) in the target's label map: a concept shift renames whole parcels and patches.

        `rng` draws a number for each parcel, and a coarse field for pixels outside parcels.
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
    """Weights (B, C) of Sentinel-2's bands in each band: the mean over its width of their linear interpolation.

    Without widening, each band is the Sentinel-2 band itself.
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
    """Linear interpolation between numbers, tuples of numbers, or shares by name."""
    if isinstance(near, Mapping):
        keys = dict.fromkeys((*near, *far))
        return {key: _between(near.get(key, 0.0), far.get(key, 0.0), strength) for key in keys}
    if isinstance(near, tuple):
        return tuple(_between(one, other, strength) for one, other in zip(near, far, strict=True))
    return near + (far - near) * strength
