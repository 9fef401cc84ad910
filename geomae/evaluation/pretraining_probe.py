"""A kNN probe during pretraining: whether the encoder learns what is of use, and whether it has collapsed.

T tiles, D features of an embedding
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np
import pandas as pd
import torch

from geomae.catalog import Catalog, parse_selector
from geomae.encoders.interface import DEFAULT_POOLING
from geomae.encoders.own_models import OwnEncoder, fit_model
from geomae.errors import CatalogError
from geomae.evaluation.folds import TrainingFolds, assign_training
from geomae.evaluation.pca import fit_pca
from geomae.evaluation.probe_predictions import NEIGHBOURS, knn_classes
from geomae.metrics.predictions import Codes, balanced_accuracy, confusion
from geomae.models.architecture import middle_layer
from geomae.models.folder import Model
from geomae.randomness import generator
from geomae.tiles.index import TileIndex, build_index
from geomae.tiles.reader import TileReader, runs_of_one_size
from geomae.tiles.selection import own_record

MOST_TILES = 2000  # a curve needs no more, and a probe should take seconds
FEWEST_ROWS = 5  # a class with fewer cannot be in every fold
BATCH = 256


@dataclass(frozen=True)
class LabelledTiles:
    """The tiles that are probed, their classes as numbers (T), and the folds in which each is held out once."""

    name: str
    reader: TileReader
    index: TileIndex
    label_T: Codes
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
    """The tiles of the first selector that has labels, at most MOST_TILES, for a probe of `model` while it learns.

    `model` has the shape and the sensors of the training. `indexes` are data sets that have been indexed before.
    Raises CatalogError or BandMismatchError where it cannot be probed on them.
    """
    name, index = _first_labelled(catalog, selectors, indexes or {})
    counts = index.tiles["label"].value_counts()
    classes = tuple(sorted(str(label) for label in counts.index[counts >= FEWEST_ROWS]))
    if len(classes) < 2:
        raise CatalogError(
            f"{name}: fewer than two classes have {FEWEST_ROWS} labelled tiles, too few to probe; choose others with "
            "--probe"
        )
    usable = np.flatnonzero(index.tiles["label"].isin(classes).to_numpy())
    if len(usable) > MOST_TILES:
        usable = np.sort(generator(seed, "probe tiles").choice(usable, MOST_TILES, replace=False))
    index = index.take(usable)
    encoder = _encoder(model, index)
    for size in sorted(set(index.tiles["size"].tolist())):
        encoder.patch_grid(size, size)
    label_T = pd.Categorical(index.tiles["label"].astype(str), categories=list(classes)).codes.astype(np.int64)
    folds = assign_training(label_T, classes, index.tiles["fold"].tolist(), index.tiles["group"].tolist(), seed)
    reader = TileReader(index, memory_bytes, [band.name for band in encoder.bands])
    return LabelledTiles(name, reader, index, label_T, classes, folds)


def probe(model: Model, tiles: LabelledTiles) -> dict[str, float]:
    """Balanced accuracy of the nearest neighbours, each fold predicted while it is held out, and the effective rank."""
    encoder = _encoder(model, tiles.index)
    parts = []
    for run in runs_of_one_size(tiles.reader.side_T, range(len(tiles.reader)), lambda size: BATCH):
        pixels, valid = tiles.reader.many(run)
        parts.append(encoder.embed(torch.from_numpy(pixels), torch.from_numpy(valid))[0].numpy())
    embedding_TD = np.concatenate(parts)
    predicted = {count: np.zeros_like(tiles.label_T) for count in NEIGHBOURS}
    for train, held in tiles.folds.parts():
        classes = knn_classes(embedding_TD[train], tiles.label_T[train], embedding_TD[held], len(tiles.classes))
        for count, codes in classes.items():
            predicted[count][held] = codes
    figures = {
        f"probe/knn{count}/{tiles.name}": float(balanced_accuracy(confusion(tiles.label_T, codes, len(tiles.classes))))
        for count, codes in predicted.items()
    }
    return figures | {f"probe/effective_rank/{tiles.name}": fit_pca([embedding_TD], 1).effective_rank}


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
