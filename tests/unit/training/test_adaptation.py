"""The terms that an adaptation trains by where the user names none."""

from types import SimpleNamespace

import pytest

from geomae.config import AdaptConfig, Objective
from geomae.training.adaptation import training_config


@pytest.mark.parametrize(
    ("learned", "wishes", "expected"),
    [
        ({"textures": 1}, {}, {"pixels": 1, "places": 1, "textures": 1}),
        ({"textures": 1, "places": 0.5}, {}, {"pixels": 1, "places": 0.5, "textures": 1}),
        ({}, {}, {"pixels": 1}),  # a masked autoencoder alone goes on as one
        ({"textures": 1}, {"batch": 8}, {"pixels": 1, "textures": 1}),  # too few tiles to tell apart
        ({"textures": 1}, {"objective": Objective()}, {"pixels": 1}),
    ],
)
def test_places_are_added_to_what_a_model_learned_by_unless_the_user_names_the_terms(learned, wishes, expected):
    start = SimpleNamespace(objective=Objective(**learned), training={})
    assert training_config(AdaptConfig(**wishes), start).objective.weights() == expected
