"""The training loop: one visible `for` over steps. A step never waits for the device.

B tiles of this rank's share of a step
"""

import math
import time
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from geomae.errors import TrainingError
from geomae.metrics.effective_rank import rank_of_rows
from geomae.runtime.signals import Stop
from geomae.tiles.schedule import BatchSchedule
from geomae.training import checkpoints
from geomae.training.engine import StepBatch, Training, added, wrapped
from geomae.training.optimizer import guarded_step, learning_rate


class Clock:
    """Measures tiles per second, and the fraction of the time spent waiting for data."""

    def __init__(self) -> None:
        self.restart()

    def restart(self) -> None:
        """Reset all counts, so that validation and saving do not count as training time."""
        self._start, self._waited, self._tiles, self._entered = time.perf_counter(), 0.0, 0, 0.0

    def waiting(self) -> "Clock":
        """Return a context whose duration counts as waiting."""
        return self

    def __enter__(self) -> None:
        self._entered = time.perf_counter()

    def __exit__(self, *unused: object) -> None:
        self._waited += time.perf_counter() - self._entered

    def count(self, tiles: int) -> None:
        """Add the tiles of a step."""
        self._tiles += tiles

    def lap(self) -> dict[str, float]:
        """Return the metrics since the last lap or restart, and restart."""
        seconds = max(time.perf_counter() - self._start, 1e-9)
        figures = {"tiles_per_s": self._tiles / seconds, "data_wait_share": self._waited / seconds}
        self.restart()
        return figures


@dataclass(frozen=True)
class StepResult:
    """The result of a step; its tensors stay on the device.

    `values` holds: whether any rank has to stop, the gradient norm, and for each of `terms` the summed loss and its
    count. `pooled_BD` are the embeddings of this rank's tiles, where the effective rank is logged.
    """

    values: Tensor
    terms: dict[str, float]  # term of the loss -> weight
    tile_ids: tuple[str, ...]
    step_loss_B: Tensor
    pooled_BD: Tensor | None

    @property
    def stopping(self) -> bool:
        """Whether any rank has seen a signal."""
        return float(self.values[0]) > 0

    def figures(self) -> dict[str, float]:
        """Return the loss, each term's loss where there are several, the gradient norm and the effective rank.

        Waits for the device.
        """
        _, norm, *sums = self.values.tolist()
        losses = {
            term: total / max(count, 1) for term, total, count in zip(self.terms, sums[::2], sums[1::2], strict=True)
        }
        loss = sum(self.terms[term] * value for term, value in losses.items())
        parts = losses if len(losses) > 1 else {}
        used = {} if self.pooled_BD is None else {"effective_rank": rank_of_rows(self.pooled_BD.cpu().numpy())}
        return {"loss": loss, **parts, "gradient_norm": norm, **used}


def one_step(trainer: Training, batch: StepBatch, rate: float, stop: Stop) -> StepResult:
    """Run forward, backward and update for one batch, in `accumulate` passes, without waiting for the device."""
    fabric, config = trainer.fabric, trainer.config
    terms = dict(trainer.terms)
    # Sums and counts are added over passes and ranks and divided once: means of means would overweight tiles with
    # gaps. `full` creates the counts on the device, because copying a tensor there would wait for all queued work.
    filled = [torch.full((), count, device=fabric.device) for count in trainer.counts(batch)]
    count_T = added(fabric, torch.stack(filled))
    losses, pooled = [], []
    passes = batch.split(config.accumulate)
    for number, part in enumerate(passes):
        part = part.to(fabric.device)
        with fabric.no_backward_sync(trainer.model, enabled=number + 1 < len(passes)):
            loss_TB, pooled_BD = trainer.losses(part)
            # The strategy averages gradients over ranks, but the sum is needed: hence the factor world_size.
            total = sum(
                weight * loss_B.sum() * (fabric.world_size / count.clamp(min=1))
                for weight, loss_B, count in zip(terms.values(), loss_TB, count_T, strict=True)
            )
            fabric.backward(total)
        losses.append(loss_TB.detach())
        pooled += [] if pooled_BD is None else [pooled_BD]
    loss_TB = torch.cat(losses, dim=1)
    stopping = torch.full((1,), float(stop.signal > 0), device=fabric.device)
    totals = added(fabric, torch.cat([stopping, loss_TB.sum(1)]))
    norm = fabric.clip_gradients(
        trainer.model, trainer.optimizer, max_norm=config.optimizer.clip, error_if_nonfinite=False
    )
    assert isinstance(norm, Tensor)
    broken = ~(torch.isfinite(norm) & torch.isfinite(totals[1:].sum()))
    guarded_step(trainer.optimizer, rate, broken)
    values = torch.cat([totals[:1], norm[None], torch.stack([totals[1:], count_T], dim=1).flatten()])
    return StepResult(values, terms, batch.tile_ids, loss_TB.sum(0), torch.cat(pooled) if pooled else None)


def check_finite(result: StepResult | None) -> None:
    """Raise TrainingError, naming this rank's tiles, where loss or gradient is not finite; all ranks raise together."""
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
    """A report of the loop after `step` steps: metrics, scores, a checkpoint, or that a picture or a probe is due."""

    step: int
    figures: dict[str, float] | None = None
    scores: Mapping[str, Any] | None = None
    saved: Path | None = None
    picture: bool = False
    probe: bool = False


def train(trainer: Training, order: BatchSchedule, stop: Stop) -> Iterator[Event]:
    """Train until `config.steps`, or until any rank has received a signal. The state is saved before it returns.

    Yields an event for each report. Raises TrainingError after a step whose loss or gradient was not finite; such a
    step changes no weights.
    """
    config, start = trainer.config, trainer.progress.step
    batches = trainer.batches(order, range(start, config.steps))
    clock = Clock()
    result: StepResult | None = None  # read one step later, so that the loop never waits for the device
    trainer.model.train()
    for step in range(start, config.steps):
        with clock.waiting():
            batch = next(batches)
        rate = learning_rate(step, config)
        before, result = result, one_step(trainer, batch, rate, stop)
        check_finite(before)
        clock.count(config.batch)
        done = step + 1
        stopping = before is not None and before.stopping
        last = done == config.steps or stopping
        if done % config.log_every == 0 or last:
            yield Event(done, figures=result.figures() | {"rate": rate} | clock.lap())
        due = {name: _due(done, getattr(config, f"{name}_every", 0)) for name in ("save", "eval", "picture", "probe")}
        if last or any(due.values()):
            check_finite(result)  # before saving: a checkpoint never holds a failed step
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


def validate(trainer: Training, *, baselines: bool = False) -> Mapping[str, Any]:
    """Return the scores of every validation data set, equal on all ranks, and record the best step in the progress."""
    trainer.model.eval()
    scores = trainer.scores(baselines=baselines)
    trainer.model.train()
    losses = [trainer.judge(one) for one in scores.values()]
    mean = sum(losses) / len(losses) if losses else None
    progress = trainer.progress
    if mean is not None and (progress.best_loss is None or mean < progress.best_loss):
        progress.best_loss, progress.best_step = mean, progress.step
    return scores


def save(trainer: Training) -> Path:
    """Publish a checkpoint and return its path. Rank 0 writes; the others wait, so that none outruns a failed write."""
    inner = wrapped(trainer.model)
    weights = checkpoints.collect_weights(inner)
    moments = checkpoints.collect_moments(inner, trainer.optimizer)
    path = trainer.folder / f"step-{trainer.progress.step:08d}"
    if trainer.fabric.is_global_zero:
        checkpoints.publish(trainer.folder, weights, moments, trainer.progress)
        checkpoints.prune(trainer.folder, trainer.config.keep, trainer.progress.best_step)
    trainer.fabric.barrier()
    return path
