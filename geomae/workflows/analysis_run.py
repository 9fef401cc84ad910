"""What the commands of analysis share: their common options, their folder, their run in MLflow, their summary."""

import contextlib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from types import TracebackType
from typing import Any

from geomae import __version__
from geomae.errors import StorageError
from geomae.files import read_json, write_json
from geomae.tracking import DatasetRecord, Tracker, flatten, resolve_uri, start_run
from geomae.workflows import run_folder
from geomae.workflows.console import Screen
from geomae.workflows.provenance import commit
from geomae.workflows.run_folder import RunFolder

OPENING_S = 100.0  # MLflow's import alone takes long on a busy machine; a store that fails is not waited for


@dataclass(frozen=True)
class Common:
    """Options that every command of analysis has; None where the user did not say."""

    catalog: Path | None = None
    out: Path | None = None
    seed: int = 0
    device: str = "auto"
    precision: str = "auto"
    devices: int = 1
    nodes: int = 1
    tracking_uri: str | None = None
    experiment: str = "geomae"
    run_name: str | None = None
    dry_run: bool = False
    quiet: bool = False


class AnalysisRun:
    """One run of a command in its folder. `asked` is what decides the result, as JSON.

    A folder of the same command that was asked the same is gone on with, so that what was computed is not computed
    again; one that was asked something else is refused, naming the difference.
    """

    def __init__(self, command: str, common: Common, asked: Mapping[str, Any], screen: Screen, out: Path) -> None:
        self.command, self.common, self.screen = command, common, screen
        self.asked: dict[str, Any] = {"command": command, "version": __version__, **asked, "seed": common.seed}
        self.folder = RunFolder(out)
        self.tracker = Tracker(None)
        self._stack = contextlib.ExitStack()

    @property
    def out(self) -> Path:
        """The folder of the results."""
        return self.folder.path

    def track(self, datasets: Sequence[DatasetRecord] = (), tags: Mapping[str, str] | None = None) -> None:
        """Begin the run in MLflow; returns at once."""
        uri = resolve_uri(self.common.tracking_uri or self.folder.tracked_uri())
        usual = {"geomae.version": __version__, "geomae.commit": commit(), "geomae.command": self.command}
        self.tracker = start_run(
            uri,
            self.common.experiment,
            self.common.run_name or self.out.name,
            run_id=self.folder.tracked(uri),
            tags=usual | {"geomae.out": str(self.out)} | dict(tags or {}),
            params=flatten(self.asked),
            datasets=datasets,
            warn=self.screen.warn,
        )
        self.tracker.log_artifact(self.out / "run.json")

    def finish(self, metrics: Mapping[str, float], inputs: Mapping[str, Any], artifacts: Sequence[Path] = ()) -> None:
        """Publish `summary.json`; log the figures and the files (a folder keeps its name)."""
        self.tracker.log_metrics(metrics, 0)
        run_id = self.tracker.wait_run_id(OPENING_S)
        if run_id is not None:
            self.folder.remember_tracking(resolve_uri(self.common.tracking_uri or self.folder.tracked_uri()), run_id)
        summary = {"command": self.command, "run_id": run_id, "out": self.out, "metrics": metrics}
        write_json(self.out / "summary.json", summary | {"inputs": {**self.asked, **inputs}})
        for path in (*artifacts, self.out / "summary.json"):
            if path.is_dir():
                self.tracker.log_artifacts(path, path.name)
            else:
                self.tracker.log_artifact(path)

    def __enter__(self) -> "AnalysisRun":
        record = self.out / "run.json"
        if record.is_file():
            self._check_same(read_json(record))
        else:
            run_folder.check_new(self.out)
            run_folder.make(self.out, self.asked)
        self._stack.enter_context(run_folder.lock(self.folder))
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.screen.close()
        self.tracker.__exit__(kind, error, trace)
        self._stack.close()

    def _check_same(self, stored: Mapping[str, Any]) -> None:
        old, new = flatten(stored), flatten(self.asked)
        keys = [key for key in {**old, **new} if old.get(key) != new.get(key)]
        different = [f"{key} ({old.get(key)} there, {new.get(key)} here)" for key in keys]
        if different:
            raise StorageError(
                f"--out {self.out}: holds the results of another request, which differs in {'; '.join(different[:5])}; "
                "choose another folder"
            )


def output_folder(command: str, out: Path | None) -> Path:
    """The folder that a command writes to: what the user chose, else a new one named by the time."""
    return (out or run_folder.default_out(command)).absolute()
