"""Points of a survey through the commands, which index them and say what they would do."""

import geopandas as gpd
import numpy as np
import pytest
import shapely
from helpers import CATALOG, called, write_catalog, write_scenes

PLOTS = """\
    windows: {points: points.gpkg, size: 16}
    label: {column: cover}
    group: {column: cluster}
    split: {column: part}
"""
HEIGHTS = "  heights:\n    <<: *tiny\n    label: {column: height}\n"
STATISTICS = ("--encoder", "baseline:statistics")


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    """Plots of two covers, each with a height, in four scenes of which the last is for tests."""
    root, draw, rows = tmp_path_factory.mktemp("points"), np.random.default_rng(5), []
    write_scenes(root / "scenes")
    for number in range(4):
        for _ in range(12):
            row, col = draw.uniform(8, 56, 2)
            part, cluster = "test" if number == 3 else "train", f"c{number}{int(row > 32)}{int(col > 32)}"
            place = shapely.Point(400_000 + 1000 * number + 5 * col, 5_000_000 - 5 * row)
            columns = {"cover": ("crop", "tree")[int(draw.integers(2))], "height": float(draw.normal())}
            rows.append({"geometry": place, "cluster": cluster, "part": part, **columns})
    gpd.GeoDataFrame(rows, crs="EPSG:32632").to_file(root / "points.gpkg")
    text = CATALOG.replace("    tile: {size: 16}\n", PLOTS).replace("  tiny:", "  tiny: &tiny")
    write_catalog(root, text + HEIGHTS)
    return root


@pytest.mark.parametrize(
    "words",
    [
        ("probe", "--train", "tiny@train", "--test", "tiny@test", *STATISTICS),
        ("probe", "--train", "heights@train", "--test", "heights@test", "--task", "regression", *STATISTICS),
        ("embed-pca", "--dataset", "tiny", *STATISTICS),
        ("gap", "--source", "tiny@train", "--target", "tiny@test", *STATISTICS),
        ("pretrain", "--config", "tiny", "--dataset", "tiny@train", "--eval", "tiny@test"),
    ],
)
def test_every_command_takes_points(folder, words):
    done = called(*words, "--dry-run", cwd=folder)
    assert done.returncode == 0, done.stderr
    assert any(count in done.stdout for count in ("12", "36", "48"))  # tiles of the splits and of all scenes
    assert "are nearer than the 16 pixels of a tile" in done.stderr + done.stdout or "heights" in words[2]
