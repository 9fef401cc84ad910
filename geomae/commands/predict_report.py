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
from geomae.prediction.record import PredictorRecord, namesake_remark, scale_remark
from geomae.prediction.reference_points import ReferencePoints, Sample, place_sample, rows_of_sample
from geomae.prediction.scene_maps import FEW_CELLS, NODATA, MapJob, MapSummary, most_telling, summarise_map
from geomae.prediction.shares import TargetShares, share_sentences
from geomae.prediction.tiles import TilePredictions, as_number, of_classes, of_map, of_numbers, write_predictions
from geomae.rasters import read_map
from geomae.reports.page import About, Figure, Link, Page, Section, Table, link_run, write_page
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


def describe_plan(session: Session, fitted: Fitted, jobs: Sequence[MapJob]) -> list[str]:
    """Print what will be mapped and how; returns remarks for the reader of the maps."""
    record = fitted[0][1].record
    remarks: list[str] = [] if record.renumbered is None else [record.renumbered]
    for selected, model in fitted:
        notes = (
            scale_remark(record, selected.imagery, selected.name),
            namesake_remark(record, selected.index, selected.name),
        )
        remarks += [note for note in notes if note is not None]
        labels = [one for one in selected.index.tiles["label"].tolist() if one is not None] if record.of_numbers else []
        strange = sum(as_number(one) is None for one in labels)
        if strange:
            remarks.append(f"{selected.name}: {strange} labels are not numbers, and are not scored")
        own = [job for job in jobs if job.selected is selected]
        small = sum(job.lattice.padded for job in own)
        if small:
            remarks.append(
                f"{selected.name}: {small} of {len(own)} scenes are smaller than a window of {record.tile} pixels; "
                "the rest of the window is invalid"
            )
        without = selected.index.tiles["scene"].nunique() - len(own)
        if own and without:
            remarks.append(f"{selected.name}: {without} scenes are no larger than a cell of a map; they are not mapped")
        most = max((max(job.lattice.rows, job.lattice.cols) for job in own), default=FEW_CELLS)
        if most < FEW_CELLS and not record.of_pixels:
            remarks.append(
                f"{selected.name}: a map has at most {most} x {most} cells of {own[0].lattice.cell} pixels, since the "
                "model predicts one value per tile; a smaller `tile.stride` gives more cells, and labels of pixels "
                "(rasters or polygons with --task segmentation) give a value for every pixel"
            )
        sizes = sorted(set(selected.index.tiles["size"].tolist()) - {record.tile})
        if sizes and not record.of_pixels:
            remarks.append(
                f"{selected.name}: its tiles have {', '.join(map(str, sizes))} pixels per side, and the model was "
                f"trained on {record.tile}; maps use windows of {record.tile}"
            )
        if session.common.dry_run:
            cell = "pixels" if record.of_pixels else f"cells of {own[0].lattice.cell} pixels" if own else "nothing"
            session.screen.result(
                f"predict {selected.name}: {len(selected.index)} tiles; maps of {len(own)} scenes in {cell}, "
                f"{sum(job.windows for job in own)} windows of {record.tile} pixels"
            )
            for note in model.notes:
                session.screen.result(f"{selected.name}: {note}")
    for remark in remarks:
        session.screen.warn(remark)
    return remarks


def publish(
    analysis: AnalysisRun, session: Session, reference: ReferencePoints | None, record: PredictorRecord, fitted: Fitted,
    jobs: Sequence[MapJob], values: Sequence[Floats], shares: TargetShares | None, paths: Sequence[Path],
    remarks: Sequence[str],
) -> None:  # fmt: skip
    """Publish tables, pictures, report and summary; print the results."""
    out = analysis.out
    tiles = _tiles(record, fitted, values, jobs, out)
    assessed = [part for one in tiles for part in assess(one, record, jobs, out, analysis.common.seed)]
    areas = None if record.of_numbers or not jobs else measure_areas(record, jobs, out)
    sample = None if reference is None else place_sample(reference, record, jobs, out)
    estimate = None if sample is None or areas is None else sample.estimate(record, areas)
    notes = [*remarks, *(one.remark for one in assessed if one.remark), *(sample.remarks if sample else ())]
    results = Results(record, tiles, assessed, areas, sample, estimate, shares, notes)
    for note in notes[len(remarks) :]:
        analysis.screen.warn(note)
    write_predictions(out / "predictions.parquet", record, tiles)
    tables = [out / "predictions.parquet"]
    if rows := results.accuracy_rows():
        write_csv(out / "accuracy.csv", COLUMNS, [row.csv_row() for row in rows])
        tables.append(out / "accuracy.csv")
    if areas is not None:
        write_csv(out / "area.csv", AREA_COLUMNS, area_rows(record, areas, estimate))
        tables.append(out / "area.csv")
    tables += [out / "maps.csv"] if len(jobs) > MOST_MAPS else []
    sections = [
        *_map_sections(results, jobs, out), *_accuracy_sections(results, out), *_area_sections(results),
        _origin(record, [selected.name for selected, _ in fitted]),
    ]  # fmt: skip
    lead = " ".join(_sentences(results))
    title = f"{' + '.join(selected.name for selected, _ in fitted)}, predicted"
    write_page(out / "report.html", Page(title, lead, tuple(sections), _about(analysis, session, record, fitted)))
    metrics = dict(_metrics(results)) | {"tiles": sum(map(len, tiles)), "maps": len(jobs)}
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
        said = f"{one.name}: {value} over {first.tiles:,} tiles in {first.groups:,} groups"
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
    record = results.record
    many = len(jobs) > MOST_MAPS
    summaries = [summarise_map(job, record, out) for job in jobs] if many else []
    figures = []
    for job in [one.job for one in most_telling(summaries, MOST_MAPS)] if many else jobs:
        path = out / f"map_{job.name}.png"
        _draw(path, job, results, out)
        figures.append(Figure(path, f"{job.selected.index.name}: {job.scene.id}, in {job.path(out).name}"))
    what = "a pixel of the scene" if record.of_pixels else f"{jobs[0].lattice.cell} x {jobs[0].lattice.cell} pixels"
    text = [
        f"A pixel of the map is {what}; the model saw overlapping windows of {record.tile} pixels. Their predictions "
        "are averaged with weights that fall towards the borders of a window. Beige: no valid pixel. The GeoTIFFs are "
        "beside this page, with colours and names of classes, and a style for QGIS."
    ]
    if many:
        low, high = MOST_MAPS - MOST_MAPS // 2, MOST_MAPS // 2
        by = "the predicted numbers are lowest" if record.of_numbers else "the confidence is lowest"
        other = "where they are highest" if record.of_numbers else "where it is highest"
        text.append(
            f"{MOST_MAPS} of {len(jobs)} maps are shown: {low} where {by}, and {high} {other}, on average over the "
            "map. The table and maps.csv list all maps."
        )
    yield Section("Maps", (*text, *results.remarks), (*figures, *_map_table(summaries, record, out)))


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
    caption = f"Overlapping windows of {record.tile} pixels, averaged.{corrected} Beige: no valid pixel."
    title = f"{job.selected.index.name}: {job.scene.id}"
    predicted_picture(path, scene, legend, title=title, caption=caption, quantity=f"predicted {record.unit}".rstrip())


def _accuracy_sections(results: Results, out: Path) -> Iterator[Section]:
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
    rows = results.accuracy_rows()
    if rows:
        header = ("selection", "domain", "class", "metric", "value", "low", "high", "tiles", "groups", "note")
        cells = [
            (
                row.dataset,
                row.domain,
                row.of,
                row.metric,
                row.value,
                *(row.interval or (None, None)),
                row.tiles,
                row.groups,
                row.note or None,
            )
            for row in rows
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


def _area_sections(results: Results) -> Iterator[Section]:
    if results.areas is None:
        return
    every = [
        tuple(None if row[name] == "" else row[name] for name in AREA_COLUMNS)
        for row in area_rows(results.record, results.areas, results.estimate)
    ]
    rows = every if len(results.areas.of_scene) <= MOST_MAPS else [row for row in every if row[0] == ALL]
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


def _metrics(results: Results) -> Iterator[tuple[str, float]]:
    """Metrics over all domains and classes, by selection."""
    for row in results.accuracy_rows():
        if row.domain == ALL and row.of == ALL:
            yield f"{row.metric}.{file_name(row.dataset)}", row.value
