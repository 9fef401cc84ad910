"""Small rasters, catalogues and runs that several tests share.

C bands, H W pixels
"""

import contextlib
import io
import json
import subprocess
import sys
import threading
import warnings
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray

from geomae.errors import GeomaeError
from geomae.rasters import write_cog
from geomae.rasters.figure_rows import FIGURES
from geomae.tiles.statistics import Survey

CATALOG = """\
version: 1
datasets:
  tiny:
    path: scenes/*.tif
    sensor: naip
    bands: [red, green, blue, nir]
    unit: reflectance
    scale: 0.0001
    offset: 0
    tile: {size: 16}
"""
# A masked autoencoder of tiles as they are, whatever else the default recipe asks for.
PIXELS = ("objective.places=0", "objective.textures=0", "data.scales=[1, 1]", "decoder.kind=full")
SMALL = (*PIXELS, "batch=8", "patch=8", "decoder.width=16", "decoder.depth=1", "decoder.heads=2", "log_every=1")
SIXTY = (*SMALL, "steps=60", "save_every=5", "eval_every=20")


def write_scenes(folder: Path, *, scenes: int = 4, bands: int = 4, side: int = 64, seed: int = 0) -> None:
    """Rasters s0.tif, s1.tif, ... of 16 x 16 fields with furrows and noise: uint16, reflectance x 10000, 5 m, UTM.

    A field's level can be told from any of its patches, and furrows are alike everywhere: both can be learned.
    """
    rng = np.random.default_rng(seed)
    furrows_W = 60 * (np.arange(side) % 8)
    for number in range(scenes):
        fields_CHW = rng.integers(500, 4000, (bands, side // 16, side // 16)).repeat(16, axis=1).repeat(16, axis=2)
        pixels_CHW = (fields_CHW + furrows_W + rng.integers(0, 100, (bands, side, side))).astype(np.uint16)
        corner = (5.0, 0.0, 400_000.0 + 1000 * number, 0.0, -5.0, 5_000_000.0)
        write_cog(folder / f"s{number}.tif", pixels_CHW, crs="EPSG:32632", transform=corner)


def write_catalog(folder: Path, text: str = CATALOG) -> Path:
    """A catalogue beside the scenes."""
    folder.mkdir(parents=True, exist_ok=True)
    path = folder / "data_catalog.yaml"
    path.write_text(text, encoding="utf-8")
    return path


def changed_catalog(old: str, new: str) -> str:
    """The catalogue of `write_catalog` with `new` in the one place where `old` stands."""
    assert CATALOG.count(old) == 1
    return CATALOG.replace(old, new)


def contents(folder: Path) -> list[tuple[str, int]]:
    """Everything below a folder, with the time of its last change."""
    return sorted((str(path.relative_to(folder)), path.stat().st_mtime_ns) for path in folder.rglob("*"))


def survey_columns(survey: Survey) -> list[NDArray[Any]]:
    """All figures of a survey, one array each."""
    rows = survey.figures()
    return [survey.valid_share_T, *(rows[name] for name in FIGURES)]


def as_ranks(ranks: int, work: Callable[[int, Callable[[Any], list[Any]]], Any]) -> list[Any]:
    """What `work` of each rank gives, in threads in place of processes; it hears its rank and how ranks exchange."""
    barrier, every = threading.Barrier(ranks, timeout=60), [None] * ranks

    def exchange(rank: int, own: Any) -> list[Any]:
        every[rank] = own
        barrier.wait()
        found = list(every)
        barrier.wait()
        return found

    with ThreadPoolExecutor(ranks) as pool:
        return list(pool.map(lambda rank: work(rank, partial(exchange, rank)), range(ranks)))


def options(*settings: str) -> list[str]:
    """Settings as the command line takes them."""
    return [word for setting in settings for word in ("--set", setting)]


def command(*arguments: object) -> list[str]:
    """The real command with its arguments."""
    installed = Path(sys.executable).with_name("geomae")
    start = [str(installed)] if installed.exists() else [sys.executable, "-c", "from geomae.cli import main; main()"]
    return [*start, *map(str, arguments)]


def called(
    *arguments: object, cwd: Path, program: Callable[[], None] | None = None
) -> subprocess.CompletedProcess[str]:
    """What the command says and ends with, called in this process: without the seconds that torch takes to import."""
    from geomae.cli import main

    out, err = io.StringIO(), io.StringIO()
    words = ["geomae", *map(str, arguments)]
    with (
        contextlib.chdir(cwd), contextlib.redirect_stdout(out), contextlib.redirect_stderr(err),
        pytest.MonkeyPatch.context() as patch, pytest.raises(SystemExit) as left,
    ):  # fmt: skip
        patch.setattr(sys, "argv", words)
        (program or main)()
    return subprocess.CompletedProcess(words, left.value.code, out.getvalue(), err.getvalue())


def refused(done: subprocess.CompletedProcess[str], *parts: str) -> None:
    """Check that a command ended with one line that says all of `parts`, and nothing else."""
    assert done.returncode == 2, done.stderr
    lines = done.stderr.splitlines()
    assert len(lines) == 1, done.stderr
    assert lines[0].startswith("error: ")
    assert done.stdout == ""
    for part in parts:
        assert part in lines[0], lines[0]


def refuses(kind: type[GeomaeError], parts: Sequence[str], **wishes: Any) -> None:
    """Check that a training, asked for in this process, is refused with one line that says all of `parts`."""
    from geomae.commands.pretrain import PretrainOptions, run

    with pytest.raises(kind) as caught:
        run(PretrainOptions(**{"quiet": True, **wishes}))
    message = str(caught.value)
    assert "\n" not in message
    for part in parts:
        assert part in message, message


def history(folder: Path) -> list[dict[str, float]]:
    """The rows of `history.jsonl` that are whole: a run that is at work may be writing the last."""
    path = folder / "history.jsonl"
    text = path.read_text(encoding="utf-8") if path.is_file() else ""
    return [json.loads(line) for line in text.split("\n")[:-1]]


def losses(folder: Path) -> dict[int, float]:
    """The training loss of each step."""
    return {int(row["step"]): row["train/loss"] for row in history(folder) if "train/loss" in row}


def state(folder: Path) -> dict[str, bytes]:
    """The bytes of the newest checkpoint and of the model."""
    newest = max((folder / "checkpoints").glob("step-*"))
    names = ("model.safetensors", "optimizer.safetensors")
    found = {f"{newest.name}/{name}": (newest / name).read_bytes() for name in names}
    return found | {"model": (folder / "model" / "model.safetensors").read_bytes()}


def mlflow_client(uri: str) -> Any:
    """MLflow's own client of a store; what its import warns about is not ours."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        from mlflow import MlflowClient

        return MlflowClient(uri, uri)
