"""Radiometry is recovered: gains, offsets and bands of other widths, on pixels that carry it and on no others."""

from dataclasses import replace
from types import SimpleNamespace

import numpy as np
import pytest
import rasterio
from rasterio import Affine

from geomae.catalog import open_catalog
from geomae.errors import ConfigError, ModelError
from geomae.sensors import Band
from geomae.sensors.record import SensorRecord
from geomae.tiles.radiometry import ADJUSTMENT, INVARIANT, QUANTILES, Radiometry
from geomae.tiles.radiometry_fits import (
    FEWEST_SHARE,
    LEVELS,
    UNCHANGED,
    fit_radiometry,
    mapped,
    orthogonal_line,
    reason_against,
    spectral_weights,
    unchanged_probability,
)
from geomae.tiles.reader import TileReader
from geomae.tiles.selection import select_tiles

SIDE, BANDS = 64, 3
GAIN, OFFSET = np.array([0.8, 1.3, 0.5]), np.array([0.05, -0.02, 0.1])
ENTRY = """\
  {name}:
    path: {name}.tif
    sensor:
      unit: reflectance
      bands:
        - {{name: blue, wavelength_um: {blue}, fwhm_um: 0.06}}
        - {{name: green, wavelength_um: 0.56, fwhm_um: 0.06}}
        - {{name: red, wavelength_um: 0.66, fwhm_um: 0.06}}
    scale: 1
    offset: 0
    nodata: -9
    tile: {{size: 16}}
"""


@pytest.fixture(scope="module")
def domains(tmp_path_factory):
    """A source, and the same ground (gained, offset, a fifth of it changed, a corner without data) as a target."""
    folder = tmp_path_factory.mktemp("radiometry")
    rng = np.random.default_rng(0)
    ground = rng.gamma(3, 0.05, size=(BANDS, SIDE, SIDE)) + rng.gamma(2, 0.05, size=(1, SIDE, SIDE))
    seen = (ground - OFFSET[:, None, None]) / GAIN[:, None, None]
    plain = seen.copy()
    seen[:, :13] = rng.uniform(0, 1, size=(BANDS, 13, SIDE))
    seen[:, 60:, 60:] = plain[:, 60:, 60:] = -9
    ground_seen = ground.copy()
    ground_seen[:, 60:, 60:] = -9
    flat = np.where(plain == -9, 0.5, plain)  # in the corner, which the source does not show
    flat[1] = np.where(plain[1] == -9, 0.5, 0.3)
    scenes = {"source": (ground_seen, 0.0), "changed": (seen, 0.0), "gained": (plain, 0.0), "away": (plain, 9e5)}
    nearly = plain.copy()
    nearly[1] = np.where(plain[1] == -9, -9, 0.3)
    nearly[1, 0, :3] = 0.9
    scenes |= {"flat": (flat, 0.0), "nearly": (nearly, 0.0)}
    for name, (pixels, east) in scenes.items():
        about = {"driver": "GTiff", "height": SIDE, "width": SIDE, "count": BANDS, "dtype": "float32"}
        where = {"crs": "EPSG:32633", "transform": Affine(10, 0, 400_000 + east, 0, -10, 5_000_000)}
        with rasterio.open(folder / f"{name}.tif", "w", **about, **where) as file:
            file.write(pixels.astype(np.float32))
    entries = "".join(ENTRY.format(name=name, blue=0.5 if name == "away" else 0.49) for name in scenes)
    (folder / "catalog.yaml").write_text(f"version: 1\ndatasets:\n{entries}")
    return dict(zip(scenes, select_tiles(open_catalog(folder / "catalog.yaml"), list(scenes)), strict=True))


def read(selected):
    reader = TileReader(selected.index, 0, [band.name for band in selected.imagery.bands])
    return reader.many(range(len(reader)))


def test_quantiles_recover_gain_and_offset(domains):
    found = fit_radiometry(QUANTILES, domains["source"], domains["gained"], 0)
    pixels, valid = read(mapped(domains["gained"], found))
    truth, known = read(domains["source"])
    assert np.array_equal(valid, known)
    assert not valid.all()
    np.testing.assert_allclose(pixels[valid], truth[known], atol=1e-3)
    assert (pixels[~valid] == 0).all()


def test_quantiles_are_those_of_numpy(domains):
    found = fit_radiometry(QUANTILES, domains["source"], domains["changed"], 0)
    pixels, valid = read(domains["source"])
    for band in range(BANDS):
        values = pixels[:, band][valid[:, band]].astype(np.float64)
        np.testing.assert_allclose(found.value_DQ[band], np.quantile(values, LEVELS), atol=2e-3)


def test_a_band_with_hardly_more_than_one_value_has_no_quantiles(domains):
    """A curve through its quantiles would map the few other pixels to thousands."""
    with pytest.raises(ConfigError, match="green of nearly has too few different values"):
        fit_radiometry(QUANTILES, domains["source"], domains["nearly"], 0)


def test_bands_of_one_wavelength_are_told_apart_by_name_in_another_data_set_of_the_sensor():
    bands = tuple(Band(name, "red", 0.6, 0.1, 30.0) for name in ("low-gain", "high-gain"))
    one, other = (
        SimpleNamespace(name=name, imagery=SensorRecord(f"{name}:dn", "dn", 30.0, bands, (1.0, 1.0), (1.0, 1.0)))
        for name in ("spring", "autumn")
    )
    assert reason_against(QUANTILES, one, other) is None


def test_invariant_pixels_recover_gain_and_offset_where_a_part_changed(domains):
    found = fit_radiometry(INVARIANT, domains["source"], domains["changed"], 0)
    np.testing.assert_allclose(found.weight_DC, np.diag(GAIN), atol=1e-3)
    np.testing.assert_allclose(found.offset_D, OFFSET, atol=1e-3)
    again = fit_radiometry(INVARIANT, domains["source"], domains["changed"], 0)
    assert found.digest == again.digest


def test_pixels_that_changed_are_told_from_those_that_did_not():
    rng = np.random.default_rng(1)
    first = rng.normal(size=(2000, BANDS)) @ rng.normal(size=(BANDS, BANDS))
    second = 2 * first + 1 + 0.05 * rng.normal(size=first.shape)
    second[:400] = rng.normal(size=(400, BANDS))
    probability = unchanged_probability(first, second)
    assert probability[:400].mean() < 0.05
    assert probability[400:].mean() > 0.2
    assert (probability > UNCHANGED)[:400].sum() <= 1
    assert (probability > UNCHANGED)[400:].mean() > 2 * FEWEST_SHARE


def test_a_band_with_a_single_value_on_the_common_ground_is_named(domains):
    with pytest.raises(ConfigError, match="invariant-pixels: green of flat has a single value"):
        fit_radiometry(INVARIANT, domains["source"], domains["flat"], 0)


def test_the_line_is_that_of_the_first_principal_axis():
    rng = np.random.default_rng(2)
    x = rng.normal(size=500)
    points = np.stack([x + 0.2 * rng.normal(size=500), 1.7 * x + 3 + 0.2 * rng.normal(size=500)])
    axis = np.linalg.svd(points - points.mean(1, keepdims=True), full_matrices=False)[0][:, 0]
    gain, offset = orthogonal_line(*points)
    np.testing.assert_allclose([gain, offset], [axis[1] / axis[0], points[1].mean() - gain * points[0].mean()])


def test_bands_are_adjusted_along_a_straight_spectrum(domains):
    found = fit_radiometry(ADJUSTMENT, domains["away"], domains["gained"], 0)
    centres = np.array([band.wavelength_um for band in domains["gained"].imagery.bands])
    wanted = np.array([band.wavelength_um for band in domains["away"].imagery.bands])
    pixels = (2 * centres - 0.3)[:, None, None] * np.ones((BANDS, 2, 2))
    there, valid = found.apply(pixels.astype(np.float32), np.ones((BANDS, 2, 2), bool))
    assert there[1, 0, 0] == pytest.approx(2 * wanted[1] - 0.3, abs=1e-6)  # as it is
    spread = np.linspace(wanted[0] - 0.03, wanted[0] + 0.03, 101)
    direct = np.interp(spread, centres, pixels[:, 0, 0]).mean()
    assert there[0, 0, 0] == pytest.approx(direct, abs=1e-6)
    assert valid.all()
    partly = np.ones((BANDS, 2, 2), bool)
    partly[1, 0, 0] = False  # green, which blue at 0.50 is made of, too
    _, valid = found.apply(pixels.astype(np.float32), partly)
    assert valid[:, 0, 0].tolist() == [False, False, True]


def test_weights_of_a_band_sum_to_one():
    known = [Band(name, None, centre, 0.03, None, None) for name, centre in (("a", 0.5), ("b", 0.6), ("c", 0.9))]
    for centre in (0.45, 0.55, 0.7, 0.95):
        assert spectral_weights(Band("x", None, centre, 0.05, None, None), known).sum() == pytest.approx(1)
    assert spectral_weights(known[1], known).tolist() == [0, 1, 0]


def test_what_carries_no_radiometry_is_said(domains):
    source, away = domains["source"], domains["away"]
    assert "shows the ground" in reason_against(INVARIANT, source, away)
    assert "the same wavelengths" in reason_against(ADJUSTMENT, source, domains["gained"])
    assert reason_against(QUANTILES, source, away) is None
    with pytest.raises(ConfigError, match="use quantiles"):
        fit_radiometry(INVARIANT, source, away, 0)
    with pytest.raises(ConfigError, match="quantiles"):
        fit_radiometry("quantile", source, away, 0)
    fewer = replace(away, imagery=away.imagery.select(["green", "red"]))
    assert "are not the same" in reason_against(QUANTILES, source, fewer)


def test_a_radiometry_is_the_same_after_it_was_saved(domains, tmp_path):
    found = fit_radiometry(QUANTILES, domains["source"], domains["changed"], 0)
    found.save(tmp_path / "kept")
    again = Radiometry.load(tmp_path / "kept")
    assert again.digest == found.digest
    assert (again.about, again.source, again.target) == (found.about, found.source, found.target)
    assert mapped(domains["changed"], found).digest() != domains["changed"].digest()
    with pytest.raises(ModelError, match="holds no radiometry"):
        Radiometry.load(tmp_path)
    found.save(tmp_path / "other")
    (tmp_path / "other" / "radiometry.safetensors").write_bytes(b"x")
    with pytest.raises(ModelError, match="is not the one"):
        Radiometry.load(tmp_path / "other")
