"""Initialises a linear head with the linear probe of the frozen encoder, because gradients of a random head would
distort the features of the encoder (Kumar et al. 2022, arXiv 2202.10054).

N rows (tiles, or patches), D features, K classes or numbers
"""

from dataclasses import replace
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from geomae.evaluation.linear_probe import (
    C_VALUES,
    LOOSE,
    RIDGE_C_VALUES,
    TIGHT,
    LinearProbe,
    class_shares,
    draw_patches,
    fit_path,
    fit_ridge_path,
    one_hot,
)
from geomae.metrics.predictions import Floats
from geomae.models.finetuned import FinetunedNetwork
from geomae.models.folder import sensor_tensors
from geomae.models.head_record import REGRESSION, SEGMENTATION
from geomae.models.heads import LinearHead, build_head
from geomae.runtime.devices import Compute
from geomae.runtime.precision import working_precision
from geomae.tiles.labelled_batches import whole_batches
from geomae.training.finetuning import FinetuneJob, HeadStart
from geomae.training.supervised import LabelledPart

BATCH = 64  # tiles that are embedded at once


def with_probe_head(compute: Compute, job: FinetuneJob, strength: float | None = None) -> FinetuneJob:
    """The job with a head that is initialised by a probe; a conv head starts from random weights.

    The probe's strength (C of scikit-learn) is the one with the lowest loss on held-out tiles. Without these it is
    `strength`, else the middle one of the usual values.
    """
    head = build_head(job.model.mae.architecture, job.record)
    if not isinstance(head, LinearHead):
        return job
    network = FinetunedNetwork(job.model.mae, head).to(compute.fabric.device).eval()
    rows_ND, target_NK = _rows(compute, job, network, job.learned)
    values = RIDGE_C_VALUES if job.record.task == REGRESSION else C_VALUES
    if job.held is None:
        values = (strength or values[len(values) // 2],)
    chosen = values[0]
    if job.held is not None:
        held_ND, truth_NK = _rows(compute, job, network, job.held)
        # LOOSE as in `choose_C`: the last digits of weak regularisation would take most of the time.
        losses = [_loss(job, probe, held_ND, truth_NK) for probe in _fit(job, rows_ND, target_NK, values, LOOSE)]
        chosen = values[int(np.argmin(losses))]
    (probe,) = _fit(job, rows_ND, target_NK, (chosen,))
    values_of = {
        "centre_D": probe.scale.mean_D, "scale_D": probe.scale.std_D, "linear.weight": probe.weight_DK.T,
        "linear.bias": probe.bias_K,
    }  # fmt: skip
    weights = {name: torch.from_numpy(np.ascontiguousarray(one)).float() for name, one in values_of.items()}
    return replace(job, start=HeadStart(weights, chosen))


def _rows(compute: Compute, job: FinetuneJob, network: FinetunedNetwork, part: LabelledPart) -> tuple[Floats, Floats]:
    """Features (N, D) of the tiles without augmentation, and class shares (N, K) or numbers (N, 1) of the rows."""
    device, sensor = compute.fabric.device, sensor_tensors(part.record, compute.fabric.device)
    head, features, labels = network.head, [], []
    assert isinstance(head, LinearHead)
    for chosen, batch, counted in whole_batches(part.tiles, BATCH):
        assert counted
        batch = batch.to(device)
        inputs = sensor.standardise(batch.pixels_BCHW, batch.valid_BCHW)
        with torch.no_grad(), working_precision(device, compute.precision):
            tokens = network.tokens(inputs, batch.valid_BCHW, sensor.codes_CF, sensor.gsd_m)
            found: Tensor = head.features(tokens)
        rows_BD = found.float().cpu().numpy()
        label_B = part.tiles.label_T[chosen]
        if job.record.task != SEGMENTATION:
            features.append(rows_BD)
            labels.append(_targets(label_B, job))
            continue
        share_BRCK = class_shares(label_B.astype(np.int16), *tokens.shape, len(job.record.classes))
        share_BRCK[~tokens.usable_BN.cpu().numpy().reshape(share_BRCK.shape[:3])] = 0
        features.append(rows_BD.reshape(-1, rows_BD.shape[-1]))
        labels.append(share_BRCK.reshape(len(features[-1]), -1))
    rows_ND, target_NK = np.concatenate(features), np.concatenate(labels)
    if job.record.task == SEGMENTATION:
        drawn = draw_patches(target_NK, job.seed)
        rows_ND, target_NK = rows_ND[drawn], target_NK[drawn]
    return rows_ND.astype(np.float64), target_NK


def _targets(label_B: NDArray[Any], job: FinetuneJob) -> Floats:
    if job.record.task == REGRESSION:
        return label_B.astype(np.float64)[:, None]
    return one_hot(label_B, len(job.record.classes))


def _fit(
    job: FinetuneJob, rows_ND: Floats, target_NK: Floats, values: tuple[float, ...], tolerance: float = TIGHT
) -> list[LinearProbe]:
    if job.record.task == REGRESSION:
        found = fit_ridge_path(rows_ND, target_NK[:, 0], values)
        return [LinearProbe(one.scale, one.weight_D[:, None], np.array([one.bias])) for one in found]
    return fit_path(rows_ND, target_NK, values, balanced=job.criterion.weight_K is not None, tolerance=tolerance)


def _loss(job: FinetuneJob, probe: LinearProbe, rows_ND: Floats, target_NK: Floats) -> float:
    """The mean loss on held-out rows: squared error, or cross entropy with the weights of the criterion."""
    scores_NK = probe.scores(rows_ND)
    if job.record.task == REGRESSION:
        return float(np.square(scores_NK - target_NK).mean())
    weight_K = np.ones(target_NK.shape[1]) if job.criterion.weight_K is None else np.array(job.criterion.weight_K)
    log_NK = torch.from_numpy(scores_NK).log_softmax(1).numpy()
    return float(-(target_NK * weight_K * log_NK).sum() / (target_NK * weight_K).sum())
