"""What the commands of analysis share: their common options, their folder, their run in MLflow, their summary."""

import contextlib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from types import TracebackType
from typing import Any

from geomae import __version__
from geomae.catalog import Catalog, open_catalog, resolve_selectors
from geomae.errors import StorageError
from geomae.files import read_json, write_json
from geomae.tracking import DatasetRecord, Tracker, flatten, resolve_uri, start_run
from geomae.workflows.console import Screen
from geomae.workflows.provenance import child_of, commit
from geomae.workflows.run_folder import RunFolder, check_new, default_out, lock, make

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
    parent_run: str | None = None  # MLflow run of a study, of which this is a part

    def open_catalog(self) -> Catalog:
        """The catalogue that was named, else the one in the current folder."""
        return open_catalog(self.catalog or Path("data_catalog.yaml"))


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
        self._stopped = False
        self._stack = contextlib.ExitStack()

    @property
    def out(self) -> Path:
        """The folder of the results."""
        return self.folder.path

    def track(self, datasets: Sequence[DatasetRecord] = (), tags: Mapping[str, str] | None = None) -> None:
        """Begin the run in MLflow; returns at once."""
        uri = self._uri()
        usual = {"geomae.version": __version__, "geomae.commit": commit(), "geomae.command": self.command}
        self.tracker = start_run(
            uri,
            self.common.experiment,
            self.common.run_name or self.out.name,
            run_id=self.folder.tracked(uri),
            tags=usual | {"geomae.out": str(self.out)} | child_of(self.common.parent_run) | dict(tags or {}),
            params=flatten(self.asked),
            datasets=datasets,
            warn=self.screen.warn,
        )
        self.tracker.log_artifact(self.out / "run.json")

    def step(self, what: str, done: int, total: int, figures: str = "") -> None:
        """Show how far the work is."""
        self.screen.step(what, done, total, figures)
        self._remember()

    def stopped(self) -> None:
        """Say how to go on; the run in MLflow ends as stopped."""
        self._stopped = True
        self.screen.close()
        self.screen.say(f"stopped; the same command with --out {self.out} goes on")

    def finish(self, metrics: Mapping[str, float], inputs: Mapping[str, Any], artifacts: Sequence[Path] = ()) -> None:
        """Publish `summary.json`; log the figures and the files (a folder keeps its name)."""
        self.tracker.log_metrics(metrics, 0)
        run_id = self.tracker.wait_run_id(OPENING_S)
        self._remember()
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
            check_new(self.out)
            make(self.out, self.asked)
        self._stack.enter_context(lock(self.folder))
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.screen.close()
        if self._stopped:
            self.tracker.finish("KILLED")
        else:
            self.tracker.__exit__(kind, error, trace)
        self._remember()
        self._stack.close()

    def _remember(self) -> None:
        """Keep which run in MLflow this folder belongs to, as soon as it is known, so that it is gone on with."""
        run_id = self.tracker.run_id
        if run_id is not None and self.folder.tracked(self._uri()) != run_id:
            self.folder.remember_tracking(self._uri(), run_id)

    def _uri(self) -> str:
        return resolve_uri(self.common.tracking_uri or self.folder.tracked_uri())

    def _check_same(self, stored: Mapping[str, Any]) -> None:
        old, new = flatten(stored), flatten(self.asked)
        keys = [key for key in {**old, **new} if old.get(key) != new.get(key)]
        different = [f"{key} ({old.get(key)} there, {new.get(key)} here)" for key in keys]
        if different:
            raise StorageError(
                f"--out {self.out}: holds the results of another request, which differs in {'; '.join(different[:5])}; "
                "choose another folder"
            )


def check_selectors(common: Common, *texts: Sequence[str]) -> None:
    """Raise what is wrong with the catalogue or with selectors; works without torch, whose import takes seconds."""
    catalog = common.open_catalog()
    for group in texts:
        resolve_selectors(catalog, group, None)


def output_folder(command: str, out: Path | None) -> Path:
    """The folder that a command writes to: what the user chose, else a new one named by the time."""
    return (out or default_out(command)).absolute()
