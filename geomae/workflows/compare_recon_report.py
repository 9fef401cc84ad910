"""The report of a comparison: what is better where, and where the data cannot tell."""

from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path

from geomae import __version__
from geomae.analysis.bootstrap import FEWEST_GROUPS
from geomae.analysis.reconstruction_errors import ALL, HIGHEST_PSNR
from geomae.analysis.reconstruction_rows import Row
from geomae.reports.page import Figure, Page, Section, Table, write_page
from geomae.reports.recon_slider import Slide, slider
from geomae.reports.stretch import composites
from geomae.workflows.compare_recon_domains import domains
from geomae.workflows.compare_recon_outcome import Outcome
from geomae.workflows.compare_recon_plots import draw_plots
from geomae.workflows.compare_recon_score import MASKED, VISIBLE, Scores
from geomae.workflows.compare_recon_tables import place_of, tiles_of
from geomae.workflows.compare_recon_words import comparisons, counted, lead
from geomae.workflows.provenance import commit

SHOWN = {
    "rmse": "RMSE", "mae": "MAE", "bias": "bias", "psnr": "PSNR, dB", "ssim": "SSIM", "spectral_angle": "angle, °",
    "ergas": "ERGAS", "ndvi_rmse": "NDVI RMSE", "ndwi_rmse": "NDWI RMSE",
}  # fmt: skip


def write_report(out: Path, outcome: Outcome, maps: Sequence[Path] = ()) -> list[Path]:
    """Publish `report.html` and the plots in it; gives their paths."""
    plots = list(draw_plots(out, outcome))
    sections = [
        _summary(outcome),
        _bands(outcome, plots),
        *domains(outcome),
        *_ratios(outcome, plots),
        _pictures(outcome),
        *_maps(maps),
        _visible(outcome),
        _method(outcome),
    ]
    page = Page("Reconstructions compared", lead(outcome.values), tuple(sections), _about(outcome))
    write_page(out / "report.html", page)
    return [*(path for path, _ in plots), out / "report.html"]


def _summary(outcome: Outcome) -> Section:
    tables = (*_tables(outcome.of(domain=ALL, pixels=MASKED, band=ALL)), *_groups(outcome))
    return Section("Which is better", comparisons(outcome.differences), tables)


def _groups(outcome: Outcome) -> Iterator[Table]:
    """A table for each choice of tiles and each mask that has too few groups for intervals: a line per group."""
    others = outcome.labels[1:]
    tables: dict[tuple[str, str], dict[str, dict[str, Row]]] = {}
    for row in counted(outcome.differences):
        if row["group"] != ALL:
            where = (place_of(row), f"{row['masking']} {row['mask_ratio']:g}")
            tables.setdefault(where, {}).setdefault(row["group"], {})[row["model"]] = row
    for (place, mask), found in tables.items():
        unit = _plain(next(iter(next(iter(found.values())).values()))["unit"])
        caption = (
            f"{place}, {mask}, group by group: RMSE, mean over bands, minus that of {outcome.labels[0]}, in {unit}."
        )
        lines = [
            [group, *(rows[label]["difference"] if label in rows else None for label in others)]
            for group, rows in found.items()
        ]
        yield Table(caption, ("group", *others), lines)


def _visible(outcome: Outcome) -> Section:
    text = (
        "What comes out where the truth went in. A masked autoencoder is not trained for it, so that this says nothing "
        "about how well it fills gaps.",
    )
    return Section("On visible pixels", text, tuple(_tables(outcome.of(domain=ALL, pixels=VISIBLE, band=ALL))))


def _tables(rows: Sequence[Row]) -> Iterator[Table]:
    """A table for each choice of tiles and each mask, with a line per model and a column per metric."""
    places: dict[tuple[str, str], dict[str, dict[str, Row]]] = {}
    for row in rows:
        where = (place_of(row), f"{row['masking']} {row['mask_ratio']:g}")
        places.setdefault(where, {}).setdefault(row["model"], {})[row["metric"]] = row
    for (place, mask), found in places.items():
        there = [metric for metric in SHOWN if any(metric in one for one in found.values())]
        lines = [
            [label, *(one[metric]["value"] if metric in one else None for metric in there)]
            for label, one in found.items()
        ]
        first = found[next(iter(found))]["rmse"]
        counted = f"{first['n_tiles']} tiles in {first['n_groups']} groups"
        caption = f"{place}, {mask}: {counted}. Mean over bands; RMSE, MAE and bias in {_plain(first['unit'])}."
        yield Table(caption, ("model", *(SHOWN[metric] for metric in there)), lines)


def _bands(outcome: Outcome, plots: Sequence[tuple[Path, str]]) -> Section:
    tables = []
    for one, name in _selections(outcome):
        rows = [row for row in outcome.of(**name, domain=ALL, pixels=MASKED, metric="rmse") if row["band"] != ALL]
        names = [band.name for band in one.bands]
        lines: dict[tuple[str, str, str], dict[str, float]] = {}
        for row in rows:
            key = (row["model"], f"{row['dataset']}@{row['split']}", f"{row['masking']} {row['mask_ratio']:g}")
            lines.setdefault(key, {})[row["band"]] = row["value"]
        unit = _plain(one.selected.imagery.unit)
        cells = [[*key, *(found.get(band) for band in names)] for key, found in lines.items()]
        tables.append(Table(f"RMSE of masked pixels by band, {unit}.", ("model", "tiles", "mask", *names), cells))
    figures = [Figure(path, caption) for path, caption in plots if "_ratio" not in path.name]
    return Section("By band", (), (*figures, *tables))


def _selections(outcome: Outcome) -> Iterator[tuple[Scores, dict[str, str]]]:
    """Each data set once, with the name by which its rows are found."""
    seen = set()
    for one in outcome.scores:
        name = tiles_of(one).dataset
        if name not in seen:
            seen.add(name)
            yield one, {"dataset": name}


def _ratios(outcome: Outcome, plots: Sequence[tuple[Path, str]]) -> list[Section]:
    figures = tuple(Figure(path, caption) for path, caption in plots if "_ratio" in path.name)
    return [Section("By mask ratio", (), figures)] if figures else []


def _pictures(outcome: Outcome) -> Section:
    slides = []
    for panel in outcome.panels:
        indices = next(iter(composites(panel.scores.bands).values()))
        pictures = panel.tile.pictures(indices)
        models = {label: pictures[label] for label in outcome.labels}
        slides.append(Slide(f"{panel.scores.selected.name}: {panel.why}", pictures[""], models))
    text = (f"Best, median and worst are by the RMSE of {outcome.labels[0]} over the bands, under {outcome.masks[0]}.",)
    figures = [
        Figure(panel.path, f"{panel.scores.selected.name}, {panel.why}: {panel.tile.tile_id}")
        for panel in outcome.panels
    ]
    return Section(
        "Pictures", text if slides else ("No tile was asked for.",), (*([slider(slides)] if slides else ()), *figures)
    )


def _maps(maps: Sequence[Path]) -> list[Section]:
    if not maps:
        return []
    text = (
        "Every pixel is predicted once, while it is hidden, by complementary masks of cells drawn at random; none "
        "where less than half of what would be visible is valid. Errors are reconstruction - truth. The anomaly is the "
        "error of each band in standard deviations of the errors on the train split (all tiles, where there is none), "
        "under such masks; its first band "
        "is that of all bands together (Mahalanobis distance / root of the number of bands), about 1 where errors are "
        "usual.",
    )
    lines = [[path.name.split("_")[0], path.name] for path in maps]
    return [
        Section("On the map", text, (Table("Cloud Optimized GeoTIFFs beside this report.", ("map", "file"), lines),))
    ]


def _method(outcome: Outcome) -> Section:
    ranges = []
    for one, name in _selections(outcome):
        spans = ", ".join(f"{band.name} {span:.3g}" for band, span in zip(one.bands, one.range_C, strict=True))
        ranges.append(
            f"Data range of PSNR and SSIM on {name['dataset']}, {_plain(one.selected.imagery.unit)}: {spans}."
        )
    left = [
        f"{one.selected.name}: {one.left_out} tiles left out, in which too few cells are valid."
        for one in outcome.scores
        if one.left_out
    ]
    notes = [note for one in outcome.scores for note in one.fitted.notes]
    text = (
        "Every model sees the same visible cells of the same tiles; hidden is what is hidden from all. Masks depend on "
        "the seed, the tile, the ratio and the kind alone.",
        "Figures are of masked and valid pixels, in the unit of the data set; those of all bands are means of the "
        f"bands'. PSNR is capped at {HIGHEST_PSNR:g} dB. SSIM: Gaussian window of 11 pixels, sigma 1.5; visible pixels "
        "of the prediction are set to the truth, and the map is averaged over masked pixels whose window lies in the "
        "tile. "
        "ERGAS is of ratio 1. NDWI is that of open water (McFeeters 1996).",
        "The data range is six standard deviations of the train split (all tiles, where there is none), per band. "
        + " ".join(ranges),
        "Intervals (95 %) resample groups (those of the catalogue, else blocks, else scenes), the same for all models; "
        f"with fewer than {FEWEST_GROUPS} groups there is none, and differences.csv lists the differences group by "
        "group.",
        *dict.fromkeys((*left, *notes)),
    )
    return Section("How it was measured", text)


def _about(outcome: Outcome) -> Mapping[str, str]:
    names = sorted({one.index.name for one in outcome.scores})
    about = {
        f"model {one.label}": one.reference.text + (f" (MLflow run {run})" if (run := one.made_by()) else "")
        for one in outcome.candidates
    }
    return about | {
        "catalogue": str(outcome.catalog.path),
        "catalogue digest": outcome.catalog.digest(names),
        "tiles": "; ".join(f"{one.selected.name}: {len(one.index)}" for one in outcome.scores),
        "masks": ", ".join(map(str, outcome.masks)) + f", cells of {outcome.scores[0].fitted.cell} pixels",
        "seed": str(outcome.seed),
        "geomae": f"{__version__}, commit {commit()}",
    }


def _plain(text: str) -> str:
    return text.replace("_", " ")
