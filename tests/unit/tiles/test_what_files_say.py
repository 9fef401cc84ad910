"""What files say of themselves against what the catalogue says: names and order of bands, and the first file broken."""

import numpy as np
import pytest
import rasterio
from helpers import write_catalog

from geomae.catalog import open_catalog
from geomae.errors import CatalogError
from geomae.rasters import Window, read
from geomae.tiles.index import build_index, check_dataset

LEVEL = {
    "B02": 500,
    "blue": 500,
    "B03": 900,
    "B04": 1300,
    "B4": 1300,
    "B08": 3000,
}  # stored values of each band, by which it is known
SENTINEL_2 = """\
version: 1
datasets:
  d:
    path: '*.tif'
    sensor: sentinel-2-l2a
"""


def stack(path, names, described=True, layer=None, **profile):
    """A raster with a band for each name, known by its level; `layer` is the stored value of any other band."""
    rng = np.random.default_rng(len(path.name) + sum(map(ord, path.name)))
    pixels_CHW = np.stack([LEVEL.get(name, layer or 0) + rng.integers(0, 9, (16, 16)) for name in names])
    form = {"count": len(names), "height": 16, "width": 16, "dtype": "uint16", "crs": "EPSG:32632"}
    form |= {"driver": "GTiff", "transform": rasterio.Affine(10, 0, 5e5, 0, -10, 5e6)} | profile
    with rasterio.open(path, "w", **form) as to:
        to.write(pixels_CHW.astype(form["dtype"]))
        for number, name in enumerate(names, start=1):
            if described:
                to.set_band_description(number, name)


def index_of(folder, *keys):
    return build_index(open_catalog(write_catalog(folder, SENTINEL_2 + "".join(f"    {key}\n" for key in keys))), "d")


def levels(index, scene):
    """The mean of each band of a scene that is read, as a stored value."""
    pixels_CHW, _ = read(index.source, index.source.scenes[scene], Window(0, 0, 16, 16))
    return {band.name: round(float(level) * 1e4, -2) for band, level in zip(
        index.source.bands, pixels_CHW.mean(axis=(1, 2)), strict=True
    )}  # fmt: skip


def test_files_that_name_their_bands_in_another_order_are_read_by_name(tmp_path):
    stack(tmp_path / "a.tif", ["B04", "B03", "B02"])
    stack(tmp_path / "b.tif", ["blue", "B03", "B4"])
    index = index_of(tmp_path)
    right = {"B02": 500, "B03": 900, "B04": 1300}
    assert levels(index, 0) == levels(index, 1) == right
    (remark,) = index.report.remarks
    assert "1 file (b.tif) store" in remark and "B04, B03, B02 (the first blue, B03, B4)" in remark
    assert index.report.to_dict()["band_order"] == {"by_name": ["b"], "unnamed": 0}


def test_names_that_contradict_the_catalogue_are_an_error_with_both_orders(tmp_path):
    stack(tmp_path / "a.tif", ["B02", "B03", "B04"])
    stack(tmp_path / "b.tif", ["B04", "B03", "B02"])
    index = index_of(tmp_path, "bands: [B02, B03, B04]")
    (problem,) = index.report.problems
    assert (problem.scene, problem.kind, problem.quarantines) == ("b", "band-order", True)
    assert "b.tif: names its bands B04, B03, B02, where `bands` says B02, B03, B04; correct `bands`" in problem.message
    with pytest.raises(CatalogError, match="B02, B03, B04, where `bands` says null, B04, B02"):
        index_of(tmp_path, "bands: [null, B04, B02]")


def test_other_bands_than_those_of_the_first_file_are_an_error(tmp_path):
    stack(tmp_path / "a.tif", ["B02", "B03", "B04"])
    stack(tmp_path / "b.tif", ["B02", "B03", "B08"])
    (problem,) = index_of(tmp_path).report.problems
    assert "names its bands B02, B03, B08, where the first file has B02, B03, B04" in problem.message


@pytest.mark.parametrize(
    ("names", "keys"),
    [
        (["B02", "B03", "B04"], ["bands: [B02, B03, B04]"]),
        (["B02", "haze", "B04"], ["bands: [B02, null, B04]"]),
        (["B02", "B03", "B04"], ["bands: [B02, null, B04]"]),
        (["b1", "b2", "b3"], ["bands: [B02, B03, B04]"]),  # Earth Engine counts bands that have no names
        (["one", "two", "three"], ["bands: [B02, B03, B04]"]),
    ],
)
def test_names_that_agree_or_say_nothing_are_no_contradiction(tmp_path, names, keys):
    stack(tmp_path / "a.tif", names)
    report = index_of(tmp_path, *keys).report
    assert (report.problems, report.remarks, report.numbers) == ((), (), {})


def test_nameless_files_are_taken_in_the_stated_order_and_counted(tmp_path):
    stack(tmp_path / "a.tif", ["B04", "B03", "B02"])
    stack(tmp_path / "b.tif", ["B04", "B03", "B02"], described=False)
    index = index_of(tmp_path)
    assert levels(index, 1) == {"B04": 1300, "B03": 900, "B02": 500}
    (remark,) = index.report.remarks
    assert "1 of 2 files do not name their bands and are taken in the order B04, B03, B02" in remark
    assert index_of(tmp_path, "bands: [B04, B03, B02]").report.unnamed == 1


def test_a_mask_that_is_named_is_found_wherever_a_file_has_it(tmp_path):
    stack(tmp_path / "a.tif", ["B02", "B03", "haze", "cloud"])
    stack(tmp_path / "b.tif", ["B02", "B03", "cloud", "haze"], layer=40)
    index = index_of(tmp_path, "bands: [B02, B03, null, null]", "mask: {band: cloud, invalid_values: [99]}")
    assert [scene.mask.index for scene in index.source.scenes] == [4, 3]


def test_the_first_file_may_be_broken(tmp_path):
    stack(tmp_path / "b.tif", ["B04", "B03", "B02"])
    stack(tmp_path / "c.tif", ["B04", "B03", "B02"])
    (tmp_path / "a.tif").write_bytes(b"II*\0 is no raster")
    index = index_of(tmp_path)
    assert [band.name for band in index.source.bands] == ["B04", "B03", "B02"]
    assert (index.report.quarantined, len(index)) == ({"a"}, 2)
    index = index_of(tmp_path, "bands: [B04, B03, null]", "mask: {band: B02, invalid_values: [0]}")
    assert len(index) == 2


def test_all_files_broken_is_one_error(tmp_path):
    for name in "ab":
        (tmp_path / f"{name}.tif").write_bytes(b"no raster")
    check = check_dataset(open_catalog(write_catalog(tmp_path, SENTINEL_2)), "d")
    assert "a.tif: cannot be read" in str(check.error)
