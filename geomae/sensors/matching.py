"""Which band of one set is the same measurement as a band of another."""

from collections.abc import Sequence

from geomae.sensors.band import Band, plain_name

ROUNDING_UM = 1e-9  # differences of published figures are exact only to the rounding of floating point


def match_bands(wanted: Sequence[Band], offered: Sequence[Band], same_sensor: bool) -> tuple[int | None, ...]:
    """For each wanted band, the index of the offered band that measures the same, or None.

    Within a sensor (`same_sensor`) bands match by name, where `B2` and `B02` are one name. Across sensors they match by
    wavelength: a candidate is an offered band of equal polarisation (none for optics) whose centre lies no farther
    from the wanted centre than half the narrower of the two widths; of the candidates the nearest centre is taken, at
    equal distance the one of nearer width, then the first. So Landsat 8 B5 (0.865 um, 0.028 wide) meets Sentinel-2
    B8A (0.865 um) and not B08 (0.833 um). Each wanted band is matched alone: two of them may meet one offered band.
    """
    return tuple(_named(band, offered) if same_sensor else _nearest(band, offered) for band in wanted)


def _named(wanted: Band, offered: Sequence[Band]) -> int | None:
    name = plain_name(wanted.name)
    return next((index for index, band in enumerate(offered) if plain_name(band.name) == name), None)


def _nearest(wanted: Band, offered: Sequence[Band]) -> int | None:
    candidates = []
    for index, band in enumerate(offered):
        distance_um = abs(band.wavelength_um - wanted.wavelength_um)
        reach_um = min(band.fwhm_um, wanted.fwhm_um) / 2
        if band.polarisation == wanted.polarisation and distance_um <= reach_um + ROUNDING_UM:
            candidates.append((round(distance_um, 9), round(abs(band.fwhm_um - wanted.fwhm_um), 9), index))
    return min(candidates)[-1] if candidates else None
