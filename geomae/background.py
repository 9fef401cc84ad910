"""Work on one background thread that can fail, hang or fall behind without the caller noticing."""

import queue
import threading
import time
from collections.abc import Callable
from dataclasses import dataclass

PAUSES_S = (5.0, 10.0, 20.0, 40.0, 80.0, 160.0, 300.0)  # between attempts at one job; the last one repeats
QUICK_S = 10.0  # how long a job that moves little may take before whoever waits for the end gives up


@dataclass(frozen=True)
class Job:
    """One piece of work. `patience_s`: how long it may take before `Background.finish` counts it as hanging.

    Nothing after an `essential` job makes sense without it.
    """

    run: Callable[[], None]
    patience_s: float = QUICK_S
    essential: bool = False


class Background:
    """Runs jobs in order on one daemon thread, which never keeps the process alive.

    A job that raises is tried again after a pause, unless `hopeless(error)`: then it is dropped, and with an essential
    job all others. `trouble(error)` hears of every failure, on that thread.
    """

    def __init__(
        self,
        name: str,
        trouble: Callable[[Exception], None],
        hopeless: Callable[[Exception], bool],
        capacity: int = 10_000,
    ) -> None:
        self.finishing = threading.Event()
        self._trouble = trouble
        self._hopeless = hopeless
        self._queue: queue.Queue[Job] = queue.Queue(capacity)
        self._last: Job | None = None
        self._complete = False
        self._since = time.monotonic()
        self._patience_s = QUICK_S
        self._thread = threading.Thread(target=self._work, name=name, daemon=True)
        self._thread.start()

    def put(self, job: Job) -> bool:
        """Queue a job without ever waiting; False where there is no room or nobody left to do it."""
        if self.finishing.is_set() or not self._thread.is_alive():
            return False
        try:
            self._queue.put_nowait(job)
        except queue.Full:
            return False
        return True

    def finish(self, last: Job, at_most_s: float) -> bool:
        """Wait until all jobs and then `last` are done; True when they are.

        Gives up after `at_most_s`, and earlier when one job takes longer than its patience or fails again.
        """
        begin = time.monotonic()
        self._last = last
        self.finishing.set()
        while self._thread.is_alive():
            self._thread.join(0.05)
            now = time.monotonic()
            if now - begin > at_most_s or now - max(self._since, begin) > self._patience_s:
                break
        return self._complete

    def _work(self) -> None:
        while True:
            try:
                job = self._queue.get(timeout=0.2)
            except queue.Empty:
                if self.finishing.is_set():
                    break
                continue
            if not self._attempt(job):
                return
        self._complete = self._last is not None and self._attempt(self._last)

    def _attempt(self, job: Job) -> bool:
        """Try a job until it is done or dropped; False when the thread should end."""
        tries = 0
        while True:
            self._patience_s, self._since = job.patience_s, time.monotonic()
            # Asked before the attempt: whoever begins to finish meanwhile gets one more.
            at_the_end = self.finishing.is_set()
            try:
                job.run()
            except Exception as error:
                self._trouble(error)
                if self._hopeless(error):
                    return not job.essential
            else:
                return True
            if at_the_end:
                return False
            self.finishing.wait(PAUSES_S[min(tries, len(PAUSES_S) - 1)])
            tries += 1
