"""A folder that holds other results is refused by every command before it reads a tile."""

import json
from dataclasses import replace
from pathlib import Path

import pytest
from helpers import write_catalog

from geomae.commands import (
    adapt,
    compare_recon,
    convert,
    embed,
    embed_pca,
    finetune,
    gap,
    predict,
    probe,
    session,
)
from geomae.commands.options import CommonOptions, check_writable
from geomae.errors import StorageError

STATISTICS = ("baseline:statistics",)
COMMANDS = {
    "embed": lambda common: embed.run(embed.EmbedOptions(common, STATISTICS, ("tiny",), patches=True)),
    "embed-pca": lambda common: embed_pca.run(embed_pca.EmbedPcaOptions(common, STATISTICS, ("tiny",), maps=3)),
    "probe": lambda common: probe.run(probe.ProbeOptions(common, "tiny", ("tiny@test",), STATISTICS, strength=1.0)),
    "gap": lambda common: gap.run(gap.GapOptions(common, "tiny", "tiny@train", STATISTICS)),
    "finetune": lambda common: finetune.run(finetune.FinetuneOptions(common, "m", "tiny", changes=("batch=2",))),
    "adapt": lambda common: adapt.run(adapt.AdaptOptions(common, "m", "tiny", steps=7)),
    "predict": lambda common: predict.run(predict.PredictOptions(common, Path("m"), ("tiny",), "estimate")),
    "compare-recon": lambda common: compare_recon.run(
        compare_recon.CompareReconOptions(("m",), ("tiny",), "0.75", "random", 4, "best", 0, common)
    ),
}
DIFFERENCES = {  # by command what a run there was asked for, and how the refusal says it
    "embed": ({"patches": False}, "patches (false there, true here)"),
    "embed-pca": ({"maps": 2}, "maps (2 there, 3 here)"),
    "probe": ({"strength": 2.0}, "strength (2.0 there, 1.0 here)"),
    "gap": ({"target": "tiny"}, "target (tiny there, tiny@train here)"),
    "finetune": ({"config": {"batch": 4}}, "config.batch (4 there, 2 here)"),
    "adapt": ({"config": {"steps": 9}}, "config.steps (9 there, 7 here)"),
    "predict": ({"priors": "none"}, "priors (none there, estimate here)"),
    "compare-recon": ({"tiles": 5}, "tiles (5 there, 4 here)"),
}


class WasRead(Exception):
    """Tiles were asked for: the folder was not refused."""


@pytest.fixture
def common(tmp_path, monkeypatch):
    """Options of a command whose results go to a folder `out`; reading tiles is an error."""
    monkeypatch.chdir(tmp_path)
    (tmp_path / "m").mkdir()
    (tmp_path / "m" / "config.json").write_text("{}")
    (tmp_path / "out").mkdir()

    def read(*_):
        raise WasRead

    monkeypatch.setattr(session, "select_tiles", read)
    return CommonOptions(catalog=write_catalog(tmp_path), out=Path("out"), quiet=True)


def asked_of(command, common, monkeypatch):
    """What the options of a command tell of its request, as a run's record has it."""
    seen = {}
    with monkeypatch.context() as patch:
        patch.setattr(session, "check_out", lambda out, asked: seen.update(asked))
        with pytest.raises(WasRead):
            COMMANDS[command](common)
    return json.loads(json.dumps(seen))


def refusal(command, common, record):
    Path("out", "run.json").write_text(json.dumps(record))
    with pytest.raises(StorageError, match=r"^--out out: holds the results of another request, which differs") as error:
        COMMANDS[command](common)
    return str(error.value)


@pytest.mark.parametrize("command", COMMANDS)
def test_another_request_is_refused_before_tiles_are_read(command, common, monkeypatch):
    asked = asked_of(command, common, monkeypatch)
    stored, difference = DIFFERENCES[command]
    there = asked | {key: {**asked[key], **of} if isinstance(of, dict) else of for key, of in stored.items()}
    assert refusal(command, common, there).endswith(f"differs in {difference}; choose another folder")
    other = refusal(command, common, asked | {"command": "pretrain", "seed": 1})
    assert f"command (pretrain there, {command} here); seed (1 there, 0 here)" in other
    Path("out", "run.json").write_text(json.dumps(asked | {"data_digest": ["settled later"]}))
    with pytest.raises(WasRead):  # it is gone on with
        COMMANDS[command](common)


@pytest.mark.parametrize("command", COMMANDS)
def test_a_folder_of_something_else_is_refused_before_tiles_are_read(command, common):
    Path("out", "notes.txt").write_text("mine")
    with pytest.raises(StorageError, match="--out out: is not empty; choose another folder"):
        COMMANDS[command](common)


def test_convert_refuses_before_it_reads_weights(common):
    with pytest.raises(StorageError, match="out: exists; choose another folder"):
        convert.run(convert.ConvertOptions(Path("m"), Path("out"), bands="naip:red"))


@pytest.mark.parametrize("command", COMMANDS)
def test_a_place_that_takes_no_folder_is_refused_before_tiles_are_read(command, common, monkeypatch):
    def refuse(*_, **__):
        raise PermissionError(13, "Permission denied")

    monkeypatch.setattr("geomae.commands.options.tempfile.mkdtemp", refuse)
    with pytest.raises(StorageError, match=r"^--out \S+new/run: \S+ cannot be written to \(Permission"):
        COMMANDS[command](replace(common, out=Path("new/run").absolute()))
    with pytest.raises(WasRead):  # a dry run writes nothing
        COMMANDS[command](replace(common, out=Path("new/run").absolute(), dry_run=True))


def test_trying_a_folder_leaves_nothing_behind(tmp_path):
    check_writable(tmp_path / "new" / "run")
    assert list(tmp_path.iterdir()) == []
