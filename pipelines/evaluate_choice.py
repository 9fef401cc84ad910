"""Whether the rule that chooses an alignment does good where it was not made: each shift is left out in turn.

    uv run python -m pipelines.evaluate_choice runs/brown-green runs/green-brown runs/far ... --oracle runs/oracle-*

Takes folders of `geomae probe --align all`. Every shift (a train and a test selection) is left out once: of all rules
of the grid below that lose more than 0.02 for no encoder on the other shifts, the shyest that gains about most there
chooses for it. Labels that differ in a trailing `-sN` are seeds of one encoder, whose figures are averaged. Folders of
`--oracle` are probes that learned on the target (`--train T --test T --cross-fit 3`). Prints tables in Markdown.
"""

import argparse
import csv
import itertools
import re
from collections import defaultdict
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from geomae.commands.options import exit_with
from geomae.errors import ConfigError
from geomae.evaluation.alignment import NONE
from geomae.evaluation.alignment_choice import RULE, Evidence, Rule, choose
from geomae.evaluation.choice_scores import SCORERS
from geomae.evaluation.probe_scores import TO_NONE
from geomae.files import read_json

METRIC = "balanced_accuracy"
MOST_LOSS = 0.02
MARGINS = (0.0, 0.02, 0.05, 0.08, 0.1, 0.12, 0.15, 0.2, 0.3, float("inf"))  # infinity: never
CANDIDATES = (
    ("standardise", "coral", "linear-ot", "standardise+coral", "standardise+linear-ot"),
    ("coral", "standardise+coral"),
    ("standardise",),
    ("coral",),
    ("standardise+coral",),
)


@dataclass(frozen=True)
class Case:
    """One encoder, of one seed, on one shift: the score behind each alignment and what is known without labels."""

    shift: str
    test: str
    encoder: str
    value: Mapping[str, float]
    interval: Mapping[str, str]
    evidence: Evidence

    def gain(self, rule: Rule) -> float:
        """What the rule's choice adds to the score."""
        return self.value[choose(self.evidence, rule).align] - self.value[NONE]


def main() -> None:
    """Read the command line and print the table."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("probes", nargs="+", type=Path, help="folders of `geomae probe --align all`")
    parser.add_argument(
        "--oracle", nargs="*", default=[], type=Path, help="folders of probes that learned on the target"
    )
    arguments = parser.parse_args()
    exit_with(lambda: run(arguments.probes, arguments.oracle))


def run(probes: Sequence[Path], oracles: Sequence[Path]) -> int:
    """Leave every shift out in turn; print what the rule of the others does there."""
    cases = [case for folder in probes for case in read_cases(folder)]
    shifts = list(dict.fromkeys(case.shift for case in cases))
    if len(shifts) < 3:
        raise ConfigError(f"{len(shifts)} shifts: leaving one out takes at least 3; name more probe folders")
    oracle = {key: value for folder in oracles for key, value in read_oracle(folder)}
    for shift in shifts:
        rule = best_rule([case for case in cases if case.shift != shift])
        here = [case for case in cases if case.shift == shift]
        print(f"\n{shift}: rule of the other shifts: {describe(rule)}\n")
        for line in table(here, rule, oracle):
            print(line)
    print(f"\nrule of all shifts: {describe(best_rule(cases))}; the program's: {describe(RULE)}")
    return 0


def read_cases(folder: Path) -> Iterator[Case]:
    """Those of one probe. Raises ConfigError where it asked for no alignment."""
    inputs = read_json(folder / "summary.json")["inputs"]
    known = inputs.get("alignments")
    if not known:
        raise ConfigError(f"{folder}: tells of no alignment; run `geomae probe` with --align all")
    value: dict[tuple[str, str], dict[str, float]] = defaultdict(dict)
    interval: dict[tuple[str, str], dict[str, str]] = defaultdict(dict)
    for row in read_rows(folder):
        if row["metric"] == METRIC:
            value[row["encoder"], row["test"]][row["align"]] = float(row["value"])
        elif row["metric"] == TO_NONE and row["low"]:
            ends = f"[{float(row['low']):+.3f}, {float(row['high']):+.3f}]"
            interval[row["encoder"], row["test"]][row["align"]] = ends
    for (encoder, test), values in value.items():
        record = known[encoder][test]
        evidence = Evidence.from_record(record)
        yield Case(f"{inputs['train']} -> {test}", test, encoder, values, interval[encoder, test], evidence)


def read_oracle(folder: Path) -> Iterator[tuple[tuple[str, str], float]]:
    """The score by test set and encoder of a probe that learned on the target."""
    for row in read_rows(folder):
        if row["metric"] == METRIC and row["align"] == NONE:
            yield (row["test"], row["encoder"]), float(row["value"])


def read_rows(folder: Path) -> Iterator[dict[str, str]]:
    """The rows of the linear probe that learned from all labels, over all classes and seeds."""
    with (folder / "probe.csv").open(newline="", encoding="utf-8") as file:
        wanted = {"method": "linear", "shots": "all", "class": "all", "seed": ""}
        yield from (row for row in csv.DictReader(file) if all(row[key] == kept for key, kept in wanted.items()))


def by_encoder(cases: Sequence[Case]) -> dict[tuple[str, str], list[Case]]:
    """The cases of each shift and encoder, its seeds together."""
    groups: dict[tuple[str, str], list[Case]] = defaultdict(list)
    for case in cases:
        groups[case.shift, re.sub(r"-s\d+$", "", case.encoder)].append(case)
    return groups


def best_rule(cases: Sequence[Case]) -> Rule:
    """The shyest rule that gains as much as any but for one standard error, of those that lose too much nowhere.

    What gains most would take every risk that happened to pay; of equally shy rules it is the one that gains most.
    """
    rules = [Rule(*values) for values in itertools.product(CANDIDATES, SCORERS, MARGINS)]
    gains = np.array([[np.mean([case.gain(rule) for case in each]) for each in by_encoder(cases).values()]
                      for rule in rules])  # fmt: skip
    mean = np.where(gains.min(1) >= -MOST_LOSS, gains.mean(1).round(6), -np.inf)
    best = int(mean.argmax())
    enough = mean[best] - gains[best].std(ddof=1) / np.sqrt(gains.shape[1])
    near = [number for number in range(len(rules)) if mean[number] >= enough]
    return rules[max(near, key=lambda number: (rules[number].margin, mean[number]))]


def table(cases: Sequence[Case], rule: Rule, oracle: Mapping[tuple[str, str], float]) -> Iterator[str]:
    """A row for each encoder: its score without and behind each alignment, what was chosen, and the oracle."""
    names = list(cases[0].value)
    header = ["encoder", *names, "chosen", "gain", "95 % of each seed", "oracle"]
    yield f"| {' | '.join(header)} |"
    yield "|" + "---|" * len(header)
    for (_, encoder), each in by_encoder(cases).items():
        chosen = [choose(case.evidence, rule).align for case in each]
        cells = [f"{np.mean([case.value[name] for case in each]):.3f}" for name in names]
        gain = np.mean([case.gain(rule) for case in each])
        spans = [case.interval.get(name, "") for case, name in zip(each, chosen, strict=True)]
        best = [oracle[case.test, case.encoder] for case in each if (case.test, case.encoder) in oracle]
        last = f"{np.mean(best):.3f}" if best else ""
        yield f"| {' | '.join([encoder, *cells, ', '.join(chosen), f'{gain:+.3f}', ' '.join(spans).strip(), last])} |"


def describe(rule: Rule) -> str:
    """The parameters that the grid varies."""
    return f"{rule.scorer}, margin {rule.margin:g} (of pairs {rule.margin_paired:g}), of {', '.join(rule.candidates)}"


if __name__ == "__main__":
    main()
