"""Whether a folder of results holds what a command is asked for: told before the work begins, and once more with it."""

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from geomae.commands.options import check_new
from geomae.config import flatten
from geomae.errors import StorageError
from geomae.files import read_json
from geomae.tracking import as_params

RECORD = "run.json"
SHOWN = 5  # differences


def check_out(out: Path, asked: Mapping[str, Any]) -> None:
    """Raise StorageError where `out` holds something else than a run of what is asked.

    `asked` is what is known before any tile is read; what is None there is settled later, and not compared.
    """
    if not (out / RECORD).is_file():
        check_new(out)
        return
    known = {key: value for key, value in flatten(asked).items() if value is not None}
    stored = flatten(read_json(out / RECORD))
    check_same(out, {key: value for key, value in stored.items() if key in known}, known)


def check_same(out: Path, stored: Mapping[str, Any], asked: Mapping[str, Any]) -> None:
    """Raise StorageError where what a run was asked for differs from what is asked, naming the difference."""
    old, new = as_params(stored), as_params(asked)
    keys = [key for key in {**old, **new} if old.get(key) != new.get(key)]
    different = [f"{key} ({old.get(key)} there, {new.get(key)} here)" for key in keys]
    if different:
        raise StorageError(
            f"--out {out}: holds the results of another request, which differs in {'; '.join(different[:SHOWN])}; "
            "choose another folder"
        )
