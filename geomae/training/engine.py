"""The common base of all trainings: a network wrapped by its strategy, its optimizer and its progress.

The kinds of training define batches, losses and validation scores: pretraining (trainer.py), fine-tuning
(supervised.py).

B tiles of this rank's share of a step, T terms of the loss
"""

from abc import ABC, abstractmethod
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Protocol, Self

import torch
from torch import Tensor

from geomae.config import Optimizer
from geomae.runtime.devices import Fabric
from geomae.tiles.schedule import BatchSchedule
from geomae.training import checkpoints
from geomae.training.checkpoints import Progress


class LoopConfig(Protocol):
    """The settings that the loop reads from a configuration; `picture_every` and `probe_every` are optional."""

    @property
    def steps(self) -> int:
        """Optimizer steps."""

    @property
    def batch(self) -> int:
        """Tiles per step, over all devices."""

    @property
    def accumulate(self) -> int:
        """Gradient accumulation: passes over which a step's tiles are split."""

    @property
    def optimizer(self) -> Optimizer:
        """Learning rate, warm-up, weight decay and gradient clipping."""

    @property
    def log_every(self) -> int:
        """Steps between logged metrics."""

    @property
    def eval_every(self) -> int:
        """Steps between validations."""

    @property
    def save_every(self) -> int:
        """Steps between checkpoints."""

    @property
    def keep(self) -> int:
        """Number of newest checkpoints that are kept, in addition to the best."""


class StepBatch(Protocol):
    """The tiles of a step, or of one accumulation pass of it."""

    @property
    def tile_ids(self) -> tuple[str, ...]:
        """Names of the tiles."""

    def to(self, device: torch.device) -> Self:
        """Return the batch on `device`."""

    def split(self, parts: int) -> Sequence[Self]:
        """Return the batch split into equal parts, one per accumulation pass."""


class Scores(Protocol):
    """The result of a validation on one data set."""

    @property
    def loss(self) -> float:
        """The validation loss; lower is better."""

    def metrics(self, dataset: str) -> dict[str, float]:
        """Return flat metrics by name."""


@dataclass
class Training(ABC):
    """The state that the loop works on. `model` is the network `trained`, wrapped by the strategy."""

    fabric: Fabric
    trained: torch.nn.Module
    model: Any
    optimizer: torch.optim.Optimizer
    config: LoopConfig
    seed: int
    precision: str
    folder: Path
    progress: Progress

    @property
    @abstractmethod
    def terms(self) -> Mapping[str, float]:
        """The terms of the loss, with their weights."""

    @abstractmethod
    def batches(self, order: BatchSchedule, steps: range) -> Iterator[Any]:
        """Yield this rank's tiles of each step (a `StepBatch`); they are read ahead."""

    @abstractmethod
    def counts(self, batch: Any) -> list[float]:
        """Return the denominator of each term of the loss, over this rank's tiles, without reading from the device."""

    @abstractmethod
    def losses(self, part: Any) -> tuple[Tensor, Tensor | None]:
        """Return the losses of a batch on the device (T, B): for each term, the sum over each tile, not divided.

        Also returns the embeddings of the tiles (B, D), whose effective rank is logged, or None.
        """

    @abstractmethod
    def scores(self, *, baselines: bool) -> Mapping[str, Scores]:
        """Return the scores of every validation data set, equal on all ranks. The caller sets the network's mode."""

    def judge(self, scores: Any) -> float:
        """Return the number by which the best checkpoint is chosen, for one validation data set; lower is better."""
        return float(scores.loss)


def restored(folder: Path, model: Any, optimizer: torch.optim.Optimizer) -> Progress:
    """Load the newest checkpoint in `folder` if there is one, and return its progress."""
    newest = checkpoints.newest(folder)
    if newest is None:
        return Progress()
    path, progress = newest
    checkpoints.restore(path, wrapped(model), optimizer)
    return progress


class Patience(Protocol):
    """Settings of early stopping."""

    @property
    def patience(self) -> int:
        """Validations without a new best after which training stops."""

    @property
    def eval_every(self) -> int:
        """Steps between validations."""


def stale(progress: Progress, config: Patience) -> bool:
    """Whether the last `patience` validations brought no new best."""
    return progress.step - (progress.best_step or 0) >= config.patience * config.eval_every


def wrapped(model: Any) -> torch.nn.Module:
    """Return the module inside Fabric's wrapper: the plain module, DDP or FSDP."""
    inner: torch.nn.Module = model._forward_module
    return inner


def added(fabric: Fabric, values: Tensor) -> Tensor:
    """Return the sum of `values` over all ranks."""
    total = fabric.all_reduce(values, reduce_op="sum")
    assert isinstance(total, Tensor)
    return total


def gathered(fabric: Fabric, rows: Tensor) -> Tensor:
    """Concatenate the rows (B, ...) of all ranks to (G, ...), in rank order; gradients reach each rank's own rows."""
    if fabric.world_size == 1:
        return rows
    every = fabric.all_gather(rows, sync_grads=True)
    assert isinstance(every, Tensor)
    return every.flatten(0, 1)
