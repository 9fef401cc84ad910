"""The domains of the synthetic landscape: layout of the land cover, mixtures of spectra, light and sensor."""

from collections.abc import Mapping
from dataclasses import dataclass
from datetime import date

SENSOR = "sentinel-2-l2a"
BANDS = ("B01", "B02", "B03", "B04", "B05", "B06", "B07", "B08", "B8A", "B09", "B11", "B12")
CLASSES = {1: "water", 2: "forest", 3: "shrub", 4: "grass", 5: "crop", 6: "bare", 7: "built"}
WATER, FOREST, SHRUB, GRASS, CROP, BARE, BUILT = CLASSES


@dataclass(frozen=True)
class LandscapeDomain:
    """The properties of a domain; shares are of area, lengths `_px` in pixels."""

    name: str
    season: str
    first_day: date
    epsg: int
    mixtures: tuple[Mapping[str, float], ...]  # spectrum -> share, per class code from 1
    wild: Mapping[int, float]  # natural cover: class code -> share, from valley to hill
    fields: Mapping[int, float]
    farmed: float  # share of the area
    pivots: float  # share of parcels with center-pivot irrigation, which are round
    parcel_px: tuple[float, float, float]  # median width and length, and the standard deviation of their logarithms
    border: str  # the spectrum along parcel borders
    river_px: tuple[float, float, float]  # half width of the bed, widths of bare and wooded bank
    relief_m: float
    sun: tuple[float, float]  # horizontal north and east components of its direction over the vertical one
    haze: tuple[float, float]  # reflectance added at 0.55 um, and the exponent of its decrease with wavelength
    wet: float = 0.0  # moisture added everywhere, in standard deviations of its variation between places and parcels
    bands: tuple[str, ...] = BANDS
    widening: float = 1.0  # bandwidth as a multiple of Sentinel-2's


# fmt: off
DOMAINS = (
    LandscapeDomain(name="lowland", season="summer", first_day=date(2021, 6, 7), epsg=32632, farmed=.66,
        wild={GRASS: .12, SHRUB: .14, FOREST: .74},
        mixtures=({"clear": .5, "turbid": .5}, {"broadleaf": .65, "needle": .35},
                  {"needle": .4, "sward": .3, "straw": .3}, {"sward": .85, "straw": .1, "loam": .05},
                  {"leaf": .58, "straw": .24, "loam": .18}, {"loam": .88, "straw": .12},
                  {"concrete": .36, "ochre": .2, "asphalt": .22, "sward": .22}),
        fields={GRASS: .24, CROP: .6, BARE: .16}, pivots=0, parcel_px=(13, 24, .4), border="broadleaf",
        river_px=(6, 0, 2), relief_m=60, sun=(-.58, .34), haze=(.006, 3.2)),
    LandscapeDomain(name="dryland", season="dry", first_day=date(2021, 8, 16), epsg=32630, farmed=.42,
        wild={SHRUB: .34, FOREST: .08, GRASS: .26, BARE: .32},
        mixtures=({"clear": .25, "turbid": .75}, {"broadleaf": .5, "needle": .46, "ochre": .04},
                  {"ochre": .48, "needle": .34, "straw": .18}, {"straw": .58, "ochre": .32, "sward": .1},
                  {"leaf": .5, "straw": .3, "ochre": .2}, {"ochre": .62, "sand": .38},
                  {"concrete": .52, "sand": .24, "asphalt": .18, "needle": .06}),
        fields={CROP: .56, GRASS: .1, BARE: .34}, pivots=.65, parcel_px=(44, 48, .1), border="sand",
        river_px=(12, 4, 6), relief_m=45, sun=(-1.16, .54), haze=(.016, 1.1)))
# fmt: on
