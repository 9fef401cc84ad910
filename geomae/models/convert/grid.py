"""The tiles that an export is made for: positions of other programs belong to one grid of patches.

B batch, C bands, H W pixels of a tile, N patches, D width
"""

import torch
from torch import Tensor

from geomae.errors import ModelError
from geomae.models.folder import Model
from geomae.models.positions import sincos_positions


def export_grid(model: Model, tile: int | None) -> tuple[int, int]:
    """Rows and columns of patches: of stored positions, else of `tile` (pixels a side), else of the model's own tiles.

    Raises ModelError where nobody says the size, or patches do not fit it.
    """
    shape = model.mae.architecture
    if shape.positions == "table" and shape.grid is not None:
        height, width = (shape.patch * side for side in shape.grid)
        if tile not in (None, height) or (tile is not None and height != width):
            raise ModelError(
                f"--tile-size {tile}: the model has positions for tiles of {height} x {width} only; leave it out"
            )
        return shape.grid
    recorded = model.provenance.get("tile")
    sides = [tile, tile] if tile is not None else [recorded, recorded] if isinstance(recorded, int) else recorded
    if not isinstance(sides, list) or len(sides) != 2 or not all(isinstance(side, int) for side in sides):
        raise ModelError(
            "the model takes tiles of any size and does not say which it was trained on, and an export is for one; say "
            "--tile-size PIXELS"
        )
    height, width = sides
    if height < 1 or width < 1 or height % shape.patch or width % shape.patch:
        raise ModelError(
            f"a patch of {shape.patch} pixels does not divide a tile of {height} x {width}; say --tile-size with a "
            f"multiple of {shape.patch}"
        )
    return height // shape.patch, width // shape.patch


def random_tiles(model: Model, tiles: int, size: tuple[int, int]) -> Tensor:
    """Tiles (B, C, H, W) without gaps in physical units, the same each time; for checks of an export."""
    mean, std = (torch.tensor(values)[:, None, None] for values in (model.record.mean_C, model.record.std_C))
    rng = torch.Generator().manual_seed(0)
    return (mean + std * torch.randn(tiles, len(mean), *size, generator=rng)).float()


def scaled(model: Model) -> str:
    """What is to be said of positions that depend on the ground sample distance."""
    return f" of {model.record.gsd_m:g} m" if model.mae.architecture.positions == "gsd" else ""


def position_table(model: Model, rows: int, cols: int) -> Tensor:
    """Positions (1 + N, D) of the class token and of each patch, as the encoder adds them."""
    shape = model.mae.architecture
    if shape.positions == "table":
        table: Tensor = model.mae.state_dict()["encoder.positions.table"]
        return table.float()
    scale = shape.position_scale(model.record.gsd_m)
    return torch.cat([torch.zeros(1, shape.width), sincos_positions(rows, cols, shape.width, scale=scale)])
