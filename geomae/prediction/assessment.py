"""Assessment of predictions: accuracy where there are labels, and areas by counting pixels.

T tiles, K classes, N rows (tiles or pixels), H W pixels of a tile, h rows of a map
"""

from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import shapely
from numpy.typing import NDArray

from geomae.evaluation.accuracy import AccuracyRow, MapAccuracy, number_rows
from geomae.metrics.area import SampleEstimate
from geomae.metrics.calibration import ReliabilityBin
from geomae.metrics.predictions import UNKNOWN, Codes, Floats
from geomae.prediction.record import PredictorRecord
from geomae.prediction.scene_maps import NODATA, PERCENT, MapJob
from geomae.prediction.tiles import TilePredictions, as_number, map_of_tiles
from geomae.rasters import Grid, Window, read_map
from geomae.tiles.pixel_areas import AROUND, EQUAL_AREA, HECTARE, pixel_hectares
from geomae.vectors.projection import corners, transform

LEARNED = " (learned from)"  # suffix of a selection's name, for its tiles that the model learned from
Scored = tuple[Codes, Codes, Codes, Floats]  # tile, truth, prediction and its probability, each of N rows
ROWS = 512  # rows of a map that are in memory at a time
SEEN_TWICE = 0.01  # share of the ground of all maps from which on it is said that several maps show it
AREA_COLUMNS = ("scene", "class", "hectares", "low", "high", "map_hectares", "n", "n_map", "note")


@dataclass(frozen=True)
class Assessed:
    """The accuracy of a selection, either of the tiles that the model did not learn from or of those that it did.

    `confusion_KK` counts (truth, predicted) of tiles or pixels. For numbers it is None and `reliability` is empty.
    `remark` tells what could not be scored.
    """

    name: str
    rows: list[AccuracyRow]
    confusion_KK: Floats | None
    reliability: list[ReliabilityBin]
    remark: str | None = None


def assess(
    predicted: TilePredictions, record: PredictorRecord, jobs: Sequence[MapJob], out: Path, seed: int
) -> list[Assessed]:
    """Return the accuracy of labelled tiles, or of their pixels; separately for tiles that the model learned from."""
    results = []
    for learned in (False, True):
        part_T = predicted.learned_T == learned
        name = predicted.selected.name + (LEARNED if learned else "")
        if record.of_numbers:
            one = _of_numbers(name, predicted, part_T, seed)
        else:
            one = _of_classes(name, predicted, record, jobs, out, part_T, seed)
        results += [] if one is None else [one]
    return results


def _of_numbers(name: str, predicted: TilePredictions, part_T: NDArray[np.bool_], seed: int) -> Assessed | None:
    truth = [as_number(one) for one in predicted.truth_T.tolist()]
    known = np.flatnonzero(part_T & np.array([one is not None for one in truth], dtype=bool))
    if not len(known):
        return None
    index = predicted.selected.index.take(known)
    truth_T = np.array([truth[place] for place in known.tolist()], dtype=np.float64)
    domain_T, unit_T = index.tiles["domain"].tolist(), index.independent_units()
    return Assessed(name, number_rows(name, truth_T, predicted.number_T[known], domain_T, unit_T, seed), None, [])


def _of_classes(
    name: str, predicted: TilePredictions, record: PredictorRecord, jobs: Sequence[MapJob], out: Path,
    part_T: NDArray[np.bool_], seed: int,
) -> Assessed | None:  # fmt: skip
    index = predicted.selected.index
    accuracy = MapAccuracy(record.classes, index.tiles["domain"].tolist(), index.independent_units())
    never: set[str] = set()
    rows = _pixels(predicted, record, jobs, out, never) if record.of_pixels else _tiles(predicted, record, never)
    for tile_N, truth_N, class_N, confidence_N in rows:
        chosen_N = part_T[tile_N]
        accuracy.add(tile_N[chosen_N], truth_N[chosen_N], class_N[chosen_N], confidence_N[chosen_N])
    counts_KK = accuracy.confusion
    if not counts_KK.any():
        return None
    remark = None
    if never:
        what = "pixels" if record.of_pixels else "tiles"
        remark = f"{name}: {what} of {', '.join(sorted(never))} are not scored; the model was not trained on that class"
    return Assessed(name, accuracy.rows(name, seed), counts_KK, accuracy.reliability, remark)


def _tiles(predicted: TilePredictions, record: PredictorRecord, never: set[str]) -> Iterator[Scored]:
    truth = predicted.truth_T.tolist()
    never |= {str(one) for one in truth if one is not None and one not in record.classes}
    truth_T = np.array([record.classes.index(one) if one in record.classes else UNKNOWN for one in truth])
    yield np.arange(len(predicted)), truth_T, predicted.class_T, predicted.probability_T


def _pixels(
    predicted: TilePredictions, record: PredictorRecord, jobs: Sequence[MapJob], out: Path, never: set[str]
) -> Iterator[Scored]:
    """Yield the pixels of the map, tile by tile; `never` collects labels of classes that the model lacks."""
    labels, tiles = predicted.selected.index.labels, predicted.selected.index.tiles
    if labels is None:
        return
    class_of = np.array([_place(name, record.classes) for name in labels.names] + [UNKNOWN])
    code_of = np.full(NODATA + 1, UNKNOWN)
    code_of[list(record.map_codes)] = np.arange(len(record.classes))
    for position, (code_HW, confidence_HW) in map_of_tiles(predicted.selected, jobs, out):
        scene, row, col, size = tiles[["scene", "row", "col", "size"]].iloc[position].tolist()
        label_HW = labels.read(scene, Window(row, col, size, size)).code_HW
        never |= {name for code, name in enumerate(labels.names) if class_of[code] < 0 and (label_HW == code).any()}
        truth_N, class_N = class_of[label_HW].ravel(), code_of[code_HW].ravel()
        yield np.full(len(truth_N), position), truth_N, class_N, confidence_HW.ravel() / PERCENT


def _place(name: str, names: Sequence[str]) -> int:
    return names.index(name) if name in names else UNKNOWN


@dataclass(frozen=True)
class MapArea:
    """Hectares of each class (K) in the map of each scene, by its name; None where the size of pixels is unknown.

    `pixels_of_scene` counts the pixels of each class (K).
    """

    of_scene: Mapping[str, Floats | None]
    pixels_of_scene: Mapping[str, Codes]

    @property
    def total_K(self) -> Floats | None:
        """The hectares of all scenes together; None where those of one scene are unknown."""
        known = [one for one in self.of_scene.values() if one is not None]
        return np.sum(known, axis=0) if known and len(known) == len(self.of_scene) else None


def measure_areas(record: PredictorRecord, jobs: Sequence[MapJob], out: Path) -> MapArea:
    """Return the area of each class in each map, as the sum of its pixels' areas (see `pixel_hectares`)."""
    areas: dict[str, Floats | None] = {}
    pixels: dict[str, Codes] = {}
    for job in jobs:
        grid, area_K, pixels_K = job.grid, np.zeros(len(record.classes)), np.zeros(len(record.classes), dtype=np.int64)
        for first in range(0, grid.height, ROWS):
            rows = slice(first, min(first + ROWS, grid.height))
            hectares_hW = pixel_hectares(grid, rows)
            if hectares_hW is None:
                break
            code_hW = read_map(str(job.path(out)), Window(first, 0, rows.stop - first, grid.width))[0]
            by_code = np.bincount(code_hW.ravel(), hectares_hW.ravel(), minlength=NODATA + 1)
            area_K += by_code[list(record.map_codes)]
            pixels_K += np.bincount(code_hW.ravel(), minlength=NODATA + 1)[list(record.map_codes)]
        areas[job.name], pixels[job.name] = None if hectares_hW is None else area_K, pixels_K
    return MapArea(areas, pixels)


def shared_ground_remark(grids: Sequence[Grid]) -> str | None:
    """Say that maps show ground of each other, which the areas of all maps together count once for each; else None."""
    footprints = []
    for grid in grids:
        if grid.crs is not None:
            outline = shapely.polygons(corners(grid))
            outline = shapely.segmentize(outline, outline.length / 32)  # straight edges are bent by the projection
            outline_N2 = transform(grid.crs, EQUAL_AREA, shapely.get_coordinates(outline))
            if np.isfinite(outline_N2).all() and np.ptp(outline_N2[:, 0]) < AROUND / 2:  # not across longitude 180
                footprints.append(shapely.polygons(outline_N2))
    every, once = (float(shapely.area(one).sum()) for one in (footprints, shapely.union_all(footprints)))
    if every - once <= SEEN_TWICE * once:
        return None
    return (
        f"{len(footprints)} maps of {every / HECTARE:,.0f} ha together show {once / HECTARE:,.0f} ha of ground: the "
        "areas of all maps together count some of it several times; for areas, map one date, or scenes that do not "
        "overlap"
    )


def area_rows(record: PredictorRecord, areas: MapArea, estimate: SampleEstimate | None) -> Iterable[dict[str, Any]]:
    """Yield the rows of area.csv: each scene's map, and all maps together with the sample's estimate.

    `n` counts the reference points of a class, `n_map` those on that class of the map; `note` says why there is no
    interval.
    """
    total_K = areas.total_K
    parts: list[tuple[str, Floats | None]] = list(areas.of_scene.items())
    parts += [("all", total_K)] if len(parts) != 1 or estimate is not None else []
    for name, area_K in parts:
        for code, of in enumerate(record.classes):
            row: dict[str, Any] = dict.fromkeys(AREA_COLUMNS, "")
            row |= {"scene": name, "class": of, "map_hectares": "" if area_K is None else float(area_K[code])}
            if name == "all" and estimate is not None:
                low, high = estimate.area_K.interval(code) or ("", "")
                row |= {"hectares": float(estimate.area_K.value_X[code]), "low": low, "high": high}
                row |= {"n": int(estimate.points_K[code]), "n_map": int(estimate.mapped_K[code])}
                row |= {"note": estimate.no_area_interval(code)}
            yield row
