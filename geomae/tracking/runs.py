"""Runs in MLflow: their parameters, metrics, data sets and artifacts, and the model registry.

A tracking server that is down, slow or full never stops, slows or changes the command that logs to it. All calls run
on the background thread of a `Tracker`, and so does the import of MLflow (some seconds). Only the first failure is
reported, in one line.
"""

import atexit
import functools
import logging
import os
import re
import shutil
import subprocess
import tempfile
import warnings
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any
from urllib.parse import unquote, urlsplit

from geomae.errors import GeomaeError, ModelError
from geomae.tracking.store import (
    artifact_root,
    database_path,
    ready_database,
    set_defaults,
    trust_server,
    without_password,
)
from geomae.tracking.tracker import (
    IMPORT_S,
    LONGEST_TAG,
    QUICK_S,
    THREAD,
    DatasetRecord,
    Metric,
    Status,
    Tracker,
    clean_key,
    dataset_fields,
    one_line,
    usual_tags,
)

PARAMS_PER_CALL = 100  # MLflow's limit
EXPERIMENT_TAGS = {"mlflow.experimentKind": "custom_model_development"}  # makes older interfaces show the runs first


@functools.cache
def commit() -> str:
    """Return the Git commit of this checkout, or `unknown` for an installed package."""
    try:
        completed = subprocess.run(
            ["git", "rev-parse", "HEAD"],
            cwd=Path(__file__).parent,
            capture_output=True,
            text=True,
            timeout=5,
            check=True,
        )
    except (OSError, subprocess.SubprocessError):
        return "unknown"
    return completed.stdout.strip()


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
    """Start a run in the store at `uri` (see `resolve_uri`), or resume the run `run_id`; returns without waiting.

    `params` are flat (see `as_params`); a resumed run keeps the values it already has. `warn` is called at most once,
    usually from the background thread; the default is the logger `geomae`.
    """
    set_defaults()
    cut = {key: value[:LONGEST_TAG] for key, value in {**usual_tags(), **(tags or {})}.items()}
    store = _MlflowRun(uri, experiment, run_name, run_id, cut)
    tracker = Tracker(store, warn or logging.getLogger("geomae").warning)
    tracker.log_params(params or {})
    tracker.log_datasets(datasets)
    if os.environ.get("MLFLOW_ENABLE_SYSTEM_METRICS_LOGGING", "true").lower() in ("true", "1"):
        tracker.log_system()
    return tracker


def download(reference: str, uri: str) -> Path:
    """Return a local folder with the model that `mlflow:RUN_ID` or `models:/NAME/VERSION` names in the store at `uri`.

    A store on this machine returns its own folder. Any other store returns a temporary copy, which is deleted when
    the process ends. Raises ModelError when the model cannot be fetched.
    """
    database = database_path(uri)
    if database is not None and not database.is_file():
        raise ModelError(f"{reference}: there is no tracking store {database}; name the right one with --tracking-uri")
    set_defaults()
    try:
        return _fetch(reference, uri)
    except GeomaeError:
        raise
    except Exception as error:  # MLflow, its HTTP client and its storage plugins have no common base class of errors
        where, reason = without_password(uri), without_password(one_line(error))
        remedy = "check the name, and the store with --tracking-uri"
        raise ModelError(f"{reference}: cannot be fetched from {where} ({reason}); {remedy}") from error


def _fetch(reference: str, uri: str) -> Path:
    client = _client(uri)
    from mlflow.artifacts import download_artifacts

    run_id = reference.removeprefix("mlflow:")
    registered = re.fullmatch(r"models:/([^/@]+)/(\d+)", reference)
    if registered:
        location = client.get_model_version_download_uri(*registered.groups())
    elif run_id != reference:
        location = f"{client.get_run(run_id).info.artifact_uri}/model"
    else:
        raise ModelError(f"{reference}: is no reference to a model; write mlflow:RUN_ID or models:/NAME/VERSION")
    parts = urlsplit(location)
    if parts.scheme in ("", "file"):
        folder = Path(unquote(parts.path) if parts.scheme else location)
    else:
        copy = tempfile.mkdtemp(prefix="geomae-model-")
        atexit.register(shutil.rmtree, copy, ignore_errors=True)
        folder = Path(download_artifacts(artifact_uri=location, dst_path=copy, tracking_uri=uri))
    if not folder.is_dir():
        raise ModelError(f"{reference}: the run has no model ({folder} is absent); check that its training finished")
    return folder


class _MlflowRun:
    """One run in MLflow, as the `RunStore` of a `Tracker`. Only the tracker's background thread calls its methods."""

    def __init__(
        self, uri: str, experiment: str, run_name: str | None, run_id: str | None, tags: Mapping[str, str]
    ) -> None:
        self.name = f"MLflow at {uri}"
        self.open_s = QUICK_S if database_path(uri) is None else IMPORT_S
        self._uri = uri
        self._experiment = experiment
        self._run_name = run_name
        self._run_id = run_id
        self._tags = tags
        self._client: Any = None
        self._monitor: Any = None

    def prepare(self) -> None:
        _import()

    def open(self) -> str:
        ready_database(self._uri, lambda uri: _client(uri).search_experiments(max_results=1))
        self._client = _client(self._uri)
        if self._run_id is None or not self._goes_on(self._run_id):
            run = self._client.create_run(self._experiment_id(), run_name=self._run_name, tags=self._tags)
            self._run_id = str(run.info.run_id)
        trust_server()
        return self._run_id

    def watch_system(self) -> None:
        from mlflow.system_metrics.system_metrics_monitor import SystemMetricsMonitor

        monitor: Any = SystemMetricsMonitor  # MLflow has no type annotations here
        self._monitor = monitor(self._run_id, resume_logging=True, tracking_uri=self._uri)
        self._monitor.start()

    def log_params(self, params: Mapping[str, str]) -> None:
        from mlflow.entities import Param

        known = self._client.get_run(self._run_id).data.params  # MLflow refuses to change a parameter
        new = [Param(key, text) for name, text in params.items() if (key := clean_key(name)) not in known]
        for begin in range(0, len(new), PARAMS_PER_CALL):
            self._client.log_batch(self._run_id, params=new[begin : begin + PARAMS_PER_CALL])

    def log_metrics(self, metrics: Sequence[Metric]) -> None:
        from mlflow.entities import Metric as Entity

        entities = [Entity(clean_key(name), value, time_ms, step) for name, value, time_ms, step in metrics]
        self._client.log_batch(self._run_id, metrics=entities)

    def log_datasets(self, records: Sequence[DatasetRecord]) -> None:
        from mlflow.entities import Dataset, DatasetInput, InputTag

        inputs = [
            DatasetInput(Dataset(**dataset_fields(record)), [InputTag("mlflow.data.context", record.context)])
            for record in records
        ]
        self._client.log_inputs(self._run_id, inputs)

    def upload(self, path: Path, folder: str | None) -> None:
        if path.is_dir():
            self._client.log_artifacts(self._run_id, str(path), folder)
        else:
            self._client.log_artifact(self._run_id, str(path), folder)

    def register(self, name: str, folder: str) -> None:
        from mlflow.exceptions import MlflowException

        if not self._client.list_artifacts(self._run_id, folder):
            raise FileNotFoundError(f"run {self._run_id} has no artifact folder {folder!r} to register as {name!r}")
        try:
            self._client.create_registered_model(name)
        except MlflowException as error:
            if error.error_code != "RESOURCE_ALREADY_EXISTS":
                raise
        source = f"{self._client.get_run(self._run_id).info.artifact_uri}/{folder}"
        self._client.create_model_version(name, source, self._run_id, await_creation_for=0)

    def close(self, status: Status) -> None:
        if self._monitor is not None:
            self._monitor.finish()
        self._client.set_terminated(self._run_id, status)

    def is_permanent(self, error: Exception) -> bool:
        code = getattr(error, "get_http_status_code", None)
        if code is not None:
            return 400 <= code() < 500 and code() not in (408, 429)  # request timeout, too many requests
        return isinstance(error, FileNotFoundError) or not isinstance(error, OSError)

    def _goes_on(self, run_id: str) -> bool:
        """Set the run's status to RUNNING again; False where the store no longer has the run."""
        from mlflow.entities import RunTag
        from mlflow.exceptions import MlflowException

        try:
            self._client.update_run(run_id, status="RUNNING")
        except MlflowException as error:
            if not self.is_permanent(error):
                raise
            self._tags = {**self._tags, "geomae.continues": run_id}
            return False
        self._client.log_batch(run_id, tags=[RunTag(key, text) for key, text in self._tags.items()])
        return True

    def _experiment_id(self) -> str:
        from mlflow.exceptions import MlflowException

        known = self._client.get_experiment_by_name(self._experiment)
        if known is None:
            try:
                root = artifact_root(self._uri)
                return str(self._client.create_experiment(self._experiment, root, tags=EXPERIMENT_TAGS))
            except MlflowException as error:
                if error.error_code != "RESOURCE_ALREADY_EXISTS":  # another process created it in the meantime
                    raise
            known = self._client.get_experiment_by_name(self._experiment)
        return str(known.experiment_id)


class _Quiet(logging.Filter):
    """Drops log records of MLflow and its HTTP client from our threads; the tracker reports the failure itself."""

    def filter(self, record: logging.LogRecord) -> bool:
        return record.threadName not in (THREAD, "SystemMetricsMonitor")


def _import() -> None:
    # Restricted to MLflow's modules, because the list of warning filters is shared by the whole process.
    warnings.filterwarnings("ignore", module=r"mlflow(\.|$)")
    import mlflow.tracking  # noqa: F401

    quiet = _Quiet()
    for one in (*logging.getLogger("mlflow").handlers, logging.getLogger("urllib3.connectionpool")):
        if not any(isinstance(known, _Quiet) for known in one.filters):
            one.addFilter(quiet)


def _client(uri: str) -> Any:
    _import()
    from mlflow.tracking import MlflowClient

    return MlflowClient(uri, os.environ.get("MLFLOW_REGISTRY_URI") or uri)
