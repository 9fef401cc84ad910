"""`geomae probe`: how well classes or numbers can be read off the embeddings of encoders, side by side."""

import csv
from collections.abc import Iterable, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

from threadpoolctl import threadpool_limits  # type: ignore[import-untyped]

from geomae.commands.probe_report import (
    Results,
    alignment_tables,
    choose_alignments,
    find,
    interval_text,
    metric_name,
    records,
    save_alignments,
    summarize_alignments,
    summarize_probe,
    write_pictures,
    write_report,
)
from geomae.commands.probe_request import SEGMENTATION, ProbeOptions, specifications
from geomae.commands.run import AnalysisRun, Session, open_session, output_folder, selection_record
from geomae.encoders import EncoderSpec
from geomae.encoders.selections import Embeddings, EmbeddingSpec, embed_specs, encoder_digest
from geomae.errors import ConfigError
from geomae.evaluation.alignment import NONE
from geomae.evaluation.probe_data import ProbeTask, read_probe_task
from geomae.evaluation.probe_scores import COLUMNS, EncoderResult, ProbeRow, score
from geomae.evaluation.probing import PredictionKey, Predictions
from geomae.files import publish_file
from geomae.metrics.predictions import ALL
from geomae.reports.page import shown
from geomae.runtime.console import Screen
from geomae.runtime.signals import watch
from geomae.tiles.selection import Selection, share_bands

WORKERS = 2  # fits at a time, each on one thread: they are too small to share out


def run(request: ProbeOptions) -> int:
    """Probe the encoders. Returns the exit code: 0, or 128 plus the signal that stopped the run."""
    entrants = specifications(request)
    session = open_session(request.common)
    if session.fabric.world_size > 1:
        raise ConfigError("geomae probe runs in one process; start it without several tasks or devices")
    chosen = _select(session, request)
    if not request.own_bands:
        chosen = share_bands(chosen)
    problem = read_probe_task(request, chosen, session.catalog)
    needed = [side.selected for side in problem.sides]
    loader = session.loader(EmbeddingSpec(request.layer, request.pooling, request.task == SEGMENTATION), needed)
    trained = loader.load_trained(entrants)
    if request.common.dry_run:
        _describe(problem, entrants, session.screen)
        return 0
    asked = request.asked() | {
        "catalog": str(session.catalog.path.absolute()),
        "precision": session.precision,
        "data_digest": [one.digest() for one in needed],
        "encoder_digests": {label: encoder_digest(encoders) for label, encoders in trained.items()},
    }
    out = output_folder("probe", request.common.out)
    with AnalysisRun("probe", request.common, asked, session.screen, out) as run_:
        run_.track([selection_record(session.catalog, one) for one in needed])
        with watch() as stop:
            found = list(
                embed_specs(
                    session.compute,
                    session.catalog,
                    entrants,
                    trained,
                    loader,
                    out / "embeddings",
                    stop,
                    run_.step,
                )
            )
        if stop.signal:
            run_.stopped()
            return stop.exit_code
        contenders = _contend(problem, entrants, found, run_)
        scored = score(contenders, problem.truths, request.common.seed)
        choices = choose_alignments(problem, contenders)
        save_alignments(problem, entrants, found, choices, out / "alignments")
        _leave(run_, Results(problem, contenders, scored, choices, _notes(entrants, found)), found, session)
    return 0


def _select(session: Session, request: ProbeOptions) -> list[Selection]:
    """The tiles to train on and those of each test; with cross-fitting a test may be what is trained on."""
    texts = [request.train, *request.tests]
    wanted = texts if request.cross_fit is None else [request.train, *(one for one in request.tests if one != texts[0])]
    found = dict(zip(wanted, session.select(wanted), strict=True))
    return [found[text] for text in texts]


def _contend(
    problem: ProbeTask, entrants: Sequence[EncoderSpec], found: Sequence[Embeddings], run_: AnalysisRun
) -> list[EncoderResult]:
    """The answers of every encoder, those of the seeds of one together."""
    answers: list[Predictions] = []
    with threadpool_limits(1), ThreadPoolExecutor(WORKERS) as pool:
        for done in pool.map(problem.answer, found):
            answers.append(done)
            run_.step("probing encoders", len(answers), len(found))
    run_.screen.close()
    contenders, rest = [], iter(answers)
    for one in entrants:
        contenders.append(EncoderResult(one.label, one.baseline, [next(rest) for _ in one.references], one.seeds))
    return contenders


def _notes(entrants: Sequence[EncoderSpec], found: Sequence[Embeddings]) -> dict[str, list[str]]:
    rest = iter(found)
    notes = {}
    for one in entrants:
        own = [next(rest) for _ in one.references]
        seeds = [f"mean of {len(own)} seeds"] if len(own) > 1 else []
        notes[one.label] = [*seeds, *own[0].notes]
    return notes


def _leave(run_: AnalysisRun, results: Results, found: Sequence[Embeddings], session: Session) -> None:
    """Table, pictures, report, summary; the same figures for people."""
    problem, scored, out = results.problem, results.scored, run_.out
    labelled = {one.path.parent.name: one for one in found}
    made_by = {label: one.made_by for label, one in labelled.items() if one.made_by is not None}
    _write_csv(out / "probe.csv", results)
    pictures = write_pictures(results, out)
    about = {
        "catalogue": str(session.catalog.path),
        "precision": session.precision,
        "seed": str(run_.common.seed),
        **{f"run that made {label}": run_id for label, run_id in made_by.items()},
        **{f"digest of {label}": str(one.store.attrs["encoder_digest"]) for label, one in labelled.items()},
    }
    write_report(results, pictures, about, out / "report.html")
    stores = {f"store.{label}": str(one.path) for label, one in labelled.items()}
    links = {f"model_run.{label}": run_id for label, run_id in made_by.items()}
    run_.tracker.log_params(stores | links)
    metrics = dict(_metrics(scored.rows))
    inputs: dict[str, Any] = {
        "strengths": _strengths(results.contenders),
        "model_runs": made_by,
        "classes": list(problem.names),
    }
    if results.choices:
        inputs |= {"alignments": records(results.contenders, results.choices)}
    run_.finish(metrics, inputs, [out / "probe.csv", out / "report.html", *pictures])
    _print(results, run_.screen)
    run_.screen.result(f"table: {out / 'probe.csv'}")
    run_.screen.result(f"report: {out / 'report.html'}")


def _write_csv(path: Path, results: Results) -> None:
    problem = results.problem
    trained = sum(len(side) for side in problem.pool[:1])
    with publish_file(path) as temporary, temporary.open("w", newline="", encoding="utf-8") as file:
        writer = csv.DictWriter(file, COLUMNS)
        writer.writeheader()
        for row in results.scored.rows:
            truth = problem.truths[row.test]
            shared = {
                "task": problem.request.task, "train": problem.train.name,
                "chosen": str(row.align == results.chosen(row.encoder, row.test)).lower(),
                "n_train": trained if row.shots is None else row.shots * len(problem.names),
                "n_test": len(truth.label_T), "n_groups": truth.groups,
            }  # fmt: skip
            writer.writerow(row.cells(shared))


def _metrics(rows: Iterable[ProbeRow]) -> Iterable[tuple[str, float]]:
    """Every figure by the name METRIC/TEST/ENCODER/METHOD and what narrows it down, and the ends of its interval."""
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


def _strengths(contenders: Sequence[EncoderResult]) -> Mapping[str, Any]:
    return {one.label: [strength for answers in one.answers for strength in answers.strengths] for one in contenders}


def _print(results: Results, screen: Screen) -> None:
    main = results.main
    methods = list(dict.fromkeys(asked.method for asked in results.contenders[0].answers[0].predicted))
    for test in results.problem.tests:
        rows = []
        for one in results.contenders:
            found = [find(results.scored, one.label, PredictionKey(test.name, method), main) for method in methods]
            figures = [f"{row.value:.3f}" if row else "" for row in found]
            rows.append([one.label, figures[0], interval_text(found[0]), *figures[1:]])
        screen.table(f"{metric_name(main)} on {test.name}", ["encoder", methods[0], "95 %", *methods[1:]], rows)
    for table in alignment_tables(results.problem, results.contenders, results.scored, results.choices):
        screen.table(table.caption, table.header, [[shown(cell) for cell in row] for row in table.rows])
    for sentence in summarize_alignments(results.contenders, results.scored, results.choices):
        screen.result(sentence)
    for sentence in summarize_probe(results.problem, results.contenders, results.scored):
        screen.result(sentence)


def _describe(problem: ProbeTask, entrants: Sequence[EncoderSpec], screen: Screen) -> None:
    """What a dry run prints."""
    for what, sides in (("train on", problem.pool[:1]), ("choose on", problem.pool[1:]), ("test on", problem.tests)):
        for side in sides:
            screen.result(f"{what} {side.name}: {len(side)} labelled tiles in {len(set(side.unit_T))} groups")
    if problem.names:
        screen.result(f"classes: {', '.join(problem.names)}")
    screen.result(f"strength chosen by {problem.how}" if problem.how else "strength fixed")
    for one in entrants:
        screen.result(f"encoder {one.label}: {', '.join(reference.text for reference in one.references)}")
