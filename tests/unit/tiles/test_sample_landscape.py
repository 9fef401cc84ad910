"""The drawn landscape: the same bytes for the same arguments, and scenes that a Sentinel-2 user would believe."""

import csv
import os
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import rasterio

from geomae.errors import CatalogError, StorageError
from geomae.files import file_digest, read_json
from geomae.sensors import sensor
from geomae.tiles import sample_landscape as module
from geomae.tiles.sample_landscape import BANDS, CLASSES, SENSOR, describe, landscape

CODE = {name: code for code, name in CLASSES.items()}
SMALL = {"size": 128, "scenes": 1}
TINY = {"size": 64, "scenes": 1}


@pytest.fixture
def cache(tmp_path, monkeypatch):
    monkeypatch.setenv("GEOMAE_CACHE", str(tmp_path / "cache"))
    return tmp_path / "cache"


@pytest.fixture(scope="module")
def scenes(tmp_path_factory):
    """Reflectance (C, N) and class codes (N) of the valid pixels of each domain, from one mid-sized scene each."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("GEOMAE_CACHE", str(tmp_path_factory.mktemp("cache")))
        folder = landscape(seed=3, size=256, scenes=1)
    found = {}
    for path in folder.glob("*.tif"):
        with rasterio.open(path) as pixels, rasterio.open(folder / "labels" / path.name) as labels:
            codes_HW = labels.read(1)
            found[path.stem.rsplit("_", 1)[0]] = pixels.read()[:, codes_HW > 0] * 1e-4, codes_HW[codes_HW > 0]
    return found


def digests(folder):
    return {str(path.relative_to(folder)): file_digest(path) for path in folder.rglob("*") if path.is_file()}


def mean(scene, name):
    """Mean reflectance of a class, by band."""
    reflectance_CN, codes_N = scene
    return dict(zip(BANDS, reflectance_CN[:, codes_N == CODE[name]].mean(axis=1), strict=True))


def ndvi(scene, name):
    reflectance_CN, codes_N = scene
    red_N, nir_N = (reflectance_CN[BANDS.index(band), codes_N == CODE[name]] for band in ("B04", "B08"))
    return (nir_N - red_N) / (nir_N + red_N)


def test_same_arguments_give_the_same_bytes_and_another_seed_does_not(tmp_path, monkeypatch):
    made = []
    for name, seed in (("one", 0), ("two", 0), ("three", 1)):
        monkeypatch.setenv("GEOMAE_CACHE", str(tmp_path / name))
        made.append(digests(landscape(seed=seed, **TINY)))
    assert made[0] == made[1]
    assert made[0].keys() == made[2].keys()
    assert made[0]["lowland_0.tif"] != made[2]["lowland_0.tif"]
    assert made[0]["labels/dryland_0.tif"] != made[2]["labels/dryland_0.tif"]


def test_a_scene_does_not_depend_on_how_many_there_are(cache):
    one, two = digests(landscape(size=64, scenes=1)), digests(landscape(size=64, scenes=2))
    assert all(two[name] == value for name, value in one.items() if name.endswith(".tif"))
    assert two["lowland_0.tif"] != two["lowland_1.tif"]


def test_the_second_call_finds_what_the_first_made(cache, monkeypatch):
    folder = landscape(**TINY)
    assert folder.parent == cache / "landscape"
    monkeypatch.setattr(module, "_write", lambda *_: pytest.fail("drawn a second time"))
    assert landscape(**TINY) == folder


def test_files_are_what_the_entry_says(cache):
    folder = landscape(seed=1, **SMALL)
    entry = describe()
    paths = sorted(folder.glob(entry["path"]))
    with (folder / entry["table"]["path"]).open(encoding="utf-8") as file:
        rows = {row[entry["table"]["key"]]: row for row in csv.DictReader(file)}
    assert [path.stem for path in paths] == sorted(rows) == ["dryland_0", "lowland_0"]
    assert {row[entry["domain"]["column"]] for row in rows.values()} == {"lowland", "dryland"}
    assert read_json(folder / "classes.json") == {str(code): name for code, name in entry["label"]["classes"].items()}
    assert tuple(band.name for band in sensor(SENSOR).bands) == tuple(entry["bands"]) == BANDS
    for path in paths:
        with rasterio.open(path) as pixels, rasterio.open(folder / f"labels/{path.stem}.tif") as labels:
            assert (pixels.count, pixels.shape, set(pixels.dtypes)) == (12, (128, 128), {"uint16"})
            assert pixels.descriptions == BANDS
            assert pixels.nodata == labels.nodata == entry["nodata"] == 0
            assert pixels.crs.is_projected and pixels.crs == labels.crs
            assert pixels.transform == labels.transform and pixels.res == (entry["gsd_m"], entry["gsd_m"])
            assert (labels.count, labels.dtypes) == (1, ("uint8",))
            assert pixels.tags(ns="IMAGE_STRUCTURE")["LAYOUT"] == "COG"
            stored_CHW, codes_HW = pixels.read(), labels.read(1)
        assert set(np.unique(codes_HW)) == {0, *CLASSES}
        gaps_HW = codes_HW == 0
        assert np.array_equal(stored_CHW == 0, np.broadcast_to(gaps_HW, stored_CHW.shape))
        assert 0.02 < gaps_HW.mean() < 0.3


def test_spectra_are_those_of_their_classes(scenes):
    for scene in scenes.values():
        assert np.mean(ndvi(scene, "forest") > 0.5) > 0.8
        assert ndvi(scene, "bare").mean() < 0.3
        forest, water, bare, built = (mean(scene, name) for name in ("forest", "water", "bare", "built"))
        for name in ("forest", "crop", "grass", "shrub"):
            plant = mean(scene, name)
            assert plant["B04"] < plant["B05"] < plant["B07"] < plant["B8A"] and plant["B12"] < plant["B11"]
        assert forest["B8A"] > forest["B11"] > forest["B12"] > forest["B04"]
        assert bare["B11"] > bare["B8A"] > bare["B04"] > bare["B02"]
        assert built["B02"] > forest["B02"] and abs(built["B11"] / built["B8A"] - 1) < 0.25
        reflectance_CN, codes_N = scene
        swir_N = reflectance_CN[BANDS.index("B11"), codes_N == CODE["water"]]
        assert np.median(swir_N) < 0.03  # the blur of a 20 m band brightens water along its banks
        assert water["B08"] < water["B03"]
        assert reflectance_CN.max() < 1


def test_neighbouring_bands_are_alike_but_not_the_same(scenes):
    for reflectance_CN, _ in scenes.values():
        correlation_CC = np.corrcoef(reflectance_CN)
        pairs = [
            correlation_CC[BANDS.index(a), BANDS.index(b)] for a, b in (("B02", "B03"), ("B06", "B07"), ("B11", "B12"))
        ]
        assert min(pairs) > 0.8 and max(pairs) < 0.999
        shares = np.linalg.eigvalsh(correlation_CC)[::-1] / len(BANDS)
        assert shares[0] < 0.85 and shares[2] > 0.02


def test_domains_differ_in_more_than_brightness(scenes):
    lowland, dryland = scenes["lowland"], scenes["dryland"]
    share = {name: np.bincount(codes_N, minlength=8)[1:] / len(codes_N) for name, (_, codes_N) in scenes.items()}
    assert np.abs(share["lowland"] - share["dryland"]).sum() > 0.5
    assert ndvi(lowland, "grass").mean() > ndvi(dryland, "grass").mean() + 0.2  # one is green, the other dry
    for name in ("bare", "grass", "water"):
        shapes = [np.array(list(mean(scene, name).values())) for scene in (lowland, dryland)]
        ratio_C = shapes[0] / shapes[1]
        assert ratio_C.max() / ratio_C.min() > 1.3, name  # a change of brightness alone would give 1


@pytest.mark.parametrize("wrong", [{"seed": -1}, {"size": 32}, {"size": 4096}, {"scenes": 0}])
def test_arguments_out_of_range_are_refused(cache, wrong):
    with pytest.raises(CatalogError, match="64 to 2048"):
        landscape(**wrong)
    assert not cache.exists()


def test_two_processes_at_once_both_end_with_a_whole_folder(cache):
    code = f"from geomae.tiles.sample_landscape import landscape; print(landscape(**{TINY}))"
    command = [sys.executable, "-W", "error", "-c", code]
    running = [
        subprocess.Popen(
            command, stdout=subprocess.PIPE, text=True, env=dict(os.environ), cwd=Path(__file__).parents[3]
        )
        for _ in range(2)
    ]
    folders = {process.communicate(timeout=120)[0].strip() for process in running}
    assert [process.returncode for process in running] == [0, 0]
    assert folders == {str(landscape(**TINY))}
    assert [path.name for path in (cache / "landscape").iterdir()] == [Path(folders.pop()).name]


def test_who_comes_second_takes_what_the_first_published(cache, monkeypatch):
    draw = module._write
    published = cache / "first"

    def overtaken(folder, *arguments):
        draw(folder, *arguments)
        target = folder.with_name(module.digest({"format": module.FORMAT, "seed": 0} | TINY))
        target.mkdir()
        (target / "winner").touch()
        published.symlink_to(target)

    monkeypatch.setattr(module, "_write", overtaken)
    folder = landscape(**TINY)
    assert folder == published.resolve() and [path.name for path in folder.iterdir()] == ["winner"]
    assert list(folder.parent.iterdir()) == [folder]


def test_a_failure_leaves_nothing_behind(cache, monkeypatch):
    def full(folder, *_):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(module, "_write", full)
    with pytest.raises(StorageError, match="No space left"):
        landscape(**TINY)
    assert list((cache / "landscape").iterdir()) == []
