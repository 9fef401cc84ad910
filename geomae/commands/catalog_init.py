"""`geomae catalog init`: a first catalogue of the rasters in a folder, of a STAC search or of the sample landscape."""

import shlex
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from geomae.commands.options import CommonOptions, Quiet, exit_with
from geomae.errors import ConfigError, StorageError

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from geomae.discovery.draft_catalog import InferredCatalog
    from geomae.runtime.console import Screen

SHOWN = 5  # files that cannot be read


def init(
    folder: Annotated[Path | None, typer.Argument(help="Folder with rasters; subfolders count.")] = None,
    sample: Annotated[
        bool, typer.Option("--sample", help="Write the catalogue of the synthetic sample landscape, for first trials.")
    ] = False,
    stac: Annotated[str | None, typer.Option("--stac", metavar="URL", help="Root URL of a STAC API to search.")] = None,
    collection: Annotated[str | None, typer.Option("--collection", help="Collection to search.")] = None,
    bbox: Annotated[
        tuple[float, float, float, float] | None,
        typer.Option("--bbox", help="West, south, east and north in degrees.", metavar="W S E N"),
    ] = None,
    datetime: Annotated[
        str | None, typer.Option("--datetime", help="Time, or period as 2021-06-01/2021-08-31.")
    ] = None,
    query: Annotated[
        list[str] | None, typer.Option("--query", help="Condition on a property, as eo:cloud_cover<20; repeatable.")
    ] = None,
    out: Annotated[Path | None, typer.Option("--out", help="File to write; default data_catalog.yaml.")] = None,
    quiet: Quiet = False,
) -> None:
    """Write a first catalogue of a folder or of a STAC search; guesses and open questions are marked in it."""
    common = CommonOptions(out=out, quiet=quiet)
    conditions = {"--collection": collection, "--bbox": bbox, "--datetime": datetime, "--query": query}

    def start() -> int:
        if stac is not None:
            _refuse("--stac", {"FOLDER": folder, "--sample": sample or None}, "only one of them can be given")
            if collection is None:
                raise ConfigError("--collection: is missing; name the collection to search with --stac")
            return run_search(stac, collection, common, bbox=bbox, datetime=datetime, query=tuple(query or ()))
        _refuse("--stac URL", conditions, "this option needs --stac")
        return run_sample(common) if sample and folder is None else run(_one_folder(folder, sample), common)

    exit_with(start)


def run_sample(common: CommonOptions) -> int:
    """Write the catalogue of the sample landscape to `out`, which must not exist. Returns the exit code."""
    out = _new_file(common)

    from geomae.config import shipped_path
    from geomae.files import write_text
    from geomae.runtime.console import Screen

    write_text(out, shipped_path("data_catalog.yaml").read_text(encoding="utf-8"))
    Screen(not common.quiet).result(f"{out}: a synthetic sample landscape; next: geomae pretrain --catalog {out}")
    return 0


def run(folder: Path, common: CommonOptions) -> int:
    """Write a catalogue for the rasters below `folder` to `out`, which must not exist. Returns the exit code."""
    from geomae.discovery.draft_catalog import check_folder, infer_catalog, unresolved
    from geomae.files import publish_file
    from geomae.runtime.console import Screen

    check_folder(folder)
    out = _new_file(common)
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


def run_search(
    url: str,
    collection: str,
    common: CommonOptions,
    *,
    bbox: tuple[float, float, float, float] | None = None,
    datetime: str | None = None,
    query: tuple[str, ...] = (),
) -> int:
    """Search a STAC API; write a catalogue of the items to `out`, and the items to a JSON file beside it.

    Neither file may exist. Returns the exit code.
    """
    out = _new_file(common)

    from geomae.discovery import Search, collection_text, search_items
    from geomae.discovery.draft_catalog import catalog_of_items, data_set_name, unresolved
    from geomae.files import publish_file, write_text
    from geomae.runtime.console import Screen

    name = data_set_name(collection)
    items_file = _absent(out.with_name(f"{name}.json"))
    screen = Screen(not common.quiet)
    try:
        search = Search(url, collection, bbox, datetime, query)
        found = search_items(search, lambda done, total: screen.step(f"items of {collection}", done, total))
    finally:
        screen.close()
    catalog = catalog_of_items(name, found, items_file)
    write_text(items_file, collection_text(found))
    with publish_file(out) as temporary:
        temporary.write_text(catalog.text(), encoding="utf-8")
        unclear = [text.replace(str(temporary), str(out)) for text in unresolved(temporary)]
    screen.result(f"{items_file}: {len(found)} items")
    _show(screen, out, catalog, [*catalog.questions, *unclear])
    return 0


def _refuse(option: str, others: "Mapping[str, object]", why: str) -> None:
    """Raise ConfigError if any of `others` is given: options that cannot be combined with `option`, or that need it."""
    given = [name for name, value in others.items() if value is not None]
    if given:
        raise ConfigError(f"{given[0]}, {option}: {why}; correct the command")


def _one_folder(folder: Path | None, sample: bool) -> Path:
    if folder is None or sample:
        what = "only one of them can be given" if sample else "neither is given"
        raise ConfigError(f"FOLDER or --sample: {what}; name the folder with your rasters, or use --sample")
    return folder


def _new_file(common: CommonOptions) -> Path:
    return _absent((common.out or Path("data_catalog.yaml")).absolute())


def _absent(path: Path) -> Path:
    if path.exists() or path.is_symlink():
        what = "is a folder" if path.is_dir() else "exists already and is not overwritten"
        raise StorageError(f"{path}: {what}; write to another file with --out FILE")
    return path


def _show(screen: "Screen", out: Path, catalog: "InferredCatalog", questions: "Sequence[str]") -> None:
    rows = []
    for name, one in catalog.entries.items():
        figures = [str(one.scenes), one.sensor, str(len(one.bands))]
        rows += [[name, *figures, str(one.tile)]]
        rows += [[catalog.second(name), *figures, f"{one.window} around points"]] if one.points else []
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
    screen.result(f"{step} at what is marked `check`, then: geomae catalog check --catalog {shlex.quote(str(out))}")
