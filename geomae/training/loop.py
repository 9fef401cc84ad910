"""The training loop: one visible `for` over steps, which yields what happened to whoever reports it.

B tiles of this rank's share of a step, F features of a band's code
"""

import math
import time
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import torch
from lightning_fabric import Fabric
from torch import Tensor

from geomae.config import PretrainConfig
from geomae.errors import TrainingError
from geomae.models.embedding import band_codes
from geomae.models.mae import MaskedAutoencoder
from geomae.models.standardise import standardise
from geomae.tiles.loader import Batch, Draw, fixed_batches, read_ahead
from geomae.tiles.sampler import Plan
from geomae.training import checkpoints
from geomae.training.checkpoints import Progress
from geomae.training.data import Dataset
from geomae.training.devices import working_precision
from geomae.training.evaluate import Scores, evaluate
from geomae.training.optimizer import build_optimizer, decayed, guarded_step
from geomae.training.schedule import learning_rate
from geomae.training.signals import Stop


@dataclass(frozen=True)
class Event:
    """What the loop reports after `step` steps: figures, validation scores, or the folder of a checkpoint."""

    step: int
    figures: dict[str, float] | None = None
    scores: dict[str, Scores] | None = None
    saved: Path | None = None


@dataclass
class Trainer:
    """Everything that the loop works on. `model` is `mae` as the strategy wraps it."""

    fabric: Fabric
    mae: MaskedAutoencoder
    model: Any
    optimizer: torch.optim.Optimizer
    config: PretrainConfig
    seed: int
    precision: str
    training: Sequence[Dataset]
    validation: Sequence[Dataset]
    folder: Path
    progress: Progress

    @property
    def draw(self) -> Draw:
        """How tiles are masked and turned."""
        return draw_of(self.config, self.seed)


def draw_of(config: PretrainConfig, seed: int) -> Draw:
    """How a configuration masks and turns tiles."""
    return Draw(seed, config.patch, config.masking.ratio, config.data.min_valid_patch, config.data.flips)


def prepare(
    fabric: Fabric,
    mae: MaskedAutoencoder,
    config: PretrainConfig,
    seed: int,
    precision: str,
    training: Sequence[Dataset],
    validation: Sequence[Dataset],
    folder: Path,
) -> Trainer:
    """Wrap the model for its strategy and go on from the newest checkpoint in `folder`, if there is one."""
    decay = decayed(mae)
    model = fabric.setup_module(mae)
    model.mark_forward_method("predict")
    optimizer = build_optimizer(model, decay, config.optimizer.weight_decay)
    fabric.setup_optimizers(optimizer)
    fabric.barrier()  # no rank looks for checkpoints while another still tidies up
    found = checkpoints.newest(folder)
    progress = Progress()
    if found is not None:
        path, progress = found
        checkpoints.restore(path, wrapped(model), optimizer)
    return Trainer(fabric, mae, model, optimizer, config, seed, precision, training, validation, folder, progress)


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
        if last or done % config.save_every == 0 or done % config.eval_every == 0:
            check(pulse)  # nothing broken is ever saved
            trainer.progress.step = done
            scores = validate(trainer) if done % config.eval_every == 0 or done == config.steps else None
            if scores is not None:
                yield Event(done, scores=scores)
            if last or done % config.save_every == 0:
                yield Event(done, saved=save(trainer))
            clock.restart()
        if stopping:
            return


@dataclass(frozen=True)
class Pulse:
    """What a step leaves on the device: summed loss, pixels, gradient norm, whether any rank was told to stop."""

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


def one_step(trainer: Trainer, batch: Batch, codes_CF: Tensor, rate: float, stop: Stop) -> Pulse:
    """Forward, backward and update for one batch, in `accumulate` passes, without waiting for the device."""
    fabric, config = trainer.fabric, trainer.config
    record = trainer.training[batch.dataset].record
    # Sums and counts are added over passes and ranks and divided once: a mean of means would weigh tiles with gaps more.
    count = _added(fabric, batch.hidden_B.sum().float().to(fabric.device))
    losses = []
    passes = batch.split(config.accumulate)
    for number, part in enumerate(passes):
        part = part.to(fabric.device)
        with fabric.no_backward_sync(trainer.model, enabled=number + 1 < len(passes)):
            inputs = standardise(part.pixels_BCHW, part.valid_BCHW, record)
            with working_precision(fabric.device, trainer.precision):
                loss = trainer.model(inputs, part.valid_BCHW, codes_CF, part.order_BN, part.visible)
            # The strategy averages gradients over ranks; the sum is wanted.
            fabric.backward(loss.sum_B.sum() * (fabric.world_size / count.clamp(min=1)))
        losses.append(loss.sum_B.detach())
    loss_B = torch.cat(losses)
    total = torch.stack([loss_B.sum().double(), torch.full((), float(stop.signal > 0), device=fabric.device).double()])
    total = _added(fabric, total)
    norm = fabric.clip_gradients(
        trainer.model, trainer.optimizer, max_norm=config.optimizer.clip, error_if_nonfinite=False
    )
    assert isinstance(norm, Tensor)
    broken = ~(torch.isfinite(norm) & torch.isfinite(total[0]))
    guarded_step(trainer.optimizer, rate, broken)
    values = torch.stack([total[0], count.double(), total[1], norm.double()])
    return Pulse(values, batch.tile_ids, loss_B)


def check(pulse: Pulse | None) -> None:
    """Raise TrainingError, naming this rank's tiles, where the step was not finite; all ranks see the same values."""
    if pulse is None or bool(torch.isfinite(pulse.values).all()):
        return
    bad = [
        name for name, value in zip(pulse.tile_ids, pulse.step_loss_B.tolist(), strict=True) if not math.isfinite(value)
    ]
    named = bad or list(pulse.tile_ids)
    more = f" and {len(named) - 8} more" if len(named) > 8 else ""
    what = "loss" if bad else "gradient"
    raise TrainingError(
        f"the {what} is not finite, no weight was changed; tiles: {', '.join(named[:8])}{more}; look at their values "
        "with `geomae catalog check`, or lower optimizer.base_rate and go on with --resume"
    )


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
        add = partial(_added, fabric)
        found[one.name] = evaluate(predict, trainer.mae, one.record, batches, add, baselines=baselines)
    trainer.model.train()
    losses = [scores.loss for scores in found.values()]
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


def wrapped(model: Any) -> torch.nn.Module:
    """The module inside Fabric's wrapper: plain, DDP or FSDP."""
    inner: torch.nn.Module = model._forward_module
    return inner


def _added(fabric: Fabric, values: Tensor) -> Tensor:
    """The sum of `values` over all ranks."""
    total = fabric.all_reduce(values, reduce_op="sum")
    assert isinstance(total, Tensor)
    return total
