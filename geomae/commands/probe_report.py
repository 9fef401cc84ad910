"""Output of `geomae probe`: table, pictures, report and summary; the results are also printed."""

from collections.abc import Iterable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

from geomae.commands.run import AnalysisRun
from geomae.commands.session import Session
from geomae.encoders import EncoderSpec
from geomae.encoders.selections import Embeddings
from geomae.evaluation.alignment import NONE
from geomae.evaluation.forest import FOREST, TREES
from geomae.evaluation.probe import ProbeResult
from geomae.evaluation.probe_predictions import DRAWS, FEW_LABELS_C, PredictionKey
from geomae.evaluation.probe_scores import COLUMNS, SPREAD, TO_BASELINE, TO_FIRST, ProbeRow
from geomae.evaluation.probe_sentences import describe_scoring
from geomae.evaluation.probe_task import REGRESSION, SEGMENTATION, ProbeTask
from geomae.files import write_csv
from geomae.metrics.predictions import ALL, FEWEST_GROUPS, metric_name
from geomae.reports.page import About, Figure, Page, Section, Table, link_run, shown, write_page
from geomae.reports.probe_figures import (
    Aligned,
    Bar,
    Curve,
    alignments_picture,
    confusion_picture,
    few_labels_picture,
    scores_picture,
)
from geomae.reports.probe_tables import (
    ALIGNED,
    HOW,
    METHODS,
    SHARES,
    alignment_tables,
    class_table,
    class_warnings,
    explain_blanks,
    explain_interval,
    explain_shots,
    interval_text,
    rows_by_metric,
    share_tables,
    summarize_alignments,
    summarize_shares,
)
from geomae.runtime.console import Screen

NOT_LINEAR = "forest (not linear)"  # its name in the terminal, where its values are in the columns of the probe
PRINTED = 7  # columns of alignments that fit a terminal; the report has all
KNN = "kNN: cosine similarity of the embeddings (not standardised), one vote per neighbour."
INTERVALS = "Intervals are 95 % over resampled groups; differences are paired, on the same resamples."

OF_FOREST = (
    f"forest: a random forest of {TREES} trees on statistics of the pixels of each tile (for segmentation on the "
    "spectra of pixels). It uses no encoder and is no linear probe."
)
PROBES = "The linear probe of every encoder on every test set."
SCORES = f"{PROBES[:-1]}, and the random forest on pixels."


def write_results(
    run: AnalysisRun, session: Session, result: ProbeResult, embeddings: Mapping[str, Embeddings]
) -> None:
    """Publish table, pictures, report and summary; print the results."""
    out = run.out
    made_by = {label: one.made_by for label, one in embeddings.items() if one.made_by is not None}
    _write_table(out / "probe.csv", result)
    pictures = write_pictures(result, out)
    about = {
        **{f"encoder {number}": link_run(text) for number, text in enumerate(run.params["encoders"], 1)},
        "catalogue": str(session.catalog.path),
        "precision": session.precision,
        "seed": str(run.common.seed),
        **{f"run that made {label}": run_id for label, run_id in made_by.items()},
        **{
            f"{tiles.radiometry.method} of {test}": tiles.radiometry.about
            for one in embeddings.values()
            for (_, test), tiles in one.mapped.items()
        },
        **{f"digest of {label}": str(one.store.attrs["encoder_digest"]) for label, one in embeddings.items()},
    }
    write_report(result, pictures, about, out / "report.html")
    stores = {f"store.{label}": str(one.path) for label, one in embeddings.items()}
    run.tracker.log_params(stores | {f"model_run.{label}": run_id for label, run_id in made_by.items()})
    inputs: dict[str, Any] = {
        "strengths": {one.label: [C for each in one.predictions for C in each.C_values] for one in result.encoders},
        "model_runs": made_by,
        "classes": list(result.task.names),
    }
    if result.choices:
        inputs |= {"alignments": result.alignment_record()}
    run.finish(dict(_metrics(result.scores.rows)), inputs, [out / "probe.csv", out / "report.html", *pictures])
    _print(result, run.screen)
    run.screen.result(f"table: {out / 'probe.csv'}")
    run.screen.result(f"report: {out / 'report.html'}")


def describe_dry_run(task: ProbeTask, specs: Sequence[EncoderSpec], screen: Screen) -> None:
    """Print what would be probed."""
    for what, parts in (("train on", task.pool[:1]), ("choose on", task.pool[1:]), ("test on", task.tests)):
        for part in parts:
            screen.result(f"{what} {part.name}: {part.size} in {len(set(part.unit_T))} groups")
    if task.names:
        screen.result(f"classes: {', '.join(task.names)}")
    for warning in class_warnings(task):
        screen.warn(warning)
    screen.result(f"strength chosen by {task.how}" if task.how else "strength fixed")
    for one in specs:
        screen.result(f"encoder {one.label}: {', '.join(reference.text for reference in one.references)}")


def summarize_probe(result: ProbeResult) -> Iterator[str]:
    """A sentence for each test set and encoder: the score of its linear probe, and the differences from others."""
    for test in result.task.tests:
        key = PredictionKey(test.name, "linear")
        main = result.task.truths[test.name].measure.main
        groups = result.task.truths[test.name].groups
        for encoder in result.encoders:
            own = result.scores.find(encoder.label, key, main)
            against = [(TO_BASELINE, result.scores.best_baseline.get(key, ""))]
            against += [(TO_FIRST, result.encoders[0].label)] if not encoder.baseline else []
            pairs = [(name, row) for metric, name in against if (row := result.scores.find(encoder.label, key, metric))]
            if own is None or not pairs:
                continue
            what = f"{metric_name(main)} {own.value:.3f} {interval_text(own)}".rstrip()
            said = ". ".join(_against(name, row, groups) for name, row in pairs)
            yield f"{test.name}: {encoder.label} has {what}. {said}."


def _alone(result: ProbeResult) -> str:
    """The scores of the only encoder."""
    label, tests = result.encoders[0].label, result.task.tests
    rows = {test.name: result.scores.find(label, PredictionKey(test.name, "linear"), result.main) for test in tests}
    scores = [f"{row.value:.3f} {interval_text(row)}".rstrip() + f" on {name}" for name, row in rows.items() if row]
    return f"{label} has {metric_name(result.main)} {', '.join(scores)}. There is no other encoder to compare with."


def _against(other: str, row: ProbeRow, groups: int) -> str:
    if row.interval is None:
        side = "above" if row.value > 0 else "below"
        return (
            f"It is {abs(row.value):.3f} {side} {other}, but {groups} groups are too few for an interval (it takes "
            f"{FEWEST_GROUPS})"
        )
    low, high = row.interval
    span = f"[{low:+.3f}, {high:+.3f}]"
    if low > 0 or high < 0:
        return f"It is {'better' if low > 0 else 'worse'} than {other}: {row.value:+.3f} {span}"
    return f"Its difference from {other} is not significant: {row.value:+.3f} {span}"


def write_pictures(result: ProbeResult, out: Path) -> list[Path]:
    """Publish the pictures; returns their paths."""
    paths = [out / "probe_scores.png"]
    axis = metric_name(result.main)
    forest = " and random forest" if result.task.settings.forest else ""
    seeds = "; orange: single seeds" if any(len(one.seeds) > 1 for one in result.encoders) else ""
    scores_picture(
        paths[0],
        {test.name: [_bar(result, *one, test.name) for one in _compared(result)] for test in result.task.tests},
        title=f"Linear probe{forest}, trained on {result.task.train.name}",
        axis=axis,
        caption=f"Lines: 95 % interval over resampled groups, if there are at least ten.\nGrey: baselines{seeds}.",
    )
    if result.choices:
        paths.append(out / "probe_alignments.png")
        alignments_picture(
            paths[-1],
            {test.name: [_aligned(result, one.label, test.name) for one in result.encoders]
             for test in result.task.tests},
            title=f"Alignments, trained on {result.task.train.name}",
            axis=axis,
        )  # fmt: skip
    if any(key.shots for key in result.encoders[0].predictions[0].predicted):
        paths.append(out / "probe_few_labels.png")
        few_labels_picture(
            paths[-1],
            {test.name: _curves(result, test.name) for test in result.task.tests},
            title=f"Few labels of {result.task.train.name}",
            axis=axis,
            caption=f"Mean and standard deviation of {DRAWS} draws, the same for all encoders; dotted: all labels.",
        )
    if result.task.settings.task != REGRESSION:
        unit = "pixels" if result.task.settings.task == SEGMENTATION else "tiles"
        for one in result.encoders:
            paths.append(out / f"probe_confusion_{one.label}.png")
            matrices = [
                (test.name, result.scores.sums[one.label, PredictionKey(test.name, "linear")].sum(0) / len(one.seeds))
                for test in result.task.tests
            ]
            title = f"Linear probe of {one.label}" + (", mean of its seeds" if len(one.seeds) > 1 else "")
            confusion_picture(paths[-1], matrices, result.task.names, title=title, unit=unit)
    return paths


def write_report(result: ProbeResult, pictures: Sequence[Path], about: About, path: Path) -> None:
    """Publish `report.html`."""
    said = list(summarize_probe(result))
    tests = ", ".join(test.name for test in result.task.tests)
    subject = f"Linear probes of frozen embeddings, trained on {result.task.train.name} and tested on {tests}."
    lead = said[0] if said else _alone(result)
    by_name = {picture.stem: picture for picture in pictures}
    no_intervals = [text for test in result.task.tests for text in explain_interval(result.task, test.name)]
    methods = {row.method for test in result.task.tests for row in result.rows(test.name)}
    read = [KNN] if any(one.startswith("knn") for one in methods) else []
    read += [INTERVALS, *no_intervals, *([OF_FOREST] if result.task.settings.forest else [])]
    sections = [
        Section("Result", (subject, *said[1:], *(f"Warning: {one}." for one in class_warnings(result.task))),
                (Figure(by_name["probe_scores"], SCORES if result.task.settings.forest else PROBES),)),
        Section("Scores", tuple(read), tuple(
            made for test in result.task.tests for table in (_scores_table, _differences_table)
            if (made := table(result, test.name)).rows
        )),
    ]  # fmt: skip
    if result.choices:
        sentences = (HOW, METHODS, *summarize_alignments(result))
        tables = tuple(alignment_tables(result))
        sections.append(Section("Alignments", sentences, (Figure(by_name["probe_alignments"], ALIGNED), *tables)))
        sections.append(Section("Class shares", (SHARES, *summarize_shares(result)), tuple(share_tables(result))))
    if "probe_few_labels" in by_name:
        text = (
            f"Linear probes with few labels per class, in {DRAWS} draws spread over groups. The strength is fixed at "
            f"{FEW_LABELS_C:g}, because so few labels do not allow choosing it. Embeddings are standardised with all "
            "training tiles, which needs no labels."
        )
        curves = Figure(by_name["probe_few_labels"], "")
        sections.append(Section("Few labels", (text, *explain_shots(result.task)), (curves,)))
    if result.task.names:
        confusions = tuple(
            Figure(picture, "Rows: true class; each cell is a share of its row.")
            for name, picture in by_name.items()
            if "confusion" in name
        )
        tables = tuple(class_table(result, test.name) for test in result.task.tests)
        said_of = f"The linear probe{', and the random forest,' if result.task.settings.forest else ''} class by class."
        sections.append(Section("Classes", (said_of, *explain_blanks(result.task)), (*tables, *confusions)))
    sections.append(Section("How it was measured", tuple(describe_scoring(result.task)), (_C_table(result),)))
    notes = [[label, " · ".join(lines)] for label, lines in result.notes.items()]
    sections.append(Section("Encoders", (), (Table("Input of each encoder", ["encoder", "notes"], notes),)))
    write_page(path, Page(f"Probe of {result.task.train.name} on {tests}", lead, tuple(sections), about))


def _aligned(result: ProbeResult, label: str, test: str) -> Aligned:
    key = PredictionKey(test, "linear")
    row_of = {name: result.scores.find(label, key._replace(align=name), result.main)
             for name in result.task.settings.alignments}  # fmt: skip
    return Aligned(label, {name: row.value for name, row in row_of.items() if row}, result.chosen(label, test))


def _compared(result: ProbeResult) -> list[tuple[str, str, bool]]:
    """Label, method, and whether it is a baseline: the linear probe of each encoder, and the forest if there is one."""
    probes = [(one.label, "linear", one.baseline) for one in result.encoders]
    return [*probes, (FOREST, FOREST, True)] if result.task.settings.forest else probes


def _bar(result: ProbeResult, label: str, method: str, baseline: bool, test: str) -> Bar:
    row = result.scores.find(label, PredictionKey(test, method), result.main)
    assert row is not None
    return Bar(label, baseline, row.value, row.interval, tuple(_singles(result, row)))


def _singles(result: ProbeResult, mean: ProbeRow) -> list[float]:
    """The values of the single seeds behind a row that is their mean."""
    same = ("encoder", "test", "method", "shots", "align", "metric", "of")
    wanted = [getattr(mean, name) for name in same]
    return [
        row.value
        for row in result.scores.rows
        if row.seed is not None and [getattr(row, name) for name in same] == wanted
    ]


def _seeds(result: ProbeResult, mean: ProbeRow) -> str:
    singles = _singles(result, mean)
    return f"{min(singles):.3f}\N{NO-BREAK SPACE}to\N{NO-BREAK SPACE}{max(singles):.3f}"


def _curves(result: ProbeResult, test: str) -> list[Curve]:
    curves = []
    known = result.encoders[0].predictions[0].predicted
    all_shots = sorted({key.shots for key in known if key.test == test and key.shots is not None})
    for label, method, baseline in _compared(result):
        value, spread = ({}, {})
        for shots in all_shots:
            key = PredictionKey(test, method, shots)
            mean, deviation = (result.scores.find(label, key, result.main + end) for end in ("", SPREAD))
            assert mean is not None
            assert deviation is not None
            value[shots], spread[shots] = mean.value, deviation.value
        curves.append(Curve(label, value, spread, _bar(result, label, method, baseline, test).value))
    return curves


def _scores_table(result: ProbeResult, test: str) -> Table:
    """A row per encoder and method: every metric over all classes, the main one with its interval."""
    rows = [row for row in result.rows(test) if row.of == ALL and row.metric not in (TO_FIRST, TO_BASELINE)]
    others = _other_metrics(result, test)
    seeded = {one.label for one in result.encoders if len(one.seeds) > 1}
    header = ["encoder", "method", metric_name(result.main), "95 %", *(["seeds"] if seeded else [])]
    table = []
    for key, row_of in rows_by_metric(rows, "encoder", "method").items():
        cells: list[str | float | None] = [*key, row_of[result.main].value, interval_text(row_of[result.main])]
        cells += [_seeds(result, row_of[result.main]) if key[0] in seeded else ""] if seeded else []
        table.append([*cells, *(row_of[metric].value for metric in others)])
    return Table(test, [*header, *map(metric_name, others)], table)


def _other_metrics(result: ProbeResult, test: str) -> list[str]:
    """The metrics over all classes beside the main one."""
    known = dict.fromkeys(row.metric for row in result.rows(test) if row.of == ALL)
    return [metric for metric in known if metric not in (result.main, TO_FIRST, TO_BASELINE)]


def _differences_table(result: ProbeResult, test: str) -> Table:
    """A row per encoder and method: its difference from the first encoder and from the best baseline."""
    rows = [row for row in result.rows(test) if row.metric in (TO_FIRST, TO_BASELINE)]
    best = {key.method: label for key, label in result.scores.best_baseline.items() if key.test == test}
    header = ["encoder", "method", f"to {result.encoders[0].label}", "95 %"]
    header += ["to the best baseline", "95 %", "which is"] if best else []
    table = []
    for key, row_of in rows_by_metric(rows, "encoder", "method").items():
        cells: list[str | float | None] = list(key)
        for metric in (TO_FIRST, *([TO_BASELINE] if best else [])):
            cells += [row_of[metric].value if metric in row_of else None, interval_text(row_of.get(metric))]
        table.append([*cells, *([best[key[1]] if TO_BASELINE in row_of else ""] if best else [])])
    return Table(f"{test}: differences in {metric_name(result.main)}", header, table)


def _C_table(result: ProbeResult) -> Table:
    """The chosen strengths, and the held-out score of every strength (mean over fits and seeds)."""
    tried = sorted({C for one in result.encoders for predictions in one.predictions for each in predictions.tried
                    for C in each})  # fmt: skip
    table: list[list[str | float | None]] = []
    for one in result.encoders:
        taken = dict.fromkeys(f"{C:g}" for predictions in one.predictions for C in predictions.C_values)
        fits = [each for predictions in one.predictions for each in predictions.tried]
        means = [sum(each[C] for each in fits) / len(fits) for C in tried]
        table.append([one.label, ", ".join(taken), *means])
    return Table("Chosen strengths (C), and the held-out scores behind the choice",
                 ["encoder", "taken", *(f"{C:g}" for C in tried)], table)  # fmt: skip


def _write_table(path: Path, result: ProbeResult) -> None:
    task, rows = result.task, []
    for row in result.scores.rows:
        truth = task.truths[row.test]
        shared = {
            "task": task.settings.task, "train": task.train.name,
            "chosen": str(row.align == result.chosen(row.encoder, row.test)).lower(),
            "n_train": len(task.train) if row.shots is None else row.shots * len(task.names),
            "n_test": len(truth.label_T), "n_groups": truth.groups,
        }  # fmt: skip
        rows.append(row.csv_row(shared))
    write_csv(path, COLUMNS, rows)


def _metrics(rows: Iterable[ProbeRow]) -> Iterable[tuple[str, float]]:
    """Every metric under METRIC/TEST/ENCODER/METHOD (with shots or class), and the ends of its interval."""
    for row in rows:
        parts = [row.metric, row.test, row.encoder, row.method]
        parts += [f"shots{row.shots}"] if row.shots is not None else []
        parts += [row.align] if row.align != NONE else []
        parts += [row.of] if row.of != ALL else []
        parts += [f"seed{row.seed}"] if row.seed is not None else []
        name = "/".join(parts)
        yield name, row.value
        if row.interval is not None:
            yield f"{name}/low", row.interval[0]
            yield f"{name}/high", row.interval[1]


def _print(result: ProbeResult, screen: Screen) -> None:
    methods = list(dict.fromkeys(key.method for key in result.encoders[0].predictions[0].predicted))
    lines = [(one.label, methods) for one in result.encoders] + [(FOREST, [FOREST])] * result.task.settings.forest
    for test in result.task.tests:
        others = _other_metrics(result, test.name)
        header = ["encoder", methods[0], "95 %", *map(metric_name, others), *methods[1:]]
        rows = []
        for label, of in lines:  # the values of a forest are shown with those of the linear probes
            keys = [PredictionKey(test.name, method) for method in of]
            first, *more = (result.scores.find(label, key, result.main) for key in keys)
            beside = [result.scores.find(label, keys[0], metric) for metric in others]
            figures = [f"{row.value:.3f}" if row else "" for row in (first, *beside, *more)]
            name, empty = NOT_LINEAR if label == FOREST else label, [""] * (len(methods) - len(of))
            rows.append([name, figures[0], interval_text(first), *figures[1:], *empty])
        of_linear = f"{' and '.join(map(metric_name, others))} of the linear probe"
        screen.table(f"{metric_name(result.main)} on {test.name}, and {of_linear}", header, rows)
        for sentence in explain_interval(result.task, test.name):
            screen.result(sentence)
    for table in (*alignment_tables(result), *share_tables(result)):
        rows = [[shown(cell) for cell in row[:PRINTED]] for row in table.rows]
        screen.table(table.caption, table.header[:PRINTED], rows)
    for sentence in (*summarize_alignments(result), *summarize_shares(result), *summarize_probe(result)):
        screen.result(sentence)
    for warning in class_warnings(result.task):
        screen.warn(warning)
