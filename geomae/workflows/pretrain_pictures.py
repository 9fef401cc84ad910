"""Pictures of fixed validation tiles: input, what the model saw, reconstruction, difference."""

from collections.abc import Iterator, Sequence
from dataclasses import replace
from pathlib import Path

import torch

from geomae.models.folder import Model
from geomae.models.masking import MaskRules
from geomae.reports.figures import TilePicture, reconstruction_panel
from geomae.tiles.loader import fixed_batches
from geomae.training.data import Dataset
from geomae.training.trainer import draw_of
from geomae.workflows.pretrain_job import Job
from geomae.workflows.run_folder import file_name

PICTURED = 4  # tiles of each validation data set


def draw_pictures(folder: Path, step: int, model: Model, validation: Sequence[Dataset], job: Job) -> Iterator[Path]:
    """Publish a panel of the same tiles under the same masks for every validation data set; gives their names."""
    for number, one in enumerate(validation):
        path = folder / f"{file_name(one.name)}-step-{step:08d}.png"
        tiles = _picture(model, one, number, job)
        title = f"{one.name}, {job.config.masking.ratio:.0%} hidden, after {step} steps"
        reconstruction_panel(path, tiles=tiles, bands=one.record.bands, unit=one.record.unit, title=title)
        yield path


def _picture(model: Model, one: Dataset, number: int, job: Job) -> list[TilePicture]:
    """Reconstructions of a few tiles, spread over the data set, under the masks of validation."""
    count = len(one.reader)
    positions = sorted({count * place // PICTURED for place in range(PICTURED)})
    mine = model.using(one.record)
    pictures = []
    draw = draw_of(job.config, job.seed, None)
    draw = replace(draw, rules=MaskRules(draw.rules.ratio))  # all pictures hide whole patches, so that they compare
    for batch, _ in fixed_batches(one.reader, number, positions, draw, 1):
        hidden = batch.order_BX[:, batch.visible :]
        visible_BN = torch.ones_like(batch.order_BX, dtype=torch.bool).scatter(1, hidden, False)
        predicted, _ = mine.reconstruct(batch.pixels_BCHW, batch.valid_BCHW, visible_BN)
        side = job.config.patch
        cells = batch.pixels_BCHW.shape[-1] // side
        seen = visible_BN.reshape(-1, cells).repeat_interleave(side, 0).repeat_interleave(side, 1)
        # A masked autoencoder learns nothing about patches it is shown; its output there would only mislead.
        shown = batch.pixels_BCHW[0].where(seen, predicted[0])
        arrays = (batch.pixels_BCHW[0], seen, shown, batch.valid_BCHW[0])
        truth, seen_HW, reconstruction, valid = (values.numpy() for values in arrays)
        pictures.append(
            TilePicture(
                tile_id=batch.tile_ids[0],
                truth_CHW=truth,
                visible_HW=seen_HW,
                reconstruction_CHW=reconstruction,
                valid_CHW=valid,
            )
        )
    return pictures
