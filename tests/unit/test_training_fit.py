"""Tiles with gaps: those that stay have enough usable patches for every mask that is drawn on them.

C bands, H W pixels
"""

import numpy as np
import pytest
from helpers import changed_catalog, write_catalog

import geomae
from geomae.config import Masking, PretrainConfig
from geomae.models.masking import MaskRules
from geomae.rasters import write_cog
from geomae.tiles.index import build_index
from geomae.tiles.loader import Draw, fixed_batches
from geomae.tiles.reader import TileReader
from geomae.training.fit import usable_tiles

PATCH = 4  # of tiles of 16 pixels: 16 patches, of which 4 are shown
PLACE = {"crs": "EPSG:32632", "transform": (5.0, 0.0, 400_000.0, 0.0, -5.0, 5_000_000.0)}


@pytest.fixture(scope="module")
def index(tmp_path_factory):
    """Four tiles: whole; half gaps; all but three patches gaps; all gaps in red, green and blue."""
    folder = tmp_path_factory.mktemp("gaps")
    pixels_CHW = np.random.default_rng(0).integers(500, 4000, (4, 32, 32)).astype(np.uint16)
    pixels_CHW[:, :8, 16:] = 0
    pixels_CHW[:, 16:, :16] = 0
    pixels_CHW[:, 16:20, :12] = 1000
    pixels_CHW[:3, 16:, 16:] = 0
    write_cog(folder / "scenes" / "s0.tif", pixels_CHW, **PLACE)
    catalog = write_catalog(
        folder, changed_catalog("tile: {size: 16}", "nodata: 0\n    tile: {size: 16, min_valid: 0}")
    )
    found = build_index(geomae.open_catalog(catalog), "tiny")
    assert len(found) == 4
    return found


def kept(index, **masking):
    """The tiles that stay, as their place in their scene."""
    config = PretrainConfig(patch=PATCH, masking=Masking(**masking), data={"min_valid_patch": 0.25})
    notes = []
    tiles = usable_tiles(index, config, notes)
    assert notes == [f"tiny: {4 - len(tiles)} tiles left out, too few valid patches"]
    return tiles, [(row // 16, col // 16) for row, col in tiles.tiles[["row", "col"]].to_numpy().tolist()]


@pytest.mark.parametrize("kind", ["random", "block", "grid", "bands"])
def test_tiles_that_stay_can_be_masked_in_every_way(kind, index):
    """Masks of bands hide no patch, but pictures of the same tiles do."""
    tiles, places = kept(index, kind=kind)
    assert places == [(0, 0), (0, 1), (1, 1)]
    draw = Draw(0, PATCH, MaskRules(0.75), 0.25, False)
    assert len(list(fixed_batches(TileReader(tiles), 0, range(len(tiles)), draw, 1))) == 3
