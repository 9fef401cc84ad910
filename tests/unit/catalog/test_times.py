"""Dates: how they are written and compared, what names of products tell, and patterns for other names."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from geomae.catalog.times import PRODUCT_NAMES, NamePattern, derived, period, read_time, time_of_path

NAMES = {  # of files and folders as their makers write them
    "Sentinel-2": [
        ("S2B_MSIL2A_20210607T101559_N0300_R065_T32TQM_20210607T133508.SAFE", "2021-06-07T10:15:59Z"),
        ("S2A_MSIL1C_20170105T013442_N0204_R031_T53NMJ_20170105T013443.SAFE", "2017-01-05T01:34:42Z"),
        ("S2A_MSIL2A_20170613T101031_87_48_B8A.tif", "2017-06-13T10:10:31Z"),  # BigEarthNet
        ("S2B_MSIL2A_20180204T94161_57_38_B01.tif", "2018-02-04"),
    ],
    "Sentinel-2 before December 2016": [
        (
            "S2A_OPER_PRD_MSIL1C_PDMC_20150816T231301_R079_V20150816T172030_20150816T172030.SAFE",
            "2015-08-16T17:20:30Z",
        ),
        (  # the folder of the product tells, the granule has the time of processing
            "S2A_OPER_PRD_MSIL1C_PDMC_20160606T194838_R108_V20160605T102026_20160605T102026.SAFE/GRANULE/"
            "S2A_OPER_MSI_L1C_TL_SGS__20160607T153734_A004979_T32TQM_N02.02/IMG_DATA/"
            "S2A_OPER_MSI_L1C_TL_SGS__20160607T153734_A004979_T32TQM_B04.jp2",
            "2016-06-05T10:20:26Z",
        ),
        ("S2A_OPER_MSI_L1C_TL_SGS__20160607T153734_A004979_T32TQM_B04.jp2", None),
    ],
    "Sentinel-2 granule": [
        ("T32TQM_20210607T101559_B04_10m.jp2", "2021-06-07T10:15:59Z"),
        ("L2A_T32TQM_20170704T101031_B8A_20m.jp2", "2017-07-04T10:10:31Z"),
        ("GRANULE/L1C_T32TQM_A022189_20210607T101559/IMG_DATA/red.jp2", "2021-06-07T10:15:59Z"),
    ],
    "Sentinel-2 as COG": [
        ("S2A_31UFU_20200812_0_L2A/B04.tif", "2020-08-12"),
        ("S2B_T32TQM_20210607T101559_L2A.tif", "2021-06-07T10:15:59Z"),
    ],
    "Sentinel-2 of Earth Engine": [("20210607T101559_20210607T101711_T32TQM.tif", "2021-06-07T10:15:59Z")],
    "Sentinel-2 of MAJA": [("SENTINEL2A_20210607-103023-461_L2A_T32TQM_C_V2-2_FRE_B4.tif", "2021-06-07T10:30:23Z")],
    "Landsat": [
        ("LC08_L1TP_044034_20140318_20170307_01_T1_B4.TIF", "2014-03-18"),
        ("LE07_L2SP_022049_20020416_20200917_02_T1_SR_B4.TIF", "2002-04-16"),
        ("LC08_CU_009010_20210607_20210620_02_SR_B4.TIF", "2021-06-07"),
        ("LC08_044034_20140318.tif", "2014-03-18"),
    ],
    "Landsat of ESPA": [("LC080440342014031801T1-SC20210607101559_sr_band4.tif", "2014-03-18")],
    "Landsat before collections": [
        ("LE70220491999322EDC01_stack.gtif", "1999-11-18"),
        ("LE70220492002106EDC00_stack.gtif", "2002-04-16"),
        ("LT50220491984061XXX04.tif", "1984-03-01"),  # a leap year
        ("LC80440342014077LGN00.tif", "2014-03-18"),
    ],
    "HLS": [
        ("HLS.L30.T32TQM.2021158T100000.v2.0.B04.tif", "2021-06-07T10:00:00Z"),
        ("HLS.S30.T32TQM.2018001.v1.4.hdf", "2018-01-01"),
    ],
    "MODIS and VIIRS": [
        ("MOD09GA.A2021158.h18v04.006.2021160031232.tif", "2021-06-07"),
        ("MCD43A4.A2020366.h18v04.061.2021009101550.tif", "2020-12-31"),
        ("VNP09GA.A2021158.h18v04.001.2021159080421.tif", "2021-06-07"),
    ],
    "MODIS and VIIRS of AppEEARS": [
        ("MOD13Q1.061__250m_16_days_NDVI_doy2021161_aid0001.tif", "2021-06-10"),
        ("MOD09GA.061_sur_refl_b01_1_doy2021158000000_aid0001.tif", "2021-06-07"),
    ],
    "NAIP": [
        ("m_4709963_se_14_1_20090818.tif", "2009-08-18"),
        ("m_3008501_ne_16_060_20180601_20190211.tif", "2018-06-01"),
        ("m_3807708_sw_18_h_20180601.tif", "2018-06-01"),
    ],
    "PlanetScope": [
        ("20210404_100000_12_1057_3B_AnalyticMS_SR.tif", "2021-04-04T10:00:00Z"),
        ("20170831_172754_101c_3B_AnalyticMS.tif", "2017-08-31T17:27:54Z"),
    ],
    "Sentinel-1": [
        ("S1A_IW_GRDH_1SDV_20210607T052930_20210607T052955_038229_0482DD_1A2B.SAFE", "2021-06-07T05:29:30Z"),
        ("S1B_IW_SLC__1SDV_20210607T052930_20210607T052955_027229_0340DD_1A2B.SAFE", "2021-06-07T05:29:30Z"),
        ("S1A_IW_20210607T052930_DVP_RTC30_G_gpuned_1A2B_VV.tif", "2021-06-07T05:29:30Z"),  # HyP3
    ],
    "Sentinel-1 measurement": [
        ("s1a-iw-grd-vv-20210607t052930-20210607t052955-038229-0482dd-001.tiff", "2021-06-07T05:29:30Z"),
    ],
}


def test_every_product_has_an_example():
    assert list(NAMES) == list(PRODUCT_NAMES)


@pytest.mark.parametrize(("path", "time"), [pair for pairs in NAMES.values() for pair in pairs])
def test_names_of_products_tell_when_they_were_acquired(path, time):
    assert time_of_path(path) == time
    assert time_of_path(f"field_2/crop-{path}") == time  # people put words before names


@pytest.mark.parametrize(
    "path",
    [
        "chip_20210607.tif",
        "20210607.tif",
        "20210607/scene.tif",
        "20210607_101559.tif",
        "plot_2021158.tif",
        "IMG_20210607_101559.jpg",
        "XS2A_MSIL2A_20210607T101559.tif",
        "LC08_044034_2014031812.tif",  # ten digits are no date
        "m_4709963_se_14_1_17760704.tif",
    ],
)
def test_digits_alone_are_no_date(path):
    assert time_of_path(path) is None


@pytest.mark.parametrize(
    ("path", "product"),
    [
        ("S2A_MSIL2A_20210230T101031_N0300_R065_T32TQM.tif", "Sentinel-2"),
        ("LE70220491999366EDC01.tif", "Landsat before collections"),  # 1999 had 365 days
        ("MOD09GA.A2021000.h18v04.tif", "MODIS and VIIRS"),
        ("20210404_250000_12_1057_3B_AnalyticMS.tif", "PlanetScope"),
    ],
)
def test_a_name_with_an_impossible_date_is_said(path, product):
    with pytest.raises(ValueError, match=f"{path}' looks like a name of {product}, but its date is impossible"):
        time_of_path(path)


def test_a_file_tells_before_its_folder_and_the_nearest_folder_first():
    folder = "S2A_31UFU_20200812_0_L2A/LC08_044034_20140318"
    assert time_of_path(f"{folder}/S2B_31UFU_20200901_0_L2A.tif") == "2020-09-01"
    assert time_of_path(f"{folder}/red.tif") == "2014-03-18"


@pytest.mark.parametrize(
    ("value", "time"),
    [
        ("2021-06-07", "2021-06-07"),
        (20210607, "2021-06-07"),
        ("20210607", "2021-06-07"),
        ("20210607T101559Z", "2021-06-07T10:15:59Z"),
        ("2021-06-07T10:15:59.999Z", "2021-06-07T10:15:59Z"),
        ("2021-06-07 10:15", "2021-06-07T10:15:00Z"),
        ("2021-06-07T23:30:00-02:00", "2021-06-08T01:30:00Z"),
        ("2021-06-07T01:30:00+0530", "2021-06-06T20:00:00Z"),
        ("2021-06-07 00:00:00", "2021-06-07"),  # as spreadsheets and pandas write a day
        ("2021-06-07T00:00:00Z", "2021-06-07T00:00:00Z"),
        (" 2021-06-07 ", "2021-06-07"),
    ],
)
def test_values_of_tables(value, time):
    assert read_time(value) == time


@pytest.mark.parametrize(
    ("value", "message"),
    [
        ("07/06/2021", "which number is the month"),
        ("7.6.21", "which number is the month"),
        (44354, "spreadsheet's number of days"),
        ("44354.5", "spreadsheet's number of days"),
        (1623060959, "seconds since 1970"),
        ("June 2021", "is no date; write 2021-06-07 or 2021-06-07T10:00:31Z"),
        ("2021-06", "is no date"),
        (2021, "is no date"),
        ("2021-02-30", "is an impossible date"),
        ("20211345", "is an impossible date"),
        ("0021-06-07", "is no year of imagery"),
        (20210607.0, "is no date"),
        (True, "is no date"),
    ],
)
def test_values_that_are_no_dates(value, message):
    with pytest.raises(ValueError, match=message):
        read_time(value)


@pytest.mark.parametrize(
    ("text", "first", "after"),
    [
        ("2021", "2021", "2022"),
        ("2021-04", "2021-04", "2021-05"),
        ("2021-12", "2021-12", "2022-01"),
        ("2021-04-03", "2021-04-03", "2021-04-04"),
        ("2020-02-29", "2020-02-29", "2020-03-01"),
        ("2021-12-31T23:59:59Z", "2021-12-31T23:59:59Z", "2022-01-01"),
        ("2021-04-03T00:00:00Z", "2021-04-03", "2021-04-03T00:00:01Z"),
    ],
)
def test_periods(text, first, after):
    assert period(text) == (first, after)


@pytest.mark.parametrize("text", ["2021-13", "2021-04-31", "June", "", "21", "9999", "2021-4"])
def test_no_periods(text):
    with pytest.raises(ValueError, match="write"):
        period(text)


@given(st.dates(min_value=__import__("datetime").date(1800, 1, 1), max_value=__import__("datetime").date(2198, 1, 1)))
def test_a_day_lies_in_its_day_month_and_year(day):
    text = day.isoformat()
    for one in (text, text[:7], text[:4]):
        first, after = period(one)
        assert first <= text < after
        assert first <= f"{text}T23:59:59Z" < after
    assert derived(text) == (day.year, day.month, int(day.strftime("%j")))


@pytest.mark.parametrize(
    ("pattern", "path", "time"),
    [
        ("%Y%m%d", "plot_7_20210607_v2.tif", "2021-06-07"),
        ("plot_*_%Y-%m-%d", "a/plot_north_field_2021-06-07.tif", "2021-06-07"),
        ("%Y%j", "flight2021158.tif", "2021-06-07"),
        ("%d.%m.%Y", "07.06.2021.tif", "2021-06-07"),
        ("%Y%m%dT%H%M", "x_20210607T1015.tif", "2021-06-07T10:15:00Z"),
        ("%Y%m%d_%H%M%S", "IMG_20210607_101559.jpg", "2021-06-07T10:15:59Z"),
        ("%Y/%m/%d/", "flights/2021/06/07/north.tif", "2021-06-07"),
        ("v?_%Y%m%d", "v3_20210607.tif", "2021-06-07"),
        ("s%Y%m%d", "id12345678_s20210607.tif", "2021-06-07"),
        ("%Y%m%d", "20210607_to_20210607.tif", "2021-06-07"),
    ],
)
def test_patterns(pattern, path, time):
    assert NamePattern(pattern).read(path) == time


@pytest.mark.parametrize(
    ("pattern", "path", "message"),
    [
        ("%Y%m%d", "plot_7.tif", "'%Y%m%d' is not in 'plot_7.tif'"),
        ("%Y%m%d", "plot_202106071.tif", "is not in"),  # nine digits
        ("%Y%m%d", "2021/06/07/x.tif", "is not in 'x.tif'"),
        ("%Y%m%d", "plot_20211345.tif", r"finds an impossible date in 'plot_20211345.tif' \(month must be"),
        ("%Y%j", "plot_2021366.tif", "2021 has no day 366"),
        ("%Y%m%d", "20210607_20210608.tif", r"more than once \(2021-06-07, 2021-06-08\); write more"),
    ],
)
def test_patterns_that_find_no_date(pattern, path, message):
    with pytest.raises(ValueError, match=message):
        NamePattern(pattern).read(path)


@pytest.mark.parametrize(
    ("pattern", "message"),
    [
        ("%Y%m", "does not say the day"),
        ("%m%d", "does not say the day"),
        ("plot_*", "does not say the day"),
        ("%y%m%d", "'%y' is not read; write %Y, %m, %d, %j"),
        ("%Y%m%d%", "'%' is not read"),
        ("%Y%m%d_%Y", "'%Y' is there twice"),
        ("%Y%m%d%M%S", "without the hour"),
    ],
)
def test_patterns_that_say_no_date(pattern, message):
    with pytest.raises(ValueError, match=message):
        NamePattern(pattern)
