"""Which code made a result."""

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
