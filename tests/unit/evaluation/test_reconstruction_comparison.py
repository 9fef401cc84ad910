"""Reconstructions compared as a notebook compares them: without a command, a screen or a run.

C bands, H W pixels
"""

import numpy as np
import pytest
import rasterio
import torch

from geomae.catalog import open_catalog
from geomae.evaluation.reconstruction import fit_candidates, load_candidates, reconstruct_tile
from geomae.evaluation.reconstruction_comparison import (
    TilesToShow,
    compare_reconstructions,
    summarize_best,
    summarize_differences,
)
from geomae.evaluation.reconstruction_maps import MapOptions, write_scene_maps
from geomae.evaluation.reconstruction_masks import MaskKind
from geomae.metrics.reconstruction import figures
from geomae.runtime.devices import open_compute
from geomae.tiles.selection import select_tiles

MASKS = (MaskKind("random", 0.5), MaskKind("grid", 0.75))


@pytest.fixture(scope="module")
def fitted(tiny_catalog):
    compute = open_compute("cpu", "32")
    candidates = load_candidates(["mean=baseline:mean", "near=baseline:nearest"], compute.fabric.device)
    (selection,) = select_tiles(open_catalog(tiny_catalog), [])
    return fit_candidates(candidates, selection, compute)


@pytest.fixture(scope="module")
def result(fitted):
    return compare_reconstructions([fitted], MASKS, tiles=10, seed=1)


def test_every_model_has_figures_under_every_mask_and_differences_are_from_the_first(result):
    assert result.labels == ["mean", "near"]
    rows = result.select(metric="rmse", band="all", pixels="masked")
    assert [(row["model"], row["masking"], row["mask_ratio"]) for row in rows] == [
        ("mean", "random", 0.5), ("near", "random", 0.5), ("mean", "grid", 0.75), ("near", "grid", 0.75),
    ]  # fmt: skip
    assert {row["n_tiles"] for row in rows} == {10}
    assert {row["reference"] for row in result.differences} == {"mean"}
    (difference,) = [
        row["difference"]
        for row in result.differences
        if (row["metric"], row["band"], row["group"], row["pixels"], row["masking"])
        == ("rmse", "all", "all", "masked", "random")
    ]
    assert difference == pytest.approx(rows[1]["value"] - rows[0]["value"])


def test_the_short_names_are_of_the_first_mask(result):
    metrics = result.metrics()
    (first,) = result.select(model="near", metric="mae", band="red", pixels="masked", masking="random")
    assert metrics["mae/near/red"] == metrics["mae/near/red/tiny/train/all/random-0.5/masked"] == first["value"]
    assert "mae/near/red/tiny/train/all/grid-0.75/visible" in metrics


def test_sentences_name_the_better_model_and_say_where_groups_are_few(result):
    best = summarize_best(result.values)
    assert "has the least error on" in best and "tiny@train (random 0.5): RMSE" in best
    assert all("too few for an interval" in text and "compared with mean" in text for text in summarize_differences(
        result.differences
    ))  # fmt: skip


def test_progress_is_heard_and_tiles_are_those_of_the_seed(fitted, result):
    heard = []
    again = compare_reconstructions([fitted], MASKS, 10, 1, lambda *step: heard.append(step))
    assert heard[-1] == ("tiny", 10, 10)
    assert again.values == result.values
    other = compare_reconstructions([fitted], MASKS, 10, 2)
    assert other.scores[0].index.tiles["tile_id"].tolist() != result.scores[0].index.tiles["tile_id"].tolist()


def test_a_tile_is_reconstructed_where_it_is_hidden_alone(fitted, result):
    mask = MASKS[0]
    index = result.scores[0].index.take(np.array([3]))
    tile = reconstruct_tile(fitted, index, mask, result.seed)
    assert tile.tile_id == index.tiles["tile_id"].iloc[0] and tile.hidden == 0.5
    for pixels_CHW in tile.reconstructions.values():
        assert np.array_equal(pixels_CHW[:, tile.visible_HW], tile.truth_CHW[:, tile.visible_HW])
    sums = result.scores[0].sums["near", mask, "masked"].take(np.array([3]))
    by_band = figures(sums, fitted.bands, fitted.range_C)
    assert tile.rmse("near") == pytest.approx(
        np.sqrt(np.mean([by_band["rmse", one.name] ** 2 for one in fitted.bands]))
    )


def test_tiles_are_chosen_by_error_by_chance_and_by_name(result):
    (scores,) = result.scores
    show = TilesToShow.parse("worst,best,random:2,s0:0:0")
    show.check(scores.selected.index.tiles["tile_id"].tolist())
    chosen = dict(show.choose(scores, MASKS[0], result.seed))
    assert list(chosen) == ["worst", "best", "random 1", "random 2", "s0:0:0"]
    error_T = figures(scores.sums["mean", MASKS[0], "masked"], scores.fitted.bands, scores.fitted.range_C)[
        "rmse", "all"
    ]
    tile_ids = scores.index.tiles["tile_id"].tolist()
    assert chosen["best"].tiles["tile_id"].iloc[0] == tile_ids[int(np.argmin(error_T))]
    assert chosen["worst"].tiles["tile_id"].iloc[0] == tile_ids[int(np.argmax(error_T))]


def test_scenes_are_mapped_where_they_lie(result, tmp_path):
    said = []
    maps = write_scene_maps(tmp_path, result.scores, MapOptions(0.5, scenes=1, tiles=8), say=said.append)
    assert not said
    stems = {path.stem.rpartition("_")[0] for path in maps}
    assert stems == {f"{kind}_{label}" for kind in ("recon", "error", "anomaly") for label in result.labels}
    with rasterio.open(next(path for path in maps if path.stem.startswith("recon_near"))) as made:
        assert made.crs is not None and np.isfinite(made.read()).all()
    assert write_scene_maps(tmp_path / "none", result.scores, MapOptions(scenes=0)) == []


def test_what_is_fitted_knows_its_bands_and_sums_where_there_is_float64(fitted):
    assert [band.name for band in fitted.bands] == [band.name for band in fitted.selected.imagery.bands]
    assert fitted.device == torch.device("cpu")
    assert np.allclose(fitted.range_C, 6 * np.array(fitted.selected.imagery.std_C))
