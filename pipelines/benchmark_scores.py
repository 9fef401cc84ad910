"""The table of a benchmark: scores with intervals, differences from the first baseline, and the score of a recipe."""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from typing import Any

import numpy as np

from geomae.evaluation.alignment import NONE
from geomae.evaluation.probe_predictions import PredictionKey
from geomae.evaluation.probe_scores import TO_FIRST, EncoderResult, GroundTruth, score
from geomae.evaluation.probe_task import SEGMENTATION
from geomae.metrics.predictions import ALL, FEWEST_GROUPS, metric_name
from pipelines.benchmark_tasks import LINEAR, Task, in_order, measure_name

COLUMNS = ("encoder", "seed", "task", "test", "measure", "value", "low", "high", "n", "n_groups")
RANK, SCORE = "effective_rank", "score"


@dataclass(frozen=True)
class Row:
    """A row of benchmark.csv; the mean over seeds has no seed. The test has `n` tiles in `n_groups` groups."""

    encoder: str
    seed: int | None
    task: str
    test: str
    measure: str
    value: float
    low: float | None
    high: float | None
    n: int
    n_groups: int

    def csv_row(self) -> dict[str, Any]:
        """The row by column; unknown values are empty."""
        return {name: "" if value is None else value for name, value in asdict(self).items()}

    def shown(self, form: str = ".3f") -> str:
        """The value with its interval."""
        span = "" if self.low is None or self.high is None else f" [{self.low:{form}}, {self.high:{form}}]"
        return f"{self.value:{form}}{span}"


def task_rows(
    task: Task, results: Sequence[EncoderResult], ranks: Mapping[tuple[str, str, str], Sequence[float]], seed: int
) -> Iterator[Row]:
    """The scores of every encoder: balanced accuracy, or mean IoU of pixels.

    Intervals are over resampled groups, or over tiles if there are fewer than ten groups. With few labels or several
    seeds, each resample gives the mean over draws and seeds. All encoders are compared with the first baseline, on the
    same resamples.
    """
    baseline = next((one for one in results if one.baseline), None)
    first = baseline or results[0]
    ordered = [first, *(one for one in results if one is not first)]
    truths = {name: resampled_by(truth) for name, truth in task.probe.truths.items()}
    main = next(iter(truths.values())).measure.main
    seeds = {one.label: one.seeds for one in results}
    rows = score(ordered, truths, seed, compare_few=True).rows
    order = {one.label: place for place, one in enumerate(results)}
    for row in sorted(rows, key=lambda one: order[one.encoder]):
        truth = truths[row.test]
        name = measure_name(PredictionKey(row.test, row.method, row.shots), task.probe.settings.task)
        if name == LINEAR and task.probe.settings.C is not None:
            continue  # no strength is chosen for a task with only few labels and neighbours
        if row.of != ALL or row.align != NONE or row.metric not in (main, TO_FIRST):
            continue
        if row.metric == TO_FIRST:
            if baseline is None:
                continue
            name = f"{name} minus {baseline.label}"
        low, high = row.interval or (None, None)
        n = len(truth.group_T)
        yield Row(row.encoder, row.seed, task.name, row.test, name, row.value, low, high, n, truth.groups)
    for (task_name, label, test), each in ranks.items():
        if task_name != task.name:
            continue
        one = Row(label, None, task.name, test, RANK, float(np.mean(each)), None, None, *_size(truths[test]))
        yield one
        if len(each) > 1:
            yield from (replace(one, seed=of, value=value) for of, value in zip(seeds[label], each, strict=True))


def resampled_by(truth: GroundTruth) -> GroundTruth:
    """The same truth, with tiles as groups if it has too few groups for an interval."""
    if truth.groups >= FEWEST_GROUPS:
        return truth
    return replace(truth, group_T=np.arange(len(truth.group_T)))


def score_rows(rows: Sequence[Row], tasks: Sequence[Task]) -> list[Row]:
    """The score of every encoder with all measures: their mean; also for each seed if all measures have the same."""
    wanted = {(task.name, name) for task in tasks for name in task.measures}
    values: dict[tuple[str, int | None], dict[tuple[str, str], float]] = {}
    for row in rows:
        if (row.task, row.measure) in wanted:
            values.setdefault((row.encoder, row.seed), {})[row.task, row.measure] = row.value
    return [
        Row(encoder, seed, SCORE, SCORE, SCORE, float(np.mean(list(one.values()))), None, None, len(one), 0)
        for (encoder, seed), one in values.items()
        if set(one) == wanted
    ]


def task_tables(rows: Sequence[Row], tasks: Sequence[Task], labels: Sequence[str]) -> Iterator[str]:
    """A table for every test set with a row per encoder (means over seeds); the last column is the difference."""
    means = {(row.task, row.test, row.measure, row.encoder): row for row in rows if row.seed is None}
    for task in tasks:
        for test in task.probe.tests:
            here = {key[2:]: row for key, row in means.items() if key[:2] == (task.name, test.name)}
            names = in_order(measure for measure, _ in here if " minus " not in measure and measure != RANK)
            main = names[0]
            against = next((measure for measure, _ in here if measure.startswith(f"{main} minus ")), None)
            columns = [*names, *([RANK] if task.probe.settings.task != SEGMENTATION else [])]
            size = next(iter(here.values()))
            metric = metric_name(next(iter(task.probe.truths.values())).measure.main)
            yield f"\n{task.name}: {test.name}, {size.n} tiles resampled in {size.n_groups} groups, {metric}\n"
            yield f"| encoder | {' | '.join([*columns, against or ''])} |".replace(" |  |", " |")
            yield "|" + "---|" * (1 + len(columns) + (against is not None))
            for label in labels:
                if not any(encoder == label for _, encoder in here):
                    continue
                cells = [_cell(here.get((name, label)), name, main) for name in columns]
                if against is not None:
                    cells.append(_cell(here.get((against, label)), against, against, "+.3f"))
                yield f"| {label} | {' | '.join(cells)} |"


def score_tables(rows: Sequence[Row], tasks: Sequence[Task], labels: Sequence[str]) -> Iterator[str]:
    """One table of all measures of the score, and their mean."""
    columns = [(task.name, name) for task in tasks for name in task.measures]
    means = {(row.task, row.measure, row.encoder): row for row in rows if row.seed is None}
    yield "\nscore: the mean of all columns; single seeds in brackets\n"
    yield f"| encoder | {' | '.join(f'{task}, {name}' for task, name in columns)} | score |"
    yield "|" + "---|" * (len(columns) + 2)
    for label in labels:
        here = [means.get((*column, label)) for column in (*columns, (SCORE, SCORE))]
        cells = ["-" if one is None else f"{one.value:.3f}" for one in here]
        singles = [row.value for row in rows if row.measure == SCORE and row.encoder == label and row.seed is not None]
        spread = f" ({', '.join(f'{value:.3f}' for value in singles)})" if singles else ""
        yield f"| {label} | {' | '.join(cells)}{spread} |"


def _cell(row: Row | None, name: str, with_interval: str, form: str = ".3f") -> str:
    if row is None:
        return "-"
    return row.shown(form) if name == with_interval else f"{row.value:{'.1f' if name == RANK else form}}"


def _size(truth: GroundTruth) -> tuple[int, int]:
    return len(truth.group_T), truth.groups
