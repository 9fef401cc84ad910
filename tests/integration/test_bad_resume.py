"""A run that holds something else than what is asked for, or is damaged, is refused in one line and left as it is."""

import json
import shutil
from dataclasses import replace

import numpy as np
import pytest
from helpers import (
    CATALOG,
    SMALL,
    called,
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
from geomae.errors import CheckpointError, ConfigError, StorageError
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


def test_the_command_refuses_a_folder_that_holds_a_run(finished):
    before = state(finished / "run")
    for settings, parts in (
        ((), ["already holds a run of another request, which differs in", "decoder.width (16 there, 128 here)"]),
        ((*SMALL, "steps=2"), ["already holds this run, finished, with its model in", "run/model"]),
    ):
        done = called("pretrain", *options(*settings), "--out", "run", cwd=finished)
        refused(done, "--out run:", *parts, "; choose another folder")
        assert "--resume" not in done.stderr
    assert state(finished / "run") == before
    assert not list(finished.glob("run/.unfinished-*"))


def test_the_command_refuses_to_go_on_with_another_configuration(finished):
    before = contents(finished)
    settings = options("batch=4", "masking.ratio=0.5")
    done = called("pretrain", "--resume", "run", *settings, "--seed", "3", "--dataset", "tiny@test", cwd=finished)
    differences = ["batch (8 there, 4 here)", "masking.ratio (0.75 there, 0.5 here)", "seed (0 there, 3 here)"]
    refused(done, "--resume", *differences, "dataset (tiny@train there, tiny@test here)", "leave these out", "new run")
    assert contents(finished) == before


@pytest.mark.parametrize("dataset", ["tiny", "tiny@train"])
def test_the_words_of_the_first_start_go_on(dataset, finished, tracking_uri):
    """As a job script gives them again, whichever spelling of the selector it has."""
    run_ = finished / "run"
    words = PretrainOptions(
        catalog=finished / "scenes" / ".." / "data_catalog.yaml", datasets=(dataset,), config="tiny", seed=0,
        changes=(*SMALL, "steps=2"), precision=stored_precision(run_), tracking_uri=tracking_uri, quiet=True,
    )  # fmt: skip
    assert run(replace(words, resume=run_)) == 0
    assert run(replace(words, resume=run_, out=run_)) == 0
    with pytest.raises(ConfigError, match=r"--out .*other: a run is resumed in its own folder.*leave --out out"):
        run(replace(words, resume=run_, out=finished / "other"))


def test_an_unfinished_run_of_the_same_request_is_gone_on_with_by_resume(finished, tmp_path):
    shutil.copytree(finished, tmp_path / "copy", ignore=shutil.ignore_patterns("summary.json"))
    folder = tmp_path / "copy" / "run"
    record = folder / "run.json"
    record.write_text(record.read_text().replace(str(finished), str(folder.parent)))
    request = {"catalog": folder.parent / "data_catalog.yaml", "datasets": ("tiny",), "changes": (*SMALL, "steps=2")}
    before = whole(folder)
    refuses(StorageError, [f"--out {folder}: ", "unfinished; go on with --resume", str(folder)], **request, out=folder)
    other = request | {"catalog": finished / "data_catalog.yaml"}
    refuses(StorageError, ["another request", "catalog (", "; choose another folder"], **other, out=folder)
    refuses(
        StorageError,
        ["another request", "eval (none there, tiny@all here)"],
        **request,
        evaluations=("tiny",),
        out=folder,
    )
    assert whole(folder) == before


def test_the_run_of_another_command_is_named(finished, tmp_path):
    folder = tmp_path / "probe"
    folder.mkdir()
    (folder / "run.json").write_text('{"command": "probe"}')
    parts = ["holds a run of `geomae probe` and not of `geomae pretrain`", "choose another folder"]
    refuses(CheckpointError, [f"--resume {folder}", *parts], resume=folder)
    refuses(CheckpointError, [f"--out {folder}", *parts], catalog=finished / "data_catalog.yaml", out=folder)


def stored_precision(folder):
    return json.loads((folder / "run.json").read_text())["precision"]


def unfinished(folder):
    """The run as if it had been killed before its summary."""
    (folder / "run" / "summary.json").unlink()
    return folder / "run"


def spoil_catalogue(run):
    other = run.with_name("other.yaml")
    other.write_text(changed_catalog("scale: 0.0001", "scale: 0.001"))
    return ["--catalog", "other.yaml"], ["the catalogue or its files have changed", "restore them", "start a new run"]


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
def test_the_command_refuses_to_go_on_with(spoil, finished, tmp_path):
    shutil.copytree(finished, tmp_path / "copy")
    folder = unfinished(tmp_path / "copy")
    arguments, parts = spoil(folder)
    before = whole(folder)
    refused(called("pretrain", "--quiet", "--resume", folder, *arguments, cwd=folder.parent), *parts)
    assert whole(folder) == before
    assert not (folder / "summary.json").exists()


def test_going_on_with_another_catalogue_or_other_contents(work, tracking_uri):
    catalog = write_catalog(work)
    assert (
        run(PretrainOptions(changes=(*SMALL, "steps=2"), out=work / "run", tracking_uri=tracking_uri, quiet=True)) == 0
    )
    folder = unfinished(work)
    parts = [f"--resume {folder}", "the catalogue or its files have changed", "restore them", "start a new run"]
    catalog.write_text(changed_catalog("scale: 0.0001", "scale: 0.001"))
    refuses(CheckpointError, parts, resume=folder)
    catalog.write_text(CATALOG)
    (work / "scenes" / "s1.tif").unlink()
    write_cog(work / "scenes" / "s1.tif", np.arange(4 * 32 * 32, dtype=np.uint16).reshape(4, 32, 32))
    refuses(CheckpointError, parts, resume=folder)
    assert not (folder / "summary.json").exists()
