"""Signals that end a run after it has saved: SIGINT, SIGTERM and SIGUSR1 (schedulers send it before the time limit)."""

import contextlib
import ctypes
import os
import signal
from collections.abc import Iterator
from dataclasses import dataclass
from types import FrameType

STOPPING = (signal.SIGINT, signal.SIGTERM, signal.SIGUSR1)


@dataclass
class Stop:
    """The first signal that arrived; 0 for none. The exit code of a stopped run is 128 plus the signal."""

    signal: int = 0

    @property
    def exit_code(self) -> int:
        """130, 143 or 138; 0 where no signal arrived."""
        return 128 + self.signal if self.signal else 0


@contextlib.contextmanager
def watch() -> Iterator[Stop]:
    """Record signals instead of ending the process; the training loop checks the yielded `Stop` after each step.

    A second SIGINT raises KeyboardInterrupt at once.
    """
    stop = Stop()

    def note(number: int, frame: FrameType | None) -> None:
        if stop.signal == signal.SIGINT == number:
            raise KeyboardInterrupt
        stop.signal = stop.signal or number

    before = {number: signal.signal(number, note) for number in STOPPING}
    try:
        yield stop
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)


def die_with_parent() -> None:
    """Let the kernel kill this process when its parent ends, so that a killed run leaves no rank behind (Linux)."""
    with contextlib.suppress(OSError, AttributeError):
        PR_SET_PDEATHSIG = 1
        ctypes.CDLL(None, use_errno=True).prctl(PR_SET_PDEATHSIG, signal.SIGKILL)
        if os.getppid() == 1:  # the parent died before the call
            os.kill(os.getpid(), signal.SIGKILL)
