"""What an adaptation found out, in words and tables: what differs, what is proposed, and what labels say."""

import math
from collections.abc import Callable, Mapping, Sequence
from typing import Any

from geomae.evaluation.adaptation_effect import BeforeAfter
from geomae.evaluation.adaptation_probe import (
    AFTER,
    ALIGNED,
    BEFORE,
    CHANGE,
    ORACLE,
    SHARE_CLOSED,
    Estimate,
)
from geomae.evaluation.alignment_choice import RULE
from geomae.evaluation.probe_sentences import describe_scoring
from geomae.evaluation.probe_task import ProbeTask
from geomae.evaluation.proposal import Answer
from geomae.evaluation.target_labels import LABELS
from geomae.metrics.predictions import FEWEST_GROUPS, metric_name
from geomae.reports.page import Cell, Section, Table
from geomae.reports.probe_tables import share_tables


def proposal_sections(answer: Answer) -> tuple[Section, ...]:
    """What differs, and what is proposed to do about it, with the evidence."""
    differences, proposal = answer.differences, answer.proposal
    spectra = zip(*(one.mean_C.tolist() for one in differences.spectra), strict=True) if differences.pixels else ()
    means = dict(zip((band.name for band in differences.domains.source.bands), spectra, strict=False))
    rows: list[Sequence[Cell]] = [
        [one.band, *means[one.band], one.value, one.null_value, one.p_holm] for one in differences.pixels
    ]
    header = ["band", "source", "target", "difference", "halves of the source", "p (Holm)"]
    tables = [Table(f"Means of the bands, {differences.domains.unit}", header, rows)] if rows else []
    evidence = []
    if differences.probe is not None:
        tables += share_tables(differences.probe)
        ((label, test), _), = differences.probe.choices.items()  # fmt: skip
        found = differences.probe.evidence(label, test)
        evidence = [
            Table(
                "Alignments, judged without labels of the target",
                ["alignment", *(score.replace("_", " ") for score in (RULE.scorer, RULE.ranker))],
                [[name, of[RULE.scorer], of[RULE.ranker]] for name, of in found.scores.items()],
            )
        ]
    return (
        Section("What differs", tuple(differences.sentences()), tuple(tables)),
        Section("What is proposed", (proposal.text, proposal.labels), tuple(evidence)),
    )


def probe_sections(task: ProbeTask | None, measured: BeforeAfter) -> tuple[Section, ...]:
    """The figures of the probe on the target and on the source; nothing without a probe."""
    if task is None:
        return ()
    (test,) = task.tests
    name = metric_name(measured.metric)
    done = AFTER if AFTER in measured.target else ALIGNED
    titles = {
        CHANGE: f"{done} - before",
        ORACLE: f"oracle: learned from other groups of {test.name}, before",
        SHARE_CLOSED: f"share of the gap closed: ({done} - before) / (oracle - before)",
        **{
            key: f"{count} labels of each class of {test.name}, from groups that are not scored, before"
            for count, key in LABELS.items()
        },
        **{f"{key}_{CHANGE}": f"{count} labels - before" for count, key in LABELS.items()},
    }
    on_target = f"Learned from {task.train.name}, asked on {test.name}"
    home = f"Forgetting: learned from and asked on {task.train.name}, each group by a probe without it"
    tables = [
        Table(
            caption,
            ["", name, "95 %"],
            [[titles.get(key, key), one.value, _interval(one)] for key, one in rows.items()],
        )
        for caption, rows in ((on_target, measured.target), (home, measured.source))
        if rows
    ]
    text = (
        "Linear probes of frozen embeddings. Labels of the target take part in scoring, in the oracle, and in the "
        "probes of a few of its labels, which are the means of ten draws.",
        *describe_scoring(task),
    )
    return (Section("What labels say", text, tuple(tables)),)


def summarize_labels(task: ProbeTask, measured: BeforeAfter) -> str:
    """What a probe of the source's labels makes of the target, and what a few labels of the target would."""
    probe, metric = measured.target, metric_name(measured.metric)
    (test,) = task.tests
    averaged = task.averaged[test.name]
    few = f"; a probe of the target itself cannot be judged by one class, {averaged[0]}"
    if len(averaged) > 1:
        few = _few(probe)
    if CHANGE not in probe:
        return f"a probe of {task.train.name} has {probe[BEFORE].value:.3f} {metric} on {test.name}{few}"
    change = probe[CHANGE]
    before, after = (f"{probe[name].value:.3f}" for name in (BEFORE, AFTER if AFTER in probe else ALIGNED))
    moved = f"{'rose' if change.value > 0 else 'fell'} on {test.name} from {before} to {after}"
    if change.value == 0:
        moved = f"stayed on {test.name} at {after}"
    sure = (
        f"which cannot be told from chance (it takes {FEWEST_GROUPS} groups of test tiles, and they "
        f"are in {task.truths[test.name].groups})"
        if change.interval is None
        else "which the data cannot tell from none"
        if change.interval[0] <= 0 <= change.interval[1]
        else "which is more than chance"
    )
    return f"a probe of {task.train.name} {moved} {metric}{span(change.interval, 1, '')}, {sure}{_closed(probe)}{few}"


def _few(probe: Mapping[str, Estimate]) -> str:
    """What probes of a few labels of the target have; empty where none could be drawn."""
    known = [
        f"{count} labels of each class {probe[key].value:.3f} "
        f"({probe[f'{key}_{CHANGE}'].value:+.3f}{span(probe[f'{key}_{CHANGE}'].interval, 1, '')})"
        for count, key in LABELS.items()
        if key in probe
    ]
    return f"; of the target itself, {' and '.join(known)}" if known else ""


def _closed(probe: Mapping[str, Estimate]) -> str:
    share = probe.get(SHARE_CLOSED)
    if share is None:
        return ""
    oracle = f"a probe of the target itself ({probe[ORACLE].value:.3f})"
    if share.value != share.value:
        level = "worse" if probe[ORACLE].value < probe[BEFORE].value else "hardly better"
        return f"; {oracle} is {level} than before, so there is no gap to close"
    if share.value <= 0:
        return f", no step towards {oracle}"
    return f", {share.value:.0%} of the way to {oracle}"


def print_probe(measured: BeforeAfter, result: Callable[[str], None]) -> None:
    """Print the figures of the probe on the target, one to a line."""
    for name, one in measured.target.items():
        value = "unknown, the oracle is hardly or not better" if math.isnan(one.value) else f"{one.value:.3f}"
        result(f"probe {name}: {value}")


def probe_json(measured: BeforeAfter) -> dict[str, Any] | None:
    """The figures of the probe as JSON; None without a probe."""
    if not measured.target:
        return None
    return {"metric": measured.metric, "target": _rows(measured.target), "source": _rows(measured.source)}


def probe_figures(measured: BeforeAfter) -> dict[str, float]:
    """Figures of gap and probe by name, for the summary and MLflow."""
    flat: dict[str, float] = {}
    for model, rows in measured.gap.items():
        flat |= {f"gap/{row.measure}/{model}": row.value for row in rows}
    for domain, found in (("target", measured.target), ("source", measured.source)):
        for name, one in found.items():
            place = f"probe/{domain}/{name.replace(':', '-')}"
            flat[place] = one.value
            if one.interval is not None:
                flat |= {f"{place}/low": one.interval[0], f"{place}/high": one.interval[1]}
    return flat


def span(interval: tuple[float, float] | None, factor: float, unit: str) -> str:
    """An interval as text behind a figure; empty where there is none."""
    if interval is None:
        return ""
    digits = 1 if factor == 100 else 3
    return f" [{interval[0] * factor:+.{digits}f}, {interval[1] * factor:+.{digits}f}]{unit}"


def _rows(figures: Mapping[str, Estimate]) -> dict[str, Any]:
    return {
        name: {"value": one.value if one.value == one.value else None, "interval": one.interval}
        for name, one in figures.items()
    }


def _interval(figure: Estimate) -> str:
    low_high = figure.interval
    return "" if low_high is None else f"[{low_high[0]:.3f},\N{NO-BREAK SPACE}{low_high[1]:.3f}]"
