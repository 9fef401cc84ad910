"""What is proposed to do about a gap, and how many labels would settle it."""

from dataclasses import dataclass, replace
from types import SimpleNamespace

import numpy as np
import pandas as pd
import pytest

from geomae.evaluation.adaptation_effect import without_rare_classes
from geomae.evaluation.adaptation_probe import BEFORE
from geomae.evaluation.alignment_choice import RULE, Choice
from geomae.evaluation.choice_scores import CIRCULAR
from geomae.evaluation.gap import GapDomain, GapDomains
from geomae.evaluation.probe_predictions import PredictionKey, Predictions
from geomae.evaluation.proposal import (
    ALIGNMENT,
    LABELS,
    NOTHING,
    PRETRAINING,
    Acquaintance,
    Differences,
    labels_to_settle,
    learned_selectors,
    propose,
)

TARGET = "land[season=brown]"
ALIGN = RULE.candidates[0]


def differences(
    choice: Choice | None = None,
    disagreeing: int = 20,
    domain_accuracy: float = 0.5,
    same_ground: int = 0,
    tiles: int = 100,
    **known,
) -> Differences:
    """Of domains whose source has labels where there is a `choice`; both predictions disagree on some of 100 tiles.

    These were drawn from `tiles` of the target.
    """
    probe = None
    if choice is not None:
        codes_T = np.zeros(100, dtype=np.int64)
        aligned_T = np.where(np.arange(100) < disagreeing, 1, codes_T)
        predicted = Predictions({
            PredictionKey(TARGET, "linear"): [codes_T], PredictionKey(TARGET, "linear", None, ALIGN): [aligned_T],
        })  # fmt: skip
        probe = SimpleNamespace(
            task=SimpleNamespace(tests=[SimpleNamespace(name=TARGET)]), choices={(BEFORE, TARGET): choice},
            evidence=lambda label, test: SimpleNamespace(
                domain_accuracy=domain_accuracy, scores={"none": {CIRCULAR: 0.7}, ALIGN: {CIRCULAR: 0.6}}
            ),
            encoder=lambda label: SimpleNamespace(predictions=[predicted]),
        )  # fmt: skip
    here, there = (
        GapDomain(role, SimpleNamespace(imagery=SimpleNamespace(name=f"{role}'s sensor", gsd_m=30.0)), [role] * 100,
                  np.full(100, ""), tiles)
        for role in ("source", "target")
    )  # fmt: skip
    domains = GapDomains(here, there, True, None)
    why = "" if choice else "no tile has a label"
    return Differences(domains, (), (None, None), Acquaintance(**known), probe, why, same_ground)


@pytest.mark.parametrize(
    ("found", "action", "align"),
    [
        (differences(Choice(ALIGN, "it helps")), ALIGNMENT, ALIGN),
        (differences(Choice("none", "nothing helps")), NOTHING, "none"),
        (differences(Choice("none", "nothing helps"), domain_accuracy=0.9), LABELS, "none"),
        (differences(), PRETRAINING, "none"),
        (differences(Choice(ALIGN, "it helps"), new_sensor="naip:reflectance"), PRETRAINING, "none"),
        (differences(Choice(ALIGN, "it helps"), same_ground=60, pairs=True), PRETRAINING, "none"),
        (differences(Choice(ALIGN, "it helps"), same_ground=40, pairs=True), ALIGNMENT, ALIGN),
        (differences(Choice(ALIGN, "it helps"), same_ground=60, pairs=True, learned=0.9), ALIGNMENT, ALIGN),
        (differences(Choice(ALIGN, "it helps"), same_ground=60), ALIGNMENT, ALIGN),
    ],
)
def test_the_action_follows_from_sensor_labels_and_the_rule(found, action, align):
    proposal = propose(found)
    assert (proposal.action, proposal.align, proposal.trains) == (action, align, action == PRETRAINING)
    assert proposal.why
    assert "labels of each class" in proposal.labels


def test_it_says_how_many_labels_would_settle_it():
    assert "disagree on 20% of the tiles: about 620 labelled" in propose(differences(Choice("none", "x"))).labels
    few = propose(differences(Choice("none", "x"), disagreeing=3)).labels
    assert "disagree on 3% of the tiles, too few for a gain of 5%" in few


def test_as_many_labels_as_are_said_show_the_gain():
    """Of many samples of that size, about 80 % have an interval of the difference that is above zero."""
    share, gain, rng = 0.3, 0.05, np.random.default_rng(0)
    many = labels_to_settle(share, gain)
    right, wrong = (share + gain) / 2, (share - gain) / 2
    drawn = rng.multinomial(many, [right, wrong, 1 - share], size=4000)
    mean = (drawn[:, 0] - drawn[:, 1]) / many
    error = np.sqrt((share - mean**2) / many)
    assert ((mean - 1.96 * error) > 0).mean() == pytest.approx(0.8, abs=0.03)
    assert labels_to_settle(0.04, 0.05) is None


def test_it_says_that_a_target_has_fewer_tiles_than_would_settle_it():
    small, large = (propose(differences(Choice("none", "x"), tiles=tiles)).labels for tiles in (100, 1000))
    assert "(95 % confidence, 80 % power); that is more than the 100 that it has; five" in small
    assert "(95 % confidence, 80 % power); five" in large


def test_a_sensor_of_the_source_that_the_model_does_not_know_is_not_called_known():
    assert "both known to the model" in differences()._sensor()
    assert "of which the model knows that of the target alone" in differences(knows_source=False)._sensor()


def test_the_same_ground_is_a_share_of_all_tiles_and_not_of_those_that_were_drawn():
    found = differences(Choice(ALIGN, "it helps"), same_ground=400, tiles=500, pairs=True)
    assert "400 of 500 tiles" in found._places()
    assert propose(found).method == "full"
    assert not differences(same_ground=200, tiles=500, pairs=True).teaches_places


def test_it_says_what_is_known_of_places():
    assert "no group occurs in both" in differences()._places()
    known = differences(same_ground=98, pairs=True, learned=0.25)
    assert (
        "98 of 100 tiles of the target show ground of the source, too; the model was trained on 25%" in known._places()
    )
    assert propose(known).method == "full"  # low-rank corrections learn little of it
    assert propose(differences()).method == "lora"


def test_the_tiles_that_a_model_has_learned_are_those_of_its_whole_history():
    first = {"dataset": ["land[season=green]@all", "other@train"], "objective": {"pixels": 1.0}}
    model = SimpleNamespace(provenance={"dataset": ["land@train"], "adapted": {}, "from": first})
    assert learned_selectors(model, "land") == {"land@train": None, "land[season=green]": None}
    labelled = SimpleNamespace(provenance={"dataset": ["land@test"], "finetuned": {}, "from": first})
    assert learned_selectors(labelled, "land") == {"land[season=green]": None}


def test_the_files_that_a_model_has_learned_are_recorded_beside_their_selectors():
    first = {"dataset": ["land@train", "sea"], "content": {"land": "0a 1b", "sea": "2c"}}
    twice = {"dataset": ["land@train", "land@all"], "content": {"land": "1b 3d"}, "from": first}
    assert learned_selectors(SimpleNamespace(provenance=twice), "land") == {
        "land@train": "1b 3d 0a 1b",
        "land": "1b 3d",
    }
    assert learned_selectors(SimpleNamespace(provenance=twice), "sea") == {"sea": "2c"}
    older = {"dataset": ["land@train"], "from": first}
    assert learned_selectors(SimpleNamespace(provenance=older), "land") == {"land@train": None}


@pytest.mark.parametrize(("content", "share", "by_name"), [("aaaaaaaa", 0.5, False), ("cc", 0, False), (None, 1, True)])
def test_tiles_of_other_files_in_a_data_set_of_the_same_name_are_not_known(content, share, by_name):
    scenes = (SimpleNamespace(id="s1"), SimpleNamespace(id="s2"))
    index = SimpleNamespace(
        tiles=pd.DataFrame({"scene": [0, 1], "tile_id": ["s1:0:0", "s2:0:0"]}),
        source=SimpleNamespace(scenes=scenes),
        report=SimpleNamespace(content={"s1": 64 * "a", "s2": 64 * "b"}),
    )
    taken = SimpleNamespace(index=index, imagery=SimpleNamespace(name="s2", bands=()))
    model = SimpleNamespace(with_sensor=lambda *_: SimpleNamespace(same_embeddings=lambda other: True))
    known = Acquaintance.of(model, taken, taken, [(taken, content)], True)
    assert (known.learned, known.by_name) == (share, by_name)
    sentence = differences(same_ground=98, **vars(known))._places()
    assert ("as far as the name of the data set tells" in sentence) == by_name


@dataclass(frozen=True)
class Labelled:
    """What stands for a selection and for its index: tiles with labels."""

    labels: tuple[str | None, ...]

    @property
    def index(self):
        return self

    @property
    def tiles(self):
        return pd.DataFrame({"label": pd.Series(self.labels, dtype="object")})

    def take(self, places):
        return replace(self, labels=tuple(self.labels[place] for place in places))


@pytest.mark.parametrize(
    ("labels", "kept", "rare"),
    [
        (
            ("crop",) * 5 + ("urban",) * 4 + ("tree",) * 6 + (None,),
            ("crop",) * 5 + ("tree",) * 6 + (None,),
            {"urban": 4},
        ),
        (("crop",) * 5 + ("tree",) * 5, ("crop",) * 5 + ("tree",) * 5, {}),
        (("crop",) * 5 + ("urban",) * 4, ("crop",) * 5 + ("urban",) * 4, {}),  # one class alone is no task
    ],
)
def test_classes_too_rare_for_folds_do_not_take_all_evidence_with_them(monkeypatch, labels, kept, rare):
    monkeypatch.setattr("geomae.evaluation.adaptation_effect.replace", lambda one, index: index)
    found, left_out = without_rare_classes(Labelled(labels))
    assert (found.labels, left_out) == (kept, rare)


def test_rare_classes_are_named():
    found = replace(differences(), rare={"urban": 4})
    assert "Labels of the source: classes with fewer than 5 tiles are left out: urban (4)." in sentences(found)


def sentences(found):
    """Those that need neither pixels nor sensors."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(Differences, "_sensor", lambda self: "")
        patch.setattr(Differences, "_pixels", lambda self: "")
        return list(found.sentences())
