"""Assessment of predictions: accuracy where there are labels, and areas by counting pixels and from a sample.

T tiles, K classes, N points, H W pixels of a tile, h rows of a map
"""

from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import shapely
from numpy.typing import NDArray

from geomae.errors import ConfigError, nearest
from geomae.evaluation.accuracy import AccuracyRow, MapAccuracy, number_rows, sample_rows
from geomae.metrics.area import SampleEstimate, estimate_from_sample
from geomae.metrics.calibration import ReliabilityBin
from geomae.metrics.predictions import UNKNOWN, Codes, Floats
from geomae.prediction.record import PredictorRecord, learned_tiles
from geomae.prediction.scene_maps import NODATA, PERCENT, MapJob
from geomae.prediction.tiles import TilePredictions, as_number, map_of_tiles
from geomae.rasters import Window, read_map
from geomae.tiles.pixel_areas import pixel_hectares
from geomae.vectors.projection import transform
from geomae.vectors.reading import read_vector

LEARNED = " (learned from)"  # suffix of a selection's name, for its tiles that the model learned from
REFERENCE, STRATUM = "reference", "stratum"
Scored = tuple[Codes, Codes, Codes, Floats]  # tile, truth, prediction and its probability, each of N rows
SHOWN = 3  # number of points that an error message names
ROWS = 512  # rows of a map that are in memory at a time
AREA_COLUMNS = ("scene", "class", "hectares", "low", "high", "map_hectares", "n")


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
    """Hectares of each class (K) in the map of each scene, by its name; None where the size of pixels is unknown."""

    of_scene: Mapping[str, Floats | None]

    @property
    def total_K(self) -> Floats | None:
        """The hectares of all scenes together; None where those of one scene are unknown."""
        known = [one for one in self.of_scene.values() if one is not None]
        return np.sum(known, axis=0) if known and len(known) == len(self.of_scene) else None


def measure_areas(record: PredictorRecord, jobs: Sequence[MapJob], out: Path) -> MapArea:
    """Return the area of each class in each map, as the sum of its pixels' areas (see `pixel_hectares`)."""
    areas: dict[str, Floats | None] = {}
    for job in jobs:
        grid, area_K = job.grid, np.zeros(len(record.classes))
        for first in range(0, grid.height, ROWS):
            rows = slice(first, min(first + ROWS, grid.height))
            hectares_hW = pixel_hectares(grid, rows)
            if hectares_hW is None:
                break
            code_hW = read_map(str(job.path(out)), Window(first, 0, rows.stop - first, grid.width))[0]
            by_code = np.bincount(code_hW.ravel(), hectares_hW.ravel(), minlength=NODATA + 1)
            area_K += by_code[list(record.map_codes)]
        areas[job.name] = None if hectares_hW is None else area_K
    return MapArea(areas)


@dataclass(frozen=True)
class Sample:
    """Reference points on the maps: class of the map and of the reference (N), stratum (N), and names of the strata.

    The strata are classes, or scenes named as their maps.
    """

    name: str
    map_N: Codes
    reference_N: Codes
    stratum_N: Codes
    strata: tuple[str, ...]
    remarks: tuple[str, ...] = ()

    def estimate(self, record: PredictorRecord, areas: MapArea) -> SampleEstimate:
        """Return the estimated accuracy and areas. Raises ConfigError where the areas of the strata are unknown."""
        total_K = areas.total_K
        if total_K is None:
            raise ConfigError(f"{self.name}: a scene has no CRS and no `gsd_m`, so that areas of strata are unknown")
        if self.strata == record.classes:
            area_S = total_K
        else:
            area_S = np.array([float(np.sum(np.asarray(areas.of_scene[name]))) for name in self.strata])
        parts = (self.stratum_N, self.map_N, self.reference_N, area_S)
        return estimate_from_sample(*parts, len(record.classes), self.strata)


@dataclass(frozen=True)
class ReferencePoints:
    """Reference points as read from their file: coordinates (N, 2) in `crs`, class (N), and strata (N) or none."""

    name: str
    points_N2: Floats
    crs: str
    reference_N: Codes
    strata_N: tuple[Any, ...]


def read_reference(path: Path, record: PredictorRecord) -> ReferencePoints:
    """Read reference points: a column `reference` (class or code), and optionally `stratum` (class or scene).

    Raises ConfigError or CatalogError for a file that is no table of points, lacks the column, or names classes that
    the model lacks. These checks need no map.
    """
    where = f"--sample {path}"
    if not path.is_file():
        raise ConfigError(f"{where}: there is no such file; check the path")
    if record.of_numbers:
        raise ConfigError(f"{where}: reference points are of classes, and the model predicts numbers; leave it out")
    layer = read_vector(str(path), place="--sample")
    layer.require("points", "--sample", "give points with a column `reference`")
    columns = [str(name) for name in layer.columns.columns]
    if REFERENCE not in columns:
        raise ConfigError(f"{where}: has no column `{REFERENCE}`; {nearest(REFERENCE, columns)}")
    reference_N = _classes(layer.columns[REFERENCE].tolist(), record, f"{where}: {REFERENCE}")
    points_N2 = shapely.get_coordinates(layer.geometries)
    if len(points_N2) != len(layer):
        raise ConfigError(f"{where}: {len(layer) - len(points_N2)} rows are no single point; leave them out")
    strata = layer.columns[STRATUM].tolist() if STRATUM in columns else []
    return ReferencePoints(where, points_N2, layer.crs, reference_N, tuple(strata))


def check_places(given: ReferencePoints, record: PredictorRecord, jobs: Sequence[MapJob]) -> None:
    """Raise ConfigError for points outside the scenes, or in tiles that the model learned from; needs no map."""
    points_N2, where = given.points_N2, given.name
    covered_N, inside = np.zeros(len(points_N2), dtype=bool), list[str]()
    for job in jobs:
        row_N, col_N, here_N = _places(job, given)
        learned, k = learned_tiles(record, job.selected.index), job.lattice.cell
        for point in np.flatnonzero(here_N & ~covered_N).tolist():
            if learned.meeting(job.scene.id, row_N[point] * k, col_N[point] * k, 0):
                inside.append(_named(points_N2, point))
        covered_N |= here_N
    outside = [_named(points_N2, point) for point in np.flatnonzero(~covered_N).tolist()]
    if outside:
        raise ConfigError(_outside(given, outside))
    if inside:
        raise ConfigError(
            f"{where}: {len(inside)} of {len(points_N2)} points lie in tiles that the model learned from "
            f"({', '.join(inside[:SHOWN])}); leave them out, since accuracy there is too optimistic"
        )


def place_sample(given: ReferencePoints, record: PredictorRecord, jobs: Sequence[MapJob], out: Path) -> Sample:
    """Look up reference points in the maps. Without given strata, the classes of the map are the strata.

    The points have passed `check_places`. Raises ConfigError for points on nodata of the maps, or of unknown strata.
    """
    where, reference_N = given.name, given.reference_N
    map_N = _on_maps(given, record, jobs, out)
    if not given.strata_N:
        return Sample(where, map_N, reference_N, map_N, record.classes)
    texts = [str(one) for one in given.strata_N]
    names = {job.name for job in jobs}
    lacking = sorted(set(texts) - names)
    if not lacking:
        strata = tuple(sorted(names))
        return Sample(where, map_N, reference_N, np.array([strata.index(one) for one in texts]), strata)
    if set(texts) & names:
        problem = f"{lacking[0]!r} is no scene that was mapped, while others are"
        raise ConfigError(f"{where}: {STRATUM} {problem}; {nearest(lacking[0], names)}")
    stratum_N = _classes(given.strata_N, record, f"{where}: {STRATUM}")
    other = int((stratum_N != map_N).sum())
    remark = (
        f"{other} of {len(map_N)} reference points lie on another class of the map than their stratum; the areas of "
        "the map's classes are used as areas of the strata"
    )
    return Sample(where, map_N, reference_N, stratum_N, record.classes, (remark,) if other else ())


def _classes(values: Sequence[Any], record: PredictorRecord, where: str) -> Codes:
    """Return the index of each class, given by name or by code. Raises ConfigError for unknown classes."""
    place = {str(code): number for number, code in enumerate(record.map_codes)}
    place |= {name: number for number, name in enumerate(record.classes)}
    texts = [str(int(one)) if isinstance(one, float) and one.is_integer() else str(one) for one in values]
    unknown = sorted({text for text in texts if text not in place})
    if unknown:
        more = f" and {len(unknown) - SHOWN} more" if len(unknown) > SHOWN else ""
        raise ConfigError(
            f"{where} {', '.join(map(repr, unknown[:SHOWN]))}{more}: the map has no such class; "
            f"{nearest(unknown[0], record.classes)}"
        )
    return np.array([place[text] for text in texts])


def _on_maps(given: ReferencePoints, record: PredictorRecord, jobs: Sequence[MapJob], out: Path) -> Codes:
    """Return the class of the map (N) at each point, from the first map that has a class there."""
    class_N = np.full(len(given.points_N2), -1)
    for job in jobs:
        row_N, col_N, here_N = _places(job, given)
        code_N = _codes_at(job, out, row_N, col_N, here_N & (class_N < 0))
        for point in np.flatnonzero(code_N != NODATA).tolist():
            class_N[point] = record.map_codes.index(int(code_N[point]))
    if outside := [_named(given.points_N2, point) for point in np.flatnonzero(class_N < 0).tolist()]:
        raise ConfigError(_outside(given, outside))
    return class_N


def _places(job: MapJob, given: ReferencePoints) -> tuple[Floats, Floats, NDArray[np.bool_]]:
    """Return fractional rows and columns (N) of the points on the map of a job, and which of them lie inside."""
    grid = job.grid
    if grid.crs is None:
        nowhere_N = np.full(len(given.points_N2), np.nan)
        return nowhere_N, nowhere_N, np.zeros(len(given.points_N2), dtype=bool)
    row_N, col_N = _pixels_of(grid.transform, transform(given.crs, grid.crs, given.points_N2))
    return row_N, col_N, (row_N >= 0) & (row_N < grid.height) & (col_N >= 0) & (col_N < grid.width)


def _outside(given: ReferencePoints, points: Sequence[str]) -> str:
    return (
        f"{given.name}: {len(points)} of {len(given.points_N2)} points lie outside the map or on its nodata "
        f"({', '.join(points[:SHOWN])} in {given.crs[:40]}); leave them out, or map the scenes that they lie in"
    )


def _codes_at(job: MapJob, out: Path, row_N: Floats, col_N: Floats, here_N: NDArray[np.bool_]) -> Codes:
    """Return the map's code (N) at points inside it and NODATA at others; only rows with points are read, once."""
    code_N, points = np.full(len(here_N), NODATA), np.flatnonzero(here_N)
    rows, cols = row_N[points].astype(np.int64), col_N[points].astype(np.int64)
    for first in np.unique(rows // ROWS * ROWS).tolist():
        inside = (rows >= first) & (rows < first + ROWS)
        window = Window(first, 0, min(ROWS, job.grid.height - first), job.grid.width)
        code_hW = read_map(str(job.path(out)), window)[0]
        code_N[points[inside]] = code_hW[rows[inside] - first, cols[inside]]
    return code_N


def _pixels_of(affine: Sequence[float], points_N2: Floats) -> tuple[Floats, Floats]:
    """Return fractional rows and columns of points in pixels; NaN, which lies in no map, for NaN coordinates."""
    a, b, c, d, e, f = affine
    x_N, y_N = points_N2[:, 0] - c, points_N2[:, 1] - f
    scale = a * e - b * d
    return (a * y_N - d * x_N) / scale, (e * x_N - b * y_N) / scale


def _named(points_N2: Floats, point: int) -> str:
    return f"({points_N2[point, 0]:.7g} {points_N2[point, 1]:.7g})"


def area_rows(record: PredictorRecord, areas: MapArea, estimate: SampleEstimate | None) -> Iterable[dict[str, Any]]:
    """Yield the rows of area.csv: each scene's map, and all maps together with the sample's estimate."""
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
                row |= {"n": int(estimate.points_K[code])}
            yield row


def rows_of_sample(sample: Sample, estimate: SampleEstimate, record: PredictorRecord) -> list[AccuracyRow]:
    """Return the rows of accuracy.csv from the sample's estimate."""
    return sample_rows(sample.name, estimate, record.classes)
