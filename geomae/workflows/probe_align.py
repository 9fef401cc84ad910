"""The alignments of a probe: which one the rule takes for each encoder and test set, and what shows it."""

from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

from geomae.analysis.aligned_probing import EQUAL
from geomae.analysis.alignment import NONE, Alignment
from geomae.analysis.alignment_choice import RULE, Choice, Evidence, choose
from geomae.analysis.alignment_scorers import CIRCULAR, DENSITY, ENTROPY
from geomae.analysis.probe_rows import TO_NONE, Contender, Row, Scored
from geomae.analysis.probing import Asked
from geomae.files import digest
from geomae.reports.page import Cell, Table
from geomae.workflows.probe_embed import Embeddings
from geomae.workflows.probe_problem import Problem
from geomae.workflows.probe_request import Entrant
from geomae.workflows.probe_words import find, interval_text, metric_name

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


def evidence_of(contender: Contender, test: str) -> Evidence:
    """What is known of an encoder without labels of the test, the mean over its seeds."""
    return Evidence.mean([one.evidence[test] for one in contender.answers])


def choose_alignments(problem: Problem, contenders: Sequence[Contender]) -> Choices:
    """The rule's choice for every encoder and test set; nothing where no alignment was asked for."""
    if not problem.request.alignments:
        return {}
    return {(one.label, test.name): choose(evidence_of(one, test.name)) for one in contenders for test in problem.tests}


def records(contenders: Sequence[Contender], choices: Choices) -> dict[str, dict[str, Any]]:
    """Evidence and choice by encoder and test set, as JSON."""
    known = {one.label: one for one in contenders}
    found: dict[str, dict[str, Any]] = {}
    for (label, test), choice in choices.items():
        evidence = evidence_of(known[label], test).record()
        found.setdefault(label, {})[test] = {"chosen": choice.align, "why": choice.why, **evidence}
    return found


def save_alignments(
    problem: Problem, entrants: Sequence[Entrant], found: Sequence[Embeddings], choices: Choices, out: Path
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
    problem: Problem, contenders: Sequence[Contender], scored: Scored, choices: Choices
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
                asked = Asked(test.name, "linear", None, name)
                own, gain = (find(scored, one.label, asked, metric) for metric in (main, TO_NONE))
                assert own is not None
                known = evidence.scores[name]
                rows.append([
                    one.label, name, "yes" if choices[one.label, test.name].align == name else "", own.value,
                    interval_text(own), gain.value if gain else None, interval_text(gain), known[CIRCULAR],
                    known[ENTROPY], known[DENSITY], known["strength"],
                ])  # fmt: skip
        yield Table(f"{test.name}: linear probe behind alignments", header, rows)


def alignment_words(contenders: Sequence[Contender], scored: Scored, choices: Choices) -> Iterator[str]:
    """A sentence for every choice: what was taken and why, and what it did where labels can tell."""
    known = {one.label: one for one in contenders}
    for (label, test), choice in choices.items():
        evidence = evidence_of(known[label], test)
        gain = find(scored, label, Asked(test, "linear", None, choice.align), TO_NONE)
        yield f"{test}: for {label} the rule takes {choice.align}: {choice.why}. " + _did(gain) + _shift(evidence)


def _did(gain: Row | None) -> str:
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
