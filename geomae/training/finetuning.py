"""Fine-tuning: train a model with a head at each learning rate, and keep the best on held-out tiles.

T tiles, K classes
"""

from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from geomae.models.criterion import Criterion
from geomae.models.finetuned import FinetunedNetwork
from geomae.models.folder import Model, TrainedHead
from geomae.models.head_record import HeadRecord
from geomae.models.heads import build_head
from geomae.models.learning_parts import let_learn, skip_at_random
from geomae.models.mae import MaskedAutoencoder
from geomae.models.trainable_weights import Share, merged
from geomae.randomness import key
from geomae.runtime.devices import Compute
from geomae.runtime.signals import Stop
from geomae.tiles.schedule import schedule_batches
from geomae.training import checkpoints
from geomae.training.engine import stale
from geomae.training.finetuning_config import FinetuneConfig
from geomae.training.loop import Event, save, train, validate
from geomae.training.supervised import LabelledPart, prepare

ENCODER, HEAD = "encoder.", "head."
OnEvent = Callable[[str, Event], None]  # called with the name of the training, such as rate-0.004, and the event


@dataclass(frozen=True)
class HeadStart:
    """Initial weights of a linear head, taken from a linear probe, and the probe's regularisation strength."""

    weights: Mapping[str, Tensor]
    strength: float


@dataclass(frozen=True)
class FinetuneJob:
    """Model, head and tiles of a fine-tuning. `held` are the tiles that choose the learning rate and the step.

    Without `held`, the last weights are kept. Without `start`, the head is initialised at random.
    """

    model: Model  # with the record of the bands in use
    record: HeadRecord  # not yet calibrated
    criterion: Criterion
    learned: LabelledPart
    held: LabelledPart | None
    seed: int
    start: HeadStart | None = None


@dataclass(frozen=True)
class Learned:
    """The model with its head, the chosen rate, the held-out loss of each rate, the step kept, and the last step."""

    model: Model
    share: Share
    rate: float
    tried: Mapping[float, float]
    kept_step: int
    steps: int


def network_of(job: FinetuneJob, config: FinetuneConfig) -> tuple[FinetunedNetwork, Share]:
    """Return a trainable copy of the model with its initial head, and which weights the method trains."""
    mae = MaskedAutoencoder(job.model.mae.architecture)
    mae.load_state_dict(job.model.mae.state_dict())
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(key(job.seed, "head") % 2**63)
        network = FinetunedNetwork(mae, build_head(mae.architecture, job.record))
        share = let_learn(network, config.method, blocks=config.blocks, rank=config.rank)
    if job.start is not None:
        network.head.load_state_dict(dict(job.start.weights))
    skip_at_random(network, config.drop_path)
    return network, share


def untrained(model: Model, seed: int) -> Model:
    """Return a model of the same architecture with random weights, drawn from `seed`."""
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(key(seed, "scratch") % 2**63)
        return replace(model, mae=MaskedAutoencoder(model.mae.architecture).eval())


def finetune_model(
    compute: Compute,
    config: FinetuneConfig,
    job: FinetuneJob,
    folder: Path,
    stop: Stop,
    on_event: OnEvent = lambda name, event: None,
) -> Learned | None:
    """Train at each learning rate and keep the model with the lowest loss on the held-out tiles.

    Without held-out tiles only the first rate is trained. Resumes from the checkpoints in `folder`. Returns None where
    `stop` ended the training. Each rate is trained to its end, because a short trial would favour low rates, which
    change the initial head less.
    """
    ended: dict[float, _Trained] = {}
    for rate in config.grid if job.held is not None else config.grid[:1]:
        outcome = _run(compute, config.at(rate), job, folder / config.at(rate).runs[0], stop, on_event)
        if outcome is None:
            return None
        ended[rate] = outcome
    rate, best = min(ended.items(), key=lambda one: one[1].loss)
    tried = {one: outcome.loss for one, outcome in ended.items()} if job.held is not None else {}
    model = with_weights(job, merged(checkpoints.weights_of(best.folder, best.kept_step)))
    return Learned(model, best.share, rate, tried, best.kept_step, best.steps)


def with_weights(job: FinetuneJob, weights: Mapping[str, Tensor]) -> Model:
    """Return the model with the weights of a `FinetunedNetwork`; a decoder keeps its weights."""
    mae = MaskedAutoencoder(job.model.mae.architecture)
    mae.load_state_dict(dict(job.model.mae.state_dict()) | {k: v for k, v in weights.items() if k.startswith(ENCODER)})
    head = build_head(mae.architecture, job.record)
    head.load_state_dict({k.removeprefix(HEAD): v for k, v in weights.items() if k.startswith(HEAD)})
    return replace(job.model, mae=mae.eval(), head=TrainedHead(job.record, head.eval()))


def class_weights(label_T: NDArray[Any], classes: int) -> list[float]:
    """Return balanced class weights N / (K n_k), over labelled tiles or pixels; negative labels are unlabelled."""
    count_K = np.bincount(label_T[label_T >= 0].ravel(), minlength=classes)
    return [float(count_K.sum() / (classes * max(count, 1))) for count in count_K.tolist()]


@dataclass(frozen=True)
class _Trained:
    """A finished training at one rate; `loss` is 0 without held-out tiles."""

    folder: Path
    share: Share
    loss: float
    kept_step: int
    steps: int


def _run(
    compute: Compute, config: FinetuneConfig, job: FinetuneJob, folder: Path, stop: Stop, on_event: OnEvent
) -> _Trained | None:
    """Run one training to its end. Returns None where `stop` ended it.

    The best weights on held-out tiles are kept, which may be the initial ones; without held-out tiles, the last.
    """
    fabric = compute.fabric
    network, share = network_of(job, config)
    training = prepare(
        fabric, network, config, job.seed, compute.precision, job.criterion, job.learned, job.held,
        job.record.classes, folder,
    )  # fmt: skip
    judged = job.held is not None
    if training.progress.step == 0:
        if judged:
            on_event(folder.name, Event(0, scores=validate(training)))
        save(training)
    reader = job.learned.tiles.reader
    order = schedule_batches(
        job.seed, (len(reader),), config.batch, config.steps, sides=[reader.side_T], groups=[reader.groups]
    )

    def over() -> bool:
        return judged and stale(training.progress, config)

    if not over():
        for event in train(training, order, stop):
            on_event(folder.name, event)
            if event.scores is not None and over():
                break
    if training.progress.step < config.steps and not over():
        return None
    kept = training.progress.best_step if judged else None
    kept = training.progress.step if kept is None else kept
    return _Trained(folder, share, training.progress.best_loss or 0.0, kept, training.progress.step)
