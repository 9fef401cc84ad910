"""Benchmark of encoders on the labelled data sets of a catalogue: one table, one figure.

    uv run python -m pipelines.benchmark_encoders --catalog C --encoder mine=runs/s0/model,runs/s1/model --out bench

Probes are trained on every train split with labels and tested on its test splits: a linear probe on all labels and on
few, nearest neighbours, and, for a label raster, the classes of pixels. If there are two domains, probes are also
trained on one and tested on the other, without alignment. The effective rank is that of the raw embeddings of each test
set. All encoders, also the baselines, use the same rule for layer and pooling. An ENCODER for some data sets only is
written DATASETS:ENCODER; several seeds of one recipe are separated by commas:

    --encoder 'mine=hls*:runs/h0/model,hls*:runs/h1/model,eurosat-rgb:runs/r0/model,eurosat-rgb:runs/r1/model'

`--score` computes the score by which recipes are chosen, on folds of train splits only. Encoders whose labels end in a
number of minutes (`mine-1min`, `mine-2min`, ...) are also drawn as a curve. Writes `benchmark.csv`, `benchmark.png` and
`summary.json`. Results in --out are not computed again, and further encoders can be added.
"""

import argparse
from collections.abc import Sequence
from pathlib import Path

from geomae.commands.options import CommonOptions, default_out, exit_with
from geomae.commands.session import Session, open_session
from geomae.config import load_config
from geomae.encoders.selections import EmbeddingSpec
from geomae.errors import ConfigError
from geomae.files import write_csv, write_json
from geomae.runtime.signals import watch
from geomae.tiles.selection import select_tiles
from pipelines.benchmark_figure import benchmark_picture, curve_picture, curves
from pipelines.benchmark_runs import Benchmark, Contender, parse_contenders
from pipelines.benchmark_scores import COLUMNS, Row, score_rows, score_tables, task_rows, task_tables
from pipelines.benchmark_tasks import (
    Score,
    Task,
    Tiles,
    Wish,
    catalogue_tasks,
    check_training_only,
    datasets_of,
    labelled_datasets,
    parse_tasks,
    wished_tasks,
)

BASELINES = ("baseline:random", "baseline:statistics", "baseline:rcf")  # encoders are compared with the first


def main() -> None:
    """Read the command line, run the benchmark, and exit with a code like geomae's own commands."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--catalog", type=Path, default=Path("data_catalog.yaml"))
    parser.add_argument("--encoder", action="append", default=[], help="[NAME=][DATASETS:]ENCODER[,...]; repeatable")
    parser.add_argument("--task", action="append", default=[], help="'NAME: TRAIN -> TEST' instead of all; repeatable")
    parser.add_argument("--score", nargs="?", const="score", help="FILE or shipped NAME of configs/benchmark_encoders")
    parser.add_argument("--layer", type=int, help="block whose output gives the embeddings")
    parser.add_argument("--pooling", help="mean, cls or mean-std")
    parser.add_argument("--out", type=Path)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--dry-run", action="store_true", help="print the tasks, and compute nothing")
    arguments = parser.parse_args()
    exit_with(lambda: run(arguments))


def run(arguments: argparse.Namespace) -> int:
    """Compute missing embeddings and probes, publish the table and the figure. Returns the exit code."""
    if arguments.score and arguments.task:
        raise ConfigError("--task: a score has its own tasks; write them in a file and name it with --score")
    contenders = parse_contenders(arguments.encoder, BASELINES)
    wishes = load_config(Score, "benchmark_encoders", arguments.score).tasks if arguments.score else None
    if arguments.task:
        wishes = parse_tasks(arguments.task)
    out = (arguments.out or default_out("benchmark")).absolute()
    session = open_session(CommonOptions(arguments.catalog, out, arguments.seed), "benchmark_encoders")
    tasks, left = _tasks(session, wishes, arguments.seed)
    if arguments.score:
        check_training_only(tasks)
    for line in (*[task.describe() for task in tasks], *[f"left out: {line}" for line in left]):
        print(line, flush=True)
    if not tasks:
        raise ConfigError(f"{arguments.catalog}: has no data for a task; name one with --task 'NAME: TRAIN -> TEST'")
    for contender in contenders:
        contender.check(sorted({task.dataset for task in tasks}))
    if arguments.dry_run:
        print(f"encoders: {', '.join(one.label for one in contenders)}\nwould be written to {out}")
        return 0
    benchmark = Benchmark(session, EmbeddingSpec(arguments.layer, arguments.pooling), out)
    with watch() as stop:
        results = benchmark.run(tasks, contenders, stop)
    session.screen.close()
    if results is None:
        print(f"stopped; run the same command with --out {out} to continue")
        return stop.exit_code
    rows = [row for task in tasks for row in task_rows(task, results[task.name], benchmark.ranks, arguments.seed)]
    if arguments.score:
        rows += score_rows(rows, tasks)
    _publish(out, rows, tasks, contenders, scored=bool(arguments.score), notes=benchmark.notes)
    return 0


def _tasks(session: Session, wishes: dict[str, Wish] | None, seed: int) -> tuple[list[Task], list[str]]:
    """The tasks, and the data sets that were left out."""
    catalog = session.catalog
    names = labelled_datasets(catalog) if wishes is None else datasets_of(wishes)
    if not names:
        raise ConfigError(f"{catalog.path}: no data set has a `label:`; add one, or choose another catalogue")
    tiles = Tiles(select_tiles(catalog, names, session.screen.step, session.screen.warn))
    session.screen.close()
    if wishes is None:
        return catalogue_tasks(tiles, catalog, seed)
    return wished_tasks(wishes, tiles, catalog, seed), []


def _publish(
    out: Path,
    rows: Sequence[Row],
    tasks: Sequence[Task],
    contenders: Sequence[Contender],
    *,
    scored: bool,
    notes: Sequence[str],
) -> None:
    """Publish table, figures and summary; print the table."""
    labels = [one.label for one in contenders]
    write_csv(out / "benchmark.csv", COLUMNS, (row.csv_row() for row in rows))
    benchmark_picture(out / "benchmark.png", rows, labels, tasks)
    points = curves(rows, labels, scored=scored)
    if points:
        curve_picture(out / "curve.png", points)
    metrics = {f"{row.measure}/{row.test}/{row.task}/{row.encoder}": row.value for row in rows if row.seed is None}
    inputs = {"tasks": [task.describe() for task in tasks], "encoders": {one.label: one.texts for one in contenders}}
    summary = {"command": "benchmark_encoders", "run_id": None, "out": out, "metrics": metrics, "inputs": inputs}
    write_json(out / "summary.json", {**summary, "notes": list(notes)})
    for line in (*task_tables(rows, tasks, labels), *(score_tables(rows, tasks, labels) if scored else ()), *notes):
        print(line)


if __name__ == "__main__":
    main()
