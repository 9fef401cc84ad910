"""Runs in MLflow: begun, followed and read back. MLflow itself is imported by the first run, on a thread of its own."""

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
