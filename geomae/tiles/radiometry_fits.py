"""Fits of radiometry without labels: by histograms, on pixels that did not change, or by wavelengths.

C bands of the target, D bands of the source, T tiles, P pixels of the ground that both show, B bins, Q quantiles
"""

from collections.abc import Callable, Mapping
from dataclasses import replace

import numpy as np
from numpy.linalg import cholesky, inv, svd
from scipy.stats import chi2  # type: ignore[import-untyped]

from geomae.errors import BandMismatchError, ConfigError, nearest
from geomae.randomness import generator
from geomae.rasters import Window
from geomae.sensors import Band, match_bands
from geomae.sensors.record import SensorRecord, same_sensor
from geomae.tiles.ground import starts
from geomae.tiles.places import GSD_TOLERANCE, Partner, find_partners
from geomae.tiles.radiometry import ADJUSTMENT, INVARIANT, QUANTILES, Floats, Radiometry
from geomae.tiles.reader import TileReader
from geomae.tiles.selection import Selection

MOST_TILES = 2000  # tiles whose pixels enter a histogram
BINS = 2**16  # bins of a histogram between the smallest and the largest value
LEVELS = np.linspace(0.005, 0.995, 100)  # beyond these, quantiles rest on a few pixels
MOST_PIXELS = 50_000  # of the ground that both show
FEWEST_PIXELS, FEWEST_SHARE = 100, 0.005  # unchanged pixels, of which one in twenty passes UNCHANGED
UNCHANGED = 0.95  # probability from which on a pixel counts as unchanged (Canty & Nielsen 2008)
FEWEST_BINS = 3  # over which the quantiles of a band should extend: a curve through fewer is nearly vertical
MOST_ROUNDS = 50
SETTLED = 1e-4  # change of a canonical correlation
RIDGE = 1e-9  # of the variance of a band, so that covariances of redundant bands can be inverted
ABSORBED = ("nir09", "cirrus")  # bands in atmospheric absorption: not used to interpolate others
POINTS = 101  # wavelengths over which the mean of a band is computed


def fit_radiometry(method: str, source: Selection, target: Selection, seed: int) -> Radiometry:
    """The map from the target's pixels to the source's; bands of both are in one order (see `share_bands`).

    Raises ConfigError for an unknown method, and where the tiles do not suffice for it.
    """
    if method not in FITS:
        raise ConfigError(f"radiometry {method!r}: {nearest(method, FITS)}")
    return FITS[method](source, target, seed)


def reason_against(method: str, source: Selection, target: Selection) -> str | None:
    """Why a method cannot be fitted to these tiles; None where it can."""
    if method != ADJUSTMENT and not _one_order(source.imagery, target.imagery):
        return f"the bands of {source.name} and {target.name} are not the same"
    if method == INVARIANT and not same_ground(source, target):
        return f"no tile of {target.name} shows the ground of a tile of {source.name}"
    if method == ADJUSTMENT and (_adjustment(source, target)[1] == 1).any(1).all():
        return f"{source.name} and {target.name} have bands of the same wavelengths"
    return None


def mapped(selected: Selection, radiometry: Radiometry) -> Selection:
    """The selection, read through the map, so that its pixels have the bands and units of the source.

    Raises BandMismatchError where it lacks a band that the map uses.
    """
    stored = {band.name for band in selected.index.source.bands}
    missing = [name for name in radiometry.taken if name not in stored]
    if missing:
        raise BandMismatchError(
            f"{selected.name}: has no band {', '.join(missing)}, which the radiometry fitted to {radiometry.target} "
            "uses; fit one to these tiles"
        )
    imagery = replace(radiometry.imagery, gsd_m=selected.imagery.gsd_m)
    return replace(selected, index=replace(selected.index, radiometry=radiometry), imagery=imagery)


def match_quantiles(source: Selection, target: Selection, seed: int) -> Radiometry:
    """A curve for each band that maps the quantiles of the target to those of the source (histogram matching)."""
    value_DQ, _ = _quantiles(source, "source", seed)
    knot_DQ, width_D = _quantiles(target, "target", seed)
    flat_D = (np.diff(knot_DQ) <= 0).any(1) | (np.ptp(knot_DQ, axis=1) < FEWEST_BINS * width_D)
    flat = [source.imagery.bands[band].name for band in np.flatnonzero(flat_D)]
    if flat:
        raise ConfigError(f"{QUANTILES}: {', '.join(flat)} of {target.name} has too few different values; leave it out")
    taken = tuple(band.name for band in target.imagery.bands)
    about = f"{len(LEVELS)} quantiles of {len(target.index)} and of {len(source.index)} tiles"
    return Radiometry(
        QUANTILES, source.name, target.name, taken, source.imagery, np.eye(len(taken)), np.zeros(len(taken)),
        knot_DQ, value_DQ, about,
    )  # fmt: skip


def match_invariant_pixels(source: Selection, target: Selection, seed: int) -> Radiometry:
    """A gain and an offset for each band, from pixels that did not change between both (Canty & Nielsen 2008).

    Unchanged pixels are found by iteratively reweighted multivariate alteration detection (IR-MAD), and a line is
    fitted to them by orthogonal regression. Raises ConfigError where the two share no ground, where
    a band has a single value there, and where too few pixels are unchanged.
    """
    reason = reason_against(INVARIANT, source, target)
    if reason is not None:
        raise ConfigError(f"{INVARIANT}: {reason}; use {QUANTILES}, which needs no common ground")
    there_PC, here_PC = _pixels_of_both(source, target, seed)
    _check_spread(source, there_PC)
    _check_spread(target, here_PC)
    enough = max(FEWEST_PIXELS, FEWEST_SHARE * len(here_PC))
    kept_P = unchanged_probability(there_PC, here_PC) > UNCHANGED if len(here_PC) >= enough else np.zeros(0, bool)
    if kept_P.sum() < enough:
        raise ConfigError(
            f"{INVARIANT}: of {len(here_PC)} pixels that {source.name} and {target.name} both show {kept_P.sum()} did "
            f"not change, fewer than {enough:.0f}; use {QUANTILES}"
        )
    lines = [orthogonal_line(here, there) for here, there in zip(here_PC[kept_P].T, there_PC[kept_P].T, strict=True)]
    gain_D, offset_D = np.array(lines).T
    none = np.zeros((len(gain_D), 0))
    taken = tuple(band.name for band in target.imagery.bands)
    about = f"{kept_P.sum()} of {len(here_PC)} pixels that both show did not change"
    return Radiometry(
        INVARIANT, source.name, target.name, taken, source.imagery, np.diag(gain_D), offset_D, none, none, about
    )


def adjust_bands(source: Selection, target: Selection, seed: int) -> Radiometry:
    """Each band of the source from the target's spectrum, interpolated linearly between the centres of its bands.

    A band is the mean of that spectrum over the band's width; a band that the target has, too, is used unchanged. The
    fit depends on wavelengths only: it reads no pixels and draws no random numbers.
    """
    taken, weight_DC = _adjustment(source, target)
    none = np.zeros((len(weight_DC), 0))
    about = f"wavelengths of {len(taken)} bands"
    return Radiometry(
        ADJUSTMENT, source.name, target.name, taken, source.imagery, weight_DC, np.zeros(len(weight_DC)), none, none,
        about,
    )  # fmt: skip


FITS: Mapping[str, Callable[[Selection, Selection, int], Radiometry]] = {
    QUANTILES: match_quantiles,
    INVARIANT: match_invariant_pixels,
    ADJUSTMENT: adjust_bands,
}


def _quantiles(selected: Selection, role: str, seed: int) -> tuple[Floats, Floats]:
    """Quantiles of the valid pixels by band (D, Q), and the widths of the bins (D,) that were filled tile by tile."""
    index = selected.index
    if len(index) > MOST_TILES:
        drawn = generator(seed, "quantiles", role).choice(len(index), MOST_TILES, replace=False)
        index = index.take(np.sort(drawn))
    names = [band.name for band in selected.imagery.bands]
    known = index.statistics()
    order = [known.bands.index(name) for name in names]
    low_D, high_D = known.min_C[order], known.max_C[order]
    empty = [name for name, place in zip(names, order, strict=True) if known.count_C[place] == 0]
    if empty:
        raise ConfigError(f"{QUANTILES}: {', '.join(empty)} of {selected.name} has no valid pixel; choose other tiles")
    reader, count_DB = TileReader(index, 0, names), np.zeros((len(names), BINS), dtype=np.int64)
    for position in range(len(reader)):
        pixels_CHW, valid_CHW = reader.read(position)
        for band, (values_HW, valid_HW) in enumerate(zip(pixels_CHW, valid_CHW, strict=True)):
            count_DB[band] += np.histogram(values_HW[valid_HW], BINS, (low_D[band], high_D[band]))[0]
    edges_DB = low_D[:, None] + (high_D - low_D)[:, None] * np.linspace(0, 1, BINS + 1)
    share_DB = np.pad(np.cumsum(count_DB, axis=1), ((0, 0), (1, 0))) / count_DB.sum(1, keepdims=True)
    found_DQ = np.array([_inverse(share_B, edges_B) for share_B, edges_B in zip(share_DB, edges_DB, strict=True)])
    return found_DQ, (high_D - low_D) / BINS


def _inverse(share_B: Floats, edges_B: Floats) -> Floats:
    """The quantiles at LEVELS of a distribution that is linear within bins; empty bins are skipped."""
    rising = np.concatenate([[True], np.diff(share_B) > 0])
    return np.asarray(np.interp(LEVELS, share_B[rising], edges_B[rising]))


def same_ground(source: Selection, target: Selection) -> list[tuple[int, Partner]]:
    """Tiles of the target (positions), each with a window of the source on the same ground with equal pixel size."""
    partners = find_partners([target.index, source.index])
    pairs = []
    for tile in partners.with_partner(0, 1).tolist():
        like = [one for one in partners.of(0, tile) if one.dataset == 1 and abs(one.zoom - 1) < GSD_TOLERANCE]
        pairs += [(tile, one) for one in like[:1]]
    return pairs


def _pixels_of_both(source: Selection, target: Selection, seed: int) -> tuple[Floats, Floats]:
    """Pixels (P, D) of the source and of the target at the same positions, valid in every band of both."""
    pairs = same_ground(source, target)
    each = max(1, MOST_PIXELS // len(pairs))
    there, here = (TileReader(one.index, 0, [band.name for band in one.imagery.bands]) for one in (source, target))
    drawn: tuple[list[Floats], list[Floats]] = ([], [])
    for tile, partner in pairs[:MOST_PIXELS]:
        side = here.side_T[[tile]]
        row, col = (int(starts(np.array([centre]), side)[0]) for centre in (partner.row, partner.col))
        both = there.window(partner.scene, Window(row, col, int(side[0]), int(side[0]))), here.read(tile)
        usable = np.flatnonzero(np.all([valid_CHW.all(0) for _, valid_CHW in both], axis=0))
        rng = generator(seed, "invariant pixels", tile)
        chosen = rng.choice(usable, min(each, len(usable)), replace=False)
        for rows, (pixels_CHW, _) in zip(drawn, both, strict=True):
            rows.append(pixels_CHW.reshape(len(pixels_CHW), -1)[:, chosen].T.astype(np.float64))
    return np.concatenate(drawn[0]), np.concatenate(drawn[1])


def _check_spread(selected: Selection, pixels_PC: Floats) -> None:
    """Raise ConfigError for bands with a single value, whose covariances cannot be inverted."""
    flat = [] if not len(pixels_PC) else np.flatnonzero(pixels_PC.min(0) == pixels_PC.max(0)).tolist()
    if flat:
        names = ", ".join(selected.imagery.bands[band].name for band in flat)
        raise ConfigError(
            f"{INVARIANT}: {names} of {selected.name} has a single value where both show the ground; leave it out"
        )


def unchanged_probability(first_PC: Floats, second_PC: Floats) -> Floats:
    """The probability (P) that each pixel did not change between two dates, by IR-MAD (Nielsen 2007).

    Differences of canonical variates are invariant to gains and offsets. Without change, the sum of their squares over
    their variances follows a chi-squared distribution; its upper tail is the weight of a pixel in the next iteration.
    """
    bands = first_PC.shape[1]
    weight_P, before_C = np.ones(len(first_PC)), np.zeros(bands)
    for _ in range(MOST_ROUNDS):
        both_PC = np.concatenate([first_PC, second_PC], axis=1)
        centred_PC = both_PC - np.average(both_PC, axis=0, weights=weight_P)
        cov = (centred_PC * weight_P[:, None]).T @ centred_PC / weight_P.sum()
        cov += np.diag(RIDGE * np.diag(cov))
        root_first, root_second = (inv(cholesky(part)) for part in (cov[:bands, :bands], cov[bands:, bands:]))
        left, rho_C, right = svd(root_first @ cov[:bands, bands:] @ root_second.T)
        differs_PC = centred_PC[:, :bands] @ root_first.T @ left - centred_PC[:, bands:] @ root_second.T @ right.T
        weight_P = chi2.sf((differs_PC**2 / np.maximum(2 * (1 - rho_C), RIDGE)).sum(1), bands)
        if np.abs(rho_C - before_C).max() < SETTLED:
            break
        before_C = rho_C
    return np.asarray(weight_P)


def orthogonal_line(x_P: Floats, y_P: Floats) -> tuple[float, float]:
    """Gain and offset of the line with the smallest squared distances to the points (orthogonal regression)."""
    (vx, cxy), (_, vy) = np.cov(x_P, y_P)
    gain = (vy - vx + np.sqrt((vy - vx) ** 2 + 4 * cxy**2)) / (2 * cxy)
    return float(gain), float(y_P.mean() - gain * x_P.mean())


def _one_order(source: SensorRecord, target: SensorRecord) -> bool:
    matched = match_bands(source.bands, target.bands, same_sensor(source, target))
    return matched == tuple(range(len(target.bands)))


def _adjustment(source: Selection, target: Selection) -> tuple[tuple[str, ...], Floats]:
    """Names of the bands of the target that are used, and their weights (D, C)."""
    optical = [band for band in target.index.source.bands if band.polarisation is None]
    matched = [band.name for band in target.imagery.bands]
    known = [band for band in optical if band.common_name not in ABSORBED or band.name in matched]
    known.sort(key=lambda band: band.wavelength_um)
    weight_DC = np.array([spectral_weights(band, known) for band in source.imagery.bands])
    used = np.flatnonzero((weight_DC > 0).any(0))
    return tuple(known[place].name for place in used), weight_DC[:, used]


def spectral_weights(wanted: Band, known: list[Band]) -> Floats:
    """Weights (C) of the bands `known`, sorted by wavelength, whose weighted sum predicts the band `wanted`."""
    for place, band in enumerate(known):
        if (band.wavelength_um, band.fwhm_um) == (wanted.wavelength_um, wanted.fwhm_um):
            return np.asarray(np.eye(len(known))[place])
    half = wanted.fwhm_um / 2
    spread = np.linspace(wanted.wavelength_um - half, wanted.wavelength_um + half, POINTS)
    centres = [band.wavelength_um for band in known]
    shares = [float(np.interp(spread, centres, unit_C).mean()) for unit_C in np.eye(len(known))]
    return np.array(shares)
