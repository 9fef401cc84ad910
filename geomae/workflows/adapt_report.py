"""The report of an adaptation: before and after, in pictures and tables."""

from collections.abc import Sequence
from pathlib import Path

from geomae import __version__
from geomae.analysis.bootstrap import FEWEST_GROUPS
from geomae.analysis.closing import Figure as Number
from geomae.reports.adapt_figures import Line, adaptation_curve, changes_picture
from geomae.reports.page import Figure, Page, Section, Table, write_page
from geomae.training.evaluate import BASELINES
from geomae.workflows.adapt_errors import ALL, name_of
from geomae.workflows.adapt_outcome import Outcome
from geomae.workflows.adapt_proof import AFTER, BEFORE
from geomae.workflows.analysis_run import AnalysisRun
from geomae.workflows.probe_words import metric_name, scoring
from geomae.workflows.provenance import commit

MEASURES = {
    "mmd2": "squared MMD", "coral": "CORAL distance", "proxy_a_distance": "proxy A-distance",
    "subspace_angle": "subspace angle (degrees)",
}  # fmt: skip


def write_report(run: AnalysisRun, outcome: Outcome, said: str) -> list[Path]:
    """Publish `report.html` and its pictures; returns their paths."""
    pictures = [run.out / "adaptation_curve.png", run.out / "adaptation_errors.png"]
    held = f"{outcome.domains.target.name}-held-out"
    unit = outcome.domains.target.held.record.unit.replace("_", " ")
    curve = f"rmse/model/{held}/mean"
    adaptation_curve(pictures[0], run.folder.history(), curve, outcome.adapted.kept_step, unit=unit)
    lines = [
        Line(one.domain, "mean over bands" if one.band == ALL else one.band, 100 * one.change,
             (100 * one.interval[0], 100 * one.interval[1]) if one.interval else None)
        for one in outcome.changes
    ]  # fmt: skip
    changes_picture(pictures[1], lines, names={one.domain: one.selector for one in outcome.changes})
    sections = [
        _training(outcome, pictures[0]),
        _errors(outcome, pictures[1]),
        *([_gap(outcome)] if outcome.proof.gap else []),
        *(_probe(outcome) if outcome.proof.target else []),
        *([Section("Notes", outcome.domains.notes)] if outcome.domains.notes else []),
    ]
    about = {
        "model": run.asked["model"],
        "weights of the model before": outcome.digest,
        "run that made it": str(outcome.domains.model.provenance.get("mlflow_run") or "unknown"),
        "target": _tiles(outcome, 0),
        "source": _tiles(outcome, 1),
        "catalogue": run.asked["catalog"],
        "seed": str(run.common.seed),
        "geomae": f"{__version__}, commit {commit()}",
    }
    title = f"Adaptation to {outcome.domains.target.name}"
    write_page(run.out / "report.html", Page(title, said, tuple(sections), {k: v for k, v in about.items() if v}))
    return pictures


def _tiles(outcome: Outcome, number: int) -> str:
    if number >= len(outcome.domains.all):
        return ""
    one = outcome.domains.all[number]
    return f"{one.name}: {len(one.training.reader)} tiles to learn from, {len(one.held.reader)} held out"


def _training(outcome: Outcome, picture: Path) -> Section:
    config, adapted = outcome.config, outcome.adapted
    replay = f", of which {config.replay:.0%} took tiles of the source" if config.replay else ""
    text = (
        f"Method {config.method}: {adapted.share.trained:,} parameters learned, {adapted.share.share:.1%} of the "
        f"{adapted.share.total:,} of the model.",
        f"{adapted.steps} of at most {config.steps} steps of {config.batch} tiles{replay}. Kept are the weights after "
        f"step {adapted.kept_step}, the best of the validations; {config.patience} without a new best end it.",
        "No label had a part in it.",
    )
    return Section("How it was adapted", text, (Figure(picture, "Held-out tiles of the target, hidden valid pixels."),))


def _errors(outcome: Outcome, picture: Path) -> Section:
    header = ["band", "before", "after", "change, %", "95 %", "groups that fell", *(name_of(one) for one in BASELINES)]
    tables = [
        Table(_caption(outcome, domain), header, [
            ["mean over bands" if one.band == ALL else one.band, one.before, one.after, 100 * one.change,
             _percent(one.interval), one.n_better, *(one.baselines[name] for name in BASELINES)]
            for one in outcome.changes if one.domain == domain
        ])
        for domain in dict.fromkeys(one.domain for one in outcome.changes)
    ]  # fmt: skip
    text = (
        "RMSE of hidden valid pixels on tiles that were held out of the adaptation, under masks that are the same for "
        "both models. The step that is kept was chosen on these tiles of the target, which flatters it a little. The "
        "source's tiles may have been seen when the model was pretrained. The baselines take no training: mean of the "
        "visible pixels of a tile, of its nearest visible patch, and interpolation by distance.",
        f"Intervals (95 %) are of the change, over resampled groups; with fewer than {FEWEST_GROUPS} there is none.",
    )
    return Section(
        "Reconstruction",
        text,
        (Figure(picture, "Left of zero the error fell."), *tables),
    )


def _caption(outcome: Outcome, domain: str) -> str:
    one = outcome.error(domain)
    assert one is not None
    return (
        f"{domain}, {one.selector}: RMSE in {one.unit.replace('_', ' ')}, {one.n_tiles} tiles in {one.n_groups} groups"
    )


def _gap(outcome: Outcome) -> Section:
    before, after = ({row.measure: row for row in outcome.proof.gap[model]} for model in (BEFORE, AFTER))
    rows = [
        [
            MEASURES.get(name, name), before[name].value, after[name].value, before[name].null_value,
            after[name].null_value, before[name].p_holm, after[name].p_holm,
        ]
        for name in before
        if name in after
    ]  # fmt: skip
    text = (
        "How far the embeddings of source and target are apart. Beside each figure stands its median between random "
        "halves of the source, which is what no gap looks like; p-values permute groups, with Holm's correction.",
        "A smaller gap is no proof that anything became easier: a model that forgets differences closes it too.",
    )
    header = [
        "measure", "before", "after", "halves of the source, before", "halves of the source, after", "p before",
        "p after",
    ]  # fmt: skip
    return Section("Gap", text, (Table("Source against target", header, rows),))


def _probe(outcome: Outcome) -> Sequence[Section]:
    problem, proof = outcome.plan.problem, outcome.proof
    assert problem is not None
    (test,) = problem.tests
    name = metric_name(proof.metric)
    spelled = {
        "before": "before", "after": "after", "change": "after - before",
        "oracle": f"oracle: learned from other groups of {test.name}, before",
        "share_closed": "share of the gap closed: (after - before) / (oracle - before)",
    }  # fmt: skip
    asked = f"Learned from {problem.train.name}, asked on {test.name}"
    home = f"Forgetting: learned from and asked on {problem.train.name}, each group by a probe without it"
    tables = [
        Table(
            caption,
            ["", name, "95 %"],
            [[spelled.get(key, key), one.value, _interval(one)] for key, one in rows.items()],
        )
        for caption, rows in ((asked, proof.target), (home, proof.source))
        if rows
    ]
    text = (
        "Linear probes of frozen embeddings. Labels of the target take part in scoring and in the oracle alone.",
        *scoring(problem),
    )
    return [Section("What labels say", text, tuple(tables))]


def _percent(interval: tuple[float, float] | None) -> str:
    return "" if interval is None else f"[{100 * interval[0]:+.1f},\N{NO-BREAK SPACE}{100 * interval[1]:+.1f}]"


def _interval(figure: Number) -> str:
    low_high = figure.interval
    return "" if low_high is None else f"[{low_high[0]:.3f},\N{NO-BREAK SPACE}{low_high[1]:.3f}]"
