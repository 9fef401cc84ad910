"""Shifts of the drawn landscape: each differs in what it is called after, and in nothing else."""

import numpy as np
import pytest
import rasterio

from geomae.catalog import open_catalog
from geomae.errors import CatalogError
from geomae.sensors import sensor
from geomae.tiles.sample_domains import BANDS, CLASSES, CROP, FOREST, GRASS, SENSOR, SHRUB
from geomae.tiles.sample_landscape import describe, landscape
from geomae.tiles.sample_shifts import Shift, observed_bands, response
from geomae.tiles.sources import open_source

SMALL = {"seed": 0, "size": 96, "scenes": 1}


@pytest.fixture(scope="module")
def draw(tmp_path_factory):
    """Pixels (C, H, W) and class codes (H, W) of both sides, by kind and strength of the shift; each is drawn once."""
    known = {}
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("GEOMAE_CACHE", str(tmp_path_factory.mktemp("cache")))

        def drawn(kind, strength=1.0):
            if (kind, strength) not in known:
                folder = landscape(**SMALL, shift=Shift(kind, strength))
                sides = {}
                for side in ("source", "target"):
                    places = folder / f"{side}_0.tif", folder / f"labels/{side}_0.tif"
                    with rasterio.open(places[0]) as pixels, rasterio.open(places[1]) as labels:
                        sides[side] = pixels.read(), labels.read(1)
                known[kind, strength] = sides
            return known[kind, strength]

        yield drawn


def class_means(side):
    """Mean of each class (L, C) that is seen."""
    pixels_CHW, code_HW = side
    return np.array([pixels_CHW[:, code_HW == code].mean(1) for code in CLASSES])


def shares(side):
    return np.bincount(side[1].ravel(), minlength=8)[1:] / (side[1] > 0).sum()


@pytest.mark.parametrize("kind", ["covariate", "shares", "conditional", "concept", "sensor"])
def test_the_source_is_always_the_same_and_no_strength_is_no_shift(draw, kind):
    same = draw("none")
    for strength in (0.0, 1.0):
        for one, other in zip(draw(kind, strength)["source"], same["source"], strict=True):
            assert np.array_equal(one, other)
    for one, other in zip(draw(kind, 0.0)["target"], same["target"], strict=True):
        assert np.array_equal(one, other)


def test_a_covariate_shift_changes_what_is_seen_of_the_same_ground_alike_for_all_classes(draw):
    same, shifted, half = draw("none")["target"], draw("covariate")["target"], draw("covariate", 0.5)["target"]
    assert np.array_equal(same[1], shifted[1])
    change_LC = class_means(shifted) - class_means(same)
    assert (change_LC[:, BANDS.index("B01")] > 200).all()  # haze
    halfway = (class_means(half) - class_means(same))[:, 0].mean() / change_LC[:, 0].mean()
    assert 0.4 < halfway < 0.7


def test_shares_shift_and_spectra_stay(draw):
    same, shifted = draw("none")["target"], draw("shares")["target"]
    assert np.abs(shares(shifted) - shares(same)).sum() / 2 > 0.2
    sharp = [BANDS.index(band) for band in ("B02", "B03", "B04", "B08")]  # coarser bands mix with what is around
    ratio_LC = (class_means(shifted) / class_means(same))[:, sharp]
    assert np.abs(ratio_LC[[FOREST - 1, CROP - 1]] - 1).max() < 0.1


def test_a_conditional_shift_moves_each_class_its_own_way(draw):
    same, shifted = draw("none")["target"], draw("conditional")["target"]
    assert np.array_equal(same[1], shifted[1])
    red_L = (class_means(shifted) / class_means(same))[:, BANDS.index("B04")]
    assert red_L[GRASS - 1] > 2 > 1.6 > red_L[FOREST - 1]


def test_a_concept_shift_names_the_same_pixels_otherwise(draw):
    same, shifted = draw("none")["target"], draw("concept", 0.5)["target"]
    assert np.array_equal(same[0], shifted[0])
    changed = same[1] != shifted[1]
    assert set(zip(same[1][changed].tolist(), shifted[1][changed].tolist(), strict=True)) == {
        (GRASS, CROP),
        (SHRUB, FOREST),
    }
    known = np.isin(same[1], (GRASS, SHRUB))
    assert 0.25 < changed.sum() / known.sum() < 0.75
    assert not np.isin(draw("concept")["target"][1], (GRASS, SHRUB)).any()


def test_another_sensor_has_fewer_and_wider_bands(draw, tmp_path):
    source, target = (draw("sensor")[side][0] for side in ("source", "target"))
    assert (len(source), len(target)) == (12, 6)
    shift = Shift("sensor")
    bands = observed_bands(shift.domains()[1])
    assert [band.name for band in bands] == ["B02", "B03", "B04", "B8A", "B11", "B12"]
    assert [band.fwhm_um for band in bands] == pytest.approx(
        [3 * band.fwhm_um for band in sensor(SENSOR).bands if band.name in {one.name for one in bands}]
    )
    weight_BC = response(shift.domains()[1])
    assert weight_BC.sum(1) == pytest.approx(1) and (weight_BC >= 0).all()
    assert weight_BC[2, BANDS.index("B04")] == weight_BC[2].max() < 1 and weight_BC[2, BANDS.index("B05")] > 0
    assert np.array_equal(response(shift.domains()[0]), np.eye(12))
    assert describe(shift, "source")["sensor"] == SENSOR
    assert [band["name"] for band in describe(shift, "target")["sensor"]["bands"]] == [band.name for band in bands]


@pytest.mark.parametrize(
    ("sample", "why"),
    [
        ("{strength: 0.5}", "`strength` needs a shift"),
        ("{side: target}", "`side` needs a shift"),
        ("{shift: none, strength: 0.5}", "no strength"),
        ("{shift: sensor}", "two sensors are two data sets"),
        ("{shift: sensors, side: target}", "sensor"),
        ("{shift: shares, strength: 2}", "strength"),
    ],
)
def test_keys_that_do_not_fit_are_refused_by_name(tmp_path, sample, why):
    path = tmp_path / "data_catalog.yaml"
    path.write_text(f"version: 1\ndatasets:\n  drawn:\n    sample: {sample}\n")
    with pytest.raises(CatalogError, match=rf"(?s)data_catalog.yaml:4.*{why}"):
        open_catalog(path)


def test_each_side_is_read_as_its_own_data_set(draw, tmp_path):
    path = tmp_path / "data_catalog.yaml"
    drawn = "seed: 0, size: 96, scenes: 1, shift: sensor"
    path.write_text(
        f"version: 1\ndatasets:\n  near:\n    sample: {{{drawn}, side: source}}\n"
        f"  far:\n    sample: {{{drawn}, side: target}}\n"
    )
    near, far = (open_source(open_catalog(path), name) for name in ("near", "far"))
    assert ([scene.stem for scene in near.scenes], len(near.bands)) == (["source_0"], 12)
    assert ([scene.stem for scene in far.scenes], len(far.bands)) == (["target_0"], 6)
