"""The audit names what cannot be used: damaged, unlike, empty and doubled files, and suspicious values."""

import json
import re
import threading
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import rasterio
from rasterio.transform import Affine

from geomae.catalog import BandFile, Scene, Source
from geomae.files import cache_folder, file_digest
from geomae.rasters import audit
from geomae.rasters import inspection as inspection_cache
from geomae.rasters.measuring import Wanted
from geomae.sensors import Band


@pytest.fixture(autouse=True)
def cache(tmp_path_factory, monkeypatch) -> Path:
    folder = tmp_path_factory.mktemp("cache")
    monkeypatch.setenv("GEOMAE_CACHE", str(folder))
    return folder


def write(path, pixels_CHW, **profile):
    count, height, width = pixels_CHW.shape
    shape = {"count": count, "height": height, "width": width, "dtype": pixels_CHW.dtype.name, "crs": "EPSG:32633"}
    settings = {"driver": "GTiff", "transform": Affine(10, 0, 500_000, 0, -10, 5_300_000)} | profile
    with rasterio.open(path, "w", **shape, **settings) as target:
        target.write(pixels_CHW)
    return path


def noise(seed, bands=2, size=64, dtype="uint16"):
    return np.random.default_rng(seed).integers(100, 5000, (bands, size, size)).astype(dtype)


def source_of(*paths, bands=2, stored_bands=2, **settings):
    """One scene per file, named by the file."""
    described = tuple(Band(f"B{i}", None, 0.5 + i / 10, 0.05, 10.0) for i in range(bands))
    scenes = tuple(
        Scene(path.name, path.stem, tuple(BandFile(str(path), index + 1) for index in range(bands))) for path in paths
    )
    plain = Source("data", "sensor", described, "reflectance", (1e-4,) * bands, (0.0,) * bands, (), None, scenes)
    return replace(plain, stored_bands=stored_bands, **settings)


def kinds(report):
    return {problem.scene: problem.kind for problem in report.problems}


def test_good_files_have_no_problems_and_their_own_digests(tmp_path):
    paths = [write(tmp_path / f"{i}.tif", noise(i), compress="deflate", tiled=True, blockxsize=32, blockysize=32)
             for i in range(3)]  # fmt: skip
    report = audit(source_of(*paths), workers=2)
    assert (report.scenes, report.files, report.problems, report.quarantined) == (3, 3, (), frozenset())
    assert report.content == {path.name: file_digest(path) for path in paths}


def test_each_kind_of_fault_is_named_and_quarantined(tmp_path):
    good = [write(tmp_path / f"good{i}.tif", noise(i)) for i in range(3)]
    (tmp_path / "text.tif").write_text("no raster")
    bad = {
        "text.tif": "unreadable",
        "gone.tif": "unreadable",
        write(tmp_path / "three.tif", noise(10, bands=3)).name: "band-count",
        write(tmp_path / "one.tif", noise(11, bands=1)).name: "band-count",
        write(tmp_path / "float.tif", noise(12, dtype="float32")).name: "dtype",
        write(tmp_path / "constant.tif", np.full((2, 64, 64), 7, "uint16")).name: "constant",
        write(tmp_path / "empty.tif", np.zeros((2, 64, 64), "uint16"), nodata=0).name: "invalid",
    }
    copy = tmp_path / "copy.tif"
    copy.write_bytes(good[1].read_bytes())
    bad["copy.tif"] = "duplicate"
    report = audit(source_of(*good, *(tmp_path / name for name in bad)), workers=3)
    assert kinds(report) == bad
    assert report.quarantined == frozenset(bad)
    for problem in report.problems:
        assert problem.scene in problem.message
        assert ";" in problem.message
    duplicate = next(problem for problem in report.problems if problem.kind == "duplicate")
    assert "good1.tif" in duplicate.message
    assert "gone.tif" not in report.content
    assert report.counts["unreadable"] == 2
    text = json.loads(json.dumps(report.to_dict()))
    assert text["quarantined"] == sorted(bad)
    assert text["counts"] == report.counts


@pytest.mark.parametrize("compress", [None, "deflate", "lzw"])
def test_a_truncated_file_is_unreadable(tmp_path, compress):
    path = write(tmp_path / "a.tif", noise(0), **({"compress": compress} if compress else {}))
    path.write_bytes(path.read_bytes()[:-3000])
    report = audit(source_of(path, write(tmp_path / "b.tif", noise(1))), workers=1)
    assert kinds(report) == {"a.tif": "unreadable"}


def test_a_truncated_jpeg_is_unreadable(tmp_path):
    from PIL import Image

    for name in ("a.jpg", "b.jpg"):
        Image.fromarray(noise(len(name) + ord(name[0]), 3, 64, "uint8").transpose(1, 2, 0)).save(tmp_path / name)
    path = tmp_path / "a.jpg"
    path.write_bytes(path.read_bytes()[:-1500])
    source = source_of(path, tmp_path / "b.jpg", bands=3, stored_bands=3, unit="digital_number")
    assert kinds(audit(source, workers=1)) == {"a.jpg": "unreadable"}


@pytest.mark.parametrize("interleave", ["band", "pixel"])
@pytest.mark.parametrize("tiled", [True, False])
def test_every_flipped_byte_of_a_compressed_block_is_found(tmp_path, interleave, tiled):
    blocks = {"tiled": True, "blockxsize": 32, "blockysize": 32} if tiled else {"blockysize": 24}
    path = write(tmp_path / "a.tif", noise(0), compress="deflate", interleave=interleave, **blocks)
    other = write(tmp_path / "b.tif", noise(1), compress="deflate", interleave=interleave, **blocks)
    whole = path.read_bytes()
    with rasterio.open(path) as file:
        start, size = (int(file.get_tag_item(f"BLOCK_{what}_0_1", dm="TIFF", bidx=1)) for what in ("OFFSET", "SIZE"))
    rng = np.random.default_rng(0)
    # The last four bytes are the checksum.
    for place in [start + 2, start + size - 1, *(start + int(one) for one in rng.integers(2, size, 6))]:
        path.write_bytes(whole[:place] + bytes([whole[place] ^ 0x10]) + whole[place + 1 :])
        report = audit(source_of(path, other), workers=1)
        assert kinds(report) == {"a.tif": "damaged"}
        assert "block at row 1, column 0 of band 1" in report.problems[0].message
        assert report.content["a.tif"] == file_digest(path)


@pytest.mark.parametrize("endianness", ["little", "big"])
@pytest.mark.parametrize("bigtiff", ["yes", "no"])
@pytest.mark.parametrize("layout", [
    {"tiled": True, "blockxsize": 32, "blockysize": 32}, {"blockysize": 8}, {"blockysize": 8, "interleave": "band"},
])  # fmt: skip
def test_a_header_that_promises_more_blocks_than_there_are_is_damage(tmp_path, endianness, bigtiff, layout):
    settings = {"interleave": "pixel", "compress": "lzw", "endianness": endianness, "bigtiff": bigtiff} | layout
    path, whole = write(tmp_path / "a.tif", noise(0), **settings), write(tmp_path / "b.tif", noise(1), **settings)
    assert audit(source_of(path, whole), workers=1).problems == ()
    order, data = endianness, path.read_bytes()
    entry = (257).to_bytes(2, order) + (3).to_bytes(2, order) + (1).to_bytes(8 if bigtiff == "yes" else 4, order)
    height = entry + (64).to_bytes(2, order)
    assert data.count(height) == 1
    path.write_bytes(data.replace(height, entry + (65000).to_bytes(2, order)))
    report = audit(source_of(path, whole), workers=1)
    assert kinds(report) == {"a.tif": "damaged"}
    said = r"its header implies \d+ blocks for 65000 x 64 pixels, and its index has \d+;"
    assert re.search(said, report.problems[0].message)


def test_absent_blocks_are_no_damage(tmp_path):
    pixels = np.zeros((2, 64, 64), "uint16")
    pixels[:, :10, :10] = noise(0)[:, :10, :10]
    blocks = {"tiled": True, "blockxsize": 32, "blockysize": 32}
    path = write(tmp_path / "a.tif", pixels, compress="deflate", sparse_ok=True, nodata=0, **blocks)
    assert audit(source_of(path), workers=1).problems == ()


@pytest.mark.parametrize("scale", [1.0, 1e-3])
def test_an_implausible_median_is_a_warning_only(tmp_path, scale):
    report = audit(source_of(write(tmp_path / "a.tif", noise(0)), scale_C=(scale, 1e-4)), workers=1)
    assert kinds(report) == {"a.tif": "suspicious"}
    assert report.quarantined == frozenset()
    assert "B0 (" in report.problems[0].message
    assert "check `scale` and `offset`" in report.problems[0].message
    assert "B1" not in report.problems[0].message


def test_a_plausible_median_of_another_unit_is_none(tmp_path):
    source = source_of(write(tmp_path / "a.tif", noise(0)), scale_C=(1.0, 1.0), unit="digital_number")
    assert audit(source, workers=1).problems == ()


def test_dead_bands_and_values_that_are_not_finite_are_warnings(tmp_path):
    pixels = noise(0).astype("float32")
    pixels[0] = 300
    pixels[1, :40] = np.nan
    report = audit(source_of(write(tmp_path / "a.tif", pixels)), workers=1)
    assert [problem.kind for problem in report.problems] == ["suspicious", "suspicious"]
    messages = " ".join(problem.message for problem in report.problems)
    assert "NaN or infinite in B1 (62%)" in messages
    assert "a single value or no valid pixel in B0" in messages
    pixels[:] = np.inf
    assert kinds(audit(source_of(write(tmp_path / "a.tif", pixels)), workers=1)) == {"a.tif": "invalid"}


def test_files_that_do_not_fit_and_masks_that_do_not_read_are_named(tmp_path):
    fine = write(tmp_path / "fine.tif", noise(0, bands=1))
    other = write(tmp_path / "other.tif", noise(1, bands=1, size=50))
    bands = tuple(Band(f"B{i}", None, 0.5 + i / 10, 0.05, 10.0) for i in range(2))
    apart = Scene("apart", "apart", (BandFile(str(fine)), BandFile(str(other))))
    masked = Scene("masked", "masked", (BandFile(str(fine)),) * 2, mask=BandFile(str(tmp_path / "gone.tif")))
    source = Source("d", "s", bands, "reflectance", (1e-4,) * 2, (0.0,) * 2, (), None, (apart, masked))
    report = audit(source, workers=1)
    assert kinds(report) == {"apart": "unreadable", "masked": "unreadable"}
    assert "fine.tif" in report.problems[0].message
    assert "other.tif" in report.problems[0].message
    assert "gone.tif" in report.problems[1].message


def test_large_rasters_are_read_in_pieces_and_give_the_same(tmp_path, monkeypatch):
    pixels = noise(0, size=200).astype("float32")
    pixels[:, 50:60] = np.nan
    paths = [
        write(tmp_path / "strips.tif", pixels),
        write(tmp_path / "tiles.tif", pixels, tiled=True, blockxsize=64, blockysize=48),
        write(tmp_path / "one.tif", pixels, blockysize=200),
    ]
    wanted = [Wanted(str(path), ((1, 1.0, 0.0), (2, 1.0, 0.0)), (), False) for path in paths]
    whole = [inspection_cache.inspect_file(one).bands for one in wanted]
    assert whole[0] == whole[1] == whole[2]
    assert (whole[0][0][1].pixels, whole[0][0][1].valid, whole[0][0][1].not_finite) == (40_000, 38_000, 2_000)
    assert whole[0][1][1].median == np.nanmedian(pixels[1])
    monkeypatch.setattr("geomae.rasters.measuring.PASS_VALUES", 5_000)
    assert [inspection_cache.inspect_file(one).bands for one in wanted] == whole


def test_a_second_audit_reads_no_file_again_and_a_changed_one_alone(tmp_path, monkeypatch):
    paths = [write(tmp_path / f"{i}.tif", noise(i)) for i in range(3)]
    read, lock, inspect = [], threading.Lock(), inspection_cache.inspect_file

    def spy(wanted, *more):
        with lock:
            read.append(Path(wanted.path).name)
        return inspect(wanted, *more)

    monkeypatch.setattr(inspection_cache, "inspect_file", spy)
    first = audit(source_of(*paths), workers=2)
    assert sorted(read) == ["0.tif", "1.tif", "2.tif"]
    assert audit(source_of(*paths), workers=2) == first
    assert len(read) == 3
    write(paths[1], noise(9))
    changed = audit(source_of(*paths), workers=2)
    assert read[3:] == ["1.tif"]
    assert changed.content["1.tif"] == file_digest(paths[1])
    audit(source_of(*paths, scale_C=(1e-3, 1e-4)), workers=2)
    assert len(read) == 7


def test_a_cache_that_cannot_be_read_or_written_changes_nothing(tmp_path, monkeypatch):
    source = source_of(write(tmp_path / "a.tif", noise(0)))
    first = audit(source, workers=1)
    (entry,) = (cache_folder() / "audit").iterdir()
    for text in (
        "{",
        "[]",
        '{"x": 1}',
        json.dumps({str(tmp_path / "a.tif"): {"key": "k", "record": {"bands": [[1]]}}}),
    ):
        entry.write_text(text)
        assert audit(source, workers=1) == first
    blocked = tmp_path / "blocked"
    blocked.write_text("a file where the folder should be")
    monkeypatch.setenv("GEOMAE_CACHE", str(blocked))
    assert audit(source, workers=1) == first


def test_the_real_data_are_sound(shared_data: Path):
    folder = shared_data / "hls_worldcover"
    chips = sorted((folder / "images").glob("*.tif"))[:40]
    source = source_of(*chips, bands=7, stored_bands=7)
    scenes = tuple(replace(one, mask=BandFile(str(folder / "fmask" / f"{one.stem}.tif"))) for one in source.scenes)
    report = audit(replace(source, scenes=scenes, invalid_bits=(1, 3)), workers=2)
    assert (report.scenes, report.files, report.problems) == (40, 80, ())
    assert len(set(report.content.values())) == 40


def test_a_value_beyond_any_measurement_is_named_with_its_band(tmp_path):
    pixels = noise(0).astype("float32") / 1e4
    pixels[1, 5, 5] = 1e30
    source = source_of(write(tmp_path / "a.tif", pixels), scale_C=(1.0, 1.0))
    report = audit(source, workers=1)
    assert kinds(report) == {"a.tif": "suspicious"}
    assert report.quarantined == frozenset()
    assert "a.tif: 1e+30 in B1 is beyond any reflectance" in report.problems[0].message
    assert "declare `nodata`" in report.problems[0].message
    assert "beyond any digital number" in audit(replace(source, unit="digital_number"), workers=1).problems[0].message
    assert audit(replace(source, nodata=(1e30,)), workers=1).problems == ()


@pytest.mark.parametrize(("value", "dtype", "scale", "text"), [
    (-9999, "int16", 1e-4, "-9999"), (-9999, "float32", 1.0, "-9999"), (32767, "int16", 1e-4, "32767"),
    (-3.4028234663852886e38, "float32", 1.0, "-3.4028235e+38"), (0, "uint16", 0.1, "0"),
])  # fmt: skip
def test_a_share_of_one_extreme_value_is_suspected_to_be_nodata(tmp_path, value, dtype, scale, text):
    pixels = np.random.default_rng(0).integers(5000, 9000, (2, 64, 64)).astype(dtype)
    pixels[1].flat[::20] = value
    source = source_of(write(tmp_path / "a.tif", pixels), scale_C=(scale, scale), unit="digital_number")
    (problem,) = audit(source, workers=1).problems
    assert problem.kind == "suspicious"
    assert f"{text} is in B1 (5.0%) and far from all other values; " in problem.message
    assert audit(replace(source, nodata=(float(text),)), workers=1).problems == ()


def test_extremes_of_sound_bands_are_not_suspected(tmp_path):
    rng = np.random.default_rng(0)
    saturated = np.minimum(rng.integers(0, 400, (1, 64, 64)), 255)
    classes = rng.integers(0, 3, (1, 64, 64))
    path = write(tmp_path / "a.tif", np.concatenate([saturated, classes]).astype("uint8"))
    assert audit(source_of(path, scale_C=(1.0, 1.0), unit="digital_number"), workers=1).problems == ()
