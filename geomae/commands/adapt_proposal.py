"""`geomae adapt` asks what differs before it trains, and publishes its answer where nothing has to be trained."""

from collections.abc import Sequence

from geomae.commands.adapt_findings import (
    print_probe,
    probe_figures,
    probe_json,
    probe_sections,
    proposal_sections,
    summarize_labels,
)
from geomae.commands.adapt_report import Work, describe_origin, save_model
from geomae.commands.options import next_command
from geomae.encoders.selections import EmbeddingSpec
from geomae.encoders.specification import encoder_specs, parse_encoders
from geomae.evaluation.adaptation_effect import BeforeAfter, embed_plan, evaluate_before_after
from geomae.evaluation.adaptation_probe import BEFORE
from geomae.evaluation.gap import read_gap_domains
from geomae.evaluation.proposal import Answer, measure_differences, new_sensor, propose
from geomae.files import write_json
from geomae.prediction.saved_probes import save_probes
from geomae.reports.page import Page, Section, write_page
from geomae.runtime.signals import Stop
from geomae.tiles.selection import Selection

ANYWAY = "`--method lora` trains anyway."


def ask_first(work: Work, selections: Sequence[Selection], stop: Stop) -> Answer | None:
    """Measure what differs between target and source (`selections`), and say it; None where `stop` ended it."""
    run_, session, seed = work.run_, work.session, work.session.common.seed
    target, source = selections
    embeddings = None
    if work.plan.choice is not None:
        encoders = [f"{BEFORE}={work.before}"]
        embedded = embed_plan(
            session.compute, session.catalog, work.plan, encoders, run_.out / "embeddings", stop, run_.step
        )
        if embedded is None:
            return None
        embeddings = embedded[BEFORE]
    differences = measure_differences(
        read_gap_domains([source, target], seed), work.plan, new_sensor(work.model, target), embeddings, seed, run_.step
    )
    run_.screen.close()
    proposal = propose(differences)
    for sentence in (*differences.sentences(), proposal.text, proposal.labels):
        session.screen.say(sentence)
    return Answer(differences, proposal, embeddings)


def leave_as_it_is(work: Work, answer: Answer, register: str | None, stop: Stop) -> bool:
    """Publish the model as it began and a probe for maps of the target, behind the alignment that is proposed, if any.

    With labels of the target the probe is scored. Returns False where `stop` ended it.
    """
    run_, session, proposal = work.run_, work.session, answer.proposal
    measured = evaluate_before_after(
        session.compute, session.catalog, work.plan, work.before, None, run_.out / "embeddings", session.common.seed,
        stop, run_.step, proposal.align,
    )  # fmt: skip
    if measured is None:
        return False
    run_.screen.close()
    save_model(run_, work.domains.model, work.domains.model.provenance)
    _save_probe(work, answer)
    _write_results(work, answer, measured, register)
    named = {"out": run_.out, "encoder": BEFORE, "dataset": work.domains.target.name}
    session.screen.say(next_command("probe", session.common, **named))
    return True


def _save_probe(work: Work, answer: Answer) -> None:
    """Publish the probe of the source's labels as `probes/before`, with the alignment to the target."""
    result = answer.differences.probe
    assert result is not None  # or it would have been trained
    assert answer.embeddings is not None
    specs = encoder_specs(parse_encoders([f"{BEFORE}={work.before}"]))
    loader = work.session.loader(EmbeddingSpec(), result.task.selections)
    save_probes(
        result, work.session.catalog, specs, loader.load_trained(specs), loader, {BEFORE: answer.embeddings},
        work.run_.out / "probes", own_bands=False,
    )  # fmt: skip


def _write_results(work: Work, answer: Answer, measured: BeforeAfter, register: str | None) -> None:
    run_, proposal, task, notes = work.run_, answer.proposal, work.plan.task, work.domains.notes
    summary = f"{proposal.text} No weight was changed; {ANYWAY}"
    if task is not None:
        said = summarize_labels(task, measured)
        summary = f"{summary} {said[0].upper()}{said[1:]}."
    found = {
        "model_digest": work.model.digest, "method": None, "parameters": None, "steps": None, "held_out_loss": None,
        "reconstruction": [], "gap": measured.gap_json(), "probe": probe_json(measured), "notes": list(notes),
        "proposal": proposal.record(), "verdict": summary,
    }  # fmt: skip
    write_json(run_.out / "adaptation.json", found)
    sections = [
        *proposal_sections(answer), *probe_sections(task, measured), *([Section("Notes", notes)] if notes else []),
    ]  # fmt: skip
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
