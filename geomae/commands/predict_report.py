"""Output of `geomae predict` beside the maps: tables, pictures, report and summary; the results are also printed."""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from geomae.commands.run import AnalysisRun
from geomae.commands.session import Session
from geomae.evaluation.accuracy import COLUMNS, AccuracyRow
from geomae.files import file_name, write_csv
from geomae.metrics.area import SampleEstimate
from geomae.metrics.predictions import ALL, FEWEST_GROUPS, Floats
from geomae.prediction.assessment import (
    AREA_COLUMNS,
    LEARNED,
    Assessed,
    MapArea,
    area_rows,
    assess,
    measure_areas,
)
from geomae.prediction.models import WindowModel
from geomae.prediction.record import PredictorRecord
from geomae.prediction.reference_points import (
    ReferencePoints,
    Sample,
    matrix_columns,
    matrix_rows,
    place_sample,
    rows_of_sample,
)
from geomae.prediction.scene_maps import NODATA, MapJob, MapSummary, most_telling, summarise_map
from geomae.prediction.shares import TargetShares, share_sentences
from geomae.prediction.tiles import TilePredictions, of_classes, of_map, of_numbers, write_predictions
from geomae.rasters import read_map
from geomae.reports.page import About, Figure, Link, Page, Section, Table, link_run, write_page
from geomae.tiles.pixel_areas import HECTARE, pixel_hectares
from geomae.tiles.selection import Selection

MOST_MAPS = 6  # shown on the page; the folder has all
MOST_ROWS = 200  # of the table of maps; maps.csv has all
MAP_COLUMNS = ("dataset", "scene", "map", "valid", "most_frequent", "share", "level")
METRICS = {"accuracy": "overall accuracy", "f1": "mean F1", "mean_iou": "mean IoU", "ece": "calibration error",
           "r2": "R\N{SUPERSCRIPT TWO}", "rmse": "RMSE", "mae": "MAE"}  # fmt: skip
Fitted = Sequence[tuple[Selection, WindowModel]]


@dataclass(frozen=True)
class Results:
    """Everything that is reported on the predictions of a run."""

    record: PredictorRecord
    tiles: Sequence[TilePredictions]
    assessed: Sequence[Assessed]
    areas: MapArea | None
    sample: Sample | None
    estimate: SampleEstimate | None
    shares: TargetShares | None
    remarks: Sequence[str]

    def accuracy_rows(self) -> list[AccuracyRow]:
        """The rows of accuracy.csv."""
        rows = [row for one in self.assessed for row in one.rows]
        if self.sample is not None and self.estimate is not None:
            rows += rows_of_sample(self.sample, self.estimate, self.record)
        return rows

    def metrics(self) -> Iterator[tuple[str, float]]:
        """Metrics over all domains and classes, by selection."""
        for row in self.accuracy_rows():
            if row.domain == ALL and row.of == ALL:
                yield f"{row.metric}.{file_name(row.dataset)}", row.value


def publish(
    analysis: AnalysisRun, session: Session, reference: ReferencePoints | None, record: PredictorRecord, fitted: Fitted,
    jobs: Sequence[MapJob], values: Sequence[Floats], shares: TargetShares | None, paths: Sequence[Path],
    remarks: Sequence[str],
) -> None:  # fmt: skip
    """Publish tables, pictures, report and summary; print the results. `remarks` were printed before the work."""
    out, said = analysis.out, remarks
    tiles = _tiles(record, fitted, values, jobs, out)
    assessed = [part for one in tiles for part in assess(one, record, jobs, out, analysis.common.seed)]
    areas = None if record.of_numbers or not jobs else measure_areas(record, jobs, out)
    sample = None if reference is None else place_sample(reference, record, jobs, out, areas)
    estimate = None if sample is None or areas is None else sample.estimate(record, areas)
    if reference is not None and sample is not None:  # the maps show which of them a point has its class from
        remarks = [*(one for one in remarks if one not in reference.remarks), *sample.origin]
    notes = [*remarks, *(one.remark for one in assessed if one.remark), *(sample.remarks if sample else ())]
    results = Results(record, tiles, assessed, areas, sample, estimate, shares, notes)
    for note in (one for one in notes if one not in said):
        analysis.screen.warn(note)
    write_predictions(out / "predictions.parquet", record, tiles)
    tables = [out / "predictions.parquet"]
    if rows := results.accuracy_rows():
        write_csv(out / "accuracy.csv", COLUMNS, [row.csv_row() for row in rows])
        tables.append(out / "accuracy.csv")
    if areas is not None:
        write_csv(out / "area.csv", AREA_COLUMNS, area_rows(record, areas, estimate))
        tables.append(out / "area.csv")
    if areas is not None and estimate is not None:
        write_csv(out / "error_matrix.csv", matrix_columns(record), matrix_rows(record, estimate, areas))
        tables.append(out / "error_matrix.csv")
    tables += [out / "maps.csv"] if len(jobs) > MOST_MAPS else []
    sections = [
        *_map_sections(results, jobs, out), *_accuracy_sections(results, out), *_sample_sections(results),
        *_area_sections(results, MOST_MAPS), _origin(record, [selected.name for selected, _ in fitted]),
    ]  # fmt: skip
    lead = " ".join(_sentences(results))
    title = f"{' + '.join(selected.name for selected, _ in fitted)}, predicted"
    write_page(out / "report.html", Page(title, lead, tuple(sections), _about(analysis, session, record, fitted)))
    metrics = dict(results.metrics()) | {"tiles": sum(map(len, tiles)), "maps": len(jobs)}
    inputs: dict[str, Any] = {"remarks": notes, "classes": list(record.classes), "model_run": record.run}
    inputs |= {"lineage": [str(step) for step in record.steps]}
    inputs |= {} if shares is None else {"shares": shares.record()}
    analysis.finish(metrics, inputs, [*tables, out / "report.html", *paths, *sorted(out.glob("*.png"))])
    analysis.screen.close()
    for sentence in _sentences(results):
        analysis.screen.result(sentence)
    analysis.screen.result(f"report: {out / 'report.html'}")


def _tiles(
    record: PredictorRecord, fitted: Fitted, values: Sequence[Floats], jobs: Sequence[MapJob], out: Path
) -> list[TilePredictions]:
    if record.of_pixels:
        return [of_map(selected, record, jobs, out) for selected, _ in fitted]
    if record.of_numbers:
        return [of_numbers(one, record, value[:, 0]) for (one, _), value in zip(fitted, values, strict=True)]
    return [of_classes(one, record, value) for (one, _), value in zip(fitted, values, strict=True)]


def _sentences(results: Results) -> Iterator[str]:
    """Sentences on the accuracy of the predictions, with its uncertainty."""
    if not results.assessed and results.estimate is None:
        yield "No tile has a label, so the accuracy of the predictions is unknown."
    for one in results.assessed:
        first = next(row for row in one.rows if row.of == ALL and row.domain == ALL)
        value = f"{METRICS.get(first.metric, first.metric)} {first.value:.3f}"
        if first.interval is not None:
            value += f" [{first.interval[0]:.3f}, {first.interval[1]:.3f}]"
        said = f"{one.name}: {value} over {first.tiles:,} tiles in {first.groups:,} group{'s' * (first.groups != 1)}"
        if one.name.endswith(LEARNED):
            yield f"{said}; the model was trained or chosen on these tiles, so this overestimates its accuracy."
        elif first.interval is None:
            yield f"{said}, fewer than the {FEWEST_GROUPS} that an interval takes."
        else:
            yield f"{said}."
    if results.estimate is not None:
        overall, interval = results.estimate.overall, results.estimate.overall.interval(0, most=1)
        span = "" if interval is None else f" [{interval[0]:.3f}, {interval[1]:.3f}]"
        points = int(results.estimate.points_K.sum())
        yield f"Design-based, from {points:,} reference points: overall accuracy {overall.value_X[0]:.3f}{span}."
        if results.sample is not None and (results.sample.origin or results.sample.remarks):
            yield "Remarks on the points limit what these estimates hold for (see Accuracy from reference points)."
        yield from (f"{note}." for note in results.estimate.notes)
        without = results.estimate.without_interval(results.record.classes)
        yield from [] if without is None else [f"{without}."]
    if results.shares is not None:
        yield from share_sentences(results.shares, results.record)


def _map_sections(results: Results, jobs: Sequence[MapJob], out: Path) -> Iterator[Section]:
    if not jobs:
        nothing = "No scene has more than one tile, so there is no map; the table has the prediction of every tile."
        yield Section("Maps", (nothing, *results.remarks))
        return
    record, sample = results.record, results.sample
    of_points = () if sample is None else (*sample.origin, *sample.remarks)
    remarks = [one for one in results.remarks if one not in of_points]  # these are with the accuracy from the points
    many = len(jobs) > MOST_MAPS
    summaries = [summarise_map(job, record, out) for job in jobs] if many else []
    figures = []
    for job in [one.job for one in most_telling(summaries, MOST_MAPS)] if many else jobs:
        path = out / f"map_{job.name}.png"
        _draw(path, job, results, out)
        figures.append(Figure(path, f"{job.selected.index.name}: {job.scene.id}, in {job.path(out).name}"))
    cell = jobs[0].lattice.cell
    what = "a pixel of the scene" if record.of_pixels else f"{cell} x {cell} pixels of the scene"
    seen = f"{record.tile} pixels{_metres(jobs[0], record.tile)}"
    windows = f"windows of {seen} that do not overlap."
    if jobs[0].lattice.across > 1:
        windows = (
            f"overlapping windows of {seen}. Their predictions are averaged with weights that fall towards the borders "
            "of a window."
        )
    text = [
        f"A pixel of the map is {what}{_metres(jobs[0], cell)}; the model saw {windows} Beige: no valid pixel. The "
        "GeoTIFFs are beside this page, with colours and names of classes, and a style for QGIS."
    ]
    if many:
        low, high = MOST_MAPS - MOST_MAPS // 2, MOST_MAPS // 2
        by = "the predicted numbers are lowest" if record.of_numbers else "the confidence is lowest"
        other = "where they are highest" if record.of_numbers else "where it is highest"
        text.append(
            f"{MOST_MAPS} of {len(jobs)} maps are shown: {low} where {by}, and {high} {other}, on average over the "
            "map. The table and maps.csv list all maps."
        )
    yield Section("Maps", (*text, *remarks), (*figures, *_map_table(summaries, record, out)))


def _metres(job: MapJob, pixels: int) -> str:
    """The length of some pixels of the scene, in metres, in the middle of the map; "" where it is unknown."""
    middle = job.grid.height // 2
    hectares_1W = pixel_hectares(job.grid, slice(middle, middle + 1))
    if hectares_1W is None:
        return ""
    length = pixels / job.lattice.cell * float(np.sqrt(hectares_1W.mean() * HECTARE))
    return f" ({length:.0f} m)" if length >= 10 else f" ({length:.1f} m)"


def _map_table(summaries: Sequence[MapSummary], record: PredictorRecord, out: Path) -> Iterator[Table]:
    """A table of the maps, if not all are shown; its rows on the page are limited, maps.csv has all."""
    if not summaries:
        return
    rows = [
        (
            one.job.selected.index.name,
            one.job.scene.id,
            one.job.path(out).name,
            one.valid,
            one.most,
            one.share,
            one.level,
        )
        for one in most_telling(summaries, len(summaries))
    ]
    write_csv(out / "maps.csv", MAP_COLUMNS, [dict(zip(MAP_COLUMNS, row, strict=True)) for row in rows])
    level = f"mean, {record.unit}".rstrip(", ") if record.of_numbers else "mean confidence, %"
    shown = [(row[0], row[1], Link(row[2], out / row[2]), *row[3:]) for row in rows[:MOST_ROWS]]
    rest = f", the first {MOST_ROWS} of {len(rows)} by it" if len(rows) > MOST_ROWS else ""
    header = ("data set", "scene", "map", "valid share", "most frequent class", "its share", level)
    yield Table(f"maps.csv: figures of every map{rest}", header, shown)


def _draw(path: Path, job: MapJob, results: Results, out: Path) -> None:
    from geomae.reports.prediction_figures import LegendEntry, PredictedScene, predicted_picture  # matplotlib
    from geomae.reports.scene_pictures import PICTURE_PX, scene_picture

    record, lattice = results.record, job.lattice
    scene_grid = job.selected.index.grids[job.number]
    assert scene_grid is not None
    picture = scene_picture(job.selected.index.source, job.scene, scene_grid)
    shrink = max(1, -(-max(lattice.rows, lattice.cols) // PICTURE_PX))
    shape = (-(-lattice.rows // shrink), -(-lattice.cols // shrink))
    code_yx = read_map(str(job.path(out)), shape=shape)[0]
    confidence_yx = None if record.of_numbers else read_map(str(job.path(out, "confidence")), shape=shape)[0]
    scale = picture.scale
    scene = PredictedScene(
        picture.truth_HW3, picture.composite, code_yx, confidence_yx, lattice.height * scale, lattice.width * scale,
        lattice.rows * lattice.cell * scale, lattice.cols * lattice.cell * scale, picture.unit, NODATA,
    )  # fmt: skip
    area_K = None if results.areas is None else results.areas.of_scene[job.name]
    there = set(np.unique(code_yx).tolist())
    legend = [
        LegendEntry(code, name, colour, "" if area_K is None else f"{area_K[place]:,.4g} ha")
        for place, (code, name, colour) in enumerate(
            zip(record.map_codes, record.classes, record.colours, strict=True)
        )
        if code in there or len(record.classes) <= 12
    ]  # fmt: skip
    corrected = "" if results.shares is None else f" Corrected for class shares, {results.shares.origin}."
    seen = f"{record.tile} pixels{_metres(job, record.tile)}"
    windows = f"Overlapping windows of {seen}, averaged" if job.lattice.across > 1 else f"Windows of {seen}"
    caption = f"{windows}.{corrected} Beige: no valid pixel."
    title = f"{job.selected.index.name}: {job.scene.id}"
    predicted_picture(path, scene, legend, title=title, caption=caption, quantity=f"predicted {record.unit}".rstrip())


def _accuracy_sections(results: Results, out: Path) -> Iterator[Section]:
    """The accuracy on labelled tiles, with confusion and reliability."""
    from geomae.reports.probe_figures import confusion_picture, reliability_picture  # matplotlib: after the work

    scored = [one for one in results.assessed if one.confusion_KK is not None]
    parts: list[Figure | Table] = []
    if scored:
        unit = "pixels" if results.record.of_pixels else "tiles"
        matrices = [(one.name, one.confusion_KK) for one in scored if one.confusion_KK is not None]
        path = out / "confusion.png"
        confusion_picture(path, matrices, results.record.classes, title="Confusion", unit=unit)
        parts.append(Figure(path, f"Rows: true class; each cell is a share of the {unit} of its row."))
        curve = out / "reliability.png"
        reliability_picture(curve, [(one.name, one.reliability) for one in scored], unit)
        parts.append(Figure(curve, "Accuracy by confidence; on the diagonal, confidence equals accuracy."))
    rows = [row for one in results.assessed for row in one.rows]
    if rows:
        header = ("selection", "domain", "class", "metric", "value", "low", "high", "tiles", "groups")
        cells = [
            (row.dataset, row.domain, row.of, row.metric, row.value, *_span(row), row.tiles, row.groups) for row in rows
        ]
        parts.append(Table("accuracy.csv", header, cells))
    text: tuple[str, ...] = (
        "Accuracy is measured on the selected tiles only. Intervals are 95 % over resampled groups; with fewer than "
        f"{FEWEST_GROUPS} groups there is none. Tiles that overlap tiles on which the model was trained or chosen are "
        "reported separately.",
    )
    if "probe" in results.record.about and not results.record.of_numbers:
        text += (
            "The class is the one with the highest calibrated probability. Calibration adds a bias to each class, so "
            "this accuracy can differ from that in probe.csv, where scores are not calibrated.",
        )
    if parts:
        yield Section("Accuracy", text, tuple(parts))


def _sample_sections(results: Results) -> Iterator[Section]:
    """The accuracy of the map from reference points, with the error matrix."""
    sample, estimate, areas, record = results.sample, results.estimate, results.areas, results.record
    if sample is None or estimate is None or areas is None:
        return
    by_class = sample.strata == record.classes
    strata = "the classes of the map" if by_class else f"the {len(sample.strata)} scenes"
    text = (
        f"From {len(sample.map_N):,} reference points, as shares of the area of the map, after "
        f"{'Olofsson et al. (2014)' if by_class else 'Stehman (2014)'}. The strata are {strata}. The estimates hold "
        "for points that were drawn at random over the map, or at random within each stratum, and independently of the "
        "training data. Intervals are 95 %, by the normal approximation.",
        "User's accuracy is the share of the area that the map shows as a class where it is right; producer's accuracy "
        "is the share of the true area of a class that the map shows as this class.",
    )
    rows = [
        (row.of, row.metric, row.value, *_span(row), row.tiles, row.note or None)
        for row in rows_of_sample(sample, estimate, record)
    ]
    header = ("class", "metric", "value", "low", "high", "points", "note")
    yield Section(
        "Accuracy from reference points",
        (*text, *sample.origin, *sample.remarks),
        (Table("accuracy.csv: estimates from the points", header, rows), *_matrix_tables(results, estimate, areas)),
    )


def _matrix_tables(results: Results, estimate: SampleEstimate, areas: MapArea) -> Iterator[Table]:
    """The error matrix in points and in shares of the area, and the strata where they are not the map's classes."""
    rows = [tuple(row.values()) for row in matrix_rows(results.record, estimate, areas)]
    names = results.record.classes
    caption = "error_matrix.csv: rows are classes of the map, columns are reference classes; in {}"
    counts = [(name, *cells[: len(names)], n, f"{share:.1%}") for name, n, share, *cells in rows]
    header = ("map class", *names, "points", "share of the map")
    yield Table(caption.format("points"), header, counts)
    shares = [
        (name, *(f"{cell:.2%}" for cell in cells[len(names) :]), f"{sum(cells[len(names) :]):.2%}")
        for name, _, _, *cells in rows
    ]
    yield Table(caption.format("estimated shares of the area"), ("map class", *names, "all"), shares)
    sample = results.sample
    if sample is not None and sample.strata != names:
        each = zip(sample.strata, estimate.count_S.tolist(), estimate.weight_S.tolist(), strict=True)
        strata = [(name, count, f"{weight:.1%}") for name, count, weight in each]
        yield Table("Strata", ("stratum", "points", "share of the area of strata with points"), strata)


def _span(row: AccuracyRow) -> tuple[float | None, float | None]:
    return row.interval or (None, None)


def _area_sections(results: Results, most: int) -> Iterator[Section]:
    """The areas of each scene, or of all together where there are more than `most`."""
    if results.areas is None:
        return
    every = [
        tuple(None if row[name] == "" else row[name] for name in AREA_COLUMNS)
        for row in area_rows(results.record, results.areas, results.estimate)
    ]
    rows = every if len(results.areas.of_scene) <= most else [row for row in every if row[0] == ALL]
    text = ["Hectares are measured on an equal-area grid. Areas counted on the map contain the errors of the map."]
    if results.sample is None:
        text.append("Without reference points (--sample) the error of these areas is unknown.")
    else:
        text.append("Estimates and 95 % intervals are design-based, from the reference points (Olofsson et al. 2014).")
    yield Section(
        "Areas",
        tuple(text),
        (Table(f"area.csv{' has every scene; all together' if len(rows) < len(every) else ''}", AREA_COLUMNS, rows),),
    )


def _origin(record: PredictorRecord, targets: Sequence[str]) -> Section:
    """The source, the adaptation and the target behind the predictions."""
    steps = [f"{number}. {step}." for number, step in enumerate(record.steps, start=1)]
    return Section("Origin of the predictions", (*steps, f"{len(steps) + 1}. Predicted here: {', '.join(targets)}."))


def _about(analysis: AnalysisRun, session: Session, record: PredictorRecord, fitted: Fitted) -> About:
    return {
        "model": link_run(str(analysis.params["model"])),
        "digest of the model": str(analysis.params["model_digest"]),
        **{str(key): str(value) for key, value in record.about.items()},
        **{f"input from {selected.name}": "; ".join(model.notes) for selected, model in fitted},
        "catalogue": str(session.catalog.path),
        "target": ", ".join(selected.name for selected, _ in fitted),
        "precision": session.precision,
        "seed": str(analysis.common.seed),
    }
