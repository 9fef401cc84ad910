"""What lies beside a raster and is read with it is part of its content: found with one listing per folder."""

import os
from pathlib import Path

import numpy as np
import pytest
import rasterio
from helpers import write_catalog, write_scenes

from geomae.catalog import open_catalog
from geomae.errors import RasterError
from geomae.rasters import describe_bands
from geomae.rasters.side_files import look_beside, side_files
from geomae.tiles.index import TileIndex, build_index

NODATA = """<PAMDataset><PAMRasterBand band="{band}"><NoDataValue>{value}</NoDataValue></PAMRasterBand></PAMDataset>"""
STATISTICS = """<PAMDataset>
  <PAMRasterBand band="1">
    <Histograms>
      <HistItem>
        <HistMin>-0.5</HistMin>
        <HistCounts>1|2</HistCounts>
      </HistItem>
    </Histograms>
    <Metadata>
      <MDI key="STATISTICS_MAXIMUM">3999</MDI>
      <MDI key="STATISTICS_VALID_PERCENT">100</MDI>
    </Metadata>
  </PAMRasterBand>
</PAMDataset>
"""
VRT = """<VRTDataset rasterXSize="4" rasterYSize="4"><VRTRasterBand dataType="Byte" band="1"/></VRTDataset>"""


@pytest.fixture
def scene(tmp_path, monkeypatch) -> Path:
    monkeypatch.setenv("GEOMAE_CACHE", str(tmp_path / "cache"))
    write_scenes(tmp_path / "scenes", scenes=2, side=32)
    write_catalog(tmp_path)
    return tmp_path / "scenes" / "s0.tif"


def index(scene: Path) -> TileIndex:
    return build_index(open_catalog(scene.parent.parent / "data_catalog.yaml"), "tiny", threads=1)


def mask(path: Path, rows: slice) -> None:
    hidden_HW = np.full((32, 32), 255, "uint8")
    hidden_HW[rows] = 0
    shape = {"count": 1, "height": 32, "width": 32, "dtype": "uint8", "transform": rasterio.Affine(5, 0, 0, 0, -5, 0)}
    with rasterio.open(path, "w", driver="GTiff", **shape) as file:
        file.update_tags(INTERNAL_MASK_FLAGS_1="2")
        file.write(hidden_HW, 1)


def test_nodata_that_appears_beside_a_raster_counts_at_once(scene):
    before = index(scene)
    with rasterio.open(scene) as file:
        red_HW = file.read(1)
    value = int(red_HW[0, 0])
    side = Path(f"{scene}.aux.xml")
    side.write_text(NODATA.format(band=1, value=value))
    after = index(scene)
    assert before.survey.figures()["count"][:4, 0].sum() == red_HW.size
    assert after.survey.figures()["count"][:4, 0].sum() == (red_HW != value).sum() < red_HW.size
    assert (after.survey.figures()["count"][4:] == before.survey.figures()["count"][4:]).all()
    side.write_text(NODATA.format(band=1, value=value + 1))  # changed, then gone
    assert index(scene).survey.figures()["count"][:4, 0].sum() == (red_HW != value + 1).sum()
    side.unlink()
    assert index(scene).survey.digest == before.survey.digest


def test_a_mask_that_appears_beside_a_raster_hides_pixels(scene):
    assert len(index(scene).tiles) == 8
    mask(scene.with_name("s0.tif.msk"), slice(0, 16))
    after = index(scene)
    assert after.tiles["tile_id"].tolist()[:3] == ["s0:16:0", "s0:16:16", "s1:0:0"]
    assert after.left_out == {"too few valid pixels": 2}


@pytest.mark.parametrize("name", ["s0.tfw", "s0.TFW", "s0.wld", "s0.tab", "s0.aux", "s0.tif.ovr", "s0_RPC.TXT"])
def test_whatever_gdal_reads_with_a_raster_is_part_of_its_content(scene, name):
    before = index(scene).report.content
    scene.with_name(name).write_text("5\n0\n0\n-5\n400100\n5000000\n")
    after = index(scene).report.content
    assert after["s0"] != before["s0"]
    assert after["s1"] == before["s1"]


def test_a_file_that_belongs_to_no_raster_changes_nothing(scene):
    before = index(scene)
    for name in ("s0.csv", "s0.txt", "s01.tfw", "s2.tif.aux.xml", "notes.xml", "s0.tif_old"):
        scene.with_name(name).write_text("x")
    assert index(scene).survey.digest == before.survey.digest


def test_what_a_viewer_computes_beside_a_raster_changes_nothing(scene):
    before = index(scene)
    side = Path(f"{scene}.aux.xml")
    side.write_text(STATISTICS)
    assert index(scene).survey.digest == before.survey.digest
    side.write_text(STATISTICS.replace("<Metadata>", "<NoDataValue>0</NoDataValue><Metadata>"))
    assert index(scene).survey.digest != before.survey.digest


def test_the_file_beside_the_raster_of_a_mask_counts_too(scene):
    path = scene.parent.parent / "data_catalog.yaml"
    path.write_text(path.read_text() + "    mask: {path: 'qa/{stem}.tif', invalid_values: [1]}\n")
    write_scenes(scene.parent.parent / "qa", scenes=2, side=32, bands=1)
    before = index(scene).report.content
    (scene.parent.parent / "qa" / "s1.tif.aux.xml").write_text(NODATA.format(band=1, value=1))
    after = index(scene).report.content
    assert (after["s0"] == before["s0"], after["s1"] == before["s1"]) == (True, False)


def test_copies_stay_duplicates_whatever_lies_beside_them(scene):
    scene.with_name("copy.tif").write_bytes(scene.read_bytes())
    scene.with_name("copy.tif.aux.xml").write_text(NODATA.format(band=1, value=1))
    assert index(scene).report.counts == {"duplicate": 1}


def test_a_folder_is_listed_once_however_many_rasters_it_holds(tmp_path, monkeypatch):
    paths = []
    for folder in ("a", "b"):
        (tmp_path / folder).mkdir()
        for number in range(20):
            paths.append(str(tmp_path / folder / f"{number}.tif"))
            Path(paths[-1] + ".aux.xml").touch()
    listed, statuses, scandir = [], [], os.scandir
    monkeypatch.setattr(os, "scandir", lambda folder: listed.append(folder) or scandir(folder))
    monkeypatch.setattr(os, "stat", lambda *words, **more: statuses.append(words))
    look_beside(paths)
    monkeypatch.undo()
    assert sorted(listed) == [str(tmp_path / "a"), str(tmp_path / "b")]
    assert statuses == []
    assert [one.path for path in paths for one in side_files(path)] == [f"{path}.aux.xml" for path in paths]


def test_a_mask_in_capitals_is_no_way_to_other_files(tmp_path):
    write_scenes(tmp_path, scenes=1, side=16)
    (tmp_path / "s0.tif.MSK").write_text(VRT)
    with pytest.raises(RasterError, match=r"s0\.tif\.MSK: .*is no TIFF"):
        describe_bands(str(tmp_path / "s0.tif"))
