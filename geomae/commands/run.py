"""The life of a run: its folder, made once and locked while in use, its run in MLflow, and its summary."""

import contextlib
import fcntl
import json
import os
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from types import TracebackType
from typing import IO, Any, Literal

from geomae import __version__
from geomae.catalog import Catalog
from geomae.commands.options import CommonOptions, check_new, output_folder
from geomae.commands.session import RECORD, Session, check_same
from geomae.embeddings.store import store_digest
from geomae.encoders import Encoder, Reference
from geomae.encoders.extraction import Progress
from geomae.encoders.selections import Embedded, model_run
from geomae.errors import CheckpointError, StorageError
from geomae.files import digest, read_json, remove_unfinished, write_json, write_text
from geomae.runtime.console import Screen
from geomae.runtime.signals import Stop
from geomae.sensors.record import SensorRecord
from geomae.tiles.index import TileIndex
from geomae.tiles.selection import Selection
from geomae.tracking import DatasetRecord, Tracker, as_params, commit, resolve_uri, start_run, without_password

OPENING_S = 100.0  # MLflow is slow to import on a busy machine; a store that fails is not waited for


@dataclass(frozen=True)
class RunFolder:
    """`run.json` holds the request, `history.jsonl` the metrics by step; `summary.json` marks a finished run."""

    path: Path

    @property
    def checkpoints(self) -> Path:
        """Folder of the checkpoints."""
        return self.path / "checkpoints"

    @property
    def model(self) -> Path:
        """The model folder."""
        return self.path / "model"

    @property
    def pictures(self) -> Path:
        """Folder of the pictures."""
        return self.path / "pictures"

    @property
    def finished(self) -> bool:
        """Whether the run is finished."""
        return (self.path / "summary.json").is_file()

    @property
    def begun(self) -> bool:
        """Whether the folder holds a run of any command."""
        return (self.path / RECORD).is_file()

    def recorded(self, command: str, option: str = "--resume") -> dict[str, Any]:
        """The request of the run. Raises CheckpointError if the folder holds no run of `command`."""
        if not self.begun:
            raise CheckpointError(f"{option} {self.path}: holds no run (no run.json); give the folder of a training")
        stored = dict(read_json(self.path / RECORD))
        if stored.get("command") != command:
            raise CheckpointError(
                f"{option} {self.path}: holds a run of `geomae {stored.get('command')}` and not of `geomae {command}`; "
                "choose another folder"
            )
        return stored

    def log(self, step: int, figures: dict[str, float]) -> None:
        """Append metrics to the history. Raises StorageError if the disk is full."""
        path = self.path / "history.jsonl"
        try:
            with path.open("a", encoding="utf-8") as file:
                file.write(json.dumps({"step": step, **figures}) + "\n")
        except OSError as error:
            raise StorageError(
                f"{path}: cannot be written ({error.strerror}); make room, then go on with --resume {self.path}"
            ) from error

    def history(self) -> list[dict[str, Any]]:
        """All metrics so far; a line that a kill cut off is left out."""
        rows = []
        path = self.path / "history.jsonl"
        for line in path.read_text(encoding="utf-8").splitlines() if path.is_file() else ():
            try:
                rows.append(json.loads(line))
            except ValueError:
                continue
        return rows

    def forget_after(self, step: int) -> None:
        """Drop the metrics of steps that will be computed again."""
        rows = [row for row in self.history() if row["step"] <= step]
        write_text(self.path / "history.jsonl", "".join(json.dumps(row) + "\n" for row in rows))

    def remember_tracking(self, uri: str, run_id: str) -> None:
        """Record the MLflow run of this folder, for a resume; a password is not recorded."""
        write_json(self.path / "tracking.json", {"uri": without_password(uri), "run_id": run_id})

    def tracked_uri(self) -> str | None:
        """The tracking store of this run, without a password; None if it was not tracked."""
        path = self.path / "tracking.json"
        return str(read_json(path)["uri"]) if path.is_file() else None

    def tracked(self, uri: str) -> str | None:
        """The run id in the store at `uri`; None if there is none."""
        path = self.path / "tracking.json"
        if not path.is_file():
            return None
        record = read_json(path)
        return record["run_id"] if record["uri"] == without_password(uri) else None


def make(path: Path, computed: dict[str, Any]) -> RunFolder:
    """Make the folder of a new run; `computed` is the request that `run.json` records."""
    try:
        path.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise StorageError(f"--out {path}: cannot be made ({error.strerror}); choose another folder") from error
    write_json(path / RECORD, computed)
    return RunFolder(path)


def lock(folder: RunFolder) -> IO[str]:
    """Lock the run against other processes until the returned file is closed or this process ends.

    Files that a killed process left incomplete are removed; with several ranks only the first does so.
    """
    try:
        file = (folder.path / ".lock").open("w", encoding="utf-8")
    except OSError as error:
        raise StorageError(f"{folder.path}: cannot be written ({error.strerror}); check its permissions") from error
    try:
        fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except OSError as error:
        file.close()
        raise StorageError(f"{folder.path}: another process is at work in this run; wait for it, or stop it") from error
    file.write(str(os.getpid()))
    for place in (folder.path, folder.checkpoints, folder.pictures, folder.path / "statistics"):
        remove_unfinished(place)
    return file


class TrackedRun:
    """The folder of a run and its run in MLflow, which is begun, recorded for a resume, and ended with the work.

    With several ranks each has one; the one that `leads` writes.
    """

    def __init__(
        self, command: str, common: CommonOptions, screen: Screen, folder: RunFolder, *, leads: bool = True
    ) -> None:
        self.command, self.common, self.screen, self.folder, self.leads = command, common, screen, folder, leads
        self.tracker = Tracker(None)
        self._uri = ""
        self._stopped = False

    @property
    def out(self) -> Path:
        """The folder of the results."""
        return self.folder.path

    def begin_tracking(
        self, params: Mapping[str, Any], datasets: Sequence[DatasetRecord], tags: Mapping[str, str]
    ) -> None:
        """Begin the run in MLflow, or continue the one of this folder; returns at once."""
        # A run stays in the store where it was first tracked, also if the command is called from another folder.
        self._uri = resolve_uri(self.common.tracking_uri or self.folder.tracked_uri())
        usual = {"geomae.version": __version__, "geomae.commit": commit(), "geomae.command": self.command}
        parent = self.common.parent_run  # this tag makes MLflow show the run below its study
        study = {"mlflow.parentRunId": parent} if parent else {}
        self.tracker = start_run(
            self._uri,
            self.common.experiment,
            self.common.run_name or self.out.name,
            run_id=self.folder.tracked(self._uri),
            tags=usual | {"geomae.out": str(self.out)} | study | dict(tags),
            params=as_params(params),
            datasets=datasets,
            warn=self.screen.warn,
        )

    def remember_tracking(self) -> None:
        """Record the MLflow run of this folder as soon as it is known, so that a resume continues it."""
        run_id = self.tracker.run_id
        if self.leads and run_id is not None and self.folder.tracked(self._uri) != run_id:
            self.folder.remember_tracking(self._uri, run_id)

    def end_stopped(self, how_to_go_on: str) -> None:
        """Print how to continue; the run in MLflow will end as stopped."""
        self._stopped = True
        self.screen.close()
        self.screen.say(how_to_go_on)

    def write_summary(self, run_id: str | None, metrics: Mapping[str, float], inputs: Mapping[str, Any]) -> Path:
        """Publish `summary.json`, which marks the end of the run. Returns its name."""
        path = self.out / "summary.json"
        summary = {"command": self.command, "run_id": run_id, "out": self.out, "metrics": metrics, "inputs": inputs}
        write_json(path, summary)
        return path

    def end_tracking(self, kind: type[BaseException] | None) -> None:
        """End the run in MLflow with the state of the work; `kind` is the class of an exception that was raised."""
        self.screen.close()
        self.remember_tracking()
        stopped = self._stopped or (kind is not None and not issubclass(kind, Exception))
        self.tracker.finish("KILLED" if stopped else "FINISHED" if kind is None else "FAILED")
        self.remember_tracking()


class AnalysisRun(TrackedRun):
    """One run of a command in its folder. `params` are the settings that the result depends on, as JSON.

    A folder of the same command with the same parameters is continued, and finished parts are not computed again. A
    folder with other parameters raises an error that names the difference.
    """

    def __init__(
        self, command: str, common: CommonOptions, params: Mapping[str, Any], screen: Screen, out: Path
    ) -> None:
        super().__init__(command, common, screen, RunFolder(out))
        self.params: dict[str, Any] = {"command": command, "version": __version__, **params, "seed": common.seed}
        self._stack = contextlib.ExitStack()

    def track(self, datasets: Sequence[DatasetRecord] = (), tags: Mapping[str, str] | None = None) -> None:
        """Begin the run in MLflow; returns at once."""
        self.begin_tracking(self.params, datasets, tags or {})
        self.tracker.log_artifact(self.out / RECORD)

    def step(self, what: str, done: int, total: int, figures: str = "") -> None:
        """Show the progress of the work."""
        self.screen.step(what, done, total, figures)
        self.remember_tracking()

    def stopped(self) -> None:
        """Print how to continue; the run in MLflow ends as stopped."""
        self.end_stopped(f"stopped; run the same command with --out {self.out} to continue")

    def finish(self, metrics: Mapping[str, float], inputs: Mapping[str, Any], artifacts: Sequence[Path] = ()) -> None:
        """Publish `summary.json`; log the metrics and the files (a folder keeps its name)."""
        self.tracker.log_metrics(metrics, 0)
        run_id = self.tracker.wait_run_id(OPENING_S)
        self.remember_tracking()
        summary = self.write_summary(run_id, metrics, {**self.params, **inputs})
        for path in (*artifacts, summary):
            if path.is_dir():
                self.tracker.log_artifacts(path, path.name)
            else:
                self.tracker.log_artifact(path)

    def __enter__(self) -> "AnalysisRun":
        record = self.out / RECORD
        if record.is_file():
            check_same(self.out, read_json(record), self.params)
        else:
            check_new(self.out)
            make(self.out, self.params)
        self._stack.enter_context(lock(self.folder))
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.end_tracking(kind)
        self._stack.close()


@contextlib.contextmanager
def first_rank_run(
    session: Session,
    command: str,
    params: Mapping[str, Any],
    selections: Sequence[Selection],
    tags: Mapping[str, str],
) -> Iterator[AnalysisRun | None]:
    """The run of a command on the first rank; None on the others."""
    if not session.leads:
        yield None
        return
    out = output_folder(command, session.common.out)
    with AnalysisRun(command, session.common, params, session.screen, out) as analysis:
        analysis.track([selection_record(session.catalog, one) for one in selections], tags)
        yield analysis


def launch_into(session: Session, analysis: AnalysisRun | None) -> tuple[Path, Progress]:
    """Start the other ranks; returns the folder that the first rank writes to, and the function for progress."""
    session.launch()
    out = Path(session.fabric.broadcast(str(analysis.out) if analysis else ""))
    return out, analysis.step if analysis else session.screen.step


def stop_early(session: Session, analysis: AnalysisRun | None, stop: Stop) -> int:
    """The exit code of a rank whose work was stopped; the first rank prints how to continue."""
    if analysis is not None:
        analysis.stopped()
    return session.stopped(stop)


@contextlib.contextmanager
def embedding_run(
    session: Session,
    command: str,
    params: Mapping[str, Any],
    reference: Reference,
    encoders: Mapping[str, Encoder],
    selections: Sequence[Selection],
) -> Iterator[AnalysisRun | None]:
    """The run of a command that embeds selections with one encoder, on the first rank; None on the others."""
    made_by = model_run(encoders)
    tags = {"geomae.encoder": reference.label} | ({"geomae.model_run": made_by} if made_by else {})
    with first_rank_run(session, command, params, selections, tags) as analysis:
        yield analysis


def publish_embeddings(analysis: AnalysisRun, embedded: Embedded) -> tuple[dict[str, float], dict[str, Any]]:
    """Write the table of the embeddings; returns metrics and inputs for the summary."""
    store, dataset = embedded.extracted.path, embedded.open()
    parquet = analysis.out / "embeddings.parquet"
    unplaced = embedded.write_table(parquet)
    metrics: dict[str, float] = {"tiles": dataset.sizes["tile"], "width": dataset.sizes["feature"]}
    if embedded.extracted.computed:
        seconds = embedded.extracted.seconds
        metrics |= {"seconds": seconds, "tiles_per_s": embedded.extracted.computed / seconds}
    elif analysis.folder.finished:  # the time that the first, complete run took
        before = read_json(analysis.out / "summary.json")["metrics"]
        metrics |= {name: before[name] for name in ("seconds", "tiles_per_s") if name in before}
    inputs = {"store": str(store), "store_digest": store_digest(store)}
    analysis.tracker.log_params(inputs)
    rate = f", {metrics['tiles_per_s']:.0f} tiles/s" if "tiles_per_s" in metrics else ""
    analysis.screen.close()
    for line in unplaced:
        analysis.screen.warn(line)
    analysis.screen.result(f"embeddings: {store} ({dataset.sizes['tile']} tiles x {dataset.sizes['feature']}{rate})")
    analysis.screen.result(f"table: {parquet}")
    return metrics, {**inputs, "notes": [*dataset.attrs["notes"], *unplaced]}


def dataset_record(
    catalog: Catalog, name: str, index: TileIndex, imagery: SensorRecord, context: Literal["training", "validation"]
) -> DatasetRecord:
    """Tiles of a data set as an input of a run, with the digest of their files and of the selection."""
    return DatasetRecord(
        name=name,
        digest=digest([index.content(), index.tiles["tile_id"].tolist()]),
        source=str(catalog.path),
        entry={index.name: catalog.entry(index.name).model_dump(mode="json", exclude_unset=True, by_alias=True)},
        bands=[band.name for band in imagery.bands],
        profile={"tiles": len(index), "sensor": imagery.name, "unit": imagery.unit},
        context=context,
    )


def selection_record(catalog: Catalog, selection: Selection) -> DatasetRecord:
    """A selection as an input of a run."""
    return dataset_record(catalog, selection.name, selection.index, selection.imagery, "validation")
