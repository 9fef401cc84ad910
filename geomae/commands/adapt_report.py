"""What `geomae adapt` leaves: the models, figures, sentences, and the report of before and after."""

import shutil
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from geomae import __version__
from geomae.commands.run import OPENING_S, AnalysisRun
from geomae.commands.session import Session
from geomae.config import AdaptConfig
from geomae.evaluation.adaptation_effect import AdaptationResult, BeforeAfter, BeforeAfterPlan, ErrorChange
from geomae.evaluation.adaptation_probe import AFTER, BEFORE
from geomae.evaluation.proposal import Answer
from geomae.files import write_json
from geomae.metrics.predictions import ALL, FEWEST_GROUPS
from geomae.models.trainable_weights import Share
from geomae.reports.adaptation_tables import (
    print_probe,
    probe_figures,
    probe_json,
    probe_sections,
    proposal_sections,
    span,
    summarize_labels,
)
from geomae.reports.page import About, Figure, Page, Section, Table, link_run, write_page
from geomae.tiles.radiometry import Radiometry
from geomae.tracking import commit
from geomae.training.adaptation import AdaptationDomains, AdaptedModel, adapted_provenance
from geomae.training.loop import Event
from geomae.training.starts import Start
from geomae.training.validation import BASELINES

DISTANCE_TITLES = {
    "mmd2": "squared MMD", "coral": "CORAL distance", "proxy_a_distance": "proxy A-distance",
    "subspace_angle": "subspace angle (degrees)",
}  # fmt: skip


@dataclass(frozen=True)
class Work:
    """An adaptation at work. `before` is the encoder text of the model as it began (see `save_begun`)."""

    run_: AnalysisRun
    session: Session
    config: AdaptConfig
    domains: AdaptationDomains
    plan: BeforeAfterPlan
    model: Start
    before: str


def describe_dry_run(
    session: Session, domains: AdaptationDomains, config: AdaptConfig, share: Share, asks: bool
) -> None:
    """What a dry run prints."""
    if asks:
        session.screen.result("what differs is measured first, and may decide for less, or for --method full:")
    for one in domains.all:
        bands = ", ".join(band.name for band in one.training.record.bands)
        session.screen.result(
            f"{one.name}: {len(one.training.reader)} tiles to learn from, {len(one.held.reader)} held out ({bands})"
        )
    session.screen.result(
        f"{config.method}: {share.trained:,} of {share.total:,} parameters learn ({share.share:.1%}); {config.steps} "
        f"steps of {config.batch} tiles on {session.fabric.device.type} in {session.precision}, "
        f"seed {session.common.seed}"
    )
    for note in domains.notes:
        session.screen.result(note)


def model_tags(model: Start) -> dict[str, str]:
    """The tag that names the run that made a model, where it is known."""
    made_by = model.provenance.get("mlflow_run")
    return {"geomae.model_run": made_by} if made_by else {}


def log_event(run_: AnalysisRun, config: AdaptConfig, event: Event) -> None:
    """Note the figures that the training loop reports, in the run's history and in MLflow, and show how far it is."""
    figures = {f"train/{name}": value for name, value in (event.figures or {}).items()}
    for name, scores in (event.scores or {}).items():
        figures |= scores.metrics(name)
    if figures:
        run_.folder.log(event.step, figures)
        run_.tracker.log_metrics(figures, event.step)
    if event.figures is not None:
        run_.step("adapting", event.step, config.steps, f"loss {event.figures['loss']:.4f}")


def save_adapted(work: Work, adapted: AdaptedModel, radiometry: Radiometry | None) -> None:
    """Publish the model folder; what the target's tiles were read through stands in it as `radiometry/`."""
    run_, domains = work.run_, work.domains
    provenance = {
        "command": "adapt",
        "code_version": __version__,
        "catalogue_digest": work.session.catalog.digest(sorted({one.selected.index.name for one in domains.all})),
        "mlflow_run": run_.tracker.wait_run_id(OPENING_S),
        "seed": run_.common.seed,
        **adapted_provenance(work.config, domains, adapted, work.model.digest),
    }
    save_model(run_, adapted.model, provenance)
    if radiometry is not None:
        radiometry.save(run_.folder.model / "radiometry")


def save_model(run_: AnalysisRun, model: Start, provenance: dict[str, Any]) -> None:
    """Publish the model folder, in the place of what a run left that was killed behind this point."""
    if run_.folder.model.exists():
        shutil.rmtree(run_.folder.model)
    model.save(run_.folder.model, provenance)


def save_begun(run_: AnalysisRun, model: Start, named: str, domains: AdaptationDomains) -> str:
    """The encoder text of the model as it began; a folder beside the run, where it was given statistics of new sensors.

    Else the embeddings before and after would differ by these, too.
    """
    begun = domains.model
    if begun.same_embeddings(model):
        return named
    if not (run_.out / BEFORE).exists():
        begun.save(run_.out / BEFORE, begun.provenance)
    return begun.reference(run_.out / BEFORE)


def write_results(run_: AnalysisRun, result: AdaptationResult, register: str | None, answer: Answer | None) -> None:
    """Publish figures, report, summary, and the model in MLflow; the same figures for people."""
    summary = summarize_adaptation(result)
    proposal = answer.proposal.record() if answer else None
    write_json(run_.out / "adaptation.json", to_json(result) | {"proposal": proposal, "verdict": summary})
    pictures = write_report(run_, result, summary, answer)
    run_.tracker.log_artifacts(run_.folder.model, "model")
    if register:
        run_.tracker.register_model(register)
    files = [run_.out / "adaptation.json", run_.out / "report.html", *pictures]
    inputs = {"notes": list(result.domains.notes), "model_run": result.domains.model.provenance.get("mlflow_run")}
    run_.finish(flat_figures(result), inputs, files)
    run_.screen.close()
    print_results(run_, result)
    run_.screen.result(summary)
    run_.screen.result(f"model: {run_.folder.model}")
    run_.screen.result(f"report: {run_.out / 'report.html'}")


def write_untrained(work: Work, answer: Answer, measured: BeforeAfter, register: str | None) -> None:
    """Publish what differs, what is proposed and what labels say, where no weight was changed."""
    run_, proposal, task, notes = work.run_, answer.proposal, work.plan.task, work.domains.notes
    summary = f"{proposal.text} No weight was changed; `--method lora` trains anyway."
    if task is not None:
        said = summarize_labels(task, measured)
        summary = f"{summary} {said[0].upper()}{said[1:]}."
    found = {
        "model_digest": work.model.digest, "method": None, "parameters": None, "steps": None, "held_out_loss": None,
        "reconstruction": [], "gap": measured.gap_json(), "probe": probe_json(measured), "notes": list(notes),
        "proposal": proposal.record(), "verdict": summary,
    }  # fmt: skip
    write_json(run_.out / "adaptation.json", found)
    noted = [Section("Notes of a training, which was not done", notes)] if notes else []
    sections = [*proposal_sections(answer), *probe_sections(task, measured), *noted]
    about = describe_origin(run_, work.domains, work.model.digest)
    title = f"Adaptation to {work.domains.target.name}"
    write_page(run_.out / "report.html", Page(title, summary, tuple(sections), about))
    run_.tracker.log_artifacts(run_.folder.model, "model")
    if register:
        run_.tracker.register_model(register)
    inputs = {"notes": list(notes), "model_run": work.domains.model.provenance.get("mlflow_run")}
    files = [run_.out / "adaptation.json", run_.out / "report.html", run_.out / "probes"]
    figures = {name: value for name, value in probe_figures(measured).items() if value == value}
    run_.finish(figures, inputs, files)
    print_probe(measured, run_.screen.result)
    run_.screen.result(summary)
    run_.screen.result(f"model: {run_.folder.model}")
    run_.screen.result(f"probe: {run_.out / 'probes' / BEFORE}")
    run_.screen.result(f"report: {run_.out / 'report.html'}")


def print_results(run_: AnalysisRun, result: AdaptationResult) -> None:
    """The figures that the command prints."""
    share = result.adapted.share
    run_.screen.result(
        f"{result.config.method}: {share.trained:,} of {share.total:,} parameters learned ({share.share:.1%}); step "
        f"{result.adapted.kept_step} of {result.adapted.steps} is kept"
    )
    rows = [
        [one.domain, f"{one.before:.4g}", f"{one.after:.4g}", f"{100 * one.change:+.1f}",
         *(f"{one.baselines[name]:.4g}" for name in BASELINES)]
        for one in result.changes
        if one.band == ALL
    ]  # fmt: skip
    header = ["", "before", "after", "%", *map(baseline_title, BASELINES)]
    if rows:
        run_.screen.table("RMSE on held-out tiles, mean over bands", header, rows)
    run_.screen.result(result.loss.text)
    print_probe(result.before_after, run_.screen.result)


def baseline_title(baseline: str) -> str:
    """A baseline's name in a narrow column."""
    return baseline.removeprefix("baseline:")


def to_json(result: AdaptationResult) -> dict[str, Any]:
    """adaptation.json without its `verdict`; what is unknown is null."""
    adapted, measured = result.adapted, result.before_after
    return {
        "model_digest": result.digest,
        "method": result.config.method,
        "parameters": {
            "trained": adapted.share.trained, "total": adapted.share.total, "share": adapted.share.share,
        },
        "steps": {"kept": adapted.kept_step, "trained": adapted.steps},
        "held_out_loss": asdict(result.loss),
        "reconstruction": [asdict(one) for one in result.changes],
        "gap": measured.gap_json(),
        "probe": probe_json(measured),
        "notes": list(result.domains.notes),
    }  # fmt: skip


def flat_figures(result: AdaptationResult) -> dict[str, float]:
    """Every figure by name, for the summary and MLflow."""
    flat: dict[str, float] = {
        "parameters/trained": result.adapted.share.trained,
        "parameters/share": result.adapted.share.share,
        "steps/kept": result.adapted.kept_step,
        "steps/trained": result.adapted.steps,
        "loss/start": result.loss.start,
        "loss/kept": result.loss.kept,
    }
    for one in result.changes:
        name = f"{one.domain}/{one.band}"
        flat |= {f"rmse_before/{name}": one.before, f"rmse_after/{name}": one.after, f"rmse_change/{name}": one.change}
        if one.interval is not None:
            flat |= {f"rmse_change/{name}/low": one.interval[0], f"rmse_change/{name}/high": one.interval[1]}
    flat |= probe_figures(result.before_after)
    return {name: value for name, value in flat.items() if value == value}


def summarize_adaptation(result: AdaptationResult) -> str:
    """One sentence: the target's labels where there are any, else its reconstruction; then what it cost the source."""
    target, source = result.error("target"), result.error("source")
    by_pixels = target is not None and result.loss.term == "pixels"
    parts = [_reconstruction(target) if target is not None and by_pixels else _comparison(result)]
    if result.adapted.kept_step == 0:
        parts = [
            f"The model was left as it was: no validation was better than the start on held-out tiles of "
            f"{result.domains.target.name} in {result.adapted.steps} steps"
        ]
    if source is not None and by_pixels and result.adapted.kept_step:
        parts.append(f"on {source.selector} it {_moved(source)}{span(source.interval, 100, ' %')}")
    if result.plan.task is not None:
        parts.append(summarize_labels(result.plan.task, result.before_after))
    return "; ".join(parts) + "."


def _comparison(result: AdaptationResult) -> str:
    """What became of the terms that need no decoder, of which a part is the head's: --method heads says how much."""
    learned = "the head alone learned" if result.config.method == "heads" else "compare --method heads"
    return (
        f"The held-out loss of {result.loss.term} on {result.domains.target.name} went from "
        f"{result.loss.start:.4f} to {result.loss.kept:.4f} ({learned})"
    )


def _reconstruction(target: ErrorChange) -> str:
    """What became of the error on the target, and how far the held-out groups carry it."""
    what = (
        f"The reconstruction error on held-out tiles of {target.selector} {_moved(target)}"
        f"{span(target.interval, 100, ' %')}"
    )
    if target.interval is None:
        sure = f"lower in {target.n_better} of {target.n_groups} held-out groups, too few for an interval"
    elif target.interval[1] < 0:
        sure = "which is more than chance"
    elif target.interval[0] > 0:
        sure = "which is worse, and not by chance"
    else:
        sure = "which the data cannot tell from none"
    return f"{what}, {sure}"


def _moved(change: ErrorChange) -> str:
    way = "fell" if change.change < 0 else "rose"
    return f"{way} by {abs(change.change) * 100:.1f} % ({change.before:.4g} to {change.after:.4g})"


def write_report(run_: AnalysisRun, result: AdaptationResult, summary: str, answer: Answer | None) -> list[Path]:
    """Publish `report.html` and its pictures; returns their paths."""
    from geomae.reports.domain_figures import Line, adaptation_curve, changes_picture  # matplotlib: after the work

    pictures = [run_.out / "adaptation_curve.png", *([run_.out / "adaptation_errors.png"] if result.changes else [])]
    held = result.domains.target.held.name
    unit = result.domains.target.held.record.unit.replace("_", " ")
    curve, title = (
        (f"rmse/model/{held}/mean", f"RMSE, mean over bands ({unit})")
        if result.loss.term == "pixels"
        else (f"loss/{held}", f"loss of {result.loss.term}")
    )
    adaptation_curve(pictures[0], run_.folder.history(), curve, result.adapted.kept_step, title=title)
    lines = [
        Line(one.domain, "mean over bands" if one.band == ALL else one.band, 100 * one.change,
             (100 * one.interval[0], 100 * one.interval[1]) if one.interval else None)
        for one in result.changes
    ]  # fmt: skip
    if lines:
        changes_picture(pictures[1], lines, names={one.domain: one.selector for one in result.changes})
    sections = [
        *(proposal_sections(answer) if answer else ()),
        _training(result, pictures[0]),
        *([_errors(result, pictures[1])] if result.changes else []),
        *([_gap(result)] if result.before_after.gap else []),
        *probe_sections(result.plan.task, result.before_after),
        *([Section("Notes", result.domains.notes)] if result.domains.notes else []),
    ]
    about = describe_origin(run_, result.domains, result.digest)
    title = f"Adaptation to {result.domains.target.name}"
    write_page(run_.out / "report.html", Page(title, summary, tuple(sections), about))
    return pictures


def describe_origin(run_: AnalysisRun, domains: AdaptationDomains, digest: str) -> About:
    """The lines at the end of a report: model, tiles, catalogue, seed and version."""
    about = {
        "model": link_run(run_.params["model"]),
        "weights of the model before": digest,
        "run that made it": str(domains.model.provenance.get("mlflow_run") or "unknown"),
        "target": _tiles(domains, 0),
        "source": _tiles(domains, 1),
        "catalogue": run_.params["catalog"],
        "seed": str(run_.common.seed),
        "geomae": f"{__version__}, commit {commit()}",
    }
    return {name: text for name, text in about.items() if text}


def _tiles(domains: AdaptationDomains, number: int) -> str:
    if number >= len(domains.all):
        return ""
    one = domains.all[number]
    return f"{one.name}: {len(one.training.reader)} tiles to learn from, {len(one.held.reader)} held out"


def _training(result: AdaptationResult, picture: Path) -> Section:
    config, adapted = result.config, result.adapted
    replay = f", of which {config.replay:.0%} took tiles of the source" if config.replay else ""
    text = (
        f"Method {config.method}: {adapted.share.trained:,} parameters learned, {adapted.share.share:.1%} of the "
        f"{adapted.share.total:,} of the model.",
        f"{adapted.steps} of at most {config.steps} steps of {config.batch} tiles{replay}. Kept are the weights after "
        f"step {adapted.kept_step}, the best of the validations; {config.patience} without a new best end it.",
        f"{result.loss.text[0].upper()}{result.loss.text[1:]}.",
        "No label had a part in it.",
    )
    what = "hidden valid pixels" if result.loss.term == "pixels" else "views of a tile told apart from other tiles"
    return Section("How it was adapted", text, (Figure(picture, f"Held-out tiles of the target, {what}."),))


def _errors(result: AdaptationResult, picture: Path) -> Section:
    header = ["band", "before", "after", "change, %", "95 %", "groups that fell", *map(baseline_title, BASELINES)]
    tables = [
        Table(_caption(result, domain), header, [
            ["mean over bands" if one.band == ALL else one.band, one.before, one.after, 100 * one.change,
             _percent(one.interval), one.n_better, *(one.baselines[name] for name in BASELINES)]
            for one in result.changes if one.domain == domain
        ])
        for domain in dict.fromkeys(one.domain for one in result.changes)
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


def _caption(result: AdaptationResult, domain: str) -> str:
    one = result.error(domain)
    assert one is not None
    return (
        f"{domain}, {one.selector}: RMSE in {one.unit.replace('_', ' ')}, {one.n_tiles} tiles in {one.n_groups} groups"
    )


def _gap(result: AdaptationResult) -> Section:
    before, after = ({row.measure: row for row in result.before_after.gap[model]} for model in (BEFORE, AFTER))
    rows = [
        [
            DISTANCE_TITLES.get(name, name), before[name].value, after[name].value, before[name].null_value,
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


def _percent(interval: tuple[float, float] | None) -> str:
    return "" if interval is None else f"[{100 * interval[0]:+.1f},\N{NO-BREAK SPACE}{100 * interval[1]:+.1f}]"
