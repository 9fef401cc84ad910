"""The training loop: one visible `for` over steps, which yields what happened to whoever reports it."""

from collections.abc import Iterator
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

from torch import Tensor

from geomae.models.embedding import band_codes
from geomae.tiles.loader import fixed_batches, read_ahead
from geomae.tiles.sampler import Plan
from geomae.training import checkpoints
from geomae.training.clock import Clock
from geomae.training.evaluate import Scores, evaluate
from geomae.training.precision import working_precision
from geomae.training.schedule import learning_rate
from geomae.training.signals import Stop
from geomae.training.step import Pulse, check, one_step
from geomae.training.trainer import Trainer, added, wrapped


@dataclass(frozen=True)
class Event:
    """What the loop reports after `step` steps: figures, scores, a checkpoint, or that pictures or a probe are due."""

    step: int
    figures: dict[str, float] | None = None
    scores: dict[str, Scores] | None = None
    saved: Path | None = None
    picture: bool = False
    probe: bool = False


def train(trainer: Trainer, order: Plan, stop: Stop) -> Iterator[Event]:
    """Train until `config.steps`, or until a signal has been seen by any rank; the state is saved before it returns.

    Raises TrainingError after a step whose loss or gradient was not finite; such a step changes no weights.
    """
    fabric, config, start = trainer.fabric, trainer.config, trainer.progress.step
    codes = [band_codes(one.record.bands).to(fabric.device) for one in trainer.training]
    readers = [one.reader for one in trainer.training]
    batches = read_ahead(
        readers, order, trainer.draw, range(start, config.steps), fabric.global_rank, fabric.world_size,
        config.data.readers, fabric.device.type == "cuda",
    )  # fmt: skip
    clock = Clock()
    pulse: Pulse | None = None  # of the step before: read late, so that the device is never waited for
    trainer.model.train()
    for step in range(start, config.steps):
        with clock.waiting():
            batch = next(batches)
        rate = learning_rate(step, config)
        before, pulse = pulse, one_step(trainer, batch, codes[batch.dataset], rate, stop)
        check(before)
        clock.count(config.batch)
        done = step + 1
        stopping = before is not None and before.stopping
        last = done == config.steps or stopping
        if done % config.log_every == 0 or last:
            yield Event(done, figures=pulse.figures() | {"rate": rate} | clock.lap())
        due = {name: _due(done, getattr(config, f"{name}_every")) for name in ("save", "eval", "picture", "probe")}
        if last or any(due.values()):
            check(pulse)  # nothing broken is ever saved
            trainer.progress.step = done
            scores = validate(trainer) if due["eval"] or done == config.steps else None
            if scores is not None:
                yield Event(done, scores=scores)
            if last or due["save"] or trainer.progress.best_step == done:
                yield Event(done, saved=save(trainer))
            if (due["picture"] or due["probe"]) and not last:
                yield Event(done, picture=due["picture"], probe=due["probe"])
            clock.restart()
        if stopping:
            return


def _due(done: int, every: int) -> bool:
    return every > 0 and done % every == 0


def validate(trainer: Trainer, *, baselines: bool = False) -> dict[str, Scores]:
    """Scores of every validation data set under its fixed masks, the same on all ranks."""
    fabric = trainer.fabric
    trainer.model.eval()

    def predict(*inputs: Any) -> Tensor:
        with working_precision(fabric.device, trainer.precision):
            predicted: Tensor = trainer.model.predict(*inputs)
            return predicted

    found = {}
    for number, one in enumerate(trainer.validation):
        batches = fixed_batches(
            one.reader, number, range(len(one.reader)), trainer.draw, trainer.config.batch,
            fabric.global_rank, fabric.world_size,
        )  # fmt: skip
        add = partial(added, fabric)
        found[one.name] = evaluate(predict, trainer.mae, one.record, batches, add, baselines=baselines)
    trainer.model.train()
    losses = [trainer.judge(scores) for scores in found.values()]
    mean = sum(losses) / len(losses) if losses else None
    progress = trainer.progress
    if mean is not None and (progress.best_loss is None or mean < progress.best_loss):
        progress.best_loss, progress.best_step = mean, progress.step
    return found


def save(trainer: Trainer) -> Path:
    """Publish the state; rank 0 writes, the others wait, so that none runs ahead of a checkpoint that failed."""
    inner = wrapped(trainer.model)
    weights = checkpoints.collect_weights(inner)
    moments = checkpoints.collect_moments(inner, trainer.optimizer)
    path = trainer.folder / f"step-{trainer.progress.step:08d}"
    if trainer.fabric.is_global_zero:
        checkpoints.publish(trainer.folder, weights, moments, trainer.progress)
        checkpoints.prune(trainer.folder, trainer.config.keep, trainer.progress.best_step)
    trainer.fabric.barrier()
    return path
