"""The command as a process of its own that starts at once: forked from one that has imported what is slow.

A fresh interpreter spends 10 of its 12 seconds on imports. What is under test of a process (signals, kills, exit codes,
files that two of them share) is the same in one that is forked. tests/integration/test_pretrain.py starts fresh ones.
"""

import atexit
import multiprocessing
import os
import subprocess
import sys
import tempfile
from pathlib import Path

from helpers import command

FORKS = multiprocessing.get_context("forkserver")
FORKS.set_forkserver_preload([
    "geomae.cli", "geomae.commands.pretrain_report", "geomae.training.loop", "geomae.training.trainer", "mlflow",
    "mlflow.tracking", "mlflow.store.tracking.sqlalchemy_store",
])  # fmt: skip


class Forked:
    """A command at work in `cwd`, with the part of subprocess.Popen that tests use."""

    def __init__(self, *arguments: object, cwd: Path, out: Path, err: Path, **environment: str) -> None:
        words = command(*arguments)
        self._process = FORKS.Process(target=_begin, args=(words, cwd, (out, err), os.environ | environment))
        self._process.start()
        assert self._process.pid is not None
        self.pid = self._process.pid

    @property
    def returncode(self) -> int | None:
        return self._process.exitcode

    def poll(self) -> int | None:
        return self._process.exitcode

    def send_signal(self, number: int) -> None:
        if self.poll() is None:
            os.kill(self.pid, number)

    def wait(self, timeout: float) -> int:
        self._process.join(timeout)
        if self.returncode is None:
            self.send_signal(9)
            raise TimeoutError(f"process {self.pid} did not end within {timeout} s")
        return self.returncode

    def __del__(self) -> None:
        self.send_signal(9)  # of a test that failed


def forked(*arguments: object, cwd: Path, timeout: float = 300, **environment: str) -> subprocess.CompletedProcess[str]:
    """What the command says and ends with, run in a process of its own."""
    with tempfile.TemporaryDirectory() as folder:
        out, err = (Path(folder) / name for name in ("out", "err"))
        code = Forked(*arguments, cwd=cwd, out=out, err=err, **environment).wait(timeout)
        said = [path.read_text(encoding="utf-8") for path in (out, err)]
    return subprocess.CompletedProcess(command(*arguments), code, *said)


def _begin(words: list[str], cwd: Path, said: tuple[Path, Path], environment: dict[str, str]) -> None:
    """Be the command: its words, folder, variables, and files for what it says."""
    from geomae.cli import main

    os.environ.clear()
    os.environ.update(environment)
    os.chdir(cwd)
    for number, path in zip((1, 2), said, strict=True):
        os.dup2(os.open(path, os.O_WRONLY | os.O_CREAT | os.O_APPEND, 0o644), number)
    sys.argv = words
    sys.modules["__main__"].__spec__ = None  # else Fabric starts rank 1 as what started the tests
    try:
        main()
    finally:
        atexit._run_exitfuncs()  # which forks leave out; Fabric takes leave of the other ranks there
