"""Class shares of the target, where the models of two data sets have probabilities of different shares."""

from types import SimpleNamespace

import numpy as np
import pandas as pd

from geomae.commands import predict
from geomae.metrics.priors import correct_probabilities
from geomae.prediction.shares import estimate_over

EQUAL, MOVED = np.array([0.5, 0.5]), np.array([0.9, 0.1])


def fitted_of(name, tiles, trained_K):
    frame = pd.DataFrame({"tile_id": [f"{name}:{tile}:0" for tile in range(tiles)], "scene": 0, "row": 0, "col": 0,
                          "size": 8})  # fmt: skip
    index = SimpleNamespace(
        name=name, tiles=frame, source=SimpleNamespace(scenes=[SimpleNamespace(id=name)]),
        independent_units=lambda: [f"{tile}" for tile in range(tiles)], grids=(None,),
    )  # fmt: skip
    record = SimpleNamespace(
        classes=("a", "b"), trained_K=trained_K, confusion_KK=np.eye(2) * 50, learned={}, tile=8, of_pixels=False,
        adapted=False,
    )  # fmt: skip
    return SimpleNamespace(index=index, name=name), SimpleNamespace(record=record)


def test_probabilities_of_other_shares_give_the_same_estimate_and_the_same_corrected_ones(monkeypatch):
    rng = np.random.default_rng(0)
    score = rng.normal(np.where(rng.random(400) < 0.8, -1.0, 1.0))
    share_TK = np.stack([1 / (1 + np.exp(2 * score)), 1 / (1 + np.exp(-2 * score))], axis=1)
    parts = [share_TK[:200], share_TK[200:]]
    same = [fitted_of("one", 200, EQUAL), fitted_of("two", 200, EQUAL)]
    other = [same[0], fitted_of("two", 200, MOVED)]
    moved = [parts[0], correct_probabilities(parts[1], EQUAL, MOVED)]
    options = SimpleNamespace(priors="estimate", common=SimpleNamespace(seed=0))
    session = SimpleNamespace(compute=None, fabric=SimpleNamespace(broadcast=lambda one: one))

    def go(fitted, values):
        given = iter(values)
        monkeypatch.setattr("geomae.prediction.tiles.predict_tiles", lambda *_: next(given))
        return predict._predicted(options, session, fitted, None, object(), lambda *_: None)

    (plain, shares), (corrected, again) = go(same, parts), go(other, moved)
    np.testing.assert_allclose(again.share_K, shares.share_K, atol=1e-9)
    for one, two in zip(plain, corrected, strict=True):
        np.testing.assert_allclose(two, one, atol=1e-9)
    assert estimate_over(None, other, moved, 0, lambda *_: None).share_K.argmax() == 0
