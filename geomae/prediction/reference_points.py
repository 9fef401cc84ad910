"""Reference points on the maps: read from their file, looked up in the maps, and the estimates that rest on them.

N points, K classes, S strata, h rows of a map, W columns of a map
"""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import shapely
from numpy.typing import NDArray

from geomae.errors import ConfigError, nearest
from geomae.evaluation.accuracy import AccuracyRow, sample_rows
from geomae.metrics.area import SampleEstimate, chance_of_allocation, estimate_from_sample, nearness
from geomae.metrics.predictions import Codes, Floats
from geomae.prediction.assessment import ROWS, MapArea
from geomae.prediction.record import PredictorRecord, learned_tiles
from geomae.prediction.scene_maps import NODATA, MapJob
from geomae.rasters import Grid, Window, read_map
from geomae.tiles.learned_tiles import LearnedTiles
from geomae.vectors.projection import pixels_of
from geomae.vectors.reading import read_vector

REFERENCE, STRATUM = "reference", "stratum"
SHOWN = 3  # number of points or scenes that a message names
FEWEST = 2  # points of an estimate
LACKING = "write the class of the map that comes nearest, since the estimates are biased without these points"
RARE = 0.01  # probability below which an allocation of points to classes is taken for no random one
NEAR = 0.5  # mean distance of nearest points, relative to random ones, below which the points are clustered
FEWEST_NEAR = 10  # points of which nearness tells something


@dataclass(frozen=True)
class Sample:
    """Reference points on the maps: class of the map and of the reference (N), stratum (N), and names of the strata.

    The strata are classes, or scenes named as their maps. `origin` are the remarks of the points as they were read, and
    `remarks` those that the maps add.
    """

    name: str
    map_N: Codes
    reference_N: Codes
    stratum_N: Codes
    strata: tuple[str, ...]
    remarks: tuple[str, ...] = ()
    origin: tuple[str, ...] = ()

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
    """Reference points as read from their file: coordinates (N, 2) in `crs`, class (N), and strata (N) or none.

    `learned_N` marks points on ground that the model learned from, which the estimates leave out; `remarks` say so.
    """

    name: str
    points_N2: Floats
    crs: str
    reference_N: Codes
    strata_N: tuple[Any, ...]
    learned_N: NDArray[np.bool_]
    remarks: tuple[str, ...] = ()


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
    reference_N = _classes(layer.columns[REFERENCE].tolist(), record, f"{where}: {REFERENCE}", LACKING)
    points_N2 = shapely.get_coordinates(layer.geometries)
    if len(points_N2) != len(layer):
        raise ConfigError(f"{where}: {len(layer) - len(points_N2)} rows are no single point; leave them out")
    strata = layer.columns[STRATUM].tolist() if STRATUM in columns else []
    return ReferencePoints(
        where, points_N2, layer.crs, reference_N, tuple(strata), np.zeros(len(points_N2), dtype=bool)
    )


def check_places(given: ReferencePoints, record: PredictorRecord, jobs: Sequence[MapJob]) -> ReferencePoints:
    """Return the points with those marked that lie on ground that the model learned from; needs no map.

    Without maps, a point is taken to be of the first one that covers it; `place_sample` knows the map that has a class
    there. Raises ConfigError for points outside the scenes or of unknown strata, and where fewer than FEWEST points lie
    on other ground.
    """
    map_N = np.full(len(given.points_N2), -1)
    for number, _, _, _, here_N in _in_turn(given, record, jobs):
        map_N[here_N & (map_N < 0)] = number
    if (map_N < 0).any():
        raise ConfigError(_outside(given, [_named(given.points_N2, one) for one in np.flatnonzero(map_N < 0).tolist()]))
    return _marked(given, record, jobs, map_N)


def _marked(given: ReferencePoints, record: PredictorRecord, jobs: Sequence[MapJob], map_N: Codes) -> ReferencePoints:
    """Mark the points on ground that the model learned from in the scene of their map, and remark on them.

    `map_N` is the number of the map that each point has its class from. Ground learned in another scene does not count,
    even if that is mapped, too: the prediction does not come from its pixels.
    """
    total, where = len(given.points_N2), given.name
    tiles = _learned_tiles(record, jobs)
    learned_N = np.zeros(total, dtype=bool)
    for number in np.unique(map_N).tolist():
        job = jobs[number]
        (row_N, col_N, _), k = _places(job, given), job.lattice.cell
        for point in np.flatnonzero(map_N == number).tolist():
            place = (row_N[point] * k, col_N[point] * k)
            learned_N[point] = tiles[id(job.selected.index)].meeting(job.scene.id, *place, 0)
    left, remarks = int((~learned_N).sum()), list[str]()
    if learned_N.any():
        shown = "; ".join(_named(given.points_N2, one)[1:-1] for one in np.flatnonzero(learned_N).tolist()[:SHOWN])
        said = f"{where}: {total - left} of {total} points lie on ground that the model learned from ({shown})"
        if left < FEWEST:
            raise ConfigError(
                f"{said}, which leaves {left} to estimate from; draw points at random over the whole map, or train "
                "without the tiles at these points (a condition on their group in --train)"
            )
        remarks.append(
            f"{said}, {_share_learned(tiles, jobs):.1%} of the map, and are left out. The estimates rest on the other "
            f"{left} points and take the map to err there as it does elsewhere; it probably errs less, so that its "
            "accuracy is rather underestimated"
        )
    remarks += _at_another_date(given, tiles, jobs, learned_N)
    return replace(given, learned_N=learned_N, remarks=tuple(remarks))


def _learned_tiles(record: PredictorRecord, jobs: Sequence[MapJob]) -> dict[int, LearnedTiles]:
    """Return the tiles that the model learned from in each index of the maps, by the index's identity."""
    indexes = {id(job.selected.index): job.selected.index for job in jobs}
    return {key: learned_tiles(record, index) for key, index in indexes.items()}


def _at_another_date(
    given: ReferencePoints, tiles: Mapping[int, LearnedTiles], jobs: Sequence[MapJob], learned_N: NDArray[np.bool_]
) -> Iterator[str]:
    """Yield a remark on points in tiles that the model learned from in scenes that their class does not come from."""
    inside_N, scenes = np.zeros(len(learned_N), dtype=bool), set[str]()
    for index in {id(job.selected.index): job.selected.index for job in jobs}.values():
        learned = tiles[id(index)]
        for scene, grid in zip(index.source.scenes, index.grids, strict=True):
            if scene.id not in learned.box_N4 or grid is None or grid.crs is None:
                continue
            row_N, col_N = _pixels_of(grid, given)
            pairs = zip(row_N.tolist(), col_N.tolist(), strict=True)
            here_N = np.array([learned.meeting(scene.id, row, col, 0) for row, col in pairs]) & ~learned_N
            inside_N |= here_N
            scenes |= {scene.id} if here_N.any() else set()
    if scenes:
        shown = ", ".join(sorted(scenes)[:SHOWN]) + (f" and {len(scenes) - SHOWN} more" if len(scenes) > SHOWN else "")
        yield (
            f"{given.name}: {inside_N.sum()} of {len(inside_N)} points lie on ground that the model learned from in "
            f"another scene ({shown}); they are used, but where a class has not changed since, accuracy on them is too "
            "optimistic"
        )


def _share_learned(tiles: Mapping[int, LearnedTiles], jobs: Sequence[MapJob]) -> float:
    """Return the share of the maps' pixels whose centres lie in tiles that the model learned from."""
    inside = every = 0
    for job in jobs:
        learned, k = tiles[id(job.selected.index)], job.lattice.cell
        there_HW = np.zeros((job.grid.height, job.grid.width), dtype=bool)
        for box_4 in learned.box_N4.get(job.scene.id, ()):
            top, left, bottom, right = np.ceil(np.maximum(box_4 / k - 0.5, 0)).astype(int).tolist()
            there_HW[top:bottom, left:right] = True
        inside, every = inside + int(there_HW.sum()), every + there_HW.size
    return inside / every


def place_sample(
    given: ReferencePoints, record: PredictorRecord, jobs: Sequence[MapJob], out: Path, areas: MapArea | None
) -> Sample:
    """Look up reference points in the maps. Without given strata, the classes of the map are the strata.

    The points have passed `check_places`. Those on ground that the model learned from, in the scene of the map that has
    a class there, are left out. Raises ConfigError for points on nodata of the maps, and where too few are left.
    """
    map_N, place_N3 = _on_maps(given, record, jobs, out)
    given = _marked(given, record, jobs, place_N3[:, 0].astype(np.int64))
    where, used_N = given.name, ~given.learned_N
    stratum_N, strata = _strata(given, record, jobs) if given.strata_N else (None, record.classes)
    stratum_N = map_N if stratum_N is None else stratum_N
    remarks = [] if areas is None else [*_doubts(given, record, areas, map_N, place_N3, [job.name for job in jobs])]
    if given.strata_N:
        other = int((stratum_N != map_N)[used_N].sum()) if strata == record.classes else 0
        if other:
            remarks.append(
                f"{other} of {used_N.sum()} reference points lie on another class of the map than their stratum; the "
                "areas of the map's classes are used as areas of the strata"
            )
    parts = (map_N[used_N], given.reference_N[used_N], stratum_N[used_N])
    return Sample(where, *parts, strata, tuple(remarks), given.remarks)


def _strata(given: ReferencePoints, record: PredictorRecord, jobs: Sequence[MapJob]) -> tuple[Codes, tuple[str, ...]]:
    """Return the stratum (N) of each point from the column `stratum`, and the names of all strata."""
    texts = [str(one) for one in given.strata_N]
    names = {job.name for job in jobs}
    lacking = sorted(set(texts) - names)
    if not lacking:
        strata = tuple(sorted(names))
        return np.array([strata.index(one) for one in texts]), strata
    if set(texts) & names:
        problem = f"{lacking[0]!r} is no scene that was mapped, while others are"
        raise ConfigError(f"{given.name}: {STRATUM} {problem}; {nearest(lacking[0], names)}")
    remedy = "give the class of the map or the scene in which each point was drawn"
    return _classes(given.strata_N, record, f"{given.name}: {STRATUM}", remedy), record.classes


def _classes(values: Sequence[Any], record: PredictorRecord, where: str, remedy: str) -> Codes:
    """Return the index of each class, given by name or by code. Raises ConfigError for unknown classes."""
    place = {str(code): number for number, code in enumerate(record.map_codes)}
    place |= {name: number for number, name in enumerate(record.classes)}
    texts = [str(int(one)) if isinstance(one, float) and one.is_integer() else str(one) for one in values]
    unknown = sorted({text for text in texts if text not in place})
    if unknown:
        more = f" and {len(unknown) - SHOWN} more" if len(unknown) > SHOWN else ""
        raise ConfigError(
            f"{where} {', '.join(map(repr, unknown[:SHOWN]))}{more}: the map has no such class; "
            f"{nearest(unknown[0], record.classes)}; {remedy}"
        )
    return np.array([place[text] for text in texts])


def _doubts(
    given: ReferencePoints,
    record: PredictorRecord,
    areas: MapArea,
    map_N: Codes,
    place_N3: Floats,
    scenes: Sequence[str],
) -> Iterator[str]:
    """Yield remarks on points that cannot be a random sample of the map; points on learned ground count, too."""
    total_K, points = areas.total_K, len(map_N)
    if total_K is not None and not given.strata_N:
        count_K, share_K = np.bincount(map_N, minlength=len(total_K)), total_K / total_K.sum()
        if chance_of_allocation(count_K, share_K) < RARE:
            most = int(np.abs(count_K / points - share_K).argmax())
            yield (
                f"{given.name}: random points would hardly lie on the classes of the map like this: "
                f"{record.classes[most]} has {count_K[most] / points:.0%} of the points and {share_K[most]:.1%} of the "
                "area. If they were drawn class by class, say so by a column `stratum`; if they were chosen by hand, "
                "the estimates may be biased and the intervals do not hold"
            )
    region_N = place_N3[:, 0].astype(np.int64) * len(record.classes) + map_N
    pixels_R = np.concatenate([areas.pixels_of_scene[name] for name in scenes])
    near = nearness(place_N3[:, 1:], region_N, pixels_R)
    if near is not None and near < NEAR and points >= FEWEST_NEAR:
        pixels = len(np.unique(np.floor(place_N3), axis=0))
        yield (
            f"{given.name}: the points are clustered: {points} points lie in {pixels} pixels of the map, and nearest "
            f"points are at {near:.0%} of the distance of random ones. Points of a cluster say little more than one "
            "point, so that the intervals are too narrow; draw points at random over the map, or within each stratum"
        )


def _on_maps(
    given: ReferencePoints, record: PredictorRecord, jobs: Sequence[MapJob], out: Path
) -> tuple[Codes, Floats]:
    """Return the class of the map (N) at each point, from the first map that has a class there, and the place there.

    A place (N, 3) is the number of the map, and the fractional row and column in it.
    """
    class_N, place_N3 = np.full(len(given.points_N2), -1), np.zeros((len(given.points_N2), 3))
    for number, job, row_N, col_N, here_N in _in_turn(given, record, jobs):
        code_N = _codes_at(job, out, row_N, col_N, here_N & (class_N < 0))
        for point in np.flatnonzero(code_N != NODATA).tolist():
            class_N[point] = record.map_codes.index(int(code_N[point]))
            place_N3[point] = number, row_N[point], col_N[point]
    if outside := [_named(given.points_N2, point) for point in np.flatnonzero(class_N < 0).tolist()]:
        raise ConfigError(_outside(given, outside))
    return class_N, place_N3


def _in_turn(
    given: ReferencePoints, record: PredictorRecord, jobs: Sequence[MapJob]
) -> Iterator[tuple[int, MapJob, Floats, Floats, NDArray[np.bool_]]]:
    """Yield the maps in the order in which they are asked for classes: number, job, and `_places` of those who ask it.

    A point that was drawn in a scene is of the map of this scene, also where another one covers it.
    """
    every_N = np.ones(len(given.points_N2), dtype=bool)
    turns = [(number, job, every_N) for number, job in enumerate(jobs)]
    if given.strata_N:
        stratum_N, strata = _strata(given, record, jobs)
        if strata != record.classes:
            drawn_N = np.array(strata)[stratum_N]
            turns = [*((number, job, drawn_N == job.name) for number, job in enumerate(jobs)), *turns]
    for number, job, asking_N in turns:
        row_N, col_N, here_N = _places(job, given)
        yield number, job, row_N, col_N, here_N & asking_N


def _places(job: MapJob, given: ReferencePoints) -> tuple[Floats, Floats, NDArray[np.bool_]]:
    """Return fractional rows and columns (N) of the points on the map of a job, and which of them lie inside."""
    grid = job.grid
    if grid.crs is None:
        nowhere_N = np.full(len(given.points_N2), np.nan)
        return nowhere_N, nowhere_N, np.zeros(len(given.points_N2), dtype=bool)
    row_N, col_N = _pixels_of(grid, given)
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


def _pixels_of(grid: Grid, given: ReferencePoints) -> tuple[Floats, Floats]:
    """Return fractional rows and columns (N) of the points in a grid with a CRS; NaN where unknown, in no map."""
    row_N1, col_N1 = pixels_of(grid, given.crs, given.points_N2[:, None])
    return row_N1[:, 0], col_N1[:, 0]


def _named(points_N2: Floats, point: int) -> str:
    return f"({points_N2[point, 0]:.7g} {points_N2[point, 1]:.7g})"


def rows_of_sample(sample: Sample, estimate: SampleEstimate, record: PredictorRecord) -> list[AccuracyRow]:
    """Return the rows of accuracy.csv from the sample's estimate."""
    return sample_rows(sample.name, estimate, record.classes)


def matrix_columns(record: PredictorRecord) -> tuple[str, ...]:
    """Return the columns of error_matrix.csv: points, then shares of the area, of each reference class."""
    return (
        "map_class",
        "n",
        "map_share",
        *(f"{unit}_{name}" for unit in ("points", "area") for name in record.classes),
    )


def matrix_rows(record: PredictorRecord, estimate: SampleEstimate, areas: MapArea) -> Iterator[dict[str, Any]]:
    """Yield the rows of error_matrix.csv: one per class of the map, and one for all.

    `n` counts the points on a class, and `map_share` is its share of the area of the map. A row of the area shares sums
    to `map_share`, where every stratum has points and the strata are the classes; the last row estimates the share of
    each reference class.
    """
    total_K = areas.total_K
    assert total_K is not None  # estimates need areas
    share_K = total_K / total_K.sum()
    parts = [*zip(record.classes, share_K, estimate.matrix_KK, estimate.share_KK, strict=True)]
    for name, share, points_K, area_K in (*parts, ("all", 1.0, estimate.points_K, estimate.share_KK.sum(0))):
        values = (name, int(points_K.sum()), float(share), *points_K.tolist(), *area_K.tolist())
        yield dict(zip(matrix_columns(record), values, strict=True))
