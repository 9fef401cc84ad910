"""Figures of reconstructions: unmasked as others compute them, masked as by hand.

B batch, T tiles, C bands, H W pixels
"""

import numpy as np
import pytest
import torch
from skimage.metrics import peak_signal_noise_ratio, structural_similarity
from torchmetrics.functional import image as reference

from geomae.metrics.reconstruction import ErrorSums, error_sums, figures, indices, spectral_angle, ssim_map, units
from geomae.sensors import sensor

S2 = sensor("sentinel-2-l2a")
BANDS = tuple(S2.band(name) for name in ("B02", "B03", "B04", "B08"))
NAMES = [band.name for band in BANDS]
RANGE = np.array([1.0, 0.8, 0.5, 2.0])
SIDES = (3, 4, 24, 20)
METRICS = ("rmse", "mae", "bias", "psnr", "ssim")


@pytest.fixture
def parts():
    """Truth, prediction, counted and valid pixels; bands have gaps of their own."""
    rng = torch.Generator().manual_seed(0)
    truth = torch.rand(SIDES, generator=rng, dtype=torch.float64) + 0.1
    predicted = truth + 0.1 * torch.randn(SIDES, generator=rng, dtype=torch.float64)
    hidden = torch.rand((3, 1, 6, 5), generator=rng).repeat_interleave(4, 2).repeat_interleave(4, 3) < 0.6
    valid = torch.rand(SIDES, generator=rng) < 0.95
    return truth, predicted, hidden & valid, valid


def sums(predicted, truth, counted, valid, bands=BANDS, span=RANGE):
    return error_sums(predicted, truth, counted, valid, bands, torch.from_numpy(span))


def values(*arguments, bands=BANDS, span=RANGE):
    """The figures of all tiles together."""
    one = sums(*arguments, bands=bands, span=span)
    return {key: float(value[0]) for key, value in figures(one.weighted(np.ones((1, len(one)))), bands, span).items()}


def test_unmasked_figures_agree_with_scikit_image_and_torchmetrics(parts):
    truth, predicted, *_ = parts
    every = torch.ones(SIDES, dtype=torch.bool)
    found = figures(sums(predicted, truth, every, every), BANDS, RANGE)
    for t in range(3):
        for c, (name, span) in enumerate(zip(NAMES, RANGE, strict=True)):
            pair = truth[t, c].numpy(), predicted[t, c].numpy()
            window = {"gaussian_weights": True, "sigma": 1.5, "use_sample_covariance": False}
            assert found["ssim", name][t] == pytest.approx(
                structural_similarity(*pair, data_range=span, **window), abs=1e-5
            )
            assert found["psnr", name][t] == pytest.approx(peak_signal_noise_ratio(*pair, data_range=span), abs=1e-5)
            theirs = reference.peak_signal_noise_ratio(*map(torch.from_numpy, reversed(pair)), data_range=float(span))
            assert found["psnr", name][t] == pytest.approx(float(theirs), abs=1e-5)
        one = predicted[t : t + 1], truth[t : t + 1]
        angle = np.rad2deg(float(reference.spectral_angle_mapper(*one)))
        assert found["spectral_angle", "all"][t] == pytest.approx(angle, abs=1e-5)
        ergas = float(reference.error_relative_global_dimensionless_synthesis(*one, ratio=1))
        assert found["ergas", "all"][t] == pytest.approx(ergas, rel=1e-5)
        assert found["ndvi_rmse", "all"][t] > 0


def test_the_map_of_similarity_is_that_of_torchmetrics_away_from_the_edges(parts):
    truth, predicted, *_ = parts
    _, theirs = reference.structural_similarity_index_measure(
        predicted, truth, data_range=0.7, reduction="none", return_full_image=True
    )
    ours = ssim_map(predicted, truth, torch.full((4,), 0.7))
    torch.testing.assert_close(ours, theirs[..., 5:-5, 5:-5], atol=1e-5, rtol=0)


def test_masked_figures_are_those_computed_by_hand(parts):
    truth, predicted, counted, valid = parts
    found = values(predicted, truth, counted, valid)
    relative = []
    for c, (name, span) in enumerate(zip(NAMES, RANGE, strict=True)):
        error = (predicted - truth)[:, c][counted[:, c]].numpy()
        rmse = np.sqrt((error**2).mean())
        expected = {"rmse": rmse, "mae": abs(error).mean(), "bias": error.mean(), "psnr": 20 * np.log10(span / rmse)}
        expected |= {"ssim": similarity_by_hand(truth, predicted, counted, valid, c, span), "data_range": span}
        for metric, value in expected.items():
            assert found[metric, name] == pytest.approx(value, rel=1e-9), (metric, name)
        relative.append(rmse**2 / truth[:, c][counted[:, c]].numpy().mean() ** 2)
    for metric in METRICS:
        assert found[metric, "all"] == pytest.approx(np.mean([found[metric, name] for name in NAMES]))
    assert found["ergas", "all"] == pytest.approx(100 * np.sqrt(np.mean(relative)))
    spectra = [one.permute(0, 2, 3, 1)[counted.all(1)].numpy() for one in (truth, predicted)]
    cosine = (spectra[0] * spectra[1]).sum(1) / np.linalg.norm(spectra[0], axis=1) / np.linalg.norm(spectra[1], axis=1)
    assert found["spectral_angle", "all"] == pytest.approx(np.rad2deg(np.arccos(cosine)).mean(), abs=1e-6)
    for name, first, second in (("ndvi", 3, 2), ("ndwi", 1, 3)):
        both = counted[:, first] & counted[:, second]
        pairs = [(one[:, first][both].clamp(min=0), one[:, second][both].clamp(min=0)) for one in (truth, predicted)]
        true, guessed = ((a - b) / (a + b) for a, b in pairs)
        error = (guessed - true).numpy()
        assert found[f"{name}_rmse", "all"] == pytest.approx(np.sqrt((error**2).mean()))
        assert found[f"{name}_mae", "all"] == pytest.approx(abs(error).mean())
        assert found[f"{name}_bias", "all"] == pytest.approx(error.mean())


def similarity_by_hand(truth, predicted, counted, valid, c, span):
    """scikit-image's map of a prediction that is the truth wherever it does not count, averaged where it does."""
    total, count = 0.0, 0
    for t in range(len(truth)):
        known = valid[t, c].numpy()
        true = np.where(known, truth[t, c].numpy(), truth[t, c].numpy()[known].mean())
        shown = np.where(counted[t, c].numpy(), predicted[t, c].numpy(), true)
        window = {"gaussian_weights": True, "sigma": 1.5, "use_sample_covariance": False}
        _, places = structural_similarity(true, shown, data_range=span, full=True, **window)
        inside = counted[t, c, 5:-5, 5:-5].numpy()
        total, count = total + places[5:-5, 5:-5][inside].sum(), count + inside.sum()
    return total / count


def test_the_truth_scores_no_error_and_a_capped_psnr(parts):
    truth, _, counted, valid = parts
    found = values(truth, truth, counted, valid)
    for metric in ("rmse", "mae", "bias"):
        assert all(found[metric, name] == 0 for name in (*NAMES, "all"))
    assert all(found["psnr", name] == 100 for name in (*NAMES, "all"))
    assert found["ssim", "all"] == pytest.approx(1, abs=1e-12)
    assert found["spectral_angle", "all"] == pytest.approx(0, abs=1e-10)
    assert found["ergas", "all"] == found["ndvi_rmse", "all"] == found["ndwi_mae", "all"] == 0


def test_the_truth_of_the_wrong_band_is_found_out(parts):
    truth, _, counted, valid = parts
    found = values(truth[:, [1, 0, 2, 3]], truth, counted, valid)
    assert found["rmse", "B02"] > 0.1 and found["rmse", "B03"] > 0.1
    assert found["rmse", "B04"] == found["rmse", "B08"] == 0
    assert found["spectral_angle", "all"] > 1 and found["ergas", "all"] > 1
    assert found["psnr", "B02"] < 30 < found["psnr", "B04"] == 100


def test_what_does_not_count_has_no_influence(parts):
    truth, predicted, counted, valid = parts
    destroyed = torch.where(counted, predicted, torch.nan)
    hostile = torch.where(valid, truth, 1e6)
    assert values(destroyed, hostile, counted, valid) == values(predicted, truth, counted, valid)


def test_visible_pixels_are_scored_apart(parts):
    truth, predicted, counted, valid = parts
    visible = valid & ~counted
    found = values(torch.where(visible, truth + 0.5, predicted), truth, visible, valid)
    assert found["bias", "all"] == pytest.approx(0.5)


def test_tiles_are_summed_before_ratios_and_can_count_several_times(parts):
    truth, predicted, counted, valid = parts
    each = sums(predicted, truth, counted, valid)
    twice = [torch.cat([one, one[1:2]]) for one in (predicted, truth, counted, valid)]
    expected = values(*twice)
    weighed = figures(each.weighted(np.array([[1.0, 2.0, 1.0], [1.0, 1.0, 1.0]])), BANDS, RANGE)
    assert {key: value[0] for key, value in weighed.items()} == pytest.approx(expected)
    grouped = each.by_group(np.array([0, 1, 0]))
    assert figures(grouped, BANDS, RANGE)["rmse", "B02"][1] == pytest.approx(
        figures(each, BANDS, RANGE)["rmse", "B02"][1]
    )
    joined = ErrorSums.joined([each.take(np.array([0])), each.take(np.array([1, 2]))])
    assert all(np.array_equal(a, b) for a, b in zip(vars(joined).values(), vars(each).values(), strict=True))


def test_a_band_without_a_counted_pixel_is_unknown_and_left_out_of_the_mean(parts):
    truth, predicted, counted, valid = parts
    counted[:, 1] = False
    found = values(predicted, truth, counted, valid)
    assert np.isnan(found["rmse", "B03"]) and np.isnan(found["ndwi_rmse", "all"])
    assert found["rmse", "all"] == pytest.approx(np.mean([found["rmse", name] for name in ("B02", "B04", "B08")]))
    assert np.isnan(found["spectral_angle", "all"])


def test_a_tile_smaller_than_the_window_has_no_similarity(parts):
    small = [one[..., :10, :10] for one in parts]
    truth, predicted, counted, valid = small
    found = values(predicted, truth, counted, valid)
    assert np.isnan(found["ssim", "all"]) and found["rmse", "all"] > 0


def test_angles_of_spectra_that_are_zero_or_nearly_alike():
    one = torch.tensor([[1.0, 2.0], [0.0, 0.0], [0.0, 0.0], [1.0, 0.0]], dtype=torch.float64)[..., None, None]
    other = torch.tensor([[1.0, 2.0 + 1e-9], [0.0, 0.0], [1.0, 1.0], [0.0, 3.0]], dtype=torch.float64)[..., None, None]
    angle = spectral_angle(one, other).flatten().tolist()
    assert angle == pytest.approx([np.rad2deg(1e-9 / 5), 0, 90, 90], rel=1e-5)


def test_indices_are_found_by_common_names():
    assert [(one.name, one.first, one.second) for one in indices(BANDS)] == [("ndvi", 3, 2), ("ndwi", 1, 3)]
    assert [one.name for one in indices(BANDS[:3])] == []
    narrow = [S2.band(name) for name in ("B04", "B8A")]
    assert [(one.name, one.first, one.second) for one in indices(narrow)] == [("ndvi", 1, 0)]


def test_units_of_figures():
    asked = ("rmse", "data_range", "psnr", "spectral_angle", "ssim", "ergas", "ndvi_rmse")
    expected = ["reflectance", "reflectance", "dB", "degree", "1", "1", "1"]
    assert [units(metric, "reflectance") for metric in asked] == expected
