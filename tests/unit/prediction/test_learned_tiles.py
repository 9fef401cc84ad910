"""Which ground a model learned from, by the ids of its tiles."""

import pytest

from geomae.prediction.record import LearnedTiles


@pytest.mark.parametrize("scene", ["s0", "2021:a", "deep/s:1:2"])
def test_tiles_that_points_share_are_the_tiles_that_they_are(scene):
    learned = LearnedTiles.of([f"{scene}:16:32", f"{scene}:64:64:2", "elsewhere:0:0"], 16, {scene})
    assert learned.meeting(scene, 20, 40, 16) and learned.meeting(scene, 70, 70, 0)
    assert not learned.meeting(scene, 32, 32, 16) and not learned.meeting("elsewhere", 0, 0, 16)
