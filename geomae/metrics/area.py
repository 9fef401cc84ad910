"""Design-based estimates of a map's accuracy and class areas from a stratified random sample of reference points.

N points, S strata, K classes. The strata are the map's classes (Olofsson et al. 2014) or any other parts of the map
(Stehman 2014); the estimators of the first are a special case of the second. There is no finite population correction,
since the points are few compared with the pixels of a stratum.
"""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from scipy.spatial import cKDTree  # type: ignore[import-untyped]

from geomae.metrics.predictions import Codes, Floats
from geomae.randomness import generator

NORMAL_95 = 1.96
FEWEST_POINTS = 30  # of a stratum, without a note; with fewer, the normal approximation of intervals is poor
ROUNDING = 1e-9  # relative standard error up to which it is 0 but for rounding
DRAWS = 20_000  # random samples to which the points of each class are compared
NOT_ESTIMABLE, NO_VARIATION = "not estimable: ", "no variation among"


@dataclass(frozen=True)
class Estimates:
    """Estimates (X) and their standard errors (X); NaN where unknown."""

    value_X: Floats
    error_X: Floats

    def interval(self, place: int, most: float = np.inf) -> tuple[float, float] | None:
        """Return the 95 % confidence interval of the estimate at index `place`, clipped to 0 and `most`.

        None where it is unknown, and where the standard error is 0: points without variation prove nothing.
        """
        value, error = float(self.value_X[place]), float(self.error_X[place])
        if not (np.isfinite(value) and np.isfinite(error) and error > ROUNDING * abs(value)):
            return None
        return max(0.0, value - NORMAL_95 * error), min(most, value + NORMAL_95 * error)

    def no_interval(self, place: int, points: int) -> str:
        """Return why the estimate at index `place`, which rests on `points` points, has no interval; else ""."""
        if self.interval(place) is not None:
            return ""
        if points == 0:
            return f"{NOT_ESTIMABLE}no point"
        if not np.isfinite(self.error_X[place]):
            return f"{NOT_ESTIMABLE}a stratum has one point"
        return f"{NOT_ESTIMABLE}{NO_VARIATION} {points} point{'s' if points > 1 else ''}"


@dataclass(frozen=True)
class SampleEstimate:
    """Accuracies of a map as fractions of its area, and class areas in the unit of the strata's areas.

    `overall` holds one estimate; user's and producer's accuracies and areas hold one per class. `points_K` counts the
    points of each reference class, and `mapped_K` those of each class of the map. The error matrix has a row per class
    of the map and a column per reference class: `matrix_KK` counts points, and `share_KK` estimates shares of the area
    of the sampled strata, which sum to 1. `count_S` and `weight_S` are the points and the area share of each stratum,
    0 without points. `notes` name the strata with too few
    points and the areas without an interval; strata without points are left out.
    """

    overall: Estimates
    users_K: Estimates
    producers_K: Estimates
    area_K: Estimates
    points_K: Codes
    mapped_K: Codes
    matrix_KK: Codes
    share_KK: Floats
    count_S: Codes
    weight_S: Floats
    notes: tuple[str, ...]

    def no_area_interval(self, place: int) -> str:
        """Return why the area of the class at index `place` has no interval; "" where it has one."""
        return self.area_K.no_interval(place, int(max(self.points_K[place], self.mapped_K[place])))

    def without_interval(self, names: Sequence[str]) -> str | None:
        """Return a sentence that lists the classes (`names`) whose area has no interval for lack of variation."""
        each = [(name, self.no_area_interval(place)) for place, name in enumerate(names)]
        listed = [f"{name} ({why.removeprefix(NOT_ESTIMABLE)})" for name, why in each if NO_VARIATION in why]
        if not listed:
            return None
        return (
            f"The area of {', '.join(listed)} has no interval: where no reference point disagrees with the map, the "
            "error cannot be estimated; it is not zero"
        )


def estimate_from_sample(
    stratum_N: Codes,
    map_N: Codes,
    reference_N: Codes,
    area_S: Floats,
    classes: int,
    strata: Sequence[str],
) -> SampleEstimate:
    """Estimate accuracies and class areas from points drawn at random within strata of known area (`area_S`).

    `stratum_N`, `map_N` and `reference_N` are the codes of each point's stratum, mapped class and reference class;
    `strata` names the strata. Where these are the map's classes, `stratum_N` equals `map_N`, and this is the estimator
    of Olofsson et al. (2014).
    """
    count_S = np.bincount(stratum_N, minlength=len(area_S))
    sampled_S = count_S > 0
    total = float(area_S[sampled_S].sum())
    weight_S = np.where(sampled_S, area_S, 0) / total
    each_KN = np.arange(classes)[:, None]
    mapped_KN, true_KN = (each_KN == map_N).astype(float), (each_KN == reference_N).astype(float)
    right_KN, everywhere_KN = mapped_KN * true_KN, np.ones((classes, len(map_N)))
    design: tuple[Codes, Codes, Floats] = (stratum_N, count_S, weight_S)
    share_K = _ratio(true_KN, everywhere_KN, *design)
    cell_N, weight_N = map_N * classes + reference_N, weight_S[stratum_N] / count_S[stratum_N]
    return SampleEstimate(
        _ratio(right_KN.sum(0, keepdims=True), everywhere_KN[:1], *design),
        _ratio(right_KN, mapped_KN, *design),
        _ratio(right_KN, true_KN, *design),
        Estimates(share_K.value_X * total, share_K.error_X * total),
        np.bincount(reference_N, minlength=classes),
        np.bincount(map_N, minlength=classes),
        np.bincount(cell_N, minlength=classes**2).reshape(classes, classes),
        np.bincount(cell_N, weight_N, minlength=classes**2).reshape(classes, classes).astype(np.float64),
        count_S,
        weight_S,
        tuple(_notes(count_S, area_S, strata)),
    )


def _ratio(part_XN: Floats, whole_XN: Floats, stratum_N: Codes, count_S: Codes, weight_S: Floats) -> Estimates:
    """Ratio estimates (X) of two totals and their standard errors (Stehman 2014, equations 27 and 28).

    Within a stratum, the variance is that of the residual `part - ratio * whole`.
    """
    weight_N = weight_S[stratum_N] / count_S[stratum_N]
    whole_X = whole_XN @ weight_N
    there_X = whole_X > 0
    ratio_X = np.divide(part_XN @ weight_N, whole_X, out=np.full(len(whole_X), np.nan), where=there_X)
    left_XN = part_XN - np.where(there_X, ratio_X, 0)[:, None] * whole_XN
    variance_X = np.zeros(len(whole_X))
    for stratum in np.flatnonzero(count_S):
        here_XN, count = left_XN[:, stratum_N == stratum], int(count_S[stratum])
        spread_X = here_XN.var(1, ddof=1) if count > 1 else np.full(len(whole_X), np.nan)
        variance_X += weight_S[stratum] ** 2 * spread_X / count
    error_X = np.divide(np.sqrt(variance_X), whole_X, out=np.full(len(whole_X), np.nan), where=there_X)
    return Estimates(ratio_X, error_X)


def _notes(count_S: Codes, area_S: Floats, strata: Sequence[str]) -> list[str]:
    notes = []
    for name, count, area in zip(strata, count_S.tolist(), area_S.tolist(), strict=True):
        if count == 0 and area > 0:
            share = area / area_S.sum()
            notes.append(
                f"No reference point lies in stratum {name} ({share:.1%} of the area of the map), so accuracies "
                "and hectares, also those of a class of this name, are of the other strata alone"
            )
        if count == 1:
            notes.append(f"One reference point lies in stratum {name}, so intervals are unknown; add at least one more")
    counted = zip(strata, count_S.tolist(), strict=True)
    few = [f"{name} ({count})" for name, count in counted if 1 < count < FEWEST_POINTS]
    if few:
        notes.append(
            f"Fewer than {FEWEST_POINTS} reference points in strata: {', '.join(few)}; intervals that rest on them are "
            "unreliable, mostly too narrow (Olofsson et al. 2014 give 50 to 100 points to a rare class)"
        )
    return notes


def chance_of_allocation(count_K: Codes, share_K: Floats) -> float:
    """Return the probability that random points differ from the area shares by as much as the counts (K) do.

    The difference is Pearson's chi-square, and its distribution that of DRAWS random samples, since the expected number
    of points is small for a rare class.
    """
    points, there_K = int(count_K.sum()), share_K > 0
    share_k, count_k = share_K[there_K] / share_K[there_K].sum(), count_K[there_K]
    drawn_Dk = generator(0, "allocation of reference points").multinomial(points, share_k, size=DRAWS)
    statistic_D = ((drawn_Dk - points * share_k) ** 2 / share_k).sum(1)
    observed = float(((count_k - points * share_k) ** 2 / share_k).sum())
    return float((1 + (statistic_D >= observed * (1 - ROUNDING)).sum()) / (1 + DRAWS))


def nearness(points_N2: Floats, region_N: Codes, pixels_R: Codes) -> float | None:
    """Return the mean distance to the nearest point of the same region, relative to that of random points.

    `points_N2` are in pixels, and `pixels_R` are the sizes of the regions in pixels. Random points have 1 (Clark and
    Evans 1954), or more if the region is in pieces or the points are few, and a grid has 2. None without two points in
    one region.
    """
    ratio: list[float] = []
    for region in np.unique(region_N).tolist():
        here_n2 = points_N2[region_N == region]
        if len(here_n2) > 1:
            distance_n = cKDTree(here_n2).query(here_n2, k=2)[0][:, 1]
            ratio += (distance_n / (0.5 * np.sqrt(pixels_R[region] / len(here_n2)))).tolist()
    return float(np.mean(ratio)) if ratio else None
