"""Tiles around points: where they lie, what is left out and why, and points that contradict each other."""

from types import SimpleNamespace

import geopandas as gpd
import numpy as np
import pandas as pd
import pyproj
import pytest
import shapely
from helpers import CATALOG, SMALL, survey_columns, write_catalog

from geomae.catalog import open_catalog, parse_selector
from geomae.config import PretrainConfig, load_config
from geomae.errors import CatalogError
from geomae.evaluation.probe_task import ProbeSettings, read_probe_task
from geomae.rasters import read, write_cog
from geomae.tiles.index import build_index
from geomae.tiles.points import EDGE, FILTERED, INVALID, NOWHERE, OUTSIDE, TIMELESS, point_days
from geomae.tiles.reader import TileReader
from geomae.tiles.selection import select_tiles
from geomae.tiles.statistics import survey
from geomae.training.data import assemble

UTM = (5.0, 0.0, 400_000.0, 0.0, -5.0, 5_000_000.0)
TILES = "    tile: {size: 16}\n"
HALF = 0.5 + 1e-6  # pixels


def catalog_of(folder, points="points.gpkg", size=8, more="", **keys):
    """The catalogue of scenes with tiles of `size` around the points; `keys` stand beside the size."""
    inner = "".join(f", {key}: {value}" for key, value in keys.items())
    entry = f"    windows: {{points: {points}, size: {size}{inner}}}\n{more}"
    return open_catalog(write_catalog(folder, CATALOG.replace(TILES, entry)))


def scene(folder, name="s0", transform=UTM, crs="EPSG:32632", side=64, hole=None, seed=0):
    """One scene of noise; `hole` (rows, columns) is nodata."""
    pixels = np.random.default_rng(seed).integers(500, 4000, (4, side, side)).astype(np.uint16)
    if hole is not None:
        pixels[(slice(None), *hole)] = 0
    write_cog(folder / f"scenes/{name}.tif", pixels, crs=crs, transform=transform, nodata=0)


def survey_points(folder, xy, crs="EPSG:32632", name="points.gpkg", **columns):
    """A file of points."""
    gpd.GeoDataFrame(columns, geometry=shapely.points(np.asarray(xy, float)), crs=crs).to_file(folder / name)


def at(rows, cols, transform=UTM):
    """The places of pixels (their share counts) in the CRS of a scene."""
    a, b, c, d, e, f = transform
    rows, cols = np.asarray(rows, float), np.asarray(cols, float)
    return np.stack([a * cols + b * rows + c, d * cols + e * rows + f], axis=1)


def pixel_of(transform, x, y):
    """Column and row of a place."""
    a, b, c, d, e, f = transform
    return np.linalg.solve([[a, b], [d, e]], np.stack([np.asarray(x) - c, np.asarray(y) - f]))


TURNED = (4.0, 3.0, 400_000.0, 3.0, -4.0, 5_000_000.0)
SOUTH_UP = (5.0, 0.0, 400_000.0, 0.0, 5.0, 4_999_700.0)
DEGREES = (0.0001, 0.0, 10.0, 0.0, -0.0001, 45.0)
BEYOND = (0.0001, 0.0, 359.998, 0.0, -0.0001, 45.0)  # from 359.998 to 360.0044


@pytest.mark.parametrize("size", [8, 9])
@pytest.mark.parametrize(
    ("transform", "crs", "points_crs"),
    [
        (UTM, "EPSG:32632", "EPSG:32633"),
        (UTM, "EPSG:32632", "OGC:CRS84"),
        (TURNED, "EPSG:32632", "EPSG:32633"),
        (SOUTH_UP, "EPSG:32632", "EPSG:4326"),
        (DEGREES, "EPSG:4326", "EPSG:32632"),
        (BEYOND, "EPSG:4326", "EPSG:4326"),
    ],
)
def test_a_tile_lies_within_half_a_pixel_of_its_point(tmp_path, size, transform, crs, points_crs):
    scene(tmp_path, transform=transform, crs=crs)
    rng = np.random.default_rng(1)
    own = at(rng.uniform(8, 56, 20), rng.uniform(8, 56, 20), transform)
    xy = np.stack(pyproj.Transformer.from_crs(crs, points_crs, always_xy=True).transform(*own.T), axis=1)
    if transform == BEYOND:  # the same meridian, as most files have it
        xy[:, 0] = np.mod(xy[:, 0] + 180, 360) - 180
    survey_points(tmp_path, xy, points_crs, number=range(20))
    index = build_index(catalog_of(tmp_path, size=size), "tiny")
    assert index.attributes["number"].tolist() == list(range(20))
    back = pyproj.Transformer.from_crs(points_crs, crs, always_xy=True).transform(*xy.T)
    east = np.where(np.asarray(back[0]) < 0, np.asarray(back[0]) + 360, back[0]) if transform == BEYOND else back[0]
    east = np.where(east < 1, east + 360, east) if transform == BEYOND else east
    meant = pixel_of(transform, east, back[1])
    placed = pixel_of(transform, index.tiles["x"], index.tiles["y"])
    assert np.abs(meant - placed).max() <= HALF


def test_longitudes_of_0_to_360_are_those_of_minus_180_to_180(tmp_path):
    west = (0.0001, 0.0, -70.0, 0.0, -0.0001, 45.0)
    scene(tmp_path, transform=west, crs="EPSG:4326")
    (tmp_path / "points.csv").write_text("x,y,crs\n290.0032,44.9968,EPSG:4326\n", encoding="utf-8")
    index = build_index(catalog_of(tmp_path, "points.csv"), "tiny")
    assert index.tiles[["row", "col"]].to_numpy().tolist() == [[28, 28]]


def test_what_is_left_out_is_counted_by_reason(tmp_path):
    scene(tmp_path, hole=(slice(40, 48), slice(40, 48)))
    rows, cols = [20, 2, 44.5, 500, 20, 30], [20, 20, 44.5, 20, 30, 30]
    places = at(rows, cols)
    shapes = [*shapely.points(places), None, shapely.MultiPoint(at([12, 50], [50, 12]))]
    frame = gpd.GeoDataFrame({"kept": [1, 1, 1, 1, 1, 0, 1, 1]}, geometry=shapes, crs="EPSG:32632")
    frame.to_parquet(tmp_path / "points.parquet")
    index = build_index(catalog_of(tmp_path, "points.parquet", where="kept == 1"), "tiny")
    assert index.left_out == {NOWHERE: 1, OUTSIDE: 1, FILTERED: 1, EDGE: 1, INVALID: 1}
    assert index.tiles["tile_id"].tolist() == ["s0:16:16", "s0:16:26", "s0:8:46", "s0:46:8"]


def test_points_of_one_pixel_have_names_of_their_own_which_a_filter_does_not_change(tmp_path):
    scene(tmp_path)
    survey_points(tmp_path, at([20.2, 20.3, 30, 20.4], [20.2, 20.3, 30, 20.4]), n=[1, 2, 3, 4])
    ids = build_index(catalog_of(tmp_path), "tiny").tiles["tile_id"].tolist()
    assert ids == ["s0:16:16", "s0:16:16:2", "s0:26:26", "s0:16:16:3"]
    assert build_index(catalog_of(tmp_path, where="n > 1"), "tiny").tiles["tile_id"].tolist() == ids[1:]


def test_a_point_is_a_tile_of_each_scene_that_covers_it(tmp_path):
    scene(tmp_path, "a")
    scene(tmp_path, "b", (5.0, 0.0, 400_100.0, 0.0, -5.0, 5_000_000.0), seed=1)
    scene(tmp_path, "c", crs="EPSG:32633", seed=2)  # elsewhere
    (tmp_path / "t.csv").write_text("stem,season,cover\na,dry,x\nb,wet,y\nc,wet,z\n", encoding="utf-8")
    survey_points(tmp_path, at([20, 20], [15, 40]), cover=["crop", "tree"])
    keys = "    table: {path: t.csv, key: stem}\n    label: {column: cover}\n    domain: {column: season}\n"
    index = build_index(catalog_of(tmp_path, more=keys), "tiny")
    assert index.tiles["tile_id"].tolist() == ["a:16:11", "a:16:36", "b:16:16"]
    assert index.tiles["label"].tolist() == ["crop", "tree", "tree"]  # the file's own column wins
    assert index.tiles["domain"].tolist() == ["dry", "dry", "wet"]


def test_neighbours_of_different_labels_are_counted(tmp_path):
    scene(tmp_path)
    survey_points(tmp_path, at([20, 20, 20, 40], [20, 27, 45, 40]), c=["a", "b", "b", None], h=[1.5, 2.5, 3.5, 4.5])
    keys = "    label: {column: c}\n"
    index = build_index(catalog_of(tmp_path, more=keys), "tiny")
    said = "2 of the 3 points with a tile are nearer than the 8 pixels of a tile to one of another label"
    assert f"{said}, as a of point 1 and b of point 2" in index.remarks[0]
    assert index.notes() == [f"tiny: {index.remarks[0]}"]
    with pytest.raises(CatalogError, match=r"yaml:\d+: datasets\.tiny\.windows\.strict: 2 of the 3 points"):
        build_index(catalog_of(tmp_path, more=keys, strict="true"), "tiny")
    assert build_index(catalog_of(tmp_path, size=7, more=keys, strict="true"), "tiny").remarks == ()
    assert build_index(catalog_of(tmp_path, more="    label: {column: h}\n"), "tiny").remarks == ()


def test_points_meet_the_scenes_of_their_time(tmp_path):
    for number, name in enumerate("ab"):
        scene(tmp_path, name, seed=number)
    (tmp_path / "t.csv").write_text("stem,time\na,2021-05-01\nb,2021-08-01T10:00:00Z\n", encoding="utf-8")
    days = ["2021-05-20", "2021-08-01", "2021-12-01", None]
    survey_points(tmp_path, at([20, 20, 40, 40], [20, 40, 20, 40]), time=days)
    table = "    table: {path: t.csv, key: stem}\n"
    index = build_index(catalog_of(tmp_path, more=table), "tiny")
    assert index.tiles["tile_id"].tolist() == ["a:16:16", "b:16:36"]
    assert index.left_out == {TIMELESS: 1, "points without a scene within 30 days": 1}
    assert len(build_index(catalog_of(tmp_path, more=table, days=200), "tiny")) == 5
    assert len(build_index(catalog_of(tmp_path), "tiny")) == 8  # nobody knows when the scenes were taken
    refused(tmp_path, "windows.days: no scene has a time", days=3)
    refused(tmp_path, "no point has a scene within 0.5 days: the points are of 2021-05-20 to 2021-05-20", more=table,
            days=0.5, where="time == '2021-05-20'")  # fmt: skip


def refused(folder, *parts, name="points.gpkg", **keys):
    with pytest.raises(CatalogError) as caught:
        build_index(catalog_of(folder, name, **keys), "tiny")
    text = str(caught.value)
    assert "\n" not in text
    assert "datasets.tiny.windows" in text
    for part in parts:
        assert part in text, text


def test_where_no_tile_is_left_it_is_said_what_was_needed(tmp_path):
    scene(tmp_path)
    survey_points(tmp_path, at([2, 3], [2, 3]), time=["spring", "2021"], n=[1, 2])
    refused(tmp_path, "windows.size: every tile of 8 pixels around a point leaves its scene")
    refused(tmp_path, "windows.where: no point that lies in a scene meets the condition", where="n > 2")
    refused(tmp_path, "windows.where: ", where="m > 2")
    (tmp_path / "t.csv").write_text("stem,time\ns0,2021-05-01\n", encoding="utf-8")
    refused(tmp_path, "the time of point 1 is 'spring'", more="    table: {path: t.csv, key: stem}\n")
    survey_points(tmp_path, [(10.0, 20.0)], "EPSG:4326", "far.gpkg")
    refused(
        tmp_path,
        "no point lies in a scene: the file lies at x 10 to 10, y 20 to 20 (EPSG:4326)",
        "the scenes at x 400000 to 400320, y 4999680 to 5000000 (EPSG:32632)",
        name="far.gpkg",
    )
    frame = gpd.GeoDataFrame({"c": ["a"]}, geometry=[shapely.box(400_000, 4_999_900, 400_100, 5_000_000)], crs=32632)
    frame.to_file(tmp_path / "fields.gpkg")
    refused(tmp_path, "windows.points: ", "holds 1 polygons where points are needed", name="fields.gpkg")
    refused(tmp_path, "there is no file 'point.gpkg'", "; did you mean 'points.gpkg'?", name="point.gpkg")


def test_tiles_that_are_read_together_measure_what_they_measure_alone(tmp_path):
    scene(tmp_path, side=200, hole=(slice(50, 90), slice(60, 70)))
    source = build_index(open_catalog(write_catalog(tmp_path)), "tiny").source
    rng = np.random.default_rng(3)
    place_T4 = np.column_stack([np.zeros(300, int), rng.integers(0, 184, (300, 2)), np.full(300, 16)])
    together = survey(source, place_T4, "x", 2, pixel_T2=place_T4[:, 1:3] + 8)
    for one in (0, 100, 299):
        alone = survey(source, place_T4[[one]], "x", 1, pixel_T2=place_T4[[one], 1:3] + 8)
        for mine, other in zip(survey_columns(together), survey_columns(alone), strict=True):
            np.testing.assert_array_equal(mine[[one]], other)
        assert together.pixel_valid_T[one] == alone.pixel_valid_T[0]
    rows, cols = (place_T4[:, 1:3] + 8).T
    np.testing.assert_array_equal(together.pixel_valid_T, ~((rows >= 50) & (rows < 90) & (cols >= 60) & (cols < 70)))


def test_many_points_are_listed_without_a_step_for_each(tmp_path, monkeypatch):
    scene(tmp_path, side=64)
    rng = np.random.default_rng(0)
    xy = at(rng.uniform(8, 56, 20_000), rng.uniform(8, 56, 20_000))
    columns = pd.DataFrame({"x": xy[:, 0], "y": xy[:, 1], "crs": 32632, "c": rng.integers(0, 3, 20_000)})
    columns.to_csv(tmp_path / "points.csv", index=False)
    calls = []
    monkeypatch.setattr("geomae.tiles.statistics.read", lambda *place: calls.append(place) or read(*place))
    index = build_index(catalog_of(tmp_path, "points.csv", size=4), "tiny")
    assert len(index) == 20_000
    assert index.tiles["tile_id"].is_unique
    assert len(calls) == 1


@pytest.mark.parametrize("task", ["classification", "regression"])
def test_no_column_of_points_reaches_a_probe_but_the_label_of_its_training(tmp_path, task):
    """What a probe predicts stays, to the bit, under noise in each column and label that it has no business with."""
    rng = np.random.default_rng(2)
    xy, part = at(rng.uniform(8, 56, 60), rng.uniform(8, 56, 60)), np.array(["train", "train", "test"] * 20)
    labels = rng.normal(size=60) if task == "regression" else rng.choice(["crop", "tree"], 60).astype(object)

    def predicted(name, label, noise):
        folder = tmp_path / name
        scene(folder)
        survey_points(folder, xy, label=label, part=part, group=[f"g{n}" for n in range(60)], noise=noise)
        keys = "    label: {column: label}\n    split: {column: part}\n    group: {column: group}\n"
        catalog = catalog_of(folder, more=keys)
        chosen = select_tiles(catalog, ["tiny@train", "tiny@test"])
        read_T = {one.name: TileReader(one.index).many(range(len(one.index))) for one in chosen}
        embeddings = SimpleNamespace(of=lambda one: read_T[one.name][0].mean((2, 3)))
        settings = ProbeSettings(task=task, C=1.0, shots=())
        probe = read_probe_task(settings, chosen)
        values = {key: [one.tolist() for one in draws] for key, draws in probe.predict(embeddings).predicted.items()}
        return [array.tolist() for pair in read_T.values() for array in pair], values

    noisy = labels.copy()
    noisy[part == "test"] = rng.permutation(noisy[part == "test"])
    assert noisy.tolist() != labels.tolist()
    true = predicted("true", labels, np.zeros(60))
    assert predicted("noise", noisy, rng.normal(size=60)) == true
    learned = predicted("learned", np.roll(labels, 1), np.zeros(60))
    assert learned[0] == true[0]
    assert learned[1] != true[1]


def test_no_column_of_points_reaches_a_pretraining(tmp_path):
    """What a training holds (pixels, their order, the records of sensors) is the same, with noise for labels."""
    rng = np.random.default_rng(2)
    xy = at(rng.uniform(8, 56, 60), rng.uniform(8, 56, 60))
    config = load_config(PretrainConfig, "pretrain", None, (*SMALL, "batch=2", "steps=2", "patch=4"))

    def held(name, label):
        scene(tmp_path / name)
        survey_points(tmp_path / name, xy, label=label)
        catalog = catalog_of(tmp_path / name, more="    label: {column: label}\n")
        data = assemble(catalog, [parse_selector("tiny@train")], [], config, 0)
        parts = [*data.training, *data.validation]
        read = [array.tolist() for one in parts for array in one.reader.many(range(len(one.reader)))]
        return [read, [one.reader.tile_ids for one in parts], data.sensors]

    assert held("classes", ["crop", "tree"] * 30) == held("noise", rng.choice(["crop", "tree"], 60).astype(object))


def test_days_of_points_are_days_in_utc_and_nothing_is_guessed():
    days = point_days(pd.Series(["2021-05-04T00:30:00+02:00", None, "20210603"], name="time"), np.array([0, 1, 2]), "")
    assert [str(one) for one in days] == ["2021-05-03", "NaT", "2021-06-03"]
    with pytest.raises(CatalogError, match=r"here: the time of point 1 is '03/04/2021', which is no date"):
        point_days(pd.Series(["03/04/2021"], name="time"), np.array([0]), "here")
