"""Every scene has maps of its own, under names that a person recognises, whatever scenes and models are called."""

from types import SimpleNamespace
from typing import Any

import pytest
from helpers import changed_catalog, write_catalog, write_scenes

from geomae.catalog import open_catalog
from geomae.encoders.extraction import EncoderTiles
from geomae.evaluation import pca_maps, reconstruction_maps
from geomae.tiles.index import TileIndex, build_index

NAMES = {  # of scenes, and what their maps are called
    "東京": "東京",
    "大阪": "大阪",
    "a b": "a_b-2",
    "a/b": "a_b-3",
    "a_b": "a_b",
    "é": "é",
    "è": "è",
}


@pytest.fixture(scope="module")
def index(tmp_path_factory) -> TileIndex:
    folder = tmp_path_factory.mktemp("names")
    write_scenes(folder / "drawn", scenes=len(NAMES), side=32)
    for number, name in enumerate(NAMES):
        path = folder / "scenes" / f"{name}.tif"
        path.parent.mkdir(parents=True, exist_ok=True)
        (folder / "drawn" / f"s{number}.tif").rename(path)
    catalog = write_catalog(folder, changed_catalog("scenes/*.tif", "scenes/**/*.tif"))
    return build_index(open_catalog(catalog), "tiny", threads=1)


def scores(index: TileIndex, *labels: str) -> Any:
    return SimpleNamespace(index=index, fitted=SimpleNamespace(labels=labels))


def test_maps_of_components_are_called_like_their_scenes(index):
    no_encoder: Any = None
    jobs = pca_maps.scenes_to_map([EncoderTiles(no_encoder, index)], None)
    assert {index.source.scenes[job.scene].id: job.name for job in jobs} == NAMES


def test_maps_of_reconstructions_are_called_like_their_scenes(index):
    maps = reconstruction_maps.scenes_to_map([scores(index, "mae"), scores(index, "mae")], 9)
    assert {one.scene.id: one.stems["mae"] for one in maps} == {scene: f"mae_{name}" for scene, name in NAMES.items()}
    assert len(maps) == len(NAMES)


def test_a_label_that_ends_as_a_scene_begins_does_not_take_its_maps(index):
    maps = reconstruction_maps.scenes_to_map([scores(index, "mae", "mae_a")], 9)
    stems = [stem for one in maps for stem in one.stems.values()]
    assert len(set(stems)) == len(stems) == 2 * len(NAMES)
