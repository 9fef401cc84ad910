"""When tiles were seen: who says it first, what follows from it, and dates that cannot be read."""

import logging

import numpy as np
import pytest
import rasterio
from helpers import write_catalog

from geomae.catalog import open_catalog, parse_selector
from geomae.errors import CatalogError, GeomaeError
from geomae.tiles.index import build_index

ENTRY = """\
version: 1
datasets:
  d:
    path: '**/*.tif'
    sensor: [{name: a, wavelength_um: 0.5, fwhm_um: 0.1}]
"""
PLANET = "20210404_100000_12_1057_3B_AnalyticMS.tif"
NAIP = "m_4709963_se_14_1_20090818.tif"


@pytest.fixture
def write(tmp_path):
    """Writes small rasters, of names with tags, and gives the index of an entry with these keys."""

    def index(files, *keys, tables=()):
        for number, (name, tags) in enumerate(files.items()):
            path = tmp_path / name
            path.parent.mkdir(parents=True, exist_ok=True)
            pixels_HW = np.random.default_rng(number).integers(1, 99, (8, 8))
            form = {"count": 1, "height": 8, "width": 8, "dtype": "uint8", "crs": "EPSG:32632"}
            with rasterio.open(path, "w", transform=rasterio.Affine(10, 0, 5e5, 0, -10, 5e6), **form) as to:
                to.write(pixels_HW.astype("uint8"), 1)
                to.update_tags(**tags)
        for name, text in tables:
            (tmp_path / name).write_text(text)
        return build_index(open_catalog(write_catalog(tmp_path, ENTRY + "".join(f"    {key}\n" for key in keys))), "d")

    return index


def test_names_then_tags_tell_and_attributes_follow(write):
    index = write(
        {
            PLANET: {"SENSING_TIME": "2001-01-01T00:00:00Z"},  # the name comes first
            "x.tif": {"SENSING_TIME": "2020-12-31T10:20:30.123Z; 2020-12-31T10:20:54Z"},
            "y.tif": {"TIFFTAG_DATETIME": "2022:01:01 00:00:00", "ACQUISITION_DATE": "soon"},
            "S2A_31UFU_20200812_0_L2A/B04.tif": {},
        }
    )
    found = dict(zip(index.tiles["tile_id"], zip(*(index.column(name) for name in TIMES), strict=True), strict=True))
    assert found == {
        f"{PLANET[:-4]}:0:0": ("2021-04-04T10:00:00Z", 2021, 4, 94),
        "x:0:0": ("2020-12-31T10:20:30Z", 2020, 12, 366),
        "y:0:0": (None, None, None, None),
        "S2A_31UFU_20200812_0_L2A/B04:0:0": ("2020-08-12", 2020, 8, 225),
    }
    assert index.column("month").dtype == object
    assert len(index.select(parse_selector("d[time>=2020-12,month in 4|12]"))) == 2


TIMES = ("time", "year", "month", "doy")


def test_a_column_comes_before_names_and_an_empty_value_leaves_it_to_them(write, caplog):
    table = f"scene,flown,month\n{PLANET},2020-01-02 00:00:00,June\n{NAIP},,May\n"
    keys = ("table: {path: t.csv, key: scene}", "time: {column: flown}")
    with caplog.at_level(logging.WARNING):
        index = write({PLANET: {}, NAIP: {}}, *keys, tables=[("t.csv", table)])
    assert sorted(index.column("time")) == ["2009-08-18", "2020-01-02"]
    assert sorted(index.column("month")) == ["June", "May"]  # the user's own
    assert index.column("year").dtype == np.int64
    assert "for 1 of 2 scenes the column 'flown' has another day than the name of the file, and is used" in caplog.text


def test_a_column_called_time_of_windows_comes_before_that_of_scenes(write):
    windows = "file,r,c,time\nx,0,0,20210607\nx,0,4,\n"
    index = write(
        {"x.tif": {"DATE_ACQUIRED": "2020-02-29"}},
        "windows: {table: w.csv, key: file, row: r, col: c, size: 4}",
        tables=[("w.csv", windows)],
    )
    assert index.column("time").tolist() == ["2021-06-07", "2020-02-29"]


def test_months_make_domains_and_others_are_unspecified(write):
    files = {f"plot_{month}_2021{month:02d}03.tif": {} for month in (1, 4, 6)}
    keys = (
        "time: {pattern: 'plot_*_%Y%m%d'}",
        "domain: {months: {dry: [11, 12, 1], wet: [6]}}",
        "where: time < '2022'",
    )
    index = write(files, *keys)
    assert index.tiles["domain"].tolist() == ["dry", "unspecified", "wet"]
    assert index.select(parse_selector("d[domain=wet]")).column("time").tolist() == ["2021-06-03"]
    for selector, message in [
        ("d[time>=2022]", r"no tile has time>=2022; times are 2021-01-03 to 2021-06-03"),
        ("d[time>2021-04,time<2021-05]", r"selects no tile \(times are 2021-01-03 to 2021-06-03\)"),
        ("d[month>6]", r"no tile has month>6; its values are 1 to 6"),
    ]:
        with pytest.raises(CatalogError, match=message):
            index.select(parse_selector(selector))


@pytest.mark.parametrize(
    ("keys", "message"),
    [
        (["domain: {months: {dry: [1]}}"], r"6: datasets.d.domain.months: no scene has a time; write `time: {pattern"),
        (["where: month == 6"], r"no column 'month'; no file tells its date; write `time:"),
        (["time: {pattern: 'x_%Y%m%d'}"], r"6: datasets.d.time.pattern: 'x_%Y%m%d' is not in 'x.tif'"),
        (["time: {column: flwn}", "table: {path: t.csv, key: s}"], r"there is no column 'flwn'; did you mean 'flown'"),
        (
            ["time: {column: flown}", "table: {path: t.csv, key: s}"],
            r"6: datasets.d.time.column: scene 'x' has '07/06/2021' in the column 'flown', which is no date \(which",
        ),
        (["domain: {months: {dry: [1, 2], wet: [2]}}"], "month 2 is in 'dry' and in 'wet'; keep it in one"),
        (["domain: {months: {dry: [13]}}"], "13"),
        (["time: {pattern: '%Y%m'}"], "does not say the day; write %Y with %m and %d"),
    ],
)
def test_what_cannot_be(write, keys, message):
    with pytest.raises(GeomaeError, match=message):
        write({"x.tif": {}}, *keys, tables=[("t.csv", "s,flown\nx,07/06/2021\n")])


def test_a_filter_that_no_date_meets_says_which_there_are(write):
    with pytest.raises(CatalogError, match=r"no tile meets the condition \(times are 2009-08-18 to 2009-08-18\)"):
        write({NAIP: {}}, "where: time > '2009'")


def test_an_impossible_date_in_a_name_is_a_warning(write, caplog):
    with caplog.at_level(logging.WARNING):
        index = write({"m_4709963_se_14_1_20090231.tif": {}})
    assert "time" not in index.attributes
    assert (
        "1 of 1 scenes get no time: 'm_4709963_se_14_1_20090231.tif' looks like a name of NAIP, but its date"
        in caplog.text
    )


def test_the_digest_of_catalogues_without_dates_stays(tmp_path):
    plain = open_catalog(write_catalog(tmp_path, ENTRY))
    assert plain.digest(["d"]) == DIGEST
    dated = open_catalog(write_catalog(tmp_path, f"{ENTRY}    time: {{pattern: '%Y%j'}}\n"))
    assert dated.digest(["d"]) != plain.digest(["d"])


DIGEST = "feb88824bb90a8846bfb850a4895f863"  # as before the key was there
