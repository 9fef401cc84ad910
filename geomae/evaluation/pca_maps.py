"""Principal components of patch embeddings over whole scenes as colours, the same for all scenes.

C bands, H W pixels, n patches, Y X patches of a scene, D features, K components
"""

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from numpy.typing import NDArray
from torch.nn.functional import adaptive_max_pool2d

from geomae.encoders.dense import Lattice, dense_scores
from geomae.encoders.extraction import EncoderTiles
from geomae.errors import StorageError
from geomae.evaluation.pca import Floats, Pca, fit_pca, load_pca
from geomae.files import read_json, scene_names, write_json
from geomae.randomness import generator
from geomae.rasters import Grid
from geomae.runtime.devices import Compute
from geomae.runtime.precision import working_precision
from geomae.tiles.index import TileIndex
from geomae.tiles.reader import TileReader
from geomae.tiles.selection import evenly_spread

COLOURS = 3
FITTED_TILES, FITTED_BATCH = 2048, 64  # most train tiles of the fit: they have enough patches
THINNED = 7  # every so many-th patch is used for the limits; coprime to the sides of usual patch grids
LIMITS = (2.0, 98.0)  # percentiles of the scores that become black and full colour
MOST_CHIPS = 8  # most scenes of a data set without a CRS, which usually are many small images

Progress = Callable[[int, int], None]


@dataclass(frozen=True)
class Colours:
    """Three principal components of patch embeddings, and the scores that become black and full colour in all maps."""

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
        raise StorageError(f"{folder / 'pca_map.json'}: has no valid colour limits ({error}); restore it") from error
    return Colours(load_pca(folder / "pca_map.npz"), low_K, high_K)


def fit_colours(
    compute: Compute, parts: Sequence[EncoderTiles], fitted_T: NDArray[np.bool_], seed: int, identity: str
) -> Colours:
    """Fit three components to the valid patches of at most 2048 of the tiles `fitted_T` of all parts."""
    places = [(number, position) for number, part in enumerate(parts) for position in range(len(part.index))]
    chosen = np.flatnonzero(fitted_T)
    if len(chosen) > FITTED_TILES:
        chosen = np.sort(generator(seed, "pca map").choice(chosen, FITTED_TILES, replace=False))
    thinned: list[Floats] = []

    def patches() -> Iterator[Floats]:
        for patches_nD in _patches(parts, [places[tile] for tile in chosen], device):
            thinned.append(patches_nD[::THINNED])
            yield patches_nD

    device = compute.fabric.device
    with torch.inference_mode(), working_precision(device, compute.precision):
        pca = fit_pca(patches(), COLOURS, identity)
    low_K, high_K = np.percentile(pca.transform(np.concatenate(thinned)), LIMITS, axis=0)
    return Colours(pca, low_K, np.where(high_K > low_K, high_K, low_K + 1))


@dataclass(frozen=True)
class MapJob:
    """A scene to map, as one of the scenes of `part`, and the name of its files."""

    part: EncoderTiles
    scene: int
    name: str

    @property
    def grid(self) -> Grid:
        """The pixels of the scene."""
        grid = self.part.index.grids[self.scene]
        assert grid is not None, "a scene with tiles has a grid"
        return grid

    @property
    def lattice(self) -> Lattice:
        """Its patches and windows, which are as large as its tiles."""
        size = _size(self.part.index)
        return Lattice(size, self.part.encoder.patch_grid(size, size)[0])

    @property
    def windows(self) -> int:
        """The number of windows that cover the scene."""
        return len(self.lattice.starts(self.grid.height)) * len(self.lattice.starts(self.grid.width))


def scenes_to_map(parts: Sequence[EncoderTiles], most: int | None) -> list[MapJob]:
    """Scenes of the tiles that are at least two tiles long: at most `most` of each data set, evenly spread.

    The default is all scenes, or 8 of a data set without a CRS.
    """
    mapped: list[tuple[EncoderTiles, int]] = []
    for name in dict.fromkeys(part.index.name for part in parts):
        same = [part for part in parts if part.index.name == name]
        size, grids = _size(same[0].index), same[0].index.grids
        scenes = sorted({scene for part in same for scene in part.index.tiles["scene"].tolist()})
        large = [
            (scene, grid)
            for scene, grid in ((scene, grids[scene]) for scene in scenes)
            if grid is not None and min(grid.height, grid.width) >= size and max(grid.height, grid.width) >= 2 * size
        ]
        limit = most if most is not None or any(grid.crs for _, grid in large) else MOST_CHIPS
        chosen = large if limit is None else [large[place] for place in evenly_spread(len(large), limit)]
        mapped += [(same[0], scene) for scene, _ in chosen]
    names = scene_names([(part.index.name, part.index.source.scenes[scene].id) for part, scene in mapped])
    return [MapJob(*one, name) for one, name in zip(mapped, names, strict=True)]


def map_scene(
    compute: Compute, job: MapJob, colours: Colours, progress: Progress = lambda done, total: None
) -> tuple[NDArray[np.float64], NDArray[np.bool_]]:
    """The components of the patches of a scene as colours (Y, X, 3), 0 to 1, and which patches are valid (Y, X).

    `progress` is called with (windows done, windows in total).
    """
    source, device = job.part.index.source, compute.fabric.device
    with torch.inference_mode(), working_precision(device, compute.precision):
        scores_YXK, valid_YX = dense_scores(
            job.part.encoder,
            source,
            source.scenes[job.scene],
            job.grid,
            job.lattice,
            colours.pca.transform,
            device=device,
            progress=progress,
        )
    return colours.scale(scores_YXK), valid_YX


def _patches(
    parts: Sequence[EncoderTiles], places: Sequence[tuple[int, int]], device: torch.device
) -> Iterator[Floats]:
    """Valid patch embeddings (n, D) of tiles, given as (part, position), batch by batch."""
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


def _size(index: TileIndex) -> int:
    """The most frequent size of the tiles."""
    return int(index.tiles["size"].mode().iloc[0])
