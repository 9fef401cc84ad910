"""`geomae catalog schema`: the format of a catalogue for editors."""

import json
import sys
from pathlib import Path

from geomae.catalog import json_schema
from geomae.errors import StorageError
from geomae.files import write_json
from geomae.runtime.console import Screen


def run(out: Path | None, *, quiet: bool) -> int:
    """Print the JSON schema, or write it to `out`, which must not exist. Returns the exit code."""
    schema = json_schema()
    if out is None:
        sys.stdout.write(json.dumps(schema, indent=1, ensure_ascii=False) + "\n")
        return 0
    if out.exists() or out.is_symlink():
        what = "is a folder" if out.is_dir() else "is there already and is not overwritten"
        raise StorageError(f"{out}: {what}; write to another file with --out FILE")
    write_json(out, schema)
    Screen(not quiet).say(f"{out}: name it in your editor as the schema of data_catalog.yaml")
    return 0
