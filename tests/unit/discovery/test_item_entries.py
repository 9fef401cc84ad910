"""Entries of STAC items that `geomae catalog init` finds in a folder."""

import json
import shutil

import pytest
from stac_documents import item_of, write_collection, write_lines, write_static, write_table

from geomae.catalog import open_catalog, resolve_stac
from geomae.discovery.draft_catalog import infer_catalog
from geomae.errors import CatalogError
from geomae.rasters import describe_bands
from geomae.tiles.sample_landscape import BANDS, landscape


@pytest.fixture
def rasters(tmp_path):
    """Two scenes, which items name."""
    (tmp_path / "mine" / "land").mkdir(parents=True)
    for path in sorted(landscape(size=64, scenes=1).glob("*.tif")):
        shutil.copy(path, tmp_path / "mine" / "land")
    return sorted((tmp_path / "mine" / "land").glob("*.tif"))


def write_each(folder, items):
    """One file per item."""
    for item in items:
        (folder / f"{item['id']}.json").write_text(json.dumps(item))


WAYS = {
    "items.json": (write_collection, "land/"),
    "items.ndjson": (write_lines, "land/"),
    "items.parquet": (write_table, "land/"),
    "*.json": (write_each, "land/"),
    "all/catalog.json": (write_static, "../land/"),
}


@pytest.mark.parametrize("path", WAYS)
def test_items_become_one_data_set_and_their_rasters_no_other(tmp_path, rasters, path):
    write, base = WAYS[path]
    items = [item_of(one, base, version="1.1.0", platform="sentinel-2a") for one in rasters]
    place = tmp_path / "mine" / path
    if path == "*.json":
        write(place.parent, items)
    elif path == "all/catalog.json":
        place.parent.mkdir()
        write(place.parent, items)
    else:
        write(place, items)
    file = tmp_path / "data_catalog.yaml"
    found = infer_catalog(tmp_path / "mine", file)
    assert (len(found.entries), found.left_out, found.problems) == (1, (), ())
    ((name, entry),) = found.entries.items()
    assert (entry.scenes, entry.bands) == (2, tuple(BANDS))
    file.write_text(found.text())
    source = resolve_stac(open_catalog(file), name, describe_bands)
    assert [scene.id for scene in source.scenes] == [one.stem for one in rasters]
    assert f"mine/{path}" in found.text()


def test_items_elsewhere_are_outside(tmp_path, rasters):
    write_collection(tmp_path / "mine" / "items.json", [item_of(one, "land/") for one in rasters])
    (tmp_path / "work").mkdir()
    file = tmp_path / "work" / "data_catalog.yaml"
    file.write_text(infer_catalog(tmp_path / "mine", file).text())
    assert open_catalog(file).entry("items").outside
    assert len(resolve_stac(open_catalog(file), "items", describe_bands).scenes) == 2


def test_json_that_is_not_stac_and_damaged_items_change_nothing(tmp_path, rasters):
    folder = tmp_path / "mine"
    (folder / "settings.json").write_text('{"type": "FeatureCollection", "features": []}')
    (folder / "list.json").write_text('["stac_version"]')
    (folder / "half.json").write_text(json.dumps(item_of(rasters[0], "land/"))[:-40])
    (folder / "away.json").write_text(
        json.dumps({"type": "Catalog", "stac_version": "1.0.0", "links": [{"rel": "item", "href": "../../a.json"}]})
    )
    found = infer_catalog(folder, tmp_path / "data_catalog.yaml")
    assert list(found.entries) == ["land"]
    assert found.entries["land"].scenes == 2


def test_files_of_stac_that_cannot_be_used_are_said(tmp_path, rasters):
    folder = tmp_path / "mine"
    (folder / "half.json").write_text(json.dumps(item_of(rasters[0], "land/"))[:-40])
    links = [{"rel": "item", "href": "gone.json"}]
    (folder / "collection.json").write_text(json.dumps({"type": "Collection", "stac_version": "1.0.0", "links": links}))
    problems = infer_catalog(folder, tmp_path / "data_catalog.yaml").problems
    assert [one.split("; ")[0].split(" (")[0] for one in problems] == [
        "collection.json: links to gone.json, which is not there",
        "half.json: is no JSON",
    ]


def in_folders(folder, rasters, **changed):
    """Each item in a folder of its own, beside its raster; `changed` are further keys of each item by its id."""
    for path in rasters:
        (folder / path.stem).mkdir()
        item = item_of(path, "./") | changed.get(path.stem, {})
        path.rename(folder / path.stem / path.name)
        (folder / path.stem / "item.json").write_text(json.dumps(item))


def test_items_in_a_folder_each_are_one_data_set(tmp_path, rasters):
    in_folders(tmp_path / "mine", rasters)
    file = tmp_path / "data_catalog.yaml"
    found = infer_catalog(tmp_path / "mine", file)
    assert [entry.scenes for entry in found.entries.values()] == [2]
    assert 'items: "mine/*/*.json"' in found.text()
    file.write_text(found.text())
    (name,) = found.entries
    assert len(resolve_stac(open_catalog(file), name, describe_bands).scenes) == 2


@pytest.mark.parametrize("difference", [{"collection": "a"}, {"id": "lowland_0"}, {"assets": {}}])
def test_items_that_do_not_go_together_stay_apart(tmp_path, rasters, difference):
    assert [path.stem for path in rasters] == ["dryland_0", "lowland_0"]
    in_folders(tmp_path / "mine", rasters, dryland_0=difference)
    text = infer_catalog(tmp_path / "mine", tmp_path / "data_catalog.yaml").text()
    assert "mine/lowland_0/*.json" in text and "mine/*/*.json" not in text


def test_a_band_that_some_items_lack_is_said(tmp_path, rasters):
    items = [item_of(one, "land/") for one in rasters]
    del items[0]["assets"]["image"]["eo:bands"][-1]
    write_collection(tmp_path / "mine" / "items.json", items)
    text = infer_catalog(tmp_path / "mine", tmp_path / "data_catalog.yaml").text()
    assert f"check: of 2 items, others are only in some, and are left out: {BANDS[-1]} in 1" in text


def test_items_without_bands_are_told(tmp_path, rasters):
    item = item_of(rasters[0], "land/")
    item["assets"] = {"thumbnail": {"href": "land/small.png", "roles": ["thumbnail"]}}
    for path in rasters:
        path.unlink()
    write_collection(tmp_path / "mine" / "items.json", [item])
    with pytest.raises(CatalogError, match="none of its 1 rasters can be read; first: item 'dryland_0'"):
        infer_catalog(tmp_path / "mine", tmp_path / "data_catalog.yaml")


def test_items_that_share_no_band_are_told(tmp_path, rasters):
    items = [item_of(one, "land/") for one in rasters]
    for item, kept in zip(items, (slice(0, 4), slice(4, None)), strict=True):
        item["assets"]["image"]["eo:bands"] = item["assets"]["image"]["eo:bands"][kept]
        item["assets"]["image"]["raster:bands"] = item["assets"]["image"]["raster:bands"][kept]
    write_collection(tmp_path / "mine" / "items.json", items)
    with pytest.raises(CatalogError, match=r"no band of .* is in all of its 2 items; write the entry by hand"):
        infer_catalog(tmp_path / "mine", tmp_path / "data_catalog.yaml")
