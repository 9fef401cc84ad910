"""One step of training: forward, backward, update, without ever waiting for the device.

B tiles of this rank's share of a step, F features of a band's code
"""

import math
from dataclasses import dataclass

import torch
from torch import Tensor

from geomae.errors import TrainingError
from geomae.models.standardise import standardise
from geomae.tiles.loader import Batch
from geomae.training.optimizer import guarded_step
from geomae.training.precision import working_precision
from geomae.training.signals import Stop
from geomae.training.trainer import Trainer, added


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
    # Sums and counts are added over passes and ranks and divided once: means of means would favour tiles with gaps.
    # A number is filled in on the device: to copy a tensor there would wait for all that is queued.
    count = added(fabric, torch.full((), float(batch.hidden_B.sum()), device=fabric.device))
    losses = []
    passes = batch.split(config.accumulate)
    for number, part in enumerate(passes):
        part = part.to(fabric.device)
        with fabric.no_backward_sync(trainer.model, enabled=number + 1 < len(passes)):
            inputs = standardise(part.pixels_BCHW, part.valid_BCHW, record)
            with working_precision(fabric.device, trainer.precision):
                mask = (part.order_BX, part.visible, part.shown_BC, part.predicted)
                loss = trainer.model(inputs, part.valid_BCHW, codes_CF, *mask, record.gsd_m)
            # The strategy averages gradients over ranks; the sum is wanted.
            fabric.backward(loss.sum_B.sum() * (fabric.world_size / count.clamp(min=1)))
        losses.append(loss.sum_B.detach())
    loss_B = torch.cat(losses)
    told = torch.full((), float(stop.signal > 0), device=fabric.device)
    total = torch.stack([loss_B.sum(), told])
    total = added(fabric, total)
    norm = fabric.clip_gradients(
        trainer.model, trainer.optimizer, max_norm=config.optimizer.clip, error_if_nonfinite=False
    )
    assert isinstance(norm, Tensor)
    broken = ~(torch.isfinite(norm) & torch.isfinite(total[0]))
    guarded_step(trainer.optimizer, rate, broken)
    values = torch.stack([total[0], count, total[1], norm])
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
