"""The rule leaves each shift and each family out, and one that does harm where it was made is not taken."""

import csv

import pytest

from geomae.errors import ConfigError
from geomae.evaluation.choice_scores import CIRCULAR, SCORERS
from geomae.tiles.radiometry import QUANTILES
from pipelines.shift_rule import Grid, read_cases, run
from pipelines.shift_tables import COLUMNS

HELPS = {"gain": 0.2, "circular": 0.3}
HARMS = {"gain": -0.2, "circular": 0.06}


def rows(family, shift, *, gain, circular, paired=False, oracle=0.2):
    """Those of two encoders that score 0.6 without alignment; CORAL adds `gain`, and `circular` to its validation."""
    usual = dict.fromkeys(COLUMNS, "") | {"family": family, "shift": shift, "share_distance": 0, "explained": 0}
    usual |= {"domain_accuracy": 0.9, "paired": paired, "value": 0.6}
    for encoder in ("mine", "other"):
        for method, adds, more in (("none", 0, 0), ("coral", gain, circular)):
            scores = " ".join(f"{name}={0.5 + more * (name == CIRCULAR)}" for name in SCORERS)
            yield usual | {"encoder": encoder, "method": method, "gain": adds, "scores": f"{scores} strength=1"}
        yield usual | {"encoder": encoder, "method": "oracle", "gain": oracle}


@pytest.fixture
def table(tmp_path):
    """Alignment helps where circular validation rises by much, and harms where it rises by little."""
    path = tmp_path / "shifts.csv"
    each = [
        rows("real", "seasons", **HELPS, paired=True),
        rows("real", "near", **HARMS, oracle=0.0),
        rows("made", "gain", **HELPS),
        rows("made", "shares", **HARMS, oracle=0.0),
        rows("drawn", "covariate", **HELPS),
        rows("drawn", "none 00", gain=-0.1, circular=0.01, oracle=0.0),
        rows("drawn", "none 01", gain=0.1, circular=0.02, oracle=0.0),
    ]
    with path.open("w", newline="", encoding="utf-8") as file:
        writer = csv.DictWriter(file, COLUMNS)
        writer.writeheader()
        writer.writerows(row for part in each for row in part)
    return path


def test_the_rule_helps_where_its_score_rises_by_much_and_does_nothing_elsewhere(table, capsys):
    cases = read_cases([table])
    assert len(cases) == 12 and len(cases[-1].draws) == 2  # the draws of `none` are one
    rule = Grid(cases).best([True] * len(cases))
    assert rule.scorer == CIRCULAR and rule.candidates == ("coral",)
    assert [round(case.gain(rule), 6) for case in cases[::2]] == [0.2, 0, 0.2, 0, 0.2, 0]
    assert run([table]) == 0
    lines = capsys.readouterr().out.splitlines()
    (seasons,) = [line for line in lines if line.startswith("| seasons | mine")]
    assert seasons.split(" | ")[2:6] == ["coral", "+0.200", "coral", "+0.200"]
    (goal,) = [line for line in lines if line.startswith("- drawn, left-out family")]
    assert "in 2 of 2" in goal and "on shares alone and none at worst +0.000" in goal


def test_an_encoder_is_left_out_where_there_are_others(table, capsys):
    assert run([table]) == 0
    assert "- drawn, left-out encoder: half of the oracle's gain in 2 of 2" in capsys.readouterr().out
    lines = table.read_text().splitlines(keepends=True)
    table.write_text("".join(line for line in lines if not line.startswith("other,")))
    assert run([table]) == 0
    assert "left-out encoder" not in capsys.readouterr().out


def test_a_rule_that_harms_where_it_was_made_is_not_taken(table):
    cases = read_cases([table])
    grid = Grid(cases)
    only_bad = [case.shift in ("near", "shares") for case in cases]
    assert grid.best(only_bad).margin >= 0.08


def test_a_radiometry_that_only_some_shifts_have_is_a_candidate(table):
    lines = table.read_text().splitlines(keepends=True)
    first = next(place for place, line in enumerate(lines) if ",gain,coral," in line)
    lines.insert(first, lines[first].replace("coral", QUANTILES).replace("=0.8", "=0.9"))
    table.write_text("".join(lines))
    candidates = {rule.candidates for rule in Grid(read_cases([table])).rules}
    assert not any(QUANTILES in rule.candidates for rule in Grid(read_cases([table]), [QUANTILES]).rules)
    assert (QUANTILES,) in candidates and not any({"invariant-pixels", "subspace"} & set(one) for one in candidates)


def test_other_tables_and_too_few_shifts_are_refused(table, tmp_path):
    (tmp_path / "other.csv").write_text("encoder,value\nmine,0.5\n")
    with pytest.raises(ConfigError, match="not a table of the suite"):
        run([tmp_path / "other.csv"])
    with pytest.raises(ConfigError, match=r"--without quantile: .*quantiles"):
        run([table], ["quantile"])
    lines = table.read_text().splitlines(keepends=True)
    (tmp_path / "few.csv").write_text("".join(line for line in lines if "drawn" not in line and "made" not in line))
    with pytest.raises(ConfigError, match="at least 3"):
        run([tmp_path / "few.csv"])
