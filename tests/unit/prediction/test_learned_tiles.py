"""Which ground a model learned from, by the ids of its tiles."""

from types import SimpleNamespace

import pandas as pd
import pytest

from geomae.prediction.record import LearnedTiles, learned_tiles, namesake_remark


@pytest.mark.parametrize("scene", ["s0", "2021:a", "deep/s:1:2"])
def test_tiles_that_points_share_are_the_tiles_that_they_are(scene):
    learned = LearnedTiles.of([f"{scene}:16:32", f"{scene}:64:64:2", "elsewhere:0:0"], 16, {scene})
    assert learned.meeting(scene, 20, 40, 16) and learned.meeting(scene, 70, 70, 0)
    assert not learned.meeting(scene, 32, 32, 16) and not learned.meeting("elsewhere", 0, 0, 16)


def test_a_scene_of_another_data_set_with_the_same_name_is_the_same_scene():
    fields = {"learned": ["a:0:0"], "held_out": ["b:0:16"]}
    record = SimpleNamespace(tile=16, learned={"fields": fields, "elsewhere": {"learned": ["z:0:0"]}})
    scenes = [SimpleNamespace(id=name) for name in "abc"]
    source = SimpleNamespace(scenes=scenes)
    index = SimpleNamespace(name="pixels", source=source, tiles=pd.DataFrame({"scene": [0, 1, 1]}))
    learned = learned_tiles(record, index)
    assert learned.meeting("a", 8, 8, 16) and learned.meeting("b", 0, 16, 16)
    assert not learned.meeting("a", 16, 16, 16) and not learned.meeting("c", 0, 0, 16)
    assert "(a, b of fields)" in namesake_remark(record, index, "pixels@test")
    fields = SimpleNamespace(name="fields", source=source, tiles=index.tiles)
    assert namesake_remark(record, fields, "fields@test") is None


def test_only_selected_scenes_are_looked_for_among_those_of_other_data_sets():
    """Of the scenes of two dates, the one that was mapped had not been learned from, and yet this was said of it."""
    record = SimpleNamespace(tile=16, learned={"plots": {"learned": ["scene2002:0:0"]}})
    scenes = [SimpleNamespace(id="scene1999"), SimpleNamespace(id="scene2002")]
    index = SimpleNamespace(name="cells", source=SimpleNamespace(scenes=scenes), tiles=pd.DataFrame({"scene": [0, 0]}))
    assert namesake_remark(record, index, "cells[year=1999]") is None
