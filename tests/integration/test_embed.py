"""`geomae embed` as people run it: files, figures and lineage, and what goes wrong in one line."""

import json
import signal
import time

import geopandas
import numpy as np
import pytest
import torch
from helpers import CATALOG, contents, mlflow_client, write_catalog, write_scenes
from processes import Forked, forked

from geomae import load_encoder, open_catalog, open_embeddings
from geomae.commands.embed import EmbedOptions, run
from geomae.commands.options import CommonOptions
from geomae.config import Decoder
from geomae.embeddings.store import store_digest
from geomae.encoders.selections import embed_selections, rows_of
from geomae.errors import BandMismatchError, CatalogError, ConfigError, StorageError
from geomae.evaluation.pca import Earlier, fit_store, project_store
from geomae.models.architecture import Architecture
from geomae.models.folder import Model, save_model
from geomae.models.mae import MaskedAutoencoder
from geomae.runtime.console import Screen
from geomae.runtime.devices import open_compute
from geomae.sensors import sensor
from geomae.sensors.record import SensorRecord
from geomae.tiles.reader import TileReader
from geomae.tiles.selection import select_tiles

torch.set_num_threads(1)
SPLITS = "    split: {random: {train: 0.5, test: 0.5}, seed: 0}\n"


def small_model(folder, name="naip", bands=("red", "green", "blue", "nir"), embedding="spectral"):
    known = tuple(sensor(name).band(one) for one in bands)
    record = SensorRecord(name, "reflectance", 5.0, known, (0.2,) * len(bands), (0.1,) * len(bands))
    shape = Architecture(
        embedding=embedding, bands=len(bands), patch=4, width=24, depth=4, heads=2,
        decoder=Decoder(width=16, depth=1, heads=2),
    )  # fmt: skip
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        save_model(Model(MaskedAutoencoder(shape).eval(), (record,), {"mlflow_run": "0123abcd"}), folder)
    return folder


@pytest.fixture(scope="module")
def data(tmp_path_factory):
    folder = tmp_path_factory.mktemp("data")
    write_scenes(folder / "scenes")
    small_model(folder / "first" / "model")
    return write_catalog(folder, CATALOG.replace("unit: reflectance", "unit: reflectance\n" + SPLITS.rstrip()))


@pytest.fixture
def ask(data, tracking_uri, tmp_path):
    """A request in this process."""

    def run_it(encoder=None, datasets=("tiny",), out="out", dry_run=False, **choice):
        common = CommonOptions(
            catalog=data, out=tmp_path / out, precision="32", tracking_uri=tracking_uri, dry_run=dry_run, quiet=True
        )
        encoders = (str(encoder or data.parent / "first" / "model"),) if not isinstance(encoder, tuple) else encoder
        assert run(EmbedOptions(common, encoders, datasets, **choice)) == 0
        return tmp_path / out

    return run_it


def chosen(catalog, *texts):
    from geomae.catalog import open_catalog

    return select_tiles(open_catalog(catalog), texts, Screen(shown=False))


def test_what_a_run_leaves(ask, data, tracking_uri):
    out = ask(patches=True)
    dataset = open_embeddings(out)
    (selected,) = chosen(data, "tiny")
    encoder = load_encoder(data.parent / "first" / "model", 2, "mean-std", imagery=selected.imagery)
    pixels, valid = map(torch.from_numpy, TileReader(selected.index).many(range(64)))
    tile_BD, patches_BND = encoder.embed(pixels, valid)
    np.testing.assert_allclose(dataset["embedding"], tile_BD, atol=1e-6)
    np.testing.assert_allclose(dataset["patch_embedding"].values.reshape(64, 16, 24), patches_BND, atol=2e-3)
    about = dataset.attrs
    assert (about["encoder"], about["layer"], about["pooling"]) == (encoder.text, 2, "mean-std")
    assert all(len(about[name]) >= 32 for name in ("model_digest", "catalogue_digest", "data_digest"))
    frame = geopandas.read_parquet(out / "embeddings.parquet")
    np.testing.assert_array_equal(np.stack(frame["embedding"]), dataset["embedding"])
    assert frame.geometry.is_valid.all()
    summary = json.loads((out / "summary.json").read_text())
    assert (summary["command"], summary["out"]) == ("embed", str(out))
    assert (summary["metrics"]["tiles"], summary["metrics"]["width"]) == (64, 48)
    assert summary["metrics"]["tiles_per_s"] > 0
    tracked = mlflow_client(tracking_uri).get_run(summary["run_id"])
    assert tracked.info.status == "FINISHED"
    assert tracked.data.tags["geomae.model_run"] == "0123abcd"
    assert tracked.data.params["store"] == str(out / "embeddings.zarr")
    assert tracked.data.params["store_digest"] == summary["inputs"]["store_digest"]
    assert tracked.data.metrics["tiles"] == 64
    assert [one.dataset.name for one in tracked.inputs.dataset_inputs] == ["tiny"]


def test_again_gives_the_same_and_another_request_is_refused(ask, data):
    out = ask(layer=3)
    before = json.loads((out / "summary.json").read_text())
    stamps = contents(out / "embeddings.zarr")
    assert json.loads((ask(layer=3) / "summary.json").read_text()) == before
    assert contents(out / "embeddings.zarr") == stamps
    with pytest.raises(StorageError, match=r"another request, which differs in .*layer \(3 there, 1 here\)"):
        ask(layer=1)
    text = data.read_text()
    data.write_text(text.replace("0.0001", "0.0002"))
    with pytest.raises(StorageError, match="catalogue_digest"):
        ask(layer=3)
    data.write_text(text)
    with pytest.raises(StorageError, match=r"differs in dataset \(\[\"tiny\"\] there, \[\"tiny@train\"\] here\)"):
        ask(layer=3, datasets=("tiny@train",))


def test_selections_that_overlap_give_each_tile_once(ask, data):
    dataset = open_embeddings(ask(datasets=("tiny@train", "tiny", "tiny@test"), pooling="cls"))
    assert len(set(dataset["tile_id"].values.tolist())) == dataset.sizes["tile"] == 64
    for one in chosen(data, "tiny", "tiny@test"):
        assert dataset["tile_id"].values[rows_of(dataset, one)].tolist() == one.index.tiles["tile_id"].tolist()
    (train,) = chosen(data, "tiny@train")
    with pytest.raises(CatalogError, match="is not among the embeddings"):
        rows_of(dataset.isel(tile=slice(3, None)), train)


@pytest.mark.parametrize("baseline", ["statistics", "random", "pixels"])
def test_baselines_need_no_model(ask, baseline):
    dataset = open_embeddings(ask(f"baseline:{baseline}"))
    assert dataset.attrs["encoder"] == f"baseline:{baseline}"
    assert np.isfinite(dataset["embedding"]).all()


def test_what_is_wrong_is_said_and_nothing_is_written(ask, tmp_path):
    stacked = small_model(tmp_path / "stacked", "hls-l30", ("blue", "swir16"), embedding="stacked")
    for encoder, kind, parts in (
        ((), ConfigError, ["--encoder: name one"]),
        (("a", "b"), ConfigError, ["2 are named", "geomae probe"]),
        ("timn:vit", ConfigError, ["did you mean 'timm'"]),
        ("baseline:statistic", ConfigError, ["did you mean 'statistics'"]),
        (stacked, BandMismatchError, ["needs B06", "an encoder with the spectral embedding"]),
    ):
        with pytest.raises(kind) as caught:
            ask(encoder)
        for part in parts:
            assert part in str(caught.value)
    with pytest.raises(CatalogError, match="did you mean 'tiny'"):
        ask(datasets=("tini",))
    with pytest.raises(ConfigError, match="layers 1 to 4"):
        ask(layer=5)
    assert not (tmp_path / "out").exists()


def test_a_dry_run_writes_nothing(data, tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    asked = EmbedOptions(CommonOptions(catalog=data, dry_run=True), (str(data.parent / "first" / "model"),))
    assert run(asked) == 0
    shown = capsys.readouterr().out
    assert "embed tiny: 64 tiles of 16 pixels" in shown
    assert "layer 2 of 4, pooled by mean-std" in shown
    assert contents(tmp_path) == []


def test_a_notebook_embeds_a_selection_and_takes_its_components(data, tmp_path):
    catalog, compute = open_catalog(data), open_compute("cpu", "32")
    selection = select_tiles(catalog, ["tiny@train"])[0]
    encoder = load_encoder(data.parent / "first" / "model", "middle", "mean-std", imagery=selection.imagery)
    embedded = embed_selections(compute, catalog, {"tiny": encoder}, [selection], tmp_path)
    embeddings = open_embeddings(tmp_path)
    assert embedded.open().identical(embeddings)
    assert embeddings["tile_id"].to_numpy().tolist() == selection.index.tiles["tile_id"].tolist()
    result, scores = fit_store(embeddings, components=3)
    assert scores.shape == (len(selection.index), 3)
    np.testing.assert_allclose(scores.var(0, ddof=1), result.pca.variance_K, rtol=1e-4)
    assert result.metrics()["components"] == 3
    again, both = project_store(embeddings, Earlier(tmp_path, result.pca, embeddings))
    np.testing.assert_array_equal(both, np.concatenate([scores, scores]))
    np.testing.assert_allclose(again.carried_K, result.carried_K, rtol=1e-4)


@pytest.fixture(scope="module")
def many(tmp_path_factory, tracking_uri):
    """1369 tiles that overlap, which are several chunks: the command, and the digest of a store made in one go."""
    folder = tmp_path_factory.mktemp("many")
    write_scenes(folder / "scenes", scenes=1, side=160)
    catalog = write_catalog(folder, CATALOG.replace("{size: 16}", "{size: 16, stride: 4}"))
    common = CommonOptions(catalog=catalog, out=folder / "out", precision="32", tracking_uri=tracking_uri, quiet=True)
    assert run(EmbedOptions(common, ("baseline:random",))) == 0
    options = ("--catalog", catalog, "--precision", "32", "--tracking-uri", tracking_uri)
    return ("embed", "--encoder", "baseline:random", *options), store_digest(folder / "out" / "embeddings.zarr")


def test_two_processes_give_the_bytes_of_one(many, tmp_path):
    asked, whole = many
    done = forked(*asked, "--devices", 2, "--out", "out", cwd=tmp_path)
    assert done.returncode == 0, done.stderr
    assert done.stdout.count("embeddings: ") == 1
    assert store_digest(tmp_path / "out" / "embeddings.zarr") == whole


def test_stopped_by_a_signal_it_can_be_gone_on_with(many, tracking_uri, tmp_path):
    asked, whole = many
    out = tmp_path / "out"
    log = tmp_path / "log.txt"
    process = Forked(*asked, "--out", out, cwd=tmp_path, out=log, err=log)
    while not (out / "embeddings.zarr.partial").exists():
        assert process.poll() is None, log.read_text()
        time.sleep(0.001)
    process.send_signal(signal.SIGTERM)
    assert process.wait(120) == 143, log.read_text()
    assert f"run the same command with --out {out} to continue" in log.read_text()
    run_id = json.loads((out / "tracking.json").read_text())["run_id"]
    assert mlflow_client(tracking_uri).get_run(run_id).info.status == "KILLED"
    common = CommonOptions(catalog=asked[4], out=out, precision="32", tracking_uri=tracking_uri, quiet=True)
    assert run(EmbedOptions(common, ("baseline:random",))) == 0
    assert store_digest(out / "embeddings.zarr") == whole
    assert json.loads((out / "summary.json").read_text())["run_id"] == run_id
