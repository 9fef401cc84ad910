"""Prediction from Python: load a folder, then predict windows and whole scenes.

predictor = geomae.load_predictor("runs/probe/probes/first")
land_cover = predictor.predict_scene("data_catalog.yaml", "mine", "scene-1")

B windows, C bands, H W pixels, K classes; y x rows and columns of a map
"""

from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np
import torch
import xarray
from torch import Tensor

from geomae.catalog import Catalog, open_catalog, resolve_selectors
from geomae.errors import CatalogError, nearest
from geomae.prediction.folders import PredictorFolder, open_predictor
from geomae.prediction.models import WindowModel
from geomae.prediction.record import PredictorRecord
from geomae.prediction.scene_maps import NODATA, MapOptions, layers_of, plan_maps, stride_of
from geomae.prediction.windows import SceneWindows, Strip
from geomae.rasters import Grid
from geomae.tiles.selection import select_tiles


@dataclass(frozen=True)
class Predictor:
    """A loaded fine-tuned model or saved probe."""

    folder: PredictorFolder
    device: torch.device

    @property
    def record(self) -> PredictorRecord:
        """The description of the predictor: task, classes, imagery and training tiles."""
        return self.folder.record

    @property
    def classes(self) -> tuple[str, ...]:
        """The names of the classes, in the order of the probabilities; empty where numbers are predicted."""
        return self.record.classes

    @cached_property
    def bands(self) -> tuple[str, ...]:
        """Names of the bands that `predict` expects, in this order."""
        return self._model.bands

    @torch.inference_mode()
    def predict(self, pixels_BCHW: Tensor, valid_BCHW: Tensor | None = None) -> Tensor:
        """Return class probabilities of windows (B, K) or of their pixels (B, K, H, W), or numbers (B, 1).

        Pixels are in physical units, in the order of `bands`; without `valid_BCHW`, finite pixels are valid.
        """
        valid_BCHW = torch.isfinite(pixels_BCHW) if valid_BCHW is None else valid_BCHW
        return self._model.predict(pixels_BCHW, valid_BCHW)

    def predict_scene(self, catalog: str | Path | Catalog, dataset: str, scene: str | None = None) -> xarray.DataArray:
        """Return the map (y, x) of the scene with id `scene`; it may be omitted where the data set has one scene.

        Values are class codes (255: no valid pixel) or numbers (NaN: no valid pixel). `attrs` hold `classes` (code to
        name), `crs` and `transform` (coefficients a to f); coordinates are pixel centres, unless the grid is rotated.
        Raises CatalogError for an unknown scene, and a GeomaeError where the imagery does not fit the model.
        """
        opened = catalog if isinstance(catalog, Catalog) else open_catalog(Path(catalog))
        selected = select_tiles(opened, resolve_selectors(opened, [dataset], None))[0]
        model = self.folder.fit(selected.imagery, selected.selector, self.device)
        jobs = plan_maps([(selected, model)], lambda one: stride_of(opened, one, model.record))
        known = {job.scene.id: job for job in jobs}
        if scene is None and len(jobs) != 1:
            raise CatalogError(f"{dataset}: has {len(jobs)} scenes to map; name one: {', '.join(sorted(known)[:5])}")
        if scene is not None and scene not in known:
            raise CatalogError(f"{dataset}: has no scene {scene!r} to map; {nearest(scene, known)}")
        job = jobs[0] if scene is None else known[scene]
        windows = SceneWindows(model, selected.index.source, job.scene, job.lattice, self.device.type)
        with torch.inference_mode():
            strips = [one for one in windows.strips(range(len(job.lattice.strips()))) if isinstance(one, Strip)]
        layers = np.concatenate([layers_of(one, model.record, MapOptions())[0] for one in strips])
        return _as_array(layers, job.grid, model.record)

    @cached_property
    def _model(self) -> WindowModel:
        return self.folder.fit(None, None, self.device)


def load_predictor(folder: str | Path, device: str | torch.device = "cpu") -> Predictor:
    """Load a fine-tuned model, or a probe that `geomae probe` saved. Raises ModelError for any other folder."""
    chosen = torch.device(device)
    return Predictor(open_predictor(folder, chosen), chosen)


def _as_array(values_yx: np.ndarray[Any, Any], grid: Grid, record: PredictorRecord) -> xarray.DataArray:
    a, b, c, d, e, f = grid.transform
    attributes: dict[str, Any] = {"crs": grid.crs, "transform": grid.transform}
    if record.of_numbers:
        attributes |= {"units": record.unit}
    else:
        names = dict(zip(record.map_codes, record.classes, strict=True))
        attributes |= {"classes": names, "_FillValue": NODATA}
    coordinates = {}
    if b == 0 and d == 0:
        coordinates = {"y": f + e * (np.arange(grid.height) + 0.5), "x": c + a * (np.arange(grid.width) + 0.5)}
    array = xarray.DataArray(values_yx, coords=coordinates, dims=("y", "x"), name="prediction", attrs=attributes)
    if grid.crs is None:
        return array
    # By the conventions of CF and rioxarray, with the coefficients in GDAL's order.
    placed = {"crs_wkt": grid.crs, "GeoTransform": " ".join(repr(float(one)) for one in (c, a, b, f, d, e))}
    return array.assign_coords(spatial_ref=xarray.Variable((), 0, attrs=placed))
