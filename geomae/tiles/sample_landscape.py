"""A synthetic landscape: Sentinel-2 scenes of two domains with land cover, generated on first use without a network.

Each pixel has a land-cover class and is a mixture of spectra; illumination, haze and sensor are applied in that order.
Axes: L class codes, K spectra, C bands, H W pixels, N points.
"""

from collections.abc import Mapping
from datetime import date, timedelta
from pathlib import Path
from typing import Any, TypeAlias

import numpy as np
from numpy.typing import NDArray
from scipy import ndimage, spatial  # type: ignore[import-untyped]

from geomae.errors import CatalogError, StorageError
from geomae.files import cache_folder, digest, publish_dir, write_json, write_text
from geomae.randomness import generator
from geomae.rasters import write_cog
from geomae.tiles.sample_domains import BANDS, BARE, BUILT, CLASSES, DOMAINS, FOREST, SENSOR, WATER, LandscapeDomain
from geomae.tiles.sample_shifts import SIDES, SOURCE, TARGET, Shift, observed_bands, response
from geomae.tiles.sample_vectors import SurveyedScene, geojson, survey_fields, survey_points

FORMAT = 2  # part of the cache key: raise it whenever the same arguments give other files
GSD_M = 10.0
Floats: TypeAlias = NDArray[np.floating[Any]]
Codes: TypeAlias = NDArray[np.intp]
Ground: TypeAlias = tuple[Codes, Codes, Floats, Floats, Floats]  # see `_ground`

# fmt: off
_SPECTRA = {  # reflectance in the order of BANDS: typical values, set by hand
    "clear":     (.030, .032, .029, .015, .010, .007, .006, .005, .004, .004, .002, .001),
    "turbid":    (.055, .070, .105, .090, .075, .042, .038, .030, .026, .024, .007, .004),
    "broadleaf": (.018, .024, .046, .026, .078, .230, .295, .315, .330, .332, .160, .075),
    "needle":    (.012, .017, .030, .021, .048, .130, .160, .175, .190, .191, .085, .040),
    "leaf":      (.025, .032, .066, .031, .110, .335, .435, .460, .480, .478, .205, .100),
    "sward":     (.030, .041, .080, .058, .130, .265, .318, .345, .365, .366, .240, .145),
    "straw":     (.065, .088, .138, .188, .225, .252, .275, .300, .318, .325, .350, .250),
    "loam":      (.042, .056, .082, .116, .130, .142, .153, .164, .175, .181, .255, .222),
    "ochre":     (.060, .082, .138, .222, .252, .270, .284, .297, .308, .314, .385, .345),
    "sand":      (.140, .178, .245, .305, .325, .340, .352, .365, .374, .379, .440, .405),
    "concrete":  (.150, .172, .195, .212, .220, .226, .232, .240, .244, .246, .258, .240),
    "asphalt":   (.070, .078, .089, .099, .104, .109, .114, .120, .123, .126, .148, .140)}
_PIGMENT_C = np.array([-.01, -.04, -.14, -.10, -.15, -.04, .01, .01, .01, .01, -.01, -.02])  # on log reflectance
_MOISTURE_C = np.array([-.02, -.03, -.03, -.03, -.03, -.03, -.02, -.02, -.03, -.04, -.10, -.15])
_SPREAD_L4 = np.array([  # deviations of log shares by parcel, by position and by pixel; of log brightness by pixel
    (0, 0, 0, 0), (0, .8, .05, .01), (0, 1.1, .25, .17), (0, .5, .6, .06), (.5, .5, .15, .04), (1.5, .3, .08, .02),
    (.7, .8, .1, .03), (0, .5, 1.1, .12)])
# fmt: on


def landscape(*, seed: int = 0, size: int = 512, scenes: int = 2, shift: Shift | None = None) -> Path:
    """Folder with `scenes` scenes of `size` x `size` pixels per domain; generated on first use, then cached.

    The domains are the lowland and the dryland; with a `shift`, its source and its target. The folder holds
    `<domain>_<i>.tif` (uint16, reflectance x 10000, nodata 0), `labels/<domain>_<i>.tif` (uint8, CLASSES),
    `scenes.csv`, `classes.json`, `points.geojson` and `fields.geojson` (a simulated survey). Raises CatalogError for
    arguments out of range.
    """
    if seed < 0 or not 64 <= size <= 2048 or not 1 <= scenes <= 64:
        raise CatalogError(f"sample: seed {seed}, size {size}, scenes {scenes}; give >= 0, 64 to 2048, and 1 to 64")
    drawn: dict[str, Any] = {"format": FORMAT, "seed": seed, "size": size, "scenes": scenes}
    if shift is not None:
        drawn["shift"] = vars(shift)
    folder = cache_folder() / "landscape" / digest(drawn)
    if not folder.is_dir():
        try:
            with publish_dir(folder) as unfinished:
                _write(unfinished, seed, size, scenes, shift)
        except StorageError:
            if not folder.is_dir():  # else another process was first, with the same bytes
                raise
    return folder


def describe(shift: Shift | None = None, side: str | None = None) -> dict[str, Any]:
    """The catalogue entry that reads a landscape, or one side of it: `source` or `target`.

    Its paths are relative to the folder that `landscape` returns. In a sensor shift the two sides have different
    sensors, so that an entry can read only one.
    """
    domain = DOMAINS[0] if shift is None else shift.domains()[SIDES.index(side or SOURCE)]
    known: Any = SENSOR
    if domain.widening != 1:
        bands = [
            {key: value for key, value in vars(one).items() if value is not None} for one in observed_bands(domain)
        ]
        known = {"unit": "reflectance", "bands": bands}
    entry = {"path": f"{side or ''}*.tif", "sensor": known, "bands": list(domain.bands), "scale": 0.0001, "offset": 0}
    table, label = {"path": "scenes.csv", "key": "scene"}, {"raster": "labels/{stem}.tif", "classes": dict(CLASSES)}
    return {**entry, "nodata": 0, "gsd_m": GSD_M, "table": table, "domain": {"column": "domain"}, "label": label}


def _write(folder: Path, seed: int, size: int, scenes: int, shift: Shift | None) -> None:
    table = "scene,domain,season,time\n"
    points, fields = [], []
    domains = shift.domains() if shift else DOMAINS
    for domain, index in ((domain, index) for domain in domains for index in range(scenes)):
        stem, day = f"{domain.name}_{index}", _day(domain, index)
        table += f"{stem},{domain.name},{domain.season},{day}\n"
        rng = generator(seed, "landscape", stem)
        ground = _ground(domain, size, rng)
        pixels_CHW = _observe(domain, rng, _surface(domain, rng, ground)).astype(np.uint16)
        code_HW = ground[0]
        if shift and domain.name == TARGET:
            code_HW = shift.rename(code_HW, ground[1], generator(seed, "landscape names", stem))
        labels_HW = np.where(pixels_CHW[0] > 0, code_HW, 0).astype(np.uint8)
        transform = (GSD_M, 0.0, 300_000 + index * (size + 100) * GSD_M, 0.0, -GSD_M, 4_900_000.0)
        crs = f"EPSG:{domain.epsg}"
        grid: dict[str, Any] = {"crs": crs, "transform": transform, "nodata": 0}
        write_cog(folder / f"{stem}.tif", pixels_CHW, descriptions=domain.bands, **grid)
        write_cog(
            folder / "labels" / f"{stem}.tif", labels_HW[None], descriptions=["class"], overviews="nearest", **grid
        )
        scene = SurveyedScene(stem, day, crs, transform, labels_HW, CLASSES)
        points += survey_points(scene, FOREST, generator(seed, "survey", stem))
        fields += survey_fields(scene)
    write_text(folder / "scenes.csv", table)
    write_json(folder / "classes.json", CLASSES)
    write_text(folder / "points.geojson", geojson(points))
    write_text(folder / "fields.geojson", geojson(fields))


def _day(domain: LandscapeDomain, index: int) -> date:
    """The day of a scene: six scenes per season, ten days apart, then the next year."""
    year, turn = divmod(index, 6)
    first = domain.first_day
    return first.replace(year=first.year + year) + timedelta(days=10 * turn)


def _noise(rng: np.random.Generator, size: int, scale_px: float, slope: float = 2.0) -> Floats:
    """A smooth field, mean 0, deviation 1; below `scale_px` amplitude falls as frequency^-slope (von Karman)."""
    padded = size + max(size // 4, 16)  # the Fourier transform is periodic: the margin is cut off
    square = np.fft.fftfreq(padded)[:, None] ** 2 + np.fft.rfftfreq(padded) ** 2 + scale_px**-2
    wave = np.fft.rfft2(rng.standard_normal((padded, padded))) * square ** (-slope / 2)
    field_HW = np.fft.irfft2(wave, (padded, padded))[:size, :size]
    return np.asarray((field_HW - field_HW.mean()) / field_HW.std())


def _nearest(points_N2: Floats, size: int) -> tuple[Floats, Codes]:
    """Per pixel the distance in pixels to the nearest point (row, column), and which one that is."""
    distance_HW, which_HW = spatial.cKDTree(points_N2).query(np.moveaxis(np.indices((size, size)), 0, -1))
    return distance_HW, which_HW


def _river(domain: LandscapeDomain, size: int, rng: np.random.Generator) -> Floats:
    """Distance in pixels to a river's bank, negative in its bed: a sine-generated curve (Langbein & Leopold 1966)."""
    step = np.arange(10 * size) * 0.5
    phase, other, start = rng.uniform(0, 2 * np.pi, 3)
    bearing = start + (1.1 + 0.5 * np.sin(step / 61 + phase)) * np.sin(step / 19 + 1.3 * np.sin(step / 47 + other))
    course_N2 = np.cumsum(0.5 * np.stack([np.sin(bearing), np.cos(bearing)], -1), axis=0)
    distance_HW, which_HW = _nearest(course_N2 + rng.uniform(0.35, 0.65, 2) * size - course_N2[len(step) // 2], size)
    return np.asarray(distance_HW - domain.river_px[0] * (1 + 0.3 * np.sin(step / 23 + other))[which_HW])


def _parcels(domain: LandscapeDomain, size: int, rng: np.random.Generator) -> tuple[Codes, Floats, Floats]:
    """Per pixel: its parcel from 1 (0: none); distance to its border and position across crop rows, in pixels."""
    _, parcel_HW = _nearest(rng.uniform(0, size, (2 + (size // 150) ** 2, 2)), size)  # districts, each with a direction
    turn_HW = np.exp(1j * (rng.uniform(0, np.pi) + rng.normal(0, 0.5, parcel_HW.max() + 1)))[parcel_HW]
    turned_HW = np.add.outer(1j * np.arange(size), np.arange(size)) * turn_HW
    middles, halves = [], []
    for way_HW, side_px in zip((turned_HW.real, turned_HW.imag), domain.parcel_px, strict=False):
        cuts = np.cumsum(rng.lognormal(np.log(side_px), domain.parcel_px[2], 8 + 6 * size // int(side_px))) - 2.2 * size
        place_HW = way_HW + rng.uniform(0, side_px, parcel_HW.max() + 1)[parcel_HW]  # strips do not line up
        cut_HW = np.searchsorted(cuts, place_HW).clip(1, len(cuts) - 1)
        halves.append((cuts[cut_HW] - cuts[cut_HW - 1]) / 2)
        middles.append(place_HW - cuts[cut_HW] + halves[-1])
        parcel_HW = np.unique(parcel_HW * len(cuts) + cut_HW, return_inverse=True)[1].reshape(size, size)
    round_HW = (rng.random(parcel_HW.max() + 1) < domain.pivots)[parcel_HW]
    radius_HW, border_HW = np.hypot(*middles), np.minimum(*(np.array(halves) - np.abs(middles)))
    border_HW = np.where(round_HW, np.minimum(*halves) - radius_HW, border_HW)
    return np.where(border_HW < 0, 0, parcel_HW + 1), border_HW, np.where(round_HW, radius_HW, turned_HW.real)


def _by_rank(value_HW: Floats, where_HW: NDArray[np.bool_], shares: Mapping[int, float]) -> Codes:
    """Class codes in order of `value_HW`, with thresholds so that the pixels of `where_HW` have the given shares."""
    cuts = np.quantile(value_HW[where_HW], np.cumsum(list(shares.values()))[:-1])
    return np.array(list(shares))[np.searchsorted(cuts, value_HW)]


def _ground(domain: LandscapeDomain, size: int, rng: np.random.Generator) -> Ground:
    """Class codes, parcels (0: not farmed), share of border, crop rows (-1 to 1), light relative to level ground."""
    bank_HW, wobble_HW = _river(domain, size, rng), _noise(rng, size, 12)
    # The absolute value of noise has V-shaped valleys and round hills, as erosion leaves them; the flood plain is flat.
    rise_HW = np.abs(_noise(rng, size, 100, 2.6)) * (1 - np.exp(-bank_HW.clip(0) / 90))
    parcel_HW, border_HW, across_HW = _parcels(domain, size, rng)
    fit_HW = _noise(rng, size, 70) - 0.5 * rise_HW - 0.006 * bank_HW
    fit = np.bincount(parcel_HW.ravel(), fit_HW.ravel()) / np.bincount(parcel_HW.ravel()).clip(1)
    fit_HW = np.where(parcel_HW > 0, 0.2 * fit_HW + 0.8 * fit[parcel_HW], -9)  # a parcel is farmed as a whole
    farmed_HW = fit_HW > np.quantile(fit_HW, 1 - domain.farmed)
    fields_HW = _by_rank(rng.random(len(fit))[parcel_HW], farmed_HW, domain.fields)
    wild_HW = _by_rank(_noise(rng, size, 45, 1.8) + 0.8 * rise_HW, ~farmed_HW, domain.wild)
    labels_HW = np.where(farmed_HW, fields_HW, wild_HW)
    labels_HW[bank_HW < domain.river_px[2] * (1 + wobble_HW)] = FOREST
    towns_N2 = rng.uniform(0.1, 0.9, (max(1, round((size / 200) ** 2)), 2)) * size
    labels_HW[_nearest(towns_N2, size)[0] < 20 * (0.8 + 0.3 * wobble_HW)] = BUILT
    labels_HW[bank_HW < 0] = BARE
    pond_HW = _noise(rng, size, 40, 3) - 0.5 * rise_HW
    labels_HW[(pond_HW > np.quantile(pond_HW, 0.993)) | (bank_HW < -domain.river_px[1])] = WATER
    parcel_HW = np.where(farmed_HW & (labels_HW == fields_HW), parcel_HW, 0)
    rows_HW = np.sin(2 * np.pi * across_HW / rng.uniform(3, 7, len(fit))[parcel_HW])
    down_HW, right_HW = np.gradient(ndimage.gaussian_filter(rise_HW * domain.relief_m, 1), GSD_M)
    light_HW = np.where(labels_HW == WATER, 1, (1 + domain.sun[0] * down_HW - domain.sun[1] * right_HW).clip(0.3, 1.3))
    edge_HW = np.where(parcel_HW > 0, (0.8 - border_HW).clip(0, 0.8), 0)
    return labels_HW, parcel_HW, edge_HW, rows_HW, light_HW


def _surface(domain: LandscapeDomain, rng: np.random.Generator, ground: Ground) -> Floats:
    """Reflectance (C, H, W): mixtures that vary by parcel, position and pixel, with moisture, pigments and light."""
    labels_HW, parcel_HW, edge_HW, rows_HW, light_HW = ground
    size, parcels, spectra_KC = len(labels_HW), parcel_HW.max() + 1, np.array(list(_SPECTRA.values()))
    share_LK = np.array([[mixture.get(name, 0.0) for name in _SPECTRA] for mixture in ({}, *domain.mixtures)])
    spread_4HW = np.moveaxis(_SPREAD_L4[labels_HW], -1, 0)
    share_KHW = np.zeros((len(_SPECTRA), size, size))
    for k, name in enumerate(_SPECTRA):
        stray_HW = spread_4HW[0] * rng.standard_normal(parcels)[parcel_HW] * (parcel_HW > 0)
        stray_HW += spread_4HW[1] * _noise(rng, size, 35) + spread_4HW[2] * rng.standard_normal((size, size))
        share_KHW[k] = share_LK[:, k][labels_HW] * np.exp(stray_HW + 0.35 * rows_HW * (name == "leaf"))
    share_KHW *= (1 - edge_HW) / share_KHW.sum(axis=0)
    share_KHW[list(_SPECTRA).index(domain.border)] += edge_HW
    green_HW = share_KHW[spectra_KC[:, 7] > 4 * spectra_KC[:, 3]].sum(axis=0)
    bright_HW, wet_HW, pigment_HW = (_noise(rng, size, 40) + rng.standard_normal(parcels)[parcel_HW] for _ in range(3))
    texture_HW = spread_4HW[3] * (_noise(rng, size, 2.5, 1.5) + 0.6 * rng.standard_normal((size, size)))
    log_CHW = (
        _MOISTURE_C[:, None, None] * ((wet_HW + domain.wet) * (labels_HW != WATER)) + 0.04 * bright_HW + texture_HW
    )
    log_CHW += _PIGMENT_C[:, None, None] * (pigment_HW * green_HW)
    return np.asarray(light_HW * np.exp(log_CHW) * np.einsum("kc,khw->chw", spectra_KC, share_KHW))


def _observe(domain: LandscapeDomain, rng: np.random.Generator, surface_CHW: Floats) -> Floats:
    """The stored values: haze, blur, pixel size of each band and noise applied; reflectance x 10000, 0 without data."""
    if domain.bands != BANDS or domain.widening != 1:
        surface_CHW = np.einsum("bc,chw->bhw", response(domain), surface_CHW)
    size, pixels_CHW = surface_CHW.shape[1], np.empty_like(surface_CHW)
    haze_HW = domain.haze[0] * rng.uniform(0.7, 1.3) * np.exp(0.45 * _noise(rng, size, 120, 2.5))
    for c, band in enumerate(observed_bands(domain)):
        veil_HW, ratio = haze_HW * (band.wavelength_um / 0.55) ** -domain.haze[1], round((band.gsd_m or GSD_M) / GSD_M)
        band_HW = ndimage.gaussian_filter(surface_CHW[c] * (1 - veil_HW) + veil_HW, 0.3 * ratio, mode="nearest")
        band_HW = np.pad(band_HW, (0, -size % ratio), mode="edge")
        own = band_HW.reshape(len(band_HW) // ratio, ratio, -1, ratio).mean(axis=(1, 3))
        own += rng.standard_normal(own.shape) * (0.0012 + 0.006 * own)
        pixels_CHW[c] = ndimage.zoom(own, ratio, order=1, mode="nearest", grid_mode=True)[:size, :size]
    pixels_CHW = np.rint(pixels_CHW * 10_000).clip(1)
    swath_HW = np.add.outer(rng.uniform(0.15, 0.35) * np.arange(size), np.arange(size)[:: rng.choice((-1, 1))])
    pixels_CHW[:, swath_HW < rng.uniform(0.1, 0.25) * size] = 0  # beyond the edge of the swath
    for row, column, length in 16 * rng.integers((0, 0, 1), (size // 16, size // 16, 4), (3, 3)):
        pixels_CHW[:, row : row + 16, column : column + length] = 0  # lost blocks
    return pixels_CHW
