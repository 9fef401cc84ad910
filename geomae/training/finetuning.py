"""Fine-tuning from a model to a model with a head: the rate is chosen on held-out tiles, then the training runs.

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
OnEvent = Callable[[str, Event], None]  # hears of which training the event is


@dataclass(frozen=True)
class HeadStart:
    """Weights that a linear head begins from, and the strength of the probe that they are."""

    weights: Mapping[str, Tensor]
    strength: float


@dataclass(frozen=True)
class FinetuneJob:
    """What is learned from which tiles. `held` judges rates and steps; None: the last weights are kept. Without a
    `start` the head begins at random.
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
    """A model with its head, the rate that was taken, what each rate scored, and the steps it took."""

    model: Model
    share: Share
    rate: float
    tried: Mapping[float, float]
    kept_step: int
    steps: int


def network_of(job: FinetuneJob, config: FinetuneConfig) -> tuple[FinetunedNetwork, Share]:
    """A copy of the model's weights with the head as it begins, in which the weights of the method may learn."""
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
    """The same architecture with random weights."""
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
    """Train at each rate and keep what is best on the held-out tiles (the first rate, where nothing is held out), or
    go on from the checkpoints in `folder`; None where `stop` ended it.

    Rates run to their end: a short trial speaks for low rates, which spoil less of what the head begins with.
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
    """The model with the weights of a `FinetunedNetwork`; a decoder stays as it was."""
    mae = MaskedAutoencoder(job.model.mae.architecture)
    mae.load_state_dict(dict(job.model.mae.state_dict()) | {k: v for k, v in weights.items() if k.startswith(ENCODER)})
    head = build_head(mae.architecture, job.record)
    head.load_state_dict({k.removeprefix(HEAD): v for k, v in weights.items() if k.startswith(HEAD)})
    return replace(job.model, mae=mae.eval(), head=TrainedHead(job.record, head.eval()))


def class_weights(label_T: NDArray[Any], classes: int) -> list[float]:
    """What makes every class count as much as any other: N / (K n_k), over labelled tiles or pixels."""
    count_K = np.bincount(label_T[label_T >= 0].ravel(), minlength=classes)
    return [float(count_K.sum() / (classes * max(count, 1))) for count in count_K.tolist()]


@dataclass(frozen=True)
class _Trained:
    """A training that ended; `loss` is 0 where nothing judged it."""

    folder: Path
    share: Share
    loss: float
    kept_step: int
    steps: int


def _run(
    compute: Compute, config: FinetuneConfig, job: FinetuneJob, folder: Path, stop: Stop, on_event: OnEvent
) -> _Trained | None:
    """One training to its end. It keeps the best weights on held-out tiles, those that it begins with among them; else
    the last.
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
