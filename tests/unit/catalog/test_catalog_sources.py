"""From patterns to scenes: product layouts, ids, bands, masks, labels, and the messages when something is missing."""

from pathlib import Path

import pytest

from geomae.catalog import BandFile, Source, open_catalog, resolve_files, scenes_from_paths, source_from_paths
from geomae.catalog.patterns import escape_pattern
from geomae.errors import CatalogError


def touch(folder: Path, *names: str) -> None:
    for name in names:
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        (folder / name).write_bytes(b"")


def never(path: str) -> tuple[str | None, ...]:
    raise AssertionError(f"{path} was asked for its bands")


def resolve(folder: Path, entry: str, describe=never) -> Source:
    (folder / "c.yaml").write_text(
        "version: 1\ndatasets:\n  a:\n" + "".join(f"    {line}\n" for line in entry.splitlines())
    )
    return resolve_files(open_catalog(folder / "c.yaml"), "a", describe)


def message(folder: Path, entry: str, describe=never) -> str:
    with pytest.raises(CatalogError) as caught:
        resolve(folder, entry, describe)
    return str(caught.value).removeprefix(f"{folder}/c.yaml:")


SAFE = "S2A_MSIL2A_20200601T102031.SAFE/GRANULE/L2A_T32TMT/IMG_DATA"
RGB = "sensor: landsat-7-etm\nbands: [red, green, blue]\n"


def test_landsat_files_per_band(tmp_path: Path) -> None:
    product = "LC08_L2SP_192027_20200601_02_T1"
    touch(
        tmp_path,
        *(f"l8/{product}/{product}_SR_B{band}.TIF" for band in (2, 4, 5, 10)),
        f"l8/{product}/{product}_QA_PIXEL.TIF",
    )
    source = resolve(tmp_path, "path: 'l8/*/*_SR_{band}.TIF'\nsensor: landsat-8-oli-c2l2\nbands: [red, nir08, B2]")
    (scene,) = source.scenes
    assert [Path(band.path).name for band in scene.bands] == [f"{product}_SR_B{band}.TIF" for band in (4, 5, 2)]
    assert (scene.stem, scene.id) == (f"{product}_SR", f"{product}/{product}_SR")
    assert source.stored_bands is None
    assert {band.index for band in scene.bands} == {1}


def test_landsat_mask_file_by_token(tmp_path: Path) -> None:
    touch(tmp_path, "l8/X_B4.TIF", "l8/X_B5.TIF", "l8/X_QA_PIXEL.TIF")
    entry = (
        "path: 'l8/*_{band}.TIF'\nsensor: landsat-8-oli\nbands: [B4, B5]\nmask: {band: QA_PIXEL, invalid_bits: [3, 4]}"
    )
    source = resolve(tmp_path, entry)
    assert source.scenes[0].mask == BandFile(str(tmp_path / "l8/X_QA_PIXEL.TIF"))
    assert source.scenes[0].stem == "X"
    assert source.invalid_bits == (3, 4)


def test_sentinel_safe_takes_the_finest_file_of_each_band(tmp_path: Path) -> None:
    for metres, bands in ((10, ("B02", "B03")), (20, ("B02", "B03", "B05", "SCL")), (60, ("B02", "B05", "B01"))):
        touch(tmp_path, *(f"{SAFE}/R{metres}m/T32TMT_20200601_{band}_{metres}m.jp2" for band in bands))
    entry = "path: '*.SAFE/GRANULE/*/IMG_DATA/R*/*_{band}_*m.jp2'\nsensor: sentinel-2-l2a\nbands: [B01, B02, B05]\n"
    source = resolve(tmp_path, entry + "mask: {band: SCL, invalid_values: [0, 1, 3, 8, 9, 10]}")
    (scene,) = source.scenes
    assert [path.rpartition("/")[2] for path in scene.files] == [
        f"T32TMT_20200601_{name}.jp2" for name in ("B01_60m", "B02_10m", "B05_20m")
    ]
    assert scene.mask is not None and scene.mask.path.endswith("R20m/T32TMT_20200601_SCL_20m.jp2")
    assert scene.stem == "T32TMT_20200601"
    assert scene.id == f"{SAFE}/T32TMT_20200601"


def test_two_patterns_may_fill_one_scene(tmp_path: Path) -> None:
    touch(tmp_path, f"{SAFE}/R10m/T32_B02_10m.jp2", f"{SAFE}/R20m/T32_B05_20m.jp2")
    entry = "sensor: sentinel-2-l2a\nbands: [B02, B05]\npath:\n- '*.SAFE/GRANULE/*/IMG_DATA/R10m/*_{band}_10m.jp2'\n"
    source = resolve(tmp_path, entry + "- '*.SAFE/GRANULE/*/IMG_DATA/R20m/*_{band}_20m.jp2'")
    assert len(source.scenes) == 1


def test_band_files_named_by_nothing_else_and_band_folders(tmp_path: Path) -> None:
    touch(tmp_path, *(f"{place}/B{band}.tif" for place in ("east", "west") for band in (1, 2, 11)))
    source = resolve(tmp_path, "path: '*/{band}.tif'\nsensor: landsat-7-etm\nbands: [B1, B2]")
    assert [(scene.id, scene.stem) for scene in source.scenes] == [("east", "east"), ("west", "west")]
    touch(tmp_path, *(f"folders/{band}/s{number}.tif" for band in ("b", "r") for number in (1, 2)))
    entry = "path: 'folders/{band}/*.tif'\nsensor: landsat-7-etm\nbands: {blue: b, red: r}"
    source = resolve(tmp_path, entry)
    assert [scene.id for scene in source.scenes] == ["s1", "s2"]
    assert source.scenes[1].files == (str(tmp_path / "folders/b/s2.tif"), str(tmp_path / "folders/r/s2.tif"))


def test_a_token_beside_a_wildcard_is_a_word_of_its_own(tmp_path: Path) -> None:
    touch(tmp_path, "s_B1_x.tif", "s_B11_x.tif", "s_B2_x.tif")
    entry = "path: '*{band}*.tif'\nsensor: sentinel-2-l1c\nbands: {B01: B1, B02: B2, B11: B11}"
    assert [Path(path).name for path in resolve(tmp_path, entry).scenes[0].files] == [
        f"s_{band}_x.tif" for band in ("B1", "B2", "B11")
    ]


def test_band_files_that_lack_or_clash_are_named(tmp_path: Path) -> None:
    touch(tmp_path, "s1_B1.tif", "s1_B2.tif", "s2_B1.tif")
    entry = "path: '*_{band}.*'\nsensor: landsat-7-etm\nbands: [B1, B2]"
    text = message(tmp_path, entry)
    assert text.startswith("4: datasets.a.path: scene ") and "s2 has no file for B2; add the files" in text
    touch(tmp_path, "s2_B2.tif", "s2_B2.jp2")
    assert "band 'B2' of one scene has two files" in message(tmp_path, entry)
    assert "no file matches 'x_{band}.tif'" in message(tmp_path, entry.replace("*_{band}.*", "x_{band}.tif"))


def test_scenes_have_sorted_unique_ids_that_new_files_do_not_change(tmp_path: Path) -> None:
    touch(tmp_path, "d/b/x.tif", "d/a/x.tif", "d/a/y.tif", "d/a/y.jp2", "d/notes.txt")
    source = resolve(tmp_path, f"path: ['d/**/*.tif', 'd/a/*.jp2', 'd/a/x.tif']\n{RGB}")
    assert [scene.id for scene in source.scenes] == ["a/x", "a/y.jp2", "a/y.tif", "b/x"]
    assert [scene.stem for scene in source.scenes] == ["x", "y", "y", "x"]
    (one,) = resolve(tmp_path, f"path: 'd/*/x.tif'\nwhere: 'a == 1'\n{RGB}").scenes[:1]
    assert one.id == "a/x"


@pytest.mark.parametrize(
    ("entry", "expected"),
    [
        ("path: imgs/*.tif", "4: datasets.a.path: no file matches 'imgs/*.tif'; {folder} holds c.yaml, d/; correct"),
        ("path: d", "name the files in it, as in d/*.tif"),
        (f"path: {'x' * 300}", "4: datasets.a.path: no file matches 'xxx"),  # longer than the name of any file
        (f"path: '{'x' * 300}/*.tif'", "; {folder} holds c.yaml, d/; correct the pattern"),
        (f"path: d/x.tif\ntable: {{path: {'x' * 300}, key: a}}", "; {folder} holds c.yaml, d/; correct the path"),
        ("path: ../*.tif", "4: datasets.a.path: .. leaves the catalogue's folder"),
        ("path: /etc/passwd", "add `outside: true` to allow it"),
        ("path: d/away.tif", "away.tif leaves the catalogue's folder"),
        ("path: d/lost*.tif", "lost.tif is a link to a file that is not there"),
        ("path: https://example.org/a.tif", "is not on this machine; add `remote: true` to allow it"),
        ("path: http://example.org/a.tif\nremote: true", "is none of s3, gs, https"),
        ("path: s3://bucket/*.tif\nremote: true", "remote folders are not listed; list the files"),
        (
            "path: d/x.tif\nmask: {path: 'm/{stem}.tif', invalid_bits: [0]}",
            "datasets.a.mask.path: there is no file 'm/x.tif'",
        ),
        (
            "path: d/x.tif\nmask: {path: 'm/{stem:sat=qa}.tif', invalid_bits: [0]}",
            "datasets.a.mask.path: {{stem:sat=qa}} replaces 'sat', which the scene x has not in its name; write",
        ),
        ("path: d/x.tif\nmask: {path: 'm/{stem:x}.tif', invalid_bits: [0]}", "'m/{{stem:x}}.tif': write {{stem}}, or"),
        ("path: d/x.tif\nmask: {path: ../m.tif, invalid_bits: [0]}", "leaves the catalogue's folder"),
        (
            "path: d/x.tif\nmask: {band: 4, invalid_bits: [0]}",
            "`bands` lists 3 bands, and the mask is band 4; list every stored band in `bands`, null",
        ),
        ("path: d/x.tif\nlabel: {raster: y.tif, classes: {1: a}}", "datasets.a.label.raster: there is no file 'y.tif'"),
        (
            "path: d/x.tif\nunit: radiance",
            "datasets.a.unit: radiance is not the unit of sensor landsat-7-etm; add `scale`",
        ),
        ("path: d/x.tif\noffset: 1e300", "datasets.a.offset: 1e+300 makes values that are not finite; correct it"),
        ("path: d/x.tif\nscale: {B1: -1e31}", "datasets.a.scale: -1e+31 makes values that are not finite"),
        ("path: d/x.tif\nscale: {purple: 2}", "datasets.a.scale.purple: sensor landsat-7-etm has no band 'purple'"),
    ],
)
def test_what_cannot_be_resolved(tmp_path: Path, entry: str, expected: str) -> None:
    inside = tmp_path / "inside"
    touch(inside, "d/x.tif")
    touch(tmp_path, "away.tif")
    (inside / "d/away.tif").symlink_to(tmp_path / "away.tif")
    (inside / "d/lost.tif").symlink_to("nowhere.tif")
    assert expected.format(folder=inside) in message(inside, f"{entry}\n{RGB}")


def test_the_files_of_masks_and_labels_may_have_another_word_in_their_names(tmp_path: Path) -> None:
    touch(tmp_path, *(f"{kind}_{number}.tif" for kind in ("sat", "qa", "map") for number in (1, 2)))
    keys = (
        "mask: {path: '{stem:sat=qa}.tif', invalid_values: [0]}\nlabel: {raster: '{stem:sat=map}.tif', classes: {1: a}}"
    )
    for scene in resolve(tmp_path, f"path: sat_*.tif\n{keys}\n{RGB}").scenes:
        names = [Path(path).name for path in (scene.files[0], scene.mask.path, scene.label_path)]
        assert names == [f"{kind}_{scene.stem[-1]}.tif" for kind in ("sat", "qa", "map")]


def test_without_bands_a_mask_beyond_the_stored_bands_has_a_wrong_number(tmp_path: Path) -> None:
    touch(tmp_path, "x.tif")
    said = message(tmp_path, "path: x.tif\nsensor: naip\nmask: {band: 5, invalid_bits: [0]}", lambda _: (None,) * 4)
    assert "datasets.a.mask.band: there is no band 5 in files of 4 bands; correct the number" in said


def test_outside_and_remote_are_allowed_when_asked_for(tmp_path: Path) -> None:
    touch(tmp_path, "in/x.txt", "far/b.tif")
    (source,) = resolve(tmp_path / "in", f"path: ../far/*.tif\noutside: true\n{RGB}").scenes
    assert source.id == "b"
    remote = resolve(tmp_path / "in", f"path: [s3://bucket/x/a.tif, s3://bucket/x/b.tif]\nremote: true\n{RGB}")
    assert [scene.id for scene in remote.scenes] == ["a", "b"]
    assert remote.remote
    bands = resolve(
        tmp_path / "in", "path: 'https://h.org/s/X_{band}.tif'\nremote: true\nsensor: naip\nbands: {red: r, nir: n}"
    )
    assert bands.scenes[0].files == ("https://h.org/s/X_r.tif", "https://h.org/s/X_n.tif")


@pytest.mark.parametrize(
    ("bands", "expected"),
    [
        ("[red, purple]", "datasets.a.bands.1: sensor landsat-7-etm has no band 'purple'; known:"),
        ("[red, gren]", "did you mean 'green'?"),
        ("[red, B3]", "datasets.a.bands: band B3 is there twice; keep one"),
    ],
)
def test_bad_band_names(tmp_path: Path, bands: str, expected: str) -> None:
    touch(tmp_path, "x.tif")
    text = message(tmp_path, f"path: x.tif\nsensor: landsat-7-etm\nbands: {bands}")
    assert text.startswith("6: ") and expected in text


def test_bands_from_the_file_or_the_sensor(tmp_path: Path) -> None:
    touch(tmp_path, "x.tif")
    entry = "path: x.tif\nsensor: naip"
    assert [band.name for band in resolve(tmp_path, entry, lambda path: ("nir", "red")).bands] == ["nir", "red"]
    assert [band.name for band in resolve(tmp_path, entry, lambda path: (None,) * 4).bands] == [
        "red",
        "green",
        "blue",
        "nir",
    ]
    assert "holds 3 bands without names, and sensor naip has 4; add `bands`" in message(
        tmp_path, entry, lambda path: (None,) * 3
    )
    assert "band 2 of" in message(tmp_path, entry, lambda path: ("nir", "QA"))


def test_skipped_bands_mask_band_scaling_and_nodata(tmp_path: Path) -> None:
    touch(tmp_path, "x.tif")
    entry = "path: x.tif\nsensor: sentinel-2-l2a\nbands: [B02, null, B04]\nnodata: -1\n"
    entry += "scale: {red: 0.5}\noffset: 3\ngsd_m: 20\n"
    source = resolve(tmp_path, entry + "mask: {band: 2, invalid_values: [7]}")
    assert source.scenes[0].bands == (BandFile(str(tmp_path / "x.tif"), 1), BandFile(str(tmp_path / "x.tif"), 3))
    assert source.scenes[0].mask == BandFile(str(tmp_path / "x.tif"), 2)
    assert (source.scale_C, source.offset_C, source.stored_bands) == ((0.0001, 0.5), (3.0, 3.0), 3)
    assert source.nodata[0] == -1 and 0 in source.nodata
    assert (source.gsd_m, source.invalid_values) == (20, (7,))
    named = resolve(
        tmp_path, entry + "mask: {band: clouds, invalid_values: [7]}", lambda path: ("B02", "clouds", "B04")
    )
    assert named.scenes[0].mask == source.scenes[0].mask
    assert resolve(tmp_path, entry.replace("nodata: -1", "nodata: []")).nodata == ()
    plain = resolve(tmp_path, "path: x.tif\nsensor: sentinel-2-l2a\nbands: [B02]\nunit: digital_number")
    assert (plain.scale_C, plain.unit) == ((1.0,), "digital_number")


def test_inline_sensor(tmp_path: Path) -> None:
    touch(tmp_path, "x.tif")
    band = "{name: c, wavelength_um: 0.5, fwhm_um: 0.1}"
    source = resolve(tmp_path, f"path: x.tif\nsensor: {{bands: [{band}], unit: radiance, scale: 2}}\nbands: [c]")
    assert (source.sensor, source.unit, source.scale_C, source.bands[0].wavelength_um) == ("a", "radiance", (2.0,), 0.5)


def test_a_list_of_bands_is_a_sensor(tmp_path: Path) -> None:
    touch(tmp_path, "x.tif")
    band = "{name: c, wavelength_um: 0.5, fwhm_um: 0.1}"
    source = resolve(tmp_path, f"path: x.tif\nsensor: [{band}]\nbands: [c]")
    assert (source.sensor, source.unit, source.bands[0].wavelength_um) == ("a", "digital_number", 0.5)
    text = message(tmp_path, f"path: x.tif\nsensor:\n- {band}\n- red")
    assert "datasets.a.sensor: sensor 'a': band 'red' must be a mapping with `name`, `wavelength_um`" in text
    assert "datasets.a.sensor: must not be empty, not an empty list" in message(tmp_path, "path: x.tif\nsensor: []")


def test_sources_that_find_their_own_files(tmp_path: Path) -> None:
    (tmp_path / "c.yaml").write_text("version: 1\ndatasets:\n  a: {torchgeo: EuroSAT, label: {column: label}}\n")
    catalog = open_catalog(tmp_path / "c.yaml")
    paths = ["/cache/Forest/1.tif", "/cache/River/2.tif"]
    source = source_from_paths(
        catalog, "a", paths, lambda path: (None,) * 13, attributes={paths[0]: {"label": "Forest"}},
        label_paths={paths[1]: "/cache/l.tif"}, default_sensor="sentinel-2-l1c",
    )  # fmt: skip
    assert [scene.id for scene in source.scenes] == ["Forest/1", "River/2"]
    assert (source.scenes[0].attributes, source.scenes[1].label_path) == ({"label": "Forest"}, "/cache/l.tif")
    with pytest.raises(CatalogError, match=r"c.yaml:3: datasets.a: is not a data set of files"):
        resolve_files(catalog, "a", never)
    assert scenes_from_paths(["/d/x.tif"], [2])[0].bands == (BandFile("/d/x.tif", 2),)


@pytest.mark.parametrize("name", ["S[1]", "a?b", "c*d", "x{band}y", "[ab", "R10m"])
def test_no_character_of_the_catalogues_own_folder_is_a_wildcard(tmp_path: Path, name: str) -> None:
    folder = tmp_path / name
    touch(folder, "s/a_B1.tif", "s/a_B2.tif", "s/b/x.tif")
    touch(tmp_path, "S1/s/a_B1.tif", "ab/s/a_B1.tif")  # what the folder's name would match, were it a pattern
    for pattern in ("s/*_{band}.tif", f"{folder}/s/*_{{band}}.tif"):
        source = resolve(folder, f"path: '{pattern}'\nsensor: landsat-7-etm\nbands: [B1, B2]")
        assert [scene.id for scene in source.scenes] == ["a"]
        assert source.scenes[0].files == (f"{folder}/s/a_B1.tif", f"{folder}/s/a_B2.tif")
    for pattern in ("s/**/x.tif", f"{folder}/s/*/x.tif", "s/b/x.tif"):
        (scene,) = resolve(folder, f"path: '{pattern}'\n{RGB}").scenes
        assert scene.files == (f"{folder}/s/b/x.tif",)
    with pytest.raises(CatalogError, match="leaves the catalogue's folder"):
        resolve(folder, f"path: '../S1/s/*.tif'\n{RGB}")


@pytest.mark.parametrize(
    ("name", "pattern"),
    [("S[1]", "S[[]1]"), ("a?b", "a[?]b"), ("c*d", "c[*]d"), ("x{band}y", "x[{]band}y"), ("a-b", "a[-_]b"),
     ("a]b", "a[]x]b"), ("a[b", "a[[x]b"), ("a^b", "a[^x]b"), ("a&&b", "a[&&]&b")],
)  # fmt: skip
def test_wildcards_that_stand_for_themselves(tmp_path: Path, name: str, pattern: str) -> None:
    touch(tmp_path, f"{name}/{name}_B1.tif", f"{name}/{name}_B2.tif")
    entry = "sensor: landsat-7-etm\nbands: [B1, B2]"
    (scene,) = resolve(tmp_path, f"path: '{pattern}/{pattern}_{{band}}.tif'\n{entry}").scenes
    assert scene.stem == name
    assert scene.files == (f"{tmp_path}/{name}/{name}_B1.tif", f"{tmp_path}/{name}/{name}_B2.tif")
    written = escape_pattern(name)
    (again,) = resolve(tmp_path, f"path: '{written}/{written}_{{band}}.tif'\n{entry}").scenes
    assert (again.id, again.files) == (name, scene.files)  # what stands for itself is no wildcard: the id is below it


def test_a_range_that_cannot_be_matches_nothing(tmp_path: Path) -> None:
    touch(tmp_path, "a_B1.tif", "a_B2.tif")
    text = message(tmp_path, "path: '[z-a]_{band}.tif'\nsensor: landsat-7-etm\nbands: [B1, B2]")
    assert text.startswith("4: datasets.a.path: no file matches '[z-a]_{band}.tif'")


def test_brackets_of_a_folder_in_the_entry_are_explained(tmp_path: Path) -> None:
    touch(tmp_path, "set [1]/a.tif")
    assert "so write set [[]1]/*.tif for the folder" in message(tmp_path, f"path: 'set [1]/*.tif'\n{RGB}")
    assert "as in set [[]1]/*.tif" in message(tmp_path, f"path: 'set [1]'\n{RGB}")
    (scene,) = resolve(tmp_path, f"path: 'set [[]1]/*.tif'\n{RGB}").scenes
    assert scene.id == "a"
    (scene,) = resolve(tmp_path, f"path: 'set [1]/a.tif'\n{RGB}").scenes
    assert (scene.id, scene.files) == ("set [1]/a", (f"{tmp_path}/set [1]/a.tif",))
