"""What a command leaves in its folder, as text: files, keys, columns and variables, but no values."""

import csv
import json
import re
from collections import defaultdict
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow.parquet as pq
import rasterio
from ruamel.yaml import YAML

from geomae import open_embeddings

BANDS, CLASSES = r"\bB(?:0\d|1[12]|8A)\b", r"\b(?:bare|built|crop|forest|grass|shrub|water)\b"


def left(folder: Path, known: dict[tuple[str, ...], str]) -> Iterator[str]:
    """Every file below a folder with what is in it; `known` are contents that were listed before, and where."""
    for path in sorted(folder.rglob("*")):
        if path.suffix == ".zarr":
            name, found = f"{path.relative_to(folder)}/", variables(path.parent)
        elif (
            path.is_file() and not path.name.startswith(".") and not any(one.suffix == ".zarr" for one in path.parents)
        ):
            name, found = str(path.relative_to(folder)), inside(path)
        else:
            continue
        first = known.setdefault(tuple(found), f"{folder.name}/{name}")
        yield f"    {name}" + (f": as {first}" if found and first != f"{folder.name}/{name}" else "")
        if first == f"{folder.name}/{name}":
            yield from (f"        {line}" for line in found)


def variables(folder: Path) -> list[str]:
    """Variables of a store of embeddings with their kinds and axes, and the names of its attributes."""
    with open_embeddings(folder) as store:
        found = []
        for name in sorted(map(str, store.variables)):
            one = store[name]
            kind = "text" if one.dtype.kind in "OUT" else str(one.dtype)
            found.append(f"{name}: {kind} ({', '.join(map(str, one.dims))})")
        return [*found, f"attributes: {', '.join(sorted(map(str, store.attrs)))}"]


def inside(path: Path) -> list[str]:
    """Keys or columns of a file, where it is of a kind that has some."""
    match path.suffix:
        case ".json":
            return keys(json.loads(path.read_text(encoding="utf-8")))
        case ".jsonl":
            return keys([json.loads(line) for line in path.read_text(encoding="utf-8").splitlines()])
        case ".yaml":
            return keys(YAML(typ="safe", pure=True).load(path))
        case ".csv":
            with path.open(newline="", encoding="utf-8") as file:
                return [", ".join(next(csv.reader(file)))]
        case ".parquet":
            return [f"{one.name}: {one.type}" for one in pq.read_schema(path)]
        case ".npz":
            with np.load(path, allow_pickle=False) as arrays:
                return [f"{name}: {arrays[name].dtype.kind}, {arrays[name].ndim} axes" for name in sorted(arrays)]
        case ".tif":
            with rasterio.open(path) as raster:
                return [f"{raster.count} bands {raster.dtypes[0]}: {', '.join(map(str, raster.descriptions))}"]
    return []


def keys(value: Any) -> list[str]:
    """Names of all keys of nested mappings and lists, those with the same parent on one line; `<band>` is any band."""
    names = {re.sub(CLASSES, "<class>", re.sub(BANDS, "<band>", name)) for name in _keys(value, "")}
    groups = defaultdict(list)
    for name in sorted(names):
        cut = max(name.rfind("."), name.rfind("/")) + 1
        groups[name[:cut]].append(name[cut:])
    return [f"{parent} {', '.join(groups[parent])}".strip() for parent in sorted(groups)]


def _keys(value: Any, name: str) -> Iterator[str]:
    if isinstance(value, dict) and value:
        for key, one in value.items():
            yield from _keys(one, f"{name}.{key}" if name else str(key))
    elif isinstance(value, list) and any(isinstance(one, dict) for one in value):
        for one in value:
            yield from _keys(one, f"{name}[]")
    else:
        yield name
