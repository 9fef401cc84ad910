"""Masked pretraining that goes on with the tiles of a target, until held-out ones are no longer predicted better."""

from collections.abc import Iterator, Mapping
from dataclasses import dataclass, replace

import torch
from torch import Tensor

from geomae.config import AdaptConfig
from geomae.models.folder import Model
from geomae.models.low_rank import merged
from geomae.models.mae import MaskedAutoencoder
from geomae.models.unfreeze import Share, unfreeze
from geomae.randomness import key
from geomae.tiles.sampler import plan
from geomae.training import checkpoints
from geomae.training.adaptation import training_config
from geomae.training.checkpoints import Progress
from geomae.training.evaluate import MODEL
from geomae.training.loop import Event, save, train, validate
from geomae.training.signals import Stop
from geomae.training.trainer import Trainer, prepare
from geomae.workflows.adapt_data import Domains
from geomae.workflows.analysis_run import AnalysisRun
from geomae.workflows.embedding import Session


@dataclass(frozen=True)
class Adapted:
    """The adapted model, merged into plain weights; what learned; the step whose weights are kept, and the last one."""

    model: Model
    share: Share
    kept_step: int
    steps: int


def adapt_weights(
    session: Session, config: AdaptConfig, domains: Domains, run: AnalysisRun, stop: Stop
) -> Adapted | None:
    """Train, or go on with a training in the folder of the run; None where `stop` ended it.

    The weights of the best validation are kept; where no step was better than the start, those of the start.
    """
    shape, seed = domains.model.mae.architecture, session.common.seed
    mae = MaskedAutoencoder(shape)
    mae.load_state_dict(domains.model.mae.state_dict())
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(key(seed, "low rank") % 2**63)
        share = unfreeze(mae, config.method, blocks=config.whole_blocks, rank=config.rank)
    training = [one.training for one in domains.all]
    trainer = prepare(
        session.fabric, mae, training_config(config, shape), seed, session.precision, training, [domains.target.held],
        run.folder.checkpoints,
    )  # fmt: skip
    # What is reported in the end; the loss follows it only roughly, since it does not weigh bands alike.
    trainer.judge = lambda scores: scores.mean(MODEL)
    run.folder.forget_after(trainer.progress.step)
    if trainer.progress.step == 0:
        _report(run, config, Event(0, scores=validate(trainer)))  # the start is the first that has to be beaten
        save(trainer)
    shares = (1 - config.replay, config.replay)[: len(training)]
    order = plan(seed, tuple(len(one.reader) for one in training), config.batch, config.steps, shares)
    if not _train(trainer, config, run, train(trainer, order, stop)):
        return None
    kept = trainer.progress.best_step or 0
    weights = checkpoints.weights_of(run.folder.checkpoints, kept)
    return Adapted(_plain(domains.model, weights), share, kept, trainer.progress.step)


def _train(trainer: Trainer, config: AdaptConfig, run: AnalysisRun, events: Iterator[Event]) -> bool:
    """Follow the loop to its end or until it no longer helps; False where a signal ended it."""
    if not stale(trainer.progress, config):
        for event in events:
            _report(run, config, event)
            if event.scores is not None and stale(trainer.progress, config):
                break
    run.screen.close()
    return trainer.progress.step == config.steps or stale(trainer.progress, config)


def stale(progress: Progress, config: AdaptConfig) -> bool:
    """Whether the last `patience` validations brought no new best."""
    return progress.step - (progress.best_step or 0) >= config.patience * config.eval_every


def _report(run: AnalysisRun, config: AdaptConfig, event: Event) -> None:
    """Take note of what the loop says."""
    figures = {f"train/{name}": value for name, value in (event.figures or {}).items()}
    for name, scores in (event.scores or {}).items():
        figures |= scores.metrics(name)
    if figures:
        run.folder.log(event.step, figures)
        run.tracker.log_metrics(figures, event.step)
    if event.figures is not None:
        run.step("adapting", event.step, config.steps, f"loss {event.figures['loss']:.4f}")


def _plain(before: Model, weights: Mapping[str, Tensor]) -> Model:
    """The model with other weights, corrections merged into them."""
    mae = MaskedAutoencoder(before.mae.architecture)
    mae.load_state_dict(merged(weights))
    return replace(before, mae=mae.eval())
