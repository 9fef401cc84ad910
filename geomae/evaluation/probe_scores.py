"""The rows of probe.csv: every figure of every encoder, with intervals over groups and paired differences.

T tiles, G groups, R resamples; an encoder may have several seeds
"""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass, field
from functools import partial
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from geomae.evaluation.alignment import NONE
from geomae.evaluation.probe_predictions import PredictionKey, Predictions
from geomae.metrics.predictions import ALL, FEWEST_GROUPS, Codes, Floats, Measure, percentile_interval, resample_groups

COLUMNS = (
    *("encoder", "task", "train", "test", "align", "method", "shots", "class", "metric", "value", "low", "high"),
    *("n_train", "n_test", "n_groups", "seed", "chosen"),
)
TO_FIRST, TO_BASELINE = "difference_to_first", "difference_to_best_baseline"
TO_NONE = "difference_to_none"  # of a probe with an alignment to the one without
FEWEST_CLASS_TILES, FEWEST_CLASS_GROUPS = 5, 3  # of a test, for a class to be scored; see Support
SPREAD = "_std"  # suffix of the metric that is the standard deviation over draws


@dataclass(frozen=True)
class ProbeRow:
    """A row of probe.csv; `of` is its column `class`. `interval` and `seed` are None where there is none."""

    encoder: str
    test: str
    method: str
    metric: str
    value: float
    interval: tuple[float, float] | None = None
    shots: int | None = None
    of: str = ALL
    seed: int | None = None
    align: str = NONE

    def csv_row(self, shared: Mapping[str, Any]) -> dict[str, Any]:
        """The values by column; `shared` are the columns that do not depend on the predictions."""
        low, high = self.interval or ("", "")
        own = {name: value for name, value in asdict(self).items() if name not in ("of", "interval")}
        own |= {"shots": self.shots or ALL, "class": self.of, "low": low, "high": high}
        own["seed"] = "" if self.seed is None else self.seed
        return {name: {**shared, **own}[name] for name in COLUMNS}


@dataclass(frozen=True)
class GroundTruth:
    """Reference data of a test set: labels by tile, their groups, and the measure."""

    label_T: NDArray[Any]
    group_T: Codes
    measure: Measure

    @property
    def groups(self) -> int:
        """The number of groups."""
        return int(self.group_T.max()) + 1

    def support(self, names: Sequence[str]) -> dict[str, "Support"]:
        """The support of each class of `names`, in the order of their codes."""
        tiles = self.label_T.reshape(len(self.label_T), -1)
        holding = {name: (tiles == code).any(1) for code, name in enumerate(names)}
        return {
            name: Support(int(there_T.sum()), len(np.unique(self.group_T[there_T])))
            for name, there_T in holding.items()
        }


class Support(NamedTuple):
    """The test tiles that are of a class (for segmentation, that contain it), and the groups of these tiles.

    A class that is `weak` counts in averages as much as any other, but its score is hardly known. With fewer than
    FEWEST_CLASS_TILES tiles, one tile changes its recall by more than a fifth. With fewer than FEWEST_CLASS_GROUPS
    groups it is missing from more than 5 % of the resamples, which then average the other classes alone (of many
    groups, a share of exp(-k) of the resamples holds none of k given ones: 0.37, 0.14, 0.05).
    """

    tiles: int
    groups: int

    @property
    def weak(self) -> bool:
        """Whether the class occurs, but in too few tiles or groups."""
        return self.tiles > 0 and (self.tiles < FEWEST_CLASS_TILES or self.groups < FEWEST_CLASS_GROUPS)


@dataclass(frozen=True)
class EncoderResult:
    """An encoder in the table: its label, whether it is a baseline, and the predictions of each of its seeds."""

    label: str
    baseline: bool
    predictions: Sequence[Predictions]
    seeds: Sequence[int | None] = (None,)


@dataclass
class ProbeScores:
    """All rows; the best baseline of each test and method; the sums over groups of each encoder, for figures."""

    rows: list[ProbeRow] = field(default_factory=list)
    best_baseline: dict[PredictionKey, str] = field(default_factory=dict)
    sums: dict[tuple[str, PredictionKey], Floats] = field(default_factory=dict)

    def find(self, encoder: str, key: PredictionKey, metric: str) -> ProbeRow | None:
        """The row of a figure over all classes and seeds."""
        wanted = (encoder, key.test, key.method, key.shots, key.align, metric, ALL, None)
        return next(
            (r for r in self.rows if (r.encoder, r.test, r.method, r.shots, r.align, r.metric, r.of, r.seed) == wanted),
            None,
        )


def score(
    results: Sequence[EncoderResult], truths: Mapping[str, GroundTruth], seed: int, *, compare_few: bool = False
) -> ProbeScores:
    """Score every encoder on every test set. The others are compared with the first one.

    `compare_few` also compares predictions from few labels. Rows hold the mean over seeds, and further rows each seed.
    The best baseline is chosen by its figure on the test set itself, which is optimistic by design: it makes the
    comparison strict.
    """
    scores = ProbeScores()
    keys = list(results[0].predictions[0].predicted)
    unaligned: dict[tuple[str, PredictionKey], tuple[float, Floats | None]] = {}
    for key in keys:  # without alignment first
        truth = truths[key.test]
        counts_RG = resample_groups(truth.groups, seed)
        compared: dict[str, tuple[float, Floats | None]] = {}
        for result in results:
            known = [one for one in result.predictions if key in one.predicted]
            rows, compared[result.label] = _score_one(scores, result, known, key, truth, counts_RG)
            scores.rows += rows
            plain = result.label, key._replace(align=NONE)
            if key.align == NONE:
                unaligned[plain] = compared[result.label]
            else:
                pair = (compared[result.label], unaligned[plain])
                scores.rows.append(_difference(result.label, key, TO_NONE, *pair))
        if key.shots is None or compare_few:
            baselines = [one.label for one in results if one.baseline]
            if baselines:
                scores.best_baseline[key] = max(baselines, key=lambda label: compared[label][0])
            scores.rows += _differences(results, compared, key, scores.best_baseline.get(key))
    return scores


def add_without_encoder(
    scores: ProbeScores,
    result: EncoderResult,
    first: EncoderResult,
    truths: Mapping[str, GroundTruth],
    seed: int,
) -> None:
    """Score predictions without an encoder, and compare them with the linear probe of the first encoder."""
    for key in result.predictions[0].predicted:
        truth = truths[key.test]
        counts_RG = resample_groups(truth.groups, seed)
        rows, own = _score_one(scores, result, result.predictions, key, truth, counts_RG)
        scores.rows += rows
        linear = key._replace(method="linear")
        known = [one for one in first.predictions if linear in one.predicted]
        if known and key.shots is None:
            _, other = _score_one(scores, first, known, linear, truth, counts_RG)
            scores.rows.append(_difference(result.label, key, TO_FIRST, own, other))


def _score_one(
    scores: ProbeScores,
    result: EncoderResult,
    predictions: Sequence[Predictions],
    key: PredictionKey,
    truth: GroundTruth,
    counts_RG: Floats | None,
) -> tuple[list[ProbeRow], tuple[float, Floats | None]]:
    """The rows of an encoder for one prediction, and its main figure, overall and in each resample."""
    measure = truth.measure
    by_seed = [
        [measure.sums(truth.label_T, codes, truth.group_T, truth.groups) for codes in one.predicted[key]]
        for one in predictions
    ]
    if key.shots is None:
        scores.sums[result.label, key] = np.sum([sums[0] for sums in by_seed], axis=0)
    values = [[measure.values(sums.sum(0)) for sums in draws] for draws in by_seed]
    spread = _resampled([sums for draws in by_seed for sums in draws], measure, counts_RG)
    carrying = measure.groups(by_seed[0][0])  # a class in few groups has no interval
    rows = []
    for metric, of in values[0][0]:
        if key.shots is not None and of != ALL:
            continue
        new = partial(ProbeRow, result.label, key.test, key.method, shots=key.shots, of=of, align=key.align)
        each = np.array([[float(one[metric, of]) for one in draws] for draws in values])
        interval = _interval(spread[metric, of]) if spread and carrying[of] >= FEWEST_GROUPS else None
        rows.append(new(metric, value=float(each.mean()), interval=interval))
        if key.shots is not None:
            rows.append(new(metric + SPREAD, value=float(each.mean(0).std(ddof=1))))
        if len(by_seed) > 1:
            rows += [
                new(metric, value=float(one), seed=seed) for seed, one in zip(result.seeds, each.mean(1), strict=True)
            ]
    main = next(row.value for row in rows if row.metric == measure.main and row.seed is None)
    return rows, (main, spread[measure.main, ALL] if spread else None)


def _resampled(
    members: Sequence[Floats], measure: Measure, counts_RG: Floats | None
) -> dict[tuple[str, str], Floats] | None:
    """Each figure in each resample of the groups (R,), the mean over seeds and draws."""
    if counts_RG is None:
        return None
    total: dict[tuple[str, str], Floats] = {}
    for sums in members:
        drawn = np.tensordot(counts_RG, sums, axes=1)
        for name, values_R in measure.values(drawn).items():
            total[name] = total.get(name, 0) + values_R / len(members)
    return total


def _interval(values_R: Floats) -> tuple[float, float] | None:
    """The interval of a figure; None where no resample has one, as of R2 where all numbers are the same."""
    return percentile_interval(values_R) if np.isfinite(values_R).any() else None


def _differences(
    results: Sequence[EncoderResult],
    compared: Mapping[str, tuple[float, Floats | None]],
    key: PredictionKey,
    best_baseline: str | None,
) -> Iterator[ProbeRow]:
    """Each encoder minus the first, and each but baselines minus the best baseline, on the same resamples."""
    for result in results:
        pairs = [(TO_FIRST, results[0].label)] if result is not results[0] else []
        pairs += [(TO_BASELINE, best_baseline)] if best_baseline is not None and not result.baseline else []
        for metric, other in pairs:
            yield _difference(result.label, key, metric, compared[result.label], compared[other])


def _difference(
    label: str, key: PredictionKey, metric: str, own: tuple[float, Floats | None], other: tuple[float, Floats | None]
) -> ProbeRow:
    """A row for the difference of two main figures, with the interval of the differences in the same resamples."""
    interval = None if own[1] is None or other[1] is None else _interval(own[1] - other[1])
    return ProbeRow(label, key.test, key.method, metric, own[0] - other[0], interval, shots=key.shots, align=key.align)
