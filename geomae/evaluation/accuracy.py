"""The rows of accuracy.csv: accuracy of a map or of predictions of tiles by domain and class, with intervals.

T tiles, N rows (tiles or pixels), K classes, C cells (a group in a domain), G groups, B bins of confidence; X any
leading dimensions
"""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from geomae.evaluation.folds import codes_of
from geomae.metrics.area import Estimates, SampleEstimate
from geomae.metrics.calibration import (
    BINS,
    ReliabilityBin,
    calibration_error,
    reliability_sums,
    reliability_table,
)
from geomae.metrics.predictions import (
    ALL,
    FEWEST_GROUPS,
    UNKNOWN,
    Codes,
    Floats,
    NumberMeasure,
    Values,
    accuracy,
    average,
    class_scores,
    confusion_by_group,
    percentile_interval,
    resample_groups,
)

COLUMNS = ("dataset", "domain", "class", "metric", "value", "low", "high", "n_tiles", "n_groups", "note")
OF_CLASS = {"users_accuracy": "precision", "producers_accuracy": "recall", "f1": "f1"}  # as maps call them


@dataclass(frozen=True)
class AccuracyRow:
    """A row of accuracy.csv; `of` is its column `class`. The interval is None with too few groups.

    `tiles` and `groups` are the numbers of both that it rests on. For an estimate from reference points, `tiles` is the
    number of points, `groups` is None, and `note` says why it has no interval.
    """

    dataset: str
    domain: str
    of: str
    metric: str
    value: float
    interval: tuple[float, float] | None
    tiles: int
    groups: int | None
    note: str = ""

    def csv_row(self) -> dict[str, Any]:
        """The values by column."""
        low, high = self.interval or ("", "")
        groups = "" if self.groups is None else self.groups
        cells = (self.dataset, self.domain, self.of, self.metric, self.value, low, high, self.tiles, groups, self.note)
        return dict(zip(COLUMNS, cells, strict=True))


@dataclass(frozen=True)
class MapMeasure:
    """Measures of predicted classes and their confidence.

    Sums (K, K + 3 B) are the confusion matrix and, in further columns, `reliability_sums` by predicted class.
    """

    names: Sequence[str]

    def sums(
        self, truth_N: Codes, predicted_N: Codes, confidence_N: Floats, group_N: Codes, groups: int
    ) -> NDArray[np.float64]:
        """Sums of each group (G, K, K + 3 B) from which all figures are computed."""
        classes = len(self.names)
        counts = confusion_by_group(truth_N, predicted_N, group_N, classes, groups)
        parts = (predicted_N, truth_N == predicted_N, confidence_N, group_N)
        reliability = reliability_sums(*parts, classes, groups).reshape(groups, classes, 3 * BINS)
        return np.concatenate([counts, reliability], axis=-1)

    def split(self, sums_X: Floats) -> tuple[Floats, Floats]:
        """The confusion (..., K, K), and the sums of bins (..., K, B, 3) by predicted class."""
        classes = len(self.names)
        bins = sums_X[..., classes:]
        return sums_X[..., :classes], bins.reshape(*bins.shape[:-1], BINS, 3)

    def values(self, sums_X: Floats) -> Values:
        """Accuracy, mean F1, mean IoU and calibration error; and by class user's and producer's accuracy, F1 and
        calibration error.

        Means are over the classes that occur in the reference data.
        """
        counts_XKK, bins_XKB3 = self.split(sums_X)
        scores = class_scores(counts_XKK)
        # The averaged classes are the same in every resample.
        there_K = counts_XKK.sum(-1).reshape(-1, len(self.names)).any(0)
        values = {
            ("accuracy", ALL): accuracy(counts_XKK),
            ("f1", ALL): average(scores["f1"], there_K),
            ("mean_iou", ALL): average(scores["iou"], there_K),
            ("ece", ALL): calibration_error(bins_XKB3.sum(-3)),
        }
        by_class = {metric: scores[score] for metric, score in OF_CLASS.items()} | {"ece": calibration_error(bins_XKB3)}
        return values | {
            (metric, name): score_XK[..., code]
            for metric, score_XK in by_class.items()
            for code, name in enumerate(self.names)
        }

    def groups(self, sums_G: Floats) -> dict[str, int]:
        """The number of groups; by class the smaller of the numbers of groups with it in truth and in prediction."""
        counts_GKK, _ = self.split(sums_G)
        holding_K = np.minimum((counts_GKK.sum(-1) > 0).sum(0), (counts_GKK.sum(-2) > 0).sum(0))
        return {ALL: len(sums_G), **dict(zip(self.names, holding_K.tolist(), strict=True))}


class MapAccuracy:
    """Accumulates predictions of labelled tiles or of their pixels part by part, and gives the rows of accuracy.csv.

    `domain_T` and `unit_T` are the domain and the independent unit (group) of each tile.
    """

    def __init__(self, names: Sequence[str], domain_T: Sequence[str], unit_T: Sequence[str]) -> None:
        self.measure = MapMeasure(names)
        self._cells = _Cells.of(domain_T, unit_T)
        self._sums_C = np.zeros((len(self._cells), len(names), len(names) + 3 * BINS))
        self._counted_T = np.zeros(len(domain_T), dtype=bool)

    def add(self, tile_N: Codes, truth_N: Codes, predicted_N: Codes, confidence_N: Floats) -> None:
        """Add rows of tiles (by position) with true and predicted class and the probability of the predicted one.

        Rows whose truth or prediction is UNKNOWN are ignored.
        """
        known_N = (truth_N != UNKNOWN) & (predicted_N != UNKNOWN)
        tile_N = tile_N[known_N]
        parts = (truth_N[known_N].astype(np.int64), predicted_N[known_N].astype(np.int64), confidence_N[known_N])
        touched, cell_N = np.unique(self._cells.cell_T[tile_N], return_inverse=True)
        self._sums_C[touched] += self.measure.sums(*parts, cell_N, len(touched))
        self._counted_T[tile_N] = True

    @property
    def confusion(self) -> Floats:
        """Confusion matrix (K, K): true class by row, predicted class by column."""
        return self.measure.split(self._sums_C.sum(0))[0]

    @property
    def reliability(self) -> list[ReliabilityBin]:
        """The reliability curve, over all classes."""
        return reliability_table(self.measure.split(self._sums_C.sum(0))[1].sum(0))

    def rows(self, dataset: str, seed: int) -> list[AccuracyRow]:
        """The figures over all domains, and of each where there are several; figures that are NaN are left out."""
        return list(_rows(dataset, self.measure, self._sums_C, self._cells, self._counted_T, seed))


def number_rows(
    dataset: str, truth_T: Floats, predicted_T: Floats, domain_T: Sequence[str], unit_T: Sequence[str], seed: int
) -> list[AccuracyRow]:
    """R2, root mean square error and mean absolute error of predicted numbers, as rows like those of classes."""
    cells, measure = _Cells.of(domain_T, unit_T), NumberMeasure(float(truth_T.mean()))
    sums_C = measure.sums(truth_T, predicted_T, cells.cell_T, len(cells))
    return list(_rows(dataset, measure, sums_C, cells, np.ones(len(truth_T), dtype=bool), seed))


def sample_rows(dataset: str, estimate: SampleEstimate, names: Sequence[str]) -> list[AccuracyRow]:
    """Accuracies of a map from reference points, as shares of area.

    Overall accuracy rests on all points, user's accuracy on those where the map shows the class, and producer's
    accuracy on those whose reference is the class.
    """

    def row(of: str, metric: str, estimates: Estimates, place: int, points: int) -> AccuracyRow:
        value, interval = float(estimates.value_X[place]), estimates.interval(place, most=1)
        note = estimates.no_interval(place, points)
        return AccuracyRow(dataset, ALL, of, metric, value, interval, points, None, note)

    rows = [row(ALL, "accuracy", estimate.overall, 0, int(estimate.points_K.sum()))]
    for metric, of_class, points_K in (
        ("users_accuracy", estimate.users_K, estimate.mapped_K),
        ("producers_accuracy", estimate.producers_K, estimate.points_K),
    ):
        rows += [row(name, metric, of_class, code, int(points_K[code])) for code, name in enumerate(names)]
    return [one for one in rows if np.isfinite(one.value)]


@dataclass(frozen=True)
class _Cells:
    """The cell of each tile; the domain and the group of each cell, as codes."""

    cell_T: Codes
    domain_C: Codes
    group_C: Codes
    domains: Sequence[str]

    def __len__(self) -> int:
        return len(self.domain_C)

    @classmethod
    def of(cls, domain_T: Sequence[str], unit_T: Sequence[str]) -> "_Cells":
        domain_codes, domains = codes_of(domain_T)
        group_codes, _ = codes_of(unit_T)
        pairs_C2, cell_T = np.unique(np.stack([domain_codes, group_codes], axis=1), axis=0, return_inverse=True)
        return cls(cell_T.reshape(-1), pairs_C2[:, 0], pairs_C2[:, 1], domains)


def _rows(
    dataset: str,
    measure: MapMeasure | NumberMeasure,
    sums_C: Floats,
    cells: _Cells,
    counted_T: NDArray[np.bool_],
    seed: int,
) -> Iterator[AccuracyRow]:
    each = [(code, name) for code, name in enumerate(cells.domains) if len(cells.domains) > 1]
    for code, domain in ((None, ALL), *each):
        here_C = np.ones(len(cells), dtype=bool) if code is None else cells.domain_C == code
        here_C &= np.bincount(cells.cell_T, counted_T, minlength=len(cells)) > 0
        if not here_C.any():
            continue
        # Cells of one group in several domains are merged.
        group_c, groups = np.unique(cells.group_C[here_C], return_inverse=True)
        sums_G = np.zeros((len(group_c), *sums_C.shape[1:]))
        np.add.at(sums_G, groups, sums_C[here_C])
        tiles = int((counted_T & here_C[cells.cell_T]).sum())
        counts_RG, carrying = resample_groups(len(sums_G), seed), measure.groups(sums_G)
        drawn = None if counts_RG is None else measure.values(np.tensordot(counts_RG, sums_G, axes=1))
        for (metric, of), value in measure.values(sums_G.sum(0)).items():
            if np.isfinite(value):
                shown = drawn is not None and carrying[of] >= FEWEST_GROUPS
                interval = percentile_interval(drawn[metric, of]) if shown and drawn is not None else None
                yield AccuracyRow(dataset, domain, of, metric, float(value), interval, tiles, len(sums_G))
