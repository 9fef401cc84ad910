"""`geomae runs`: the runs below a folder and their state; `geomae runs show` opens the report of one."""

import fcntl
import json
import os
import re
import sys
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from datetime import UTC, datetime
from pathlib import Path
from typing import Annotated, Any

import typer

from geomae.commands.options import exit_with
from geomae.errors import ConfigError, nearest

Folder = Annotated[Path, typer.Option("--folder", help="Folder with the runs.")]
SKIPPED = frozenset(("checkpoints", "model", "pictures", "statistics", "mlruns"))  # subfolders of a run
KEY_FIGURES = {  # patterns of the metrics that are listed; for other commands, the first metrics
    "pretrain": r"rmse/(model|baseline:mean)/[^/]+/mean",
    "probe": r"(balanced_accuracy|r2|mean_iou)/.*",
    "finetune": r"(balanced_accuracy|r2|mean_iou)/.*",
    "compare-recon": r"rmse/[^/]+/mean",
    "gap": r"(mmd2|proxy_a_distance)/.*",
}
MOST_FIGURES = 3
TRAININGS = ("pretrain", "finetune")  # continued with --resume; other commands are repeated
RECORDS = ("summary.json", "run.json")


@dataclass(frozen=True)
class Run:
    """A folder of results: its command, date, data and state."""

    path: Path
    command: str
    changed: datetime
    data: str
    state: str
    remedy: str = ""
    metrics: Mapping[str, float] = field(default_factory=dict)

    def figures(self) -> list[tuple[str, float]]:
        """The few metrics that the list shows."""
        wanted = re.compile(KEY_FIGURES.get(self.command, ".*"))
        chosen = [(name, value) for name, value in self.metrics.items() if wanted.fullmatch(name)]
        return chosen[:MOST_FIGURES]


def list_runs(context: typer.Context, folder: Folder = Path("runs")) -> None:
    """List the runs below a folder: command, date, data, key figures, and whether they can be continued."""
    if context.invoked_subcommand is None:
        exit_with(lambda: run(folder))


def show_run(
    name: Annotated[str, typer.Argument(metavar="RUN", help="Name of a run below the folder, or its own folder.")],
    folder: Folder = Path("runs"),
) -> None:
    """Show the request and the results of a run, and open its report in a browser (from a terminal)."""
    exit_with(lambda: show(name, folder))


def run(folder: Path) -> int:
    """Print the runs, the latest last. Returns 0, also if there are none."""
    found = sorted(find_runs(folder), key=lambda one: (one.changed, str(one.path)))
    if not found:
        typer.echo(f"no runs below {folder}; `geomae pretrain` makes one there, and --folder names another folder")
        return 0
    for one in found:
        at = f"{one.changed:%Y-%m-%d %H:%M}"
        typer.echo(f"{at}  {one.command:<18}  {one.state:<11}  {one.path.relative_to(folder)}")
        line = "; ".join(text for text in (one.data, *_written(one.figures()), one.remedy) if text)
        if line:
            typer.echo(f"{'':18}{line}")
    typer.echo(f"{len(found)} runs; `geomae runs show RUN` opens the report of one")
    return 0


def show(name: str, folder: Path) -> int:
    """Print what is known of a run and open its report. Raises ConfigError if there is no such run."""
    found = {str(one.path.relative_to(folder)): one for one in find_runs(folder)}
    one = found.get(name.removeprefix(f"{folder}/").rstrip("/")) or read_run(Path(name))
    if one is None:
        raise ConfigError(f"{name}: there is no such run; {nearest(name, found)}")
    typer.echo(f"{one.path}: geomae {one.command}, {one.state}, {one.changed:%Y-%m-%d %H:%M}")
    for text in (one.data, one.remedy):
        if text:
            typer.echo(text)
    for figure in _written(one.figures()):
        typer.echo(f"  {figure}")
    report = one.path / "report.html"
    if report.is_file():
        typer.echo(f"report: {report.absolute()}")
        if sys.stdout.isatty():
            import webbrowser

            webbrowser.open(report.absolute().as_uri())
    else:
        kept = sorted(path.name for path in one.path.iterdir() if not path.name.startswith("."))
        typer.echo(f"it has no report; it holds {', '.join(kept)}")
    return 0


def find_runs(folder: Path) -> Iterator[Run]:
    """Every run below `folder`; parts of a study are runs of their own."""
    for at, names, files in os.walk(folder):
        names[:] = sorted(one for one in names if one not in SKIPPED and not one.startswith(".") and "." not in one)
        if set(RECORDS) & set(files) and (one := read_run(Path(at))) is not None:
            yield one


def read_run(path: Path) -> Run | None:
    """The run in a folder of results; None for other folders."""
    records = [path / name for name in RECORDS if (path / name).is_file()]
    if not records:
        return None
    changed = datetime.fromtimestamp(records[0].stat().st_mtime, UTC).astimezone()
    try:
        stored = {one.name: json.loads(one.read_text(encoding="utf-8")) for one in records}
        if any(not isinstance(one, dict) for one in stored.values()):
            raise ValueError("is no record of a run")
        request = stored.get("run.json") or stored["summary.json"].get("inputs", {})
        command = str(stored[records[0].name].get("command", "unknown"))
    except (OSError, ValueError) as error:
        text = " ".join(str(error).split())
        return Run(path, "unknown", changed, "", "broken", f"{records[-1].name} cannot be read ({text})")
    summary = stored.get("summary.json")
    state, remedy = _state(path, command, summary)
    metrics = {} if summary is None else summary.get("metrics", {})
    return Run(path, command, changed, _data(request), state, remedy, metrics)


def _state(path: Path, command: str, summary: Mapping[str, Any] | None) -> tuple[str, str]:
    """The state of a run; for an unfinished one also how to continue it, or the error that it failed with."""
    if summary is not None:
        return ("failed", str(summary["error"])) if summary.get("error") else ("finished", "")
    if _at_work(path):
        return "running", ""
    if command not in TRAININGS:
        return "stopped", f"run the same command with --out {path} to continue"
    steps = sorted((path / "checkpoints").glob("step-*"))
    saved = f"{len(steps)} checkpoints" if steps else "no checkpoint, starts at step 0"
    return "stopped", f"`geomae {command} --resume {path}` continues it ({saved})"


def _at_work(path: Path) -> bool:
    """Whether a process holds the lock of the run; the test takes a shared lock for an instant."""
    try:
        with (path / ".lock").open(encoding="utf-8") as file:
            fcntl.flock(file, fcntl.LOCK_SH | fcntl.LOCK_NB)
    except BlockingIOError:
        return True
    except OSError:  # there is no lock file, or the file system has no locks
        return False
    return False


def _data(request: Mapping[str, Any]) -> str:
    """The selectors of the request of a run, under the names of its options."""
    parts = []
    for key in ("dataset", "train", "tests", "source", "target", "eval"):
        value = request.get(key)
        listed = [value] if isinstance(value, str) else value if isinstance(value, list) else []
        if texts := [str(one) for one in listed if one]:
            parts.append(", ".join(texts) if key == "dataset" else f"{key} {', '.join(texts)}")
    return "; ".join(parts)


def _written(figures: list[tuple[str, float]]) -> list[str]:
    return [f"{name} {value:.3g}" for name, value in figures]
