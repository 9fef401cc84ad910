"""Every command on a small sample landscape: what it leaves, and the figures that it finds.

The figures are compared within tolerances that hold on any CPU: kernels of other instruction sets add in
another order. A change of logic moves them by far more. `pytest tests/golden --rewrite-golden` writes the files.
"""

import pytest
import torch
from figures import FIGURES, check_figures, losses_of, read_figures
from frozen import check_text
from helpers import called, options, write_catalog, write_scenes
from left import left

torch.set_num_threads(1)  # the order of a sum depends on the number of threads
CATALOG = """\
version: 1
datasets:
  landscape:
    sample: {seed: 0, size: 256, scenes: 2}
    tile: {size: 32}
    split: {block_km: 0.4, fractions: {train: 0.6, val: 0.1, test: 0.3}, seed: 2}
"""
LOWLAND, DRYLAND = "landscape[domain=lowland]", "landscape[domain=dryland]"
PLAIN = ("--precision", "32", "--device", "cpu")
MODELS = {
    "stacked": ("--config", "pixels", *options("embedding=stacked")),
    "grouped": ("--config", "pixels", *options("embedding=grouped")),
    "spectral": ("--config", "pixels"),
    "cae": ("--config", "cae"),
    "terms": (),
}
MODEL = "pretrain-spectral/model"


def pretrain(*words):
    """Twenty steps of a shipped configuration, with everything that is measured along the way."""
    settings = options("steps=20", "batch=16", "log_every=1", "probe_every=20")
    return ("pretrain", *settings, *words, "--probe", "landscape@test", "--eval", f"{DRYLAND}@val", *PLAIN)


# The rule may not choose `subspace`: its choice of others may be close, and decides which files there are.
COMMANDS = {
    "catalog-init": ("catalog", "init", "scenes", "--out", "catalog-init/data_catalog.yaml"),
    "catalog-check": ("catalog", "check"),
    "catalog-stats": ("catalog", "stats"),
    "catalog-preview": ("catalog", "preview"),
    **{f"pretrain-{name}": pretrain(*words) for name, words in MODELS.items()},
    "embed": ("embed", "--encoder", MODEL, "--patches", *PLAIN),
    "embed-pca": ("embed-pca", "--encoder", MODEL, "--maps", 1, *PLAIN),
    "probe": ("probe", "--encoder", MODEL, "--train", "landscape@train", "--test", f"{LOWLAND}@test",
              "--test", f"{DRYLAND}@test", "--align", "subspace", *PLAIN),
    "compare-recon": ("compare-recon", "--model", MODEL, "--model", "cae=pretrain-cae/model", "--model",
                      "baseline:mean", "--dataset", f"{LOWLAND}@test", "--dataset", f"{DRYLAND}@test", "--tiles", 24,
                      "--show", "random:2", "--scenes", 1, *PLAIN),
    "gap": ("gap", "--encoder", MODEL, "--source", LOWLAND, "--target", DRYLAND, *PLAIN),
    "adapt": ("adapt", "--model", MODEL, "--source", LOWLAND, "--target", DRYLAND, "--steps", 10,
              *options("eval_every=5", "rate=0.002"), "--probe-train", "landscape@train", "--probe-test",
              f"{DRYLAND}@test", *PLAIN),
    "convert-bands": ("convert", "pretrain-stacked/model", "convert-bands/model", "--bands", "sentinel-2-l2a:B02,B03"),
    "convert-timm": ("convert", "pretrain-stacked/model", "convert-timm/vit.safetensors", "--to", "timm"),
    "convert-safetensors": ("convert", MODEL, "convert-safetensors/all.safetensors", "--to", "safetensors"),
}  # fmt: skip


@pytest.fixture(scope="module")
def runs(tmp_path_factory, tracking_uri):
    """Folders of all commands, each run once."""
    folder = tmp_path_factory.mktemp("landscape")
    write_catalog(folder, CATALOG)
    write_scenes(folder / "scenes", scenes=1)
    for name, words in COMMANDS.items():
        if any(str(word).startswith(f"{name}/") for word in words):
            (folder / name).mkdir()
        else:
            words = (*words, "--out", name)
        tracked = () if words[0] in ("catalog", "convert") else ("--tracking-uri", tracking_uri)
        done = called(*words, "--quiet", *tracked, cwd=folder)
        assert done.returncode == 0, f"{name}: {done.stderr}"
    return folder


def test_what_commands_leave(runs, rewrite_golden):
    lines, known = [], {}
    for name in COMMANDS:
        lines += [name, *left(runs / name, known), ""]
    check_text("outputs.txt", lines[:-1], rewrite_golden)


def test_losses(runs, rewrite_golden):
    found = [losses_of(runs / f"pretrain-{name}") for name in MODELS]
    check_figures("losses.json", {name: loss for one in found for name, loss in one.items()}, rewrite_golden)


@pytest.mark.parametrize("command", FIGURES)
def test_figures(runs, command, rewrite_golden):
    check_figures(f"{command}.json", read_figures(runs / command, command), rewrite_golden)
