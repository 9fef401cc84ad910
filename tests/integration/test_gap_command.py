"""`geomae gap` from the catalogue to the figures and the report."""

import csv
import json
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from helpers import called, mlflow_client, refused, write_catalog
from processes import forked

from geomae import open_catalog, open_embeddings
from geomae.commands import gap
from geomae.commands.gap import GapOptions
from geomae.commands.options import CommonOptions
from geomae.config import Decoder
from geomae.encoders import encoder_specs, load_encoder, parse_encoders
from geomae.encoders.selections import EmbeddingSpec, EncoderLoader, embed_specs
from geomae.errors import BandMismatchError, ConfigError, GeomaeError
from geomae.evaluation.gap import measure_gap, read_gap_domains, read_pixels
from geomae.evaluation.gap_components import Pixels, embedding_gap, pixel_gap
from geomae.evaluation.permutation_tests import corrected
from geomae.models.architecture import Architecture
from geomae.models.folder import Model, load_model, save_model
from geomae.models.mae import MaskedAutoencoder
from geomae.rasters import write_cog
from geomae.runtime.devices import open_compute
from geomae.runtime.signals import Stop
from geomae.sensors import sensor
from geomae.sensors.record import SensorRecord
from geomae.tiles.selection import select_tiles

CATALOG = """\
version: 1
datasets:
  fields: &fields
    path: scenes/*.tif
    sensor: naip
    bands: [red, green, blue, nir]
    unit: reflectance
    scale: 0.0001
    offset: 0
    nodata: 0
    windows: {table: windows.csv, key: scene, row: row, col: col, size: 16}
    label: {column: label}
    group: {column: site}
  stored:
    <<: *fields
    path: stored/*.tif
    bands: [nir, red, green, blue]
  thermal:
    <<: *fields
    sensor: [{name: lwir11, wavelength_um: 10.9, fwhm_um: 0.6}]
    bands: [lwir11, null, null, null]
"""
SITES, SHIFT = 8, 600
GREEN, BROWN = "fields[season=green]", "fields[season=brown]"
FIELDS = ["encoder", "measure", "band", "unit", "value", "null_value", "p", "p_holm"]


@pytest.fixture(scope="module")
def fields(tmp_path_factory) -> Path:
    """Sites seen in two seasons; in the brown one the near infrared is darker by 0.06, and a corner holds nothing."""
    folder = tmp_path_factory.mktemp("fields")
    rng = np.random.default_rng(0)
    rows = []
    for site in range(SITES):
        level = rng.uniform(800, 3000, (4, 1, 1)) + rng.normal(0, 300, (4, 2, 2))
        for season in ("green", "brown"):
            pixels = level.repeat(16, 1).repeat(16, 2) + rng.normal(0, 100, (4, 32, 32))
            pixels[3] -= SHIFT * (season == "brown")
            pixels = pixels.clip(1)
            if season == "brown":
                pixels[:, :8, :8] = 0
            place = (5.0, 0.0, 400_000.0 + 1000 * site, 0.0, -5.0, 5_000_000.0)
            name = f"{season}{site}"
            write_cog(folder / "scenes" / f"{name}.tif", pixels.astype(np.uint16), crs="EPSG:32632", transform=place)
            turned = pixels.astype(np.uint16)[[3, 0, 1, 2]]
            write_cog(folder / "stored" / f"{name}.tif", turned, crs="EPSG:32632", transform=place)
            for row, col in np.ndindex(2, 2):
                label = "crop" if level[3, row, col] > 1900 else "tree"
                rows.append({"scene": name, "row": 16 * row, "col": 16 * col, "season": season, "label": label,
                             "site": f"site{site}", "part": site % 4})  # fmt: skip
    with (folder / "windows.csv").open("w", newline="", encoding="utf-8") as file:
        writer = csv.DictWriter(file, list(rows[0]))
        writer.writeheader()
        writer.writerows(rows)
    return write_catalog(folder, CATALOG)


def save(folder: Path, embedding: str = "spectral", decoder: bool = True) -> Path:
    """A small model of NAIP that was never trained."""
    bands = sensor("naip").bands
    record = SensorRecord("naip", "reflectance", 5.0, bands, (0.2,) * 4, (0.07,) * 4)
    torch.manual_seed(0)
    small = Decoder(width=16, depth=1, heads=2) if decoder else None
    mae = MaskedAutoencoder(
        Architecture(bands=4, patch=4, width=24, depth=2, heads=2, embedding=embedding, decoder=small)
    )
    folder.parent.mkdir(parents=True, exist_ok=True)
    save_model(Model(mae, (record,), {"mlflow_run": "made-by-this"}), folder)
    return folder


@pytest.fixture
def request_for(fields, tracking_uri, tmp_path):
    """A request for the gap between the seasons of `fields`, but for what is wished otherwise."""

    def build(catalog: Path = fields, seed: int = 0, **wishes) -> GapOptions:
        common = CommonOptions(
            catalog, tmp_path / "out", seed, device="cpu", precision="32", tracking_uri=tracking_uri, quiet=True
        )
        return GapOptions(common, **({"source": GREEN, "target": BROWN, "encoders": ()} | wishes))

    return build


def test_the_command_from_end_to_end(fields, tracking_uri, tmp_path):
    out, model = tmp_path / "out", save(tmp_path / "hardly" / "model")
    done = forked(
        "gap", "--catalog", fields, "--source", GREEN, "--target", BROWN, "--encoder", model,
        "--precision", "32", "--tracking-uri", tracking_uri, "--out", out, cwd=tmp_path,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    rows = json.loads((out / "gap.json").read_text())["rows"]
    assert all(list(row) == FIELDS for row in rows)
    found = {(row["encoder"], row["measure"], row["band"]): row for row in rows}
    assert list(dict.fromkeys(row["encoder"] for row in rows)) == ["pixels", "labels", "hardly", "baseline-statistics"]
    nir = found["pixels", "mean_difference", "nir"]
    assert nir["value"] == pytest.approx(-SHIFT / 1e4, abs=0.01)
    assert nir["p_holm"] >= nir["p"] > 0
    assert found["pixels", "valid_share_source", "red"]["value"] == 1
    assert found["pixels", "valid_share_target", "red"]["value"] == pytest.approx(1 - 1 / 16)
    assert found["pixels", "gsd_target", ""]["value"] == 5
    assert found["labels", "label_shift", ""]["value"] == 0
    for encoder in ("hardly", "baseline-statistics"):
        store = open_embeddings(out / "embeddings" / encoder)
        parts = [np.char.startswith(store["tile_id"].to_numpy().astype(str), one) for one in ("green", "brown")]
        embedding = store["embedding"].to_numpy().astype(float)
        distance = np.cov(embedding[parts[0]].T) - np.cov(embedding[parts[1]].T)
        wanted = (distance**2).sum() / (4 * len(distance) ** 2)
        assert found[encoder, "coral", ""]["value"] == pytest.approx(wanted, rel=1e-6)
        assert found[encoder, "mmd2", ""]["null_value"] is not None
        assert (encoder, "mmd2/crop", "") in found
    ratio = found["hardly", "reconstruction_ratio", ""]
    errors = [found["hardly", f"reconstruction_rmse_{side}", ""]["value"] for side in ("source", "target")]
    assert ratio["value"] == pytest.approx(errors[1] / errors[0])
    assert ("baseline-statistics", "reconstruction_ratio", "") not in found
    names = ("gap_spectra", "gap_distances", "gap_pca_hardly", "gap_pca_baseline-statistics")
    pictures = [f"{name}.png" for name in names]
    assert all((out / name).read_bytes()[:4] == b"\x89PNG" for name in pictures)
    page = (out / "report.html").read_text(encoding="utf-8")
    assert "http://" not in page.replace("http://www.w3.org", "")
    assert "8 groups occur in both domains and are compared with themselves" in page
    assert "the means differ most in nir" in done.stdout
    assert '<p class="lead">Pixels: the means differ most in nir' in page  # the answer comes first
    summary = json.loads((out / "summary.json").read_text())
    assert summary["metrics"]["mean_difference/pixels/nir"] == nir["value"]
    assert summary["inputs"]["paired_groups"] == SITES
    client = mlflow_client(tracking_uri)
    logged = client.get_run(summary["run_id"])
    assert logged.data.params["model_run.hardly"] == "made-by-this"
    assert logged.data.metrics["mmd2/hardly"] == found["hardly", "mmd2", ""]["value"]
    artifacts = {one.path for one in client.list_artifacts(summary["run_id"])}
    assert {"gap.json", "report.html", *pictures} <= artifacts


def test_too_few_groups_give_figures_and_no_tests(request_for, tmp_path):
    alone = save(tmp_path / "alone" / "model", decoder=False)
    halves = {"source": "fields[part=0]", "target": "fields[part=1]"}
    assert gap.run(request_for(encoders=(str(alone),), **halves)) == 0
    rows = json.loads((tmp_path / "out/gap.json").read_text())["rows"]
    assert {row["p"] for row in rows} == {row["p_holm"] for row in rows} == {None}
    assert any(row["measure"] == "mmd2" for row in rows)
    page = (tmp_path / "out/report.html").read_text(encoding="utf-8")
    assert "too few groups for a permutation test (2 in the source and 2 in the target)" in page
    assert "alone has no decoder" in page


def test_domains_without_a_common_band(request_for, tmp_path):
    wishes = {"source": GREEN, "target": "thermal[season=brown]"}
    with pytest.raises(BandMismatchError, match=r"share no band in one unit.*spectral embedding"):
        gap.run(request_for(**wishes))
    stacked = str(save(tmp_path / "stacked" / "model", "stacked"))
    with pytest.raises(BandMismatchError, match=r"stacked embedding needs.*spectral embedding takes any bands"):
        gap.run(request_for(encoders=(stacked,), **wishes))
    assert not (tmp_path / "out").exists()


def test_embeddings_that_are_not_finite(request_for, tmp_path):
    model = load_model(save(tmp_path / "sound" / "model"))
    with torch.no_grad():
        next(model.mae.encoder.parameters()).fill_(float("nan"))
    (tmp_path / "broken").mkdir()
    save_model(model, tmp_path / "broken" / "model")
    with pytest.raises(GeomaeError, match=r"not finite: tile fields green0:0:0.*nothing was published"):
        gap.run(request_for(encoders=(str(tmp_path / "broken" / "model"),)))
    assert not (tmp_path / "out/gap.json").exists()


def test_errors_are_of_the_same_bands_however_they_are_stored(request_for, tmp_path):
    model, found = save(tmp_path / "mine" / "model"), []
    for number, target in enumerate((BROWN, "stored[season=brown]")):
        asked = request_for(target=target, encoders=(str(model),), baselines=False)
        assert gap.run(replace(asked, common=replace(asked.common, out=tmp_path / str(number)))) == 0
        rows = json.loads((tmp_path / str(number) / "gap.json").read_text(encoding="utf-8"))["rows"]
        found.append({(row["measure"], row["band"]): row["value"] for row in rows})
    for measure in ("reconstruction_rmse_target", "reconstruction_ratio", "mmd2"):
        assert found[0][measure, ""] == pytest.approx(found[1][measure, ""], rel=1e-4), measure


def test_a_notebook_measures_a_gap_without_the_command(fields, tmp_path):
    catalog, compute = open_catalog(fields), open_compute("cpu", "32")
    domains = read_gap_domains(select_tiles(catalog, [GREEN, BROWN]), 0)
    specs = encoder_specs(parse_encoders([f"mine={save(tmp_path / 'mine' / 'model')}"]))
    loader = EncoderLoader(EmbeddingSpec(), [one.selected for one in domains], compute.fabric.device)
    trained = loader.load_trained(specs)
    embedded = list(
        embed_specs(compute, catalog, specs, trained, loader, tmp_path / "embeddings", Stop(), lambda *_: None)
    )
    result = measure_gap(compute, domains, specs, trained, embedded, seed=0)
    assert result.encoders == ["mine"]
    assert result.find("pixels", "mean_difference", "nir").value == pytest.approx(-SHIFT / 1e4, abs=0.01)
    assert result.find("labels", "label_shift").value == 0
    assert result.find("mine", "reconstruction_ratio").value > 0
    assert result.tested == sum(row["p_holm"] is not None for row in result.rows())


WRONG = [
    ({"target": GREEN}, ConfigError, ["--source and --target are both", "needs two domains"]),
    ({"source": "fields"}, ConfigError, ["--source fields: 32 of its tiles overlap", "(brown0:0:0, ", "and 29 more"]),
    ({"baselines": False}, ConfigError, ["name an --encoder"]),
    ({"encoders": ("baseline:statistic",)}, ConfigError, ["did you mean 'statistics'?"]),
]


@pytest.mark.parametrize(("wishes", "kind", "parts"), WRONG, ids=lambda value: str(value)[:40])
def test_bad_requests_are_one_line_and_leave_nothing(request_for, tmp_path, wishes, kind, parts):
    with pytest.raises(GeomaeError) as caught:
        gap.run(request_for(**wishes))
    assert isinstance(caught.value, kind)
    assert "\n" not in str(caught.value)
    for part in parts:
        assert part in str(caught.value)
    assert not (tmp_path / "out").exists()


def test_the_command_line_says_what_is_wrong_in_one_line(fields, tmp_path):
    words = ("gap", "--catalog", fields, "--source", GREEN, "--target", "feilds[season=brown]")
    refused(called(*words, cwd=tmp_path), "feilds", "did you mean 'fields'?")


@pytest.mark.slow
def test_halves_of_a_season_are_alike_and_seasons_are_not(shared_data):
    """Twenty draws each: Holm over pixels and band statistics together rejects in at most three, and in all."""
    catalog = CommonOptions(shared_data / "catalog.yaml").open_catalog()
    texts = [f"hls-seasons[season={season}]" for season in ("green", "brown")]
    domains = read_gap_domains(select_tiles(catalog, texts), 0)
    bands = [band.name for band in domains.source.bands]
    pixels = [read_pixels(domain) for domain in domains]
    encoder = load_encoder("baseline:statistics", imagery=domains.source.selected.imagery)
    rows = []
    for one in pixels:
        tiles, cells, channels = one.values_NPC.shape
        shape = (tiles, channels, 32, cells // 32)
        values, valid = (np.moveaxis(each, 2, 1).reshape(shape) for each in (one.values_NPC, one.valid_NPC))
        rows.append(encoder.embed(torch.from_numpy(values.copy()), torch.from_numpy(valid.copy()))[0].numpy())

    def rejects(first, second, seed):
        (x, x_pixels), (y, y_pixels) = first, second
        figures = pixel_gap(x_pixels, y_pixels, bands, "reflectance", seed)
        figures += embedding_gap(x, x_pixels.group_N, y, y_pixels.group_N, seed)
        return min(one.p_holm for one in corrected(figures) if one.p_holm is not None) < 0.05

    def part(number, places):
        one = pixels[number]
        group = [one.group_N[place] for place in places]
        return rows[number][places], Pixels(one.values_NPC[places], one.valid_NPC[places], group, one.looked_at)

    rejected = 0
    for seed in range(20):
        groups = sorted(set(pixels[0].group_N))
        mixed = np.random.default_rng(seed).permutation(groups)
        of_first = np.isin(pixels[0].group_N, mixed[: len(mixed) // 2])
        rejected += rejects(part(0, np.flatnonzero(of_first)), part(0, np.flatnonzero(~of_first)), seed)
        assert rejects(*(part(number, np.arange(len(rows[number]))) for number in (0, 1)), seed)
    print(f"halves rejected in {rejected} of 20 draws")
    assert rejected <= 3
