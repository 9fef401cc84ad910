"""Principal components of a store of embeddings, and where its tiles lie along them.

T tiles, D features, K components
"""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from xarray import Dataset

from geomae.analysis.pca import Floats, Pca, fit_pca, load_pca
from geomae.catalog.splits import TRAIN
from geomae.embeddings import batches, open_embeddings
from geomae.errors import ConfigError, StorageError
from geomae.files import digest
from geomae.tiles.index import TileIndex

COLUMNS = {"label": "label", "domain": "domain", "split": "split", "dataset": "data set"}  # as they are stored, shown
BATCH = 8192  # tiles
USUAL = 16  # components that are kept where nobody says how many


@dataclass(frozen=True)
class Earlier:
    """The run that other tiles are projected into: its components, and its own tiles."""

    folder: Path
    pca: Pca
    dataset: Dataset


def open_earlier(folder: Path) -> Earlier:
    """What an earlier `embed-pca` left. Raises StorageError where it is absent or unfinished."""
    return Earlier(folder, load_pca(folder / "pca.npz"), open_embeddings(folder))


def check_projection(earlier: Earlier, identity: str, text: str) -> None:
    """Raise ConfigError where the components are those of another encoder.

    Weights, layer and pooling must be the same. The statistics by which pixels are standardised need not: tiles of
    another sensor are standardised by their own, as whenever an encoder meets a sensor that it was not trained on.
    """
    if earlier.pca.encoder_digest != identity:
        made_by = earlier.dataset.attrs
        was = f"{made_by['encoder']}, layer {made_by['layer']}, pooling {made_by['pooling']}"
        raise ConfigError(
            f"--project {earlier.folder}: its components are those of another encoder ({was}), not of {text}; give "
            "that encoder, with its --layer and --pooling"
        )


def identity_of(attributes: Mapping[str, Any]) -> str:
    """Names an encoder whatever the data set: its weights, layer and pooling, as a store's attributes say them."""
    return digest([attributes[name] for name in ("model_digest", "layer", "pooling")])


def fitted_tiles(dataset_T: NDArray[np.str_], split_T: NDArray[np.str_]) -> tuple[NDArray[np.bool_], list[str]]:
    """The tiles that components are fitted to, and in words, where these are not the train split.

    Of a data set without a train tile among those selected, all tiles count.
    """
    train_T = split_T == TRAIN
    without = [name for name in dict.fromkeys(dataset_T.tolist()) if not train_T[dataset_T == name].any()]
    notes = [
        f"{name}: none of the selected tiles is of the train split; all of them count in the fit" for name in without
    ]
    return train_T | np.isin(dataset_T, without), notes


def fit(dataset: Dataset, chosen_T: NDArray[np.bool_], components: int | None, identity: str) -> Pca:
    """Fit components (by default 16, or as many as there can be) to chosen tiles of a store."""
    usual = max(min(USUAL, int(chosen_T.sum()), dataset.sizes["feature"]), 1)
    return fit_pca(_chosen(dataset, chosen_T), components or usual, identity)


def check_components(components: int | None, indexes: Sequence[TileIndex], features: int) -> int:
    """How many tiles there are to fit to. Raises ConfigError for more components than there can be."""
    every = {
        (index.name, tile_id): split
        for index in indexes
        for tile_id, split in index.tiles[["tile_id", "split"]].itertuples(index=False)
    }
    fitted_T, _ = fitted_tiles(np.array([name for name, _ in every]), np.array([*every.values()]))
    tiles = int(fitted_T.sum())
    if tiles < 2:
        raise ConfigError(f"embed-pca: {tiles} tile has no principal components; select more")
    most = min(tiles, features)
    if components is not None and components > most:
        raise ConfigError(
            f"--components {components}: there are {tiles} tiles to fit them to, and {features} features; choose at "
            f"most {most}"
        )
    return tiles


def scores(dataset: Dataset, pca: Pca) -> Floats:
    """The scores (T, K) of all tiles of a store. Raises StorageError where the embeddings are of another width."""
    if dataset.sizes["feature"] != len(pca.mean_D):
        raise StorageError(
            f"the components are of {len(pca.mean_D)} features, the embeddings of {dataset.sizes['feature']}; make "
            "both with the same encoder"
        )
    return np.concatenate([pca.transform(embedding_TD) for _, embedding_TD in batches(dataset, BATCH)])


def columns(*datasets: Dataset) -> dict[str, NDArray[np.str_]]:
    """What the tiles of some stores, one after the other, can be coloured by."""
    return {
        title: np.concatenate([dataset[name].to_numpy().astype(np.str_) for dataset in datasets])
        for name, title in COLUMNS.items()
    }


def _chosen(dataset: Dataset, chosen_T: NDArray[np.bool_]) -> Iterator[Floats]:
    for rows, embedding_TD in batches(dataset, BATCH):
        yield embedding_TD[chosen_T[rows]]
