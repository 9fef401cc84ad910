"""The usual baseline in remote sensing: a random forest on statistics of tiles, or on the spectra of pixels.

T tiles, P tiles of the training side, N rows to train on, C bands, H W pixels of a tile, D statistics
"""

import warnings
from collections.abc import Callable, Iterator, Sequence
from itertools import combinations
from typing import Any

import numpy as np
from numpy.typing import NDArray
from sklearn.ensemble import RandomForestClassifier, RandomForestRegressor

from geomae.evaluation.folds import codes_of
from geomae.evaluation.linear_probe import MOST_PATCHES
from geomae.evaluation.probe_predictions import (
    DRAWS,
    PredictionKey,
    Predictions,
    draw_labelled_tiles,
    shots_of_plans,
)
from geomae.evaluation.probe_task import REGRESSION, SEGMENTATION, LabelledSelection, ProbeTask, class_codes
from geomae.metrics.predictions import UNKNOWN, Codes, Floats
from geomae.randomness import generator, key
from geomae.tiles.reader import TileReader

FOREST = "forest"
TREES = 100
QUANTILES = (0.05, 0.25, 0.5, 0.75, 0.95)


def tile_statistics(pixels_TCHW: NDArray[np.floating]) -> Floats:
    """Statistics (T, D) of the pixels of tiles that are not NaN; NaN where a band has no such pixel.

    For each band mean, standard deviation, quantiles and mean absolute difference of neighbours down and across; for
    each pair of bands the normalised difference of their means (as in vegetation indices) and their correlation.
    """
    pixels_TCHW = pixels_TCHW.astype(np.float64)
    # Without gaps, the plain functions give the same values in half the time.
    gaps = bool(np.isnan(pixels_TCHW).any())
    mean: Callable[..., Any] = np.nanmean if gaps else np.mean
    std: Callable[..., Any] = np.nanstd if gaps else np.std
    quantile: Callable[..., Any] = np.nanquantile if gaps else np.quantile
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", RuntimeWarning)  # tiles without a valid pixel in a band give NaN
        mean_TC, spread_TC = mean(pixels_TCHW, (2, 3)), std(pixels_TCHW, (2, 3))
        statistics = [mean_TC, spread_TC, *quantile(pixels_TCHW, QUANTILES, axis=(2, 3))]
        statistics += [mean(np.abs(np.diff(pixels_TCHW, axis=axis)), (2, 3)) for axis in (2, 3)]
        away_TCHW = pixels_TCHW - mean_TC[..., None, None]
        for one, other in combinations(range(pixels_TCHW.shape[1]), 2):
            first_T, second_T = mean_TC[:, one], mean_TC[:, other]
            shared_T = mean(away_TCHW[:, one] * away_TCHW[:, other], (1, 2))
            index_T = _share(first_T - second_T, np.abs(first_T) + np.abs(second_T))
            statistics.append(np.stack([index_T, _share(shared_T, spread_TC[:, one] * spread_TC[:, other])], axis=1))
    return np.concatenate(statistics, axis=1)


def predict_forest(task: ProbeTask) -> Predictions:
    """Predictions of a forest for the tests of a probe, from the pixels of its training tiles, without an encoder.

    Trees are grown on the training tiles only; no setting is tuned. All selections have the same bands.
    """
    return _segment(task) if task.settings.task == SEGMENTATION else _of_tiles(task)


def _of_tiles(task: ProbeTask) -> Predictions:
    settings, predictions = task.settings, Predictions()
    train_PD = np.concatenate([_statistics(part) for part in task.pool])
    label_P = np.concatenate([class_codes(part, task.names) for part in task.pool])
    group_P, _ = codes_of([unit for part in task.pool for unit in part.unit_T])
    tests = {test.name: _statistics(test) for test in task.tests}
    for plan in task.plans:
        draws: list[tuple[int | None, int, Codes]] = [(None, 0, plan.train)]
        if settings.task != REGRESSION:
            for shots in shots_of_plans(label_P, task.plans, settings.shots):
                for draw in range(DRAWS):
                    parts = (label_P[plan.train], group_P[plan.train], shots, settings.seed, draw)
                    draws.append((shots, draw, plan.train[draw_labelled_tiles(*parts)]))
        for drawn_shots, draw, rows in draws:
            forest = grow_forest(train_PD[rows], label_P[rows], settings.seed, settings.task)
            for test, places in plan.tests.items():
                if len(places):
                    values = forest.predict(tests[test][places])
                    predictions.put(PredictionKey(test, FOREST, drawn_shots), draw, len(tests[test]), places, values)
    return predictions


def _segment(task: ProbeTask) -> Predictions:
    predictions, settings = Predictions(), task.settings
    label_P = [codes for part in task.pool for codes in class_codes(part, task.names)]
    spectra_P = [spectra for part in task.pool for spectra in _spectra(part)]
    for plan in task.plans:
        spectra_ND = np.concatenate([spectra_P[place] for place in plan.train])
        label_N = np.concatenate([label_P[place].ravel() for place in plan.train])
        known = np.flatnonzero((label_N != UNKNOWN) & ~np.isnan(spectra_ND).all(1))
        if len(known) > MOST_PATCHES:
            known = np.sort(generator(settings.seed, "forest pixels").choice(known, MOST_PATCHES, replace=False))
        forest = grow_forest(spectra_ND[known], label_N[known], settings.seed, SEGMENTATION)
        for test in task.tests:
            places = plan.tests[test.name]
            for place, spectra in zip(places, _spectra(test, places), strict=True):
                side = test.pixels_THW.shape[1:] if test.pixels_THW is not None else ()
                codes_1HW = forest.predict(spectra).astype(np.int16).reshape(1, *side)
                predictions.put(PredictionKey(test.name, FOREST), 0, len(test), np.array([place]), codes_1HW)
    return predictions


def grow_forest(
    rows_ND: NDArray[np.floating], label_N: NDArray[np.generic], seed: int, task: str
) -> RandomForestClassifier | RandomForestRegressor:
    """A forest of class codes or numbers. Classes of tiles are balanced, pixels are not, as in the linear probes."""
    settings = {"n_estimators": TREES, "random_state": key(seed, "forest") % 2**32, "n_jobs": 1}
    if task == REGRESSION:
        return RandomForestRegressor(**settings).fit(rows_ND, label_N)
    weight = None if task == SEGMENTATION else "balanced"
    return RandomForestClassifier(class_weight=weight, **settings).fit(rows_ND, label_N)


def _statistics(part: LabelledSelection) -> Floats:
    """Statistics (T, D) of the tiles of a selection."""
    return np.concatenate([tile_statistics(pixels_1CHW[None]) for pixels_1CHW in _pixels(part, range(len(part)))])


def _spectra(part: LabelledSelection, places: Sequence[int] | Codes | None = None) -> Iterator[NDArray[np.float32]]:
    """The spectra (H * W, C) of the pixels of each tile."""
    for pixels_CHW in _pixels(part, range(len(part)) if places is None else places):
        yield pixels_CHW.reshape(len(pixels_CHW), -1).T


def _pixels(part: LabelledSelection, places: Sequence[int] | Codes) -> Iterator[NDArray[np.float32]]:
    """Tiles (C, H, W) in physical units, NaN where they are invalid."""
    reader = TileReader(part.index, 0, [band.name for band in part.selected.imagery.bands])
    for place in places:
        pixels_CHW, valid_CHW = reader.read(int(place))
        yield np.where(valid_CHW, pixels_CHW, np.float32(np.nan))


def _share(part_T: Floats, whole_T: Floats) -> Floats:
    """The ratio of two arrays; 0 where the denominator is 0."""
    return np.asarray(np.divide(part_T, whole_T, out=np.zeros_like(part_T), where=whole_T != 0))
