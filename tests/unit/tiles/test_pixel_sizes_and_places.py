"""What the audit remarks where files lie nowhere, hold further pages, or have pixels of unlike size."""

import numpy as np
import pytest
import rasterio
from helpers import CATALOG, changed_catalog, write_catalog
from rasterio.control import GroundControlPoint
from rasterio.rpc import RPC
from rasterio.shutil import copy

from geomae.catalog import open_catalog
from geomae.commands.catalog_check_report import _grid_text, _size_text
from geomae.tiles.index import build_index

UTM = {"crs": "EPSG:32632"}


def pixels(seed=0, side=32):
    return np.random.default_rng(seed).integers(1000, 3000, (4, side, side)).astype(np.uint16)


def write(folder, name, *, width_m=10.0, height_m=10.0, side=32, seed=0, **profile):
    (folder / "scenes").mkdir(exist_ok=True)
    transform = rasterio.Affine(width_m, 0, 400_000, 0, -height_m, 5_000_000)
    shape = {"width": side, "height": side, "count": 4, "dtype": "uint16"}
    known = UTM | {"transform": transform} if not profile else {}
    with rasterio.open(folder / "scenes" / name, "w", driver="GTiff", **shape, **known, **profile) as target:
        target.write(pixels(seed, side))


def index_of(folder, text=CATALOG):
    return build_index(open_catalog(write_catalog(folder, text)), "tiny")


def remark_of(folder, text=CATALOG):
    (remark,) = index_of(folder, text).report.remarks
    assert "\n" not in remark
    return remark


def gcps():
    return [GroundControlPoint(row, col, 7 + col / 1e3, 45 - row / 1e3) for row, col in ((0, 0), (0, 32), (32, 0))]


def rpcs():
    terms = [0.0, 1.0, *[0.0] * 18]
    one = [1.0, *[0.0] * 19]
    return RPC(0, 1, 45, 1, one, terms, 16, 16, 7, 1, one, terms, 16, 16)


@pytest.mark.parametrize(
    ("placed", "what", "how"),
    [
        ({"gcps": gcps(), "crs": "EPSG:4326"}, "ground control points", "gdalwarp -t_srs EPSG:CODE"),
        ({"rpcs": rpcs()}, "RPCs", "gdalwarp -rpc -t_srs EPSG:CODE"),
    ],
)
@pytest.mark.filterwarnings("ignore:Dataset has no geotransform")
def test_files_that_points_would_place_are_named(placed, what, how, tmp_path):
    for number in range(2):
        write(tmp_path, f"{number}.tif", seed=number, **placed)
    write(tmp_path, "utm.tif", seed=2)
    assert remark_of(tmp_path) == (
        f"2 files (0.tif, 1.tif): {what} and no CRS, so that their position is unknown; if it matters, "
        f"warp them to a CRS first ({how})"
    )


def test_further_pages_are_counted(tmp_path):
    for number in range(2):
        write(tmp_path, f"{number}.tif", seed=number)
    for _ in range(2):
        copy(tmp_path / "scenes" / "1.tif", tmp_path / "scenes" / "0.tif", driver="GTiff", APPEND_SUBDATASET="YES")
    assert remark_of(tmp_path).startswith("1 file (0.tif): up to 3 pages, and only the first is read; ")


def test_overviews_and_masks_are_no_pages(tmp_path):
    write(tmp_path, "0.tif", side=64)
    with rasterio.Env(GDAL_TIFF_INTERNAL_MASK=True), rasterio.open(tmp_path / "scenes" / "0.tif", "r+") as target:
        target.build_overviews([2, 4])
        target.write_mask(np.ones((64, 64), dtype=bool))
    assert index_of(tmp_path).report.remarks == ()


def test_oblong_pixels_are_said_and_become_square_where_the_catalogue_asks(tmp_path):
    write(tmp_path, "0.tif", width_m=20)
    index = index_of(tmp_path)
    assert index.report.remarks == (
        "1 file (0.tif): pixels that are not square (the first 20 x 10 m) are used as they are; `gsd_m: 10` "
        "resamples them to square ones",
    )
    assert _grid_text(index) == "grid of 20 x 10 m"
    for gsd_m in (10, 14):  # near the mean side of 14.14 m the pixels are no squares either
        square = index_of(
            tmp_path, changed_catalog("    unit: reflectance\n", f"    unit: reflectance\n    gsd_m: {gsd_m}\n")
        )
        assert square.report.remarks == ()
        (grid,) = square.grids
        assert (grid.height, grid.width) == (round(320 / gsd_m), round(640 / gsd_m))
        assert (grid.transform[0], grid.transform[4]) == (gsd_m, -gsd_m)


def test_scenes_of_several_pixel_sizes_are_said_unless_the_catalogue_names_one(tmp_path):
    for number, side_m in enumerate((10, 20, 10)):
        write(tmp_path, f"{number}.tif", width_m=side_m, height_m=side_m, seed=number)
    index = index_of(tmp_path)
    assert index.report.remarks == (
        "scenes have pixels of several sizes (2 of 10 m, 1 of 20 m), so that tiles show ground of several sizes; "
        "`gsd_m: 20` makes all equal, or make a data set of each",
    )
    assert _grid_text(index) == "grids of 10 m to 20 m"
    side = int(index.tiles["size"].iloc[0])
    assert _size_text(index) == f"tiles of {side} pixels ({10 * side} to {20 * side} m)"
    one = index_of(tmp_path, changed_catalog("    unit: reflectance\n", "    unit: reflectance\n    gsd_m: 20\n"))
    assert one.report.remarks == ()
    assert _grid_text(one) == "grid of 20 m"
    assert _size_text(one) == f"tiles of {side} pixels ({20 * side} m)"


def test_remarks_on_oblong_and_on_unlike_pixels_name_one_remedy(tmp_path):
    write(tmp_path, "0.tif", width_m=20)
    write(tmp_path, "1.tif", seed=1)
    assert index_of(tmp_path).report.remarks == (
        "1 file (0.tif): pixels that are not square (the first 20 x 10 m) are used as they are; `gsd_m: 10` "
        "resamples them to square ones",
    )
    write(tmp_path, "2.tif", width_m=30, height_m=30, seed=2)
    assert [remark.count("`gsd_m: 30`") for remark in index_of(tmp_path).report.remarks] == [1, 1]
