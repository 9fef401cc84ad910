"""Design-based estimates of a map's accuracy and class areas from a stratified random sample of reference points.

N points, S strata, K classes, C = K x K pairs of a map class and a reference class. The strata are the map's classes
(Olofsson et al. 2014) or any other parts of the map (Stehman 2014); the estimators of the first are a special case of
the second. There is no finite population correction, since the points are few compared with the pixels of a stratum.

The variance within a stratum of one point is unknown, but not without bound: what is estimated lies in a range, and a
variance is at most a quarter of its square (Popoviciu 1935). This bound is taken. To merge the stratum with another one
(collapsed strata, Cochran 1977, section 5A.12) would take both for alike, and leave no error where both show none.
"""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray
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
    """Estimates (X) and their standard errors (X); NaN where unknown.

    Errors include the bounds of strata with one point, and are unknown where these are all that is known of them.
    """

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
    every_C = np.arange(classes**2)
    pairs = [_quantities(*one, classes) for one in ((map_N, reference_N), (every_C // classes, every_C % classes))]
    possible_SC = np.ones((len(area_S), len(every_C)), dtype=bool)
    if len(area_S) == classes and (stratum_N == map_N).all():  # of a stratum that is a class of the map, no other one
        possible_SC = np.arange(classes)[:, None] == every_C // classes
    design = _Design(stratum_N, count_S, weight_S, possible_SC)
    overall, users_K, producers_K, share_K = (
        _ratio(points, cells, design) for points, cells in zip(*pairs, strict=True)
    )
    cell_N, weight_N = map_N * classes + reference_N, weight_S[stratum_N] / count_S[stratum_N]
    return SampleEstimate(
        overall,
        users_K,
        producers_K,
        Estimates(share_K.value_X * total, share_K.error_X * total),
        np.bincount(reference_N, minlength=classes),
        np.bincount(map_N, minlength=classes),
        np.bincount(cell_N, minlength=classes**2).reshape(classes, classes),
        np.bincount(cell_N, weight_N, minlength=classes**2).reshape(classes, classes).astype(np.float64),
        count_S,
        weight_S,
        tuple(_notes(count_S, area_S, strata)),
    )


Pair = tuple[Floats, Floats]  # parts and wholes (X, ...), whose totals make a ratio


@dataclass(frozen=True)
class _Design:
    """The stratum of each point; points, share of the area and possible pairs of classes of each stratum."""

    stratum_N: Codes
    count_S: Codes
    weight_S: Floats
    possible_SC: NDArray[np.bool_]


def _quantities(map_N: Codes, reference_N: Codes, classes: int) -> tuple[Pair, Pair, Pair, Pair]:
    """Part and whole at each point: of overall, user's and producer's accuracies, and of shares of the area."""
    each_KN = np.arange(classes)[:, None]
    mapped_KN, true_KN = (each_KN == map_N).astype(float), (each_KN == reference_N).astype(float)
    right_KN, everywhere_KN = mapped_KN * true_KN, np.ones((classes, len(map_N)))
    overall = (right_KN.sum(0, keepdims=True), everywhere_KN[:1])
    return overall, (right_KN, mapped_KN), (right_KN, true_KN), (true_KN, everywhere_KN)


def _ratio(points: Pair, cells: Pair, design: _Design) -> Estimates:
    """Ratio estimates (X) of two totals and their standard errors (Stehman 2014, equations 27 and 28).

    Within a stratum, the variance is that of the residual `part - ratio * whole`: of its points (X, N), or with one
    point at most a quarter of the squared range over the pairs of classes (X, C) that are possible there.
    """
    part_XN, whole_XN = points
    weight_N = (design.weight_S / np.maximum(design.count_S, 1))[design.stratum_N]
    whole_X = whole_XN @ weight_N
    there_X = whole_X > 0
    ratio_X = np.divide(part_XN @ weight_N, whole_X, out=np.full(len(whole_X), np.nan), where=there_X)
    known_X1 = np.where(there_X, ratio_X, 0)[:, None]
    left_XN, left_XC = part_XN - known_X1 * whole_XN, cells[0] - known_X1 * cells[1]
    shown_X, bound_X = np.zeros(len(whole_X)), np.zeros(len(whole_X))
    for stratum in np.flatnonzero(design.count_S):
        count, square = int(design.count_S[stratum]), design.weight_S[stratum] ** 2
        if count > 1:
            shown_X += square * left_XN[:, design.stratum_N == stratum].var(1, ddof=1) / count
        else:
            bound_X += square * np.ptp(left_XC[:, design.possible_SC[stratum]], axis=1) ** 2 / 4
    unknown_X = (bound_X > 0) & (np.sqrt(shown_X) <= ROUNDING * np.abs(known_X1[:, 0]) * whole_X)
    variance_X = np.where(unknown_X, np.nan, shown_X + bound_X)
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
            notes.append(
                f"One reference point lies in stratum {name}, which does not show how much varies there: intervals "
                "assume the most that is possible, and are rather too wide; add at least one more"
            )
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
