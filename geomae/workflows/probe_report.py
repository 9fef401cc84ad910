"""The report of a probe: tables, pictures and what they say."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from geomae.analysis.alignment import NONE
from geomae.analysis.few_labels import DRAWS
from geomae.analysis.few_labels import STRENGTH as FEW_STRENGTH
from geomae.analysis.measures import ALL
from geomae.analysis.probe_rows import SPREAD, TO_BASELINE, TO_FIRST, Contender, Row, Scored
from geomae.analysis.probing import Asked
from geomae.reports.aligned_scores import Aligned, alignments_picture
from geomae.reports.confusion import confusion_picture
from geomae.reports.page import Figure, Page, Section, Table, write_page
from geomae.reports.probe_figures import Bar, Curve, few_labels_picture, scores_picture
from geomae.workflows.probe_align import HOW, Choices, alignment_tables, alignment_words
from geomae.workflows.probe_problem import Problem
from geomae.workflows.probe_request import REGRESSION, SEGMENTATION
from geomae.workflows.probe_words import find, interval_text, metric_name, scoring, verdicts

KNN = (
    "kNN: cosine similarity of embeddings as they are, not standardised, one vote per neighbour. Intervals are 95 % "
    "over resampled groups; differences are paired, on the same resamples."
)
ALIGNED = (
    "Each line is an encoder: its score without alignment, behind each alignment, and behind the one that was taken."
)


@dataclass(frozen=True)
class Results:
    """All that the report shows; `notes` are what each encoder says of itself."""

    problem: Problem
    contenders: list[Contender]
    scored: Scored
    choices: Choices
    notes: Mapping[str, Sequence[str]]

    @property
    def main(self) -> str:
        """The figure that encoders are compared by."""
        return next(iter(self.problem.truths.values())).measure.main

    def chosen(self, label: str, test: str) -> str:
        """The alignment that the rule took."""
        choice = self.choices.get((label, test))
        return choice.align if choice else NONE

    def rows(self, test: str) -> list[Row]:
        """The rows over all labels of a test set, without alignments and without those of single seeds."""
        return [
            row
            for row in self.scored.rows
            if row.test == test and row.shots is None and row.seed is None and row.align == NONE
        ]


def write_pictures(results: Results, out: Path) -> list[Path]:
    """Publish the pictures; returns their paths."""
    paths = [out / "probe_scores.png"]
    axis = metric_name(results.main)
    seeds = "; orange: single seeds" if any(len(one.seeds) > 1 for one in results.contenders) else ""
    scores_picture(
        paths[0],
        {test.name: [_bar(results, one, test.name) for one in results.contenders] for test in results.problem.tests},
        title=f"Linear probe, trained on {results.problem.train.name}",
        axis=axis,
        caption=f"Lines: 95 % over resampled groups, where there are at least ten.\nGrey: baselines{seeds}.",
    )
    if results.choices:
        paths.append(out / "probe_alignments.png")
        alignments_picture(
            paths[-1],
            {test.name: [_aligned(results, one.label, test.name) for one in results.contenders]
             for test in results.problem.tests},
            title=f"Alignments, trained on {results.problem.train.name}",
            axis=axis,
        )  # fmt: skip
    if any(asked.shots for asked in results.contenders[0].answers[0].predicted):
        paths.append(out / "probe_few_labels.png")
        few_labels_picture(
            paths[-1],
            {test.name: _curves(results, test.name) for test in results.problem.tests},
            title=f"Few labels of {results.problem.train.name}",
            axis=axis,
            caption=f"Mean and standard deviation of {DRAWS} draws, the same for all encoders; dotted: all labels.",
        )
    if results.problem.request.task != REGRESSION:
        unit = "pixels" if results.problem.request.task == SEGMENTATION else "tiles"
        for one in results.contenders:
            paths.append(out / f"probe_confusion_{one.label}.png")
            matrices = [
                (test.name, results.scored.sums[one.label, Asked(test.name, "linear")].sum(0) / len(one.seeds))
                for test in results.problem.tests
            ]
            title = f"Linear probe of {one.label}" + (", mean of its seeds" if len(one.seeds) > 1 else "")
            confusion_picture(paths[-1], matrices, results.problem.names, title=title, unit=unit)
    return paths


def write_report(results: Results, pictures: Sequence[Path], about: Mapping[str, str], path: Path) -> None:
    """Publish `report.html`."""
    problem = results.problem
    said = list(verdicts(problem, results.contenders, results.scored))
    by_name = {picture.stem: picture for picture in pictures}
    sections = [
        Section("What the data say", tuple(said or ["There is nothing to compare with."]),
                (Figure(by_name["probe_scores"], "The linear probe of every encoder on every test set."),)),
        Section("Scores", (KNN,), tuple(
            made for test in problem.tests for table in (_scores_table, _differences_table)
            if (made := table(results, test.name)).rows
        )),
    ]  # fmt: skip
    if results.choices:
        words = (HOW, *alignment_words(results.contenders, results.scored, results.choices))
        tables = tuple(alignment_tables(problem, results.contenders, results.scored, results.choices))
        sections.append(Section("Alignments", words, (Figure(by_name["probe_alignments"], ALIGNED), *tables)))
    if "probe_few_labels" in by_name:
        text = (
            f"Linear probes from some labels per class, in {DRAWS} draws that spread over groups, at the fixed "
            f"strength {FEW_STRENGTH:g}: so few labels leave nothing to choose it by. Embeddings are standardised by "
            "all training tiles, which takes no labels."
        )
        sections.append(Section("Few labels", (text,), (Figure(by_name["probe_few_labels"], ""),)))
    if problem.names:
        confusions = tuple(
            Figure(picture, "Share of each class's row.") for name, picture in by_name.items() if "confusion" in name
        )
        tables = tuple(_class_table(results, test.name) for test in problem.tests)
        sections.append(Section("Classes", ("The linear probe, class by class.",), (*tables, *confusions)))
    sections.append(Section("How it was measured", tuple(scoring(problem)), (_strength_table(results),)))
    notes = [[label, " · ".join(lines)] for label, lines in results.notes.items()]
    sections.append(Section("Encoders", (), (Table("How each encoder takes tiles", ["encoder", "notes"], notes),)))
    tests = ", ".join(test.name for test in problem.tests)
    lead = f"What a linear function of frozen embeddings tells about {tests}, learned from {problem.train.name}."
    write_page(path, Page(f"Probe: {problem.train.name}", lead, tuple(sections), about))


def _aligned(results: Results, label: str, test: str) -> Aligned:
    asked = Asked(test, "linear")
    found = {name: find(results.scored, label, asked._replace(align=name), results.main)
             for name in results.problem.request.alignments}  # fmt: skip
    return Aligned(label, {name: row.value for name, row in found.items() if row}, results.chosen(label, test))


def _bar(results: Results, contender: Contender, test: str) -> Bar:
    asked = Asked(test, "linear")
    row = find(results.scored, contender.label, asked, results.main)
    assert row is not None
    return Bar(contender.label, contender.baseline, row.value, row.interval, tuple(_singles(results, row)))


def _singles(results: Results, mean: Row) -> list[float]:
    """The figures of the seeds that a row is the mean of."""
    same = ("encoder", "test", "method", "shots", "align", "metric", "of")
    wanted = [getattr(mean, name) for name in same]
    return [
        row.value
        for row in results.scored.rows
        if row.seed is not None and [getattr(row, name) for name in same] == wanted
    ]


def _seeds(results: Results, mean: Row) -> str:
    singles = _singles(results, mean)
    return f"{min(singles):.3f}\N{NO-BREAK SPACE}to\N{NO-BREAK SPACE}{max(singles):.3f}"


def _curves(results: Results, test: str) -> list[Curve]:
    curves = []
    for one in results.contenders:
        all_shots = sorted({a.shots for a in one.answers[0].predicted if a.test == test and a.shots is not None})
        value, spread = ({}, {})
        for shots in all_shots:
            asked = Asked(test, "linear", shots)
            mean, deviation = (find(results.scored, one.label, asked, results.main + end) for end in ("", SPREAD))
            assert mean is not None
            assert deviation is not None
            value[shots], spread[shots] = mean.value, deviation.value
        curves.append(Curve(one.label, value, spread, _bar(results, one, test).value))
    return curves


def _scores_table(results: Results, test: str) -> Table:
    """A row per encoder and method: every figure over all classes, the main one with its interval."""
    rows = [row for row in results.rows(test) if row.of == ALL and row.metric not in (TO_FIRST, TO_BASELINE)]
    others = [metric for metric in dict.fromkeys(row.metric for row in rows) if metric != results.main]
    seeded = {one.label for one in results.contenders if len(one.seeds) > 1}
    header = ["encoder", "method", metric_name(results.main), "95 %", *(["seeds"] if seeded else [])]
    table = []
    for key, found in _by(rows, "encoder", "method").items():
        cells: list[str | float | None] = [*key, found[results.main].value, interval_text(found[results.main])]
        cells += [_seeds(results, found[results.main]) if key[0] in seeded else ""] if seeded else []
        table.append([*cells, *(found[metric].value for metric in others)])
    return Table(test, [*header, *map(metric_name, others)], table)


def _differences_table(results: Results, test: str) -> Table:
    """A row per encoder and method: its distance to the first encoder and to the best baseline."""
    rows = [row for row in results.rows(test) if row.metric in (TO_FIRST, TO_BASELINE)]
    best = {asked.method: label for asked, label in results.scored.best_baseline.items() if asked.test == test}
    header = ["encoder", "method", f"to {results.contenders[0].label}", "95 %"]
    header += ["to the best baseline", "95 %", "which is"] if best else []
    table = []
    for key, found in _by(rows, "encoder", "method").items():
        cells: list[str | float | None] = list(key)
        for metric in (TO_FIRST, *([TO_BASELINE] if best else [])):
            cells += [found[metric].value if metric in found else None, interval_text(found.get(metric))]
        table.append([*cells, *([best[key[1]] if TO_BASELINE in found else ""] if best else [])])
    return Table(f"{test}: differences in {metric_name(results.main)}", header, table)


def _by(rows: Sequence[Row], *names: str) -> dict[tuple[str, ...], dict[str, Row]]:
    """Rows by metric, gathered by what they are of."""
    found: dict[tuple[str, ...], dict[str, Row]] = {}
    for row in rows:
        found.setdefault(tuple(getattr(row, name) for name in names), {})[row.metric] = row
    return found


def _class_table(results: Results, test: str) -> Table:
    rows = [row for row in results.rows(test) if row.of != ALL and row.method == "linear"]
    metrics = list(dict.fromkeys(row.metric for row in rows))
    header = ["encoder", "class", *(name for metric in metrics for name in (metric_name(metric), "95 %"))]
    table = []
    for key, found in _by(rows, "encoder", "of").items():
        cells: list[str | float | None] = list(key)
        for metric in metrics:
            cells += [found[metric].value, interval_text(found[metric])]
        table.append(cells)
    return Table(test, header, table)


def _strength_table(results: Results) -> Table:
    """The strengths that were taken, and what each strength scored on held-out tiles, the mean over fits and seeds."""
    tried = sorted({strength for one in results.contenders for answers in one.answers for each in answers.tried
                    for strength in each})  # fmt: skip
    table: list[list[str | float | None]] = []
    for one in results.contenders:
        taken = dict.fromkeys(f"{strength:g}" for answers in one.answers for strength in answers.strengths)
        fits = [each for answers in one.answers for each in answers.tried]
        means = [sum(each[strength] for each in fits) / len(fits) for strength in tried]
        table.append([one.label, ", ".join(taken), *means])
    return Table("Strengths that were taken, and the scores on held-out tiles that decided",
                 ["encoder", "taken", *(f"{strength:g}" for strength in tried)], table)  # fmt: skip
