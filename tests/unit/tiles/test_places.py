"""Partners against a direct computation: every tile, every scene, one at a time.

T tiles, S scenes, B tiles of a batch
"""

import functools
import math
import time

import numpy as np
import pytest
import shapely
from helpers import write_scenes
from pyproj import Transformer
from tiles.tile_indexes import covered, grid, painted, regular, tile_index

import geomae
from geomae.errors import CatalogError
from geomae.tiles.ground import window_around
from geomae.tiles.index import build_index
from geomae.tiles.places import Partner, find_partners

RNG = np.random.default_rng(0)


@functools.cache
def transformer(source, target):
    return Transformer.from_crs(source, target, always_xy=True)


def pixel_in(one, other, col, row):
    """The pixel (column, row) of a grid under that of another."""
    a, b, c, d, e, f = one.transform
    x, y = a * col + b * row + c, d * col + e * row + f
    x, y = transformer(one.crs, other.crs).transform(x, y)
    a, b, c, d, e, f = other.transform
    return np.linalg.solve([[a, b], [d, e]], [x - c, y - f])


def direct(indexes, pairs):
    """The partners of every tile by footprints, where `pairs(dataset, scene, other, partner)` allows it: (T) sets."""
    grounds = [painted(index) for index in indexes]
    result = []
    for number, index in enumerate(indexes):
        for scene, row, col, size in index.tiles[["scene", "row", "col", "size"]].to_numpy().tolist():
            own, partners = index.grids[scene], {}
            for there, other in enumerate(indexes):
                for partner, target in enumerate(other.grids):
                    same = index.source.scenes[scene].files == other.source.scenes[partner].files
                    if same or not pairs(number, scene, there, partner):
                        continue
                    middle = np.array([col + size / 2, row + size / 2])
                    if own.crs is None or target.crs is None:
                        centre, zoom = middle, 1.0
                    else:
                        centre = pixel_in(own, target, *middle)
                        x, y = middle
                        right = pixel_in(own, target, x + 0.5, y) - pixel_in(own, target, x - 0.5, y)
                        down = pixel_in(own, target, x, y + 0.5) - pixel_in(own, target, x, y - 0.5)
                        zoom = math.sqrt(abs(right[0] * down[1] - right[1] * down[0]))
                    if not np.isfinite(centre).all():
                        continue
                    window = window_around(centre[1], centre[0], max(1, round(size * zoom)))
                    if covered(grounds[there][partner], window.row, window.col, window.height, window.width):
                        partners[there, partner] = (centre[1], centre[0], zoom)
            result.append(partners)
    return result


def check(indexes, pairs=lambda *_: True):
    """Compare all partners with the direct computation; gives the partners."""
    found = find_partners(indexes)
    tiles = [(number, tile) for number, index in enumerate(indexes) for tile in range(len(index))]
    expected = direct(indexes, pairs)
    for (number, tile), wanted in zip(tiles, expected, strict=True):
        partners = found.of(number, tile)
        assert [(one.dataset, one.scene) for one in partners] == sorted(wanted)
        for one in partners:
            np.testing.assert_allclose((one.row, one.col), wanted[one.dataset, one.scene][:2], atol=1e-4)
            assert one.zoom == pytest.approx(wanted[one.dataset, one.scene][2], rel=1e-3)
    for number, index in enumerate(indexes):
        own = [wanted for (dataset, _), wanted in zip(tiles, expected, strict=True) if dataset == number]
        assert found.count(number) == sum(map(bool, own)) and len(own) == len(index)
        for other in range(len(indexes)):
            assert found.count(number, other) == sum(any(there == other for there, _ in one) for one in own)
    return found


def some(tiles, share=0.7):
    """A part of the tiles: the rest is held out."""
    return [tile for tile in tiles if RNG.random() < share]


def sentinel_and_landsat():
    """At 12 degrees east two zones meet: dates of a scene in 32N and one in 33N at 10 m, another sensor at 30 m."""
    to_33 = Transformer.from_crs("EPSG:32632", "EPSG:32633", always_xy=True)
    left, top = (10 * round(value / 10) for value in to_33.transform(733_000, 5_320_000))
    sentinel = [
        grid(96, 96, "EPSG:32632", 733_000, 5_320_000),
        grid(96, 96, "EPSG:32632", 733_320, 5_319_840),
        grid(96, 128, "EPSG:32633", left, top),
        grid(96, 96, "EPSG:32632", 833_000, 5_320_000),  # elsewhere
    ]
    landsat = [
        grid(50, 50, "EPSG:32633", left - 200, top + 100, 30),
        grid(40, 40, "EPSG:32632", 732_990, 5_320_010, 30),
    ]
    one = [tile for scene, each in enumerate(sentinel) for tile in some(regular(each.height, each.width, 16, 8, scene))]
    two = [
        tile for scene, each in enumerate(landsat) for tile in some(regular(each.height, each.width, 8, 4, scene), 0.9)
    ]
    return [tile_index(sentinel, one, name="sentinel"), tile_index(landsat, two, name="landsat")]


def test_footprints_of_other_zones_and_resolutions():
    found = check(sentinel_and_landsat())
    assert found.count(0, 0) > 50 and found.count(0, 1) > 100 and found.count(1, 0) > 5 and found.count(1, 1) > 20
    zooms = {round(one.zoom, 1) for tile in range(200) for one in found.of(0, tile)}
    assert zooms == {1.0, 0.3}
    assert found.how[0].startswith(f"sentinel: {found.count(0)} of ")
    by = f"with another scene, by overlapping footprints ({found.count(0, 0)} in sentinel, "
    assert f"tiles share ground {by}" in found.how[0]


def test_places_of_other_values_are_no_partners_though_footprints_meet():
    indexes = [
        tile_index(one.grids, one.tiles[["scene", "row", "col", "size"]], values, name=one.name)
        for one, values in zip(sentinel_and_landsat(), (["a", "b", "a", "b"], ["b", None]), strict=True)
    ]
    values = [["a", "b", "a", "b"], ["b", None]]
    found = check(
        indexes, lambda one, scene, two, partner: values[one][scene] == values[two][partner] and values[one][scene]
    )
    assert found.count(0, 1) > 0
    assert ", by column site (places) (" in found.how[0]
    ids = [found.place_id(number) for number in range(2)]
    for number, index in enumerate(indexes):
        names = [values[number][scene] for scene in index.tiles["scene"]]
        assert [value < 0 for value in ids[number]] == [name is None for name in names]
    assert ids[0][indexes[0].tiles["scene"] == 1].tolist()[0] == ids[1][indexes[1].tiles["scene"] == 0].tolist()[0]


def test_scenes_without_crs_are_paired_pixel_by_pixel():
    grids = [grid(48, 64, gsd_m=30.0)] * 6
    values = ["a", "a", "b", None, "a", None]
    tiles = [tile for scene in range(6) for tile in some(regular(48, 64, 16, 8, scene), 0.85)]
    index = tile_index(grids, tiles, values, "group.folds")
    found = check([index], lambda _, scene, __, partner: values[scene] == values[partner] and values[scene])
    assert found.count(0) > 30
    (how,) = found.how
    assert how == (
        f"d: {found.count(0)} of {len(index)} tiles share ground with another scene, by column site (group.folds)"
    )
    scene, row, col, size = tiles[next(tile for tile in range(len(index)) if found.of(0, tile))]
    first = found.of(0, tiles.index((scene, row, col, size)))[0]
    assert first == Partner(0, first.scene, row + size / 2, col + size / 2, 1.0)
    two = find_partners([index, tile_index(grids[:2], regular(48, 64, 16, 16), ["b", "a"], "places", name="e")])
    assert {one.scene for tile in range(len(index)) for one in two.of(0, tile) if one.dataset == 1} == {0}


def test_with_a_crs_folds_are_not_asked_but_for_scenes_without():
    crs = ("EPSG:32632", 500_000, 5_000_000)
    grids = [grid(32, 32, *crs), grid(32, 32, *crs), grid(32, 32), grid(32, 32), grid(32, 32, "EPSG:32632", 0, 5e6)]
    values = ["region"] * 5
    tiles = [tile for scene in range(5) for tile in regular(32, 32, 16, 16, scene)]
    index = tile_index(grids, tiles, values, "group.folds")
    found = check([index], lambda _, scene, __, partner: True)
    assert {one.scene for one in found.of(0, 0)} == {1, 2, 3}
    assert "by column site (group.folds) and by overlapping footprints" in found.how[0]
    assert found.place_id(0).tolist() == [-1] * 8 + [0] * 8 + [-1] * 4


def test_neither_column_nor_footprints():
    tiles = regular(32, 32, 16, 16) + regular(32, 32, 16, 16, scene=1)
    found = find_partners([tile_index([grid(32, 32)] * 2, tiles)], ["d@train"])
    assert found.how == (
        "d@train: 0 of 8 tiles share ground with another scene: no column of places, "
        "no footprints, as no scene has a CRS",
    )
    assert found.count(0) == 0 and found.of(0, 3) == ()
    assert found.place_id(0).tolist() == [-1] * 8
    found = find_partners([tile_index([grid(32, 32)] * 2, tiles, ["a", "b"])])
    assert "no windows of other scenes that share a value of column site (places), no footprints" in found.how[0]


def test_footprints_are_denied_only_where_they_are_known():
    grids = [grid(32, 32, "EPSG:32632", left, 5e6) for left in (0, 9e5)]
    (how,) = find_partners([tile_index(grids, regular(32, 32, 16, 16) + regular(32, 32, 16, 16, scene=1))]).how
    assert how.endswith("with another scene: no column of places, no overlapping footprints")


def test_one_file_in_two_data_sets_is_no_partner_of_itself():
    tiles, files = regular(32, 32, 16, 16) + regular(32, 32, 16, 16, scene=1), ["a.tif", "b.tif"]
    for grids, values in (([grid(32, 32)] * 2, ["s", "s"]), ([grid(32, 32, "EPSG:32632")] * 2, None)):
        indexes = [tile_index(grids, tiles, values, name=name, files=files) for name in ("d", "e")]
        found = find_partners(indexes)
        assert [(one.dataset, one.scene) for one in found.of(0, 0)] == [(0, 1), (1, 1)]


@pytest.mark.parametrize(("latitude", "partners"), [(0, 16), (60, 16), (74, 16), (77, 0)], ids=lambda value: str(value))
def test_oblong_pixels_count_where_half_of_the_tile_is_covered(latitude, partners):
    """A window in degrees is 1 / cos(latitude) times as high as wide: from 75.5 degrees less than half is common."""
    degrees = grid(1000, 1000, "EPSG:4326", -0.05, latitude + 0.05, 1e-4)
    zone = Transformer.from_crs("EPSG:4326", "EPSG:32631", always_xy=True).transform(0.0, latitude)
    metres = grid(64, 64, "EPSG:32631", zone[0] - 320, zone[1] + 320)
    indexes = [tile_index([metres], regular(64, 64, 16, 16)), tile_index([degrees], [(0, 0, 0, 1000)], name="degrees")]
    found = find_partners(indexes)
    assert found.count(0) == partners
    if partners:
        cos = math.cos(math.radians(latitude))
        assert found.of(0, 0)[0].zoom == pytest.approx(10 / math.sqrt((111_320 * 1e-4) ** 2 * cos), rel=0.01)


def test_the_date_line_and_the_pole_are_no_borders():
    zones = [
        grid(64, 64, crs, *Transformer.from_crs("EPSG:4326", crs, always_xy=True).transform(longitude, 66.0))
        for crs, longitude in (("EPSG:32660", 179.995), ("EPSG:32601", -180.005))
    ]
    poles = [grid(64, 64, crs, -300.0, 320.0) for crs in ("EPSG:3413", "EPSG:3995")]
    for grids in (zones, poles):
        tiles = [tile for scene in range(2) for tile in regular(64, 64, 16, 16, scene)]
        assert check([tile_index(grids, tiles)]).count(0) > 8


def test_a_crs_without_a_place_on_earth_counts_as_none():
    local = 'LOCAL_CS["site",UNIT["metre",1],AXIS["E",EAST],AXIS["N",NORTH]]'
    tiles = regular(32, 32, 16, 16) + regular(32, 32, 16, 16, scene=1)
    assert find_partners([tile_index([grid(32, 32, local)] * 2, tiles)]).count(0) == 0
    assert find_partners([tile_index([grid(32, 32, local)] * 2, tiles, ["a", "a"])]).count(0) == 8


@pytest.mark.parametrize("other", [grid(32, 48, gsd_m=30.0), grid(32, 32, gsd_m=10.0)], ids=["pixels", "metres"])
def test_scenes_of_one_place_must_be_of_one_size(other):
    tiles = regular(32, 32, 16, 16) + regular(32, 32, 16, 16, scene=1)
    index = tile_index([grid(32, 32, gsd_m=30.0), other], tiles, ["a", "a"])
    with pytest.raises(CatalogError) as caught:
        find_partners([index])
    message = str(caught.value)
    assert "\n" not in message
    for part in ("column site (places)", "d/0.tif (32 x 32 pixels of 30 m)", "d/1.tif of d", "cut them to one extent"):
        assert part in message
    find_partners([tile_index([grid(32, 32, gsd_m=30.0), other], tiles, ["a", "b"])])


def test_many_dates_are_thinned_evenly():
    scenes = 100
    tiles = [tile for scene in range(scenes) for tile in regular(32, 32, 16, 16, scene)]
    for grids, values in (([grid(32, 32)] * scenes, ["a"] * scenes), ([grid(32, 32, "EPSG:32632")] * scenes, None)):
        found = find_partners([tile_index(grids, tiles, values)])
        partners = [one.scene for one in found.of(0, 0)]
        assert len(partners) == 32 == len(set(partners)) and 0 not in partners
        assert np.diff(partners).max() <= 5
        assert found.count(0) == len(tiles)


def test_the_only_partner_among_many_dates_is_found():
    scenes = 300
    tiles = [(scene, 0, 0, 16) for scene in range(scenes)] + [(scene, 16, 16, 16) for scene in (7, 123)]
    found = find_partners([tile_index([grid(32, 32)] * scenes, tiles, ["a"] * scenes)])
    assert [[one.scene for one in found.of(0, tile)] for tile in (300, 301)] == [[123], [7]]
    assert 16 <= len(found.of(0, 0)) <= 32
    assert found.count(0) == len(tiles)


def test_partners_never_reach_held_out_tiles():
    """Held out at one date is held out at the other: pixels that no training tile has are never reached."""
    crs = ("EPSG:32632", 500_000, 5_000_000)
    grids = [grid(64, 64, *crs), grid(64, 64, "EPSG:32632", 500_020, 4_999_990)]
    everything = tile_index(grids, regular(64, 64, 16, 8) + regular(64, 64, 16, 8, scene=1))
    training = everything.take(np.flatnonzero(RNG.random(len(everything)) < 0.8))
    masks, found = painted(training), find_partners([training])
    assert 0 < found.count(0) < len(training)
    for tile in range(len(training)):
        for one in found.of(0, tile):
            window = window_around(one.row, one.col, 16)
            assert covered(masks[one.scene], window.row, window.col, 16, 16)


def boxes_of(index, reach):
    """The windows of the tiles, grown, in their CRS."""
    for scene, row, col, size in index.tiles[["scene", "row", "col", "size"]].to_numpy().tolist():
        a, _, c, _, e, f = index.grids[scene].transform
        x, y = a * (col + size / 2) + c, e * (row + size / 2) + f
        half = abs(a) * size / 2 * reach
        yield shapely.box(x - half, y - half, x + half, y + half)


@pytest.mark.parametrize("reach", [1.0, 1.5, 2.5])
def test_the_same_ground_in_one_crs_and_in_one_scene(reach):
    crs = ("EPSG:32632", 500_000, 5_000_000)
    grids = [grid(64, 64, *crs), grid(48, 48, "EPSG:32632", 500_200, 4_999_800, 20), grid(64, 64), grid(64, 64)]
    tiles = [tile for scene in range(4) for tile in regular(48, 48, 16, 16, scene)]
    index = tile_index(grids, tiles, [None, None, "a", "b"])
    positions = RNG.integers(0, len(tiles), 60)
    same = find_partners([index]).same_ground(0, positions, reach)
    boxes, scenes = list(boxes_of(index, reach)), index.tiles["scene"].tolist()
    for i, one in enumerate(positions.tolist()):
        for j, two in enumerate(positions.tolist()):
            comparable = scenes[one] == scenes[two] or max(scenes[one], scenes[two]) < 2
            overlap = comparable and shapely.intersection(boxes[one], boxes[two]).area > 1e-3
            place = scenes[one] == scenes[two] >= 2
            assert same[i, j] == (overlap or place), (one, two)


def test_the_same_ground_across_zones_is_never_missed():
    index = sentinel_and_landsat()[0]
    found = find_partners([index])
    tiles = index.tiles[["scene", "row", "col", "size"]].to_numpy().tolist()
    positions = np.array([position for position, tile in enumerate(tiles) if tile[0] in (0, 2)])[::2]
    same = found.same_ground(0, positions, 1.0)
    assert (same == same.T).all()
    grids, met = index.grids, 0
    for i, one in enumerate(positions.tolist()):
        for j, two in enumerate(positions.tolist()):
            (scene, row, col, size), (other, there_row, there_col, _) = tiles[one], tiles[two]
            if (scene, other) != (0, 2):
                continue
            corners = [(col, row), (col + size, row), (col + size, row + size), (col, row + size)]
            image = shapely.Polygon([pixel_in(grids[0], grids[2], *corner) for corner in corners])
            window = shapely.box(there_col, there_row, there_col + size, there_row + size)
            met += same[i, j]
            if image.intersection(window).area > 1e-3:
                assert same[i, j]
            if image.distance(window) > 0.5 * size:
                assert not same[i, j]
    assert met > 50


def test_fifty_thousand_tiles_take_seconds_and_a_batch_milliseconds():
    crs = "EPSG:32632"
    grids = [grid(512, 512, crs, 500_000 + 2500 * (n % 40), 5e6 + 2500 * (n // 40 % 20)) for n in range(1600)]
    index = tile_index(grids, [tile for scene in range(1600) for tile in regular(512, 512, 64, 80, scene)])
    assert len(index) > 50_000
    start = time.perf_counter()
    found = find_partners([index])
    assert time.perf_counter() - start < 60  # three on an idle machine
    assert found.count(0) == len(index)
    positions = RNG.integers(0, len(index), 256)
    start = time.perf_counter()
    found.same_ground(0, positions, 1.5)
    assert time.perf_counter() - start < 1  # two milliseconds
    assert found.same_ground(0, positions[:0], 1.5).shape == (0, 0)
    assert found.same_ground(0, RNG.integers(0, len(index), 1100), 1.5).shape == (1100, 1100)


CATALOG = """\
version: 1
datasets:
  d:
    path: scenes/*.tif
    sensor: naip
    bands: [red, green, blue, nir]
    unit: reflectance
    scale: 0.0001
    tile: {size: 16}
    table: {path: t.csv, key: scene}
"""
FOLDS = "group: {column: site, folds: region}"


@pytest.mark.parametrize(
    ("keys", "column", "places"),
    [
        ((), None, [None] * 3),
        (("group: {column: site}",), None, [None] * 3),
        ((FOLDS,), ("region", "group.folds"), ["7", "7", None]),
        ((FOLDS, "places: {column: site}"), ("site", "places"), ["a", "b", "b"]),
    ],
    ids=["nothing", "groups", "folds", "places"],
)
def test_the_place_of_a_tile_comes_from_the_catalogue(tmp_path, keys, column, places):
    write_scenes(tmp_path / "scenes", scenes=3, side=16)
    (tmp_path / "t.csv").write_text("scene,site,region\ns0,a,7\ns1,b,7\ns2,b,\n")
    (tmp_path / "c.yaml").write_text(CATALOG + "".join(f"    {key}\n" for key in keys))
    index = build_index(geomae.open_catalog(tmp_path / "c.yaml"), "d")
    assert index.place_column == column == index.take(np.array([1])).place_column
    assert index.tiles["place"].tolist() == places
    assert index.column("place").tolist() == places


def test_a_column_of_places_must_be_there(tmp_path):
    write_scenes(tmp_path / "scenes", scenes=1, side=16)
    (tmp_path / "t.csv").write_text("scene,site\ns0,a\n")
    (tmp_path / "c.yaml").write_text(CATALOG + "    places: {column: sites}\n")
    with pytest.raises(CatalogError, match=r"c\.yaml:11: datasets\.d\.places\.column: .*'sites'; did you mean 'site'"):
        build_index(geomae.open_catalog(tmp_path / "c.yaml"), "d")


def test_dates_of_the_real_sites(shared_data):
    """Chips of 128 pixels in tiles of 64: each window of a chip that lies on tiles of another chip of the site."""
    index = build_index(geomae.open_catalog(shared_data / "catalog.yaml"), "hls-unlabelled")
    found, masks = find_partners([index]), painted(index)
    site = index.attributes["site_id"].tolist()
    scenes = index.tiles["scene"].tolist()
    site_of = dict(zip(scenes, site, strict=True))
    for tile, (scene, row, col) in enumerate(index.tiles[["scene", "row", "col"]].to_numpy().tolist()):
        others = [other for other, name in site_of.items() if name == site[tile] and other != scene]
        expected = [other for other in sorted(others) if covered(masks[other], row, col, 64, 64)]
        assert [one.scene for one in found.of(0, tile)] == expected
    assert found.count(0) == 1134
    assert found.how == (
        "hls-unlabelled: 1,134 of 1,881 tiles share ground with another scene, by column site_id (group.folds)",
    )
