"""An extraction that is killed, at any moment, and started again ends with the bytes of one that was left alone."""

import signal
import time

import numpy as np
import pytest
import torch
from helpers import CATALOG, write_catalog, write_scenes
from processes import Forked, forked

from geomae.commands.embed import EmbedOptions, run
from geomae.commands.options import CommonOptions

torch.set_num_threads(1)  # as in the processes that are killed
CHUNKS = 10


@pytest.fixture(scope="module")
def asked(tmp_path_factory, tracking_uri):
    """A command for 2401 tiles that overlap: ten chunks, each some tenths of a second."""
    folder = tmp_path_factory.mktemp("many")
    write_scenes(folder / "scenes", scenes=1, side=128)
    catalog = write_catalog(folder, CATALOG.replace("{size: 16}", "{size: 32, stride: 2}"))
    options = ("--catalog", catalog, "--precision", "32", "--patches", "--tracking-uri", tracking_uri)
    return ("embed", "--encoder", "baseline:random", *options)


@pytest.fixture(scope="module")
def whole(asked, tmp_path_factory):
    """What nothing interrupted."""
    folder = tmp_path_factory.mktemp("whole")
    common = CommonOptions(catalog=asked[4], out=folder / "out", precision="32", tracking_uri=asked[-1], quiet=True)
    assert run(EmbedOptions(common, ("baseline:random",), patches=True)) == 0
    return folder / "out"


def content(folder):
    return {str(path.relative_to(folder)): path.read_bytes() for path in sorted(folder.rglob("*")) if path.is_file()}


def killed(asked, out, moment, pause_s):
    """Start the command, and kill it a while after `moment` is reached; whether it was still at work then."""
    log = out.parent / "log.txt"
    process = Forked(*asked, "--out", out, cwd=out.parent, out=log, err=log)
    begin = time.monotonic()
    while not moment() and process.poll() is None:
        assert time.monotonic() - begin < 300, "nothing happened"
        time.sleep(0.001)
    time.sleep(pause_s)
    process.send_signal(signal.SIGKILL)
    assert process.wait(60) in (0, -signal.SIGKILL), log.read_text()
    return process.returncode != 0


@pytest.mark.parametrize("kills", [2, pytest.param(10, marks=pytest.mark.slow)])
def test_killed_at_random(kills, asked, whole, tmp_path):
    rng = np.random.default_rng(kills)
    out = tmp_path / "out"
    partial = out / "embeddings.zarr.partial"

    def committed():
        try:
            return sum(1 for _ in (partial / "committed").iterdir())
        except FileNotFoundError:  # not begun yet, or renamed while we looked: the extraction has ended
            return 0

    amid = 0
    for number in range(kills):
        more = committed() + int(rng.integers(0, max(2 * CHUNKS // kills, 1)))
        if number % 5 == 4:  # while the command begins, or at its very end
            killed(asked, out, out.exists, rng.random() * 2)
        else:
            amid += killed(asked, out, lambda more=more: partial.exists() and committed() >= more, rng.random() * 0.3)
    assert amid, "no kill met the extraction at work"
    done = forked(*asked, "--out", out, cwd=tmp_path)
    assert done.returncode == 0, done.stderr
    assert content(out / "embeddings.zarr") == content(whole / "embeddings.zarr")
    assert not list(out.rglob(".unfinished-*"))
    assert not partial.exists()
