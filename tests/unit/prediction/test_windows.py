"""Windows over a scene: no seam at their borders, the same bytes whichever strip was first, and the right place."""

import os
import signal
import warnings
from dataclasses import dataclass
from types import SimpleNamespace

import numpy as np
import pytest
import rasterio
import torch
from helpers import write_catalog

from geomae import open_catalog
from geomae.prediction.record import PredictorRecord
from geomae.prediction.scene_maps import (
    NODATA,
    MapOptions,
    layers_of,
    missing_strips,
    plan_maps,
    predict_strips,
    write_maps,
)
from geomae.prediction.windows import Lattice, SceneWindows, Strip, _Canvas
from geomae.rasters import write_cog
from geomae.runtime.devices import open_compute
from geomae.runtime.signals import Stop
from geomae.sensors import Band
from geomae.sensors.record import SensorRecord
from geomae.tiles.selection import select_tiles

CATALOG = """\
version: 1
datasets:
  scene: {path: s.tif, sensor: naip, bands: [red, green, blue, nir], unit: reflectance, scale: 0.0001, offset: 0,
          nodata: 0, tile: {size: 32, stride: 16}}
"""
SIZE = 32
TURNED = (8.0, 3.0, 4e5, 3.0, -8.0, 5e6)
SOUTH_UP = (5.0, 0.0, 4e5, 0.0, 5.0, 5e6)
USUAL = (5.0, 0.0, 4e5, 0.0, -5.0, 5e6)
RECORD = SensorRecord("naip", "reflectance", 5.0, (Band("R", "red", 0.65, 0.06, 5.0),), (0.2,), (0.1,))


@dataclass(frozen=True)
class Threshold:
    """Class 1 where the first band exceeds 0.2; `drift` adds what only depends on the place within the window."""

    task: str = "segmentation"
    drift: float = 0.0
    bands: tuple = ("red",)
    notes: tuple = ()

    @property
    def record(self):
        names = () if self.task == "regression" else ("dark", "bright")
        return PredictorRecord(
            self.task, names, (7, 3)[: len(names)], ("#000000", "#ffffff")[: len(names)], "t/ha", RECORD, SIZE,
            np.array([0.5, 0.5]), None, {},
        )  # fmt: skip

    def check_size(self, size):
        assert size == SIZE

    def predict(self, pixels_BCHW, valid_BCHW):
        red_BHW = pixels_BCHW[:, 0]
        if self.task != "segmentation":
            share_B = red_BHW.where(valid_BCHW[:, 0], 0).mean((1, 2))
            return share_B[:, None] if self.task == "regression" else torch.stack([1 - share_B, share_B], 1)
        row = torch.arange(red_BHW.shape[-1]) / red_BHW.shape[-1]
        bright_BHW = 0.1 + 0.8 * (red_BHW > 0.2).float() * (1 - self.drift) + self.drift * (row[:, None] + row) / 2
        return torch.stack([1 - bright_BHW, bright_BHW], 1)


@pytest.fixture
def scene(tmp_path):
    """A scene of noise with a hole, 150 x 117 pixels; gives a function from a transform to the selection."""

    def build(transform=USUAL):
        rng = np.random.default_rng(0)
        pixels = rng.integers(1, 4000, (4, 150, 117)).astype(np.uint16)
        pixels[:, 60:70, 20:40] = 0
        write_cog(tmp_path / "s.tif", pixels, crs="EPSG:32632", transform=transform)
        catalog = write_catalog(tmp_path, CATALOG)
        return select_tiles(open_catalog(catalog), ["scene"])[0], pixels

    return build


def job_of(selected, model, cell=1):
    return plan_maps([(selected, model)], lambda one: cell)[0]


def strips_of(job, wanted=None):
    windows = SceneWindows(job.model, job.selected.index.source, job.scene, job.lattice, "cpu")
    wanted = range(len(job.lattice.strips())) if wanted is None else wanted
    return [one for one in windows.strips(wanted) if isinstance(one, Strip)]


def whole(job):
    return np.concatenate([one.value_Krq for one in strips_of(job)], axis=1)


@pytest.mark.parametrize("height", [20, 32, 33, 150, 257])
def test_windows_cover_every_cell_and_strips_follow_each_other(height):
    for cell in (1, 8, 12, 32):
        lattice = Lattice(height, 64, SIZE, cell)
        seen = {row for top in lattice.tops for row in range(top, top + lattice.across)}
        assert seen >= set(range(lattice.rows))
        spans = [lattice.strip_cells(strip) for strip in lattice.strips()]
        assert [one.stop for one in spans[:-1]] == [one.start for one in spans[1:]]
        assert (spans[0].start, spans[-1].stop) == (0, lattice.rows)


def test_weights_of_windows_that_follow_each_other_add_up_to_one():
    across = np.sqrt(np.diag(Lattice(64, 64, SIZE).weight_nn))
    assert np.allclose(across[:16] + across[16:], 1, atol=1e-6)
    assert across[0] < 0.003


def test_a_threshold_is_mapped_exactly_whatever_the_windows(scene):
    selected, pixels = scene()
    job = job_of(selected, Threshold())
    strips = strips_of(job)
    layers = np.concatenate([layers_of(one, job.model.record, MapOptions(True)) for one in strips], axis=1)
    valid = pixels[0] > 0
    truth = np.where(valid, np.where(pixels[0] > 2000, 3, 7), NODATA)
    assert np.array_equal(layers[0], truth)
    assert set(np.unique(layers[1])) == {90, NODATA}
    assert np.array_equal(layers[2] + layers[3], np.where(valid, 100, 254).astype(np.uint8))


def test_there_is_no_seam_where_windows_end(scene):
    """What a window adds by the place within it must not step at the borders of windows."""
    selected, _ = scene()
    job = job_of(selected, Threshold(drift=1.0))
    steps = np.abs(np.diff(whole(job)[1][16:128, 50]))
    assert steps.max() <= 0.5 / SIZE + 1e-4  # what the drift itself changes from pixel to pixel; a cut would be 0.25


def test_a_strip_has_the_same_bytes_whichever_was_first(scene, monkeypatch):
    monkeypatch.setattr("geomae.prediction.windows.STRIP_PX", 32)
    selected, _ = scene()
    for task, cell in (("segmentation", 1), ("classification", 16), ("classification", 12)):
        job = job_of(selected, Threshold(task, 0.5 if cell == 1 else 0), cell)
        together = strips_of(job)
        assert len(together) > 3
        for number, one in enumerate(together):
            (alone,) = strips_of(job, range(number, number + 1))
            assert alone.first == one.first
            assert np.array_equal(alone.value_Krq, one.value_Krq)
            assert np.array_equal(alone.valid_rq, one.valid_rq)


def test_overlapping_windows_and_single_ones_agree_inside(scene):
    selected, pixels = scene()
    model = Threshold()
    share_HW = whole(job_of(selected, model))[1]
    red = torch.from_numpy(pixels[None, :1, 32:64, 64:96] / 10_000).float()
    (alone,) = model.predict(red, torch.ones_like(red, dtype=torch.bool))
    assert np.allclose(share_HW[32:64, 64:96], alone[1], atol=1e-6)


def test_cells_of_tiles_are_the_mean_of_the_tiles_that_hold_them(scene):
    selected, pixels = scene()
    job = job_of(selected, Threshold("regression"), 16)
    value = whole(job)[0]
    assert value.shape == (-(-150 // 16), -(-117 // 16))
    red = pixels[0].astype(np.float64) / 10_000
    tiles = [red[row : row + 32, col : col + 32].mean() for row in (0, 16) for col in (64, 80)]
    assert value[1, 5] == pytest.approx(np.mean(tiles), rel=1e-5)


@pytest.mark.parametrize("transform", [USUAL, TURNED, SOUTH_UP])
@pytest.mark.parametrize("cell", [1, 16])
def test_maps_lie_where_the_scene_does(scene, tmp_path, transform, cell):
    selected, pixels = scene(transform)
    job = job_of(selected, Threshold("segmentation" if cell == 1 else "classification"), cell)
    compute = open_compute("cpu", "32")
    out = tmp_path / "out"
    assert predict_strips(compute, [job], missing_strips([job], out), MapOptions(), out, Stop(), lambda *_: None)
    paths = write_maps([job], MapOptions(), out)
    assert not (out / "strips").exists()
    with rasterio.open(tmp_path / "s.tif") as there, rasterio.open(out / "map_s.tif") as here:
        assert here.crs == there.crs
        assert (here.transform.c, here.transform.f) == (there.transform.c, there.transform.f)
        assert np.allclose(here.transform @ (1, 1), there.transform @ (cell, cell))
        assert here.nodata == NODATA
        assert here.colormap(1)[3] == (255, 255, 255, 255)
        assert here.tags(1)["CLASS_7"] == "dark"
        codes = here.read(1)
        if cell == 1:
            assert codes[5, 9] == (3 if pixels[0, 5, 9] > 2000 else 7)
            x, y = there.transform @ (9.5, 5.5)
            assert next(here.sample([(x, y)]))[0] == codes[5, 9]
    assert [one.name for one in paths] == ["map_s.tif", "confidence_s.tif"]
    assert "<Category>bright</Category>" in (out / "map_s.tif.aux.xml").read_text()
    assert 'value="7"' in (out / "map_s.qml").read_text()


def test_a_map_that_was_stopped_goes_on_with_the_same_bytes(scene, tmp_path, monkeypatch):
    monkeypatch.setattr("geomae.prediction.windows.STRIP_PX", 32)
    selected, _ = scene()
    job, compute = job_of(selected, Threshold(drift=0.5)), open_compute("cpu", "32")

    def go(out, stop, progress=lambda *_: None):
        return predict_strips(compute, [job], missing_strips([job], out), MapOptions(True), out, stop, progress)

    assert go(tmp_path / "whole", Stop())
    stop, heard = Stop(), []

    def interrupt(what, done, total, figures):
        heard.append(done)
        if len(heard) == 4:
            stop.signal = 15

    assert not go(tmp_path / "parts", stop, interrupt)
    assert 0 < len(list((tmp_path / "parts/strips/s").glob("*.npy"))) < len(job.lattice.strips())
    assert go(tmp_path / "parts", Stop())
    for one, other in zip(
        *(write_maps([job], MapOptions(True), tmp_path / x) for x in ("whole", "parts")), strict=True
    ):
        assert one.read_bytes() == other.read_bytes()


def test_a_map_that_was_killed_goes_on_with_the_same_bytes(scene, tmp_path, monkeypatch):
    """Killed while it writes its third strip, of which half is left."""
    monkeypatch.setattr("geomae.prediction.windows.STRIP_PX", 32)
    selected, _ = scene()
    job, compute = job_of(selected, Threshold(drift=0.5)), open_compute("cpu", "32")

    def go(out):
        return predict_strips(compute, [job], missing_strips([job], out), MapOptions(), out, Stop(), lambda *_: None)

    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # that other threads are not there after a fork
        child = os.fork()
    if child == 0:
        usual, whole_ones = np.save, iter(range(2))

        def save(file, values, **how):
            if next(whole_ones, None) is None:
                file.write(values.tobytes()[: values.nbytes // 2])
                file.flush()
                os.kill(os.getpid(), signal.SIGKILL)
            usual(file, values, **how)

        np.save = save
        try:
            go(tmp_path / "killed")
        finally:
            os._exit(1)
    assert os.waitpid(child, 0)[1] == signal.SIGKILL
    assert sorted(one.name for one in (tmp_path / "killed/strips/s").glob("0*")) == ["00000.npy", "00001.npy"]
    assert go(tmp_path / "killed") and go(tmp_path / "whole")
    made = [write_maps([job], MapOptions(), tmp_path / name) for name in ("whole", "killed")]
    for one, other in zip(*made, strict=True):
        assert one.read_bytes() == other.read_bytes()
    assert sorted(path.name for path in (tmp_path / "killed").iterdir()) == sorted(
        path.name for path in (tmp_path / "whole").iterdir()
    )


@pytest.mark.parametrize("ranks", [2, 4])
def test_ranks_that_share_a_scene_give_the_same_bytes(scene, tmp_path, monkeypatch, ranks):
    """A rank that begins when others have written their strips still takes the share that is its own."""
    monkeypatch.setattr("geomae.prediction.windows.STRIP_PX", 32)
    selected, _ = scene()
    job = job_of(selected, Threshold(drift=0.5))
    folders = {name: tmp_path / name for name in ("one", "shared")}

    def go(name, rank, world, missing):
        fabric = SimpleNamespace(world_size=world, global_rank=rank, device=torch.device("cpu"))
        compute = SimpleNamespace(fabric=fabric, precision="32")
        assert predict_strips(compute, [job], missing, MapOptions(), folders[name], Stop(), lambda *_: None)
        return len(list((folders[name] / "strips/s").glob("0*.npy")))

    missing = missing_strips([job], folders["one"])
    strips = go("one", 0, 1, missing)
    assert strips == len(job.lattice.strips()) == len(missing)
    written = [go("shared", rank, ranks, missing) for rank in reversed(range(ranks))]
    assert written == sorted(set(written)) and written[0] > 0 and written[-1] == strips
    made = [write_maps([job], MapOptions(), folders[name]) for name in ("one", "shared")]
    for one, other in zip(*made, strict=True):
        assert one.read_bytes() == other.read_bytes()


@pytest.mark.parametrize("cell", [8, 16, 24, 32])
def test_every_cell_has_the_value_of_its_windows(cell):
    """Also the last row and column where the tiles' size is 1.5 strides: their centres are on the window's border."""
    lattice = Lattice(128, 128, 48, cell)
    canvas = _Canvas(lattice, 0)
    for row in range(len(lattice.tops)):
        canvas.see(row, np.ones((48, lattice.lefts[-1] * cell + 48), dtype=bool))
        for left in lattice.lefts:
            canvas.add(row, left, np.array([0.9, 0.1], dtype=np.float32))
    strip = canvas.finish(0, slice(0, lattice.rows))
    assert strip.valid_rq.all()
    assert np.allclose(strip.value_Krq, np.array([0.9, 0.1])[:, None, None], atol=1e-6)


def test_a_job_without_a_valid_pixel_is_nodata(scene):
    strip = Strip(0, 0, np.zeros((0, 4, 5), np.float32), np.zeros((4, 5), bool))
    assert (layers_of(strip, Threshold().record, MapOptions()) == NODATA).all()
    assert np.isnan(layers_of(strip, Threshold("regression").record, MapOptions())).all()
