"""Maps of whole scenes: strips are published one by one, and assembled into a map at the end.

K classes, r q rows and columns of cells, L layers of a strip: class code, confidence, then probabilities if requested;
or the numbers of a regression
"""

import math
import shutil
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from numpy.typing import NDArray

from geomae.catalog import Catalog, Scene
from geomae.errors import StorageError
from geomae.files import publish_file, scene_names
from geomae.metrics.predictions import Floats
from geomae.metrics.priors import correct_probabilities
from geomae.prediction.models import WindowModel
from geomae.prediction.record import PredictorRecord
from geomae.prediction.windows import Lattice, SceneWindows, Strip, lattice_of
from geomae.rasters import Grid, MapClasses, cog_in_strips, read_map, sweeping
from geomae.runtime.devices import Compute
from geomae.runtime.precision import working_precision
from geomae.runtime.signals import Stop
from geomae.tiles.selection import Selection

FEW_CELLS = 8  # cells per side; maps with fewer get a remark
NODATA = 255  # of codes, confidence and probabilities
PERCENT = 100
ROWS_AT_ONCE = 64  # rows whose probabilities are converted to float64 at a time
SUMMARY_PX = 256  # of the longer side of a map, for its figures
Progress = Callable[[str, int, int, str], None]


@dataclass(frozen=True)
class MapOptions:
    """With `probabilities`, a band per class is written. `share_K` are class shares to correct probabilities to."""

    probabilities: bool = False
    share_K: Floats | None = None


@dataclass(frozen=True)
class MapJob:
    """A scene to be mapped by `model` in windows of `lattice`. Its files are named `<kind>_<name>.tif`."""

    model: WindowModel
    selected: Selection
    number: int
    lattice: Lattice
    name: str

    @property
    def scene(self) -> Scene:
        """The scene."""
        return self.selected.index.source.scenes[self.number]

    @property
    def grid(self) -> Grid:
        """The grid of the map."""
        grid = self.selected.index.grids[self.number]
        assert grid is not None, "a scene with tiles has a grid"
        return self.lattice.grid(grid)

    @property
    def windows(self) -> int:
        """The number of windows that cover the scene."""
        return len(self.lattice.tops) * len(self.lattice.lefts)

    def path(self, out: Path, kind: str = "map") -> Path:
        """Return the path of a map of this scene."""
        return out / f"{kind}_{self.name}.tif"


def plan_maps(fitted: Sequence[tuple[Selection, WindowModel]], cell_of: Callable[[Selection], int]) -> list[MapJob]:
    """Return one job for every scene with selected tiles, unless its map would have fewer than two cells.

    `cell_of` returns the side of a cell in pixels. Raises ConfigError where the model cannot take its windows.
    """
    jobs: list[tuple[WindowModel, Selection, int, Lattice]] = []
    known: set[tuple[str, str]] = set()
    for selected, model in fitted:
        size = model.record.tile
        model.check_size(size)
        for number in sorted(set(selected.index.tiles["scene"].tolist())):
            scene = selected.index.source.scenes[number]
            lattice = lattice_of(selected.index.source, scene, size, cell_of(selected))
            if (selected.index.name, scene.id) in known or lattice.rows * lattice.cols < 2:
                continue
            known.add((selected.index.name, scene.id))
            jobs.append((model, selected, number, lattice))
    pairs = [(selected.index.name, selected.index.source.scenes[number].id) for _, selected, number, _ in jobs]
    names = scene_names(pairs)
    return [MapJob(*job, name) for job, name in zip(jobs, names, strict=True)]


def stride_of(catalog: Catalog, selected: Selection, record: PredictorRecord) -> int:
    """Return the side of a map's cell in pixels: 1 where pixels are predicted, else the stride of the tiles.

    It is at most the side of a window, which is also its value where the catalogue defines no tile grid.
    """
    return 1 if record.of_pixels else tile_stride(catalog, selected.index.name, record.tile)


def tile_stride(catalog: Catalog, dataset: str, size: int) -> int:
    """The stride of the tiles of a data set, at most the side `size` of a window in pixels."""
    tile = catalog.entry(dataset).tile
    return min((tile.stride or tile.size) if tile is not None else size, size)


def finer_map(catalog: Catalog, selected: Selection) -> str | None:
    """What gives finer maps of these scenes, where a model of whole tiles would give few cells; else None."""
    size = int(selected.index.tiles["size"].mode().iloc[0])
    stride = tile_stride(catalog, selected.index.name, size)
    grids = [selected.index.grids[scene] for scene in selected.index.tiles["scene"].unique()]
    most = max(-(-max(grid.height, grid.width) // stride) for grid in grids if grid is not None)
    if most >= FEW_CELLS:
        return None
    listed = catalog.entry(selected.index.name).windows is not None
    where = "for a data set without `windows`" if listed else "in the catalogue"
    return (
        f"maps of {selected.index.name} would have at most {most} x {most} cells, one for each {stride} pixels; for "
        f"finer maps first write `tile: {{size: {size}, stride: {max(size // FEW_CELLS, 1)}}}` {where}"
    )


class StripStore:
    """The strips of one scene, one file each, written atomically."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder

    def path(self, number: int) -> Path:
        """Return the path of a strip."""
        return self.folder / f"{number:05d}.npy"

    def missing(self, strips: int) -> list[int]:
        """Return the numbers of the strips that have no file yet."""
        return [number for number in range(strips) if not self.path(number).is_file()]

    def write(self, number: int, layers_Lrq: NDArray[np.generic]) -> None:
        """Publish a strip."""
        with publish_file(self.path(number)) as temporary, temporary.open("wb") as file:
            np.save(file, layers_Lrq, allow_pickle=False)

    def read(self, number: int) -> NDArray[np.generic]:
        """Read a strip (L, r, q). Raises StorageError where it is damaged."""
        try:
            layers: NDArray[np.generic] = np.load(self.path(number), allow_pickle=False)
        except (OSError, ValueError) as error:
            raise StorageError(f"{self.path(number)}: is damaged ({error}); remove it, and it is made again") from error
        return layers

    def remove(self) -> None:
        """Remove all strips."""
        shutil.rmtree(self.folder, ignore_errors=True)


def missing_strips(jobs: Sequence[MapJob], out: Path) -> list[tuple[MapJob, int]]:
    """Return the strips of all jobs that have no file yet.

    All ranks list them before any of them writes one, because each takes its share of the same list.
    """
    return [(job, number) for job in jobs for number in _missing(job, out)]


def predict_strips(
    compute: Compute,
    jobs: Sequence[MapJob],
    missing: Sequence[tuple[MapJob, int]],
    options: MapOptions,
    out: Path,
    stop: Stop,
    progress: Progress,
) -> bool:
    """Predict this rank's share of the `missing` strips of all jobs. Returns False where `stop` ended the work.

    Each rank takes consecutive strips, so that few windows are predicted twice.
    """
    ranks, rank = compute.fabric.world_size, compute.fabric.global_rank
    mine = missing[len(missing) * rank // ranks : len(missing) * (rank + 1) // ranks]
    total = sum(job.windows for job in jobs)
    rate = _Rate(progress, total, total - sum(_windows(job, number) for job, number in missing), ranks)
    device = compute.fabric.device
    with torch.inference_mode(), working_precision(device, compute.precision), sweeping():
        for job, numbers in _runs(mine):
            store = _store(job, out)
            source = job.selected.index.source
            windows = SceneWindows(job.model, source, job.scene, job.lattice, device.type)
            for one in windows.strips(numbers):
                if isinstance(one, Strip):
                    store.write(one.number, layers_of(one, job.model.record, options))
                else:
                    rate.count(one)
                if stop.signal:
                    return False
    return True


def write_maps(jobs: Sequence[MapJob], options: MapOptions, out: Path) -> list[Path]:
    """Publish the maps of all scenes from their strips, remove the strips, and return the paths of all maps."""
    paths = []
    for job in jobs:
        products = _products(job.model.record, options)
        if not job.path(out).is_file():
            for kind, (layers, descriptions, classes) in reversed(products.items()):  # the map last: it marks the end
                _write_map(job, out, kind, layers, descriptions, classes)
        _store(job, out).remove()
        paths += [job.path(out, kind) for kind in products]
    if (out / "strips").is_dir():
        shutil.rmtree(out / "strips")
    return paths


def layers_of(strip: Strip, record: PredictorRecord, options: MapOptions) -> NDArray[np.generic]:
    """Return the layers of a strip as stored (L, r, q): uint8 with NODATA for classes, float32 with NaN for numbers."""
    if record.of_numbers:
        if not len(strip.value_Krq):
            return np.full((1, *strip.valid_rq.shape), np.nan, dtype=np.float32)
        return np.where(strip.valid_rq, strip.value_Krq, np.nan).astype(np.float32)
    bands = 2 + (len(record.classes) if options.probabilities else 0)
    layers_Lrq = np.full((bands, *strip.valid_rq.shape), NODATA, dtype=np.uint8)
    codes_K = np.array(record.map_codes, dtype=np.uint8)
    for first in range(0, len(strip.valid_rq) if len(strip.value_Krq) else 0, ROWS_AT_ONCE):
        rows = slice(first, first + ROWS_AT_ONCE)
        share_rqK: NDArray[np.floating] = np.moveaxis(strip.value_Krq[:, rows], 0, -1)
        if options.share_K is not None:
            share_rqK = correct_probabilities(share_rqK.astype(np.float64), record.trained_K, options.share_K)
        class_rq = share_rqK.argmax(-1)
        confidence_rq = np.take_along_axis(share_rqK, class_rq[..., None], -1)[..., 0]
        shown = [codes_K[class_rq], np.round(PERCENT * confidence_rq)]
        if options.probabilities:
            shown += list(np.moveaxis(np.round(PERCENT * share_rqK), -1, 0))
        layers_Lrq[:, rows] = np.where(strip.valid_rq[rows], np.stack(shown), NODATA).astype(np.uint8)
    return layers_Lrq


def _products(record: PredictorRecord, options: MapOptions) -> dict[str, tuple[slice, list[str], MapClasses | None]]:
    """Return the files of a scene by kind: layers of the strips, descriptions of the bands, and classes of codes."""
    if record.of_numbers:
        return {"map": (slice(0, 1), [f"predicted {record.unit}".rstrip()], None)}
    classes = MapClasses(record.map_codes, record.classes, record.colours)
    products: dict[str, tuple[slice, list[str], MapClasses | None]] = {
        "map": (slice(0, 1), ["class"], classes),
        "confidence": (slice(1, 2), ["probability of the class, %"], None),
    }
    if options.probabilities:
        names = [f"probability of {name}, %" for name in record.classes]
        products["probabilities"] = (slice(2, None), names, None)
    return products


def _write_map(
    job: MapJob, out: Path, kind: str, layers: slice, descriptions: Sequence[str], classes: MapClasses | None
) -> None:
    numbers = job.model.record.of_numbers
    dtype, nodata, unit = ("float32", float("nan"), job.model.record.unit) if numbers else ("uint8", NODATA, "")
    store, lattice = _store(job, out), job.lattice
    with cog_in_strips(
        job.path(out, kind), job.grid, descriptions=descriptions, unit=unit, dtype=dtype, nodata=nodata, classes=classes
    ) as write:
        for number, strip in enumerate(lattice.strips()):
            write(lattice.strip_cells(strip).start, store.read(number)[layers])


def _missing(job: MapJob, out: Path) -> list[int]:
    return [] if job.path(out).is_file() else _store(job, out).missing(len(job.lattice.strips()))


def _store(job: MapJob, out: Path) -> StripStore:
    return StripStore(out / "strips" / job.name)


def _windows(job: MapJob, number: int) -> int:
    return len(job.lattice.strips()[number]) * len(job.lattice.lefts)


def _runs(strips: Sequence[tuple[MapJob, int]]) -> Iterator[tuple[MapJob, range]]:
    """Yield ranges of consecutive strips, scene by scene."""
    place = 0
    while place < len(strips):
        job, first = strips[place]
        stop = first
        while place < len(strips) and strips[place][0] is job and strips[place][1] == stop:
            place, stop = place + 1, stop + 1
        yield job, range(first, stop)


class _Rate:
    """Reports progress, windows per second and the remaining time."""

    def __init__(self, progress: Progress, total: int, done: int, ranks: int) -> None:
        self._progress, self._total, self._begun, self._ranks = progress, total, done, ranks
        self._windows, self._start = 0, time.perf_counter()

    def count(self, windows: int) -> None:
        """Count more windows of this rank; the other ranks are assumed to be as fast."""
        self._windows += windows * self._ranks
        done = min(self._begun + self._windows, self._total)
        per_s = self._windows / max(time.perf_counter() - self._start, 1e-9)
        left_s = round((self._total - done) / per_s)
        figures = f"{per_s:.0f} windows/s" + (f", {left_s // 60}:{left_s % 60:02d} left" if left_s else "")
        self._progress("mapping, windows", done, self._total, figures)


@dataclass(frozen=True)
class MapSummary:
    """One map: fraction of valid pixels, most frequent class (`most`) and its fraction of these (`share`).

    `level` is the mean confidence in percent, or the mean of predicted numbers. Values that do not apply are None.
    """

    job: MapJob
    valid: float
    most: str | None
    share: float | None
    level: float | None


def summarise_map(job: MapJob, record: PredictorRecord, out: Path) -> MapSummary:
    """Summarise a map, read at a reduced size of at most SUMMARY_PX pixels per side."""
    shrink = max(1, math.ceil(max(job.lattice.rows, job.lattice.cols) / SUMMARY_PX))
    shape = (math.ceil(job.lattice.rows / shrink), math.ceil(job.lattice.cols / shrink))
    values_yx = read_map(str(job.path(out)), shape=shape)[0]
    if record.of_numbers:
        known = values_yx[np.isfinite(values_yx)]
        return MapSummary(job, known.size / values_yx.size, None, None, float(known.mean()) if known.size else None)
    known = values_yx[values_yx != NODATA]
    if not known.size:
        return MapSummary(job, 0.0, None, None, None)
    count_K = np.bincount(known, minlength=NODATA + 1)[list(record.map_codes)]
    confidence_yx = read_map(str(job.path(out, "confidence")), shape=shape)[0]
    most = int(count_K.argmax())
    return MapSummary(
        job, known.size / values_yx.size, record.classes[most], float(count_K[most] / known.size),
        float(confidence_yx[confidence_yx != NODATA].mean()),
    )  # fmt: skip


def most_telling(summaries: Sequence[MapSummary], most: int) -> list[MapSummary]:
    """Return at most `most` maps, by rising level: half with the lowest levels and half with the highest.

    Maps without a level come last.
    """
    ranked = sorted(summaries, key=lambda one: (one.level is None, one.level or 0.0))
    if len(ranked) <= most:
        return ranked
    known = sum(one.level is not None for one in ranked)
    low, high = most - most // 2, most // 2
    return ranked[:most] if known <= most else [*ranked[:low], *ranked[known - high : known]]
