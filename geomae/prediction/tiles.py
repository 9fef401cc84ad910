"""Predictions of the tiles of a selection, with their labels and whether the model learned from them.

T tiles, B tiles of a batch, N pixels, H W pixels of a tile, K classes (1 for numbers)
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray

from geomae.embeddings.geoparquet import footprints, write_tiles
from geomae.encoders.extraction import BATCH_PIXELS, READERS
from geomae.metrics.predictions import Codes, Floats
from geomae.prediction.models import WindowModel
from geomae.prediction.record import PredictorRecord, learned_tiles
from geomae.prediction.scene_maps import NODATA, PERCENT, MapJob
from geomae.randomness import generator
from geomae.rasters import Window, read_map
from geomae.runtime.devices import Compute
from geomae.runtime.precision import working_precision
from geomae.tiles.reader import TileReader, ahead, runs_of_one_size
from geomae.tiles.selection import Selection

PIXELS_OF_TILE = 16  # pixels drawn per tile to estimate class shares; more add little, since neighbours are alike
MOST_TILES = 2000  # largest number of tiles from which pixels are drawn
ABOUT = ("tile_id", "row", "col", "size", "split", "group", "domain")

Progress = Callable[[str, int, int, str], None]


@dataclass(frozen=True)
class TilePredictions:
    """The prediction for each tile of a selection, and its label or None.

    `class_T` and `probability_T` are empty for numbers, `number_T` is empty for classes. Where pixels are predicted,
    they are the most frequent class and the mean confidence in the tile; a tile without a valid pixel has class -1.
    """

    selected: Selection
    truth_T: NDArray[np.object_]
    learned_T: NDArray[np.bool_]
    class_T: Codes
    probability_T: Floats
    number_T: Floats

    def __len__(self) -> int:
        return len(self.selected.index)


def known_tiles(selected: Selection, record: PredictorRecord) -> NDArray[np.bool_]:
    """Return which tiles (T) overlap tiles that were used for training or model selection."""
    index, learned = selected.index, learned_tiles(record, selected.index)
    place = index.tiles[["scene", "row", "col", "size"]].itertuples(index=False)
    return np.array([learned.meeting(index.source.scenes[scene].id, *square) for scene, *square in place], dtype=bool)


def predict_tiles(compute: Compute, model: WindowModel, selected: Selection, progress: Progress) -> Floats:
    """Return probabilities or numbers (T, K) of the tiles, each predicted on its own."""
    values = [
        model_values for _, model_values in _batches(compute, model, selected, range(len(selected.index)), progress)
    ]
    return np.concatenate(values).astype(np.float64)


def drawn_pixels(
    compute: Compute, model: WindowModel, selected: Selection, tiles: Codes, seed: int, progress: Progress
) -> tuple[Floats, Codes]:
    """Return probabilities (N, K) of valid pixels drawn from `tiles` (positions), and the tile (N) of each pixel."""
    rng = generator(seed, "pixels of shares", selected.index.name)
    if len(tiles) > MOST_TILES:
        tiles = np.sort(rng.choice(tiles, MOST_TILES, replace=False))
    share, tile = [], []
    for (positions, valid_BHW), values_BKHW in _batches(compute, model, selected, tiles.tolist(), progress):
        for position, valid_HW, value_KHW in zip(positions, valid_BHW, values_BKHW, strict=True):
            usable = np.flatnonzero(valid_HW)
            drawn = rng.choice(usable, min(PIXELS_OF_TILE, len(usable)), replace=False)
            share.append(value_KHW.reshape(len(value_KHW), -1)[:, drawn].T)
            tile += [position] * len(drawn)
    return np.concatenate(share).astype(np.float64), np.array(tile)


def _batches(
    compute: Compute, model: WindowModel, selected: Selection, positions: Sequence[int], progress: Progress
) -> Any:
    """Yield batches of tiles: ((positions, validity in any band (B, H, W)), predictions (B, K, ...))."""
    device = compute.fabric.device
    index = selected.index.take(np.asarray(positions, dtype=np.int64))
    reader = TileReader(index, 0, model.bands)
    runs = runs_of_one_size(reader.side_T, range(len(reader)), lambda side: BATCH_PIXELS[device.type] // side**2)

    def load(run: range) -> tuple[range, torch.Tensor, torch.Tensor]:
        pixels_BCHW, valid_BCHW = map(torch.from_numpy, reader.many(run))
        return run, pixels_BCHW, valid_BCHW

    with torch.inference_mode(), working_precision(device, compute.precision):
        for run, pixels_BCHW, valid_BCHW in ahead(load, runs, READERS[device.type]):
            values = model.predict(pixels_BCHW, valid_BCHW).numpy()
            progress(f"predicting tiles of {selected.name}", run.stop, len(reader), "")
            yield ([positions[place] for place in run], valid_BCHW.any(1).numpy()), values


def of_classes(selected: Selection, record: PredictorRecord, share_TK: Floats) -> TilePredictions:
    """Return tile predictions from probabilities (T, K)."""
    class_T, probability_T = share_TK.argmax(1), share_TK.max(1)
    return TilePredictions(
        selected, selected.index.tiles["label"].to_numpy(object), known_tiles(selected, record), class_T, probability_T,
        np.empty(0),
    )  # fmt: skip


def of_numbers(selected: Selection, record: PredictorRecord, number_T: Floats) -> TilePredictions:
    """Return tile predictions from numbers (T)."""
    truth_T = selected.index.tiles["label"].to_numpy(object)
    none = np.empty(0)
    return TilePredictions(selected, truth_T, known_tiles(selected, record), none.astype(np.int64), none, number_T)


def of_map(selected: Selection, record: PredictorRecord, jobs: Sequence[MapJob], out: Path) -> TilePredictions:
    """Return tile predictions from the maps of the scenes that the tiles lie in."""
    codes = np.array(record.map_codes)
    class_T, probability_T = np.full(len(selected.index), -1), np.full(len(selected.index), np.nan)
    for position, (code_HW, confidence_HW) in map_of_tiles(selected, jobs, out):
        valid_HW = code_HW != NODATA
        if valid_HW.any():
            class_T[position] = (code_HW[valid_HW][:, None] == codes).sum(0).argmax()
            probability_T[position] = confidence_HW[valid_HW].mean() / PERCENT
    truth_T = selected.index.tiles["label"].to_numpy(object)
    return TilePredictions(selected, truth_T, known_tiles(selected, record), class_T, probability_T, np.empty(0))


def map_of_tiles(selected: Selection, jobs: Sequence[MapJob], out: Path) -> Any:
    """Yield the position of each mapped tile, and code and confidence (H, W) of its pixels in the map."""
    job_of = {job.number: job for job in jobs if job.selected.index.name == selected.index.name}
    for position, (scene, row, col, size) in enumerate(
        selected.index.tiles[["scene", "row", "col", "size"]].itertuples(index=False)
    ):
        if scene in job_of:
            window = Window(row, col, size, size)
            pair = (read_map(str(job_of[scene].path(out, kind)), window)[0] for kind in ("map", "confidence"))
            yield position, tuple(pair)


def as_number(label: Any) -> float | None:
    """Return the label as a number; None where it is no number or not finite."""
    try:
        number = float(label)
    except (TypeError, ValueError):
        return None
    return number if np.isfinite(number) else None


def write_predictions(path: Path, record: PredictorRecord, predictions: Sequence[TilePredictions]) -> None:
    """Publish the tiles of all selections as GeoParquet, in the order of `predictions`."""
    columns: dict[str, list[Any]] = {}
    outlines = []
    for one in predictions:
        index = one.selected.index
        about: dict[str, list[Any]] = {"dataset": [index.name] * len(one), "selector": [one.selected.name] * len(one)}
        about["scene"] = [index.source.scenes[scene].id for scene in index.tiles["scene"]]
        about |= {name: index.tiles[name].tolist() for name in ABOUT}
        about["learned"] = one.learned_T.tolist()
        if record.of_numbers:
            about |= {"value": one.number_T.tolist(), "truth": [as_number(value) for value in one.truth_T.tolist()]}
        else:
            truth = [None if value is None else str(value) for value in one.truth_T.tolist()]
            about["class"] = [record.classes[code] if code >= 0 else None for code in one.class_T.tolist()]
            about |= {"probability": one.probability_T.tolist(), "truth": truth}
        for name, values in about.items():
            columns.setdefault(name, []).extend(values)
        outlines.append(footprints(index))
    write_tiles(columns, np.concatenate(outlines), path)
