"""Checkpoints: what is restored goes on with the same bytes, what is not whole is refused, and what is kept."""

import json

import pytest
import torch
from tiny_models import RECORD, orders, tiles, tiny_mae

from geomae.errors import CheckpointError
from geomae.models.band_embedding import band_codes
from geomae.models.folder import standardise
from geomae.models.masking import Mask
from geomae.training.checkpoints import Progress, collect_moments, collect_weights, newest, prune, publish, restore
from geomae.training.optimizer import build_optimizer, decayed, guarded_step

FILES = ["model.safetensors", "optimizer.safetensors", "state.json"]


def fresh():
    mae = tiny_mae("spectral", "patch")
    return mae, build_optimizer(mae, decayed(mae), 0.05)


def step(mae, optimizer, number):
    """One training step whose tiles and rate depend on its number."""
    pixels, valid = tiles(seed=number, gaps=0.1)
    loss = mae(standardise(pixels, valid, RECORD), valid, band_codes(RECORD.bands), Mask(orders(2, 12, number), 4))
    loss.mean().backward()
    guarded_step(optimizer, 1e-3 / (1 + number), torch.tensor(False))


def stored(folder, mae, optimizer, number, **best):
    return publish(folder, collect_weights(mae), collect_moments(mae, optimizer), Progress(number, **best))


@pytest.fixture
def saved(tmp_path):
    """A run of three steps, saved."""
    mae, optimizer = fresh()
    for number in range(3):
        step(mae, optimizer, number)
    stored(tmp_path, mae, optimizer, 3, best_loss=0.5, best_step=2)
    return tmp_path, mae, optimizer


def test_a_restored_run_goes_on_with_the_same_bytes(saved):
    folder, mae, optimizer = saved
    for number in range(3, 6):
        step(mae, optimizer, number)
    straight = stored(folder / "straight", mae, optimizer, 6)

    mae, optimizer = fresh()
    with torch.no_grad():
        for value in mae.parameters():
            value.add_(1.0)  # nothing of the start may remain
    path, progress = newest(folder)
    restore(path, mae, optimizer)
    assert (progress.step, progress.best_loss, progress.best_step) == (3, 0.5, 2)
    for number in range(progress.step, 6):
        step(mae, optimizer, number)
    resumed = stored(folder / "resumed", mae, optimizer, 6)
    for name in FILES:
        assert (straight / name).read_bytes() == (resumed / name).read_bytes(), name


def test_saving_changes_nothing_and_publishes_once(saved):
    folder, mae, optimizer = saved
    again = stored(folder / "again", mae, optimizer, 3, best_loss=0.5, best_step=2)
    assert sorted(path.name for path in again.iterdir()) == FILES
    for name in FILES:
        assert (again / name).read_bytes() == (folder / "step-00000003" / name).read_bytes()
    before = (again / "model.safetensors").stat().st_mtime_ns
    assert stored(folder / "again", mae, optimizer, 3) == again
    assert (again / "model.safetensors").stat().st_mtime_ns == before


def test_no_checkpoint_is_none(tmp_path):
    assert newest(tmp_path / "absent") is None
    assert newest(tmp_path) is None
    (tmp_path / ".unfinished-step-00000004-x").mkdir()
    assert newest(tmp_path) is None
    assert len(list(tmp_path.iterdir())) == 1  # it goes when a run locks its folder, not when somebody looks


def test_the_newest_is_found(saved):
    folder, mae, optimizer = saved
    stored(folder, mae, optimizer, 20)
    stored(folder, mae, optimizer, 100)
    path, progress = newest(folder)
    assert (path.name, progress.step, progress.best_step) == ("step-00000100", 100, None)


@pytest.mark.parametrize("name", FILES)
def test_an_incomplete_checkpoint_is_refused(saved, name):
    folder = saved[0]
    (folder / "step-00000003" / name).unlink()
    what = r"state\.json is missing or damaged" if name == "state.json" else f"is incomplete, {name} is missing"
    with pytest.raises(CheckpointError, match=f"step-00000003: {what}; remove .*step-00000003 to start again"):
        newest(folder)


@pytest.mark.parametrize("name", FILES[:2])
def test_an_altered_checkpoint_is_refused(saved, name):
    folder, mae, optimizer = saved
    stored(folder, mae, optimizer, 1)
    path = folder / "step-00000003" / name
    content = bytearray(path.read_bytes())
    content[-1] ^= 1
    path.write_bytes(content)
    with pytest.raises(
        CheckpointError, match=f"{name} was altered after it was written; remove .*step-00000003 to go on from an"
    ):
        newest(folder)


@pytest.mark.parametrize("text", ["", "{", "[]", "{}", '{"step": "x", "files": {}}', '{"step": 3}'])
def test_a_damaged_state_is_refused(saved, text):
    folder = saved[0]
    (folder / "step-00000003" / "state.json").write_text(text)
    with pytest.raises(CheckpointError, match=r"state\.json is missing or damaged"):
        newest(folder)


def test_a_state_without_digests_does_not_pass(saved):
    folder = saved[0]
    path = folder / "step-00000003" / "state.json"
    path.write_text(json.dumps(json.loads(path.read_text()) | {"files": {}}))
    with pytest.raises(CheckpointError, match=r"state\.json was altered"):
        newest(folder)


@pytest.mark.parametrize(
    ("keep", "best", "left"),
    [(2, None, [40, 50]), (2, 10, [10, 40, 50]), (1, 50, [50]), (3, 40, [30, 40, 50]), (9, None, [10, 20, 30, 40, 50])],
)
def test_the_newest_and_the_best_are_kept(saved, keep, best, left):
    _, mae, optimizer = saved
    folder = saved[0] / "run"
    for number in range(10, 60, 10):
        stored(folder, mae, optimizer, number)
    prune(folder, keep, best)
    assert sorted(path.name for path in folder.iterdir()) == [f"step-{number:08d}" for number in left]
