"""What files say of themselves against what the catalogue says: names and order of bands, and the first file broken."""

from types import SimpleNamespace

import numpy as np
import pytest
import rasterio
from helpers import called, write_catalog
from rasterio.enums import ColorInterp

from geomae.catalog import open_catalog
from geomae.catalog.band_order import described_band
from geomae.errors import CatalogError
from geomae.evaluation.probe_task import label_selection
from geomae.rasters import Window, read, write_cog
from geomae.sensors import sensor
from geomae.tiles.dataset_check import check_dataset
from geomae.tiles.index import build_index

# Stored values of each band, by which it is known.
LEVEL = {"B02": 500, "blue": 500, "B03": 900, "B04": 1300, "B4": 1300, "B08": 3000}
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
    assert (
        "1 file (b.tif): the bands are stored in another order" in remark
        and "B04, B03, B02 (in the first blue, B03, B4)" in remark
    )
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
    assert "1 of 2 files name no band of sentinel-2-l2a and are read in the order B04, B03, B02" in remark
    assert index_of(tmp_path, "bands: [B04, B03, B02]").report.unnamed == 1


def test_colours_with_their_centre_in_nm_are_names(tmp_path):
    """As `red_665`; of a common name with a number, as `nir08`, the colour counts."""
    stack(tmp_path / "a.tif", ["red_665", "Green_560nm", "nir_865", "swir1_1614"])
    stack(tmp_path / "b.tif", ["green_560", "red_665", "nir_865", "swir1_1614"])
    index = index_of(tmp_path)
    assert [band.name for band in index.source.bands] == ["B04", "B03", "B8A", "B11"]
    assert index.report.to_dict()["band_order"] == {"by_name": ["b"], "unnamed": 0}
    (problem,) = index_of(tmp_path, "bands: [B04, B03, B8A, B11]").report.problems
    assert (problem.scene, problem.kind) == ("b", "band-order")


def test_check_says_how_much_of_a_tile_its_label_must_cover(tmp_path):
    for name in "ab":
        stack(tmp_path / f"{name}.tif", ["B02", "B03"])
    (tmp_path / "labels").mkdir()
    for name, rows in (("a", 16), ("b", 10)):
        codes_HW = np.repeat(np.uint8([1, 2]), [rows, 16 - rows])[:, None].repeat(16, axis=1)
        place = {"crs": "EPSG:32632", "transform": (10, 0, 5e5, 0, -10, 5e6)}
        write_cog(tmp_path / f"labels/{name}.tif", codes_HW[None], **place)
    label = "label: {raster: 'labels/{stem}.tif', classes: {1: tree, 2: grass}, min_purity: 0.625}"
    row_of_70 = "label (none), no class covers 70% of the tile (`label.min_purity`) 1"
    for share, row in (("0.625", None), ("0.7", row_of_70)):
        catalog = write_catalog(tmp_path, f"{SENTINEL_2}    {label.replace('0.625', share)}\n")
        said = " ".join(called("catalog", "check", "--catalog", catalog, cwd=tmp_path).stdout.split())
        assert row in said if row else "no class covers" not in said


@pytest.mark.parametrize("name", ["red_700", "blue_665", "red_0665x", "665", "nir_850"])
def test_colour_and_centre_must_both_be_those_of_one_band(name):
    assert described_band(sensor("sentinel-2-l2a"), name) is None


def test_the_row_of_files_without_names_says_whose_order_counts(tmp_path):
    stack(tmp_path / "a.tif", ["B04", "B03", "B02"], described=False)
    catalog = write_catalog(tmp_path, SENTINEL_2 + "    bands: [B04, B03, B02]\n")
    said = " ".join(called("catalog", "check", "--catalog", catalog, cwd=tmp_path).stdout.split())
    row = "files that name no band of sentinel-2-l2a: read in the order of `bands`; compare with the preview"
    assert f"{row} 1" in said


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


SAFE = "S2B_MSIL2A_20230704T102031_N{}_R065_T32TMT_20230704T140000.tif"


@pytest.mark.parametrize(
    ("sensor", "baseline", "remedy"),
    [
        ("sentinel-2-l2a", "0509", "write `sensor: sentinel-2-l2a-n0400`, or state `offset`"),
        ("sentinel-2-l1c", "0400", "write `sensor: sentinel-2-l1c-n0400`, or state `offset`"),
        ("sentinel-2-l2a-n0400", "0301", "write `sensor: sentinel-2-l2a`, or state `offset`"),
    ],
)
def test_a_baseline_in_the_names_of_files_that_the_sensor_is_not_of_is_an_error(tmp_path, sensor, baseline, remedy):
    stack(tmp_path / SAFE.format(baseline), ["B02", "B03", "B04"])
    text = SENTINEL_2.replace("sentinel-2-l2a", sensor)
    with pytest.raises(CatalogError) as caught:
        build_index(open_catalog(write_catalog(tmp_path, text)), "d")
    message = str(caught.value)
    assert "data_catalog.yaml:5: datasets.d.sensor: 1 of 1 scenes" in message and message.endswith(remedy)
    assert len(build_index(open_catalog(write_catalog(tmp_path, text + "    offset: 0\n")), "d")) == 1


@pytest.mark.parametrize("name", [SAFE.format("0301"), SAFE.format("9999"), "S2A_MSIL2A_20170613T101031_87_48.tif"])
def test_names_without_a_later_baseline_are_no_error(tmp_path, name):
    stack(tmp_path / name, ["B02", "B03", "B04"])
    assert len(index_of(tmp_path)) == 1


def test_two_baselines_in_one_data_set_are_two_data_sets(tmp_path):
    for baseline in ("0301", "0509"):
        stack(tmp_path / SAFE.format(baseline), ["B02", "B03", "B04"])
    with pytest.raises(
        CatalogError, match=r"1 of 2 scenes .* make those a data set with `sensor: sentinel-2-l2a-n0400`"
    ):
        index_of(tmp_path)


def test_alpha_is_skipped_and_says_what_is_valid(tmp_path):
    names = [f"B{number:02}" for number in (*range(1, 9), 9, 11, 12)]
    path = tmp_path / "a.tif"
    stack(path, [*names, "B8A", "validity"], described=False, layer=700)
    mark_alpha(path, 13)
    index = index_of(tmp_path)
    _, valid_CHW = read(index.source, index.source.scenes[0], Window(0, 0, 16, 16))
    assert [band.index for band in index.source.scenes[0].bands] == [*range(1, 13)]
    assert not valid_CHW[:, :, :4].any() and valid_CHW[:, :, 4:].all()
    thirteen = "bands: [B01, B02, B03, B04, B05, B06, B07, B08, B8A, B09, null, B11, B12]"
    (remark,) = index_of(tmp_path, thirteen).report.remarks
    assert "1 file (a.tif): band 13 is marked as alpha and read as B12; write null for it" in remark


def mark_alpha(path, number):
    """Make a stored band the alpha band, which hides the first four columns."""
    with rasterio.open(path, "r+") as raster:
        colours = list(raster.colorinterp)
        colours[number - 1] = ColorInterp.alpha
        raster.colorinterp = colours
        alpha_HW = np.full(raster.shape, 65535, np.uint16)
        alpha_HW[:, :4] = 0
        raster.write(alpha_HW, number)


def test_tags_that_the_catalogue_contradicts_are_said_with_both(tmp_path):
    for name in "ab":
        stack(tmp_path / f"{name}.tif", ["B02", "B03", "B04"], dtype="int16")
    with rasterio.open(tmp_path / "b.tif", "r+") as raster:
        raster.scales, raster.offsets = (0.0002,) * 3, (-0.01,) * 3
    keys = "bands: [B02, B03, B04]"
    (remark,) = index_of(tmp_path, keys).report.remarks
    assert "1 file (b.tif): the tags say scale 0.0002 and offset -0.01 for B02" in remark
    assert "the catalogue says 0.0001 and 0; if the tags are right, write `scale: 0.0002` and `offset: -0.01`" in remark
    (tmp_path / "a.tif").unlink()
    assert index_of(tmp_path, keys, "scale: 0.0002", "offset: -0.01").report.remarks == ()


def test_palettes_and_nodata_in_lossy_files_are_said(tmp_path):
    stack(tmp_path / "a.tif", ["red"], dtype="uint8", described=False, layer=3)
    with rasterio.open(tmp_path / "a.tif", "r+") as raster:
        raster.write_colormap(1, {0: (0, 0, 0, 255), 3: (255, 0, 0, 255)})
    text = SENTINEL_2.replace("sentinel-2-l2a", "naip") + "    bands: [red]\n"
    (remark,) = build_index(open_catalog(write_catalog(tmp_path, text)), "d").report.remarks
    assert "1 file (a.tif): the values are indices of a colour table" in remark
    (tmp_path / "a.tif").unlink()
    lossy = {"dtype": "uint8", "described": False, "layer": 90, "compress": "jpeg"}
    stack(tmp_path / "a.tif", ["red"], **lossy)
    stack(tmp_path / "b.tif", ["red"], **lossy, nodata=0)
    (remark,) = build_index(open_catalog(write_catalog(tmp_path, text)), "d").report.remarks
    assert "1 file (b.tif): the compression is lossy, so that nodata pixels may differ" in remark


@pytest.mark.parametrize(
    ("added", "keys", "expected"),
    [
        (0, ["offset: -0.1"], "1 file (a.tif) of 1: the first percentile of B02 is -0.05"),
        (0, ["offset: 0"], None),
        (1000, ["offset: -0.1"], None),
        (1000, [], "nothing in 1 file is darker than 0.149 (first percentile of B02 in a.tif), and `offset` is 0"),
        (1000, ["unit: digital_number"], None),
        (1000, ["scale: 1"], None),  # the medians show the wrong scale
    ],
)
def test_pixels_whose_offset_is_applied_twice_or_never_are_suspected(tmp_path, monkeypatch, added, keys, expected):
    monkeypatch.setitem(LEVEL, "B02", 490 + added)
    monkeypatch.setitem(LEVEL, "B03", 900 + added)
    stack(tmp_path / "a.tif", ["B02", "B03"])
    remarks = index_of(tmp_path, "bands: [B02, B03]", *keys).report.remarks
    assert len(remarks) == (expected is not None)
    assert all(expected in remark for remark in remarks)


@pytest.mark.parametrize(
    ("fault", "expected"),
    [
        ("elsewhere", "1 file (l.tif) have no value at any pixel of a tile: they lie elsewhere"),
        ("codes", "1 file (l.tif) hold none of the codes of `label.classes` (1, 2) but 7; correct `classes`"),
        ("bands", "1 file (l.tif) have several bands, as images do"),
        (None, None),
    ],
)
def test_faults_of_label_rasters_are_said(tmp_path, fault, expected):
    stack(tmp_path / "a.tif", ["B02", "B03"])
    place = {"transform": rasterio.Affine(10, 0, 9e5, 0, -10, 5e6)} if fault == "elsewhere" else {}
    (tmp_path / "labels").mkdir()
    with rasterio.open(tmp_path / "a.tif") as raster:
        form = raster.profile | {"dtype": "uint8", "count": 3 if fault == "bands" else 1} | place
    with rasterio.open(tmp_path / "labels/l.tif", "w", **form) as target:
        target.write(np.full((form["count"], 16, 16), 7 if fault == "codes" else 1, np.uint8))
    label = "label: {raster: labels/l.tif, classes: {1: tree, 2: grass}}"
    index = index_of(tmp_path, "bands: [B02, B03]", label)
    assert len(index.remarks) == (expected is not None)
    assert all(expected in remark for remark in index.remarks)
    if fault not in ("elsewhere", "codes"):
        assert index.tiles["label"].tolist() == ["tree"]
        return
    with pytest.raises(CatalogError) as caught:  # and not: add `label:`, though it is there
        label_selection(SimpleNamespace(index=index, name="d"), "classification", "--train")
    assert str(caught.value) == f"--train d: none of its 1 tiles has a label; {index.remarks[0]}"
