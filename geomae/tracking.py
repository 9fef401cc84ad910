"""MLflow, and nothing else knows MLflow: runs, their data sets and artifacts, and the model registry.

A tracking server that is down, slow or full never stops, slows or changes what is tracked: everything happens on one
background thread, which also imports MLflow (some seconds), and the first failure is told in one line.
"""

import atexit
import getpass
import json
import logging
import os
import re
import shutil
import tempfile
import threading
import time
import warnings
from collections import deque
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from itertools import islice
from pathlib import Path
from types import TracebackType
from typing import Any, Literal

from geomae.background import QUICK_S, Background, Job
from geomae.errors import GeomaeError, ModelError
from geomae.tracking_store import (
    artifact_root,
    check_database,
    database_path,
    resolve_uri,
    set_defaults,
    ui,
    without_password,
)

__all__ = ["DatasetRecord", "Status", "Tracker", "download", "flatten", "resolve_uri", "start_run", "ui"]

Status = Literal["FINISHED", "FAILED", "KILLED"]
THREAD = "geomae-tracking"
LONGEST_PARAM, LONGEST_TAG, LONGEST_DIGEST, LONGEST_SOURCE = 6000, 8000, 36, 65_535  # MLflow's limits, in characters
PARAMS_PER_CALL, METRICS_PER_CALL = 100, 1000  # MLflow's limits too
METRICS_KEPT = 200_000  # how many wait for a store that does not answer
GATHER_S = 1.0  # metrics are sent together, about once per second
SLOWEST_UPLOAD = 1e6  # bytes per second, below which an upload counts as hanging
IMPORT_S = 60.0  # importing MLflow from a cold or a network disk; making the tables of a new database
LONGEST_FINISH_S = 120.0
PATIENT_HTTP_S = "60"  # for a server that has answered once: it stores a large file before it says so


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


def flatten(config: Mapping[str, Any], prefix: str = "") -> dict[str, str]:
    """Nested settings as `a.b: text`, cut to the length that MLflow takes; a list stays one text of JSON."""
    flat: dict[str, str] = {}
    for key, value in config.items():
        if isinstance(value, Mapping) and value:
            flat |= flatten(value, f"{prefix}{key}.")
        else:
            text = str(value) if isinstance(value, (str, Path)) else json.dumps(value, default=str, ensure_ascii=False)
            flat[f"{prefix}{key}"] = text[:LONGEST_PARAM]
    return flat


class Tracker:
    """A run that is being tracked, made by `start_run`. Only `finish` and `wait_run_id` wait; nothing here raises.

    `Tracker(None)`, for all ranks but the first, does nothing. Files that are logged must stay until `finish`.
    """

    def __init__(self, session: "_Session | None" = None) -> None:
        self._session = session

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
        return self._session.run_id if self._session else None

    def wait_run_id(self, timeout: float) -> str | None:
        """Give the run's id, waiting up to `timeout` seconds for the store."""
        if self._session:
            self._session.opened.wait(timeout)
        return self.run_id

    def log_metrics(self, values: Mapping[str, float], step: int) -> None:
        """Log figures of a step; NaN and infinities are passed on."""
        if self._session:
            self._session.gather(values, step)

    def log_artifact(self, path: Path, folder: str | None = None) -> None:
        """Copy a file to the run, into its artifact folder `folder`."""
        if self._session:
            session = self._session
            session.put(lambda: session.upload(path, folder), QUICK_S + _bytes(path) / SLOWEST_UPLOAD)

    def log_artifacts(self, path: Path, folder: str | None = None) -> None:
        """Copy what a folder holds to the run, into its artifact folder `folder`."""
        self.log_artifact(path, folder)

    def log_datasets(self, records: Sequence[DatasetRecord]) -> None:
        """Log data sets as inputs of the run; one that it has already is not logged twice."""
        if self._session and records:
            session = self._session
            session.put(lambda: session.log_inputs(records))

    def register_model(self, name: str, folder: str = "model") -> None:
        """Make the run's artifact folder `folder` the next version of the registered model `name`, without pickle."""
        if self._session:
            session = self._session
            session.put(lambda: session.register(name, folder))

    def finish(self, status: Status = "FINISHED") -> None:
        """Send what waits and close the run; gives up after 10 s without an answer, or 120 s of slow ones."""
        if self._session:
            self._session.finish(status)
        self._session = None


def start_run(
    uri: str,
    experiment: str,
    run_name: str | None,
    *,
    run_id: str | None = None,
    tags: Mapping[str, str] | None = None,
    params: Mapping[str, str] | None = None,
    datasets: Sequence[DatasetRecord] = (),
    warn: Callable[[str], None] | None = None,
) -> Tracker:
    """Begin a run in the store at `uri` (see `resolve_uri`), or go on with `run_id`; returns at once.

    `params` are flat (see `flatten`); a resumed run keeps those that it has. `warn` gets at most one line, mostly from
    another thread; without it the line goes to the logger `geomae`.
    """
    set_defaults()
    session = _Session(uri, experiment, run_name, run_id, dict(tags or {}), warn or logging.getLogger("geomae").warning)
    tracker = Tracker(session)
    if params:
        copied = dict(params)
        session.put(lambda: session.log_params(copied))
    tracker.log_datasets(datasets)
    return tracker


def download(reference: str, uri: str) -> Path:
    """Give a local folder with the model that `mlflow:RUN_ID` or `models:/NAME/VERSION` names in the store at `uri`.

    A store on this machine gives its own folder, another a copy that goes when the process ends. Raises ModelError.
    """
    database = database_path(uri)
    if database is not None and not database.is_file():
        raise ModelError(f"{reference}: there is no tracking store {database}; name the right one with --tracking-uri")
    set_defaults()
    try:
        return _fetch(reference, uri)
    except GeomaeError:
        raise
    except Exception as error:  # MLflow, its HTTP client and its storage plugins share no error class
        remedy = "check the name, and the store with --tracking-uri"
        raise ModelError(f"{reference}: cannot be fetched from {without_password(uri)} ({_reason(error)}); {remedy}") from error


def _fetch(reference: str, uri: str) -> Path:
    client = _client(uri)
    from mlflow.artifacts import download_artifacts
    from mlflow.utils.file_utils import local_file_uri_to_path
    from mlflow.utils.uri import append_to_uri_path, is_local_uri

    run_id = reference.removeprefix("mlflow:")
    registered = re.fullmatch(r"models:/([^/@]+)/(\d+)", reference)
    if registered:
        location = client.get_model_version_download_uri(*registered.groups())
    elif run_id != reference:
        location = append_to_uri_path(client.get_run(run_id).info.artifact_uri, "model")
    else:
        raise ModelError(f"{reference}: is no model of MLflow's; write mlflow:RUN_ID or models:/NAME/VERSION")
    if is_local_uri(location):
        folder = Path(local_file_uri_to_path(location))
    else:
        copy = tempfile.mkdtemp(prefix="geomae-model-")
        atexit.register(shutil.rmtree, copy, ignore_errors=True)
        folder = Path(download_artifacts(artifact_uri=location, dst_path=copy, tracking_uri=uri))
    if not folder.is_dir():
        raise ModelError(f"{reference}: holds no model folder ({folder} is absent); check that its training ended")
    return folder
