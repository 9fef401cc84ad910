"""Points and polygons of the sample landscape through the commands that take labels from the field."""

import json
import re

import pandas as pd
import pytest
from helpers import called, write_catalog

from geomae.catalog import open_catalog
from geomae.commands.options import CommonOptions
from geomae.commands.probe import ProbeOptions, run
from geomae.evaluation.gap import read_gap_domains
from geomae.tiles.sample_landscape import landscape
from geomae.tiles.selection import select_tiles

ENTRIES = """\
version: 1
datasets:
  points: &points
    sample: {size: 128, scenes: 1}
    windows: {points: points.geojson, size: 16, where: "class not in ['built', 'shrub']"}
    label: {column: class}
    group: {column: cluster}
    split: {group: {train: 0.5, test: 0.5}}
  cover:
    <<: *points
    label: {column: tree_cover}
  heights:
    sample: {size: 128, scenes: 1}
    outside: true
    tile: {size: 8}
    label: {vector: {path: HEIGHTS, column: height}, min_purity: 0.3}
    group: {column: field}
    split: {group: {train: 0.5, test: 0.5}}
  fields:
    sample: {size: 128, scenes: 1}
    tile: {size: 16}
    label:
      vector: {path: fields.geojson, column: class}
      classes: {crop: farmed, grass: farmed, bare: bare}
      min_purity: 0.3
    group: {column: field}
    split: {group: {train: 0.5, test: 0.5}}
"""
HEIGHTS_M = {"forest": 18, "built": 6, "shrub": 3, "crop": 1}  # other classes are low
STATISTICS = ("--encoder", "baseline:statistics")


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    """A folder with a catalogue of points with a class, the same with a number, fields with a number, and fields."""
    folder = tmp_path_factory.mktemp("field")
    fields = json.loads((landscape(size=128, scenes=1) / "fields.geojson").read_text(encoding="utf-8"))
    for number, one in enumerate(fields["features"]):
        one["properties"]["height"] = HEIGHTS_M.get(one["properties"]["class"], 0) + number % 50 / 100
    (folder / "heights.geojson").write_text(json.dumps(fields), encoding="utf-8")
    return write_catalog(folder, ENTRIES.replace("HEIGHTS", str(folder / "heights.geojson"))).parent


PROBE = ("probe", "--train", "{}@train", "--test", "{}@test", *STATISTICS, "--no-baselines", "--strength", "1")


def filled(words, dataset):
    """The words of a command, about a data set."""
    return [word.format(dataset) for word in words]


@pytest.mark.parametrize(
    ("dataset", "task", "metric", "least", "counts"),
    [
        ("points", "classification", "balanced_accuracy", 0.3, {"n_train": 10, "n_test": 13, "n_groups": 4}),
        ("fields", "segmentation", "mean_iou", 0.5, {"n_train": 25, "n_test": 21, "n_groups": 10}),  # parts of tiles
    ],
)
def test_a_probe_learns_from_the_field(folder, tracking_uri, dataset, task, metric, least, counts):
    out = folder / dataset
    done = called(*filled(PROBE, dataset), "--task", task, "--tracking-uri", tracking_uri, "--out", out, cwd=folder)
    assert done.returncode == 0, done.stderr
    table = pd.read_csv(out / "probe.csv").set_index(["method", "shots", "class", "metric"])
    row = table.loc["linear", "all", "all", metric]
    assert row["value"] > least  # five classes of tiles, two of pixels
    assert row[list(counts)].to_dict() == counts


def test_numbers_of_polygons_are_learned_and_are_no_classes_of_a_gap(folder, tracking_uri, tmp_path):
    catalog = folder / "data_catalog.yaml"
    common = CommonOptions(catalog, tmp_path / "out", device="cpu", tracking_uri=tracking_uri, quiet=True)
    options = ProbeOptions(
        common, "heights@train", ("heights@test",), ("baseline:statistics",), "regression", 1.0, baselines=False
    )
    assert run(options) == 0
    table = pd.read_csv(tmp_path / "out/probe.csv").set_index(["method", "metric"])
    assert table.loc[("linear", "r2"), ["n_train", "n_test"]].tolist() == [58, 79]
    assert 0 < table.loc[("linear", "mae"), "value"] < 9  # half of the range
    both = select_tiles(open_catalog(catalog), ["heights[domain=lowland]", "heights[domain=dryland]"])
    domains = read_gap_domains(both, 0)
    assert domains.measured is not None and domains.measured[1] > 18
    assert all((one.label_T == "").all() for one in domains)


@pytest.mark.parametrize(
    ("words", "counts"),
    [
        ((*PROBE, "--task", "classification"), {"fields": (10, 7)}),
        ((*PROBE, "--task", "regression"), {"cover": (10, 13), "heights": (58, 79)}),
        (("embed-pca", "--dataset", "{}", *STATISTICS), {"points": (23,), "fields": (109,)}),
        (
            ("gap", "--source", "{}[domain=lowland]", "--target", "{}[time>=2021-07]", *STATISTICS),
            {"points": (12, 11), "fields": (55, 54)},
        ),
        (
            ("pretrain", "--config", "tiny", "--dataset", "{}@train", "--eval", "{}@test"),
            {"points": (9, 1, 13), "fields": (22, 2, 30)},
        ),
    ],
    ids=["classification", "regression", "embed-pca", "gap", "pretrain"],
)
def test_every_command_takes_points_and_polygons(folder, words, counts):
    for dataset, tiles in counts.items():
        done = called(*filled(words, dataset), "--dry-run", cwd=folder)
        assert done.returncode == 0, done.stderr
        assert tuple(map(int, re.findall(r"(\d+)(?: labelled)? tiles", done.stdout)))[: len(tiles)] == tiles
