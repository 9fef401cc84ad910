"""From STAC items to scenes: which asset holds a band, what its values mean, and what is wrong with an item."""

import json
import logging
from pathlib import Path
from typing import Any

import pytest
from stac_documents import write_collection, write_lines, write_static, write_table

from geomae.catalog import BandFile, Source, open_catalog, resolve_stac
from geomae.catalog.catalog import StatedGrid
from geomae.errors import CatalogError

S2 = "sensor: sentinel-2-l2a\n"
RED_NIR = f"stac: {{items: i.json}}\n{S2}bands: [red, nir]"


def item(item_id: str = "a", *, assets: dict[str, Any], **more: Any) -> dict[str, Any]:
    properties = {"datetime": "2021-06-07T10:30:00Z", **more.pop("properties", {})}
    return {"type": "Feature", "stac_version": "1.0.0", "id": item_id, "geometry": None, "links": []} | {
        "properties": properties,
        "assets": {key: asset if isinstance(asset, dict) else {"href": asset} for key, asset in assets.items()},
        **more,
    }


def band(name: str, common: str | None = None, **asset: Any) -> dict[str, Any]:
    named = {"name": name} | ({"common_name": common} if common else {})
    return {"href": f"{name}.tif", "eo:bands": [named], **asset}


def scaled(scale: float, offset: float) -> dict[str, Any]:
    return {"B04": band("B04", **{"raster:bands": [{"scale": scale, "offset": offset}]}), "B08": "n.tif"}


def resolve(folder: Path, items: list[dict[str, Any]], entry: str = RED_NIR) -> Source:
    write_collection(folder / "i.json", items)
    text = "".join(f"    {line}\n" for line in entry.splitlines())
    (folder / "c.yaml").write_text(f"version: 1\ndatasets:\n  d:\n{text}")
    return resolve_stac(open_catalog(folder / "c.yaml"), "d", lambda path: ())


def message(folder: Path, items: list[dict[str, Any]], entry: str = RED_NIR) -> str:
    with pytest.raises(CatalogError) as caught:
        resolve(folder, items, entry)
    line = str(caught.value)
    assert "\n" not in line
    return line.removeprefix(f"{folder}/c.yaml:")


def files(source: Source) -> list[list[tuple[str, int]]]:
    return [[(Path(one.path).name, one.index) for one in scene.bands] for scene in source.scenes]


VISUAL = {"href": "tci.tif", "eo:bands": [{"name": "B04"}, {"name": "B03"}, {"name": "B02"}]}


@pytest.mark.parametrize(
    ("assets", "expected"),
    [
        ({"B04": "r.tif", "B08": "n.tif", "B03": "g.tif"}, [("r.tif", 1), ("n.tif", 1)]),
        ({"x": band("B04"), "y": band("B08")}, [("B04.tif", 1), ("B08.tif", 1)]),
        ({"x": band("one", "red"), "y": band("two", "nir")}, [("one.tif", 1), ("two.tif", 1)]),
        ({"red": band("red", "red"), "red-jp2": band("red", "red", href="r.jp2"), "nir": "n.tif"}, None),
        ({"visual": VISUAL, "x": band("B04"), "y": band("B08")}, [("B04.tif", 1), ("B08.tif", 1)]),
        (
            {"preview": VISUAL | {"roles": ["thumbnail"]}, "r": band("B04"), "B08": "n.tif"},
            [("B04.tif", 1), ("n.tif", 1)],
        ),
        (
            {
                "image": {
                    "href": "i.tif",
                    "bands": [{"name": "b1"}, {"eo:common_name": "nir"}, {"eo:common_name": "red"}],
                }
            },
            [("i.tif", 3), ("i.tif", 2)],
        ),
    ],
    ids=["keys", "names", "common names", "two formats", "picture beside", "thumbnail", "several bands"],
)
def test_a_band_is_found_by_the_names_that_items_give_it(tmp_path, assets, expected):
    source = resolve(tmp_path, [item(assets=assets)])
    assert files(source) == [expected or [("red.tif", 1), ("n.tif", 1)]]
    assert [one.name for one in source.bands] == ["B04", "B08"]


def test_the_catalogue_may_name_the_assets(tmp_path):
    image = {"href": "i.tif", "eo:bands": [{"name": "B02"}, {"name": "B08"}]}
    entry = f"stac: {{items: i.json, assets: {{nir: image, B05: rededge1}}}}\n{S2}"
    source = resolve(tmp_path, [item(assets={"image": image, "rededge1": "e.tif", "other": band("B08")})], entry)
    assert files(source) == [[("i.tif", 2), ("e.tif", 1)]]
    assert [one.name for one in source.bands] == ["B08", "B05"]


def test_an_asset_or_a_band_of_another_asset_is_the_mask(tmp_path):
    entry = f"{RED_NIR}\nmask: {{band: scl, invalid_values: [0, 3]}}"
    assets = {"B04": "r.tif", "B08": "n.tif"}
    source = resolve(tmp_path, [item(assets={**assets, "scl": "s.tif"})], entry)
    assert source.scenes[0].mask == BandFile(f"{tmp_path}/s.tif", 1)
    quality = {"href": "q.tif", "bands": [{"name": "x"}, {"name": "scl"}]}
    assert resolve(tmp_path, [item(assets={**assets, "q": quality})], entry).scenes[0].mask.index == 2
    assert "mask.band: 1 is no asset" in message(tmp_path, [item(assets=assets)], entry.replace("scl", "1"))


def test_scenes_have_the_time_and_the_properties_of_their_items(tmp_path):
    assets = {"B04": "r.tif", "B08": "n.tif"}
    properties = {"eo:cloud_cover": 3.5, "instruments": ["msi", "x"], "proj:transform": [1, 2], "clear": True}
    late = {"datetime": None, "start_datetime": "2021-07-01T00:00:00Z"}
    items = [
        item("b", assets=assets, properties=late),
        item("a", assets=assets, properties=properties, collection="s2"),
    ]
    first, second = resolve(tmp_path, items).scenes
    assert (first.id, first.stem, first.time) == ("a", "a", "2021-06-07T10:30:00Z")
    assert (second.id, second.time) == ("b", "2021-07-01T00:00:00Z")
    assert first.attributes["eo:cloud_cover"] == 3.5
    assert first.attributes["instruments"] == "msi, x"
    assert (first.attributes["clear"], first.attributes["collection"]) == (True, "s2")
    assert "proj:transform" not in first.attributes
    assert second.attributes["eo:cloud_cover"] is None
    assert set(first.attributes) == set(second.attributes)


def test_one_id_in_two_collections_is_two_scenes_and_in_one_an_error(tmp_path):
    assets = {"B04": "r.tif", "B08": "n.tif"}
    one, other = (item(assets=assets, collection=name) for name in ("x", "y"))
    assert [scene.id for scene in resolve(tmp_path, [one, other, item("z", assets=assets)]).scenes] == [
        "x/a",
        "y/a",
        "z",
    ]
    said = message(tmp_path, [one, one])
    assert said == (
        "4: datasets.d.stac.items: item 'a' (i.json, feature 2) is there again as item 'a' (i.json, feature 1); "
        "keep one of them"
    )


@pytest.mark.parametrize("version", ["1.0", "1.1", "1.1, for all bands"])
def test_items_say_scale_offset_nodata_and_grid(tmp_path, version):
    asset: dict[str, Any] = {"href": "i.tif", "proj:shape": [20, 30]}
    figures = {"scale": 0.0002, "offset": -0.1, "nodata": 7}
    if version == "1.0":
        asset |= {
            "eo:bands": [{"name": "B04"}, {"name": "B08"}],
            "raster:bands": [figures, figures],
            "proj:epsg": 32633,
        }
    else:
        shared = {"raster:scale": 0.0002, "raster:offset": -0.1, "nodata": 7}
        rows = [{"name": name} | (shared if version == "1.1" else {}) for name in ("B04", "B08")]
        asset |= {"bands": rows, "proj:code": "EPSG:32633"} | (shared if version != "1.1" else {})
    source = resolve(tmp_path, [item(assets={"image": asset})])
    assert (source.scale_C, source.offset_C) == ((0.0002, 0.0002), (-0.1, -0.1))
    assert source.nodata == (0.0, 65535.0, 7.0)
    assert source.scenes[0].stated_grids == (StatedGrid(f"{tmp_path}/i.tif", "EPSG:32633", (20, 30)),)


def test_the_catalogue_wins_over_items_and_items_over_the_sensor_and_both_are_said(tmp_path, caplog):
    caplog.set_level(logging.WARNING)
    items = [item(assets=scaled(0.0001, -0.1))]
    source = resolve(tmp_path, items)
    assert source.offset_C == (-0.1, 0.0)
    (line,) = caplog.messages
    assert "items state is used, and differs from that of sensor sentinel-2-l2a: -0.1 for B04 instead" in line
    caplog.clear()
    source = resolve(tmp_path, items, f"{RED_NIR}\noffset: {{red: 0}}")
    assert source.offset_C == (0.0, 0.0)
    (line,) = caplog.messages
    assert "datasets.d.offset: is used, but the items state another offset: -0.1 for B04 instead of 0" in line
    caplog.clear()
    assert resolve(tmp_path, items, f"{RED_NIR}\nunit: digital_number").offset_C == (0.0, 0.0)
    assert resolve(tmp_path, [item(assets=scaled(0.0001, 0))]).scale_C == (0.0001, 0.0001)
    assert not caplog.messages


def test_items_of_different_scalings_are_no_data_set(tmp_path):
    items = [item("a", assets=scaled(0.0001, 0)), item("b", assets=scaled(0.0001, -0.1))]
    said = message(tmp_path, items)
    assert "datasets.d.stac: the offset of B04 is 0 by item 'a'" in said
    assert "-0.1 by item 'b' (i.json, feature 2); make them two data sets, or state `offset` for all" in said
    assert resolve(tmp_path, items, f"{RED_NIR}\noffset: 0").offset_C == (0.0, 0.0)


@pytest.mark.parametrize(
    ("assets", "entry", "expected"),
    [
        (
            {"B04": "r.tif"},
            RED_NIR,
            "item 'a' (i.json, feature 1): no asset holds band B08; its assets are B04; say which",
        ),
        ({"x": "r.tif"}, f"stac: {{items: i.json, assets: {{B04: y}}}}\n{S2}", "has no asset 'y' for band B04"),
        (
            {"x": VISUAL},
            f"stac: {{items: i.json, assets: {{B08: x}}}}\n{S2}",
            "lists B04, B03, B02, and B08 is none of them",
        ),
        (
            {"x": "r.tif"},
            f"stac: {{items: i.json, assets: {{B08: x, B04: x}}}}\n{S2}",
            "its asset 'x' lists no bands by name, and B08 is none of them",
        ),
        (
            {"x": band("B04"), "y": band("B04"), "B08": "n.tif"},
            RED_NIR,
            "assets x and y hold band B04; say which under `stac.assets`, as in {B04: x}",
        ),
        ({"B04": {"title": "x"}}, RED_NIR, "its asset 'B04' has no `href`; remove the asset"),
        (
            {"B04": band("B04", **{"raster:bands": [{"scale": "big"}]}), "B08": "n"},
            RED_NIR,
            "scale of asset 'B04' is 'big'",
        ),
        ({"B04": "../r.tif", "B08": "n"}, RED_NIR, "item 'a' (i.json, feature 1): "),
        ({"B04": "https://h.org/r.tif", "B08": "n"}, RED_NIR, "add `remote: true` to allow it"),
        ({"B04": "http://h.org/r.tif", "B08": "n"}, f"{RED_NIR}\nremote: true", "is none of s3, gs, https"),
        ({"B04": "https://h.org/r.tif?sig=S", "B08": "n"}, f"{RED_NIR}\nremote: true", "signed links, which expire"),
        ({"B04": "r", "B08": "n"}, f"{RED_NIR}\nmask: {{band: q, invalid_bits: [1]}}", "has no asset and no band 'q'"),
        ({"B04": "r", "B08": "n"}, f"{RED_NIR.replace('i.json', 'j.json')}", "stac.items: no file matches 'j.json'"),
        ({"B04": "r", "B08": "n"}, f"{RED_NIR.replace('i.json', 'https://h/i')}", "geomae catalog init --stac URL"),
        ({"B04": "r"}, f"stac: {{items: i.json, assets: {{B4: r}}}}\n{S2}bands: [B08]", "B04 is not among `bands`"),
        ({"B04": "r"}, f"stac: {{items: i.json}}\n{S2}bands: {{B04: r}}", "say where they lie with `stac.assets`"),
        ({"B04": "r"}, "stac: {items: i.json}", "does not say which sensor"),
        ({"B04": "r"}, f"stac: {{items: i.json, sign: me}}\n{S2}", "stac.sign: must be 'planetary-computer'"),
    ],
)
def test_what_is_wrong_is_said_with_the_item(tmp_path, assets, entry, expected):
    said = message(tmp_path, [item(assets=assets)], entry)
    assert expected in said
    assert "sig=" not in said


def test_links_are_confined_and_never_kept_with_a_signature(tmp_path):
    blob = "https://acc.blob.core.windows.net/box/r.tif"
    entry = f"{RED_NIR.replace('i.json', 'i.json, sign: planetary-computer')}\nremote: true"
    assets = {"B04": f"{blob}?st=1&sig=SECRET", "B08": "s3://bucket/n.tif"}
    source = resolve(tmp_path, [item(assets=assets)], entry)
    assert [one.path for one in source.scenes[0].bands] == [f"planetary-computer+{blob}", "s3://bucket/n.tif"]
    assert source.remote
    below = tmp_path / "below"
    below.mkdir()
    (below / "out.tif").symlink_to(tmp_path.parent / "elsewhere.tif")
    assert "leaves the catalogue's folder" in message(tmp_path, [item(assets={"B04": "below/out.tif", "B08": "n"})])
    here = {"B04": "./below/../r.tif", "B08": f"file://{tmp_path}/n%20.tif"}
    assert files(resolve(tmp_path, [item(assets=here)])) == [[("r.tif", 1), ("n .tif", 1)]]


def test_hrefs_may_be_escaped_as_addresses_are(tmp_path):
    for name in ("r ä.tif", "50%20.tif"):
        (tmp_path / name).write_text("")
    here = {"B04": "./r%20%C3%A4.tif", "B08": "50%20.tif"}  # the second is there as it is written
    assert files(resolve(tmp_path, [item(assets=here)])) == [[("r ä.tif", 1), ("50%20.tif", 1)]]
    gone = {"B04": "%2e%2e/gone%20.tif", "B08": "n.tif"}
    assert files(resolve(tmp_path, [item(assets=gone)])) == [[("gone%20.tif", 1), ("n.tif", 1)]]
    (tmp_path.parent / "out side.tif").touch()
    out = {"B04": "%2e%2e/out%20side.tif", "B08": "n.tif"}
    assert "leaves the catalogue's folder" in message(tmp_path, [item(assets=out)])


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ('{"type": "FeatureCollection", "features": []}', "i.json: holds no items; search again"),
        ('{"type": "Topology"}', "i.json: is none of STAC's kinds, by its `type` 'Topology'"),
        ('{"type": "Feature", "id": 3}', "i.json: the item has no `id`; give it one"),
        ('{"type": "Feature", "id": "a"}', "item 'a' (i.json): has no `assets` and `properties`; it is GeoJSON"),
        ('{"type": "FeatureCollection", "features": [3]}', "i.json, feature 1: is no STAC item"),
        ('{"type"', "i.json: is no JSON (Expecting ':' delimiter"),
        ("[" * 100_000, "i.json: is no JSON ("),
        (
            '{"type": "Catalog", "links": [{"rel": "item", "href": "x.json"}]}',
            "i.json: links to x.json, which is not there",
        ),
        (
            '{"type": "Catalog", "links": [{"rel": "child", "href": "../x.json"}]}',
            "../x.json leaves the catalogue's folder",
        ),
        (
            '{"type": "Catalog", "links": [{"rel": "item", "href": "https://h/x"}]}',
            "links to https://h/x, which is not on",
        ),
        ('{"type": "Catalog", "links": [{"rel": "child", "href": "i.json"}]}', "i.json: holds no items"),
    ],
)
def test_files_that_hold_no_items_are_named(tmp_path, text, expected):
    (tmp_path / "i.json").write_text(text)
    (tmp_path / "c.yaml").write_text(
        "version: 1\ndatasets:\n  d:\n" + "".join(f"    {one}\n" for one in RED_NIR.split("\n"))
    )
    with pytest.raises(CatalogError) as caught:
        resolve_stac(open_catalog(tmp_path / "c.yaml"), "d", lambda path: ())
    assert expected in str(caught.value)
    assert "c.yaml:4: datasets.d.stac.items: " in str(caught.value)


def test_every_kind_of_file_gives_the_same_scenes(tmp_path):
    assets = {key: band(key, **{"raster:bands": [{"nodata": 3}]}) | {"href": f"p/{key}.tif"} for key in ("B04", "B08")}
    items = [
        item(name, assets=assets, properties={"eo:cloud_cover": cloud}) for name, cloud in (("b", 3.5), ("a", 7.0))
    ]
    for one in items:
        one |= {"bbox": [0, 0, 1, 1], "geometry": {"type": "Point", "coordinates": [0, 0]}}
    expected = resolve(tmp_path, items)
    write_lines(tmp_path / "i.ndjson", items)
    write_table(tmp_path / "i.parquet", items)
    write_static(tmp_path, items)
    for number, one in enumerate(items):
        (tmp_path / f"one-{number}.json").write_text(json.dumps(one))
    for name in ("i.ndjson", "i.parquet", "catalog.json", "one-*.json"):
        found = resolve(tmp_path, items, RED_NIR.replace("i.json", f"'{name}'"))
        if name == "catalog.json":  # pystac puts each item into a folder and makes addresses relative to it
            assert [scene.attributes.pop("collection") for scene in found.scenes] == ["scenes", "scenes"]
        assert found == expected


def test_a_table_that_is_none_is_said(tmp_path):
    entry = RED_NIR.replace("i.json", "i.parquet")
    (tmp_path / "i.parquet").write_bytes(b"no table at all")
    assert "stac.items: i.parquet: cannot be read as Parquet (" in message(tmp_path, [], entry)


def test_links_to_items_may_be_escaped_as_addresses_are(tmp_path):
    (tmp_path / "a b").mkdir()
    one = item(assets={"B04": "r.tif", "B08": "n.tif"})
    (tmp_path / "a b" / "one.json").write_text(json.dumps(one))
    links = [{"rel": "item", "href": "a%20b/one.json"}]
    (tmp_path / "catalog.json").write_text(json.dumps({"type": "Catalog", "links": links}))
    source = resolve(tmp_path, [one], RED_NIR.replace("i.json", "catalog.json"))
    assert files(source) == [[("r.tif", 1), ("n.tif", 1)]]
