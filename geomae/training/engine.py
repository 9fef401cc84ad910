"""What every training is: a network as its strategy wraps it, its optimizer, and where it stands. What is learned from
which tiles, and how that is judged, is said by the kinds of training: pretraining (trainer.py), fine-tuning
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
    """What the loop reads of a configuration; it may have `picture_every` and `probe_every`, too."""

    @property
    def steps(self) -> int:
        """Optimizer steps."""

    @property
    def batch(self) -> int:
        """Tiles per step, over all devices."""

    @property
    def accumulate(self) -> int:
        """Passes over which a step's tiles are split."""

    @property
    def optimizer(self) -> Optimizer:
        """Rate, warm-up, decay and clipping."""

    @property
    def log_every(self) -> int:
        """Steps between logged figures."""

    @property
    def eval_every(self) -> int:
        """Steps between validations."""

    @property
    def save_every(self) -> int:
        """Steps between checkpoints."""

    @property
    def keep(self) -> int:
        """Newest checkpoints kept, beside the best."""


class StepBatch(Protocol):
    """The tiles of a step, or of a pass of it."""

    @property
    def tile_ids(self) -> tuple[str, ...]:
        """Names of the tiles."""

    def to(self, device: torch.device) -> Self:
        """The batch on `device`."""

    def split(self, parts: int) -> Sequence[Self]:
        """The batch in equal passes."""


class Scores(Protocol):
    """What a validation found."""

    @property
    def loss(self) -> float:
        """The least is the best."""

    def metrics(self, dataset: str) -> dict[str, float]:
        """Flat figures by name."""


@dataclass
class Training(ABC):
    """Everything that the loop works on. `model` is `trained` as the strategy wraps it."""

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
        """This rank's share of the tiles of `steps` (each a `StepBatch`), made ahead of their use."""

    @abstractmethod
    def counts(self, batch: Any) -> list[float]:
        """What the loss of each term is divided by, of this rank's tiles; known on the host before the step begins."""

    @abstractmethod
    def losses(self, part: Any) -> tuple[Tensor, Tensor | None]:
        """Of a pass on the device: the loss of each term as sums over each tile (T, B), nothing divided; and what the
        encoder says of the tiles (B, D), where its rank is to be watched.
        """

    @abstractmethod
    def scores(self, *, baselines: bool) -> Mapping[str, Scores]:
        """Scores of every validation data set, the same on all ranks; the mode of the network is set by the caller."""

    def judge(self, scores: Any) -> float:
        """Of the scores of a validation data set: the least is the best."""
        return float(scores.loss)


def restored(folder: Path, model: Any, optimizer: torch.optim.Optimizer) -> Progress:
    """Go on from the newest checkpoint in `folder`, if there is one."""
    newest = checkpoints.newest(folder)
    if newest is None:
        return Progress()
    path, progress = newest
    checkpoints.restore(path, wrapped(model), optimizer)
    return progress


class Patience(Protocol):
    """When a training is stopped early."""

    @property
    def patience(self) -> int:
        """Validations without a new best."""

    @property
    def eval_every(self) -> int:
        """Steps between validations."""


def stale(progress: Progress, config: Patience) -> bool:
    """Whether the last `patience` validations brought no new best."""
    return progress.step - (progress.best_step or 0) >= config.patience * config.eval_every


def wrapped(model: Any) -> torch.nn.Module:
    """The module inside Fabric's wrapper: plain, DDP or FSDP."""
    inner: torch.nn.Module = model._forward_module
    return inner


def added(fabric: Fabric, values: Tensor) -> Tensor:
    """The sum of `values` over all ranks."""
    total = fabric.all_reduce(values, reduce_op="sum")
    assert isinstance(total, Tensor)
    return total


def gathered(fabric: Fabric, rows: Tensor) -> Tensor:
    """The rows (B, ...) of every rank, one rank after the other: (G, ...); gradients flow back to each rank's own."""
    if fabric.world_size == 1:
        return rows
    every = fabric.all_gather(rows, sync_grads=True)
    assert isinstance(every, Tensor)
    return every.flatten(0, 1)
