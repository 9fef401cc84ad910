"""A run as whoever is tracked sees it: what is logged goes to a background thread, which may fail, hang or fall behind.

`tracking.start_run` makes one; this module does not know who keeps the run.
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
QUICK_S = 10.0  # how long a job that moves little may take before whoever waits for the end gives up
THREAD = "geomae-tracking"
METRICS_PER_CALL = 1000
METRICS_KEPT = 200_000  # how many wait for a store that does not answer
GATHER_S = 1.0  # metrics are sent together, about once per second
SLOWEST_UPLOAD = 1e6  # bytes per second, below which an upload counts as hanging
IMPORT_S = 100.0  # importing takes long from a cold or a network disk, and on a busy machine
LONGEST_FINISH_S = 120.0
Status = Literal["FINISHED", "FAILED", "KILLED"]
Metric = tuple[str, float, int, int]  # name, value, milliseconds since 1970, step


@dataclass(frozen=True)
class DatasetRecord:
    """A data set as the input of a run: its digest, the file and entry that describe it, its bands and its figures."""

    name: str
    digest: str
    source: str
    entry: Mapping[str, Any] = field(default_factory=dict)
    bands: Sequence[str] = ()
    profile: Mapping[str, Any] = field(default_factory=dict)
    context: Literal["training", "validation"] = "training"


@dataclass(frozen=True)
class BackgroundJob:
    """One piece of work. `patience_s`: how long it may take before `Background.finish` counts it as hanging.

    Nothing after an `essential` job makes sense without it.
    """

    run: Callable[[], None]
    patience_s: float = QUICK_S
    essential: bool = False


class Background:
    """Runs jobs in order on one daemon thread, which never keeps the process alive.

    A job that raises is tried again after a pause, unless `is_permanent(error)`: then it is dropped, and with an
    essential job all others. `trouble(error)` hears of every failure, on that thread.
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
        self._queue: queue.Queue[BackgroundJob] = queue.Queue(capacity)
        self._last: BackgroundJob | None = None
        self._complete = False
        self._since = time.monotonic()
        self._patience_s = QUICK_S
        self._thread = threading.Thread(target=self._work, name=name, daemon=True)
        self._thread.start()

    def put(self, job: BackgroundJob) -> bool:
        """Queue a job without ever waiting; False where there is no room or nobody left to do it."""
        if self.finishing.is_set() or not self._thread.is_alive():
            return False
        try:
            self._queue.put_nowait(job)
        except queue.Full:
            return False
        return True

    def finish(self, last: BackgroundJob, at_most_s: float) -> bool:
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

    def _attempt(self, job: BackgroundJob) -> bool:
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
                if self._is_permanent(error):
                    return not job.essential
            else:
                return True
            if at_the_end:
                return False
            self.finishing.wait(PAUSES_S[min(tries, len(PAUSES_S) - 1)])
            tries += 1


class RunStore(Protocol):
    """Keeps one run; all methods but `is_permanent` may wait and may raise."""

    name: str
    """What people call it: a program and an address."""
    open_s: float
    """How long `open` may take before it counts as hanging."""

    def prepare(self) -> None:
        """Import what it takes."""

    def open(self) -> str:
        """Begin the run, or go on with it; give its id."""

    def watch_system(self) -> None:
        """Begin to log the load of the machine."""

    def log_params(self, params: Mapping[str, str]) -> None:
        """Log parameters that the run does not have yet."""

    def log_metrics(self, metrics: Sequence[Metric]) -> None:
        """Log at most METRICS_PER_CALL figures."""

    def log_datasets(self, records: Sequence[DatasetRecord]) -> None:
        """Log inputs."""

    def upload(self, path: Path, folder: str | None) -> None:
        """Copy a file, or what a folder holds."""

    def register(self, name: str, folder: str) -> None:
        """Make an artifact folder the next version of a registered model."""

    def close(self, status: Status) -> None:
        """End the run."""

    def is_permanent(self, error: Exception) -> bool:
        """Whether trying again cannot help."""


class Tracker:
    """A run that is being tracked. Only `finish` and `wait_run_id` wait; nothing here raises.

    `Tracker(None)`, for all ranks but the first, does nothing. `warn` gets at most one line, mostly from another
    thread. Files that are logged must stay until `finish`.
    """

    def __init__(self, store: RunStore | None = None, warn: Callable[[str], None] | None = None) -> None:
        self._store = store
        self._name = store.name if store is not None else ""
        self._warn = warn
        self._run_id: str | None = None
        self._opened = threading.Event()
        self._metrics: deque[Metric] = deque()
        self._sending = False  # whether a job that sends metrics waits or runs
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
        """The run's id as soon as the store has given one."""
        return self._run_id

    def wait_run_id(self, timeout: float) -> str | None:
        """Give the run's id, waiting up to `timeout` seconds for the store, and no longer for one that fails."""
        if self._work is not None:
            self._opened.wait(timeout)
        return self._run_id

    def log_params(self, params: Mapping[str, str]) -> None:
        """Log flat settings (see `as_params`); a resumed run keeps those that it has."""
        if (store := self._store) is not None and params:
            copied = dict(params)
            self._put(BackgroundJob(lambda: store.log_params(copied)))

    def log_metrics(self, values: Mapping[str, float], step: int) -> None:
        """Log figures of a step; NaN and infinities are passed on."""
        if (store := self._store) is None:
            return
        now_ms = int(time.time() * 1000)
        if len(self._metrics) < METRICS_KEPT:
            self._metrics.extend((name, float(value), now_ms, step) for name, value in values.items())
        if not self._sending:
            self._sending = True
            self._put(BackgroundJob(lambda: self._send(store), QUICK_S + GATHER_S))

    def log_datasets(self, records: Sequence[DatasetRecord]) -> None:
        """Log data sets as inputs of the run; one that it has already is not logged twice."""
        if (store := self._store) is not None and records:
            self._put(BackgroundJob(lambda: store.log_datasets(records)))

    def log_artifact(self, path: Path, folder: str | None = None) -> None:
        """Copy a file to the run, into its artifact folder `folder`."""
        if (store := self._store) is not None:
            self._put(BackgroundJob(lambda: store.upload(path, folder), QUICK_S + _bytes(path) / SLOWEST_UPLOAD))

    def log_artifacts(self, path: Path, folder: str | None = None) -> None:
        """Copy what a folder holds to the run, into its artifact folder `folder`."""
        self.log_artifact(path, folder)

    def log_system(self) -> None:
        """Log the load of the machine (processors, memory, disks, GPUs) until the run ends."""
        if (store := self._store) is not None:
            self._put(BackgroundJob(store.watch_system))

    def register_model(self, name: str, folder: str = "model") -> None:
        """Make the run's artifact folder `folder` the next version of the registered model `name`, without pickle."""
        if (store := self._store) is not None:
            self._put(BackgroundJob(lambda: store.register(name, folder)))

    def finish(self, status: Status = "FINISHED") -> None:
        """Send what waits and close the run; gives up after some 10 s without an answer, or 120 s of slow ones."""
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
        """Send the metrics that wait, first gathering some more. Only the background thread removes any."""
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
        self._opened.set()  # it may still open later; nobody waits for that

    def _warn_once(self, problem: str) -> None:
        warn, self._warn = self._warn, None
        if warn is not None:
            warn(without_password(f"{self._name} {problem}; the work goes on, and its own files are complete"))


def as_params(config: Mapping[str, Any]) -> dict[str, str]:
    """Give nested settings as `a.b: text`, cut to the length that MLflow takes; a list stays one text of JSON."""
    return {
        key: (str(value) if isinstance(value, (str, Path)) else _json(value))[:LONGEST_PARAM]
        for key, value in flatten(config).items()
    }


def clean_key(name: str) -> str:
    """Give a name that MLflow takes for a parameter or a metric; it would refuse a whole batch for one other."""
    return re.sub(r"[^\w\-./ ]", "_", name)[:LONGEST_KEY]


def dataset_fields(record: DatasetRecord) -> dict[str, str]:
    """Give the fields of MLflow's own record of a data set; the bands are the columns of its schema."""
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
    """Give the tags that MLflow's pages show in columns of their own."""
    try:
        user = getpass.getuser()
    except (KeyError, OSError):  # a container may run under a number without a name
        user = str(os.getuid())
    return {"mlflow.user": user, "mlflow.source.name": "geomae", "mlflow.source.type": "LOCAL"}


def one_line(error: BaseException) -> str:
    """Give what an error says in one line of at most 300 characters."""
    return " ".join(f"{error}".split())[:300] or type(error).__name__


def _bytes(path: Path) -> int:
    with contextlib.suppress(OSError):  # whoever uploads it finds out
        return sum(file.stat().st_size for file in (path.rglob("*") if path.is_dir() else [path]) if file.is_file())
    return 0


def _json(value: Any) -> str:
    return json.dumps(value, default=str, ensure_ascii=False)
