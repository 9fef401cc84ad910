"""The kNN probe during pretraining: its curve, the tiles it asks, and what is wrong with a wish for it."""

import json

import pytest
from helpers import CATALOG, SMALL, called, history, options, refuses, write_catalog, write_scenes

from geomae.errors import CatalogError, ConfigError

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
    refuses(
        ConfigError, ["--probe tiny", "--set probe_every=STEPS"], catalog=labelled, probe="tiny", changes=few, **wishes
    )
    refuses(
        CatalogError, ["no tile of tiny@train has a label", "--probe"],
        catalog=tiny_catalog, changes=(*few, "probe_every=1"), **wishes,
    )  # fmt: skip
    refuses(
        CatalogError, ["there is no data set 'tinny'", "'tiny'"],
        catalog=labelled, probe="tinny", changes=(*few, "probe_every=1"), **wishes,
    )  # fmt: skip
    assert not (tmp_path / "run").exists()
