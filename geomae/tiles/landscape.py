"""A drawn landscape: Sentinel-2 scenes of two domains and their land cover, made on first use without a network.

Covers are laid out (river, parcels, woods, towns), each pixel becomes a mixture of spectra, and then light, haze and
sensor act on it, in that order. Axes: L class codes, K spectra, C bands, H W pixels.
"""

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from scipy import ndimage, spatial  # type: ignore[import-untyped]

from geomae.errors import CatalogError, StorageError
from geomae.files import cache_folder, digest, publish_dir, write_json, write_text
from geomae.randomness import generator
from geomae.rasters import write_cog

FORMAT = 1  # part of the cache key: raise it whenever the same arguments give other pixels
SENSOR = "sentinel-2-l2a"
BANDS = ("B01", "B02", "B03", "B04", "B05", "B06", "B07", "B08", "B8A", "B09", "B11", "B12")
CLASSES = {1: "water", 2: "forest", 3: "shrub", 4: "grass", 5: "crop", 6: "bare", 7: "built"}
GSD_M = 10.0

# fmt: off
_WAVELENGTH_UM = np.array([0.443, 0.492, 0.560, 0.665, 0.704, 0.741, 0.783, 0.833, 0.865, 0.945, 1.614, 2.202])
_RATIO = (6, 1, 1, 1, 2, 2, 2, 1, 2, 6, 2, 2)  # a band's own pixel over 10 m
_SPECTRA = {  # reflectance in the order of BANDS: typical values, set by hand
    "clear":     (.030, .032, .029, .015, .010, .007, .006, .005, .004, .004, .002, .001),
    "turbid":    (.055, .070, .105, .090, .075, .042, .038, .030, .026, .024, .007, .004),
    "broadleaf": (.018, .024, .046, .026, .078, .230, .295, .315, .330, .332, .160, .075),
    "needle":    (.012, .017, .030, .021, .048, .130, .160, .175, .190, .191, .085, .040),
    "leaf":      (.025, .032, .066, .031, .110, .335, .435, .460, .480, .478, .205, .100),
    "sward":     (.030, .041, .080, .058, .130, .265, .318, .345, .365, .366, .240, .145),
    "straw":     (.065, .088, .138, .188, .225, .252, .275, .300, .318, .325, .365, .255),
    "loam":      (.042, .056, .082, .116, .130, .142, .153, .164, .175, .181, .255, .222),
    "ochre":     (.062, .085, .145, .240, .272, .292, .308, .322, .334, .341, .430, .385),
    "sand":      (.145, .185, .255, .325, .348, .364, .378, .392, .402, .408, .485, .450),
    "concrete":  (.150, .172, .195, .212, .220, .226, .232, .240, .244, .246, .258, .240),
    "asphalt":   (.070, .078, .089, .099, .104, .109, .114, .120, .123, .126, .148, .140),
}
_GREEN = ("broadleaf", "needle", "leaf", "sward")
# Log reflectance per standard deviation of leaf pigments, and of water in leaf and soil.
_PIGMENT = np.array([-.02, -.06, -.20, -.14, -.22, -.06, .01, .02, .02, .01, -.02, -.03])
_MOISTURE = np.array([-.03, -.04, -.04, -.05, -.05, -.04, -.03, -.03, -.04, -.06, -.15, -.21])
_SPREAD_L4 = np.array([  # how far log shares stray by parcel, by place and by pixel; log brightness by pixel
    (0, 0, 0, 0), (0, .8, .05, .01), (0, 1.1, .25, .17), (0, .5, .6, .06), (.5, .5, .15, .04), (1.5, .3, .08, .02),
    (.7, .8, .1, .03), (0, .5, 1.1, .12),
])


@dataclass(frozen=True)
class Domain:
    """What sets a domain apart; shares are of area, lengths `_px` in pixels, angles in degrees."""

    name: str
    season: str
    epsg: int
    mixtures: tuple[Mapping[str, float], ...]  # spectrum -> share, per class code from 1
    wild: Mapping[int, float]  # class code -> share, from valley to hill
    fields: Mapping[int, float]
    farmed: float
    parcel_px: tuple[float, float, float]  # median width and length, and their log deviation
    pivots: float  # share of parcels that are watered by a turning arm, and so are round
    rows: float  # log contrast of rows and rings in a field
    border: str  # the spectrum along parcel borders
    river_px: tuple[float, float, float]  # half widths of bed and water, width of the wooded bank
    towns: int  # per 512 x 512 pixels
    relief_m: float
    sun: tuple[float, float]  # zenith, azimuth
    haze: tuple[float, float]  # reflectance added at 0.55 um, exponent of its fall with wavelength


DOMAINS = (
    Domain(
        name="lowland", season="summer", epsg=32632, farmed=.66, pivots=0, rows=.25, border="broadleaf", towns=7,
        mixtures=(
            {"clear": .5, "turbid": .5}, {"broadleaf": .65, "needle": .35}, {"needle": .35, "sward": .35, "straw": .3},
            {"sward": .85, "straw": .1, "loam": .05}, {"leaf": .58, "straw": .24, "loam": .18},
            {"loam": .88, "straw": .12}, {"concrete": .36, "ochre": .2, "asphalt": .22, "sward": .22}),
        wild={4: .12, 3: .14, 2: .74}, fields={4: .24, 5: .6, 6: .16}, parcel_px=(13, 24, .4), river_px=(6, 6, 2),
        relief_m=60, sun=(34, 150), haze=(.006, 3.2)),
    Domain(
        name="dryland", season="dry", epsg=32630, farmed=.42, pivots=.65, rows=.45, border="sand", towns=5,
        mixtures=(
            {"clear": .25, "turbid": .75}, {"broadleaf": .5, "needle": .46, "ochre": .04},
            {"ochre": .48, "needle": .34, "straw": .18}, {"straw": .58, "ochre": .32, "sward": .1},
            {"leaf": .5, "straw": .3, "ochre": .2}, {"ochre": .62, "sand": .38},
            {"concrete": .52, "sand": .24, "asphalt": .18, "needle": .06}),
        wild={3: .34, 2: .08, 4: .26, 6: .32}, fields={5: .56, 4: .08, 6: .36}, parcel_px=(44, 48, .1),
        river_px=(10, 5, 6), relief_m=75, sun=(52, 155), haze=(.016, 1.1)),
)
# fmt: on

Floats = NDArray[np.floating[Any]]
Draw = Callable[[str], np.random.Generator]  # purpose -> its own generator, for one scene


@dataclass(frozen=True)
class Ground:
    """What lies where: class code, parcel (0 where nothing is farmed), place across its rows, way to its border."""

    labels_HW: NDArray[np.intp]
    parcel_HW: NDArray[np.intp]
    across_px_HW: Floats
    border_px_HW: Floats
    height_m_HW: Floats


def landscape(*, seed: int = 0, size: int = 512, scenes: int = 2) -> Path:
    """Folder with `scenes` scenes of `size` x `size` pixels per domain; drawn on first use, then found in the cache.

    It holds `<domain>_<i>.tif` (uint16, reflectance x 10000, nodata 0), `labels/<domain>_<i>.tif` (uint8, CLASSES),
    `scenes.csv` and `classes.json`. Raises CatalogError for arguments out of range.
    """
    if seed < 0 or not 64 <= size <= 2048 or not 1 <= scenes <= 64:
        asked = f"seed {seed}, size {size}, scenes {scenes}"
        raise CatalogError(f"sample: cannot draw {asked}; give seed >= 0, size 64 to 2048 and scenes 1 to 64")
    folder = cache_folder() / "landscape" / digest({"format": FORMAT, "seed": seed, "size": size, "scenes": scenes})
    if folder.is_dir():
        return folder
    try:
        with publish_dir(folder) as unfinished:
            _write(unfinished, seed, size, scenes)
    except StorageError:
        if not folder.is_dir():  # else another process was first, with the same bytes
            raise
    return folder


def describe() -> dict[str, Any]:
    """The catalogue entry that reads a landscape; its paths are relative to the folder that `landscape` returns."""
    entry = {"path": "*.tif", "sensor": SENSOR, "bands": list(BANDS), "scale": 0.0001, "offset": 0, "nodata": 0}
    label = {"raster": "labels/{stem}.tif", "classes": dict(CLASSES)}
    table = {"path": "scenes.csv", "key": "scene"}
    return {**entry, "gsd_m": GSD_M, "table": table, "domain": {"column": "domain"}, "label": label}


def _write(folder: Path, seed: int, size: int, scenes: int) -> None:
    table = "scene,domain,season\n"
    for domain in DOMAINS:
        for index in range(scenes):
            stem = f"{domain.name}_{index}"
            table += f"{stem},{domain.name},{domain.season}\n"
            pixels_CHW, labels_HW = _scene(domain, size, partial(generator, seed, f"landscape {stem}"))
            transform = (GSD_M, 0.0, 300_000 + index * (size + 100) * GSD_M, 0.0, -GSD_M, 4_900_000.0)
            grid: dict[str, Any] = {
                "crs": f"EPSG:{domain.epsg}",
                "transform": transform,
                "nodata": 0,
                "overviews": False,
            }
            write_cog(folder / f"{stem}.tif", pixels_CHW, descriptions=BANDS, **grid)
            write_cog(folder / "labels" / f"{stem}.tif", labels_HW[None], descriptions=("class",), **grid)
    write_text(folder / "scenes.csv", table)
    write_json(folder / "classes.json", CLASSES)


def _scene(domain: Domain, size: int, draw: Draw) -> tuple[NDArray[np.uint16], NDArray[np.uint8]]:
    """One scene: stored pixels (C, H, W) and class codes (H, W), both 0 where the sensor saw nothing."""
    ground = _ground(domain, size, draw)
    pixels_CHW = _observe(domain, draw("sensor"), _reflectance(domain, draw, ground))
    return pixels_CHW.astype(np.uint16), np.where(pixels_CHW[0] > 0, ground.labels_HW, 0).astype(np.uint8)


def _noise(rng: np.random.Generator, size: int, scale_px: float, slope: float = 2.0) -> Floats:
    """Smooth field, mean 0 and deviation 1, whose amplitude falls as frequency^-slope below `scale_px` (von Karman)."""
    padded = size + max(size // 4, 16)  # the Fourier transform wraps around: its far side is cut off
    square = np.fft.fftfreq(padded)[:, None] ** 2 + np.fft.rfftfreq(padded) ** 2 + scale_px**-2
    wave = np.fft.rfft2(rng.standard_normal((padded, padded))) * square ** (-slope / 2)
    field_HW = np.fft.irfft2(wave, (padded, padded))[:size, :size]
    return np.asarray((field_HW - field_HW.mean()) / field_HW.std())


def _nearest(points_N2: Floats, size: int) -> tuple[Floats, NDArray[np.intp]]:
    """Per pixel the distance in pixels to the nearest point (row, column), and which one that is."""
    distance_HW, which_HW = spatial.cKDTree(points_N2).query(np.moveaxis(np.indices((size, size)), 0, -1))
    return distance_HW, which_HW


def _river(domain: Domain, size: int, rng: np.random.Generator) -> Floats:
    """Distance in pixels to the river's bank, negative in its bed: a sine-generated curve (Langbein & Leopold 1966)."""
    step = np.arange(10 * size) * 0.5
    phase, other, start = rng.uniform(0, 2 * np.pi, 3)
    bearing = start + (1.1 + 0.5 * np.sin(step / 61 + phase)) * np.sin(step / 19 + 1.3 * np.sin(step / 47 + other))
    course_N2 = np.cumsum(0.5 * np.stack([np.sin(bearing), np.cos(bearing)], -1), axis=0)
    course_N2 += rng.uniform(0.35, 0.65, 2) * size - course_N2[len(step) // 2]
    distance_HW, which_HW = _nearest(course_N2, size)
    return distance_HW - domain.river_px[0] * (1 + 0.3 * np.sin(step / 23 + other))[which_HW]


def _parcels(domain: Domain, size: int, rng: np.random.Generator) -> tuple[NDArray[np.intp], Floats, Floats]:
    """Per pixel: its parcel from 1 (0: none), the place across the rows, and the distance to the border, in pixels."""
    row_HW, column_HW = np.indices((size, size))
    _, parcel_HW = _nearest(rng.uniform(0, size, (2 + (size // 150) ** 2, 2)), size)  # districts, each turned otherwise
    angle_HW = (rng.uniform(0, np.pi) + rng.normal(0, 0.5, parcel_HW.max() + 1))[parcel_HW]
    cosine_HW, sine_HW = np.cos(angle_HW), np.sin(angle_HW)
    ways = (cosine_HW * column_HW + sine_HW * row_HW, cosine_HW * row_HW - sine_HW * column_HW)
    middles, halves = [], []
    for way_HW, length_px in zip(ways, domain.parcel_px, strict=False):
        lengths = rng.lognormal(np.log(length_px), domain.parcel_px[2], 8 + 6 * size // int(length_px))
        cuts = np.cumsum(lengths) - 2.2 * size
        place_HW = way_HW + rng.uniform(0, length_px, parcel_HW.max() + 1)[parcel_HW]  # strips do not line up
        cut_HW = np.searchsorted(cuts, place_HW).clip(1, len(cuts) - 1)
        halves.append(lengths[cut_HW] / 2)
        middles.append(place_HW - cuts[cut_HW] + halves[-1])
        parcel_HW = np.unique(parcel_HW * len(cuts) + cut_HW, return_inverse=True)[1].reshape(size, size)
    round_HW = (rng.random(parcel_HW.max() + 1) < domain.pivots)[parcel_HW]
    radius_HW = np.hypot(*middles)
    border_HW = np.minimum(*(np.array(halves) - np.abs(middles)))
    border_HW = np.where(round_HW, np.minimum(*halves) - radius_HW, border_HW)
    return np.where(border_HW < 0, 0, parcel_HW + 1), np.where(round_HW, radius_HW, ways[0]), border_HW


def _by_rank(value_HW: Floats, where_HW: NDArray[np.bool_], shares: Mapping[int, float]) -> NDArray[np.intp]:
    """Class codes dealt in order of `value_HW`, so that the pixels of `where_HW` meet the shares."""
    cuts = np.quantile(value_HW[where_HW], np.cumsum(list(shares.values()))[:-1])
    return np.array(list(shares))[np.searchsorted(cuts, value_HW)]


def _ground(domain: Domain, size: int, draw: Draw) -> Ground:
    """Lay the covers over each other: wild land, fields, wooded banks, towns, the river's bed, water."""
    rng, bank_HW = draw("cover"), _river(domain, size, draw("river"))
    # Folded noise has V-shaped valleys and round hills, as water leaves them; the flood plain is flat.
    rise_HW = np.abs(_noise(draw("relief"), size, 100, 2.6)) * (1 - np.exp(-bank_HW.clip(0) / 90))
    wobble_HW = _noise(rng, size, 12)
    parcel_HW, across_HW, border_HW = _parcels(domain, size, draw("parcels"))
    fit_HW = _noise(rng, size, 70) - 0.5 * rise_HW - 0.006 * bank_HW
    fit = np.bincount(parcel_HW.ravel(), fit_HW.ravel()) / np.bincount(parcel_HW.ravel()).clip(1)
    fit_HW = np.where(parcel_HW > 0, 0.35 * fit_HW + 0.65 * fit[parcel_HW], -np.inf)  # parcels are cleared whole
    farmed_HW = fit_HW > np.quantile(fit_HW, 1 - domain.farmed)
    fields_HW = _by_rank(rng.random(len(fit))[parcel_HW], farmed_HW, domain.fields)
    wild_HW = _by_rank(_noise(rng, size, 45, 1.8) + 0.8 * rise_HW, ~farmed_HW, domain.wild)
    labels_HW = np.where(farmed_HW, fields_HW, wild_HW)
    bed_px, water_px, wooded_px = domain.river_px
    labels_HW[bank_HW < wooded_px * (1 + wobble_HW)] = 2
    towns_N2 = rng.uniform(0.1, 0.9, (max(1, round(domain.towns * (size / 512) ** 2)), 2)) * size
    distance_HW, town_HW = _nearest(towns_N2, size)
    labels_HW[distance_HW < rng.uniform(14, 28, len(towns_N2))[town_HW] * (0.8 + 0.3 * wobble_HW)] = 7
    labels_HW[bank_HW < 0] = 6
    pond_HW = _noise(rng, size, 40, 3) - 0.5 * rise_HW
    labels_HW[(pond_HW > np.quantile(pond_HW, 0.993)) | (bank_HW < water_px - bed_px)] = 1
    parcel_HW = np.where(farmed_HW & (labels_HW == fields_HW), parcel_HW, 0)
    return Ground(labels_HW, parcel_HW, across_HW, border_HW, rise_HW * domain.relief_m)


def _mixture(domain: Domain, rng: np.random.Generator, ground: Ground) -> Floats:
    """Share of each spectrum in each pixel (K, H, W): the class's mixture, strayed from by parcel, place and pixel."""
    names, labels_HW, parcel_HW = list(_SPECTRA), ground.labels_HW, ground.parcel_HW
    share_LK = np.array([[0.0] * len(names), *([mix.get(name, 0.0) for name in names] for mix in domain.mixtures)])
    spread_4HW = np.moveaxis(_SPREAD_L4[labels_HW], -1, 0)
    period_px = rng.uniform(3, 7, parcel_HW.max() + 1)[parcel_HW]
    rows_HW = domain.rows * np.sin(2 * np.pi * ground.across_px_HW / period_px)
    mixture_KHW = np.zeros((len(names), *labels_HW.shape))
    for k in np.flatnonzero(share_LK.any(axis=0)):
        stray_HW = spread_4HW[0] * rng.standard_normal(parcel_HW.max() + 1)[parcel_HW] * (parcel_HW > 0)
        stray_HW += spread_4HW[1] * _noise(rng, len(labels_HW), 35)
        stray_HW += spread_4HW[2] * rng.standard_normal(labels_HW.shape) + rows_HW * (names[k] == "leaf")
        mixture_KHW[k] = share_LK[:, k][labels_HW] * np.exp(stray_HW)
    edge_HW = np.where(parcel_HW > 0, (0.8 - ground.border_px_HW).clip(0, 0.8), 0)
    mixture_KHW *= (1 - edge_HW) / mixture_KHW.sum(axis=0)
    mixture_KHW[names.index(domain.border)] += edge_HW
    return mixture_KHW


def _reflectance(domain: Domain, draw: Draw, ground: Ground) -> Floats:
    """Reflectance (C, H, W) under the sun: mixed spectra, their brightness, moisture and pigments, and light on slopes."""
    rng, size, land_HW = draw("reflectance"), len(ground.labels_HW), ground.labels_HW > 1
    mixture_KHW = _mixture(domain, draw("mixture"), ground)
    green_HW = mixture_KHW[[list(_SPECTRA).index(name) for name in _GREEN]].sum(axis=0)
    parcels = rng.standard_normal((3, ground.parcel_HW.max() + 1))
    bright_HW, wet_HW, pigment_HW = (0.7 * _noise(rng, size, 40) + 0.7 * one[ground.parcel_HW] for one in parcels)
    texture_HW = _noise(rng, size, 2.5, 1.5) + 0.6 * rng.standard_normal((size, size))
    log_CHW = _MOISTURE[:, None, None] * (wet_HW * land_HW) + _PIGMENT[:, None, None] * (pigment_HW * green_HW)
    log_CHW += 0.06 * bright_HW + _SPREAD_L4[ground.labels_HW, 3] * texture_HW
    down_HW, right_HW = np.gradient(ndimage.gaussian_filter(ground.height_m_HW, 1), GSD_M)
    zenith, azimuth = np.radians(domain.sun)
    facing_HW = 1 + np.tan(zenith) * (np.cos(azimuth) * down_HW - np.sin(azimuth) * right_HW)
    light_HW = 0.2 + 0.8 * (facing_HW / np.sqrt(1 + down_HW**2 + right_HW**2)).clip(0.1, 1.5)  # a fifth is from the sky
    mixed_CHW = np.einsum("kc,khw->chw", np.array(list(_SPECTRA.values())), mixture_KHW)
    return np.asarray(mixed_CHW * np.exp(log_CHW) * np.where(land_HW, light_HW, 1))


def _observe(domain: Domain, rng: np.random.Generator, surface_CHW: Floats) -> Floats:
    """What is stored: haze, blur, the pixel of each band, noise; reflectance x 10000, and 0 only where nothing was seen."""
    size, pixels_CHW = surface_CHW.shape[1], np.empty_like(surface_CHW)
    haze_HW = domain.haze[0] * rng.uniform(0.7, 1.3) * np.exp(0.45 * _noise(rng, size, 120, 2.5))
    for c, (wavelength_um, ratio) in enumerate(zip(_WAVELENGTH_UM, _RATIO, strict=True)):
        veil_HW = haze_HW * (wavelength_um / 0.55) ** -domain.haze[1]
        band_HW = ndimage.gaussian_filter(surface_CHW[c] * (1 - veil_HW) + veil_HW, 0.3 * ratio, mode="nearest")
        band_HW = np.pad(band_HW, (0, -size % ratio), mode="edge")
        own = band_HW.reshape(len(band_HW) // ratio, ratio, -1, ratio).mean(axis=(1, 3))
        own += rng.standard_normal(own.shape) * (0.0012 + 0.006 * own)
        pixels_CHW[c] = ndimage.zoom(own, ratio, order=1, mode="nearest", grid_mode=True)[:size, :size]
    pixels_CHW = np.rint(pixels_CHW * 10_000).clip(1, 65_535)
    row_HW, column_HW = np.indices((size, size)) / size
    side_HW = column_HW if rng.random() < 0.5 else 1 - column_HW
    pixels_CHW[:, side_HW + row_HW * rng.uniform(0.15, 0.35) < rng.uniform(0.1, 0.25)] = 0  # beyond the swath
    for row, column, length in 16 * rng.integers((0, 0, 1), (size // 16, size // 16, 4), (3, 3)):
        pixels_CHW[:, row : row + 16, column : column + length] = 0  # lost blocks
    return pixels_CHW
