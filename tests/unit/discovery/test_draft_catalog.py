"""What a first catalogue says of files, beyond what the command's own tests see."""

from pathlib import Path
from typing import Any

import numpy as np
import pytest

from geomae.catalog import open_catalog, resolve_files
from geomae.discovery.companions import beside_each
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


FMASK_BITS = ({64, 66, 72}, "invalid_bits: [1, 2, 3]}  # check: clouds, their edges and shadows in the bits of HLS")
FMASK_CODES = ({0, 1, 4}, "invalid_values: [2, 4, 255]}  # check: shadows, clouds and fill in the codes of Fmask")


@pytest.mark.parametrize(("values", "rule"), [FMASK_BITS, FMASK_CODES])
@pytest.mark.parametrize("mask", ["fmask/{stem}.tif", "images/{stem}_Fmask.tif"])
def test_init_masks_by_a_quality_layer_beside_the_scenes(
    tmp_path: Path, values: set[int], rule: str, mask: str
) -> None:
    codes_HW = np.resize(sorted(values), (64, 64)).astype(np.uint8)
    for number in (1, 2):
        scene(tmp_path / f"images/s{number}.tif", 4, np.int16, number)
        write_cog(tmp_path / mask.format(stem=f"s{number}"), codes_HW[None])
    catalog = infer_catalog(tmp_path, tmp_path / "c.yaml")
    (entry,) = catalog.entries.values()
    (line,) = [line for line in entry.lines if "mask:" in line]
    assert line.startswith(f'    mask: {{path: "{mask}", {rule}') and line.endswith("remove this line to keep them")
    (tmp_path / "c.yaml").write_text(catalog.text())
    opened = open_catalog(tmp_path / "c.yaml")
    (name,) = opened.entries
    source = resolve_files(opened, name, describe_bands)
    assert [(one.id, one.mask is not None) for one in source.scenes] == [("s1", True), ("s2", True)]


def test_init_masks_by_a_quality_layer_in_the_files(tmp_path: Path) -> None:
    bands = ["B2", "B3", "B4", "B5", "QA_PIXEL"]
    pixels_CHW = np.random.default_rng(0).integers(1, 200, (5, 64, 64)).astype(np.uint16)
    place = {"crs": "EPSG:32632", "transform": (30.0, 0.0, 5e5, 0.0, -30.0, 5e6)}
    write_cog(tmp_path / "LC08_x.tif", pixels_CHW, descriptions=bands, **place)
    text = infer_catalog(tmp_path, tmp_path / "c.yaml").text()
    assert "mask: {band: QA_PIXEL, invalid_bits: [0, 1, 3, 4]}  # check: fill, clouds, their edges and shadows" in text


@pytest.mark.parametrize(
    ("values", "said"),
    [
        ((-9999, 0, 2, 4), "0, 2, 4; if these are codes of Fmask, mask shadows, clouds and fill: mask: {band: 5,"),
        ((0, 1), "0, 1; if it is a quality layer: mask: {band: 5, invalid_values: [VALUE]}"),
        ((3,), None),
        (tuple(range(17)), None),
    ],
)
def test_init_asks_whether_a_skipped_band_of_few_values_is_a_quality_layer(
    tmp_path: Path, values: tuple[int, ...], said: str | None
) -> None:
    pixels_CHW = np.random.default_rng(0).integers(1, 2000, (5, 64, 64)).astype(np.int16)
    place = {"crs": "EPSG:32632", "transform": (30.0, 0.0, 5e5, 0.0, -30.0, 5e6)}
    for number in range(2):
        pixels_CHW[4] = np.resize(values[number:] or values, (64, 64))  # no file needs to hold all values
        names = ["B2", "B3", "B4", "B5", None]
        write_cog(tmp_path / f"landsat8_{'xy'[number]}.tif", pixels_CHW, descriptions=names, **place)
    text = infer_catalog(tmp_path, tmp_path / "c.yaml").text()
    assert ("# check: band 5 is skipped and holds only the values" in text) == (said is not None)
    assert said is None or said in text


def test_init_masks_by_a_quality_layer_that_is_a_file_of_its_own(tmp_path: Path) -> None:
    for number, band in enumerate(("B02", "B03", "SCL")):
        scene(tmp_path / f"{band}.tif", 1, np.uint16, number)
    ((_, entry),) = infer_catalog(tmp_path, tmp_path / "c.yaml").entries.items()
    assert len(entry.bands) == 2 and entry.has("mask")
    assert "mask: {band: SCL, invalid_values: [0, 1, 3, 8, 9, 10]}" in "".join(entry.lines)


@pytest.mark.parametrize(("parent", "sensor", "asked"), [("hls", "hls-l30", False), ("chips", "hls-l30", True)])
def test_init_guesses_the_same_whichever_folder_is_named(tmp_path: Path, parent: str, sensor: str, asked: bool) -> None:
    """Landsat's own products have the same bands, in a type without sign: what nothing tells apart is asked."""
    names = ["coastal_443", "blue_482", "green_561", "red_655", "nir_865", "swir1_1609", "swir2_2201"]
    pixels_CHW = np.random.default_rng(0).integers(-5, 200, (7, 64, 64)).astype(np.int16)
    write_cog(tmp_path / parent / "images" / "a.tif", pixels_CHW, descriptions=names)
    for folder in (parent, f"{parent}/images"):
        ((name, entry),) = infer_catalog(tmp_path / folder, tmp_path / "c.yaml").entries.items()
        assert (name, entry.sensor, entry.question is not None) == (parent, sensor, asked)
        question = entry.question or ""
        assert not asked or ("the type int16" in question and "landsat-8-oli-c2l2, landsat-8-oli" in question)


def test_init_names_candidates_where_only_the_number_of_bands_is_known(tmp_path: Path) -> None:
    scene(tmp_path / "a.tif", 7, np.int16, 1)
    ((_, entry),) = infer_catalog(tmp_path, tmp_path / "c.yaml").entries.items()
    assert "(as many as landsat-8-oli-c2l2 or landsat-9-oli-c2l2 or hls-l30 often has in a file)" in str(entry.question)


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
    assert f"# check: numbers as in {names[0]} are taken as running numbers, not as the name" in catalog.text()


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
    assert (f"check: {left_out} rasters examined is smaller and is left out" in line) == (left_out is not None)
    assert ("check" in line) == (left_out is not None)


FINER = "about 18 tiles, few to learn from: tile: {size: 32, stride: 16} gives about 392"


@pytest.mark.parametrize(("side", "finer"), [(250, FINER), (640, None)])
def test_init_says_what_gives_more_tiles_of_few_scenes(tmp_path: Path, side: int, finer: str | None) -> None:
    for name in "ab":
        write_cog(tmp_path / f"{name}.tif", np.ones((4, side, side), np.uint8), crs=None, transform=None)
    text = infer_catalog(tmp_path, tmp_path / "c.yaml").text()
    (line,) = (line for line in text.splitlines() if "tile: {size: 64}" in line)
    assert finer in line if finer else "few to learn from" not in line


ONE = "about 1 tile, few to learn from: tile: {size: 32, stride: 16} gives about 9"
LONG = "about 5 tiles, few to learn from: tile: {size: 32, stride: 16} gives about 57"


@pytest.mark.parametrize(("shape", "said"), [((70, 70), ONE), ((64, 320), LONG)])
def test_init_counts_the_tiles_of_the_files_that_can_be_read(tmp_path: Path, shape: tuple[int, int], said: str) -> None:
    write_cog(tmp_path / "a.tif", np.ones((4, *shape), np.uint8), crs=None, transform=None)
    for name in "bcd":
        (tmp_path / f"{name}.tif").write_bytes(b"broken")
    catalog = infer_catalog(tmp_path, tmp_path / "c.yaml")
    assert said in catalog.text() and len(catalog.problems) == 3


def test_init_counts_the_tiles_of_the_scenes_of_which_all_bands_can_be_read(tmp_path: Path) -> None:
    for day in ("001", "002", "003"):
        for band in ("B02", "B03"):
            scene(tmp_path / f"HLS.S30.T32TMT.2021{day}T101010.v2.0.{band}.tif", 1, np.int16, 1)
    (tmp_path / "HLS.S30.T32TMT.2021002T101010.v2.0.B03.tif").write_bytes(b"broken")
    assert "about 2 tiles, few to learn from" in infer_catalog(tmp_path, tmp_path / "c.yaml").text()


def planet(path: Path, names: list[str], dtype: Any) -> None:
    """A file of eight bands with names."""
    pixels_CHW = np.random.default_rng(len(path.name)).integers(1, 200, (8, 64, 64)).astype(dtype)
    place = {"crs": "EPSG:32632", "transform": (3.0, 0.0, 5e5, 0.0, -3.0, 5e6)}
    write_cog(path, pixels_CHW, descriptions=names, **place)


PLANET_BANDS = ["coastal_blue", "blue", "green_i", "green", "yellow", "red", "rededge", "nir"]
UDM2 = ["clear", "snow", "shadow", "light_haze", "heavy_haze", "cloud", "confidence", "unusable"]
PLANET_SCENES = ("20220701_101530_12_2461", "20220715_100211_55_2480")


def test_init_masks_clouds_with_the_masks_of_planet(tmp_path: Path) -> None:
    for scene_id in PLANET_SCENES:
        planet(tmp_path / f"{scene_id}_3B_AnalyticMS_SR_8b_clip.tif", PLANET_BANDS, np.uint16)
        planet(tmp_path / f"{scene_id}_3B_udm2_clip.tif", UDM2, np.uint8)
    path = tmp_path / "c.yaml"
    path.write_text(infer_catalog(tmp_path, path).text())
    (source,) = [resolve_files(open_catalog(path), name, describe_bands) for name in open_catalog(path).entries]
    assert source.sensor == "planetscope-superdove"
    masks = [scene.mask.path for scene in source.scenes if scene.mask is not None]
    assert masks == [str(tmp_path / f"{scene_id}_3B_udm2_clip.tif") for scene_id in PLANET_SCENES]
    assert source.invalid_values == (0,)


def test_init_leaves_out_masks_of_planet_for_other_scenes(tmp_path: Path) -> None:
    planet(tmp_path / f"{PLANET_SCENES[0]}_3B_AnalyticMS_SR_8b_clip.tif", PLANET_BANDS, np.uint16)
    planet(tmp_path / f"{PLANET_SCENES[1]}_3B_udm2_clip.tif", UDM2, np.uint8)
    catalog = infer_catalog(tmp_path, tmp_path / "c.yaml")
    (left,) = catalog.left_out
    assert left.startswith(
        f"{PLANET_SCENES[1]}_3B_udm2_clip.tif: the usable data mask of Planet, but not one for each scene"
    )
    (entry,) = catalog.entries.values()
    assert not entry.has("mask")


@pytest.mark.parametrize(
    ("images", "others", "path"),
    [
        (["a_1", "a_2"], ["a_1", "a_2"], "lc/{stem}.tif"),
        (["a_1", "a_2"], ["a_1_fmask", "a_2_fmask"], "lc/{stem}_fmask.tif"),
        (["a_sat_1", "a_sat_2"], ["a_mask_1", "a_mask_2"], "lc/{stem:sat=mask}.tif"),
        (["image_01", "image_02"], ["label_01", "label_02", "label_03"], "lc/{stem:image=label}.tif"),
        (["12-sat", "13-sat"], ["12-mask", "13-mask"], "lc/{stem:sat=mask}.tif"),
        (["a_1", "a_2"], ["a_1"], None),
        (["sat_1", "sat_2"], ["mask_1", "mask_3"], None),
        (["sat_a_sat", "sat_b_sat"], ["map_a_sat", "map_b_sat"], None),  # what to replace is twice in the name
        (["one"], ["two"], None),
        (["S2A_20210401_sat"], ["S2A_20210501_scl"], None),  # another date
        (["S2_T32TMT"], ["S2_T33UUP_scl"], None),  # another place
        (["T1_01", "T1_02"], ["T2_scl_01", "T2_scl_02"], None),
    ],
)
def test_files_beside_each_scene_are_found_by_their_names(
    images: list[str], others: list[str], path: str | None
) -> None:
    found = beside_each([f"img/{name}.tif" for name in images], [f"lc/{name}.tif" for name in others])
    assert [one.path for one in found] == ([path] if path else [])


def test_files_of_several_kinds_beside_each_scene_are_all_found() -> None:
    others = [f"tile_{number}_{kind}.tif" for kind in ("fmask", "label", "sat_cloud") for number in (1, 2)]
    found = beside_each(["tile_1_sat.tif", "tile_2_sat.tif"], others)
    assert [one.path for one in found] == ["{stem}_cloud.tif", "{stem:sat=fmask}.tif", "{stem:sat=label}.tif"]
    assert sorted(path for one in found for path in one.files) == sorted(others)


def test_beside_images_of_several_folders_no_word_is_replaced() -> None:
    assert not beside_each(["a/1_sat.tif", "b/1_sat.tif"], ["masks/1_fmask.tif"])


def test_init_gives_labels_to_all_scenes_that_they_fit_those_of_the_same_name_first(tmp_path: Path) -> None:
    for number in (1, 2):
        for kind, bands, dtype in (("dem", 1, np.float32), ("img", 4, np.uint16), ("label", 1, np.uint8)):
            scene(tmp_path / f"words/{kind}_{number}.tif", bands, dtype, number)
        for folder, kind, bands in (("rgb", "rgb", 3), ("ms", "ms", 4), ("lc", "ms", 1)):
            scene(tmp_path / f"names/{folder}/{kind}_{number}.tif", bands, np.uint16, number)
    text = infer_catalog(tmp_path / "words", tmp_path / "words/c.yaml").text()
    assert "{stem:dem=label}.tif" in text and "{stem:img=label}.tif" in text
    text = infer_catalog(tmp_path / "names", tmp_path / "names/c.yaml").text()
    assert "lc/{stem}.tif" in text and "{stem:" not in text


def test_init_takes_no_mask_of_another_place(tmp_path: Path) -> None:
    place = {"crs": "EPSG:32632", "transform": (30.0, 0.0, 9e5, 0.0, -30.0, 5e6)}
    scene(tmp_path / "site_berlin.tif", 4, np.uint16, 1)
    write_cog(tmp_path / "site_paris_fmask.tif", np.full((1, 64, 64), 4, np.uint8), **place)
    catalog = infer_catalog(tmp_path, tmp_path / "c.yaml")
    (entry,) = catalog.entries.values()
    assert not entry.has("mask") and catalog.left_out


def test_a_mask_of_planet_is_told_from_other_files_beside_it(tmp_path: Path) -> None:
    for number in (1, 2):
        scene(tmp_path / f"{number}.tif", 4, np.uint16, number)
        for kind in ("udm2", "worldcover"):
            values = np.full((1, 64, 64), 10, np.uint8)
            place = {"crs": "EPSG:32632", "transform": (30.0, 0.0, 500_000.0, 0.0, -30.0, 5_000_000.0)}
            values[:, :32] = 80
            values[:, :8] = 40
            write_cog(tmp_path / f"{number}_{kind}.tif", values // (10 if kind == "udm2" else 1), **place)
    text = infer_catalog(tmp_path, tmp_path / "c.yaml").text()
    assert 'mask: {path: "{stem}_udm2.tif", invalid_values: [0]}' in text
    assert 'label: {raster: "{stem}_worldcover.tif"' in text


def test_init_lists_files_beside_scenes_that_belong_to_none(tmp_path: Path) -> None:
    for number in (1, 2):
        scene(tmp_path / f"tile_{number}_sat.tif", 4, np.uint16, number)
        scene(tmp_path / f"tile_{number}_map.tif", 1, np.uint8, number)
    scene(tmp_path / "tile_old_draft.tif", 1, np.uint8, 3)
    assert infer_catalog(tmp_path, tmp_path / "c.yaml").left_out == (
        "tile_old_draft.tif: beside scenes by its name, but of none of them",
    )


@pytest.mark.parametrize(("metres", "side", "block"), [(0.05, 300, "0.004"), (10.0, 3000, "2"), (1.0, 4000, "1")])
def test_init_suggests_blocks_that_are_smaller_than_a_scene(
    tmp_path: Path, metres: float, side: int, block: str
) -> None:
    place = {"crs": "EPSG:32632", "transform": (metres, 0.0, 5e5, 0.0, -metres, 5e6)}
    write_cog(tmp_path / "a.tif", np.ones((1, side, side), np.uint8), **place)
    assert f"split: {{block_km: {block}, " in infer_catalog(tmp_path, tmp_path / "c.yaml").text()
