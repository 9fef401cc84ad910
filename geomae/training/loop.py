"""The training loop: one visible `for` over steps, each of which never waits for the device.

B tiles of this rank's share of a step
"""

import math
import time
from collections.abc import Iterator
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from geomae.errors import TrainingError
from geomae.models.folder import SensorTensors, sensor_tensors
from geomae.runtime.precision import working_precision
from geomae.runtime.signals import Stop
from geomae.tiles.batches import Batch, BatchSchedule, fixed_batches, read_ahead
from geomae.training import checkpoints
from geomae.training.optimizer import guarded_step, learning_rate
from geomae.training.trainer import Trainer, added, wrapped
from geomae.training.validation import ValidationScores, evaluate


class Clock:
    """Tiles per second, and the share of the time that was spent waiting for data."""

    def __init__(self) -> None:
        self.restart()

    def restart(self) -> None:
        """Forget what was counted: validation and saving are not training time."""
        self._start, self._waited, self._tiles, self._entered = time.perf_counter(), 0.0, 0, 0.0

    def waiting(self) -> "Clock":
        """Count the time of the `with` block as waiting."""
        return self

    def __enter__(self) -> None:
        self._entered = time.perf_counter()

    def __exit__(self, *unused: object) -> None:
        self._waited += time.perf_counter() - self._entered

    def count(self, tiles: int) -> None:
        """Note that a step has gone through `tiles` tiles."""
        self._tiles += tiles

    def lap(self) -> dict[str, float]:
        """Figures since the last lap."""
        seconds = max(time.perf_counter() - self._start, 1e-9)
        figures = {"tiles_per_s": self._tiles / seconds, "data_wait_share": self._waited / seconds}
        self.restart()
        return figures


@dataclass(frozen=True)
class StepResult:
    """What a step leaves on the device: summed loss, pixels, gradient norm, whether any rank has to stop."""

    values: Tensor
    tile_ids: tuple[str, ...]
    step_loss_B: Tensor

    @property
    def stopping(self) -> bool:
        """Whether any rank has seen a signal."""
        return float(self.values[2]) > 0

    def figures(self) -> dict[str, float]:
        """Loss and gradient norm."""
        total, count, _, norm = self.values.tolist()
        return {"loss": total / max(count, 1), "gradient_norm": norm}


def one_step(trainer: Trainer, batch: Batch, sensor: SensorTensors, rate: float, stop: Stop) -> StepResult:
    """Forward, backward and update for one batch, in `accumulate` passes, without waiting for the device."""
    fabric, config = trainer.fabric, trainer.config
    # Sums and counts are added over passes and ranks and divided once: means of means would favour tiles with gaps.
    # A number is filled in on the device: to copy a tensor there would wait for all that is queued.
    count = added(fabric, torch.full((), float(batch.hidden_B.sum()), device=fabric.device))
    losses = []
    passes = batch.split(config.accumulate)
    for number, part in enumerate(passes):
        part = part.to(fabric.device)
        with fabric.no_backward_sync(trainer.model, enabled=number + 1 < len(passes)):
            inputs = sensor.standardise(part.pixels_BCHW, part.valid_BCHW)
            with working_precision(fabric.device, trainer.precision):
                loss = trainer.model(inputs, part.valid_BCHW, sensor.codes_CF, part.mask, sensor.gsd_m)
            # The strategy averages gradients over ranks; the sum is wanted.
            fabric.backward(loss.sum_B.sum() * (fabric.world_size / count.clamp(min=1)))
        losses.append(loss.sum_B.detach())
    loss_B = torch.cat(losses)
    stopping = torch.full((), float(stop.signal > 0), device=fabric.device)
    total = torch.stack([loss_B.sum(), stopping])
    total = added(fabric, total)
    norm = fabric.clip_gradients(
        trainer.model, trainer.optimizer, max_norm=config.optimizer.clip, error_if_nonfinite=False
    )
    assert isinstance(norm, Tensor)
    broken = ~(torch.isfinite(norm) & torch.isfinite(total[0]))
    guarded_step(trainer.optimizer, rate, broken)
    values = torch.stack([total[0], count, total[1], norm])
    return StepResult(values, batch.tile_ids, loss_B)


def check_finite(result: StepResult | None) -> None:
    """Raise TrainingError, naming this rank's tiles, where the step was not finite; all ranks see the same values."""
    if result is None or bool(torch.isfinite(result.values).all()):
        return
    bad = [
        name
        for name, value in zip(result.tile_ids, result.step_loss_B.tolist(), strict=True)
        if not math.isfinite(value)
    ]
    named = bad or list(result.tile_ids)
    more = f" and {len(named) - 8} more" if len(named) > 8 else ""
    what = "loss" if bad else "gradient"
    raise TrainingError(
        f"the {what} is not finite, no weight was changed; tiles: {', '.join(named[:8])}{more}; look at their values "
        "with `geomae catalog check`, or lower optimizer.base_rate and go on with --resume"
    )


@dataclass(frozen=True)
class Event:
    """What the loop reports after `step` steps: figures, scores, a checkpoint, or that pictures or a probe are due."""

    step: int
    figures: dict[str, float] | None = None
    scores: dict[str, ValidationScores] | None = None
    saved: Path | None = None
    picture: bool = False
    probe: bool = False


def train(trainer: Trainer, order: BatchSchedule, stop: Stop) -> Iterator[Event]:
    """Train until `config.steps`, or until a signal has been seen by any rank; the state is saved before it returns.

    Raises TrainingError after a step whose loss or gradient was not finite; such a step changes no weights.
    """
    fabric, config, start = trainer.fabric, trainer.config, trainer.progress.step
    sensors = [sensor_tensors(one.record, fabric.device) for one in trainer.training]
    readers = [one.reader for one in trainer.training]
    batches = read_ahead(
        readers, order, trainer.spec, range(start, config.steps), fabric.global_rank, fabric.world_size,
        config.data.readers, fabric.device.type == "cuda",
    )  # fmt: skip
    clock = Clock()
    result: StepResult | None = None  # of the step before: read late, so that the device is never waited for
    trainer.model.train()
    for step in range(start, config.steps):
        with clock.waiting():
            batch = next(batches)
        rate = learning_rate(step, config)
        before, result = result, one_step(trainer, batch, sensors[batch.dataset], rate, stop)
        check_finite(before)
        clock.count(config.batch)
        done = step + 1
        stopping = before is not None and before.stopping
        last = done == config.steps or stopping
        if done % config.log_every == 0 or last:
            yield Event(done, figures=result.figures() | {"rate": rate} | clock.lap())
        due = {name: _due(done, getattr(config, f"{name}_every")) for name in ("save", "eval", "picture", "probe")}
        if last or any(due.values()):
            check_finite(result)  # nothing broken is ever saved
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


def validate(trainer: Trainer, *, baselines: bool = False) -> dict[str, ValidationScores]:
    """Scores of every validation data set under its fixed masks, the same on all ranks."""
    fabric = trainer.fabric
    trainer.model.eval()

    def predict(*inputs: Any) -> Tensor:
        with working_precision(fabric.device, trainer.precision):
            predicted: Tensor = trainer.model.predict(*inputs)
            return predicted

    scores = {}
    for number, one in enumerate(trainer.validation):
        batches = fixed_batches(
            one.reader, number, range(len(one.reader)), trainer.spec, trainer.config.batch,
            fabric.global_rank, fabric.world_size,
        )  # fmt: skip
        add = partial(added, fabric)
        scores[one.name] = evaluate(predict, trainer.mae, one.record, batches, add, baselines=baselines)
    trainer.model.train()
    losses = [trainer.judge(one) for one in scores.values()]
    mean = sum(losses) / len(losses) if losses else None
    progress = trainer.progress
    if mean is not None and (progress.best_loss is None or mean < progress.best_loss):
        progress.best_loss, progress.best_step = mean, progress.step
    return scores


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
