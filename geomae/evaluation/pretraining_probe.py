"""A kNN probe during pretraining, which shows whether the embeddings become useful or collapse.

T tiles, D features of an embedding
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import pandas as pd
import torch
from numpy.typing import NDArray

from geomae.catalog import Catalog, parse_selector
from geomae.encoders.interface import DEFAULT_POOLING
from geomae.encoders.own_models import OwnEncoder, fit_model
from geomae.errors import CatalogError
from geomae.evaluation.folds import TrainingFolds, assign_training
from geomae.evaluation.pca import fit_pca
from geomae.evaluation.probe_predictions import NEIGHBOURS, knn_classes, knn_values
from geomae.metrics.predictions import ALL, NumberMeasure, balanced_accuracy, confusion
from geomae.models.architecture import middle_layer
from geomae.models.folder import Model
from geomae.randomness import generator
from geomae.tiles.census import label_range
from geomae.tiles.index import TileIndex, build_index
from geomae.tiles.reader import TileReader, runs_of_one_size
from geomae.tiles.selection import own_record

MOST_TILES = 2000  # enough for a curve; a probe should take seconds
FEWEST_ROWS = 5  # tiles per class: with fewer a class is not in every fold
BATCH = 256


@dataclass(frozen=True)
class LabelledTiles:
    """The tiles of the probe, their labels (T), and folds in which each is held out once.

    Labels are codes of `classes`; for measurements `classes` is empty and labels are numbers.
    """

    name: str
    reader: TileReader
    index: TileIndex
    label_T: NDArray[Any]
    classes: tuple[str, ...]
    folds: TrainingFolds


def labelled_tiles(
    catalog: Catalog,
    selectors: Sequence[str],
    model: Model,
    seed: int,
    *,
    indexes: Mapping[str, TileIndex] | None = None,
    memory_bytes: int = 0,
) -> LabelledTiles:
    """The tiles of the first selector that has labels, at most MOST_TILES, for a probe of `model` during training.

    `model` has the architecture and the sensors of the training. `indexes` are data sets that are already indexed.
    Raises CatalogError or BandMismatchError where it cannot be probed on them.
    """
    name, index = _first_labelled(catalog, selectors, indexes or {})
    classes = _classes(name, index.tiles["label"])
    wanted_T = index.tiles["label"].isin(classes) if classes else index.tiles["label"].notna()
    usable = np.flatnonzero(wanted_T.to_numpy())
    if len(usable) > MOST_TILES:
        usable = np.sort(generator(seed, "probe tiles").choice(usable, MOST_TILES, replace=False))
    index = index.take(usable)
    encoder = _encoder(model, index)
    for size in sorted(set(index.tiles["size"].tolist())):
        encoder.patch_grid(size, size)
    names = index.tiles["label"].astype(str)
    label_T = np.searchsorted(classes, names) if classes else names.to_numpy(dtype=np.float64)
    folds = assign_training(label_T, classes, index.tiles["fold"].tolist(), index.tiles["group"].tolist(), seed)
    reader = TileReader(index, memory_bytes, [band.name for band in encoder.bands])
    return LabelledTiles(name, reader, index, label_T, classes, folds)


def probe(model: Model, tiles: LabelledTiles) -> dict[str, float]:
    """Scores of kNN predictions of held-out folds, and the effective rank of the embeddings.

    Scores are balanced accuracy for classes (`knn5`, `knn20`) and R2 for numbers (`knn5_r2`, `knn20_r2`).
    """
    encoder = _encoder(model, tiles.index)
    parts = []
    for run in runs_of_one_size(tiles.reader.side_T, range(len(tiles.reader)), lambda size: BATCH):
        pixels, valid = tiles.reader.many(run)
        parts.append(encoder.embed(torch.from_numpy(pixels), torch.from_numpy(valid))[0].numpy())
    embedding_TD = np.concatenate(parts)
    predicted = {count: np.zeros_like(tiles.label_T) for count in NEIGHBOURS}
    for train, held in tiles.folds.parts():
        rows = (embedding_TD[train], tiles.label_T[train], embedding_TD[held])
        labels = knn_classes(*rows, len(tiles.classes)) if tiles.classes else knn_values(*rows)
        for count, label_T in labels.items():
            predicted[count][held] = label_T
    kind = "" if tiles.classes else "_r2"
    figures = {f"probe/knn{count}{kind}/{tiles.name}": _score(tiles, label_T) for count, label_T in predicted.items()}
    return figures | {f"probe/effective_rank/{tiles.name}": fit_pca([embedding_TD], 1).effective_rank}


def _classes(name: str, labels: pd.Series) -> tuple[str, ...]:
    """The classes with enough tiles; none for measurements. Raises CatalogError for fewer than two."""
    if label_range(labels.dropna()) is not None:
        return ()
    counts = labels.value_counts()
    classes = tuple(sorted(str(label) for label in counts.index[counts >= FEWEST_ROWS]))
    if len(classes) < 2:
        raise CatalogError(
            f"{name}: fewer than two classes have {FEWEST_ROWS} labelled tiles, too few to probe; choose others with "
            "--probe"
        )
    return classes


def _score(tiles: LabelledTiles, predicted_T: NDArray[Any]) -> float:
    """Balanced accuracy of classes, R2 of numbers."""
    if tiles.classes:
        return float(balanced_accuracy(confusion(tiles.label_T, predicted_T, len(tiles.classes))))
    measure = NumberMeasure(float(tiles.label_T.mean()))
    sums = measure.sums(tiles.label_T, predicted_T, np.zeros(len(tiles.label_T), dtype=np.int64), 1)
    return float(measure.values(sums)[measure.main, ALL][0])


def _first_labelled(
    catalog: Catalog, selectors: Sequence[str], indexes: Mapping[str, TileIndex]
) -> tuple[str, TileIndex]:
    for text in selectors:
        selector = parse_selector(text)
        known = indexes.get(selector.dataset)
        index = (known if known is not None else build_index(catalog, selector.dataset)).select(selector)
        if index.tiles["label"].notna().any():
            return text, index
    listed = ", ".join(selectors)
    raise CatalogError(f"probe_every: no tile of {listed} has a label; name a labelled data set with --probe SELECTOR")


def _encoder(model: Model, index: TileIndex) -> OwnEncoder:
    fitted, adapted = fit_model(model, own_record(index), "the model in training")
    depth = model.mae.architecture.depth
    return OwnEncoder(fitted, middle_layer(depth), DEFAULT_POOLING, "model", adapted)
