"""Output of `geomae finetune`: the model folder, the table, pictures, report and summary."""

import shutil
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from geomae import __version__
from geomae.catalog import Catalog
from geomae.commands.run import OPENING_S, AnalysisRun
from geomae.commands.session import Session
from geomae.encoders import Reference
from geomae.evaluation.finetune_task import FinetuneTask
from geomae.evaluation.finetuning import DRAWS, LINEAR, METHOD, SCRATCH, FinetuneResult
from geomae.evaluation.forest import FOREST
from geomae.evaluation.probe_predictions import PredictionKey
from geomae.evaluation.probe_scores import COLUMNS, SPREAD, TO_BASELINE, TO_FIRST, ProbeRow
from geomae.files import write_csv
from geomae.metrics.calibration import reliability_table
from geomae.metrics.predictions import ALL, FEWEST_GROUPS, metric_name
from geomae.models.class_colours import colours_of
from geomae.models.folder import Model, save_model
from geomae.models.head_record import REGRESSION, SEGMENTATION
from geomae.models.trainable_weights import Share
from geomae.reports.page import About, Cell, Figure, Page, Section, Table, link_run, write_page
from geomae.reports.probe_tables import interval_text
from geomae.tiles.reader import TileReader
from geomae.training.checkpoints import last_step
from geomae.training.finetuning import OnEvent
from geomae.training.finetuning_config import FinetuneConfig
from geomae.training.loop import Event
from geomae.training.starts import OwnStart

if TYPE_CHECKING:
    from geomae.reports.finetune_figures import Example
    from geomae.reports.probe_figures import Bar

COMPARED = (TO_FIRST, TO_BASELINE)


def model_tags(start: OwnStart) -> dict[str, str]:
    """The MLflow run that made the model to fine-tune."""
    run_id = start.provenance.get("mlflow_run")
    return {"geomae.model_run": str(run_id)} if run_id else {}


FINE_TUNING = "fine-tuning"  # the training whose metrics go into the history


class Progress:
    """Shows and logs the events of trainings.

    The history holds the metrics of the fine-tuning itself, one learning rate after the other; steps are counted over
    all rates.
    """

    def __init__(self, run_: AnalysisRun | None, config: FinetuneConfig) -> None:
        """Drop the metrics of steps that will be computed again. Other ranks have no run, and show nothing."""
        self.run, self.config = run_, config
        if run_ is not None:
            trained = run_.folder.checkpoints / "model"
            done = {config.begins(name): last_step(trained / name) for name in config.runs}
            run_.folder.forget_after(max((begin + last for begin, last in done.items() if last), default=0))

    def of(self, what: str) -> OnEvent:
        """The event handler of one of the trainings."""

        def hear(name: str, event: Event) -> None:
            if self.run is None:
                return
            if event.figures is not None:
                title = f"{what}, {name.replace('-', ' ')}"
                self.run.step(title, event.step, self.config.steps, f"loss {event.figures['loss']:.4f}")
            if what != FINE_TUNING:
                return
            step = self.config.begins(name) + event.step
            figures = {f"train/{key}": value for key, value in (event.figures or {}).items()}
            for part, scores in (event.scores or {}).items():
                figures |= scores.metrics(part)
            if figures:
                self.run.folder.log(step, figures)
                self.run.tracker.log_metrics(figures, step)

        return hear


def _history_of(rows: Sequence[Mapping[str, Any]], config: FinetuneConfig, rate: float) -> list[dict[str, Any]]:
    """The metrics of the training at one learning rate, by its own steps."""
    begin = config.begins(config.at(rate).runs[0])
    return [dict(row) | {"step": row["step"] - begin} for row in rows if 0 <= row["step"] - begin <= config.steps]


def describe_dry_run(session: Session, task: FinetuneTask, config: FinetuneConfig, share: Share) -> None:
    """Print what would be trained."""
    screen = session.screen
    screen.result(f"{task.task} by {config.method}: {share.trained:,} of {share.total:,} parameters are trained")
    for what, parts in (("learn from", (task.learned,)), ("choose on", (task.held,)), ("test on", task.tests)):
        for part in parts:
            screen.result(f"{what} {part.name}: {len(part)} labelled tiles in {len(set(part.unit_T))} groups")
    if task.names:
        screen.result(f"classes: {', '.join(task.names)}")
    screen.result(f"{config.steps} steps of {config.batch} tiles; rates {', '.join(f'{one:g}' for one in config.grid)}")
    for note in (task.how, *task.notes):
        screen.result(note)


def save_finetuned(
    run_: AnalysisRun, catalog: Catalog, config: FinetuneConfig, task: FinetuneTask, model: Model, start: OwnStart
) -> None:
    """Publish the model folder; replaces one that an earlier, killed run left."""
    provenance = {
        "command": "finetune",
        "code_version": __version__,
        "catalogue_digest": catalog.digest([task.learned.index.name]),
        "mlflow_run": run_.tracker.wait_run_id(OPENING_S),
        "seed": task.seed,
        "dataset": [task.learned.name],
        "finetuned": {"task": task.task, "method": config.method, "model_digest": start.digest},
        "from": start.provenance,
    }
    if run_.folder.model.exists():
        shutil.rmtree(run_.folder.model)
    save_model(Model(model.mae, model.sensors, provenance, head=model.head), run_.folder.model)


def write_results(
    run_: AnalysisRun, session: Session, result: FinetuneResult, reference: Reference, start: OwnStart,
    register: str | None,
) -> None:  # fmt: skip
    """Publish table, pictures, report, summary, and the model in MLflow; print the results."""
    out, task, learned = run_.out, result.task, result.learned
    write_table(out / "finetune.csv", result, reference.label)
    pictures = write_pictures(run_, result)
    about = {
        "catalogue": str(session.catalog.path), "model": link_run(reference.text), "digest of the model": start.digest,
        "precision": session.precision, "seed": str(task.seed),
    }  # fmt: skip
    write_report(result, pictures, about, out / "report.html")
    run_.tracker.log_artifacts(run_.folder.model, "model")
    if register:
        run_.tracker.register_model(register)
    head = result.model.head
    assert head is not None
    inputs: dict[str, Any] = {
        "task": task.task, "classes": list(task.names), "notes": [task.how, *task.notes],
        "model_run": start.provenance.get("mlflow_run"), "rate": learned.rate,
        "rates_tried": {f"{rate:g}": loss for rate, loss in learned.tried.items()},
        "calibration": head.record.calibration and head.record.calibration.model_dump(mode="json"),
    }  # fmt: skip
    metrics = dict(_metrics(result)) | {
        "parameters/trained": float(learned.share.trained), "parameters/share": learned.share.share,
        "steps/kept": float(learned.kept_step), "steps/trained": float(learned.steps),
    }  # fmt: skip
    run_.finish(metrics, inputs, [out / "finetune.csv", out / "report.html", *pictures.values()])
    run_.screen.close()
    print_results(run_, result)
    for what, path in (("model", run_.folder.model), ("table", out / "finetune.csv"), ("report", out / "report.html")):
        run_.screen.result(f"{what}: {path}")


def write_table(path: Path, result: FinetuneResult, encoder: str) -> None:
    """Publish finetune.csv, with the columns of probe.csv."""
    task, rows = result.task, []
    for row in result.scores.rows:
        truth = task.truths[row.test]
        shared = {
            "task": task.task, "train": task.learned.name, "chosen": "true",
            "n_train": len(task.learned) if row.shots is None else row.shots * len(task.names),
            "n_test": len(truth.label_T), "n_groups": truth.groups,
        }  # fmt: skip
        rows.append(row.csv_row(shared) | {"encoder": encoder, "method": row.encoder})
    write_csv(path, COLUMNS, rows)


def write_pictures(run_: AnalysisRun, result: FinetuneResult) -> dict[str, Path]:
    """Publish the pictures; returns their paths by name."""
    out, task = run_.out, result.task
    paths = {name: out / f"finetune_{name}.png" for name in ("scores", "loss")}
    from geomae.reports.finetune_figures import examples_picture
    from geomae.reports.probe_figures import confusion_picture, reliability_picture, scores_picture
    from geomae.reports.training_report import loss_curve  # imports matplotlib, which training does not need

    axis = metric_name(result.main)
    scores_picture(
        paths["scores"], {test.name: list(_bars(result, test.name)) for test in task.tests},
        title=f"Trained on {task.learned.name}", axis=axis,
        caption="Lines: 95 % interval over resampled groups, if there are at least ten.\nGrey: baselines.",
    )  # fmt: skip
    what = "squared error / variance of the labels" if task.task == REGRESSION else "cross entropy in nats"
    history = _history_of(run_.folder.history(), result.config, result.learned.rate)
    loss_curve(paths["loss"], history, training="train/loss", validation="loss/held-out", what=what)
    if task.names:
        paths["confusion"] = out / "finetune_confusion.png"
        key = (result.config.method, PredictionKey("", METHOD))
        matrices = [
            (test.name, result.scores.sums[key[0], key[1]._replace(test=test.name)].sum(0)) for test in task.tests
        ]
        unit = "pixels" if task.task == SEGMENTATION else "tiles"
        confusion_picture(paths["confusion"], matrices, task.names, title=f"Fine-tuned ({key[0]})", unit=unit)
        paths["reliability"] = out / "finetune_reliability.png"
        sums = {test.name: result.predictions(test.name).reliability_GB3 for test in task.tests}
        curves = [(name, reliability_table(one.sum(0))) for name, one in sums.items() if one is not None]
        reliability_picture(paths["reliability"], curves, unit)
    paths["examples"] = out / "finetune_examples.png"
    examples_picture(
        paths["examples"], _examples(result), task.record.bands, task.names,
        title=f"Tiles of {task.tests[0].name}, largest errors first", colours=colours_of(task.names),
    )  # fmt: skip
    return paths


def _examples(result: FinetuneResult, most: int = 6) -> "list[Example]":
    """Tiles of the first test with truth and prediction: those with the largest errors, and others."""
    from geomae.reports.finetune_figures import Example

    task = result.task
    test, truth = task.tests[0], task.truths[task.tests[0].name].label_T
    predictions = result.predictions(test.name).predicted
    wrong_T = _wrong(task, truth, predictions)
    order = wrong_T.argsort(kind="stable")[::-1]
    chosen = list(dict.fromkeys([*order[: most // 2].tolist(), *order[:: max(len(order) // most, 1)].tolist()]))[:most]
    record = task.records.get(test.name, task.record)
    reader = TileReader(test.index, 0, [band.name for band in record.bands])
    return [
        Example(reader.tile_ids[place], *reader.read(place), truth[place], predictions[place], float(wrong_T[place]))
        for place in chosen
    ]


def _wrong(task: FinetuneTask, truth: Any, predictions: Any) -> Any:
    """Error of each tile (T,): 0 or 1 for a class, the share of wrong pixels, or the absolute error of a number."""
    if task.task == REGRESSION:
        return abs(predictions - truth)
    if task.task != SEGMENTATION:
        return (predictions != truth).astype(float)
    known = truth >= 0
    return ((predictions != truth) & known).sum((1, 2)) / known.sum((1, 2)).clip(min=1)


def _bars(result: FinetuneResult, test: str) -> "Iterator[Bar]":
    from geomae.reports.probe_figures import Bar

    for row in result.scores.rows:
        if row.test == test and row.metric == result.main and row.of == ALL and row.shots is None:
            yield Bar(row.encoder, row.encoder != result.config.method, row.value, row.interval)


def _table(result: FinetuneResult, test: str) -> Table:
    """A row per method: every metric over all classes; the main one with interval and paired difference."""
    rows = [row for row in result.scores.rows if row.test == test and row.of == ALL and row.shots is None]
    by: dict[str, dict[str, ProbeRow]] = {}
    for row in rows:
        by.setdefault(row.encoder, {})[row.metric] = row
    others = [name for name in dict.fromkeys(row.metric for row in rows) if name not in (result.main, *COMPARED)]
    header = [
        "method",
        metric_name(result.main),
        "95 %",
        f"to {result.config.method}",
        "95 %",
        *map(metric_name, others),
    ]
    cells: list[list[Cell]] = []
    for method, own in by.items():
        first = own.get(TO_FIRST)
        row_: list[Cell] = [method, own[result.main].value, interval_text(own[result.main])]
        row_ += [first.value if first else None, interval_text(first)]
        cells.append([*row_, *(own[name].value if name in own else None for name in others)])
    return Table(test, header, cells)


def summarize_finetuning(result: FinetuneResult) -> Iterator[str]:
    """A sentence for every test: the score, and its difference from each other method."""
    task, main = result.task, metric_name(result.main)
    for test in task.tests:
        rows = {(row.encoder, row.metric): row for row in result.scores.rows
                if row.test == test.name and row.of == ALL and row.shots is None}  # fmt: skip
        own = rows[result.config.method, result.main]
        said = [
            f"{test.name}: fine-tuned ({result.config.method}) has {main} {own.value:.3f} {interval_text(own)}".rstrip()
        ]
        groups = task.truths[test.name].groups
        for method in dict.fromkeys(name for name, _ in rows if name != result.config.method):
            row = rows[method, TO_FIRST]
            gain = -row.value
            if row.interval is None:
                few = f"{groups} groups are too few for an interval (it takes {FEWEST_GROUPS})"
                said.append(f"{gain:+.3f} against {method}, but {few}")
            elif row.interval[0] <= 0 <= row.interval[1]:
                said.append(f"no significant difference from {method} ({gain:+.3f})")
            else:
                side = "better" if gain > 0 else "worse"
                low, high = -row.interval[1], -row.interval[0]
                said.append(f"{side} than {method} by {gain:+.3f} [{low:+.3f}, {high:+.3f}]")
        yield "; ".join(said) + "."


def _few_table(result: FinetuneResult, test: str) -> Table:
    rows = {(row.encoder, row.shots, row.metric): row for row in result.scores.rows
            if row.test == test and row.shots is not None and row.of == ALL}  # fmt: skip
    cells: list[list[Cell]] = [
        [method, shots, row.value, interval_text(row), rows[method, shots, metric + SPREAD].value]
        for (method, shots, metric), row in rows.items()
        if metric == result.main
    ]
    header = ["method", "labels per class", metric_name(result.main), "95 %", "standard deviation over draws"]
    return Table(test, header, cells)


def write_report(result: FinetuneResult, pictures: Mapping[str, Path], about: About, path: Path) -> None:
    """Publish `report.html`."""
    task, learned = result.task, result.learned
    tests = ", ".join(test.name for test in task.tests)
    subject = f"{task.task.capitalize()} trained on {task.learned.name}, tested on {tests}."
    lead, *more = [*summarize_finetuning(result)] or [subject]
    sections = [
        Section("Result", (subject, *more),
                (Figure(pictures["scores"], "Every method on every test."),)),
        Section("Scores", (_how_compared(result),), tuple(_table(result, test.name) for test in task.tests)),
    ]  # fmt: skip
    if any(row.shots is not None for row in result.scores.rows):
        text = (
            f"Training with few labels per class: {DRAWS} draws for the fine-tuning (ten for the probe), spread over "
            "groups, at the learning rate chosen with all labels. No tile is held out; the last weights are scored."
        )
        sections.append(Section("Few labels", (text,), tuple(_few_table(result, test.name) for test in task.tests)))
    if task.names:
        head = result.model.head
        assert head is not None
        notes = head.record.calibration.notes if head.record.calibration else ()
        confusion = Figure(pictures["confusion"], "Rows: true class; each cell is a share of its row.")
        sections.append(Section("Classes", (), (confusion,)))
        sections.append(Section(
            "Calibration",
            ("Probabilities are calibrated on the held-out tiles: a temperature and a bias per class.", *notes),
            (Figure(pictures["reliability"], "Accuracy by confidence; on the diagonal, confidence equals accuracy."),),
        ))  # fmt: skip
    sections.append(Section("Examples", (), (Figure(pictures["examples"], "Tile, truth, prediction and error."),)))
    parts: list[Figure | Table] = [Figure(pictures["loss"], "Loss in training and on the held-out tiles.")]
    if learned.tried:
        tried: list[list[Cell]] = [[f"{rate:g}", loss] for rate, loss in learned.tried.items()]
        parts.append(Table("Learning rates tried, with the loss on held-out tiles", ["learning rate", "loss"], tried))
    sections.append(Section("Training", tuple(_how_learned(result)), tuple(parts)))
    write_page(path, Page(f"Fine-tuning: {task.learned.name}", lead, tuple(sections), about))


def _how_compared(result: FinetuneResult) -> str:
    return (
        f"{LINEAR}: the linear probe of the frozen encoder. {SCRATCH}: the same architecture trained from random "
        f"weights, with its own choice of learning rate. {FOREST}: a random forest on pixel values, without an "
        "encoder. Intervals are 95 % over resampled groups; differences are paired, on the same resamples. "
        "ece: expected calibration error."
    )


def _how_learned(result: FinetuneResult) -> Iterator[str]:
    learned, task = result.learned, result.task
    yield (
        f"{result.config.method}: {learned.share.trained:,} of {learned.share.total:,} parameters trained "
        f"({learned.share.share:.1%}), at learning rate {learned.rate:g} per 256 tiles; step {learned.kept_step} of "
        f"{learned.steps} is kept, the best on the held-out tiles."
    )
    yield f"{task.how}. No choice used a label of a test."
    yield from task.notes


def _metrics(result: FinetuneResult) -> Iterator[tuple[str, float]]:
    """Every metric under METRIC/TEST/METHOD (with shots or class where it has them), and the ends of its interval."""
    for row in result.scores.rows:
        parts = [row.metric, row.test, row.encoder]
        parts += [f"shots{row.shots}"] if row.shots is not None else []
        parts += [row.of] if row.of != ALL else []
        if row.value == row.value:
            yield "/".join(parts), row.value
        if row.interval is not None:
            yield "/".join((*parts, "low")), row.interval[0]
            yield "/".join((*parts, "high")), row.interval[1]


def print_results(run_: AnalysisRun, result: FinetuneResult) -> None:
    """Print the tables and sentences of the result."""
    for test in result.task.tests:
        table = _table(result, test.name)
        run_.screen.table(table.caption, table.header, [[_cell(one) for one in row] for row in table.rows])
    for sentence in (next(_how_learned(result)), *summarize_finetuning(result)):
        run_.screen.result(sentence)


def _cell(cell: Cell) -> str:
    return f"{cell:.3f}" if isinstance(cell, float) else "" if cell is None else str(cell)
