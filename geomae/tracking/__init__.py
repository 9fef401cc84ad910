"""Tracking of runs in MLflow: start them, log to them, fetch their models. The first run imports MLflow on a thread."""

from geomae.tracking.runs import commit, download, start_run
from geomae.tracking.store import resolve_uri, ui, without_password
from geomae.tracking.tracker import DatasetRecord, Status, Tracker, as_params

__all__ = [
    "DatasetRecord",
    "Status",
    "Tracker",
    "as_params",
    "commit",
    "download",
    "resolve_uri",
    "start_run",
    "ui",
    "without_password",
]
