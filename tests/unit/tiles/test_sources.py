"""From an entry to what can be read: files, and the generated landscape."""

import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

from geomae.catalog import Catalog, open_catalog, parse_selector
from geomae.errors import CatalogError
from geomae.rasters import Window, read, write_cog
from geomae.tiles.dataset_check import check_dataset
from geomae.tiles.index import build_index
from geomae.tiles.selection import evenly_spread
from geomae.tiles.sources import open_source, prepare

SAMPLE = "sample: {size: 64, scenes: 1}"


def catalog(folder: Path, *keys: str, more: str = "") -> Catalog:
    entry = "".join(f"    {key}\n" for key in keys)
    (folder / "c.yaml").write_text(f"version: 1\ndatasets:\n  d:\n{entry}{more}", encoding="utf-8")
    return open_catalog(folder / "c.yaml")


def test_files_are_read_as_the_entry_says(tmp_path: Path) -> None:
    pixels_CHW = np.arange(2 * 4 * 4, dtype=np.int16).reshape(2, 4, 4) + 1
    write_cog(
        tmp_path / "a.tif",
        pixels_CHW,
        descriptions=("red", "nir"),
        crs="EPSG:32632",
        transform=(2.0, 0.0, 500_000.0, 0.0, -2.0, 5_000_000.0),
    )
    entries = catalog(tmp_path, "path: '*.tif'", "sensor: naip", "scale: 0.5")
    completed, source = prepare(entries, "d")
    assert completed is entries
    assert [band.name for band in source.bands] == ["red", "nir"]
    read_CHW, valid_CHW = read(source, source.scenes[0], Window(0, 0, 4, 4))
    assert valid_CHW.all()
    np.testing.assert_array_equal(read_CHW, pixels_CHW / 2)


def test_a_sample_is_complete_without_any_key(tmp_path: Path) -> None:
    entries = catalog(tmp_path, SAMPLE, more="  e: {path: x.tif, sensor: naip}\n")
    completed, source = prepare(entries, "d")
    assert [scene.id for scene in source.scenes] == ["dryland_0", "lowland_0"]
    assert source.sensor == "sentinel-2-l2a" and len(source.bands) == 12
    assert {str(scene.attributes["domain"]) for scene in source.scenes} == {"dryland", "lowland"}
    entry = completed.entry("d")
    assert entry.tile is not None and entry.tile.size == 64
    assert entry.split is not None and entry.split.fractions == {"train": 0.8, "val": 0.1, "test": 0.1}
    assert entry.label is not None and entry.label.classes is not None and len(entry.label.classes) >= 5
    assert all(scene.label_path and Path(scene.label_path).is_file() for scene in source.scenes)
    assert entries.entry("d").tile is None  # the catalogue itself stays as it was written
    assert completed.entry("e") == entries.entry("e")
    pixels_CHW, valid_CHW = read(source, source.scenes[1], Window(0, 0, 64, 64))
    assert 0 < pixels_CHW[valid_CHW].mean() < 1


def test_own_keys_win_over_those_of_the_sample(tmp_path: Path) -> None:
    keys = ("tile: {size: 32}", "split: null", "bands: [B01, null, null, B04]", "domain: here", "unit: digital_number")
    completed, source = prepare(catalog(tmp_path, SAMPLE, *keys), "d")
    entry = completed.entry("d")
    assert entry.tile is not None and (entry.tile.size, entry.tile.stride) == (32, None)
    assert entry.split is None and entry.domain == "here"
    assert [(band.name, file.index) for band, file in zip(source.bands, source.scenes[0].bands, strict=True)] == [
        ("B01", 1),
        ("B04", 4),
    ]
    assert source.unit == "digital_number" and source.scale_C == (1.0, 1.0)


def test_windows_take_the_place_of_the_sample_tiles(tmp_path: Path) -> None:
    (tmp_path / "w.csv").write_text("scene,r,c\ndryland_0,0,0\n")
    table = f"{tmp_path}/w.csv"
    keys = (f"windows: {{table: '{table}', key: scene, row: r, col: c, size: 16}}", "outside: true")
    completed, _ = prepare(catalog(tmp_path, SAMPLE, *keys), "d")
    assert completed.entry("d").tile is None and completed.entry("d").windows is not None


def test_a_sample_keeps_to_its_own_folder(tmp_path: Path) -> None:
    entries = catalog(tmp_path, SAMPLE, "label: {raster: ../secret.tif, classes: {1: one}}")
    with pytest.raises(
        CatalogError, match=r"c\.yaml:5: datasets\.d\.label\.raster: .*secret.*landscape.*outside: true"
    ):
        open_source(entries, "d")


def test_the_index_of_a_sample_has_splits_labels_and_domains(tmp_path: Path) -> None:
    index = build_index(catalog(tmp_path, "sample: {size: 192, scenes: 1}", "tile: {size: 32}"), "d")
    assert set(index.tiles["split"]) == {"train", "val", "test"}
    assert set(index.tiles["domain"]) == {"dryland", "lowland"}
    assert index.tiles["label"].notna().any()


def test_windows_have_labels_of_folders_and_attributes_of_scenes(tmp_path: Path) -> None:
    for number, name in enumerate(("forest/a", "river/b")):
        write_cog(tmp_path / f"{name}.tif", np.arange(64, dtype=np.uint8).reshape(1, 8, 8) + 100 * number + 1)
    (tmp_path / "w.csv").write_text("scene,r,c\na,0,0\na,4,4\nb,0,0\n")
    (tmp_path / "t.csv").write_text("scene,season\na,dry\nb,green\n")
    keys = ("path: '*/*.tif'", "sensor: naip", "bands: [red]", "label: {folder: true}", "domain: {column: season}")
    tables = ("windows: {table: w.csv, key: scene, row: r, col: c, size: 4}", "table: {path: t.csv, key: scene}")
    index = build_index(catalog(tmp_path, *keys, *tables, "where: season != 'wet'"), "d")
    assert index.tiles["label"].tolist() == ["forest", "forest", "river"]
    assert index.tiles["domain"].tolist() == ["dry", "dry", "green"]


def test_a_tile_without_a_label_has_none(tmp_path: Path) -> None:
    for name in ("a", "b"):
        write_cog(tmp_path / f"{name}.tif", np.arange(ord(name), ord(name) + 64, dtype=np.uint8).reshape(1, 8, 8))
    (tmp_path / "t.csv").write_text("scene,cover,site\na,tree,1\nb,,\n")
    keys = ("path: '*.tif'", "sensor: naip", "bands: [red]", "table: {path: t.csv, key: scene}", "tile: {size: 8}")
    index = build_index(catalog(tmp_path, *keys, "label: {column: cover}", "group: {column: site}"), "d")
    assert index.tiles["label"].tolist() == ["tree", None]
    assert index.tiles["group"].tolist() == ["1", None] == index.tiles["fold"].tolist()
    assert index.take(np.array([1])).tiles["label"].tolist() == [None]


def test_torchgeo_is_not_imported_for_other_sources() -> None:
    code = "import sys, geomae.tiles.sources; sys.exit('torchgeo' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0


def test_a_check_says_how_far_a_data_set_can_be_used(tmp_path: Path) -> None:
    good = check_dataset(catalog(tmp_path, SAMPLE, "tile: {size: 32}"), "d")
    assert good.error is None and good.report is not None and good.tiles is not None
    assert len(good.select(parse_selector("d@train")).tiles or ()) <= len(good.tiles)
    assert "split 'none' is empty" in str(good.select(parse_selector("d@none")).error)
    bad = check_dataset(catalog(tmp_path, SAMPLE, "tile: {size: 4096}"), "d")
    assert bad.tiles is None and "a tile of 4096 pixels is larger" in str(bad.error)


def test_positions_are_spread_evenly() -> None:
    assert evenly_spread(10, 2) == [2, 7]
    assert evenly_spread(3, 24) == [0, 1, 2]
