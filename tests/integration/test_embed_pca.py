"""`geomae embed-pca` as people run it: files, figures, maps and projections, and what goes wrong in one line."""

import re
from types import SimpleNamespace

import numpy as np
import pandas as pd
import pytest
import rasterio
import torch
from helpers import CATALOG, mlflow_client, write_catalog, write_scenes
from processes import forked
from sklearn.decomposition import PCA

from geomae import open_embeddings
from geomae.commands.embed_pca import EmbedPcaOptions, run
from geomae.commands.embed_pca_report import count_maps
from geomae.commands.options import CommonOptions
from geomae.embeddings.store import store_digest
from geomae.errors import ConfigError, StorageError
from geomae.evaluation.pca import load_pca
from geomae.files import read_json
from geomae.rasters import Grid
from geomae.reports import pca_map_figures

torch.set_num_threads(1)
SPLITS = "    split: {random: {train: 0.5, test: 0.5}, seed: 0}\n"
FILES = ("embeddings.parquet", "pca.npz", "pca_scree.png", "pca_scatter.png", "report.html", "summary.json")
ENCODER = "baseline:random"


@pytest.fixture(scope="module")
def data(tmp_path_factory):
    """Two data sets of 64 tiles in four scenes; the second is a little brighter."""
    folder = tmp_path_factory.mktemp("data")
    write_scenes(folder / "scenes")
    entry = CATALOG.split("datasets:\n")[1].replace("unit: reflectance", "unit: reflectance\n" + SPLITS.rstrip())
    brighter = entry.replace("tiny:", "bright:").replace("0.0001", "0.0002").replace(SPLITS, "")
    return write_catalog(folder, f"version: 1\ndatasets:\n{entry}{brighter}")


@pytest.fixture(scope="module")
def ask(data, tracking_uri, tmp_path_factory):
    """A request in this process; gives the folder of its results."""
    folder = tmp_path_factory.mktemp("runs")

    def run_it(out, datasets=("tiny",), encoder=ENCODER, layer=1, dry_run=False, quiet=True, **more):
        common = CommonOptions(
            catalog=data, out=folder / out, precision="32", tracking_uri=tracking_uri, quiet=quiet, dry_run=dry_run
        )
        assert run(EmbedPcaOptions(common, (encoder,), tuple(datasets), layer, **more)) == 0
        return folder / out

    return run_it


@pytest.fixture(scope="module")
def first(ask):
    return ask("first")


def figures(folder):
    metrics = read_json(folder / "summary.json")["metrics"]
    return {name: value for name, value in metrics.items() if name not in ("seconds", "tiles_per_s")}


def test_two_processes_give_the_embeddings_and_components_of_one(data, first, tracking_uri, tmp_path):
    done = forked(
        "embed-pca", "--catalog", data, "--dataset", "tiny", "--encoder", ENCODER, "--layer", 1, "--precision", "32",
        "--tracking-uri", tracking_uri, "--devices", 2, "--out", "out", cwd=tmp_path,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    assert done.stdout.count("report: ") == 1
    assert store_digest(tmp_path / "out" / "embeddings.zarr") == store_digest(first / "embeddings.zarr")
    alone, both = (load_pca(folder / "pca.npz") for folder in (first, tmp_path / "out"))
    np.testing.assert_allclose(both.components_KD, alone.components_KD, atol=1e-10)  # linear algebra of other threads
    assert {one.name for one in (tmp_path / "out").glob("*.tif")} == {one.name for one in first.glob("*.tif")}


def test_what_a_run_leaves(first, tracking_uri):
    assert all((first / name).is_file() for name in FILES)
    dataset = open_embeddings(first)
    train = dataset["embedding"].to_numpy()[dataset["split"].to_numpy() == "train"]
    expected = PCA(16, svd_solver="full").fit(train.astype(np.float64))
    pca = load_pca(first / "pca.npz")
    np.testing.assert_allclose(pca.variance_K, expected.explained_variance_, rtol=1e-5)
    summary = read_json(first / "summary.json")
    assert summary["command"] == "embed-pca"
    assert figures(first) == {
        "tiles": 64,
        "width": 384,
        "components": 16,
        "fitted_tiles": len(train),
        "effective_rank": pytest.approx(pca.effective_rank),
        "explained_variance_ratio": pytest.approx(expected.explained_variance_ratio_.sum(), rel=1e-5),
        **{
            f"explained_variance_ratio_{k + 1}": pytest.approx(expected.explained_variance_ratio_[k], rel=1e-5)
            for k in range(4)
        },
        "maps": 4,
    }
    tracked = mlflow_client(tracking_uri).get_run(summary["run_id"])
    assert tracked.data.metrics["effective_rank"] == pytest.approx(pca.effective_rank)
    assert tracked.info.status == "FINISHED"


def test_the_report_stands_alone(first):
    page = (first / "report.html").read_text(encoding="utf-8")
    assert page.count("data:image/png;base64,") == 2 + 4 + 1  # two pictures, four maps, all tiles in one
    assert "The plot shows all tiles." in page
    assert "s0:0:0" in page
    assert "http" not in page.replace("http-equiv", "")
    share = load_pca(first / "pca_map.npz").share_D[:3].sum()
    assert f"These components carry {share:.1%} of the variance of the patches that they were fitted to." in page


def test_maps_lie_on_their_scenes_in_one_set_of_colours(first, data):
    colours = read_json(first / "pca_map.json")
    assert sorted(colours) == ["high", "low"]
    for number in range(4):
        assert (first / f"pca_map_s{number}.png").is_file()
        with (
            rasterio.open(first / f"pca_map_s{number}.tif") as written,
            rasterio.open(data.parent / "scenes" / f"s{number}.tif") as scene,
        ):
            assert (written.crs, written.bounds) == (scene.crs, scene.bounds)
            assert (written.width, written.height, written.res) == (8, 8, (40.0, 40.0))


def test_a_map_says_how_large_its_patches_are_and_where_its_coordinates_stand(ask, monkeypatch):
    captions = []
    drawn = pca_map_figures.pca_map_picture
    monkeypatch.setattr(
        pca_map_figures, "pca_map_picture", lambda *given, caption, **more: captions.append(caption) or
        drawn(*given, caption=caption, **more),
    )  # fmt: skip
    ask("captioned", maps=1)
    (caption,) = captions
    assert "a patch of 8 x 8 pixels (40 m), embedded" in caption
    assert "upper left corner of the scene; pca_map_s2.tif has its coordinates." in caption


def test_the_same_request_gives_the_same_figures(first, ask):
    again = ask("again")
    assert figures(again) == figures(first)
    for name in ("pca.npz", "pca_scree.png", "pca_scatter.png", "pca_map_s0.tif", "pca_map_s0.png", "pca_map.json"):
        assert (again / name).read_bytes() == (first / name).read_bytes()


def test_an_earlier_run_takes_other_tiles(first, ask):
    out = ask("projected", datasets=("bright",), project=first)
    assert (out / "pca.npz").read_bytes() == (first / "pca.npz").read_bytes()
    assert (out / "pca_map.json").read_bytes() == (first / "pca_map.json").read_bytes()
    page = (out / "report.html").read_text(encoding="utf-8")
    assert "are in light colours behind" in page
    assert "share of the variance here" in page
    # Twice as bright and standardised by its own statistics: the same embeddings, but for the tiles that are fitted.
    same = ask("itself", project=first)
    dataset, pca = open_embeddings(same), load_pca(first / "pca.npz")
    scores = pca.transform(dataset["embedding"].to_numpy()).astype(np.float64)
    share = scores[:, 0].var(ddof=1) / dataset["embedding"].to_numpy().astype(np.float64).var(axis=0, ddof=1).sum()
    assert figures(same)["explained_variance_ratio_1"] == pytest.approx(share, rel=1e-4)


def test_tiles_without_a_train_split_are_all_fitted_and_that_is_said(ask):
    out = ask("test-only", datasets=("tiny@test",), maps=0)
    assert figures(out)["fitted_tiles"] == figures(out)["tiles"]
    said = "tiny: none of the selected tiles is of the train split; the fit uses all of them"
    assert read_json(out / "summary.json")["inputs"]["fit"] == [said]
    assert said in (out / "report.html").read_text(encoding="utf-8")
    assert not [*out.glob("pca_map*")]


def test_selections_of_one_data_set_are_one(ask):
    out = ask("both", datasets=("tiny@test", "tiny@train"), maps=1, components=2)
    assert read_json(out / "summary.json")["inputs"]["fit"] == []
    assert figures(out)["fitted_tiles"] < figures(out)["tiles"] == 64
    assert [path.name for path in out.glob("pca_map_*.tif")] == ["pca_map_s2.tif"]
    assert "explained_variance_ratio_3" not in figures(out)


def test_the_variance_is_said_to_be_that_of_the_fitted_tiles(ask, capsys):
    out = ask("fitted", maps=0, quiet=False)
    fitted, share = figures(out)["fitted_tiles"], sum(figures(out)[f"explained_variance_ratio_{k}"] for k in (1, 2, 3))
    assert fitted < figures(out)["tiles"] == 64
    said = f"carry {share:.1%} of the variance of the {fitted} tiles (of 64) that the components were fitted to; their"
    assert said in capsys.readouterr().out
    ask("onto", maps=0, quiet=False, project=out)
    said = f"The first 3 components of {out} (fitted to {fitted} tiles) carry"
    assert re.search(rf"{re.escape(said)} [\d.]+% of the variance of 64 tiles; their", capsys.readouterr().out)


def test_maps_are_counted_and_named_with_the_way_to_the_others(ask, capsys):
    out = ask("counted", maps=1, quiet=False)
    shown = capsys.readouterr()
    chosen = f"--project {out} --dataset 'tiny[COLUMN=VALUE]'"
    said = f"aps of 1 of 4 scenes; --maps 4 maps all; scenes of your choice, in the same colours: {chosen}"
    assert f"m{said}\n" in shown.err
    assert f"maps: {out / 'pca_map_*.png'} (1 picture, and GeoTIFFs)\n" in shown.out
    assert f"M{said}.".replace("'", "&#39;") in (out / "report.html").read_text(encoding="utf-8")
    every = ask("counted-all", maps=4, quiet=False)
    shown = capsys.readouterr()
    assert "maps of 4 of 4 scenes\n" in shown.err
    assert f"maps: {every / 'pca_map_*.png'} (4 pictures, and GeoTIFFs)\n" in shown.out
    ask("uncounted", maps=0, quiet=False)
    assert "maps" not in capsys.readouterr().out


def test_scenes_too_small_for_a_map_are_counted(first):
    grid = Grid(16, 16, None, None, (1, 0, 0, 0, -1, 0))
    index = SimpleNamespace(name="chips", tiles=pd.DataFrame({"scene": range(3), "size": 16}), grids=[grid] * 3)
    parts = [SimpleNamespace(index=index)]
    assert count_maps(parts, [], first) == "maps of 0 of 3 scenes; 3 are less than two tiles long, too small for a map"


def test_what_cannot_be(first, ask, tmp_path):
    with pytest.raises(
        ConfigError, match=r"--components 400: there are 32 tiles .* and 384 features; choose at most 32"
    ):
        ask("no", components=400)
    with pytest.raises(ConfigError, match=r"--components 9: .* and 8 features; choose at most 8"):
        ask("no", components=9, encoder="baseline:statistics")
    with pytest.raises(ConfigError, match="its components are those of another encoder"):
        ask("no", project=first, encoder="baseline:random?seed=1")
    with pytest.raises(ConfigError, match="not of baseline:random; give that encoder, with its --layer and --pooling"):
        ask("no", project=first, layer=2)
    with pytest.raises(StorageError, match="does not exist; give the folder of a finished `geomae embed-pca`"):
        ask("no", project=tmp_path)
    assert not ask("no", dry_run=True).exists()


def test_the_command_says_what_it_found(data, tracking_uri, tmp_path):
    done = forked(
        "embed-pca", "--catalog", data, "--dataset", "tiny", "--encoder", "baseline:statistics", "--maps", 0,
        "--tracking-uri", tracking_uri, "--out", "out", cwd=tmp_path,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    assert "The first 3 components carry" in done.stdout
    assert figures(tmp_path / "out")["components"] == 8  # of 16, as there are no more features
