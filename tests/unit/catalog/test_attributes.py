"""Attributes and windows from CSV tables, and the catalogue of real data as a whole."""

import logging
from pathlib import Path

import numpy as np
import pytest

from geomae.catalog import Catalog, Scene, open_catalog, read_windows, require_columns, resolve_files, where_mask
from geomae.errors import CatalogError


def never(path: str) -> tuple[str | None, ...]:
    raise AssertionError(f"{path} was asked for its bands")


def catalogue(folder: Path, table: str, extra: str = "table: {path: t/t.csv, key: file}") -> Catalog:
    for name in ("t/a/x.tif", "t/b/y.tif", "t/t.csv"):
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        (folder / name).write_text(table)
    (folder / "c.yaml").write_text(
        f"version: 1\ndatasets:\n  d:\n    path: t/*/*.tif\n    sensor: naip\n    bands: [red]\n    {extra}\n"
    )
    return open_catalog(folder / "c.yaml")


def scenes(catalog: Catalog) -> tuple[Scene, ...]:
    return resolve_files(catalog, "d", never).scenes


@pytest.mark.parametrize("keys", [("x", "y"), ("a/x.tif", "b/y.tif"), ("a/x", "./b/y"), ("x.tif", "y.tif")])
def test_rows_are_found_by_stem_or_path(tmp_path: Path, keys: tuple[str, str]) -> None:
    found = scenes(catalogue(tmp_path, f"file,site,season,cover\n{keys[0]},7,green,\n{keys[1]},,NA,0.5\n"))
    assert found[0].attributes == {"site": 7, "season": "green", "cover": None}
    assert found[1].attributes == {"site": None, "season": "NA", "cover": 0.5}
    assert isinstance(found[0].attributes["site"], int)  # and not 7.0, because of the missing one


def test_keys_stay_text(tmp_path: Path) -> None:
    catalog = catalogue(tmp_path, "file,v\n007,1\n")
    (tmp_path / "t/a/x.tif").rename(tmp_path / "t/a/007.tif")
    assert scenes(catalog)[0].attributes == {"v": 1}


def test_scenes_without_a_row_are_counted(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    with caplog.at_level(logging.WARNING):
        found = scenes(catalogue(tmp_path, "file,v\nx,1\nz,2\n"))
    assert [scene.attributes for scene in found] == [{"v": 1}, {"v": None}]
    assert "1 of 2 scenes have no row, as b/y" in caplog.text


@pytest.mark.parametrize(
    ("table", "extra", "expected"),
    [
        ("file,v\nx,1\nx,2\n", None, "datasets.d.table: line 3 of the table has the key 'x' again; keep one row"),
        ("file,v\nq,1\n", None, "no row of t/t.csv has a file's stem or path in column 'file'; it has 'q'"),
        ("fil,v\nx,1\n", None, "datasets.d.table.key: t/t.csv has no column 'file'; did you mean 'fil'?"),
        ("file;v\nx;1,5\n", None, "t/t.csv separates its columns by semicolons; save it with commas, and with points"),
        ("v;file\n1,5,0;x\n2;y\n", None, "t/t.csv separates its columns by semicolons"),
        ('\ufeff"v, of all";"file"\n1;x\n', None, "t/t.csv separates its columns by semicolons"),
        ("file\tv\nx\t1\n", None, "t/t.csv separates its columns by tabs"),
        ("fil;v\nx;1\n", None, "t/t.csv has no column 'file'"),
        ("file,v\n,1\n", None, "line 2: the column 'file' is empty; name the scene"),
        ("", None, "t/t.csv cannot be read (No columns to parse from file)"),
        ("file,v\nx,1\n", "table: {path: t/u.csv, key: file}", "datasets.d.table.path: there is no file 't/u.csv'; "),
        ("file,v\nx,1\n", "table: {path: ../t.csv, key: file}", "leaves the catalogue's folder"),
        ("file,v\nx,1\n", "table: {path: t/a/x.tif, key: file}", "is not a CSV file"),
    ],
)
def test_bad_tables(tmp_path: Path, table: str, extra: str | None, expected: str) -> None:
    catalog = catalogue(tmp_path, table, *([extra] if extra else []))
    with pytest.raises(CatalogError) as caught:
        scenes(catalog)
    assert expected in str(caught.value)


def test_a_stem_of_two_scenes_needs_paths(tmp_path: Path) -> None:
    catalog = catalogue(tmp_path, "file,v\nx,1\n")
    (tmp_path / "t/b/x.tif").touch()
    with pytest.raises(CatalogError, match=r"several scenes are called 'x'; give their paths in t/t.csv"):
        scenes(catalog)


def test_folder_labels(tmp_path: Path) -> None:
    assert [scene.attributes for scene in scenes(catalogue(tmp_path, "", "label: {folder: true}"))] == [
        {"label": "a"},
        {"label": "b"},
    ]


WINDOWS = "windows: {table: t/t.csv, key: file, row: r, col: c, size: 4}"


def test_windows(tmp_path: Path) -> None:
    frame = read_windows(catalogue(tmp_path, "file,r,c,label,n\na/x.tif,0,4,tree,1\ny,4,0,,\n", WINDOWS), "d")
    assert list(frame.columns) == ["stem", "row", "col", "size", "label", "n"]
    assert frame.to_dict("list")["stem"] == ["x", "y"]
    assert frame["label"].tolist() == ["tree", None]
    assert frame["row"].dtype == np.int64 and frame["size"].tolist() == [4, 4]


SCENES = f"{WINDOWS}\n    table: {{path: scenes.csv, key: scene}}"


def test_windows_have_the_attributes_of_their_scene_too(tmp_path: Path) -> None:
    (tmp_path / "scenes.csv").write_text("scene,site,year,n\nt/a/x.tif,north,2020,7\nz,east,2021,8\n")
    frame = read_windows(catalogue(tmp_path, "file,r,c,n\nx,0,0,1\nx,4,0,2\ny,0,0,3\n", SCENES), "d")
    assert list(frame.columns) == ["stem", "row", "col", "size", "n", "site", "year"]
    assert frame["site"].tolist() == ["north", "north", None]
    assert frame["year"].tolist() == [2020, 2020, None]
    assert frame["n"].tolist() == [1, 2, 3]  # what a window says of itself wins


def test_a_table_that_names_two_scenes_by_one_stem_cannot_serve_windows(tmp_path: Path) -> None:
    (tmp_path / "scenes.csv").write_text("scene,site\na/x,1\nb/x,2\n")
    with pytest.raises(CatalogError, match=r"c\.yaml:8: datasets\.d\.table: several rows of scenes\.csv .* 'x', and a"):
        read_windows(catalogue(tmp_path, "file,r,c\nx,0,0\n", SCENES), "d")


@pytest.mark.parametrize(
    ("table", "expected"),
    [
        ("file,r,c\nx,0,0\nx,-1,0\n", "t/t.csv, line 3: r is -1; write a whole number of pixels, from 0"),
        ("file,r,c\nx,0,0.5\n", "line 2: c is 0.5"),
        ("file,r,c\nx,0,0\nx,0,0\n", "line 3: this window is there twice"),
        ("file,row,c\nx,0,0\n", "datasets.d.windows.row: t/t.csv has no column 'r'"),
    ],
)
def test_bad_windows(tmp_path: Path, table: str, expected: str) -> None:
    with pytest.raises(CatalogError) as caught:
        read_windows(catalogue(tmp_path, table, WINDOWS), "d")
    assert expected in str(caught.value)


def test_columns_that_are_named_must_be_there(tmp_path: Path) -> None:
    catalog = catalogue(tmp_path, "", "group: {column: site, folds: block}\n    where: 'purty > 1'")
    require_columns(catalog, "d", {"site", "block"})
    with pytest.raises(CatalogError, match=r"c\.yaml:7: datasets\.d\.group\.folds: .*'block'; did you mean 'blocks'"):
        require_columns(catalog, "d", {"site", "blocks"})
    with pytest.raises(CatalogError, match=r"c\.yaml:8: datasets\.d\.where: .*'purty'; did you mean 'purity'"):
        where_mask(catalog, "d", {"purity": np.zeros(3)}, 3)


def test_every_data_set_of_the_real_catalogue_resolves(shared_data: Path) -> None:
    catalog = open_catalog(shared_data / "catalog.yaml")
    described = {"eurosat-rgb": lambda _: (None,) * 3}  # photographs, which say nothing of their bands
    sources = {name: resolve_files(catalog, name, described.get(name, never)) for name in catalog.entries}
    assert {name: len(source.scenes) for name, source in sources.items()} == {
        "hls": 209, "hls-seasons": 209, "hls-unlabelled": 209, "hls-segmentation": 209, "eurosat-ms": 123,
        "eurosat-ms-coarse": 123, "bigearthnet": 6, "landsat7-olinda": 1, "landsat7-chiapas": 2, "naip": 2,
        "eurosat-rgb": 3000,
    }  # fmt: skip
    assert all(Path(file).is_file() for source in sources.values() for scene in source.scenes for file in scene.files)
    chips = sources["hls-unlabelled"].scenes
    assert sum(scene.attributes["split"] == "train" for scene in chips) == 151
    assert all(scene.mask is not None and scene.stem in scene.mask.path for scene in chips)
    assert [band.name for band in sources["eurosat-ms"].bands][-1] == "B8A"
    assert sources["eurosat-ms-coarse"].scenes[0].bands[-1].index == 13
    assert len({band.path for band in sources["bigearthnet"].scenes[0].bands}) == 12
    assert sources["landsat7-chiapas"].nodata[:2] == (-9999, 16000)


def test_windows_and_where_of_the_real_catalogue(shared_data: Path) -> None:
    catalog = open_catalog(shared_data / "catalog.yaml")
    frame = read_windows(catalog, "hls")
    columns = {str(name): frame[name].to_numpy() for name in frame}
    kept = where_mask(catalog, "hls", columns, len(frame))
    assert len(frame) == 209 * 16
    assert set(frame["label"][kept]) == {"tree", "grass", "crop", "water"}
    assert frame["purity"][kept].min() >= 0.6
    assert kept.sum() == ((frame["purity"] >= 0.6) & frame["label"].isin(["tree", "grass", "crop", "water"])).sum()
