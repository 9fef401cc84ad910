"""Tables and sentences about probes: intervals, and the methods that `geomae probe --align` compares.

K classes
"""

from collections.abc import Iterator, Mapping, Sequence

import numpy as np

from geomae.evaluation.alignment_choice import RULE, Evidence
from geomae.evaluation.choice_scores import SCORERS
from geomae.evaluation.class_transport import MOST_TILES
from geomae.evaluation.forest import FOREST
from geomae.evaluation.probe import ProbeResult
from geomae.evaluation.probe_predictions import EQUAL, STRENGTH, PredictionKey
from geomae.evaluation.probe_scores import TO_NONE, ProbeRow, Support
from geomae.evaluation.probe_task import SEGMENTATION, ProbeTask, class_codes
from geomae.evaluation.self_training import PORTIONS
from geomae.metrics.predictions import ALL, FEWEST_GROUPS, metric_name
from geomae.reports.page import Cell, Table

ACCURACY = "accuracy"
HOW = (
    "Each alignment was fitted on the embeddings of the training tiles and of all tiles of the test set. Labels of the "
    "test set were used for the scores alone. After an alignment, the probe has the strongest regularisation whose "
    f"circular validation is within {EQUAL:g} of the best. The rule may take {', '.join(RULE.candidates)}: of those "
    f"whose circular validation exceeds that without alignment by more than {RULE.margin:g}, the one with the best "
    f"mixed validation. It takes none where the estimated class shares differ by {RULE.shift:g} or more (total "
    "variation, black-box shift estimation) and this difference explains at least "
    f"{RULE.explained:.0%} of the distance between the means, and where a linear probe knows the domain of less than "
    f"{RULE.domain_accuracy:.0%} of the tiles of groups that it did not learn from."
)

METHODS = (
    "Methods named weighted weight each training tile by the estimated share of its class in the test set. "
    "prior-correction keeps the features and corrects the probe's probabilities to these shares: it optimises accuracy "
    f"over all tiles, not the mean over classes. Transport couples at most {MOST_TILES} tiles of each side. "
    f"self-training continues with pseudo-labels for up to {PORTIONS[-1]:.0%} of the tiles of each class, where two "
    "probes, each of half of the training groups, agree."
)

SHARES = (
    "Class shares of the test set, estimated without its labels: by maximum likelihood, with expectation maximisation "
    "from calibrated probabilities (95 % over resampled groups), and from the confusion matrix of held-out training "
    "tiles (black-box shift estimation). Both assume that each class looks the same in the test set as in the training "
    "tiles, so that only its share differs; this cannot be tested without labels."
)

ALIGNED = "Each line is an encoder: its score without alignment, after each alignment, and after the chosen one."


def interval_text(row: ProbeRow | None) -> str:
    """Return the interval of a score as text without line breaks; empty where there is none."""
    return (
        f"[{row.interval[0]:.3f},\N{NO-BREAK SPACE}{row.interval[1]:.3f}]" if row is not None and row.interval else ""
    )


def class_warnings(task: ProbeTask) -> Iterator[str]:
    """Yield a warning per test set without a tile of some classes, and one for classes with too few tiles or groups."""
    for test in task.tests:
        truth = task.truths[test.name]
        support = truth.support(task.names)
        score = metric_name(truth.measure.main)
        absent = [name for name, one in support.items() if not one.tiles]
        if absent:
            averaged, them = len(task.averaged[test.name]), "it" if len(absent) == 1 else "them"
            folds = ", or give --cross-fit 3 and the same tiles for --train and --test"
            yield (
                f"{test.name}: no tile of {', '.join(absent)}, so {score} is the mean of {averaged} of "
                f"{len(task.names)} classes; test on tiles of {them}, too"
                f"{'' if task.settings.cross_fit else folds}"
            )
        weak = {name: one for name, one in support.items() if one.weak and name in task.averaged[test.name]}
        if not weak:
            continue
        listed = ", ".join(f"{name} has {_count(one.tiles, 'tile')} in {_count(one.groups, 'group')}"
                           for name, one in weak.items())  # fmt: skip
        unsure = f"; {_unsure_interval(weak, truth.groups)}" if truth.groups >= FEWEST_GROUPS else ""
        them = "it" if len(weak) == 1 else "them"
        least = max(one.tiles for one in weak.values()) + 1
        fewest = min((one.tiles for name, one in support.items() if one.tiles and name not in weak), default=0)
        leave = f", or leave {them} out of averages with --min-class-rows {least}" if least <= fewest else ""
        yield (
            f"{test.name}: {listed}, too few for a sound score; every class counts equally in {score}{unsure}; test on "
            f"more groups with {them}{leave}"
        )


def _unsure_interval(weak: Mapping[str, Support], groups: int) -> str:
    """Why an interval over resamples of `groups` groups is not sound: some of them hold no tile of a class."""
    rarest = min(weak, key=lambda name: weak[name].groups)
    share = (1 - weak[rarest].groups / groups) ** groups  # of the resamples: groups are drawn with replacement
    which = "fewer than 1%" if share < 0.01 else f"about {share:.0%}"
    return (
        f"the interval does not hold this uncertainty: {which} of its resamples lack {rarest} and average the other "
        "classes alone"
    )


def explain_interval(task: ProbeTask, test: str) -> Iterator[str]:
    """Yield why the scores on a test set have no intervals, if they have none."""
    groups = task.truths[test].groups
    if groups < FEWEST_GROUPS:
        yield f"{test}: no 95 % intervals, since they take {FEWEST_GROUPS} groups, and it has {groups}."


def _count(number: int, what: str) -> str:
    return f"{number} {what}{'s' * (number != 1)}"


def explain_shots(task: ProbeTask) -> Iterator[str]:
    """Yield why some numbers of labels per class are left out, if some are."""
    label = np.concatenate([class_codes(part, task.names) for part in task.pool])
    counts = [np.unique(label[plan.train], return_counts=True) for plan in task.plans]  # of the classes of each fit
    rows, rarest = min(pair for codes, rows_K in counts for pair in zip(rows_K.tolist(), codes.tolist(), strict=True))
    left = [f"{shots}" for shots in task.settings.shots if shots > rows]
    if left:
        where = " in one of the fits" if len(task.plans) > 1 else ""
        yield (
            f"Not with {_or(left)} labels per class: every class needs so many training tiles, and "
            f"{task.names[rarest]} has {_count(rows, 'tile')}{where}."
        )


def _or(texts: Sequence[str]) -> str:
    return " or ".join([", ".join(texts[:-1]), texts[-1]] if len(texts) > 1 else texts)


def explain_blanks(task: ProbeTask) -> Iterator[str]:
    """Yield the reasons for empty cells in the tables of classes, a sentence or two per test set that has some."""
    for test in task.tests:
        support = task.truths[test.name].support(task.names)
        absent = [name for name, one in support.items() if not one.tiles]
        few = [name for name, one in support.items() if one.tiles and one.groups < FEWEST_GROUPS]
        if absent:
            only = "IoU, where the class was predicted, is" if task.settings.task == SEGMENTATION else (
                "precision and F1, where the class was predicted, are"
            )  # fmt: skip
            yield f"{test.name} has no tile of {', '.join(absent)}: there is no recall, and {only} 0."
        if few:
            yield f"{test.name} has {', '.join(few)} in fewer than {FEWEST_GROUPS} groups, too few for an interval."


def class_table(result: ProbeResult, test: str) -> Table:
    """A row per encoder and class: the test tiles and groups that have the class, and each metric with its interval."""
    rows = [row for row in result.rows(test) if row.of != ALL and row.method in ("linear", FOREST)]
    metrics = list(dict.fromkeys(row.metric for row in rows))
    header = ["encoder", "class", "tiles", "groups", *(part for one in metrics for part in (metric_name(one), "95 %"))]
    support = result.task.truths[test].support(result.task.names)
    table: list[list[Cell]] = []
    for key, row_of in rows_by_metric(rows, "encoder", "of").items():
        cells: list[Cell] = [*key, *support[key[1]]]
        for metric in metrics:
            cells += [row_of[metric].value, interval_text(row_of[metric])]
        table.append(cells)
    return Table(test, header, table)


def rows_by_metric(rows: Sequence[ProbeRow], *names: str) -> dict[tuple[str, ...], dict[str, ProbeRow]]:
    """Rows by metric, grouped by the attributes `names`."""
    gathered: dict[tuple[str, ...], dict[str, ProbeRow]] = {}
    for row in rows:
        gathered.setdefault(tuple(getattr(row, name) for name in names), {})[row.metric] = row
    return gathered


def alignment_tables(result: ProbeResult) -> Iterator[Table]:
    """Yield a table per test set: the scores of each encoder after each alignment."""
    if not result.choices:
        return
    for test in result.task.tests:
        main = result.task.truths[test.name].measure.main
        header = ["encoder", "alignment", "chosen", metric_name(main), "95 %", "to none", "95 %", metric_name(ACCURACY),
                  *(name.replace("_", " ") for name in SCORERS), STRENGTH]  # fmt: skip
        rows: list[list[Cell]] = []
        for one in result.encoders:
            evidence = result.evidence(one.label, test.name)
            for name in evidence.scores:
                key = PredictionKey(test.name, "linear", None, name)
                own, gain, right = (result.scores.find(one.label, key, what) for what in (main, TO_NONE, ACCURACY))
                assert own is not None
                assert right is not None
                known = evidence.scores[name]
                rows.append([
                    one.label, name, "yes" if result.choices[one.label, test.name].align == name else "", own.value,
                    interval_text(own), gain.value if gain else None, interval_text(gain), right.value,
                    *(known[name] for name in SCORERS), known[STRENGTH],
                ])  # fmt: skip
        yield Table(f"{test.name}: linear probe after alignment", header, rows)


def share_tables(result: ProbeResult) -> Iterator[Table]:
    """Yield a table per test set: its class shares as estimated by each encoder, and those of the training tiles."""
    if not result.choices:
        return
    for test in result.task.tests:
        rows: list[list[Cell]] = []
        for one in result.encoders:
            shares = result.shares(one.label, test.name)
            for code, name in enumerate(result.task.names):
                span = shares.likely.interval_K2
                interval = "" if span is None else f"[{span[code, 0]:.3f},\N{NO-BREAK SPACE}{span[code, 1]:.3f}]"
                figures = (float(one_K[code]) for one_K in (shares.source_K, shares.likely.share_K, shares.black_box_K))
                source, likely, black_box = figures
                rows.append([one.label, name, source, likely, interval, black_box])
        header = ["encoder", "class", "trained on", "most likely", "95 %", "by the confusion matrix"]
        yield Table(f"{test.name}: estimated class shares", header, rows)


def summarize_shares(result: ProbeResult) -> Iterator[str]:
    """Yield the reasons not to trust estimated shares, for each encoder and test set that has some."""
    for label, test in result.choices:
        reasons = result.shares(label, test).likely.reasons
        if reasons:
            yield f"{test}: do not trust the class shares by {label}: {'; '.join(reasons)}."


def summarize_alignments(result: ProbeResult) -> Iterator[str]:
    """Yield a sentence per choice: the alignment, the reason, and its effect on the score."""
    for (label, test), choice in result.choices.items():
        evidence = result.evidence(label, test)
        gain = result.scores.find(label, PredictionKey(test, "linear", None, choice.align), TO_NONE)
        yield f"{test}: for {label} the rule takes {choice.align}: {choice.why}. " + _did(gain) + _shift(evidence)


def _did(gain: ProbeRow | None) -> str:
    if gain is None:
        return ""
    if gain.interval is None:
        return f"It changed the score by {gain.value:+.3f}; there are too few groups for an interval. "
    low, high = gain.interval
    effect = "helped" if low > 0 else "harmed" if high < 0 else "had no significant effect"
    return f"By the labels it {effect}: {gain.value:+.3f} [{low:+.3f}, {high:+.3f}]. "


def _shift(evidence: Evidence) -> str:
    return (
        f"(Estimated label shift {evidence.shift:.2f}, which explains {max(evidence.explained, 0):.0%} of the distance "
        "between the domains.)"
    )
