"""`geomae compare-recon`: reconstructions of several models on the same tiles under the same masks, start to end."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from typing import Any

import torch

from geomae.catalog import Catalog, resolve_selectors
from geomae.commands.compare_recon_panels import TilesToShow, check_show, draw_panels, parse_show
from geomae.commands.compare_recon_report import ComparisonResult, write_report
from geomae.commands.options import CommonOptions
from geomae.commands.run import AnalysisRun, output_folder, selection_record
from geomae.errors import ConfigError, nearest
from geomae.evaluation.reconstruction import (
    Candidate,
    FittedModels,
    MaskKind,
    ReconstructionScores,
    fit,
    load_candidates,
    score,
)
from geomae.evaluation.reconstruction_maps import (
    MapRequest,
    UsualErrors,
    draw_maps,
    scenes_to_map,
    scenes_with_crs,
    usual_errors,
)
from geomae.evaluation.reconstruction_masks import KINDS
from geomae.evaluation.reconstruction_rows import (
    COLUMNS,
    DIFFERENCE_COLUMNS,
    Row,
    all_rows,
    metrics,
    result_table,
    write_csv,
)
from geomae.runtime import devices
from geomae.runtime.console import Screen
from geomae.runtime.precision import keep_freed_memory, precision_for
from geomae.tiles.selection import Selection, select_tiles

VALUES, DIFFERENCES = "reconstruction.csv", "differences.csv"


@dataclass(frozen=True)
class CompareReconOptions:
    """What the command line asked for."""

    models: tuple[str, ...]
    datasets: tuple[str, ...]
    ratios: str
    kinds: str
    tiles: int
    show: str
    scenes: int
    common: CommonOptions


def run(request: CompareReconOptions) -> int:
    """Compare, and leave tables, pictures, maps and a report. Returns the exit code."""
    masks, show = _masks(request), parse_show(request.show)
    common, screen = request.common, Screen(not request.common.quiet)
    catalog = common.open_catalog()
    device = torch.device(devices.device_for(common.device))
    if device.type == "cpu":
        keep_freed_memory()
    precision = precision_for(device.type, common.precision)
    candidates = load_candidates(request.models, device, common.tracking_uri)
    selected, whole = _select(catalog, request, screen)
    check_show(show, [tile_id for one in selected for tile_id in one.index.tiles["tile_id"].tolist()])
    fitted = [fit(candidates, one, device, precision) for one in selected]
    if common.dry_run:
        _describe(screen, catalog, candidates, selected, masks, request)
        return 0
    asked = _asked(request, catalog, candidates, selected, masks, precision)
    with AnalysisRun("compare-recon", common, asked, screen, output_folder("compare-recon", common.out)) as command:
        made_by = {f"geomae.model_run.{one.label}": run_id for one in candidates if (run_id := one.made_by())}
        command.track([selection_record(catalog, one) for one in selected], made_by)
        figures_device = torch.device("cpu") if device.type == "mps" else device  # which has no float64
        scores = [
            _score(one, ready, candidates, masks, request, figures_device, command)
            for one, ready in zip(selected, fitted, strict=True)
        ]
        tables = _write_tables(command.out, scores, candidates, masks, common.seed)
        labels = [one.label for one in candidates]
        asked_maps = MapRequest(labels, masks[0].ratio, request.scenes, request.tiles, common.seed, figures_device)
        maps = _maps(command, scores, whole, asked_maps)
        _leave(command, tables, catalog, candidates, scores, masks, show, figures_device, maps)
    return 0


def _select(
    catalog: Catalog, request: CompareReconOptions, screen: Screen
) -> tuple[list[Selection], dict[str, Selection]]:
    """The selections, and each of their data sets with all its tiles."""
    asked = resolve_selectors(catalog, request.datasets, None)
    for one in asked:
        whole = replace(one, split=None)
        if one != whole and whole in asked:
            raise ConfigError(f"--dataset {one}: its tiles are among those of {whole}; name one of both")
    texts = [str(one) for one in asked]
    names = [name for name in dict.fromkeys(one.dataset for one in asked) if name not in texts]
    found = select_tiles(catalog, [*texts, *names], screen.step, screen.warn)
    return found[: len(texts)], {one.index.name: one for one in found if one.name == one.index.name}


def _maps(
    command: AnalysisRun, scores: Sequence[ReconstructionScores], whole: Mapping[str, Selection], asked: MapRequest
) -> list[Path]:
    """Maps where there can be any; where not, it is said and the rest goes on."""
    for one in scores if asked.scenes else ():
        if not any(True for _ in scenes_with_crs(one)):
            command.screen.say(f"{one.selected.name}: no scene has a CRS, so there are no maps of it")
    maps: list[Path] = []
    usual: dict[str, Mapping[str, UsualErrors] | None] = {}
    for job in scenes_to_map(scores, asked.scenes):
        name = job.scores.index.name
        if name not in usual:
            usual[name] = usual_errors(job.scores.fitted, whole[name], asked)
            if usual[name] is None:
                command.screen.say(f"{name}: no hidden pixel is valid in every band, so there are no maps of it")
        errors = usual[name]
        if errors is not None:
            maps += draw_maps(command.out, job, errors, asked, partial(command.step, f"strips of {job.stem}"))
    return maps


def _score(
    one: Selection,
    ready: FittedModels,
    candidates: Sequence[Candidate],
    masks: Sequence[MaskKind],
    request: CompareReconOptions,
    device: torch.device,
    command: AnalysisRun,
) -> ReconstructionScores:
    labels = [candidate.label for candidate in candidates]

    def progress(done: int, total: int) -> None:
        command.step(one.name, done, total)

    return score(one, ready, labels, masks, request.tiles, request.common.seed, device, progress)


def _write_tables(
    out: Path,
    scores: Sequence[ReconstructionScores],
    candidates: Sequence[Candidate],
    masks: Sequence[MaskKind],
    seed: int,
) -> tuple[list[Row], list[Row]]:
    """The figures and the differences, written before anything is drawn that may fail."""
    values, differences = all_rows(scores, [one.label for one in candidates], masks, seed)
    write_csv(out / VALUES, COLUMNS, values)
    write_csv(out / DIFFERENCES, DIFFERENCE_COLUMNS, differences)
    return values, differences


def _leave(
    command: AnalysisRun,
    tables: tuple[list[Row], list[Row]],
    catalog: Catalog,
    candidates: Sequence[Candidate],
    scores: Sequence[ReconstructionScores],
    masks: Sequence[MaskKind],
    show: TilesToShow,
    device: torch.device,
    maps: Sequence[Path],
) -> None:
    """Pictures, report, summary."""
    labels, seed = [one.label for one in candidates], command.common.seed
    panels = [panel for one in scores for panel in draw_panels(command.out, one, labels, masks[0], show, seed, device)]
    for tile_id in sorted({*show.tile_ids} - {panel.why for panel in panels}):
        command.screen.say(f"--show {tile_id}: has too few valid cells to be hidden and shown, so there is no picture")
    outcome = ComparisonResult(catalog, candidates, scores, masks, *tables, panels, seed)
    files = [command.out / VALUES, command.out / DIFFERENCES, *(panel.path for panel in panels)]
    files += [*write_report(command.out, outcome, maps), *maps]
    notes = [note for one in scores for note in one.fitted.notes]
    inputs = {"catalogue_digest": catalog.digest(sorted({one.index.name for one in scores})), "notes": notes}
    command.finish(metrics(outcome.values), inputs, files)
    command.screen.close()
    result_table(command.screen, outcome.values)
    command.screen.result(f"report: {command.out / 'report.html'}")


def _masks(request: CompareReconOptions) -> list[MaskKind]:
    kinds = [one.strip() for one in request.kinds.split(",")]
    for kind in kinds:
        if kind not in KINDS:
            raise ConfigError(f"--masking {kind}: {nearest(kind, KINDS)}")
    ratios = []
    for text in request.ratios.split(","):
        try:
            ratios.append(float(text))
        except ValueError:
            ratios.append(0.0)
        if not 0 < ratios[-1] < 1:
            raise ConfigError(f"--mask-ratio {text}: give shares between 0 and 1, as 0.75,0.5")
    return list(dict.fromkeys(MaskKind(kind, ratio) for kind in kinds for ratio in ratios))


def _asked(
    request: CompareReconOptions,
    catalog: Catalog,
    candidates: Sequence[Candidate],
    selected: Sequence[Selection],
    masks: Sequence[MaskKind],
    precision: str,
) -> dict[str, Any]:
    """What decides the result."""
    return {
        "catalog": str(catalog.path.absolute()),
        "dataset": [one.name for one in selected],
        "data_digest": [one.digest() for one in selected],
        "model": {one.label: one.reference.text for one in candidates},
        "model_digest": {one.label: one.digest() for one in candidates},
        "masks": [str(mask) for mask in masks],
        "tiles": request.tiles,
        "show": request.show,
        "scenes": request.scenes,
        "precision": precision,
    }


def _describe(
    screen: Screen,
    catalog: Catalog,
    candidates: Sequence[Candidate],
    selected: Sequence[Selection],
    masks: Sequence[MaskKind],
    request: CompareReconOptions,
) -> None:
    """What a dry run prints."""
    screen.result(f"catalogue {catalog.path}")
    for one in selected:
        screen.result(f"compare on {one.name}: {min(len(one.index), request.tiles)} of {len(one.index)} tiles")
    for candidate in candidates:
        screen.result(f"{candidate.label}: {candidate.reference.text}")
    screen.result(f"masks: {', '.join(map(str, masks))}")
