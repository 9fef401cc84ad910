"""Sentences about a training."""

import pytest

from geomae.reports.training_report import suggest_steps


@pytest.mark.parametrize(
    ("seconds", "said"),
    [
        (None, "may do"),
        (0.05, "takes less than a minute at this speed"),
        (0.15, "takes about 1 minute at this speed"),
        (0.6, "takes about 4 minutes at this speed"),
        (18.0, "takes about 2 hours at this speed"),
    ],
)
def test_a_longer_training_is_named_with_the_time_that_it_takes(seconds, said):
    assert suggest_steps(100, seconds) == f"--set steps=400, four times as many, {said}"
