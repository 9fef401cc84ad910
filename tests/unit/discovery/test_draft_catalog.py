"""What a first catalogue says of files, beyond what the command's own tests see."""

from pathlib import Path
from typing import Any

import numpy as np
import pytest

from geomae.catalog import open_catalog, resolve_files
from geomae.discovery.draft_catalog import infer_catalog, locate
from geomae.errors import CatalogError
from geomae.rasters import describe_bands, write_cog


def scene(path: Path, bands: int, dtype: Any, seed: int) -> None:
    """A small raster of noise."""
    pixels_CHW = np.random.default_rng(seed).integers(0, 200, (bands, 64, 64)).astype(dtype)
    write_cog(path, pixels_CHW, crs="EPSG:32632", transform=(30.0, 0.0, 500_000.0, 0.0, -30.0, 5_000_000.0))


def test_init_names_far_away_files_by_their_whole_path(tmp_path: Path) -> None:
    place = locate(Path("/data/x"), ["a.tif"], tmp_path / "c.yaml")
    assert (place.below, place.outside) == ("/data/x/", True)
    assert locate(tmp_path / "x", ["a.tif"], tmp_path / "y/c.yaml").below == "../x/"


def test_init_of_a_file_says_so(tmp_path: Path) -> None:
    (tmp_path / "a.tif").write_text("")
    with pytest.raises(CatalogError, match=r"a\.tif: is a file; name the folder that holds your rasters"):
        infer_catalog(tmp_path / "a.tif", tmp_path / "c.yaml")


def test_init_knows_a_cloud_mask_beside_the_scenes(tmp_path: Path) -> None:
    for number in (1, 2):
        scene(tmp_path / f"images/s{number}.tif", 4, np.int16, number)
        scene(tmp_path / f"fmask/s{number}.tif", 1, np.uint8, 10 + number)
    catalog = infer_catalog(tmp_path, tmp_path / "c.yaml")
    assert 'shadows: mask: {path: "fmask/{stem}.tif", invalid_bits: [1, 2, 3]}' in catalog.text()


@pytest.mark.parametrize("name", ["S[1]", "a?b", "c*d", "x{band}y"])
def test_init_writes_folders_of_any_name_so_that_they_are_found_again(tmp_path: Path, name: str) -> None:
    folder = tmp_path / "all" / name
    for number in (1, 2):
        scene(folder / f"images/{name}{number}.tif", 4, np.uint8, number)
        scene(folder / f"images/qa/{name}{number}.tif", 1, np.uint8, 9 + number)
    for place in (folder / "images" / "c.yaml", folder / "c.yaml", tmp_path / "elsewhere" / "c.yaml"):
        text = infer_catalog(folder / "images", place).text()
        place.parent.mkdir(exist_ok=True)
        place.write_text(text.replace("# and if it is a mask: ", "").replace("[VALUE]", "[0]"))
        catalog = open_catalog(place)
        (source,) = (resolve_files(catalog, dataset, describe_bands) for dataset in catalog.entries)
        assert [one.id for one in source.scenes] == [f"{name}1", f"{name}2"]
        masks = [Path(one.mask.path).resolve() for one in source.scenes if one.mask]
        assert masks == [folder / f"images/qa/{name}{number}.tif" for number in (1, 2)]


@pytest.mark.parametrize(
    "names",
    [
        [f"plot_s{number}.tif" for number in range(1, 10)],
        [f"line_L{number}.tif" for number in range(1, 10)],
        ["plot_S1_a.tif", "plot_S2_a.tif"],
        [f"s{number}/plot.tif" for number in range(1, 6)],
        [f"s{number}_{number}.tif" for number in range(1, 4)],
    ],
)
def test_init_takes_running_numbers_for_what_they_are(tmp_path: Path, names: list[str]) -> None:
    for number, name in enumerate(names):
        scene(tmp_path / "fields" / name, 6, np.uint16, number)
    catalog = infer_catalog(tmp_path / "fields", tmp_path / "c.yaml")
    ((name, entry),) = catalog.entries.items()
    assert (name, entry.scenes, entry.sensor) == ("fields", len(names), "fill-in")
    assert f"# check: numbers as in {names[0]} are taken to count the files, not to name a sensor" in catalog.text()


def test_init_still_knows_sensors_by_short_names_with_their_bands(tmp_path: Path) -> None:
    for number in (1, 2, 3):
        scene(tmp_path / f"S1_{number}.tif", 2, np.float32, number)
        scene(tmp_path / f"S2_{number}.tif", 13, np.uint16, 10 + number)
        scene(tmp_path / f"L8_{number}.tif", 6, np.uint16, 20 + number)
        scene(tmp_path / f"L5_{number}.tif", 6, np.uint16, 30 + number)
    found = sorted((one.sensor, one.scenes) for one in infer_catalog(tmp_path, tmp_path / "c.yaml").entries.values())
    sensors = ("landsat-5-tm-c2l2", "landsat-8-oli-c2l2", "sentinel-1-grd", "sentinel-2-l1c")
    assert found == [(name, 3) for name in sensors]
    text = infer_catalog(tmp_path, tmp_path / "c.yaml").text()
    assert "sensor: sentinel-1-grd  # check: the name of the files and the number of bands" in text
    assert "running" not in text


def test_init_takes_type_and_descriptions_for_more_than_a_short_name(tmp_path: Path) -> None:
    scene(tmp_path / "a" / "plot_s1.tif", 2, np.uint8, 1)
    bands = ["B02", "B03", "B04", "B08", "B8A", "B11"]
    pixels_CHW = np.random.default_rng(0).integers(0, 200, (6, 64, 64)).astype(np.uint16)
    place = (10.0, 0.0, 500_000.0, 0.0, -10.0, 5_000_000.0)
    write_cog(tmp_path / "b" / "plot_s1.tif", pixels_CHW, crs="EPSG:32632", transform=place, descriptions=bands)
    entries = infer_catalog(tmp_path, tmp_path / "c.yaml").entries
    assert {name: one.sensor for name, one in entries.items()} == {"a": "fill-in", "b": "sentinel-2-l2a"}


@pytest.mark.parametrize(("sides", "size", "left_out"), [
    ([(300, 300), (1, 300)], 64, "1 of 2"),
    ([(512, 512), (512, 512), (40, 200)], 64, "1 of 3"),
    ([(64, 64), (48, 48), (64, 64)], 48, None),
    ([(300, 300), (100, 100), (300, 300)], 64, None),
    ([(1, 300)], 1, None),
])  # fmt: skip
@pytest.mark.parametrize("by_band", [False, True])
def test_init_proposes_a_tile_by_the_usual_size(
    tmp_path: Path, sides: list[tuple[int, int]], size: int, left_out: str | None, by_band: bool
) -> None:
    for number, (height, width) in enumerate(sides):
        names = [f"x{number}_B04", f"x{number}_B08"] if by_band else [f"x{number}"]
        for name in names:
            pixels_CHW = np.random.default_rng(number).integers(0, 200, (1 if by_band else 4, height, width))
            corner = (10.0, 0.0, 500_000.0, 0.0, -10.0, 5_000_000.0)
            write_cog(tmp_path / f"{name}.tif", pixels_CHW.astype(np.uint16), crs="EPSG:32632", transform=corner)
    (entry,) = infer_catalog(tmp_path, tmp_path / "c.yaml").entries.values()
    (line,) = [line for line in entry.lines if "tile:" in line]
    assert entry.tile == size
    assert f"tile: {{size: {size}}}" in line
    assert (f"check: {left_out} rasters looked at are smaller" in line) == (left_out is not None)
    assert ("check" in line) == (left_out is not None)
