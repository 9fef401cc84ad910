"""The `Tracker`: what a command logs goes to a background thread, which may fail, hang or fall behind.

`tracking.start_run` makes one. This module does not depend on MLflow: a `RunStore` keeps the run.
"""

import contextlib
import getpass
import json
import os
import queue
import re
import threading
import time
from collections import deque
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from types import TracebackType
from typing import Any, Literal, Protocol

from geomae.config import flatten
from geomae.tracking.store import without_password

LONGEST_PARAM, LONGEST_TAG, LONGEST_KEY = 6000, 8000, 250  # MLflow's limits, in characters
LONGEST_DATASET_NAME, LONGEST_DIGEST, LONGEST_SOURCE = 500, 36, 65_535
PAUSES_S = (5.0, 10.0, 20.0, 40.0, 80.0, 160.0, 300.0)  # between attempts at one job; the last one repeats
QUICK_S = 10.0  # how long a job that transfers little data may take before `finish` stops waiting
THREAD = "geomae-tracking"
METRICS_PER_CALL = 1000
METRICS_KEPT = 200_000  # largest number of metrics kept for a store that does not answer
GATHER_S = 1.0  # metrics are sent in batches, about once per second
SLOWEST_UPLOAD = 1e6  # bytes per second, below which an upload counts as hanging
IMPORT_S = 100.0  # the import is slow from a cold or network disk, and on a busy machine
LONGEST_FINISH_S = 120.0
Status = Literal["FINISHED", "FAILED", "KILLED"]
Metric = tuple[str, float, int, int]  # name, value, milliseconds since 1970, step


@dataclass(frozen=True)
class DatasetRecord:
    """A data set as input of a run: its digest, its catalogue file (`source`) and entry, its bands and statistics."""

    name: str
    digest: str
    source: str
    entry: Mapping[str, Any] = field(default_factory=dict)
    bands: Sequence[str] = ()
    profile: Mapping[str, Any] = field(default_factory=dict)
    context: Literal["training", "validation"] = "training"


@dataclass(frozen=True)
class BackgroundJob:
    """One piece of work. After `patience_s` seconds `Background.finish` treats it as hanging.

    When an `essential` job fails for good, all later jobs are dropped.
    """

    run: Callable[[], None]
    patience_s: float = QUICK_S
    essential: bool = False


class Background:
    """Runs jobs in order on one daemon thread, which does not keep the process alive.

    A job that raises is retried after a pause, unless `is_permanent(error)`: then it is dropped, and if it is
    essential so are all later ones. `trouble(error)` is called on that thread for every failure.
    """

    def __init__(
        self,
        name: str,
        trouble: Callable[[Exception], None],
        is_permanent: Callable[[Exception], bool],
        capacity: int = 10_000,
    ) -> None:
        self.finishing = threading.Event()
        self._trouble = trouble
        self._is_permanent = is_permanent
        self._queue: queue.Queue[BackgroundJob | None] = queue.Queue(capacity)
        self._last: BackgroundJob | None = None
        self._complete = False
        self._since = time.monotonic()
        self._patience_s = QUICK_S
        self._thread = threading.Thread(target=self._work, name=name, daemon=True)
        self._thread.start()

    def put(self, job: BackgroundJob) -> bool:
        """Queue a job without waiting. Returns False where the queue is full, finishing, or its thread has ended."""
        if self.finishing.is_set() or not self._thread.is_alive():
            return False
        try:
            self._queue.put_nowait(job)
        except queue.Full:
            return False
        return True

    def finish(self, last: BackgroundJob, at_most_s: float) -> bool:
        """Wait until all queued jobs and then `last` are done. Returns True when `last` has been done.

        Gives up after `at_most_s` seconds, and earlier when a job takes longer than its `patience_s` or fails again.
        """
        begin = time.monotonic()
        self._last = last
        self.finishing.set()
        with contextlib.suppress(queue.Full):  # the thread is busy then
            self._queue.put_nowait(None)  # wakes a thread that waits for a job
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
                job = None
            if job is None:
                if self.finishing.is_set():
                    break
            elif not self._attempt(job):
                return
        self._complete = self._last is not None and self._attempt(self._last)

    def _attempt(self, job: BackgroundJob) -> bool:
        """Try a job until it is done or dropped. Returns False when the thread should end."""
        tries = 0
        while True:
            self._patience_s, self._since = job.patience_s, time.monotonic()
            # Read before the attempt, so that a concurrent finish() permits one retry.
            at_the_end = self.finishing.is_set()
            try:
                job.run()
            except Exception as error:
                self._trouble(error)
                if self._is_permanent(error):
                    return not job.essential
            else:
                return True
            if at_the_end:
                return False
            self.finishing.wait(PAUSES_S[min(tries, len(PAUSES_S) - 1)])
            tries += 1


class RunStore(Protocol):
    """Where one run is kept. All methods but `is_permanent` may block and may raise."""

    name: str
    """For messages: a program and an address."""
    open_s: float
    """How many seconds `open` may take before it is treated as hanging."""

    def prepare(self) -> None:
        """Import the libraries that the store needs."""

    def open(self) -> str:
        """Start or resume the run, and return its id."""

    def watch_system(self) -> None:
        """Start logging the load of the machine."""

    def log_params(self, params: Mapping[str, str]) -> None:
        """Log the parameters that the run does not have yet."""

    def log_metrics(self, metrics: Sequence[Metric]) -> None:
        """Log at most METRICS_PER_CALL metrics."""

    def log_datasets(self, records: Sequence[DatasetRecord]) -> None:
        """Log data sets as inputs of the run."""

    def upload(self, path: Path, folder: str | None) -> None:
        """Copy a file, or the content of a folder, to the artifact folder `folder`."""

    def register(self, name: str, folder: str) -> None:
        """Register an artifact folder as the next version of the model `name`."""

    def close(self, status: Status) -> None:
        """End the run with `status`."""

    def is_permanent(self, error: Exception) -> bool:
        """Whether a retry would fail too."""


class Tracker:
    """A run that is being tracked. Only `finish` and `wait_run_id` block; no method raises.

    `Tracker(None)`, for all ranks but the first, does nothing. `warn` is called at most once, usually from the
    background thread. Logged files must not be removed before `finish`.
    """

    def __init__(self, store: RunStore | None = None, warn: Callable[[str], None] | None = None) -> None:
        self._store = store
        self._name = store.name if store is not None else ""
        self._warn = warn
        self._run_id: str | None = None
        self._opened = threading.Event()
        self._metrics: deque[Metric] = deque()
        self._sending = False  # whether a job that sends metrics is queued or running
        self._work: Background | None = None
        if store is not None:
            self._work = Background(THREAD, self._trouble, store.is_permanent)
            self._put(BackgroundJob(store.prepare, IMPORT_S, essential=True))
            self._put(BackgroundJob(lambda: self._open(store), store.open_s, essential=True))

    def __enter__(self) -> "Tracker":
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        stopped = kind is not None and not issubclass(kind, Exception)  # KeyboardInterrupt, SystemExit
        self.finish("FINISHED" if kind is None else "KILLED" if stopped else "FAILED")

    @property
    def run_id(self) -> str | None:
        """The run's id; None until the store has opened the run."""
        return self._run_id

    def wait_run_id(self, timeout: float) -> str | None:
        """Return the run's id, waiting at most `timeout` seconds; None where the store failed or is too slow."""
        if self._work is not None:
            self._opened.wait(timeout)
        return self._run_id

    def log_params(self, params: Mapping[str, str]) -> None:
        """Log flat parameters (see `as_params`); a resumed run keeps the values it already has."""
        if (store := self._store) is not None and params:
            copied = dict(params)
            self._put(BackgroundJob(lambda: store.log_params(copied)))

    def log_metrics(self, values: Mapping[str, float], step: int) -> None:
        """Log the metrics of a step; NaN and infinities are passed on unchanged."""
        if (store := self._store) is None:
            return
        now_ms = int(time.time() * 1000)
        if len(self._metrics) < METRICS_KEPT:
            self._metrics.extend((name, float(value), now_ms, step) for name, value in values.items())
        if not self._sending:
            self._sending = True
            self._put(BackgroundJob(lambda: self._send(store), QUICK_S + GATHER_S))

    def log_datasets(self, records: Sequence[DatasetRecord]) -> None:
        """Log data sets as inputs of the run; one that the run already has is not logged twice."""
        if (store := self._store) is not None and records:
            self._put(BackgroundJob(lambda: store.log_datasets(records)))

    def log_artifact(self, path: Path, folder: str | None = None) -> None:
        """Copy a file to the run, into its artifact folder `folder`."""
        if (store := self._store) is not None:
            self._put(BackgroundJob(lambda: store.upload(path, folder), QUICK_S + _bytes(path) / SLOWEST_UPLOAD))

    def log_artifacts(self, path: Path, folder: str | None = None) -> None:
        """Copy the content of a folder to the run, into its artifact folder `folder`."""
        self.log_artifact(path, folder)

    def log_system(self) -> None:
        """Log the load of the machine (processors, memory, disks, GPUs) until the run ends."""
        if (store := self._store) is not None:
            self._put(BackgroundJob(store.watch_system))

    def register_model(self, name: str, folder: str = "model") -> None:
        """Register the run's artifact folder `folder` as the next version of the model `name`, without pickle."""
        if (store := self._store) is not None:
            self._put(BackgroundJob(lambda: store.register(name, folder)))

    def finish(self, status: Status = "FINISHED") -> None:
        """Send what is queued and close the run; gives up after about 10 s without an answer, or 120 s in all."""
        store, work = self._store, self._work
        if store is None or work is None:
            return
        self._store = None

        def last() -> None:
            self._send(store)
            store.close(status)

        if not work.finish(BackgroundJob(last), LONGEST_FINISH_S):
            self._warn_once("did not answer in time")

    def _open(self, store: RunStore) -> None:
        self._run_id = store.open()
        self._opened.set()

    def _send(self, store: RunStore) -> None:
        """Wait GATHER_S for more metrics, then send all. Only the background thread removes metrics from the queue."""
        if self._work is not None:
            self._work.finishing.wait(GATHER_S)
        while self._metrics:
            batch = [self._metrics[index] for index in range(min(len(self._metrics), METRICS_PER_CALL))]
            try:
                store.log_metrics(batch)
            except Exception as error:
                if not store.is_permanent(error):
                    raise
                self._trouble(error)
            for _ in batch:
                self._metrics.popleft()
        self._sending = False

    def _put(self, job: BackgroundJob) -> None:
        if self._work is not None and not self._work.put(job):
            self._warn_once("has fallen behind, and some of what is logged is lost")

    def _trouble(self, error: Exception) -> None:
        self._warn_once(f"failed ({one_line(error)})")
        self._opened.set()  # the run may still open on a retry, but `wait_run_id` stops waiting for it

    def _warn_once(self, problem: str) -> None:
        warn, self._warn = self._warn, None
        if warn is not None:
            warn(without_password(f"{self._name} {problem}; the work goes on, and its own files are complete"))


def as_params(config: Mapping[str, Any]) -> dict[str, str]:
    """Flatten nested settings to `a.b: text`, cut to MLflow's longest value; a list becomes one JSON text."""
    return {
        key: (str(value) if isinstance(value, (str, Path)) else _json(value))[:LONGEST_PARAM]
        for key, value in flatten(config).items()
    }


def clean_key(name: str) -> str:
    """Return `name` as a parameter or metric name that MLflow accepts; one invalid name would fail the whole batch."""
    return re.sub(r"[^\w\-./ ]", "_", name)[:LONGEST_KEY]


def dataset_fields(record: DatasetRecord) -> dict[str, str]:
    """Return the fields of MLflow's `Dataset` entity; the bands are the columns of its schema."""
    source = _json({"uri": record.source, "entry": record.entry})
    if len(source) > LONGEST_SOURCE:
        source = _json({"uri": record.source})
    columns = [{"name": band, "type": "float", "required": True} for band in record.bands]
    return {
        "name": record.name[:LONGEST_DATASET_NAME],
        "digest": record.digest[:LONGEST_DIGEST],
        "source_type": "local",
        "source": source,
        "schema": _json({"mlflow_colspec": columns}),
        "profile": _json(record.profile),
    }


def usual_tags() -> dict[str, str]:
    """Return the tags that MLflow's pages show in their own columns: the user and the source."""
    try:
        user = getpass.getuser()
    except (KeyError, OSError):  # in a container, the user id may have no name
        user = str(os.getuid())
    return {"mlflow.user": user, "mlflow.source.name": "geomae", "mlflow.source.type": "LOCAL"}


def one_line(error: BaseException) -> str:
    """Return the message of an error as one line of at most 300 characters."""
    return " ".join(f"{error}".split())[:300] or type(error).__name__


def _bytes(path: Path) -> int:
    with contextlib.suppress(OSError):  # a file that is missing raises again when it is uploaded
        return sum(file.stat().st_size for file in (path.rglob("*") if path.is_dir() else [path]) if file.is_file())
    return 0


def _json(value: Any) -> str:
    return json.dumps(value, default=str, ensure_ascii=False)
