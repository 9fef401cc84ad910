"""Two processes with half the batch each compute what one process with the whole batch does."""

import json
import subprocess
import sys

import pytest
import torch
from helpers import SIXTY, SMALL, command, losses, options, state

from geomae.catalog import open_catalog, parse_selector
from geomae.commands.pretrain import PretrainOptions, run
from geomae.config import PretrainConfig, load_config
from geomae.errors import ConfigError
from geomae.runtime.devices import build_fabric
from geomae.tiles.batches import training_batch
from geomae.tiles.schedule import schedule_batches
from geomae.training.data import assemble
from geomae.training.trainer import batch_spec


def test_losses_of_two_processes_are_those_of_one(sixty_steps):
    alone, together = losses(sixty_steps(1)), losses(sixty_steps(2))
    assert list(alone) == list(together) == list(range(1, 61))
    assert list(together.values()) == pytest.approx(list(alone.values()), rel=1e-5, abs=0)
    assert len(set(alone.values())) == 60
    scores = [json.loads((sixty_steps(devices) / "summary.json").read_text())["metrics"] for devices in (1, 2)]
    figures = [{name: value for name, value in one.items() if not name.startswith("run/")} for one in scores]
    assert figures[0] == pytest.approx(figures[1], rel=1e-4)


def test_the_order_of_tiles_is_exactly_equal(tiny_catalog):
    config = load_config(PretrainConfig, "pretrain", None, SMALL)
    data = assemble(open_catalog(tiny_catalog), [parse_selector("tiny@train")], [], config, 3)
    readers = [one.reader for one in data.training]
    order = schedule_batches(3, tuple(len(reader) for reader in readers), config.batch, 20)
    draw = batch_spec(config, 3, None)
    seen = []
    for step in range(20):  # more than two epochs
        alone = training_batch(readers, order, draw, step, 0, 1)
        for ranks in (2, 4, 8):
            parts = [training_batch(readers, order, draw, step, rank, ranks) for rank in range(ranks)]
            assert sum((part.tile_ids for part in parts), ()) == alone.tile_ids
            for name in ("pixels_BCHW", "valid_BCHW", "hidden_B"):
                assert torch.equal(torch.cat([getattr(part, name) for part in parts]), getattr(alone, name)), name
            assert torch.equal(torch.cat([part.mask.order_BX for part in parts]), alone.mask.order_BX)
        seen += alone.tile_ids
    epoch = len(readers[0])
    assert len(set(seen[:epoch])) == len(set(seen[epoch : 2 * epoch])) == epoch
    assert seen[:epoch] != seen[epoch : 2 * epoch]


def test_several_passes_give_the_losses_of_one(tiny_catalog, tracking_uri, tmp_path):
    found = []
    for passes in (1, 4):
        out = tmp_path / f"in-{passes}"
        changes = (*SMALL, "steps=6", f"accumulate={passes}")
        request = PretrainOptions(
            catalog=tiny_catalog, changes=changes, precision="32", out=out, tracking_uri=tracking_uri, quiet=True
        )
        assert run(request) == 0
        found.append(losses(out))
    assert found[1] == pytest.approx(found[0], rel=1e-5, abs=0)
    assert len(found[0]) == 6


@pytest.mark.parametrize(
    ("environment", "devices", "nodes", "parts"),
    [
        (
            {"TORCHELASTIC_RUN_ID": "x", "LOCAL_WORLD_SIZE": "2", "WORLD_SIZE": "4"}, 4, 1,
            ["--devices 4", "torchrun gives 2", "--nproc-per-node"],
        ),
        (
            {"SLURM_NTASKS": "4", "SLURM_NTASKS_PER_NODE": "2", "SLURM_JOB_NAME": "train"}, 2, 3,
            ["--nodes 3", "SLURM gives 2", "--ntasks-per-node"],
        ),
    ],
)  # fmt: skip
def test_a_scheduler_has_decided(monkeypatch, environment, devices, nodes, parts):
    for name, value in environment.items():
        monkeypatch.setenv(name, value)
    with pytest.raises(ConfigError) as caught:
        build_fabric("cpu", devices, nodes, "auto")
    for part in parts:
        assert part in str(caught.value)


@pytest.mark.slow
@pytest.mark.parametrize("devices", [["--devices", "2"], []])
def test_torchrun(devices, tiny_catalog, tracking_uri, tmp_path, sixty_steps):
    """torchrun says how many processes there are; --devices may say it again."""
    launcher = [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc-per-node", "2", "--no-python"]
    arguments = ["--catalog", tiny_catalog, *options(*SIXTY), "--precision", "32", *devices]
    training = command("pretrain", *arguments, "--tracking-uri", tracking_uri, "--out", "run")
    done = subprocess.run(
        [*launcher, *training], cwd=tmp_path, capture_output=True, text=True, timeout=600, check=False
    )
    assert done.returncode == 0, done.stderr
    assert done.stdout.count("model: ") == 1
    assert losses(tmp_path / "run") == losses(sixty_steps(2))
    assert state(tmp_path / "run") == state(sixty_steps(2))
