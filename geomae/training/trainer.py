"""Pretraining as a `Training`: masked tiles, the terms of an objective, and their scores on held-out tiles."""

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property, partial
from operator import attrgetter
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from geomae.config import PretrainConfig
from geomae.models.architecture import architecture
from geomae.models.folder import SensorTensors, sensor_tensors, standardise
from geomae.models.mae import MaskedAutoencoder, compile_in_place
from geomae.models.masking import MaskRules
from geomae.models.objective import TERMS, TrainedModel
from geomae.models.textures import TextureTargets
from geomae.models.trainable import Loss, Trainable, View
from geomae.randomness import generator, key
from geomae.runtime.devices import Fabric
from geomae.runtime.precision import working_precision
from geomae.sensors.band import Groups
from geomae.tiles.batches import Batch, BatchSpec, fixed_batches, read_ahead
from geomae.tiles.places import find_partners
from geomae.tiles.schedule import BatchSchedule
from geomae.tiles.views import ViewRules
from geomae.training.data import Dataset, TrainingData
from geomae.training.engine import Training, added, gathered, restored
from geomae.training.optimizer import build_optimizer, decayed
from geomae.training.validation import ValidationScores, evaluate, evaluate_contrast

MOST_SAMPLED, FEWEST_SAMPLED, SAMPLED_VALUES = 1024, 8, 2**25  # tiles, and pixel values, that texture targets sample


@dataclass
class Trainer(Training):
    """A pretraining or adaptation: tiles under masks, and the terms of an objective."""

    trained: TrainedModel
    config: PretrainConfig
    training: Sequence[Dataset] = ()
    validation: Sequence[Dataset] = ()
    judged_by: Callable[[ValidationScores], float] = attrgetter("loss")  # lower is better

    @property
    def spec(self) -> BatchSpec:
        """Masking and augmentation of the tiles."""
        return batch_spec(self.config, self.seed, self.kept.groups)

    @property
    def kept(self) -> Trainable:
        """The model itself, without the heads that only training needs."""
        return self.trained.kept

    @property
    def terms(self) -> Mapping[str, float]:
        """See `Training`."""
        return self.config.objective.weights()

    @cached_property
    def sensors(self) -> dict[int, SensorTensors]:
        """Statistics and spectral codes of the training data sets, on the device, by number of the data set."""
        return {number: sensor_tensors(one.record, self.fabric.device) for number, one in enumerate(self.training)}

    def batches(self, order: BatchSchedule, steps: range) -> Iterator[Batch]:
        """See `Training`."""
        fabric = self.fabric
        return read_ahead(
            [one.reader for one in self.training], order, self.spec, steps, fabric.global_rank, fabric.world_size,
            self.config.data.readers, fabric.device.type == "cuda",
        )  # fmt: skip

    def counts(self, batch: Batch) -> list[float]:
        """See `Training`."""
        return [TERMS[term].count(batch) for term in self.terms]

    def losses(self, part: Batch) -> tuple[Tensor, Tensor]:
        """See `Training`."""
        first, second = views_of(part, self.sensors)
        with working_precision(self.fabric.device, self.precision):
            found = self.model(first, second, part.negatives, partial(gathered, self.fabric))
        return torch.stack([one.sum_B for one in found.by_term.values()]), found.pooled_BD

    def scores(self, *, baselines: bool) -> dict[str, ValidationScores]:
        """Return the scores of every validation data set under fixed masks."""
        return {
            one.name: _reconstruction(self, number, one, baselines)
            if self.config.objective.pixels
            else _comparison(self, number, one)
            for number, one in enumerate(self.validation)
        }

    def judge(self, scores: ValidationScores) -> float:
        """See `Training`."""
        return self.judged_by(scores)


def views_of(batch: Batch, sensors: Mapping[int, SensorTensors]) -> tuple[View, View | None]:
    """Return the first and the second view of a batch, standardised. `sensors` is keyed by number of the data set."""
    sensor = sensors[batch.dataset]
    inputs = sensor.standardise(batch.pixels_BCHW, batch.valid_BCHW)
    if batch.altered is not None:
        gain_BC, offset_BC = batch.altered
        inputs = (inputs * gain_BC[..., None, None] + offset_BC[..., None, None]).where(batch.valid_BCHW, 0)
    gsd_m = sensor.gsd_m if batch.zoom_B is None or sensor.gsd_m is None else sensor.gsd_m * batch.zoom_B
    first = View(inputs, batch.valid_BCHW, sensor.codes_CF, batch.mask, gsd_m, batch.dataset)
    return first, None if batch.second is None else views_of(batch.second, sensors)[0]


def batch_spec(config: PretrainConfig, seed: int, groups: Groups | None) -> BatchSpec:
    """Return the masking and augmentation of a configuration, for a model with these groups of bands."""
    masking, predict = config.masking, config.decoder.predict
    rules = MaskRules(masking.ratio, masking.kind, masking.groups, masking.band_dropout, predict < 1, groups)
    objective, views = config.objective, config.views
    low, high = config.data.scales
    drawn = ViewRules(
        (low, high), objective.paired, objective.places > 0, objective.contrast > 0, views.gain, views.offset
    )
    return BatchSpec(seed, config.patch, rules, config.data.min_valid_patch, config.data.flips, predict, drawn)


def initial_model(config: PretrainConfig, data: TrainingData, seed: int) -> MaskedAutoencoder:
    """Return a model for the bands and groups of `data`, with initial weights drawn from the seed."""
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
    """Wrap the model for its strategy, and resume from the newest checkpoint in `folder` if there is one."""
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
    progress = restored(folder, model, optimizer)
    return Trainer(fabric, trained, model, optimizer, config, seed, precision, folder, progress, training, validation)


def texture_targets(one: Dataset, number: int, seed: int) -> TextureTargets:
    """Return the texture filters of data set `number` and their components, from tiles drawn by the seed."""
    rng = generator(seed, "textures", number)
    sizes = one.index.tiles["size"].to_numpy()
    alike = np.flatnonzero(sizes == sizes[0])
    most = max(SAMPLED_VALUES // (len(one.record.bands) * int(sizes[0]) ** 2), FEWEST_SAMPLED)
    drawn = np.sort(rng.permutation(alike)[: min(most, MOST_SAMPLED)])
    pixels, valid = (torch.from_numpy(values) for values in one.reader.many(drawn.tolist()))
    return TextureTargets(standardise(pixels, valid, one.record), valid, rng)


def _reconstruction(trainer: Trainer, number: int, one: Dataset, baselines: bool) -> ValidationScores:
    """Return the reconstruction scores of a model with a decoder."""
    fabric = trainer.fabric

    def predict(*inputs: Any) -> Tensor:
        with working_precision(fabric.device, trainer.precision):
            predicted: Tensor = trainer.model.predict(*inputs)
            return predicted

    batches = fixed_batches(
        one.reader, number, range(len(one.reader)), trainer.spec, trainer.config.batch,
        fabric.global_rank, fabric.world_size,
    )  # fmt: skip
    assert isinstance(trainer.kept, MaskedAutoencoder)  # the only kind with a decoder
    return evaluate(predict, trainer.kept, one.record, batches, partial(added, fabric), baselines=baselines)


def _comparison(trainer: Trainer, number: int, one: Dataset) -> ValidationScores:
    """Return the scores of the contrastive terms, which need no decoder."""
    fabric, sensor = trainer.fabric, sensor_tensors(one.record, trainer.fabric.device)

    def compare(batch: Batch) -> Loss:
        moved = batch.to(fabric.device)
        assert moved.second is not None
        first, second = views_of(moved, {number: sensor})
        with working_precision(fabric.device, trainer.precision):
            found = trainer.model(first, second, moved.negatives)
        compared: Loss = found.by_term.get("contrast") or found.by_term["places"]
        return compared

    batches = fixed_batches(
        one.reader, number, range(len(one.reader)), trainer.spec, trainer.config.batch,
        fabric.global_rank, fabric.world_size, find_partners([one.index]),
    )  # fmt: skip
    return evaluate_contrast(compare, one.record, batches, partial(added, fabric))
