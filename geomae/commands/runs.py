"""`geomae runs`: the runs below a folder and their state; `geomae runs show` opens one's report."""

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
SKIPPED = frozenset(("checkpoints", "model", "pictures", "statistics", "mlruns"))  # of a run: no run lies in these
KEY_FIGURES = {  # patterns of the metrics that tell a run from another; of other commands the first ones
    "pretrain": r"rmse/(model|baseline:mean)/[^/]+/mean",
    "probe": r"(balanced_accuracy|r2|mean_iou)/.*",
    "finetune": r"(balanced_accuracy|r2|mean_iou)/.*",
    "compare-recon": r"rmse/[^/]+/mean",
    "gap": r"(mmd2|proxy_a_distance)/.*",
}
MOST_FIGURES = 3
TRAININGS = ("pretrain", "finetune")  # which go on by --resume, others by the same command
RECORDS = ("summary.json", "run.json")


@dataclass(frozen=True)
class Run:
    """A folder of results: what made it, when, of which data, and how far it came."""

    path: Path
    command: str
    changed: datetime
    data: str
    state: str
    remedy: str = ""
    metrics: Mapping[str, float] = field(default_factory=dict)

    def figures(self) -> list[tuple[str, float]]:
        """The few metrics that are shown in a list."""
        wanted = re.compile(KEY_FIGURES.get(self.command, ".*"))
        chosen = [(name, value) for name, value in self.metrics.items() if wanted.fullmatch(name)]
        return chosen[:MOST_FIGURES]


def list_runs(context: typer.Context, folder: Folder = Path("runs")) -> None:
    """The runs below a folder: command, date, data, key figures, and whether they can be gone on with."""
    if context.invoked_subcommand is None:
        exit_with(lambda: run(folder))


def show_run(
    name: Annotated[str, typer.Argument(metavar="RUN", help="Name of a run below the folder, or its own folder.")],
    folder: Folder = Path("runs"),
) -> None:
    """What a run was asked and found, and its report: opened in a browser where there is a terminal."""
    exit_with(lambda: show(name, folder))


def run(folder: Path) -> int:
    """Print the runs, the latest last; 0 also where there are none."""
    found = sorted(find_runs(folder), key=lambda one: (one.changed, str(one.path)))
    if not found:
        typer.echo(f"no runs below {folder}; `geomae pretrain` leaves one there, and --folder names another place")
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
    """Print what is known of a run and open its report. Raises ConfigError where there is no such run."""
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
    """Every run below `folder`; parts of a study count by themselves."""
    for at, names, files in os.walk(folder):
        names[:] = sorted(one for one in names if one not in SKIPPED and not one.startswith(".") and "." not in one)
        if set(RECORDS) & set(files) and (one := read_run(Path(at))) is not None:
            yield one


def read_run(path: Path) -> Run | None:
    """What a folder of results says of itself; None where it is none."""
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
    """The state of a run, and how to go on where it has not come to its end, or what it failed with."""
    if summary is not None:
        return ("failed", str(summary["error"])) if summary.get("error") else ("finished", "")
    if _at_work(path):
        return "running", ""
    if command not in TRAININGS:
        return "stopped", f"the same command with --out {path} goes on"
    steps = sorted((path / "checkpoints").glob("step-*"))
    saved = f"{len(steps)} checkpoints" if steps else "nothing saved, begins anew"
    return "stopped", f"`geomae {command} --resume {path}` goes on ({saved})"


def _at_work(path: Path) -> bool:
    """Whether a process holds the lock of the run; asking takes it for an instant, shared."""
    try:
        with (path / ".lock").open(encoding="utf-8") as file:
            fcntl.flock(file, fcntl.LOCK_SH | fcntl.LOCK_NB)
    except BlockingIOError:
        return True
    except OSError:  # it has no lock, or lies where files cannot be locked
        return False
    return False


def _data(request: Mapping[str, Any]) -> str:
    """The selectors that a run was asked about, in the words of its options."""
    parts = []
    for key in ("dataset", "train", "tests", "source", "target", "eval"):
        value = request.get(key)
        listed = [value] if isinstance(value, str) else value if isinstance(value, list) else []
        if texts := [str(one) for one in listed if one]:
            parts.append(", ".join(texts) if key == "dataset" else f"{key} {', '.join(texts)}")
    return "; ".join(parts)


def _written(figures: list[tuple[str, float]]) -> list[str]:
    return [f"{name} {value:.3g}" for name, value in figures]
