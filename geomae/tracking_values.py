"""What MLflow is told, as plain values within its limits."""

import getpass
import json
import os
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal

LONGEST_PARAM, LONGEST_TAG, LONGEST_KEY = 6000, 8000, 250  # MLflow's limits, in characters
LONGEST_DATASET_NAME, LONGEST_DIGEST, LONGEST_SOURCE = 500, 36, 65_535


@dataclass(frozen=True)
class DatasetRecord:
    """A data set as the input of a run: its digest, the file and entry that describe it, its bands and its figures."""

    name: str
    digest: str
    source: str
    entry: Mapping[str, Any] = field(default_factory=dict)
    bands: Sequence[str] = ()
    profile: Mapping[str, Any] = field(default_factory=dict)
    context: Literal["training", "validation"] = "training"


def flatten(config: Mapping[str, Any], prefix: str = "") -> dict[str, str]:
    """Give nested settings as `a.b: text`, cut to the length that MLflow takes; a list stays one text of JSON."""
    flat: dict[str, str] = {}
    for key, value in config.items():
        if isinstance(value, Mapping) and value:
            flat |= flatten(value, f"{prefix}{key}.")
        else:
            flat[f"{prefix}{key}"] = (str(value) if isinstance(value, (str, Path)) else _json(value))[:LONGEST_PARAM]
    return flat


def clean_key(name: str) -> str:
    """Give a name that MLflow takes for a parameter or a metric; it would refuse a whole batch for one other."""
    return re.sub(r"[^\w\-./ ]", "_", name)[:LONGEST_KEY]


def dataset_fields(record: DatasetRecord) -> dict[str, str]:
    """Give the fields of MLflow's own record of a data set; the bands are the columns of its schema."""
    source = _json({"uri": record.source, "entry": record.entry})
    if len(source) > LONGEST_SOURCE:
        source = _json({"uri": record.source})
    columns = [{"name": band, "type": "float", "required": True} for band in record.bands]
    return {
        "name": record.name[:LONGEST_DATASET_NAME],
        "digest": record.digest[:LONGEST_DIGEST],
        "source_type": "local",
        "source": source,
        "schema": _json({"mlflow_colspec": columns}),
        "profile": _json(record.profile),
    }


def usual_tags() -> dict[str, str]:
    """Give the tags that MLflow's pages show in columns of their own."""
    try:
        user = getpass.getuser()
    except (KeyError, OSError):  # a container may run under a number without a name
        user = str(os.getuid())
    return {"mlflow.user": user, "mlflow.source.name": "geomae", "mlflow.source.type": "LOCAL"}


def _json(value: Any) -> str:
    return json.dumps(value, default=str, ensure_ascii=False)
