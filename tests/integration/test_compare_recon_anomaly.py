"""Squares of spectra that were pasted into a scene from elsewhere stand out in its anomaly map.

C bands, H W pixels
"""

import numpy as np
import pytest
import rasterio
from helpers import write_catalog, write_scenes
from sklearn.metrics import roc_auc_score

from geomae.commands.compare_recon import CompareReconOptions, run
from geomae.commands.options import CommonOptions

OLINDA = """\
version: 1
datasets:
  olinda:
    path: olinda.tif
    sensor: landsat-7-etm
    bands: [blue, green, red, nir08, swir16, swir22]
    unit: digital_number
    scale: 1
    offset: 0
    tile: {size: 64, stride: 32}
    split: {block_km: 2, fractions: {train: 0.8, val: 0.1, test: 0.1}, seed: 0}
"""


def paste(path, other_CHW, side, count, rng):
    """Put squares of `other_CHW` at random places into a raster, which stays where it lies; gives where they are."""
    with rasterio.open(path) as file:
        pixels_CHW, profile = file.read(), file.profile
    pasted_HW = np.zeros(pixels_CHW.shape[1:], dtype=bool)
    while pasted_HW.sum() < count * side**2:
        row, col = (int(rng.integers(0, length - side)) for length in pasted_HW.shape)
        there = np.s_[row : row + side, col : col + side]
        if pasted_HW[there].any():
            continue
        down, across = (int(rng.integers(0, length - side)) for length in other_CHW.shape[1:])
        pixels_CHW[:, *there] = other_CHW[:, down : down + side, across : across + side]
        pasted_HW[there] = True
    plain = {key: profile[key] for key in ("height", "width", "count", "dtype", "crs", "transform")}
    path.unlink()
    with rasterio.open(path, "w", driver="GTiff", **plain) as file:
        file.write(pixels_CHW)
    return pasted_HW


def area_under_curve(path, scene, pasted_HW):
    """How well the anomaly of all bands together tells the squares; the map lies where the scene does."""
    with rasterio.open(path) as made, rasterio.open(scene) as truth:
        assert (made.crs, made.transform, made.shape) == (truth.crs, truth.transform, truth.shape)
        anomaly_HW = made.read(1)
    known = np.isfinite(anomaly_HW)
    return roc_auc_score(pasted_HW[known], anomaly_HW[known])


def compare(catalog, models, out, tracking_uri, tiles):
    common = CommonOptions(
        catalog=catalog, out=out, tracking_uri=tracking_uri, device="cpu", precision="32", quiet=True
    )
    assert run(CompareReconOptions(models, (), "0.75", "random", tiles, "", 1, common)) == 0


def test_pasted_spectra_stand_out(tracking_uri, tmp_path):
    write_scenes(tmp_path / "scenes", scenes=1, side=96)
    scene = tmp_path / "scenes" / "s0.tif"
    rng = np.random.default_rng(0)
    other_CHW = rng.integers(4500, 6000, (4, 8, 8)).astype(np.uint16)  # brighter than any field
    pasted_HW = paste(scene, other_CHW, 4, 12, rng)
    compare(write_catalog(tmp_path), ("baseline:idw",), tmp_path / "out", tracking_uri, 64)
    (path,) = (tmp_path / "out").glob("anomaly_*.tif")
    assert area_under_curve(path, scene, pasted_HW) > 0.9


@pytest.mark.slow
def test_pasted_spectra_stand_out_in_a_landsat_scene(shared_data, tracking_uri, tmp_path):
    """Surface reflectance of another country, at one gain for all bands so that its mean is that of the scene."""
    from geomae.commands.pretrain import PretrainOptions as Training
    from geomae.commands.pretrain import run as train

    catalog, model = shared_data / "catalog.yaml", tmp_path / "model"
    wishes = {"datasets": ("landsat7-olinda@train",), "changes": ("steps=300",), "tracking_uri": tracking_uri}
    assert train(Training(catalog=catalog, config="tiny", out=model, quiet=True, **wishes)) == 0
    scene = tmp_path / "olinda.tif"
    scene.write_bytes((shared_data / "scenes/landsat7_olinda/L7_ETMs.tif").read_bytes())
    elsewhere = sorted((shared_data / "scenes/landsat7_chiapas_two_dates").glob("LE7*.gtif"))[0]
    with rasterio.open(elsewhere) as file, rasterio.open(scene) as own:
        other_CHW, mean = file.read()[:6].astype(np.float64), own.read().mean()
    known = (other_CHW > 0) & (other_CHW < 16_000)
    scaled_CHW = np.clip(other_CHW * mean / other_CHW[known].mean(), 1, 255).astype(np.uint8)
    pasted_HW = paste(scene, scaled_CHW, 12, 12, np.random.default_rng(0))
    models = (f"mae={model / 'model'}", "baseline:idw")
    compare(write_catalog(tmp_path, OLINDA), models, tmp_path / "out", tracking_uri, 64)
    assert area_under_curve(tmp_path / "out" / "anomaly_mae_olinda.tif", scene, pasted_HW) > 0.9
