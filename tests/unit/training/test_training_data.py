"""Tiles with gaps: those that stay have enough usable patches for every mask that is drawn on them.

C bands, H W pixels
"""

from dataclasses import replace

import numpy as np
import pytest
from helpers import changed_catalog, write_catalog

import geomae
from geomae.catalog.selectors import parse_selector
from geomae.config import Data, Masking, PretrainConfig
from geomae.errors import ConfigError
from geomae.models.masking import MaskRules
from geomae.rasters import write_cog
from geomae.tiles.batches import BatchSpec, fixed_batches
from geomae.tiles.index import build_index
from geomae.tiles.reader import TileReader
from geomae.training.data import assemble, fixed_bands, usable_tiles

PATCH = 4  # of tiles of 16 pixels: 16 patches, of which 4 are shown
DATA = Data(min_valid_patch=0.25)
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


@pytest.mark.parametrize("kind", ["random", "block", "grid", "bands"])
def test_tiles_that_stay_can_be_masked_in_every_way(kind, index):
    """Masks of bands hide no patch, but pictures of the same tiles do."""
    config, notes = PretrainConfig(patch=PATCH, masking=Masking(kind=kind), data=DATA), []
    tiles = usable_tiles(index, config, (), None, notes)
    assert places(tiles) == [(0, 0), (0, 1), (1, 1)]
    assert notes == ["tiny: 1 tiles left out, too few valid patches"]
    assert masked(TileReader(tiles)) == 3


def test_only_bands_that_are_read_make_a_patch_usable(index):
    """A grouped embedding may leave bands out; a patch that is valid in these alone is not usable."""
    config = PretrainConfig(patch=PATCH, embedding="grouped", left_out=["nir"], data=DATA)
    names, groups = fixed_bands(index.source.bands, config, [])
    tiles = usable_tiles(index, config, names, groups, [])
    assert places(tiles) == [(0, 0), (0, 1)]
    assert masked(TileReader(tiles, bands=names)) == 2


def test_masks_of_bands_need_two_bands_in_every_data_set(index):
    config = PretrainConfig(patch=PATCH, masking=Masking(kind="bands"))
    alone = replace(index, source=replace(index.source, bands=index.source.bands[:1]))
    with pytest.raises(ConfigError, match=r"masking.ratio: 0.75 leaves none of 1 bands visible.*\(tiny\)"):
        usable_tiles(alone, config, (), None, [])


CAMERA = "{unit: reflectance, scale: 0.0001, bands: [%s, {name: nir, wavelength_um: 0.84, fwhm_um: 0.1}]}"
RED = "{name: red, wavelength_um: 0.65, fwhm_um: 0.1}"


@pytest.mark.parametrize(("second", "names"), [(RED, ["a"]), (RED.replace("0.65", "0.66"), ["a", "b"])])
@pytest.mark.parametrize("named", [False, True])
def test_equal_inline_sensors_of_two_data_sets_are_one_sensor(tmp_path, second, names, named):
    """Whatever their names are; and with one name, they are two if they measure at other wavelengths."""
    lines = ["version: 1", "datasets:"]
    for name, red in (("a", RED), ("b", second)):
        pixels_CHW = np.random.default_rng(len(lines)).integers(500, 4000, (2, 32, 32)).astype(np.uint16)
        write_cog(tmp_path / name / "s.tif", pixels_CHW, **PLACE)
        sensor = CAMERA % red if not named else (CAMERA % red).replace("{unit", "{name: a, unit", 1)
        lines += [f"  {name}:", f"    path: {name}/*.tif", f"    sensor: {sensor}", "    tile: {size: 16}"]
    catalog = geomae.open_catalog(write_catalog(tmp_path, "\n".join(lines)))
    both = [parse_selector(name) for name in "ab"]
    config = PretrainConfig(patch=PATCH, embedding="stacked" if len(names) == 1 else "spectral", data=DATA)
    data = assemble(catalog, both, (), config, 0)
    expected = [name.replace("b", "a-2") for name in names] if named else names
    assert [one.name for one in data.sensors] == expected
    assert [one.record.name for one in data.training] == (expected * 2)[:2]
    means = [one.mean_C for one in data.statistics.values()]
    assert data.sensors[0].mean_C == pytest.approx(np.mean(means[: 3 - len(names)], axis=0))


def places(tiles):
    """Row and column of each tile in its scene, in tiles."""
    return [(row // 16, col // 16) for row, col in tiles.tiles[["row", "col"]].to_numpy().tolist()]


def masked(reader):
    """How many tiles a random mask was drawn on."""
    draw = BatchSpec(0, PATCH, MaskRules(0.75), DATA.min_valid_patch, False)
    return len(list(fixed_batches(reader, 0, range(len(reader)), draw, 1)))
