"""The colours of maps of principal components: one set for all scenes and domains.

C bands, H W pixels, n patches, Y X patches of a scene, D features, K components
"""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from numpy.typing import NDArray
from torch.nn.functional import adaptive_max_pool2d

from geomae.analysis.pca import Floats, Pca, fit_pca, load_pca
from geomae.encoders.parts import Part
from geomae.errors import StorageError
from geomae.files import read_json, write_json
from geomae.randomness import generator
from geomae.tiles.reader import TileReader

COLOURS = 3
FITTED_TILES, FITTED_BATCH = 2048, 64  # a sample of the train tiles has patches enough
THINNED = 7  # every so manieth patch counts for the limits; prime to the sides of usual patch grids
LIMITS = (2.0, 98.0)  # percentiles of the patches that become black and full colour


@dataclass(frozen=True)
class Colours:
    """Three principal components of patch embeddings, and which scores become black and full colour in every map."""

    pca: Pca
    low_K: NDArray[np.float64]
    high_K: NDArray[np.float64]

    def save(self, folder: Path) -> None:
        """Publish as `pca_map.npz` and `pca_map.json`."""
        self.pca.save(folder / "pca_map.npz")
        write_json(folder / "pca_map.json", {"low": self.low_K, "high": self.high_K})

    def scale(self, scores_YXK: Floats) -> NDArray[np.float64]:
        """Scores as colours, 0 to 1."""
        scaled: NDArray[np.float64] = np.clip((scores_YXK - self.low_K) / (self.high_K - self.low_K), 0, 1)
        return scaled


def load_colours(folder: Path) -> Colours | None:
    """The colours of an earlier run, None where it made no maps. Raises StorageError where they are damaged."""
    if not (folder / "pca_map.json").is_file():
        return None
    limits = read_json(folder / "pca_map.json")
    try:
        low_K, high_K = (np.array(limits[key], dtype=np.float64).reshape(COLOURS) for key in ("low", "high"))
    except (KeyError, TypeError, ValueError) as error:
        raise StorageError(f"{folder / 'pca_map.json'}: holds no limits of colours ({error}); restore it") from error
    return Colours(load_pca(folder / "pca_map.npz"), low_K, high_K)


def fit_colours(
    parts: Sequence[Part], fitted_T: NDArray[np.bool_], seed: int, identity: str, device: torch.device
) -> Colours:
    """Fit three components to the valid patches of the tiles `fitted_T` of all parts, of at most 2048 of them."""
    places = [(number, position) for number, part in enumerate(parts) for position in range(len(part.index))]
    chosen = np.flatnonzero(fitted_T)
    if len(chosen) > FITTED_TILES:
        chosen = np.sort(generator(seed, "pca map").choice(chosen, FITTED_TILES, replace=False))
    thinned: list[Floats] = []

    def patches() -> Iterator[Floats]:
        for patches_nD in _patches(parts, [places[tile] for tile in chosen], device):
            thinned.append(patches_nD[::THINNED])
            yield patches_nD

    pca = fit_pca(patches(), COLOURS, identity)
    low_K, high_K = np.percentile(pca.transform(np.concatenate(thinned)), LIMITS, axis=0)
    return Colours(pca, low_K, np.where(high_K > low_K, high_K, low_K + 1))


def _patches(parts: Sequence[Part], places: Sequence[tuple[int, int]], device: torch.device) -> Iterator[Floats]:
    """Valid patch embeddings (n, D) of tiles, given as (part, position), some tiles at a time."""
    by_part: Mapping[int, list[int]] = {number: [p for n, p in places if n == number] for number, _ in places}
    for number, positions in by_part.items():
        encoder, index = parts[number].encoder, parts[number].index
        reader = TileReader(index, 0, [band.name for band in encoder.bands])
        sizes = index.tiles["size"].to_numpy()
        for size in sorted(set(sizes[positions].tolist())):
            same = [position for position in positions if sizes[position] == size]
            rows, cols = encoder.patch_grid(size, size)
            for first in range(0, len(same), FITTED_BATCH):
                pixels_BCHW, valid_BCHW = map(torch.from_numpy, reader.many(same[first : first + FITTED_BATCH]))
                embedded_BND = encoder.embed(pixels_BCHW.to(device), valid_BCHW.to(device))[1]
                shares = adaptive_max_pool2d(valid_BCHW.any(dim=1).float(), (rows, cols))
                yield embedded_BND.float().cpu().numpy()[shares.flatten(1).numpy() > 0]
