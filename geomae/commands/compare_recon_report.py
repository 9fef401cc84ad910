"""The report of a comparison: what is better where, and where the data cannot tell."""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from geomae import __version__
from geomae.catalog import Catalog
from geomae.catalog.splits import TRAIN
from geomae.commands.compare_recon_panels import Panel
from geomae.commands.run import commit
from geomae.evaluation.reconstruction import MASKED, VISIBLE, Candidate, MaskKind, ReconstructionScores
from geomae.evaluation.reconstruction_rows import Row, place_of, tiles_of
from geomae.files import file_name
from geomae.metrics.intervals import FEWEST_GROUPS
from geomae.metrics.reconstruction import ALL, HIGHEST_PSNR, figures
from geomae.reports.canvas import composites
from geomae.reports.page import Cell, Figure, Page, Section, Table, write_page
from geomae.reports.reconstruction_figures import Slide, error_by_band, error_by_ratio, mean_spectra, slider


@dataclass(frozen=True)
class ComparisonResult:
    """All that a comparison found."""

    catalog: Catalog
    candidates: Sequence[Candidate]
    scores: Sequence[ReconstructionScores]
    masks: Sequence[MaskKind]
    values: Sequence[Row]
    differences: Sequence[Row]
    panels: Sequence[Panel]
    seed: int

    @property
    def labels(self) -> list[str]:
        """The models in the order in which they were named."""
        return [one.label for one in self.candidates]

    def of(self, **fixed: Any) -> list[Row]:
        """The rows that have these values."""
        return [row for row in self.values if all(row[key] == value for key, value in fixed.items())]


MOST_PLACES = 4  # that the first sentence of a report names


def headline(values: Sequence[Row]) -> str:
    """The model with the least error in each place, in a sentence or two."""
    won: dict[str, list[str]] = {}
    places = _by_place(values)
    for where, rows in list(places.items())[:MOST_PLACES]:
        best = min(rows, key=lambda row: float(row["value"]))
        won.setdefault(best["model"], []).append(f"{where}: RMSE {_figure(best['value'])} {_unit(best)}")
    sentences = [f"{model} has the least error on {'; on '.join(found)}." for model, found in won.items()]
    return " ".join([*sentences, "More below."] if len(places) > MOST_PLACES else sentences)


def summarize_differences(differences: Sequence[Row]) -> tuple[str, ...]:
    """What is said of every model beside the first, a text for each choice of tiles and mask."""
    texts = []
    for where, rows in _by_place(differences).items():
        whole = [row for row in rows if row["group"] == ALL]
        verdicts = "; ".join(_verdicts(whole, [row for row in rows if row["group"] != ALL]))
        few = any(row["low"] is None for row in whole)
        note = f" Its {whole[0]['n_groups']} groups are too few for an interval." if few else ""
        texts.append(f"{where}, RMSE in {_unit(whole[0])} beside {whole[0]['reference']}: {verdicts}.{note}")
    return tuple(texts)


def counted(rows: Sequence[Row]) -> list[Row]:
    """The rows that are told in words: RMSE of masked pixels, mean over bands, all domains together."""
    fixed = {"pixels": MASKED, "metric": "rmse", "band": ALL, "domain": ALL}
    return [row for row in rows if all(row[key] == value for key, value in fixed.items())]


def _verdicts(whole: Sequence[Row], grouped: Sequence[Row]) -> Iterator[str]:
    """How each model compares with the first in RMSE, mean over bands."""
    for row in whole:
        model, difference = row["model"], row["difference"]
        more = f"{'less' if difference < 0 else 'more'} by {_figure(abs(difference))}"
        if row["low"] is not None:
            interval = f"95 % interval of the difference {_figure(row['low'])} to {_figure(row['high'])}"
            unclear = row["low"] <= 0 <= row["high"]
            yield f"{model} cannot be told apart ({interval})" if unclear else f"{model} errs {more} ({interval})"
        elif difference == 0:
            yield f"{model} errs as much"
        else:
            groups = [one["difference"] for one in grouped if one["model"] == model]
            agree = sum((one < 0) == (difference < 0) for one in groups)
            yield f"{model} errs {more}, and so it does in {agree} of {len(groups)} groups"


def _by_place(rows: Sequence[Row]) -> dict[str, list[Row]]:
    found: dict[str, list[Row]] = {}
    for row in counted(rows):
        found.setdefault(f"{place_of(row)} ({row['masking']} {row['mask_ratio']:g})", []).append(row)
    return found


def _figure(value: float) -> str:
    return f"{value:.3g}"


def _unit(row: Row) -> str:
    return str(row["unit"]).replace("_", " ")


def domains(outcome: ComparisonResult) -> list[Section]:
    """Tables with a line per domain and a column per model; none where there is a single domain.

    The source is the domain with most tiles of the first selection; of its train split, where that has a part in it.
    """
    mask = outcome.masks[0]
    rows = outcome.of(pixels=MASKED, metric="rmse", band=ALL, masking=mask.kind, mask_ratio=mask.ratio)
    told_apart = {(row["dataset"], row["split"]) for row in rows if row["domain"] != ALL}
    places = [row for row in rows if row["domain"] != ALL or (row["dataset"], row["split"]) not in told_apart]
    by_place: dict[str, list[Row]] = {}  # of every model, in the order in which they were named
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
    for place, found in by_place.items():
        unit = str(found[0]["unit"]).replace("_", " ")
        errors.append([place, *(row["value"] for row in found), unit, found[0]["n_tiles"]])
        against = [_ratio(row, base) for row, base in zip(found, by_place[source], strict=True)]
        ratios.append([place, *against, found[0]["n_tiles"], found[0]["n_groups"]])
    text = (
        f"The source is {source}. A ratio above 1 says that a model reconstructed these tiles worse than those of the "
        "source: a sign of a gap that needs no label. It has no interval; of few groups it says little. Domains also "
        "differ in how hard they are: compare a model's ratio with those of the baselines, which were trained on none.",
    )
    caption = f"masked pixels, {mask}, mean over bands."
    tables = (
        Table(f"Target / source: ratio of RMSE, {caption}", ("domain", *outcome.labels, "tiles", "groups"), ratios),
        Table(f"RMSE, {caption}", ("domain", *outcome.labels, "unit", "number of tiles"), errors),
    )
    return [Section("By domain", text, tables)]


def _ratio(row: Row, source: Row) -> float | None:
    """How an error compares with that on the source, where both have one unit."""
    return float(row["value"] / source["value"]) if row["unit"] == source["unit"] and source["value"] > 0 else None


def draw_plots(out: Path, outcome: ComparisonResult) -> Iterator[tuple[Path, str]]:
    """Publish spectra and errors by band under the first mask, and errors by ratio where there are several.

    Gives each path with its caption, one selection after the other.
    """
    mask = outcome.masks[0]
    for one in outcome.scores:
        name, unit, stem = one.selected.name, one.selected.imagery.unit, file_name(one.selected.name)
        total = {
            label: one.sums[label, mask, MASKED].weighted(np.ones((1, len(one.index)))) for label in outcome.labels
        }
        first = total[outcome.labels[0]]
        with np.errstate(invalid="ignore", divide="ignore"):
            truth_C = (first.truth_TC / first.pixels_TC)[0]
            means = {label: truth_C + (sums.error_TC / sums.pixels_TC)[0] for label, sums in total.items()}
            errors = {label: np.sqrt(sums.square_TC / sums.pixels_TC)[0] for label, sums in total.items()}
        path = out / f"spectra_{stem}.png"
        mean_spectra(path, one.bands, truth_C, means, unit, f"{name}: mean spectrum of masked pixels, {mask}")
        yield (
            path,
            f"{name}: the mean spectrum of masked pixels, true and reconstructed, against wavelength; below, the bias.",
        )
        path = out / f"error_by_band_{stem}.png"
        error_by_band(path, [band.name for band in one.bands], errors, unit, f"{name}: error by band, {mask}")
        yield path, f"{name}: RMSE of masked pixels against the band, {mask}."
        for kind in dict.fromkeys(mask.kind for mask in outcome.masks):
            ratios = sorted(mask.ratio for mask in outcome.masks if mask.kind == kind)
            if len(ratios) > 1:
                path = out / f"error_by_ratio_{stem}_{kind}.png"
                hidden = np.array([one.hidden(MaskKind(kind, ratio)) for ratio in ratios])
                curves = {
                    label: (hidden, np.array([_rmse(one, label, MaskKind(kind, ratio)) for ratio in ratios]))
                    for label in outcome.labels
                }
                error_by_ratio(path, curves, unit, f"{name}: error by mask ratio, {kind} masks")
                yield path, f"{name}: RMSE of masked pixels, mean over bands, against the hidden share ({kind} masks)."


def _rmse(scores: ReconstructionScores, label: str, mask: MaskKind) -> float:
    sums = scores.sums[label, mask, MASKED].weighted(np.ones((1, len(scores.index))))
    return float(figures(sums, scores.bands, scores.range_C)["rmse", ALL][0])


SHOWN = {
    "rmse": "RMSE", "mae": "MAE", "bias": "bias", "psnr": "PSNR, dB", "ssim": "SSIM", "spectral_angle": "angle, °",
    "ergas": "ERGAS", "ndvi_rmse": "NDVI RMSE", "ndwi_rmse": "NDWI RMSE",
}  # fmt: skip


def write_report(out: Path, outcome: ComparisonResult, maps: Sequence[Path] = ()) -> list[Path]:
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
    page = Page("Reconstructions compared", headline(outcome.values), tuple(sections), _about(outcome))
    write_page(out / "report.html", page)
    return [*(path for path, _ in plots), out / "report.html"]


def _summary(outcome: ComparisonResult) -> Section:
    tables = (*_tables(outcome.of(domain=ALL, pixels=MASKED, band=ALL)), *_groups(outcome))
    return Section("Which is better", summarize_differences(outcome.differences), tables)


def _groups(outcome: ComparisonResult) -> Iterator[Table]:
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


def _visible(outcome: ComparisonResult) -> Section:
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


def _bands(outcome: ComparisonResult, plots: Sequence[tuple[Path, str]]) -> Section:
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


def _selections(outcome: ComparisonResult) -> Iterator[tuple[ReconstructionScores, dict[str, str]]]:
    """Each data set once, with the name by which its rows are found."""
    seen = set()
    for one in outcome.scores:
        name = tiles_of(one).dataset
        if name not in seen:
            seen.add(name)
            yield one, {"dataset": name}


def _ratios(outcome: ComparisonResult, plots: Sequence[tuple[Path, str]]) -> list[Section]:
    figures = tuple(Figure(path, caption) for path, caption in plots if "_ratio" in path.name)
    return [Section("By mask ratio", (), figures)] if figures else []


def _pictures(outcome: ComparisonResult) -> Section:
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


def _method(outcome: ComparisonResult) -> Section:
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


def _about(outcome: ComparisonResult) -> Mapping[str, str]:
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
