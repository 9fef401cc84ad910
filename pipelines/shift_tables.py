"""Output of a suite of shifts: a row for each encoder, shift and method, and a short table for each family.

Only the draws of one shift are averaged; there is no average over shifts.
"""

import re
from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import numpy as np

from geomae.evaluation.alignment import NONE
from geomae.evaluation.alignment_choice import choose
from geomae.evaluation.probe_scores import TO_NONE, ProbeRow, score
from geomae.evaluation.target_labels import LABELS, ORACLE
from pipelines.shift_runs import ShiftResult

COLUMNS = (
    *("encoder", "family", "shift", "method", "value", "low", "high", "gain", "gain_low", "gain_high", "chosen"),
    *(
        "seeds",
        "n_source",
        "n_target",
        "n_groups",
        "classes",
        "paired",
        "share_distance",
        "explained",
        "domain_accuracy",
        "scores",
    ),
)
WITH_LABELS = (ORACLE, *LABELS.values())
DRAW = re.compile(r" \d\d$")


@dataclass(frozen=True)
class Row:
    """One method on one shift: balanced accuracy, and its gain over `none`."""

    encoder: str
    family: str
    shift: str
    method: str
    value: ProbeRow
    gain: ProbeRow | None
    chosen: bool
    about: dict[str, object]

    def csv_row(self) -> dict[str, object]:
        """By column."""
        low, high = self.value.interval or ("", "")
        gain_low, gain_high = (self.gain.interval if self.gain else None) or ("", "")
        return {
            **{name: getattr(self, name) for name in ("encoder", "family", "shift", "method", "chosen")},
            "value": self.value.value,
            "low": low,
            "high": high,
            "gain": self.gain.value if self.gain else 0.0,
            "gain_low": gain_low,
            "gain_high": gain_high,
            **self.about,
        }


def result_rows(result: ShiftResult, seed: int) -> list[Row]:
    """The rows of one encoder on one shift, in the order of the methods."""
    task, encoder = result.task, result.encoder
    (test,) = task.probe.tests
    truth = task.probe.truths[test.name]
    scored = [one for one in score([encoder], task.probe.truths, seed).rows if one.of == "all" and one.seed is None]
    values = {one.align: one for one in scored if one.metric == truth.measure.main}
    gains = {one.align: one for one in scored if one.metric == TO_NONE}
    chosen = choose(result.evidence).align
    rows = []
    for method, value in values.items():
        known = result.evidence.scores.get(method, {})
        about = {
            "seeds": len(encoder.predictions), "n_source": len(task.probe.train), "n_target": len(test),
            "n_groups": truth.groups, "classes": " ".join(task.probe.averaged[test.name]),
            "paired": result.evidence.paired, "share_distance": result.evidence.shift,
            "explained": result.evidence.explained, "domain_accuracy": result.evidence.domain_accuracy,
            "scores": " ".join(f"{name}={number:.6g}" for name, number in known.items()),
        }  # fmt: skip
        rows.append(
            Row(encoder.label, task.family, task.shift, method, value, gains.get(method), method == chosen, about)
        )
    return rows


def family_table(rows: Sequence[Row]) -> Iterator[str]:
    """Markdown: for each shift, the choice of the rule without labels, the scores with labels, and the best method.

    Gains are relative to the balanced accuracy of `none`. Draws of one shift are one line with their means.
    """
    header = ["shift", "encoder", "`none`", "chosen without labels", "its gain", "best in hindsight", "its gain"]
    header += [ORACLE, *(f"{count} labels per class" for count in LABELS)]
    yield f"| {' | '.join(header)} |"
    yield "|" + "---|" * len(header)
    by_place: dict[tuple[str, str], list[Row]] = {}
    for row in rows:
        by_place.setdefault((DRAW.sub("", row.shift), row.encoder), []).append(row)
    for (shift, encoder), here in by_place.items():
        of: dict[str, list[Row]] = {}
        for row in here:
            of.setdefault(row.method, []).append(row)
        chosen = list(dict.fromkeys(row.method for row in here if row.chosen))
        best = max((name for name in of if name not in WITH_LABELS), key=lambda name: _gain(of[name]))
        value = float(np.mean([row.value.value for row in of[NONE]]))
        cells = [f"{value:.3f}", ", ".join(f"`{name}`" for name in chosen), *(_cell(of[name]) for name in chosen[:1])]
        cells += [f"`{best}`", "" if best == NONE else f"{_gain(of[best]):+.3f}", _cell(of.get(ORACLE, []))]
        cells += [f"{_gain(of[name]):+.3f}" if name in of else "" for name in LABELS.values()]
        yield f"| {shift} | {encoder} | {' | '.join(cells)} |"


def _gain(rows: Sequence[Row]) -> float:
    return float(np.mean([row.gain.value if row.gain else 0.0 for row in rows]))


def _cell(rows: Sequence[Row]) -> str:
    """The mean gain, with its interval, or its span over the draws; empty for none."""
    if not rows or rows[0].method == NONE:
        return ""
    text, gains = f"{_gain(rows):+.3f}", [row.gain for row in rows if row.gain]
    if len(gains) > 1:
        return text + f" ({min(one.value for one in gains):+.3f} to {max(one.value for one in gains):+.3f})"
    return text + (" [{:+.3f}, {:+.3f}]".format(*gains[0].interval) if gains and gains[0].interval else "")
