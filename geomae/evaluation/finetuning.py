"""Evaluation of a fine-tuned model: predictions of unseen tiles, calibration, and comparison with the probe of the
frozen encoder and with the same architecture from random weights.

T tiles, H W pixels, K classes, G groups, B bins of confidence
"""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from torch import Tensor

from geomae.evaluation.alignment import NONE
from geomae.evaluation.finetune_task import FinetuneTask
from geomae.evaluation.folds import codes_of
from geomae.evaluation.head_start import with_probe_head
from geomae.evaluation.probe_predictions import PredictionKey, Predictions, draw_labelled_tiles, possible_shots
from geomae.evaluation.probe_scores import EncoderResult, ProbeRow, ProbeScores, score
from geomae.evaluation.probe_task import LabelledSelection, class_codes
from geomae.metrics.calibration import calibration_error, fit_calibration, reliability_sums
from geomae.metrics.predictions import (
    ALL,
    FEWEST_GROUPS,
    UNKNOWN,
    Floats,
    confusion,
    percentile_interval,
    resample_groups,
)
from geomae.models.finetuned import Finetuned, calibrated
from geomae.models.folder import Model
from geomae.models.head_record import REGRESSION, SEGMENTATION, Calibration
from geomae.randomness import generator
from geomae.runtime.devices import Compute
from geomae.runtime.precision import working_precision
from geomae.runtime.signals import Stop
from geomae.tiles.labelled_batches import whole_batches
from geomae.training.finetuning import Learned, OnEvent, class_weights, finetune_model, untrained
from geomae.training.finetuning_config import FinetuneConfig
from geomae.training.supervised import LabelledPart

SCRATCH, LINEAR = "scratch", "linear"
DRAWS = 3  # random draws of few labels
PIXELS_OF_TILE = 200  # pixels of a held-out tile for the calibration of segmentation
METHOD = ""  # all methods share one key, so that they are compared with each other
ECE = "ece"


@dataclass(frozen=True)
class TilePredictions:
    """Predictions of a test: classes (T,) or (T, H, W), or numbers (T,); and sums for reliability (G, B, 3)."""

    predicted: NDArray[Any]
    reliability_GB3: Floats | None


@dataclass(frozen=True)
class Contender:
    """A method in the table. `draws` are predictions by test, one mapping per draw; `shots` None: from all labels."""

    method: str
    shots: int | None
    draws: Sequence[Mapping[str, TilePredictions]]


@dataclass
class FinetuneResult:
    """All results; `others` are predictions of the probe (LINEAR) and of the forest (FOREST)."""

    task: FinetuneTask
    config: FinetuneConfig
    learned: Learned
    model: Model
    contenders: list[Contender] = field(default_factory=list)
    others: dict[str, Predictions] = field(default_factory=dict)
    scratch: Learned | None = None
    scores: ProbeScores = field(default_factory=ProbeScores)

    @property
    def main(self) -> str:
        """The metric by which methods are compared."""
        return next(iter(self.task.truths.values())).measure.main

    def predictions(self, test: str) -> TilePredictions:
        """The predictions of the fine-tuned model."""
        return self.contenders[0].draws[0][test]


def calibrated_model(compute: Compute, task: FinetuneTask, config: FinetuneConfig, learned: Learned) -> Model:
    """The model with calibration and confusion matrix from its held-out tiles, and the ids of its tiles."""
    head = learned.model.head
    assert head is not None
    record = head.record
    if task.names:
        logits_NK, label_N, weight_N = _held_out_rows(compute, task, learned.model, config)
        if config.balances(task.task):  # otherwise the bias would undo the balancing of classes
            weight_N = weight_N * np.array(class_weights(label_N, len(task.names)))[label_N]
        found = fit_calibration(logits_NK, label_N, weight_N, task.names)
        counts_KK = confusion(label_N, found.apply(logits_NK).argmax(1), len(task.names))
        record = record.model_copy(
            update={
                "calibration": Calibration(
                    temperature=found.temperature, bias=tuple(found.bias_K.tolist()), notes=found.notes
                ),
                "confusion": tuple(map(tuple, counts_KK.astype(int).tolist())),
            }
        )
    return replace(learned.model, head=replace(head, record=record, learned=task.tiles_behind()))


def predict_tests(
    compute: Compute, task: FinetuneTask, model: Model, config: FinetuneConfig
) -> dict[str, TilePredictions]:
    """The predictions of a model for every test."""
    return {test.name: _predict_one(compute, task, model, test, config) for test in task.tests}


def train_scratch(
    compute: Compute, task: FinetuneTask, config: FinetuneConfig, folder: Path, stop: Stop, on_event: OnEvent
) -> tuple[Learned, dict[str, TilePredictions]] | None:
    """Train the same architecture from random weights, with its own choice of rate; None where `stop` ended it."""
    job, own = task.job(config), config.untrained()
    job = with_probe_head(compute, replace(job, model=untrained(job.model, task.seed)))
    learned = finetune_model(compute, own, job, folder, stop, on_event)
    if learned is None:
        return None
    return learned, predict_tests(compute, task, calibrated_model(compute, task, config, learned), config)


def train_few(
    compute: Compute, task: FinetuneTask, config: FinetuneConfig, shots: Sequence[int], strength: float | None,
    folder: Path, stop: Stop, on_event: OnEvent,
) -> list[Contender] | None:  # fmt: skip
    """Train from a few labels per class, in three draws that are spread over groups, with the rate and the probe
    strength that were chosen before. No tile is held out: training runs to the last step, without calibration.
    """
    label_T = class_codes(task.learned, task.names)
    group_T = codes_of(task.learned.unit_T)[0]
    found = []
    for count in possible_shots(label_T, tuple(shots)):
        draws = []
        for draw in range(DRAWS):
            drawn = np.sort(draw_labelled_tiles(label_T, group_T, count, task.seed, draw))
            job = with_probe_head(compute, task.job(config, task.learned.take(drawn)), strength)
            learned = finetune_model(compute, config, job, folder / f"{count}-{draw}", stop, on_event)
            if learned is None:
                return None
            draws.append(predict_tests(compute, task, learned.model, config))
        found.append(Contender(config.method, count, draws))
    return found


def score_methods(result: FinetuneResult) -> ProbeScores:
    """All rows: every method on every test, with paired differences to the fine-tuned model and the best baseline."""
    task, scores = result.task, ProbeScores()
    full = [EncoderResult(one.method, number > 0, [_as_predictions([one])])
            for number, one in enumerate(result.contenders) if one.shots is None]  # fmt: skip
    full += [EncoderResult(name, True, [_of_one(name, one, few=False)]) for name, one in result.others.items()]
    parts = [full]
    few = [one for one in result.contenders if one.shots is not None]
    if few:
        parts.append([EncoderResult(few[0].method, False, [_as_predictions(few)])])
        from_few = {name: _of_one(name, one, few=True) for name, one in result.others.items()}
        parts[-1] += [EncoderResult(name, True, [one]) for name, one in from_few.items() if one.predicted]
    for contenders in parts:
        one = score(contenders, task.truths, task.seed, compare_few=True)
        scores.rows += one.rows
        scores.sums |= one.sums
        scores.best_baseline |= one.best_baseline
    scores.rows += [row for one in result.contenders if one.shots is None for row in _calibration_rows(task, one)]
    return scores


def _calibration_rows(task: FinetuneTask, contender: Contender) -> list[ProbeRow]:
    """The expected calibration error of a method on each test."""
    rows = []
    for test, predictions in contender.draws[0].items():
        if predictions.reliability_GB3 is None:
            continue
        value = float(calibration_error(predictions.reliability_GB3.sum(0)))
        groups = task.truths[test].groups
        counts_RG, interval = resample_groups(groups, task.seed), None
        if counts_RG is not None:
            spread_R = calibration_error(np.tensordot(counts_RG, predictions.reliability_GB3, axes=1))
            interval = percentile_interval(spread_R)
        assert interval is None or groups >= FEWEST_GROUPS
        rows.append(ProbeRow(contender.method, test, METHOD, ECE, value, interval))
    return rows


def _as_predictions(contenders: Sequence[Contender]) -> Predictions:
    predictions = Predictions()
    for one in contenders:
        for test in one.draws[0]:
            predicted = [draw[test].predicted for draw in one.draws]
            predictions.predicted[PredictionKey(test, METHOD, one.shots)] = predicted
    return predictions


def _of_one(method: str, given: Predictions, *, few: bool) -> Predictions:
    """The predictions of one method, from all labels or from few."""
    predictions = Predictions()
    for key, predicted in given.predicted.items():
        if key.method == method and key.align == NONE and (key.shots is not None) == few:
            predictions.predicted[key._replace(method=METHOD)] = predicted
    return predictions


def _logits(
    compute: Compute, model: Model, part: LabelledPart, size: int
) -> Iterator[tuple[NDArray[np.int64], Tensor]]:
    """Positions and logits of the tiles of a part, batch by batch."""
    head = model.head
    assert head is not None
    model.mae.to(compute.fabric.device)
    head.module.to(compute.fabric.device)
    tuned = Finetuned(model.using(part.record), head.record)
    for chosen, batch, _ in whole_batches(part.tiles, size):
        with working_precision(compute.fabric.device, compute.precision):
            logits_BK = tuned.logits(batch.pixels_BCHW, batch.valid_BCHW)
        yield chosen, logits_BK.float().cpu()


def _held_out_rows(
    compute: Compute, task: FinetuneTask, model: Model, config: FinetuneConfig
) -> tuple[Floats, NDArray[np.int64], Floats]:
    """Logits (N, K), labels and weights of held-out tiles, or of some pixels of each with a weight of 1 per tile."""
    part = task.part(task.held, config.memory_mb // 4)
    logits, labels, weights = [], [], []
    for chosen, logits_BK in _logits(compute, model, part, config.batch):
        label_B = part.tiles.label_T[chosen]
        if task.task != SEGMENTATION:
            logits.append(logits_BK.double().numpy())
            labels.append(label_B)
            weights.append(np.ones(len(label_B)))
            continue
        for position, logits_KHW, label_HW in zip(chosen.tolist(), logits_BK, label_B, strict=True):
            known = np.flatnonzero(label_HW != UNKNOWN)
            drawn = generator(task.seed, "calibrated pixels", position).permutation(known)[:PIXELS_OF_TILE]
            logits.append(logits_KHW.flatten(1).T.double().numpy()[drawn])
            labels.append(label_HW.ravel()[drawn])
            weights.append(np.full(len(drawn), 1 / max(len(drawn), 1)))
    return np.concatenate(logits), np.concatenate(labels).astype(np.int64), np.concatenate(weights)


def _predict_one(
    compute: Compute, task: FinetuneTask, model: Model, test: LabelledSelection, config: FinetuneConfig
) -> TilePredictions:
    head = model.head
    assert head is not None
    part, truth = task.part(test, config.memory_mb // 4 // len(task.tests)), task.truths[test.name]
    predicted: NDArray[Any] = np.zeros(truth.label_T.shape, np.float64 if task.task == REGRESSION else np.int16)
    sums: Floats | None = None
    for chosen, logits_BK in _logits(compute, model, part, config.batch):
        if task.task == REGRESSION:
            predicted[chosen] = logits_BK[:, 0].double().numpy()
            continue
        sure, code = calibrated(logits_BK, head.record).softmax(1).max(1)
        predicted[chosen] = code.numpy()
        label = truth.label_T[chosen]
        known = label != UNKNOWN
        group = np.broadcast_to(truth.group_T[chosen].reshape(-1, *(1 for _ in label.shape[1:])), label.shape)
        of_batch = reliability_sums(
            code.numpy()[known], (code.numpy() == label)[known], sure.double().numpy()[known], group[known],
            len(task.names), truth.groups,
        ).sum(1)  # fmt: skip
        sums = of_batch if sums is None else sums + of_batch
    return TilePredictions(predicted, sums)


def rows_of(result: FinetuneResult, test: str) -> list[ProbeRow]:
    """The rows of a test over all classes, from all labels."""
    return [row for row in result.scores.rows if row.test == test and row.shots is None and row.of == ALL]
