"""The report of a probe: tables, pictures and what they say."""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from geomae.commands.probe_request import REGRESSION, SEGMENTATION
from geomae.encoders import EncoderSpec
from geomae.encoders.selections import Embeddings
from geomae.evaluation.alignment import NONE, Alignment
from geomae.evaluation.alignment_choice import CIRCULAR, DENSITY, ENTROPY, RULE, Choice, Evidence, choose
from geomae.evaluation.probe_data import ProbeTask
from geomae.evaluation.probe_scores import SPREAD, TO_BASELINE, TO_FIRST, TO_NONE, EncoderResult, ProbeRow, ProbeScores
from geomae.evaluation.probing import DRAWS, EQUAL, PredictionKey
from geomae.evaluation.probing import STRENGTH as FEW_STRENGTH
from geomae.files import digest
from geomae.metrics.intervals import FEWEST_GROUPS
from geomae.metrics.predictions import ALL
from geomae.reports.page import Cell, Figure, Page, Section, Table, write_page
from geomae.reports.probe_figures import (
    Aligned,
    Bar,
    Curve,
    alignments_picture,
    confusion_picture,
    few_labels_picture,
    scores_picture,
)

SPELLED = {
    "mean_iou": "mean IoU", "iou": "IoU", "r2": "R²", "macro_f1": "macro F1", "f1": "F1", "rmse": "RMSE", "mae": "MAE",
}  # fmt: skip


def metric_name(metric: str) -> str:
    """As people write it."""
    return SPELLED.get(metric, metric.replace("_", " "))


def find(scored: ProbeScores, encoder: str, asked: PredictionKey, metric: str) -> ProbeRow | None:
    """The row of a figure over all classes and seeds."""
    wanted = (encoder, asked.test, asked.method, asked.shots, asked.align, metric, ALL, None)
    return next(
        (r for r in scored.rows if (r.encoder, r.test, r.method, r.shots, r.align, r.metric, r.of, r.seed) == wanted),
        None,
    )


def interval_text(row: ProbeRow | None) -> str:
    """The interval of a figure, which does not break over lines; empty without one."""
    return (
        f"[{row.interval[0]:.3f},\N{NO-BREAK SPACE}{row.interval[1]:.3f}]" if row is not None and row.interval else ""
    )


def summarize_probe(problem: ProbeTask, contenders: list[EncoderResult], scored: ProbeScores) -> Iterator[str]:
    """A sentence for each test set and each encoder that is compared: what the linear probe says, or cannot say."""
    for test in problem.tests:
        asked = PredictionKey(test.name, "linear")
        main = problem.truths[test.name].measure.main
        groups = problem.truths[test.name].groups
        for contender in contenders:
            own = find(scored, contender.label, asked, main)
            against = [(TO_BASELINE, scored.best_baseline.get(asked, ""))]
            against += [(TO_FIRST, contenders[0].label)] if not contender.baseline else []
            pairs = [(name, row) for metric, name in against if (row := find(scored, contender.label, asked, metric))]
            if own is None or not pairs:
                continue
            what = f"{metric_name(main)} {own.value:.3f} {interval_text(own)}".rstrip()
            said = ". ".join(_against(name, row, groups) for name, row in pairs)
            yield f"{test.name}: {contender.label} has {what}. {said}."


def _against(other: str, row: ProbeRow, groups: int) -> str:
    if row.interval is None:
        side = "above" if row.value > 0 else "below"
        return (
            f"It lies {abs(row.value):.3f} {side} {other}, but {groups} groups are too few to say whether that is more "
            f"than chance (it takes {FEWEST_GROUPS})"
        )
    low, high = row.interval
    span = f"[{low:+.3f}, {high:+.3f}]"
    if low > 0 or high < 0:
        return f"It is {'better' if low > 0 else 'worse'} than {other}, by {row.value:+.3f} {span}"
    return f"The data cannot tell it from {other}: {row.value:+.3f} {span}"


def describe_scoring(problem: ProbeTask) -> Iterator[str]:
    """How the figures came about."""
    request = problem.request
    if request.strength is not None:
        yield f"The strength of every linear probe was fixed at {request.strength:g}."
    else:
        yield (
            f"The strength of each linear probe (scikit-learn's C) was chosen on {problem.how}; of equal scores the "
            "stronger regularisation was taken. No label of a test set had a part in it."
        )
    if request.cross_fit is not None:
        yield (
            f"Cross-fitting: {request.cross_fit} fits, each without the groups of one fold, which it then predicts in "
            "every test set."
        )
    for name, classes in problem.averaged.items():
        left = [one for one in problem.names if one not in classes]
        what = "hold them" if request.task == SEGMENTATION else "are of them"
        yield f"{name}: averages are over {', '.join(classes)}" + (
            f"; not over {', '.join(left)}, since fewer than {request.min_class_rows} test tiles {what}."
            if left
            else "."
        )
    for side in problem.sides:
        if side.unlabelled:
            yield f"{side.name}: {side.unlabelled} tiles without a label were left out."
    for name, truth in problem.truths.items():
        many = truth.groups >= FEWEST_GROUPS
        yield f"{name}: {len(truth.group_T)} tiles in {truth.groups} groups; " + (
            "intervals (95 %) are those of 1,000 resamples of the groups."
            if many
            else f"with fewer than {FEWEST_GROUPS} groups there are no intervals."
        )


Choices = Mapping[tuple[str, str], Choice]  # by label and test set

HOW = (
    "Each alignment was fitted on the embeddings of the training tiles and on those of all tiles of the test set, "
    "whose labels nothing below has seen but the scores. Behind an alignment, the probe's strength is the strongest "
    f"regularisation whose circular validation is the best but for {EQUAL:g}. The rule takes the alignment with the "
    f"best circular validation, where it exceeds that of none by more than {RULE.margin:g} ({RULE.margin_paired:g} "
    f"where both domains show the same places); it takes none where class shares seem to differ by {RULE.shift:g} or "
    "more (total variation, black-box shift estimation) and that explains at least "
    f"{RULE.explained:.0%} of the distance between the means."
)


def evidence_of(contender: EncoderResult, test: str) -> Evidence:
    """What is known of an encoder without labels of the test, the mean over its seeds."""
    return Evidence.mean([one.evidence[test] for one in contender.answers])


def choose_alignments(problem: ProbeTask, contenders: Sequence[EncoderResult]) -> Choices:
    """The rule's choice for every encoder and test set; nothing where no alignment was asked for."""
    if not problem.request.alignments:
        return {}
    return {(one.label, test.name): choose(evidence_of(one, test.name)) for one in contenders for test in problem.tests}


def records(contenders: Sequence[EncoderResult], choices: Choices) -> dict[str, dict[str, Any]]:
    """Evidence and choice by encoder and test set, as JSON."""
    known = {one.label: one for one in contenders}
    found: dict[str, dict[str, Any]] = {}
    for (label, test), choice in choices.items():
        evidence = evidence_of(known[label], test).record()
        found.setdefault(label, {})[test] = {"chosen": choice.align, "why": choice.why, **evidence}
    return found


def save_alignments(
    problem: ProbeTask, entrants: Sequence[EncoderSpec], found: Sequence[Embeddings], choices: Choices, out: Path
) -> None:
    """Publish the chosen alignments, fitted on all training tiles: `out/testN/LABEL`, for every seed."""
    rest = iter(found)
    for entrant in entrants:
        for reference, embeddings in zip(entrant.references, rest, strict=False):
            for number, test in enumerate(problem.tests):
                choice = choices.get((entrant.label, test.name))
                if choice is None or choice.align == NONE:
                    continue
                rows = [embeddings.of(side.selected) for side in (problem.train, test)]
                about = {
                    "source": problem.train.name,
                    "target": test.name,
                    "encoder": reference.text,
                    "encoder_digest": str(embeddings.store.attrs["encoder_digest"]),
                    "rows_digest": [digest(side.selected.digest()) for side in (problem.train, test)],
                    "why": choice.why,
                }
                Alignment.fit(choice.align, *rows).save(out / f"test{number}" / reference.label, about)


def alignment_tables(
    problem: ProbeTask, contenders: Sequence[EncoderResult], scored: ProbeScores, choices: Choices
) -> Iterator[Table]:
    """A table for every test set: each encoder behind each alignment."""
    if not choices:
        return
    for test in problem.tests:
        main = problem.truths[test.name].measure.main
        header = ["encoder", "alignment", "chosen", metric_name(main), "95 %", "to none", "95 %", "circular validation",
                  "negative entropy", "neighbourhood density", "strength"]  # fmt: skip
        rows: list[list[Cell]] = []
        for one in contenders:
            evidence = evidence_of(one, test.name)
            for name in problem.request.alignments:
                asked = PredictionKey(test.name, "linear", None, name)
                own, gain = (find(scored, one.label, asked, metric) for metric in (main, TO_NONE))
                assert own is not None
                known = evidence.scores[name]
                rows.append([
                    one.label, name, "yes" if choices[one.label, test.name].align == name else "", own.value,
                    interval_text(own), gain.value if gain else None, interval_text(gain), known[CIRCULAR],
                    known[ENTROPY], known[DENSITY], known["strength"],
                ])  # fmt: skip
        yield Table(f"{test.name}: linear probe behind alignments", header, rows)


def summarize_alignments(contenders: Sequence[EncoderResult], scored: ProbeScores, choices: Choices) -> Iterator[str]:
    """A sentence for every choice: what was taken and why, and what it did where labels can tell."""
    known = {one.label: one for one in contenders}
    for (label, test), choice in choices.items():
        evidence = evidence_of(known[label], test)
        gain = find(scored, label, PredictionKey(test, "linear", None, choice.align), TO_NONE)
        yield f"{test}: for {label} the rule takes {choice.align}: {choice.why}. " + _did(gain) + _shift(evidence)


def _did(gain: ProbeRow | None) -> str:
    if gain is None:
        return ""
    if gain.interval is None:
        return f"It changed the score by {gain.value:+.3f}; the groups are too few for an interval. "
    low, high = gain.interval
    verdict = "helped" if low > 0 else "harmed" if high < 0 else "may have done nothing"
    return f"By the labels it {verdict}: {gain.value:+.3f} [{low:+.3f}, {high:+.3f}]. "


def _shift(evidence: Evidence) -> str:
    return (
        f"(Estimated label shift {evidence.shift:.2f}, which explains {max(evidence.explained, 0):.0%} of the distance "
        "between the domains.)"
    )


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

    problem: ProbeTask
    contenders: list[EncoderResult]
    scored: ProbeScores
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

    def rows(self, test: str) -> list[ProbeRow]:
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
                (test.name, results.scored.sums[one.label, PredictionKey(test.name, "linear")].sum(0) / len(one.seeds))
                for test in results.problem.tests
            ]
            title = f"Linear probe of {one.label}" + (", mean of its seeds" if len(one.seeds) > 1 else "")
            confusion_picture(paths[-1], matrices, results.problem.names, title=title, unit=unit)
    return paths


def write_report(results: Results, pictures: Sequence[Path], about: Mapping[str, str], path: Path) -> None:
    """Publish `report.html`."""
    problem = results.problem
    said = list(summarize_probe(problem, results.contenders, results.scored))
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
        words = (HOW, *summarize_alignments(results.contenders, results.scored, results.choices))
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
    sections.append(Section("How it was measured", tuple(describe_scoring(problem)), (_strength_table(results),)))
    notes = [[label, " · ".join(lines)] for label, lines in results.notes.items()]
    sections.append(Section("Encoders", (), (Table("How each encoder takes tiles", ["encoder", "notes"], notes),)))
    tests = ", ".join(test.name for test in problem.tests)
    lead = f"What a linear function of frozen embeddings tells about {tests}, learned from {problem.train.name}."
    write_page(path, Page(f"Probe: {problem.train.name}", lead, tuple(sections), about))


def _aligned(results: Results, label: str, test: str) -> Aligned:
    asked = PredictionKey(test, "linear")
    found = {name: find(results.scored, label, asked._replace(align=name), results.main)
             for name in results.problem.request.alignments}  # fmt: skip
    return Aligned(label, {name: row.value for name, row in found.items() if row}, results.chosen(label, test))


def _bar(results: Results, contender: EncoderResult, test: str) -> Bar:
    asked = PredictionKey(test, "linear")
    row = find(results.scored, contender.label, asked, results.main)
    assert row is not None
    return Bar(contender.label, contender.baseline, row.value, row.interval, tuple(_singles(results, row)))


def _singles(results: Results, mean: ProbeRow) -> list[float]:
    """The figures of the seeds that a row is the mean of."""
    same = ("encoder", "test", "method", "shots", "align", "metric", "of")
    wanted = [getattr(mean, name) for name in same]
    return [
        row.value
        for row in results.scored.rows
        if row.seed is not None and [getattr(row, name) for name in same] == wanted
    ]


def _seeds(results: Results, mean: ProbeRow) -> str:
    singles = _singles(results, mean)
    return f"{min(singles):.3f}\N{NO-BREAK SPACE}to\N{NO-BREAK SPACE}{max(singles):.3f}"


def _curves(results: Results, test: str) -> list[Curve]:
    curves = []
    for one in results.contenders:
        all_shots = sorted({a.shots for a in one.answers[0].predicted if a.test == test and a.shots is not None})
        value, spread = ({}, {})
        for shots in all_shots:
            asked = PredictionKey(test, "linear", shots)
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


def _by(rows: Sequence[ProbeRow], *names: str) -> dict[tuple[str, ...], dict[str, ProbeRow]]:
    """Rows by metric, gathered by what they are of."""
    found: dict[tuple[str, ...], dict[str, ProbeRow]] = {}
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
