"""What is told of probes: their intervals, and the methods that `geomae probe --align` compares.

K classes
"""

from collections.abc import Iterator

from geomae.evaluation.alignment_choice import CIRCULAR, DENSITY, ENTROPY, RULE, Evidence
from geomae.evaluation.class_transport import MOST_TILES
from geomae.evaluation.probe import ProbeResult
from geomae.evaluation.probe_predictions import EQUAL, PredictionKey
from geomae.evaluation.probe_scores import TO_NONE, ProbeRow
from geomae.evaluation.self_training import PORTIONS
from geomae.metrics.predictions import metric_name
from geomae.reports.page import Cell, Table

ACCURACY = "accuracy"
HOW = (
    "Each alignment was fitted on the embeddings of the training tiles and on those of all tiles of the test set, "
    "whose labels nothing below has seen but the scores. Behind an alignment, the probe's strength is the strongest "
    f"regularisation whose circular validation is the best but for {EQUAL:g}. The rule takes the alignment with the "
    f"best circular validation, where it exceeds that of none by more than {RULE.margin:g} ({RULE.margin_paired:g} "
    f"where both domains show the same places); it takes none where class shares seem to differ by {RULE.shift:g} or "
    "more (total variation, black-box shift estimation) and that explains at least "
    f"{RULE.explained:.0%} of the distance between the means."
)

METHODS = (
    "Those that are named weighted count each training tile as often as its class seems to occur in the test set, and "
    "class-ot gives its class that mass. prior-correction leaves features as they are and brings the probe's "
    "probabilities to these shares: it aims at the most tiles right (accuracy), and not at the most of each class. "
    f"Transport couples at most {MOST_TILES} tiles of each side. self-training goes on learning from up to "
    f"{PORTIONS[-1]:.0%} of the tiles of each class, where two probes of half of the training groups agree. quantiles, "
    "invariant-pixels and band-adjustment bring the pixels of the test set to what the training tiles measure, before "
    "they are embedded: by the quantiles of each band, by pixels that did not change between both, or by wavelengths."
)

SHARES = (
    "Class shares of the test set, estimated without its labels: the most likely ones, by expectation maximisation "
    "from calibrated probabilities (95 % over resampled groups), and those by which the confusion matrix of held-out "
    "training tiles explains how often each class is predicted. Both hold where a class looks the same in the test set "
    "as in the training tiles, and only its share differs; no tile can tell that."
)

ALIGNED = (
    "Each line is an encoder: its score without alignment, behind each alignment, and behind the one that was taken."
)


def interval_text(row: ProbeRow | None) -> str:
    """The interval of a figure, which does not break over lines; empty without one."""
    return (
        f"[{row.interval[0]:.3f},\N{NO-BREAK SPACE}{row.interval[1]:.3f}]" if row is not None and row.interval else ""
    )


def alignment_tables(result: ProbeResult) -> Iterator[Table]:
    """A table for every test set: each encoder behind each alignment."""
    if not result.choices:
        return
    for test in result.task.tests:
        main = result.task.truths[test.name].measure.main
        header = ["encoder", "alignment", "chosen", metric_name(main), "95 %", "to none", "95 %", metric_name(ACCURACY),
                  "circular validation", "negative entropy", "neighbourhood density", "strength"]  # fmt: skip
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
                    known[CIRCULAR], known[ENTROPY], known[DENSITY], known["strength"],
                ])  # fmt: skip
        yield Table(f"{test.name}: linear probe behind alignments", header, rows)


def share_tables(result: ProbeResult) -> Iterator[Table]:
    """A table for every test set: the class shares that it seems to have to each encoder, beside those trained on."""
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
    """Why estimated shares say little, for each encoder and test set where they do."""
    for label, test in result.choices:
        reasons = result.shares(label, test).likely.reasons
        if reasons:
            yield f"{test}: do not trust the class shares by {label}: {'; '.join(reasons)}."


def summarize_alignments(result: ProbeResult) -> Iterator[str]:
    """A sentence for every choice: what was taken and why, and what it did where labels can tell."""
    for (label, test), choice in result.choices.items():
        evidence = result.evidence(label, test)
        gain = result.scores.find(label, PredictionKey(test, "linear", None, choice.align), TO_NONE)
        yield f"{test}: for {label} the rule takes {choice.align}: {choice.why}. " + _did(gain) + _shift(evidence)


def _did(gain: ProbeRow | None) -> str:
    if gain is None:
        return ""
    if gain.interval is None:
        return f"It changed the score by {gain.value:+.3f}; the groups are too few for an interval. "
    low, high = gain.interval
    effect = "helped" if low > 0 else "harmed" if high < 0 else "may have done nothing"
    return f"By the labels it {effect}: {gain.value:+.3f} [{low:+.3f}, {high:+.3f}]. "


def _shift(evidence: Evidence) -> str:
    return (
        f"(Estimated label shift {evidence.shift:.2f}, which explains {max(evidence.explained, 0):.0%} of the distance "
        "between the domains.)"
    )
