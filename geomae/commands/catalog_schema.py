"""`geomae catalog schema`: the format of a catalogue as JSON schema, for editors."""

import json
import sys
from pathlib import Path
from typing import Annotated

import typer

from geomae.commands.options import CommonOptions, Quiet, exit_with
from geomae.errors import StorageError


def schema(
    out: Annotated[Path | None, typer.Option("--out", help="File to write; default standard output.")] = None,
    quiet: Quiet = False,
) -> None:
    """Print the format of a catalogue as JSON schema, for editors."""
    exit_with(lambda: run(CommonOptions(out=out, quiet=quiet)))


def run(options: CommonOptions) -> int:
    """Print the JSON schema, or write it to `out`, which must not exist. Returns the exit code."""
    from geomae.catalog import json_schema
    from geomae.files import write_json
    from geomae.runtime.console import Screen

    schema, out = json_schema(), options.out
    if out is None:
        sys.stdout.write(json.dumps(schema, indent=1, ensure_ascii=False) + "\n")
        return 0
    if out.exists() or out.is_symlink():
        what = "is a folder" if out.is_dir() else "exists already and is not overwritten"
        raise StorageError(f"{out}: {what}; write to another file with --out FILE")
    write_json(out, schema)
    Screen(not options.quiet).say(f"{out}: name it in your editor as the schema of data_catalog.yaml")
    return 0
