"""Calibration of probabilities by bias-corrected temperature scaling, and the calibration error.

N rows (tiles or pixels), K classes, G groups, B bins of confidence; X any leading dimensions
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray
from scipy.optimize import minimize  # type: ignore[import-untyped]

from geomae.errors import TrainingError
from geomae.metrics.predictions import UNKNOWN, Codes, Floats

EXTREME = 20.0  # temperatures lie between 1 / EXTREME and EXTREME
FEW = 10  # with fewer rows of a class, its bias is uncertain
BINS = 15  # of equal width (Guo et al. 2017)


@dataclass(frozen=True)
class Calibration:
    """Probabilities are softmax(logits / temperature + bias); `notes` say what the rows left uncertain."""

    temperature: float
    bias_K: Floats
    notes: tuple[str, ...] = ()

    @classmethod
    def none(cls, classes: int, *notes: str) -> "Calibration":
        """The identity: probabilities are the softmax of the logits."""
        return cls(1.0, np.zeros(classes), notes)

    @classmethod
    def of_record(cls, record: Mapping[str, Any]) -> "Calibration":
        """Read what `record` gives."""
        bias_K = np.asarray(record["bias"], dtype=np.float64)
        return cls(float(record["temperature"]), bias_K, tuple(record.get("notes", ())))

    def record(self) -> dict[str, Any]:
        """Return a dictionary for JSON."""
        return {"temperature": self.temperature, "bias": self.bias_K.tolist(), "notes": list(self.notes)}

    def apply(self, logits_XK: NDArray[np.floating]) -> Floats:
        """Turn logits (..., K) into probabilities (..., K); a logit of -inf gives 0."""
        return softmax(logits_XK.astype(np.float64) / self.temperature + self.bias_K)


def softmax(scores_XK: Floats) -> Floats:
    """Softmax over the last axis: values (..., K) that sum to 1."""
    share_XK = np.exp(scores_XK - scores_XK.max(-1, keepdims=True))
    return np.asarray(share_XK / share_XK.sum(-1, keepdims=True))


def fit_calibration(
    logits_NK: NDArray[np.floating],
    label_N: Codes,
    weight_N: Floats | None = None,
    names: Sequence[str] | None = None,
) -> Calibration:
    """Fit bias-corrected temperature scaling (Alexandari et al. 2020) to held-out rows.

    The fit maximises the likelihood of the rows times a standard normal prior on the biases and on the logarithm of
    the temperature, which weighs as much as one row. It keeps both finite where all rows are classified correctly, and
    near 0 where rows are few. The biases have mean 0; a class without rows keeps bias 0. Rows labelled UNKNOWN are left
    out. `weight_N` is the weight of each row: pixels of one tile are correlated and should weigh less than one each.
    Raises TrainingError where a logit is NaN or +inf.
    """
    classes = logits_NK.shape[1]
    names = [f"class {code}" for code in range(classes)] if names is None else names
    if np.isnan(logits_NK).any() or np.isposinf(logits_NK).any():
        raise TrainingError("probabilities cannot be calibrated: some scores of the model are not finite numbers")
    weight_N = np.ones(len(label_N)) if weight_N is None else weight_N
    learned_K = np.isfinite(logits_NK).all(0)
    used_N = (label_N != UNKNOWN) & learned_K[label_N] & (weight_N > 0)
    count_K = np.bincount(label_N[used_N], minlength=classes)
    known = np.flatnonzero(count_K)
    notes = [
        f"{names[code]}: no row to calibrate on; its bias stays 0" for code in np.flatnonzero(count_K == 0).tolist()
    ]
    if len(known) < 2:
        return Calibration.none(
            classes, *notes, "fewer than two classes to calibrate on: probabilities are not calibrated"
        )
    few = [names[code] for code in known.tolist() if count_K[code] < FEW]
    notes += [f"fewer than {FEW} rows to calibrate on: {', '.join(few)}; the bias is uncertain"] if few else []
    place_K = np.searchsorted(known, np.arange(classes))
    scores_NK, place_N = logits_NK[used_N][:, known].astype(np.float64), place_K[label_N[used_N]]
    temperature, bias, said = _most_likely(scores_NK, place_N, weight_N[used_N])
    bias_K = np.zeros(classes)
    bias_K[known] = bias
    return Calibration(temperature, bias_K, (*notes, *said))


def balanced_weights(label_N: Codes, classes: int) -> Floats:
    """Weights (N) of rows by which every class that occurs has the same total weight; their sum is N."""
    count_K = np.bincount(label_N, minlength=classes)
    return np.asarray(len(label_N) / ((count_K > 0).sum() * count_K[label_N]))


def _most_likely(scores_NK: Floats, label_N: Codes, weight_N: Floats) -> tuple[float, Floats, list[str]]:
    """Return the temperature, biases (K) of mean 0, and notes on the fit."""
    rows, total = np.arange(len(label_N)), float(weight_N.sum())
    scores_NK = scores_NK - scores_NK.mean(1, keepdims=True)  # softmax ignores a shift of all classes
    target_K = np.bincount(label_N, weight_N, minlength=scores_NK.shape[1])
    limit = float(np.log(EXTREME))

    def loss(values: Floats) -> tuple[float, Floats]:
        slope, bias_K = np.exp(values[0]), values[1:]  # the slope is 1 / temperature
        tilted_NK = slope * scores_NK + bias_K
        top_N = tilted_NK.max(1)
        share_NK = np.exp(tilted_NK - top_N[:, None])
        sum_N = share_NK.sum(1)
        share_NK *= (weight_N / sum_N)[:, None]
        likelihood = float((weight_N * (tilted_NK[rows, label_N] - top_N - np.log(sum_N))).sum())
        by_slope = float((share_NK * scores_NK).sum() - (weight_N * scores_NK[rows, label_N]).sum()) * slope
        gradient = np.concatenate([[by_slope], share_NK.sum(0) - target_K]) + values
        return (0.5 * float(values @ values) - likelihood) / total, gradient / total

    bounds = [(-limit, limit), *[(None, None)] * scores_NK.shape[1]]
    end = minimize(loss, np.zeros(len(bounds)), jac=True, method="L-BFGS-B", bounds=bounds, options={"maxiter": 500})
    temperature, bias_K = float(np.exp(-end.x[0])), end.x[1:] - end.x[1:].mean()
    notes = [] if end.success else [f"the calibration did not converge: {end.message}"]
    if abs(end.x[0]) >= limit * (1 - 1e-6):
        notes.append(f"the temperature reached its bound of {temperature:g}: do not rely on the confidence")
    right_N = (scores_NK / temperature + bias_K).argmax(1) == label_N
    if right_N.all():
        notes.append(f"all {len(rows)} rows are classified correctly: without errors to fit, calibration is uncertain")
    return temperature, bias_K, notes


def reliability_sums(
    predicted_N: Codes, right_N: NDArray[np.bool_], confidence_N: Floats, group_N: Codes, classes: int, groups: int
) -> Floats:
    """Count rows and correct rows and sum confidence, by group, predicted class and bin of confidence: (G, K, B, 3).

    Bins have equal width; each includes its upper end, and the first also 0.
    """
    bin_N = np.clip(np.ceil(confidence_N * BINS).astype(np.int64) - 1, 0, BINS - 1)
    cell_N = (group_N * classes + predicted_N) * BINS + bin_N
    columns = (None, right_N.astype(np.float64), confidence_N)
    sums = [np.bincount(cell_N, column, minlength=groups * classes * BINS) for column in columns]
    return np.stack(sums, axis=-1).reshape(groups, classes, BINS, 3).astype(np.float64)


def calibration_error(sums_XB3: Floats) -> Floats:
    """Expected calibration error (X): the mean over rows of |accuracy - mean confidence| of the row's bin."""
    rows_X = sums_XB3[..., 0].sum(-1)
    off_X = np.abs(sums_XB3[..., 1] - sums_XB3[..., 2]).sum(-1)
    return np.asarray(np.divide(off_X, rows_X, out=np.full(np.shape(rows_X), np.nan), where=rows_X > 0))


@dataclass(frozen=True)
class ReliabilityBin:
    """Number, mean confidence and accuracy of the rows whose confidence is above `above` and at most `up_to`."""

    above: float
    up_to: float
    rows: int
    confidence: float
    accuracy: float


def reliability_table(sums_B3: Floats) -> list[ReliabilityBin]:
    """The bins that hold rows, in order of increasing confidence."""
    return [
        ReliabilityBin(number / BINS, (number + 1) / BINS, int(rows), confidence / rows, right / rows)
        for number, (rows, right, confidence) in enumerate(sums_B3.tolist())
        if rows > 0
    ]
