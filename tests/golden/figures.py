"""Figures that commands find, and how far they may be from those on record.

Three kinds of figures, each with a tolerance of its own:

measured   losses, errors, distances, shares of variance: they follow the weights smoothly
score      of a classifier on few tiles: one tile that lies on the border moves it, its intervals and what derives from
           it by a step, so a few rows may differ, and no score by more than some tiles
p          of a permutation test: the permutations are drawn by the seed, so a close one moves it by a step of 1 / 2000
"""

import csv
import json
import math
from pathlib import Path
from typing import Any

import pytest
from frozen import HERE
from helpers import losses

FIGURES = ("embed-pca", "probe", "compare-recon", "gap", "adapt")
LOSS = 1e-3  # relative; the plainest kernels of one CPU instead of its best move a loss by 8e-5, a measure by 3e-3
MEASURED = 2e-2  # relative, or of the largest of its kind: a bias near 0 has no relative precision of its own
P, P_HOLM = 0.005, 0.1  # absolute: ten permutations; Holm multiplies by up to 34 tests
SCORES_THAT_MAY_MOVE = 0.05  # share of the rows of scores, and at least two: a score and what it changed by
SCORE = 0.25  # absolute: one tile of a class of four
Rows = dict[str, Any]


def losses_of(folder: Path) -> Rows:
    """The loss of each step of a training, by the name of its folder."""
    return {f"{folder.name} | step {step} loss": _short(loss) for step, loss in losses(folder).items()}


def read_figures(folder: Path, command: str) -> Rows:
    """The key figures of a command as `name: value`; the kind is the name's last word."""
    match command:
        case "embed-pca":
            metrics = json.loads((folder / "summary.json").read_text(encoding="utf-8"))["metrics"]
            found = {
                f"{name} measured": value for name, value in metrics.items() if name not in ("seconds", "tiles_per_s")
            }
        case "probe":
            rows = [row for row in _csv(folder / "probe.csv") if row["class"] == row["shots"] == "all"]
            rows = [row for row in rows if not row["metric"].startswith("difference")]
            found = _interval(rows, ("encoder", "test", "align", "method", "metric"), "score")
        case "compare-recon":
            rows = [row for row in _csv(folder / "reconstruction.csv") if row["band"] == "all"]
            found = _interval(rows, ("model", "dataset", "pixels", "metric"), "measured")
        case "gap":
            found = _gap(json.loads((folder / "gap.json").read_text(encoding="utf-8"))["rows"])
        case _:
            found = _adaptation(json.loads((folder / "adaptation.json").read_text(encoding="utf-8")))
    return {name: _short(value) for name, value in found.items()}


def check_figures(name: str, found: Rows, rewrite: bool) -> None:
    """Compare figures with the file `name`, or write it."""
    path = HERE / name
    if rewrite:
        path.write_text(json.dumps(found, indent=1) + "\n", encoding="utf-8")
        return
    wrong = differences(json.loads(path.read_text(encoding="utf-8")), found)
    if wrong:
        remedy = "if this is meant, run `pytest tests/golden --rewrite-golden` and commit"
        pytest.fail("\n".join([f"{name}: {len(wrong)} figures moved", *wrong[:30], f"{remedy} {name}"]), pytrace=False)


def differences(old: Rows, new: Rows) -> list[str]:
    """What is there no more, what is new, and what moved by more than it may."""
    wrong = [f"gone: {name}" for name in old if name not in new] + [f"new: {name}" for name in new if name not in old]
    moved = {name: (old[name], new[name]) for name in old if name in new and not _near(name, old[name], new[name], old)}
    scores = [name for name in old if name.endswith(" score")]
    few = [name for name in moved if name.endswith(" score") and _differ(*moved[name]) <= SCORE]
    if len(few) <= max(2, SCORES_THAT_MAY_MOVE * len(scores)):
        moved = {name: pair for name, pair in moved.items() if name not in few}
    return wrong + [f"{name}: {before} is now {after}" for name, (before, after) in moved.items()]


def _near(name: str, old: Any, new: Any, all_old: Rows) -> bool:
    if old is None or new is None or isinstance(old, str):
        return old == new
    match name.rpartition(" ")[2]:
        case "p":
            return abs(old - new) <= P
        case "p_holm":
            return abs(old - new) <= P_HOLM
        case "loss":
            return math.isclose(old, new, rel_tol=LOSS)
        case "score":
            return math.isclose(old, new, abs_tol=1e-6)
    scale = max((abs(value) for other, value in all_old.items() if _alike(name, other) and _number(value)), default=0)
    return math.isclose(old, new, rel_tol=MEASURED, abs_tol=MEASURED * scale)


def _alike(name: str, other: str) -> bool:
    """Whether two figures are of the same thing in the same unit, as the bias of a model in two bands."""
    parts = [one.split(" | ") for one in (name, other)]
    return parts[0][0] == parts[1][0] and parts[0][-1] == parts[1][-1]


def _number(value: Any) -> bool:
    return isinstance(value, (int, float))


def _differ(old: Any, new: Any) -> float:
    return abs(old - new) if _number(old) and _number(new) else math.inf


def _csv(path: Path) -> list[dict[str, str]]:
    with path.open(newline="", encoding="utf-8") as file:
        return list(csv.DictReader(file))


def _interval(rows: list[dict[str, str]], names: tuple[str, ...], kind: str) -> Rows:
    found = {}
    for row in rows:
        for bound in ("value", "low", "high"):
            found[f"{' | '.join(row[name] for name in names)} {bound} {kind}"] = (
                float(row[bound]) if row[bound] else None
            )
    return found


def _gap(rows: list[dict[str, Any]], prefix: str = "") -> Rows:
    found = {}
    for row in rows:
        name = f"{prefix}{row.get('encoder', '')} | {row['band']} | {row['measure']}"
        found |= {f"{name} {key} measured": row[key] for key in ("value", "null_value")}
        found |= {f"{name} {key}": row[key] for key in ("p", "p_holm")}
    return found


def _adaptation(found: dict[str, Any]) -> Rows:
    figures = {f"steps | {name} measured": value for name, value in found["steps"].items()}
    figures |= {f"parameters | {name} measured": value for name, value in found["parameters"].items()}
    for row in found["reconstruction"]:
        for key in ("before", "after", "change"):
            figures[f"{row['domain']} | {row['band']} | {key} measured"] = row[key]
    for when in ("before", "after"):
        figures |= _gap(found["gap"][when], f"{when} | ")
    for domain in ("target", "source"):
        for key, score in found["probe"][domain].items():
            figures[f"{domain} | {key} score"] = score["value"]
    return figures


def _short(value: Any) -> Any:
    """Seven digits say all that float32 knows; what is not a number is written as text."""
    if isinstance(value, float):
        return float(f"{value:.7g}") if math.isfinite(value) else str(value)
    return value
