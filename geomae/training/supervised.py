"""Fine-tuning as a `Training`: labelled tiles, an encoder with a head, and its scores on held-out tiles.

B tiles, C bands, H W pixels, K classes
"""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import cached_property, partial
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from geomae.metrics.predictions import ALL, ClassMeasure, Codes, Floats, NumberMeasure, PixelMeasure
from geomae.models.criterion import UNKNOWN, Criterion
from geomae.models.finetuned import FinetunedNetwork
from geomae.models.folder import SensorTensors, sensor_tensors
from geomae.models.head_record import CLASSIFICATION, REGRESSION
from geomae.models.learning_parts import rate_scales
from geomae.randomness import key
from geomae.runtime.devices import Fabric
from geomae.runtime.precision import working_precision
from geomae.sensors.record import SensorRecord
from geomae.tiles.labelled_batches import Changes, LabelledBatch, LabelledTiles, labelled_ahead, whole_batches
from geomae.tiles.schedule import BatchSchedule
from geomae.training.engine import Training, added, restored
from geomae.training.finetuning_config import FinetuneConfig
from geomae.training.optimizer import build_optimizer, decayed

BETAS = (0.9, 0.999)  # of He et al. 2022 for fine-tuning
HELD_OUT = "held-out"  # name of the held-out tiles in metrics
TEMPERATURES = tuple(2 ** (step / 4) for step in range(-6, 7))  # of logits; held-out tiles choose one of them


@dataclass(frozen=True)
class LabelledPart:
    """Labelled tiles, with the bands and statistics by which they are standardised."""

    name: str
    tiles: LabelledTiles
    record: SensorRecord

    def __len__(self) -> int:
        return len(self.tiles)


@dataclass(frozen=True)
class SupervisedScores:
    """The loss on held-out tiles, and the main metric, `main`, with its `value`.

    For classes, the loss is that at the best temperature, because probabilities are calibrated after training.
    Otherwise label smoothing, which makes a network less confident, would make it look worse than its initial probe.
    """

    loss: float
    main: str
    value: float

    def metrics(self, dataset: str) -> dict[str, float]:
        """Return flat metrics: loss/DATASET and MAIN/DATASET."""
        return {f"loss/{dataset}": self.loss, f"{self.main}/{dataset}": self.value}


@dataclass
class Supervised(Training):
    """A fine-tuning. Without `held` there is no validation, and the last weights are kept."""

    trained: FinetunedNetwork
    config: FinetuneConfig
    criterion: Criterion
    learned: LabelledPart
    held: LabelledPart | None
    classes: Sequence[str]

    @property
    def terms(self) -> Mapping[str, float]:
        """See `Training`."""
        return {"labels": 1.0}

    @cached_property
    def sensor(self) -> SensorTensors:
        """Statistics and spectral codes of the bands, on the device."""
        return sensor_tensors(self.learned.record, self.fabric.device)

    def batches(self, order: BatchSchedule, steps: range) -> Iterator[LabelledBatch]:
        """See `Training`."""
        fabric, changes = self.fabric, Changes(**self.config.augment.model_dump())
        return labelled_ahead(
            self.learned.tiles, order, changes, steps, fabric.global_rank, fabric.world_size, self.config.readers,
            fabric.device.type == "cuda",
        )  # fmt: skip

    def counts(self, batch: LabelledBatch) -> list[float]:
        """See `Training`."""
        return [self.criterion.count(batch.labels, batch.valid_BCHW)]

    def losses(self, part: LabelledBatch) -> tuple[Tensor, None]:
        """See `Training`. Skipped blocks (drop path) depend only on seed and tiles, so that a run can be resumed."""
        cuda = [self.fabric.device] if self.fabric.device.type == "cuda" else []
        with torch.random.fork_rng(devices=cuda):
            torch.manual_seed(key(self.seed, "skipped blocks", part.first) % 2**63)
            outputs = self.outputs(part, self.sensor)
        return self.criterion.losses(outputs, part.labels, part.valid_BCHW)[None], None

    def outputs(self, batch: LabelledBatch, sensor: SensorTensors) -> Tensor:
        """Return the network's outputs for a batch on the device, in float32."""
        inputs = sensor.standardise(batch.pixels_BCHW, batch.valid_BCHW)
        if batch.altered is not None:
            gain_BC, offset_BC = batch.altered
            inputs = (inputs * gain_BC[..., None, None] + offset_BC[..., None, None]).where(batch.valid_BCHW, 0)
        gsd_m = sensor.gsd_m if batch.zoom_B is None or sensor.gsd_m is None else sensor.gsd_m * batch.zoom_B
        with working_precision(self.fabric.device, self.precision):
            outputs: Tensor = self.model(inputs, batch.valid_BCHW, sensor.codes_CF, gsd_m)
        return outputs.float()

    @torch.no_grad()
    def scores(self, *, baselines: bool) -> dict[str, SupervisedScores]:
        """Return the scores on held-out tiles, without augmentation; empty without them. `baselines` is ignored."""
        if self.held is None:
            return {}
        plain = replace(self.criterion, smoothing=0.0)
        temperatures = TEMPERATURES if self.classes else (1.0,)
        sums = torch.zeros(len(temperatures) + 1, dtype=torch.float64)
        measured: Floats | None = None
        measure = self._measure(self.held)
        for _, batch, counted in whole_batches(
            self.held.tiles, self.config.batch, self.fabric.global_rank, self.fabric.world_size
        ):
            part = batch.to(self.fabric.device)
            outputs = self.outputs(part, self.sensor)
            each = [plain.losses(outputs / one, part.labels, part.valid_BCHW).sum() for one in temperatures]
            count = plain.count(batch.labels, batch.valid_BCHW)
            sums += torch.tensor([*map(float, each), count], dtype=torch.float64) * counted
            of_batch = measure.sums(*_scored(self.criterion.task, outputs.cpu(), batch), 1) * counted
            measured = of_batch if measured is None else measured + of_batch
        assert measured is not None  # every rank has a batch
        reduce = partial(added, self.fabric)
        *totals, count = reduce(sums.to(self.fabric.device)).tolist()
        measured_X = reduce(torch.from_numpy(measured[0]).to(self.fabric.device)).cpu().numpy()
        value = float(measure.values(measured_X)[measure.main, ALL])
        return {HELD_OUT: SupervisedScores(min(totals) / max(count, 1e-9), measure.main, value)}

    def _measure(self, held: LabelledPart) -> ClassMeasure | PixelMeasure | NumberMeasure:
        if self.criterion.task == REGRESSION:
            return NumberMeasure(0.0)
        every_K = np.ones(len(self.classes), dtype=np.bool_)
        kind = ClassMeasure if self.criterion.task == CLASSIFICATION else PixelMeasure
        return kind(self.classes, every_K)


def _scored(task: str, outputs: Tensor, batch: LabelledBatch) -> tuple[NDArray[Any], NDArray[Any], Codes]:
    """Return truth, prediction and group codes (all 0) for a measure; invalid pixels count as unlabelled."""
    group_B = np.zeros(len(batch.tile_ids), dtype=np.int64)
    if task == REGRESSION:
        return batch.labels.double().numpy(), outputs[:, 0].double().numpy(), group_B
    truth = batch.labels
    if truth.ndim == 3:
        truth = truth.where(batch.valid_BCHW.any(1), UNKNOWN)
    return truth.numpy(), outputs.argmax(1).numpy(), group_B


def prepare(
    fabric: Fabric,
    network: FinetunedNetwork,
    config: FinetuneConfig,
    seed: int,
    precision: str,
    criterion: Criterion,
    learned: LabelledPart,
    held: LabelledPart | None,
    classes: Sequence[str],
    folder: Path,
) -> Supervised:
    """Wrap the network for its strategy, and resume from the newest checkpoint in `folder` if there is one."""
    decay = decayed(network)
    model = fabric.setup_module(network)
    scales = rate_scales(network.head.layers[-1], config.layer_decay)
    of_blocks = config.method in ("full", "last-blocks")
    optimizer = build_optimizer(
        model, decay, config.weight_decay, scale_of=scales if of_blocks else lambda name: 1.0, betas=BETAS
    )
    fabric.setup_optimizers(optimizer)
    progress = restored(folder, model, optimizer)
    return Supervised(
        fabric, network, model, optimizer, config, seed, precision, folder, progress, criterion, learned, held, classes
    )
