"""What a training works on: the model as its strategy wraps it, the optimizer, the data, and where it stands."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from operator import attrgetter
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from geomae.config import PretrainConfig
from geomae.models.architecture import architecture
from geomae.models.folder import standardise
from geomae.models.mae import MaskedAutoencoder, compile_in_place
from geomae.models.masking import MaskRules
from geomae.models.objective import TrainedModel
from geomae.models.textures import TextureTargets
from geomae.models.trainable import Trainable
from geomae.randomness import generator, key
from geomae.runtime.devices import Fabric
from geomae.sensors.band import Groups
from geomae.tiles.batches import BatchSpec
from geomae.tiles.views import ViewRules
from geomae.training import checkpoints
from geomae.training.checkpoints import Progress
from geomae.training.data import Dataset, TrainingData
from geomae.training.optimizer import build_optimizer, decayed
from geomae.training.validation import ValidationScores

MOST_SAMPLED, FEWEST_SAMPLED, SAMPLED_VALUES = 1024, 8, 2**25  # tiles that texture targets are measured on


@dataclass
class Trainer:
    """Everything that the loop works on. `model` is `trained` as the strategy wraps it."""

    fabric: Fabric
    trained: TrainedModel
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
        return batch_spec(self.config, self.seed, self.kept.groups)

    @property
    def kept(self) -> Trainable:
        """The model that is kept."""
        return self.trained.kept


def batch_spec(config: PretrainConfig, seed: int, groups: Groups | None) -> BatchSpec:
    """How a configuration masks and turns tiles for a model of these groups."""
    masking, predict = config.masking, config.decoder.predict
    rules = MaskRules(masking.ratio, masking.kind, masking.groups, masking.band_dropout, predict < 1, groups)
    objective, views = config.objective, config.views
    low, high = config.data.scales
    drawn = ViewRules(
        (low, high), objective.paired, objective.places > 0, objective.contrast > 0, views.gain, views.offset
    )
    return BatchSpec(seed, config.patch, rules, config.data.min_valid_patch, config.data.flips, predict, drawn)


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
        decoder=config.decoder if config.objective.pixels else None,
        positions=config.positions,
        reference_gsd_m=config.reference_gsd_m,
    )
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(key(seed, "weights") % 2**63)
        return MaskedAutoencoder(shape)


def prepare(
    fabric: Fabric,
    mae: Trainable,
    config: PretrainConfig,
    seed: int,
    precision: str,
    training: Sequence[Dataset],
    validation: Sequence[Dataset],
    folder: Path,
) -> Trainer:
    """Wrap the model for its strategy and go on from the newest checkpoint in `folder`, if there is one."""
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(key(seed, "heads") % 2**63)
        measured = training if config.objective.textures else ()
        targets = [texture_targets(one, number, seed) for number, one in enumerate(measured)]
        trained = TrainedModel(mae, config.objective, targets)
    decay = decayed(trained)
    if config.compile:
        compile_in_place(mae)
    model = fabric.setup_module(trained)
    model.mark_forward_method("predict")
    optimizer = build_optimizer(model, decay, config.optimizer.weight_decay)
    fabric.setup_optimizers(optimizer)
    newest = checkpoints.newest(folder)
    progress = Progress()
    if newest is not None:
        path, progress = newest
        checkpoints.restore(path, wrapped(model), optimizer)
    return Trainer(fabric, trained, model, optimizer, config, seed, precision, training, validation, folder, progress)


def texture_targets(one: Dataset, number: int, seed: int) -> TextureTargets:
    """The filters of data set `number` and the usual size of what they say, from tiles that are drawn by the seed."""
    rng = generator(seed, "textures", number)
    sizes = one.index.tiles["size"].to_numpy()
    alike = np.flatnonzero(sizes == sizes[0])
    most = max(SAMPLED_VALUES // (len(one.record.bands) * int(sizes[0]) ** 2), FEWEST_SAMPLED)
    drawn = np.sort(rng.permutation(alike)[: min(most, MOST_SAMPLED)])
    pixels, valid = (torch.from_numpy(values) for values in one.reader.many(drawn.tolist()))
    return TextureTargets(standardise(pixels, valid, one.record), valid, rng)


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
