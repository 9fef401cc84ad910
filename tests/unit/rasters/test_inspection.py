"""What the audit takes from the bytes of a file, instead of asking GDAL or NumPy for each file, is what they say."""

import numpy as np
import pytest
import rasterio
from rasterio.control import GroundControlPoint

from geomae.rasters import inspection
from geomae.rasters.environment import environment
from geomae.rasters.inspection import inspect_file
from geomae.rasters.measuring import Wanted, _fill, _median, _quantile
from geomae.rasters.opening import header, opened
from geomae.rasters.side_files import look_beside

UTM, DEGREES = "EPSG:32632", "EPSG:4326"
OWN = "+proj=laea +lat_0=46 +lon_0=11 +datum=WGS84 +units=m"
AFFINE = rasterio.Affine(10, 0, 400_000, 0, -10, 5_000_000)
POINTS = [GroundControlPoint(row, col, 400_000 + col, 5_000_000 - row) for row, col in ((0, 0), (0, 9), (9, 0), (9, 9))]


def written(path, **options):
    options = {"transform": AFFINE, "compress": "deflate", **options}
    shape = {"height": 16, "width": 16, "count": 2, "dtype": "uint16"}
    with rasterio.open(path, "w", driver="GTiff", **shape, **options) as made:
        made.write(np.random.default_rng(0).integers(1, 4000, (2, 16, 16)).astype(np.uint16))
    return str(path)


def header_of(path):
    """The header by an inspection of this file, after that of others."""
    record = inspect_file(Wanted(path, ((1, 1.0, 0.0), (2, 1.0, 0.0)), (), False))
    assert record.header is not None, record.message
    return record.header


@pytest.fixture(autouse=True)
def _nothing_known(monkeypatch):
    monkeypatch.setattr(inspection, "_CRS", {})


def test_a_crs_is_the_one_that_gdal_finds_also_where_it_was_remembered(tmp_path):
    ways = [{"crs": one} for one in (UTM, DEGREES, OWN, None, "EPSG:25832", "EPSG:3857")]
    ways += [{"crs": UTM, "bigtiff": "YES"}, {"crs": UTM, "endianness": "BIG"}, {"crs": UTM, "compress": "lzw"}]
    ways += [{"crs": UTM, "gcps": POINTS, "transform": None}, {"crs": UTM, "GEOTIFF_KEYS_FLAVOR": "ESRI_PE"}]
    paths = [written(tmp_path / f"{number}-{twice}.tif", **way) for twice in "ab" for number, way in enumerate(ways)]
    found = [header_of(path) for path in paths]
    assert len(inspection._CRS) > 5
    for path, one in zip(paths, found, strict=True):
        expected = header(path)
        assert (one.crs, one.transform, one.pixel_m, one.roughly_m, one.placed_by) == (
            expected.crs, expected.transform, expected.pixel_m, expected.roughly_m, expected.placed_by,
        )  # fmt: skip
    assert len({one.crs for one in found}) >= 5


def test_a_crs_in_a_side_file_is_not_taken_from_another_file(tmp_path):
    first, second = (written(tmp_path / name, crs=UTM) for name in ("a.tif", "b.tif"))
    (tmp_path / "b.tif.aux.xml").write_text("<PAMDataset><SRS>EPSG:32633</SRS></PAMDataset>")
    look_beside([first, second])
    assert [header_of(path).crs for path in (first, second)] == [UTM, "EPSG:32633"]
    assert header_of(first).crs == UTM


def test_files_of_one_crs_ask_gdal_once(tmp_path, monkeypatch):
    paths = [written(tmp_path / f"{number}.tif", crs=UTM) for number in range(3)]
    given = []
    monkeypatch.setattr(
        inspection, "opened", lambda *words, **named: given.append(named["crs"]) or opened(*words, **named)
    )
    for path in paths:
        header_of(path)
    assert [one is None for one in given] == [True, False, False]


def test_settings_that_a_thread_has_are_not_entered_again():
    with environment(remote=False, A="1"):
        outer = rasterio.env.getenv()
        with environment(remote=False, A="1"):
            assert rasterio.env.getenv() == outer
        assert rasterio.env.getenv() == outer
        with environment(remote=False, A="2"):
            assert rasterio.env.getenv()["A"] == "2"
        assert rasterio.env.getenv() == outer


@pytest.mark.parametrize("size", [1, 2, 3, 50, 51, 101, 102, 4096])
@pytest.mark.parametrize("unit", [1e-4, 1.0, 1e9, -1e-3])
def test_median_and_quantile_are_those_of_numpy_to_the_bit(size, unit):
    sample_N = (np.random.default_rng(size).integers(0, 4000, size) * unit).astype(np.float32)
    sorted_N = np.sort(sample_N)
    assert _median(sorted_N) == float(np.median(sample_N))
    for share in (0.01, 0.4, 0.77):
        assert _quantile(sorted_N, share) == float(np.quantile(sample_N, share))


def test_a_fill_is_the_value_at_an_end_that_is_frequent_and_far_away():
    def fill(*values):
        return _fill(np.sort(np.array(values, dtype=np.float32)))

    assert fill() == fill(1.0) == fill(1.0, 2.0) == fill(1.0, 1.0) == fill(0, 1, 2, 3) == (None, 0.0)
    assert fill(0, 0, 100, 101, 102) == (0.0, 0.4)
    assert fill(1, 2, 3, 4, 99, 99) == (99.0, pytest.approx(1 / 3))


def test_batches_hold_many_small_files_and_one_large():
    sizes = [0, *[1 << 10] * 40, 1 << 23, 1 << 23, 1 << 10, 3 << 20, 3 << 20]
    wanted = [Wanted(f"{number}.tif", ((1, 1.0, 0.0),), (), False) for number in range(len(sizes))]
    stamps = {one.path: (size, 0) for one, size in zip(wanted, sizes, strict=True)}
    batches = inspection._batches(wanted, stamps)
    assert [one for batch in batches for one in batch] == wanted
    assert [len(batch) for batch in batches] == [32, 9, 1, 1, 2, 1]
    assert [len(batch) for batch in inspection._batches(wanted[:3], {})] == [1, 1, 1]
