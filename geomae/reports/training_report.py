"""The report of a pretraining, with curves by step: losses, effective rank, and errors on hidden pixels."""

import textwrap
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from matplotlib.figure import Figure as Canvas

from geomae.reports.canvas import FloatArray, add_axes, save
from geomae.reports.figures import BLUE, ORANGE, plain_unit
from geomae.reports.page import About, Cell, Figure, Page, Section, Table, write_page
from geomae.training.validation import BASELINES, MODEL, ValidationScores

AXIS_LETTERS = 38  # of a line beside the axis of the losses, so that it does not stick out above or below
LOSS, RANK, PROBE = "train/loss", "train/effective_rank", "probe/"  # names in the history
Rows = Sequence[Mapping[str, Any]]


def loss_curve(
    path: Path,
    rows: Sequence[Mapping[str, Any]],
    *,
    training: str = "train_loss",
    validation: str = "val_loss",
    what: str = "mean squared error of the target",
) -> None:
    """Publish a picture (PNG) of training and validation loss; each row has `step` and at least one of them.

    `what` describes the loss on the axis.
    """
    figure = Canvas(figsize=(7, 4.2))
    axes = add_axes(figure, 1.05, 0.3, 5.65, 3.3)
    step, loss = _series(rows, training)
    crowded = loss.size > 50
    axes.plot(step, loss, color=BLUE, linewidth=0.8 if crowded else 1.5, alpha=0.35 if crowded else 1, label="training")
    if crowded:
        width = max(5, loss.size // 40)
        smooth = np.convolve(loss, np.ones(width) / width, mode="valid")
        middle = step[width // 2 : width // 2 + smooth.size]
        axes.plot(middle, smooth, color=BLUE, linewidth=1.8, label=f"training, mean of {width}")
    step, loss = _series(rows, validation)
    axes.plot(step, loss, color=ORANGE, linewidth=1.8, marker="o", markersize=4, label="validation")
    axes.set_xlabel("step")
    axes.set_ylabel(textwrap.fill(f"loss ({what})", AXIS_LETTERS))
    axes.grid(alpha=0.3)
    axes.margins(x=0.02)
    axes.legend(frameon=False, fontsize=9)
    axes.spines[["top", "right"]].set_visible(False)
    save(figure, path)


def step_curve(path: Path, rows: Sequence[Mapping[str, Any]], name: str, label: str) -> None:
    """Publish a picture (PNG) of the metric `name` against the step; its axis has the title `label` and starts at 0."""
    figure = Canvas(figsize=(7, 3.4))
    axes = add_axes(figure, 0.8, 0.3, 5.9, 2.5)
    axes.plot(*_series(rows, name), color=BLUE, linewidth=1.5, marker="o", markersize=3)
    axes.set_xlabel("step")
    axes.set_ylabel(label)
    axes.set_ylim(bottom=0)
    axes.grid(alpha=0.3)
    axes.margins(x=0.02)
    axes.spines[["top", "right"]].set_visible(False)
    save(figure, path)


@dataclass(frozen=True)
class Learned:
    """The results of a training: metrics by step, the last scores of each validation data set, and pictures of tiles.

    `training` and `validation` name two comparable losses in `history`, and `what` describes them. `hidden` is the
    fraction of a tile that is masked. `longer` says how to train longer; see `suggest_steps`.
    """

    name: str
    history: Rows
    scores: Mapping[str, ValidationScores]
    units: Mapping[str, str]
    training: str
    validation: str
    what: str
    hidden: float
    loss: Path
    panels: Sequence[Path]
    notes: Sequence[str]
    longer: str


def write_training_page(folder: Path, learned: Learned, about: About, following: str) -> Path:
    """Publish `report.html`, with the picture of the effective rank beside that of the losses. Returns its path.

    `following` is a suggested next command.
    """
    answer = [
        summarize_validation(name, one, learned.units[name], learned.longer) for name, one in learned.scores.items()
    ]
    sections = [_losses(learned)]
    if ranks := _values(learned.history, RANK):
        answer.append(summarize_rank(ranks))
        sections.append(_rank(learned, ranks))
    sections += [*_hidden_pixels(learned), *_probe(learned), _method(learned)]
    path = folder / "report.html"
    write_page(path, Page(f"Pretraining on {learned.name}", " ".join(answer), tuple(sections), about, following))
    return path


def suggest_steps(steps: int, seconds: float | None) -> str:
    """Return the option that trains four times as long as `steps`, and the time for it if a step takes `seconds`."""
    more = 4 * steps
    text = f"--set steps={more}, four times as many, "
    if seconds is None:
        return f"{text}may do"
    minutes = round(more * seconds / 60)
    if minutes < 1:
        return f"{text}takes less than a minute at this speed"
    count, unit = (round(minutes / 60), "hour") if minutes >= 100 else (minutes, "minute")
    return f"{text}takes about {count:,} {unit}{'s' * (count != 1)} at this speed"


def summarize_validation(name: str, scores: ValidationScores, unit: str, longer: str) -> str:
    """Return a sentence: the error on hidden pixels, compared with the best baseline; without errors, the loss.

    Where the model is worse than that, the remedy follows: `longer`, of `suggest_steps`.
    """
    if not scores.rmse:
        return f"The loss on {name} is {scores.loss:.3g} after the last step, over {scores.tiles} tiles."
    best = min(BASELINES, key=scores.mean)
    own, other = scores.mean(MODEL), scores.mean(best)
    side = "lower than" if own < other else "higher than" if own > other else "equal to"
    text = (
        f"RMSE on hidden pixels of {name} is {own:.3g} {plain_unit(unit)}, mean over bands, {side} that of {best} "
        f"({other:.3g}), the best of the baselines."
    )
    if own > other:
        text += (
            " The model is worse than a method that learns nothing: the training was too short, or hidden pixels can "
            f"hardly be told from visible ones. Train longer ({longer}), and run geomae probe to see whether the "
            "embeddings are useful."
        )
    return text


def summarize_rank(ranks: Sequence[float]) -> str:
    """Return a sentence: the effective rank of the embeddings at the last and at the first logged step."""
    begun = f" ({ranks[0]:.3g} at the first logged step)" if len(ranks) > 1 else ""
    return f"The embeddings of the tiles of a step have an effective rank of {ranks[-1]:.3g} at the end{begun}."


def _series(rows: Sequence[Mapping[str, Any]], name: str) -> tuple[FloatArray, FloatArray]:
    """Return steps and values of the metric `name`, where it is finite."""
    pairs = [(row["step"], row[name]) for row in rows if row.get(name) is not None and np.isfinite(row[name])]
    steps, values = np.array(pairs, dtype=np.float64).reshape(-1, 2).T
    return steps, values


def _values(history: Rows, name: str) -> list[float]:
    return [float(row[name]) for row in history if row.get(name) is not None]


def _losses(learned: Learned) -> Section:
    if learned.training == LOSS:
        parts = _ends("training loss", learned.history, LOSS)
    else:  # the loss that the terminal shows is that of all terms
        term = learned.training.rpartition("/")[2]
        parts = _ends("training loss that is shown during training, the sum of all terms,", learned.history, LOSS)
        parts.append(f"Validation scores the term {term} alone, so the picture compares this term.")
        parts += _ends(f"term {term} of the training loss", learned.history, learned.training)
    parts += _ends("validation loss", learned.history, learned.validation)
    caption = f"Losses by step, {learned.what}. Validation uses the same tiles and masks at every step."
    return Section("Losses", (" ".join(parts),), (Figure(learned.loss, caption),))


def _ends(what: str, history: Rows, name: str) -> list[str]:
    """A sentence on the first and the last value of a metric; none if it was never logged."""
    values = _values(history, name)
    begun = f"; its first logged value was {values[0]:.3g}" if len(values) > 1 else ""
    return [f"The {what} ends at {values[-1]:.3g}{begun}."] if values else []


def _rank(learned: Learned, ranks: Sequence[float]) -> Section:
    picture = learned.loss.with_name("effective_rank.png")
    step_curve(picture, learned.history, RANK, "effective rank")
    text = (
        f"{summarize_rank(ranks)} It equals the number of dimensions when all have the same variance, and 1 when one "
        "has all the variance. Near 1, the embeddings of all tiles are nearly equal (collapse) and tell nothing."
    )
    return Section("Effective rank", (text,), (Figure(picture, "Effective rank of a step's embeddings, by step."),))


def _hidden_pixels(learned: Learned) -> list[Section]:
    tables = []
    for name, one in learned.scores.items():
        if one.rmse:
            rows: list[list[Cell]] = [
                [band, *(values[c] for values in one.rmse.values())] for c, band in enumerate(one.bands)
            ]
            rows.append(["mean over bands", *(one.mean(of) for of in one.rmse)])
            caption = f"RMSE on hidden valid pixels of {name} ({plain_unit(learned.units[name])}), {one.tiles:,} tiles"
            tables.append(Table(caption, ["band", *one.rmse], rows))
    if not tables:
        return []
    text = (
        "The baselines fill hidden pixels from visible ones of the same tile, without learning: with their mean, with "
        "the nearest visible patch, and with all visible patches weighted by distance. A model that is no better than "
        "the best baseline has learned nothing from other tiles yet."
    )
    caption = "Held-out tiles: the tile, its visible part, and the reconstruction of its hidden part."
    return [Section("Hidden pixels", (text,), (*tables, *(Figure(one, caption) for one in learned.panels)))]


def _probe(learned: Learned) -> list[Section]:
    rows = [row for row in learned.history if any(name.startswith(PROBE) for name in row)]
    if not rows:
        return []
    names = [name for name in rows[0] if name.startswith(PROBE)]
    table = Table(
        "Scores by step", ["step", *(name.removeprefix(PROBE) for name in names)],
        [[row["step"], *(row.get(name) for name in names)] for row in rows],
    )  # fmt: skip
    return [Section("Probe", ("A kNN probe of the embeddings; step 0 is the untrained encoder.",), (table,))]


def _method(learned: Learned) -> Section:
    held = ", ".join(f"{one.tiles:,} tiles of {name}" for name, one in learned.scores.items())
    text = (
        f"Validation uses {held}, each under the same mask at every step. {learned.hidden:.0%} of a tile is hidden, "
        "and only hidden valid pixels are scored. Held-out tiles were not used for training."
    )
    return Section("How it was measured", (text, *learned.notes))
