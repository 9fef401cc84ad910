"""A run that holds something else than what is asked for, or is damaged, is refused in one line and left as it is."""

import shutil

import numpy as np
import pytest
from helpers import (
    CATALOG,
    SMALL,
    changed_catalog,
    contents,
    options,
    refused,
    refuses,
    state,
    write_catalog,
    write_scenes,
)

from geomae.commands.pretrain import PretrainOptions, run
from geomae.errors import CheckpointError
from geomae.rasters import write_cog


@pytest.fixture(scope="module")
def finished(tmp_path_factory, tracking_uri):
    """A finished run of two steps on a catalogue of its own, in `run` beside the catalogue."""
    folder = tmp_path_factory.mktemp("finished")
    write_scenes(folder / "scenes", scenes=2, side=32)
    catalog = write_catalog(folder)
    request = PretrainOptions(
        catalog=catalog, changes=(*SMALL, "steps=2"), out=folder / "run", tracking_uri=tracking_uri, quiet=True
    )
    assert run(request) == 0
    return folder


def whole(folder):
    """The bytes of the run that a refused request has to leave as they are; nothing may lie there half written."""
    assert not list(folder.rglob(".unfinished-*"))
    kept = [path for name in ("checkpoints", "model") for path in (folder / name).rglob("*") if path.is_file()]
    return {path.relative_to(folder): path.read_bytes() for path in [*kept, folder / "run.json"]}


def test_the_command_refuses_a_folder_that_holds_a_run(geomae, finished):
    before = state(finished / "run")
    refused(
        geomae("pretrain", "--out", "run", cwd=finished),
        "--out run: already holds a run", "--resume run", "choose another folder",
    )  # fmt: skip
    assert state(finished / "run") == before
    assert not list(finished.glob("run/.unfinished-*"))


def test_the_command_refuses_to_go_on_with_another_configuration(geomae, finished):
    before = contents(finished)
    settings = options("batch=4", "masking.ratio=0.5")
    done = geomae("pretrain", "--resume", "run", *settings, "--seed", "3", cwd=finished)
    differences = ["batch (8 there, 4 here)", "masking.ratio (0.75 there, 0.5 here)", "seed (0 there, 3 here)"]
    refused(done, "--resume", *differences, "leave these out", "new run")
    assert contents(finished) == before


def unfinished(folder):
    """The run as if it had been killed before its summary."""
    (folder / "run" / "summary.json").unlink()
    return folder / "run"


def spoil_catalogue(run):
    other = run.with_name("other.yaml")
    other.write_text(changed_catalog("scale: 0.0001", "scale: 0.001"))
    return ["--catalog", "other.yaml"], ["the catalogue or its files are others", "restore them", "start a new run"]


def spoil_file(run):
    path = run / "checkpoints" / "step-00000002" / "model.safetensors"
    content = bytearray(path.read_bytes())
    content[-5] ^= 1
    path.write_bytes(content)
    return [], [f"{path.parent}: model.safetensors was altered", f"remove {path.parent} to"]


def remove_file(run):
    path = run / "checkpoints" / "step-00000002" / "optimizer.safetensors"
    path.unlink()
    return [], [f"{path.parent}: is incomplete, optimizer.safetensors is missing", f"remove {path.parent} to"]


@pytest.mark.parametrize("spoil", [spoil_catalogue, spoil_file, remove_file])
def test_the_command_refuses_to_go_on_with(spoil, geomae, finished, tmp_path):
    shutil.copytree(finished, tmp_path / "copy")
    folder = unfinished(tmp_path / "copy")
    arguments, parts = spoil(folder)
    before = whole(folder)
    refused(geomae("pretrain", "--quiet", "--resume", folder, *arguments, cwd=folder.parent), *parts)
    assert whole(folder) == before
    assert not (folder / "summary.json").exists()


def test_going_on_with_another_catalogue_or_other_contents(work, tracking_uri):
    catalog = write_catalog(work)
    assert (
        run(PretrainOptions(changes=(*SMALL, "steps=2"), out=work / "run", tracking_uri=tracking_uri, quiet=True)) == 0
    )
    folder = unfinished(work)
    parts = [f"--resume {folder}", "the catalogue or its files are others", "restore them", "start a new run"]
    catalog.write_text(changed_catalog("scale: 0.0001", "scale: 0.001"))
    refuses(CheckpointError, parts, resume=folder)
    catalog.write_text(CATALOG)
    (work / "scenes" / "s1.tif").unlink()
    write_cog(work / "scenes" / "s1.tif", np.arange(4 * 32 * 32, dtype=np.uint16).reshape(4, 32, 32))
    refuses(CheckpointError, parts, resume=folder)
    assert not (folder / "summary.json").exists()
