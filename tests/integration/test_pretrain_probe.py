"""The kNN probe during pretraining: its curve, the tiles it asks, and what is wrong with a wish for it."""

import json
from types import SimpleNamespace

import numpy as np
import pytest
import torch
from helpers import CATALOG, SMALL, called, history, options, refuses, write_catalog, write_scenes

from geomae.catalog import open_catalog
from geomae.errors import CatalogError, ConfigError
from geomae.evaluation import pretraining_probe
from geomae.tiles.index import build_index
from geomae.tiles.reader import TileReader

LABELS = "    table: {path: labels.csv, key: scene}\n    label: {column: cover}\n"


@pytest.fixture(scope="module")
def labelled(tmp_path_factory):
    """Four scenes with two labels: 64 tiles."""
    folder = tmp_path_factory.mktemp("labelled")
    write_scenes(folder / "scenes")
    (folder / "labels.csv").write_text("scene,cover\ns0,forest\ns1,forest\ns2,water\ns3,water\n", encoding="utf-8")
    return write_catalog(folder, CATALOG + LABELS)


def test_a_probe_leaves_a_curve_that_begins_with_the_untrained_encoder(labelled, tracking_uri, tmp_path):
    out = tmp_path / "run"
    done = called(
        "pretrain", "--catalog", labelled, "--out", out, "--tracking-uri", tracking_uri, "--precision", "32",
        *options(*SMALL, "steps=4", "probe_every=2"), cwd=tmp_path,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    curve = {row["step"]: row for row in history(out) if "probe/knn20/tiny@train" in row}
    assert sorted(curve) == [0, 2, 4]
    for row in curve.values():
        assert 0 <= row["probe/knn5/tiny@train"] <= 1
        assert row["probe/effective_rank/tiny@train"] > 1
    metrics = json.loads((out / "summary.json").read_text(encoding="utf-8"))["metrics"]
    assert metrics["probe/knn20/tiny@train"] == curve[4]["probe/knn20/tiny@train"]
    assert "probe of tiny@train after step 0: knn5 " in done.stderr


def test_what_cannot_be_probed_is_said_before_anything_is_written(labelled, tiny_catalog, tmp_path):
    few = ("steps=2", *SMALL)
    wishes = {"out": tmp_path / "run", "dry_run": True}
    unread = {"catalog": tmp_path / "none.yaml", "changes": few}  # before the catalogue is opened, so before any index
    refuses(ConfigError, ["--probe tiny", "--set probe_every=STEPS"], probe="tiny", **unread, **wishes)
    refuses(
        CatalogError, ["no tile of tiny@train has a label", "--probe"],
        catalog=tiny_catalog, changes=(*few, "probe_every=1"), **wishes,
    )  # fmt: skip
    refuses(
        CatalogError, ["there is no data set 'tinny'", "'tiny'"],
        catalog=labelled, probe="tinny", changes=(*few, "probe_every=1"), **wishes,
    )  # fmt: skip
    assert not (tmp_path / "run").exists()


def test_of_numbers_the_probe_tells_r2(tmp_path, monkeypatch):
    """Each tile's number is the level of its red: who sees it knows the number, and nothing of shuffled ones."""
    write_scenes(tmp_path / "scenes")
    index = build_index(open_catalog(write_catalog(tmp_path)), "tiny")
    red_T = TileReader(index).many(range(len(index)))[0][:, 0].mean((1, 2))
    places = index.tiles[["scene", "row", "col"]].astype(str).agg(",".join, axis=1)
    seen = SimpleNamespace(
        bands=index.source.bands, patch_grid=lambda *size: size,
        embed=lambda pixels, valid: (torch.stack([pixels[:, 0].mean((1, 2)), torch.full((len(pixels),), 0.2)], 1),),
    )  # fmt: skip
    monkeypatch.setattr(pretraining_probe, "_encoder", lambda model, index: seen)

    def probed(value_T):
        rows = [f"s{place},{value:.6f}" for place, value in zip(places, value_T, strict=True)]
        (tmp_path / "windows.csv").write_text("\n".join(["scene,row,col,level", *rows, ""]), encoding="utf-8")
        windows = "windows: {table: windows.csv, key: scene, row: row, col: col, size: 16}\n    label: {column: level}"
        catalog = open_catalog(write_catalog(tmp_path, CATALOG.replace("tile: {size: 16}", windows)))
        tiles = pretraining_probe.labelled_tiles(catalog, ["tiny"], None, 0)
        assert tiles.classes == ()
        assert sorted(tiles.label_T) == pytest.approx(sorted(value_T), abs=1e-6)
        return pretraining_probe.probe(None, tiles)

    true, shuffled = probed(red_T), probed(np.random.default_rng(0).permutation(red_T))
    assert sorted(true) == ["probe/effective_rank/tiny", "probe/knn20_r2/tiny", "probe/knn5_r2/tiny"]
    assert true["probe/knn5_r2/tiny"] > 0.9
    assert shuffled["probe/knn5_r2/tiny"] < 0.3
