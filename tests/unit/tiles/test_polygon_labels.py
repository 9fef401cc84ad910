"""`label.vector`: labels of tiles and pixels from polygons, their columns as groups and splits, and what is refused."""

import json
from types import SimpleNamespace

import numpy as np
import pytest
import shapely
from rasterio import Affine, features

from geomae.catalog import open_catalog, parse_selector
from geomae.errors import CatalogError
from geomae.evaluation.pixel_labels import read_pixel_rows
from geomae.evaluation.probe_task import ProbeSettings, label_selection, read_probe_task
from geomae.rasters import Window, write_cog
from geomae.tiles.census import take_census, warnings
from geomae.tiles.index import build_index
from geomae.tiles.pixel_census import PixelCount, count_pixels
from geomae.tiles.reader import TileReader
from geomae.tiles.selection import select_tiles
from tests.helpers import write_catalog

CODES = np.kron(np.random.default_rng(3).integers(1, 4, (8, 8)), np.ones((8, 8))).astype(np.uint8)
CRS = {"type": "name", "properties": {"name": "urn:ogc:def:crs:EPSG::32632"}}
NORTH = Affine(10, 0, 5e5, 0, -10, 5e6)
AFFINES = {
    "north": NORTH,
    "south-up": Affine(10, 0, 5e5, 0, 10, 5e6),
    "rotated": Affine.translation(5e5, 5e6) @ Affine.rotation(20) @ Affine.scale(10, -10),
}


def write_image(folder, affine=NORTH, size=64, crs="EPSG:32632"):
    pixels = np.random.default_rng(0).integers(100, 3000, (4, size, size)).astype(np.uint16)
    write_cog(folder / "scenes/a.tif", pixels, crs=crs, transform=tuple(affine)[:6])


def write_polygons(folder, shapes, crs=CRS, **columns):
    rows = [dict(zip(columns, values, strict=True)) for values in zip(*columns.values(), strict=True)]
    listed = [
        {"type": "Feature", "properties": row, "geometry": shape and json.loads(shapely.to_geojson(shape))}
        for shape, row in zip(shapes, rows, strict=True)
    ]
    held = {"type": "FeatureCollection", "features": listed} | ({"crs": crs} if crs else {})
    (folder / "fields.geojson").write_text(json.dumps(held), encoding="utf-8")


def catalog_of(folder, *keys, tile=16):
    lines = [
        "path: scenes/*.tif", "sensor: naip", "bands: [red, green, blue, nir]", "unit: reflectance", "scale: 0.0001",
        "offset: 0", f"tile: {{size: {tile}}}", *keys,
    ]  # fmt: skip
    return open_catalog(write_catalog(folder, "version: 1\ndatasets:\n  d:\n    " + "\n    ".join(lines) + "\n"))


def label(**more):
    keys = {"path": "fields.geojson", "column": "kind"} | more
    return f"label: {{vector: {json.dumps(keys)}}}"


def square(row, col, height, width):
    """Pixels of the northern grid as a polygon."""
    return shapely.box(5e5 + 10 * col, 5e6 - 10 * (row + height), 5e5 + 10 * (col + width), 5e6 - 10 * row)


QUARTERS = [square(0, 0, 32, 32), square(0, 32, 32, 32), square(32, 0, 32, 32), square(32, 32, 32, 32)]


@pytest.mark.parametrize("gsd", [10, 20])
@pytest.mark.parametrize("kind", AFFINES)
def test_a_label_raster_and_the_polygons_it_was_made_from_give_the_same_labels(tmp_path, kind, gsd):
    affine = AFFINES[kind]
    write_image(tmp_path, affine)
    write_cog(tmp_path / "labels.tif", CODES[None], crs="EPSG:32632", transform=tuple(affine)[:6])
    found = list(features.shapes(CODES.astype(np.int16), transform=affine))
    write_polygons(tmp_path, [shapely.geometry.shape(one) for one, _ in found], kind=[int(code) for _, code in found])
    classes = "{1: crop, 2: tree, 3: crop}"
    both = []
    for source in ("raster: labels.tif", "vector: {path: fields.geojson, column: kind}"):
        index = build_index(catalog_of(tmp_path, f"gsd_m: {gsd}", f"label: {{{source}, classes: {classes}}}"), "d")
        whole = index.labels.read(0, Window(0, 0, 640 // gsd, 640 // gsd)).code_HW
        both.append((index.labels.names, index.tiles["label"].tolist(), whole.tolist()))
        assert not index.remarks
    assert both[0] == both[1]
    assert set(both[0][1]) >= {"crop"}


def test_a_tile_has_the_label_that_covers_enough_of_it_and_the_values_of_its_polygon(tmp_path):
    write_image(tmp_path)
    shapes = [square(0, 0, 16, 9), square(0, 9, 16, 4), square(0, 20, 16, 6), square(0, 48, 16, 16), None]
    write_polygons(
        tmp_path, shapes, kind=["crop", "crop", "tree", "tree", "crop"], field=["a", "b", "c", "d", "e"],
        year=[1, 2, 3, None, 5], part=["train", "train", "test", "test", "test"],
    )  # fmt: skip
    keys = ("group: {column: field, folds: year}", "split: {column: part}", "domain: {column: part}")
    index = build_index(catalog_of(tmp_path, label(), *keys), "d")
    tiles = index.tiles.iloc[:4]
    assert tiles["label"].tolist() == ["crop", None, None, "tree"]  # 13 of 16 columns, by two polygons; 6; none; all
    assert tiles["group"].tolist() == ["a", "c", None, "d"]
    assert tiles["fold"].tolist() == tiles["place"].tolist() == ["1", "3", None, None]
    assert tiles["split"].tolist() == ["train", "test", "none", "test"]
    assert tiles["domain"].tolist() == ["train", "test", "unspecified", "test"]
    assert set(index.tiles["split"][4:]) == {"none"}
    assert len(index.select(parse_selector("d@none"))) == 13
    assert "1 of 5 polygons of fields.geojson have no geometry" in index.remarks
    low = build_index(catalog_of(tmp_path, label()[:-1] + ", min_purity: 0.3}"), "d")
    assert low.tiles["label"].tolist()[:4] == ["crop", "tree", None, "tree"]
    numbered = build_index(catalog_of(tmp_path, label(), "group: {column: polygon}"), "d")
    assert numbered.tiles["group"].tolist()[:4] == ["1", "3", None, "4"]


def test_groups_of_polygons_are_dealt_whole(tmp_path):
    write_image(tmp_path)
    shapes = [square(8 * row, 8 * col, 8, 8) for row in range(8) for col in range(8)]
    numbers = np.arange(64)
    write_polygons(tmp_path, shapes, kind=[f"k{n % 3}" for n in numbers], field=[f"f{n // 5}" for n in numbers])
    keys = (label()[:-1] + ", min_purity: 0.1}", "group: {column: field}", "split: {group: {train: 0.6, test: 0.4}}")
    catalog = catalog_of(tmp_path, *keys)
    index = build_index(catalog, "d")
    assert set(index.tiles["split"]) == {"train", "test"}
    assert index.tiles.groupby("group")["split"].nunique().max() == 1
    train, test = select_tiles(catalog, ["d@train", "d@test"])
    sides = [read_pixel_rows(one, "--train") for one in (train, test)]
    groups = [set(one.index.tiles["group"]) for one in sides]
    assert groups[0] and groups[1] and not groups[0] & groups[1]
    for one, side in zip(sides, ("train", "test"), strict=True):
        assert set(one.index.tiles["split"]) == {side}
        field_of = dict(zip(index.by_polygon["group"], index.by_polygon["split"], strict=True))
        assert all(field_of[group] == side for group in one.index.tiles["group"])
        # A row knows the pixels of its own group alone.
        for row, codes_HW in enumerate(one.code_PHW):
            tile = one.index.tiles.iloc[row]
            polygon_HW = index.labels.read(tile["scene"], Window(tile["row"], tile["col"], 16, 16)).polygon_HW
            assert set(index.by_polygon["group"][polygon_HW[codes_HW >= 0]]) == {tile["group"]}
    rows = label_selection(test, "segmentation", "--test")
    assert rows.size.startswith(f"{len(rows)} labelled parts of ")


def test_labelled_pixels_are_counted_as_a_probe_takes_them(tmp_path):
    write_image(tmp_path)
    shapes = [square(0, 0, 5, 5), square(0, 8, 3, 3), square(0, 14, 4, 4), square(32, 0, 2, 2), square(60, 60, 2, 2)]
    write_polygons(
        tmp_path, shapes, kind=["crop", "tree", "crop", "tree", "other"], field=["a", "b", "c", "d", "e"],
        part=["train", "test", "test", "test", "train"],
    )  # fmt: skip
    keys = (label()[:-1] + ", classes: {crop: c, tree: t}}", "group: {column: field}", "split: {column: part}")
    index = build_index(catalog_of(tmp_path, *keys), "d")
    found = count_pixels(index)
    # The first tile is of `train`: what is of `test` in it is in neither split. The second holds 2 x 4 pixels of c.
    assert found.classes == {
        "c": {"all": PixelCount(25 + 8 + 8, 2), "train": PixelCount(25, 1), "test": PixelCount(8, 1)},
        "t": {"all": PixelCount(9 + 4, 2), "test": PixelCount(4, 1)},
    }
    assert found.total == {"all": PixelCount(54, 4), "train": PixelCount(25, 1), "test": PixelCount(12, 2)}
    assert found.all_pixels == 64**2
    train = count_pixels(index.select(parse_selector("d@train")))
    assert (train.total["all"].pixels, train.all_pixels) == (25 + 9 + 8, 2 * 16**2)
    assert len(warnings(take_census(index), 2, 5)) == 1  # no tile has a label: pixels are judged
    split, few = warnings(take_census(index), 3, 5)
    assert split.startswith("t (test): the class occurs in one split only")
    assert few.startswith("an interval needs 3 groups, and is omitted for fewer (test 2)")


def test_overlaps_repairs_and_what_labels_nothing_are_counted(tmp_path):
    write_image(tmp_path)
    bow = shapely.Polygon([(500_300, 4_999_703), (500_400, 4_999_803), (500_400, 4_999_703), (500_300, 4_999_803)])
    shapes = [QUARTERS[0], square(0, 0, 16, 16), bow, QUARTERS[3]]
    write_polygons(tmp_path, shapes, kind=["crop", "tree", "tree", None])
    index = build_index(catalog_of(tmp_path, label()), "d")
    assert index.tiles["label"].tolist()[:2] == ["tree", "crop"]
    assert list(index.remarks) == [
        "1 of 4 polygons of fields.geojson have no 'kind' and label no pixel",
        "1 of 4 polygons of fields.geojson were invalid (such as self-crossing rings) and have been repaired",
        "polygons of different classes overlap on 272 pixels of 2 tiles; the smallest polygon counts there",
    ]


def test_numbers_of_polygons_are_for_regression(tmp_path):
    write_image(tmp_path)
    shapes = [square(row, 16 * col, 1, 1) for row in range(64) for col in range(4)] + QUARTERS
    write_polygons(tmp_path, shapes, kind=[float(n) for n in range(256)] + [0.25, 1.5, 300.0, 0.25])
    catalog = catalog_of(tmp_path, label())
    (selected,) = select_tiles(catalog, ["d"])
    values = label_selection(selected, "regression", "--train").label_T
    assert sorted(set(values.tolist())) == [0.25, 1.5, 300.0]
    for task in ("classification", "segmentation"):
        with pytest.raises(
            CatalogError, match=r"--train d: its polygons hold 259 different values, more than 256 class"
        ):
            label_selection(selected, task, "--train")


TWO = {"kind": ["crop", "tree"], "field": ["a", "b"]}
TEXTS = [f"t{n}" for n in range(257)]
KEY = r"data_catalog\.yaml:\d+: datasets\.d\.label"


@pytest.mark.parametrize(
    ("shapes", "columns", "keys", "message"),
    [
        (QUARTERS[:2], TWO, [label(column="knd")], r"\.vector\.column: fields.geojson has no column 'knd'.*'kind'"),
        (QUARTERS[:2], TWO, [label(layer="x")], KEY + r"\.vector\.layer: .*fields\.geojson: .*'x'"),
        (QUARTERS[:2], TWO, [label(path="feilds.geojson")],
         KEY + r"\.vector\.path: there is no file 'feilds.geojson'; .*; did you mean 'fields.geojson'"),
        (QUARTERS[:2], {"kind": ["crop", "crop"], "id": [1, 2]}, [label()],
         KEY + r"\.vector\.column: the column 'kind' holds the one value 'crop'.*choose another column \(id\)"),
        (QUARTERS[:2], {"kind": ["", None]}, [label()], "holds no value, but two classes are needed"),
        ([shapely.Point(5e5, 5e6)], {"kind": ["crop"]}, [label()], "1 points where polygons are needed; .*`windows: "),
        ([square(-900, 0, 9, 9)] * 2, TWO, [label()],
         r"no polygon overlaps a scene: fields.geojson lies at x 500000 to 500090, .*EPSG:32632\), the scenes at x 5"),
        (QUARTERS[:1] * 257, {"kind": TEXTS}, [label()], "holds 257 different texts, more than 256 classes"),
        (QUARTERS[:2], TWO, [label()[:-1] + ", classes: {maize: crop}}"],
         KEY + r"\.classes: the column 'kind' holds crop, tree, and none of these values; correct them"),
        (QUARTERS[:2], TWO, [label(), "group: {column: feld}"], r"group\.column: there is no column 'feld'.*'field'"),
        (QUARTERS[:2], {"kind": ["a", "b"], "part": ["train", None]}, [label(), "split: {column: part}"],
         r"split\.column: some polygons in tiles have no split; fill the column"),
        (QUARTERS[:2], TWO, [label(), "group: {column: field}",
                             "split: {group: {a: 0.4, b: 0.3, c: 0.3}}"], "there are 2 groups for 3 splits"),
        (QUARTERS[:2], TWO, ["label: {raster: l.tif, classes: {tree: tree}}"],
         r"\.label: a raster holds whole numbers; write one before each name"),
    ],
)  # fmt: skip
def test_polygons_that_cannot_label_are_refused_in_one_line(tmp_path, shapes, columns, keys, message):
    write_image(tmp_path)
    write_polygons(tmp_path, shapes, **columns)
    with pytest.raises(CatalogError, match=message) as caught:
        build_index(catalog_of(tmp_path, *keys), "d")
    assert "\n" not in str(caught.value)


def test_a_vector_elsewhere_is_told_in_both_crs(tmp_path):
    write_image(tmp_path)
    write_polygons(tmp_path, [shapely.box(100, 10, 101, 11), shapely.box(101, 10, 102, 11)], crs=None, kind=["a", "b"])
    told = r"lies at x 100 to 102, y 10 to 11 \(.*\), or x .* in the CRS of the scenes; the scenes at x 50.*, or x 9 to"
    with pytest.raises(CatalogError, match=told):
        build_index(catalog_of(tmp_path, label()), "d")


def test_scenes_without_a_crs_have_no_place_for_polygons(tmp_path):
    write_image(tmp_path, crs=None)
    write_polygons(tmp_path, QUARTERS[:2], **TWO)
    with pytest.raises(CatalogError, match="no scene has a CRS"):
        build_index(catalog_of(tmp_path, label()), "d")


def test_a_column_of_table_and_polygons_is_ambiguous(tmp_path):
    write_image(tmp_path)
    write_polygons(tmp_path, QUARTERS[:2], **TWO)
    (tmp_path / "t.csv").write_text("scene,field\na,x\n")
    with pytest.raises(CatalogError, match=r"group\.column: both a table and the polygons have a column 'field'"):
        build_index(catalog_of(tmp_path, label(), "table: {path: t.csv, key: scene}", "group: {column: field}"), "d")


def test_classes_that_the_column_lacks_and_tiles_too_large_are_said(tmp_path):
    write_image(tmp_path)
    write_polygons(tmp_path, [square(0, 0, 4, 4), square(8, 8, 4, 4)], kind=["crop", "tree"])
    index = build_index(catalog_of(tmp_path, label()[:-1] + ", classes: {crop: c, tree: t, maize: m}}"), "d")
    assert list(index.remarks) == [
        "`label.classes` lists 'maize', which the column 'kind' does not hold (crop, tree)",
        "no tile has a label, though pixels have (`--task segmentation`): the largest share of a tile's pixels that a "
        "class has is 6%, and `min_purity` is 0.5; for labels of tiles lower it, or make tiles smaller",
    ]


def test_no_column_of_polygons_reaches_a_probe_but_the_label_of_its_training(tmp_path):
    """What a probe predicts stays, to the bit, under noise in each column and label that it has no business with."""
    rng = np.random.default_rng(5)
    shapes = [square(8 * row, 8 * col, 8, 8) for row in range(8) for col in range(8)]
    side = ["train" if n % 16 < 8 else "test" for n in range(64)]
    kind = [("crop", "tree")[n % 2] for n in range(64)]

    def predicted(name, kind, yield_t):
        folder = tmp_path / name
        write_image(folder)
        write_polygons(folder, shapes, kind=kind, part=side, yield_t=yield_t, field=[f"f{n}" for n in range(64)])
        keys = (label()[:-1] + ", min_purity: 0.4}", "split: {column: part}", "group: {column: field}")
        chosen = select_tiles(catalog_of(folder, *keys, tile=8), ["d@train", "d@test"])
        read = {one.name: TileReader(one.index).many(range(len(one.index))) for one in chosen}
        embeddings = SimpleNamespace(of=lambda one: read[one.name][0].mean((2, 3))[:, :2])
        task = read_probe_task(ProbeSettings(C=1.0, shots=()), chosen)
        statistics = [(one.imagery, one.digest()) for one in chosen]
        values = {key: [codes.tolist() for codes in draws] for key, draws in task.predict(embeddings).predicted.items()}
        return [part.tolist() for pair in read.values() for part in pair], statistics, values

    true = predicted("true", kind, [1.0] * 64)
    other = [
        one if part == "train" else str(rng.choice(["crop", "tree"])) for one, part in zip(kind, side, strict=True)
    ]
    assert other != kind
    assert predicted("noise", other, rng.normal(size=64).tolist()) == true
    swapped = [{"crop": "tree", "tree": "crop"}[one] for one in kind]
    learned = predicted("swapped", swapped, [1.0] * 64)
    assert learned[:2] == true[:2]
    assert learned[2] != true[2]


def test_two_fields_of_one_tile_stand_in_two_folds(tmp_path):
    """Cross-fitted per pixel, each field is tested by a probe that saw none of its pixels, though it saw its tile."""
    write_image(tmp_path)
    shapes = [square(8 * row, 8 * col, 8, 8) for row in range(8) for col in range(8)]
    write_polygons(tmp_path, shapes, kind=[("crop", "tree")[n % 2] for n in range(64)])
    (selected,) = select_tiles(catalog_of(tmp_path, label(), "group: {column: polygon}"), ["d"])
    task = read_probe_task(ProbeSettings("segmentation", C=1.0, cross_fit=2), [selected, selected])
    train, (test,) = task.train, task.tests
    assert (train.size, len(set(test.unit_T))) == ("64 labelled parts of 16 tiles", 64)
    known = test.pixels_THW >= 0
    assert (known.reshape(64, -1).sum(1) == 64).all()  # a part is one field
    for plan in task.plans:
        (tested,) = plan.tests.values()
        learned = {train.unit_T[place] for place in plan.train}
        assert len(tested) == 32
        assert not learned & {test.unit_T[place] for place in tested}
        tiles = [set(test.index.tiles["tile_id"].iloc[places]) for places in (plan.train, tested)]
        assert tiles[0] & tiles[1]
