"""Label rasters and tables that lie beside the scenes, as `catalog init` proposes them."""

import numpy as np
import pytest

from geomae.catalog import open_catalog
from geomae.discovery.draft_catalog import infer_catalog
from geomae.rasters import write_cog
from geomae.tiles.index import build_index

PLACE = {"crs": "EPSG:32632", "transform": (10.0, 0.0, 4e5, 0.0, -10.0, 5e6)}
TABLE = "chip,split,group_id,site_id,season,cover\na,train,1,7,green,0.5\nb,train,1,8,brown,0.25\nc,test,2,7,,1.0\n"


@pytest.fixture
def folder(tmp_path):
    """Three scenes of four bands."""
    rng = np.random.default_rng(0)
    for name in "abc":
        write_cog(tmp_path / "images" / f"{name}.tif", rng.integers(1, 3000, (4, 32, 32)).astype(np.uint16), **PLACE)
    return tmp_path


def write_codes(folder, codes):
    for name, code in zip("abc", codes, strict=True):
        values_HW = np.full((32, 32), code, np.uint8)
        values_HW[:8] = codes[0]
        write_cog(folder / "labels" / f"{name}.tif", values_HW[None], **PLACE)


def text_of(folder):
    (entry,) = (infer := infer_catalog(folder, folder / "data_catalog.yaml")).entries.values()
    (folder / "data_catalog.yaml").write_text(infer.text(), encoding="utf-8")
    return [line.strip() for line in entry.lines]


def test_codes_of_worldcover_become_labels_by_name(folder):
    write_codes(folder, (10, 40, 80))
    lines = text_of(folder)
    (label,) = [line for line in lines if line.startswith("label:")]
    assert label.startswith('label: {raster: "labels/{stem}.tif", classes: {10: tree, 40: crop, 80: water}}')
    assert "check: the codes found in 3 files are those of ESA WorldCover" in label
    index = build_index(open_catalog(folder / "data_catalog.yaml"), next(iter(infer_names(folder))))
    assert set(index.tiles["label"]) == {"tree", "crop", "water"}


def infer_names(folder):
    return open_catalog(folder / "data_catalog.yaml").entries


@pytest.mark.parametrize("codes", [(1, 2, 7), (10, 40, 41), (10, 10, 40)])
def test_other_codes_are_numbers_in_a_comment(folder, codes):
    """Two codes of a palette may be anything."""
    write_codes(folder, codes)
    lines = text_of(folder)
    assert not any(line.startswith("label:") for line in lines)
    found = sorted(set(codes))
    assert any(f"3 files hold the values {', '.join(map(str, found))}; " in line for line in lines)
    classes = ", ".join(f'{code}: "{code}"' for code in found)
    assert f'# label: {{raster: "labels/{{stem}}.tif", classes: {{{classes}}}}}' in lines


def test_a_table_gives_attributes_split_and_groups(folder):
    (folder / "chips.csv").write_text(TABLE)
    lines = text_of(folder)
    assert "table: {path: chips.csv, key: chip}  # check: 3 of 3 scenes are in it" in lines
    assert "split: {column: split}  # check: assumed to hold the splits: test, train" in lines
    first = next(at for at, line in enumerate(lines) if line.startswith("# `group` names tiles that are not indep"))
    assert "decides splits by group, folds and intervals" in lines[first]
    assert lines[first + 1 : first + 3] == [
        "# group: {column: group_id} # 2 values, each in one split",
        "# group: {column: site_id} # 2 values, 1 of them in several splits",
    ]
    assert not any("all tiles are for training" in line or line.startswith("label:") for line in lines)
    index = build_index(open_catalog(folder / "data_catalog.yaml"), next(iter(infer_names(folder))))
    assert sorted(index.tiles["split"]) == ["test", "train", "train"]


def test_groups_are_counted_without_splits_too(folder):
    (folder / "chips.csv").write_text("chip,plot,site\na,1,7\nb,1,8\nc,2,7\n")
    lines = text_of(folder)
    for line in ("# group: {column: plot} # 2 values", "# group: {column: site} # 2 values"):
        assert line in lines
    assert lines.index("# group: {column: plot} # 2 values") < lines.index("# group: {column: site} # 2 values")


@pytest.mark.parametrize(
    ("crs", "sites", "proposed"),
    [
        (None, (7, 8, 7), True),
        (None, (7, 8, 9), False),  # no two scenes of one site
        (None, (7, 7, 7), False),  # a region
        (PLACE["crs"], (7, 8, 7), False),  # footprints tell
    ],
)
def test_places_are_proposed_where_scenes_share_a_site_and_footprints_are_unknown(tmp_path, crs, sites, proposed):
    place = PLACE if crs else {"crs": None, "transform": None}
    for name in "abc":
        write_cog(tmp_path / "images" / f"{name}.tif", np.ones((4, 32, 32), np.uint16), **place)
    rows = [f"{name},{site},1" for name, site in zip("abc", sites, strict=True)] + ["elsewhere,9,1"]
    (tmp_path / "chips.csv").write_text("\n".join(["chip,site_id,group_id", *rows]))
    lines = [line for line in text_of(tmp_path) if "places:" in line]
    text = "# 2 of 3 scenes share their site_id with another; if such scenes show the same ground, pixel by pixel: "
    assert lines == [f"{text}places: {{column: site_id}}"] * proposed


def test_a_column_called_label_becomes_labels_of_files_by_their_paths(folder):
    (folder / "labels.csv").write_text("file,label\nimages/a.tif,tree\nimages/b.tif,water\nimages/c.tif,tree\n")
    lines = text_of(folder)
    assert "table: {path: labels.csv, key: file}  # check: 3 of 3 scenes are in it" in lines
    assert "label: {column: label}  # check: assumed to hold the labels: tree, water" in lines


def test_windows_are_proposed_with_the_side_that_fits(folder):
    splits = {"a": "train", "b": "train", "c": "test"}
    rows = [
        f"{name},{row},{col},{'tree' if col else 'water'},{splits[name]}"
        for name in "abc" for row in (0, 16) for col in (0, 16)
    ]  # fmt: skip
    (folder / "windows.csv").write_text("\n".join(["scene,row,col,label,split", *rows]))
    write_codes(folder, (10, 40, 80))  # other labels
    assert not any("windows" in line for line in text_of(folder))
    draft = folder / "data_catalog.yaml"
    what = "  # windows.csv lists 12 windows in 3 scenes; as a data set of their own:\n"
    before, after = draft.read_text().split(what)
    keys = after.splitlines()
    assert keys[-3:] == [
        "  #   windows: {table: windows.csv, key: scene, row: row, col: col, size: 16}",
        "  #   label: {column: label}  # 12 labels: tree, water",
        "  #   split: {column: split}  # splits: test, train",
    ]
    draft.write_text(before + "\n".join(line.replace("# ", "", 1) for line in keys) + "\n")  # without the signs
    names = list(infer_names(folder))
    assert len(names) == 2 and names[1] == f"{names[0]}_windows"
    whole, windows = (build_index(open_catalog(draft), name) for name in names)
    assert whole.source.bands == windows.source.bands
    assert windows.tiles["label"].value_counts().to_dict() == {"tree": 6, "water": 6}


@pytest.mark.parametrize("text", ["a,b\n1,2\n", "chip,split\nx,train\ny,test\n", "\x00\x01", ""])
def test_tables_of_other_things_are_left_alone(folder, text):
    before = text_of(folder)
    (folder / "other.csv").write_text(text)
    assert text_of(folder) == before
