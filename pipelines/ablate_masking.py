"""Ablation of the masking recipe on your own data: one factor at a time is changed from the default.

    uv run python -m pipelines.ablate_masking --catalog C --dataset hls@train --eval hls@test --out runs/ablation

He et al. (2022, section 4.1) did this for photographs. Every variant is pretrained in the same way. All are scored on
the same held-out tiles under the same masks (random, the ratio of the default), so that training with an easier mask is
no advantage. With --probe-train and --probe-test (labelled tiles) the linear probe of `geomae probe` is also reported,
because a low reconstruction error does not make a good encoder. Writes `ablation.csv`, `ablation.png`,
`ablation_probe.png`, `probe/` and `summary.json`. A stopped study is continued by the same command.
"""

import argparse
import csv
import re
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import torch
from pydantic import Field

from geomae.catalog import Selector, open_catalog, parse_selector
from geomae.commands import pretrain
from geomae.commands.options import CommonOptions, exit_with
from geomae.commands.pretrain import PretrainOptions
from geomae.config import Frozen, PretrainConfig, load_config
from geomae.errors import CheckpointError, ConfigError
from geomae.files import publish_file, write_json
from geomae.metrics.predictions import FEWEST_GROUPS, group_interval
from geomae.metrics.reconstruction import TileErrors
from geomae.models.folder import load_model
from geomae.runtime.devices import device_for
from geomae.tracking import resolve_uri, start_run
from geomae.training.data import Dataset, assemble
from geomae.training.trainer import batch_spec
from geomae.training.validation import BASELINES, errors_by_tile
from pipelines.ablation_probe import check_probe, probe_models, probe_rows
from pipelines.effects_figure import Effect, effects_picture

MOST_RUNS = 12
PATIENCE_S = 100.0  # for the tracking store to name the parent run
COLUMNS = (
    *("factor", "variant", "dataset", "metric", "unit", "value", "difference", "low", "high"),
    *("seeds", "seed_values", "n_tiles", "n_groups"),
)


class Study(Frozen):
    """The recipe `base` of `geomae pretrain`, changed by `common`, and its variants by factor."""

    base: str = "pixels"
    common: list[str] = Field([])
    factors: dict[str, list[str]] = Field(min_length=1)
    seeds: list[int] = Field([0], min_length=1)

    def variants(self) -> Iterator[tuple[str, str]]:
        """The factor and the change of every run; the recipe itself comes first."""
        yield "default", ""
        for factor, changes in self.factors.items():
            yield from ((factor, change) for change in changes)


@dataclass(frozen=True)
class Part:
    """The errors of all seeds of one variant on one data set."""

    factor: str
    variant: str
    errors: tuple[TileErrors, ...]

    def rmse(self, weight_T: Any = None) -> float:
        """Mean over seeds and bands."""
        return float(np.mean([one.rmse("model", weight_T) for one in self.errors]))


def main() -> None:
    """Read the command line, run the study, and exit with a code like geomae's own commands."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--catalog", type=Path, default=Path("data_catalog.yaml"))
    parser.add_argument("--dataset", action="append", required=True, help="SELECTOR to train on; repeatable")
    parser.add_argument("--eval", action="append", required=True, help="SELECTOR of held-out tiles; repeatable")
    parser.add_argument("--probe-train", help="SELECTOR of labelled tiles to train the linear probe on")
    parser.add_argument("--probe-test", action="append", default=[], help="SELECTOR to test it on; repeatable")
    parser.add_argument("--config", default="default", help="FILE or shipped NAME of configs/ablate_masking")
    parser.add_argument("--set", action="append", default=[], help="KEY=VALUE of the study; repeatable")
    parser.add_argument("--seeds", help="comma-separated; default those of the study")
    parser.add_argument("--out", type=Path, required=True)
    parser.add_argument("--tracking-uri")
    parser.add_argument("--experiment", default="geomae")
    arguments = parser.parse_args()
    exit_with(lambda: run(arguments))


def run(arguments: argparse.Namespace) -> int:
    """Train what is missing, score everything, publish table, picture and summary."""
    seeds = [f"seeds=[{arguments.seeds}]"] if arguments.seeds else []
    study = load_config(Study, "ablate_masking", arguments.config, [*arguments.set, *seeds])
    variants = list(study.variants())
    if len(variants) > MOST_RUNS:
        raise ConfigError(f"factors: {len(variants)} runs per seed; a study has at most {MOST_RUNS}, remove some")
    base = load_config(PretrainConfig, "pretrain", study.base, study.common)
    for _, change in variants:  # find a typo in any variant before training begins
        load_config(PretrainConfig, "pretrain", study.base, [*study.common, *([change] if change else [])])
    out: Path = arguments.out.absolute()
    check_probe(arguments.probe_train, arguments.probe_test, _common(arguments, out, None))
    uri = resolve_uri(arguments.tracking_uri)
    with start_run(uri, arguments.experiment, out.name, tags={"geomae.command": "ablate_masking"}) as parent:
        parent.log_params({"study.base": study.base, "study.common": " ".join(study.common)})
        parent_id = parent.wait_run_id(PATIENCE_S)
        for seed in study.seeds:
            for _, change in variants:
                _train(arguments, study, change, seed, _folder(out, change, seed), parent_id)
        rows, effects = _score(arguments, study, base, variants, out)
        probed, probe_effects = _probe(arguments, study, variants, out, parent_id)
        pictures = _draw(out, rows, effects, probed, probe_effects)
        metrics = _publish(out, [*rows, *probed], study, parent_id)
        parent.log_metrics(metrics, 0)
        for path in (out / "ablation.csv", out / "summary.json", *pictures):
            parent.log_artifact(path)
    return 0


def _train(
    arguments: argparse.Namespace, study: Study, change: str, seed: int, folder: Path, parent_id: str | None
) -> None:
    """One run of `geomae pretrain` as a child of the study; a finished run is kept, a stopped one is resumed."""
    where = {"tracking_uri": arguments.tracking_uri, "experiment": arguments.experiment, "parent_run": parent_id}
    if (folder / "summary.json").is_file():
        return
    print(f"{folder.name}", flush=True)
    if (folder / "run.json").is_file():
        code = pretrain.run(PretrainOptions(resume=folder, quiet=True, **where))
    else:
        changes = (*study.common, *([change] if change else []))
        datasets, evaluations = tuple(arguments.dataset), tuple(arguments.eval)
        wanted = PretrainOptions(
            arguments.catalog, datasets, evaluations, study.base, changes, folder, seed=seed, quiet=True
        )
        code = pretrain.run(PretrainOptions(**{**vars(wanted), **where, "run_name": folder.name}))
    if code:
        raise CheckpointError(f"{folder}: was stopped; run the study again to continue")


def _score(
    arguments: argparse.Namespace,
    study: Study,
    base: PretrainConfig,
    variants: Sequence[tuple[str, str]],
    out: Path,
) -> tuple[list[dict[str, Any]], list[Effect]]:
    """Rows of the table, and the effects on the first data set, relative to the default in percent."""
    catalog, device = open_catalog(arguments.catalog), torch.device(device_for("auto"))
    selectors, evaluations = (_selectors(texts) for texts in (arguments.dataset, arguments.eval))
    data = assemble(catalog, selectors, evaluations, base, study.seeds[0])
    names = {str(one) for one in evaluations}
    draw = batch_spec(base, study.seeds[0], None)
    rows: list[dict[str, Any]] = []
    effects: list[Effect] = []
    for dataset in (one for one in data.validation if one.name in names):
        parts = []
        for factor, change in variants:
            models = (load_model(_folder(out, change, seed) / "model", device) for seed in study.seeds)
            errors = tuple(errors_by_tile(model, dataset, draw, base.batch, device) for model in models)
            parts.append(Part(factor, change or "default", errors))
        compared = list(_compare(parts, dataset, study))
        effects = effects or [effect for _, effect in compared if effect is not None]
        rows += [row for row, _ in compared]
    return rows, effects


def _compare(parts: Sequence[Part], dataset: Dataset, study: Study) -> Iterator[tuple[dict[str, Any], Effect | None]]:
    """The row and the effect of each variant against the default, paired by tile; then the baselines' rows."""
    groups_T, names = pd.factorize(dataset.index.tiles["group"].fillna(dataset.index.tiles["tile_id"]))
    default, unit = parts[0], dataset.record.unit
    shared = {"dataset": dataset.name, "metric": "rmse", "unit": unit, "n_tiles": len(groups_T), "n_groups": len(names)}
    for part in parts:
        value, difference = part.rmse(), part.rmse() - default.rmse()
        interval = None
        if part is not default:
            interval = group_interval(lambda w, part=part: part.rmse(w) - default.rmse(w), groups_T, 0)  # type: ignore[misc]
        low, high = interval or ("", "")
        singles = [one.rmse("model") for one in part.errors]
        row = {
            "factor": part.factor,
            "variant": part.variant,
            "value": value,
            "difference": difference,
            "low": low,
            "high": high,
            "seeds": len(singles),
            "seed_values": " ".join(f"{v:.6g}" for v in singles),
        }
        percent = 100 / default.rmse()
        effect = Effect(
            part.factor,
            part.variant,
            difference * percent,
            None if interval is None else (interval[0] * percent, interval[1] * percent),
            tuple(
                (own.rmse("model") - other.rmse("model")) * percent
                for own, other in zip(part.errors, default.errors, strict=True)
            ),
        )
        yield row | shared, None if part is default else effect
    for name in BASELINES:
        value = default.errors[0].rmse(name)
        row = {"factor": "baseline", "variant": name, "value": value, "difference": value - default.rmse()}
        yield row | shared, None


def _probe(
    arguments: argparse.Namespace,
    study: Study,
    variants: Sequence[tuple[str, str]],
    out: Path,
    parent_id: str | None,
) -> tuple[list[dict[str, Any]], list[Effect]]:
    """Rows of the table for the linear probe, and the effects on the first test set, in points."""
    folders = {change or "default": [_folder(out, change, seed) for seed in study.seeds] for _, change in variants}
    models = {folder.name: folder / "model" for several in folders.values() for folder in several}
    common = _common(arguments, out, parent_id)
    scores = probe_models(models, arguments.probe_train, arguments.probe_test, common)
    labels = {name: [folder.name for folder in several] for name, several in folders.items()}
    pairs = list(probe_rows(scores, variants, labels))
    rows = [row for row, _ in pairs]
    return rows, [effect for row, effect in pairs if effect is not None and row["dataset"] == rows[0]["dataset"]]


def _draw(
    out: Path,
    rows: Sequence[dict[str, Any]],
    effects: Sequence[Effect],
    probed: Sequence[dict[str, Any]],
    probe_effects: Sequence[Effect],
) -> list[Path]:
    """Draw the effects on the error, and on the probe if there is one."""
    first = rows[0]
    many = first["n_groups"] >= FEWEST_GROUPS
    interval = "lines: 95 % over resampled groups, paired by tile" if many else "too few groups for intervals"
    caption = (
        f"{first['n_tiles']} tiles of {first['dataset']} in {first['n_groups']} groups, the same masks for all; "
        f"{interval};\norange: single seeds. Default: {first['value']:.4g} {first['unit']}."
    )
    axis = "difference of RMSE to the default, percent (left is better)"
    paths = [out / "ablation.png"]
    effects_picture(paths[0], effects, title="One factor at a time", axis=axis, caption=caption)
    if probed:
        first = probed[0]
        caption = (
            f"{first['n_tiles']} tiles of {first['dataset']} in {first['n_groups']} groups; orange: single seeds. "
            f"Default: {first['value']:.3f}."
        )
        axis = "difference of balanced accuracy to the default, points (right is better)"
        paths.append(out / "ablation_probe.png")
        title = "One factor at a time: linear probe"
        effects_picture(paths[1], probe_effects, title=title, axis=axis, caption=caption)
    return paths


def _publish(out: Path, rows: Sequence[dict[str, Any]], study: Study, run_id: str | None) -> dict[str, float]:
    """Publish table and summary; returns the metrics by name."""
    with publish_file(out / "ablation.csv") as temporary, temporary.open("w", newline="", encoding="utf-8") as file:
        writer = csv.DictWriter(file, COLUMNS, restval="")
        writer.writeheader()
        writer.writerows(rows)
    metrics = {f"{row['metric']}/{row['dataset']}/{row['variant']}": row["value"] for row in rows}
    inputs = {"study": study.model_dump()}
    summary = {"command": "ablate_masking", "run_id": run_id, "out": out, "metrics": metrics, "inputs": inputs}
    write_json(out / "summary.json", summary)
    for row in rows:
        span = f" [{row['low']:+.4g}, {row['high']:+.4g}]" if row.get("low") not in ("", None) else ""
        what = f"{row['metric']:18} {row['dataset']:28} {row['variant']:26}"
        print(f"{what} {row['value']:.5f} {row['difference']:+.5f}{span}")
    return metrics


def _common(arguments: argparse.Namespace, out: Path, parent_id: str | None) -> CommonOptions:
    return CommonOptions(
        arguments.catalog, out / "probe", tracking_uri=arguments.tracking_uri, experiment=arguments.experiment,
        quiet=True, parent_run=parent_id,
    )  # fmt: skip


def _selectors(texts: Sequence[str]) -> list[Selector]:
    return [parse_selector(text) for text in texts]


def _folder(out: Path, change: str, seed: int) -> Path:
    return out / "runs" / f"{re.sub(r'[^A-Za-z0-9.]+', '-', change or 'default')}-seed{seed}"


if __name__ == "__main__":
    main()
