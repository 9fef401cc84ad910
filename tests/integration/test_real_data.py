"""The tiny configuration on each of the real data sets that lie beside the project."""

import json
from pathlib import Path

import numpy as np
import pytest
from ruamel.yaml import YAML

from geomae.commands.pretrain import PretrainOptions, run

SHARED = (Path(__file__).parents[2] / "../shared/data/catalog.yaml").resolve()


def real_names():
    """Names of the real data sets, where they are present."""
    return list(YAML(typ="safe").load(SHARED)["datasets"]) if SHARED.is_file() else ["absent"]


@pytest.mark.parametrize("name", real_names())
def test_tiny_fits_each_real_data_set(name, shared_data, tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    catalog = shared_data / "catalog.yaml"
    assert run(PretrainOptions(catalog=catalog, datasets=(name,), config="tiny", dry_run=True)) == 0
    assert f"train on {name}@train: " in capsys.readouterr().out
    assert not list(tmp_path.iterdir())


@pytest.mark.slow
@pytest.mark.parametrize("name", [*real_names(), "together"])
def test_training_on_real_data(name, geomae, shared_data, tracking_uri, tmp_path):
    chosen = ["hls-unlabelled", "eurosat-ms", "landsat7-chiapas"] if name == "together" else [name]
    selectors = [word for one in chosen for word in ("--dataset", one)]
    done = geomae(
        "pretrain", "--catalog", shared_data / "catalog.yaml", *selectors, "--config", "tiny", "--set", "steps=6",
        "--tracking-uri", tracking_uri, "--out", "run", "--quiet", cwd=tmp_path, timeout=600,
    )  # fmt: skip
    assert (done.returncode, done.stderr) == (0, "")
    metrics = json.loads((tmp_path / "run" / "summary.json").read_text())["metrics"]
    assert all(np.isfinite(value) for value in metrics.values())
    assert sum(key.startswith("loss/") for key in metrics) == len(chosen)
