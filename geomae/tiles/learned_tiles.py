"""The tiles that a model learned from: as its folder records them, and the ground that they show in scenes of an index.

N tiles of a scene, E points of a tile
"""

from collections.abc import Collection, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from geomae.rasters import Grid
from geomae.tiles.index import TileIndex
from geomae.vectors.projection import pixels_of

LEARNED, HELD_OUT = "learned", "held_out"
SHORT = 8  # characters of the digest of a scene's files: of 100,000 scenes two have the same by chance
POINTS = 5  # along each side of a tile, by which it is found in another grid
ROUNDING = 0.01  # pixels by which a tile found in another grid is made smaller, so that it does not meet its neighbours
# Why tiles may not be where they are looked for: their grid was not recorded, or has no place on Earth.
UNRECORDED, UNPLACED = "unrecorded", "unplaced"

Floats = NDArray[np.float64]


def record_tiles(learned: TileIndex, held_out: Sequence[TileIndex]) -> dict[str, Any]:
    """What a folder says of the tiles of one data set that a model was trained on and chosen by, as JSON.

    `learned` and `held_out` list the ids of the tiles, and `sizes` has the sides of those whose side is not the most
    frequent one. `grids` has the grid of each scene with such tiles (position of its CRS in `crs`, height, width,
    transform), since the same rows and columns of another grid are other ground.
    """
    parts = (learned, *held_out)
    usual = int(learned.tiles["size"].mode().iloc[0])
    sizes: dict[str, int] = {}
    crs: list[str] = []
    grids: dict[str, list[Any]] = {}
    for one in parts:
        other = one.tiles[one.tiles["size"] != usual]
        sizes |= dict(zip(other["tile_id"].tolist(), other["size"].tolist(), strict=True))
        for place in one.tiles["scene"].unique().tolist():
            grid = one.grids[place]
            assert grid is not None, "a scene with tiles has a grid"
            if grid.crs is not None and grid.crs not in crs:
                crs.append(grid.crs)
            where = None if grid.crs is None else crs.index(grid.crs)
            grids[one.source.scenes[place].id] = [where, grid.height, grid.width, *grid.transform]
    ids = {LEARNED: learned.tiles["tile_id"].tolist()}
    ids |= {HELD_OUT: [tile for one in held_out for tile in one.tiles["tile_id"].tolist()]}
    return {**ids, "sizes": sizes, "crs": crs, "grids": grids}


def record_content(indexes: Iterable[TileIndex]) -> dict[str, str]:
    """What a folder says of the files that a model was trained on: by data set, short digests of its scenes.

    A data set of the same name in another catalogue has other files.
    """
    found: dict[str, set[str]] = {}
    for index in indexes:
        found.setdefault(index.name, set()).update(one[:SHORT] for one in index.content() if one)
    return {name: " ".join(sorted(digests)) for name, digests in found.items()}


def of_content(index: TileIndex, recorded: str) -> NDArray[np.bool_]:
    """Which tiles (T) are of scenes with files that `record_content` recorded."""
    known = set(recorded.split())
    same = [index.report.content.get(scene.id, "")[:SHORT] in known for scene in index.source.scenes]
    same_T: NDArray[np.bool_] = np.array(same, dtype=np.bool_)[index.tiles["scene"].to_numpy()]
    return same_T


class LearnedScene(NamedTuple):
    """The tiles (N, 4) of a data set in a scene: first row and column, and one past the last, in the scene's pixels.

    `doubt` says why they may be elsewhere: with UNRECORDED they are at the rows and columns that they had; with
    UNPLACED the whole scene stands for them.
    """

    dataset: str
    scene: str
    box_N4: Floats
    doubt: str


@dataclass(frozen=True)
class LearnedTiles:
    """The tiles that a model learned from in the scenes of an index, by data set of its training and scene."""

    scenes: Sequence[LearnedScene]

    @classmethod
    def of(cls, learned: Mapping[str, Mapping[str, Any]], size: int, index: TileIndex) -> "LearnedTiles":
        """Find the tiles in scenes of `index`, given what `record_tiles` recorded by data set, and their usual side.

        A scene with the name of a recorded one counts as the same scene, also in another data set: two entries of a
        catalogue often describe one file, and leaving out a tile too many does not make the accuracy optimistic. Where
        its grid has changed, tiles are found by the ground that they show, as upright boxes in the new grid.
        """
        now = {scene.id: grid for scene, grid in zip(index.source.scenes, index.grids, strict=True)}
        return cls([one for dataset, tiles in learned.items() for one in _found(dataset, tiles, size, now)])

    @cached_property
    def box_N4(self) -> dict[str, Floats]:
        """The boxes of all data sets, by scene."""
        parts: dict[str, list[Floats]] = {}
        for one in self.scenes:
            parts.setdefault(one.scene, []).append(one.box_N4)
        return {name: np.concatenate(boxes) for name, boxes in parts.items()}

    def meeting(self, scene: str, row: float, col: float, size: float) -> bool:
        """Whether a square of a scene overlaps one of these tiles; with `size` 0, whether a point lies in one."""
        if scene not in self.box_N4:
            return False
        box_N4, corner = self.box_N4[scene], np.array([row, col])
        reach = np.maximum(size, 1e-9)
        inside_N2 = (box_N4[:, :2] < corner + reach) & (box_N4[:, 2:] > corner)
        return bool(inside_N2.all(1).any())


def _found(dataset: str, tiles: Mapping[str, Any], size: int, now: Mapping[str, Grid | None]) -> Iterator[LearnedScene]:
    """The tiles of one data set in scenes whose present grids are given; scenes that none of them meet are left out."""
    then, sizes = _recorded_grids(tiles), tiles.get("sizes", {})
    boxes: dict[str, list[tuple[int, int, int, int]]] = {}
    for one in (*tiles.get(LEARNED, ()), *tiles.get(HELD_OUT, ())):
        scene, row, col = _place(one, then or now)
        if scene in now:
            side = sizes.get(one, size)
            boxes.setdefault(scene, []).append((int(row), int(col), int(row) + side, int(col) + side))
    for scene, places in boxes.items():
        box_N4, doubt, grid = np.array(places, dtype=np.float64), "", now[scene]
        if scene not in then:
            doubt = UNRECORDED
        elif grid is not None:
            moved_N4 = _in_grid(box_N4, then[scene], grid)
            doubt = UNPLACED if moved_N4 is None else ""
            box_N4 = np.array([[0.0, 0.0, grid.height, grid.width]]) if moved_N4 is None else moved_N4
        if len(box_N4):
            yield LearnedScene(dataset, scene, box_N4, doubt)


def _place(tile_id: str, scenes: Collection[str]) -> tuple[str, str, str]:
    """Scene, row and column of an id `SCENE:ROW:COLUMN`, followed by `:NUMBER` where points share a tile."""
    scene, row, col = tile_id.rsplit(":", 2)
    if scene not in scenes:
        scene, row, col, *_ = tile_id.rsplit(":", 3)
    return scene, row, col


def _recorded_grids(tiles: Mapping[str, Any]) -> dict[str, Grid]:
    """The grid of each scene when the model learned from it; none in folders of versions that did not record them."""
    grids = {}
    for scene, (where, height, width, *transform) in tiles.get("grids", {}).items():
        a, b, c, d, e, f = map(float, transform)
        grids[scene] = Grid(height, width, None, None if where is None else tiles["crs"][where], (a, b, c, d, e, f))
    return grids


def _in_grid(box_N4: Floats, then: Grid, now: Grid) -> Floats | None:
    """Boxes of a grid in another grid of the scene, without those outside; None where their place is unknown."""
    same_shape = (then.height, then.width) == (now.height, now.width)
    if then.crs is None or now.crs is None:
        return box_N4 if same_shape else None
    if same_shape and (then.crs, then.transform) == (now.crs, now.transform):
        return box_N4
    a, b, c, d, e, f = then.transform
    share_2E = np.stack(np.meshgrid(*2 * (np.linspace(0, 1, POINTS),))).reshape(2, -1)
    row_NE, col_NE = (box_N4[:, [k]] + (box_N4[:, [k + 2]] - box_N4[:, [k]]) * share_2E[k] for k in (0, 1))
    points_NE2 = np.stack([a * col_NE + b * row_NE + c, d * col_NE + e * row_NE + f], axis=-1)
    here_2NE = np.stack(pixels_of(now, then.crs, points_NE2))
    if not np.isfinite(here_2NE).all():
        return None
    first_2N, last_2N = here_2NE.min(2) + ROUNDING, here_2NE.max(2) - ROUNDING
    inside_N = ((last_2N > 0) & (first_2N < np.array([[now.height], [now.width]]))).all(0)
    return np.asarray(np.concatenate([first_2N, last_2N]).T[inside_N])
