"""`geomae compare-recon` on small scenes with small models: tables, pictures, maps, report, run; and bad input.

C bands, H W pixels
"""

import csv
import json
import re

import numpy as np
import pytest
import rasterio
import torch
from helpers import changed_catalog, mlflow_client, write_catalog, write_scenes
from typer.testing import CliRunner

from geomae.catalog import open_catalog
from geomae.cli import app
from geomae.commands.compare_recon import CompareReconOptions, run
from geomae.commands.options import CommonOptions
from geomae.config import Decoder
from geomae.errors import BandMismatchError, ConfigError, ModelError
from geomae.evaluation.reconstruction import MaskedTiles, fit_candidates, load_candidates, score_reconstructions
from geomae.evaluation.reconstruction_masks import MaskKind
from geomae.models.architecture import Architecture
from geomae.models.folder import Model, save_model
from geomae.models.mae import MaskedAutoencoder
from geomae.runtime.devices import open_compute
from geomae.sensors import sensor
from geomae.sensors.record import SensorRecord
from geomae.tiles.selection import select_tiles

CONTRACT = (
    "model", "dataset", "split", "domain", "masking", "mask_ratio", "pixels", "band", "metric", "unit", "value", "low",
    "high", "n_tiles", "n_groups",
)  # fmt: skip
RATIOS = "0.75,0.5"
BASELINES = ("baseline:mean", "baseline:nearest", "inverse=baseline:idw?power=3", "baseline:biharmonic")
LABELS = ["fine", "coarse", "baseline-mean", "baseline-nearest", "inverse", "baseline-biharmonic"]


def save_tiny(folder, patch, bands=4, embedding="spectral"):
    """An untrained model of the catalogue's sensor."""
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(patch)
        decoder = Decoder(kind="full", width=16, depth=1, heads=2)
        shape = Architecture(embedding=embedding, bands=bands, patch=patch, width=24, depth=1, heads=2, decoder=decoder)
        mae = MaskedAutoencoder(shape)
    record = SensorRecord(
        "naip:reflectance", "reflectance", 5.0, tuple(sensor("naip").bands[:bands]), (0.2,) * bands, (0.1,) * bands
    )
    save_model(Model(mae, (record,)), folder)
    return folder


@pytest.fixture(scope="module")
def models(tmp_path_factory):
    folder = tmp_path_factory.mktemp("models")
    return [f"fine={save_tiny(folder / 'a' / 'model', 4)}", f"coarse={save_tiny(folder / 'b' / 'model', 8)}"]


def request(catalog, models, out, tracking_uri, **changes):
    wishes = {"datasets": (), "ratios": RATIOS, "kinds": "random", "tiles": 12, "show": "best,random:1", "scenes": 1}
    common = CommonOptions(
        catalog=catalog, out=out, tracking_uri=tracking_uri, device="cpu", precision="32", quiet=True
    )
    return CompareReconOptions(models=tuple(models), common=common, **(wishes | changes))


@pytest.fixture(scope="module")
def compared(tiny_catalog, models, tracking_uri, tmp_path_factory):
    out = tmp_path_factory.mktemp("compared") / "out"
    assert run(request(tiny_catalog, [*models, *BASELINES], out, tracking_uri)) == 0
    return out


def table(path):
    with path.open(encoding="utf-8") as file:
        return list(csv.DictReader(file))


def test_the_table_has_every_model_mask_and_band(compared):
    rows = table(compared / "reconstruction.csv")
    assert tuple(rows[0]) == CONTRACT
    assert list(dict.fromkeys(row["model"] for row in rows)) == LABELS
    assert {row["mask_ratio"] for row in rows} == {"0.75", "0.5"}
    assert {row["pixels"] for row in rows} == {"masked", "visible"}
    bands = [band.name for band in sensor("naip").bands]
    for band in (*bands, "all"):
        rmse = [row for row in rows if (row["metric"], row["band"]) == ("rmse", band)]
        assert len(rmse) == len(LABELS) * 4
        assert {(row["unit"], row["n_tiles"]) for row in rmse} == {("reflectance", "12")}
    metrics = {row["metric"] for row in rows}
    assert metrics >= {"mae", "bias", "psnr", "ssim", "data_range", "spectral_angle", "ergas", "ndvi_rmse", "ndwi_bias"}
    visible = [
        float(row["value"])
        for row in rows
        if (row["model"], row["pixels"]) == ("inverse", "visible") and row["metric"] == "rmse"
    ]
    assert visible == [0.0] * len(visible)
    assert {row["reference"] for row in table(compared / "differences.csv")} == {"fine"}


def test_the_summary_and_the_run_have_the_figures(compared, tracking_uri):
    summary = json.loads((compared / "summary.json").read_text())
    rows = table(compared / "reconstruction.csv")
    (first,) = [
        row
        for row in rows
        if (row["model"], row["metric"], row["band"], row["mask_ratio"], row["pixels"])
        == ("inverse", "rmse", "all", "0.75", "masked")
    ]
    assert summary["metrics"]["rmse/inverse/all"] == float(first["value"])
    assert summary["inputs"]["model"]["inverse"] == "baseline:idw?power=3"
    assert summary["inputs"]["catalogue_digest"]
    client = mlflow_client(tracking_uri)
    kept = client.get_run(summary["run_id"])
    assert kept.data.metrics["rmse/inverse/all"] == pytest.approx(float(first["value"]))
    names = {one.path for one in client.list_artifacts(summary["run_id"])}
    assert names >= {"reconstruction.csv", "differences.csv", "report.html", "summary.json", "panel_tiny_best.png"}


def test_the_same_request_gives_the_same_bytes(compared, tiny_catalog, models, tracking_uri, tmp_path):
    out = tmp_path / "again"
    run(request(tiny_catalog, [*models, *BASELINES], out, tracking_uri, scenes=0, show=""))
    assert (out / "reconstruction.csv").read_bytes() == (compared / "reconstruction.csv").read_bytes()
    assert not list(out.glob("*.tif"))


@pytest.mark.parametrize("kind", ["recon", "error", "anomaly"])
def test_maps_lie_where_the_scene_does(compared, tiny_catalog, kind):
    (path,) = compared.glob(f"{kind}_fine_*.tif")
    (scene,) = (tiny_catalog.parent / "scenes").glob(f"{path.stem.rsplit('_', 1)[1]}.tif")
    with rasterio.open(path) as made, rasterio.open(scene) as truth:
        assert made.crs == truth.crs and made.shape == truth.shape
        corners = [(0, 0), (0, truth.width), (truth.height, 0), (truth.height, truth.width)]
        assert [made.xy(*one) for one in corners] == [truth.xy(*one) for one in corners]
        assert made.transform == truth.transform and np.isnan(made.nodata)
        assert all(made.descriptions) and made.overviews(1) == truth.overviews(1)
        pixels = made.read()
        assert np.isfinite(pixels).all()
        if kind == "error":
            with rasterio.open(path.with_name(path.name.replace("error", "recon"))) as reconstruction:
                np.testing.assert_allclose(pixels, reconstruction.read() - truth.read() * 1e-4, atol=1e-6)
        assert made.units[0] == ("standard deviations" if kind == "anomaly" else "reflectance")


def test_maps_show_each_band_as_it_was_while_hidden(tracking_uri, tmp_path):
    from geomae.rasters import write_cog

    level_C11 = np.array([1000, 2000, 3000, 4000])[:, None, None]
    pixels = np.broadcast_to(level_C11, (4, 40, 48)).astype(np.uint16).copy()
    pixels[:, 8:16, 8:16] *= 2  # a cell that nothing around it tells of
    write_cog(tmp_path / "scenes" / "s0.tif", pixels, crs="EPSG:32632", transform=(5, 0, 4e5, 0, -5, 5e6))
    models, out = ["near=baseline:nearest"], tmp_path / "out"
    run(request(write_catalog(tmp_path), models, out, tracking_uri, show="", ratios="0.5"))
    with rasterio.open(out / "recon_near_s0.tif") as made:
        found = made.read()
    expected = np.broadcast_to(level_C11 * 1e-4, found.shape)
    np.testing.assert_allclose(found[:, 8:16, 8:16], expected[:, 8:16, 8:16], rtol=1e-5)
    np.testing.assert_allclose(found[:, 16:], expected[:, 16:], rtol=1e-5)


def test_bands_are_told_by_name_in_whatever_order_they_are_stored(tiny_catalog, models, tracking_uri, tmp_path):
    (tmp_path / "scenes").mkdir()
    for path in (tiny_catalog.parent / "scenes").glob("*.tif"):
        with rasterio.open(path) as file:
            pixels, profile = file.read([4, 3, 1, 2]), {key: file.profile[key] for key in ("crs", "transform")}
        with rasterio.open(
            tmp_path / "scenes" / path.name, "w", "GTiff", *pixels.shape[:0:-1], 4, dtype=pixels.dtype, **profile
        ) as file:
            file.write(pixels)
    other = write_catalog(tmp_path, changed_catalog("[red, green, blue, nir]", "[nir, blue, red, green]"))
    found = []
    for number, catalog in enumerate((tiny_catalog, other)):
        out = tmp_path / str(number)
        run(request(catalog, [models[0], "baseline:idw"], out, tracking_uri, show="", ratios="0.75", scenes=0))
        rows = [row for row in table(out / "reconstruction.csv") if row["pixels"] == "masked"]
        found.append({(row["model"], row["metric"], row["band"]): float(row["value"]) for row in rows})
    assert found[0].keys() == found[1].keys()
    assert len({found[0]["fine", "rmse", band.name] for band in sensor("naip").bands}) == 4
    for key, value in found[0].items():
        assert found[1][key] == pytest.approx(value, rel=1e-4, abs=1e-6), key


def test_the_source_of_the_domain_table_is_what_was_named_first():
    from types import SimpleNamespace

    from geomae.commands.compare_recon_report import domains

    def row(dataset, split, domain, value, tiles):
        fixed = {"masking": "random", "mask_ratio": 0.75, "pixels": "masked", "metric": "rmse", "band": "all"}
        where = {"dataset": dataset, "split": split, "domain": domain}
        return fixed | where | {"unit": "1", "value": value, "n_tiles": tiles, "n_groups": 3, "model": "m"}

    rows = [
        row("here", "test", "all", 0.2, 90),
        row("here", "test", "dry", 0.1, 30),
        row("here", "test", "wet", 0.2, 60),
    ]
    rows.append(row("elsewhere", "train", "all", 0.3, 500))  # of a data set without splits, all is called train
    result = SimpleNamespace(
        masks=[MaskKind("random", 0.75)], labels=["m"],
        select=lambda **fixed: [one for one in rows if fixed.items() <= one.items()],
    )  # fmt: skip
    (section,) = domains(result)
    assert "The source is here@test, wet." in section.text[0]
    ratios = {line[0]: line[1:] for line in section.parts[0].rows}
    assert ratios["here@test, dry"] == [0.5, 30, 3]
    assert ratios["elsewhere@train"] == [pytest.approx(1.5), 500, 3]


def test_the_report_needs_no_network(compared):
    text = (compared / "report.html").read_text(encoding="utf-8")
    assert not re.findall(r"""(?:src|href)=["'](?!data:|#)""", text)
    assert 'type="range"' in text and 'class="sorts"' in text
    for words in (
        "Which model is better",
        "By band",
        "By mask ratio",
        "On the map",
        "inverse is lower by",
        "too few for an interval",
    ):
        assert words in text
    assert {path.name for path in compared.glob("*.png")} == {
        "panel_tiny_best.png", "panel_tiny_random_1.png", "spectra_tiny.png", "error_by_band_tiny.png",
        "error_by_ratio_tiny_random.png",
    }  # fmt: skip


def test_hidden_pixels_reach_no_model(tiny_catalog, models):
    """What a model is not shown may be anything: its prediction of it is the same."""
    compute = open_compute("cpu", "32")
    (one,) = select_tiles(open_catalog(tiny_catalog), [])
    fitted = fit_candidates(load_candidates([*models, *BASELINES], compute.fabric.device), one, compute)
    visible = np.array([[True, False, False, True]])
    pixels, valid = torch.rand(1, 4, 16, 16), torch.ones(1, 4, 16, 16, dtype=torch.bool)
    shown = MaskedTiles(pixels, valid, visible, 8)
    other = MaskedTiles(torch.where(shown.visible_B1HW, pixels, 9.0), valid, visible, 8)
    hidden = ~shown.visible_B1HW.expand_as(pixels)
    for label in LABELS:
        assert torch.equal(fitted.predict(label, shown)[hidden], fitted.predict(label, other)[hidden]), label


def test_no_tile_is_read_twice(tiny_catalog, models, monkeypatch):
    from geomae.tiles import reader

    compute = open_compute("cpu", "32")
    (one,) = select_tiles(open_catalog(tiny_catalog), [])
    fitted = fit_candidates(load_candidates(models, compute.fabric.device), one, compute)
    calls = []
    monkeypatch.setattr(reader, "read", lambda *asked: calls.append(asked) or read(*asked))
    from geomae.rasters import read

    masks = [MaskKind("random", 0.75), MaskKind("block", 0.5)]
    score_reconstructions(fitted, masks, 1000, 0)
    assert len(calls) == len(one.index)


BAD = [
    (["baseline:idv"], {}, ConfigError, ("'idv'", "'idw'")),
    ([], {}, ConfigError, ("--model", "name at least one")),
    (["timm:vit_tiny_patch16_224"], {}, ModelError, ("without a decoder", "geomae pretrain")),
    (["baseline:mean"], {"ratios": "0.75,1.5"}, ConfigError, ("--mask-ratio 1.5", "between 0 and 1")),
    (["baseline:mean"], {"kinds": "rnadom"}, ConfigError, ("--masking rnadom", "'random'")),
    (["baseline:mean"], {"show": "best,s9:0:0"}, ConfigError, ("s9:0:0", "no tile")),
    (["baseline:mean"], {"show": "bset"}, ConfigError, ("--show bset", "did you mean 'best'?")),
    (["baseline:mean"], {"show": "random:1000"}, ConfigError, ("--show random:1000", "'random:4'")),
    (["baseline:mean"], {"datasets": ("tiny@train", "tiny")}, ConfigError, ("tiny@train", "among those of tiny")),
]


@pytest.mark.parametrize(("names", "changes", "kind", "parts"), BAD)
def test_what_cannot_be_is_one_clear_line(tiny_catalog, tracking_uri, tmp_path, names, changes, kind, parts):
    with pytest.raises(kind) as caught:
        run(request(tiny_catalog, names, tmp_path / "out", tracking_uri, **changes))
    message = str(caught.value)
    assert "\n" not in message and all(part in message for part in parts), message
    assert not (tmp_path / "out").exists()


def test_models_without_a_common_grid_or_band_are_refused(tiny_catalog, models, tracking_uri, tmp_path):
    large = save_tiny(tmp_path / "large", 16)
    with pytest.raises(ModelError, match=r"16 \(large\).*no common grid in a tile of 16 pixels"):
        run(request(tiny_catalog, [*models, str(large)], tmp_path / "out", tracking_uri))
    text = changed_catalog("[red, green, blue, nir]", "[red, green, null, null]")
    write_scenes(tmp_path / "scenes", scenes=1)
    stacked = save_tiny(tmp_path / "stacked", 8, embedding="stacked")
    with pytest.raises(BandMismatchError, match=r"blue.*nir"):
        run(request(write_catalog(tmp_path, text), [str(stacked)], tmp_path / "out", tracking_uri))


def test_bands_that_a_model_does_not_know_are_not_compared_and_the_report_says_so(tiny_catalog, tracking_uri, tmp_path):
    three = save_tiny(tmp_path / "three", 8, bands=3)
    out = tmp_path / "out"
    run(request(tiny_catalog, [str(three), "baseline:mean"], out, tracking_uri, show="", scenes=0, ratios="0.75"))
    known = [band.name for band in sensor("naip").bands]
    assert {row["band"] for row in table(out / "reconstruction.csv")} == {*known[:3], "all"}
    assert f"not every model predicts {known[3]}" in (out / "report.html").read_text(encoding="utf-8")


def test_scenes_without_a_crs_give_everything_but_maps(tracking_uri, models, tmp_path, capsys):
    from geomae.rasters import write_cog

    pixels = np.random.default_rng(0).integers(500, 4000, (4, 32, 32)).astype(np.uint16)
    write_cog(tmp_path / "scenes" / "s0.tif", pixels)
    asked = request(write_catalog(tmp_path), models, tmp_path / "out", tracking_uri, show="", ratios="0.75")
    run(CompareReconOptions(**vars(asked) | {"common": CommonOptions(**vars(asked.common) | {"quiet": False})}))
    assert "no scene has a CRS" in capsys.readouterr().err
    assert (tmp_path / "out" / "reconstruction.csv").is_file() and not list((tmp_path / "out").glob("*.tif"))


def test_a_tile_that_cannot_be_shown_is_told_of(tracking_uri, tmp_path, capsys):
    from geomae.rasters import write_cog

    pixels = np.random.default_rng(0).integers(500, 4000, (4, 16, 32)).astype(np.uint16)
    pixels[:, 8:13, :16] = 0  # of the first tile's four cells of 8 pixels all but one are valid to less than half
    pixels[:, :5, 8:16] = 0
    write_cog(tmp_path / "scenes" / "s0.tif", pixels)
    catalog = write_catalog(tmp_path, changed_catalog("    offset: 0", "    offset: 0\n    nodata: 0"))
    asked = request(catalog, ["baseline:mean"], tmp_path / "out", tracking_uri, show="s0:0:0,s0:0:16", ratios="0.5")
    run(CompareReconOptions(**vars(asked) | {"common": CommonOptions(**vars(asked.common) | {"quiet": False})}))
    assert "--show s0:0:0: has too few valid cells" in capsys.readouterr().err
    assert [path.name for path in (tmp_path / "out").glob("panel_*")] == ["panel_tiny_s0_0_16.png"]


def test_a_dry_run_writes_nothing(tiny_catalog, models, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    named = [word for model in models for word in ("--model", model)]
    done = CliRunner().invoke(app, ["compare-recon", "--catalog", str(tiny_catalog), *named, "--dry-run"])
    assert done.exit_code == 0, done.output
    assert "compare on tiny: 64 of 64 tiles" in done.output and "coarse: " in done.output
    assert not list(tmp_path.iterdir())
