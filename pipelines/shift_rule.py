"""Selection of the rule that chooses a method without labels of the target, and its evaluation on shifts left out.

    uv run python -m pipelines.shift_rule runs/suite/shifts.csv

Reads tables of `pipelines.shift_suite`. Every shift is left out once, every family of shifts, and every encoder.
Candidates are the rules of the grid below that lose at most 0.02 on every remaining shift, for every encoder. The rule
with the largest gain is applied to what was left out; among rules within 0.005 of it, the most conservative one.
Several draws of one shift count as one, their mean. Prints in Markdown, for each family, the gain of the choices
without the shift and without the family beside the program's rule, the oracle and the best method in hindsight; then
how the goals are met, and the rule of all shifts.
"""

import argparse
import csv
import itertools
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path

import numpy as np

from geomae.commands.options import exit_with
from geomae.errors import ConfigError, nearest
from geomae.evaluation.alignment_choice import RULE, Evidence, Rule, pick
from geomae.evaluation.choice_scores import SCORERS
from geomae.evaluation.methods import METHODS
from geomae.evaluation.target_labels import ORACLE
from geomae.tiles.radiometry import QUANTILES, RADIOMETRY
from pipelines.shift_tables import DRAW, WITH_LABELS

MOST_LOSS = 0.02
ABOUT = 0.005  # gains that differ by less count as equal
WORTH = 0.05  # from this gain of the oracle on, the choice should reach half of it
STILL = ("shares", "none")  # in the name of a shift without anything to gain: at most 0.01 should be lost
MARGINS = (
    0.05,
    0.08,
    0.1,
    0.15,
    0.2,
    float("inf"),
)  # nearer scores are equal (probe_predictions.EQUAL); infinity: never
EXPLAINED = (1 / 3, 1 / 2)  # of the distance between the domains: from there on, shares that differ forbid an alignment
DOMAIN_ACCURACIES = (0.0, 0.6, 0.65, 0.7, 0.75, 0.8)
CANDIDATES = (
    ("standardise+coral",),
    ("coral",),
    ("standardise",),
    ("weighted-coral",),
    ("coral", "standardise+coral"),
    (QUANTILES,),
    RADIOMETRY,
    ("standardise", "coral", "standardise+coral"),
    (QUANTILES, "standardise+coral"),
    (QUANTILES, "standardise", "coral", "standardise+coral"),
    (*RADIOMETRY, "standardise+coral"),
)


@dataclass(frozen=True)
class Draw:
    """One draw of a shift for one encoder: the gain of each method, and the evidence without labels."""

    gains: dict[str, float]
    evidence: Evidence

    def gain(self, rule: Rule) -> float:
        """The gain of the rule's choice."""
        return self.gains[pick(self.evidence, rule)]


@dataclass(frozen=True)
class Case:
    """An encoder on a shift, in one draw or several."""

    family: str
    shift: str
    encoder: str
    draws: tuple[Draw, ...]

    def gain(self, rule: Rule) -> float:
        """The gain of the rule's choice, mean over draws."""
        return float(np.mean([draw.gain(rule) for draw in self.draws]))

    def mean(self, method: str) -> float:
        """The gain of a method, mean over draws."""
        return float(np.mean([draw.gains[method] for draw in self.draws]))

    def chosen(self, rule: Rule) -> str:
        """The choice of the rule; with counts if draws differ."""
        names = [pick(draw.evidence, rule) for draw in self.draws]
        counts = {name: names.count(name) for name in dict.fromkeys(names)}
        return ", ".join(name if len(counts) == 1 else f"{name} ({count})" for name, count in counts.items())

    @cached_property
    def best(self) -> str:
        """The method with the largest gain, in hindsight."""
        return max((one for one in self.draws[0].gains if one not in WITH_LABELS), key=self.mean)


def main() -> None:
    """Read the command line and print the tables."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("tables", nargs="+", type=Path, help="shifts.csv of one suite or several")
    parser.add_argument("--without", action="append", default=[], help="METHOD that no rule may choose; repeatable")
    arguments = parser.parse_args()
    exit_with(lambda: run(arguments.tables, arguments.without))


def run(tables: Sequence[Path], without: Sequence[str] = ()) -> int:
    """Leave every shift and every family out in turn; no rule chooses a method of `without`. Returns the exit code."""
    for name in without:
        if name not in METHODS:
            raise ConfigError(f"--without {name}: {nearest(name, METHODS)}")
    cases = read_cases(tables)
    families = list(dict.fromkeys(case.family for case in cases))
    if len({case.shift for case in cases}) < 3:
        raise ConfigError("leaving a shift out needs at least 3 shifts; run the suite with more families")
    grid = Grid(cases, without)
    without_shift = {shift: grid.best([one.shift != shift for one in cases]) for shift in {one.shift for one in cases}}
    without_family = {name: grid.best([one.family != name for one in cases]) for name in families}
    for family in families:
        own = [case for case in cases if case.family == family]
        print(f"\n## {family}: without the family {describe(without_family[family])}\n")
        for line in family_lines(own, without_shift, without_family[family]):
            print(line)
    whole = grid.best([True] * len(cases))
    encoders = list(dict.fromkeys(case.encoder for case in cases))
    rules_of = {
        "left-out shift": [without_shift[case.shift] for case in cases],
        "left-out family": [without_family[case.family] for case in cases],
    }
    if len(encoders) > 1:
        without_encoder = {name: grid.best([one.encoder != name for one in cases]) for name in encoders}
        rules_of["left-out encoder"] = [without_encoder[case.encoder] for case in cases]
    rules_of |= {"none left out": [whole] * len(cases), "the program's": [RULE] * len(cases)}
    print("\n## goals\n")
    for name, rules in rules_of.items():
        for line in goal_lines(name, list(zip(cases, rules, strict=True))):
            print(line)
    print(f"\nrule of all shifts: {describe(whole)}; the program's: {describe(RULE)}")
    return 0


def read_cases(tables: Sequence[Path]) -> list[Case]:
    """The cases of tables of the suite. Raises ConfigError for a table without evidence."""
    rows: dict[tuple[str, str, str], dict[str, list[dict[str, str]]]] = {}
    for path in tables:
        with path.open(newline="", encoding="utf-8") as file:
            for row in csv.DictReader(file):
                if "domain_accuracy" not in row:
                    raise ConfigError(f"{path}: is not a table of the suite of shifts; name its shifts.csv")
                place = row["family"], DRAW.sub("", row["shift"]), row["encoder"]
                rows.setdefault(place, {}).setdefault(row["shift"], []).append(row)
    return [Case(*place, tuple(_draw(each) for each in draws.values())) for place, draws in rows.items()]


def _draw(rows: Sequence[dict[str, str]]) -> Draw:
    first = rows[0]
    scores = {}
    for row in rows:
        if row["scores"]:
            pairs = (pair.split("=") for pair in row["scores"].split())
            scores[row["method"]] = {name: float(value) for name, value in pairs}
    known = {name: float(first[name]) for name in ("explained", "domain_accuracy")}
    record = {"scores": scores, "shift": float(first["share_distance"]), "paired": first["paired"] == "True", **known}
    return Draw({row["method"]: float(row["gain"]) for row in rows}, Evidence.from_record(record))


class Grid:
    """The candidate rules, and the gain of each on each case."""

    def __init__(self, cases: Sequence[Case], without: Sequence[str] = ()) -> None:
        known = {name for case in cases for draw in case.draws for name in draw.gains} - set(without)
        # Without methods that no shift has: a radiometry may be impossible in all of them.
        candidates = dict.fromkeys(tuple(name for name in names if name in known) for names in CANDIDATES)
        candidates.pop((), None)
        self.rules = [
            Rule(names, scorer, ranker, margin, explained=explained, domain_accuracy=accuracy)
            for names, scorer, ranker, explained, accuracy, margin in itertools.product(
                candidates, SCORERS, SCORERS, EXPLAINED, DOMAIN_ACCURACIES, MARGINS
            )
            if len(names) > 1 or ranker == scorer  # a single candidate needs no second score
        ]
        self.gains = np.array([[case.gain(rule) for case in cases] for rule in self.rules])

    def best(self, kept: Sequence[bool]) -> Rule:
        """The rule with the largest mean gain, among rules without large losses; in a near tie, the most cautious."""
        gains = self.gains[:, np.array(kept)]
        mean = np.where(gains.min(1) >= -MOST_LOSS, gains.mean(1), -np.inf)
        near = [number for number in range(len(self.rules)) if mean[number] >= mean.max() - ABOUT]

        def shyness(number: int) -> tuple[float, ...]:
            rule = self.rules[number]
            return rule.domain_accuracy, rule.margin, -rule.explained, float(mean[number])

        return self.rules[max(near, key=shyness)]


def family_lines(cases: Sequence[Case], without_shift: dict[str, Rule], without_family: Rule) -> Iterator[str]:
    """A row for each shift and encoder."""
    header = [
        "shift",
        "encoder",
        "left-out shift",
        "gain",
        "left-out family",
        "gain",
        "program",
        "gain",
        ORACLE,
        "best",
    ]
    yield f"| {' | '.join(header)} |"
    yield "|" + "---|" * len(header)
    for case in cases:
        cells = [case.shift, case.encoder]
        for rule in (without_shift[case.shift], without_family, RULE):
            cells += [case.chosen(rule), f"{case.gain(rule):+.3f}"]
        yield f"| {' | '.join([*cells, f'{case.mean(ORACLE):+.3f}', f'{case.best} {case.mean(case.best):+.3f}'])} |"


def goal_lines(name: str, chosen: Sequence[tuple[Case, Rule]]) -> Iterator[str]:
    """How the choices meet the goals in each family: halves reached, losses, and the gain of the oracle."""
    for family in dict.fromkeys(case.family for case, _ in chosen):
        own = [(case, case.gain(rule), case.mean(ORACLE)) for case, rule in chosen if case.family == family]
        worth = [(case, gain, most) for case, gain, most in own if most >= WORTH]
        half = sum(gain >= most / 2 for _, gain, most in worth)
        worst, where = min((gain, f"{case.shift}, {case.encoder}") for case, gain, _ in own)
        still = [gain for case, gain, _ in own if case.shift.split()[0] in STILL]
        told = f"; on shares alone and none at worst {min(still):+.3f}" if still else ""
        price = float(np.mean([most - gain for _, gain, most in own]))
        yield (
            f"- {family}, {name}: half of the oracle's gain in {half} of {len(worth)} where it is {WORTH:g} or more; "
            f"worst {worst:+.3f} ({where}){told}; mean gain {np.mean([gain for _, gain, _ in own]):+.3f}, "
            f"price {price:+.3f}"
        )


def describe(rule: Rule) -> str:
    """The parameters of a rule that the grid varies, as text."""
    shares = f"share explained {rule.explained:.2f}"
    among = f"of {', '.join(rule.candidates)} by {rule.ranker}"
    return f"{rule.scorer}, margin {rule.margin:g}, {shares}, domain accuracy {rule.domain_accuracy:g}, {among}"


if __name__ == "__main__":
    main()
