"""A run that is killed or stopped, at any moment, and resumed ends with the same bytes as one that was left alone."""

import fcntl
import json
import shutil
import signal
import time

import numpy as np
import psutil
import pytest
from helpers import SIXTY, losses, mlflow_client, options, refuses, state
from processes import Forked, forked

from geomae.commands.pretrain import PretrainOptions, run
from geomae.errors import CheckpointError, StorageError


class Training:
    """A training of 60 steps in a folder of its own, which can be started, watched and ended."""

    def __init__(self, folder, catalog, uri, devices=1):
        self.out = folder / "run"
        self.log = folder / "log.txt"
        self.uri = uri
        self.devices = ["--devices", str(devices), "--tracking-uri", uri]
        self.first = ["--catalog", catalog, *options(*SIXTY), "--precision", "32", "--out", self.out]
        self.history = self.out / "history.jsonl"
        self.file_before = None
        self.process = None
        self.half_saved = 0  # kills that left a checkpoint half written

    @property
    def arguments(self):
        return ["pretrain", *(["--resume", self.out] if self.out.exists() else self.first), *self.devices]

    def start(self):
        self.file_before = self.history.stat().st_ino if self.history.exists() else None
        self.process = Forked(*self.arguments, cwd=self.out.parent, out=self.log, err=self.log)

    def saved(self):
        """The step of the newest checkpoint, 0 without one."""
        return max((int(path.name[5:]) for path in self.out.glob("checkpoints/step-*")), default=0)

    def training(self):
        """Whether this start has begun to train: the history is then another file, without what is done again."""
        return self.history.exists() and self.history.stat().st_ino != self.file_before

    def wait(self, reached, seconds=180):
        begin = time.monotonic()
        while not (self.training() and reached()):
            assert self.process.poll() is None, f"ended too early\n{self.log.read_text()}"
            assert time.monotonic() - begin < seconds, f"nothing happened\n{self.log.read_text()}"
            time.sleep(0.001)

    def end(self, number):
        self.process.send_signal(number)
        return self.process.wait(60)

    def kill(self, rng, saving):
        """Start, and kill at a random moment: while a checkpoint is being written, or after some steps."""
        begun = self.saved()
        self.start()
        if begun == 60:
            self.wait(lambda: True)
            time.sleep(rng.random())  # while the last pictures and the model are made
        elif saving:
            self.wait(lambda: any(self.out.glob("checkpoints/.unfinished-*")))
            time.sleep(rng.random() * 0.03)
        else:
            last = min(begun + int(rng.integers(1, 9)), 60)
            self.wait(lambda: max(losses(self.out), default=0) >= last)
            time.sleep(rng.random() * 0.05)
        children = psutil.Process(self.process.pid).children(recursive=True)
        assert self.end(signal.SIGKILL) == -signal.SIGKILL, self.log.read_text()
        self.half_saved += any(self.out.glob("checkpoints/.unfinished-*"))
        return children

    def finish(self):
        """Go on to the end; in this process where one is enough, because a start takes seconds."""
        if self.devices[1] == "1":
            assert run(PretrainOptions(resume=self.out, tracking_uri=self.uri, quiet=True)) == 0
            return
        done = forked(*self.arguments, cwd=self.out.parent)
        assert done.returncode == 0, done.stderr


def killed_and_resumed(training, kills, seed):
    rng = np.random.default_rng(seed)
    children = []
    for number in range(kills):
        children += training.kill(rng, saving=number % 2 == 0)
        _, alive = psutil.wait_procs(children, timeout=20)
        assert not alive, "a process of a killed run is still there"
    training.finish()
    return children


@pytest.mark.parametrize("kills", [3, pytest.param(20, marks=pytest.mark.slow)])
def test_killed_while_saving_and_between(kills, tmp_path, tiny_catalog, tracking_uri, sixty_steps):
    training = Training(tmp_path, tiny_catalog, tracking_uri)
    killed_and_resumed(training, kills, seed=1)
    assert training.half_saved, "no kill met a save"
    assert state(training.out) == state(sixty_steps(1))
    assert losses(training.out) == losses(sixty_steps(1))
    assert not list(training.out.rglob(".unfinished-*"))


@pytest.mark.parametrize("kills", [1, pytest.param(20, marks=pytest.mark.slow)])
def test_killed_in_two_processes(kills, tmp_path, tiny_catalog, tracking_uri, sixty_steps):
    """Only the first process is killed: the second must not stay behind."""
    training = Training(tmp_path, tiny_catalog, tracking_uri, devices=2)
    assert len(killed_and_resumed(training, kills, seed=2)) >= kills
    assert state(training.out) == state(sixty_steps(2))
    assert losses(training.out) == losses(sixty_steps(2))


def test_stopped_by_each_signal(tmp_path, tiny_catalog, tracking_uri, sixty_steps):
    training = Training(tmp_path, tiny_catalog, tracking_uri)
    runs = []
    for number, code in ((signal.SIGTERM, 143), (signal.SIGINT, 130), (signal.SIGUSR1, 138)):
        begun = training.saved()
        training.start()
        training.wait(lambda begun=begun: max(losses(training.out), default=0) >= begun + 3)
        assert training.end(number) == code, training.log.read_text()
        assert training.saved() >= begun + 3
        assert max(losses(training.out)) == training.saved(), "what was done was not saved"
        runs.append(json.loads((training.out / "tracking.json").read_text())["run_id"])
        assert mlflow_client(tracking_uri).get_run(runs[-1]).info.status == "KILLED"
    assert "go on with --resume" in training.log.read_text()
    assert "Traceback" not in training.log.read_text()
    training.finish()
    assert state(training.out) == state(sixty_steps(1))
    summary = json.loads((training.out / "summary.json").read_text())
    assert {*runs, summary["run_id"]} == {runs[0]}, "a resumed run went on in another run of the tracking store"
    assert mlflow_client(tracking_uri).get_run(runs[0]).info.status == "FINISHED"
    steps = {metric.step for metric in mlflow_client(tracking_uri).get_metric_history(runs[0], "train/loss")}
    assert steps == set(range(1, 61))


def unfinished_copy(folder, original):
    """A run as if it had been killed right before its end."""
    shutil.copytree(original, folder)
    (folder / "summary.json").unlink()
    return folder


@pytest.mark.parametrize("name", ["model.safetensors", "optimizer.safetensors"])
def test_an_altered_checkpoint_is_refused(name, tmp_path, sixty_steps, tracking_uri):
    folder = unfinished_copy(tmp_path / "run", sixty_steps(1))
    path = folder / "checkpoints" / "step-00000060" / name
    content = bytearray(path.read_bytes())
    content[-5] ^= 1
    path.write_bytes(content)
    parts = [f"{path.parent}: {name} was altered", f"remove {path.parent} to go on from an earlier one"]
    refuses(CheckpointError, parts, resume=folder, tracking_uri=tracking_uri)
    assert path.read_bytes() == content


def test_an_incomplete_checkpoint_is_refused_and_without_it_an_earlier_one_counts(tmp_path, sixty_steps, tracking_uri):
    folder = unfinished_copy(tmp_path / "run", sixty_steps(1))
    newest = folder / "checkpoints" / "step-00000060"
    (newest / "optimizer.safetensors").unlink()
    parts = [f"{newest}: is incomplete", "optimizer.safetensors", f"remove {newest} to go on from an earlier one"]
    refuses(CheckpointError, parts, resume=folder, tracking_uri=tracking_uri)
    shutil.rmtree(newest)
    assert run(PretrainOptions(resume=folder, tracking_uri=tracking_uri, quiet=True)) == 0
    assert state(folder) == state(sixty_steps(1))


def test_a_run_that_never_saved_begins_again(tmp_path, sixty_steps, tracking_uri):
    folder = unfinished_copy(tmp_path / "run", sixty_steps(1))
    shutil.rmtree(folder / "checkpoints")
    (folder / "checkpoints").mkdir()
    half = folder / "checkpoints" / ".unfinished-step-00000005-x"
    half.mkdir()
    (half / "model.safetensors").write_bytes(b"half")
    assert run(PretrainOptions(resume=folder, tracking_uri=tracking_uri, quiet=True)) == 0
    assert not half.exists()
    assert losses(folder) == losses(sixty_steps(1))
    assert state(folder) == state(sixty_steps(1))


def test_only_one_process_works_in_a_run(tmp_path, sixty_steps, tracking_uri):
    folder = unfinished_copy(tmp_path / "run", sixty_steps(1))
    with (folder / ".lock").open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        parts = [str(folder), "another process is at work in this run"]
        refuses(StorageError, parts, resume=folder, tracking_uri=tracking_uri)
