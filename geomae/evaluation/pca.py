"""Principal components of a store of embeddings, and the scores of its tiles.

N embeddings, T tiles, D features, K components
"""

import zipfile
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from xarray import Dataset

from geomae.catalog.splits import TRAIN
from geomae.embeddings import batches, open_embeddings
from geomae.errors import ConfigError, StorageError
from geomae.files import digest, publish_file
from geomae.metrics.effective_rank import effective_rank
from geomae.tiles.index import TileIndex

Floats = NDArray[np.float32]
Doubles = NDArray[np.float64]

ROWS = 1024  # rows of one matrix product, which fit in the processor's cache as float64
NOISE = 1e-12  # share of the squared mean: a smaller variance is rounding of float32
COLLAPSED_RANK, COLLAPSED_SHARE = 2.0, 0.99
COLUMNS = {"label": "label", "domain": "domain", "split": "split", "dataset": "data set"}  # stored, shown
BATCH = 8192  # tiles
USUAL = 16  # default number of components


@dataclass(frozen=True)
class Pca:
    """Principal components, strongest first, of unit length; the largest loading of each is positive.

    `spectrum_D` holds the variance along all components, kept or not. `encoder_digest` identifies the encoder of
    the embeddings (empty if unknown).
    """

    mean_D: Doubles
    components_KD: Doubles
    spectrum_D: Doubles
    rows: int
    encoder_digest: str = ""

    @property
    def variance_K(self) -> Doubles:
        """Variance along each kept component."""
        return self.spectrum_D[: len(self.components_KD)]

    @cached_property
    def share_D(self) -> Doubles:
        """Share of the total variance along each component, kept or not; zeros where there is no variance."""
        total = self.spectrum_D.sum()
        return self.spectrum_D / total if total > 0 else np.zeros_like(self.spectrum_D)

    @property
    def effective_rank(self) -> float:
        """Effective number of directions with variance; 0 without variance."""
        return effective_rank(self.share_D)

    @property
    def collapse(self) -> str | None:
        """A warning where the embeddings hardly differ, or in one direction only; else None."""
        remedy = "figures and maps of these embeddings mean little; train longer, or choose another layer or pooling"
        if not self.share_D.any():
            return f"the encoder has collapsed: all {self.rows} embeddings are equal; {remedy}"
        if self.effective_rank < COLLAPSED_RANK or self.share_D[0] >= COLLAPSED_SHARE:
            share, rank = self.share_D[0], self.effective_rank
            figures = f"{share:.1%} of their variance in one direction, effective rank {rank:.2f}"
            return f"the embeddings have collapsed ({figures}); {remedy}"
        return None

    def transform(self, embeddings_ND: Floats) -> Floats:
        """Scores (N, K) of embeddings on the components."""
        return ((embeddings_ND - self.mean_D) @ self.components_KD.T).astype(np.float32)

    def save(self, path: Path) -> None:
        """Publish as `pca.npz`."""
        with publish_file(path) as temporary, temporary.open("wb") as file:
            np.savez(
                file,
                mean=self.mean_D,
                components=self.components_KD,
                spectrum=self.spectrum_D,
                rows=np.int64(self.rows),
                encoder_digest=np.str_(self.encoder_digest),
            )


@dataclass(frozen=True)
class Earlier:
    """An earlier run onto whose components other tiles are projected, with its own tiles."""

    folder: Path
    pca: Pca
    dataset: Dataset


@dataclass(frozen=True)
class PcaResult:
    """Principal components and figures of some tiles.

    `pca` are the components of the scores, `here` those of the tiles at hand. They are the same unless the tiles were
    projected onto an earlier run: then `carried_K` is the share of the tiles' variance along each of its components.
    `notes` say to which tiles the components were fitted, where these are not the train split.
    """

    pca: Pca
    here: Pca
    carried_K: Doubles
    earlier: Path | None
    tiles: int
    notes: tuple[str, ...]

    @property
    def share_K(self) -> Doubles:
        """The share of the variance of the fitted tiles along each component."""
        return self.pca.share_D[: len(self.pca.components_KD)]

    def metrics(self) -> dict[str, float]:
        """The figures by their names in summaries, which do not change."""
        figures: dict[str, float] = {
            "components": len(self.pca.components_KD),
            "fitted_tiles": self.pca.rows,
            "effective_rank": self.here.effective_rank,
            "explained_variance_ratio": float(self.carried_K.sum()),
        }
        return figures | {
            f"explained_variance_ratio_{k + 1}": float(share) for k, share in enumerate(self.carried_K[:4])
        }


def load_pca(path: Path) -> Pca:
    """Read what `Pca.save` wrote. Raises StorageError where it is absent or something else."""
    remedy = "give the folder of a finished `geomae embed-pca`"
    try:
        with np.load(path, allow_pickle=False) as stored:
            values: dict[str, Any] = {key: stored[key] for key in stored.files}
        pca = Pca(
            values["mean"],
            values["components"],
            values["spectrum"],
            int(values["rows"]),
            str(values["encoder_digest"]),
        )
    except FileNotFoundError as error:
        raise StorageError(f"{path}: does not exist; {remedy}") from error
    except (OSError, ValueError, KeyError, TypeError, zipfile.BadZipFile) as error:
        raise StorageError(f"{path}: holds no principal components ({error}); {remedy}") from error
    count, width = pca.components_KD.shape if pca.components_KD.ndim == 2 else (0, 0)
    if not count or pca.mean_D.shape != (width,) or pca.spectrum_D.shape != (width,):
        raise StorageError(f"{path}: its arrays do not fit together; {remedy}")
    return pca


def fit_pca(batches: Iterable[Floats], components: int, encoder_digest: str = "") -> Pca:
    """Fit `components` principal components to batches (n, D) of embeddings in one pass, without keeping them.

    Products are summed in double precision about the mean of the first batch, which is accurate for embeddings far from
    zero. Raises ConfigError where `components` are more than there are embeddings or features, or where
    an embedding is not finite.
    """
    rows, shift_D, sum_D, products_DD = _sums(batches)
    _check(components, rows, len(shift_D))
    if not (np.isfinite(sum_D).all() and np.isfinite(products_DD).all()):
        raise ConfigError("embeddings: some are not finite; embed with --precision 32")
    mean_D = shift_D + sum_D / rows
    covariance_DD = (products_DD - np.outer(sum_D, sum_D / rows)) / (rows - 1)
    variance_D, vectors_DD = np.linalg.eigh(covariance_DD)
    spectrum_D = np.maximum(variance_D[::-1], 0)
    if spectrum_D.sum() <= NOISE * (mean_D**2).sum():
        spectrum_D = np.zeros_like(spectrum_D)
    components_KD = vectors_DD.T[::-1][:components]
    strongest = np.abs(components_KD).argmax(axis=1)
    signs_K = np.sign(components_KD[np.arange(components), strongest])
    return Pca(mean_D, components_KD * signs_K[:, None], spectrum_D, rows, encoder_digest)


def fit_store(dataset: Dataset, components: int | None = None) -> tuple[PcaResult, Floats]:
    """Fit components to the train tiles of a store; returns them and the scores (T, K) of all its tiles.

    The default is 16 components, or as many as there can be. Raises ConfigError where fewer can be than are asked for.
    """
    fitted_T, notes = fitted_tiles(dataset["dataset"].to_numpy(), dataset["split"].to_numpy())
    pca = _fit(dataset, fitted_T, components)
    scores_TK = scores_of(dataset, pca)
    return PcaResult(pca, pca, pca.share_D[: len(pca.components_KD)], None, len(scores_TK), tuple(notes)), scores_TK


def project_store(dataset: Dataset, earlier: Earlier) -> tuple[PcaResult, Floats]:
    """Project the tiles of a store onto the components of an earlier run; their scores, then those of its own tiles.

    Raises StorageError where the embeddings are of another width.
    """
    here = _fit(dataset, np.ones(dataset.sizes["tile"], dtype=np.bool_), None)
    scores_TK = scores_of(dataset, earlier.pca)
    variance_K = scores_TK.var(axis=0, ddof=1, dtype=np.float64)
    carried_K = variance_K / here.spectrum_D.sum() if here.spectrum_D.any() else np.zeros_like(variance_K)
    result = PcaResult(earlier.pca, here, carried_K, earlier.folder, len(scores_TK), ())
    return result, np.concatenate([scores_TK, scores_of(earlier.dataset, earlier.pca)])


def scores_of(dataset: Dataset, pca: Pca) -> Floats:
    """The scores (T, K) of all tiles of a store. Raises StorageError where the embeddings are of another width."""
    if dataset.sizes["feature"] != len(pca.mean_D):
        raise StorageError(
            f"the components are of {len(pca.mean_D)} features, the embeddings of {dataset.sizes['feature']}; make "
            "both with the same encoder"
        )
    return np.concatenate([pca.transform(embedding_TD) for _, embedding_TD in batches(dataset, BATCH)])


def open_earlier(folder: Path) -> Earlier:
    """Load an earlier `embed-pca` run. Raises StorageError where it is missing or unfinished."""
    return Earlier(folder, load_pca(folder / "pca.npz"), open_embeddings(folder))


def check_projection(earlier: Earlier, identity: str, text: str) -> None:
    """Raise ConfigError where the components are those of another encoder.

    Weights, layer and pooling must be the same. The statistics by which pixels are standardised may differ: tiles of a
    sensor that the encoder was not trained on are standardised by their own statistics.
    """
    if earlier.pca.encoder_digest != identity:
        made_by = earlier.dataset.attrs
        was = f"{made_by['encoder']}, layer {made_by['layer']}, pooling {made_by['pooling']}"
        raise ConfigError(
            f"--project {earlier.folder}: its components are those of another encoder ({was}), not of {text}; give "
            "that encoder, with its --layer and --pooling"
        )


def identity_of(attributes: Mapping[str, Any]) -> str:
    """Identifies an encoder independently of the data set: by weights, layer and pooling in a store's attributes."""
    return digest([attributes[name] for name in ("model_digest", "layer", "pooling")])


def fitted_tiles(dataset_T: NDArray[np.str_], split_T: NDArray[np.str_]) -> tuple[NDArray[np.bool_], list[str]]:
    """The tiles to which components are fitted, and notes where these are not the train split.

    For a data set without selected train tiles, all its tiles are used.
    """
    train_T = split_T == TRAIN
    without = [name for name in dict.fromkeys(dataset_T.tolist()) if not train_T[dataset_T == name].any()]
    notes = [f"{name}: none of the selected tiles is of the train split; the fit uses all of them" for name in without]
    return train_T | np.isin(dataset_T, without), notes


def check_components(components: int | None, indexes: Sequence[TileIndex], features: int) -> int:
    """The number of tiles to fit to. Raises ConfigError for more components than there can be."""
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


def columns(*datasets: Dataset) -> dict[str, NDArray[np.str_]]:
    """The columns by which tiles of some stores, concatenated, can be coloured."""
    return {
        title: np.concatenate([dataset[name].to_numpy().astype(np.str_) for dataset in datasets])
        for name, title in COLUMNS.items()
    }


def _fit(dataset: Dataset, chosen_T: NDArray[np.bool_], components: int | None) -> Pca:
    """Fit components (by default 16, or as many as there can be) to chosen tiles of a store."""
    usual = max(min(USUAL, int(chosen_T.sum()), dataset.sizes["feature"]), 1)
    return fit_pca(_chosen(dataset, chosen_T), components or usual, identity_of(dataset.attrs))


def _sums(batches: Iterable[Floats]) -> tuple[int, Doubles, Doubles, Doubles]:
    """Rows, the shift (mean of the first batch), and sum and products of the shifted embeddings."""
    rows = 0
    shift_D = sum_D = np.zeros(0)
    products_DD = np.zeros((0, 0))
    for batch_ND in batches:
        if rows == 0 and len(batch_ND):
            shift_D = batch_ND.mean(axis=0, dtype=np.float64)
            sum_D, products_DD = np.zeros_like(shift_D), np.zeros((len(shift_D), len(shift_D)))
        rows += len(batch_ND)
        for block_ND in _blocks(batch_ND, shift_D):
            sum_D += block_ND.sum(axis=0)
            products_DD += block_ND.T @ block_ND  # a symmetric product, which takes half the work
    return rows, shift_D, sum_D, products_DD


def _blocks(batch_ND: Floats, shift_D: Doubles) -> Iterator[Doubles]:
    for first in range(0, len(batch_ND), ROWS):
        yield batch_ND[first : first + ROWS] - shift_D


def _check(components: int, rows: int, width: int) -> None:
    if rows < 2:
        raise ConfigError(f"--components {components}: there is {rows} embedding to fit them to; select more tiles")
    most = min(rows, width)
    if not 1 <= components <= most:
        there = f"there are {rows} embeddings of {width} features to fit them to"
        raise ConfigError(f"--components {components}: {there}; choose from 1 to {most}")


def _chosen(dataset: Dataset, chosen_T: NDArray[np.bool_]) -> Iterator[Floats]:
    for rows, embedding_TD in batches(dataset, BATCH):
        yield embedding_TD[chosen_T[rows]]
