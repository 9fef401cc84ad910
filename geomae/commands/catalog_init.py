"""`geomae catalog init`: a first catalogue from what lies in a folder, or that of the sample landscape."""

from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from geomae.commands.options import CommonOptions, Quiet, exit_with
from geomae.errors import ConfigError, StorageError

if TYPE_CHECKING:
    from collections.abc import Sequence

    from geomae.discovery.draft_catalog import InferredCatalog
    from geomae.runtime.console import Screen

SHOWN = 5  # files that cannot be read


def init(
    folder: Annotated[Path | None, typer.Argument(help="Folder with rasters, in it or below.")] = None,
    sample: Annotated[
        bool, typer.Option("--sample", help="Write the catalogue of a drawn landscape, to try things on.")
    ] = False,
    out: Annotated[Path | None, typer.Option("--out", help="File to write; default data_catalog.yaml.")] = None,
    quiet: Quiet = False,
) -> None:
    """Write a first catalogue from what lies in a folder; guesses and open questions are marked in it."""
    common = CommonOptions(out=out, quiet=quiet)
    exit_with(lambda: run_sample(common) if sample and folder is None else run(_one_folder(folder, sample), common))


def run_sample(common: CommonOptions) -> int:
    """Write the catalogue of the sample landscape to `out`, which must not exist. Returns the exit code."""
    out = _new_file(common)

    from geomae.config import shipped_path
    from geomae.files import write_text
    from geomae.runtime.console import Screen

    write_text(out, shipped_path("data_catalog.yaml").read_text(encoding="utf-8"))
    Screen(not common.quiet).result(f"{out}: a landscape to try things on; next: geomae pretrain --catalog {out}")
    return 0


def run(folder: Path, common: CommonOptions) -> int:
    """Write a catalogue for the rasters below `folder` to `out`, which must not exist. Returns the exit code."""
    out = _new_file(common)

    from geomae.discovery.draft_catalog import infer_catalog, unresolved
    from geomae.files import publish_file
    from geomae.runtime.console import Screen

    screen = Screen(not common.quiet)
    try:
        catalog = infer_catalog(folder, out, screen.step)
    finally:
        screen.close()
    with publish_file(out) as temporary:
        temporary.write_text(catalog.text(), encoding="utf-8")
        unclear = [text.replace(str(temporary), str(out)) for text in unresolved(temporary)]
    _show(screen, out, catalog, [*catalog.questions, *unclear])
    return 0


def _one_folder(folder: Path | None, sample: bool) -> Path:
    if folder is None or sample:
        what = "only one of them makes a catalogue" if sample else "neither is given"
        raise ConfigError(f"FOLDER or --sample: {what}; name the folder with your rasters, or try with --sample")
    return folder


def _new_file(common: CommonOptions) -> Path:
    out = (common.out or Path("data_catalog.yaml")).absolute()
    if out.exists() or out.is_symlink():
        what = "is a folder" if out.is_dir() else "is there already and is not overwritten"
        raise StorageError(f"{out}: {what}; write to another file with --out FILE")
    return out


def _show(screen: "Screen", out: Path, catalog: "InferredCatalog", questions: "Sequence[str]") -> None:
    rows = [
        [name, str(one.scenes), one.sensor, str(len(one.bands)), str(one.tile)] for name, one in catalog.entries.items()
    ]
    screen.table(str(out), ["data set", "scenes", "sensor", "bands", "tile"], rows)
    for text in catalog.left_out:
        screen.say(f"not in the catalogue: {text}")
    for text in catalog.problems[:SHOWN]:
        screen.warn(text)
    if len(catalog.problems) > SHOWN:
        screen.warn(f"{len(catalog.problems) - SHOWN} more files cannot be read")
    for text in questions:
        screen.warn(f"needs your decision: {text}")
    step = "decide what is marked FILL IN, look" if questions else "look"
    screen.result(f"{step} at what is marked `check`, then: geomae catalog check --catalog {out}")
