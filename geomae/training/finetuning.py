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
from geomae.training.loop import Event, save, train
from geomae.training.supervised import LabelledPart, prepare

ENCODER, HEAD = "encoder.", "head."
OnEvent = Callable[[str, Event], None]  # hears of which training the event is


@dataclass(frozen=True)
class FinetuneJob:
    """What is learned from which tiles. `held` judges rates and steps; None: the last weights are kept."""

    model: Model  # with the record of the bands in use
    record: HeadRecord  # not yet calibrated
    criterion: Criterion
    learned: LabelledPart
    held: LabelledPart | None
    seed: int


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
    """A copy of the model's weights with a head of random ones, in which the weights of the method may learn."""
    mae = MaskedAutoencoder(job.model.mae.architecture)
    mae.load_state_dict(job.model.mae.state_dict())
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(key(job.seed, "head") % 2**63)
        network = FinetunedNetwork(mae, build_head(mae.architecture, job.record))
        share = let_learn(network, config.method, blocks=config.blocks, rank=config.rank)
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
    """Choose the rate and train, or go on from the checkpoints in `folder`; None where `stop` ended it."""
    tried: dict[float, float] = {}
    if len(config.grid) > 1 and job.held is not None:
        for rate in config.grid:
            outcome = _run(compute, config.at(rate).short(), job, folder / f"rate-{rate:g}", stop, on_event)
            if outcome is None:
                return None
            assert outcome.loss is not None
            tried[rate] = outcome.loss
    rate = min(tried, key=lambda one: tried[one]) if tried else config.grid[0]
    outcome = _run(compute, config.at(rate), job, folder / "chosen", stop, on_event)
    if outcome is None:
        return None
    model = with_weights(job, merged(outcome.weights))
    return Learned(model, outcome.share, rate, tried, outcome.kept_step, outcome.steps)


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
    weights: dict[str, Tensor]
    share: Share
    loss: float | None
    kept_step: int
    steps: int


def _run(
    compute: Compute, config: FinetuneConfig, job: FinetuneJob, folder: Path, stop: Stop, on_event: OnEvent
) -> _Trained | None:
    """One training to its end; the best weights on held-out tiles, else the last."""
    fabric = compute.fabric
    network, share = network_of(job, config)
    training = prepare(
        fabric, network, config, job.seed, compute.precision, job.criterion, job.learned, job.held,
        job.record.classes, folder,
    )  # fmt: skip
    if training.progress.step == 0:
        save(training)
    reader = job.learned.tiles.reader
    order = schedule_batches(job.seed, (len(reader),), config.batch, config.steps, sides=[reader.side_T])
    judged = job.held is not None

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
    return _Trained(
        checkpoints.weights_of(folder, kept), share, training.progress.best_loss, kept, training.progress.step
    )
