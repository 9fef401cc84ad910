"""Chips of several sizes, each a tile: batches hold tiles of one size, and sizes that do not fit are named."""

import numpy as np
import pytest
import torch
from helpers import SMALL, changed_catalog, write_catalog

from geomae.catalog import open_catalog, parse_selector
from geomae.config import PretrainConfig, load_config
from geomae.errors import CatalogError
from geomae.evaluation import pretraining_probe
from geomae.evaluation.folds import assign_training
from geomae.models.architecture import architecture
from geomae.models.mae import MaskedAutoencoder
from geomae.models.masking import MaskRules
from geomae.rasters import write_cog
from geomae.runtime import devices
from geomae.runtime.signals import Stop
from geomae.tiles.batches import BatchSpec, fixed_batches
from geomae.tiles.schedule import schedule_batches
from geomae.training.data import assemble
from geomae.training.loop import train, validate
from geomae.training.trainer import prepare

CHIPS = changed_catalog("    tile: {size: 16}\n", "")


def chips(folder, *sides):
    for number, side in enumerate(sides):
        pixels = np.random.default_rng(number).integers(500, 4000, (4, side, side)).astype(np.uint16)
        corner = (5.0, 0.0, 400_000.0 + 1000 * number, 0.0, -5.0, 5_000_000.0)
        write_cog(folder / "scenes" / f"c{number:02}.tif", pixels, crs="EPSG:32632", transform=corner)
    return open_catalog(write_catalog(folder, CHIPS))


def settings(*more):
    return load_config(PretrainConfig, "pretrain", None, (*SMALL, "batch=2", "steps=6", *more))


def data_of(catalog, config):
    return assemble(catalog, [parse_selector("tiny@train")], [], config, 0)


def test_a_training_takes_chips_of_two_sizes(tmp_path):
    config = settings("objective.textures=1")
    data = data_of(chips(tmp_path, *[16, 24] * 6), config)
    shape = architecture(
        config.preset, bands=4, patch=config.patch, embedding=config.embedding, target="none", decoder=config.decoder
    )
    fabric = devices.build_fabric("cpu", 1, 1, "auto")
    trainer = prepare(
        fabric, MaskedAutoencoder(shape), config, 0, "32", data.training, data.validation, tmp_path / "checkpoints"
    )
    (one,) = data.training
    order = schedule_batches(0, (len(one.reader),), config.batch, config.steps, sides=[one.reader.side_T])
    losses = [event.figures["loss"] for event in train(trainer, order, Stop()) if event.figures is not None]
    assert len(losses) == config.steps
    assert np.isfinite(losses).all()
    assert len(set(order.stream_S.tolist())) == 2
    assert all(np.isfinite(scores.loss) for scores in validate(trainer).values())


def test_validation_sees_every_chip_once_in_batches_of_one_size(tmp_path):

    reader = data_of(chips(tmp_path, 16, 24, 16, 24, 16, 24), settings()).training[0].reader
    spec = BatchSpec(0, 8, MaskRules(0.5), 0.5, flips=False)
    batches = [batch for batch, _ in fixed_batches(reader, 0, range(len(reader)), spec, 2)]
    assert sorted(name for batch in batches for name in batch.tile_ids) == sorted(reader.tile_ids)
    assert {batch.pixels_BCHW.shape[-1] for batch in batches} == {16, 24}


def test_sizes_that_a_patch_does_not_divide_are_named_with_their_files(tmp_path):
    with pytest.raises(CatalogError) as caught:
        data_of(chips(tmp_path, 16, 20, 16, 24), settings())
    message = str(caught.value)
    for part in ("a tile of 20 (", "c01.tif)", "others are of 16, 24 pixels", "`tile: {size: 16}`", "--set patch=4"):
        assert part in message, message


def test_a_tile_of_one_size_is_told_as_before(tmp_path):
    with pytest.raises(CatalogError, match=r"a tile of 20; change `tile: size`, or choose --set patch=10"):
        data_of(chips(tmp_path, 20, 20), settings())


def test_the_probe_of_a_training_takes_chips_of_two_sizes(tmp_path, monkeypatch):
    class Sums:
        bands = ()

        def embed(self, pixels, valid):
            return pixels.mean((2, 3)), torch.zeros(len(pixels), 1, 1)

    (one,) = data_of(chips(tmp_path, *[16, 24] * 10), settings()).training
    label_T = (np.arange(len(one.reader)) // 2 % 2).astype(np.int64)
    folds = assign_training(label_T, ("a", "b"), one.reader.tile_ids, one.reader.tile_ids, 0)
    tiles = pretraining_probe.LabelledTiles("tiny", one.reader, one.index, label_T, ("a", "b"), folds)
    monkeypatch.setattr(pretraining_probe, "_encoder", lambda model, index: Sums())
    assert all(np.isfinite(value) for value in pretraining_probe.probe(None, tiles).values())
