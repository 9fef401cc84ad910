"""The folder of a run: made once, locked while in use, and enough to go on after any interruption."""

import fcntl
import json
import os
import re
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import IO, Any

from geomae.errors import CheckpointError, StorageError
from geomae.files import read_json, remove_unfinished, write_json, write_text
from geomae.tracking_store import without_password


@dataclass(frozen=True)
class RunFolder:
    """`run.json` says what is computed, `history.jsonl` holds the figures, `summary.json` marks the end."""

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
        """Whether the run came to its end."""
        return (self.path / "summary.json").is_file()

    def request(self) -> dict[str, Any]:
        """What the run was asked to compute. Raises CheckpointError where the folder holds no run."""
        if not (self.path / "run.json").is_file():
            raise CheckpointError(f"--resume {self.path}: holds no run (no run.json); give the folder of a training")
        return dict(read_json(self.path / "run.json"))

    def log(self, step: int, figures: dict[str, float]) -> None:
        """Append figures to the history. Raises StorageError where there is no room."""
        path = self.path / "history.jsonl"
        try:
            with path.open("a", encoding="utf-8") as file:
                file.write(json.dumps({"step": step, **figures}) + "\n")
        except OSError as error:
            raise StorageError(
                f"{path}: cannot be written ({error.strerror}); make room, then go on with --resume {self.path}"
            ) from error

    def history(self) -> list[dict[str, Any]]:
        """All figures so far; a line that was cut off by a kill is left out."""
        rows = []
        path = self.path / "history.jsonl"
        for line in path.read_text(encoding="utf-8").splitlines() if path.is_file() else ():
            try:
                rows.append(json.loads(line))
            except ValueError:
                continue
        return rows

    def forget_after(self, step: int) -> None:
        """Drop the figures of steps that will be computed again."""
        rows = [row for row in self.history() if row["step"] <= step]
        write_text(self.path / "history.jsonl", "".join(json.dumps(row) + "\n" for row in rows))

    def remember_tracking(self, uri: str, run_id: str) -> None:
        """Keep which run of the tracking store belongs to this folder, for a resume; a password is not kept."""
        write_json(self.path / "tracking.json", {"uri": without_password(uri), "run_id": run_id})

    def tracked_uri(self) -> str | None:
        """The tracking store that knows this run, if there is one, without a password."""
        path = self.path / "tracking.json"
        return str(read_json(path)["uri"]) if path.is_file() else None

    def tracked(self, uri: str) -> str | None:
        """The run id in the store at `uri`, if there is one."""
        path = self.path / "tracking.json"
        if not path.is_file():
            return None
        record = read_json(path)
        return record["run_id"] if record["uri"] == without_password(uri) else None


def file_name(name: str) -> str:
    """A data set's name as a file's."""
    return re.sub(r"[^A-Za-z0-9_\-.]+", "_", name).strip("_")


def default_out(command: str) -> Path:
    """`runs/<command>-<time>` in the current folder, with a number where that is taken."""
    stem = f"{command}-{datetime.now(UTC):%Y%m%d-%H%M%S}"
    found = Path("runs") / stem
    number = 1
    while found.exists():
        number += 1
        found = Path("runs") / f"{stem}-{number}"
    return found.absolute()


def check_new(path: Path) -> None:
    """Raise StorageError where `path` already holds something, or where nothing can be written."""
    if path.is_file():
        raise StorageError(f"--out {path}: is a file; choose another folder")
    if path.is_dir() and any(path.iterdir()):
        what = "already holds a run" if (path / "run.json").exists() else "is not empty"
        remedy = f"go on with --resume {path}, or choose another folder" if "run" in what else "choose another folder"
        raise StorageError(f"--out {path}: {what}; {remedy}")


def make(path: Path, request: dict[str, Any]) -> RunFolder:
    """Make the folder of a new run."""
    try:
        path.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise StorageError(f"--out {path}: cannot be made ({error.strerror}); choose another folder") from error
    write_json(path / "run.json", request)
    return RunFolder(path)


def lock(folder: RunFolder) -> IO[str]:
    """Keep other processes out of the run until the returned file is closed or this process ends.

    What a killed process left half written is removed; with several ranks the first alone does that.
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
