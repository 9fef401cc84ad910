"""`geomae gap`: how far apart two domains are, and in what, start to end."""

from collections.abc import Mapping, Sequence
from pathlib import Path

import numpy as np

from geomae.commands.gap_report import (
    LABELS,
    PIXELS,
    GapResult,
    Spectrum,
    correct_all,
    known_of,
    p_text,
    summarize_gap,
    write_pictures,
    write_report,
)
from geomae.commands.gap_request import GapOptions, read_request
from geomae.commands.run import AnalysisRun, Session, open_session, output_folder, selection_record
from geomae.encoders import Encoder, EncoderSpec
from geomae.encoders.selections import Embeddings, EmbeddingSpec, embed_specs, encoder_digest
from geomae.errors import BandMismatchError, ConfigError
from geomae.evaluation.gap import class_distances, embedding_gap, label_shift, pixel_gap
from geomae.evaluation.gap_domains import GapDomain, GapDomains, read_domains, read_pixels, reconstruct
from geomae.evaluation.permutations import DomainComparison, GapFigure
from geomae.files import write_json
from geomae.runtime.console import Screen
from geomae.runtime.signals import watch


def run(request: GapOptions) -> int:
    """Measure the gap. Returns the exit code: 0, or 128 plus the signal that stopped the run."""
    entrants = read_request(request)
    session = open_session(request.common)
    if session.fabric.world_size > 1:
        raise ConfigError("geomae gap runs in one process; start it without several tasks or devices")
    sides = read_domains(session.select([request.source, request.target]), request.common.seed)
    needed = [side.selected for side in sides]
    loader = session.loader(EmbeddingSpec(request.layer, request.pooling), needed)
    trained = loader.load_trained(entrants)
    compared, left_out = _comparable(entrants, sides)
    if request.common.dry_run:
        _describe(sides, compared, session.screen)
        return 0
    asked = request.asked() | {
        "catalog": str(session.catalog.path.absolute()),
        "precision": session.precision,
        "data_digest": [one.digest() for one in needed],
        "encoder_digests": {label: encoder_digest(encoders) for label, encoders in trained.items()},
    }
    out = output_folder("gap", request.common.out)
    with AnalysisRun("gap", request.common, asked, session.screen, out) as run_:
        run_.track([selection_record(session.catalog, one) for one in needed])
        with watch() as stop:
            embedded = list(
                embed_specs(
                    session.compute,
                    session.catalog,
                    compared,
                    trained,
                    loader,
                    out / "embeddings",
                    stop,
                    run_.step,
                )
            )
        if stop.signal:
            run_.stopped()
            return stop.exit_code
        found = _measure(session, run_, sides, compared, trained, embedded, left_out)
        _leave(run_, session, found, embedded)
    return 0


def _comparable(entrants: Sequence[EncoderSpec], sides: GapDomains) -> tuple[list[EncoderSpec], list[str]]:
    """The encoders whose embeddings of both domains mean the same. Raises BandMismatchError where none is left."""
    if sides.same_bands:
        return list(entrants), []
    kept = [one for one in entrants if not one.baseline]
    source, target = (f"{side.name} ({', '.join(band.name for band in side.bands)})" for side in sides)
    differ = f"{source} and {target} share no band in one unit"
    if not kept:
        raise BandMismatchError(
            f"{differ}, so neither pixels nor band statistics can be compared; name an --encoder with the spectral "
            "embedding, which takes any bands"
        )
    return kept, [f"{differ}: pixels, and baselines made of them, are not compared"]


def _measure(
    session: Session,
    run_: AnalysisRun,
    sides: GapDomains,
    entrants: Sequence[EncoderSpec],
    trained: Mapping[str, Mapping[str, Encoder]],
    embedded: Sequence[Embeddings],
    left_out: Sequence[str],
) -> GapResult:
    seed, left = session.common.seed, list(left_out)
    source, target = sides
    pixels = [read_pixels(side, run_.step) for side in sides]
    spectra = (Spectrum.of(pixels[0]), Spectrum.of(pixels[1]))
    figures: dict[str, list[GapFigure]] = {PIXELS: []}
    if sides.same_bands:
        names = [band.name for band in source.bands]
        figures[PIXELS] += pixel_gap(pixels[0], pixels[1], names, source.selected.imagery.unit, seed)
    figures[PIXELS] += [*known_of(source, spectra[0]), *known_of(target, spectra[1])]
    labelled = [np.flatnonzero(side.label_T != "") for side in sides]
    if all(len(rows) for rows in labelled):
        groups = [[side.unit_T[row] for row in rows] for side, rows in zip(sides, labelled, strict=True)]
        contrast = DomainComparison.of(groups[0], groups[1], seed)
        figures[LABELS] = [label_shift(source.label_T[labelled[0]], target.label_T[labelled[1]], contrast)]
    for number, (entrant, one) in enumerate(zip(entrants, embedded, strict=True)):
        run_.step("measuring encoders", number, len(entrants))
        figures[entrant.label] = _of_encoder(one, source, target, seed)
        if entrant.label in trained:
            errors, why = reconstruct(session.compute, entrant, trained[entrant.label], sides, seed, run_.step)
            figures[entrant.label] += errors
            left += [why] if why else []
    run_.step("measuring encoders", len(entrants), len(entrants))
    run_.screen.close()
    notes = {entrant.label: one.notes for entrant, one in zip(entrants, embedded, strict=True)}
    return GapResult(sides, spectra, correct_all(figures), notes, left)


def _of_encoder(embedded: Embeddings, source: GapDomain, target: GapDomain, seed: int) -> list[GapFigure]:
    """Distances between the domains, and between the tiles of each class that both have."""
    x_ND, y_MD = (embedded.of(side.selected) for side in (source, target))
    found = embedding_gap(x_ND, source.unit_T, y_MD, target.unit_T, seed)
    labels = (source.label_T, target.label_T)
    return found + class_distances(x_ND, source.unit_T, labels[0], y_MD, target.unit_T, labels[1], seed)


def _leave(run_: AnalysisRun, session: Session, found: GapResult, embedded: Sequence[Embeddings]) -> None:
    """Rows, pictures, report, summary; the same figures for people."""
    out = run_.out
    made_by = {one.path.parent.name: one.made_by for one in embedded if one.made_by is not None}
    write_json(out / "gap.json", {"rows": found.rows()})
    pictures = write_pictures(found, embedded, out)
    about = {
        "catalogue": str(session.catalog.path),
        "precision": session.precision,
        "seed": str(run_.common.seed),
        **{f"run that made {label}": run_id for label, run_id in made_by.items()},
        **{f"digest of {one.path.parent.name}": str(one.store.attrs["encoder_digest"]) for one in embedded},
    }
    write_report(found, pictures, about, out / "report.html")
    stores = {f"store.{one.path.parent.name}": str(one.path) for one in embedded}
    run_.tracker.log_params(stores | {f"model_run.{label}": run_id for label, run_id in made_by.items()})
    groups = {side.role: len(set(side.unit_T)) for side in found.sides}
    inputs = {"model_runs": made_by, "groups": groups, "paired_groups": found.sides.paired, "tests": found.tested}
    run_.finish(found.metrics(), inputs, [out / "gap.json", out / "report.html", *pictures])
    _print(found, out, run_.screen)


def _print(found: GapResult, out: Path, screen: Screen) -> None:
    rows = [
        [one.measure, one.band, f"{one.value:.4g}", "" if one.null_value is None else f"{one.null_value:.4g}",
         p_text(one.p_holm)]
        for one in found.figures[PIXELS] if one.p is not None or one.null_value is not None
    ]  # fmt: skip
    if rows:
        unit = found.sides.source.selected.imagery.unit.replace("_", " ")
        screen.table(f"pixels, {unit}", ["measure", "band", "value", "halves of source", "p (Holm)"], rows)
    for whose in (LABELS, *found.encoders):
        figures = found.figures.get(whose, ())
        shown = [
            [one.measure, f"{one.value:.4g}", "" if one.null_value is None else f"{one.null_value:.4g}",
             p_text(one.p_holm)]
            for one in figures
        ]  # fmt: skip
        if shown:
            screen.table(whose, ["measure", "value", "halves of source", "p (Holm)"], shown)
    for sentence in summarize_gap(found):
        screen.result(sentence)
    screen.result(f"figures: {out / 'gap.json'}")
    screen.result(f"report: {out / 'report.html'}")


def _describe(sides: GapDomains, entrants: Sequence[EncoderSpec], screen: Screen) -> None:
    """What a dry run prints."""
    for side in sides:
        screen.result(f"{side.role} {side.name}: {side.tiles} tiles in {len(set(side.unit_T))} groups")
    screen.result(f"groups in both: {sides.paired}")
    for one in entrants:
        screen.result(f"encoder {one.label}: {one.references[0].text}")
