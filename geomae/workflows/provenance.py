"""Which code made a result, and which study it is a part of."""

import functools
import subprocess
from pathlib import Path


@functools.cache
def commit() -> str:
    """The commit of a checkout, `unknown` for an installed package."""
    try:
        asked = subprocess.run(
            ["git", "rev-parse", "HEAD"],
            cwd=Path(__file__).parent,
            capture_output=True,
            text=True,
            timeout=5,
            check=True,
        )
    except (OSError, subprocess.SubprocessError):
        return "unknown"
    return asked.stdout.strip()


def child_of(parent_run: str | None) -> dict[str, str]:
    """The tag by which MLflow shows a run below the study that it belongs to."""
    return {"mlflow.parentRunId": parent_run} if parent_run else {}
