"""The linear probe of the variants of a study, by `geomae probe`: rows beside the reconstruction errors."""

import csv
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from geomae.commands import probe
from geomae.commands.options import CommonOptions, read_selectors
from geomae.errors import CheckpointError, ConfigError
from pipelines.effects_figure import Effect

METRIC = "balanced_accuracy"


def check_probe(train: str | None, tests: Sequence[str], common: CommonOptions) -> None:
    """Raise ConfigError or CatalogError for selectors that cannot be probed, before any training begins."""
    if (train is None) != (not tests):
        raise ConfigError("--probe-train and --probe-test: a probe needs labelled tiles for training and for testing")
    if train is not None:
        read_selectors(common, [train, *tests])


def probe_models(
    models: Mapping[str, Path], train: str | None, tests: Sequence[str], common: CommonOptions
) -> list[dict[str, str]]:
    """Rows of probe.csv of every model by its label, those of the linear probe on all labels; none without `train`."""
    if train is None or common.out is None:
        return []
    encoders = tuple(f"{label}={folder}" for label, folder in models.items())
    code = probe.run(probe.ProbeOptions(common, train, tuple(tests), encoders))
    if code:
        raise CheckpointError(f"{common.out}: was stopped; run the study again to continue")
    with (common.out / "probe.csv").open(newline="", encoding="utf-8") as file:
        rows = list(csv.DictReader(file))
    wanted = {"metric": METRIC, "method": "linear", "shots": "all", "class": "all", "seed": ""}
    return [row for row in rows if all(row[name] == value for name, value in wanted.items())]


def probe_rows(
    scores: Sequence[dict[str, str]], variants: Sequence[tuple[str, str]], labels: Mapping[str, Sequence[str]]
) -> Iterator[tuple[dict[str, Any], Effect | None]]:
    """The row of the study's table and the effect of each variant, the default first; then the baselines' rows.

    `labels` are those of a variant's models, one per seed. With one seed, the interval is that of the probe. With
    several, the single values are given beside their mean, because the spread over seeds differs from that over groups.
    """
    for test in dict.fromkeys(row["test"] for row in scores):
        here = {row["encoder"]: row for row in scores if row["test"] == test}
        shared = {"dataset": test, "metric": METRIC, "unit": "1"}
        shared |= {"n_tiles": next(iter(here.values()))["n_test"], "n_groups": next(iter(here.values()))["n_groups"]}
        default = [float(here[label]["value"]) for label in labels["default"]]
        for factor, change in variants:
            name = change or "default"
            singles = [float(here[label]["value"]) for label in labels[name]]
            differences = [own - other for own, other in zip(singles, default, strict=True)]
            row = {
                "factor": factor,
                "variant": name,
                "value": float(np.mean(singles)),
                "difference": float(np.mean(differences)),
                "seeds": len(singles),
                "seed_values": " ".join(f"{value:.6g}" for value in singles),
            }
            points = tuple(100 * one for one in differences)
            effect = Effect(factor, name, float(np.mean(points)), None, points) if change else None
            yield row | shared, effect
        taken = {label for several in labels.values() for label in several}
        for label, one in here.items():
            if label not in taken:
                value = float(one["value"])
                row = {"factor": "baseline", "variant": label.replace("-", ":", 1), "value": value}
                yield row | {"difference": value - float(np.mean(default))} | shared, None
