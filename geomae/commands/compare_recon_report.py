"""Output of `geomae compare-recon`: tables, panels, and the report with the best model for each selection.

T tiles, C bands, H W pixels
"""

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from geomae import __version__
from geomae.catalog.splits import TRAIN
from geomae.commands.run import AnalysisRun
from geomae.commands.session import Session
from geomae.evaluation.reconstruction import (
    MASKED,
    VISIBLE,
    Candidate,
    ReconstructedTile,
    ReconstructionScores,
    reconstruct_tile,
)
from geomae.evaluation.reconstruction_comparison import (
    COLUMNS,
    DIFFERENCE_COLUMNS,
    ComparisonResult,
    Row,
    TilesToShow,
    mask_of,
    place_of,
    summarize_best,
    summarize_differences,
    tile_table,
    unit_of,
    whole_rmse,
)
from geomae.evaluation.reconstruction_masks import MaskKind
from geomae.files import file_name, file_names, write_csv
from geomae.metrics.predictions import FEWEST_GROUPS
from geomae.metrics.reconstruction import ALL, HIGHEST_PSNR, figures
from geomae.reports.canvas import composites
from geomae.reports.figures import plain_unit
from geomae.reports.page import About, Cell, Figure, Page, Section, Table, link_run, write_page
from geomae.reports.reconstruction_figures import (
    Slide,
    comparison_panel,
    error_by_band,
    error_by_ratio,
    mean_spectra,
    slider,
    tile_pictures,
)
from geomae.runtime.console import Screen
from geomae.tiles.selection import Selection
from geomae.tracking import commit

VALUES, DIFFERENCES = "reconstruction.csv", "differences.csv"
METRIC_TITLES = {
    "rmse": "RMSE", "mae": "MAE", "bias": "bias", "psnr": "PSNR, dB", "ssim": "SSIM", "spectral_angle": "angle, °",
    "ergas": "ERGAS", "ndvi_rmse": "NDVI RMSE", "ndwi_rmse": "NDWI RMSE",
}  # fmt: skip


@dataclass(frozen=True)
class Panel:
    """A tile that is shown, the reason for it, and its picture."""

    path: Path
    scores: ReconstructionScores
    why: str
    tile: ReconstructedTile


def describe_dry_run(
    session: Session,
    candidates: Sequence[Candidate],
    selections: Sequence[Selection],
    masks: Sequence[MaskKind],
    tiles: int,
) -> None:
    """Print what would be compared."""
    screen = session.screen
    screen.result(f"catalogue {session.catalog.path}")
    for one in selections:
        screen.result(f"compare on {one.name}: {min(len(one.index), tiles)} of {len(one.index)} tiles")
    for candidate in candidates:
        screen.result(f"{candidate.label}: {candidate.reference.text}")
    screen.result(f"masks: {', '.join(map(str, masks))}")


def write_tables(out: Path, result: ComparisonResult) -> list[Path]:
    """Publish the tables of metrics and of differences; returns their paths."""
    write_csv(out / VALUES, COLUMNS, result.values)
    write_csv(out / DIFFERENCES, DIFFERENCE_COLUMNS, result.differences)
    return [out / VALUES, out / DIFFERENCES]


def draw_panels(out: Path, result: ComparisonResult, show: TilesToShow, say: Callable[[str], None]) -> list[Panel]:
    """Publish a panel of each chosen tile under the first mask; tiles that cannot be shown are reported to `say`."""
    mask, panels = result.masks[0], []
    chosen = [(scores, *one) for scores in result.scores for one in show.choose(scores, mask, result.seed)]
    stems = file_names(f"{file_name(scores.selected.name)}_{file_name(why)}" for scores, why, _ in chosen)
    for (scores, why, index), stem in zip(chosen, stems, strict=True):
        tile = reconstruct_tile(scores.fitted, index, mask, result.seed)
        if tile is None:
            continue
        path = out / f"panel_{stem}.png"
        title = f"{scores.selected.name}: {why}, {tile.hidden:.0%} hidden ({mask.kind})"
        comparison_panel(path, tile, scores.fitted.bands, scores.selected.imagery.unit, title)
        panels.append(Panel(path, scores, why, tile))
    for tile_id in sorted({*show.tile_ids} - {panel.why for panel in panels}):
        say(f"--show {tile_id}: has too few valid cells to hide some and show others, so there is no picture")
    return panels


def write_results(
    run_: AnalysisRun,
    session: Session,
    candidates: Sequence[Candidate],
    result: ComparisonResult,
    tables: Sequence[Path],
    panels: Sequence[Panel],
    maps: Sequence[Path],
) -> None:
    """Publish report and summary; print the RMSE of masked pixels."""
    datasets = sorted({one.index.name for one in result.scores})
    catalog_digest = session.catalog.digest(datasets)
    provenance: About = (
        {f"model {one.label}": link_run(one.reference.text) for one in candidates}
        | {f"run that made {one.label}": run_id for one in candidates if (run_id := one.made_by())}
        | {"catalogue": str(session.catalog.path), "catalogue digest": catalog_digest}
    )
    report = write_report(run_.out, result, provenance, panels, maps)
    notes = [note for one in result.scores for note in one.fitted.notes]
    files = [*tables, *(panel.path for panel in panels), *report, *maps]
    run_.finish(result.metrics(), {"catalogue_digest": catalog_digest, "notes": notes}, files)
    run_.screen.close()
    print_results(result, run_.screen)
    run_.screen.result(summarize_best(result.values))
    run_.screen.result(f"report: {run_.out / 'report.html'}")


def print_results(result: ComparisonResult, screen: Screen) -> None:
    """Print the RMSE of masked pixels (mean over bands) of every model, for each selection of tiles and each mask."""
    lines = [
        (row["model"], place_of(row), mask_of(row), f"{row['value']:.4g} {row['unit']}")
        for row in whole_rmse(result.values)
    ]
    screen.table("Masked pixels, mean over bands", ("model", "tiles", "mask", "RMSE"), lines)


def write_report(
    out: Path,
    result: ComparisonResult,
    provenance: About,
    panels: Sequence[Panel],
    maps: Sequence[Path],
) -> list[Path]:
    """Publish `report.html` and its plots; returns their paths."""
    plots = list(draw_plots(out, result))
    sections = [
        _summary(result),
        _bands(result, plots),
        *domains(result),
        *_ratios(plots),
        _pictures(result, panels),
        *_maps(maps),
        _visible(result),
        _method(result),
    ]
    page = Page(
        "Reconstructions compared", summarize_best(result.values), tuple(sections), {**provenance, **_settings(result)}
    )
    write_page(out / "report.html", page)
    return [*(path for path, _ in plots), out / "report.html"]


def domains(result: ComparisonResult) -> list[Section]:
    """Tables with a row per domain and a column per model; none for a single domain.

    The source is the domain with most tiles in the first selection; only its train split counts, if it is selected.
    """
    mask = result.masks[0]
    rows = result.select(pixels=MASKED, metric="rmse", band=ALL, masking=mask.kind, mask_ratio=mask.ratio)
    by_domain = {(row["dataset"], row["split"]) for row in rows if row["domain"] != ALL}
    places = [row for row in rows if row["domain"] != ALL or (row["dataset"], row["split"]) not in by_domain]
    by_place: dict[str, list[Row]] = {}  # rows of all models, in the order of --model
    for row in places:
        by_place.setdefault(place_of(row), []).append(row)
    if len(by_place) < 2:
        return []
    first = [row for row in places if row["dataset"] == places[0]["dataset"]]
    trained = [row for row in first if row["split"] == TRAIN]
    named = [row for row in first if row["split"] == places[0]["split"]]
    source = place_of(max(trained or named, key=lambda row: row["n_tiles"]))
    errors: list[list[Cell]] = []
    ratios: list[list[Cell]] = []
    for place, rows_there in by_place.items():
        first_row = rows_there[0]
        errors.append([place, *(row["value"] for row in rows_there), unit_of(first_row), first_row["n_tiles"]])
        against = [_ratio(row, base) for row, base in zip(rows_there, by_place[source], strict=True)]
        ratios.append([place, *against, first_row["n_tiles"], first_row["n_groups"]])
    text = (
        f"The source is {source}. A ratio above 1 means that a model reconstructs these tiles worse than those of the "
        "source: a sign of a domain gap, found without labels. The ratio has no interval and is uncertain with few "
        "groups. Domains also differ in difficulty: compare a model's ratio with those of the untrained baselines.",
    )
    caption = f"masked pixels, {mask}, mean over bands."
    tables = (
        Table(f"Target / source: ratio of RMSE, {caption}", ("domain", *result.labels, "tiles", "groups"), ratios),
        Table(f"RMSE, {caption}", ("domain", *result.labels, "unit", "number of tiles"), errors),
    )
    return [Section("By domain", text, tables)]


def _ratio(row: Row, source: Row) -> float | None:
    """Error divided by the error on the source; None if their units differ."""
    return float(row["value"] / source["value"]) if row["unit"] == source["unit"] and source["value"] > 0 else None


def draw_plots(out: Path, result: ComparisonResult) -> Iterator[tuple[Path, str]]:
    """Publish spectra and errors by band under the first mask, and errors by mask ratio if there are several.

    Yields each path with its caption, one selection after the other.
    """
    mask = result.masks[0]
    for one, stem in zip(result.scores, file_names(one.selected.name for one in result.scores), strict=True):
        name, unit = one.selected.name, one.selected.imagery.unit
        total = {label: one.total(label, mask) for label in result.labels}
        first = total[result.labels[0]]
        with np.errstate(invalid="ignore", divide="ignore"):
            truth_C = (first.truth_TC / first.pixels_TC)[0]
            means = {label: truth_C + (sums.error_TC / sums.pixels_TC)[0] for label, sums in total.items()}
            errors = {label: np.sqrt(sums.square_TC / sums.pixels_TC)[0] for label, sums in total.items()}
        path = out / f"spectra_{stem}.png"
        mean_spectra(path, one.fitted.bands, truth_C, means, unit, f"{name}: mean spectrum of masked pixels, {mask}")
        yield (
            path,
            f"{name}: the mean spectrum of masked pixels, true and reconstructed, against wavelength; below: the bias.",
        )
        path = out / f"error_by_band_{stem}.png"
        error_by_band(path, [band.name for band in one.fitted.bands], errors, unit, f"{name}: error by band, {mask}")
        yield path, f"{name}: RMSE of masked pixels by band, {mask}."
        for kind in dict.fromkeys(mask.kind for mask in result.masks):
            ratios = sorted(mask.ratio for mask in result.masks if mask.kind == kind)
            if len(ratios) > 1:
                path = out / f"error_by_ratio_{stem}_{kind}.png"
                hidden = np.array([one.hidden(MaskKind(kind, ratio)) for ratio in ratios])
                curves = {
                    label: (hidden, np.array([_rmse(one, label, MaskKind(kind, ratio)) for ratio in ratios]))
                    for label in result.labels
                }
                error_by_ratio(path, curves, unit, f"{name}: error by mask ratio, {kind} masks")
                yield path, f"{name}: RMSE of masked pixels, mean over bands, by hidden fraction ({kind} masks)."


def _rmse(scores: ReconstructionScores, label: str, mask: MaskKind) -> float:
    return float(figures(scores.total(label, mask), scores.fitted.bands, scores.fitted.range_C)["rmse", ALL][0])


def _summary(result: ComparisonResult) -> Section:
    tables = (*_tables(result.select(domain=ALL, pixels=MASKED, band=ALL)), *_groups(result))
    return Section("Which model is better", summarize_differences(result.differences), tables)


def _groups(result: ComparisonResult) -> Iterator[Table]:
    """A table with a row per group, for each selection and mask with too few groups for intervals."""
    others = result.labels[1:]
    tables: dict[tuple[str, str], dict[str, dict[str, Row]]] = {}
    for row in whole_rmse(result.differences):
        if row["group"] != ALL:
            where = (place_of(row), mask_of(row))
            tables.setdefault(where, {}).setdefault(row["group"], {})[row["model"]] = row
    for (place, mask), by_group in tables.items():
        unit = unit_of(next(iter(next(iter(by_group.values())).values())))
        caption = (
            f"{place}, {mask}, group by group: RMSE, mean over bands, minus that of {result.labels[0]}, in {unit}."
        )
        lines = [
            [group, *(rows[label]["difference"] if label in rows else None for label in others)]
            for group, rows in by_group.items()
        ]
        yield Table(caption, ("group", *others), lines)


def _visible(result: ComparisonResult) -> Section:
    text = (
        "Output at pixels that were part of the input. A masked autoencoder is not trained to reproduce them, so this "
        "does not measure how well it fills gaps.",
    )
    return Section("On visible pixels", text, tuple(_tables(result.select(domain=ALL, pixels=VISIBLE, band=ALL))))


def _tables(rows: Sequence[Row]) -> Iterator[Table]:
    """A table for each selection and mask, with a row per model and a column per metric."""
    places: dict[tuple[str, str], dict[str, dict[str, Row]]] = {}
    for row in rows:
        where = (place_of(row), mask_of(row))
        places.setdefault(where, {}).setdefault(row["model"], {})[row["metric"]] = row
    for (place, mask), by_model in places.items():
        metrics = [metric for metric in METRIC_TITLES if any(metric in one for one in by_model.values())]
        lines = [
            [label, *(one[metric]["value"] if metric in one else None for metric in metrics)]
            for label, one in by_model.items()
        ]
        first = by_model[next(iter(by_model))]["rmse"]
        counted = f"{first['n_tiles']} tiles in {first['n_groups']} groups"
        caption = f"{place}, {mask}: {counted}. Mean over bands; RMSE, MAE and bias in {unit_of(first)}."
        yield Table(caption, ("model", *(METRIC_TITLES[metric] for metric in metrics)), lines)


def _bands(result: ComparisonResult, plots: Sequence[tuple[Path, str]]) -> Section:
    tables = []
    for one, name in _selections(result):
        rows = [row for row in result.select(**name, domain=ALL, pixels=MASKED, metric="rmse") if row["band"] != ALL]
        names = [band.name for band in one.fitted.bands]
        lines: dict[tuple[str, str, str], dict[str, float]] = {}
        for row in rows:
            key = (row["model"], f"{row['dataset']}@{row['split']}", mask_of(row))
            lines.setdefault(key, {})[row["band"]] = row["value"]
        unit = plain_unit(one.selected.imagery.unit)
        cells = [[*key, *(by_band.get(band) for band in names)] for key, by_band in lines.items()]
        tables.append(Table(f"RMSE of masked pixels by band, {unit}.", ("model", "tiles", "mask", *names), cells))
    figures = [Figure(path, caption) for path, caption in plots if "_ratio" not in path.name]
    return Section("By band", (), (*figures, *tables))


def _selections(result: ComparisonResult) -> Iterator[tuple[ReconstructionScores, dict[str, str]]]:
    """Each data set once, with the name that its rows carry."""
    seen = set()
    for one in result.scores:
        name = tile_table(one).dataset
        if name not in seen:
            seen.add(name)
            yield one, {"dataset": name}


def _ratios(plots: Sequence[tuple[Path, str]]) -> list[Section]:
    figures = tuple(Figure(path, caption) for path, caption in plots if "_ratio" in path.name)
    return [Section("By mask ratio", (), figures)] if figures else []


def _pictures(result: ComparisonResult, panels: Sequence[Panel]) -> Section:
    slides = []
    for panel in panels:
        indices = next(iter(composites(panel.scores.fitted.bands).values()))
        pictures = tile_pictures(panel.tile, indices)
        models = {label: pictures[label] for label in result.labels}
        slides.append(Slide(f"{panel.scores.selected.name}: {panel.why}", pictures[""], models))
    text = (f"Best, median and worst are by the RMSE of {result.labels[0]} over the bands, under {result.masks[0]}.",)
    figures = [
        Figure(panel.path, f"{panel.scores.selected.name}, {panel.why}: {panel.tile.tile_id}") for panel in panels
    ]
    return Section(
        "Pictures", text if slides else ("No tile was requested.",), (*([slider(slides)] if slides else ()), *figures)
    )


def _maps(maps: Sequence[Path]) -> list[Section]:
    if not maps:
        return []
    text = (
        "Every pixel is predicted once, while it is hidden, by complementary random masks. A pixel has no prediction "
        "where less than half of the visible pixels are valid. Error: reconstruction - truth. Anomaly: the error of "
        "each band in standard deviations of the errors on the train split (on all tiles, if there is none) under the "
        "same kind of masks. The first band of an anomaly map combines all bands "
        "(Mahalanobis distance / square root of the number of bands); it is about 1 where the error "
        "is typical.",
    )
    lines = [[path.name.split("_")[0], path.name] for path in maps]
    return [
        Section("On the map", text, (Table("Cloud Optimized GeoTIFFs beside this report.", ("map", "file"), lines),))
    ]


def _method(result: ComparisonResult) -> Section:
    ranges = []
    for one, name in _selections(result):
        spans = ", ".join(
            f"{band.name} {span:.3g}" for band, span in zip(one.fitted.bands, one.fitted.range_C, strict=True)
        )
        ranges.append(
            f"Data range of PSNR and SSIM on {name['dataset']}, {plain_unit(one.selected.imagery.unit)}: {spans}."
        )
    left = [
        f"{one.selected.name}: {one.left_out} tiles left out, because too few of their cells are valid."
        for one in result.scores
        if one.left_out
    ]
    notes = [note for one in result.scores for note in one.fitted.notes]
    text = (
        "Every model sees the same visible cells of the same tiles, and is scored on cells that are hidden from all "
        "models. Masks depend only on the seed, the tile, the ratio and the kind.",
        "Metrics are of masked and valid pixels, in the unit of the data set; the value for all bands is the mean over "
        f"bands. PSNR is capped at {HIGHEST_PSNR:g} dB. SSIM: Gaussian window of 11 pixels, sigma 1.5; visible pixels "
        "of the prediction are set to the truth, and the map is averaged over masked pixels whose window lies in the "
        "tile. ERGAS is of ratio 1. NDWI is the index of open water (McFeeters 1996).",
        "The data range is six standard deviations of the train split (of all tiles, if there is none), per band. "
        + " ".join(ranges),
        "Intervals (95 %) resample groups (those of the catalogue, else blocks, else scenes); all models share the "
        f"resamples. With fewer than {FEWEST_GROUPS} groups there is no interval, and differences.csv lists the "
        "difference of each group.",
        *dict.fromkeys((*left, *notes)),
    )
    return Section("How it was measured", text)


def _settings(result: ComparisonResult) -> Mapping[str, str]:
    return {
        "tiles": "; ".join(f"{one.selected.name}: {len(one.index)}" for one in result.scores),
        "masks": ", ".join(map(str, result.masks)) + f", cells of {result.scores[0].fitted.cell} pixels",
        "seed": str(result.seed),
        "geomae": f"{__version__}, commit {commit()}",
    }
