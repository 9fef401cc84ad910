"""A step that is not finite changes no weight, stops all ranks, names its tiles, and is never saved."""

from dataclasses import replace

import pytest
import torch
from helpers import SMALL, called, options, refuses
from processes import forked
from safetensors.torch import load_file

from geomae.catalog import open_catalog, parse_selector
from geomae.config import PretrainConfig, load_config
from geomae.errors import TrainingError
from geomae.models.architecture import architecture
from geomae.models.mae import MaskedAutoencoder
from geomae.runtime import devices
from geomae.runtime.signals import Stop
from geomae.tiles.batches import training_batch
from geomae.tiles.schedule import schedule_batches
from geomae.training.checkpoints import collect_moments, collect_weights
from geomae.training.data import assemble
from geomae.training.engine import wrapped
from geomae.training.loop import check_finite, one_step
from geomae.training.trainer import prepare


@pytest.fixture(scope="module")
def trainer(tiny_catalog, tmp_path_factory):
    """A small training at its start."""
    config = load_config(PretrainConfig, "pretrain", None, (*SMALL, "steps=4"))
    data = assemble(open_catalog(tiny_catalog), [parse_selector("tiny@train")], [], config, 0)
    shape = architecture(
        config.preset, bands=4, patch=config.patch, embedding=config.embedding, target="none", decoder=config.decoder
    )
    fabric = devices.build_fabric("cpu", 1, 1, "auto")
    folder = tmp_path_factory.mktemp("checkpoints")
    return prepare(fabric, MaskedAutoencoder(shape), config, 0, "32", data.training, data.validation, folder)


def steps(trainer, step, change=lambda batch: batch):
    """Do one step of the training on a batch that is changed first."""
    readers = [one.reader for one in trainer.training]
    order = schedule_batches(0, tuple(len(reader) for reader in readers), trainer.config.batch, trainer.config.steps)
    batch = change(training_batch(readers, order, trainer.spec, step, 0, 1))
    return batch, one_step(trainer, batch, 1e-3, Stop())


def everything(trainer):
    """All weights and all of the optimizer's state, as bytes."""
    inner = wrapped(trainer.model)
    found = collect_weights(inner) | collect_moments(inner, trainer.optimizer)
    return {name: value.clone().numpy().tobytes() for name, value in found.items()}


@pytest.mark.parametrize("value", [torch.inf, torch.nan, 3e38])
def test_a_broken_step_changes_nothing_and_names_the_tile(trainer, value):
    steps(trainer, 0)
    before = everything(trainer)

    def spoil(batch):
        pixels = batch.pixels_BCHW.clone()
        pixels[3] = value
        return replace(batch, pixels_BCHW=pixels)

    batch, pulse = steps(trainer, 1, spoil)
    assert everything(trainer) == before
    with pytest.raises(TrainingError) as caught:
        check_finite(pulse)
    message = str(caught.value)
    assert f"the loss is not finite, no weight was changed; tiles: {batch.tile_ids[3]};" in message
    assert not any(name in message for name in batch.tile_ids if name != batch.tile_ids[3])
    assert "optimizer.base_rate" in message
    _, pulse = steps(trainer, 1)
    check_finite(pulse)
    assert everything(trainer) != before


# After one step at this rate the weights are so large that the next loss overflows.
EXPLODING = (*SMALL, "steps=8", "optimizer.base_rate=1e30", "optimizer.warmup=0.0")


@pytest.mark.parametrize("count", [1, 2])
def test_the_command_stops_and_saves_nothing_broken(count, tiny_catalog, tracking_uri, tmp_path):
    done = (called if count == 1 else forked)(
        "pretrain", "--catalog", tiny_catalog, *options(*EXPLODING, "save_every=1"), "--precision", "32",
        "--devices", count, "--tracking-uri", tracking_uri, "--out", "run", "--quiet", cwd=tmp_path,
    )  # fmt: skip
    assert done.returncode == 2, done.stderr
    lines = done.stderr.splitlines()
    assert sum(line.startswith("error: ") for line in lines) == 1
    assert all(line.startswith(("error: ", "rank 1: error: ")) for line in lines)
    assert len(lines) <= count
    for line in lines:
        assert "is not finite, no weight was changed; tiles: s" in line
        assert "--resume" in line
    saved = sorted(path.name for path in (tmp_path / "run" / "checkpoints").iterdir())
    assert saved == ["step-00000001"]
    for path in (tmp_path / "run" / "checkpoints" / "step-00000001").glob("*.safetensors"):
        assert all(torch.isfinite(value).all() for value in load_file(path).values())
    assert not (tmp_path / "run" / "model").exists()
    assert not (tmp_path / "run" / "summary.json").exists()


def test_a_broken_step_between_saves_is_found_one_step_later(tiny_catalog, tracking_uri, tmp_path):
    refuses(
        TrainingError, ["is not finite, no weight was changed; tiles: s"], catalog=tiny_catalog, precision="32",
        changes=(*EXPLODING, "save_every=4"), tracking_uri=tracking_uri, out=tmp_path / "run",
    )  # fmt: skip
    assert not (tmp_path / "run" / "checkpoints").exists()
