"""The report of an adaptation: before and after, in sentences, pictures and tables."""

from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from geomae import __version__
from geomae.commands.probe_report import describe_scoring, metric_name
from geomae.commands.run import AnalysisRun, commit
from geomae.config import AdaptConfig
from geomae.evaluation.before_after import AFTER, ALL, BEFORE, BeforeAfter, BeforeAfterPlan, Change, name_of
from geomae.evaluation.gap_recovery import Estimate
from geomae.evaluation.gap_recovery import Estimate as Number
from geomae.metrics.intervals import FEWEST_GROUPS
from geomae.reports.domain_figures import Line, adaptation_curve, changes_picture
from geomae.reports.page import Figure, Page, Section, Table, write_page
from geomae.training.adaptation import AdaptationDomains, Adapted
from geomae.training.validation import BASELINES


@dataclass(frozen=True)
class AdaptationResult:
    """All that is known at the end; `digest` names the weights of the model before."""

    config: AdaptConfig
    domains: AdaptationDomains
    plan: BeforeAfterPlan
    adapted: Adapted
    changes: list[Change]
    proof: BeforeAfter
    digest: str

    def error(self, domain: str) -> Change | None:
        """The change of the reconstruction error of `target` or `source`, as the mean over bands."""
        return next((one for one in self.changes if (one.domain, one.band) == (domain, ALL)), None)


def to_json(outcome: AdaptationResult) -> dict[str, Any]:
    """adaptation.json without its verdict; what is unknown is null."""
    adapted, proof = outcome.adapted, outcome.proof
    return {
        "model_digest": outcome.digest,
        "method": outcome.config.method,
        "parameters": {
            "trained": adapted.share.trained, "total": adapted.share.total, "share": adapted.share.share,
        },
        "steps": {"kept": adapted.kept_step, "trained": adapted.steps},
        "reconstruction": [asdict(one) for one in outcome.changes],
        "gap": {model: [asdict(one) for one in rows] for model, rows in proof.gap.items()},
        "probe": {
            "metric": proof.metric, "target": _rows(proof.target), "source": _rows(proof.source),
        } if proof.target else None,
        "notes": list(outcome.domains.notes),
    }  # fmt: skip


def figures(outcome: AdaptationResult) -> dict[str, float]:
    """Every figure by name, for the summary and MLflow."""
    found: dict[str, float] = {
        "parameters/trained": outcome.adapted.share.trained,
        "parameters/share": outcome.adapted.share.share,
        "steps/kept": outcome.adapted.kept_step,
        "steps/trained": outcome.adapted.steps,
    }
    for one in outcome.changes:
        name = f"{one.domain}/{one.band}"
        found |= {f"rmse_before/{name}": one.before, f"rmse_after/{name}": one.after, f"rmse_change/{name}": one.change}
        if one.interval is not None:
            found |= {f"rmse_change/{name}/low": one.interval[0], f"rmse_change/{name}/high": one.interval[1]}
    for model, rows in outcome.proof.gap.items():
        found |= {f"gap/{row.measure}/{model}": row.value for row in rows}
    for domain, rows_ in (("target", outcome.proof.target), ("source", outcome.proof.source)):
        for name, figure in rows_.items():
            place = f"probe/{domain}/{name.replace(':', '-')}"
            found[place] = figure.value
            if figure.interval is not None:
                found |= {f"{place}/low": figure.interval[0], f"{place}/high": figure.interval[1]}
    return {name: value for name, value in found.items() if value == value}


def _rows(figures: Mapping[str, Estimate]) -> dict[str, Any]:
    return {
        name: {"value": one.value if one.value == one.value else None, "interval": one.interval}
        for name, one in figures.items()
    }


def summarize_adaptation(outcome: AdaptationResult) -> str:
    """One sentence: the target's labels where there are any, else its reconstruction; then what it cost the source."""
    target, source = outcome.error("target"), outcome.error("source")
    assert target is not None
    parts = [_reconstruction(target)]
    if outcome.adapted.kept_step == 0:
        parts = [
            f"The model was left as it was: no validation was better than the start on held-out tiles of "
            f"{target.selector} in {outcome.adapted.steps} steps"
        ]
    if source is not None and outcome.adapted.kept_step:
        parts.append(f"on {source.selector} it {_moved(source)}{_span(source.interval, 100, ' %')}")
    if outcome.proof.target:
        parts.append(_labels(outcome))
    return "; ".join(parts) + "."


def _reconstruction(target: Change) -> str:
    """What became of the error on the target, and how far the held-out groups carry it."""
    what = (
        f"The reconstruction error on held-out tiles of {target.selector} {_moved(target)}"
        f"{_span(target.interval, 100, ' %')}"
    )
    if target.interval is None:
        sure = f"in {target.n_better} of {target.n_groups} groups it fell, which are too few for an interval"
    elif target.interval[1] < 0:
        sure = "which is more than chance"
    elif target.interval[0] > 0:
        sure = "which is worse, and not by chance"
    else:
        sure = "which the data cannot tell from none"
    return f"{what}, {sure}"


def _labels(outcome: AdaptationResult) -> str:
    """What a probe of the source's labels makes of the target."""
    probe, problem = outcome.proof.target, outcome.plan.problem
    assert problem is not None
    (test,) = problem.tests
    change = probe["change"]
    helped = "rose" if change.value > 0 else "fell" if change.value < 0 else "stayed"
    sure = (
        f"which {problem.truths[test.name].groups} groups are too few to tell from chance (it takes {FEWEST_GROUPS})"
        if change.interval is None
        else "which the data cannot tell from none"
        if change.interval[0] <= 0 <= change.interval[1]
        else "which is more than chance"
    )
    return (
        f"a probe of {problem.train.name} {helped} on {test.name} from {probe['before'].value:.3f} to "
        f"{probe['after'].value:.3f} {metric_name(outcome.proof.metric)}"
        f"{_span(change.interval, 1, '')}, {sure}{_closed(probe)}"
    )


def _closed(probe: dict[str, Estimate]) -> str:
    share = probe.get("share_closed")
    if share is None:
        return ""
    oracle = f"a probe of the target itself ({probe['oracle'].value:.3f})"
    if share.value != share.value:
        return f"; {oracle} is hardly better than before, so there is no gap to close"
    if share.value <= 0:
        return f", no step towards {oracle}"
    return f", {share.value:.0%} of the way to {oracle}"


def _moved(change: Change) -> str:
    way = "fell" if change.change < 0 else "rose"
    return f"{way} by {abs(change.change) * 100:.1f} % ({change.before:.4g} to {change.after:.4g})"


def _span(interval: tuple[float, float] | None, factor: float, unit: str) -> str:
    if interval is None:
        return ""
    digits = 1 if factor == 100 else 3
    return f" [{interval[0] * factor:+.{digits}f}, {interval[1] * factor:+.{digits}f}]{unit}"


MEASURES = {
    "mmd2": "squared MMD", "coral": "CORAL distance", "proxy_a_distance": "proxy A-distance",
    "subspace_angle": "subspace angle (degrees)",
}  # fmt: skip


def write_report(run: AnalysisRun, outcome: AdaptationResult, said: str) -> list[Path]:
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


def _tiles(outcome: AdaptationResult, number: int) -> str:
    if number >= len(outcome.domains.all):
        return ""
    one = outcome.domains.all[number]
    return f"{one.name}: {len(one.training.reader)} tiles to learn from, {len(one.held.reader)} held out"


def _training(outcome: AdaptationResult, picture: Path) -> Section:
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


def _errors(outcome: AdaptationResult, picture: Path) -> Section:
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


def _caption(outcome: AdaptationResult, domain: str) -> str:
    one = outcome.error(domain)
    assert one is not None
    return (
        f"{domain}, {one.selector}: RMSE in {one.unit.replace('_', ' ')}, {one.n_tiles} tiles in {one.n_groups} groups"
    )


def _gap(outcome: AdaptationResult) -> Section:
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


def _probe(outcome: AdaptationResult) -> Sequence[Section]:
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
        *describe_scoring(problem),
    )
    return [Section("What labels say", text, tuple(tables))]


def _percent(interval: tuple[float, float] | None) -> str:
    return "" if interval is None else f"[{100 * interval[0]:+.1f},\N{NO-BREAK SPACE}{100 * interval[1]:+.1f}]"


def _interval(figure: Number) -> str:
    low_high = figure.interval
    return "" if low_high is None else f"[{low_high[0]:.3f},\N{NO-BREAK SPACE}{low_high[1]:.3f}]"
