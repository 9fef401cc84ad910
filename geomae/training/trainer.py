"""What a training works on: the model as its strategy wraps it, the optimizer, the data, and where it stands."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from operator import attrgetter
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from geomae.config import PretrainConfig
from geomae.models.architecture import architecture
from geomae.models.mae import MaskedAutoencoder, compile_in_place
from geomae.models.masking import MaskRules
from geomae.randomness import key
from geomae.runtime.devices import Fabric
from geomae.sensors.band import Groups
from geomae.tiles.batches import BatchSpec
from geomae.training import checkpoints
from geomae.training.checkpoints import Progress
from geomae.training.data import Dataset, TrainingData
from geomae.training.optimizer import build_optimizer, decayed
from geomae.training.validation import ValidationScores


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
    judge: Callable[[ValidationScores], float] = attrgetter("loss")  # of validations; the least is the best

    @property
    def spec(self) -> BatchSpec:
        """How tiles are masked and turned."""
        return batch_spec(self.config, self.seed, self.mae.architecture.groups)


def batch_spec(config: PretrainConfig, seed: int, groups: Groups | None) -> BatchSpec:
    """How a configuration masks and turns tiles for a model of these groups."""
    masking, predict = config.masking, config.decoder.predict
    rules = MaskRules(masking.ratio, masking.kind, masking.groups, masking.band_dropout, predict < 1, groups)
    return BatchSpec(seed, config.patch, rules, config.data.min_valid_patch, config.data.flips, predict)


def initial_model(config: PretrainConfig, data: TrainingData, seed: int) -> MaskedAutoencoder:
    """A model for the bands and groups of `data`, whose initial weights are a function of the seed."""
    shape = architecture(
        config.preset,
        kind=config.model,
        bands=len(data.training[0].record.bands),
        groups=data.groups,
        patch=config.patch,
        embedding=config.embedding,
        target=config.target,
        decoder=config.decoder,
        positions=config.positions,
        reference_gsd_m=config.reference_gsd_m,
    )
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(key(seed, "weights") % 2**63)
        return MaskedAutoencoder(shape)


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
    if config.compile:
        compile_in_place(mae)
    model = fabric.setup_module(mae)
    model.mark_forward_method("predict")
    optimizer = build_optimizer(model, decay, config.optimizer.weight_decay)
    fabric.setup_optimizers(optimizer)
    newest = checkpoints.newest(folder)
    progress = Progress()
    if newest is not None:
        path, progress = newest
        checkpoints.restore(path, wrapped(model), optimizer)
    return Trainer(fabric, mae, model, optimizer, config, seed, precision, training, validation, folder, progress)


def wrapped(model: Any) -> torch.nn.Module:
    """The module inside Fabric's wrapper: plain, DDP or FSDP."""
    inner: torch.nn.Module = model._forward_module
    return inner


def added(fabric: Fabric, values: Tensor) -> Tensor:
    """The sum of `values` over all ranks."""
    total = fabric.all_reduce(values, reduce_op="sum")
    assert isinstance(total, Tensor)
    return total
