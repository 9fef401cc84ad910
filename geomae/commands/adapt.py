"""`geomae adapt`: a model learns the unlabelled tiles of a domain, and what came of it is measured, start to end."""

import math
import shutil
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

import torch

from geomae import __version__
from geomae.commands.adapt_report import AdaptationResult, figures, summarize_adaptation, to_json, write_report
from geomae.commands.adapt_request import AdaptOptions, asked, read_request
from geomae.commands.run import OPENING_S, AnalysisRun, Session, open_session, output_folder, selection_record
from geomae.config import AdaptConfig
from geomae.encoders.interface import weights_digest
from geomae.encoders.reference import FOLDER, MLFLOW, parse_encoder
from geomae.errors import ConfigError
from geomae.evaluation.before_after import (
    ALL,
    BEFORE,
    check_before_after,
    error_changes,
    evaluate_before_after,
    name_of,
    plan_before_after,
)
from geomae.files import write_json
from geomae.models.folder import Model, load_model, save_model
from geomae.models.trainable import Share, unfreeze
from geomae.runtime.signals import watch
from geomae.tracking.runs import download, resolve_uri
from geomae.training.adaptation import AdaptationDomains, Adapted, adapt_weights, read_domains, training_config
from geomae.training.validation import BASELINES

ADAPTED = "adapted"  # in the provenance of a model: what it was adapted to


def run(request: AdaptOptions) -> int:
    """Adapt, and leave the model and the proof. Returns the exit code: 0, or 128 plus the signal that stopped it."""
    config = read_request(request)
    session = open_session(request.common)
    if session.fabric.world_size > 1:
        raise ConfigError("geomae adapt runs in one process; start it without several tasks or devices")
    folder = _folder(request)
    model = load_model(folder)
    chosen = session.select([request.target, *([request.source] if request.source else [])])
    digest = weights_digest(model.mae.state_dict())[:32]
    _check_new(model, chosen[0].digest(), request)
    domains = read_domains(model, chosen, training_config(config, model.mae.architecture), request.common.seed)
    share = unfreeze(load_model(folder).mae, config.method, blocks=config.whole_blocks, rank=config.rank)
    plan = plan_before_after(session, request, domains)
    check_before_after(session, plan, folder)
    if request.common.dry_run:
        _describe(session, domains, config, share)
        return 0
    decided = asked(request, config) | {
        "catalog": str(session.catalog.path.absolute()),
        "precision": session.precision,
        "model_digest": digest,
        "data_digest": [one.digest() for one in (*chosen, *plan.needed)],
    }
    out = output_folder("adapt", request.common.out)
    with AnalysisRun("adapt", request.common, decided, session.screen, out) as run_, watch() as stop:
        made_by = model.provenance.get("mlflow_run")
        run_.track(
            [selection_record(session.catalog, one) for one in chosen],
            {"geomae.model_run": made_by} if made_by else None,
        )
        for note in domains.notes:
            session.screen.say(note)
        adapted = adapt_weights(session, config, domains, run_, stop)
        if adapted is not None:
            _save(run_, adapted, _provenance(session, request, config, domains, adapted, digest, run_))
            before = _before(out, domains.model, model, folder)
            proof = evaluate_before_after(session, plan, before, run_.folder.model, out / "embeddings", stop, run_.step)
        if adapted is None or proof is None:
            run_.stopped()
            return stop.exit_code
        training, device = training_config(config, model.mae.architecture), session.fabric.device
        device = torch.device("cpu") if device.type == "mps" else device  # which has no float64
        for one in (domains.model, adapted.model):
            one.mae.to(device)
        changes = error_changes(domains.model, adapted.model, domains, training, request.common.seed, device)
        _leave(run_, request, AdaptationResult(config, domains, plan, adapted, changes, proof, digest))
    return 0


def _folder(request: AdaptOptions) -> Path:
    """The model folder that `--model` names."""
    reference = parse_encoder(request.model)
    if reference.kind not in (FOLDER, MLFLOW):
        raise ConfigError(
            f"--model {request.model}: give a model folder or an MLflow reference; weights of others become a model "
            "folder by `geomae convert`"
        )
    if reference.kind == FOLDER:
        return Path(reference.name)
    return download(reference.name, resolve_uri(request.common.tracking_uri))


def _check_new(model: Model, target_digest: str, request: AdaptOptions) -> None:
    """Raise ConfigError where the model, or one that it was made from, was adapted to the same tiles already."""
    found: Mapping[str, Any] | None = model.provenance
    while found is not None and not request.again:
        if found.get(ADAPTED, {}).get("target_digest") == target_digest:
            raise ConfigError(
                f"--model {request.model}: was adapted to {found[ADAPTED]['target']} already; --again adapts it once "
                "more"
            )
        found = found.get("from")


def _provenance(
    session: Session, request: AdaptOptions, config: AdaptConfig, domains: AdaptationDomains, adapted: Adapted,
    digest: str, run_: AnalysisRun,
) -> dict[str, Any]:  # fmt: skip
    """Where the adapted model comes from, and the model that it was made from with its own provenance."""
    target, before = domains.target, domains.model.provenance
    return {
        "command": "adapt",
        "code_version": __version__,
        "catalogue_digest": session.catalog.digest(sorted({one.selected.index.name for one in domains.all})),
        "mlflow_run": run_.tracker.wait_run_id(OPENING_S),
        "seed": request.common.seed,
        "dataset": [one.name for one in domains.all],
        "tile": [int(target.selected.index.tiles["size"].iloc[0])] * 2,
        ADAPTED: {
            "model_digest": digest,
            "target": target.name,
            "target_digest": target.selected.digest(),
            "method": config.method,
            "steps": adapted.kept_step,
            "parameters_trained": adapted.share.trained,
        },
        "from": before,
    }


def _save(run_: AnalysisRun, adapted: Adapted, provenance: dict[str, Any]) -> None:
    """Publish the model folder, in the place of what a run left that was killed behind this point."""
    if run_.folder.model.exists():
        shutil.rmtree(run_.folder.model)
    save_model(replace(adapted.model, provenance=provenance), run_.folder.model)


def _before(out: Path, begun: Model, model: Model, folder: Path) -> Path:
    """A folder with the model as it began; beside the run, where it was given statistics of sensors that were new.

    Else the embeddings before and after would differ by these, too.
    """
    if begun.sensors == model.sensors:
        return folder
    if not (out / BEFORE).exists():
        save_model(begun, out / BEFORE)
    return out / BEFORE


def _leave(run_: AnalysisRun, request: AdaptOptions, outcome: AdaptationResult) -> None:
    """Figures, report, summary, and the model in MLflow; the same figures for people."""
    said = summarize_adaptation(outcome)
    write_json(run_.out / "adaptation.json", to_json(outcome) | {"verdict": said})
    pictures = write_report(run_, outcome, said)
    run_.tracker.log_artifacts(run_.folder.model, "model")
    if request.register:
        run_.tracker.register_model(request.register)
    files = [run_.out / "adaptation.json", run_.out / "report.html", *pictures]
    inputs = {"notes": list(outcome.domains.notes), "model_run": outcome.domains.model.provenance.get("mlflow_run")}
    run_.finish(figures(outcome), inputs, files)
    run_.screen.close()
    _print(run_, outcome)
    run_.screen.result(said)
    run_.screen.result(f"model: {run_.folder.model}")
    run_.screen.result(f"report: {run_.out / 'report.html'}")


def _print(run_: AnalysisRun, outcome: AdaptationResult) -> None:
    share = outcome.adapted.share
    run_.screen.result(
        f"{outcome.config.method}: {share.trained:,} of {share.total:,} parameters learned ({share.share:.1%}); step "
        f"{outcome.adapted.kept_step} of {outcome.adapted.steps} is kept"
    )
    rows = [
        [one.domain, f"{one.before:.4g}", f"{one.after:.4g}", f"{100 * one.change:+.1f}",
         *(f"{one.baselines[name]:.4g}" for name in BASELINES)]
        for one in outcome.changes
        if one.band == ALL
    ]  # fmt: skip
    run_.screen.table(
        "RMSE on held-out tiles, mean over bands", ["", "before", "after", "%", *map(name_of, BASELINES)], rows
    )
    for name, target in outcome.proof.target.items():
        value = "unknown, the oracle is hardly better" if math.isnan(target.value) else f"{target.value:.3f}"
        run_.screen.result(f"probe {name}: {value}")


def _describe(session: Session, domains: AdaptationDomains, config: AdaptConfig, share: Share) -> None:
    """What a dry run prints."""
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
