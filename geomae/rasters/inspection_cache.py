"""Inspecting many files with threads, and remembering what was found so that no file is read twice."""

import contextlib
import os
import time
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor, as_completed
from dataclasses import asdict
from pathlib import Path
from typing import Any

from geomae.catalog.source import Source
from geomae.errors import GeomaeError
from geomae.files import cache_folder, digest, read_json, write_json
from geomae.rasters.handles import stamp
from geomae.rasters.inspection import FileRecord, Wanted, inspect_file

VERSION = 1  # of what is found in a file; raise it when `inspect_file` finds something else
SAVE_SECONDS = 30.0


def inspect_files(source: Source, wanted: Sequence[Wanted], *, workers: int) -> dict[str, FileRecord]:
    """Inspect files with `workers` threads; those that have not changed since the last time are not read again.

    The cache is a convenience: when it cannot be read or written, the files are.
    """
    place = _place(source, wanted)
    keys = {one.path: _key(one) for one in wanted}
    kept = _load(place)
    records: dict[str, FileRecord] = {}
    for one in wanted:
        entry = kept.get(one.path)
        if entry is not None and keys[one.path] is not None and entry[0] == keys[one.path]:
            records[one.path] = entry[1]
    missing = [one for one in wanted if one.path not in records]
    if not missing:
        return records
    saved = time.monotonic()
    executor = ThreadPoolExecutor(max_workers=max(1, workers), thread_name_prefix="audit")
    try:
        futures = {executor.submit(inspect_file, one): one for one in missing}
        for future in as_completed(futures):
            one, record = futures[future], future.result()
            records[one.path] = record
            key = keys[one.path]
            if key is not None and record.kind != "unreadable":  # that may be of the moment
                kept[one.path] = (key, record)
            if time.monotonic() - saved > SAVE_SECONDS:
                _save(place, kept)
                saved = time.monotonic()
    finally:
        executor.shutdown(wait=True, cancel_futures=True)
        _save(place, kept)
    return records


def _place(source: Source, wanted: Sequence[Wanted]) -> Path:
    """One cache file per data set and folder."""
    folders = sorted({str(Path(one.path).parent) for one in wanted})
    try:
        folder = os.path.commonpath(folders)
    except ValueError:  # none, or addresses beside files
        folder = "|".join(folders)
    return cache_folder() / "audit" / f"{digest({'name': source.name, 'folder': folder})}.json"


def _key(wanted: Wanted) -> str | None:
    """Changes with the file and with the way it is read; None for a file that is absent or not of this machine."""
    try:
        current = stamp(wanted.path, remote=wanted.remote)
    except GeomaeError:
        return None
    return None if current is None else digest({"version": VERSION, "stamp": current, "wanted": asdict(wanted)})


def _load(place: Path) -> dict[str, tuple[str, FileRecord]]:
    if not place.exists():
        return {}
    try:
        stored: dict[str, dict[str, Any]] = read_json(place)
        return {path: (one["key"], FileRecord.from_dict(one["record"])) for path, one in stored.items()}
    except (GeomaeError, AttributeError, KeyError, TypeError, ValueError):
        return {}


def _save(place: Path, kept: dict[str, tuple[str, FileRecord]]) -> None:
    with contextlib.suppress(GeomaeError, OSError):
        write_json(place, {path: {"key": key, "record": record.to_dict()} for path, (key, record) in kept.items()})
