"""The study of the rule leaves each shift out, and a rule that does harm where it was made is not taken."""

import csv
import json

import pytest

from geomae.errors import ConfigError
from geomae.evaluation.choice_scores import CIRCULAR, SCORERS
from geomae.evaluation.probe_scores import COLUMNS
from pipelines.evaluate_choice import best_rule, read_cases, run


def probe(folder, train, test, gains, circular, *, paired=False):
    """A folder as `geomae probe --align` leaves it: an encoder in two seeds, which scores 0.6 without alignment."""
    folder.mkdir()
    rows, known = [], {}
    for encoder in ("mine-s0", "mine-s1"):
        for align, gain in {"none": 0.0, **gains}.items():
            usual = dict.fromkeys(COLUMNS, "") | {"encoder": encoder, "test": test, "align": align, "method": "linear"}
            usual |= {"shots": "all", "class": "all"}
            rows.append(usual | {"metric": "balanced_accuracy", "value": 0.6 + gain})
            rows.append(usual | {"metric": "difference_to_none", "value": gain, "low": gain - 0.1, "high": gain + 0.1})
        scores = {name: dict.fromkeys(SCORERS, 0.5) | {CIRCULAR: value} for name, value in circular.items()}
        known[encoder] = {
            test: {"scores": scores, "shift": 0.0, "explained": 0.0, "domain_accuracy": 0.9, "paired": paired}
        }
    with (folder / "probe.csv").open("w", newline="", encoding="utf-8") as file:
        writer = csv.DictWriter(file, COLUMNS)
        writer.writeheader()
        writer.writerows(rows)
    (folder / "summary.json").write_text(json.dumps({"inputs": {"train": train, "alignments": known}}))
    return folder


@pytest.fixture
def probes(tmp_path):
    """Alignment helps where circular validation rises by much, and harms where it rises by little."""
    helps = {"gains": {"coral": 0.2}, "circular": {"none": 0.6, "coral": 0.9}}
    harms = {"gains": {"coral": -0.2}, "circular": {"none": 0.7, "coral": 0.76}}
    return [
        probe(tmp_path / "a", "brown", "green", **helps, paired=True),
        probe(tmp_path / "b", "here", "near", **harms),
        probe(tmp_path / "c", "here", "far", **helps),
        probe(tmp_path / "d", "there", "near", **harms),
        probe(tmp_path / "e", "green", "brown", **helps, paired=True),
    ]


def test_the_rule_helps_pairs_and_is_shy_elsewhere(probes, capsys):
    cases = [case for folder in probes for case in read_cases(folder)]
    rule = best_rule(cases)
    assert rule.scorer == CIRCULAR
    assert [round(case.gain(rule), 6) for case in cases[::2]] == [0.2, 0.0, 0.0, 0.0, 0.2]
    assert run(probes, [probes[0]]) == 0
    lines = [line for line in capsys.readouterr().out.splitlines() if line.startswith("| mine")]
    assert [line.split(" | ")[3] for line in lines] == ["coral, coral", *["none, none"] * 3, "coral, coral"]


def test_two_shifts_are_too_few(probes):
    with pytest.raises(ConfigError, match="takes at least 3"):
        run(probes[:2], [])
